//! Servers that do everything wrong that can be done wrong, in any order; very many files; a very large one.

use std::process::Command;

use kiln_testkit::fscache::Dice;

use super::*;

/// An answer of a bad server.
fn bad(dice: &mut Dice, body: &[u8]) -> Reply {
    let good = Reply::ok(body.to_vec());
    let length = body.len() as u64;
    let at = dice.below(length);
    match dice.below(14) {
        0..4 => good.ranges().cut_at(at),
        4 => good.cut_at(at),
        5 => good.ranges().chunked().cut_at(at),
        6 => good.ranges().claim_length(length + 1 + dice.below(1000)),
        7 => good.ranges().claim_length(at),
        8 => good.claim_range(format!("bytes {at}-{}/{length}", length - 1)),
        9 => good.claim_range(""),
        10 => good.ranges().stall_at(at),
        11 => Reply::status(503),
        12 => Reply::ok(vec![9; body.len()]).ranges(),
        _ => good.ranges().without_length().cut_at(at),
    }
}

#[test]
fn whatever_servers_do_the_content_is_right_in_the_end() {
    for seed in 0..60 {
        let mut dice = Dice::new(seed);
        let length = if dice.once_in(2) { 1 + dice.below(5_000) } else { 900_000 + dice.below(400_000) };
        let body: Vec<u8> = (0..length).map(|_| dice.roll().to_le_bytes()[0]).collect();
        let servers: Vec<_> = (0..=dice.below(3)).map(|_| Server::start()).collect();
        for server in &servers {
            // So few that no place is given up before it is good.
            let replies: Vec<_> = (0..dice.below(3)).map(|_| bad(&mut dice, &body)).collect();
            server.script("/x", replies.into_iter().chain([Reply::ok(body.clone()).ranges()]));
        }
        let mut description = json!({"url": servers[0].url("/x")});
        description["mirrors"] = servers[1..].iter().map(|server| json!(server.url("/x"))).collect();
        if dice.once_in(2) {
            description["size"] = json!(length);
        }
        let fixture = Fixture { stall: Duration::from_millis(50), ..Fixture::new() };
        let results = fixture.download(&items([(checksum(&body), description.clone())]));
        assert_eq!(results[0].error, None, "seed {seed}: {description}");
        assert_eq!(fs::read(fixture.path(&checksum(&body))).expect("cached"), body, "seed {seed}");
        assert_eq!(fixture.log().bytes[&checksum(&body)], length as i64, "seed {seed}");
        assert_eq!(fixture.partials(), [], "seed {seed}");
    }
}

#[test]
fn five_thousand_small_files() {
    let server = Server::start();
    let wanted = items((0..5000).map(|number: u32| {
        let body = number.to_le_bytes();
        server.serve(&format!("/{number}"), Reply::ok(body));
        (checksum(&body), json!(server.url(&format!("/{number}"))))
    }));
    let fixture = Fixture::new();
    let results = fixture.download(&wanted);
    assert!(results.iter().all(|result| result.error.is_none()));
    assert_eq!((server.requests().len(), server.sent()), (5000, 20_000));
    assert!(server.connections() <= 6);
    for (number, key) in wanted.keys().enumerate() {
        assert_eq!(
            fs::read(fixture.path(key)).expect("cached"),
            u32::try_from(number).expect("few").to_le_bytes()
        );
    }
}

const LARGE: u64 = 2 << 30;
const CUTS: u64 = 20;
/// Where the child finds the URL and the checksum of the large file.
const ASKED: &str = "KILN_TEST_LARGE_FILE";

/// The length is prime, so that no two cuts fall on the same byte of it.
fn block() -> Vec<u8> {
    let mut dice = Dice::new(1);
    (0..1_048_573 / 8 + 1).flat_map(|_| dice.roll().to_le_bytes()).take(1_048_573).collect()
}

#[test]
fn two_gigabytes_with_twenty_cuts() {
    let server = Server::start();
    let mut dice = Dice::new(2);
    let good = Reply::status(200).repeat(block(), LARGE).ranges();
    let cut = |_| good.clone().cut_at(LARGE / 40 + dice.below(LARGE / 40));
    let replies: Vec<_> = (0..CUTS).map(cut).chain([good.clone()]).collect();
    server.script("/x", replies);
    let any = Checksum::parse(&format!("sha256:{}", "0".repeat(64))).expect("a checksum");
    let mut hasher = any.algorithm().hasher();
    let (block, mut left) = (block(), LARGE);
    while left > 0 {
        let piece = block.len().min(usize::try_from(left).expect("64 bits"));
        hasher.update(&block[..piece]);
        left -= piece as u64;
    }
    let key = hasher.finish();

    // In a process of its own: this one has the server's memory too.
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args([
            "--exact",
            "--nocapture",
            "--ignored",
            "sources::web::tests::torture::fetch_what_is_asked_for",
        ])
        .env(ASKED, format!("{} {key}", server.url("/x")))
        .output()
        .expect("started");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(server.requests().len() as u64, CUTS + 1);
    assert_eq!(server.sent(), LARGE, "nothing is sent twice");
}

#[test]
#[ignore = "the child process of another test"]
fn fetch_what_is_asked_for() {
    let Ok(asked) = std::env::var(ASKED) else { return };
    let (url, key) = asked.split_once(' ').expect("two words");
    let fixture = Fixture::new();
    let results = fixture.download(&items([(key.to_owned(), json!(url))]));
    assert_eq!(results[0].error, None);
    assert_eq!(fs::metadata(fixture.path(key)).expect("cached").len(), LARGE);
    let number = |file: &str, name: &str| -> u64 {
        let text = fs::read_to_string(file).expect("readable");
        let value = text.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        value.trim_end_matches("kB").trim().parse().expect("a number")
    };
    let peak = number("/proc/self/status", "VmHWM:");
    assert!(peak < 64 << 10, "{peak} KiB of memory");
    // Sockets are not counted here, files are: what was written is not read again to be hashed.
    let read = number("/proc/self/io", "rchar:");
    assert!(read < 16 << 20, "{read} bytes read");
}
