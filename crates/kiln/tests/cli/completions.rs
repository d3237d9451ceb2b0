//! `kiln completions`: the scripts in their shells, where there are any; in bash always.

use std::process::Command;

use kiln_testkit::host;

use crate::world::World;

/// What bash offers for the last word of a command line.
fn completed(world: &World, script: &str, line: &str) -> Vec<String> {
    let words: Vec<&str> = line.split(' ').collect();
    let (program, last) = (words[0], words.len() - 1);
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    // As bash itself calls it: the function that `complete -p` names, with program, word and the word before.
    let text = format!(
        "set -e; source ./{script}; function=$(complete -p {program} | sed -E 's/.* -F ([^ ]+) .*/\\1/'); \
         COMP_WORDS=({}); COMP_CWORD={last}; COMPREPLY=(); set +e; \
         $function '{program}' '{}' '{}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        quoted.join(" "),
        words[last],
        words[last - 1],
    );
    let output = world.program("bash", &["--norc", "-c", &text]).output().expect("bash");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn bash_completes_commands_options_values_and_files() {
    let world = World::new();
    for name in ["kiln", "osbuild"] {
        let script = world.run(&["completions", "bash", "--name", name]).succeeded().stdout;
        assert!(script.contains(" -o default ") && !script.contains("<MANIFEST>"), "{script}");
        world.write(&format!("{name}.bash"), script);
        let check = world.program("bash", &["-n", &format!("{name}.bash")]).output().expect("bash");
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
    }
    world.write("manifest.json", "{}");
    for (line, expected) in [
        ("kiln di", &["diff"][..]),
        ("kiln cache v", &["verify"]),
        ("kiln tree d", &["diff", "digest"]),
        ("kiln build --output-d", &["--output-directory"]),
        ("kiln build --progress ", &["auto", "plain", "none"]),
        ("kiln graph --format s", &["svg"]),
        ("kiln completions ", &["bash", "fish", "zsh"]),
        ("kiln graph -o mani", &["manifest.json"]),
        // Nothing of ours: bash goes on to the names of files (`-o default`).
        ("kiln diff --json mani", &[]),
    ] {
        let found = completed(&world, "kiln.bash", line);
        let offered: Vec<&str> = found
            .iter()
            .map(String::as_str)
            .filter(|word| line.ends_with(' ').then_some(()).is_none() || !word.starts_with('-'))
            .collect();
        assert_eq!(offered, expected, "{line}");
    }
    for (line, expected) in [
        ("osbuild --output-d", "--output-directory"),
        ("osbuild --monitor J", "JSONSeqMonitor"),
        ("osbuild --cache mani", "manifest.json"),
    ] {
        assert_eq!(completed(&world, "osbuild.bash", line), [expected], "{line}");
    }
}

#[test]
fn fish_and_zsh_can_read_their_scripts() {
    let world = World::new();
    for name in ["kiln", "osbuild"] {
        for (shell, need) in [("fish", host::FISH), ("zsh", host::ZSH)] {
            let script = world.run(&["completions", shell, "--name", name]).succeeded().stdout;
            assert!(script.contains(name) && script.lines().count() > 20, "{shell}: {script}");
            let file = world.write(&format!("{name}.{shell}"), &script);
            if let Some(program) = host::provided_program("a completion script", need) {
                let output = Command::new(program).arg("-n").arg(&file).output().expect("started");
                assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
            }
        }
        let zsh = world.run(&["completions", "zsh", "--name", name]).succeeded().stdout;
        assert!(zsh.starts_with(&format!("#compdef {name}\n")), "{zsh}");
    }
    let refused = world.run(&["completions", "tcsh"]);
    assert_eq!(refused.code(), Some(2), "{}", refused.shown());
    assert!(refused.stderr.contains("[possible values: bash, fish, zsh]"), "{}", refused.shown());
}
