//! The peak memory of a program's own process, without that of the tools it runs.
//!
//! The kernel's account of an ended child includes the children that it has waited for, so it cannot tell Kiln from
//! an `xz` that Kiln ran. The high-water mark of a running process can: it only ever grows, and looking every few
//! milliseconds misses no more than what came in the last of them.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use kiln_sys::command::describe;

use super::measure::tail;
use crate::cargo::failed;
use crate::error::Error;

/// How often is looked.
const INTERVAL: Duration = Duration::from_millis(5);

/// Peak memory in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Peak {
    /// Of the process that was started.
    pub(super) main: u64,
    /// Of the largest of its descendants that run the same program: modules and helpers.
    pub(super) modules: u64,
}

/// Runs a command, expects it to succeed, and says how much memory its program took.
pub(super) fn peak(command: &mut Command) -> Result<Peak, Error> {
    let step = "measuring memory";
    let error = |command: &Command, error: std::io::Error| failed(step, command, error.to_string());
    let mut stderr = tempfile::tempfile().map_err(|source| error(command, source))?;
    let its_stderr = stderr.try_clone().map_err(|source| error(command, source))?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(its_stderr);
    let mut child = command.spawn().map_err(|source| error(command, source))?;
    let mut peak = Peak::default();
    let status = loop {
        peak.main = peak.main.max(high_water(child.id()).unwrap_or_default());
        let program = identity(child.id());
        for process in descendants(child.id()) {
            if program.is_some() && identity(process) == program {
                peak.modules = peak.modules.max(high_water(process).unwrap_or_default());
            }
        }
        if let Some(status) = child.try_wait().map_err(|source| error(command, source))? {
            break status;
        }
        std::thread::sleep(INTERVAL);
    };
    if status.success() {
        return Ok(peak);
    }
    Err(failed(step, command, format!("{}: {}", describe(status), tail(&mut stderr).trim())))
}

/// The most memory that a process has held so far; none if it is gone.
fn high_water(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// The file that a process executes, however it is called in the process's own file system.
fn identity(process: u32) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::metadata(format!("/proc/{process}/exe")).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

fn descendants(process: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let threads = fs::read_dir(Path::new("/proc").join(process.to_string()).join("task"));
    for thread in threads.into_iter().flatten().flatten() {
        let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|word| word.parse().ok()) {
            found.push(child);
            found.extend(descendants(child));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_other_programs_does_not_count() {
        // The shell stays below what `dd` takes for its buffer, and waits for it.
        let mut command = Command::new("sh");
        command.args(["-c", "dd if=/dev/zero of=/dev/null bs=64M count=20; true"]);
        let peak = peak(&mut command).expect("it succeeds");
        assert!(peak.main > 100 << 10, "{peak:?}");
        assert!(peak.main < 32 << 20, "{peak:?}");
    }

    #[test]
    fn the_memory_of_the_program_s_own_children_counts_apart() {
        let mut command = Command::new("sh");
        command.args(["-c", "sh -c 'x=$(head -c 8000000 /dev/zero | tr \"\\0\" x); sleep 0.1; :'; true"]);
        let peak = peak(&mut command).expect("it succeeds");
        assert!(peak.modules > 8_000_000 && peak.main < 8_000_000, "{peak:?}");
    }
}
