//! The guest's console: its last lines, for errors.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// How many lines are kept: the last screen of a panic.
const LINES: usize = 40;
/// How long a line may be; the rest of it counts as the next one.
const WIDTH: usize = 400;

/// What a kernel says before it ends, and before the many lines that tell where it was.
const PANIC: &str = "Kernel panic - not syncing";

/// What is kept of a console.
#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<String>,
    /// The line that says why the kernel has ended.
    panic: Option<String>,
}

/// The last lines of what a thread reads.
#[derive(Debug)]
pub struct Console {
    kept: Arc<Mutex<Kept>>,
    reading: Option<JoinHandle<()>>,
}

impl Console {
    /// Reads in the background, to the end.
    pub(super) fn new(mut port: impl Read + Send + 'static) -> Self {
        let kept = Arc::new(Mutex::default());
        let own = Arc::clone(&kept);
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
        Self { kept, reading: Some(reading) }
    }

    /// The last lines until now, after the one that says why the kernel has ended, if it has.
    pub fn last_lines(&self) -> String {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<_> = kept.lines.iter().map(String::as_str).collect();
        match &kept.panic {
            Some(panic) if !lines.contains(&panic.as_str()) => format!("{panic}\n…\n{}", lines.join("\n")),
            _ => lines.join("\n"),
        }
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

fn keep(kept: &Mutex<Kept>, line: &[u8]) {
    let line = String::from_utf8_lossy(line);
    if line.trim().is_empty() {
        return;
    }
    let line = line.trim_end().to_owned();
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    if line.contains(PANIC) {
        kept.panic.get_or_insert_with(|| line.clone());
    }
    kept.lines.push_back(line);
    if kept.lines.len() > LINES {
        kept.lines.pop_front();
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
        let panic = format!("[ 1.2] {PANIC}: why");
        let mut console = Console::new(std::io::Cursor::new(format!("before\n{panic}\n{text}")));
        assert!(console.finish().starts_with(&format!("{panic}\n…\nline 60\n")));
        let mut console = Console::new(std::io::Cursor::new(format!("{panic}\nend")));
        assert_eq!(console.finish(), format!("{panic}\nend"));
    }
}
