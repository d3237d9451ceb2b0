//! Whom to trust and who to be, for TLS.
//!
//! Without secrets, the system's certificates are trusted (or those that `SSL_CERT_FILE` names, as for curl).
//! Secrets bring a client certificate with its key and, where set, a certificate authority that is trusted
//! instead. Keys are PEM: PKCS#8, PKCS#1 or SEC1. No message shows what a file holds.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};

use super::rhsm::Subscriptions;

const CA: &str = "OSBUILD_SOURCES_CURL_SSL_CA_CERT";
const CERTIFICATE: &str = "OSBUILD_SOURCES_CURL_SSL_CLIENT_CERT";
const KEY: &str = "OSBUILD_SOURCES_CURL_SSL_CLIENT_KEY";

/// The files that prove who a client is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    /// Trusted instead of the system's certificates.
    pub(super) authority: Option<PathBuf>,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// What makes TLS connections different from each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Profile {
    pub(super) insecure: bool,
    pub(super) identity: Option<Identity>,
}

/// Finds the secrets that an item names.
pub(super) fn identity(
    provider: &str,
    url: &str,
    environment: &BTreeMap<String, String>,
    subscriptions: impl FnOnce() -> Result<Arc<Subscriptions>, String>,
) -> Result<Identity, String> {
    match provider {
        "org.osbuild.mtls" => {
            let value = |name: &str| environment.get(name).filter(|value| !value.is_empty());
            let (Some(certificate), Some(key)) = (value(CERTIFICATE), value(KEY)) else {
                let missing: Vec<_> =
                    [CERTIFICATE, KEY].into_iter().filter(|name| value(name).is_none()).collect();
                return Err(format!(
                    "the secrets `org.osbuild.mtls` need {} in the environment: set to the path of a PEM file",
                    missing.join(" and ")
                ));
            };
            Ok(Identity {
                authority: value(CA).map(PathBuf::from),
                certificate: certificate.into(),
                key: key.into(),
            })
        }
        "org.osbuild.rhsm" => subscriptions()?.identity(url),
        other => Err(format!(
            "unknown secrets provider `{other}`: expected `org.osbuild.mtls` or `org.osbuild.rhsm`"
        )),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> Result<Arc<Subscriptions>, String> {
        Err("not asked for".to_owned())
    }

    #[test]
    fn missing_secrets_are_named() {
        let mut environment = BTreeMap::new();
        let error = identity("org.osbuild.mtls", "", &environment, none).expect_err("nothing is set");
        assert!(error.contains(CERTIFICATE) && error.contains(KEY), "{error}");
        environment.insert(KEY.to_owned(), "/k".to_owned());
        let error = identity("org.osbuild.mtls", "", &environment, none).expect_err("one is not set");
        assert!(error.contains(CERTIFICATE) && !error.contains(KEY), "{error}");
        environment.insert(CERTIFICATE.to_owned(), "/c".to_owned());
        let found = identity("org.osbuild.mtls", "", &environment, none).expect("both are set");
        assert_eq!(found, Identity { authority: None, certificate: "/c".into(), key: "/k".into() });
        let error = identity("org.example.x", "", &environment, none).expect_err("unknown");
        assert!(error.contains("org.example.x"), "{error}");
    }
}
