//! Stopping a child process at each of its system calls: how tests let it die at one of them.
//!
//! A process is attached to while it waits for something, with all threads it has and will have. Then it runs from
//! call to call. Its threads run side by side, as always; each stops on its own, and the calls are told in the order
//! in which the threads stop. A process that is killed at a call never makes it.
//!
//! The kernel lets only the thread that attached do anything further, which is why [`Tracer`] cannot be sent. That
//! thread must not have other children meanwhile: their ends would be taken for those of the process's threads.

use std::io;
use std::marker::PhantomData;
use std::mem::{MaybeUninit, size_of};
use std::path::Path;
use std::ptr;

use libc::{c_int, c_void, pid_t};

/// Calls that change nothing for anybody else.
const LOOKING: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getdents64,
    libc::SYS_getrandom,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_munmap,
    libc::SYS_newfstatat,
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_readlink,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
];

/// A system call that is about to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The number of the call, as in `libc::SYS_…`.
    pub number: u64,
    /// Its arguments, as many as there are.
    pub arguments: [u64; 6],
}

impl Call {
    /// Whether this changes nothing for anybody else, neither on disk nor of locks; waiting is among it.
    pub fn only_looks(&self) -> bool {
        LOOKING.contains(&self.number.cast_signed())
    }

    /// Whether this is `write` to a descriptor.
    pub fn is_write_to(&self, descriptor: u64) -> bool {
        self.number == libc::SYS_write.cast_unsigned() && self.arguments[0] == descriptor
    }
}

/// A child process that is stopped at each system call. Dropping it kills the process.
#[derive(Debug)]
pub struct Tracer {
    process: pid_t,
    /// The thread that stopped last, and the signal it is to get when it goes on.
    stopped: Option<(pid_t, c_int)>,
    ended: bool,
    _bound_to_thread: PhantomData<*const ()>,
}

impl Tracer {
    /// Attaches to a child of this process, which should be waiting for something.
    pub fn attach(process: u32) -> io::Result<Self> {
        let process = pid_t::try_from(process).map_err(io::Error::other)?;
        let mut tracer = Self { process, stopped: None, ended: false, _bound_to_thread: PhantomData };
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_EXITKILL;
        for thread in std::fs::read_dir(Path::new("/proc").join(process.to_string()).join("task"))? {
            let name = thread?.file_name();
            let thread: pid_t = name.to_string_lossy().parse().map_err(io::Error::other)?;
            request(libc::PTRACE_SEIZE, thread, options as usize)?;
            request(libc::PTRACE_INTERRUPT, thread, 0)?;
            tracer.wait_for(thread)?;
            request(libc::PTRACE_SYSCALL, thread, 0)?;
        }
        Ok(tracer)
    }

    /// Lets the process run until one of its threads is about to make a system call; none if it has ended.
    pub fn next_call(&mut self) -> io::Result<Option<Call>> {
        loop {
            if let Some((thread, signal)) = self.stopped.take() {
                // A thread may be killed while it is stopped: then there is nothing to let go.
                match request(libc::PTRACE_SYSCALL, thread, signal as usize) {
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                    other => other?,
                }
            }
            let Some((thread, status)) = self.wait_for(-1)? else { return Ok(None) };
            if !libc::WIFSTOPPED(status) {
                continue;
            }
            let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
            self.stopped = Some((thread, 0));
            if signal == libc::SIGTRAP | 0x80 {
                if let Some(call) = entered(thread)? {
                    return Ok(Some(call));
                }
            } else if event == 0 {
                self.stopped = Some((thread, signal));
            }
        }
    }

    /// Kills the process where it is, and waits until it is gone.
    pub fn kill(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        if self.ended {
            return Ok(());
        }
        let process = rustix::process::Pid::from_raw(self.process).ok_or(io::ErrorKind::InvalidInput)?;
        rustix::process::kill_process(process, rustix::process::Signal::KILL)?;
        // Each thread has to be waited for, else the process stays.
        while self.wait_for(-1)?.is_some() {}
        Ok(())
    }

    /// Waits until a thread stops or ends; none if the whole process has ended.
    fn wait_for(&mut self, thread: pid_t) -> io::Result<Option<(pid_t, c_int)>> {
        let mut status = 0;
        // SAFETY: the call writes the status to a variable that lives as long.
        #[expect(unsafe_code, reason = "no crate waits for single threads of traced processes")]
        let found = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
        if found == -1 {
            return Err(io::Error::last_os_error());
        }
        if found == self.process && (libc::WIFEXITED(status) || libc::WIFSIGNALED(status)) {
            self.ended = true;
            return Ok(None);
        }
        Ok(Some((found, status)))
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // Best effort: the kernel kills it when this process ends.
        let _ = self.end();
    }
}

/// The call that a stopped thread is about to make; none if it stopped after one.
fn entered(thread: pid_t) -> io::Result<Option<Call>> {
    let mut info = MaybeUninit::<libc::ptrace_syscall_info>::zeroed();
    let size = size_of::<libc::ptrace_syscall_info>();
    // SAFETY: the kernel writes at most `size` bytes to the variable, which is as large and lives as long.
    #[expect(unsafe_code, reason = "no crate wraps ptrace without more of it")]
    let result = unsafe {
        libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, thread, size, info.as_mut_ptr().cast::<c_void>())
    };
    if result == -1 {
        let error = io::Error::last_os_error();
        // Killed meanwhile, which the next wait tells.
        return if error.raw_os_error() == Some(libc::ESRCH) { Ok(None) } else { Err(error) };
    }
    // SAFETY: all bytes were zero, which is a value of this type of integers only, and the kernel wrote some.
    #[expect(unsafe_code, reason = "as above")]
    let info = unsafe { info.assume_init() };
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return Ok(None);
    }
    // SAFETY: the kind says that this member of the union was written.
    #[expect(unsafe_code, reason = "as above")]
    let entry = unsafe { info.u.entry };
    Ok(Some(Call { number: entry.nr, arguments: entry.args }))
}

fn request(request: libc::c_uint, thread: pid_t, data: usize) -> io::Result<()> {
    // SAFETY: none of the requests made through this function reads or writes memory of this process.
    #[expect(unsafe_code, reason = "no crate wraps ptrace without more of it")]
    let result = unsafe { libc::ptrace(request, thread, ptr::null_mut::<c_void>(), data) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn shell(script: &str) -> (Child, Tracer) {
        let mut command = Command::new("sh");
        let child = command.args(["-c", &format!("read line; {script}")]).stdin(Stdio::piped());
        let mut child = child.stdout(Stdio::piped()).spawn().expect("a shell");
        let tracer = Tracer::attach(child.id()).expect("attach");
        child.stdin.take().expect("stdin").write_all(b"go\n").expect("write");
        (child, tracer)
    }

    #[test]
    fn a_process_runs_from_call_to_call_to_its_end() {
        let (child, mut tracer) = shell("echo one; echo two");
        let mut writes = 0;
        while let Some(call) = tracer.next_call().expect("a call or the end") {
            writes += u32::from(call.is_write_to(1));
        }
        let text = io::read_to_string(child.stdout.expect("stdout")).expect("text");
        assert_eq!((writes, text.as_str()), (2, "one\ntwo\n"));
    }

    #[test]
    fn a_call_at_which_a_process_is_killed_is_not_made() {
        let (child, mut tracer) = shell("echo one; echo two");
        let mut writes = 0;
        while writes < 2 {
            let call = tracer.next_call().expect("a call").expect("not the end");
            writes += u32::from(call.is_write_to(1));
        }
        tracer.kill().expect("kill");
        let text = io::read_to_string(child.stdout.expect("stdout")).expect("text");
        assert_eq!(text, "one\n");
    }
}
