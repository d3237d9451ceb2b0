//! Shells in build roots: `--break`, `--break-on-failure`, `kiln shell`; scripted, and at a terminal.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::manifests::{copy_tree_to_disk, manifest, mkdir, mkfs, noop, pipeline, scripted, truncate};
use crate::world::{Finished, KILN, World, assert_shown, finish, names};

impl World {
    /// Gives a program a script to read.
    fn with_script(&self, mut command: Command, script: &str) -> Finished {
        self.write("script", script);
        command.stdin(File::open(self.path("script")).expect("there"));
        finish(command.spawn().expect("started"))
    }

    /// `kiln shell` in this world's cache.
    fn shell(&self, manifest: &Value, place: &str, script: &str) -> Finished {
        self.manifest(manifest);
        self.with_script(self.kiln(&["shell", "manifest.json", place, "--cache", "cache"]), script)
    }
}

fn two_stages() -> Value {
    manifest(&[pipeline("tree", &[mkdir(&["/a"]), mkdir(&["/b"]), noop()])])
}

#[test]
fn root_a_shell_before_a_stage() {
    let world = World::new();
    world.manifest(&two_stages());
    // The shell's own directory, what is there before the stage, what the stage will be told, and a change.
    let script = "pwd; ls /run/osbuild/tree; ls /run/osbuild/bin; \
                  grep -c '\"tree\": \"/run/osbuild/tree\"' /run/osbuild/api/arguments; mkdir /run/osbuild/tree/shell";
    let expected = "/\na\nb\norg.osbuild.noop\n1\n";
    for (cache, as_reference) in [("cache", false), ("reference", true)] {
        let output = format!("output-{cache}");
        let options = [
            "--quiet",
            "--break=org.osbuild.noop",
            "--cache",
            cache,
            "--export",
            "tree",
            "--output-directory",
            &output,
            "manifest.json",
        ];
        let finished = if as_reference {
            let Some((mut command, checkout)) =
                world.with_reference("python3", &["-m", "osbuild", "--libdir"])
            else {
                return;
            };
            command.arg(checkout).args(options);
            world.with_script(command, script)
        } else {
            world.with_script(world.program(world.osbuild_program(), &options), script)
        };
        assert_eq!((finished.code(), finished.stdout.as_str()), (Some(0), expected), "{}", finished.shown());
        assert_eq!(names(&world.path(output).join("tree")), ["a", "b", "shell"]);
    }
    world.assert_nothing_left();
}

/// A list of words for `--break`, and how many shells there are: each reads one line of a script.
#[test]
fn root_which_stages_break() {
    let world = World::new();
    world.manifest(&two_stages());
    let id = world.osbuild(&["--inspect", "manifest.json"]).succeeded().json();
    let id = id["pipelines"][0]["stages"][1]["id"].as_str().expect("an id").to_owned();
    let script = "echo here; exit 0\n";
    for (words, expected) in [
        (vec![format!("--break={id}")], "here\n"),
        (vec!["--break".to_owned(), "org.osbuild.noop".to_owned()], "here\n"),
        (vec!["--break=org.osbuild.mkdir".to_owned()], "here\n"),
        // All of it is read by the first shell: the others end at once.
        (vec!["--break=*".to_owned()], "here\n"),
        (vec!["--break=org.osbuild.*".to_owned()], ""),
        (vec!["--break=tree".to_owned()], ""),
    ] {
        let arguments: Vec<&str> = words.iter().map(String::as_str).collect();
        for (cache, as_reference) in [("cache", false), ("reference", true)] {
            let options = [
                &["--quiet", "--cache", cache, "--export", "tree", "--output-directory", "o"],
                &arguments[..],
            ]
            .concat();
            let finished = if as_reference {
                let Some((mut command, checkout)) =
                    world.with_reference("python3", &["-m", "osbuild", "--libdir"])
                else {
                    continue;
                };
                command.arg(checkout).args(options).arg("manifest.json");
                world.with_script(command, script)
            } else {
                let options = [&options[..], &["manifest.json"]].concat();
                world.with_script(world.program(world.osbuild_program(), &options), script)
            };
            let told = (finished.code(), finished.stdout.as_str());
            assert_eq!(told, (Some(0), expected), "{words:?} {}", finished.shown());
        }
    }
    // As every option with a value that may be left out, it takes the next word.
    assert_eq!(world.osbuild(&["--break", "manifest.json"]).code(), Some(2));
    // Kiln's own does not.
    let arguments = ["build", "--break", "manifest.json", "--export", "tree", "--cache", "cache"];
    let finished = world.with_script(world.kiln(&arguments), script);
    assert_eq!(finished.code(), Some(0), "{}", finished.shown());
    assert_eq!(finished.stderr.lines().filter(|line| *line == "here").count(), 1, "{}", finished.shown());
    let finished = world.run(&["build", "--break=org.osbuild.mkdri", "manifest.json"]);
    assert_shown!(world, finished, @r#"
    exit code 2
    --- stderr
    error: no stage has the name or id `org.osbuild.mkdri`
    hint: did you mean `org.osbuild.mkdir`?
    "#);
}

#[test]
fn root_a_shell_that_fails_stops_the_build() {
    let world = World::new();
    world.manifest(&two_stages());
    let options =
        ["--json", "--break", "*", "--cache", "cache", "--export", "tree", "--output-directory", "output"];
    let options = [&options[..], &["manifest.json"]].concat();
    let finished = world.with_script(world.program(world.osbuild_program(), &options), "exit 3");
    assert_shown!(world, finished, @r#"
    exit code 1
    --- stderr
    tree: a shell in the build root, with the tree in /run/osbuild/tree: before `org.osbuild.mkdir` runs; `exit` lets it run, `exit 1` stops the build
    error: the shell in the build root of `org.osbuild.mkdir` ended with exit status 3
    hint: end a shell with `exit 0` to go on
    "#);
    assert_eq!(names(&world.path("output")), [""; 0]);
    world.assert_nothing_left();
    world.assert_sound();
    if let Some((mut command, checkout)) = world.with_reference("python3", &["-m", "osbuild", "--libdir"]) {
        command.arg(checkout).args(options);
        let finished = world.with_script(command, "exit 3");
        assert_eq!((finished.code(), finished.stdout.as_str()), (Some(1), ""), "{}", finished.shown());
    }
}

/// With a file system on a loop device.
#[test]
fn root_a_shell_after_a_failure_has_devices_and_mounts() {
    let world = World::new();
    let mut failing = copy_tree_to_disk("tree");
    failing["options"]["paths"][0]["from"] = json!("input://tree/missing");
    let manifest = manifest(&[
        pipeline("tree", &[mkdir(&["/content"])]),
        pipeline("image", &[truncate("32M"), mkfs(), failing]),
    ]);
    let script = "ls /run/osbuild/inputs/tree; touch /run/osbuild/mounts/mine; ls /run/osbuild/mounts; \
                  ls -l /dev/loop* | cut -c1; exit 5";
    let command = world.build_command(&manifest, &["--export", "image", "--break-on-failure"]);
    let finished = world.with_script(command, script);
    assert_eq!(finished.code(), Some(1), "{}", finished.shown());
    assert_eq!(finished.stdout, "");
    let told = "content\nlost+found\nmine\nb\n";
    assert!(finished.stderr.contains(told), "{}", finished.shown());
    assert!(finished.stderr.contains("error: the stage `org.osbuild.copy`"), "{}", finished.shown());
    world.assert_nothing_left();
    world.assert_sound();
}

#[test]
fn root_a_build_root_without_a_shell() {
    let world = World::new();
    let mut bare = manifest(&[
        json!({"name": "build", "runner": "org.osbuild.linux", "stages": [mkdir(&["/usr", "/etc"])]}),
        pipeline("tree", &[noop()]),
    ]);
    bare["pipelines"][1]["build"] = json!("name:build");
    world.manifest(&bare);
    let run = ["build", "manifest.json", "--export", "tree", "--cache", "cache", "--break=org.osbuild.noop"];
    assert_shown!(world, world.run(&[&run[..], &["--progress", "none"]].concat()), @r#"
    exit code 1
    --- stderr
    error: the build root of `org.osbuild.noop` has no shell: neither `bash` nor `sh`
    "#);
    world.assert_nothing_left();
    // `sh` will do.
    let finished = world.shell(&scripted("true"), "tree:1", "echo $0; ls /run/osbuild; exit 6");
    assert_eq!(finished.code(), Some(6), "{}", finished.shown());
    assert!(finished.stdout.starts_with("/usr/bin/sh\n"), "{}", finished.shown());
}

#[test]
fn root_shells_at_places() {
    let world = World::new();
    let manifest = manifest(&[
        pipeline("tree", &[mkdir(&["/a"]), mkdir(&["/b"]), noop()]),
        pipeline("image", &[truncate("32M"), mkfs(), copy_tree_to_disk("tree")]),
    ]);
    let list = "ls /run/osbuild/tree /run/osbuild/mounts/*; touch /run/osbuild/tree/mine; exit 4";
    for (place, expected) in [
        ("tree:1", "/run/osbuild/tree:\n"),
        ("tree:2", "/run/osbuild/tree:\na\n"),
        ("noop", "/run/osbuild/tree:\na\nb\n"),
        ("org.osbuild.noop", "/run/osbuild/tree:\na\nb\n"),
        ("tree", "/run/osbuild/tree:\na\nb\n"),
        ("copy", "/run/osbuild/mounts/lost+found:\n\n/run/osbuild/tree:\ndisk.img\n"),
        ("image", "/run/osbuild/tree:\ndisk.img\n"),
    ] {
        // A second time most of it comes from the cache; what the shell did before is gone.
        for _ in 0..2 {
            let finished = world.shell(&manifest, place, list);
            assert_eq!(
                (finished.code(), finished.stdout.as_str()),
                (Some(4), expected),
                "{}",
                finished.shown()
            );
        }
    }
    world.assert_nothing_left();
    world.assert_sound();
    // What was kept serves a build.
    world.build(&manifest, &["--export", "tree"]).succeeded();
    assert_eq!(names(&world.path("output/tree")), ["a", "b"]);
    // Inside a shell a signal ends it as it ends others.
    assert_eq!(world.shell(&manifest, "tree", "kill -9 $$").code(), Some(128 + 9));
    let mut several = world.shell(&manifest, "mkdir", "");
    several.stderr += &world.shell(&manifest, "org.osbuild.mkdri", "").stderr;
    assert_shown!(world, several, @r#"
    exit code 2
    --- stderr
    error: the manifest has 2 stages `mkdir`
    hint: say which one: `tree:1`, `tree:2`
    error: the manifest has no pipeline or stage `org.osbuild.mkdri`
    hint: did you mean `org.osbuild.mkdir`?
    "#);
}

#[test]
fn root_what_fails_before_the_shell_is_told() {
    let world = World::new();
    let failing = manifest(&[pipeline("tree", &[mkdir(&["/a"]), mkdir(&["/a"]), noop()])]);
    let finished = world.shell(&failing, "noop", "echo never");
    assert_eq!((finished.code(), finished.stdout.as_str()), (Some(1), ""), "{}", finished.shown());
    world.assert_nothing_left();
    world.assert_sound();
}

#[test]
fn root_an_interrupted_shell() {
    for arguments in
        [&["shell", "manifest.json", "tree"][..], &["build", "manifest.json", "--export", "tree", "--break"]]
    {
        let world = World::new();
        world.manifest(&two_stages());
        let mut command = world.kiln(&[arguments, &["--cache"]].concat());
        command.arg(world.cache()).stdin(Stdio::piped());
        let mut run = command.spawn().expect("started");
        // Its end stays open.
        let mut input = run.stdin.take().expect("piped");
        input.write_all(b"(sleep 1001 &); sleep 1000\n").expect("written");
        world.wait_for_process("sleep 1000");
        kill_process(Pid::from_child(&run), Signal::TERM).expect("it runs");
        let finished = finish(run);
        assert_eq!(finished.code(), Some(130), "{}", finished.shown());
        world.assert_nothing_left();
        world.assert_sound();
    }
}

/// At a terminal (of `script`) the shell has job control, and whoever started the program has the terminal again
/// when it ends.
#[test]
fn root_a_shell_at_a_terminal() {
    if !Path::new("/usr/bin/script").exists() {
        let _ = std::io::stderr().write_all(b"SKIPPED: there is no `script` to make a terminal\n");
        return;
    }
    // A manifest on standard input leaves the terminal to the shell.
    for (manifest, input) in [("manifest.json", ""), ("-", " < manifest.json")] {
        let world = World::new();
        world.manifest(&two_stages());
        let line = format!(
            "{KILN} shell {manifest} tree --cache {}{input}; echo \"code $?\"; read line; echo \"read $line\"",
            world.cache().display()
        );
        let mut command = world.program("script", &["-qefc", &line, "/dev/null"]);
        command.stdin(Stdio::piped()).env("TERM", "dumb").env("SHELL", "/bin/sh");
        let mut run = command.spawn().expect("script");
        let mut input = run.stdin.take().expect("piped");
        let mut output = run.stdout.take().expect("piped");
        let mut said = String::new();
        let mut until = |text: &str| {
            let mut buffer = [0; 4096];
            while !said.contains(text) {
                let count = output.read(&mut buffer).expect("read");
                assert!(count > 0, "no `{text}`: {said}");
                said.push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
            said.clear();
        };
        until("# ");
        input.write_all(b"case $- in *m*) echo \"control is $((1 + 1))\";; esac\n").expect("written");
        until("control is 2");
        // Ctrl-C is for what the shell runs, and for nothing else.
        input.write_all(b"sleep 1000\n").expect("written");
        world.wait_for_process("sleep 1000");
        input.write_all(b"\x03").expect("written");
        input.write_all(b"echo \"after $?\"\n").expect("written");
        until("after 130");
        input.write_all(b"exit 3\n").expect("written");
        until("code 3");
        input.write_all(b"line\n").expect("written");
        until("read line");
        drop(input);
        assert!(run.wait().expect("ends").success());
        world.assert_nothing_left();
    }
}
