//! What services say: lines that reach the run's events as they come.
//!
//! A service may be silent for long or say something at any time, so each is read by a thread of its own; events go
//! to somebody who lives as long as the run of a stage only, so they are sent by one more.

use std::sync::mpsc::{Receiver, Sender, channel};

use crate::event::{Event, Events};

/// A line of a service, or the end of the run.
type Line = Option<(String, String)>;

/// Where services send what they say. What comes after the end is dropped.
#[derive(Clone)]
pub(crate) struct Log(Sender<Line>);

impl Log {
    /// One that nobody reads.
    pub(crate) fn nowhere() -> Self {
        Self(channel().0)
    }

    /// Passes a line on.
    pub(crate) fn line(&self, service: &str, text: &str) {
        let _ = self.0.send(Some((service.to_owned(), text.to_owned())));
    }
}

/// Passes lines on to a run's events.
pub(crate) struct Pump {
    sender: Sender<Line>,
    lines: Receiver<Line>,
}

impl Pump {
    /// A new one.
    pub(crate) fn new() -> Self {
        let (sender, lines) = channel();
        Self { sender, lines }
    }

    /// Does something while lines are passed on; all that were sent until then have been when it returns.
    pub(crate) fn during<T>(self, events: Events<'_>, what: impl FnOnce(&Log) -> T) -> T {
        let Self { sender, lines } = self;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while let Ok(Some((service, text))) = lines.recv() {
                    events(Event::Service { service: &service, text: &text });
                }
            });
            // Also if it panics: the scope would wait for ever.
            let _end = End(sender.clone());
            what(&Log(sender))
        })
    }
}

/// Ends the thread that passes lines on: others may hold the channel open.
struct End(Sender<Line>);

impl Drop for End {
    fn drop(&mut self) {
        let _ = self.0.send(None);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn lines_arrive_in_order_and_none_after_the_end() {
        let said = Mutex::new(Vec::new());
        let events = |event: Event<'_>| {
            if let Event::Service { service, text } = event {
                said.lock().expect("not poisoned").push(format!("{service}: {text}"));
            }
        };
        let late = Pump::new().during(&events, |log| {
            for number in 0..100 {
                log.line("a", &number.to_string());
            }
            log.clone()
        });
        late.line("a", "too late");
        let said = said.into_inner().expect("not poisoned");
        assert_eq!(said.len(), 100);
        assert_eq!((said[0].as_str(), said[99].as_str()), ("a: 0", "a: 99"));
    }
}
