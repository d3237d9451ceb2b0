//! `kiln validate`: all findings at once, each with its place and, where there is one, a suggestion.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::manifests::{disk, good, manifest, noop, pipeline};
use crate::world::{World, assert_shown};

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

/// Everything that is wrong with a manifest that is written as told.
macro_rules! assert_faults {
    ($text:expr, @$expected:literal) => {
        let world = World::new();
        world.write("manifest.json", $text);
        let finished = world.run(&["validate", "manifest.json"]);
        assert_shown!(world, finished, @$expected);
    };
}

#[test]
fn the_structure_of_format_2() {
    assert_faults!(r#"{
  "version": "2",
  "pipeline": {},
  "metadata": {"generators": [{"nam": "x"}], "exports": "tree"},
  "pipelines": [
    1,
    {"name": 2, "build": 3, "runner": [], "source-epoch": "now", "stages": {}, "stage": []},
    {"stages": [
      "x",
      {},
      {"type": 1},
      {"type": "org.osbuild.noop", "name": "a", "option": {}, "inputs": [], "devices": [], "mounts": {}},
      {
        "type": "org.osbuild.copy",
        "options": {"paths": [{"from": "input://b/", "to": "tree:///"}]},
        "inputs": {
          "0": {"type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": ["name:a"]},
          "a": {},
          "b": {"type": "org.osbuild.tree", "origin": "org.osbuild.pipline", "references": 1, "more": 1}
        },
        "devices": {"d": 1, "e": {"typ": "x"}, "f": {"type": "org.osbuild.loopback", "parent": 1}},
        "mounts": [1, {"name": "m"}, {"name": 1, "type": "org.osbuild.ext4", "partition": "1", "targt": "/"}]
      }
    ]}
  ],
  "sources": {"org.osbuild.curl": 1, "org.osbuild.inline": {"item": {}}}
}"#, @r#"
exit code 2
--- stderr
error: the manifest has 39 errors
  unknown key `pipeline`
  --> manifest.json:3:3 (.pipeline)
    "pipeline": {},
    ^^^^^^^^^^
  hint: did you mean `pipelines`?
  unknown key `nam`
  --> manifest.json:4:32 (.metadata.generators[0].nam)
    "metadata": {"generators": [{"nam": "x"}], "exports": "tree"},
                                 ^^^^^
  hint: did you mean `name`?
  expected an array, found a string
  --> manifest.json:4:57 (.metadata.exports)
    "metadata": {"generators": [{"nam": "x"}], "exports": "tree"},
                                                          ^^^^^^
  expected an object, found an integer
  --> manifest.json:6:5 (.pipelines[0])
      1,
      ^
  expected a string, found an integer
  --> manifest.json:7:14 (.pipelines[1].name)
      {"name": 2, "build": 3, "runner": [], "source-epoch": "now", "stages": {}, "stage": []},
               ^
  hint: write it in quotes: `"2"`
  expected a string, found an integer
  --> manifest.json:7:26 (.pipelines[1].build)
      {"name": 2, "build": 3, "runner": [], "source-epoch": "now", "stages": {}, "stage": []},
                           ^
  hint: write it in quotes: `"3"`
  expected a string, found an array
  --> manifest.json:7:29 (.pipelines[1].runner)
      {"name": 2, "build": 3, "runner": [], "source-epoch": "now", "stages": {}, "stage": []},
                              ^^^^^^^^
  expected an integer, found a string
  --> manifest.json:7:59 (.pipelines[1].source-epoch)
      {"name": 2, "build": 3, "runner": [], "source-epoch": "now", "stages": {}, "stage": []},
                                                            ^^^^^
  expected an array, found an object
  --> manifest.json:7:66 (.pipelines[1].stages)
      {"name": 2, "build": 3, "runner": [], "source-epoch": "now", "stages": {}, "stage": []},
                                                                   ^^^^^^^^
  unknown key `stage`
  --> manifest.json:7:80 (.pipelines[1].stage)
  unner": [], "source-epoch": "now", "stages": {}, "stage": []},
                                                   ^^^^^^^
  hint: did you mean `stages`?
  `name` is missing
  --> manifest.json:8:5 (.pipelines[2])
      {"stages": [
      ^
  expected an object, found a string
  --> manifest.json:9:7 (.pipelines[2].stages[0])
        "x",
        ^^^
  `type` is missing
  --> manifest.json:10:7 (.pipelines[2].stages[1])
        {},
        ^
  expected a string, found an integer
  --> manifest.json:11:16 (.pipelines[2].stages[2].type)
        {"type": 1},
                 ^
  hint: write it in quotes: `"1"`
  unknown key `name`
  --> manifest.json:12:36 (.pipelines[2].stages[3].name)
        {"type": "org.osbuild.noop", "name": "a", "option": {}, "inputs": [], "devices": [], "mounts":
                                     ^^^^^^
  hint: known keys are `type`, `options`, `inputs`, `devices`, `mounts`
  unknown key `option`
  --> manifest.json:12:49 (.pipelines[2].stages[3].option)
        {"type": "org.osbuild.noop", "name": "a", "option": {}, "inputs": [], "devices": [], "mounts":
                                                  ^^^^^^^^
  hint: did you mean `options`?
  expected an object, found an array
  --> manifest.json:12:63 (.pipelines[2].stages[3].inputs)
        {"type": "org.osbuild.noop", "name": "a", "option": {}, "inputs": [], "devices": [], "mounts":
                                                                ^^^^^^^^
  hint: `kiln modules show org.osbuild.noop` documents what it takes
  expected an object, found an array
  --> manifest.json:12:77 (.pipelines[2].stages[3].devices)
  .noop", "name": "a", "option": {}, "inputs": [], "devices": [], "mounts": {}},
                                                   ^^^^^^^^^
  hint: `kiln modules show org.osbuild.noop` documents what it takes
  expected an array, found an object
  --> manifest.json:12:92 (.pipelines[2].stages[3].mounts)
   "a", "option": {}, "inputs": [], "devices": [], "mounts": {}},
                                                   ^^^^^^^^
  unknown key `0`
  --> manifest.json:17:11 (.pipelines[2].stages[4].inputs.0)
            "0": {"type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": ["name:a
            ^^^
  hint: keys match the pattern `^[a-zA-Z][a-zA-Z0-9_\-\.]{0,254}`
  unknown pipeline `a`
  --> manifest.json:17:94 (.pipelines[2].stages[4].inputs.0.references[0])
  "origin": "org.osbuild.pipeline", "references": ["name:a"]},
                                                   ^^^^^^^^
  hint: a pipeline can only refer to an earlier one, and there is none
  `type` is missing
  --> manifest.json:18:11 (.pipelines[2].stages[4].inputs.a)
            "a": {},
            ^^^
  `origin` is missing
  --> manifest.json:18:11 (.pipelines[2].stages[4].inputs.a)
            "a": {},
            ^^^
  `references` is missing
  --> manifest.json:18:11 (.pipelines[2].stages[4].inputs.a)
            "a": {},
            ^^^
  expected `org.osbuild.pipeline`, found `org.osbuild.pipline`
  --> manifest.json:19:55 (.pipelines[2].stages[4].inputs.b.origin)
            "b": {"type": "org.osbuild.tree", "origin": "org.osbuild.pipline", "references": 1, "more"
                                                        ^^^^^^^^^^^^^^^^^^^^^
  hint: did you mean `org.osbuild.pipeline`?
  expected an array or an object, found an integer
  --> manifest.json:19:92 (.pipelines[2].stages[4].inputs.b.references)
  , "origin": "org.osbuild.pipline", "references": 1, "more": 1}
                                                   ^
  unknown key `more`
  --> manifest.json:19:95 (.pipelines[2].stages[4].inputs.b.more)
  origin": "org.osbuild.pipline", "references": 1, "more": 1}
                                                   ^^^^^^
  hint: known keys are `type`, `origin`, `references`, `options`
  expected an object, found an integer
  --> manifest.json:21:26 (.pipelines[2].stages[4].devices.d)
          "devices": {"d": 1, "e": {"typ": "x"}, "f": {"type": "org.osbuild.loopback", "parent": 1}},
                           ^
  unknown key `typ`
  --> manifest.json:21:35 (.pipelines[2].stages[4].devices.e.typ)
          "devices": {"d": 1, "e": {"typ": "x"}, "f": {"type": "org.osbuild.loopback", "parent": 1}},
                                    ^^^^^
  hint: did you mean `type`?
  `filename` is missing
  --> manifest.json:21:48 (.pipelines[2].stages[4].devices.f.options)
          "devices": {"d": 1, "e": {"typ": "x"}, "f": {"type": "org.osbuild.loopback", "parent": 1}},
                                                 ^^^
  hint: `kiln modules show org.osbuild.loopback` documents what it takes
  expected a string, found an integer
  --> manifest.json:21:96 (.pipelines[2].stages[4].devices.f.parent)
   "f": {"type": "org.osbuild.loopback", "parent": 1}},
                                                   ^
  hint: write it in quotes: `"1"`
  expected an object, found an integer
  --> manifest.json:22:20 (.pipelines[2].stages[4].mounts[0])
          "mounts": [1, {"name": "m"}, {"name": 1, "type": "org.osbuild.ext4", "partition": "1", "targ
                     ^
  `type` is missing
  --> manifest.json:22:23 (.pipelines[2].stages[4].mounts[1])
          "mounts": [1, {"name": "m"}, {"name": 1, "type": "org.osbuild.ext4", "partition": "1", "targ
                        ^
  `source` is missing
  --> manifest.json:22:38 (.pipelines[2].stages[4].mounts[2])
          "mounts": [1, {"name": "m"}, {"name": 1, "type": "org.osbuild.ext4", "partition": "1", "targ
                                       ^
  hint: `kiln modules show org.osbuild.ext4` documents what it takes
  expected a string, found an integer
  --> manifest.json:22:47 (.pipelines[2].stages[4].mounts[2].name)
          "mounts": [1, {"name": "m"}, {"name": 1, "type": "org.osbuild.ext4", "partition": "1", "targ
                                                ^
  hint: write it in quotes: `"1"`
  expected a number, found a string
  --> manifest.json:22:91 (.pipelines[2].stages[4].mounts[2].partition)
  me": 1, "type": "org.osbuild.ext4", "partition": "1", "targt": "/"}]
                                                   ^^^
  hint: write it without quotes: `1`
  unknown key `targt`
  --> manifest.json:22:96 (.pipelines[2].stages[4].mounts[2].targt)
  1, "type": "org.osbuild.ext4", "partition": "1", "targt": "/"}]
                                                   ^^^^^^^
  hint: did you mean `target`?
  expected an object, found an integer
  --> manifest.json:26:35 (.sources.org.osbuild.curl)
    "sources": {"org.osbuild.curl": 1, "org.osbuild.inline": {"item": {}}}
                                    ^
  unknown key `item`
  --> manifest.json:26:61 (.sources.org.osbuild.inline.item)
    "sources": {"org.osbuild.curl": 1, "org.osbuild.inline": {"item": {}}}
                                                              ^^^^^^
  hint: did you mean `items`?
"#);
}

#[test]
fn references_and_names_of_format_2() {
    assert_faults!(r#"{
  "version": "2",
  "pipelines": [
    {"name": "first", "build": "name:later", "stages": [{"type": "org.osbuild.noop"}]},
    {"name": "later", "build": "first", "stages": [{"type": "org.osbuild.noop"}]},
    {"name": "later", "stages": []},
    {"name": "image", "build": "name:frist", "stages": [
      {
        "type": "org.osbuild.copy",
        "options": {"paths": [
          {"from": "input://tre/", "to": "mount://boot/"},
          {"from": "input://tree/", "to": "mount://roof/"}
        ]},
        "inputs": {
          "tree": {"type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": ["name:fisrt"]},
          "files": {"type": "org.osbuild.files", "origin": "org.osbuild.source", "references": {
            "1111111111111111111111111111111111111111111111111111111111111111": {},
            "sha256:2222222222222222222222222222222222222222222222222222222222222222": {},
            "name:first": {}
          }}
        },
        "devices": {
          "disk": {"type": "org.osbuild.loopback", "options": {"filename": "disk.img"}},
          "part": {"type": "org.osbuild.loopback", "parent": "dsik", "options": {"filename": "disk.img"}},
          "one": {"type": "org.osbuild.loopback", "parent": "other", "options": {"filename": "disk.img"}},
          "other": {"type": "org.osbuild.loopback", "parent": "one", "options": {"filename": "disk.img"}}
        },
        "mounts": [
          {"name": "root", "type": "org.osbuild.ext4", "source": "disc", "target": "/"},
          {"name": "roof", "type": "org.osbuild.ext4", "source": "disk", "target": "/"},
          {"name": "roof", "type": "org.osbuild.ext4", "source": "disk", "target": "/home"},
          {"name": "far", "type": "org.osbuild.ext4", "source": "elsewhere", "target": "/far"}
        ]
      }
    ]}
  ],
  "sources": {"org.osbuild.curl": {"items": {
    "sha256:1111111111111111111111111111111111111111111111111111111111111111": "https://example.invalid/a"
  }}}
}"#, @r#"
exit code 2
--- stderr
error: the manifest has 15 errors
  unknown pipeline `later`
  --> manifest.json:4:32 (.pipelines[0].build)
      {"name": "first", "build": "name:later", "stages": [{"type": "org.osbuild.noop"}]},
                                 ^^^^^^^^^^^^
  hint: a pipeline can only refer to an earlier one, and there is none
  unknown pipeline `first`
  --> manifest.json:5:32 (.pipelines[1].build)
      {"name": "later", "build": "first", "stages": [{"type": "org.osbuild.noop"}]},
                                 ^^^^^^^
  hint: did you mean `name:first`?
  there is already a pipeline named `later`
  --> manifest.json:6:14 (.pipelines[2].name)
      {"name": "later", "stages": []},
               ^^^^^^^
  hint: pipelines are referred to by their names: give each its own
  unknown pipeline `frist`
  --> manifest.json:7:32 (.pipelines[3].build)
      {"name": "image", "build": "name:frist", "stages": [
                                 ^^^^^^^^^^^^
  hint: did you mean `first`?
  unknown input `tre` in `input://tre/`
  --> manifest.json:11:20 (.pipelines[3].stages[0].options.paths[0].from)
            {"from": "input://tre/", "to": "mount://boot/"},
                     ^^^^^^^^^^^^^^
  hint: did you mean `tree`?
  unknown mount `boot` in `mount://boot/`
  --> manifest.json:11:42 (.pipelines[3].stages[0].options.paths[0].to)
            {"from": "input://tre/", "to": "mount://boot/"},
                                           ^^^^^^^^^^^^^^^
  hint: did you mean `root`?
  unknown pipeline `fisrt`
  --> manifest.json:15:97 (.pipelines[3].stages[0].inputs.tree.references[0])
  "origin": "org.osbuild.pipeline", "references": ["name:fisrt"]},
                                                   ^^^^^^^^^^^^
  hint: did you mean `first`?
  no source has an item `[ID]`
  --> manifest.json:17:13 (.pipelines[3].stages[0].inputs.files.references.[ID])
              "[ID]": {},
              ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  hint: items have the name of the algorithm: `sha256:[ID]`
  no source has an item `sha256:[ID]`
  --> manifest.json:18:13 (.pipelines[3].stages[0].inputs.files.references.sha256:[ID])
              "sha256:[ID]": {},
              ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  hint: add the item to one of the manifest's sources
  no source has an item `name:first`
  --> manifest.json:19:13 (.pipelines[3].stages[0].inputs.files.references.name:first)
              "name:first": {}
              ^^^^^^^^^^^^
  hint: with the origin `org.osbuild.pipeline`, `name:first` is the pipeline `first`
  the devices `one`, `other` are each other's parents
  --> manifest.json:22:9 (.pipelines[3].stages[0].devices)
          "devices": {
          ^^^^^^^^^
  device `part` has an unknown parent `dsik`
  --> manifest.json:24:62 (.pipelines[3].stages[0].devices.part.parent)
            "part": {"type": "org.osbuild.loopback", "parent": "dsik", "options": {"filename": "disk.i
                                                               ^^^^^^
  hint: did you mean `disk`?
  mount `root` names an unknown device `disc`
  --> manifest.json:29:66 (.pipelines[3].stages[0].mounts[0].source)
            {"name": "root", "type": "org.osbuild.ext4", "source": "disc", "target": "/"},
                                                                   ^^^^^^
  hint: did you mean `disk`?
  there is already a mount named `roof`
  --> manifest.json:31:20 (.pipelines[3].stages[0].mounts[2].name)
            {"name": "roof", "type": "org.osbuild.ext4", "source": "disk", "target": "/home"},
                     ^^^^^^
  hint: mounts are referred to by their names: give each of a stage its own
  mount `far` names an unknown device `elsewhere`
  --> manifest.json:32:65 (.pipelines[3].stages[0].mounts[3].source)
            {"name": "far", "type": "org.osbuild.ext4", "source": "elsewhere", "target": "/far"}
                                                                  ^^^^^^^^^^^
  hint: the stage's devices are `disk`, `part`, `one`, `other`
"#);
}

#[test]
fn references_when_there_is_nothing_to_refer_to() {
    assert_faults!(r#"{
  "version": "2",
  "pipelines": [
    {"name": "first", "build": "name:second", "stages": [{
      "type": "org.osbuild.copy",
      "options": {"paths": [{"from": "input://tree/", "to": "mount://root/"}]},
      "mounts": [{"name": "boot", "type": "org.osbuild.ext4", "source": "disk", "target": "/"}]
    }]}
  ]
}"#, @r#"
exit code 2
--- stderr
error: the manifest has 4 errors
  unknown pipeline `second`
  --> manifest.json:4:32 (.pipelines[0].build)
      {"name": "first", "build": "name:second", "stages": [{
                                 ^^^^^^^^^^^^^
  hint: a pipeline can only refer to an earlier one, and there is none
  unknown input `tree` in `input://tree/`
  --> manifest.json:6:38 (.pipelines[0].stages[0].options.paths[0].from)
        "options": {"paths": [{"from": "input://tree/", "to": "mount://root/"}]},
                                       ^^^^^^^^^^^^^^^
  hint: the stage has no inputs
  unknown mount `root` in `mount://root/`
  --> manifest.json:6:61 (.pipelines[0].stages[0].options.paths[0].to)
        "options": {"paths": [{"from": "input://tree/", "to": "mount://root/"}]},
                                                              ^^^^^^^^^^^^^^^
  hint: did you mean `boot`?
  mount `boot` names an unknown device `disk`
  --> manifest.json:7:73 (.pipelines[0].stages[0].mounts[0].source)
        "mounts": [{"name": "boot", "type": "org.osbuild.ext4", "source": "disk", "target": "/"}]
                                                                          ^^^^^^
  hint: the stage has no devices
"#);
}

#[test]
fn format_1() {
    assert_faults!(r#"{
  "piplines": [],
  "pipeline": {
    "build": {"pipeline": {"stages": [{"name": "org.osbuild.noop"}], "runner": "a"}, "runer": "org.osbuild.linux"},
    "stages": [
      1,
      {"type": "org.osbuild.noop"},
      {"name": "org.osbuild.nop"},
      {"name": "org.osbuild.mkdir", "options": {"paths": [{"pat": "/a"}]}, "inputs": {}},
      {"name": "org.osbuild.hostname"}
    ],
    "assembler": {"name": "org.osbuild.tarr", "options": []}
  },
  "sources": {
    "org.osbuild.files": {"items": {}},
    "org.osbuild.crul": {"urls": {}},
    "org.osbuild.inline": {"items": {}}
  }
}"#, @r#"
exit code 2
--- stderr
error: the manifest has 15 errors
  unknown key `piplines`
  --> manifest.json:2:3 (.piplines)
    "piplines": [],
    ^^^^^^^^^^
  hint: did you mean `pipeline`?
  unknown key `runner`
  --> manifest.json:4:70 (.pipeline.build.pipeline.runner)
      "build": {"pipeline": {"stages": [{"name": "org.osbuild.noop"}], "runner": "a"}, "runer": "org.o
                                                                       ^^^^^^^^
  hint: known keys are `build`, `stages`, `assembler`
  unknown key `runer`
  --> manifest.json:4:86 (.pipeline.build.runer)
   [{"name": "org.osbuild.noop"}], "runner": "a"}, "runer": "org.osbuild.linux"},
                                                   ^^^^^^^
  hint: did you mean `runner`?
  expected an object, found an integer
  --> manifest.json:6:7 (.pipeline.stages[0])
        1,
        ^
  `name` is missing
  --> manifest.json:7:7 (.pipeline.stages[1])
        {"type": "org.osbuild.noop"},
        ^
  unknown key `type`
  --> manifest.json:7:8 (.pipeline.stages[1].type)
        {"type": "org.osbuild.noop"},
         ^^^^^^
  hint: known keys are `name`, `options`
  unknown stage `org.osbuild.nop`
  --> manifest.json:8:16 (.pipeline.stages[2].name)
        {"name": "org.osbuild.nop"},
                 ^^^^^^^^^^^^^^^^^
  hint: did you mean `org.osbuild.noop`?
  unknown option `pat`
  --> manifest.json:9:60 (.pipeline.stages[3].options.paths[0].pat)
        {"name": "org.osbuild.mkdir", "options": {"paths": [{"pat": "/a"}]}, "inputs": {}},
                                                             ^^^^^
  hint: did you mean `path`?
  unknown key `inputs`
  --> manifest.json:9:76 (.pipeline.stages[3].inputs)
  d.mkdir", "options": {"paths": [{"pat": "/a"}]}, "inputs": {}},
                                                   ^^^^^^^^
  hint: known keys are `name`, `options`
  `hostname` is missing
  --> manifest.json:10:7 (.pipeline.stages[4].options)
        {"name": "org.osbuild.hostname"}
        ^
  hint: `kiln modules show org.osbuild.hostname` documents what it takes
  unknown assembler `org.osbuild.tarr`
  --> manifest.json:12:27 (.pipeline.assembler.name)
      "assembler": {"name": "org.osbuild.tarr", "options": []}
                            ^^^^^^^^^^^^^^^^^^
  hint: did you mean `org.osbuild.tar`?
  expected an object, found an array
  --> manifest.json:12:47 (.pipeline.assembler.options)
      "assembler": {"name": "org.osbuild.tarr", "options": []}
                                                ^^^^^^^^^
  `urls` is missing
  --> manifest.json:15:5 (.sources.org.osbuild.files)
      "org.osbuild.files": {"items": {}},
      ^^^^^^^^^^^^^^^^^^^
  unknown source `org.osbuild.crul`
  --> manifest.json:16:5 (.sources.org.osbuild.crul)
      "org.osbuild.crul": {"urls": {}},
      ^^^^^^^^^^^^^^^^^^
  hint: did you mean `org.osbuild.curl`?
  unknown source `org.osbuild.inline`
  --> manifest.json:17:5 (.sources.org.osbuild.inline)
      "org.osbuild.inline": {"items": {}}
      ^^^^^^^^^^^^^^^^^^^^
  hint: manifests of format 1 have `org.osbuild.curl`, `org.osbuild.librepo`, `org.osbuild.ostree`
"#);
}

#[test]
fn unknown_modules() {
    assert_faults!(r#"{
  "version": "2",
  "pipelines": [{"name": "tree", "stages": [
    {"type": "org.osbuild.hostnam", "options": {"anything": true}},
    {"type": "com.example.paint"},
    {
      "type": "org.osbuild.copy",
      "options": {"paths": [{"from": "input://a/", "to": "mount://c/"}]},
      "inputs": {"a": {"type": "org.osbuild.trees", "origin": "org.osbuild.pipeline", "references": []}},
      "devices": {"b": {"type": "org.osbuild.lopback"}},
      "mounts": [{"name": "c", "type": "org.osbuild.ext3", "source": "b", "target": "/"}]
    }
  ]}],
  "sources": {"org.osbuild.crul": {"items": {}}, "com.example.git": {"items": {}}}
}"#, @r#"
exit code 2
--- stderr
error: the manifest has 8 errors
  unknown stage `org.osbuild.hostnam`
  --> manifest.json:4:14 (.pipelines[0].stages[0].type)
      {"type": "org.osbuild.hostnam", "options": {"anything": true}},
               ^^^^^^^^^^^^^^^^^^^^^
  hint: did you mean `org.osbuild.hostname`?
  unknown stage `com.example.paint`
  --> manifest.json:5:14 (.pipelines[0].stages[1].type)
      {"type": "com.example.paint"},
               ^^^^^^^^^^^^^^^^^^^
  hint: `kiln modules` lists every stage there is
  unknown input `org.osbuild.trees`
  --> manifest.json:9:32 (.pipelines[0].stages[2].inputs.a.type)
        "inputs": {"a": {"type": "org.osbuild.trees", "origin": "org.osbuild.pipeline", "references": 
                                 ^^^^^^^^^^^^^^^^^^^
  hint: did you mean `org.osbuild.tree`?
  expected at least 1 item
  --> manifest.json:9:87 (.pipelines[0].stages[2].inputs.a.references)
  sbuild.trees", "origin": "org.osbuild.pipeline", "references": []}},
                                                   ^^^^^^^^^^^^
  unknown device `org.osbuild.lopback`
  --> manifest.json:10:33 (.pipelines[0].stages[2].devices.b.type)
        "devices": {"b": {"type": "org.osbuild.lopback"}},
                                  ^^^^^^^^^^^^^^^^^^^^^
  hint: did you mean `org.osbuild.loopback`?
  unknown mount `org.osbuild.ext3`
  --> manifest.json:11:40 (.pipelines[0].stages[2].mounts[0].type)
        "mounts": [{"name": "c", "type": "org.osbuild.ext3", "source": "b", "target": "/"}]
                                         ^^^^^^^^^^^^^^^^^^
  hint: did you mean `org.osbuild.ext4`?
  unknown source `org.osbuild.crul`
  --> manifest.json:14:15 (.sources.org.osbuild.crul)
    "sources": {"org.osbuild.crul": {"items": {}}, "com.example.git": {"items": {}}}
                ^^^^^^^^^^^^^^^^^^
  hint: did you mean `org.osbuild.curl`?
  unknown source `com.example.git`
  --> manifest.json:14:50 (.sources.com.example.git)
    "sources": {"org.osbuild.crul": {"items": {}}, "com.example.git": {"items": {}}}
                                                   ^^^^^^^^^^^^^^^^^
  hint: `kiln modules` lists every source there is
"#);
}

/// The rules that options break, those that one schema or another of a native module has.
#[test]
fn options() {
    let source = |items: &str| format!(r#""sources": {{"org.osbuild.curl": {{"items": {items}}}}}"#);
    let text = format!(
        r#"{{
  "version": "2",
  "pipelines": [{{"name": "tree", "stages": [
    {{"type": "org.osbuild.mkdir", "options": {{"paths": [{{"path": "/a", "parent": true}}, {{"mode": "0755"}}, "/b"]}}}},
    {{"type": "org.osbuild.ln", "options": {{"paths": []}}}},
    {{"type": "org.osbuild.hostname", "options": {{"hostname": 1}}}},
    {{"type": "org.osbuild.hostname"}},
    {{"type": "org.osbuild.systemd", "options": {{"enabled_services": "sshd"}}}},
    {{"type": "org.osbuild.machine-id", "options": {{"first-boot": "ys"}}}},
    {{"type": "org.osbuild.users", "options": {{"users": {{"a": {{"uid": "1000", "goups": ["b"]}}}}}}}},
    {{"type": "org.osbuild.chown", "options": {{"items": {{"/a": {{"user": -1}}}}}}}},
    {{"type": "org.osbuild.gzip", "options": {{"filename": "a", "level": 100}}}},
    {{"type": "org.osbuild.mkfs.ext4", "options": {{"uuid": "0a9f5c2e-3d0b-4f0c-8a53-6f2d6f0f7a11", "label": "much too long a label"}}}},
    {{"type": "org.osbuild.fstab", "options": {{"filesystems": [{{"path": "/", "uuid": "a", "label": "b"}}, {{"path": "/b"}}]}}}},
    {{"type": "org.osbuild.noop", "inputs": {{"tree": {{"type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": []}}}}}},
    {{
      "type": "org.osbuild.qemu",
      "options": {{"filename": "a", "format": {{"type": "qcow3"}}}},
      "devices": {{"d": {{"type": "org.osbuild.loopback", "options": {{"filename": "a", "sectorsize": 512}}}}}},
      "mounts": [{{"name": "m", "type": "org.osbuild.ext4", "source": "d", "options": {{"readonly": "true"}}}}]
    }}
  ]}}],
  {}
}}"#,
        source(r#"{"sha256:1": "https://example.invalid/a"}"#)
    );
    assert_faults!(text, @r#"
    exit code 2
    --- stderr
    error: the manifest has 24 errors
      unknown option `parent`
      --> manifest.json:4:72 (.pipelines[0].stages[0].options.paths[0].parent)
          {"type": "org.osbuild.mkdir", "options": {"paths": [{"path": "/a", "parent": true}, {"mode": "07
                                                                             ^^^^^^^^
      hint: did you mean `parents`?
      `path` is missing
      --> manifest.json:4:89 (.pipelines[0].stages[0].options.paths[1])
      ons": {"paths": [{"path": "/a", "parent": true}, {"mode": "0755"}, "/b"]}},
                                                       ^
      hint: `kiln modules show org.osbuild.mkdir` documents what it takes
      expected a number, found a string
      --> manifest.json:4:98 (.pipelines[0].stages[0].options.paths[1].mode)
      aths": [{"path": "/a", "parent": true}, {"mode": "0755"}, "/b"]}},
                                                       ^^^^^^
      hint: numbers are decimal: `493` is octal 0755
      expected an object, found a string
      --> manifest.json:4:107 (.pipelines[0].stages[0].options.paths[2])
      "path": "/a", "parent": true}, {"mode": "0755"}, "/b"]}},
                                                       ^^^^
      hint: `kiln modules show org.osbuild.mkdir` documents what it takes
      expected at least 1 item
      --> manifest.json:5:44 (.pipelines[0].stages[1].options.paths)
          {"type": "org.osbuild.ln", "options": {"paths": []}},
                                                 ^^^^^^^
      hint: `kiln modules show org.osbuild.ln` documents what it takes
      expected a string, found an integer
      --> manifest.json:6:62 (.pipelines[0].stages[2].options.hostname)
          {"type": "org.osbuild.hostname", "options": {"hostname": 1}},
                                                                   ^
      hint: write it in quotes: `"1"`
      `hostname` is missing
      --> manifest.json:7:5 (.pipelines[0].stages[3].options)
          {"type": "org.osbuild.hostname"},
          ^
      hint: `kiln modules show org.osbuild.hostname` documents what it takes
      expected an array, found a string
      --> manifest.json:8:69 (.pipelines[0].stages[4].options.enabled_services)
          {"type": "org.osbuild.systemd", "options": {"enabled_services": "sshd"}},
                                                                          ^^^^^^
      hint: write it as a list: `["sshd"]`
      expected one of `yes`, `no`, `preserve`, found `ys`
      --> manifest.json:9:66 (.pipelines[0].stages[5].options.first-boot)
          {"type": "org.osbuild.machine-id", "options": {"first-boot": "ys"}},
                                                                       ^^^^
      hint: did you mean `yes`?
      expected a number, found a string
      --> manifest.json:10:70 (.pipelines[0].stages[6].options.users.a.uid)
          {"type": "org.osbuild.users", "options": {"users": {"a": {"uid": "1000", "goups": ["b"]}}}},
                                                                           ^^^^^^
      hint: write it without quotes: `1000`
      expected at least 0, found -1
      --> manifest.json:11:72 (.pipelines[0].stages[7].options.items./a.user)
          {"type": "org.osbuild.chown", "options": {"items": {"/a": {"user": -1}}}},
                                                                             ^^
      hint: `kiln modules show org.osbuild.chown` documents what it takes
      `file` is missing
      --> manifest.json:12:5 (.pipelines[0].stages[8].inputs)
          {"type": "org.osbuild.gzip", "options": {"filename": "a", "level": 100}},
          ^
      hint: `kiln modules show org.osbuild.gzip` documents what it takes
      expected at most 9, found 100
      --> manifest.json:12:72 (.pipelines[0].stages[8].options.level)
          {"type": "org.osbuild.gzip", "options": {"filename": "a", "level": 100}},
                                                                             ^^^
      hint: `kiln modules show org.osbuild.gzip` documents what it takes
      `device` is missing
      --> manifest.json:13:5 (.pipelines[0].stages[9].devices)
          {"type": "org.osbuild.mkfs.ext4", "options": {"uuid": "0a9f5c2e-3d0b-4f0c-8a53-6f2d6f0f7a11", "l
          ^
      hint: `kiln modules show org.osbuild.mkfs.ext4` documents what it takes
      expected at most 16 characters, found 21
      --> manifest.json:13:108 (.pipelines[0].stages[9].options.label)
      "0a9f5c2e-3d0b-4f0c-8a53-6f2d6f0f7a11", "label": "much too long a label"}},
                                                       ^^^^^^^^^^^^^^^^^^^^^^^
      hint: `kiln modules show org.osbuild.mkfs.ext4` documents what it takes
      `uuid`, `label` exclude each other
      --> manifest.json:14:63 (.pipelines[0].stages[10].options.filesystems[0])
          {"type": "org.osbuild.fstab", "options": {"filesystems": [{"path": "/", "uuid": "a", "label": "b
                                                                    ^
      hint: `kiln modules show org.osbuild.fstab` documents what it takes
      one of `device`, `uuid`, `label`, `partlabel` is missing
      --> manifest.json:14:105 (.pipelines[0].stages[10].options.filesystems[1])
      ems": [{"path": "/", "uuid": "a", "label": "b"}, {"path": "/b"}]}},
                                                       ^
      hint: `kiln modules show org.osbuild.fstab` documents what it takes
      expected at least 1 item
      --> manifest.json:15:116 (.pipelines[0].stages[11].inputs.tree.references)
      osbuild.tree", "origin": "org.osbuild.pipeline", "references": []}}},
                                                       ^^^^^^^^^^^^
      `image` is missing
      --> manifest.json:16:5 (.pipelines[0].stages[12].inputs)
          {
          ^
      hint: `kiln modules show org.osbuild.qemu` documents what it takes
      expected one of `qcow2`, `vdi`, `vmdk`, `vpc`, `vhdx`, found `qcow3`
      --> manifest.json:18:55 (.pipelines[0].stages[12].options.format.type)
            "options": {"filename": "a", "format": {"type": "qcow3"}},
                                                            ^^^^^^^
      hint: did you mean `qcow2`?
      unknown option `sectorsize`
      --> manifest.json:19:86 (.pipelines[0].stages[12].devices.d.options.sectorsize)
      .osbuild.loopback", "options": {"filename": "a", "sectorsize": 512}}},
                                                       ^^^^^^^^^^^^
      hint: did you mean `sector-size`?
      `target` is missing
      --> manifest.json:20:18 (.pipelines[0].stages[12].mounts[0])
            "mounts": [{"name": "m", "type": "org.osbuild.ext4", "source": "d", "options": {"readonly": "t
                       ^
      hint: `kiln modules show org.osbuild.ext4` documents what it takes
      expected a boolean, found a string
      --> manifest.json:20:99 (.pipelines[0].stages[12].mounts[0].options.readonly)
      ld.ext4", "source": "d", "options": {"readonly": "true"}}]
                                                       ^^^^^^
      hint: write it without quotes: `true`
      unknown key `sha256:1`
      --> manifest.json:23:46 (.sources.org.osbuild.curl.items.sha256:1)
        "sources": {"org.osbuild.curl": {"items": {"sha256:1": "https://example.invalid/a"}}}
                                                   ^^^^^^^^^^
      hint: keys match the pattern `(md5|sha1|sha256|sha384|sha512):[0-9a-f]{32,128}`
    "#);
}

#[test]
fn texts_that_are_no_json() {
    let world = World::new();
    let mut shown = String::new();
    for text in [
        "",
        "{",
        "{\"a\"",
        "{\"a\": ",
        "{\"a\": 1",
        "{\"a\": 1,}",
        "{a: 1}",
        "{'a': 1}",
        "{\"a\" 1}",
        "{\"a\": 1 \"b\": 2}",
        "[1",
        "[1 2]",
        "[1,]",
        "{\"a\": tru}",
        "{\"a\": 01}",
        "{\"a\": 1.}",
        "{\"a\": 1e}",
        "{\"a\": -}",
        "{\"a\": \"b}",
        "{\"a\": \"b\nc\"}",
        "{\"a\": \"\\x\"}",
        "{\"a\": \"\\u12\"}",
        "{\"a\": \"\\ud800\"} ",
        "{} {}",
        "// a manifest\n{}",
        "{\n  \"version\": \"2\",\n  \"pipelines\": [,]\n}\n",
    ] {
        world.write("manifest.json", text);
        let finished = world.run(&["validate", "manifest.json"]);
        assert_eq!(finished.code(), Some(2), "{text}: {}", finished.shown());
        let hint = "hint: a manifest is one JSON object, without comments and trailing commas\n";
        let said = finished.stderr.replace("error: the manifest is not valid JSON: ", "").replace(hint, "");
        shown += &said;
    }
    world.write("manifest.json", "[".repeat(100_000));
    let finished = world.run(&["validate", "manifest.json"]);
    shown += finished.stderr.lines().next().expect("a line");
    world.settings().bind(|| {
        insta::assert_snapshot!(shown, @r#"
        unexpected end: expected a value
          --> manifest.json:1:1

          ^
        expected a key in double quotes
          --> manifest.json:1:2
          {
           ^
        expected `:` after the key
          --> manifest.json:1:5
          {"a"
              ^
        unexpected end: expected a value
          --> manifest.json:1:7
          {"a": 
                ^
        expected `,` or `}`
          --> manifest.json:1:8
          {"a": 1
                 ^
        expected a key in double quotes
          --> manifest.json:1:9
          {"a": 1,}
                  ^
        expected a key in double quotes
          --> manifest.json:1:2
          {a: 1}
           ^
        expected a key in double quotes
          --> manifest.json:1:2
          {'a': 1}
           ^
        expected `:` after the key
          --> manifest.json:1:6
          {"a" 1}
               ^
        expected `,` or `}`
          --> manifest.json:1:9
          {"a": 1 "b": 2}
                  ^
        expected `,` or `]`
          --> manifest.json:1:3
          [1
            ^
        expected `,` or `]`
          --> manifest.json:1:4
          [1 2]
             ^
        expected a value
          --> manifest.json:1:4
          [1,]
             ^
        expected a value
          --> manifest.json:1:7
          {"a": tru}
                ^
        expected `,` or `}`
          --> manifest.json:1:8
          {"a": 01}
                 ^
        expected a digit after the point
          --> manifest.json:1:9
          {"a": 1.}
                  ^
        expected a digit in the exponent
          --> manifest.json:1:9
          {"a": 1e}
                  ^
        expected a digit
          --> manifest.json:1:8
          {"a": -}
                 ^
        the string does not end
          --> manifest.json:1:10
          {"a": "b}
                   ^
        a control character in a string must be escaped
          --> manifest.json:1:9
          {"a": "b
                  ^
        unknown escape
          --> manifest.json:1:9
          {"a": "\x"}
                  ^
        expected four hexadecimal digits
          --> manifest.json:1:10
          {"a": "\u12"}
                   ^
        half of a surrogate pair
          --> manifest.json:1:8
          {"a": "\ud800"} 
                 ^
        unexpected text after the end of the value
          --> manifest.json:1:4
          {} {}
             ^
        expected a value
          --> manifest.json:1:1
          // a manifest
          ^
        expected a value
          --> manifest.json:3:17
            "pipelines": [,]
                          ^
        error: the manifest is not valid JSON: nested too deeply
        "#);
    });
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
