//! Mistakes in manifests, definitions and arguments: what, where, what to do, and the exit code.

use serde_json::{Value, json};

use crate::manifests::{add_inline, copy_files, disk, good, manifest, mkdir, noop, pipeline};
use crate::world::{Finished, World, assert_shown};

/// What `kiln build` says of a manifest that never gets so far as to be built.
fn refused(world: &World, text: &str) -> Finished {
    world.write("manifest.json", text);
    let finished = world.run(&["build", "manifest.json", "--cache", "cache", "--export", "tree"]);
    assert!(!world.cache().join("objects").exists() || !world.path("output").exists());
    finished
}

fn refused_value(world: &World, manifest: &Value) -> Finished {
    refused(world, &serde_json::to_string_pretty(manifest).expect("JSON"))
}

/// A manifest with one stage in the pipeline `tree`.
fn stage(stage: Value) -> Value {
    manifest(&[pipeline("tree", &[stage])])
}

#[test]
fn root_broken_json() {
    let world = World::new();
    assert_shown!(world, refused(&world, "{\n  \"version\": \"2\",\n  \"pipelines\": [,]\n}\n"), @r#"
    exit code 2
    --- stderr
    error: the manifest is not valid JSON: expected a value
      --> manifest.json:3:17
        "pipelines": [,]
                      ^
    hint: a manifest is one JSON object, without comments and trailing commas
    "#);
    assert_shown!(world, refused(&world, ""), @r#"
    exit code 2
    --- stderr
    error: the manifest is not valid JSON: unexpected end: expected a value
      --> manifest.json:1:1

      ^
    hint: a manifest is one JSON object, without comments and trailing commas
    "#);
}

#[test]
fn root_unreadable_input() {
    let world = World::new();
    assert_shown!(world, world.run(&["build", "missing.json"]), @r#"
    exit code 2
    --- stderr
    error: cannot read `missing.json`: No such file or directory (os error 2)
    "#);
    world.write("bytes.json", b"{\"version\": \"\xff\"}");
    assert_shown!(world, world.run(&["build", "bytes.json"]), @r#"
    exit code 2
    --- stderr
    error: cannot read `bytes.json`: stream did not contain valid UTF-8
    "#);
}

#[test]
fn root_unsupported_format() {
    let world = World::new();
    assert_shown!(world, refused(&world, "{\"version\": \"3\"}"), @r#"
    exit code 2
    --- stderr
    error: unsupported manifest format: manifest.json
    hint: a manifest is a JSON object with `"version": "2"`, or one of format 1
    "#);
    assert_shown!(world, refused(&world, "[]"), @r#"
    exit code 2
    --- stderr
    error: unsupported manifest format: manifest.json
    hint: a manifest is a JSON object with `"version": "2"`, or one of format 1
    "#);
}

#[test]
fn root_unknown_stage() {
    let world = World::new();
    assert_shown!(world, refused_value(&world, &stage(json!({"type": "org.osbuild.mkdri"}))), @r#"
    exit code 2
    --- stderr
    error: unknown stage `org.osbuild.mkdri`
      --> manifest.json:8:19 (.pipelines[0].stages[0].type)
                "type": "org.osbuild.mkdri"
                        ^^^^^^^^^^^^^^^^^^^
    hint: did you mean `org.osbuild.mkdir`?
    "#);
    assert_shown!(world, refused_value(&world, &stage(json!({"type": "com.example.paint"}))), @r#"
    exit code 2
    --- stderr
    error: unknown stage `com.example.paint`
      --> manifest.json:8:19 (.pipelines[0].stages[0].type)
                "type": "com.example.paint"
                        ^^^^^^^^^^^^^^^^^^^
    hint: `kiln modules` lists every stage there is
    "#);
}

#[test]
fn root_unknown_key() {
    let world = World::new();
    assert_shown!(world, refused_value(&world, &stage(json!({"type": "org.osbuild.noop", "option": {}}))), @r#"
    exit code 2
    --- stderr
    error: unknown key `option`
      --> manifest.json:9:11 (.pipelines[0].stages[0].option)
                "option": {}
                ^^^^^^^^
    hint: did you mean `options`?
    "#);
    let unknown = json!({"type": "org.osbuild.mkdir", "options": {"paths": [], "path": 1}});
    assert_shown!(world, refused_value(&world, &stage(unknown)), @r#"
    exit code 2
    --- stderr
    error: unknown option `path`
      --> manifest.json:11:13 (.pipelines[0].stages[0].options.path)
                  "path": 1
                  ^^^^^^
    hint: did you mean `paths`?
    "#);
}

#[test]
fn root_wrong_option() {
    let world = World::new();
    let wrong =
        json!({"type": "org.osbuild.mkdir", "options": {"paths": [{"path": "/a", "parents": "yes"}]}});
    assert_shown!(world, refused_value(&world, &stage(wrong)), @r#"
    exit code 2
    --- stderr
    error: expected a boolean, found a string
      --> manifest.json:13:28 (.pipelines[0].stages[0].options.paths[0].parents)
                      "parents": "yes"
                                 ^^^^^
    hint: `kiln modules show org.osbuild.mkdir` documents what it takes
    "#);
    let missing = json!({"type": "org.osbuild.hostname", "options": {}});
    assert_shown!(world, refused_value(&world, &stage(missing)), @r#"
    exit code 2
    --- stderr
    error: `hostname` is missing
      --> manifest.json:9:11 (.pipelines[0].stages[0].options)
                "options": {}
                ^^^^^^^^^
    hint: `kiln modules show org.osbuild.hostname` documents what it takes
    "#);
}

#[test]
fn root_several_findings() {
    let world = World::new();
    let bad = manifest(&[
        pipeline(
            "tree",
            &[json!({"type": "org.osbuild.hostnam"}), json!({"type": "org.osbuild.mkdir", "options": 1})],
        ),
        json!({"name": "image", "stages": [noop()], "bild": "name:tree"}),
    ]);
    assert_shown!(world, refused_value(&world, &bad), @r#"
    exit code 2
    --- stderr
    error: the manifest has 3 errors
      unknown stage `org.osbuild.hostnam`
      --> manifest.json:8:19 (.pipelines[0].stages[0].type)
                "type": "org.osbuild.hostnam"
                        ^^^^^^^^^^^^^^^^^^^^^
      hint: did you mean `org.osbuild.hostname`?
      expected an object, found an integer
      --> manifest.json:12:22 (.pipelines[0].stages[1].options)
                "options": 1
                           ^
      unknown key `bild`
      --> manifest.json:23:7 (.pipelines[1].bild)
            "bild": "name:tree"
            ^^^^^^
      hint: did you mean `build`?
    "#);
    let bad = manifest(&[pipeline(
        "tree",
        &[
            json!({"type": "org.osbuild.hostnam"}),
            json!({"type": "org.osbuild.mkdir", "options": {"paths": [{"path": 1}]}}),
        ],
    )]);
    assert_shown!(world, refused_value(&world, &bad), @r#"
    exit code 2
    --- stderr
    error: the manifest has 2 errors
      unknown stage `org.osbuild.hostnam`
      --> manifest.json:8:19 (.pipelines[0].stages[0].type)
                "type": "org.osbuild.hostnam"
                        ^^^^^^^^^^^^^^^^^^^^^
      hint: did you mean `org.osbuild.hostname`?
      expected a string, found an integer
      --> manifest.json:15:25 (.pipelines[0].stages[1].options.paths[0].path)
                      "path": 1
                              ^
      hint: write it in quotes: `"1"`
    "#);
}

#[test]
fn root_missing_source_item() {
    let world = World::new();
    let mut missing = manifest(&[]);
    let there = add_inline(&mut missing, b"there");
    let absent = there.replace(&there[7..11], "0000");
    missing["pipelines"] = json!([pipeline("tree", &[copy_files(&[(&absent, "/file")])])]);
    assert_shown!(world, refused_value(&world, &missing), @r#"
    exit code 2
    --- stderr
    error: no source has an item `sha256:[ID]`
      --> manifest.json:14:17 (.pipelines[0].stages[0].inputs.files.references.sha256:[ID])
                      "sha256:[ID]": {}
                      ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: add the item to one of the manifest's sources
    "#);
}

#[test]
fn root_unknown_pipeline_reference() {
    let world = World::new();
    let build = json!({"name": "tree", "build": "name:biuld", "stages": [noop()]});
    assert_shown!(world, refused_value(&world, &manifest(&[pipeline("build", &[noop()]), build])), @r#"
    exit code 2
    --- stderr
    error: unknown pipeline `biuld`
      --> manifest.json:14:16 (.pipelines[1].build)
            "build": "name:biuld",
                     ^^^^^^^^^^^^
    hint: did you mean `build`?
    "#);
    let mut image = disk("a", "16M");
    image["pipelines"][1]["stages"][2]["inputs"]["tree"]["references"] = json!(["name:three"]);
    assert_shown!(world, refused_value(&world, &image), @r#"
    exit code 2
    --- stderr
    error: unknown pipeline `three`
      --> manifest.json:54:17 (.pipelines[1].stages[2].inputs.tree.references[0])
                      "name:three"
                      ^^^^^^^^^^^^
    hint: did you mean `tree`?
    "#);
}

#[test]
fn root_unknown_device_of_a_mount() {
    let world = World::new();
    let mut image = disk("a", "16M");
    image["pipelines"][1]["stages"][2]["mounts"][0]["source"] = json!("devise");
    assert_shown!(world, refused_value(&world, &image), @r#"
    exit code 2
    --- stderr
    error: mount `root` names an unknown device `devise`
      --> manifest.json:78:25 (.pipelines[1].stages[2].mounts[0].source)
                    "source": "devise",
                              ^^^^^^^^
    hint: did you mean `device`?
    "#);
}

#[test]
fn root_unknown_export() {
    let world = World::new();
    world.write("manifest.json", good("a").to_string());
    let run = |name| world.run(&["build", "manifest.json", "--cache", "cache", "--export", name]);
    assert_shown!(world, run("three"), @r#"
    exit code 1
    --- stderr
    error: the manifest has no pipeline `three`
    hint: did you mean `tree`?
    "#);
    assert_shown!(world, run("picture"), @r#"
    exit code 1
    --- stderr
    error: the manifest has no pipeline `picture`
    hint: the manifest's pipelines are `tree`
    "#);
    let empty = manifest(&[json!({"name": "empty"}), pipeline("tree", &[noop()])]);
    world.write("manifest.json", empty.to_string());
    assert_shown!(world, run("empty"), @r#"
    exit code 1
    --- stderr
    error: the pipeline `empty` has no stages: there is nothing to export
    "#);
    world.assert_recovers(&good("a"), "tree");
}

#[test]
fn root_no_runner_fits() {
    let world = World::new();
    let build = json!({"name": "build", "runner": "org.osbuild.debain12", "stages": [mkdir(&["/usr"])]});
    let tree = json!({"name": "tree", "build": "name:build", "stages": [noop()]});
    assert_shown!(world, world.build(&manifest(&[build, tree]), &["--export", "tree"]), @r#"
    exit code 2
    --- stderr
    error: cannot build the pipeline `tree`: no runner fits `org.osbuild.debain12`: there are `org.osbuild.AutoSD9`, `org.osbuild.almalinux8`, `org.osbuild.almalinux9`, `org.osbuild.arch`, `org.osbuild.asahi-fedora-remix`, `org.osbuild.autosd`, `org.osbuild.centos8`, `org.osbuild.centos9`, `org.osbuild.debian`, `org.osbuild.eln11`, `org.osbuild.fedora-asahi-remix`, `org.osbuild.fedora30`, `org.osbuild.fedora38`, `org.osbuild.linux`, `org.osbuild.ol9`, `org.osbuild.rhel7`, `org.osbuild.rhel81`, `org.osbuild.rhel82`, `org.osbuild.rhivos`, `org.osbuild.ubuntu1804`
    hint: did you mean `org.osbuild.debian`?
    "#);
    world.assert_recovers(&good("a"), "tree");
}

#[test]
fn root_no_checkpoint_matches() {
    let world = World::new();
    assert_shown!(world, world.build(&good("a"), &["--export", "tree", "--checkpoint", "tre"]), @r#"
    exit code 1
    --- stderr
    error: no checkpoint matches the patterns
    hint: patterns are matched with pipeline names, stage ids and stage names
    "#);
    assert_shown!(world, world.build(&good("a"), &["--export", "tree", "--checkpoint", "[a"]), @r#"
    exit code 1
    --- stderr
    error: no checkpoint matches the patterns
    hint: patterns are matched with pipeline names, stage ids and stage names
    "#);
    world.assert_recovers(&good("a"), "tree");
}

#[test]
fn usage() {
    let world = World::new();
    assert_shown!(world, world.run(&["biuld"]), @r#"
    exit code 2
    --- stderr
    error: unrecognized subcommand 'biuld'

      tip: a similar subcommand exists: 'build'

    Usage: kiln <COMMAND>

    For more information, try '--help'.
    "#);
    assert_shown!(world, world.run(&["build"]), @r#"
    exit code 2
    --- stderr
    error: the following required arguments were not provided:
      <MANIFEST>

    Usage: kiln build <MANIFEST>

    For more information, try '--help'.
    "#);
    assert_shown!(world, world.run(&["build", "a.json", "--jobs", "0"]), @r#"
    exit code 2
    --- stderr
    error: invalid value '0' for '--jobs <N>': expected a whole number, at least 1

    For more information, try '--help'.
    "#);
    assert_shown!(world, world.run(&["build", "a.json", "--cache-max-size", "5 bananas"]), @r#"
    exit code 2
    --- stderr
    error: invalid value '5 bananas' for '--cache-max-size <SIZE>': expected bytes, a number with kB, KiB, MB, MiB, GB, GiB, TB or TiB, or `unlimited`

    For more information, try '--help'.
    "#);
    assert_shown!(world, world.run(&["modules", "show", "mkdri"]), @r#"
    exit code 2
    --- stderr
    error: there is no module `org.osbuild.mkdri`
    hint: did you mean `org.osbuild.mkdir`?
    "#);
    world.write("manifest.json", good("a").to_string());
    assert_shown!(world, world.run(&["resolve", "manifest.json"]), @r#"
    exit code 2
    --- stderr
    error: `manifest.json` is a manifest, not a definition
    hint: a definition is TOML (its name ends in `.toml`) or JSON with a `name`
    "#);
    world.write("definition.toml", "name = \"a\"\ndistro = \"debian-12\"\n");
    assert_shown!(world, world.run(&["inspect", "definition.toml"]), @r#"
    exit code 2
    --- stderr
    error: `definition.toml` is a definition, not a manifest
    hint: `kiln resolve` turns a definition into a manifest
    "#);
}

#[test]
fn mistakes_in_definitions() {
    let world = World::new();
    let resolve = |text: &str| {
        world.write("definition.toml", text);
        world.run(&["resolve", "definition.toml", "--cache", "cache"])
    };
    assert_shown!(world, resolve("name = \"a\"\ndistro = \n"), @r#"
    exit code 2
    --- stderr
    error: this is not valid TOML: string values must be quoted, expected literal string
      --> definition.toml:2:10
      2 | distro = 
        |          ^
    "#);
    assert_shown!(world, resolve("name = \"a\"\ndistro = \"debian-12\"\n[customization]\nhostname = \"b\"\n"), @r#"
    exit code 2
    --- stderr
    error: unknown key `customization`
      --> definition.toml:3:2
      3 | [customization]
        |  ^^^^^^^^^^^^^
    hint: did you mean `customizations`?
    "#);
    let several = "name = 1\ndistro = \"debian-12\"\n[customizations]\nhostnam = \"b\"\n";
    assert_shown!(world, resolve(several), @r#"
    exit code 2
    --- stderr
    error: the definition has 2 errors
      `name` must be a string, not an integer
      --> definition.toml:1:8
      1 | name = 1
        |        ^
      unknown key `hostnam` in `customizations`
      --> definition.toml:4:1
      4 | hostnam = "b"
        | ^^^^^^^
      hint: did you mean `hostname`?
    "#);
    assert_shown!(world, resolve("name = \"a\"\ndistro = \"fedora-40\"\n"), @r#"
    exit code 2
    --- stderr
    error: unknown distribution `fedora-40`
      --> definition.toml:2:10
      2 | distro = "fedora-40"
        |          ^^^^^^^^^^^
    hint: Kiln resolves `debian-11`, `debian-12`, `debian-13`, `debian-14`
    "#);
}

/// Errors of the program itself come before any privilege is needed, except that building says so first.
#[test]
fn root_building_needs_root() {
    let world = World::new();
    let program = world.path("kiln");
    if std::fs::hard_link(crate::world::KILN, &program).is_err() {
        std::fs::copy(crate::world::KILN, &program).expect("copied");
    }
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(world.path(""), open).expect("searchable");
    world.write("manifest.json", good("a").to_string());
    let run = |arguments: &[&str]| {
        let mut command = world.program(&program, arguments);
        std::os::unix::process::CommandExt::uid(&mut command, 65534);
        crate::world::finish(command.spawn().expect("started"))
    };
    assert_shown!(world, run(&["build", "manifest.json"]), @r#"
    exit code 3
    --- stderr
    error: `kiln build` needs root
      building mounts file systems and makes files of other owners
    hint: run the same command with `sudo`
    "#);
    assert_eq!(run(&["inspect", "manifest.json"]).code(), Some(0));
    assert_eq!(run(&["modules"]).code(), Some(0));
    assert!(!world.path(".osbuild").exists());
}
