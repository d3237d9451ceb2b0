//! Modules of a library directory beside the native ones, and manifests held against the schemas of both: recorded
//! facts, and the reference itself where `KILN_REFERENCE` names a checkout of it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::manifests::{manifest, mkdir, pipeline};
use crate::world::{Finished, World, assert_shown, finish};

/// What became of inspecting a manifest.
#[derive(Debug, PartialEq)]
enum Inspected {
    /// The manifest with its ids.
    Description(Value),
    /// The paths of the errors.
    Refused(BTreeSet<String>),
    /// Anything else that was written.
    Other(String),
}

impl Inspected {
    fn new(stdout: &str) -> Self {
        let Ok(value) = serde_json::from_str::<Value>(stdout) else {
            return Self::Other(stdout.to_owned());
        };
        match value.get("errors").and_then(Value::as_array) {
            Some(errors) => Self::Refused(errors.iter().map(|error| error["path"].to_string()).collect()),
            None => Self::Description(value),
        }
    }
}

impl World {
    /// What the reference says of manifests; none for one at which it crashes.
    fn reference_inspects(&self, names: &[PathBuf]) -> Option<Vec<Option<(i64, Inspected)>>> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/client/inspect_all.py");
        let (mut command, checkout) = self.with_reference("python3", &[script.to_str().expect("UTF-8")])?;
        let mut child = command.arg(checkout).stdin(std::process::Stdio::piped()).spawn().expect("started");
        let mut input = child.stdin.take().expect("a pipe");
        for name in names {
            writeln!(input, "{}", name.display()).expect("written");
        }
        drop(input);
        let lines = finish(child).succeeded().stdout;
        let results: Vec<_> = lines
            .lines()
            .map(|line| {
                let result: Value = serde_json::from_str(line).expect("JSON");
                let stdout = result["stdout"].as_str()?;
                Some((result["code"].as_i64().expect("a code"), Inspected::new(stdout)))
            })
            .collect();
        assert_eq!(results.len(), names.len());
        Some(results)
    }

    fn inspects(&self, name: &Path, arguments: &[&str]) -> (i64, Inspected) {
        let name = name.to_str().expect("UTF-8");
        let run = self.osbuild(&[&["--inspect"], arguments, &[name]].concat());
        (run.code().expect("a code").into(), Inspected::new(&run.stdout))
    }
}

/// All files below a directory whose names end as told, sorted.
fn files(directory: &Path, ending: &str, into: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> =
        fs::read_dir(directory).expect("read").map(|entry| entry.expect("read").path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files(&path, ending, into);
        } else if path.to_string_lossy().ends_with(ending) {
            into.push(path);
        }
    }
}

/// The conformance suite, unpacked into a world.
fn conformance(world: &World) -> Vec<PathBuf> {
    let mut packed = Vec::new();
    let suite = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance/manifests");
    files(&suite, ".json.gz", &mut packed);
    packed
        .iter()
        .map(|path| {
            let mut text = String::new();
            let file = fs::File::open(path).expect("opened");
            flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("gzip of text");
            world.write(path.file_stem().expect("a name").to_str().expect("UTF-8"), text)
        })
        .collect()
}

#[test]
fn every_manifest_is_inspected_as_by_the_reference() {
    let world = World::new();
    let mut names = conformance(&world);
    assert!(names.len() > 10);
    if let Some(checkout) = std::env::var_os("KILN_REFERENCE") {
        for directory in ["test/data", "samples"] {
            files(&Path::new(&checkout).join(directory), ".json", &mut names);
        }
    }
    let Some(expected) = world.reference_inspects(&names) else { return };
    let library = std::env::var("KILN_REFERENCE").expect("set");
    let (mut described, mut refused) = (0, 0);
    for (name, expected) in names.iter().zip(expected) {
        let Some(expected) = expected else {
            // It ends in a traceback there; here it must be an error like any other.
            let (code, _) = world.inspects(name, &["--libdir", &library]);
            assert!([1, 2].contains(&code), "{}: {code}", name.display());
            continue;
        };
        // The descriptions would fill the screen.
        assert!(world.inspects(name, &["--libdir", &library]) == expected, "{} differs", name.display());
        match expected.1 {
            Inspected::Description(_) => described += 1,
            _ => refused += 1,
        }
    }
    assert!(described > 150 && refused > 80, "{described} described, {refused} refused");
}

/// Faulty manifests and the paths at which the reference reports their errors (recorded).
fn faulty() -> Vec<(Value, Value)> {
    let stage = |stage: Value| manifest(&[pipeline("p", &[mkdir(&["/a"]), stage])]);
    let place = |rest: &[Value]| {
        let start = [json!("pipelines"), json!(0), json!("stages"), json!(1)];
        Value::Array(start.into_iter().chain(rest.iter().cloned()).collect())
    };
    let ext4 = |members: Value| {
        let mut mount = json!({"name": "root", "type": "org.osbuild.ext4", "source": "disk", "target": "/"});
        mount.as_object_mut().expect("an object").extend(members.as_object().expect("an object").clone());
        stage(json!({
            "type": "org.osbuild.noop",
            "devices": {"disk": {"type": "org.osbuild.loopback", "options": {"filename": "d"}}},
            "mounts": [{"name": "a b", "type": "org.osbuild.xfs", "source": "disk", "target": "/"}, mount],
        }))
    };
    let input = |input: Value| {
        let options = json!({"paths": [{"from": "input://tree/a", "to": "tree:///b"}]});
        stage(json!({"type": "org.osbuild.copy", "options": options, "inputs": {"tree": input}}))
    };
    let tree = |more: Value| {
        let mut tree = json!({
            "type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": ["name:p"],
        });
        tree.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        tree
    };
    vec![
        (json!({"version": "2", "extra": 1}), json!([[]])),
        (json!({"version": "2", "pipelines": {}}), json!([["pipelines"]])),
        (
            json!({"version": "2", "pipelines": [{"name": "p", "build": 1, "x": 2}]}),
            json!([["pipelines", 0], ["pipelines", 0, "build"]]),
        ),
        (
            json!({"version": "2", "sources": {"org.osbuild.curl": {}}}),
            json!([["sources", "org.osbuild.curl"]]),
        ),
        (
            json!({"version": "2", "sources": {"org.osbuild.nothing": {"items": {}}}}),
            json!([["sources", "org.osbuild.nothing"]]),
        ),
        (
            json!({"version": "2", "sources": {"org.osbuild.curl": {"items": {"md5": "x"}}}}),
            json!([["sources", "org.osbuild.curl", "items"]]),
        ),
        (
            json!({"version": "2", "metadata": {"exports": [{}, {"name": 1}], "generators": 1}}),
            json!([
                ["metadata", "exports", 0],
                ["metadata", "exports", 1, "name"],
                ["metadata", "generators"]
            ]),
        ),
        (stage(json!({"type": "org.osbuild.nothing"})), json!([place(&[])])),
        (
            stage(json!({"type": "org.osbuild.mkdir", "options": {"paths": [], "x": 1}, "y": 2})),
            json!([place(&[]), place(&[json!("options")])]),
        ),
        (
            stage(json!({"type": "org.osbuild.mkdir", "options": {"paths": [{"path": 1}, {"mode": "a"}]}})),
            json!([
                place(&["options".into(), "paths".into(), 0.into(), "path".into()]),
                place(&["options".into(), "paths".into(), 1.into()]),
                place(&["options".into(), "paths".into(), 1.into(), "mode".into()]),
            ]),
        ),
        (
            ext4(json!({"options": {"readonly": "yes"}})),
            json!([place(&["mounts".into(), "root".into(), "options".into(), "readonly".into()])]),
        ),
        (
            ext4(json!({"type": "org.osbuild.ext5", "partition": "1"})),
            json!([
                place(&["mounts".into(), 1.into(), "partition".into()]),
                place(&["mounts".into(), "root".into()])
            ]),
        ),
        (
            ext4(json!({"extra": true})),
            json!([place(&["mounts".into(), 1.into()]), place(&["mounts".into(), "root".into()])]),
        ),
        (
            input(tree(json!({"origin": "org.osbuild.source"}))),
            json!([place(&["inputs".into(), "tree".into(), "origin".into()])]),
        ),
        (
            input(tree(json!({"references": []}))),
            json!([place(&["inputs".into(), "tree".into(), "references".into()])]),
        ),
        (
            json!({"pipeline": {"build": {"pipeline": {"stages": [{"name": "org.osbuild.nothing"}]}}}}),
            json!([["pipeline", "build"], ["pipeline", "build", "pipeline", "stages", 0]]),
        ),
        (
            json!({"pipeline": {"assembler": {"name": "org.osbuild.nothing", "x": 1}}}),
            json!([["pipeline", "assembler"]]),
        ),
        (json!({"version": "1"}), json!([[]])),
    ]
}

#[test]
fn errors_are_reported_at_the_references_paths() {
    let world = World::new();
    let (mut names, mut all) = (Vec::new(), Vec::new());
    for (number, (document, paths)) in faulty().into_iter().enumerate() {
        names.push(world.write(&format!("{number}.json"), document.to_string()));
        let paths = paths.as_array().expect("an array").iter().map(Value::to_string).collect();
        all.push((2, Inspected::Refused(paths)));
    }
    for (name, expected) in names.iter().zip(&all) {
        let text = fs::read_to_string(name).expect("read");
        assert_eq!(&world.inspects(name, &[]), expected, "{text}");
    }
    let Some(reference) = world.reference_inspects(&names) else { return };
    let library = std::env::var("KILN_REFERENCE").expect("set");
    for ((name, expected), reference) in names.iter().zip(&all).zip(reference) {
        let text = fs::read_to_string(name).expect("read");
        assert_eq!(&reference.expect("no crash"), expected, "the reference: {text}");
        assert_eq!(&world.inspects(name, &["--libdir", &library]), expected, "with its modules: {text}");
    }
}

/// A library directory with a stage in shell, one that says what it takes in its Python source, a module of a native
/// one's name, and a runner.
pub(crate) fn library(world: &World) -> PathBuf {
    let library = world.path("library");
    let write = |name: &str, text: &str| {
        let path = library.join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
    };
    let meta = |required: &str| {
        json!({
            "summary": "Says something", "description": ["To test with."],
            "schema_2": {"options": {
                "type": "object", "required": [required], "properties": {required: {"$ref": "#/definitions/word"}},
                "definitions": {"word": {"type": "string"}},
            }},
        })
        .to_string()
    };
    write("stages/org.example.say", "#!/bin/sh\necho said > /run/osbuild/tree/said; echo hello\n");
    write("stages/org.example.say.meta.json", &meta("word"));
    write("stages/org.osbuild.mkdir", "#!/bin/sh\necho instead > /run/osbuild/tree/instead\n");
    write("stages/org.osbuild.mkdir.meta.json", &meta("word"));
    write(
        "stages/org.example.old",
        "#!/usr/bin/python3\n\"\"\"Old\n\nHas no description beside it.\n\"\"\"\nSCHEMA = \"\"\"\n\"required\": [\"age\"]\n\"\"\"\n",
    );
    write("stages/org.example.broken.meta.json", "{");
    for runner in ["linux", "debian", "ubuntu1804", "fedora30"] {
        let text = "#!/bin/sh\necho prepared\nexec \"$@\"\n";
        write(&format!("runners/org.osbuild.{runner}"), text);
    }
    library
}

/// A manifest of one stage.
fn one(stage: Value) -> String {
    manifest(&[pipeline("tree", &[stage])]).to_string()
}

#[test]
fn a_module_of_the_library_wins_unless_the_native_one_is_preferred() {
    let world = World::new();
    library(&world);
    world.write("native.json", one(mkdir(&["/a"])));
    world.write("library.json", one(json!({"type": "org.osbuild.mkdir", "options": {"word": "a"}})));
    let both = |arguments: &[&str]| {
        ["native.json", "library.json"].map(|name| world.inspects(Path::new(name), arguments).0)
    };
    assert_eq!(both(&[]), [0, 2]);
    assert_eq!(both(&["--libdir", "library"]), [2, 0]);
    assert_eq!(both(&["-l", "library", "--prefer-native"]), [0, 2]);
    assert_eq!(both(&["-l", "library", "--prefer-native=stages"]), [0, 2]);
    assert_eq!(both(&["-l", "library", "--prefer-native=runners", "--prefer-native=inputs"]), [2, 0]);
    let kinds = |arguments: &[&str]| -> Vec<String> {
        let list = world.run(&[&["modules", "--json"], arguments].concat()).succeeded().json();
        let list = list.as_array().expect("an array").clone();
        let of = |name: &str| {
            let found = list.iter().find(|module| module["name"] == name && module["kind"] == "stage");
            let origin = found.map_or("none", |module| module["origin"].as_str().expect("a text"));
            origin.replace(world.path("").to_str().expect("UTF-8"), "")
        };
        ["org.osbuild.mkdir", "org.example.say", "org.osbuild.noop"].map(of).to_vec()
    };
    assert_eq!(kinds(&[]), ["native", "none", "native"]);
    assert_eq!(
        kinds(&["--libdir", "library"]),
        ["library/stages/org.osbuild.mkdir", "library/stages/org.example.say", "native"]
    );
    let preferred = kinds(&["--libdir", "library", "--prefer-native"]);
    assert_eq!(preferred, ["native", "library/stages/org.example.say", "native"]);
}

#[test]
fn modules_of_a_library_are_documented() {
    let world = World::new();
    library(&world);
    assert_shown!(world, world.run(&["modules", "show", "org.example.say", "--libdir", "library"]), @r#"
    exit code 0
    --- stdout
    org.example.say (stage, [DIR]/library/stages/org.example.say)

      Says something

      To test with.

    Options:
      word (string, required)
    "#);
    assert_shown!(world, world.run(&["modules", "show", "org.example.old", "--libdir", "library"]), @r#"
    exit code 0
    --- stdout
    org.example.old (stage, [DIR]/library/stages/org.example.old)

      Old

      Has no description beside it.

    Options:
      none
    "#);
}

#[test]
fn faults_of_and_in_a_library_are_told() {
    let world = World::new();
    library(&world);
    let told = |stage: Value| -> Finished {
        world.write("manifest.json", one(stage));
        world.run(&["validate", "manifest.json", "--libdir", "library"])
    };
    assert_shown!(world, told(json!({"type": "org.example.say", "options": {"word": 1}})), @r#"
    exit code 2
    --- stderr
    error: expected a string, found an integer
      --> manifest.json:1:98 (.pipelines[0].stages[0].options.word)
      es":[{"type":"org.example.say","options":{"word":1}}]}],"sources":{}}
                                                       ^
    hint: write it in quotes: `"1"`
    "#);
    assert_shown!(world, told(json!({"type": "org.example.old", "options": {}})), @r#"
    exit code 2
    --- stderr
    error: `age` is missing
      --> manifest.json:1:80 (.pipelines[0].stages[0].options)
      name":"tree","stages":[{"type":"org.example.old","options":{}}]}],"sources":{}}
                                                       ^^^^^^^^^
    hint: `kiln modules show org.example.old` documents what it takes
    "#);
    assert_shown!(world, told(json!({"type": "org.example.broken"})), @r#"
    exit code 2
    --- stderr
    error: the stage `org.example.broken` cannot be used: `[DIR]/library/stages/org.example.broken.meta.json`: EOF while parsing an object at line 1 column 1
      --> manifest.json:1:62 (.pipelines[0].stages[0].type)
      {"version":"2","pipelines":[{"name":"tree","stages":[{"type":"org.example.broken"}]}],"sources":{}}
                                                                   ^^^^^^^^^^^^^^^^^^^^
    "#);
    assert_shown!(world, told(json!({"type": "org.example.sya"})), @r#"
    exit code 2
    --- stderr
    error: unknown stage `org.example.sya`
      --> manifest.json:1:62 (.pipelines[0].stages[0].type)
      {"version":"2","pipelines":[{"name":"tree","stages":[{"type":"org.example.sya"}]}],"sources":{}}
                                                                   ^^^^^^^^^^^^^^^^^
    hint: did you mean `org.example.say`?
    "#);
    assert_shown!(world, world.run(&["validate", "manifest.json", "--libdir", "nowhere"]), @r#"
    exit code 2
    --- stderr
    error: there is no library directory `nowhere`
    hint: `--libdir` names a directory with `stages`, `sources` and the like in it
    "#);
}

#[test]
fn root_stages_and_runners_of_a_library_run() {
    let world = World::new();
    let library = library(&world);
    let stages = [
        json!({"type": "org.example.say", "options": {"word": "a"}}),
        json!({"type": "org.osbuild.hostname", "options": {"hostname": "here"}}),
        json!({"type": "org.osbuild.mkdir", "options": {"word": "a"}}),
    ];
    world.manifest(&manifest(&[pipeline("tree", &stages)]));
    let run = |arguments: &[&str]| {
        let common =
            ["--libdir", "library", "--cache", "cache", "--cache-max-size", "unlimited", "--checkpoint", "*"];
        let output = ["--export", "tree", "--output-directory", "out", "--json", "manifest.json"];
        world.osbuild(&[&common[..], arguments, &output].concat()).succeeded().json()
    };
    let outputs = |result: &Value| -> Vec<String> {
        let log = result["log"]["tree"].as_array().cloned().unwrap_or_default();
        log.iter().map(|stage| stage["output"].as_str().expect("a text").to_owned()).collect()
    };
    let first = run(&[]);
    // The runner prepares each build root, that of a native stage too.
    let outputs_of_first = outputs(&first);
    assert_eq!(outputs_of_first[0], "prepared\nhello\n");
    assert!(outputs_of_first.iter().all(|output| output.starts_with("prepared\n")), "{outputs_of_first:?}");
    let tree = world.path("out/tree");
    let read = |name: &str| fs::read_to_string(tree.join(name)).expect(name);
    assert_eq!(
        (read("said"), read("etc/hostname"), read("instead")),
        ("said\n".into(), "here\n".into(), "instead\n".into())
    );
    assert!(outputs(&run(&[])).is_empty(), "all of it is in the cache");
    // Another runner, other code of a stage: nothing of it is used again from there on.
    assert_eq!(outputs(&run(&["--prefer-native=runners"]))[0], "hello\n");
    fs::write(library.join("stages/org.osbuild.mkdir"), "#!/bin/sh\necho changed\n").expect("written");
    assert_eq!(outputs(&run(&["--prefer-native=runners"])), ["changed\n"]);
    world.assert_nothing_left();
}

#[test]
fn root_what_is_not_native_comes_from_the_systems_library() {
    let world = World::new();
    library(&world);
    fs::create_dir(world.path("system")).expect("made");
    fs::rename(world.path("library"), world.path("system/osbuild")).expect("renamed");
    let stages = [json!({"type": "org.example.say", "options": {"word": "a"}}), mkdir(&["/made"])];
    world.manifest(&manifest(&[pipeline("tree", &stages)]));
    let arguments = ["--cache", "cache", "--export", "tree", "--output-directory", "out", "manifest.json"];
    let refused = world.osbuild(&arguments);
    if Path::new("/usr/lib/osbuild").exists() {
        // The machine's own is in the way of the first half only.
        assert_ne!(refused.code(), Some(0));
    } else {
        assert_eq!(refused.code(), Some(2), "{}", refused.shown());
    }
    // In a mount namespace of its own the directory appears below `/usr/lib`.
    let script = "mount -t overlay overlay -o lowerdir=\"$0/system\":/usr/lib /usr/lib && exec \"$@\"";
    let program = world.osbuild_program();
    let directory = world.path("");
    let start =
        ["--mount", "sh", "-c", script, directory.to_str().expect("UTF-8"), program.to_str().expect("UTF-8")];
    finish(world.program("unshare", &[&start[..], &arguments].concat()).spawn().expect("started"))
        .succeeded();
    assert!(world.path("out/tree/said").is_file(), "the library's stage ran");
    assert!(
        world.path("out/tree/made").is_dir() && !world.path("out/tree/instead").exists(),
        "the native one ran"
    );
    world.assert_nothing_left();
}

#[test]
fn root_a_library_that_has_only_a_place_for_its_package_gets_it_from_python() {
    let world = World::new();
    let library = library(&world);
    let program =
        "#!/usr/bin/python3\nimport osbuild\nopen('/run/osbuild/tree/word', 'w').write(osbuild.WORD)\n";
    fs::write(library.join("stages/org.example.say"), program).expect("written");
    fs::create_dir_all(world.path("python/osbuild")).expect("made");
    let say = |word: &str| world.write("python/osbuild/__init__.py", format!("WORD = '{word}'\n"));
    say("first");
    world.manifest(&manifest(&[pipeline(
        "tree",
        &[json!({"type": "org.example.say", "options": {"word": "a"}})],
    )]));
    let run = |python_path: &str| {
        let mut command = world.program(world.osbuild_program(), &["--libdir", "library", "manifest.json"]);
        command.args(["--cache", "cache", "--cache-max-size", "unlimited", "--checkpoint", "*"]);
        command.args(["--export", "tree", "--output-directory", "out"]).env("PYTHONPATH", python_path);
        finish(command.spawn().expect("started"))
    };
    let word = || fs::read_to_string(world.path("out/tree/word")).expect("a word");
    // Without a place for it, the package is none of the build root's.
    assert_eq!(run("python").code(), Some(1));
    fs::create_dir(library.join("osbuild")).expect("made");
    run("nowhere::python").succeeded();
    assert_eq!(word(), "first");
    // What is in the cache was made with another one.
    say("second");
    run("python").succeeded();
    assert_eq!(word(), "second");
    world.assert_nothing_left();
}
