//! TLS and proxies, with certificates that are made in the test.

use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use kiln_testkit::socks::SocksProxy;
use kiln_testkit::tls::{Authority, ClientFiles};
use rcgen::KeyPair;

use super::*;

/// A key of a kind that cannot be made here; it opens nothing.
const RSA: &str = include_str!("rsa.pem");
/// So long is what PKCS#8 puts before a key of RSA with 2048 bits in PKCS#1, and before one of P-256 in SEC1.
const BEFORE_PKCS1: usize = 26;
const BEFORE_SEC1: usize = 29;

fn mtls(url: &str) -> Value {
    json!({"url": url, "secrets": {"name": "org.osbuild.mtls"}})
}

/// The variables that name a client's files.
fn variables(files: &ClientFiles) -> [(&'static str, &str); 3] {
    [
        ("OSBUILD_SOURCES_CURL_SSL_CA_CERT", text(&files.authority)),
        ("OSBUILD_SOURCES_CURL_SSL_CLIENT_CERT", text(&files.certificate)),
        ("OSBUILD_SOURCES_CURL_SSL_CLIENT_KEY", text(&files.key)),
    ]
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn only_servers_of_a_trusted_authority_are_trusted() {
    let directory = tempfile::tempdir().expect("tempdir");
    let authority = Authority::new();
    let files = authority.write(directory.path());
    let trusting = variables(&files);
    let other = directory.path().join("other");
    fs::write(&other, Authority::new().pem()).expect("write");
    let other = [(trusting[0].0, text(&other)), trusting[1], trusting[2]];

    let server = authority.server("127.0.0.1", false);
    server.serve("/x", Reply::ok("x"));
    let key = checksum(b"x");
    Fixture::new().environment(&trusting).fetch(b"x", mtls(&server.url("/x")));
    let system = [("SSL_CERT_FILE", text(&files.authority))];
    Fixture::new().environment(&system).fetch(b"x", json!(server.url("/x")));
    Fixture::new().environment(&other).fetch(b"x", json!({"url": server.url("/x"), "insecure": true}));
    let error = Fixture::new().environment(&other).fail(&key, mtls(&server.url("/x")));
    assert!(error.contains("certificate is not accepted") && !error.contains("tries"), "{error}");
    // The authority of the secrets is for items with secrets only.
    let error = Fixture::new().environment(&trusting).fail(&key, json!(server.url("/x")));
    assert!(error.contains("certificate"), "{error}");

    for (name, year) in [("127.0.0.2", 2100), ("127.0.0.1", 2001)] {
        let server = authority.server_until(year, name, false);
        server.serve("/x", Reply::ok("x"));
        let error = Fixture::new().environment(&trusting).fail(&key, mtls(&server.url("/x")));
        assert!(error.contains("certificate is not accepted"), "{name} {year}: {error}");
        // Where one place is not trusted another one may be.
        let good = authority.server("127.0.0.1", false);
        good.serve("/x", Reply::ok("x"));
        let mut description = mtls(&server.url("/x"));
        description["mirrors"] = json!([good.url("/x")]);
        Fixture::new().environment(&trusting).fetch(b"x", description);
    }
}

#[test]
fn servers_may_want_a_client_certificate() {
    let directory = tempfile::tempdir().expect("tempdir");
    let authority = Authority::new();
    let files = authority.write(directory.path());
    let server = authority.server("127.0.0.1", true);
    server.serve("/x", Reply::ok("x"));
    let environment = variables(&files);
    Fixture::new().environment(&environment).fetch(b"x", mtls(&server.url("/x")));
    let wanted = checksum(b"x");
    // The server's alert may be lost when it closes the connection: that it fails is what matters.
    let system = [("SSL_CERT_FILE", text(&files.authority))];
    Fixture::new().environment(&system).fail(&wanted, json!(server.url("/x")));
    let error = Fixture::new().fail(&wanted, mtls(&server.url("/x")));
    assert!(error.contains("OSBUILD_SOURCES_CURL_SSL_CLIENT_CERT"), "{error}");

    let foreign = tempfile::tempdir().expect("tempdir");
    let stranger = Authority::new().write(foreign.path());
    let stranger = ClientFiles { authority: files.authority.clone(), ..stranger };
    Fixture::new().environment(&variables(&stranger)).fail(&wanted, mtls(&server.url("/x")));

    let mixed = ClientFiles { key: stranger.key, ..files.clone() };
    let error = Fixture::new().environment(&variables(&mixed)).fail(&wanted, mtls(&server.url("/x")));
    assert!(error.contains("cannot be used with the certificate"), "{error}");
    let swapped = ClientFiles { key: files.certificate.clone(), ..files.clone() };
    let error = Fixture::new().environment(&variables(&swapped)).fail(&wanted, mtls(&server.url("/x")));
    assert!(error.contains("holds no private key"), "{error}");
}

#[test]
fn keys_may_be_in_any_pem() {
    let directory = tempfile::tempdir().expect("tempdir");
    let authority = Authority::new();
    let files = authority.write(directory.path());
    let server = authority.server("127.0.0.1", true);
    server.serve("/x", Reply::ok("x"));
    let rsa = KeyPair::from_pem(RSA).expect("a key");
    let elliptic = KeyPair::generate().expect("a key");
    let cases = [
        ("PRIVATE KEY", &rsa, 0),
        ("RSA PRIVATE KEY", &rsa, BEFORE_PKCS1),
        ("PRIVATE KEY", &elliptic, 0),
        ("EC PRIVATE KEY", &elliptic, BEFORE_SEC1),
    ];
    for (label, key, before) in cases {
        let encoded = BASE64_STANDARD.encode(&key.serialize_der()[before..]);
        let lines: Vec<_> = encoded.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
        let pem = format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"));
        fs::write(&files.key, &pem).expect("written");
        fs::write(&files.certificate, authority.client(key)).expect("written");
        Fixture::new().environment(&variables(&files)).fetch(b"x", mtls(&server.url("/x")));

        // What a file holds is never shown.
        let half = format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines[0]);
        fs::write(&files.key, half).expect("written");
        let error =
            Fixture::new().environment(&variables(&files)).fail(&checksum(b"x"), mtls(&server.url("/x")));
        assert!(error.contains(text(&files.key)) && !error.contains(&*lines[0]), "{error}");
    }
}

#[test]
fn tls_goes_through_a_proxy_as_it_is() {
    let directory = tempfile::tempdir().expect("tempdir");
    let authority = Authority::new();
    let files = authority.write(directory.path());
    let server = authority.server("127.0.0.1", false);
    server.serve("/x", Reply::ok("x"));
    let proxy = Server::start();
    let address = proxy.url("").replace("http://", "http://user:secret@");
    let variables = [("SSL_CERT_FILE", text(&files.authority)), ("OSBUILD_SOURCES_CURL_PROXY", &address)];
    Fixture::new().environment(&variables).fetch(b"x", json!(server.url("/x")));
    let requests = proxy.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(
        (requests[0].method.as_str(), &requests[0].target),
        ("CONNECT", &format!("127.0.0.1:{}", server.port()))
    );
    assert_eq!(requests[0].header("proxy-authorization"), Some("Basic dXNlcjpzZWNyZXQ="));
}

#[test]
fn a_socks_proxy_leads_to_plain_urls_and_to_tls() {
    let directory = tempfile::tempdir().expect("tempdir");
    let authority = Authority::new();
    let files = authority.write(directory.path());
    let (plain, tls) = (Server::start(), authority.server("127.0.0.1", false));
    let proxy = SocksProxy::start("user", "secret");
    for server in [&plain, &tls] {
        server.serve("/x", Reply::ok("x"));
        let address = format!("socks5://user:secret@{}", proxy.address());
        let variables = [("SSL_CERT_FILE", text(&files.authority)), ("OSBUILD_SOURCES_CURL_PROXY", &address)];
        Fixture::new().environment(&variables).fetch(b"x", json!(server.url("/x")));
    }
    let targets = [&plain, &tls].map(|server| format!("127.0.0.1:{}", server.port()));
    assert_eq!(proxy.targets(), targets);
    assert_eq!(proxy.refused(), 0);
}

#[test]
fn what_a_proxy_refuses_is_said_without_its_password() {
    let server = Server::start();
    server.serve("/x", Reply::ok("x"));
    let proxy = SocksProxy::start("user", "right");
    let address = format!("socks5://user:secret@{}", proxy.address());
    let variables = [("all_proxy", address.as_str())];
    let error = Fixture::new().environment(&variables).fail(&checksum(b"x"), json!(server.url("/x")));
    assert!(proxy.refused() > 0 && server.requests().is_empty());
    assert!(!error.contains("secret"), "{error}");
    for address in
        ["http://user:secret@", "gopher://user:secret@h.invalid:1", "http://user:secret@h.invalid:1"]
    {
        let variables = [("all_proxy", address)];
        let error = Fixture::new().environment(&variables).fail(&checksum(b"x"), json!(server.url("/x")));
        assert!(!error.contains("secret"), "{address}: {error}");
    }
    assert!(server.requests().is_empty());
}
