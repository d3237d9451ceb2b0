//! `kiln diff`: what differs between two manifests, and why that is built again.

use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::manifests::{add_url, disk, download, manifest, mkdir, noop, pipeline};
use crate::world::{Finished, World, assert_shown, finish};

fn hostname(name: &str) -> Value {
    json!({"type": "org.osbuild.hostname", "options": {"hostname": name}})
}

/// Two manifests compared.
fn diff(world: &World, old: &Value, new: &Value, more: &[&str]) -> Finished {
    world.write("old.json", old.to_string());
    world.write("new.json", new.to_string());
    world.run(&[&["diff", "old.json", "new.json"], more].concat())
}

/// A build root, a tree with three stages, and a tree made of it.
fn image(options: &str) -> Value {
    let mut tree = pipeline("tree", &[mkdir(&["/a"]), hostname(options), noop()]);
    tree["build"] = json!("name:build");
    let copy = json!({"type": "org.osbuild.copy", "options": {"paths": []}, "inputs": {"tree": {
        "type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": ["name:tree"]}}});
    let mut build = pipeline("build", &[noop()]);
    build["runner"] = json!("org.osbuild.linux");
    manifest(&[build, tree, pipeline("image", &[noop(), copy])])
}

#[test]
fn the_option_is_named_and_what_follows_says_so() {
    let world = World::new();
    assert_shown!(world, diff(&world, &image("a"), &image("b"), &[]), @r#"
    exit code 1
    --- stdout
    pipeline `build`: the same
    pipeline `tree`: id 8974d69347ea → ebf54e72c1cc
      ~ [2] org.osbuild.hostname: another id
          options.hostname: "a" → "b"
        [3] org.osbuild.noop: another id only because of what is before it: [2] org.osbuild.hostname was changed
    pipeline `image`: id 20936528d018 → 364e3ddb8a51
        [2] org.osbuild.copy: another id only because of its input `tree`: `tree` [2] org.osbuild.hostname was changed
    of 6 stages: 3 with another id, 0 built again under the same id, 3 the same
    "#);
    let mut other = image("a");
    other["pipelines"][0]["stages"] = json!([mkdir(&["/usr"])]);
    other["pipelines"][1]["source-epoch"] = json!(1);
    other["pipelines"][1]["stages"].as_array_mut().expect("stages").insert(1, noop());
    assert_shown!(world, diff(&world, &image("a"), &other, &[]), @r"
    exit code 1
    --- stdout
    pipeline `build`: id beda46704765 → 9d8dedb93ef0
      - [1] org.osbuild.noop: removed
      + [1] org.osbuild.mkdir: added
    pipeline `tree`: id 8974d69347ea → 01c986258aef
      source-epoch: added: 1
        [1] org.osbuild.mkdir: another id because of its build root: `build` [1] org.osbuild.noop was removed; also of the source epoch
      + [2] org.osbuild.noop: added
        [3–4] 2 stages: another id because of its build root: `build` [1] org.osbuild.noop was removed; also of the source epoch
    pipeline `image`: id 20936528d018 → d23ad1d80a19
        [2] org.osbuild.copy: another id only because of its input `tree`: `build` [1] org.osbuild.noop was removed
    of 7 stages: 6 with another id, 0 built again under the same id, 1 the same
    ");
}

#[test]
fn what_ids_leave_out_is_told() {
    let world = World::new();
    let mut other = image("a");
    other["pipelines"][0]["runner"] = json!("org.osbuild.debian12");
    assert_shown!(world, diff(&world, &image("a"), &other, &[]), @r#"
    exit code 1
    --- stdout
    pipeline `build`: the same
    pipeline `tree`: same id 8974d69347ea
      runner: "org.osbuild.linux" → "org.osbuild.debian12"
        [1–3] 3 stages: the id is the same, but it is built again only because of the runner of its build root
    pipeline `image`: same id 20936528d018
        [2] org.osbuild.copy: the id is the same, but it is built again only because of its input `tree`: the build root of `tree` has another runner
    of 6 stages: 0 with another id, 4 built again under the same id, 2 the same
    "#);
    let old = disk("a", "16M");
    let mut new = old.clone();
    let devices = new.pointer_mut("/pipelines/1/stages/1/devices/device/options").expect("a device");
    devices["start"] = json!(2048);
    assert_shown!(world, diff(&world, &old, &new, &[]), @r"
    exit code 1
    --- stdout
    pipeline `tree`: the same
    pipeline `image`: same id 66f2aecdebc2
      ~ [2] org.osbuild.mkfs.ext4: the id is the same, but it is built again because of what ids leave out
          devices.device.options.start: added: 2048
        [3] org.osbuild.copy: the id is the same, but it is built again only because of what is before it: [2] org.osbuild.mkfs.ext4 was changed
    of 4 stages: 0 with another id, 2 built again under the same id, 2 the same
    ");
}

#[test]
fn pipelines_sources_and_metadata() {
    let world = World::new();
    let digest = |digit: &str| format!("sha256:{}", digit.repeat(64));
    let mut old = download(&digest("a"), "http://example.invalid/pool/a_1.0.deb?x=1");
    add_url(&mut old, &digest("d"), "http://example.invalid/d.deb");
    let mut new = download(&digest("b"), "http://example.invalid/pool/a_1.1.deb");
    add_url(&mut new, &digest("c"), "http://example.invalid/c");
    add_url(&mut new, &digest("d"), "http://mirror.invalid/d.deb");
    new["metadata"] = json!({"generators": [{"name": "x"}]});
    new["pipelines"].as_array_mut().expect("pipelines").push(pipeline("more", &[noop(), noop()]));
    assert_shown!(world, diff(&world, &old, &new, &[]), @r#"
    exit code 1
    --- stdout
    metadata; no id depends on it
      generators: added: [{"name": "x"}]
    pipeline `tree`: id cf83c6666873 → b6f8a5301757
      ~ [1] org.osbuild.copy: another id
          options.paths[0].from: "input://files/sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa… → "input://files/sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb…
          inputs.files.references: a_1.0.deb → a_1.1.deb (sha256:aaaaaaaaaaaa → sha256:bbbbbbbbbbbb)
    pipeline `more`: added, 2 stages
    source `org.osbuild.curl`: 2 added, 1 removed, 1 changed; no id depends on it
      items.sha256:dddddddddddd (d.deb).url: "http://example.invalid/d.deb" → "http://mirror.invalid/d.deb"
    of 3 stages: 3 with another id, 0 built again under the same id, 0 the same
    "#);
    assert_shown!(world, diff(&world, &new, &old, &[]), @r#"
    exit code 1
    --- stdout
    metadata; no id depends on it
      generators: removed: [{"name": "x"}]
    pipeline `tree`: id b6f8a5301757 → cf83c6666873
      ~ [1] org.osbuild.copy: another id
          options.paths[0].from: "input://files/sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb… → "input://files/sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…
          inputs.files.references: a_1.1.deb → a_1.0.deb (sha256:bbbbbbbbbbbb → sha256:aaaaaaaaaaaa)
    pipeline `more`: removed, 2 stages
    source `org.osbuild.curl`: 1 added, 2 removed, 1 changed; no id depends on it
      items.sha256:dddddddddddd (d.deb).url: "http://mirror.invalid/d.deb" → "http://example.invalid/d.deb"
    of 1 stage: 1 with another id, 0 built again under the same id, 0 the same
    "#);
}

#[test]
fn equal_manifests_exit_with_0() {
    let world = World::new();
    let document = image("a");
    assert_shown!(world, diff(&world, &document, &document, &[]), @r"
    exit code 0
    --- stdout
    `old.json` and `new.json` do not differ
    ");
    let shown = diff(&world, &document, &document, &["--json"]).succeeded().json();
    assert_eq!(shown["equal"], true);
    let mut child = world.kiln(&["diff", "old.json", "-"]).stdin(Stdio::piped()).spawn().expect("started");
    let mut input = child.stdin.take().expect("piped");
    input.write_all(document.to_string().as_bytes()).expect("written");
    drop(input);
    assert_eq!(finish(child).succeeded().stdout, "`old.json` and `<stdin>` do not differ\n");
}

#[test]
fn json_has_everything() {
    let world = World::new();
    let run = diff(&world, &image("a"), &image("b"), &["--json"]);
    assert_eq!(run.code(), Some(1), "{}", run.shown());
    let shown = run.json();
    let names = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&shown), ["equal", "formats", "metadata", "reordered", "pipelines", "sources"]);
    assert_eq!(shown["pipelines"].as_array().expect("pipelines").len(), 3, "equal ones too");
    assert_eq!(shown["pipelines"][0]["equal"], true);
    let stages = &shown["pipelines"][1]["stages"];
    assert_eq!(stages[0]["built_again"], Value::Null);
    let ids = [&stages[1]["old"]["id"], &stages[1]["new"]["id"]];
    assert!(ids[0] != ids[1] && ids.iter().all(|id| id.as_str().expect("an id").len() == 64), "{ids:?}");
    assert_eq!(stages[1]["causes"], json!([{"why": "own"}]));
    assert_eq!(
        stages[1]["changes"],
        json!([{"path": ["options", "hostname"], "in_id": true, "edit": "changed", "old": "a", "new": "b"}])
    );
    let origin = json!({"pipeline": "tree", "what": "stage", "index": 1, "type": "org.osbuild.hostname", "edit": "changed"});
    assert_eq!(stages[2]["built_again"], "other-id");
    assert_eq!(stages[2]["causes"], json!([{"why": "before", "origin": origin}]));
    assert_eq!(
        shown["pipelines"][2]["stages"][1]["causes"],
        json!([{"why": "input", "input": "tree", "origin": origin}])
    );
}

#[test]
fn wrong_input_is_told_apart_from_a_difference() {
    let world = World::new();
    world.write("good.json", image("a").to_string());
    world.write("broken.json", "{\"version\": \"2\", \"pipelines\": 1}");
    for (arguments, expected) in [
        (["diff", "good.json", "broken.json"], "expected an array"),
        (["diff", "none.json", "good.json"], "cannot read `none.json`"),
        (["diff", "-", "-"], "standard input can only be one of the two manifests"),
    ] {
        let run = world.run(&arguments);
        assert_eq!((run.code(), run.stdout.as_str()), (Some(2), ""), "{}", run.shown());
        assert!(run.stderr.contains(expected), "{}", run.shown());
    }
    // A definition is read as one: this one is wrong.
    world.write("definition.toml", "nonsense = 1\n");
    let run = world.run(&["diff", "good.json", "definition.toml"]);
    assert_eq!(run.code(), Some(2), "{}", run.shown());
    assert!(run.stderr.contains("definition.toml:1:1"), "{}", run.shown());
}

#[test]
fn names_cannot_do_anything_to_a_terminal() {
    let world = World::new();
    let hostile = |value: &str| {
        let mut stage = noop();
        stage["options"] = json!({"\u{1b}[2J.\u{9b}x": format!("\u{1b}]0;{value}\u{7}\u{202e}")});
        manifest(&[pipeline("\u{1b}[31mred\n", &[stage])])
    };
    let run = diff(&world, &hostile("a"), &hostile("b"), &[]);
    assert_eq!(run.code(), Some(1), "{}", run.shown());
    assert!(
        run.stdout.chars().all(|character| character == '\n' || !character.is_control()),
        "{:?}",
        run.stdout
    );
    assert!(!run.stdout.contains('\u{202e}'), "{:?}", run.stdout);
}

#[test]
fn ten_thousand_stages() {
    let world = World::new();
    let stages: Vec<Value> = (0..10_000).map(|number| mkdir(&[&format!("/{number}")])).collect();
    let mut other = stages.clone();
    other.insert(5_000, noop());
    let started = Instant::now();
    let run =
        diff(&world, &manifest(&[pipeline("tree", &stages)]), &manifest(&[pipeline("tree", &other)]), &[]);
    // Far more than it takes: the machine may be busy.
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert_shown!(world, run, @r"
    exit code 1
    --- stdout
    pipeline `tree`: id d4d11e9714d5 → 8f0f9b839b9d
      + [5001] org.osbuild.noop: added
        [5002–10001] 5000 stages: another id only because of what is before it: [5001] org.osbuild.noop was added
    of 10001 stages: 5001 with another id, 0 built again under the same id, 5000 the same
    ");
}
