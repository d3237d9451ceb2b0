//! What has arrived is kept, and only the rest is asked for.

use super::*;

/// The `Range` of each request.
fn ranges(server: &Server) -> Vec<Option<String>> {
    server.requests().iter().map(|request| request.header("range").map(str::to_owned)).collect()
}

fn from(byte: u64) -> Option<String> {
    Some(format!("bytes={byte}-"))
}

#[test]
fn a_broken_transfer_goes_on_where_it_broke() {
    let body = large();
    let server = Server::start();
    let good = Reply::ok(body.clone()).ranges();
    server.script("/x", [good.clone().cut_at(3_000_000), good.clone().cut_at(1), good]);
    let fixture = Fixture::new();
    fixture.fetch(&body, json!(server.url("/x")));
    assert_eq!(ranges(&server), [None, from(3_000_000), from(3_000_001)]);
    assert_eq!(server.sent(), 4_000_000, "nothing is sent twice");
    assert_eq!(fixture.partials(), []);
}

#[test]
fn small_files_go_on_too() {
    let server = Server::start();
    server.script("/x", [Reply::ok("content").ranges().cut_at(3), Reply::ok("content").ranges()]);
    Fixture::new().fetch(b"content", json!(server.url("/x")));
    assert_eq!(ranges(&server), [None, from(3)]);
}

#[test]
fn a_transfer_that_brings_something_may_break_any_number_of_times() {
    let body = large();
    let server = Server::start();
    let good = Reply::ok(body.clone()).ranges();
    server.script("/x", std::iter::repeat_n(good.clone().cut_at(100_000), 30).chain([good]));
    let fixture = Fixture::new();
    fixture.fetch(&body, json!(server.url("/x")));
    assert_eq!((server.requests().len(), server.sent()), (31, 4_000_000));
    assert!(
        fixture.pauses().iter().all(|pause| *pause <= Duration::from_millis(250)),
        "{:?}",
        fixture.pauses()
    );
}

#[test]
fn a_transfer_that_brings_next_to_nothing_is_given_up() {
    let server = Server::start();
    server.serve("/x", Reply::ok(large()).ranges().cut_at(100));
    let error = Fixture::new().fail(&checksum(&large()), json!(server.url("/x")));
    assert!(error.ends_with("the connection was closed before the end (after 10 tries)"), "{error}");
    assert_eq!(ranges(&server).last(), Some(&from(900)));
}

/// What servers do with a request for the rest, and what is asked for next.
#[test]
fn servers_that_know_no_ranges_send_the_whole_in_the_end() {
    let body = large();
    let good = Reply::ok(body.clone());
    let cut = good.clone().cut_at(3_000_000);
    let moved = |range: &str| good.clone().claim_range(range);
    let cases = [
        ("ignored", good.clone(), vec![None, from(3_000_000)]),
        ("another part", moved("bytes 0-3999999/4000000"), vec![None, from(3_000_000), None]),
        ("no part", moved(""), vec![None, from(3_000_000), None]),
        ("nonsense", moved("bytes 3000000-2/1"), vec![None, from(3_000_000), None]),
        ("nothing", Reply::status(416), vec![None, from(3_000_000), None]),
        ("gone for a moment", Reply::status(503), vec![None, from(3_000_000), from(3_000_000)]),
    ];
    for (name, reply, expected) in cases {
        let server = Server::start();
        server.script("/x", [cut.clone(), reply, good.clone()]);
        let fixture = Fixture::new();
        fixture.fetch(&body, json!(server.url("/x")));
        assert_eq!(ranges(&server), expected, "{name}");
    }
}

#[test]
fn a_part_need_not_say_how_much_the_whole_is() {
    let body = large();
    let server = Server::start();
    let good = Reply::ok(body.clone());
    server.script("/x", [good.clone().cut_at(3_000_000), good.claim_range("bytes 3000000-3999999/*")]);
    Fixture::new().fetch(&body, json!(server.url("/x")));
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn content_that_changes_between_two_tries_is_fetched_anew() {
    let body = large();
    let mut old = body.clone();
    old[5] ^= 1;
    let server = Server::start();
    server.script("/x", [Reply::ok(old).ranges().cut_at(3_000_000), Reply::ok(body.clone()).ranges()]);
    let fixture = Fixture::new();
    fixture.fetch(&body, json!(server.url("/x")));
    assert_eq!(ranges(&server), [None, from(3_000_000), None]);
    assert!(fixture.log().retries[1].contains("another checksum"), "{:?}", fixture.log().retries);
}

#[test]
fn a_body_that_ends_with_the_connection_goes_on_if_its_size_is_known() {
    let body = large();
    let server = Server::start();
    let good = Reply::ok(body.clone()).ranges().without_length();
    server.script("/x", [good.clone().cut_at(3_000_000), good.clone(), good]);
    Fixture::new().fetch(&body, json!({"url": server.url("/x"), "size": 4_000_000}));
    assert_eq!(ranges(&server), [None, from(3_000_000)]);
}

#[test]
fn a_run_goes_on_where_another_one_broke() {
    let body = large();
    let server = Server::start();
    let good = Reply::ok(body.clone()).ranges();
    server.script("/x", [good.clone().cut_at(3_000_000), Reply::status(404), good]);
    let first = Fixture::new();
    let key = checksum(&body);
    first.fail(&key, json!(server.url("/x")));
    assert_eq!(first.partials(), [(key.clone(), 3_000_000)]);

    let second = Fixture { cache: first.cache, ..Fixture::new() };
    second.fetch(&body, json!(server.url("/x")));
    assert_eq!(ranges(&server), [None, from(3_000_000), from(3_000_000)]);
    assert_eq!(second.log().started, [(key, Some(4_000_000))]);
    assert_eq!(second.partials(), []);
}

/// Puts something where an earlier run would have left it.
fn leave(fixture: &Fixture, key: &str, content: &[u8]) {
    let directory = fixture.cache.path().join("org.osbuild.files");
    fs::create_dir_all(&directory).expect("made");
    fs::write(directory.join(format!(".partial-kiln-{key}")), content).expect("written");
}

#[test]
fn whatever_an_earlier_run_has_left_does_no_harm() {
    let body = large();
    let key = checksum(&body);
    let wrong = vec![7; 3_000_000];
    let longer = [&body[..], b"more"].concat();
    let size = json!(4_000_000);
    type Case<'a> = (&'a str, &'a [u8], Value, Vec<Option<String>>);
    let cases: [Case<'_>; 8] = [
        ("nothing", b"", Value::Null, vec![None]),
        ("wrong", &wrong, Value::Null, vec![from(3_000_000), None]),
        ("all of it", &body, Value::Null, vec![]),
        ("all of it and its size", &body, size.clone(), vec![]),
        ("more", &longer, Value::Null, vec![from(4_000_004), None]),
        ("more than its size", &longer, size.clone(), vec![None]),
        ("as much as its size", &longer[4..], size, vec![None]),
        ("all but one byte", &body[..3_999_999], Value::Null, vec![from(3_999_999)]),
    ];
    for (name, left, size, expected) in cases {
        let server = Server::start();
        server.serve("/x", Reply::ok(body.clone()).ranges());
        let fixture = Fixture::new();
        leave(&fixture, &key, left);
        let mut description = json!({"url": server.url("/x")});
        if !size.is_null() {
            description["size"] = size;
        }
        fixture.fetch(&body, description);
        assert_eq!(ranges(&server), expected, "{name}");
        assert_eq!(fixture.partials(), [], "{name}");
    }
}

#[test]
fn what_an_earlier_run_has_left_is_gone_when_it_was_wrong() {
    let server = Server::start();
    server.serve("/x", Reply::ok(large()).ranges());
    let fixture = Fixture::new();
    let key = checksum(b"something else");
    leave(&fixture, &key, &large()[..3_000_000]);
    let error = fixture.fail(&key, json!(server.url("/x")));
    assert!(error.contains("another checksum"), "{error}");
    assert_eq!(fixture.partials(), []);
}

#[test]
fn an_interrupted_run_keeps_what_has_arrived() {
    let body = large();
    let server = Server::start();
    let good = Reply::ok(body.clone()).ranges();
    server.script("/x", [good.clone().stall_at(2_000_000), good]);
    let key = checksum(&body);
    let wanted = items([(key.clone(), json!(server.url("/x")))]);
    let first = Fixture::new();
    let results = interruption::interrupt(&first, &wanted, || {
        server.wait_until_stalled(1);
        first.wait_for_partial(2_000_000);
    });
    assert_eq!(results[0].error.as_deref(), Some("interrupted"));
    assert_eq!(first.partials(), [(key, 2_000_000)]);
    let second = Fixture { cache: first.cache, ..Fixture::new() };
    second.fetch(&body, json!(server.url("/x")));
    assert_eq!(ranges(&server), [None, from(2_000_000)]);
}

#[test]
fn files_of_this_machine_go_on_too() {
    let directory = tempfile::tempdir().expect("tempdir");
    let path = directory.path().join("x");
    fs::write(&path, large()).expect("written");
    let fixture = Fixture::new();
    leave(&fixture, &checksum(&large()), &large()[..3_000_000]);
    fixture.fetch(&large(), json!(format!("file://{}", path.display())));
    assert_eq!(fixture.partials(), []);
}

#[test]
fn a_full_disk_keeps_nothing() {
    let body = large();
    let server = Server::start();
    server.serve("/x", Reply::ok(body.clone()).ranges());
    let fixture = Fixture { room: Some("too little room".to_owned()), ..Fixture::new() };
    let error =
        fixture.fail(&checksum(&body), json!({"url": server.url("/x"), "mirrors": [server.url("/x")]}));
    assert!(error.contains("too little room"), "{error}");
    assert_eq!((server.requests().len(), fixture.partials()), (1, vec![]), "no mirror makes room");
}
