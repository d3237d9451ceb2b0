//! Ctrl-C at any moment: the download ends at once and leaves nothing.

use super::*;

/// Interrupts a download once the server says so and asserts that it ends soon.
pub(super) fn interrupt(
    fixture: &Fixture,
    wanted: &Map<String, Value>,
    until: impl Fn() + Sync,
) -> Vec<ItemResult> {
    let interrupted = Mutex::new(None);
    let results = std::thread::scope(|scope| {
        scope.spawn(|| {
            until();
            *interrupted.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            fixture.interrupted.store(true, Ordering::Relaxed);
        });
        fixture.download(wanted)
    });
    let since = interrupted.into_inner().unwrap_or_else(PoisonError::into_inner).map(|time| time.elapsed());
    // Some 50 ms; the bound is for a machine that is busy with other tests.
    assert!(since.is_some_and(|since| since < Duration::from_secs(2)), "{since:?}");
    results
}

#[test]
fn a_stalled_transfer_ends_at_once() {
    let server = Server::start();
    let wanted = items([0_u64, 2_000_000].into_iter().enumerate().map(|(number, at)| {
        let path = format!("/{number}");
        server.serve(&path, Reply::ok(large()).stall_at(at));
        (checksum(&[number as u8]), json!(server.url(&path)))
    }));
    let fixture = Fixture::new();
    let results = interrupt(&fixture, &wanted, || server.wait_until_stalled(2));
    for result in &results {
        assert_eq!(result.error.as_deref(), Some("interrupted"));
    }
    assert_eq!(fixture.log().bytes.values().sum::<i64>(), 0, "progress is taken back");
}

#[test]
fn what_waits_for_its_turn_is_not_begun() {
    let server = Server::start();
    let wanted = items((0..50_u8).map(|number| {
        let path = format!("/{number}");
        server.serve(&path, Reply::ok("x").stall_at(0));
        (checksum(&[number]), json!(server.url(&path)))
    }));
    let fixture = Fixture::new();
    let results = interrupt(&fixture, &wanted, || server.wait_until_stalled(6));
    assert!(results.iter().all(|result| result.error.as_deref() == Some("interrupted")));
    assert_eq!(server.requests().len(), 6);
}

#[test]
fn a_server_that_does_not_accept_ends_at_once() {
    // Connections beyond the backlog get no answer, as from a host behind a firewall that drops packets.
    let listener =
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None)
            .expect("a socket");
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    rustix::net::bind(&listener, &any).expect("bound");
    rustix::net::listen(&listener, 0).expect("listening");
    let listener = TcpListener::from(listener);
    let address = listener.local_addr().expect("an address");
    let _filling: Vec<_> = std::iter::from_fn(|| {
        std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100)).ok()
    })
    .take(16)
    .collect();
    let fixture = Fixture::new();
    let wanted = items([(checksum(b"x"), json!(format!("http://{address}/x")))]);
    let begun = || drop(std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100)));
    let results = interrupt(&fixture, &wanted, begun);
    assert_eq!(results[0].error.as_deref(), Some("interrupted"));
}

#[test]
fn a_pause_ends_at_once() {
    let interrupted = AtomicBool::new(false);
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| super::super::pause(Duration::from_secs(60), &interrupted));
        interrupted.store(true, Ordering::Relaxed);
    });
    assert!(start.elapsed() < Duration::from_secs(2));
}
