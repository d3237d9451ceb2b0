//! The program inside the sandbox.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::UdpSocket;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

/// Paths whose permissions, owner and kind the probe tells, as far as they are there.
const PATHS: &[&str] = &[
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/dev/null",
    "/dev/shm",
    "/dev/tty",
    "/etc",
    "/etc/containers",
    "/etc/mke2fs.conf",
    "/etc/selinux",
    "/lib",
    "/lib64",
    "/proc",
    "/run",
    "/run/osbuild",
    "/run/osbuild/api",
    "/run/osbuild/bin",
    "/run/osbuild/inputs",
    "/run/osbuild/lib",
    "/run/osbuild/meta",
    "/run/osbuild/mounts",
    "/run/osbuild/runner",
    "/run/osbuild/tree",
    "/sbin",
    "/sys",
    "/tmp",
    "/usr",
    "/var",
    "/var/tmp",
];

/// Lines of `/proc/self/status` that matter.
const STATUS: &[&str] = &[
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "NSpid",
    "NSsid",
    "NSpgid",
    "SigIgn",
    "SigBlk",
    "Umask",
];

#[expect(clippy::zombie_processes, reason = "orphans are what the tests are about")]
pub(crate) fn main(program: &str, arguments: &[&str]) -> ExitCode {
    // As a runner it has the module in front of the arguments that tell it what to do.
    let arguments = match arguments {
        [module, rest @ ..] if module.starts_with("/run/osbuild/bin/") => rest,
        rest => rest,
    };
    match arguments {
        ["facts"] => say(&facts(program)),
        ["tell", path] => say(&fs::read_to_string(path).unwrap_or_else(|error| error.to_string())),
        ["write", paths @ ..] => {
            for path in paths {
                say(&format!("{path}: {}\n", write(path)));
            }
        }
        ["exit", code] => return ExitCode::from(code.parse::<u8>().expect("a code")),
        ["signal", number] => {
            let signal = Signal::from_named_raw(number.parse().expect("a number")).expect("a signal");
            rustix::process::kill_process(rustix::process::getpid(), signal).expect("signals itself");
        }
        ["sleep"] => sleep(),
        // A process of another session and group, whose parent is gone, with the output open.
        ["orphan"] => {
            again(&["orphan-parent"]).wait().expect("waits");
            sleep();
        }
        ["orphan-parent"] => {
            rustix::process::setsid().expect("setsid");
            let mut child = again(&["orphan-child"]);
            // It says so itself before its parent goes.
            drop(child.stdin.take());
        }
        ["orphan-child"] => {
            say("ready\n");
            sleep();
        }
        // Leaves a process behind and ends.
        ["leave"] => {
            let mut child = again(&["orphan-child"]);
            let mut first = [0; 6];
            child.stdout.take().expect("piped").read_exact(&mut first).expect("ready");
        }
        ["--prepare"] | ["prepare-and-facts"] => {
            prepare();
            if arguments == ["prepare-and-facts"] {
                say(&tree(Path::new("/")));
            }
        }
        ["tree"] => say(&tree(Path::new("/"))),
        other => {
            say(&format!("unknown command {other:?}\n"));
            return ExitCode::from(99);
        }
    }
    ExitCode::SUCCESS
}

fn say(text: &str) {
    io::stdout().write_all(text.as_bytes()).expect("says");
}

fn again(arguments: &[&str]) -> std::process::Child {
    let piped = arguments == ["orphan-child"] && std::env::args().any(|argument| argument == "leave");
    let stdout = if piped { std::process::Stdio::piped() } else { std::process::Stdio::inherit() };
    Command::new("/run/osbuild/runner/org.osbuild.runner")
        .args(arguments)
        .stdout(stdout)
        .spawn()
        .expect("starts")
}

fn sleep() -> ! {
    loop {
        std::thread::park();
    }
}

fn write(path: &str) -> String {
    match fs::OpenOptions::new().write(true).create(true).truncate(false).open(path) {
        Ok(_) => "ok".to_owned(),
        Err(error) => error.kind().to_string(),
    }
}

fn facts(program: &str) -> String {
    let status = fs::read_to_string("/proc/self/status").expect("status");
    let status: BTreeMap<_, _> = status
        .lines()
        .filter_map(|line| line.split_once(":\t"))
        .filter(|(name, _)| STATUS.contains(name))
        .collect();
    let paths: BTreeMap<_, _> =
        PATHS.iter().filter_map(|path| Some((path, describe(Path::new(path))?))).collect();
    let descriptors: BTreeMap<_, _> = fs::read_dir("/proc/self/fd")
        .expect("descriptors")
        .map(|entry| entry.expect("descriptor").path())
        .filter_map(|path| Some((path.file_name()?.to_owned(), fs::read_link(&path).ok()?)))
        .filter(|(_, link)| !link.ends_with("fd"))
        .map(|(name, link)| (name.to_string_lossy().into_owned(), link.to_string_lossy().into_owned()))
        .collect();
    let namespaces: BTreeMap<_, _> = ["ipc", "mnt", "net", "pid", "user", "uts"]
        .map(|name| {
            (name, fs::read_link(format!("/proc/self/ns/{name}")).expect(name).to_string_lossy().into_owned())
        })
        .into();
    let environment: BTreeMap<_, _> = std::env::vars().collect();
    let mut stdin = String::new();
    io::stdin().read_to_string(&mut stdin).expect("stdin");
    json!({
        "program": program,
        "arguments": std::env::args().collect::<Vec<_>>(),
        "environment": environment,
        "directory": std::env::current_dir().expect("directory"),
        "pid": std::process::id(),
        "parent": rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get()),
        "status": status,
        "first_status": capabilities_of_first_process(),
        "mounts": mounts(),
        "paths": paths,
        "descriptors": descriptors,
        "namespaces": namespaces,
        "cmdline": fs::read_to_string("/proc/cmdline").expect("cmdline"),
        "processes": fs::read_dir("/proc").expect("proc").filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).count(),
        "interfaces": fs::read_to_string("/proc/net/dev").expect("interfaces").lines().skip(2)
            .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect::<Vec<_>>(),
        "loopback": UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(b"x", socket.local_addr()?)).is_ok(),
        "outside": UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(b"x", "192.0.2.1:9"))
            .map_err(|error| error.kind().to_string()).err(),
        "stdin": stdin,
        "root": names("/"),
        "etc": names("/etc"),
    })
    .to_string()
}

/// What the first process can do in the end: it needs its capabilities to start the program, and drops them while the
/// program already runs.
fn capabilities_of_first_process() -> String {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let status = fs::read_to_string("/proc/1/status").expect("first process");
        let line: String = status.lines().filter(|line| line.starts_with("CapEff")).collect();
        if line.ends_with("\t0000000000000000") || Instant::now() > deadline {
            return line;
        }
        std::thread::yield_now();
    }
}

fn names(path: &str) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(path)
        .expect(path)
        .map(|entry| entry.expect(path).file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Target, file system and options of each mount below the ones that the host may have below `/sys`.
fn mounts() -> Value {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let mounts: BTreeMap<_, _> = text
        .lines()
        .filter_map(|line| {
            let (mount, file_system) = line.split_once(" - ")?;
            let mut words = mount.split(' ').skip(4);
            let (target, options) = (words.next()?, words.next()?);
            Some((target.to_owned(), format!("{} {options}", file_system.split(' ').next()?)))
        })
        .filter(|(target, _)| !target.starts_with("/sys/"))
        .collect();
    json!(mounts)
}

fn describe(path: &Path) -> Option<String> {
    let metadata = path.symlink_metadata().ok()?;
    if metadata.is_symlink() {
        return Some(format!("-> {}", fs::read_link(path).ok()?.display()));
    }
    let kind = metadata.mode() & 0o170_000;
    Some(format!("{kind:o} {:04o} {}:{}", metadata.mode() & 0o7777, metadata.uid(), metadata.gid()))
}

/// What a runner might do, in every place it may do it.
fn prepare() {
    let make = |path: &str, text: &str, mode: u32| {
        let path = Path::new(path);
        fs::create_dir_all(path.parent().expect("parent")).expect("directory");
        fs::write(path, text).expect("file");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode");
    };
    make("/etc/ld.so.cache", "cache", 0o644);
    make("/etc/shadow", "root:*:", 0o640);
    make("/var/lib/thing/state", "", 0o4711);
    make("/srv/file", "x", 0o600);
    std::os::unix::fs::chown("/etc/shadow", Some(0), Some(42)).expect("chown");
    std::os::unix::fs::symlink("../proc/self/mounts", "/etc/mtab").expect("mtab");
    fs::create_dir("/run/lock").expect("lock");
    for (path, mode) in [("/run/lock", 0o1777), ("/tmp", 0o1777), ("/srv", 0o2750)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect(path);
    }
    std::os::unix::fs::chown("/run/lock", Some(1), Some(2)).expect("chown");
}

/// Everything that a runner may have changed, one line per path.
fn tree(path: &Path) -> String {
    let skipped = ["/boot", "/dev", "/proc", "/run/osbuild", "/sys", "/usr"];
    let mut text = String::new();
    let mut entries: Vec<_> =
        fs::read_dir(path).expect("directory").map(|entry| entry.expect("entry").path()).collect();
    entries.push(path.to_owned());
    entries.sort();
    for entry in entries {
        if entry != path && entry.is_dir() && !entry.is_symlink() {
            if !skipped.iter().any(|skipped| entry == Path::new(skipped)) {
                text += &tree(&entry);
            }
            continue;
        }
        let content = fs::read_to_string(&entry).unwrap_or_default();
        let content = if entry.is_symlink() { "" } else { content.as_str() };
        text += &format!("{} {} {content:?}\n", entry.display(), describe(&entry).expect("there"));
    }
    text
}
