//! A burst: workers come and are killed, for some time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kiln_testkit::fscache::Dice;

use super::Place;
use super::process::{End, Nursery, Process};
use super::worker::{DONE, READY};
use crate::error::Error;

/// How long a worker works before it is killed, in microseconds: the shortest and the longest. Each tenth part of the
/// way between them, in factors, is as likely as any other, so that most die in the first things they do.
const LIVES: (f64, f64) = (20.0, 150_000.0);

/// One in so many workers is killed while it still starts.
const BORN_DEAD: u64 = 8;
/// How long those live, at most, in microseconds.
const INFANCY: u64 = 3000;

/// One in so many of the others is killed in the time after its start, and not in the time after it has opened the cache.
const OPENING: u64 = 4;

/// What the letters that workers say stand for.
const LETTERS: &[(u8, &str)] = &[
    (b'O', "close"),
    (b'b', "build lock"),
    (b'c', "commit"),
    (b'd', "download"),
    (b'f', "copy"),
    (b'l', "load"),
    (b'm', "set limit"),
    (b'o', "open"),
    (b'p', "prune"),
    (b'r', "reclaim"),
    (b's', "stage"),
    (b't', "temporary directory"),
];

/// What happened.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// Killed workers: Kiln's and the reference's.
    killed: [u64; 2],
    /// By letter: how often it was done, and how often somebody was killed while doing it.
    done: BTreeMap<u8, [u64; 2]>,
    /// What must not be.
    pub(super) found: Vec<String>,
}

impl Tally {
    /// All kills.
    pub(super) fn kills(&self) -> u64 {
        self.killed.iter().sum()
    }

    /// All operations that came to their ends.
    pub(super) fn operations(&self) -> u64 {
        self.done.values().map(|[done, _]| done).sum()
    }

    /// Adds another tally.
    pub(super) fn add(&mut self, other: &Self) {
        for (sum, more) in self.killed.iter_mut().zip(other.killed) {
            *sum += more;
        }
        for (letter, counts) in &other.done {
            let sums = self.done.entry(*letter).or_default();
            for (sum, more) in sums.iter_mut().zip(counts) {
                *sum += more;
            }
        }
        self.found.extend_from_slice(&other.found);
    }

    fn count(&mut self, end: End) {
        if let Some(text) = end.found {
            self.found.push(text);
            return;
        }
        let [kiln, reference] = &mut self.killed;
        *(if end.foreign { reference } else { kiln }) += 1;
        let mut under_way = None;
        for byte in end.said {
            match (byte, under_way) {
                (READY, _) => {}
                (DONE, Some(letter)) => {
                    self.done.entry(letter).or_default()[0] += 1;
                    under_way = None;
                }
                (letter, _) => under_way = Some(letter),
            }
        }
        if let Some(letter) = under_way {
            self.done.entry(letter).or_default()[1] += 1;
        }
    }

    /// Prints what happened.
    pub(super) fn print(&self) {
        let [kiln, reference] = self.killed;
        println!("{} kills: {kiln} of Kiln, {reference} of the reference", self.kills());
        println!("{:>10} {:>8}", "done", "killed in");
        for (letter, [done, killed]) in &self.done {
            let name = LETTERS.iter().find(|(known, _)| known == letter).map_or("?", |(_, name)| name);
            println!("{done:>10} {killed:>8}  {name}");
        }
    }
}

/// Keeps so many workers working and dying for a time; with a nursery every other one is the reference's.
pub(super) fn run(
    place: &Place,
    processes: u32,
    nursery: Option<&Nursery>,
    length: Duration,
    dice: &mut Dice,
) -> Result<Tally, Error> {
    let until = Instant::now() + length;
    let stop = AtomicBool::new(false);
    let tallies: Vec<Result<Tally, Error>> = std::thread::scope(|scope| {
        let slots: Vec<_> = (0..processes)
            .map(|number| {
                let (seed, stop) = (dice.roll(), &stop);
                let nursery = nursery.filter(|_| number % 2 == 1);
                scope.spawn(move || {
                    let result = slot(place, nursery, until, stop, seed);
                    if !result.as_ref().is_ok_and(|tally| tally.found.is_empty()) {
                        stop.store(true, Ordering::Relaxed);
                    }
                    result
                })
            })
            .collect();
        // A panic in a slot is one here.
        slots
            .into_iter()
            .map(|slot| slot.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut total = Tally::default();
    for tally in tallies {
        total.add(&tally?);
    }
    Ok(total)
}

fn slot(
    place: &Place,
    nursery: Option<&Nursery>,
    until: Instant,
    stop: &AtomicBool,
    seed: u64,
) -> Result<Tally, Error> {
    let mut dice = Dice::new(seed);
    let mut tally = Tally::default();
    while Instant::now() < until && !stop.load(Ordering::Relaxed) && tally.found.is_empty() {
        let mut process = match nursery {
            None => Process::kiln(place, dice.roll())?,
            Some(nursery) => nursery
                .take()
                .ok_or_else(|| Error::Missing("the reference's workers cannot be started".to_owned()))?,
        };
        if nursery.is_none() && dice.once_in(BORN_DEAD) {
            process.listen(Duration::from_micros(dice.below(INFANCY)), |_| false);
        } else {
            // The first thing is to open the cache, in which most would die.
            process.go(if dice.once_in(OPENING) { READY } else { DONE });
            process.listen(life(&mut dice).min(until.saturating_duration_since(Instant::now())), |_| false);
        }
        tally.count(process.kill()?);
    }
    Ok(tally)
}

/// How long a worker lives.
fn life(dice: &mut Dice) -> Duration {
    let (shortest, longest) = LIVES;
    #[expect(clippy::cast_precision_loss, reason = "a thousandth part of the way is fine enough")]
    let part = dice.below(1000) as f64 / 1000.0;
    Duration::from_secs_f64(shortest * (longest / shortest).powf(part) / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_and_where_kills_struck_is_counted() {
        let end = |said: &[u8], foreign, found: Option<&str>| End {
            said: said.to_vec(),
            foreign,
            found: found.map(str::to_owned),
        };
        let mut tally = Tally::default();
        tally.count(end(b"!o.l.l.c", false, None));
        tally.count(end(b"!o.c.", true, None));
        tally.count(end(b"", false, None));
        tally.count(end(b"!l", false, Some("half an entry")));
        assert_eq!((tally.killed, tally.operations()), ([2, 1], 5));
        assert_eq!(tally.done, BTreeMap::from([(b'c', [1, 1]), (b'l', [2, 0]), (b'o', [2, 0])]));
        assert_eq!(tally.found, ["half an entry"]);
        let mut total = tally.clone();
        total.add(&tally);
        assert_eq!((total.kills(), total.operations(), total.found.len()), (6, 10, 2));
    }

    #[test]
    fn lives_are_between_the_shortest_and_the_longest() {
        let mut dice = Dice::new(5);
        let lives: Vec<_> = (0..1000).map(|_| life(&mut dice).as_micros()).collect();
        assert!(lives.iter().all(|life| (20..150_000).contains(life)), "{lives:?}");
        let short = lives.iter().filter(|life| **life < 1732).count();
        assert!((400..600).contains(&short), "{short} of 1000 below the middle");
    }
}
