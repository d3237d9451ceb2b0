//! `kiln validate`: all findings at once, each with its place and, where there is one, a suggestion.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::manifests::{disk, good, manifest, noop, pipeline};
use crate::world::{World, assert_shown};

/// Everything that is wrong with a manifest that is written as told.
macro_rules! assert_faults {
    ($text:expr, @$expected:literal) => {
        let world = $crate::world::World::new();
        world.write("manifest.json", $text);
        let finished = world.run(&["validate", "manifest.json"]);
        $crate::world::assert_shown!(world, finished, @$expected);
    };
}

mod formats;
mod texts;

fn write(world: &World, manifest: &Value) {
    world.write("manifest.json", serde_json::to_string_pretty(manifest).expect("JSON"));
}

#[test]
fn valid() {
    let world = World::new();
    write(&world, &good("a"));
    assert_shown!(world, world.run(&["validate", "manifest.json"]), @r#"
    exit code 0
    --- stdout
    `manifest.json` is valid
    "#);
    let finished = world.run(&["validate", "manifest.json", "--json"]).succeeded();
    assert_eq!(finished.json(), json!({"success": true, "errors": []}));
    world.write("definition.toml", "name = \"a\"\ndistro = \"debian-12\"\n");
    world.run(&["validate", "definition.toml"]).succeeded();
}

/// One fault of each kind, those of the loader and those of the modules' schemas side by side.
fn faulty() -> Value {
    let mut faulty = disk("a", "16M");
    faulty["pipelines"][0]["stages"] = json!([
        {"type": "org.osbuild.mkdri"},
        {"type": "org.osbuild.mkdir", "options": {"paths": [{"path": "/a", "parent": true, "mode": "0755"}]}},
        {"type": "org.osbuild.hostname"},
        {"type": "org.osbuild.systemd", "options": {"enabled_services": "sshd"}},
        {"type": "org.osbuild.noop", "options": 1},
    ]);
    let stages = faulty["pipelines"][1]["stages"].as_array_mut().expect("stages");
    let copy = stages.last_mut().expect("a stage");
    copy["inputs"]["tree"]["references"] = json!(["name:three"]);
    copy["mounts"][0]["source"] = json!("devise");
    copy["devices"]["device"]["type"] = json!("org.osbuild.lopback");
    faulty["pipelines"][1]["bild"] = json!("name:tree");
    faulty["sources"]["org.osbuild.crul"] = json!({"items": {}});
    faulty
}

#[test]
fn everything_at_once() {
    let world = World::new();
    write(&world, &faulty());
    assert_shown!(world, world.run(&["validate", "manifest.json"]), @r#"
    exit code 2
    --- stderr
    error: the manifest has 11 errors
      unknown stage `org.osbuild.mkdri`
      --> manifest.json:8:19 (.pipelines[0].stages[0].type)
                "type": "org.osbuild.mkdri"
                        ^^^^^^^^^^^^^^^^^^^
      hint: did you mean `org.osbuild.mkdir`?
      unknown option `parent`
      --> manifest.json:16:17 (.pipelines[0].stages[1].options.paths[0].parent)
                      "parent": true,
                      ^^^^^^^^
      hint: did you mean `parents`?
      expected a number, found a string
      --> manifest.json:17:25 (.pipelines[0].stages[1].options.paths[0].mode)
                      "mode": "0755"
                              ^^^^^^
      hint: numbers are decimal: `493` is octal 0755
      `hostname` is missing
      --> manifest.json:22:9 (.pipelines[0].stages[2].options)
              {
              ^
      hint: `kiln modules show org.osbuild.hostname` documents what it takes
      expected an array, found a string
      --> manifest.json:28:33 (.pipelines[0].stages[3].options.enabled_services)
                  "enabled_services": "sshd"
                                      ^^^^^^
      hint: write it as a list: `["sshd"]`
      expected an object, found an integer
      --> manifest.json:33:22 (.pipelines[0].stages[4].options)
                "options": 1
                           ^
      unknown pipeline `three`
      --> manifest.json:69:17 (.pipelines[1].stages[2].inputs.tree.references[0])
                      "name:three"
                      ^^^^^^^^^^^^
      hint: did you mean `tree`?
      unknown device `org.osbuild.lopback`
      --> manifest.json:83:23 (.pipelines[1].stages[2].devices.device.type)
                    "type": "org.osbuild.lopback",
                            ^^^^^^^^^^^^^^^^^^^^^
      hint: did you mean `org.osbuild.loopback`?
      mount `root` names an unknown device `devise`
      --> manifest.json:93:25 (.pipelines[1].stages[2].mounts[0].source)
                    "source": "devise",
                              ^^^^^^^^
      hint: did you mean `device`?
      unknown key `bild`
      --> manifest.json:99:7 (.pipelines[1].bild)
            "bild": "name:tree"
            ^^^^^^
      hint: did you mean `build`?
      unknown source `org.osbuild.crul`
      --> manifest.json:103:5 (.sources.org.osbuild.crul)
          "org.osbuild.crul": {
          ^^^^^^^^^^^^^^^^^^
      hint: did you mean `org.osbuild.curl`?
    "#);
}

#[test]
fn errors_as_json() {
    let world = World::new();
    write(&world, &faulty());
    let finished = world.run(&["validate", "manifest.json", "--json"]);
    assert_eq!(finished.code(), Some(2), "{}", finished.shown());
    let object = finished.json();
    assert_eq!(object["type"], "https://osbuild.org/validation-error");
    assert_eq!(object["title"], "JSON Schema validation failed");
    assert_eq!(object["success"], false);
    let errors = object["errors"].as_array().expect("errors");
    let text = std::fs::read_to_string(world.path("manifest.json")).expect("read");
    let lines: Vec<&str> = text.lines().collect();
    for error in errors {
        assert!(error["message"].is_string() && error["path"].is_array(), "{error}");
        let at = |name: &str| usize::try_from(error[name].as_u64().expect("a number")).expect("small");
        assert!(lines[at("line") - 1].chars().count() >= at("column"), "{error}");
    }
    let first = json!({
        "message": "unknown stage `org.osbuild.mkdri`", "path": ["pipelines", 0, "stages", 0, "type"],
        "line": errors[0]["line"], "column": errors[0]["column"], "hint": "did you mean `org.osbuild.mkdir`?",
    });
    assert!(errors.contains(&first) || errors.iter().any(|error| error["message"] == first["message"]));
    world.write("manifest.json", "{\"version\": \"2\",\n \"pipelines\": [,]}");
    let finished = world.run(&["validate", "manifest.json", "--json"]);
    let error = &finished.json()["errors"][0];
    assert_eq!((error["line"].as_u64(), error["column"].as_u64()), (Some(2), Some(16)), "{error}");
    assert_eq!(finished.code(), Some(2));
}

#[test]
fn definitions() {
    let world = World::new();
    world.write(
        "definition.toml",
        "name = 1\ndistro = \"debian-12\"\n[customizations]\nhostnam = \"b\"\n[[packages]]\nname = 2\n",
    );
    assert_shown!(world, world.run(&["validate", "definition.toml"]), @r#"
    exit code 2
    --- stderr
    error: the definition has 3 errors
      `name` must be a string, not an integer
      --> definition.toml:1:8
      1 | name = 1
        |        ^
      unknown key `hostnam` in `customizations`
      --> definition.toml:4:1
      4 | hostnam = "b"
        | ^^^^^^^
      hint: did you mean `hostname`?
      `packages.name` must be a string, not an integer
      --> definition.toml:6:8
      6 | name = 2
        |        ^
    "#);
    let finished = world.run(&["validate", "definition.toml", "--json"]);
    assert_eq!(finished.code(), Some(2));
    assert_eq!(finished.json()["errors"][0]["line"], 1);
}

#[test]
fn ten_thousand_faulty_stages() {
    let world = World::new();
    let stages: Vec<Value> = (0..10_000)
        .map(|index| match index % 3 {
            0 => {
                json!({"type": "org.osbuild.mkdir", "options": {"paths": [{"path": index, "parent": true}]}})
            }
            1 => json!({"type": "org.osbuild.hostnam", "options": {"hostname": "a"}}),
            _ => json!({"type": "org.osbuild.users", "options": {"users": {"a": {"uid": "b"}}}}),
        })
        .collect();
    let faulty = manifest(&[pipeline("tree", &stages), json!({"name": "tree", "stages": [noop()]})]);
    // A text in lines and one in one line: places are found as fast in either.
    for text in [serde_json::to_string_pretty(&faulty), serde_json::to_string(&faulty)] {
        world.write("manifest.json", text.expect("JSON"));
        for arguments in [&["validate", "manifest.json"][..], &["validate", "manifest.json", "--json"]] {
            let start = Instant::now();
            let finished = world.run(arguments);
            let elapsed = start.elapsed();
            assert_eq!(finished.code(), Some(2));
            let output = finished.stdout + &finished.stderr;
            assert!(output.matches("org.osbuild.hostnam`").count() >= 3333);
            // What is measured with optimised code is far below a second; what is guarded against is quadratic work.
            assert!(elapsed < Duration::from_secs(5), "{arguments:?} took {elapsed:?}");
        }
    }
}
