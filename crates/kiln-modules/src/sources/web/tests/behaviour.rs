//! What servers do, and what becomes of it.

use super::*;

#[test]
fn many_files_over_few_connections() {
    let server = Server::start();
    let bodies: Vec<Vec<u8>> = (0..200).map(|number| format!("file {number}").into_bytes()).collect();
    let wanted = items(bodies.iter().enumerate().map(|(number, body)| {
        server.serve(&format!("/{number}"), Reply::ok(body.clone()));
        (checksum(body), json!(server.url(&format!("/{number}"))))
    }));
    let fixture = Fixture::new();
    let results = fixture.download(&wanted);
    assert!(results.iter().all(|result| result.error.is_none() && !result.cached), "{results:?}");
    for body in &bodies {
        assert_eq!(fs::read(fixture.path(&checksum(body))).expect("cached"), *body);
    }
    assert_eq!(server.requests().len(), 200);
    assert!(server.connections() <= 6, "{} connections", server.connections());
    let log = fixture.log();
    assert_eq!((log.started.len(), log.finished.len()), (200, 200));
    assert_eq!(log.bytes.values().sum::<i64>(), bodies.iter().map(|body| body.len() as i64).sum::<i64>());
    drop(log);

    let results = fixture.download(&wanted);
    assert!(results.iter().all(|result| result.error.is_none() && result.cached));
    assert_eq!(server.requests().len(), 200, "what is cached is not asked for");
}

#[test]
fn as_many_at_the_same_time_as_are_polite() {
    for (parallel, expected) in [(None, 6), (Some(1), 1), (Some(12), 12)] {
        let server = Server::start();
        let wanted = items((0..24).map(|number| {
            let body = format!("file {number}").into_bytes();
            let key = checksum(&body);
            server.serve(&format!("/{number}"), Reply::ok(body).hold_for(expected));
            (key, json!(server.url(&format!("/{number}"))))
        }));
        let fixture = Fixture { parallel, ..Fixture::new() };
        let results = fixture.download(&wanted);
        assert!(results.iter().all(|result| result.error.is_none()), "{results:?}");
        assert_eq!(server.most_active(), expected, "{parallel:?}");
        assert!(server.connections() <= expected, "{parallel:?}: {} connections", server.connections());
    }
}

#[test]
fn bodies_arrive_as_they_are_sent() {
    let body = large();
    let gzip = b"\x1f\x8b\x08 no real gzip".to_vec();
    let cases: [(&[u8], Reply, Option<u64>); 4] = [
        (&body, Reply::ok(body.clone()), Some(4_000_000)),
        (&body, Reply::ok(body.clone()).chunked(), None),
        (&body, Reply::ok(body.clone()).without_length(), None),
        (&gzip, Reply::ok(gzip.clone()).header("Content-Encoding", "gzip"), Some(16)),
    ];
    for (body, reply, size) in cases {
        let server = Server::start();
        server.serve("/x", reply);
        let fixture = Fixture::new();
        fixture.fetch(body, json!(server.url("/x")));
        assert_eq!(fixture.log().started, [(checksum(body), size)]);
        assert_eq!(server.requests()[0].header("accept-encoding"), None);
    }
}

#[test]
fn what_may_pass_is_tried_again() {
    let body = large();
    let cases = [
        (Reply::status(500), "500 Internal Server Error"),
        (Reply::status(429), "429 Too Many Requests"),
        (Reply::ok(body.clone()).cut_at(0), "closed before the end"),
        (Reply::ok(body.clone()).cut_at(3_000_000), "closed before the end"),
        (Reply::ok(body.clone()).chunked().cut_at(1_000_000), "before the end"),
        (Reply::ok(body.clone()).cut_at(2_000_000).claim_length(5_000_000), "closed before the end"),
        (Reply::ok(body.clone()).claim_length(3_999_999), "another checksum"),
        (Reply::ok("something else"), "another checksum"),
    ];
    for (reply, reason) in cases {
        let server = Server::start();
        server.script("/x", [reply.clone(), reply, Reply::ok(body.clone())]);
        let fixture = Fixture::new();
        fixture.fetch(&body, json!(server.url("/x")));
        let log = fixture.log();
        assert_eq!(log.retries.len(), 2, "{reason}");
        assert!(log.retries.iter().all(|retry| retry.contains(reason)), "{reason}: {:?}", log.retries);
        assert_eq!(fixture.pauses().len(), 2);
    }
}

#[test]
fn what_is_right_is_taken_whatever_length_was_claimed() {
    let body = large();
    let server = Server::start();
    server.serve("/x", Reply::ok(body.clone()).claim_length(5_000_000));
    Fixture::new().fetch(&body, json!(server.url("/x")));
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_silent_server_is_asked_again() {
    let body = large();
    for at in [0, 1_000_000] {
        let server = Server::start();
        server.script("/x", [Reply::ok(body.clone()).stall_at(at), Reply::ok(body.clone())]);
        let fixture = Fixture { stall: Duration::from_millis(100), ..Fixture::new() };
        fixture.fetch(&body, json!(server.url("/x")));
        assert_eq!(fixture.log().retries, ["the server stopped sending"]);
    }
}

#[test]
fn what_does_not_pass_is_not_tried_in_vain() {
    let server = Server::start();
    server.serve("/forbidden", Reply::status(403));
    server.serve("/circle", Reply::redirect("/circle"));
    server.serve("/away", Reply::redirect("file:///etc/passwd"));
    let key = checksum(b"x");
    let cases = [
        ("/missing", "the server answered 404 Not Found", 1),
        ("/forbidden", "the server answered 403 Forbidden", 1),
        ("/circle", "more than 20 redirections", 21),
        ("/away", "no http or https URL", 1),
    ];
    for (path, reason, requests) in cases {
        let before = server.requests().len();
        let fixture = Fixture::new();
        let error = fixture.fail(&key, json!(server.url(path)));
        assert!(error.starts_with(&format!("cannot download {}: ", server.url(path))), "{error}");
        assert!(error.contains(reason) && !error.contains("tries"), "{error}");
        assert_eq!(server.requests().len() - before, requests, "{path}");
    }
}

#[test]
fn ten_tries_are_enough() {
    let server = Server::start();
    server.serve("/x", Reply::status(503));
    let fixture = Fixture::new();
    let error = fixture.fail(&checksum(b"x"), json!(server.url("/x")));
    assert!(error.ends_with("the server answered 503 Service Unavailable (after 10 tries)"), "{error}");
    assert_eq!(server.requests().len(), 10);
    let pauses = fixture.pauses();
    assert_eq!(pauses.len(), 9);
    assert!(pauses[8] >= Duration::from_secs(4) && pauses[0] <= Duration::from_millis(250), "{pauses:?}");
}

#[test]
fn a_server_may_ask_for_time() {
    let server = Server::start();
    server.script("/x", [Reply::status(503).header("Retry-After", "60"), Reply::ok("x")]);
    let fixture = Fixture::new();
    fixture.fetch(b"x", json!(server.url("/x")));
    assert_eq!(fixture.pauses(), [Duration::from_secs(60)]);
}

#[test]
fn wrong_content_never_reaches_the_cache() {
    let server = Server::start();
    server.serve("/x", Reply::ok("something else"));
    let fixture = Fixture::new();
    let error = fixture.fail(&checksum(b"x"), json!(server.url("/x")));
    let found = checksum(b"something else");
    assert!(
        error.ends_with(&format!("the content has another checksum: {found} (after 3 tries)")),
        "{error}"
    );
}

#[test]
fn a_stated_size_is_held_against_the_content() {
    let body = large();
    let server = Server::start();
    server.serve("/x", Reply::ok(body.clone()));
    server.serve("/chunked", Reply::ok(body.clone()).chunked());
    let fetch = |path: &str, size: u64| json!({"url": server.url(path), "size": size});
    Fixture::new().fetch(&body, fetch("/x", 4_000_000));
    let fixture = Fixture::new();
    fixture.fetch(&body, fetch("/chunked", 4_000_000));
    assert_eq!(fixture.log().started, [(checksum(&body), Some(4_000_000))]);
    let cases = [
        ("/x", 4_000_001, "has 4000000 bytes instead of 4000001"),
        ("/chunked", 4_000_001, "has 4000000 bytes instead of 4000001"),
        ("/chunked", 500_000, "has more than 500000 bytes"),
    ];
    for (path, size, expected) in cases {
        let error = Fixture::new().fail(&checksum(&body), fetch(path, size));
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn all_failures_are_reported_and_stop_nobody() {
    let server = Server::start();
    server.serve("/good", Reply::ok("good"));
    let fixture = Fixture::new();
    let results = fixture.download(&items([
        (checksum(b"a"), json!(server.url("/a"))),
        ("sha256:00".to_owned(), json!(server.url("/good"))),
        (checksum(b"good"), json!(server.url("/good"))),
        (checksum(b"b"), json!("gopher://h.invalid/")),
        (checksum(b"c"), json!({"url": server.url("/good"), "secrets": {"name": "org.example.x"}})),
    ]));
    let errors: Vec<_> = results.iter().map(|result| result.error.as_deref().unwrap_or("")).collect();
    let expected =
        ["404", "sha256 has 64", "", "unknown scheme `gopher`", "unknown secrets provider `org.example.x`"];
    for (error, expected) in errors.iter().zip(expected) {
        assert!(error.contains(expected) && error.is_empty() == expected.is_empty(), "{errors:?}");
    }
    assert_eq!(fixture.log().failed.len(), 4);
}

#[test]
fn a_server_that_is_down_is_given_up_once() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    drop(listener);
    let fixture = Fixture { parallel: Some(1), ..Fixture::new() };
    let url = |number: u8| json!(format!("http://127.0.0.1:{port}/{number}"));
    let results = fixture.download(&items((0..5).map(|number| (checksum(&[number]), url(number)))));
    for result in &results {
        let error = result.error.as_deref().expect("nobody listens");
        assert!(error.contains("the server cannot be reached: Connection refused"), "{error}");
    }
    assert_eq!(fixture.log().retries.len(), 9, "the first item's ten tries are for all");
}

#[test]
fn redirections_are_followed() {
    let (first, second) = (Server::start(), Server::start());
    first.serve("/a/x", Reply::redirect("../b/y"));
    first.serve("/b/y", Reply::redirect(second.url("/z")));
    second.serve("/z", Reply::ok("x"));
    Fixture::new().fetch(b"x", json!(first.url("/a/x")));
    second.serve("/z", Reply::status(404));
    let error = Fixture::new().fail(&checksum(b"x"), json!(first.url("/a/x")));
    assert!(error.contains(&first.url("/a/x")) && error.contains(&second.url("/z")), "{error}");
}

#[test]
fn paths_are_quoted_and_credentials_sent_but_not_shown() {
    let server = Server::start();
    server.serve("/pool/g%2B%2B%3A1~2%20x.deb", Reply::ok("x"));
    let url = server.url("/pool/g++:1~2 x.deb").replace("http://", "http://user:secret@");
    Fixture::new().fetch(b"x", json!(url));
    assert_eq!(server.requests()[0].header("authorization"), Some("Basic dXNlcjpzZWNyZXQ="));
    let error = Fixture::new().fail(&checksum(b"y"), json!(url.replace("x.deb", "y.deb")));
    assert!(error.contains("g++:1~2 y.deb") && !error.contains("secret"), "{error}");
}

#[test]
fn files_are_read_directly() {
    let directory = tempfile::tempdir().expect("tempdir");
    let path = directory.path().join("a b%20c");
    fs::write(&path, large()).expect("write");
    let url = format!("file://{}", path.display());
    Fixture::new().fetch(&large(), json!(url));
    Fixture::new().fetch(&large(), json!({"url": url, "size": 4_000_000}));
    for (url, expected) in [
        (url, "another checksum"),
        (format!("file://{}/missing", directory.path().display()), "No such file"),
        (format!("file://{}", directory.path().display()), "not a regular file"),
        ("file:///dev/zero".to_owned(), "not a regular file"),
    ] {
        let error = Fixture::new().fail(&checksum(b"x"), json!(url));
        assert!(error.contains(expected) && !error.contains("tries"), "{error}");
    }
}

#[test]
fn several_programs_may_fill_one_cache() {
    let server = Server::start();
    let body = large();
    // Both are in mid-transfer at the same time.
    server.serve("/x", Reply::ok(body.clone()).hold_for(2));
    let wanted = items([(checksum(&body), json!(server.url("/x")))]);
    let fixture = Fixture::new();
    let path = fixture.cache.path();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let request = DownloadRequest {
                    items: &wanted,
                    options: &json!({}),
                    cache: path,
                    environment: &BTreeMap::new(),
                    parallel: None,
                    interrupted: &AtomicBool::new(false),
                    room: &|_| Ok(()),
                };
                assert_eq!(Curl.download(&request, &|_| {})[0].error, None);
            });
        }
    });
    assert_eq!(server.most_active(), 2);
    assert_eq!(fs::read(fixture.path(&checksum(&body))).expect("cached"), body);
    assert!(fixture.leftovers().is_empty());
    assert!(Curl.cached(path, &checksum(&body)) && !Curl.cached(path, &checksum(b"x")));
}

#[test]
fn a_proxy_is_asked_for_plain_urls_in_absolute_form() {
    let proxy = Server::start();
    proxy.serve("http://h.invalid/x", Reply::ok("x"));
    proxy.serve("http://h.invalid/y", Reply::ok("y"));
    let address = proxy.url("").replace("http://", "http://user:secret@");
    let fixture = Fixture { parallel: Some(1), ..Fixture::new() }.environment(&[("http_proxy", &address)]);
    let results = fixture.download(&items([
        (checksum(b"x"), json!("http://h.invalid/x")),
        (checksum(b"y"), json!("http://h.invalid/y")),
    ]));
    assert!(results.iter().all(|result| result.error.is_none()), "{results:?}");
    let request = &proxy.requests()[1];
    assert_eq!(request.target, "http://h.invalid/y");
    assert_eq!(request.header("host"), Some("h.invalid"));
    assert_eq!(request.header("proxy-authorization"), Some("Basic dXNlcjpzZWNyZXQ="));
    assert_eq!(proxy.connections(), 1);
}

#[test]
fn no_proxy_is_for_hosts_that_are_reached_directly() {
    let server = Server::start();
    server.serve("/x", Reply::ok("x"));
    let fixture =
        Fixture::new().environment(&[("http_proxy", "http://h.invalid:1"), ("no_proxy", "127.0.0.1")]);
    fixture.fetch(b"x", json!(server.url("/x")));
}

#[test]
fn names_are_looked_up() {
    let server = Server::start();
    server.serve("/x", Reply::ok("x"));
    Fixture::new().fetch(b"x", json!(format!("http://localhost:{}/x", server.port())));
}
