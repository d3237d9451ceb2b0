//! Progress of what may take long.

use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use kiln_engine::plan::bytes;
use kiln_store::cache::Progress;

use crate::settings;

/// What takes less time needs no progress.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often the picture is renewed.
const TICK: Duration = Duration::from_millis(100);

/// Does something, and shows on a terminal how far it is once that takes long.
pub(super) fn watch<T>(what: &'static str, progress: &Progress, work: impl FnOnce() -> T) -> T {
    if !settings::stderr_is_terminal() {
        return work();
    }
    let (done, wait) = mpsc::channel::<()>();
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if wait.recv_timeout(PATIENCE) != Err(mpsc::RecvTimeoutError::Timeout) {
                return;
            }
            let template = "{prefix:>12.cyan} {wide_bar} {msg}";
            let style =
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(0).with_style(style).with_prefix(what);
            while wait.recv_timeout(TICK) == Err(mpsc::RecvTimeoutError::Timeout) {
                let done = progress.bytes.load(Ordering::Relaxed);
                let total = progress.total.load(Ordering::Relaxed);
                bar.set_length(total);
                bar.set_position(done);
                // The bar's own rate takes all that was done before it was shown for one step.
                let millis = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
                let rate = done.saturating_mul(1000) / millis;
                bar.set_message(format!("{} of {}, {}/s", bytes(done), bytes(total), bytes(rate)));
            }
            bar.finish_and_clear();
        });
        let result = work();
        drop(done);
        result
    })
}
