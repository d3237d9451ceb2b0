//! `kiln shadow`. What it compares is held with a program in the reference's place that is Kiln again, and changes what
//! it is told to; where `KILN_REFERENCE` names a checkout of the reference, with that.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::manifests::{manifest, mkdir, pipeline};
use crate::world::{KILN, World, assert_shown};

/// A package `osbuild` that runs Kiln, and then does something to what came of it: `cache`, `output` and `records` are
/// where its results are, and `said` is what it printed. What starts with `inspected` is done after `--inspect` only,
/// anything else after a build only.
fn reference(world: &World, then: &str) -> PathBuf {
    let package = world.path("checkout/osbuild");
    fs::create_dir_all(&package).expect("made");
    fs::write(package.join("__init__.py"), "").expect("written");
    let program = format!(
        "import glob, json, os, subprocess, sys
words = sys.argv[1:]
del words[words.index('--libdir'):words.index('--libdir') + 2]
run = subprocess.run(['osbuild', *words], executable='{KILN}', close_fds=False, stdout=subprocess.PIPE, text=True)
code, said, inspected = run.returncode, run.stdout, '--inspect' in words
if inspected == {inspected}:
    if not inspected:
        cache, output = (words[words.index(name) + 1] for name in ('--cache', '--output-directory'))
        (records,) = glob.glob(cache + '/../records')
{then}
sys.stdout.write(said)
sys.exit(code)
",
        inspected = if then.starts_with("inspected") { "True" } else { "False" },
        then = then.lines().map(|line| format!("    {line}\n")).collect::<String>(),
    );
    fs::write(package.join("__main__.py"), program).expect("written");
    world.path("checkout")
}

fn two_pipelines() -> Value {
    let epoch = |mut pipeline: Value| {
        pipeline["source-epoch"] = json!(1_000_000_000);
        pipeline
    };
    let input = json!({"tree": {
        "type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": ["name:system"],
    }});
    let hostname = json!({"type": "org.osbuild.hostname", "options": {"hostname": "one.example"}});
    // Archives with attributes hold times of change, too, which nobody can set.
    let options = json!({"filename": "system.tar", "acls": false, "selinux": false, "xattrs": false});
    let tar = json!({"type": "org.osbuild.tar", "options": options, "inputs": input});
    manifest(&[
        epoch(pipeline("system", &[mkdir(&["/etc", "/srv"]), hostname])),
        epoch(pipeline("archive", &[tar])),
    ])
}

fn shadow(world: &World, reference: &Path, manifest: &Value, more: &[&str]) -> (i32, Value) {
    world.write("manifest.json", manifest.to_string());
    let reference = reference.to_str().expect("text");
    let arguments = ["shadow", "--reference", reference, "manifest.json", "--export", "archive", "--json"];
    let shown = world.run(&[&arguments[..], more].concat());
    let told = serde_json::from_str(&shown.stdout).unwrap_or_else(|_| panic!("{}", shown.shown()));
    (shown.code().expect("a code"), told)
}

/// What differs, and where: without what.
fn places(told: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let place = |found: &Value| format!("{} {}", text(&found["what"]), text(&found["where"]));
    told["differences"].as_array().expect("differences").iter().map(place).collect()
}

#[test]
fn root_programs_that_do_the_same_are_equal() {
    let world = World::new();
    let reference = reference(&world, "pass");
    let (code, told) = shadow(&world, &reference, &two_pipelines(), &["--keep", "kept"]);
    assert_eq!(told["differences"], json!([]), "{told:#}");
    assert_eq!((code, &told["equal"], &told["compared"]["stages"]), (0, &json!(true), &json!(3)));
    assert!(told["compared"]["records"].as_u64().expect("a number") > 5, "{told:#}");
    assert!(world.path("kept/reference/output/archive/system.tar").is_file());
    world.assert_nothing_left();
}

/// Ostree's deployments have such directories.
#[test]
fn root_immutable_directories_do_not_stay() {
    let world = World::new();
    let place = world.path("place");
    let then = format!(
        "subprocess.check_call(['chattr', '+i', cache + '/objects'])\nopen('{}', 'w').write(cache)",
        place.display()
    );
    let reference = reference(&world, &then);
    let (code, told) = shadow(&world, &reference, &two_pipelines(), &[]);
    assert_eq!((code, &told["equal"]), (0, &json!(true)), "{told:#}");
    let cache = PathBuf::from(fs::read_to_string(&place).expect("written"));
    let work = cache.ancestors().nth(2).expect("a directory");
    assert!(work.starts_with("/var/tmp") && !work.exists(), "{}", work.display());
}

#[test]
fn root_whatever_differs_is_told() {
    let two = two_pipelines();
    let cases: &[(&str, &[&str])] = &[
        ("code = 3", &["exit code "]),
        (
            "inspected\nsaid = said.replace('org.osbuild.hostname', 'org.osbuild.other')",
            &["ids .pipelines[0].stages[1].type"],
        ),
        (
            "told = json.loads(said)\ntold['metadata'] = {'system': {'x': 1}}\nsaid = json.dumps(told)",
            &["result .metadata.system"],
        ),
        (
            "for name in glob.glob(cache + '/objects/*/data/meta'):\n    open(name + '/more', 'w').write('{}')",
            &["tree stage org.osbuild.mkdir ([ID]): meta/more (entry)"],
        ),
        // The first stage that differs; those after it are made from it.
        (
            "for name in glob.glob(cache + '/objects/*/data/tree/srv'):\n    os.chmod(name, 0o700)",
            &["tree stage org.osbuild.mkdir ([ID]): tree/srv (mode)"],
        ),
        (
            "for name in glob.glob(cache + '/objects/*/data/tree/etc/hostname'):\n    open(name, 'w').write('other')",
            &["tree stage org.osbuild.hostname ([ID]): tree/etc/hostname (size)"],
        ),
        ("os.truncate(output + '/archive/system.tar', 5)", &["tree export archive: system.tar (size)"]),
        ("lines = open(records).readlines()\nopen(records, 'w').writelines(lines[:-1])", &["records "]),
        (
            "text = open(records).read()\nopen(records, 'w').write(text.replace('Starting pipeline', 'Beginning pipeline'))",
            &["records [1].message", "records [9].message"],
        ),
    ];
    for (then, expected) in cases {
        let world = World::new();
        let reference = reference(&world, then);
        let (code, told) = shadow(&world, &reference, &two, &[]);
        let hidden: Vec<String> = places(&told).iter().map(|place| without_ids(place)).collect();
        assert_eq!(
            (code, hidden),
            (1, expected.iter().map(ToString::to_string).collect()),
            "{then}: {told:#}"
        );
        world.assert_nothing_left();
    }
}

fn without_ids(text: &str) -> String {
    let words = text.split_inclusive(['(', ')']);
    words.map(|word| if word.len() == 65 && word.ends_with(')') { "[ID])" } else { word }).collect()
}

#[test]
fn root_a_failing_manifest_fails_on_both_sides() {
    let world = World::new();
    let reference = reference(&world, "pass");
    let failing = manifest(&[pipeline(
        "archive",
        &[json!({"type": "org.osbuild.error", "options": {"returncode": 1}})],
    )]);
    let (code, told) = shadow(&world, &reference, &failing, &[]);
    assert_eq!((code, &told["differences"]), (0, &json!([])), "{told:#}");
    world.assert_nothing_left();
}

#[test]
fn root_mistakes_are_explained() {
    let world = World::new();
    let checkout = reference(&world, "pass");
    let checkout = checkout.to_str().expect("text");
    let shadow = |arguments: &[&str]| world.run(&[&["shadow"], arguments].concat());
    assert_shown!(world, shadow(&["--reference", "nowhere", "m.json", "--export", "x"]), @r#"
    exit code 2
    --- stderr
    error: `nowhere` is no checkout of osbuild
    hint: `--reference` names a directory with `osbuild`, `stages` and the like in it
    "#);
    assert_shown!(world, shadow(&["--reference", checkout, "m.json", "--export", "x"]), @r#"
    exit code 2
    --- stderr
    error: cannot read `m.json`
    "#);
}

/// With `KILN_REFERENCE`, the reference itself: with Kiln's modules, and with its own in both.
#[test]
fn root_the_reference_does_the_same() {
    let Some(checkout) = kiln_testkit::host::reference("what Kiln builds") else { return };
    let world = World::new();
    for more in [&[][..], &["--libdir", checkout.to_str().expect("text")]] {
        let (code, told) = shadow(&world, &checkout, &two_pipelines(), more);
        assert_eq!((code, &told["differences"]), (0, &json!([])), "{more:?}: {told:#}");
        world.assert_nothing_left();
    }
}
