//! The solver and its sources: what is chosen, and every way in which that can fail.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use insta::assert_snapshot;
use kiln_resolve::{Definition, Format, Refresh, ResolveError};

use crate::world::{self, HELLO, World, installed, package, standard, tar};

/// An error as the program shows it, three parts.
fn shown(error: &ResolveError) -> String {
    match error.finding() {
        Some(finding) => finding.to_string(),
        None => format!("{error}\nhint: {}", error.hint().unwrap_or_default()),
    }
}

#[test]
fn the_epoch_is_the_date_of_the_newest_release_in_use() {
    let mut world = World::new(&standard());
    world.add_release("bookworm-updates", "Sun, 12 Jan 2025 00:00:00 UTC", &[]);
    let resolution = world.resolve(&tar(HELLO)).expect("resolves");
    assert_eq!(resolution.summary.source_epoch, 1_736_593_812, "no package is of the newer release");
    world.add_release("bookworm-updates", "Sun, 12 Jan 2025 00:00:00 UTC", &[package("hello", "3")]);
    world.refresh = Refresh::Always;
    let resolution = world.resolve(&tar(HELLO)).expect("resolves");
    assert_eq!(resolution.summary.source_epoch, 1_736_640_000);
    assert!(resolution.manifest.to_string().contains("hello_3_"), "the newer one is taken");
}

#[test]
fn recommended_packages_are_asked_for() {
    let world = World::new(&standard());
    let plain = world.resolve(&tar(HELLO)).expect("resolves");
    assert_eq!(installed(&plain.manifest, 1), ["apt", "base", "hello", "libhello"]);
    let more = world.resolve(&format!("{}recommends = true\n", tar(HELLO))).expect("resolves");
    assert_eq!(installed(&more.manifest, 1), ["apt", "base", "hello", "hello-doc", "libhello"]);
}

#[test]
fn a_version_can_be_asked_for() {
    let mut packages = standard();
    packages.push(package("hello", "1.0"));
    let world = World::new(&packages);
    let text = tar(&format!("{HELLO}\nversion = \"1.*\""));
    let resolution = world.resolve(&text).expect("resolves");
    assert!(resolution.manifest.to_string().contains("hello_1.0_"), "{}", resolution.manifest);
    let error = world.resolve(&tar(&format!("{HELLO}\nversion = \"9\""))).expect_err("no such version");
    assert_snapshot!(shown(&error), @r#"
    the packages cannot be installed: Version '9' for 'hello' was not found
     --> image.toml:4:8
    4 | name = "hello"
      |        ^^^^^^^
    hint: leave it out, ask for another version, or add the source that has what is missing
    "#);
}

#[test]
fn names_with_marks_that_urls_quote_are_found() {
    let mut packages = standard();
    packages.push(package("libfoo++", "1:2.0~rc1+b1"));
    let world = World::new(&packages);
    let resolution = world.resolve(&tar("[[packages]]\nname = \"libfoo++\"")).expect("resolves");
    let text = resolution.manifest.to_string();
    assert!(text.contains("/libfoo++_2.0~rc1+b1_"), "the path is not quoted: the source quotes it: {text}");
}

#[test]
fn a_package_that_does_not_exist_gets_suggestions() {
    let world = World::new(&standard());
    let error = world.resolve(&tar("[[packages]]\nname = \"hallo\"")).expect_err("no such package");
    assert_snapshot!(shown(&error), @r#"
    the package lists have no package `hallo`
     --> image.toml:4:8
    4 | name = "hallo"
      |        ^^^^^^^
    hint: did you mean `hello`?
    "#);
    let error =
        world.resolve(&tar("[customizations.kernel]\nname = \"linux-zen\"")).expect_err("no such kernel");
    assert_snapshot!(shown(&error), @r#"
    the package lists have no package `linux-zen`
     --> image.toml:4:8
    4 | name = "linux-zen"
      |        ^^^^^^^^^^^
    hint: check the name, and that the package's section is among the sources
    "#);
}

#[test]
fn an_unmet_dependency_is_shown_at_its_package() {
    let mut packages = standard();
    packages.push(format!("{}Depends: nowhere (>= 2)\n", package("broken", "1")));
    let world = World::new(&packages);
    let error = world.resolve(&tar("[[packages]]\nname = \"broken\"")).expect_err("unmet");
    assert_snapshot!(shown(&error), @r#"
    the packages cannot be installed: broken : Depends: nowhere (>= 2) but it is not installable
     --> image.toml:4:8
    4 | name = "broken"
      |        ^^^^^^^^
    hint: leave it out, ask for another version, or add the source that has what is missing
    "#);
}

#[test]
fn packages_that_conflict_are_shown() {
    let mut packages = standard();
    packages.push(format!("{}Conflicts: hello\n", package("goodbye", "1")));
    let world = World::new(&packages);
    let text = tar(&format!("{HELLO}\n[[packages]]\nname = \"goodbye\""));
    let error = world.resolve(&text).expect_err("conflict");
    assert_snapshot!(shown(&error), @r#"
    the packages cannot be installed: goodbye : Conflicts: hello but 2.10 is to be installed
     --> image.toml:6:8
    6 | name = "goodbye"
      |        ^^^^^^^^^
    hint: leave it out, ask for another version, or add the source that has what is missing
    "#);
}

#[test]
fn a_set_that_every_image_needs_can_be_missing_too() {
    let without: Vec<_> = standard().into_iter().filter(|text| !text.contains("Package: passwd\n")).collect();
    let world = World::new(&without);
    let error = world.resolve(&tar(HELLO)).expect_err("no passwd");
    assert_snapshot!(shown(&error), @r#"
    the packages of the build root cannot be installed: Unable to locate package passwd
    hint: check that all suites of the release are configured as sources
    "#);
}

#[test]
fn without_apt_there_is_one_clear_error() {
    let mut world = World::new(&standard());
    world.environment.insert("PATH".into(), "/nonexistent".into());
    let error = world.resolve(&tar(HELLO)).expect_err("no apt");
    assert_snapshot!(shown(&error), @r#"
    packages cannot be resolved: there is no `apt-get` in PATH
    hint: resolve on a Debian host, or build a manifest that was resolved on one
    "#);
}

#[test]
fn without_sources_there_is_one_clear_error() {
    let world = World::new(&standard());
    world.write_sources("");
    let error = world.resolve(&tar(HELLO)).expect_err("no sources");
    assert_snapshot!(world.cleaned(&shown(&error)), @r#"
    packages cannot be resolved: no package source is configured in /WORLD/etc
    hint: add a file to sources.list.d there, or name sources in `repositories` of the table `[kiln]`
    "#);
}

#[test]
fn sources_without_lists_are_one_clear_error() {
    let world = World::new(&standard());
    world.write_sources("deb [trusted=yes] file:///nonexistent bookworm main\n");
    let error = world.resolve(&tar(HELLO)).expect_err("no lists");
    assert_snapshot!(world.cleaned(&shown(&error)), @r#"
    packages cannot be resolved: no package list could be fetched from /WORLD/etc
    hint: see the warnings above; check the network and the sources' addresses
    "#);
    assert!(!world.warnings().is_empty(), "the reason is told");
}

#[test]
fn a_broken_source_is_a_warning_if_the_packages_are_found() {
    let world = World::new(&standard());
    world.add_source("deb [trusted=yes] file:///nonexistent bookworm main\n");
    let resolution = world.resolve(&tar(HELLO)).expect("resolves");
    assert_eq!(resolution.summary.image_packages, 4);
    assert!(world.warnings().iter().any(|text| text.contains("/nonexistent")), "{:?}", world.warnings());
}

#[test]
fn the_distribution_must_be_among_the_sources() {
    let world = World::new(&standard());
    let text = tar(HELLO).replace("debian-12", "debian-13");
    assert_snapshot!(shown(&world.resolve(&text).expect_err("bookworm only")), @r#"
    no package source has the suite `trixie` of debian-13: there are `bookworm`
     --> image.toml:2:10
    2 | distro = "debian-13"
      |          ^^^^^^^^^^^
    hint: use `debian-12`, or configure sources of the suite
    "#);
}

#[test]
fn without_a_distribution_the_sources_decide_if_they_can() {
    let mut world = World::new(&standard());
    let text = tar(HELLO).replace("distro = \"debian-12\"\n", "");
    assert_eq!(world.resolve(&text).expect("resolves").summary.distro, "debian-12");
    world.add_release("trixie", "Sun, 12 Jan 2025 00:00:00 UTC", &[package("hello", "9")]);
    world.refresh = Refresh::Always;
    assert_snapshot!(shown(&world.resolve(&text).expect_err("two")), @r#"
    the definition names no distribution, and the package sources have `bookworm`, `trixie`
    hint: name one of Debian's releases, for example `distro = "debian-12"`
    "#);
}

#[test]
fn one_release_is_resolved_where_several_are_configured() {
    let mut world = World::new(&standard());
    world.add_release("trixie", "Sun, 12 Jan 2025 00:00:00 UTC", &[package("hello", "9")]);
    let text = world.resolve(&tar(HELLO)).expect("resolves").manifest.to_string();
    assert!(text.contains("hello_2.10_") && !text.contains("hello_9_"), "{text}");
}

#[test]
fn a_file_without_checksum_is_refused() {
    let mut packages = standard();
    let text = package("weak", "1");
    let kept = text.lines().filter(|line| !line.starts_with("SHA256"));
    packages.push(kept.map(|line| format!("{line}\n")).collect());
    let world = World::new(&packages);
    let error = world.resolve(&tar("[[packages]]\nname = \"weak\"")).expect_err("no checksum");
    assert_snapshot!(shown(&error), @r#"
    the package lists have no SHA-256 and size of the package `weak`
    hint: refresh the package lists, or use another source
    "#);
}

#[test]
fn hooks_of_the_configuration_are_not_run_and_nothing_of_it_changes() {
    let world = World::new(&standard());
    let trace = world.directory().join("trace");
    let hooks = ["APT::Update::Pre-Invoke", "APT::Update::Post-Invoke", "APT::Update::Post-Invoke-Success"];
    let text: String =
        hooks.iter().map(|hook| format!("{hook} {{ \"touch {}\"; }};\n", trace.display())).collect();
    world.write_configuration("apt.conf.d/99hooks", &text);
    let before = world.configuration();
    world.resolve(&tar(HELLO)).expect("resolves");
    assert!(!trace.exists(), "a hook ran");
    assert_eq!(world.configuration(), before);
}

#[test]
fn pins_of_the_configuration_count() {
    let mut packages = standard();
    packages.push(package("hello", "1.0"));
    let world = World::new(&packages);
    world.write_configuration("preferences.d/old", "Package: hello\nPin: version 1.0\nPin-Priority: 1001\n");
    let text = world.resolve(&tar(HELLO)).expect("resolves").manifest.to_string();
    assert!(text.contains("hello_1.0_"), "{text}");
}

#[test]
fn sources_of_the_definition_stand_alone() {
    let world = World::new(&standard());
    let line = world.source_line();
    world.write_sources("");
    let text = format!("{}repositories = [\"{line}\"]\n", tar(HELLO));
    assert_eq!(world.resolve(&text).expect("resolves").summary.image_packages, 4);
}

#[test]
fn lists_are_refreshed_when_they_are_old_or_of_other_sources() {
    let mut world = World::new(&standard());
    // With `file:` apt reads the index where it is.
    world.write_sources(&world.source_line().replace("file:", "copy:"));
    let newest = |world: &World| {
        let text = world.resolve(&tar(HELLO)).expect("resolves").manifest.to_string();
        ["hello_4_", "hello_3_", "hello_2.10_"].into_iter().find(|name| text.contains(name))
    };
    world.refresh = Refresh::Never;
    assert_eq!(newest(&world), Some("hello_2.10_"), "missing lists are always fetched");
    let mut packages = standard();
    packages.push(package("hello", "3"));
    world.add_release("bookworm", world::DATE, &packages);
    assert_eq!(newest(&world), Some("hello_2.10_"));
    world.refresh = Refresh::OlderThan(Duration::from_secs(3600));
    assert_eq!(newest(&world), Some("hello_2.10_"));
    world.refresh = Refresh::OlderThan(Duration::ZERO);
    assert_eq!(newest(&world), Some("hello_3_"));
    packages.push(package("hello", "4"));
    world.add_release("bookworm", world::DATE, &packages);
    world.refresh = Refresh::Never;
    assert_eq!(newest(&world), Some("hello_3_"));
    world.add_source("\n# the sources are others now\n");
    assert_eq!(newest(&world), Some("hello_4_"));
}

#[test]
fn an_interrupt_ends_the_resolution() {
    let world = World::new(&standard());
    world.interrupted.store(true, Ordering::Relaxed);
    let error = world.resolve(&tar(HELLO)).expect_err("interrupted");
    assert!(matches!(error, ResolveError::Interrupted), "{error}");
}

fn examples() -> Vec<(String, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut examples: Vec<_> = std::fs::read_dir(&directory)
        .expect("the directory of the examples")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("a text");
            (path.file_name().expect("a name").to_string_lossy().into_owned(), text)
        })
        .collect();
    examples.sort();
    assert!(examples.len() >= 5, "{directory:?} has the examples");
    examples
}

#[test]
fn examples_are_definitions_without_a_finding() {
    for (name, text) in examples() {
        if let Err(findings) = Definition::parse(&text, Path::new(&name), Format::Toml) {
            panic!("{}", findings.first().expect("a finding"));
        }
    }
}

/// Needs the host's package sources, and Debian 12 among them: a failure says which.
#[test]
fn examples_resolve_with_the_hosts_sources() {
    let world = World::of_the_host();
    let before = world::listing(Path::new("/var/lib/apt/lists"));
    for (name, text) in examples() {
        let resolution = world.resolve(&text).unwrap_or_else(|error| {
            panic!("{name}: {}; warnings: {:?}", shown(&error), world.warnings());
        });
        let items = resolution.manifest["sources"]["org.osbuild.curl"]["items"].as_object().expect("items");
        for (checksum, item) in items {
            assert_eq!(checksum.len(), "sha256:".len() + 64, "{name}: {checksum}");
            assert!(item["size"].as_u64().is_some_and(|size| size > 0), "{name}: {item}");
        }
        let packages = installed(&resolution.manifest, 1);
        for needed in ["dpkg", "libc6", "bash", "apt"] {
            assert!(packages.iter().any(|name| name == needed), "{name} has no {needed}");
        }
    }
    assert_eq!(world::listing(Path::new("/var/lib/apt/lists")), before, "the host's lists are untouched");
}
