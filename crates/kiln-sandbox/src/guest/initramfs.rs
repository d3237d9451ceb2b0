//! The initial RAM disk: a cpio archive in the kernel's format (`newc`).
//!
//! Source of the format: the kernel's documentation, `driver-api/early-userspace/buffer-format`.

use std::io::{self, Write};

/// Directories.
const DIRECTORY: u32 = 0o040_755;
/// Files that are executed.
const EXECUTABLE: u32 = 0o100_755;
/// Devices of characters.
const CHARACTERS: u32 = 0o020_600;

/// Writes an archive.
pub(super) struct Archive<W> {
    out: W,
    written: usize,
    entries: u32,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, written: 0, entries: 0 }
    }

    /// Adds a directory; what it is in was added before.
    pub(super) fn directory(&mut self, path: &str) -> io::Result<()> {
        self.entry(path, DIRECTORY, (0, 0), &[])
    }

    /// Adds a file.
    pub(super) fn file(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        self.entry(path, EXECUTABLE, (0, 0), content)
    }

    /// Adds the node of a device of characters.
    pub(super) fn device(&mut self, path: &str, number: (u32, u32)) -> io::Result<()> {
        self.entry(path, CHARACTERS, number, &[])
    }

    /// Ends the archive.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) -> io::Result<()> {
        let path = path.trim_start_matches('/');
        let size = u32::try_from(content.len()).map_err(|_| {
            io::Error::new(io::ErrorKind::FileTooLarge, "the file is too large for the RAM disk")
        })?;
        let length = u32::try_from(path.len() + 1).map_err(io::Error::other)?;
        self.entries += 1;
        // inode, mode, uid, gid, links, mtime, size, major, minor, its major and minor, length of the name, checksum
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, length, 0]
            .map(|field| format!("{field:08X}"));
        self.put(format!("070701{}", fields.concat()).as_bytes())?;
        self.put(path.as_bytes())?;
        self.put(&[0])?;
        self.align()?;
        self.put(content)?;
        self.align()
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len();
        self.out.write_all(bytes)
    }

    fn align(&mut self) -> io::Result<()> {
        let gap = self.written.next_multiple_of(4) - self.written;
        self.put(&[0; 3][..gap])
    }
}

#[cfg(test)]
mod tests {
    use kiln_sys::command::Run;
    use kiln_testkit::host;

    use super::*;

    #[test]
    fn root_cpio_unpacks_what_is_packed() {
        let need = host::TESTS.iter().find(|need| need.program == "cpio").expect("listed");
        if !host::provided("the RAM disk", &[*need]) {
            return;
        }
        let mut archive = Archive::new(Vec::new());
        archive.directory("/d").expect("packed");
        for (index, length) in [0, 1, 2, 3, 4, 5000].into_iter().enumerate() {
            archive.file(&format!("/d/{}", "n".repeat(index + 1)), &vec![b'x'; length]).expect("packed");
        }
        archive.device("/d/console", (5, 1)).expect("packed");
        let bytes = archive.finish().expect("packed");
        let directory = tempfile::tempdir().expect("a directory");
        let listed = Run::new("cpio")
            .args(["-i", "--quiet", "-v", "-t", "-n"])
            .input(bytes.clone())
            .output()
            .expect("listed");
        let listed = String::from_utf8(listed).expect("text");
        assert!(
            listed.contains("crw-------   1 0        0          5,   1 Jan  1  1970 d/console"),
            "{listed}"
        );
        Run::new("cpio")
            .args(["-i", "--quiet"])
            .current_dir(directory.path())
            .input(bytes)
            .output()
            .expect("unpacked");
        for (index, length) in [0, 1, 2, 3, 4, 5000].into_iter().enumerate() {
            let file = directory.path().join("d").join("n".repeat(index + 1));
            assert_eq!(std::fs::read(file).expect("there"), vec![b'x'; length]);
        }
    }
}
