//! A stage that tells all it can see of its surroundings, one fact per line: `SECTION NAME<TAB>VALUE`.
//!
//! A test of the command line (`surroundings.rs`) makes one static executable of it, so that it can be executed in any build
//! root. It is here because it makes system calls of its own. Called as a runner it
//! becomes the stage. Line breaks and tabs in values are escaped. Nothing is judged here: what differs from run to run is
//! taken out by the test.

#![no_main]

use std::collections::BTreeMap;
use std::ffi::{c_char, c_int};
use std::fs;
use std::io::{self, Read as _};
use std::net::UdpSocket;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

/// What the standard library does not call. This is a program of its own, made by the compiler alone: it can use no
/// crate.
mod calls {
    use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_ulong};
    use std::ptr;

    // SAFETY: these are the C library's declarations.
    unsafe extern "C" {
        pub(super) safe fn sched_getscheduler(pid: c_int) -> c_int;
        pub(super) safe fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
        pub(super) safe fn unshare(flags: c_int) -> c_int;
        fn chroot(path: *const c_char) -> c_int;
        fn klogctl(kind: c_int, buffer: *mut c_char, length: c_int) -> c_int;
        fn mknod(path: *const c_char, mode: c_uint, device: c_ulong) -> c_int;
        fn mount(
            source: *const c_char,
            target: *const c_char,
            kind: *const c_char,
            flags: c_ulong,
            data: *const c_char,
        ) -> c_int;
        fn prctl(option: c_int, ...) -> c_int;
        fn setxattr(
            path: *const c_char,
            name: *const c_char,
            value: *const c_char,
            size: usize,
            flags: c_int,
        ) -> c_int;
        fn umount2(target: *const c_char, flags: c_int) -> c_int;
    }

    const ZERO: c_ulong = 0;

    fn text(text: &str) -> CString {
        CString::new(text).expect("no NUL")
    }

    pub(super) fn change_root(path: &CStr) -> c_int {
        // SAFETY: the path ends with a NUL and outlives the call.
        unsafe { chroot(path.as_ptr()) }
    }

    pub(super) fn size_of_log() -> c_int {
        // SAFETY: asked for the size (10) the kernel reads no buffer.
        unsafe { klogctl(10, ptr::null_mut(), 0) }
    }

    pub(super) fn make_null_node(path: &str) -> c_int {
        // SAFETY: the path ends with a NUL and outlives the call.
        unsafe { mknod(text(path).as_ptr(), 0o020_666, 0x103) }
    }

    pub(super) fn mount_at(source: &CStr, target: &str, kind: &CStr, flags: c_ulong) -> c_int {
        // SAFETY: all texts end with a NUL and outlive the call; no data is allowed to be null.
        unsafe { mount(source.as_ptr(), text(target).as_ptr(), kind.as_ptr(), flags, ptr::null()) }
    }

    pub(super) fn unmount(target: &str) -> c_int {
        // SAFETY: the path ends with a NUL and outlives the call.
        unsafe { umount2(text(target).as_ptr(), 2) }
    }

    /// An attribute of the process that is what `prctl` returns.
    pub(super) fn attribute(option: c_int) -> c_int {
        // SAFETY: the options that are asked for take no pointer.
        unsafe { prctl(option, ZERO, ZERO, ZERO, ZERO) }
    }

    /// An attribute of the process that `prctl` writes.
    pub(super) fn written_attribute(option: c_int) -> c_int {
        let mut value: c_int = -1;
        // SAFETY: the options that are asked for write one integer, which outlives the call.
        unsafe { prctl(option, &raw mut value, ZERO, ZERO, ZERO) };
        value
    }

    pub(super) fn set_extended_attribute(path: &str, name: &str, value: &str) -> c_int {
        // SAFETY: the texts end with a NUL, the value has that length, and all outlive the call.
        unsafe { setxattr(text(path).as_ptr(), text(name).as_ptr(), value.as_ptr().cast(), value.len(), 0) }
    }
}

/// The tree that the stage changes.
const TREE: &str = "/run/osbuild/tree";

/// Where it tries to make a file.
const DIRECTORIES: &[&str] = &[
    "/",
    "/boot",
    "/dev",
    "/dev/shm",
    "/etc",
    "/etc/containers",
    "/etc/selinux",
    "/ostree",
    "/proc",
    "/run",
    "/run/osbuild",
    "/run/osbuild/api",
    "/run/osbuild/bin",
    "/run/osbuild/inputs",
    "/run/osbuild/lib",
    "/run/osbuild/mounts",
    "/run/osbuild/runner",
    "/run/osbuild/tree",
    "/sys",
    "/tmp",
    "/usr",
    "/var",
    "/var/tmp",
];

/// What it tries to open for writing, without writing anything.
const FILES: &[&str] = &[
    "/dev/full",
    "/dev/fuse",
    "/dev/kmsg",
    "/dev/mem",
    "/dev/null",
    "/dev/random",
    "/dev/tty",
    "/dev/zero",
    "/etc/mke2fs.conf",
    "/proc/1/oom_score_adj",
    "/proc/cmdline",
    "/proc/self/oom_score_adj",
    "/proc/sys/kernel/hostname",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/vm/drop_caches",
    "/proc/sysrq-trigger",
    "/run/osbuild/api/arguments",
    "/run/osbuild/meta",
    "/sys/kernel/mm/ksm/run",
];

/// Directories of which only the entry itself is told.
const CLOSED: &[&str] = &["/proc", "/run/osbuild/lib", "/sys", "/usr"];

/// Files of `/proc/self` that are told as they are.
const SELF: &[&str] = &[
    "cgroup",
    "coredump_filter",
    "gid_map",
    "loginuid",
    "oom_score_adj",
    "personality",
    "setgroups",
    "timerslack_ns",
    "uid_map",
];

/// Files of `/proc` that are told as they are.
const PROC: &[&str] = &[
    "cmdline",
    "filesystems",
    "keys",
    "net/if_inet6",
    "net/route",
    "swaps",
    "sys/fs/mqueue/queues_max",
    "sys/kernel/domainname",
    "sys/kernel/hostname",
    "sys/kernel/msgmni",
    "sys/kernel/sem",
    "sys/kernel/shmmax",
    "sys/net/core/somaxconn",
    "sys/net/ipv4/ip_forward",
    "sys/net/ipv4/ping_group_range",
    "sysvipc/shm",
];

#[derive(Default)]
struct Facts(BTreeMap<String, String>);

impl Facts {
    fn add(&mut self, section: &str, name: impl std::fmt::Display, value: impl AsRef<str>) {
        let value = value.as_ref().replace('\\', "\\\\").replace('\n', "\\n").replace('\t', "\\t");
        // Several mounts at one place, for example: told in order.
        let all = self.0.entry(format!("{section} {name}")).or_default();
        if !all.is_empty() {
            all.push_str(" | ");
        }
        all.push_str(&value);
    }

    fn add_file(&mut self, section: &str, directory: &str, name: &str) {
        self.add(section, name, read(&format!("{directory}/{name}")));
    }
}

/// Not Rust's own beginning: that would ignore `SIGPIPE` before it can be seen.
// SAFETY: no other function of the program has this name.
#[unsafe(no_mangle)]
extern "C" fn main(_count: c_int, _arguments: *const *const c_char) -> c_int {
    i32::from(!run())
}

/// Whether all went well.
fn run() -> bool {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments[0].contains("/runner/") {
        let error = Command::new(&arguments[1]).args(&arguments[2..]).exec();
        eprintln!("{}: {error}", arguments[1]);
        return false;
    }
    let mut facts = Facts::default();
    facts.add("process", "arguments", format!("{arguments:?}"));
    process(&mut facts);
    processes(&mut facts);
    for name in SELF {
        facts.add_file("self", "/proc/self", name);
    }
    for name in PROC {
        facts.add_file("proc", "/proc", name);
    }
    for name in names("/proc").iter().filter(|name| !is_number(name)) {
        facts.add("proc-entry", name, describe(Path::new("/proc").join(name).as_path(), false));
    }
    mounts(&mut facts);
    network(&mut facts);
    walk(Path::new("/"), &mut facts);
    // After the walk, for some of it leaves traces.
    abilities(&mut facts);
    let text: String = facts.0.iter().map(|(name, value)| format!("{name}\t{value}\n")).collect();
    match fs::write(format!("{TREE}/facts"), text) {
        Ok(()) => true,
        Err(error) => {
            eprintln!("{TREE}/facts: {error}");
            false
        }
    }
}

fn process(facts: &mut Facts) {
    for (name, value) in std::env::vars() {
        facts.add("environment", name, value);
    }
    let directory = std::env::current_dir().map(|path| path.display().to_string());
    facts.add("process", "directory", directory.unwrap_or_else(|error| error.to_string()));
    let mut input = Vec::new();
    let read_all = io::stdin().read_to_end(&mut input);
    facts.add("process", "standard input", format!("{} bytes", read_all.map_or(-1, |count| count as i64)));
    for line in read("/proc/self/status").lines() {
        let (name, value) = line.split_once(":\t").unwrap_or((line, ""));
        facts.add("status", name, value);
    }
    for line in read("/proc/self/limits").lines().skip(1) {
        let (name, value) = line.split_at(line.len().min(26));
        facts.add("limit", name.trim(), value.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    for name in names("/proc/self/ns") {
        let link = fs::read_link(format!("/proc/self/ns/{name}"));
        facts.add(
            "namespace",
            &name,
            link.map_or_else(|error| error.to_string(), |link| link.display().to_string()),
        );
    }
    // The listing has a descriptor itself: it is the last one.
    for name in names("/proc/self/fd") {
        let Ok(link) = fs::read_link(format!("/proc/self/fd/{name}")) else { continue };
        let flags = read(&format!("/proc/self/fdinfo/{name}"));
        let flags = flags.lines().find(|line| line.starts_with("flags:")).unwrap_or("").to_owned();
        facts.add("descriptor", name, format!("{} {flags}", link.display()));
    }
    let stat = read("/proc/self/stat");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    for (name, index) in
        [("parent", 1), ("group", 2), ("session", 3), ("terminal", 4), ("nice", 16), ("realtime", 37)]
    {
        facts.add("process", name, fields.get(index).unwrap_or(&""));
    }
    facts.add("process", "scheduler", calls::sched_getscheduler(0).to_string());
    // From linux/prctl.h.
    for (name, option) in
        [("dumpable", 3), ("keeps capabilities", 7), ("securebits", 27), ("no new privileges", 39)]
    {
        facts.add("process", name, calls::attribute(option).to_string());
    }
    for (name, option) in [("signal at the parent's death", 2), ("is a subreaper", 37)] {
        facts.add("process", name, calls::written_attribute(option).to_string());
    }
}

fn processes(facts: &mut Facts) {
    for pid in names("/proc").iter().filter(|name| is_number(name)) {
        let role = match pid.as_str() {
            "1" => "first".to_owned(),
            own if own == std::process::id().to_string() => "stage".to_owned(),
            other => format!("other {other}"),
        };
        let file = |name: &str| read(&format!("/proc/{pid}/{name}"));
        let status = file("status");
        let line = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
            line.unwrap_or("").to_owned()
        };
        facts.add("processes", format!("{role} command"), file("cmdline").replace('\0', " "));
        let environment = file("environ");
        let mut environment: Vec<&str> = environment.split('\0').collect();
        environment.sort();
        facts.add("processes", format!("{role} environment"), environment.join(" "));
        for name in [
            "PPid",
            "NSpgid",
            "NSsid",
            "Uid",
            "CapInh",
            "CapBnd",
            "CapAmb",
            "NoNewPrivs",
            "Seccomp",
            "SigIgn",
        ] {
            facts.add("processes", format!("{role} {name}"), line(name));
        }
    }
}

fn mounts(facts: &mut Facts) {
    for line in read("/proc/self/mountinfo").lines() {
        let Some((mount, file_system)) = line.split_once(" - ") else { continue };
        let mount: Vec<&str> = mount.split(' ').collect();
        let file_system: Vec<&str> = file_system.split(' ').collect();
        let [_, _, _, root, target, options, rest @ ..] = mount.as_slice() else { continue };
        let [kind, source, of_file_system @ ..] = file_system.as_slice() else { continue };
        facts.add("mount", target, format!("{kind} {options} {rest:?}"));
        facts.add("mount-source", target, source);
        facts.add("mount-root", target, root);
        facts.add("mount-options", target, of_file_system.join(" "));
    }
}

fn network(facts: &mut Facts) {
    for line in read("/proc/net/dev").lines().skip(2) {
        facts.add("network", "interfaces", line.split(':').next().unwrap_or("").trim());
    }
    let told = |result: io::Result<usize>| result.map_or_else(errno, |_| "ok".to_owned());
    let to = |from: &str, to: &str| UdpSocket::bind(from).and_then(|socket| socket.send_to(b"x", to));
    facts.add("network", "to itself", told(to("127.0.0.1:0", "127.0.0.1:9")));
    facts.add("network", "to itself (6)", told(to("[::1]:0", "[::1]:9")));
    facts.add("network", "outside", told(to("0.0.0.0:0", "192.0.2.1:9")));
    let kinds = [("unix", 1, 1), ("stream", 2, 1), ("raw", 2, 3), ("netlink", 16, 3), ("packet", 17, 3)];
    for (name, domain, kind) in kinds {
        facts.add("network", format!("socket {name}"), result(calls::socket(domain, kind, 0)));
    }
}

/// Tells all that can be seen below a directory, each entry on its own.
fn walk(directory: &Path, facts: &mut Facts) {
    if directory == Path::new("/") {
        facts.add("path", "/", describe(directory, true));
    }
    for name in names(&directory.display().to_string()) {
        let path = directory.join(name);
        let shown = path.display().to_string();
        facts.add("path", &shown, describe(&path, true));
        if path.is_dir() && !path.is_symlink() && !CLOSED.contains(&shown.as_str()) && path != Path::new(TREE)
        {
            walk(&path, facts);
        }
    }
}

/// Kind, permissions, owner, and what it has in it.
fn describe(path: &Path, content: bool) -> String {
    let metadata = match path.symlink_metadata() {
        Ok(metadata) => metadata,
        Err(error) => return errno(error),
    };
    let kind = metadata.file_type();
    let what = if kind.is_symlink() {
        fs::read_link(path).map_or_else(errno, |link| format!("-> {}", link.display()))
    } else if kind.is_block_device() || kind.is_char_device() {
        format!("device {:x}", metadata.rdev())
    } else if kind.is_file() && content {
        let bytes = fs::read(path).unwrap_or_default();
        if bytes.len() <= 2000 {
            String::from_utf8_lossy(&bytes).into_owned()
        } else {
            format!("{} bytes, {:x}", bytes.len(), digest(&bytes))
        }
    } else {
        String::new()
    };
    format!("{:06o} {}:{} {what}", metadata.mode(), metadata.uid(), metadata.gid())
}

/// FNV-1a.
fn digest(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn abilities(facts: &mut Facts) {
    for directory in DIRECTORIES {
        let path = format!("{directory}/.probe");
        let made = fs::File::create_new(&path).map_or_else(errno, |_| "ok".to_owned());
        facts.add("make file in", directory, made);
        let _ = fs::remove_file(&path);
    }
    for path in FILES {
        let opened = fs::OpenOptions::new().write(true).open(path);
        facts.add("open for writing", path, opened.map_or_else(errno, |_| "ok".to_owned()));
    }
    for directory in ["/dev", "/tmp", "/var", TREE] {
        let path = format!("{directory}/.node");
        let made = result(calls::make_null_node(&path));
        let opened = fs::File::open(&path).map_or_else(errno, |_| "ok".to_owned());
        facts.add("device node", directory, format!("make: {made}, open: {opened}"));
        let _ = fs::remove_file(&path);
    }
    let file = format!("{TREE}/.probe");
    let _ = fs::write(&file, "");
    for (name, value) in [
        ("user.a", "b"),
        ("trusted.a", "b"),
        ("security.a", "b"),
        ("security.selinux", "system_u:object_r:a_t:s0\0"),
    ] {
        facts.add("extended attribute", name, result(calls::set_extended_attribute(&file, name, value)));
    }
    let _ = fs::remove_file(&file);
    let place = "/tmp/.place";
    let _ = fs::create_dir(place);
    let mounted = calls::mount_at(c"none", place, c"tmpfs", 0);
    facts.add("may", "mount tmpfs", result(mounted));
    calls::unmount(place);
    // MS_BIND, and then MS_REMOUNT.
    let mounted = calls::mount_at(c"/usr", place, c"", 4096);
    facts.add("may", "bind `/usr`", result(mounted));
    facts.add(
        "make file in",
        "`/usr` bound elsewhere",
        fs::File::create_new(format!("{place}/.probe")).map_or_else(errno, |_| "ok".to_owned()),
    );
    let again = calls::mount_at(c"none", place, c"", 4096 | 32);
    facts.add("may", "make `/usr` writable where it is bound", result(again));
    calls::unmount(place);
    facts.add("may", "unmount `/usr`", result(calls::unmount("/usr")));
    facts.add("may", "read the kernel's log", result(calls::size_of_log()));
    for (name, flag) in
        [("user", 0x1000_0000), ("network", 0x4000_0000), ("mount", 0x0002_0000), ("uts", 0x0400_0000)]
    {
        facts.add("may", format!("have a {name} namespace of its own"), result(calls::unshare(flag)));
    }
    facts.add("may", "change its root", result(calls::change_root(c"/")));
}

fn result(returned: c_int) -> String {
    if returned < 0 { errno(io::Error::last_os_error()) } else { "ok".to_owned() }
}

fn errno(error: io::Error) -> String {
    error.to_string()
}

fn is_number(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_digit())
}

fn names(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn read(path: &str) -> String {
    fs::read(path)
        .map_or_else(|error| error.to_string(), |bytes| String::from_utf8_lossy(&bytes).trim_end().to_owned())
}
