//! Comparisons of small manifests, each with one thing changed.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use kiln_engine::compare::{Cause, Comparison, Edit, Fate, Origin, Verdict, What, compare};
use kiln_engine::manifest::{Manifest, load};
use kiln_engine::recipe;
use serde_json::{Value, json};

/// A build root, a tree, and an image with a mounted and an unmounted loop device.
fn document() -> Value {
    let device = |start: u64| json!({"type": "org.osbuild.loopback", "options": {"filename": "disk.img", "start": start}});
    json!({
        "version": "2",
        "metadata": {"generators": [{"name": "a"}]},
        "sources": {"org.osbuild.curl": {"items": {"sha256:a": "http://example.invalid/a", "sha256:b": "http://example.invalid/b"}}},
        "pipelines": [
            {"name": "build", "runner": "org.osbuild.debian12", "stages": [{"type": "org.osbuild.noop", "options": {"n": 1}}]},
            {"name": "tree", "build": "name:build", "source-epoch": 1, "stages": [
                {"type": "org.osbuild.mkdir", "options": {"paths": [{"path": "/a"}]}},
                {"type": "org.osbuild.users", "options": {"users": {"alice": {"password": "a"}}}},
                {"type": "org.osbuild.locale", "options": {"language": "C"}},
                {"type": "org.osbuild.hostname", "options": {"hostname": "kiln"}},
            ]},
            {"name": "image", "build": "name:build", "stages": [
                {"type": "org.osbuild.mkfs.ext4", "devices": {"device": device(1)}},
                {"type": "org.osbuild.copy",
                 "inputs": {"tree": {"type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": ["name:tree"]}},
                 "devices": {"disk": {"type": "org.osbuild.loopback", "options": {"filename": "disk.img"}},
                             "root": {"type": "org.osbuild.lvm2.lv", "parent": "disk", "options": {"volume": "v"}}},
                 "mounts": [{"name": "root", "type": "org.osbuild.ext4", "source": "root", "target": "/"}]},
            ]},
            {"name": "other", "stages": [{"type": "org.osbuild.noop"}]},
        ],
    })
}

fn manifest(document: &Value) -> Manifest {
    let mut manifest = load(&document.to_string()).expect("valid");
    recipe::assign(&mut manifest, &|_, _| "code".to_owned(), "host");
    manifest
}

fn origin(origin: &Origin) -> String {
    match &origin.what {
        What::Stage { index, name, fate } => {
            let fate = match fate {
                Fate::Changed => "changed",
                Fate::Added => "added",
                Fate::Removed => "removed",
                Fate::Moved => "moved",
            };
            format!("{}[{index}] {} {fate}", origin.pipeline, name.trim_start_matches("org.osbuild."))
        }
        What::BuildRoot => format!("{}.build", origin.pipeline),
        What::SourceEpoch => format!("{}.source-epoch", origin.pipeline),
        What::Runner => format!("{}.runner", origin.pipeline),
    }
}

/// Everything that differs, one line each.
fn shown(comparison: &Comparison) -> String {
    let mut out = String::new();
    let change = |change: &kiln_engine::compare::Change| {
        let mark = if change.in_id { "" } else { " (not in the id)" };
        match &change.edit {
            Edit::Changed { old, new } => format!("{}: {old} → {new}{mark}", change.path),
            Edit::Added(new) => format!("{}: + {new}{mark}", change.path),
            Edit::Removed(old) => format!("{}: - {old}{mark}", change.path),
            Edit::Moved { from, .. } => format!("{}: from {from}{mark}", change.path),
        }
    };
    for found in &comparison.metadata {
        let _ = writeln!(out, "metadata {}", change(found));
    }
    if comparison.reordered {
        out.push_str("reordered\n");
    }
    for pipeline in comparison.pipelines.iter().filter(|pipeline| !pipeline.is_equal()) {
        let name = |name: &Option<String>| name.clone().unwrap_or_else(|| "-".to_owned());
        let _ = match (&pipeline.old_name, &pipeline.new_name) {
            (Some(old), Some(new)) if old == new => writeln!(out, "{new}"),
            (old, new) => writeln!(out, "{} → {}", name(old), name(new)),
        };
        for found in &pipeline.changes {
            let _ = writeln!(out, "  {}", change(found));
        }
        for stage in pipeline.stages.iter().filter(|stage| !stage.is_equal()) {
            let place = |side: &Option<kiln_engine::compare::StageSide>| {
                side.as_ref().map_or_else(|| "-".to_owned(), |side| side.index.to_string())
            };
            let verdict = match stage.verdict {
                Verdict::Same => "",
                Verdict::SameId => " same id",
                Verdict::OtherId => " other id",
            };
            let moved = if stage.moved { " moved" } else { "" };
            let causes: Vec<String> = stage
                .causes
                .iter()
                .map(|cause| match cause {
                    Cause::Own => "own".to_owned(),
                    Cause::BuildRoot(from) => format!("build root: {}", origin(from)),
                    Cause::SourceEpoch(from) => format!("epoch: {}", origin(from)),
                    Cause::Runner(from) => format!("runner: {}", origin(from)),
                    Cause::Input { input, origin: from } => format!("input {input}: {}", origin(from)),
                    Cause::Before(from) => format!("before: {}", origin(from)),
                })
                .collect();
            let name = stage.name.trim_start_matches("org.osbuild.");
            let (old, new) = (place(&stage.old), place(&stage.new));
            let _ = writeln!(out, "  {old}→{new} {name}{moved}{verdict} ({})", causes.join("; "));
            for found in &stage.changes {
                let _ = writeln!(out, "    {}", change(found));
            }
        }
    }
    for source in &comparison.sources {
        let _ = writeln!(out, "{} {}→{}", source.kind, source.in_old, source.in_new);
        for found in &source.changes {
            let _ = writeln!(out, "  {}", change(found));
        }
    }
    out
}

/// What one edit of the document makes different.
#[track_caller]
fn edited(edit: impl Fn(&mut Value)) -> String {
    let mut other = document();
    edit(&mut other);
    let (old, new) = (manifest(&document()), manifest(&other));
    let comparison = compare(&old, &new);
    let text = shown(&comparison);
    assert_eq!(comparison.is_equal(), text.is_empty(), "{text}");
    // Whatever differs in id or recipe has a cause, and nothing else has one.
    for pipeline in &comparison.pipelines {
        for stage in pipeline.stages.iter().filter(|stage| stage.new.is_some()) {
            assert_eq!(stage.causes.is_empty(), stage.verdict == Verdict::Same, "{text}");
        }
    }
    // The way back changes as much.
    let back = compare(&new, &old);
    assert_eq!(back.is_equal(), comparison.is_equal());
    text
}

fn set(pointer: &'static str, value: Value) -> impl Fn(&mut Value) {
    move |document| *document.pointer_mut(pointer).expect(pointer) = value.clone()
}

fn stages(document: &mut Value, pipeline: usize) -> &mut Vec<Value> {
    document["pipelines"][pipeline]["stages"].as_array_mut().expect("stages")
}

#[test]
fn equal_manifests_are_equal_whatever_the_order_of_keys() {
    assert_eq!(edited(|_| {}), "");
    assert_eq!(
        edited(|document| {
            let users = &mut document["pipelines"][1]["stages"][1];
            *users = json!({"options": users["options"], "type": users["type"]});
        }),
        ""
    );
}

#[test]
fn an_option_is_named_and_everything_after_it_points_at_it() {
    insta::assert_snapshot!(edited(set("/pipelines/1/stages/1/options/users/alice/password", json!("b"))), @r#"
    tree
      1→1 users other id (own)
        .options.users.alice.password: "a" → "b"
      2→2 locale other id (before: tree[1] users changed)
      3→3 hostname other id (before: tree[1] users changed)
    image
      1→1 copy other id (input tree: tree[1] users changed)
    "#);
}

#[test]
fn what_began_in_a_build_root_is_told_where_it_began() {
    insta::assert_snapshot!(edited(set("/pipelines/0/stages/0/options/n", json!(2))), @r"
    build
      0→0 noop other id (own)
        .options.n: 1 → 2
    tree
      0→0 mkdir other id (build root: build[0] noop changed)
      1→1 users other id (build root: build[0] noop changed)
      2→2 locale other id (build root: build[0] noop changed)
      3→3 hostname other id (build root: build[0] noop changed)
    image
      0→0 mkfs.ext4 other id (build root: build[0] noop changed)
      1→1 copy other id (build root: build[0] noop changed)
    ");
    insta::assert_snapshot!(edited(|document| {
        document["pipelines"][1].as_object_mut().expect("an object").remove("build");
    }), @r#"
    tree
      .build: - "name:build"
      .runner: - "org.osbuild.debian12" (not in the id)
      0→0 mkdir other id (build root: tree.build)
      1→1 users other id (build root: tree.build)
      2→2 locale other id (build root: tree.build)
      3→3 hostname other id (build root: tree.build)
    image
      1→1 copy other id (input tree: tree.build)
    "#);
}

#[test]
fn the_source_epoch_is_a_cause_of_its_own() {
    insta::assert_snapshot!(edited(set("/pipelines/1/source-epoch", json!(2))), @r"
    tree
      .source-epoch: 1 → 2
      0→0 mkdir other id (epoch: tree.source-epoch)
      1→1 users other id (epoch: tree.source-epoch)
      2→2 locale other id (epoch: tree.source-epoch)
      3→3 hostname other id (epoch: tree.source-epoch)
    image
      1→1 copy other id (input tree: tree.source-epoch)
    ");
}

#[test]
fn stages_come_go_and_move() {
    insta::assert_snapshot!(edited(|document| {
        stages(document, 1).insert(1, json!({"type": "org.osbuild.timezone"}));
    }), @r"
    tree
      -→1 timezone other id (own)
      1→2 users other id (before: tree[1] timezone added)
      2→3 locale other id (before: tree[1] timezone added)
      3→4 hostname other id (before: tree[1] timezone added)
    image
      1→1 copy other id (input tree: tree[1] timezone added)
    ");
    insta::assert_snapshot!(edited(|document| { stages(document, 1).remove(2); }), @r"
    tree
      2→- locale ()
      3→2 hostname other id (before: tree[2] locale removed)
    image
      1→1 copy other id (input tree: tree[2] locale removed)
    ");
    insta::assert_snapshot!(edited(|document| { stages(document, 1).remove(3); }), @r"
    tree
      3→- hostname ()
    image
      1→1 copy other id (input tree: tree[3] hostname removed)
    ");
    insta::assert_snapshot!(edited(|document| {
        let first = stages(document, 1).remove(0);
        stages(document, 1).push(first);
    }), @r"
    tree
      1→0 users other id (before: tree[3] mkdir moved)
      2→1 locale other id (before: tree[3] mkdir moved)
      3→2 hostname other id (before: tree[3] mkdir moved)
      0→3 mkdir moved other id (own)
    image
      1→1 copy other id (input tree: tree[3] mkdir moved)
    ");
}

#[test]
fn two_causes_are_both_told_the_first_one_first() {
    insta::assert_snapshot!(edited(|document| {
        set("/pipelines/0/stages/0/options/n", json!(2))(document);
        set("/pipelines/1/stages/2/options/language", json!("de"))(document);
        set("/pipelines/2/stages/1/mounts/0/target", json!("/mnt"))(document);
    }), @r#"
    build
      0→0 noop other id (own)
        .options.n: 1 → 2
    tree
      0→0 mkdir other id (build root: build[0] noop changed)
      1→1 users other id (build root: build[0] noop changed)
      2→2 locale other id (own; build root: build[0] noop changed)
        .options.language: "C" → "de"
      3→3 hostname other id (build root: build[0] noop changed)
    image
      0→0 mkfs.ext4 other id (build root: build[0] noop changed)
      1→1 copy other id (own; build root: build[0] noop changed)
        .mounts[0].target: "/" → "/mnt"
    "#);
}

#[test]
fn what_ids_leave_out_is_built_again_under_the_same_id() {
    insta::assert_snapshot!(edited(set("/pipelines/2/stages/0/devices/device/options/start", json!(2))), @r"
    image
      0→0 mkfs.ext4 same id (own)
        .devices.device.options.start: 1 → 2 (not in the id)
      1→1 copy same id (before: image[0] mkfs.ext4 changed)
    ");
    // Of a device that something is mounted from, and of one that lies on it, the id knows.
    insta::assert_snapshot!(edited(set("/pipelines/2/stages/1/devices/disk/options/filename", json!("d"))), @r#"
    image
      1→1 copy other id (own)
        .devices.disk.options.filename: "disk.img" → "d"
    "#);
    insta::assert_snapshot!(edited(set("/pipelines/0/runner", json!("org.osbuild.debian13"))), @r#"
    tree
      .runner: "org.osbuild.debian12" → "org.osbuild.debian13" (not in the id)
      0→0 mkdir same id (runner: tree.runner)
      1→1 users same id (runner: tree.runner)
      2→2 locale same id (runner: tree.runner)
      3→3 hostname same id (runner: tree.runner)
    image
      .runner: "org.osbuild.debian12" → "org.osbuild.debian13" (not in the id)
      0→0 mkfs.ext4 same id (runner: image.runner)
      1→1 copy same id (runner: image.runner; input tree: tree.runner)
    "#);
    insta::assert_snapshot!(edited(set("/pipelines/2/stages/1/mounts/0/name", json!("slash"))), @r#"
    image
      1→1 copy same id (own)
        .mounts[0].name: "root" → "slash" (not in the id)
    "#);
    insta::assert_snapshot!(edited(|document| {
        let mut second = document["pipelines"][2]["stages"][0]["devices"]["device"].clone();
        second["options"]["start"] = json!(7);
        document["pipelines"][2]["stages"][0]["devices"]["more"] = second;
    }), @r#"
    image
      0→0 mkfs.ext4 same id (own)
        .devices.more: + {"type": "org.osbuild.loopback", "options": {"filename": "disk.img", "start": 7}} (not in the id)
      1→1 copy same id (before: image[0] mkfs.ext4 changed)
    "#);
}

#[test]
fn the_order_of_devices_is_not_in_the_id_and_still_matters() {
    let mut other = document();
    let devices = &mut other["pipelines"][2]["stages"][1]["devices"];
    devices["disk2"] = json!({"type": "org.osbuild.loopback", "options": {"filename": "disk.img"}});
    let old = other.clone();
    let devices = other["pipelines"][2]["stages"][1]["devices"].as_object_mut().expect("an object");
    let first = devices.shift_remove("disk").expect("there");
    devices.insert("disk".to_owned(), first);
    insta::assert_snapshot!(shown(&compare(&manifest(&old), &manifest(&other))), @r#"
    image
      1→1 copy same id (own)
        .devices: ["disk", "root", "disk2"] → ["disk2", "disk", "root"] (not in the id)
    "#);
}

#[test]
fn pipelines_come_go_move_and_are_renamed() {
    insta::assert_snapshot!(edited(|document| {
        document["pipelines"].as_array_mut().expect("pipelines").remove(3);
    }), @r"
    other → -
      0→- noop ()
    ");
    insta::assert_snapshot!(edited(|document| {
        document["pipelines"].as_array_mut().expect("pipelines").insert(1, json!({"name": "empty"}));
    }), @"- → empty");
    insta::assert_snapshot!(edited(|document| {
        let pipelines = document["pipelines"].as_array_mut().expect("pipelines");
                let other = pipelines.remove(3);
                pipelines.insert(0, other);
    }), @"reordered");
    // What refers to it says the same, in other words.
    insta::assert_snapshot!(edited(|document| {
        document["pipelines"][1]["name"] = json!("os");
        document["pipelines"][2]["stages"][1]["inputs"]["tree"]["references"] = json!(["name:os"]);
    }), @"tree → os");
}

#[test]
fn inputs_are_compared_by_what_they_name() {
    insta::assert_snapshot!(edited(set("/pipelines/2/stages/1/inputs/tree/references/0", json!("name:build"))), @"
    image
      1→1 copy other id (own)
        .inputs.tree.references.name:tree: - {}
        .inputs.tree.references.name:build: + {}
    ");
}

#[test]
fn sources_and_metadata_differ_without_ids() {
    insta::assert_snapshot!(edited(|document| {
        let items = &mut document["sources"]["org.osbuild.curl"]["items"];
        items["sha256:a"] = json!("http://other.invalid/a");
        items["sha256:c"] = json!("http://example.invalid/c");
        items.as_object_mut().expect("an object").remove("sha256:b");
        document["sources"]["org.osbuild.inline"] = json!({"items": {}});
        document["metadata"]["generators"][0]["name"] = json!("b");
    }), @r#"
    metadata .generators[0].name: "a" → "b" (not in the id)
    org.osbuild.curl true→true
      .items.sha256:b: - "http://example.invalid/b" (not in the id)
      .items.sha256:a: "http://example.invalid/a" → "http://other.invalid/a" (not in the id)
      .items.sha256:c: + "http://example.invalid/c" (not in the id)
    org.osbuild.inline false→true
      .items: + {} (not in the id)
    "#);
}

#[test]
fn format_1_is_compared_as_format_2_is() {
    let document = |epoch: u64| {
        json!({
            "pipeline": {
                "build": {"runner": "org.osbuild.linux", "pipeline": {"stages": [{"name": "org.osbuild.noop", "options": {"n": epoch}}]}},
                "stages": [{"name": "org.osbuild.noop"}],
                "assembler": {"name": "org.osbuild.tar", "options": {"filename": "a"}},
            },
            "sources": {"org.osbuild.files": {"urls": {"sha256:a": "http://example.invalid/a"}}},
        })
    };
    insta::assert_snapshot!(shown(&compare(&manifest(&document(1)), &manifest(&document(2)))), @r"
    build
      0→0 noop other id (own)
        .options.n: 1 → 2
    tree
      0→0 noop other id (build root: build[0] noop changed)
    assembler
      0→0 tar other id (build root: build[0] noop changed)
    ");
}

/// Thousands of stages, of which some were changed, added, removed and moved.
#[test]
fn ten_thousand_stages_are_compared_in_no_time() {
    let stage = |number: usize| json!({"type": format!("org.osbuild.s{}", number % 7), "options": {"n": number, "texts": ["a", "b"]}});
    let document =
        |stages: Vec<Value>| json!({"version": "2", "pipelines": [{"name": "tree", "stages": stages}]});
    let old: Vec<Value> = (0..10_000).map(stage).collect();
    let mut some = old.clone();
    some.remove(9_000);
    let moved = some.remove(100);
    some.insert(5_000, moved);
    some.insert(3_000, stage(70_000));
    some[200]["options"]["n"] = json!("other");
    // Nothing stays: nothing helps to find what belongs together.
    let all: Vec<Value> = (0..10_000).map(|number| stage(number + 70_001)).collect();
    let backwards: Vec<Value> = old.iter().rev().cloned().collect();
    let alike = vec![json!({"type": "org.osbuild.noop"}); 10_000];
    let alternating: Vec<Value> = (0..10_000).map(|number| stage(number * number % 5)).collect();
    let old = manifest(&document(old));
    for (what, new, counts) in [
        ("some", some, [(Fate::Added, 1), (Fate::Removed, 1), (Fate::Moved, 1), (Fate::Changed, 1)]),
        ("all", all, [(Fate::Added, 1), (Fate::Removed, 1), (Fate::Moved, 0), (Fate::Changed, 9_999)]),
        (
            "backwards",
            backwards,
            [(Fate::Added, 0), (Fate::Removed, 0), (Fate::Moved, 9_999), (Fate::Changed, 0)],
        ),
        (
            "alike",
            alike,
            [(Fate::Added, 10_000), (Fate::Removed, 10_000), (Fate::Moved, 0), (Fate::Changed, 0)],
        ),
        (
            "alternating",
            alternating,
            [(Fate::Added, 0), (Fate::Removed, 0), (Fate::Moved, 0), (Fate::Changed, 0)],
        ),
    ] {
        let new = manifest(&document(new));
        let started = Instant::now();
        let comparison = compare(&old, &new);
        let took = started.elapsed();
        // Far more than it takes: the machine may be busy.
        assert!(took < Duration::from_secs(10), "{what}: {took:?}");
        if what != "alternating" {
            for (fate, expected) in counts {
                let found =
                    comparison.pipelines[0].stages.iter().filter(|stage| stage.fate() == Some(fate)).count();
                assert_eq!(found, expected, "{what}: {fate:?}");
            }
        }
    }
}

mod chance {
    //! Manifests by chance: of few names and values, so that much is alike.

    use proptest::prelude::*;

    use super::*;

    /// One stage: type, option, device start, whether the device is mounted, whether there is an input.
    type Stage = (u8, u8, Option<u8>, bool, Option<usize>);
    /// One pipeline: stages, build root, runner, source epoch.
    type Pipeline = (Vec<Stage>, Option<usize>, Option<u8>, Option<u8>);

    fn pipelines() -> impl Strategy<Value = Vec<Pipeline>> {
        let stage = (
            0..3_u8,
            0..3_u8,
            proptest::option::of(0..2_u8),
            any::<bool>(),
            proptest::option::of(0..4_usize),
        );
        let stages = proptest::collection::vec(stage, 0..5);
        let pipeline = (
            stages,
            proptest::option::of(0..4_usize),
            proptest::option::of(0..2_u8),
            proptest::option::weighted(0.2, 0..2_u8),
        );
        proptest::collection::vec(pipeline, 0..5)
    }

    fn stage((kind, option, start, mounted, input): &Stage, before: usize) -> Value {
        let mut stage = json!({"type": format!("org.osbuild.t{kind}"), "options": {"value": option}});
        if let Some(start) = start {
            stage["devices"] =
                json!({"device": {"type": "org.osbuild.loopback", "options": {"start": start}}});
            if *mounted {
                stage["mounts"] =
                    json!([{"name": "root", "type": "org.osbuild.ext4", "source": "device", "target": "/"}]);
            }
        }
        if let Some(input) = input.filter(|input| *input < before) {
            stage["inputs"] = json!({"tree": {"type": "org.osbuild.tree", "origin": "org.osbuild.pipeline",
                "references": [format!("name:p{input}")]}});
        }
        stage
    }

    fn document(pipelines: &[Pipeline]) -> Value {
        let pipeline = |(index, (stages, build, runner, epoch)): (usize, &Pipeline)| {
            let stages: Vec<Value> = stages.iter().map(|it| stage(it, index)).collect();
            let mut pipeline = json!({"name": format!("p{index}"), "stages": stages});
            if let Some(build) = build.filter(|build| *build < index) {
                pipeline["build"] = json!(format!("name:p{build}"));
            }
            if let Some(runner) = runner {
                pipeline["runner"] = json!(format!("org.osbuild.r{runner}"));
            }
            if let Some(epoch) = epoch {
                pipeline["source-epoch"] = json!(epoch);
            }
            pipeline
        };
        json!({"version": "2", "pipelines": pipelines.iter().enumerate().map(pipeline).collect::<Vec<_>>()})
    }

    proptest! {
        #[test]
        fn what_is_built_again_has_a_cause_and_nothing_else_has_one(old in pipelines(), new in pipelines()) {
            let (old, new) = (manifest(&document(&old)), manifest(&document(&new)));
            let comparison = compare(&old, &new);
            let text = shown(&comparison);
            prop_assert!(compare(&old, &old).is_equal() && compare(&new, &new).is_equal());
            prop_assert_eq!(comparison.is_equal(), compare(&new, &old).is_equal());
            for pipeline in &comparison.pipelines {
                let (mut of_old, mut of_new) = (Vec::new(), Vec::new());
                for stage in &pipeline.stages {
                    of_old.extend(stage.old.as_ref().map(|side| side.index));
                    of_new.extend(stage.new.as_ref().map(|side| side.index));
                    if let (Some(old), Some(new)) = (&stage.old, &stage.new) {
                        prop_assert_eq!(old.id != new.id, stage.verdict == Verdict::OtherId, "{}", text);
                        prop_assert_eq!(stage.causes.is_empty(), stage.verdict == Verdict::Same, "{}", text);
                    }
                    // What a cause began with was changed itself.
                    for origin in stage.causes.iter().filter_map(Cause::origin) {
                        let there = comparison.pipelines.iter().find(|it| it.new_name.as_ref() == Some(&origin.pipeline));
                        let there = there.expect("a pipeline of the second manifest");
                        let changed = |path: &str| there.changes.iter().any(|it| it.path.to_string() == path);
                        match &origin.what {
                            What::BuildRoot => prop_assert!(changed(".build"), "{}", text),
                            What::SourceEpoch => prop_assert!(changed(".source-epoch"), "{}", text),
                            What::Runner => prop_assert!(changed(".runner"), "{}", text),
                            What::Stage { index, name, fate } => {
                                let found = there.stages.iter().find(|it| {
                                    let side = if *fate == Fate::Removed { &it.old } else { &it.new };
                                    it.fate() == Some(*fate) && side.as_ref().is_some_and(|side| side.index == *index)
                                });
                                prop_assert!(found.is_some_and(|it| it.name == *name), "{:?} in\n{}", origin, text);
                            }
                        }
                    }
                }
                of_old.sort_unstable();
                prop_assert!(of_old.iter().copied().eq(0..of_old.len()), "{}", text);
                prop_assert!(of_new.iter().copied().eq(0..of_new.len()), "{}", text);
            }
        }
    }
}
