//! Makes the synchronising system calls of a child, and of everything it starts, succeed without doing anything.
//!
//! Installers flush every file so that a power cut leaves a consistent system. A tree under construction is
//! thrown away after a failure, so the flushes protect nothing and cost most of the time on slow disks.
//! A seccomp filter catches them all, whatever library or static program makes them.
//!
//! Limitation: only calls of the machine's native architecture are caught; others are really made.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;
#[cfg(target_arch = "riscv64")]
const NATIVE: u32 = 0xc000_00f3;
#[cfg(all(target_arch = "powerpc64", target_endian = "little"))]
const NATIVE: u32 = 0xc000_0015;
#[cfg(target_arch = "s390x")]
const NATIVE: u32 = 0x8000_0016;

/// The calls that only flush.
const CALLS: [libc::c_long; 6] = [
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sync,
    libc::SYS_syncfs,
    libc::SYS_sync_file_range,
    libc::SYS_msync,
];

/// Offset of `nr` in `struct seccomp_data`.
const NUMBER: u32 = 0;
/// Offset of `arch` in `struct seccomp_data`.
const ARCHITECTURE: u32 = 4;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Arranges for the command to be started with its synchronising calls made quiet.
///
/// Needs `CAP_SYS_ADMIN`: the alternative, `no_new_privs`, would take the set-user-id bit from the programs
/// that the child starts. On a kernel without seccomp filters the command runs with the calls left alone.
pub fn quiet_sync(command: &mut Command) {
    let filter = filter();
    let install = move || install(&filter);
    // SAFETY: the closure makes one system call on memory it owns and neither allocates nor takes locks.
    #[expect(unsafe_code, reason = "the hook runs between fork and exec")]
    unsafe {
        command.pre_exec(install);
    }
}

fn filter() -> Vec<libc::sock_filter> {
    let statement = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    let mut filter = vec![
        statement(LOAD, ARCHITECTURE),
        libc::sock_filter { code: JUMP_EQUAL, jt: 1, jf: 0, k: NATIVE },
        statement(RETURN, libc::SECCOMP_RET_ALLOW),
        statement(LOAD, NUMBER),
    ];
    for (number, left) in CALLS.iter().zip((0..CALLS.len() as u8).rev()) {
        // On a match, jump over the remaining comparisons and the ALLOW.
        filter.push(libc::sock_filter { code: JUMP_EQUAL, jt: left + 1, jf: 0, k: *number as u32 });
    }
    filter.push(statement(RETURN, libc::SECCOMP_RET_ALLOW));
    // Error number 0: the caller sees success.
    filter.push(statement(RETURN, libc::SECCOMP_RET_ERRNO));
    filter
}

fn install(filter: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: `program` points to `filter`, which outlives the call; the kernel copies it and writes nothing.
    #[expect(unsafe_code, reason = "no crate in use wraps seccomp(2)")]
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    if result == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A flush of a directory opened with `O_PATH` fails with `EBADF` if the call is really made.
    #[test]
    fn root_flushes_succeed_without_being_made() {
        let script = "import os; fd = os.open('/', os.O_PATH); os.fsync(fd); os.fdatasync(fd); os.sync()";
        let Ok(status) =
            Command::new("python3").args(["-c", script]).stderr(std::process::Stdio::null()).status()
        else {
            return; // No Python: nothing on this machine makes the call on purpose.
        };
        assert!(!status.success(), "the call is made without the filter");
        let mut command = Command::new("python3");
        command.args(["-c", script]);
        quiet_sync(&mut command);
        assert!(command.status().expect("python3").success());
    }

    #[test]
    fn root_other_calls_are_left_alone() {
        let mut command = Command::new("sh");
        command.args(["-c", "cat /nonexistent/file 2>/dev/null; test $? = 1"]);
        quiet_sync(&mut command);
        assert!(command.status().expect("sh").success());
    }
}
