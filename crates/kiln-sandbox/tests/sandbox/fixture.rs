//! A host directory with everything that a stage's build root is made of.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use kiln_sandbox::{BuildRoot, Dev, Ended, PROC_CMDLINE, Program, SandboxError, StageRoot};
use tempfile::TempDir;

/// A test and its name; `root_…` needs root.
pub(crate) type Test = (&'static str, fn());

/// Longer than any sandbox of these tests takes, so that none hangs.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// The directories on the host.
pub(crate) struct Fixture {
    /// Dropped, that is unmounted, before the directory is removed.
    _dev: Dev,
    directory: TempDir,
    paths: [PathBuf; 8],
    executable: PathBuf,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path();
        for name in
            ["root/usr/share", "root/etc/selinux", "dev", "var", "tree", "inputs", "mounts", "library"]
        {
            std::fs::create_dir_all(path.join(name)).expect(name);
        }
        for (name, text) in [
            ("root/usr/share/hello", "hello\n"),
            ("root/etc/mke2fs.conf", "[defaults]\n"),
            ("root/etc/selinux/config", "SELINUX=disabled\n"),
            ("inputs/input", "input\n"),
            ("tree/file", "tree\n"),
            ("meta", ""),
            ("arguments", "{}"),
        ] {
            std::fs::write(path.join(name), text).expect(name);
        }
        let paths = ["root", "dev", "var", "tree", "meta", "inputs", "mounts", "arguments"];
        Self {
            _dev: kiln_sandbox::prepare_dev(&path.join("dev")).expect("dev"),
            paths: paths.map(|name| path.join(name)),
            executable: std::env::current_exe().expect("own path"),
            directory,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The facts of a stage whose runner and module are the probe.
    pub(crate) fn facts(&self) -> StageRoot<'_> {
        let [root, dev, var, tree, meta, inputs, mounts, arguments] = &self.paths;
        StageRoot {
            root,
            boot: true,
            dev,
            var,
            proc_cmdline: PROC_CMDLINE,
            library: None,
            package: None,
            runner: Program { path: &self.executable, name: "org.osbuild.runner" },
            module: Program { path: &self.executable, name: "org.osbuild.module" },
            words: &[],
            tree,
            meta,
            inputs,
            mounts,
            arguments,
            sockets: &[],
            environment: &[("SOURCE_DATE_EPOCH", "0")],
            capabilities: &["CAP_MAC_ADMIN"],
            terminal: "dumb",
            prepared: None,
        }
    }

    /// Their plan, with arguments that tell the probe what to do.
    pub(crate) fn plan(&self, probe: &[&str]) -> BuildRoot {
        plan(&self.facts(), probe)
    }
}

/// The plan of a stage, with arguments that tell the probe what to do.
pub(crate) fn plan(facts: &StageRoot<'_>, probe: &[&str]) -> BuildRoot {
    let mut plan = facts.plan();
    plan.arguments.extend(probe.iter().map(|&argument| argument.to_owned()));
    plan
}

/// The helper: this binary.
pub(crate) fn helper() -> &'static Path {
    Path::new("/proc/self/exe")
}

/// Runs a plan to its end and returns how it ended and what it wrote.
pub(crate) fn run(plan: &BuildRoot) -> (Result<Ended, SandboxError>, String) {
    let (mut reader, writer) = io::pipe().expect("pipe");
    let running = kiln_sandbox::start(plan, helper(), writer.as_fd()).expect("starts");
    drop(writer);
    let mut output = String::new();
    reader.read_to_string(&mut output).expect("output");
    (running.wait(Some(Instant::now() + LONG), &AtomicBool::new(false)), output)
}

/// Runs a plan that must succeed, and returns what it wrote.
pub(crate) fn output(plan: &BuildRoot) -> String {
    let (ended, output) = run(plan);
    assert!(matches!(ended, Ok(Ended::Exited(0))), "{ended:?}\n{output}\n{}", plan.describe());
    output
}

/// What the probe said, as JSON.
pub(crate) fn facts(plan: &BuildRoot) -> serde_json::Value {
    let text = output(plan);
    serde_json::from_str(&text).expect(&text)
}

/// A descriptor for output that nobody reads.
pub(crate) fn null() -> File {
    File::options().write(true).open("/dev/null").expect("/dev/null")
}
