//! Progress of what may take long.

use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
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
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if wait.recv_timeout(PATIENCE) != Err(mpsc::RecvTimeoutError::Timeout) {
                return;
            }
            let template = "{prefix:>12.cyan} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}";
            let style =
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            // What was done before counts as done, but not for the rate.
            let done = progress.bytes.load(Ordering::Relaxed);
            let bar = ProgressBar::new(0).with_style(style).with_prefix(what).with_position(done);
            let bar = bar.with_elapsed(PATIENCE);
            while wait.recv_timeout(TICK) == Err(mpsc::RecvTimeoutError::Timeout) {
                bar.set_length(progress.total.load(Ordering::Relaxed));
                bar.set_position(progress.bytes.load(Ordering::Relaxed));
            }
            bar.finish_and_clear();
        });
        let result = work();
        drop(done);
        result
    })
}
