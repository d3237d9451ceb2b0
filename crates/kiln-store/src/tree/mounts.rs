//! Whether something is mounted inside a directory, asked without walking it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// The bytes that the mount table does not write as they are.
const ESCAPED: &[u8] = b" \t\n\\";

/// Where the mount point stands in a line of the mount table.
const MOUNT_POINT: usize = 4;

/// Whether something is mounted below an open directory, as this process sees it.
pub(super) fn below(directory: &OwnedFd) -> io::Result<bool> {
    let path = rustix::fs::readlink(format!("/proc/self/fd/{}", directory.as_raw_fd()), Vec::new())?;
    let table = std::fs::read("/proc/thread-self/mountinfo")?;
    Ok(has_below(&table, path.as_bytes()))
}

fn has_below(table: &[u8], path: &[u8]) -> bool {
    let mut prefix = Vec::with_capacity(path.len() + 1);
    for byte in path {
        if ESCAPED.contains(byte) {
            prefix.extend_from_slice(format!("\\{byte:03o}").as_bytes());
        } else {
            prefix.push(*byte);
        }
    }
    if !prefix.ends_with(b"/") {
        prefix.push(b'/');
    }
    let mut lines = table.split(|byte| *byte == b'\n');
    lines.any(|line| {
        let mount_point = line.split(|byte| *byte == b' ').nth(MOUNT_POINT);
        mount_point.is_some_and(|mount_point| mount_point.starts_with(&prefix))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_below_are_found_whatever_their_names() {
        let table = b"22 1 0:21 / /sys rw - sysfs sysfs rw\n\
            30 22 0:22 / /sys/kernel/a\\040b rw - tmpfs none rw\n\
            31 1 0:23 / /mnt\\134x rw - tmpfs none rw\n";
        let cases: [(&[u8], bool); 8] = [
            (b"/", true),
            (b"/sys", true),
            (b"/sy", false),
            (b"/sys/kernel", true),
            (b"/sys/kernel/a b", false),
            (b"/sys/kernel/a", false),
            (b"/mnt\\x", false),
            (b"/mnt", false),
        ];
        for (path, expected) in cases {
            assert_eq!(has_below(table, path), expected, "{}", String::from_utf8_lossy(path));
        }
        let below = b"30 22 0:22 / /a\\134b/c rw - tmpfs none rw\n";
        assert!(has_below(below, b"/a\\b"));
    }
}
