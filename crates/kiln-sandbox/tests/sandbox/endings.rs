//! How sandboxes end, and that nothing of them is left.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use kiln_sandbox::{Access, Bind, Ended, Operation, Presence, SandboxError};

use crate::fixture::{Fixture, LONG, Test, helper, null, run};

/// The argument that makes this binary start a sandbox that never ends.
pub(crate) const PARENT: &str = "sandbox-parent";

pub(crate) const TESTS: &[Test] = &[
    ("root_exit_codes_are_passed_on", exit_codes_are_passed_on),
    ("root_signals_are_passed_on", signals_are_passed_on),
    ("root_deadline_kills_orphans_too", deadline_kills_orphans_too),
    ("root_interruption_kills_orphans_too", interruption_kills_orphans_too),
    ("root_processes_left_behind_end_with_the_program", processes_left_behind_end_with_the_program),
    ("root_dropping_kills", dropping_kills),
    ("root_failed_setup_names_the_operation", failed_setup_names_the_operation),
    ("root_missing_program_is_named", missing_program_is_named),
    ("root_killed_first_process_is_reported", killed_first_process_is_reported),
    ("root_killed_parent_leaves_nothing", killed_parent_leaves_nothing),
    ("root_killed_parent_leaves_nothing_at_any_moment", killed_parent_leaves_nothing_at_any_moment),
    ("unknown_capability_is_refused", unknown_capability_is_refused),
    ("missing_helper_is_named", missing_helper_is_named),
];

fn exit_codes_are_passed_on() {
    let fixture = Fixture::new();
    for code in [0, 1, 7, 127, 255] {
        let (ended, _) = run(&fixture.plan(&["exit", &code.to_string()]));
        assert_eq!(ended.expect("runs"), Ended::Exited(code));
    }
}

fn signals_are_passed_on() {
    let fixture = Fixture::new();
    for signal in [6, 9, 15] {
        let (ended, _) = run(&fixture.plan(&["signal", &signal.to_string()]));
        assert_eq!(ended.expect("runs"), Ended::Signalled(signal));
    }
}

/// Starts a program that has an orphan in another session, waits until both run, and returns the other end of
/// their output.
fn start_with_orphan(fixture: &Fixture) -> (kiln_sandbox::Running, io::PipeReader) {
    let (mut reader, writer) = io::pipe().expect("pipe");
    let running = kiln_sandbox::start(&fixture.plan(&["orphan"]), helper(), writer.as_fd()).expect("starts");
    drop(writer);
    let mut ready = [0; 6];
    if reader.read_exact(&mut ready).is_err() {
        panic!("not ready: {:?}", running.wait(None, &AtomicBool::new(false)));
    }
    assert_eq!(&ready, b"ready\n");
    (running, reader)
}

/// Both processes held the writing end: it is closed if, and only if, both are gone.
fn assert_gone(reader: &io::PipeReader) {
    let mut descriptors = [rustix::event::PollFd::new(reader, rustix::event::PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    assert_eq!(
        rustix::event::poll(&mut descriptors, Some(&now)),
        Ok(1),
        "a process still has the output open"
    );
    let [descriptor] = &descriptors;
    assert!(descriptor.revents().contains(rustix::event::PollFlags::HUP));
}

fn deadline_kills_orphans_too() {
    let fixture = Fixture::new();
    let (running, reader) = start_with_orphan(&fixture);
    let begin = Instant::now();
    let deadline = begin + Duration::from_millis(20);
    let ended = running.wait(Some(deadline), &AtomicBool::new(false)).expect("waits");
    assert_eq!(ended, Ended::TimedOut);
    assert!(Instant::now() >= deadline && begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_gone(&reader);
}

fn interruption_kills_orphans_too() {
    let fixture = Fixture::new();
    let (running, reader) = start_with_orphan(&fixture);
    let ended = running.wait(None, &AtomicBool::new(true)).expect("waits");
    assert_eq!(ended, Ended::Interrupted);
    assert_gone(&reader);
}

fn processes_left_behind_end_with_the_program() {
    let fixture = Fixture::new();
    let (ended, _) = run(&fixture.plan(&["leave"]));
    // That `run` came back means that the output was closed.
    assert_eq!(ended.expect("runs"), Ended::Exited(0));
}

fn dropping_kills() {
    let fixture = Fixture::new();
    let (running, reader) = start_with_orphan(&fixture);
    drop(running);
    assert_gone(&reader);
}

fn failed_setup_names_the_operation() {
    let fixture = Fixture::new();
    let mut plan = fixture.plan(&["exit", "0"]);
    let missing = fixture.path("missing");
    plan.operations.push(Operation::Bind(Bind {
        source: missing.clone(),
        within: None,
        target: "/run/osbuild/missing".into(),
        access: Access::ReadOnly,
        presence: Presence::Required,
    }));
    let (ended, output) = run(&plan);
    let error = ended.expect_err("fails");
    assert_eq!(
        error.to_string(),
        format!(
            "cannot set up the build root: cannot bind `{}` to `/run/osbuild/missing`",
            missing.display()
        )
    );
    let SandboxError::Setup { source, .. } = error else { panic!("another kind") };
    assert_eq!(source.kind(), io::ErrorKind::NotFound);
    assert_eq!(output, "", "the error is no output of the module");
}

fn missing_program_is_named() {
    let fixture = Fixture::new();
    let mut plan = fixture.plan(&[]);
    plan.arguments = vec!["/usr/bin/missing".to_owned()];
    let (ended, output) = run(&plan);
    let error = ended.expect_err("fails");
    assert_eq!(error.to_string(), "cannot set up the build root: cannot execute `/usr/bin/missing`");
    assert_eq!(output, "");
}

fn killed_first_process_is_reported() {
    let fixture = Fixture::new();
    let (running, reader) = start_with_orphan(&fixture);
    running.kill();
    let error = running.wait(Some(Instant::now() + LONG), &AtomicBool::new(false)).expect_err("lost");
    assert_eq!(error.to_string(), "the sandbox's first process ended unexpectedly: signal 9");
    assert_gone(&reader);
}

/// What the parent of the next tests does: a mount namespace, mounts, a sandbox, and no end.
pub(crate) fn parent(directory: &Path) -> ExitCode {
    kiln_sandbox::enter_private_namespace().expect("private namespace");
    let dev = kiln_sandbox::prepare_dev(&directory.join("private")).expect("dev");
    let fixture = Fixture::new();
    let stdout = io::stdout();
    let running = kiln_sandbox::start(&fixture.plan(&["orphan"]), helper(), stdout.as_fd()).expect("starts");
    let ended = running.wait(None, &AtomicBool::new(false));
    drop(dev);
    panic!("ended: {ended:?}");
}

fn start_parent(directory: &Path) -> std::process::Child {
    fs::create_dir_all(directory.join("private")).expect("directory");
    Command::new(std::env::current_exe().expect("own path"))
        .args([PARENT.as_ref(), directory.as_os_str()])
        // Whatever it leaves is removed with the directory.
        .env("TMPDIR", directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("parent")
}

fn killed_parent_leaves_nothing() {
    let directory = tempfile::tempdir().expect("tempdir");
    let mut parent = start_parent(directory.path());
    let mut output = BufReader::new(parent.stdout.take().expect("piped"));
    let mut line = String::new();
    output.read_line(&mut line).expect("ready");
    assert_eq!(line, "ready\n");
    let during = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    assert!(!during.contains(&*directory.path().to_string_lossy()), "the host sees a mount:\n{during}");
    parent.kill().expect("kill");
    parent.wait().expect("wait");
    // Ends when the last process of the sandbox has.
    output.read_to_string(&mut line).expect("end");
    // Fails if anything is still mounted below it.
    directory.close().expect("remove");
}

/// The same without waiting for anything: the moments are spread over the time that a start takes.
fn killed_parent_leaves_nothing_at_any_moment() {
    let directory = tempfile::tempdir().expect("tempdir");
    for step in 0..40 {
        let mut parent = start_parent(directory.path());
        let until = Instant::now() + Duration::from_micros(250) * step;
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        parent.kill().expect("kill");
        parent.wait().expect("wait");
        let mut output = String::new();
        parent.stdout.take().expect("piped").read_to_string(&mut output).expect("end");
        assert!(matches!(output.as_str(), "" | "ready\n"), "{output}");
    }
    directory.close().expect("remove");
}

fn unknown_capability_is_refused() {
    let plan = kiln_sandbox::BuildRoot {
        root: kiln_sandbox::Root::Tmpfs,
        operations: Vec::new(),
        capabilities: vec!["CAP_NONSENSE".to_owned()],
        environment: Vec::new(),
        arguments: vec!["/bin/true".to_owned()],
        terminal: false,
    };
    let error = kiln_sandbox::start(&plan, helper(), null().as_fd()).expect_err("refused");
    assert_eq!(error.to_string(), "unknown capability `CAP_NONSENSE`");
}

fn missing_helper_is_named() {
    let plan = kiln_sandbox::BuildRoot {
        root: kiln_sandbox::Root::Tmpfs,
        operations: Vec::new(),
        capabilities: Vec::new(),
        environment: Vec::new(),
        arguments: vec!["/bin/true".to_owned()],
        terminal: false,
    };
    let error = kiln_sandbox::start(&plan, "/no/such/kiln".as_ref(), null().as_fd()).expect_err("not there");
    assert_eq!(error.to_string(), "cannot start the sandbox with `/no/such/kiln`");
}
