//! Packages from loopback mirrors that behave and misbehave.

use std::net::TcpListener;

use serde_json::{Value, json};

use crate::sources::web::tests::{Fixture, Reply, Server, checksum, items};

/// A fixture whose only mirror is `m`.
fn fixture(mirror: &Value) -> Fixture {
    Fixture::of(super::download, json!({"mirrors": {"m": mirror}}))
}

fn package(path: &str) -> Value {
    json!({"path": path, "mirror": "m"})
}

fn metalink(urls: &[String]) -> String {
    let urls = urls.iter().enumerate().map(|(number, url)| {
        format!(r#"<url preference="{}">{url}/repodata/repomd.xml</url>"#, 100 - number)
    });
    format!(
        r#"<metalink version="3.0" xmlns="http://www.metalinker.org/"><files><file name="repomd.xml">
        <resources>{}</resources></file></files></metalink>"#,
        urls.collect::<String>()
    )
}

#[test]
fn packages_are_below_the_url_of_each_kind_of_mirror() {
    let server = Server::start();
    server.serve("/a%20b/Packages/g%2B%2B%201.rpm", Reply::ok("x"));
    let base = server.url("/a%20b");
    server.serve("/list?repo=x&arch=y", Reply::ok(format!("# mirrors\n{base}/\n")));
    server.serve("/metalink", Reply::ok(metalink(&["rsync://h.invalid".to_owned(), base.clone()])));
    for (kind, url) in [
        ("baseurl", base),
        ("mirrorlist", server.url("/list?repo=x&arch=y")),
        ("metalink", server.url("/metalink")),
    ] {
        fixture(&json!({"url": url, "type": kind})).fetch(b"x", package("Packages/g++ 1.rpm"));
    }
}

#[test]
fn each_list_is_fetched_once_and_only_if_something_is_missing() {
    let server = Server::start();
    server.script("/list", [Reply::status(503), Reply::ok(server.url("/r"))]);
    let wanted = items((0..20_u8).map(|number| {
        let path = format!("{number}.rpm");
        server.serve(&format!("/r/{path}"), Reply::ok([number]));
        (checksum(&[number]), package(&path))
    }));
    let first = fixture(&json!({"url": server.url("/list"), "type": "mirrorlist"}));
    let results = first.download(&wanted);
    assert!(results.iter().all(|result| result.error.is_none()), "{results:?}");
    assert_eq!(server.requests().len(), 22, "a list is worth another try");
    let results = first.download(&wanted);
    assert!(results.iter().all(|result| result.cached), "{results:?}");
    assert_eq!(server.requests().len(), 22);
}

#[test]
fn a_package_is_tried_on_each_mirror() {
    let body = vec![7; 2_000_000];
    let (list, first, second, third) = (Server::start(), Server::start(), Server::start(), Server::start());
    list.serve("/m", Reply::ok(metalink(&[first.url("/a"), second.url("/b"), third.url("/c")])));
    second.serve("/b/x.rpm", Reply::ok(body.clone()).ranges().cut_at(1_500_000));
    third.serve("/c/x.rpm", Reply::ok(body.clone()).ranges());
    fixture(&json!({"url": list.url("/m"), "type": "metalink"})).fetch(&body, package("x.rpm"));
    assert_eq!((first.requests().len(), second.sent(), third.sent()), (1, 1_500_000, 500_000));
}

#[test]
fn the_next_package_comes_from_the_mirror_that_is_fastest() {
    let (slow, fast) = (Server::start(), Server::start());
    let list = format!("{}\n{}\n", slow.url("/r"), fast.url("/r"));
    let body = |number: u8| vec![number; 100_000];
    let wanted = items((0..10_u8).map(|number| {
        let path = format!("{number}.rpm");
        let paced = Reply::ok(body(number)).paced(20_000, std::time::Duration::from_millis(5));
        // The first two are found on one mirror each.
        slow.serve(&format!("/r/{path}"), if number == 1 { Reply::status(404) } else { paced });
        fast.serve(&format!("/r/{path}"), Reply::ok(body(number)));
        (checksum(&body(number)), package(&path))
    }));
    fast.serve("/list", Reply::ok(list));
    let fixture = fixture(&json!({"url": fast.url("/list"), "type": "mirrorlist"})).one_by_one();
    let results = fixture.download(&wanted);
    assert!(results.iter().all(|result| result.error.is_none()), "{results:?}");
    assert_eq!(slow.requests().len(), 2);
}

#[test]
fn the_fastest_mirror_is_the_one_that_answers_first() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let down = listener.local_addr().expect("an address");
    drop(listener);
    let server = Server::start();
    server.serve("/r/x.rpm", Reply::ok("x"));
    server.serve("/list", Reply::ok(format!("http://{down}/r\n{}\n", server.url("/r"))));
    for (fastest, retries) in [(true, 0), (false, 1)] {
        let mirror = json!({"url": server.url("/list"), "type": "mirrorlist", "fastest-mirror": fastest});
        let fixture = fixture(&mirror);
        fixture.fetch(b"x", package("x.rpm"));
        assert_eq!(fixture.log().retries.len(), retries, "{fastest}");
    }
}

#[test]
fn as_many_packages_at_the_same_time_as_the_mirror_allows() {
    for (most, expected) in [(json!(2), 2), (json!(0), 1), (json!(6), 6)] {
        let server = Server::start();
        let wanted = items((0..12_u8).map(|number| {
            let path = format!("{number}.rpm");
            server.serve(&format!("/r/{path}"), Reply::ok([number]).hold_for(expected));
            (checksum(&[number]), package(&path))
        }));
        let mirror = json!({"url": server.url("/r"), "type": "baseurl", "max-parallels": most});
        let results = fixture(&mirror).download(&wanted);
        assert!(results.iter().all(|result| result.error.is_none()), "{results:?}");
        assert_eq!(server.most_active(), expected);
    }
}

#[test]
fn options_may_be_those_of_format_1() {
    let server = Server::start();
    server.serve("/r/x.rpm", Reply::ok("x"));
    let options = json!({"mirrors": {"m": {"url": server.url("/r"), "type": "baseurl"}}});
    let description = json!({"items": {}, "options": options});
    Fixture::of(super::download, description).fetch(b"x", package("x.rpm"));
}

#[test]
fn servers_get_the_secrets_that_the_mirror_names() {
    let server = Server::start();
    server.serve("/r/x.rpm", Reply::ok("x"));
    let mirror = json!({"url": server.url("/r"), "type": "baseurl", "secrets": {"name": "org.osbuild.mtls"}});
    let error = fixture(&mirror).fail(&checksum(b"x"), package("x.rpm"));
    assert!(error.contains("OSBUILD_SOURCES_CURL_SSL_CLIENT_CERT"), "{error}");
}

#[test]
fn what_is_wrong_is_said_of_each_package() {
    let server = Server::start();
    server.serve("/empty", Reply::ok("# nothing\n"));
    server.serve("/ftp", Reply::ok("ftp://user:secret@h.invalid/x\n"));
    server.serve("/html", Reply::ok("<html/>"));
    server.serve("/large", Reply::status(200).repeat("#", 5 << 20));
    let cases = [
        ("mirrorlist", "/gone", "cannot download the list of mirrors `m`: http://", "404 Not Found"),
        ("mirrorlist", "/empty", "the mirror `m` names no server to download from: it is empty", ""),
        ("mirrorlist", "/ftp", "`ftp://h.invalid/x`: unknown scheme `ftp`", ""),
        ("mirrorlist", "/large", "it has more than 4194304 bytes", ""),
        ("metalink", "/html", "the list of mirrors `m` is no metalink: it has no file `repomd.xml`", ""),
        ("baseurl", "/r", "cannot download http://", "/r/x.rpm: the server answered 404 Not Found"),
    ];
    for (kind, path, expected, more) in cases {
        let error =
            fixture(&json!({"url": server.url(path), "type": kind})).fail(&checksum(b"x"), package("x.rpm"));
        assert!(error.contains(expected) && error.contains(more) && !error.contains("secret"), "{error}");
    }
    let mirror = json!({"url": server.url("/r"), "type": "baseurl"});
    let error = fixture(&mirror).fail(&checksum(b"x"), json!({"path": "x", "mirror": "n"}));
    assert_eq!(error, "unknown mirror `n`: expected one of `m`");
    let error = fixture(&mirror).fail(&checksum(b"x"), json!("x"));
    assert!(error.contains("is no package of a mirror"), "{error}");
    let error = fixture(&json!("x")).fail(&checksum(b"x"), package("x"));
    assert!(error.starts_with("invalid options: "), "{error}");
}
