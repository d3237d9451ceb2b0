//! Programs of another tree: a thread with mounts of its own, children that have the tree as their root, and children
//! that see another `/dev`.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::mount::MountPropagationFlags;
use rustix::thread::UnshareFlags;

/// Gives the calling thread its own mounts, host name and file-mode mask.
///
/// What the thread mounts from here on is seen by nobody but the children that it starts, and is gone when it
/// and they have ended. Directory descriptors that were opened before still lead to what they led to.
pub fn private_mounts() -> io::Result<()> {
    // SAFETY: the flags do not touch the descriptor table, the one thing that threads must go on sharing.
    #[expect(unsafe_code, reason = "unshare is unsafe because of CLONE_FILES, which is not used here")]
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS | UnshareFlags::NEWUTS) }?;
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    Ok(rustix::mount::mount_change("/", flags)?)
}

/// Arranges for the command to be started with the directory as its root and its working directory.
pub fn chroot(command: &mut Command, root: &Path) -> io::Result<()> {
    let root = CString::new(root.as_os_str().as_bytes())?;
    let enter = move || {
        rustix::process::chroot(root.as_c_str())?;
        rustix::process::chdir(c"/")?;
        Ok(())
    };
    // SAFETY: the closure makes two system calls on texts prepared before and neither allocates nor takes locks.
    #[expect(unsafe_code, reason = "the hook runs between fork and exec")]
    unsafe {
        command.pre_exec(enter);
    }
    Ok(())
}

/// Arranges for the command to be started in a mount namespace of its own, with the directory as its `/dev`.
pub fn own_dev(command: &mut Command, directory: &Path) -> io::Result<()> {
    let directory = CString::new(directory.as_os_str().as_bytes())?;
    let enter = move || {
        // SAFETY: the flag does not touch the descriptor table, and the process has one thread only.
        #[expect(unsafe_code, reason = "unshare is unsafe because of CLONE_FILES, which is not used here")]
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
        rustix::mount::mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        rustix::mount::mount_bind(directory.as_c_str(), c"/dev")?;
        Ok(())
    };
    // SAFETY: the closure makes three system calls on texts prepared before and neither allocates nor takes locks.
    #[expect(unsafe_code, reason = "the hook runs between fork and exec")]
    unsafe {
        command.pre_exec(enter);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_mounts_of_a_private_thread_are_seen_by_its_children_only() {
        let directory = std::env::temp_dir().join(format!("kiln-private-mounts-{}", std::process::id()));
        std::fs::create_dir(&directory).expect("scratch directory");
        let inside = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    private_mounts().expect("root");
                    rustix::mount::mount(
                        "tmpfs",
                        &directory,
                        "tmpfs",
                        rustix::mount::MountFlags::empty(),
                        None,
                    )
                    .expect("mount");
                    std::fs::write(directory.join("seen"), "").expect("write");
                    Command::new("test")
                        .arg("-e")
                        .arg(directory.join("seen"))
                        .status()
                        .expect("test")
                        .success()
                })
                .join()
                .expect("no panic")
        });
        assert!(inside);
        assert!(!directory.join("seen").exists());
        std::fs::remove_dir(&directory).expect("not a mount point any more");
    }

    #[test]
    fn root_children_see_another_dev_and_nobody_else_does() {
        let directory = std::env::temp_dir().join(format!("kiln-own-dev-{}", std::process::id()));
        std::fs::create_dir(&directory).expect("scratch directory");
        let mut command = Command::new("touch");
        own_dev(command.arg("/dev/made"), &directory).expect("no zero in the path");
        assert!(command.status().expect("touch").success());
        assert!(directory.join("made").exists());
        assert!(!Path::new("/dev/made").exists());
        std::fs::remove_dir_all(&directory).expect("no mount point");
    }
}
