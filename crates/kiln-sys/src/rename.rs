//! `renameat2`, with what can be had of it where a file system refuses flags.

use std::ffi::CStr;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, Mode, RenameFlags, makedev};
use rustix::io::Errno;

/// Renames an entry unless the new name is taken: then it fails with `EEXIST` (or `ENOTEMPTY`).
///
/// Where the file system knows no `RENAME_NOREPLACE`, a directory is renamed plainly, which the kernel
/// refuses unless the new name is free or an *empty* directory, and anything else is linked and unlinked.
pub fn rename_new(old: (impl AsFd, &CStr), new: (impl AsFd, &CStr)) -> io::Result<()> {
    let result = rustix::fs::renameat_with(&old.0, old.1, &new.0, new.1, RenameFlags::NOREPLACE);
    match result {
        Err(error) if refused(error) => rename_new_without_flags(old, new),
        other => Ok(other?),
    }
}

/// Exchanges two entries in one step. There is no substitute where the file system does not know it.
pub fn exchange(left: (impl AsFd, &CStr), right: (impl AsFd, &CStr)) -> io::Result<()> {
    Ok(rustix::fs::renameat_with(left.0, left.1, right.0, right.1, RenameFlags::EXCHANGE)?)
}

/// Renames an entry and leaves a *whiteout* under the old name: the character device 0:0, by which an overlay hides
/// what a lower layer has there.
///
/// Where the file system knows no `RENAME_WHITEOUT` the two steps are done one after the other: for a moment the old
/// name is free.
pub fn rename_leaving_whiteout(old: (impl AsFd, &CStr), new: (impl AsFd, &CStr)) -> io::Result<()> {
    let result = rustix::fs::renameat_with(&old.0, old.1, &new.0, new.1, RenameFlags::WHITEOUT);
    match result {
        Err(error) if refused(error) => whiteout_in_two_steps(old, new),
        other => Ok(other?),
    }
}

fn whiteout_in_two_steps(old: (impl AsFd, &CStr), new: (impl AsFd, &CStr)) -> io::Result<()> {
    rustix::fs::renameat(&old.0, old.1, new.0, new.1)?;
    Ok(rustix::fs::mknodat(old.0, old.1, FileType::CharacterDevice, Mode::empty(), makedev(0, 0))?)
}

/// Whether the answer means that the flags, not the names, are the trouble.
fn refused(error: Errno) -> bool {
    matches!(error, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)
}

fn rename_new_without_flags(old: (impl AsFd, &CStr), new: (impl AsFd, &CStr)) -> io::Result<()> {
    let stat = rustix::fs::statat(&old.0, old.1, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Ok(rustix::fs::renameat(old.0, old.1, new.0, new.1)?);
    }
    rustix::fs::linkat(&old.0, old.1, new.0, new.1, AtFlags::empty())?;
    Ok(rustix::fs::unlinkat(&old.0, old.1, AtFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::OwnedFd;
    use std::path::{Path, PathBuf};

    use rustix::fs::OFlags;

    use super::*;

    /// A directory of its own below the system's temporary directory, removed at the end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("kiln-rename-{name}-{}", std::process::id()));
            fs::create_dir(&path).expect("scratch directory");
            Self(path)
        }

        fn open(&self) -> OwnedFd {
            rustix::fs::open(&self.0, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).expect("open")
        }

        fn read(&self, name: &str) -> String {
            fs::read_to_string(self.0.join(name)).expect(name)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).expect("clean up");
        }
    }

    fn fill(directory: &Path) {
        fs::write(directory.join("a"), "a").expect("a");
        fs::write(directory.join("b"), "b").expect("b");
        fs::create_dir_all(directory.join("full/x")).expect("full");
        fs::create_dir(directory.join("empty")).expect("empty");
    }

    #[test]
    fn a_taken_name_is_never_replaced() {
        let scratch = Scratch::new("new");
        fill(&scratch.0);
        let at = scratch.open();
        for (old, new) in [(c"a", c"b"), (c"a", c"full"), (c"empty", c"full"), (c"empty", c"a")] {
            let error = rename_new((&at, old), (&at, new)).expect_err("taken");
            assert_eq!(error.raw_os_error(), Some(libc::EEXIST), "{old:?} to {new:?}");
            let fallback = rename_new_without_flags((&at, old), (&at, new)).expect_err("taken");
            assert!(
                matches!(fallback.raw_os_error(), Some(libc::EEXIST | libc::ENOTEMPTY | libc::ENOTDIR)),
                "{old:?} to {new:?}: {fallback}"
            );
        }
        assert_eq!((scratch.read("a"), scratch.read("b")), ("a".to_owned(), "b".to_owned()));
        rename_new((&at, c"a"), (&at, c"c")).expect("free");
        rename_new_without_flags((&at, c"c"), (&at, c"d")).expect("free");
        rename_new_without_flags((&at, c"full"), (&at, c"moved")).expect("free");
        assert_eq!(scratch.read("d"), "a");
        assert!(scratch.0.join("moved/x").is_dir());
    }

    #[test]
    fn entries_are_exchanged_in_one_step() {
        let scratch = Scratch::new("exchange");
        fill(&scratch.0);
        let at = scratch.open();
        exchange((&at, c"a"), (&at, c"full")).expect("exchange");
        assert!(scratch.0.join("a/x").is_dir());
        assert_eq!(scratch.read("full"), "a");
    }

    #[test]
    fn root_a_whiteout_stays_under_the_old_name() {
        use std::os::unix::fs::{FileTypeExt, MetadataExt};
        type Rename = fn((&OwnedFd, &CStr), (&OwnedFd, &CStr)) -> io::Result<()>;
        let ways: [(&str, Rename); 2] = [
            ("whiteout", |old, new| rename_leaving_whiteout(old, new)),
            ("whiteout-two-steps", |old, new| whiteout_in_two_steps(old, new)),
        ];
        for (name, rename) in ways {
            let scratch = Scratch::new(name);
            fill(&scratch.0);
            let at = scratch.open();
            rename((&at, c"a"), (&at, c"c")).expect(name);
            assert_eq!(scratch.read("c"), "a");
            let left = fs::symlink_metadata(scratch.0.join("a")).expect("whiteout");
            assert!(left.file_type().is_char_device() && left.rdev() == 0, "{name}");
        }
    }
}
