//! Learns from inotify when a backing file may have been closed.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use rustix::fs::inotify;

/// The longest wait for an event before the device's state is looked at again.
const DETACH_PAUSE: Duration = Duration::from_millis(200);

/// Waits for the kernel to close a backing file.
///
/// Whatever closes the file sends an event, so an event only means that the device is to be looked at again.
pub(super) struct Watch {
    events: Option<rustix::fd::OwnedFd>,
}

impl Watch {
    pub(super) fn new(backing: &File) -> Self {
        let path = format!("/proc/self/fd/{}", backing.as_raw_fd());
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        // Without events (no `/proc`, no free watch) the state is looked at from time to time.
        let events = inotify::init(flags).ok().filter(|events| {
            let closing = inotify::WatchFlags::CLOSE_WRITE | inotify::WatchFlags::CLOSE_NOWRITE;
            inotify::add_watch(events, path.as_str(), closing).is_ok()
        });
        Self { events }
    }

    pub(super) fn wait(&self) {
        let timeout = rustix::time::Timespec {
            tv_sec: 0,
            tv_nsec: i64::try_from(DETACH_PAUSE.as_nanos()).unwrap_or(i64::MAX),
        };
        let mut polled: Vec<_> = self
            .events
            .iter()
            .map(|events| {
                rustix::event::PollFd::from_borrowed_fd(events.as_fd(), rustix::event::PollFlags::IN)
            })
            .collect();
        // An interrupted wait is only a shorter one.
        if rustix::event::poll(&mut polled, Some(&timeout)).is_ok_and(|ready| ready > 0)
            && let Some(events) = &self.events
        {
            let mut buffer = [0; 4096];
            // The events themselves say nothing; they are read so that the next wait waits.
            while rustix::io::read(events, &mut buffer).is_ok_and(|count| count > 0) {}
        }
    }
}
