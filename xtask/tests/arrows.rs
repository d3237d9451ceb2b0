//! The rules of the house that no compiler checks: which crate may use which, where `unsafe` may stand, who may
//! speak to the world, and that each dependency has a reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Which crates of the workspace each crate may use. Development dependencies may add `kiln-testkit` and, below the
/// program, nothing else.
const ARROWS: &[(&str, &[&str])] = &[
    (
        "kiln",
        &[
            "kiln-api",
            "kiln-engine",
            "kiln-modules",
            "kiln-resolve",
            "kiln-sandbox",
            "kiln-store",
            "kiln-sys",
        ],
    ),
    ("kiln-api", &["kiln-sys"]),
    ("kiln-engine", &["kiln-api", "kiln-sandbox", "kiln-store", "kiln-sys"]),
    ("kiln-modules", &["kiln-api", "kiln-sys"]),
    ("kiln-resolve", &["kiln-sys"]),
    ("kiln-sandbox", &["kiln-sys"]),
    ("kiln-store", &["kiln-sys"]),
    ("kiln-sys", &[]),
    ("kiln-testkit", &["kiln-sys"]),
    ("xtask", &["kiln-store", "kiln-sys", "kiln-testkit"]),
];

/// The one crate that may hold `unsafe`.
const UNSAFE: &str = "kiln-sys";

/// The crates that return values and emit events, and do nothing else towards the world.
const SILENT: &[&str] =
    &["kiln-api", "kiln-engine", "kiln-modules", "kiln-resolve", "kiln-sandbox", "kiln-store", "kiln-sys"];

/// What a silent crate does not say.
const LOUD: &[(&str, &str)] = &[
    ("env::var", "reads the environment"),
    ("env::set_var", "changes the environment"),
    ("env::remove_var", "changes the environment"),
    ("process::exit", "exits"),
    ("println!", "prints"),
    ("print!", "prints"),
    ("dbg!", "prints"),
];

/// Below which path a silent crate may be loud, and in which way.
const EXCEPTIONS: &[(&str, &str)] = &[
    // A stage is a process of its own, and its environment is a part of what the sandbox promises it.
    ("crates/kiln-modules/src/stages/", "reads the environment"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace holds this crate")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn manifest(path: &Path) -> toml::Table {
    toml::from_str(&read(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Each crate's name and directory.
fn crates() -> BTreeMap<String, PathBuf> {
    let members = fs::read_dir(root().join("crates")).expect("the crates");
    let directories = members.map(|entry| entry.expect("an entry").path()).chain([root().join("xtask")]);
    directories
        .filter(|directory| directory.join("Cargo.toml").exists())
        .map(|directory| {
            let package = manifest(&directory.join("Cargo.toml"));
            (package["package"]["name"].as_str().expect("a name").to_owned(), directory)
        })
        .collect()
}

/// The names in the dependency tables of a kind, those of single targets included.
fn dependencies(package: &toml::Table, kind: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let targets = package.get("target").and_then(toml::Value::as_table);
    let tables = targets.into_iter().flat_map(|targets| targets.values().filter_map(toml::Value::as_table));
    for table in tables.chain([package]) {
        names.extend(
            table
                .get(kind)
                .and_then(toml::Value::as_table)
                .into_iter()
                .flatten()
                .map(|(name, _)| name.clone()),
        );
    }
    names
}

/// What a crate uses against the rules.
fn wrong_arrows(name: &str, package: &toml::Table, crates: &BTreeSet<String>) -> Vec<String> {
    let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| *from == name) else {
        return vec![format!("`{name}` is not in the list of arrows")];
    };
    let mut wrong = Vec::new();
    for (kind, more) in
        [("dependencies", None), ("build-dependencies", None), ("dev-dependencies", Some("kiln-testkit"))]
    {
        for used in dependencies(package, kind).intersection(crates) {
            if !allowed.contains(&used.as_str()) && more != Some(used.as_str()) {
                wrong.push(format!("`{name}` must not use `{used}` ({kind})"));
            }
        }
    }
    wrong
}

#[test]
fn dependencies_run_along_the_arrows() {
    let crates = crates();
    let names: BTreeSet<String> = crates.keys().cloned().collect();
    assert_eq!(
        names.iter().map(String::as_str).collect::<Vec<_>>(),
        ARROWS.iter().map(|(name, _)| *name).collect::<Vec<_>>()
    );
    let wrong: Vec<String> = crates
        .iter()
        .flat_map(|(name, directory)| wrong_arrows(name, &manifest(&directory.join("Cargo.toml")), &names))
        .collect();
    assert!(wrong.is_empty(), "dependency arrows, see ARCHITECTURE.md:\n{}", wrong.join("\n"));
}

#[test]
fn the_arrows_have_no_circle() {
    // Taking away what depends on nothing that is left ends with nothing left, unless there is a circle.
    let mut left: Vec<_> = ARROWS.to_vec();
    while !left.is_empty() {
        let names: Vec<&str> = left.iter().map(|(name, _)| *name).collect();
        let before = left.len();
        left.retain(|(_, used)| used.iter().any(|name| names.contains(name)));
        assert!(left.len() < before, "a circle among {names:?}");
    }
}

#[test]
fn a_wrong_arrow_is_found_in_every_kind_of_table() {
    let crates: BTreeSet<String> = ARROWS.iter().map(|(name, _)| (*name).to_owned()).collect();
    for (text, wrong) in [
        ("[dependencies]\nkiln-sys.workspace = true\nserde.workspace = true", &[][..]),
        ("[dev-dependencies]\nkiln-testkit.workspace = true", &[]),
        (
            "[dependencies]\nkiln-engine.workspace = true",
            &["`kiln-store` must not use `kiln-engine` (dependencies)"],
        ),
        (
            "[dependencies]\nkiln-testkit.workspace = true",
            &["`kiln-store` must not use `kiln-testkit` (dependencies)"],
        ),
        (
            "[dev-dependencies]\nkiln-api.workspace = true",
            &["`kiln-store` must not use `kiln-api` (dev-dependencies)"],
        ),
        (
            "[target.'cfg(unix)'.dependencies]\nkiln-api.workspace = true",
            &["`kiln-store` must not use `kiln-api` (dependencies)"],
        ),
    ] {
        let package = toml::from_str(text).expect("a table");
        assert_eq!(wrong_arrows("kiln-store", &package, &crates), wrong, "{text}");
    }
}

#[test]
fn versions_stand_in_the_workspace_only() {
    let mut wrong = Vec::new();
    for (name, directory) in crates() {
        let package = manifest(&directory.join("Cargo.toml"));
        for kind in ["dependencies", "build-dependencies", "dev-dependencies"] {
            let table = package.get(kind).and_then(toml::Value::as_table);
            for (used, value) in table.into_iter().flatten() {
                if value.get("workspace").and_then(toml::Value::as_bool) != Some(true) {
                    wrong.push(format!("`{name}` gives its own version of `{used}`"));
                }
            }
        }
        if package.get("lints").and_then(|lints| lints.get("workspace")?.as_bool()) != Some(true) {
            wrong.push(format!("`{name}` does not take the lints of the workspace"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_dependency_has_its_reason() {
    let architecture = read(&root().join("ARCHITECTURE.md"));
    let section = architecture.split("\n## ").find_map(|section| section.strip_prefix("Dependencies\n"));
    let section = section.expect("ARCHITECTURE.md has a section `Dependencies`");
    let reasons: BTreeSet<&str> = section
        .lines()
        .filter_map(|line| line.strip_prefix("- `")?.split_once("`: "))
        .filter(|(_, reason)| reason.trim().len() > 10)
        .map(|(name, _)| name)
        .collect();
    let workspace = manifest(&root().join("Cargo.toml"));
    let table = workspace["workspace"]["dependencies"].as_table().expect("a table");
    let used: BTreeSet<&str> =
        table.keys().map(String::as_str).filter(|name| !name.starts_with("kiln-")).collect();
    let lacking: Vec<_> = used.difference(&reasons).collect();
    assert!(lacking.is_empty(), "no line of reason in ARCHITECTURE.md, section `Dependencies`: {lacking:?}");
    let stale: Vec<_> = reasons.difference(&used).collect();
    assert!(stale.is_empty(), "a reason for what is not used: {stale:?}");
}

#[test]
fn every_dependency_of_the_workspace_is_used() {
    let workspace = manifest(&root().join("Cargo.toml"));
    let table = workspace["workspace"]["dependencies"].as_table().expect("a table");
    let used: BTreeSet<String> = crates()
        .values()
        .flat_map(|directory| {
            let package = manifest(&directory.join("Cargo.toml"));
            ["dependencies", "build-dependencies", "dev-dependencies"]
                .map(|kind| dependencies(&package, kind))
        })
        .flatten()
        .collect();
    let unused: Vec<_> = table.keys().filter(|name| !used.contains(*name)).collect();
    assert!(unused.is_empty(), "in Cargo.toml, and used by no crate: {unused:?}");
}

/// The Rust files below a directory.
fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let Ok(entries) = fs::read_dir(directory) else { return files };
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// A source without comments and without what stands in string and character literals; lines stay lines.
fn code(source: &str) -> String {
    let bytes: Vec<char> = source.chars().collect();
    let at = |index: usize| bytes.get(index).copied().unwrap_or('\0');
    let mut out = String::with_capacity(source.len());
    let mut index = 0;
    // Moves to `end`, keeping only the line ends on the way.
    let skip = |out: &mut String, from: usize, end: usize| {
        out.extend((from..end.min(bytes.len())).filter_map(|index| (bytes[index] == '\n').then_some('\n')));
        end
    };
    while index < bytes.len() {
        let previous = if index == 0 { ' ' } else { at(index - 1) };
        let in_word = previous.is_alphanumeric() || previous == '_';
        match at(index) {
            '/' if at(index + 1) == '/' => {
                let end = (index..bytes.len()).find(|&end| at(end) == '\n').unwrap_or(bytes.len());
                index = skip(&mut out, index, end);
            }
            '/' if at(index + 1) == '*' => {
                let mut depth = 1;
                let mut end = index + 2;
                while depth > 0 && end < bytes.len() {
                    match (at(end), at(end + 1)) {
                        ('*', '/') => (depth, end) = (depth - 1, end + 2),
                        ('/', '*') => (depth, end) = (depth + 1, end + 2),
                        _ => end += 1,
                    }
                }
                index = skip(&mut out, index, end);
            }
            'r' if matches!(at(index + 1), '"' | '#') && (!in_word || previous == 'b') => {
                let hashes = (index + 1..).take_while(|&place| at(place) == '#').count();
                if at(index + 1 + hashes) == '"' {
                    let closes =
                        |end: usize| at(end) == '"' && (1..=hashes).all(|more| at(end + more) == '#');
                    let start = index + 2 + hashes;
                    let end = (start..bytes.len()).find(|&end| closes(end)).unwrap_or(bytes.len());
                    index = skip(&mut out, index, end + 1 + hashes);
                } else {
                    // A raw identifier.
                    out.push('r');
                    index += 1;
                }
            }
            '"' => {
                let mut end = index + 1;
                while end < bytes.len() && at(end) != '"' {
                    end += if at(end) == '\\' { 2 } else { 1 };
                }
                index = skip(&mut out, index, end + 1);
            }
            '\'' if at(index + 1) == '\\' => {
                let end = (index + 3..bytes.len()).find(|&end| at(end) == '\'').unwrap_or(bytes.len());
                index = skip(&mut out, index, end + 1);
            }
            '\'' if at(index + 2) == '\'' => index = skip(&mut out, index, index + 3),
            other => {
                out.push(other);
                index += 1;
            }
        }
    }
    out
}

/// The code of a source before its tests, which by the habit of the house stand at the end of the file.
fn code_without_tests(source: &str) -> String {
    let code = code(source);
    code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned()
}

/// Whether a word stands in a line, not as a part of a longer one.
fn has_word(line: &str, word: &str) -> bool {
    let continues = |character: Option<char>| character.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(index, _)| {
        let before = line[..index].chars().next_back();
        let after = line[index + word.len()..].chars().next();
        !continues(before) && !continues(after)
    })
}

#[test]
fn unsafe_stands_in_one_crate() {
    let mut found = Vec::new();
    for (name, directory) in crates() {
        if name == UNSAFE {
            continue;
        }
        for file in sources(&directory) {
            for (number, line) in code(&read(&file)).lines().enumerate() {
                if has_word(line, "unsafe") {
                    found.push(format!("{}:{}: {}", file.display(), number + 1, line.trim()));
                }
            }
        }
    }
    assert!(found.is_empty(), "`unsafe` belongs into `{UNSAFE}`:\n{}", found.join("\n"));
}

#[test]
fn libraries_neither_print_nor_read_the_environment_nor_exit() {
    let crates = crates();
    let mut found = Vec::new();
    for name in SILENT {
        let files = sources(&crates[*name].join("src"));
        let tests = test_modules(&files);
        for file in files.iter().filter(|file| !tests.iter().any(|test| is_module(file, test))) {
            let place = file.strip_prefix(root()).expect("a file of the workspace").display().to_string();
            for (number, line) in code_without_tests(&read(file)).lines().enumerate() {
                let hit = LOUD.iter().find(|(word, _)| match word.strip_suffix('!') {
                    // `eprintln!` counts as `println!` does.
                    Some(_) => line.contains(word),
                    // `env::var_os` and `env::vars` count as `env::var` does.
                    None => has_word_start(line, word),
                });
                if let Some((_, what)) = hit
                    && !EXCEPTIONS.iter().any(|(below, allowed)| place.starts_with(below) && allowed == what)
                {
                    found.push(format!("{place}:{} {what}: {}", number + 1, line.trim()));
                }
            }
        }
    }
    assert!(
        found.is_empty(),
        "only the program does this; hand the value down, or an event up:\n{}",
        found.join("\n")
    );
}

/// The modules in files of their own that are compiled for tests only.
fn test_modules(files: &[PathBuf]) -> BTreeSet<String> {
    let mut modules = BTreeSet::new();
    for file in files {
        let code = code(&read(file));
        let mut lines = code.lines();
        while let Some(line) = lines.next() {
            if line.trim() == "#[cfg(test)]"
                && let Some(declaration) = lines.next()
                && let Some(name) = declaration.trim().trim_start_matches("pub(crate) ").strip_prefix("mod ")
                && let Some(name) = name.strip_suffix(';')
            {
                modules.insert(name.to_owned());
            }
        }
    }
    modules
}

/// Whether a file is a module or a part of it.
fn is_module(file: &Path, module: &str) -> bool {
    file.file_stem().is_some_and(|stem| stem == module)
        || file.components().any(|part| part.as_os_str() == module)
}

/// Whether a word or a longer one that starts with it stands in a line.
fn has_word_start(line: &str, word: &str) -> bool {
    line.match_indices(word)
        .any(|(index, _)| !line[..index].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_'))
}

#[test]
fn comments_literals_and_tests_are_not_code() {
    let source = r####"
//! unsafe
/* unsafe /* unsafe */ unsafe */ let a = "unsafe \" unsafe"; let b = r#"unsafe " "#; let c = '"'; let d = '\''; let e = b"\\";
let r#unsafe_word = 'x'; fn f<'a>(x: &'a str) {} // unsafe
real();
#[cfg(test)]
mod tests {
    unsafe {}
}
"####;
    let code = code_without_tests(source);
    assert!(!code.lines().any(|line| has_word(line, "unsafe")), "{code}");
    assert_eq!(code.lines().nth(4), Some("real();"), "{code}");
    assert!(code.contains("fn f<'a>(x: &'a str) {}"), "{code}");
    assert!(has_word("unsafe { x }", "unsafe") && !has_word("unsafe_code", "unsafe"));
    assert!(
        has_word_start("std::env::var_os(x)", "env::var") && !has_word_start("my_env::var(x)", "env::var")
    );
}
