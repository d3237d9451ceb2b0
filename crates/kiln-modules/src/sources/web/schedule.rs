//! Which item is fetched next: the first one whose server is not busy.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::wanted::Wanted;
use super::tcp::SLICE;

/// The items that are still to be fetched.
pub(super) struct Schedule {
    per_host: usize,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    waiting: VecDeque<(usize, Wanted)>,
    running: HashMap<String, usize>,
}

impl Schedule {
    pub(super) fn new(items: Vec<(usize, Wanted)>, per_host: usize) -> Self {
        let state = State { waiting: items.into(), running: HashMap::new() };
        Self { per_host: per_host.max(1), state: Mutex::new(state), changed: Condvar::new() }
    }

    /// The next item, as soon as its server is not busy; `None` if there is none left, or after an interruption.
    pub(super) fn next(&self, interrupted: impl Fn() -> bool) -> Option<Next<'_>> {
        let mut state = self.lock();
        while !state.waiting.is_empty() && !interrupted() {
            let free = |(_, item): &(usize, Wanted)| {
                state.running.get(item.host()).is_none_or(|running| *running < self.per_host)
            };
            if let Some(at) = state.waiting.iter().position(free)
                && let Some(item) = state.waiting.remove(at)
            {
                *state.running.entry(item.1.host().to_owned()).or_default() += 1;
                return Some(Next { schedule: self, item });
            }
            let result = self.changed.wait_timeout(state, SLICE);
            state = result.unwrap_or_else(PoisonError::into_inner).0;
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An item that is being fetched; its server is less busy when this is dropped.
pub(super) struct Next<'a> {
    schedule: &'a Schedule,
    item: (usize, Wanted),
}

impl Next<'_> {
    /// The item and its place in the request.
    pub(super) fn item(&self) -> &(usize, Wanted) {
        &self.item
    }
}

impl Drop for Next<'_> {
    fn drop(&mut self) {
        if let Some(running) = self.schedule.lock().running.get_mut(self.item.1.host()) {
            *running -= 1;
        }
        self.schedule.changed.notify_all();
    }
}
