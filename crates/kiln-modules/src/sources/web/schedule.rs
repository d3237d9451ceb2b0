//! Which file is fetched next, and from where: the first one of which a server is not busy.
//!
//! Files that can be had from the same servers wait in one queue, so that finding the next one takes as long as there are
//! different servers, not files. Who ends a file asks for the next one itself, so nobody else is woken for that: only when
//! there is more to be had than one worker takes.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::speeds::Speeds;
use super::tcp::SLICE;
use super::wanted::Wanted;

/// The files that are still to be fetched.
pub(super) struct Schedule<'a> {
    per_host: usize,
    speeds: &'a Speeds,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    queues: Vec<Queue>,
    running: HashMap<String, usize>,
}

struct Queue {
    waiting: VecDeque<(usize, Wanted)>,
    running: usize,
}

impl<'a> Schedule<'a> {
    pub(super) fn new(files: Vec<(usize, Wanted)>, per_host: usize, speeds: &'a Speeds) -> Self {
        let mut places = HashMap::new();
        let mut queues: Vec<Queue> = Vec::new();
        for file in files {
            let place = *places.entry(file.1.group()).or_insert_with(|| {
                queues.push(Queue { waiting: VecDeque::new(), running: 0 });
                queues.len() - 1
            });
            if let Some(queue) = queues.get_mut(place) {
                queue.waiting.push_back(file);
            }
        }
        let state = Mutex::new(State { queues, running: HashMap::new() });
        Self { per_host: per_host.max(1), speeds, state, changed: Condvar::new() }
    }

    /// The next file, as soon as one of its servers is not busy; `None` if there is none left, or after an
    /// interruption.
    pub(super) fn next(&self, interrupted: impl Fn() -> bool) -> Option<Next<'_>> {
        let mut state = self.lock();
        while state.queues.iter().any(|queue| !queue.waiting.is_empty()) && !interrupted() {
            if let Some((queue, place)) = self.choose(&state)
                && let Some((index, wanted)) =
                    state.queues.get_mut(queue).and_then(|queue| queue.waiting.pop_front())
            {
                let host = wanted.host(place).to_owned();
                state.add(queue, &host);
                if state.queues.iter().all(|queue| queue.waiting.is_empty()) {
                    self.changed.notify_all();
                } else if self.choose(&state).is_some() {
                    self.changed.notify_one();
                }
                return Some(Next { schedule: self, queue, host, index, wanted, place });
            }
            let result = self.changed.wait_timeout(state, SLICE);
            state = result.unwrap_or_else(PoisonError::into_inner).0;
        }
        None
    }

    /// The queue whose first file is first in the request, of those with a free server, and the best place.
    fn choose(&self, state: &State) -> Option<(usize, usize)> {
        let first = |queue: &Queue| queue.waiting.front().map(|(index, _)| *index);
        let free = state.queues.iter().enumerate().filter_map(|(number, queue)| {
            let (_, wanted) = queue.waiting.front()?;
            if queue.running >= wanted.parallel() {
                return None;
            }
            let places = (0..wanted.count()).filter(|place| {
                state.running.get(wanted.host(*place)).is_none_or(|running| *running < self.per_host)
            });
            let place = places.min_by(|one, other| {
                self.speeds.compare(wanted.host(*one), wanted.host(*other)).then(one.cmp(other))
            })?;
            Some((first(queue), number, place))
        });
        free.max_by_key(|(first, ..)| Reverse(*first)).map(|(_, queue, place)| (queue, place))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, queue: usize, host: &str) {
        *self.running.entry(host.to_owned()).or_default() += 1;
        if let Some(queue) = self.queues.get_mut(queue) {
            queue.running += 1;
        }
    }

    fn remove(&mut self, queue: usize, host: &str) {
        if let Some(running) = self.running.get_mut(host) {
            *running -= 1;
        }
        if let Some(queue) = self.queues.get_mut(queue) {
            queue.running -= 1;
        }
    }
}

/// A file that is being fetched; its server is less busy when this is dropped, and who drops it asks for the next.
pub(super) struct Next<'a> {
    schedule: &'a Schedule<'a>,
    queue: usize,
    host: String,
    /// The file's place in the request.
    pub(super) index: usize,
    pub(super) wanted: Wanted,
    /// Where it is to be tried first.
    pub(super) place: usize,
}

impl Next<'_> {
    /// Goes to another server, busy or not: the file has waited for its turn already.
    pub(super) fn move_to(&mut self, host: &str) {
        if host != self.host {
            let mut state = self.schedule.lock();
            state.remove(self.queue, &self.host);
            state.add(self.queue, host);
            drop(state);
            self.host = host.to_owned();
            self.schedule.changed.notify_one();
        }
    }
}

impl Drop for Next<'_> {
    fn drop(&mut self) {
        self.schedule.lock().remove(self.queue, &self.host);
    }
}
