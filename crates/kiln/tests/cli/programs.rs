//! Modules of a library directory that are programs on the host, and stages that ask the host for something while they
//! run. None of them uses the reference's library.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use crate::library::library;
use crate::manifests::{checksum, manifest, mkdir, pipeline};
use crate::world::{World, assert_shown, finish, kill_after};

/// What every program on the host of these tests begins with: the protocol, without the reference's library.
const SERVICE: &str = "#!/usr/bin/python3
import json, os, socket, subprocess, sys
peer = socket.socket(fileno=int(sys.argv[sys.argv.index('--service-fd') + 1]))
def receive():
    data = peer.recv(1 << 20)
    return json.loads(data)['data'] if data else None
def send(kind, **data):
    peer.send(json.dumps({'type': kind, 'data': data}).encode())
def store(path, **request):
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.connect(path)
    client.send(json.dumps(request).encode())
    return json.loads(client.recv(1 << 20))
call = receive()
a = call['args']
print('asked to', call['name'], flush=True)
";

/// Adds a source, an input, a device and a mount to a library, each a program.
fn add_host_side(library: &Path) {
    let modules = [
        (
            "sources/org.example.fetch",
            json!({"properties": {"items": {"type": "object"}, "options": {"type": "object"}}}),
            "directory = a['cache'] + '/org.osbuild.files'
os.makedirs(directory, exist_ok=True)
results = []
for name, text in a['items'].items():
    if text == 'missing':
        results.append({'success': False, 'error': 'nobody has it', 'metadata': {'checksum': name}})
        continue
    with open(directory + '/' + name, 'w') as file:
        file.write(text)
    results.append({'success': True})
send('reply', reply={'success': all(r['success'] for r in results), 'results': results})
receive()
",
        ),
        (
            "inputs/org.example.tree",
            json!({"additionalProperties": true}),
            "where = store(a['api']['store'], method='read-tree-at', **{
    'object-id': list(a['refs'])[0], 'target': a['target'], 'subtree': '/etc'})
if not where['path']:
    send('exception', name='RuntimeError', value=where.get('error') or 'no such tree', backtrace='')
else:
    send('reply', reply={'path': where['path'], 'data': {'options': a['options']}})
assert receive() is None
print('input undone', flush=True)
",
        ),
        (
            "devices/org.example.null",
            json!({"type": "object"}),
            "os.mknod(a['dev'] + '/example', 0o666 | 0o20000, os.makedev(1, 3))
send('reply', reply={'path': 'example', 'node': {'major': 1, 'minor': 3}})
receive()
",
        ),
        (
            "devices/org.example.loop",
            json!({"type": "object"}),
            "disk = a['tree'] + '/disk'
with open(disk, 'ab') as file:
    file.truncate(1 << 20)
device = subprocess.run(['losetup', '--show', '-f', disk], check=True, stdout=subprocess.PIPE).stdout.decode().strip()
number = os.stat(device).st_rdev
# Also if there is nobody any more to be answered.
try:
    os.mknod(a['dev'] + '/example', 0o666 | 0o60000, number)
    send('reply', reply={'path': 'example', 'node': {'major': 7, 'minor': os.minor(number)}})
    receive()
finally:
    subprocess.run(['losetup', '-d', device], check=True)
",
        ),
        (
            "mounts/org.example.memory",
            json!({"required": ["name", "type", "target"], "properties": {
                "name": {}, "type": {}, "source": {}, "target": {}, "options": {"type": "object"},
            }}),
            "assert a['source'].endswith('/example'), a
path = a['root'] + a['target']
os.makedirs(path, exist_ok=True)
subprocess.run(['mount', '-t', 'tmpfs', 'none', path], check=True)
send('reply', reply=path)
assert receive() is None
print('it has', os.listdir(path), flush=True)
subprocess.run(['umount', path], check=True)
if a['options'].get('fail'):
    sys.exit('cannot be written back')
",
        ),
    ];
    for (name, schema, body) in modules {
        let path = library.join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(&path, format!("{SERVICE}{body}")).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
        let meta = json!({"summary": "A program", "description": [], "schema_2": schema});
        fs::write(library.join(format!("{name}.meta.json")), meta.to_string()).expect("written");
    }
    let stage = "#!/bin/sh\ncp /run/osbuild/inputs/words/word /run/osbuild/tree/word\n\
                 test -e /dev/example && touch /run/osbuild/mounts/here/made && cat /run/osbuild/api/arguments\n";
    let path = library.join("stages/org.example.use");
    fs::write(&path, stage).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
    let any = json!({"type": "object"});
    let schema = json!({"options": any, "inputs": any, "devices": any, "mounts": {"type": "array"}});
    let meta = json!({"summary": "Uses it all", "description": [], "schema_2": schema});
    fs::write(library.join("stages/org.example.use.meta.json"), meta.to_string()).expect("written");
}

/// A manifest that uses all of them.
fn uses_all(item: &str, mount_options: &Value) -> Value {
    let name = checksum(b"said");
    let files =
        json!({"type": "org.osbuild.files", "origin": "org.osbuild.source", "references": {&name: {}}});
    let copy = json!({
        "type": "org.osbuild.copy", "inputs": {"f": files},
        "options": {"paths": [{"from": format!("input://f/{name}"), "to": "tree:///etc/word"}]},
    });
    let words = json!({
        "type": "org.example.tree", "origin": "org.osbuild.pipeline", "references": ["name:first"],
        "options": {"loud": true},
    });
    let last = json!({
        "type": "org.example.use", "inputs": {"words": words}, "devices": {"null": {"type": "org.example.null"}},
        "mounts": [{
            "name": "memory", "type": "org.example.memory", "source": "null", "target": "/here",
            "options": mount_options,
        }],
    });
    json!({
        "version": "2",
        "sources": {"org.example.fetch": {"items": {&name: item}}},
        "pipelines": [
            pipeline("first", &[mkdir(&["/etc"]), copy]),
            pipeline("last", &[last]),
        ],
    })
}

#[test]
fn root_programs_on_the_host_do_their_work_and_undo_it() {
    let world = World::new();
    add_host_side(&library(&world));
    let arguments = [
        "--libdir",
        "library",
        "--prefer-native=runners",
        "--prefer-native=stages",
        "--cache",
        "cache",
        "--export",
        "last",
        "--output-directory",
        "out",
        "--monitor",
        "LogMonitor",
        "manifest.json",
    ];
    world.manifest(&uses_all("said", &json!({})));
    let run = world.osbuild(&arguments).succeeded();
    assert_eq!(fs::read_to_string(world.path("out/last/word")).expect("exported"), "said");
    for line in [
        "source/org.example.fetch (org.example.fetch): asked to download\n",
        "input/words (org.example.tree): asked to map\n",
        "device/null (org.example.null): asked to open\n",
        "mount/memory (org.example.memory): asked to mount\n",
        "mount/memory (org.example.memory): it has ['made']\n",
        "input/words (org.example.tree): input undone\n",
        "\"data\": {\"options\": {\"loud\": true}}",
        "\"null\": {\"path\": \"/dev/example\", \"node\": {\"major\": 1, \"minor\": 3}}",
        "\"memory\": {\"path\": \"/run/osbuild/mounts/here\"}",
    ] {
        assert!(run.stdout.contains(line), "{line} is not in\n{}", run.stdout);
    }
    world.assert_nothing_left();
}

#[test]
fn root_failures_of_programs_on_the_host_are_told() {
    let world = World::new();
    add_host_side(&library(&world));
    let told = |manifest: &Value| {
        world.manifest(manifest);
        let arguments = ["build", "manifest.json", "--libdir", "library", "--prefer-native=runners"];
        let more = ["--prefer-native=stages", "--cache", "cache", "--export", "last", "--progress", "none"];
        let run = world.run(&[&arguments[..], &more].concat());
        world.assert_nothing_left();
        run
    };
    assert_shown!(world, told(&uses_all("missing", &json!({}))), @r#"
    exit code 1
    --- stderr
    error: `org.example.fetch` could not fetch 1 item
      sha256:[ID]: nobody has it
    hint: what was fetched is kept: run the same command again to go on from there
    "#);
    assert_shown!(world, told(&uses_all("said", &json!({"fail": true}))), @r#"
    exit code 1
    --- stderr
    error: the stage `org.example.use` of the pipeline `last` failed: cannot unmount `memory` (`org.example.memory`): the service `mount/memory (org.example.memory)` could not undo what it did (exit status: 1); it said last:
    asked to mount
    it has ['made']
    cannot be written back
      {"tree": "/run/osbuild/tree", "paths": {"devices": "/dev", "inputs": "/run/osbuild/inputs", "mounts": "/run/osbuild/mounts"}, "devices": {"null": {"path": "/dev/example", "node": {"major": 1, "minor": 3}}}, "inputs": {"words": {"path": "/run/osbuild/inputs/words", "data": {"options": {"loud": true}}}}, "mounts": {"memory": {"path": "/run/osbuild/mounts/here"}}, "options": {}, "meta": {"id": "[ID]"}}
      cannot unmount `memory` (`org.example.memory`): the service `mount/memory (org.example.memory)` could not undo what it did (exit status: 1); it said last:
      asked to mount
      it has ['made']
      cannot be written back
    hint: the stage's id is [ID]; `--json` prints its whole output
    "#);
    let program = world.path("library/inputs/org.example.tree");
    fs::write(&program, format!("{SERVICE}print('out of breath')\nsys.exit(3)\n")).expect("written");
    assert_shown!(world, told(&uses_all("said", &json!({}))), @r#"
    exit code 1
    --- stderr
    error: the stage `org.example.use` of the pipeline `last` failed: cannot map input `words` (`org.example.tree`): the service `input/words (org.example.tree)` did not answer `map`: it ended before it answered (exit status: 3); it said last:
    asked to map
    out of breath
      cannot map input `words` (`org.example.tree`): the service `input/words (org.example.tree)` did not answer `map`: it ended before it answered (exit status: 3); it said last:
      asked to map
      out of breath
    hint: the stage's id is [ID]; `--json` prints its whole output
    "#);
    fs::write(&program, format!("{SERVICE}send('reply', reply={{'path': '/etc'}})\nreceive()\n"))
        .expect("written");
    assert_shown!(world, told(&uses_all("said", &json!({}))), @r#"
    exit code 1
    --- stderr
    error: the stage `org.example.use` of the pipeline `last` failed: cannot map input `words` (`org.example.tree`): the module answered `/etc`, which is not below its directory
      cannot map input `words` (`org.example.tree`): the module answered `/etc`, which is not below its directory
    hint: the stage's id is [ID]; `--json` prints its whole output
    "#);
    fs::write(
        &program,
        format!("{SERVICE}send('exception', name='ValueError', value='bad refs', backtrace='')\nreceive()\n"),
    )
    .expect("written");
    assert_shown!(world, told(&uses_all("said", &json!({}))), @r#"
    exit code 1
    --- stderr
    error: the stage `org.example.use` of the pipeline `last` failed: cannot map input `words` (`org.example.tree`): ValueError: bad refs
      cannot map input `words` (`org.example.tree`): ValueError: bad refs
    hint: the stage's id is [ID]; `--json` prints its whole output
    "#);
}

#[test]
fn root_a_stage_of_a_library_asks_for_a_loop_device() {
    const STAGE: &str = "#!/usr/bin/python3
import json, os, socket
path = '/run/osbuild/tree/disk'
with open(path, 'wb') as disk:
    disk.truncate(1 << 20)
client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
client.connect('/run/osbuild/api/remoteloop')
def ask(fds, **request):
    socket.send_fds(client, [json.dumps(request).encode()], fds)
    return json.loads(client.recv(65536))
fds = [os.open(path, os.O_RDWR), os.open('/dev', os.O_DIRECTORY)]
answer = ask(fds, fd=0, dir_fd=1, offset=4096, sizelimit=8192)
with open('/dev/' + answer['devname'], 'r+b', buffering=0) as device:
    print('size', device.seek(0, os.SEEK_END))
    device.seek(0)
    device.write(b'x' * 512)
    os.fsync(device.fileno())
print(ask([], fd=0, dir_fd=1)['exception']['value'])
";
    let world = World::new();
    let library = library(&world);
    let path = library.join("stages/org.example.say");
    fs::write(&path, STAGE).expect("written");
    let stage = json!({"type": "org.example.say", "options": {"word": "a"}});
    world.manifest(&manifest(&[pipeline("tree", &[stage])]));
    let arguments =
        ["--libdir", "library", "--prefer-native=runners", "--cache", "cache", "--export", "tree"];
    let more = ["--output-directory", "out", "--json", "manifest.json"];
    let result = world.osbuild(&[&arguments[..], &more].concat()).succeeded().json();
    let output = result["log"]["tree"][0]["output"].as_str().expect("an output");
    assert_eq!(output, "size 8192\n`fd` is 0: no such descriptor came with it\n");
    let disk = fs::read(world.path("out/tree/disk")).expect("exported");
    assert_eq!(disk.iter().position(|byte| *byte != 0), Some(4096));
    assert_eq!(disk.iter().filter(|byte| **byte == b'x').count(), 512);
    world.assert_nothing_left();
}

/// SIGKILL at moments spread over a build: the kernel closes the sockets, and the programs undo what they did.
#[test]
fn root_programs_end_with_a_killed_build() {
    const KILLS: u32 = 12;
    let world = World::new();
    add_host_side(&library(&world));
    let build = |number: u32| {
        let arguments = ["--libdir", "library", "--prefer-native=runners", "--prefer-native=stages"];
        let more = ["--export", "last", "--progress", "none"];
        world.build_command(&uses_all("said", &json!({"number": number})), &[&arguments[..], &more].concat())
    };
    let start = Instant::now();
    finish(build(0).spawn().expect("started")).succeeded();
    let whole = start.elapsed();
    for kill in 1..=KILLS {
        let run = build(kill).spawn().expect("started");
        kill_after(run, whole * kill / KILLS);
        world.assert_nothing_left();
    }
    finish(build(KILLS).spawn().expect("started")).succeeded();
    world.assert_nothing_left();
    world.assert_sound();
}

/// The addresses of sockets are short: those of the build root and of the store are not where the cache is.
#[test]
fn root_a_cache_may_have_a_long_path() {
    let world = World::new();
    add_host_side(&library(&world));
    world.write("m.json", uses_all("said", &json!({})).to_string());
    let cache = world.path("long".repeat(50)).join("cache");
    fs::create_dir_all(&cache).expect("made");
    let arguments =
        ["build", "m.json", "--libdir", "library", "--prefer-native=runners", "--prefer-native=stages"];
    let mut command =
        world.kiln(&[&arguments[..], &["--export", "last", "--progress", "none", "--cache"]].concat());
    finish(command.arg(&cache).spawn().expect("started")).succeeded();
    world.assert_nothing_left();
}

/// A stage after the other, each with an input, a loop device and a mount of programs: none leaves anything, neither
/// outside nor in Kiln itself, which would soon have no descriptors any more. Then the same killed at moments spread over
/// it. `KILN_TEST_STAGES` says how many stages there are.
#[test]
fn root_many_stages_with_programs_leave_nothing() {
    const KILLS: u32 = 4;
    let stages = std::env::var("KILN_TEST_STAGES").map_or(16, |number| number.parse().expect("a number"));
    let world = World::new();
    add_host_side(&library(&world));
    let build = |number: u32| {
        let mut manifest = uses_all("said", &json!({}));
        let stage = |stage: u32| {
            let mut one = manifest["pipelines"][1]["stages"][0].clone();
            one["options"] = json!({"number": [number, stage]});
            one["devices"]["null"]["type"] = json!("org.example.loop");
            one
        };
        manifest["pipelines"][1]["stages"] = (0..stages).map(stage).collect();
        let arguments = ["--libdir", "library", "--prefer-native=runners", "--prefer-native=stages"];
        let arguments = [&arguments[..], &["--export", "last", "--progress", "none"]].concat();
        let kiln = world.build_command(&manifest, &arguments);
        let mut limited = world.program("prlimit", &["--nofile=96", "--"]);
        limited.arg(kiln.get_program()).args(kiln.get_args());
        limited
    };
    let start = Instant::now();
    finish(build(0).spawn().expect("started")).succeeded();
    let whole = start.elapsed();
    world.assert_nothing_left();
    for kill in 1..=KILLS {
        let run = build(kill).spawn().expect("started");
        kill_after(run, whole * kill / (KILLS + 1));
        world.assert_nothing_left();
    }
    // What the killed ones have left in the cache is reclaimed by the next one.
    finish(build(0).spawn().expect("started")).succeeded();
    world.assert_nothing_left();
    world.assert_sound();
}
