//! Pipelines in virtual machines: what the kernel of this machine cannot do, and that nothing else differs.
//!
//! Each test starts an emulated machine, which takes seconds; so there are few of them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command};

use kiln_testkit::{guest, host};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::{Value, json};

use crate::manifests::{good, manifest, mkdir, pipeline};
use crate::world::{Finished, World, assert_shown, finish, names};

/// A stage of a library: a script of the host's shell.
const STAGE: &str = "org.example.script";

/// The variable that says where the kernel is.
const KERNEL: &str = "KILN_VM_KERNEL";

/// What tests in machines need beside a kernel.
const NEEDS: [host::Need; 2] = [host::QEMU, host::VIRTIOFSD];

/// The directory with a kernel, if there is all that a test needs.
fn kernel(what: &str) -> Option<std::path::PathBuf> {
    host::provided(what, &NEEDS).then(|| guest::provided(what)).flatten()
}

/// Makes a library with a stage that runs a script, which it is given as an option.
fn library(world: &World) -> String {
    let stages = world.path("library/stages");
    fs::create_dir_all(&stages).expect("made");
    let program = stages.join(STAGE);
    let script = "#!/usr/bin/python3\nimport json, os\narguments = json.load(open('/run/osbuild/api/arguments'))\n\
                  os.execv('/usr/bin/sh', ['sh', '-ec', 'cd /run/osbuild/tree; ' + arguments['options']['script']])\n";
    fs::write(&program, script).expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("executable");
    let meta = json!({
        "summary": "Runs a script", "description": ["To test with."], "capabilities": ["CAP_MAC_ADMIN"],
        "schema_2": {"options": {"type": "object"}, "inputs": {"type": "object"}},
    });
    fs::write(stages.join(format!("{STAGE}.meta.json")), meta.to_string()).expect("written");
    world.path("library").display().to_string()
}

fn script(script: &str) -> Value {
    json!({"type": STAGE, "options": {"script": script}})
}

fn osbuild(world: &World, cache: &str, arguments: &[&str]) -> Command {
    let osbuild = world.path("osbuild");
    if !osbuild.exists() {
        std::os::unix::fs::symlink(crate::world::KILN, &osbuild).expect("a link");
    }
    let mut command = world.program(osbuild, &["--cache"]);
    command.arg(world.path(cache)).args(arguments).arg("manifest.json");
    command
}

fn write(world: &World, manifest: &Value) {
    world.write("manifest.json", manifest.to_string());
}

/// The results of stages without what says how long they took and where they went.
fn without_times(finished: &Finished) -> Value {
    let mut result = finished.json();
    result
        .as_object_mut()
        .expect("an object")
        .retain(|key, _| !key.starts_with("duration") && key != "exports");
    result
}

#[test]
fn root_in_vm_an_efi_system_partition_is_filled() {
    let Some(kernel) = kernel("a FAT file system on this machine") else { return };
    if !host::provided("a FAT file system", &[host::MTOOLS]) {
        return;
    }
    let world = World::new();
    let devices = json!({"device": {"type": "org.osbuild.loopback", "options": {"filename": "esp.img"}}});
    let truncate = json!({"type": "org.osbuild.truncate", "options": {"filename": "esp.img", "size": "34M"}});
    let format =
        json!({"type": "org.osbuild.mkfs.fat", "options": {"volid": "7B7795E7"}, "devices": devices});
    let fill = json!({
        "type": "org.osbuild.copy",
        "inputs": {"tree": {
            "type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": ["name:files"],
        }},
        "options": {"paths": [{"from": "input://tree/EFI", "to": "mount://esp/EFI"}]},
        "devices": devices,
        "mounts": [{"name": "esp", "type": "org.osbuild.fat", "source": "device", "target": "/", "options": {"umask": "077"}}],
    });
    let manifest = manifest(&[
        pipeline("files", &[mkdir(&["/EFI", "/EFI/systemd", "/EFI/Linux-of-a-long-name"])]),
        pipeline("image", &[truncate, format, fill]),
    ]);
    let command = |arguments: &[&str]| {
        let mut command =
            world.build_command(&manifest, &["--export", "image", "--json", "--checkpoint", "image"]);
        command.args(arguments);
        command
    };
    let mut build = command(&["--in-vm", "image", "--vm-memory", "1GiB", "--vm-processors", "2"]);
    let built = finish(build.arg("--vm-kernel").arg(&kernel).spawn().expect("started")).succeeded();
    let listed = Command::new("mdir")
        .args(["-b", "-/", "-i"])
        .arg(world.path("output/image/esp.img"))
        .arg("::")
        .output();
    let listed = String::from_utf8(listed.expect("mdir").stdout).expect("UTF-8");
    let mut listed: Vec<_> = listed.lines().collect();
    listed.sort_unstable();
    assert_eq!(listed, ["::/EFI/", "::/EFI/Linux-of-a-long-name/", "::/EFI/systemd/"]);
    // The ids are those that everybody computes, and what the machine has made is found again without one.
    let inspected = world.run(&["inspect", "manifest.json"]).succeeded().json();
    let ids = |stages: &Value| -> Vec<Value> {
        stages.as_array().expect("stages").iter().map(|stage| stage["id"].clone()).collect()
    };
    let (built, expected) = (built.json(), &inspected["pipelines"][1]["stages"]);
    assert_eq!(ids(&built["log"]["image"]), ids(expected));
    assert_eq!(built["log"]["image"][1]["output"], "mkfs.fat 4.2 (2021-01-31)\n");
    let again = finish(command(&[]).spawn().expect("started")).succeeded().json();
    assert_eq!(again["log"], json!({}));
    world.assert_nothing_left();
    world.assert_sound();
}

#[test]
fn root_in_vm_a_tree_is_as_on_the_host() {
    let Some(kernel) = kernel("a tree that is made in a virtual machine") else { return };
    let world = World::new();
    let library = library(&world);
    let make = "umask 0; mkdir -m 1777 d; echo content > d/file; ln d/file hard; ln -s d/file soft; chown 12:34 d hard; chown -h 5:6 soft;
        mknod null c 1 3; mknod disk b 7 9; mkfifo fifo; chmod 4755 hard; touch -d @12345 hard; cp --sparse=always /dev/null sparse; truncate -s 64M sparse;
        setfattr -n user.comment -v text d; setfattr -n trusted.overlay.x -v y d; setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 d/file;
        setfattr -n security.selinux -v system_u:object_r:etc_t:s0 d;
        python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")'; mkdir 'a\\b' $(printf '\\377'); rm d/file; mv d e; seq 100000 > long;
        python3 -c 'import mmap; file = open(\"mapped\", \"w+b\"); file.truncate(8192); mmap.mmap(file.fileno(), 8192)[5000] = 65'
        grep -q kiln /proc/mounts && echo somewhere else; cat /proc/cmdline; echo '{\"made\": [1, 2.5]}' > /run/osbuild/meta";
    let look = "cd ../inputs/tree; test -d one/two; if echo > x; then exit 9; fi 2> /dev/null; echo what is there: *; id -u";
    let mut second = script(look);
    second["inputs"] = json!({"tree": {
        "type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": ["name:input"],
    }});
    write(
        &world,
        &manifest(&[
            pipeline("input", &[mkdir(&["/one", "/one/two"])]),
            pipeline("tree", &[script(make), second, mkdir(&["/n"])]),
        ]),
    );
    let build = |cache: &str, arguments: &[&str]| {
        let output = format!("out-{cache}");
        let mut command =
            osbuild(&world, cache, &["--libdir", &library, "--prefer-native", "--json", "--export", "tree"]);
        // The machine needs no memory for what is on disk.
        command
            .args(["--output-directory", &output])
            .args(arguments)
            .env(KERNEL, &kernel)
            .env("KILN_VM_MEMORY", "512MiB");
        finish(command.spawn().expect("started")).succeeded()
    };
    let here = build("here", &[]);
    let there = build("there", &["--in-vm", "tree"]);
    let result = without_times(&there);
    assert_eq!(result, without_times(&here));
    assert_eq!(result["metadata"]["tree"][STAGE], json!({"made": [1, 2.5]}), "{result}");
    assert_eq!(result["log"]["tree"][1]["output"], "what is there: one\n0\n");
    let trees = ["out-here/tree", "out-there/tree"];
    let compared = world.run(&["tree", "diff", trees[0], trees[1]]);
    let mut differences: Vec<&str> = compared.stdout.lines().collect();
    // Each was made at its own time, and linking does not keep it.
    differences.retain(|line| !line.contains(": mtime "));
    assert_eq!(differences, [""; 0], "{}", compared.shown());
    let blocks = |tree: &str| {
        use std::os::unix::fs::MetadataExt as _;
        world.path(tree).join("sparse").metadata().expect("there").blocks()
    };
    assert_eq!(trees.map(blocks), [0, 0], "holes");
    world.assert_nothing_left();
}

#[test]
fn root_in_vm_a_failing_stage_says_the_same() {
    let Some(kernel) = kernel("a stage that fails in a virtual machine") else { return };
    let world = World::new();
    write(&world, &manifest(&[pipeline("tree", &[mkdir(&["/a"]), mkdir(&["/b", "/a"])])]));
    let build = |cache: &str, arguments: &[&str]| {
        let mut command =
            osbuild(&world, cache, &["--json", "--export", "tree", "--output-directory", "out"]);
        command.args(arguments).env(KERNEL, &kernel);
        finish(command.spawn().expect("started"))
    };
    let (here, there) = (build("here", &[]), build("there", &["--in-vm", "tree"]));
    assert_eq!((here.code(), there.code()), (Some(1), Some(1)), "{}", there.shown());
    let result = without_times(&there);
    assert_eq!(result, without_times(&here));
    assert!(result["log"]["tree"][1]["output"].as_str().is_some_and(|text| text.contains("/a")), "{result}");
    world.assert_recovers(&good("a"), "tree");
}

/// A stage that runs for a long time, with everything open; the build that runs it, when it does.
fn started(world: &World, kernel: &Path, arguments: &[&str]) -> Child {
    let library = library(world);
    let stage = script("echo it runs; while :; do :; done");
    write(world, &manifest(&[pipeline("tree", &[stage])]));
    let mut command = osbuild(
        world,
        "cache",
        &["--libdir", &library, "--prefer-native", "--export", "tree", "--in-vm", "tree"],
    );
    // What the stage says comes here, through the monitor.
    let (said, monitor) = std::io::pipe().expect("a pipe");
    command
        .args(["--output-directory", "out", "--monitor", "LogMonitor"])
        .args(arguments)
        .env(KERNEL, kernel);
    command.stdout(monitor).process_group(0);
    let child = command.spawn().expect("started");
    drop(command);
    use std::io::BufRead as _;
    let runs =
        std::io::BufReader::new(said).lines().map_while(Result::ok).any(|line| line.contains("it runs"));
    assert!(runs, "{}", finish_unpiped(child).1);
    child
}

/// Waits for the end of a program whose standard output is read elsewhere.
fn finish_unpiped(mut child: Child) -> (std::process::ExitStatus, String) {
    let mut stderr = String::new();
    let mut stream = child.stderr.take().expect("piped");
    std::io::Read::read_to_string(&mut stream, &mut stderr).expect("read");
    (child.wait().expect("waited for"), stderr)
}

#[test]
fn root_in_vm_an_interruption_ends_the_machine() {
    let Some(kernel) = kernel("a virtual machine that is interrupted") else { return };
    // A terminal sends SIGINT to the whole process group: to the emulator and the servers of files, too.
    for (by, group, code) in
        [(Signal::INT, true, Some(130)), (Signal::TERM, false, Some(130)), (Signal::KILL, false, None)]
    {
        let world = World::new();
        let child = started(&world, &kernel, &[]);
        let pid = Pid::from_child(&child);
        if group { kill_process_group(pid, by) } else { kill_process(pid, by) }.expect("it runs");
        let (status, stderr) = finish_unpiped(child);
        assert_eq!(status.code(), code, "{by:?}: {stderr}");
        assert_eq!(names(&world.path("out")), [""; 0]);
        world.assert_nothing_left();
        // The next program gives back what a killed one has left.
        let recovered = world.build(&good("a"), &["--export", "tree"]);
        assert_eq!(recovered.code(), Some(0), "{}", recovered.shown());
        world.assert_sound();
    }
}

#[test]
fn root_in_vm_a_stage_that_takes_too_long_is_stopped() {
    let Some(kernel) = kernel("a stage that takes too long in a virtual machine") else { return };
    let world = World::new();
    let (status, stderr) = finish_unpiped(started(&world, &kernel, &["--stage-timeout", "1"]));
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("the stage was stopped: it ran longer than 1 s"), "{stderr}");
    world.assert_nothing_left();
}

#[test]
fn root_in_vm_a_machine_that_ends_says_why() {
    let Some(kernel) = kernel("a virtual machine that panics") else { return };
    let world = World::new();
    let mut command =
        world.kiln(&["guest-run", "sh", "-c", "echo before; echo c > /proc/sysrq-trigger; echo after"]);
    let ended = finish(command.env(KERNEL, &kernel).spawn().expect("started"));
    assert_eq!((ended.code(), ended.stdout.as_str()), (Some(3), "before\n"), "{}", ended.shown());
    assert!(ended.stderr.starts_with(
        "error: the virtual machine ended unexpectedly with exit status 0; its console ends with:\n"
    ));
    assert!(ended.stderr.contains("Kernel panic - not syncing: sysrq triggered crash"), "{}", ended.stderr);
    world.assert_nothing_left();
}

#[test]
fn root_in_vm_what_is_missing_is_said_before_anything_is_built() {
    if !host::provided("a virtual machine without a kernel", &NEEDS) {
        return;
    }
    let world = World::new();
    let build =
        |arguments: &[&str]| world.build(&good("a"), &[&["--export", "tree", "--in-vm"], arguments].concat());
    assert_shown!(world, build(&["tre"]), @r"
    exit code 2
    --- stderr
    error: there is no pipeline `tre`
    hint: did you mean `tree`?
    ");
    assert_shown!(world, build(&["tree", "--break"]), @r"
    exit code 2
    --- stderr
    error: there are no shells in virtual machines
    hint: leave out either `--in-vm` or `--break` and `--break-on-failure`
    ");
    assert_shown!(world, build(&["tree", "--vm-memory", "1MiB"]), @r"
    exit code 2
    --- stderr
    error: invalid value '1MiB' for '--vm-memory <SIZE>': a virtual machine needs at least 256MiB

    For more information, try '--help'.
    ");
    assert_shown!(world, build(&["tree", "--vm-kernel", "/nonexistent"]), @r"
    exit code 3
    --- stderr
    error: cannot build the pipeline `tree` in a virtual machine: there is no kernel for a virtual machine below `/nonexistent`
    hint: install a kernel beside the running one (Debian: `linux-image-cloud-amd64`, Fedora: `kernel-core`)
    hint: or name a directory with `boot/vmlinuz-…` and `lib/modules/…` by `--vm-kernel` or the variable `KILN_VM_KERNEL`
    ");
    write(&world, &good("a"));
    let mut command = osbuild(
        &world,
        "cache",
        &["--quiet", "--in-vm", "tree", "--export", "tree", "--output-directory", "out"],
    );
    assert_shown!(world, finish(command.env(KERNEL, "/nonexistent").spawn().expect("started")), @r"
    exit code 1
    --- stderr
    error: cannot build the pipeline `tree` in a virtual machine: there is no kernel for a virtual machine below `/nonexistent`
    hint: install a kernel beside the running one (Debian: `linux-image-cloud-amd64`, Fedora: `kernel-core`)
    hint: or name a directory with `boot/vmlinuz-…` and `lib/modules/…` by `--vm-kernel` or the variable `KILN_VM_KERNEL`
    ");
    assert!(!world.path("out").exists() || names(&world.path("out")).is_empty());
    world.assert_nothing_left();
}

#[test]
fn root_in_vm_what_is_no_kernel_does_not_start() {
    let Some(kernel) = kernel("a virtual machine with a broken kernel") else { return };
    let world = World::new();
    let modules = fs::read_dir(kernel.join("lib/modules"))
        .expect("modules")
        .next()
        .expect("a kernel")
        .expect("read")
        .path();
    fs::create_dir_all(world.path("broken/lib/modules/1")).expect("made");
    fs::create_dir_all(world.path("broken/boot")).expect("made");
    std::os::unix::fs::symlink(modules.join("kernel"), world.path("broken/lib/modules/1/kernel"))
        .expect("a link");
    let essential = ["virtio_pci", "virtio_console", "virtiofs", "overlay"];
    let list: String = essential.iter().map(|name| format!("kernel/{name}.ko\n")).collect();
    fs::write(world.path("broken/lib/modules/1/modules.builtin"), list).expect("written");
    fs::write(world.path("broken/lib/modules/1/modules.dep"), "").expect("written");
    fs::write(world.path("broken/boot/vmlinuz-1"), vec![0; 1 << 20]).expect("written");
    let broken = world.path("broken").display().to_string();
    let built = world.build(&good("a"), &["--export", "tree", "--in-vm", "tree", "--vm-kernel", &broken]);
    assert_eq!(built.code(), Some(3), "{}", built.shown());
    assert!(built.stderr.contains("error: cannot build the pipeline `tree` in a virtual machine: the virtual machine ended unexpectedly with "), "{}", built.stderr);
    world.assert_nothing_left();
}
