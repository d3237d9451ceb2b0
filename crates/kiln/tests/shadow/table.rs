//! The tables of docs/compatibility.md.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::case::Case;

const KINDS: [&str; 7] = ["stages", "assemblers", "sources", "inputs", "devices", "mounts", "runners"];

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/compatibility.md");
    fs::read_to_string(path).expect("read")
}

/// The names in the first column of the table below a heading of the page that is named like a kind.
fn told(page: &str, kind: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut here = false;
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix('#') {
            here = heading.trim_start_matches('#').trim().to_lowercase() == kind;
        }
        if let (true, Some(row)) = (here, line.strip_prefix("| `")) {
            let (name, _) = row.split_once('`').expect("a closed name");
            assert!(names.insert(name.to_owned()), "{kind}: `{name}` has two lines");
        }
    }
    names
}

#[test]
fn every_module_of_the_reference_has_a_line() {
    let Some(checkout) = kiln_testkit::host::reference("the tables of modules") else { return };
    let page = page();
    for kind in KINDS {
        let entries = fs::read_dir(checkout.join(kind)).expect("read");
        let names = entries.map(|entry| entry.expect("read").file_name().to_string_lossy().into_owned());
        let there: BTreeSet<_> =
            names.filter(|name| name.starts_with("org.osbuild.") && !name.ends_with(".json")).collect();
        assert_eq!(told(&page, kind), there, "{kind}");
    }
}

/// The manifests that a line names are there, and have the module, or the one that is the same file.
#[test]
fn what_is_said_to_be_equal_is_shadowed() {
    for line in page().lines().filter(|line| line.starts_with("| `org.osbuild.")) {
        let [module, _, manifests, words] = line.trim_matches('|').split('|').collect::<Vec<_>>()[..] else {
            panic!("not four columns: {line}")
        };
        let named = |text: &str| text.split('`').nth(1).expect("a name").to_owned();
        let module = if words.contains("the same file as") { named(words) } else { named(module) };
        let manifests: Vec<_> = manifests.split('`').skip(1).step_by(2).collect();
        assert!(!manifests.is_empty(), "{line}");
        for manifest in manifests {
            let text = Case::read(manifest).sketch();
            assert!(text.contains(&format!("\"{module}\"")), "{manifest} does not name `{module}`");
        }
    }
}
