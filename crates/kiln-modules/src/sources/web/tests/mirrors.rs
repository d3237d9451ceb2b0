//! Several places of one file.

use super::*;

fn mirrored(servers: &[&Server]) -> Value {
    let urls: Vec<_> = servers.iter().map(|server| server.url("/x")).collect();
    json!({"url": urls[0], "mirrors": urls[1..]})
}

/// How many requests each server has had.
fn asked(servers: &[&Server]) -> Vec<usize> {
    servers.iter().map(|server| server.requests().len()).collect()
}

#[test]
fn a_place_that_fails_is_followed_by_the_next_one_at_once() {
    let body = large();
    for reply in [
        Reply::status(404),
        Reply::status(503),
        Reply::status(429).header("Retry-After", "60"),
        Reply::ok("something else"),
        Reply::redirect("/x"),
        Reply::ok(body.clone()).cut_at(0),
    ] {
        let (first, second, third) = (Server::start(), Server::start(), Server::start());
        first.serve("/x", reply);
        for server in [&second, &third] {
            server.serve("/x", Reply::ok(body.clone()));
        }
        let fixture = Fixture::new();
        fixture.fetch(&body, mirrored(&[&first, &second, &third]));
        assert_eq!(asked(&[&second, &third]), [1, 0]);
        assert!(fixture.pauses().is_empty(), "nobody waits for another server");
        assert_eq!(fixture.log().retries.len(), 1);
    }
}

#[test]
fn another_place_goes_on_where_one_broke() {
    let body = large();
    let (first, second) = (Server::start(), Server::start());
    first.serve("/x", Reply::ok(body.clone()).ranges().cut_at(3_000_000));
    second.serve("/x", Reply::ok(body.clone()).ranges());
    Fixture::new().fetch(&body, mirrored(&[&first, &second]));
    assert_eq!(second.requests()[0].header("range"), Some("bytes=3000000-"));
    assert_eq!((first.sent(), second.sent()), (3_000_000, 1_000_000));
}

#[test]
fn all_places_are_tried_in_turn() {
    let (first, second) = (Server::start(), Server::start());
    first.serve("/x", Reply::status(503));
    second.script("/x", [Reply::status(500), Reply::status(500), Reply::ok("x")]);
    let fixture = Fixture::new();
    fixture.fetch(b"x", mirrored(&[&first, &second]));
    assert_eq!(asked(&[&first, &second]), [3, 3]);
    let pauses = fixture.pauses();
    assert_eq!(pauses.len(), 4, "{pauses:?}");
    assert!(pauses[0] <= Duration::from_millis(250) && pauses[3] >= Duration::from_millis(250), "{pauses:?}");
}

#[test]
fn a_place_that_asks_for_time_gets_it() {
    let (first, second) = (Server::start(), Server::start());
    first.script("/x", [Reply::status(503).header("Retry-After", "60"), Reply::ok("x")]);
    second.serve("/x", Reply::status(404));
    let fixture = Fixture::new();
    fixture.fetch(b"x", mirrored(&[&first, &second]));
    assert_eq!(fixture.pauses(), [Duration::from_secs(60)]);
}

#[test]
fn errors_name_every_place() {
    let (first, second) = (Server::start(), Server::start());
    first.serve("/x", Reply::status(503));
    second.serve("/x", Reply::ok("something else"));
    let gone = json!({
        "url": first.url("/x").replace("http://", "http://user:secret@"),
        "mirrors": [second.url("/gone"), second.url("/x")],
    });
    let error = Fixture::new().fail(&checksum(b"x"), gone);
    let expected = format!(
        "cannot download from any of 3 places: \
         {}: the server answered 503 Service Unavailable (after 8 tries); \
         {}: the server answered 404 Not Found; \
         {}: the content has another checksum: {} (after 3 tries)",
        first.url("/x"),
        second.url("/gone"),
        second.url("/x"),
        checksum(b"something else"),
    );
    assert_eq!(error, expected);
}

#[test]
fn a_silent_server_is_replaced_before_it_would_be_given_up() {
    let body = large();
    for at in [0, 1_000_000] {
        let (first, second) = (Server::start(), Server::start());
        first.serve("/x", Reply::ok(body.clone()).ranges().stall_at(at));
        second.serve("/x", Reply::ok(body.clone()).ranges());
        let fixture = Fixture { slow: Duration::from_millis(100), ..Fixture::new() };
        fixture.fetch(&body, mirrored(&[&first, &second]));
        assert_eq!(second.sent(), 4_000_000 - at);
    }
}

#[test]
fn a_slow_transfer_is_replaced_in_mid_transfer() {
    let body = large();
    let (first, second) = (Server::start(), Server::start());
    // 50 bytes every 5 ms: at most 10 kB/s.
    first.serve("/x", Reply::ok(body.clone()).ranges().paced(50, Duration::from_millis(5)));
    second.serve("/x", Reply::ok(body.clone()).ranges());
    let fixture = Fixture { slow: Duration::from_millis(50), ..Fixture::new() };
    fixture.fetch(&body, mirrored(&[&first, &second]));
    let retries = fixture.log().retries.clone();
    assert!(retries.len() == 1 && retries[0].starts_with("slow ("), "{retries:?}");
    let range = second.requests()[0].header("range").map(str::to_owned).expect("a range");
    let from: u64 = range["bytes=".len()..range.len() - 1].parse().expect("a number");
    assert!(from > 0 && from < 100_000 && second.sent() == 4_000_000 - from, "{range}");
}

#[test]
fn a_slow_transfer_goes_on_where_there_is_no_other_place() {
    let body = vec![1; 2000];
    let server = Server::start();
    server.serve("/x", Reply::ok(body.clone()).ranges().paced(100, Duration::from_millis(5)));
    let fixture = Fixture { slow: Duration::from_millis(20), ..Fixture::new() };
    fixture.fetch(&body, json!(server.url("/x")));
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn slow_places_do_not_take_turns_for_ever() {
    let body = vec![1; 4000];
    let (first, second) = (Server::start(), Server::start());
    for server in [&first, &second] {
        server.serve("/x", Reply::ok(body.clone()).ranges().paced(50, Duration::from_millis(5)));
    }
    let fixture = Fixture { slow: Duration::from_millis(20), ..Fixture::new() };
    fixture.fetch(&body, mirrored(&[&first, &second]));
    let asked = asked(&[&first, &second]);
    assert!(asked.iter().sum::<usize>() <= 5 && asked[1] >= 1, "{asked:?}");
}

#[test]
fn later_files_come_from_the_faster_server() {
    let (slow, fast) = (Server::start(), Server::start());
    let body = |number: u8| vec![number; 100_000];
    let wanted = items((0..10).map(|number| {
        let path = format!("/{number}");
        // 20 kB every 5 ms: at most 4 MB/s, where the loopback interface has hundreds.
        slow.serve(&path, Reply::ok(body(number)).ranges().paced(20_000, Duration::from_millis(5)));
        fast.serve(&path, Reply::ok(body(number)).ranges());
        let description = match number {
            // The other server is known from a file that is nowhere else.
            0 => json!(slow.url(&path)),
            1 => json!(fast.url(&path)),
            _ => json!({"url": slow.url(&path), "mirrors": [fast.url(&path)]}),
        };
        (checksum(&body(number)), description)
    }));
    let fixture = Fixture { parallel: Some(1), ..Fixture::new() };
    let results = fixture.download(&wanted);
    assert!(results.iter().all(|result| result.error.is_none()), "{results:?}");
    assert_eq!(asked(&[&slow, &fast]), [1, 9]);
}

#[test]
fn a_server_that_is_down_is_tried_last_from_then_on() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let down = format!("http://{}/x", listener.local_addr().expect("an address"));
    drop(listener);
    let server = Server::start();
    let wanted = items((0..5_u8).map(|number| {
        let path = format!("/{number}");
        server.serve(&path, Reply::ok([number]));
        (checksum(&[number]), json!({"url": down, "mirrors": [server.url(&path)]}))
    }));
    let fixture = Fixture { parallel: Some(1), ..Fixture::new() };
    let results = fixture.download(&wanted);
    assert!(results.iter().all(|result| result.error.is_none()), "{results:?}");
    assert_eq!(fixture.log().retries.len(), 1, "{:?}", fixture.log().retries);
}

#[test]
fn busy_servers_are_relieved_by_their_mirrors() {
    let (first, second) = (Server::start(), Server::start());
    let wanted = items((0..24_u8).map(|number| {
        let path = format!("/{number}");
        // Both are at work at the same time.
        first.serve(&path, Reply::ok([number]).hold_for(6));
        second.serve(&path, Reply::ok([number]).hold_for(2));
        (checksum(&[number]), json!({"url": first.url(&path), "mirrors": [second.url(&path)]}))
    }));
    let results = Fixture::new().download(&wanted);
    assert!(results.iter().all(|result| result.error.is_none()), "{results:?}");
    assert!(first.most_active() == 6 && second.most_active() >= 2);
}
