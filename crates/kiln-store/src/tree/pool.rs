//! A few threads that take tasks from one stack.
//!
//! The calling thread is the first of them, and the only one as long as there is little to do: a tree of a
//! few directories is walked without a thread being started. The latest task is taken first, so a tree is
//! walked depth first, which bounds both the descriptors and the memory that wait for their turn.

use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;

/// File systems serialise so much that more threads than this only wait for each other.
const MOST_WORKERS: usize = 8;

/// This many waiting tasks are worth the start of another thread.
const WORTH_A_THREAD: usize = 12;

/// A worker that prefers some tasks looks for one among this many of the latest.
const WINDOW: usize = 128;

/// Asking takes longer than a small tree does.
static WORKERS: LazyLock<usize> =
    LazyLock::new(|| std::thread::available_parallelism().map_or(1, usize::from).min(MOST_WORKERS));

/// What the workers do.
pub(super) trait Work: Sync {
    type Task: Send;

    /// Whether workers prefer some tasks to others.
    fn choosy(&self) -> bool {
        false
    }

    /// Whether a worker should rather do this task than another worker.
    fn suits(&self, _task: &Self::Task, _worker: usize, _workers: usize) -> bool {
        true
    }

    /// Does a task, which may add others.
    fn run(&self, crew: &Crew<'_, '_, Self>, task: Self::Task);
}

/// Does a task and all that it leads to.
pub(super) fn run<W: Work + ?Sized>(work: &W, first: W::Task) {
    let state = State { tasks: vec![first], active: 0, idle: 0, started: 1 };
    let shared = Shared { work, state: Mutex::new(state), changed: Condvar::new() };
    std::thread::scope(|scope| Crew { shared: &shared, scope, index: 0 }.work());
}

struct Shared<'w, W: Work + ?Sized> {
    work: &'w W,
    state: Mutex<State<W::Task>>,
    changed: Condvar,
}

struct State<T> {
    tasks: Vec<T>,
    /// How many workers are doing a task.
    active: usize,
    /// How many wait for one.
    idle: usize,
    started: usize,
}

/// A worker, as its tasks see it.
pub(super) struct Crew<'scope, 'env, W: Work + ?Sized> {
    shared: &'env Shared<'env, W>,
    scope: &'scope Scope<'scope, 'env>,
    index: usize,
}

impl<'scope, 'env, W: Work + ?Sized> Crew<'scope, 'env, W> {
    /// Adds tasks, the last of which is done first. Large ones are each worth a thread.
    pub(super) fn add(&self, tasks: impl IntoIterator<Item = W::Task>, large: bool) {
        let mut state = self.shared.lock();
        let before = state.tasks.len();
        state.tasks.extend(tasks);
        if state.tasks.len() == before {
            return;
        }
        let waiting = state.tasks.len();
        let start = state.idle == 0 && state.started < *WORKERS && (large || waiting >= WORTH_A_THREAD);
        let index = state.started;
        if start {
            state.started += 1;
        }
        let wake = state.idle > 0;
        drop(state);
        if wake {
            self.shared.changed.notify_all();
        }
        if start {
            let (shared, scope) = (self.shared, self.scope);
            let spawned = std::thread::Builder::new()
                .name("kiln-tree".to_owned())
                .spawn_scoped(scope, move || Self { shared, scope, index }.work());
            if spawned.is_err() {
                // The others do its part.
                self.shared.lock().started -= 1;
            }
        }
    }

    fn work(&self) {
        while let Some(task) = self.next() {
            // Lowers the count of active workers even if the task panics, so that nobody waits forever.
            let _active = Active { shared: self.shared };
            self.shared.work.run(self, task);
        }
    }

    fn next(&self) -> Option<W::Task> {
        let mut state = self.shared.lock();
        loop {
            if let Some(index) = self.choose(&state) {
                state.active += 1;
                return Some(state.tasks.remove(index));
            }
            if state.active == 0 {
                return None;
            }
            state.idle += 1;
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    fn choose(&self, state: &State<W::Task>) -> Option<usize> {
        let last = state.tasks.len().checked_sub(1)?;
        if state.started < 2 || !self.shared.work.choosy() {
            return Some(last);
        }
        let window = state.tasks.iter().enumerate().rev().take(WINDOW);
        let suiting = window
            .filter(|(_, task)| self.shared.work.suits(task, self.index, state.started))
            .map(|(index, _)| index)
            .next();
        Some(suiting.unwrap_or(last))
    }
}

struct Active<'env, W: Work + ?Sized> {
    shared: &'env Shared<'env, W>,
}

impl<W: Work + ?Sized> Drop for Active<'_, W> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.active -= 1;
        if state.active == 0 && state.tasks.is_empty() {
            drop(state);
            self.shared.changed.notify_all();
        }
    }
}

impl<W: Work + ?Sized> Shared<'_, W> {
    fn lock(&self) -> MutexGuard<'_, State<W::Task>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A task is a number; it adds two tasks of the number less one, and fails at a given count.
    struct Halves {
        done: AtomicUsize,
        fails_at: usize,
        choosy: bool,
    }

    impl Work for Halves {
        type Task = u32;

        fn choosy(&self) -> bool {
            self.choosy
        }

        fn suits(&self, task: &u32, worker: usize, workers: usize) -> bool {
            *task as usize % workers == worker
        }

        fn run(&self, crew: &Crew<'_, '_, Self>, task: u32) {
            let before = self.done.fetch_add(1, Ordering::Relaxed);
            assert_ne!(before, self.fails_at, "as wanted");
            if task > 0 {
                crew.add([task - 1, task - 1], task.is_multiple_of(3));
            }
        }
    }

    fn halves(fails_at: usize, choosy: bool) -> Halves {
        Halves { done: AtomicUsize::new(0), fails_at, choosy }
    }

    #[test]
    fn every_task_is_done_once() {
        for choosy in [false, true] {
            for depth in [0, 1, 2, 12] {
                let work = halves(usize::MAX, choosy);
                run(&work, depth);
                assert_eq!(work.done.into_inner(), (2 << depth) - 1, "{depth}");
            }
        }
    }

    #[test]
    fn a_panic_ends_the_walk_instead_of_hanging_it() {
        for fails_at in [0, 1, 1000, 8190] {
            let work = halves(fails_at, false);
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&work, 12)));
            assert!(outcome.is_err(), "{fails_at}");
        }
    }
}
