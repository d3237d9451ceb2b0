//! What the two formats of manifests demand, and what refers to what.

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
