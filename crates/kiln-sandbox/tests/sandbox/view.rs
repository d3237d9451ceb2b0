//! What a stage sees.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use kiln_sandbox::{BuildRoot, PROC_CMDLINE, Program, StageRoot};
use serde_json::json;

use crate::fixture::{Fixture, Test, facts, output, plan};

pub(crate) const TESTS: &[Test] = &[
    ("plans_describe_themselves", plans_describe_themselves),
    ("plans_survive_serialisation", plans_survive_serialisation),
    ("root_namespaces_and_processes", namespaces_and_processes),
    ("root_only_loopback", only_loopback),
    ("root_environment_is_exact", environment_is_exact),
    ("root_capabilities", capabilities),
    ("root_descriptors", descriptors),
    ("root_only_the_tree_and_the_throw_away_places_are_writable", writable),
    ("root_build_tree_is_shown", build_tree_is_shown),
    ("root_host_shows_usr_only", host_shows_usr_only),
    ("root_links_of_the_build_tree_stay_inside", links_of_the_build_tree_stay_inside),
    ("root_device_nodes_work_in_dev_only", device_nodes_work_in_dev_only),
];

fn host_plan() -> BuildRoot {
    StageRoot {
        root: Path::new("/"),
        boot: false,
        dev: Path::new("/store/dev"),
        var: Path::new("/store/var"),
        proc_cmdline: PROC_CMDLINE,
        library: Some(Path::new("/usr/lib/osbuild")),
        package: Some(Path::new("/usr/lib/python3/site-packages/osbuild")),
        runner: Program {
            path: Path::new("/usr/lib/osbuild/runners/org.osbuild.linux"),
            name: "org.osbuild.linux",
        },
        module: Program { path: Path::new("/usr/bin/kiln"), name: "org.osbuild.noop" },
        words: &[],
        tree: Path::new("/store/tree"),
        meta: Path::new("/store/meta"),
        inputs: Path::new("/store/inputs"),
        mounts: Path::new("/store/mounts"),
        arguments: Path::new("/store/arguments"),
        sockets: &[("/store/socket".into(), "osbuild")],
        environment: &[("SOURCE_DATE_EPOCH", "1700000000")],
        capabilities: &["CAP_MAC_ADMIN"],
        terminal: "xterm",
        prepared: None,
    }
    .plan()
}

fn plans_describe_themselves() {
    insta::assert_snapshot!(host_plan().describe(), @r#"
    root         tmpfs
    bind         /usr from /usr, read-only, if a directory
    symlink      /lib to usr/lib
    symlink      /lib64 to usr/lib64
    symlink      /bin to usr/bin
    symlink      /sbin to usr/sbin
    bind         /dev from /store/dev, read-write, device nodes
    tmpfs        /dev/shm
    directory    /etc, mode 0755
    tmpfs        /run
    tmpfs        /tmp
    bind         /var from /store/var, read-write
    directory    /var/tmp, mode 1777
    proc         /proc
    bind         /sys from /sys, read-only
    file         /proc/cmdline with "root=/dev/osbuild\n"
    bind         /etc/containers from /etc/containers, read-only, if present
    directory    /run/osbuild, mode 0700
    bind         /run/osbuild/lib from /usr/lib/osbuild, read-only
    bind         /run/osbuild/lib/osbuild from /usr/lib/python3/site-packages/osbuild, read-only
    bind         /run/osbuild/tree from /store/tree, read-write
    bind         /run/osbuild/meta from /store/meta, read-write
    bind         /run/osbuild/mounts from /store/mounts, read-write
    directory    /run/osbuild/bin, mode 0700
    bind         /run/osbuild/bin/org.osbuild.noop from /usr/bin/kiln, read-only
    bind         /run/osbuild/inputs from /store/inputs, read-only
    directory    /run/osbuild/api, mode 0700
    bind         /run/osbuild/api/arguments from /store/arguments, read-only
    bind         /run/osbuild/api/osbuild from /store/socket, read-write
    directory    /run/osbuild/runner, mode 0700
    bind         /run/osbuild/runner/org.osbuild.linux from /usr/lib/osbuild/runners/org.osbuild.linux, read-only
    namespaces   mount, pid, ipc, network (loopback only), uts; new session
    capability   CAP_AUDIT_WRITE
    capability   CAP_CHOWN
    capability   CAP_DAC_OVERRIDE
    capability   CAP_DAC_READ_SEARCH
    capability   CAP_FOWNER
    capability   CAP_FSETID
    capability   CAP_IPC_LOCK
    capability   CAP_LINUX_IMMUTABLE
    capability   CAP_MAC_ADMIN
    capability   CAP_MAC_OVERRIDE
    capability   CAP_MKNOD
    capability   CAP_NET_BIND_SERVICE
    capability   CAP_SETFCAP
    capability   CAP_SETGID
    capability   CAP_SETPCAP
    capability   CAP_SETUID
    capability   CAP_SYS_ADMIN
    capability   CAP_SYS_CHROOT
    capability   CAP_SYS_NICE
    capability   CAP_SYS_RESOURCE
    environment  LC_CTYPE=C.UTF-8
    environment  PATH=/usr/sbin:/usr/bin
    environment  PWD=/
    environment  PYTHONPATH=/run/osbuild/lib
    environment  PYTHONUNBUFFERED=1
    environment  SOURCE_DATE_EPOCH=1700000000
    environment  TERM=xterm
    environment  container=bwrap-osbuild
    argument     /run/osbuild/runner/org.osbuild.linux
    argument     /run/osbuild/bin/org.osbuild.noop
    "#);
}

fn plans_survive_serialisation() {
    let plan = host_plan();
    let text = serde_json::to_string(&plan).expect("writes");
    assert_eq!(serde_json::from_str::<BuildRoot>(&text).expect("reads"), plan);
}

fn namespaces_and_processes() {
    let facts = facts(&Fixture::new().plan(&["facts"]));
    assert_eq!(facts["pid"], 2);
    assert_eq!(facts["parent"], 1);
    assert_eq!(facts["processes"], 2);
    assert_eq!((&facts["status"]["NSpid"], &facts["status"]["NSsid"]), (&json!("2"), &json!("1")));
    for name in ["ipc", "mnt", "net", "pid", "uts"] {
        let own = fs::read_link(format!("/proc/self/ns/{name}")).expect(name);
        assert_ne!(facts["namespaces"][name], own.to_string_lossy().as_ref(), "{name}");
    }
    assert_eq!(facts["directory"], "/");
    assert_eq!(facts["cmdline"], PROC_CMDLINE);
    assert_eq!(facts["program"], "/run/osbuild/runner/org.osbuild.runner");
    assert_eq!(facts["arguments"][1], "/run/osbuild/bin/org.osbuild.module");
}

fn only_loopback() {
    let facts = facts(&Fixture::new().plan(&["facts"]));
    assert_eq!(facts["interfaces"], json!(["lo"]));
    assert_eq!(facts["loopback"], true);
    assert_eq!(facts["outside"], "network unreachable");
}

fn environment_is_exact() {
    let facts = facts(&Fixture::new().plan(&["facts"]));
    assert_eq!(
        facts["environment"],
        json!({
            "LC_CTYPE": "C.UTF-8",
            "PATH": "/usr/sbin:/usr/bin",
            "PWD": "/",
            "PYTHONPATH": "/run/osbuild/lib",
            "PYTHONUNBUFFERED": "1",
            "SOURCE_DATE_EPOCH": "0",
            "TERM": "dumb",
            "container": "bwrap-osbuild",
        })
    );
}

fn capabilities() {
    let facts = facts(&Fixture::new().plan(&["facts"]));
    // The twenty names of the default set and CAP_MAC_ADMIN by their numbers, as far as this host has them.
    let wanted = [29, 0, 1, 2, 3, 4, 14, 9, 32, 27, 10, 31, 6, 8, 7, 21, 18, 23, 24, 33]
        .into_iter()
        .fold(0u64, |set, number| set | 1 << number);
    let own = fs::read_to_string("/proc/self/status").expect("status");
    let own = own.lines().find_map(|line| line.strip_prefix("CapPrm:\t")).expect("capabilities");
    let expected = format!("{:016x}", wanted & u64::from_str_radix(own, 16).expect("a number"));
    let status = &facts["status"];
    for name in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(status[name], expected.as_str(), "{name}");
    }
    for name in ["CapInh", "CapAmb"] {
        assert_eq!(status[name], "0000000000000000", "{name}");
    }
    assert_eq!(status["NoNewPrivs"], "1");
    assert_eq!(status["Umask"], "0022");
    assert_eq!(status["SigBlk"], "0000000000000000");
    // 13 is SIGPIPE, which the probe's own runtime ignores; 32 and 33 belong to the C library, which cannot take
    // them back where whoever started Kiln ignores them.
    let ignored = u64::from_str_radix(status["SigIgn"].as_str().expect("text"), 16).expect("a number");
    assert_eq!(ignored & !(1 << 12 | 1 << 31 | 1 << 32), 0, "{ignored:x}");
    assert_eq!(facts["first_status"], "CapEff:\t0000000000000000");
}

fn descriptors() {
    // Not close-on-exec, as a careless caller of Kiln might leave one.
    let leaked = fs::File::open("/").expect("opens");
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).expect("flag");
    let facts = facts(&Fixture::new().plan(&["facts"]));
    drop(leaked);
    let descriptors = facts["descriptors"].as_object().expect("object");
    let names: Vec<_> = descriptors.keys().map(String::as_str).collect();
    assert_eq!(names, ["0", "1", "2"]);
    assert_eq!(descriptors["0"], "/dev/null");
    assert_eq!(descriptors["1"], descriptors["2"]);
    assert_eq!(facts["stdin"], "");
}

fn writable() {
    let fixture = Fixture::new();
    let text = output(&fixture.plan(&[
        "write",
        "/usr/share/hello",
        "/usr/new",
        "/etc/mke2fs.conf",
        "/etc/selinux/config",
        "/run/osbuild/inputs/input",
        "/run/osbuild/api/arguments",
        "/proc/cmdline",
        "/sys/new",
        "/run/osbuild/tree/new",
        "/run/osbuild/meta",
        "/run/osbuild/mounts/new",
        "/etc/new",
        "/run/new",
        "/tmp/new",
        "/var/tmp/new",
        "/dev/new",
        "/dev/shm/new",
        "/new",
    ]));
    insta::assert_snapshot!(text, @r#"
    /usr/share/hello: read-only filesystem or storage medium
    /usr/new: read-only filesystem or storage medium
    /etc/mke2fs.conf: read-only filesystem or storage medium
    /etc/selinux/config: read-only filesystem or storage medium
    /run/osbuild/inputs/input: read-only filesystem or storage medium
    /run/osbuild/api/arguments: read-only filesystem or storage medium
    /proc/cmdline: read-only filesystem or storage medium
    /sys/new: read-only filesystem or storage medium
    /run/osbuild/tree/new: ok
    /run/osbuild/meta: ok
    /run/osbuild/mounts/new: ok
    /etc/new: ok
    /run/new: ok
    /tmp/new: ok
    /var/tmp/new: ok
    /dev/new: ok
    /dev/shm/new: ok
    /new: ok
    "#);
    assert!(fixture.path("tree/new").exists() && fixture.path("mounts/new").exists());
    assert!(fixture.path("var/tmp/new").exists(), "/var is on disk");
}

fn build_tree_is_shown() {
    let fixture = Fixture::new();
    let plan = fixture.plan(&["facts"]);
    let facts = facts(&plan);
    insta::assert_snapshot!(lines(&facts["paths"]), @r#"
    /  40000 0755 0:0
    /bin  -> usr/bin
    /dev  40000 0755 0:0
    /dev/null  20000 0666 0:0
    /dev/shm  40000 0755 0:0
    /dev/tty  20000 0666 0:0
    /etc  40000 0755 0:0
    /etc/mke2fs.conf  100000 0644 0:0
    /etc/selinux  40000 0755 0:0
    /lib  -> usr/lib
    /lib64  -> usr/lib64
    /proc  40000 0555 0:0
    /run  40000 0755 0:0
    /run/osbuild  40000 0700 0:0
    /run/osbuild/api  40000 0700 0:0
    /run/osbuild/bin  40000 0700 0:0
    /run/osbuild/inputs  40000 0755 0:0
    /run/osbuild/lib  40000 0755 0:0
    /run/osbuild/meta  100000 0644 0:0
    /run/osbuild/mounts  40000 0755 0:0
    /run/osbuild/runner  40000 0700 0:0
    /run/osbuild/tree  40000 0755 0:0
    /sbin  -> usr/sbin
    /sys  40000 0555 0:0
    /tmp  40000 0755 0:0
    /usr  40000 0755 0:0
    /var  40000 0755 0:0
    /var/tmp  40000 1777 0:0
    "#);
    insta::assert_snapshot!(mounts(&facts["mounts"]), @r#"
    /  tmpfs rw nosuid nodev
    /dev  tmpfs rw nosuid
    /dev/shm  tmpfs rw nosuid nodev
    /etc/mke2fs.conf  ro nosuid nodev
    /etc/selinux  ro nosuid nodev
    /proc  proc rw nosuid nodev noexec
    /proc/cmdline  tmpfs ro nosuid nodev
    /run  tmpfs rw nosuid nodev
    /run/osbuild/api/arguments  ro nosuid nodev
    /run/osbuild/bin/org.osbuild.module  ro nosuid nodev
    /run/osbuild/inputs  ro nosuid nodev
    /run/osbuild/meta  rw nosuid nodev
    /run/osbuild/mounts  rw nosuid nodev
    /run/osbuild/runner/org.osbuild.runner  ro nosuid nodev
    /run/osbuild/tree  rw nosuid nodev
    /sys  sysfs ro nosuid nodev
    /tmp  tmpfs rw nosuid nodev
    /usr  ro nosuid nodev
    /var  rw nosuid nodev
    "#);
    assert_eq!(facts["etc"], json!(["mke2fs.conf", "selinux"]));
    assert_eq!(output(&fixture.plan(&["tell", "/usr/share/hello"])), "hello\n");
    assert_eq!(output(&fixture.plan(&["tell", "/run/osbuild/tree/file"])), "tree\n");
}

fn host_shows_usr_only() {
    let fixture = Fixture::new();
    let facts = facts(&plan(&StageRoot { root: Path::new("/"), boot: false, ..fixture.facts() }, &["facts"]));
    assert_eq!(
        facts["root"],
        json!(["bin", "dev", "etc", "lib", "lib64", "proc", "run", "sbin", "sys", "tmp", "usr", "var"])
    );
    let expected = if Path::new("/etc/containers").exists() { json!(["containers"]) } else { json!([]) };
    assert_eq!(facts["etc"], expected);
}

fn links_of_the_build_tree_stay_inside() {
    let fixture = Fixture::new();
    let secret = fixture.path("secret");
    fs::write(&secret, "of the host\n").expect("secret");
    fs::remove_file(fixture.path("root/etc/mke2fs.conf")).expect("remove");
    symlink(&secret, fixture.path("root/etc/mke2fs.conf")).expect("link");
    symlink("/", fixture.path("root/etc/containers")).expect("link");
    symlink("/usr", fixture.path("root/boot")).expect("link");
    let facts = facts(&fixture.plan(&["facts"]));
    assert_eq!(facts["etc"], json!(["containers", "selinux"]));
    assert!(facts["paths"].get("/boot").is_none(), "a linked /boot is not shown");
    let text = output(&fixture.plan(&["tell", "/etc/containers/usr/share/hello"]));
    assert_eq!(text, "hello\n", "`/` is the build tree's");
}

fn device_nodes_work_in_dev_only() {
    let fixture = Fixture::new();
    assert_eq!(output(&fixture.plan(&["write", "/dev/null", "/dev/zero"])), "/dev/null: ok\n/dev/zero: ok\n");
    let node = fixture.path("tree/null");
    let (kind, mode) = (rustix::fs::FileType::CharacterDevice, rustix::fs::Mode::from_raw_mode(0o666));
    rustix::fs::mknodat(rustix::fs::CWD, &node, kind, mode, rustix::fs::makedev(1, 3)).expect("node");
    let text = output(&fixture.plan(&["write", "/run/osbuild/tree/null"]));
    assert_eq!(text, "/run/osbuild/tree/null: permission denied\n");
}

fn lines(object: &serde_json::Value) -> String {
    let object = object.as_object().expect("object");
    object.iter().map(|(name, value)| format!("{name}  {}\n", value.as_str().expect("text"))).collect()
}

/// Which file system the host has below its directories is its own affair.
fn mounts(mounts: &serde_json::Value) -> String {
    let kept = |options: &str| {
        let words = options.split([' ', ',']).filter(|word| {
            ["tmpfs", "proc", "sysfs", "ro", "rw", "nosuid", "nodev", "noexec"].contains(word)
        });
        words.collect::<Vec<_>>().join(" ")
    };
    let mounts = mounts.as_object().expect("object");
    let mut text = String::new();
    for (target, options) in mounts {
        let options = kept(options.as_str().expect("text"));
        if target.starts_with("/proc/") && target != "/proc/cmdline" {
            assert_eq!(options, "proc ro nosuid nodev noexec", "{target}");
        } else {
            let disk = ["/usr", "/var", "/etc/", "/run/"].iter().any(|disk| target.starts_with(disk));
            text += &format!(
                "{target}  {}\n",
                if disk { options.trim_start_matches("tmpfs ") } else { &options }
            );
        }
    }
    text
}
