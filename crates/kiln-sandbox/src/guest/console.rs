//! The guest's console: its last lines, for errors.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// How many lines are kept: the last screen of a panic.
const LINES: usize = 40;
/// How long a line may be; the rest of it counts as the next one.
const WIDTH: usize = 400;

/// The last lines of what a thread reads.
#[derive(Debug)]
pub struct Console {
    lines: Arc<Mutex<VecDeque<String>>>,
    reading: Option<JoinHandle<()>>,
}

impl Console {
    /// Reads in the background, to the end.
    pub(super) fn new(mut port: impl Read + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let own = Arc::clone(&lines);
        let reading = std::thread::spawn(move || {
            let (mut buffer, mut line) = ([0; 4096], Vec::new());
            loop {
                let count = match port.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => count,
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(_) => break,
                };
                for &byte in buffer.get(..count).unwrap_or_default() {
                    if byte == b'\n' || line.len() == WIDTH {
                        keep(&own, &std::mem::take(&mut line));
                    }
                    if !byte.is_ascii_control() {
                        line.push(byte);
                    }
                }
            }
            keep(&own, &line);
        });
        Self { lines, reading: Some(reading) }
    }

    /// The last lines until now.
    pub fn last_lines(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    /// The last lines of all, when the other end is closed.
    pub(super) fn finish(&mut self) -> String {
        if let Some(reading) = self.reading.take() {
            // It does not panic; and if it did there were no more lines.
            let _ = reading.join();
        }
        self.last_lines()
    }
}

fn keep(lines: &Mutex<VecDeque<String>>, line: &[u8]) {
    let line = String::from_utf8_lossy(line);
    if line.trim().is_empty() {
        return;
    }
    let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
    lines.push_back(line.trim_end().to_owned());
    if lines.len() > LINES {
        lines.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept() {
        let text: String = (0..100).map(|number| format!("line {number}\r\n\n")).collect();
        let mut console = Console::new(std::io::Cursor::new(format!("{text}end")));
        let last = console.finish();
        assert!(last.starts_with("line 61\nline 62\n") && last.ends_with("\nline 99\nend"), "{last}");
    }
}
