//! TLS, with certificates that are made in the test.

use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::*;

/// A certificate authority of the test's own.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "Test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    fn sign(&self, name: &str, usage: ExtendedKeyUsagePurpose, year: i32) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        params.extended_key_usages = vec![usage];
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().expect("a key");
        (params.signed_by(&key, &self.0).expect("a certificate"), key)
    }

    /// A server for a name, which may want its clients to have a certificate of this authority.
    fn server(&self, name: &str, year: i32, wants_clients: bool) -> Server {
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
            let connection = ServerConnection::new(config.clone()).map_err(std::io::Error::other)?;
            Ok(Box::new(StreamOwned::new(connection, socket)))
        })
    }

    /// Writes the authority's certificate, and a client's certificate and key.
    fn write(&self, directory: &Path) -> [String; 3] {
        let (certificate, key) = self.sign("client", ExtendedKeyUsagePurpose::ClientAuth, 2100);
        [("ca", self.0.pem()), ("cert", certificate.pem()), ("key", key.serialize_pem())].map(
            |(name, text)| {
                let path = directory.join(name);
                fs::write(&path, text).expect("write");
                path.to_str().expect("UTF-8").to_owned()
            },
        )
    }
}

fn mtls(url: &str) -> Value {
    json!({"url": url, "secrets": {"name": "org.osbuild.mtls"}})
}

#[test]
fn only_servers_of_a_trusted_authority_are_trusted() {
    let files = tempfile::tempdir().expect("tempdir");
    let authority = Authority::new();
    let [ca, cert, key] = authority.write(files.path());
    let client = [
        ("OSBUILD_SOURCES_CURL_SSL_CLIENT_CERT", cert.as_str()),
        ("OSBUILD_SOURCES_CURL_SSL_CLIENT_KEY", key.as_str()),
    ];
    let trusting = [client[0], client[1], ("OSBUILD_SOURCES_CURL_SSL_CA_CERT", ca.as_str())];
    let other = files.path().join("other");
    fs::write(&other, Authority::new().0.pem()).expect("write");
    let other = [client[0], client[1], ("OSBUILD_SOURCES_CURL_SSL_CA_CERT", other.to_str().expect("UTF-8"))];

    let server = authority.server("127.0.0.1", 2100, false);
    server.serve("/x", Reply::ok("x"));
    let key = checksum(b"x");
    Fixture::new().environment(&trusting).fetch(b"x", mtls(&server.url("/x")));
    Fixture::new().environment(&[("SSL_CERT_FILE", &ca)]).fetch(b"x", json!(server.url("/x")));
    Fixture::new().environment(&other).fetch(b"x", json!({"url": server.url("/x"), "insecure": true}));
    let error = Fixture::new().environment(&other).fail(&key, mtls(&server.url("/x")));
    assert!(error.contains("certificate is not accepted") && !error.contains("tries"), "{error}");
    // The authority of the secrets is for items with secrets only.
    let error = Fixture::new().environment(&trusting).fail(&key, json!(server.url("/x")));
    assert!(error.contains("certificate"), "{error}");

    for (name, year) in [("127.0.0.2", 2100), ("127.0.0.1", 2001)] {
        let server = authority.server(name, year, false);
        server.serve("/x", Reply::ok("x"));
        let error = Fixture::new().environment(&trusting).fail(&key, mtls(&server.url("/x")));
        assert!(error.contains("certificate is not accepted"), "{name} {year}: {error}");
    }
}

#[test]
fn servers_may_want_a_client_certificate() {
    let files = tempfile::tempdir().expect("tempdir");
    let authority = Authority::new();
    let [ca, cert, key] = authority.write(files.path());
    let server = authority.server("127.0.0.1", 2100, true);
    server.serve("/x", Reply::ok("x"));
    let environment = [
        ("OSBUILD_SOURCES_CURL_SSL_CA_CERT", ca.as_str()),
        ("OSBUILD_SOURCES_CURL_SSL_CLIENT_CERT", cert.as_str()),
        ("OSBUILD_SOURCES_CURL_SSL_CLIENT_KEY", key.as_str()),
    ];
    Fixture::new().environment(&environment).fetch(b"x", mtls(&server.url("/x")));
    let wanted = checksum(b"x");
    // The server's alert may be lost when it closes the connection: that it fails is what matters.
    Fixture::new().environment(&[("SSL_CERT_FILE", &ca)]).fail(&wanted, json!(server.url("/x")));
    let error = Fixture::new().fail(&wanted, mtls(&server.url("/x")));
    assert!(error.contains("OSBUILD_SOURCES_CURL_SSL_CLIENT_CERT"), "{error}");

    let foreign = files.path().join("foreign");
    fs::write(&foreign, KeyPair::generate().expect("a key").serialize_pem()).expect("write");
    let foreign = [environment[0], environment[1], (environment[2].0, foreign.to_str().expect("UTF-8"))];
    let error = Fixture::new().environment(&foreign).fail(&wanted, mtls(&server.url("/x")));
    assert!(error.contains("cannot be used with the certificate"), "{error}");
    let swapped = [environment[0], environment[1], (environment[2].0, cert.as_str())];
    let error = Fixture::new().environment(&swapped).fail(&wanted, mtls(&server.url("/x")));
    assert!(error.contains("holds no private key"), "{error}");
}

#[test]
fn tls_goes_through_a_proxy_as_it_is() {
    let files = tempfile::tempdir().expect("tempdir");
    let authority = Authority::new();
    let [ca, ..] = authority.write(files.path());
    let server = authority.server("127.0.0.1", 2100, false);
    server.serve("/x", Reply::ok("x"));
    let proxy = Server::start();
    let variables = [("SSL_CERT_FILE", ca.as_str()), ("OSBUILD_SOURCES_CURL_PROXY", &proxy.url(""))];
    Fixture::new().environment(&variables).fetch(b"x", json!(server.url("/x")));
    let requests = proxy.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(
        (requests[0].method.as_str(), &requests[0].target),
        ("CONNECT", &format!("127.0.0.1:{}", server.port()))
    );
}
