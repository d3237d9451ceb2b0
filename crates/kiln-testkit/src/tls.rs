//! TLS with certificates that are made in the test: an authority, servers that it has signed, and the files of clients.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::http::Server;

/// The last year of certificates that have not expired.
const LAST_YEAR: i32 = 2100;

/// A certificate authority of the test's own.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// What a client needs to be known to a server, and to know it.
#[derive(Clone, Debug)]
pub struct ClientFiles {
    /// The certificate of the authority.
    pub authority: PathBuf,
    /// The client's certificate.
    pub certificate: PathBuf,
    /// The client's key, in PKCS#8.
    pub key: PathBuf,
}

impl Authority {
    /// Makes an authority.
    ///
    /// # Panics
    ///
    /// If there is no randomness for its key.
    #[expect(clippy::new_without_default, reason = "each one is another one")]
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "Test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    /// The authority's certificate, as PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Starts a server with a certificate for a name, which may want its clients to have one of this authority.
    pub fn server(&self, name: &str, wants_clients: bool) -> Server {
        self.server_until(LAST_YEAR, name, wants_clients)
    }

    /// Starts a server whose certificate expires when that year begins.
    ///
    /// # Panics
    ///
    /// If the name is none for a certificate.
    pub fn server_until(&self, year: i32, name: &str, wants_clients: bool) -> Server {
        let (certificate, key) = self.sign(name, ExtendedKeyUsagePurpose::ServerAuth, year);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("versions");
        let builder = if wants_clients {
            let mut roots = RootCertStore::empty();
            roots.add(self.0.der().clone()).expect("a root");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = builder.with_single_cert(vec![certificate.der().clone()], key).expect("a certificate");
        let config = Arc::new(config);
        Server::start_with("https", move |socket| {
            let connection = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
            Ok(Box::new(StreamOwned::new(connection, socket)))
        })
    }

    /// Writes the authority's certificate, and a certificate and a key for a client, to a directory.
    ///
    /// # Panics
    ///
    /// If they cannot be written.
    pub fn write(&self, directory: &Path) -> ClientFiles {
        let (certificate, key) = self.sign("client", ExtendedKeyUsagePurpose::ClientAuth, LAST_YEAR);
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            fs::write(&path, text).expect("written");
            path
        };
        ClientFiles {
            authority: write("ca.pem", self.pem()),
            certificate: write("client.pem", certificate.pem()),
            key: write("client-key.pem", key.serialize_pem()),
        }
    }

    /// A certificate for a client with a key of any kind, as PEM.
    ///
    /// # Panics
    ///
    /// If the key is none that certificates can have.
    pub fn client(&self, key: &KeyPair) -> String {
        self.certificate("client", ExtendedKeyUsagePurpose::ClientAuth, LAST_YEAR, key).pem()
    }

    fn sign(&self, name: &str, usage: ExtendedKeyUsagePurpose, year: i32) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        (self.certificate(name, usage, year, &key), key)
    }

    fn certificate(
        &self,
        name: &str,
        usage: ExtendedKeyUsagePurpose,
        year: i32,
        key: &KeyPair,
    ) -> rcgen::Certificate {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        params.extended_key_usages = vec![usage];
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        params.signed_by(key, &self.0).expect("a certificate")
    }
}
