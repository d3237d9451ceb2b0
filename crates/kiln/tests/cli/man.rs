//! `kiln man`, versions, and exit codes: what programs and people are told about the command line.

use std::fs;
use std::path::{Path, PathBuf};

use kiln_testkit::host;

use crate::manifests::good;
use crate::world::{KILN, World, finish, names};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn the_pages_in_docs_are_what_is_generated() {
    let world = World::new();
    world.run(&["man", "man"]).succeeded();
    let committed = root().join("docs/man");
    let remedy = "regenerate with `cargo xtask docs`";
    assert_eq!(names(&committed), names(&world.path("man")), "{remedy}");
    for name in names(&committed) {
        let read = |directory: &Path| fs::read_to_string(directory.join(&name)).expect("a page");
        let (kept, generated) = (read(&committed), read(&world.path("man")));
        assert!(kept == generated, "docs/man/{name} is not what the command line is: {remedy}");
    }
}

#[test]
fn one_page_is_printed() {
    let world = World::new();
    world.run(&["man", "man"]).succeeded();
    let page = |name: &str| fs::read_to_string(world.path("man").join(name)).expect("a page");
    assert_eq!(world.run(&["man"]).succeeded().stdout, page("kiln.1"));
    assert_eq!(
        world.run(&["man", "--page", "kiln-cache-prune"]).succeeded().stdout,
        page("kiln-cache-prune.1")
    );
    let refused = world.run(&["man", "--page", "kiln-biuld"]);
    assert_eq!(
        (refused.code(), refused.stderr.as_str()),
        (Some(2), "error: there is no page `kiln-biuld`\nhint: did you mean `kiln-build`?\n")
    );
}

#[test]
fn pages_are_formatted_without_a_warning() {
    let world = World::new();
    let Some(groff) = host::provided_program("manual pages", host::GROFF) else { return };
    world.run(&["man", "man"]).succeeded();
    for name in names(&world.path("man")) {
        let arguments = ["-man", "-ww", "-Kutf8", "-Tutf8", "-P-cbu", &format!("man/{name}")];
        let output = world.program(&groff, &arguments).output().expect("groff");
        let (text, warnings) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && warnings.is_empty(), "{name}: {warnings}");
        assert!(
            text.trim_end().lines().last().is_some_and(|line| line.contains("Kiln 0.")),
            "{name}: {text}"
        );
        assert!(text.contains("SYNOPSIS") && text.contains("EXIT STATUS"), "{name}: {text}");
    }
}

/// Every command, from the help.
fn commands(world: &World, path: &[&str]) -> Vec<Vec<String>> {
    let help = world.run(&[path, &["-h"]].concat()).succeeded().stdout;
    let mut found = Vec::new();
    for line in
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty())
    {
        // What is indented further continues the line before.
        let Some(name) = line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')) else { continue };
        let name = name.split(' ').next().expect("a name");
        if name != "help" {
            let path = [path, &[name]].concat();
            found.push(path.iter().map(|word| (*word).to_owned()).collect());
            found.extend(commands(world, &path));
        }
    }
    found
}

#[test]
fn every_command_has_help_with_examples_and_a_page() {
    let world = World::new();
    world.run(&["man", "man"]).succeeded();
    let commands = commands(&world, &[]);
    assert!(commands.len() > 15, "{commands:?}");
    for command in commands {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let help = world.run(&[&words[..], &["--help"]].concat()).succeeded();
        assert!(help.stdout.contains(&format!("Usage: kiln {}", words.join(" "))), "{}", help.shown());
        assert_eq!(help.stderr, "");
        // Of commands with commands of their own, and of all that have none.
        if words.len() == 1 {
            assert!(help.stdout.contains("\nExamples:\n  "), "`kiln {}` has no examples", words.join(" "));
        }
        let page = fs::read_to_string(world.path("man").join(format!("kiln-{}.1", words.join("-"))))
            .expect("a page");
        assert_eq!(help.stdout.contains("\nExamples:\n"), page.contains("\n.SH EXAMPLES\n"), "{words:?}");
    }
}

#[test]
fn versions() {
    let world = World::new();
    let own = format!("kiln {}\n", env!("CARGO_PKG_VERSION"));
    for option in ["--version", "-V"] {
        let run = world.run(&[option]).succeeded();
        assert_eq!((run.stdout.as_str(), run.stderr.as_str()), (own.as_str(), ""));
    }
    std::os::unix::fs::symlink(KILN, world.path("osbuild")).expect("a link");
    let run =
        finish(world.program(world.path("osbuild"), &["--version"]).spawn().expect("started")).succeeded();
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("osbuild 191\n", ""));
}

/// Under the name `osbuild` they are the reference's.
#[test]
fn exit_codes_of_osbuild() {
    let world = World::new();
    let page = world.run(&["man", "--page", "osbuild"]).succeeded().stdout;
    let section = page
        .split(".SH \"EXIT STATUS\"\n")
        .nth(1)
        .and_then(|text| text.split(".SH").next())
        .expect("a section");
    let codes: Vec<&str> =
        section.lines().filter_map(|line| line.strip_prefix("\\fB")?.strip_suffix("\\fR")).collect();
    assert_eq!(codes, ["0", "1", "2", "130"]);
    std::os::unix::fs::symlink(KILN, world.path("osbuild")).expect("a link");
    world.write("good.json", good("a").to_string());
    world.write("invalid.json", "{\"version\": \"2\", \"pipelines\": 1}");
    for (arguments, code) in [
        (&["--inspect", "good.json"][..], 0),
        (&["--inspect", "--export", "nothing", "good.json"], 1),
        (&["--inspect", "nothing.json"], 1),
        (&["--inspect", "invalid.json"], 2),
        (&["--no-such-option"], 2),
    ] {
        let run = finish(world.program(world.path("osbuild"), arguments).spawn().expect("started"));
        assert_eq!(run.code(), Some(code), "{arguments:?}: {}", run.shown());
    }
}

/// The exit codes with their meanings, from the help.
fn exit_codes(world: &World) -> Vec<(String, String)> {
    let help = world.run(&["--help"]).succeeded().stdout;
    help.lines()
        .skip_while(|line| *line != "Exit codes:")
        .skip(1)
        .map(|line| {
            let (code, meaning) = line.trim().split_once(' ').expect("a code and its meaning");
            (code.to_owned(), meaning.trim().to_owned())
        })
        .collect()
}

#[test]
fn exit_codes_are_the_same_everywhere() {
    let world = World::new();
    let codes = exit_codes(&world);
    assert_eq!(codes.iter().map(|(code, _)| code.as_str()).collect::<Vec<_>>(), ["0", "1", "2", "3", "130"]);
    let readme = fs::read_to_string(root().join("README.md")).expect("the README");
    let section = readme
        .split("\n## Exit codes\n")
        .nth(1)
        .and_then(|text| text.split("\n## ").next())
        .expect("a section");
    let table: Vec<(String, String)> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | "))
        .skip(1)
        .map(|(code, meaning)| (code.to_owned(), meaning.to_owned()))
        .collect();
    assert_eq!(table, codes, "the README's table, and the help");
    assert!(section.contains("Under the name `osbuild` they are osbuild's: 1 where `kiln` ends with 3."));
    for page in ["kiln", "kiln-build"] {
        let text = world.run(&["man", "--page", page]).succeeded().stdout;
        for (code, meaning) in &codes {
            assert!(
                text.contains(&format!(".TP\n\\fB{code}\\fR\n{meaning}\n")),
                "{code} in {page}(1): {text}"
            );
        }
    }
}

#[test]
fn exit_codes_are_what_is_documented() {
    let world = World::new();
    world.write("good.json", good("a").to_string());
    world.write("other.json", good("b").to_string());
    world.write("bad.json", "{");
    // Interrupted builds (130) are in `interrupted`.
    for (arguments, code) in [
        (&["inspect", "good.json"][..], 0),
        (&["plan", "good.json", "--cache", "cache", "--export", "nothing"], 1),
        (&["diff", "good.json", "other.json"], 1),
        (&["inspect", "bad.json"], 2),
        (&["inspect"], 2),
        (&["man", "/proc/nowhere"], 3),
    ] {
        let run = world.run(arguments);
        assert_eq!(run.code(), Some(code), "{}", run.shown());
    }
}
