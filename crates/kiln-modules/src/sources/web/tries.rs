//! The tries for one file: where it is tried next, whether it is tried again, and what is said in the end.
//!
//! A place that fails is followed by one that has been tried less often, at once. When all have been tried equally
//! often, the one with the fastest server is next, after a pause. What a try has brought is kept for the next one, and a
//! try that has brought much is none in vain. A place is left out when trying it again makes no sense, and the file
//! is given up when no place is left, or after ten tries in vain and one more for each further place.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use kiln_api::source::DownloadEvent;

use super::Patience;
use super::failure::{Failure, TRIES};
use super::meter::Meter;
use super::schedule::Next;
use super::speeds::{Other, Speeds};
use super::transfer::{Held, Transfers, Try};
use super::wanted::Wanted;
use crate::sources::arriving::Arriving;

/// A try that brings as many bytes has not been in vain.
const WORTH: u64 = 16 * 1024;

/// What the tries of all files of a download share.
pub(super) struct Tries<'a> {
    transfers: Transfers<'a>,
    patience: &'a Patience<'a>,
    interrupted: &'a AtomicBool,
    /// Servers that could not be reached with all tries: their other files get one try each.
    unreachable: Mutex<HashSet<String>>,
}

/// What is known of one place of a file.
#[derive(Clone, Debug, Default)]
struct Tried {
    shown: String,
    tries: u32,
    in_vain: u32,
    last: Option<Failure>,
    /// Whether it must be asked for the whole.
    whole: bool,
}

impl Tried {
    fn is_spent(&self) -> bool {
        self.last.as_ref().is_some_and(|failure| self.in_vain >= failure.tries)
    }
}

impl<'a> Tries<'a> {
    pub(super) fn new(
        transfers: Transfers<'a>,
        patience: &'a Patience<'a>,
        interrupted: &'a AtomicBool,
    ) -> Self {
        Self { transfers, patience, interrupted, unreachable: Mutex::default() }
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Tries until it works, or until it makes no sense any more.
    pub(super) fn run(&self, next: &mut Next<'_>) -> Result<(), String> {
        let wanted = next.wanted.clone();
        let item = wanted.checksum.as_str();
        let meter = Meter::new(item, self.transfers.events);
        let go_on = || !self.is_interrupted();
        let content = Arriving::resume(&self.transfers.workspace, &wanted.checksum, &go_on);
        let content = content.map_err(|error| error.to_string())?;
        let mut held = Held { meter, content, in_parts: false };
        let result = self.attempts(&wanted, next, &mut held);
        if result.is_err() {
            held.meter.set(0);
        }
        result
    }

    fn attempts(&self, wanted: &Wanted, next: &mut Next<'_>, held: &mut Held<'_>) -> Result<(), String> {
        let item = wanted.checksum.as_str();
        let speeds = self.transfers.speeds;
        let mut tried = vec![Tried::default(); wanted.count()];
        let mut index = next.place;
        loop {
            if self.is_interrupted() {
                return Err("interrupted".to_owned());
            }
            next.move_to(wanted.host(index));
            let before = held.content.as_ref().map_or(0, Arriving::bytes);
            let Err(failure) = self.attempt(wanted, index, &mut tried, held) else { return Ok(()) };
            if self.is_interrupted() {
                return Err("interrupted".to_owned());
            }
            let gained = held.content.as_ref().map_or(0, Arriving::bytes).saturating_sub(before);
            let host = wanted.host(index);
            let given_up = failure.unreachable && self.is_given_up(host);
            if failure.unreachable {
                speeds.unreachable(host);
            }
            let here = failure.here;
            let reason = failure.reason.clone();
            if let Some(tried) = tried.get_mut(index) {
                tried.tries += 1;
                tried.in_vain = if gained >= WORTH { 1.min(failure.tries - 1) } else { tried.in_vain + 1 };
                tried.whole |= failure.whole;
                tried.last = Some(if given_up { Failure { tries: 1, ..failure } } else { failure });
            }
            let in_vain: u32 = tried.iter().map(|tried| tried.in_vain).sum();
            let most = TRIES + u32::try_from(tried.len() - 1).unwrap_or(u32::MAX - TRIES);
            index = match choose(wanted, &tried, speeds).filter(|_| !here && in_vain < most) {
                Some(index) => index,
                None => return Err(self.give_up(wanted, &tried)),
            };
            (self.transfers.events)(DownloadEvent::Retry { item, reason: &reason });
            if let Some(Tried { in_vain, last: Some(failure), .. }) = tried.get(index) {
                (self.patience.pause)(failure.pause((*in_vain).max(1)), self.interrupted);
            }
        }
    }

    /// Tries one place once.
    fn attempt(
        &self,
        wanted: &Wanted,
        index: usize,
        tried: &mut [Tried],
        held: &mut Held<'_>,
    ) -> Result<(), Failure> {
        let (shown, place) = wanted.place(index);
        // Slow places must not take turns for ever.
        let is_settled = tried.iter().map(|tried| tried.tries).sum::<u32>() as usize >= 2 * tried.len();
        let others: Vec<Other> = (tried.iter().enumerate())
            .filter(|(other, tried)| *other != index && !tried.is_spent() && !is_settled)
            .map(|(other, tried)| Other { host: wanted.host(other), is_fresh: tried.tries == 0 })
            .collect();
        let floor = || self.transfers.speeds.floor(wanted.host(index), &others);
        let whole = tried.get_mut(index).is_some_and(|tried| {
            tried.shown = shown;
            tried.whole
        });
        let floor: Option<&dyn Fn() -> f64> = if others.is_empty() { None } else { Some(&floor) };
        let place = place.map_err(Failure::permanent)?;
        self.transfers.attempt(&Try { wanted, place: &place, whole, floor }, held)
    }

    fn is_given_up(&self, host: &str) -> bool {
        self.unreachable.lock().unwrap_or_else(PoisonError::into_inner).contains(host)
    }

    fn give_up(&self, wanted: &Wanted, tried: &[Tried]) -> String {
        let mut reasons = Vec::new();
        for (index, place) in tried.iter().enumerate() {
            let Some(failure) = &place.last else { continue };
            if failure.unreachable {
                let mut unreachable = self.unreachable.lock().unwrap_or_else(PoisonError::into_inner);
                unreachable.insert(wanted.host(index).to_owned());
            }
            let count =
                if place.tries == 1 { String::new() } else { format!(" (after {} tries)", place.tries) };
            reasons.push(format!("{}: {}{count}", place.shown, failure.reason));
        }
        match reasons.as_slice() {
            [one] if tried.len() == 1 => format!("cannot download {one}"),
            _ => format!("cannot download from any of {} places: {}", tried.len(), reasons.join("; ")),
        }
    }
}

/// The place to be tried next; none if no place is worth another try.
fn choose(wanted: &Wanted, tried: &[Tried], speeds: &Speeds) -> Option<usize> {
    let candidates = tried.iter().enumerate().filter(|(_, tried)| !tried.is_spent());
    let best = candidates.min_by(|(one, first), (other, second)| {
        let speed = || speeds.compare(wanted.host(*one), wanted.host(*other));
        first.in_vain.cmp(&second.in_vain).then_with(speed).then(one.cmp(other))
    });
    best.map(|(index, _)| index)
}
