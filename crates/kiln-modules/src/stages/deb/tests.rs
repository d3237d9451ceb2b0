//! Tests of unpacking, on packages made for them.

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use super::testing::{Builder, Scratch};

fn text(error: &kiln_api::ModuleError) -> String {
    error.to_string()
}

#[test]
fn root_every_compression_is_unpacked() {
    for compression in ["", ".gz", ".xz", ".zst"] {
        let scratch = Scratch::new();
        let package = Builder::new("a").compression(compression).file("./etc/a", 0o640, "content");
        scratch.unpack(vec![package]).unwrap_or_else(|error| panic!("{compression}: {error}"));
        assert_eq!(scratch.read("etc/a"), "content", "{compression}");
    }
}

#[test]
fn root_modes_times_links_and_long_names_are_kept() {
    let scratch = Scratch::new();
    let long = format!("./usr/{}/{}", "d".repeat(90), "f".repeat(150));
    let package = Builder::new("a")
        .directory("./usr/", 0o755)
        .directory("./usr/private/", 0o2750)
        .file("./usr/private/tool", 0o4755, "tool")
        .hard_link("./usr/private/other", "./usr/private/tool")
        .symlink("./usr/link", "private/tool")
        .file(&long, 0o644, "long");
    scratch.unpack(vec![package]).expect("unpacks");
    let status = |path: &str| std::fs::symlink_metadata(scratch.tree.join(path)).expect(path);
    assert_eq!(status("usr/private").mode() & 0o7777, 0o2750);
    assert_eq!(status("usr/private/tool").mode() & 0o7777, 0o4755);
    assert_eq!(status("usr/private/tool").ino(), status("usr/private/other").ino());
    assert_eq!(status("usr/private/tool").nlink(), 2);
    assert_eq!(std::fs::read_link(scratch.tree.join("usr/link")).expect("link"), Path::new("private/tool"));
    for path in ["usr/private", "usr/private/tool", "usr/link"] {
        assert_eq!(status(path).mtime(), 1_600_000_000, "{path}");
    }
    assert_eq!(scratch.read(long.trim_start_matches("./")), "long");
}

#[test]
fn root_hostile_members_are_refused() {
    let cases = [
        (Builder::new("evil").file("./../outside", 0o644, "x"), "../outside"),
        (Builder::new("evil").file("./a/../../../outside", 0o644, "x"), "outside"),
        (Builder::new("evil").hard_link("./shadow", "../../etc/shadow"), "shadow"),
        (Builder::new("evil").hard_link("./shadow", "/etc/shadow"), "no earlier file of the package"),
    ];
    for (package, expected) in cases {
        let scratch = Scratch::new();
        let error = text(&scratch.unpack(vec![package]).err().expect(expected));
        assert!(error.contains(expected), "{error}");
        assert!(!scratch.path().join("outside").exists());
    }
}

#[test]
fn root_links_of_the_tree_and_of_packages_stay_in_the_tree() {
    let scratch = Scratch::new();
    let outside = scratch.path().join("outside");
    std::fs::create_dir(&outside).expect("directory");
    std::fs::create_dir(scratch.tree.join("real")).expect("directory");
    symlink("/real", scratch.tree.join("link")).expect("link");
    symlink("usr/bin", scratch.tree.join("bin")).expect("link");
    std::fs::create_dir_all(scratch.tree.join("usr/bin")).expect("directory");
    let package = Builder::new("a")
        .file("./link/file", 0o644, "through an absolute link")
        .file("./bin/tool", 0o755, "through the merged directory")
        .symlink("./escape", outside.to_str().expect("text"))
        .file("./absolute/file", 0o644, "x");
    scratch.unpack(vec![package]).expect("unpacks");
    assert_eq!(scratch.read("real/file"), "through an absolute link");
    assert_eq!(scratch.read("usr/bin/tool"), "through the merged directory");
    // The link that the package brings leads to a place of the tree that does not exist.
    let second = Scratch::new();
    let package = Builder::new("b").symlink("./escape", outside.to_str().expect("text")).file(
        "./escape/file",
        0o644,
        "x",
    );
    assert!(second.unpack(vec![package]).is_err());
    assert!(std::fs::read_dir(outside).expect("directory").next().is_none());
}

#[test]
fn root_a_file_in_two_packages_is_an_error_that_names_both() {
    for (one, other) in [("./usr/bin/tool", "./usr/bin/tool"), ("./bin/tool", "./usr/bin/tool")] {
        let scratch = Scratch::new();
        std::fs::create_dir_all(scratch.tree.join("usr/bin")).expect("directory");
        symlink("usr/bin", scratch.tree.join("bin")).expect("link");
        let packages =
            vec![Builder::new("b").file(one, 0o755, "b"), Builder::new("a").file(other, 0o755, "a")];
        let error = text(&scratch.unpack(packages).err().expect("a conflict"));
        assert!(error.contains("`a`") && error.contains("`b`") && error.contains("bin/tool"), "{error}");
    }
}

#[test]
fn root_replaces_decides_whatever_the_order() {
    // `a` is committed before `b`, unless a dependency says otherwise.
    for fields in ["Replaces: b (<< 2)\n", "Replaces: b (<< 2)\nDepends: b\n"] {
        let scratch = Scratch::new();
        let winner = Builder::with("a", fields).file("./usr/file", 0o644, "winner");
        let loser = Builder::new("b").file("./usr/file", 0o644, "loser").file("./usr/own", 0o644, "own");
        let outcomes = scratch.unpack(vec![loser, winner]).expect("unpacks");
        assert_eq!(scratch.read("usr/file"), "winner", "{fields}");
        assert_eq!(scratch.read("usr/own"), "own");
        let listed = |outcome: &super::commit::Outcome| outcome.paths.contains(&PathBuf::from("usr/file"));
        let taken = outcomes.iter().any(|outcome| outcome.taken.contains_key("b"));
        let holders = outcomes.iter().filter(|outcome| listed(outcome)).count();
        assert_eq!(holders - usize::from(taken), 1, "{fields}: one package owns the file");
    }
}

#[test]
fn root_diverted_files_go_where_the_diversion_says() {
    let scratch = Scratch::new();
    std::fs::create_dir_all(scratch.tree.join("var/lib/dpkg")).expect("directory");
    let diversions = "/usr/bin/tool\n/usr/bin/tool.orig\nwrapper\n";
    std::fs::write(scratch.tree.join("var/lib/dpkg/diversions"), diversions).expect("file");
    let original = Builder::new("original")
        .file("./usr/bin/tool", 0o755, "original")
        .hard_link("./usr/bin/alias", "./usr/bin/tool");
    let wrapper = Builder::new("wrapper").file("./usr/bin/tool", 0o755, "wrapper");
    let outcomes = scratch.unpack(vec![original, wrapper]).expect("unpacks");
    assert_eq!(scratch.read("usr/bin/tool"), "wrapper");
    assert_eq!(scratch.read("usr/bin/tool.orig"), "original");
    assert_eq!(scratch.read("usr/bin/alias"), "original");
    // The database knows files by the names that packages ship.
    assert!(outcomes.iter().all(|outcome| outcome.paths.contains(&PathBuf::from("usr/bin/tool"))));
    let squatter = Builder::new("squatter").file("./usr/bin/tool.orig", 0o755, "x");
    let second = Scratch::new();
    std::fs::create_dir_all(second.tree.join("var/lib/dpkg")).expect("directory");
    std::fs::write(second.tree.join("var/lib/dpkg/diversions"), diversions).expect("file");
    let error = text(&second.unpack(vec![squatter]).err().expect("refused"));
    assert!(error.contains("`squatter`") && error.contains("`wrapper`"), "{error}");
}

#[test]
fn root_configuration_files_wait_for_dpkg_and_keep_what_is_there() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.tree.join("etc")).expect("directory");
    std::fs::write(scratch.tree.join("etc/a.conf"), "administrator").expect("file");
    let package = Builder::new("a")
        .member("./conffiles", "/etc/a.conf\n/etc/new.conf\n")
        .file("./etc/a.conf", 0o644, "package")
        .file("./etc/new.conf", 0o644, "package");
    scratch.unpack(vec![package]).expect("unpacks");
    assert_eq!(scratch.read("etc/a.conf"), "administrator");
    assert_eq!(scratch.read("etc/a.conf.dpkg-new"), "package");
    assert_eq!(scratch.read("etc/new.conf.dpkg-new"), "package");
}

#[test]
fn root_packages_of_several_architectures_share_equal_files_only() {
    for (content, works) in [("same", true), ("different", false)] {
        let scratch = Scratch::new();
        let library = |architecture: &str, content: &str| {
            Builder::with("lib", "Multi-Arch: same\n").architecture(architecture).file(
                "./usr/share/doc/lib/copyright",
                0o644,
                content,
            )
        };
        let result = scratch.unpack(vec![library("amd64", "same"), library("i386", content)]);
        assert_eq!(result.is_ok(), works, "{content}");
    }
}

#[test]
fn root_damaged_packages_are_named() {
    let scratch = Scratch::new();
    let path = Builder::new("a").file("./a", 0o644, "x").build(scratch.path(), "sha256:abc");
    let whole = std::fs::read(&path).expect("file");
    for length in [0, 40, 100, whole.len() / 2, whole.len() - 40] {
        std::fs::write(&path, &whole[..length]).expect("file");
        let debs = super::read_packages(std::slice::from_ref(&path));
        let error = match debs {
            Err(error) => text(&error),
            Ok(debs) => text(
                &debs[0]
                    .with_content(|reader| {
                        std::io::copy(reader, &mut std::io::sink())
                            .map_err(kiln_api::ModuleError::io("read", &debs[0].path))
                    })
                    .expect_err("truncated"),
            ),
        };
        assert!(error.contains("sha256:abc"), "{length}: {error}");
    }
}
