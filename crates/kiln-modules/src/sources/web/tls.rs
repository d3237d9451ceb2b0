//! Whom to trust and who to be, for TLS.
//!
//! Without secrets, the system's certificates are trusted (or those that `SSL_CERT_FILE` names, as for curl).
//! Secrets bring a client certificate with its key and, where set, a certificate authority that is trusted
//! instead. Keys are PEM: PKCS#8, PKCS#1 or SEC1. No message shows what a file holds.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

use crate::sources::secrets::Identity;

/// What makes TLS connections different from each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Profile {
    pub(super) insecure: bool,
    pub(super) identity: Option<Identity>,
}

/// Makes the client's TLS settings.
pub(super) fn settings(
    profile: &Profile,
    environment: &BTreeMap<String, String>,
) -> Result<TlsConfig, String> {
    let mut settings = TlsConfig::builder()
        .disable_verification(profile.insecure)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let authority = profile.identity.as_ref().and_then(|identity| identity.authority.as_deref());
    let authority =
        authority.or_else(|| environment.get("SSL_CERT_FILE").filter(|path| !path.is_empty()).map(Path::new));
    settings = settings.root_certs(match authority {
        Some(path) => {
            let chain = chain(path)?;
            let roots: Vec<_> = chain.iter().map(|found| Certificate::from_der(found).to_owned()).collect();
            RootCerts::new_with_certs(&roots)
        }
        None => RootCerts::PlatformVerifier,
    });
    if let Some(identity) = &profile.identity {
        settings = settings.client_cert(Some(client(identity)?));
    }
    Ok(settings.build())
}

fn client(identity: &Identity) -> Result<ClientCert, String> {
    let text = read(&identity.key)?;
    let key = PrivateKeyDer::from_pem_slice(&text)
        .map_err(|_| format!("`{}` holds no private key", identity.key.display()))?;
    let chain = chain(&identity.certificate)?;
    let certificates: Vec<_> = chain.iter().map(|found| Certificate::from_der(found).to_owned()).collect();
    // The client takes it for granted that they belong together.
    rustls::sign::CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider()).map_err(
        |error| {
            format!(
                "the key `{}` cannot be used with the certificate `{}`: {error}",
                identity.key.display(),
                identity.certificate.display()
            )
        },
    )?;
    let key = PrivateKey::from_pem(&text)
        .map_err(|_| format!("`{}` holds no private key", identity.key.display()))?;
    Ok(ClientCert::new_with_certs(&certificates, key))
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|_| format!("`{}` is no valid PEM file", path.display()))?;
    if certificates.is_empty() {
        return Err(format!("`{}` holds no certificate", path.display()));
    }
    Ok(certificates)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("cannot read `{}`: {error}", path.display()))
}
