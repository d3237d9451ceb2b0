//! What a stage sees of its surroundings in Kiln and in the reference: each difference is listed here with its reason.
//!
//! The same stage of the same library tells all it sees (`kiln-sys/tests/probe/probe.rs`), once in a build root that is the host's
//! own `/usr`, with an input, a device and a mount, and once in one that a pipeline has built. What is not in
//! [`WANTED`] must be the same, and what is must differ.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::examples::{compile, copy_reference};
use crate::manifests::{add_inline, copy_files, mkdir, pipeline, truncate};
use crate::world::{World, finish};

/// Facts by section and name.
type Facts = BTreeMap<String, String>;

/// What is different from run to run in both programs; a `*` at the end stands for anything.
const VOLATILE: &[&str] = &[
    // The directory on the host that is shown, mostly one with a random name.
    "mount-root *",
    // Numbers of processes: the runner has had some before.
    "proc-entry self",
    "proc-entry thread-self",
    "status FDSize",
    "status NSpid",
    "status NStgid",
    "status Pid",
    "status Rss*",
    "status SigQ",
    "status Tgid",
    "status Vm*",
    "status nonvoluntary_ctxt_switches",
    "status voluntary_ctxt_switches",
];

/// Where a difference is.
#[derive(Clone, Copy, PartialEq)]
enum Comparison {
    /// The host's build root, the reference's runner.
    Host,
    /// The host's build root, the native runner.
    Native,
    /// A build root that a pipeline has built, with a runner of its own.
    Built,
}

use Comparison::{Built, Host, Native};

/// A difference that is wanted, or that cannot be otherwise.
struct Wanted {
    /// The fact; a `*` at the end stands for anything.
    fact: &'static str,
    /// What it is in Kiln and in the reference; `*` is anything, nothing is that there is no such fact.
    values: [&'static str; 2],
    places: &'static [Comparison],
    /// Whether it is so on every machine.
    always: bool,
    reason: &'static str,
}

const EVERYWHERE: &[Comparison] = &[Host, Native, Built];

const fn wanted(fact: &'static str, values: [&'static str; 2], reason: &'static str) -> Wanted {
    Wanted { fact, values, places: EVERYWHERE, always: true, reason }
}

const fn wanted_in(
    place: &'static [Comparison],
    fact: &'static str,
    values: [&'static str; 2],
    reason: &'static str,
) -> Wanted {
    Wanted { fact, values, places: place, always: true, reason }
}

/// A difference that depends on the capabilities that root itself has on the machine; in many containers some are
/// withheld.
const fn by_machine(fact: &'static str, values: [&'static str; 2], reason: &'static str) -> Wanted {
    Wanted { fact, values, places: EVERYWHERE, always: false, reason }
}

const NODES: &str = "its nodes are its own: whatever becomes of them does not reach the host's";
const FIRST: &str =
    "the first process is Kiln's own: it shows neither its plan nor an environment, and keeps no capability";
const IN_MEMORY: &str = "it is made in memory, in the build root itself";

const ALL_OR_NONE: &str = "bubblewrap drops no capability at all if root itself lacks a wanted one";
const BOUND: &str = "what is not wanted can then not be had back";
const NO_CAPABILITY: &str = "0000000000000000";
const NOT_NEEDED: &str = "root keeps what it has when it executes programs, and others are to get nothing";

const WANTED: &[Wanted] = &[
    wanted("mount /dev/*", ["", "devtmpfs *"], NODES),
    wanted("mount-options /dev/*", ["", "*"], NODES),
    wanted("mount-source /dev/*", ["", "*"], NODES),
    wanted("path /dev", ["040755 0:0 ", "041777 0:0 "], "the mode that `/dev` has everywhere"),
    wanted("mount-options /dev", ["rw,mode=755", "rw"], "the same mode, told by the file system"),
    wanted("mount-options /", ["rw,mode=755", "rw"], "the root is a tmpfs, and not a directory of one"),
    wanted("mount /proc/cmdline", ["tmpfs ro,nosuid,nodev,relatime []", "*"], IN_MEMORY),
    wanted("mount-source /proc/cmdline", ["tmpfs", "*"], IN_MEMORY),
    wanted("mount-options /proc/cmdline", ["rw,mode=755", "*"], IN_MEMORY),
    wanted("proc-entry cmdline", ["100444 0:0 ", "100644 0:0 "], "the mode that the kernel's own has"),
    wanted(
        "namespace uts",
        ["its own", "the host's"],
        "a stage that sets the host name must not name the host",
    ),
    wanted("path /var/tmp", ["041777 0:0 ", "041755 0:0 "], "there the mode falls to the umask"),
    wanted("processes first *", ["*", "*"], FIRST),
    wanted_in(
        &[Built],
        "process signal at the parent's death",
        ["0", "9"],
        "not needed: the kernel kills all of a pid namespace with its first process",
    ),
    wanted_in(&[Native], "path /run/osbuild/runner/*", ["*", "*"], "the native runner is Kiln itself"),
    wanted_in(
        &[Native],
        "processes other *",
        ["", "*"],
        "a native runner has done its work before, and does not stay",
    ),
    wanted_in(&[Native], "process parent", ["1", "2"], "as there is no runner in between"),
    wanted_in(&[Native], "status PPid", ["1", "2"], "as there is no runner in between"),
    wanted_in(&[Native], "processes stage PPid", ["1", "2"], "as there is no runner in between"),
    by_machine("may read the kernel's log", ["Operation not permitted*", "ok"], ALL_OR_NONE),
    by_machine("network socket packet", ["Operation not permitted*", "ok"], ALL_OR_NONE),
    by_machine("network socket raw", ["Operation not permitted*", "ok"], ALL_OR_NONE),
    by_machine("status CapEff", ["*", "*"], ALL_OR_NONE),
    by_machine("status CapPrm", ["*", "*"], ALL_OR_NONE),
    wanted("status CapBnd", ["*", "*"], BOUND),
    wanted("processes stage CapBnd", ["*", "*"], BOUND),
    wanted_in(&[Host], "processes other 2 CapBnd", ["*", "*"], BOUND),
    by_machine("status CapAmb", [NO_CAPABILITY, "*"], NOT_NEEDED),
    by_machine("status CapInh", [NO_CAPABILITY, "*"], NOT_NEEDED),
    by_machine("processes stage CapAmb", [NO_CAPABILITY, "*"], NOT_NEEDED),
    by_machine("processes stage CapInh", [NO_CAPABILITY, "*"], NOT_NEEDED),
    by_machine("processes other 2 CapAmb", [NO_CAPABILITY, "*"], NOT_NEEDED),
    by_machine("processes other 2 CapInh", [NO_CAPABILITY, "*"], NOT_NEEDED),
];

fn probe(more: &Value) -> Value {
    let mut stage = json!({"type": "org.example.probe"});
    stage.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    stage
}

/// A manifest with the probe in both kinds of build roots.
fn manifest() -> Value {
    let mut manifest = json!({"version": "2"});
    let text = add_inline(&mut manifest, b"[defaults]\n");
    let disk = json!({"disk": {"type": "org.osbuild.loopback", "options": {"filename": "disk.img"}}});
    let uuid = "0a9f5c2e-3d0b-4f0c-8a53-6f2d6f0f7a11";
    let mkfs = json!({
        "type": "org.osbuild.mkfs.ext4", "options": {"uuid": uuid},
        "devices": {"device": disk["disk"]},
    });
    let with_host_side = probe(&json!({
        "inputs": {"first": {
            "type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": ["name:first"],
        }},
        "devices": disk,
        "mounts": [{"name": "disk", "type": "org.osbuild.ext4", "source": "disk", "target": "/a"}],
    }));
    let directories = [
        "/boot",
        "/boot/efi",
        "/etc",
        "/etc/containers",
        "/etc/selinux",
        "/etc/other",
        "/ostree",
        "/ostree/repo",
        "/usr",
        "/usr/bin",
        "/usr/lib",
        "/usr/lib64",
        "/usr/sbin",
        "/var",
    ];
    let mut build = pipeline("build", &[mkdir(&directories), copy_files(&[(&text, "/etc/mke2fs.conf")])]);
    build["runner"] = json!("org.osbuild.probe");
    let mut built = pipeline("built", &[probe(&json!({}))]);
    built["build"] = json!("name:build");
    built["source-epoch"] = json!(1_700_000_000);
    manifest["pipelines"] = json!([
        pipeline("first", &[mkdir(&["/of-the-first"])]),
        pipeline("host", &[truncate("20M"), mkfs, with_host_side]),
        build,
        built,
    ]);
    manifest
}

fn add_probe(library: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kiln-sys/tests/probe/probe.rs");
    let stage = library.join("stages/org.example.probe");
    compile(&source, &stage);
    fs::copy(&stage, library.join("runners/org.osbuild.probe")).expect("copied");
    let any = json!({"type": "object"});
    let meta = json!({
        "summary": "Tells what it sees", "description": [], "capabilities": ["CAP_MAC_ADMIN"],
        "schema_2": {"options": any, "inputs": any, "devices": any, "mounts": {"type": "array"}},
    });
    fs::write(library.join("stages/org.example.probe.meta.json"), meta.to_string()).expect("written");
}

/// What a stage has told, without what is different from run to run.
fn facts(world: &World, output: &str, pipeline: &str) -> Facts {
    let text = fs::read_to_string(world.path(output).join(pipeline).join("facts")).expect("facts");
    let all: Facts = text
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    assert_eq!(all["descriptor 1"], all["descriptor 2"], "one stream");
    all.into_iter()
        .filter(|(name, _)| !VOLATILE.iter().any(|pattern| matches(pattern, name)))
        .map(|(name, value)| {
            let value = match name.split_once(' ').expect("a section") {
                ("namespace", kind) => {
                    let own = fs::read_link(format!("/proc/self/ns/{kind}")).expect("a namespace");
                    if own == Path::new(&value) { "the host's".to_owned() } else { "its own".to_owned() }
                }
                ("descriptor", _) if value.starts_with("pipe:") => {
                    value.replace(|character: char| character.is_ascii_digit(), "")
                }
                _ => value,
            };
            (name, value)
        })
        .collect()
}

fn matches(pattern: &str, text: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == text, |start| text.starts_with(start))
}

/// Every difference that is not wanted, and every wanted one that is not there, as text.
fn unwanted(place: Comparison, ours: &Facts, theirs: &Facts) -> Vec<String> {
    let mut told = Vec::new();
    let mut seen = vec![false; WANTED.len()];
    let names: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    for name in names {
        let values = [ours, theirs].map(|facts| facts.get(name).map_or("", String::as_str));
        if ours.get(name) == theirs.get(name) {
            continue;
        }
        let entry = WANTED.iter().position(|wanted| {
            let mut both = wanted.values.iter().zip(values);
            wanted.places.contains(&place)
                && matches(wanted.fact, name)
                && both.all(|(pattern, value)| matches(pattern, value))
        });
        match entry {
            Some(entry) => seen[entry] = true,
            None => {
                told.push(format!("{name}\n  Kiln:          {}\n  the reference: {}", values[0], values[1]));
            }
        }
    }
    for (wanted, seen) in WANTED.iter().zip(seen) {
        if wanted.always && wanted.places.contains(&place) && !seen {
            told.push(format!("`{}` does not differ any more: {}", wanted.fact, wanted.reason));
        }
    }
    told
}

#[test]
fn root_a_stage_sees_what_it_sees_in_the_reference() {
    let world = World::new();
    let Some((mut command, checkout)) = world.with_reference("python3", &["-m", "osbuild"]) else { return };
    let library = world.path("library");
    copy_reference(&checkout, &library);
    // Where the package is elsewhere more must be shown.
    fs::remove_dir_all(library.join("osbuild"))
        .and_then(|()| fs::create_dir(library.join("osbuild")))
        .expect("emptied");
    add_probe(&library);
    world.manifest(&manifest());
    let common = ["--libdir", "library", "--export", "host", "--export", "built", "manifest.json"];
    command.args(common).args(["--cache", "their-cache", "--output-directory", "theirs"]);
    finish(command.spawn().expect("started")).succeeded();
    for more in
        [&["--output-directory", "ours"][..], &["--output-directory", "native", "--prefer-native=runners"]]
    {
        let arguments = [&common[..], &["--cache", "cache"], more].concat();
        let mut command = world.program(world.osbuild_program(), &arguments);
        finish(command.env("PYTHONPATH", &checkout).spawn().expect("started")).succeeded();
    }
    let mut told = Vec::new();
    for (place, output, pipeline) in
        [(Host, "ours", "host"), (Native, "native", "host"), (Built, "ours", "built")]
    {
        let (ours, theirs) = (facts(&world, output, pipeline), facts(&world, "theirs", pipeline));
        assert!(ours.len() > 300, "{} facts only", ours.len());
        let more = unwanted(place, &ours, &theirs);
        told.extend(more.into_iter().map(|line| format!("{output}, {pipeline}: {line}")));
    }
    assert!(told.is_empty(), "{}", told.join("\n"));
    world.assert_nothing_left();
}
