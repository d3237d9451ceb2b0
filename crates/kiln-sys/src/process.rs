//! Starting a process in new namespaces, and what a sandbox's first process needs.
//!
//! [`spawn`] is `vfork` with `CLONE_NEW…` flags: the child is the first process of its namespaces from the
//! start, so no process in between has to be forked, waited for and killed. Like `posix_spawn`, the child
//! borrows the caller's memory until it executes the program, which makes its cost independent of how
//! large the caller is; it therefore only makes system calls, on a stack of its own.

use std::ffi::{CString, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

use rustix::process::Pid;

/// The child's stack until it executes the program: a dozen shallow frames, twice over.
const STACK: usize = 64 * 1024;

/// The exit code of a child that could not execute its program; nobody sees it but `waitid`.
const NOT_EXECUTED: c_int = 127;

/// Namespaces that a child does not share with its parent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// Mount points.
    pub mount: bool,
    /// Process ids; the child is number 1.
    pub pid: bool,
    /// System V IPC and POSIX message queues.
    pub ipc: bool,
    /// Network devices, addresses and abstract sockets.
    pub network: bool,
    /// Host and domain name.
    pub uts: bool,
}

impl Namespaces {
    fn flags(self) -> c_int {
        [
            (self.mount, libc::CLONE_NEWNS),
            (self.pid, libc::CLONE_NEWPID),
            (self.ipc, libc::CLONE_NEWIPC),
            (self.network, libc::CLONE_NEWNET),
            (self.uts, libc::CLONE_NEWUTS),
        ]
        .into_iter()
        .filter(|(wanted, _)| *wanted)
        .fold(0, |flags, (_, flag)| flags | flag)
    }
}

/// What [`spawn`] starts.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// The program's path.
    pub program: CString,
    /// Its arguments, its own name included. The environment is empty.
    pub arguments: Vec<CString>,
    /// Standard input.
    pub stdin: BorrowedFd<'a>,
    /// Standard output.
    pub output: BorrowedFd<'a>,
    /// Standard error.
    pub error: BorrowedFd<'a>,
    /// Descriptors that stay open under the numbers they have.
    pub inherited: Vec<BorrowedFd<'a>>,
    /// What the child does not share with its parent.
    pub namespaces: Namespaces,
}

/// A child process.
#[derive(Debug)]
pub struct Child {
    /// Its process id, in the caller's pid namespace.
    pub pid: Pid,
    /// Becomes readable when it has ended.
    pub pidfd: OwnedFd,
}

/// What the child reads, in the memory it borrows.
struct Start {
    program: *const libc::c_char,
    arguments: Vec<*const libc::c_char>,
    environment: [*const libc::c_char; 1],
    stdin: RawFd,
    output: RawFd,
    error: RawFd,
    inherited: Vec<RawFd>,
    mask: libc::sigset_t,
    /// What the child reports: the errno of the call that failed.
    failed: c_int,
}

/// Starts a program in new namespaces and returns when it is executing.
///
/// Signals have their default actions and none is blocked. The child does not die with the thread that
/// started it: give it a pipe whose other end closes with the process.
pub fn spawn(request: &Spawn<'_>) -> io::Result<Child> {
    // Standard streams must not be overwritten by each other: all come from above them.
    let stdin = rustix::io::fcntl_dupfd_cloexec(request.stdin, 3)?;
    let output = rustix::io::fcntl_dupfd_cloexec(request.output, 3)?;
    let error = rustix::io::fcntl_dupfd_cloexec(request.error, 3)?;
    let mut arguments: Vec<_> = request.arguments.iter().map(|argument| argument.as_ptr()).collect();
    arguments.push(ptr::null());
    let mut stack = vec![0u128; STACK / size_of::<u128>()];
    let mut start = Start {
        program: request.program.as_ptr(),
        arguments,
        environment: [ptr::null()],
        stdin: stdin.as_raw_fd(),
        output: output.as_raw_fd(),
        error: error.as_raw_fd(),
        inherited: request.inherited.iter().map(AsRawFd::as_raw_fd).collect(),
        mask: empty_signal_set(),
        failed: 0,
    };
    let flags =
        libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD | request.namespaces.flags();
    let mut pidfd: c_int = -1;
    // A handler that ran in the child would do so in the parent's memory.
    let mask = block_signals(&full_signal_set())?;
    let top = stack.as_mut_ptr_range().end.cast::<c_void>();
    // SAFETY: the child runs `child_main` on a stack that nobody else uses and that outlives it, because
    // CLONE_VFORK suspends this thread until the child has executed a program or ended; `start` likewise.
    #[expect(unsafe_code, reason = "clone with namespace flags has no safe wrapper")]
    let pid = unsafe { libc::clone(child_main, top, flags, (&raw mut start).cast(), &raw mut pidfd) };
    let error = io::Error::last_os_error();
    // Cannot fail: the mask was this thread's.
    let _ = block_signals_exactly(&mask);
    let Some(pid) = Pid::from_raw(pid).filter(|_| pid > 0) else { return Err(error) };
    // SAFETY: CLONE_PIDFD stored a descriptor that nobody else knows.
    #[expect(unsafe_code, reason = "takes ownership of the descriptor that clone made")]
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    if start.failed != 0 {
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
        return Err(io::Error::from_raw_os_error(start.failed));
    }
    Ok(Child { pid, pidfd })
}

extern "C" fn child_main(start: *mut c_void) -> c_int {
    let start = start.cast::<Start>();
    // SAFETY: the parent is suspended and lent its `Start` for as long as this function runs.
    #[expect(unsafe_code, reason = "the argument of clone is an untyped pointer")]
    let start = unsafe { &mut *start };
    start.failed = prepare_and_execute(start);
    NOT_EXECUTED
}

/// Returns only if a call fails: its errno. Makes system calls only, and allocates nothing.
fn prepare_and_execute(start: &Start) -> c_int {
    let errno = || io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL);
    reset_signal_actions();
    for (from, to) in [(start.stdin, 0), (start.output, 1), (start.error, 2)] {
        // SAFETY: works on descriptor numbers of the child's own table only.
        #[expect(unsafe_code, reason = "the child owns a copy of the descriptor table")]
        if unsafe { libc::dup2(from, to) } < 0 {
            return errno();
        }
    }
    for &descriptor in &start.inherited {
        // SAFETY: as above; the parent's descriptor keeps its flag.
        #[expect(unsafe_code, reason = "the child owns a copy of the descriptor table")]
        if unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) } < 0 {
            return errno();
        }
    }
    if block_signals_exactly(&start.mask).is_err() {
        return errno();
    }
    // SAFETY: both vectors end with a null pointer and live in the suspended parent.
    #[expect(unsafe_code, reason = "execve takes arrays of pointers")]
    unsafe {
        libc::execve(start.program, start.arguments.as_ptr(), start.environment.as_ptr());
    }
    errno()
}

fn reset_signal_actions() {
    // Handlers are reset by the kernel when a program is executed; what is ignored stays ignored.
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: the child does not share its signal actions (no CLONE_SIGHAND). Fails for KILL, STOP and
        // the C library's own signals, which need no reset.
        #[expect(unsafe_code, reason = "the standard library has no signal actions")]
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
}

fn empty_signal_set() -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the whole set.
    #[expect(unsafe_code, reason = "signal sets are C structures")]
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
    }
    // SAFETY: initialised above.
    #[expect(unsafe_code, reason = "signal sets are C structures")]
    unsafe {
        set.assume_init()
    }
}

fn full_signal_set() -> libc::sigset_t {
    let mut set = empty_signal_set();
    // SAFETY: `set` is a valid set.
    #[expect(unsafe_code, reason = "signal sets are C structures")]
    unsafe {
        libc::sigfillset(&raw mut set);
    }
    set
}

fn block_signals(set: &libc::sigset_t) -> io::Result<libc::sigset_t> {
    change_mask(libc::SIG_BLOCK, set)
}

fn block_signals_exactly(set: &libc::sigset_t) -> io::Result<libc::sigset_t> {
    change_mask(libc::SIG_SETMASK, set)
}

fn change_mask(how: c_int, set: &libc::sigset_t) -> io::Result<libc::sigset_t> {
    let mut old = empty_signal_set();
    // SAFETY: both sets are valid; only this thread's mask changes.
    #[expect(unsafe_code, reason = "the standard library has no signal masks")]
    match unsafe { libc::pthread_sigmask(how, set, &raw mut old) } {
        0 => Ok(old),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Does something while a signal is blocked for the calling thread.
pub(crate) fn with_blocked<T>(signal: c_int, what: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let mut set = empty_signal_set();
    // SAFETY: `set` is a valid set.
    #[expect(unsafe_code, reason = "signal sets are C structures")]
    unsafe {
        libc::sigaddset(&raw mut set, signal);
    }
    let mask = block_signals(&set)?;
    let result = what();
    block_signals_exactly(&mask)?;
    result
}

/// Blocks `SIGCHLD` for the calling thread and returns a descriptor that is readable when a child has ended.
pub fn child_signal() -> io::Result<OwnedFd> {
    let mut set = empty_signal_set();
    // SAFETY: `set` is a valid set.
    #[expect(unsafe_code, reason = "signal sets are C structures")]
    unsafe {
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
    }
    block_signals(&set)?;
    // SAFETY: `set` is a valid set; -1 asks for a new descriptor.
    #[expect(unsafe_code, reason = "signalfd has no safe wrapper")]
    let descriptor = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new.
    #[expect(unsafe_code, reason = "takes ownership of a new descriptor")]
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Takes ownership of a descriptor that the process was started with, by its number, and makes it
/// close-on-exec. To be called once per number.
pub fn inherited_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: only asks whether the number is in use.
    #[expect(unsafe_code, reason = "the number comes from an argument, not from an open descriptor")]
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if number <= 2 || flags < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the number is open, above the standard streams, and by contract nobody else's.
    #[expect(unsafe_code, reason = "takes ownership of a descriptor that the parent passed on")]
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC)?;
    Ok(descriptor)
}

/// Makes all descriptors but the standard streams close-on-exec, whoever opened them.
pub fn close_others_on_exec() -> io::Result<()> {
    // SAFETY: closes nothing; sets a flag on each open descriptor.
    #[expect(unsafe_code, reason = "close_range has no safe wrapper")]
    match unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets a program start with the default actions of all signals.
///
/// `posix_spawn`, which the standard library prefers, has glibc ignore the two signals that it uses itself (32 and 33),
/// and what is ignored is inherited. A command with something to do before it executes is forked instead.
pub fn with_default_signals(command: &mut Command) {
    // SAFETY: the closure does nothing.
    #[expect(unsafe_code, reason = "it runs between the fork and the execution of the program")]
    unsafe {
        command.pre_exec(|| Ok(()));
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;

    use rustix::process::{WaitId, WaitIdOptions, waitid};

    use super::*;

    fn shell(script: &str, output: BorrowedFd<'_>, namespaces: Namespaces) -> io::Result<Child> {
        let null = File::open("/dev/null")?;
        spawn(&Spawn {
            program: c"/bin/sh".to_owned(),
            arguments: vec![c"sh".to_owned(), c"-c".to_owned(), CString::new(script)?],
            stdin: null.as_fd(),
            output,
            error: output,
            inherited: Vec::new(),
            namespaces,
        })
    }

    fn status(child: &Child) -> Option<i32> {
        waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED)
            .expect("waits")
            .and_then(|status| status.exit_status())
    }

    #[test]
    fn a_child_runs_with_its_output_and_exit_status() {
        let (mut reader, writer) = io::pipe().expect("pipe");
        let child =
            shell("echo out; echo err >&2; exit 7", writer.as_fd(), Namespaces::default()).expect("starts");
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("read");
        assert_eq!((text.as_str(), status(&child)), ("out\nerr\n", Some(7)));
    }

    #[test]
    fn root_a_child_in_a_pid_namespace_is_number_one() {
        let (mut reader, writer) = io::pipe().expect("pipe");
        let namespaces = Namespaces { pid: true, mount: true, ..Namespaces::default() };
        let child = shell("echo $$", writer.as_fd(), namespaces).expect("starts");
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("read");
        assert_eq!((text.as_str(), status(&child)), ("1\n", Some(0)));
    }

    #[test]
    fn a_missing_program_is_reported_by_errno() {
        let null = File::open("/dev/null").expect("/dev/null");
        let error = spawn(&Spawn {
            program: c"/no/such/program".to_owned(),
            arguments: vec![c"program".to_owned()],
            stdin: null.as_fd(),
            output: null.as_fd(),
            error: null.as_fd(),
            inherited: Vec::new(),
            namespaces: Namespaces::default(),
        })
        .expect_err("not there");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn standard_streams_are_no_inherited_descriptors() {
        for number in [-1, 0, 1, 2, 987_654] {
            let error = inherited_descriptor(number).expect_err("refused");
            assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{number}");
        }
    }
}
