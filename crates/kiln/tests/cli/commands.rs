//! The other commands, and what `kiln build` does when nothing goes wrong.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;

use kiln_testkit::http::Reply;
use serde_json::{Value, json};

use crate::manifests::{checksum, disk, download, good, manifest, mkdir, pipeline, scripted};
use crate::world::{KILN, World, assert_shown, finish, names};

#[test]
fn plan() {
    let world = World::new();
    world.server.serve("/file", Reply::ok("content"));
    let mut manifest = download(&checksum(b"content"), &world.server.url("/file"));
    let image = disk("a", "16M")["pipelines"][1].clone();
    manifest["pipelines"].as_array_mut().expect("an array").push(image);
    world.write("manifest.json", manifest.to_string());
    let plan = |more: &[&str]| world.run(&[&["plan", "manifest.json", "--cache", "cache"], more].concat());
    assert_shown!(world, plan(&[]), @r#"
    exit code 0
    --- stdout
    fetch   org.osbuild.curl: 1 item, size unknown (for `tree`)
    build   `tree` [ID]: 1 stage, the host's runner (requested, input of `org.osbuild.copy` in `image`)
    build   `image` [ID]: 3 stages, the host's runner (requested)
    "#);
    assert_shown!(world, plan(&["--export", "tree"]), @r#"
    exit code 0
    --- stdout
    fetch   org.osbuild.curl: 1 item, size unknown (for `tree`)
    build   `tree` [ID]: 1 stage, the host's runner (requested)
    export  `tree` [ID]
    "#);
    assert_shown!(world, plan(&["--export", "tree", "--prefetch"]), @r#"
    exit code 0
    --- stdout
    fetch   org.osbuild.curl: 1 item, size unknown (for `tree`)
    build   `tree` [ID]: 1 stage, the host's runner (requested)
    export  `tree` [ID]
    "#);
    assert_shown!(world, plan(&["--export", "picture"]), @r#"
    exit code 1
    --- stderr
    error: the manifest has no pipeline `picture`
    hint: the manifest's pipelines are `tree`, `image`
    "#);
    let shown = plan(&["--export", "image", "--json"]).json();
    assert_eq!(shown["fetches"][0]["items"][0]["checksum"], checksum(b"content"));
    let names: Vec<_> =
        shown["builds"].as_array().expect("builds").iter().map(|build| &build["pipeline"]).collect();
    assert_eq!(names, ["tree", "image"]);
    assert_eq!(
        shown["builds"][0]["reasons"],
        json!([{"why": "input", "of": "image", "stage": "org.osbuild.copy"}])
    );
    assert_eq!(shown["builds"][1]["needs"], json!([0]));
    assert_eq!(world.server.requests().len(), 0, "a plan does nothing");
}

#[test]
fn root_plan_of_what_is_cached() {
    let world = World::new();
    world.build(&disk("a", "16M"), &["--export", "tree"]).succeeded();
    let run = world.run(&["plan", "manifest.json", "--cache", "cache", "--export", "image"]);
    assert_shown!(world, run, @r#"
    exit code 0
    --- stdout
    cached  `tree` [ID] (input of `org.osbuild.copy` in `image`)
    build   `image` [ID]: 3 stages, the host's runner (requested)
    export  `image` [ID]
    "#);
}

/// The ids of all stages of a description, of either format.
fn collect_ids(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            into.extend(object.get("id").and_then(Value::as_str).map(str::to_owned));
            object.values().for_each(|value| collect_ids(value, into));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_ids(item, into)),
        _ => {}
    }
}

#[test]
fn inspect_equals_the_conformance_suite() {
    let suite = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance");
    let ids: Value =
        serde_json::from_slice(&fs::read(suite.join("ids.json")).expect("the suite")).expect("JSON");
    let world = World::new();
    let mut compared = 0;
    for (name, expected) in ids.as_object().expect("an object") {
        let file =
            fs::File::open(suite.join("manifests").join(format!("{name}.json.gz"))).expect("a manifest");
        let mut text = String::new();
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("gzip of text");
        world.write("manifest.json", text);
        let shown = world.run(&["inspect", "manifest.json"]).succeeded().json();
        let compact = world.run(&["inspect", "manifest.json", "--compact"]).succeeded();
        assert_eq!(compact.stdout.lines().count(), 1, "{name}");
        let (mut ids, mut wanted) = (BTreeSet::new(), BTreeSet::new());
        collect_ids(&shown, &mut ids);
        for pipeline in expected["pipelines"].as_object().expect("pipelines").values() {
            for stage in pipeline["stages"].as_array().expect("stages") {
                wanted.insert(stage["id"].as_str().expect("an id").to_owned());
            }
        }
        assert_eq!(ids, wanted, "{name}");
        compared += ids.len();
    }
    assert!(compared > 100, "{compared} stages");
}

#[test]
fn every_module_is_listed_and_can_be_shown() {
    let world = World::new();
    let list = world.run(&["modules", "--json"]).succeeded().json();
    let list = list.as_array().expect("an array");
    assert!(list.len() >= 40, "{} modules", list.len());
    let text = world.run(&["modules", "list"]).succeeded().stdout;
    assert_eq!(text.lines().count(), list.len());
    for module in list {
        let name = module["name"].as_str().expect("a name");
        assert!(!module["summary"].as_str().expect("a summary").is_empty(), "{name} has no summary");
        let shown = world.run(&["modules", "show", name]).succeeded().stdout;
        assert!(shown.starts_with(name), "{shown}");
        let described = world.run(&["modules", "show", name, "--json"]).succeeded().json();
        assert_eq!(described[0]["name"], name);
    }
    assert_shown!(world, world.run(&["modules", "show", "truncate"]), @r#"
    exit code 0
    --- stdout
    org.osbuild.truncate (stage, native)

      Makes a file exactly as large as asked.

      A file that does not exist is created. What lies beyond the new size is discarded; new space reads as zeros and takes no
      room on the disk (the file is sparse).

    Options:
      filename (string, required)
          Path of the file in the tree.
      size (string, required)
          New size in bytes, as for truncate(1): `1073741824`, `1G`, `500MB`; `+1M` and `-1M` relate to the present size, `<` and
          `>` mean at most and at least, `/` and `%` round down and up to a multiple.
    "#);
}

#[test]
fn help() {
    let world = World::new();
    assert_shown!(world, world.run(&["--help"]), @r"
    exit code 0
    --- stdout
    Build operating-system images from manifests and definitions

    A definition (a blueprint in TOML or JSON) says what an image is; it is resolved into a manifest,
    which says exactly how to build it. Kiln reads osbuild's manifests, and is `osbuild` when called by
    that name.

    Usage: kiln <COMMAND>

    Commands:
      build        Build a manifest or a definition and export the results
      cache        Look at the cache, prune it, verify it
      plan         Show what a build would fetch, build and use from the cache, and why
      completions  Print a script that completes command lines in a shell
      diff         Say what differs between two manifests, and why that is built again
      graph        Draw pipelines, build roots, inputs and sources of a manifest
      inspect      Print a manifest with all its ids
      man          Print a manual page, or write all of them
      modules      List the modules there are, or document one of them
      pe           Show what PE images hold: EFI programs, unified kernel images
      resolve      Turn a definition into a manifest with every package pinned
      schema       Print the JSON Schema of manifests, for editors
      shadow       Build a manifest with the reference, too, and say what differs
      shell        Open a shell in the build root of a stage, or in a finished tree
      tree         Compare trees, or print the digest of one
      validate     Say everything that is wrong with a manifest or a definition
      help         Print this message or the help of the given subcommand(s)

    Options:
      -h, --help
              Print help (see a summary with '-h')

      -V, --version
              Print version

    Examples:
      kiln build examples/debian.toml
      kiln plan manifest.json --export image
      kiln modules show org.osbuild.mkdir

    Exit codes:
      0    success
      1    the build failed, what was asked for is not there, or what was compared differs
      2    the manifest, the definition or the command line is wrong
      3    the machine lacks something: privileges, a program, room on the disk
      130  interrupted
    ");
    for command in ["build", "plan", "inspect", "modules", "resolve", "tree"] {
        let help = world.run(&[command, "--help"]).succeeded();
        assert!(help.stdout.contains(&format!("Usage: kiln {command}")), "{}", help.shown());
        assert_eq!(help.stderr, "");
    }
    assert_shown!(world, world.run(&["build", "-h"]), @r"
    exit code 0
    --- stdout
    Build a manifest or a definition and export the results

    Usage: kiln build [OPTIONS] <MANIFEST>

    Arguments:
      <MANIFEST>  The manifest or definition, or `-` for standard input

    Options:
          --export <NAME>                 Pipeline to export, by name or id (repeat); a definition's
                                          outputs if left out
          --output-directory <DIRECTORY>  Directory for exports: each is put into a directory of its
                                          name [default: output]
          --cache <DIRECTORY>             Directory with objects and downloads; may be shared with
                                          osbuild and with other runs [default: .osbuild] [alias:
                                          --store]
          --break[=<STAGE>]               Open a shell in the build root of a stage before it runs: by
                                          name or id; before every stage without a value
          --break-on-failure              Open a shell in the build root of a stage that has failed
      -l, --libdir <DIRECTORY>            Directory with modules that go before the native ones
          --prefer-native[=<KIND>]        Let native modules go before those of --libdir: all, or those
                                          of a kind (repeat) [possible values: all, stages, assemblers,
                                          sources, inputs, devices, mounts, runners]
          --in-vm <PIPELINE>              Build this pipeline in a virtual machine, with a kernel that
                                          can do what the running one cannot: by name or id (repeat)
          --vm-kernel <DIRECTORY>         Directory with `boot/vmlinuz-…` and `lib/modules/…` of virtual
                                          machines; that of the build root, or one of this machine, if
                                          left out; also by the variable `KILN_VM_KERNEL`
          --vm-memory <SIZE>              Memory of a virtual machine: bytes, or with a unit as `4GiB`;
                                          also by the variable `KILN_VM_MEMORY` [default: 3GiB]
          --vm-processors <N>             Processors of a virtual machine; also by the variable
                                          `KILN_VM_PROCESSORS` [default: as many as here, at most 8]
          --checkpoint <GLOB>             Keep only what matches in the cache: pipeline names, stage
                                          ids, stage names (repeat); all pipelines if left out
          --cache-max-size <SIZE>         Most that the cache may hold: bytes, or with a unit as
                                          `20GiB`, or `unlimited`
          --cache-sync <WHEN>             When results reach the disk: `deferred` (flushed after they
                                          are kept: until then only a crash of the machine loses them),
                                          `before` (before they are kept: takes as long as the disk),
                                          `off` (never flushed: after a crash of the machine they may be
                                          incomplete); also by the variable `KILN_CACHE_SYNC` [default:
                                          deferred]
          --json                          Print the result as JSON
          --min-free <SIZE>               Keep so much of the cache's file system free: evict, or
                                          refuse; as `5GiB` or `10%`
          --jobs <N>                      Build so many pipelines at the same time [default: 2]
          --downloads <N>                 Fetch so many files at the same time
          --stage-timeout <SECONDS>       Stop a stage that runs longer than so many seconds
          --prefetch                      Fetch all sources, needed or not
          --refresh                       Fetch the package lists of a definition anew
          --progress <PROGRESS>           How to show progress [default: auto] [possible values: auto,
                                          plain, none]
      -h, --help                          Print help (see more with '--help')

    Examples:
      kiln build examples/debian.toml
      kiln build manifest.json --export image --output-directory out
      kiln build - --export tree --json < manifest.json
    ");
    assert!(world.run(&["--version"]).succeeded().stdout.starts_with("kiln "));
}

#[test]
fn root_progress() {
    let world = World::new();
    let image = disk("a", "16M");
    assert_shown!(world, world.build(&image, &["--export", "image", "--progress", "plain", "--jobs", "1"]), @r#"
    exit code 0
    --- stdout
    output/image
    --- stderr
    tree: 1 stage ([ID])
    tree: [1] org.osbuild.mkdir
    tree: done in [TIME]
    image: 3 stages ([ID])
    image: [1] org.osbuild.truncate
    image: [2] org.osbuild.mkfs.ext4
    image: [3] org.osbuild.copy
    image: done in [TIME]
    export image: [TIME]
      tree [TIME]  1 stage
      image [TIME]  3 stages
      output/image/disk.img (16.8 MB)
    built in [TIME]
    "#);
    assert_shown!(world, world.build(&disk("b", "16M"), &["--export", "image", "--progress", "none"]), @r#"
    exit code 0
    --- stdout
    output/image
    "#);
}

#[test]
fn root_a_terminal_shows_the_running_stage_and_its_last_line() {
    let world = World::new();
    world.write("manifest.json", scripted("echo painting the walls\nsleep 1").to_string());
    let line = format!("{KILN} build manifest.json --cache {} --export tree", world.cache().display());
    // `script` runs it on a terminal of its own.
    let mut command = world.program("script", &["--quiet", "--return", "--command", &line, "/dev/null"]);
    command.env("TERM", "xterm");
    let finished = finish(command.spawn().expect("started")).succeeded();
    let shown = &finished.stdout;
    let stage = "org.osbuild.hostname: painting the walls";
    let moves = "\u{1b}[";
    for part in ["tree", stage, moves, "tree done in", "built in", "output/tree"] {
        assert!(shown.contains(part), "`{part}` was not shown: {shown:?}");
    }
    // What is live goes away at the end.
    let last = shown.rsplit("tree done in").next().unwrap_or_default();
    assert!(!last.contains(stage), "{last:?}");
}

/// The program is bound into build roots by its path, which is another one here than on the host.
#[test]
fn root_a_build_works_in_a_changed_root() {
    let world = World::new();
    let root = world.path("root");
    for directory in ["dev", "etc", "proc", "run", "sys", "tmp", "usr"] {
        fs::create_dir_all(root.join(directory)).expect("made");
    }
    fs::copy(KILN, root.join("kiln")).expect("copied");
    world.write("root/manifest.json", good("a").to_string());
    let script = format!(
        "mount --bind {0} {0} && mount -t proc proc {0}/proc && mount --rbind /sys {0}/sys && \
         mount --rbind /dev {0}/dev && exec chroot {0} \
         /kiln build manifest.json --cache cache --export tree --output-directory output",
        root.display()
    );
    let mut command = world.program("unshare", &["--mount", "--propagation", "private", "sh", "-c", &script]);
    finish(command.spawn().expect("started")).succeeded();
    assert!(root.join("output/tree").is_dir());
    world.assert_nothing_left();
}

#[test]
fn root_a_cached_build_does_nothing() {
    let world = World::new();
    world.server.serve("/file", Reply::ok("content"));
    let manifest = download(&checksum(b"content"), &world.server.url("/file"));
    world.build(&manifest, &["--export", "tree"]).succeeded();
    assert_eq!(world.server.requests().len(), 1);
    // As if all servers were down.
    world.server.serve("/file", Reply::status(500));
    assert_shown!(world, world.build(&manifest, &["--export", "tree"]), @r#"
    exit code 0
    --- stdout
    output/tree
    --- stderr
    export tree: [TIME]
      output/tree/file (7 B)
    built in [TIME]
    "#);
    assert_shown!(world, world.build(&manifest, &[]), @r#"
    exit code 0
    --- stderr
    built in [TIME]
    "#);
    // The downloads are enough to build again.
    fs::remove_dir_all(world.cache().join("objects")).expect("removed");
    world.build(&manifest, &["--export", "tree"]).succeeded();
    assert_eq!(world.server.requests().len(), 1);
}

#[test]
fn root_a_checkpoint_is_resumed() {
    let world = World::new();
    let first = manifest(&[pipeline(
        "tree",
        &[mkdir(&["/a"]), mkdir(&["/b"]), json!({"type": "org.osbuild.error"})],
    )]);
    let run = world.build(&first, &["--checkpoint", "org.osbuild.mkdir"]);
    assert_eq!(run.code(), Some(1));
    let second = manifest(&[pipeline("tree", &[mkdir(&["/a"]), mkdir(&["/b"]), mkdir(&["/c"])])]);
    let run = world.build(&second, &["--checkpoint", "org.osbuild.mkdir", "--export", "tree"]);
    assert_shown!(world, run, @r#"
    exit code 0
    --- stdout
    output/tree
    --- stderr
    tree: 1 stage ([ID])
    tree: [1] org.osbuild.mkdir
    tree: done in [TIME]
    export tree: [TIME]
      tree [TIME]  1 stage
    built in [TIME]
    "#);
    assert_eq!(names(&world.path("output/tree")), ["a", "b", "c"]);
    assert_eq!(names(&world.cache().join("objects")).len(), 3);
    world.assert_sound();
}

/// What no checkpoint keeps is exported all the same, and nothing of it stays in the cache.
#[test]
fn root_what_is_not_kept_is_exported() {
    let world = World::new();
    let image = disk("a", "16M");
    world.build(&image, &["--checkpoint", "tree", "--export", "image", "--export", "tree"]).succeeded();
    assert_eq!(names(&world.path("output/image")), ["disk.img"]);
    assert_eq!(names(&world.path("output/tree")), ["a", "etc"]);
    assert_eq!(names(&world.cache().join("objects")).len(), 1);
    world.assert_sound();
}

#[test]
fn root_exports_come_in_the_order_of_the_request() {
    let world = World::new();
    let names = ["zebra", "apple", "mango", "fig"];
    let pipelines: Vec<Value> =
        names.iter().map(|name| pipeline(name, &[mkdir(&[&format!("/{name}")])])).collect();
    let manifest = manifest(&pipelines);
    for order in [["zebra", "apple", "mango", "fig"], ["fig", "mango", "zebra", "apple"]] {
        let arguments: Vec<&str> = order.iter().flat_map(|name| ["--export", name]).collect();
        let run = world.build(&manifest, &arguments).succeeded();
        let expected: String = order.iter().map(|name| format!("output/{name}\n")).collect();
        assert_eq!(run.stdout, expected);
        let run = world.build(&manifest, &[&arguments[..], &["--json"]].concat()).succeeded();
        let exports: Vec<String> =
            run.json()["exports"].as_object().expect("exports").keys().cloned().collect();
        assert_eq!(exports, order);
    }
}

/// The second of two equal builds waits for the first and takes its result.
#[test]
fn root_single_flight() {
    let world = World::new();
    let slow = scripted("sleep 1000\ntrue");
    let mut first = world.build_command(&slow, &["--export", "tree", "--output-directory", "first"]);
    let first = first.spawn().expect("started");
    let sleep = world.wait_for_process("sleep 1000");
    let mut second = world.build_command(&slow, &["--export", "tree", "--output-directory", "second"]);
    let mut second = second.spawn().expect("started");
    let mut said = BufReader::new(second.stderr.take().expect("piped"));
    let mut text = String::new();
    while !text.contains("waiting") {
        assert_ne!(said.read_line(&mut text).expect("read"), 0, "it ended: {text}");
    }
    // The tool goes on, and the stage succeeds.
    rustix::process::kill_process(sleep, rustix::process::Signal::KILL).expect("it sleeps");
    said.read_to_string(&mut text).expect("read");
    assert!(second.wait().expect("ended").success(), "{text}");
    world.settings().bind(|| {
        insta::assert_snapshot!(text, @r#"
    tree: waiting for another program that builds it
    export tree: [TIME]
      tree [TIME]  0 stages
    built in [TIME]
    "#);
    });
    let first = finish(first).succeeded();
    assert_eq!(first.stderr.matches("org.osbuild.hostname").count(), 1, "{}", first.stderr);
    world.assert_nothing_left();
    world.assert_sound();
}

#[test]
fn root_json_of_a_success() {
    let world = World::new();
    let result = world.build(&good("a"), &["--json", "--export", "tree"]).succeeded().json();
    let members: Vec<&str> = result.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(
        members,
        ["type", "success", "metadata", "sources", "log", "durations", "duration", "exports"]
    );
    assert_eq!(result["success"], true);
    assert_eq!(result["log"]["tree"][0]["type"], "org.osbuild.mkdir");
    assert_eq!(result["exports"], json!({"tree": "output/tree"}));
}

#[test]
fn tree_diff_and_digest() {
    let world = World::new();
    for side in ["left", "right"] {
        fs::create_dir(world.path(side)).expect("a directory");
        world.write(&format!("{side}/same"), "same");
    }
    let long_ago = std::time::SystemTime::UNIX_EPOCH;
    for name in ["left", "right", "left/same", "right/same"] {
        let file = fs::File::open(world.path(name)).expect("opened");
        file.set_times(fs::FileTimes::new().set_modified(long_ago)).expect("set");
    }
    let diff = |more: &[&str]| world.run(&[&["tree", "diff", "left", "right"], more].concat());
    assert_shown!(world, diff(&[]), @r#"exit code 0"#);
    let digest = |side| world.run(&["tree", "digest", side]).succeeded().stdout;
    assert_eq!(digest("left"), digest("right"));
    world.write("right/same", "different");
    world.write("right/more", "");
    assert_ne!(digest("left"), digest("right"));
    assert_eq!(diff(&[]).code(), Some(1));
    let mut settings = world.settings();
    settings.add_filter(r"\d{5,}\.\d{9}", "[NOW]");
    settings.bind(|| insta::assert_snapshot!(diff(&["--json"]).shown(), @r#"
    exit code 1
    --- stdout
    [{"path":".","aspect":"mtime","left":"0.000000000","right":"[NOW]"},{"path":"more","aspect":"entry","right":"file"},{"path":"same","aspect":"size","left":"4","right":"9"},{"path":"same","aspect":"mtime","left":"0.000000000","right":"[NOW]"}]
    "#));
    assert_shown!(world, world.run(&["tree", "digest", "nowhere"]), @r#"
    exit code 3
    --- stderr
    error: cannot open directory `nowhere`: No such file or directory (os error 2)
    "#);
}
