//! Copying, removing, measuring, clamping and comparing trees.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use kiln_store::tree::{self, CopyOptions, TreeError};
use rustix::fs::{IFlags, XattrFlags};

use crate::common::{GO_ON, rich_tree, scratch, set_time};

fn differences(left: &Path, right: &Path) -> Vec<String> {
    tree::compare(left, right, &GO_ON).expect("compare").iter().map(ToString::to_string).collect()
}

fn flags(path: &Path) -> IFlags {
    rustix::fs::ioctl_getflags(fs::File::open(path).expect("open")).expect("flags")
}

fn set_flags(path: &Path, flags: IFlags) {
    rustix::fs::ioctl_setflags(fs::File::open(path).expect("open"), flags).expect("flags");
}

#[test]
fn root_a_copy_is_equal_in_every_respect() {
    let scratch = scratch();
    let original = rich_tree(scratch.path());
    let copy = scratch.path().join("copy");
    tree::copy(&original, &copy, CopyOptions::default(), &GO_ON).expect("copy");
    assert_eq!(differences(&original, &copy), Vec::<String>::new());
    let digest = |path: &Path| tree::digest(path, &GO_ON).expect("digest");
    assert_eq!(digest(&original), digest(&copy));

    // An independent witness for what `compare` itself might overlook.
    let listing = |path: &Path| {
        let script = "find . -printf '%p %y %m %U %G %T@ %n %s %l\\n' | LC_ALL=C sort";
        let script = format!(
            "cd '{}' && {script} && find . -print0 | LC_ALL=C sort -z | xargs -0 getfattr -dh -m- 2>/dev/null",
            path.display()
        );
        let output = kiln_sys::command::Run::new("sh").args(["-c", &script]).output();
        String::from_utf8_lossy(&output.expect("find")).into_owned()
    };
    // The size of a directory is how its file system keeps it.
    let without_directories = |text: String| {
        text.lines().filter(|line| !line.contains(" d ")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(without_directories(listing(&original)), without_directories(listing(&copy)));
    let sparse = fs::metadata(copy.join("sparse")).expect("sparse");
    assert!(sparse.blocks() * 512 < 1 << 20, "holes stay holes: {} blocks", sparse.blocks());
    assert_eq!(
        fs::metadata(copy.join("etc/passwd")).expect("passwd").ino(),
        fs::metadata(copy.join("deep/passwd")).expect("passwd").ino()
    );
}

#[test]
fn root_each_difference_is_found_and_named() {
    let tool = "usr/bin/tool";
    type Change = fn(&Path);
    let changes: [(&str, Change, &[&str]); 10] = [
        (
            "mode",
            |tree| chmod(&tree.join("etc/conf.d"), 0o700),
            &["etc/conf.d: mode ", "etc/conf.d: xattr system.posix_acl_access "],
        ),
        (
            "owner",
            |tree| std::os::unix::fs::lchown(tree.join("usr/link"), Some(1), None).expect("chown"),
            &["usr/link: owner 7:8 != 1:8"],
        ),
        (
            "time",
            |tree| set_time(&tree.join("dev/null"), 5, 6),
            &["dev/null: mtime 1000000004.123456789 != 5.000000006"],
        ),
        ("content", |tree| rewrite(tree, "usr/bin/tool", b"#!/bin/no\n"), &["usr/bin/tool: content "]),
        ("size", |tree| rewrite(tree, "usr/bin/tool", b"x"), &["usr/bin/tool: size 10 != 1"]),
        (
            "xattr",
            |tree| {
                rustix::fs::lsetxattr(tree.join("big"), "user.new", b"\x01\x02", XattrFlags::empty())
                    .expect("xattr");
            },
            &["big: xattr user.new none != 0102"],
        ),
        (
            "missing",
            |tree| at_same_time(tree, &|| fs::remove_dir(tree.join("empty")).expect("rmdir")),
            &["empty: only in the first tree (directory)"],
        ),
        (
            "new",
            |tree| at_same_time(tree, &|| fs::write(tree.join("more"), "").expect("write")),
            &["more: only in the second tree (file)"],
        ),
        ("target", |tree| replace_link(tree), &["usr/link: target ../etc/passwd != elsewhere"]),
        (
            "link",
            |tree| break_link(tree),
            &[
                "deep/passwd: hard links etc/passwd,usr/passwd != none",
                "etc/passwd: hard links deep/passwd,usr/passwd != usr/passwd",
                "usr/passwd: hard links deep/passwd,etc/passwd != etc/passwd",
            ],
        ),
    ];
    let scratch = scratch();
    let original = rich_tree(scratch.path());
    let digest = tree::digest(&original, &GO_ON).expect("digest");
    for (name, change, expected) in changes {
        let copy = scratch.path().join(name);
        tree::copy(&original, &copy, CopyOptions::default(), &GO_ON).expect("copy");
        change(&copy);
        let found = differences(&original, &copy);
        assert_eq!(found.len(), expected.len(), "{name}: {found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{name}: {found} is not {expected}");
        }
        assert_ne!(tree::digest(&copy, &GO_ON).expect("digest"), digest, "{name}");
    }
    assert!(original.join(tool).exists());
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

/// Does something in the root of a tree, and sets its time back.
fn at_same_time(tree: &Path, change: &dyn Fn()) {
    let before = fs::metadata(tree).expect("root");
    change();
    set_time(tree, before.mtime(), before.mtime_nsec());
}

/// Writes a file in place, keeping its times (and what writing clears).
fn rewrite(tree: &Path, name: &str, content: &[u8]) {
    let path = tree.join(name);
    let before = fs::metadata(&path).expect("metadata");
    let mut capability = [0; 64];
    let size = rustix::fs::getxattr(&path, "security.capability", &mut capability[..]).expect("capability");
    fs::write(&path, content).expect("write");
    rustix::fs::setxattr(&path, "security.capability", &capability[..size], XattrFlags::empty())
        .expect("capability");
    chmod(&path, before.mode() & 0o7777);
    set_time(&path, before.mtime(), before.mtime_nsec());
}

fn replace_link(tree: &Path) {
    let (directory, path) = (tree.join("usr"), tree.join("usr/link"));
    let (before, parent) =
        (fs::symlink_metadata(&path).expect("link"), fs::metadata(&directory).expect("usr"));
    fs::remove_file(&path).expect("remove");
    std::os::unix::fs::symlink("elsewhere", &path).expect("link");
    std::os::unix::fs::lchown(&path, Some(before.uid()), Some(before.gid())).expect("chown");
    rustix::fs::lsetxattr(&path, "trusted.on-link", b"t", XattrFlags::empty()).expect("xattr");
    set_time(&path, before.mtime(), before.mtime_nsec());
    set_time(&directory, parent.mtime(), parent.mtime_nsec());
}

fn break_link(tree: &Path) {
    let (directory, path) = (tree.join("deep"), tree.join("deep/passwd"));
    let (before, parent) = (fs::metadata(&path).expect("file"), fs::metadata(&directory).expect("deep"));
    let content = fs::read(&path).expect("read");
    fs::remove_file(&path).expect("remove");
    fs::write(&path, content).expect("write");
    chmod(&path, before.mode() & 0o7777);
    set_time(&path, before.mtime(), before.mtime_nsec());
    set_time(&directory, parent.mtime(), parent.mtime_nsec());
}

#[test]
fn root_immutable_files_are_copied_and_removed() {
    let scratch = scratch();
    let original = scratch.path().join("original");
    fs::create_dir_all(original.join("locked")).expect("directory");
    fs::write(original.join("locked/file"), "x").expect("file");
    fs::hard_link(original.join("locked/file"), original.join("other")).expect("link");
    fs::write(original.join("log"), "x").expect("file");
    let (immutable, append) = (IFlags::IMMUTABLE, IFlags::APPEND);
    set_flags(&original.join("locked/file"), flags(&original.join("locked/file")) | immutable);
    set_flags(&original.join("locked"), flags(&original.join("locked")) | immutable);
    set_flags(&original.join("log"), flags(&original.join("log")) | append);

    let copy = scratch.path().join("copy");
    tree::copy(&original, &copy, CopyOptions::default(), &GO_ON).expect("copy");
    assert_eq!(differences(&original, &copy), Vec::<String>::new());
    assert!(flags(&copy.join("locked")).contains(immutable));
    assert!(flags(&copy.join("other")).contains(immutable));
    assert!(flags(&copy.join("log")).contains(append));
    for tree in [&original, &copy] {
        tree::remove(tree, &GO_ON).expect("remove");
        assert!(!tree.exists());
    }
}

#[test]
fn root_nothing_crosses_a_mount_point() {
    let scratch = scratch();
    let tree = scratch.path().join("tree");
    fs::create_dir_all(tree.join("a/mounted")).expect("directory");
    fs::write(tree.join("a/file"), "x").expect("file");
    let mounted = tree.join("a/mounted");
    rustix::mount::mount("kiln-test", &mounted, "tmpfs", rustix::mount::MountFlags::empty(), None)
        .expect("mount");
    fs::write(mounted.join("precious"), "x").expect("file");
    let outcomes = [
        tree::remove(&tree, &GO_ON),
        tree::remove(&mounted, &GO_ON),
        tree::copy(&tree, &scratch.path().join("copy"), CopyOptions::default(), &GO_ON),
        tree::measure(&tree, &GO_ON).map(|_| ()),
        tree::clamp(&tree, 0, 0, &GO_ON),
    ];
    let survived = mounted.join("precious").exists();
    rustix::mount::unmount(&mounted, rustix::mount::UnmountFlags::DETACH).expect("unmount");
    for outcome in outcomes {
        assert!(matches!(&outcome, Err(TreeError::MountPoint { path }) if *path == mounted), "{outcome:?}");
    }
    assert!(survived);
    assert!(!tree.join("a/file").exists(), "all else is removed");
}

#[test]
fn root_clamping_spares_what_is_older() {
    let scratch = scratch();
    let original = rich_tree(scratch.path());
    let old = fs::symlink_metadata(original.join("usr/link")).expect("link").mtime();
    set_time(&original.join("big"), 2_000_000_000, 5);
    set_time(&original.join("usr"), 1_999_999_999, 999_999_999);
    set_time(&original.join("etc/dangling"), 2_000_000_001, 0);
    set_time(&original, 2_000_000_002, 0);
    tree::clamp(&original, 2_000_000_000, 42, &GO_ON).expect("clamp");
    for (name, expected) in
        [("big", 42), ("usr", 1_999_999_999), ("etc/dangling", 42), ("", 42), ("usr/link", old)]
    {
        let stat = fs::symlink_metadata(original.join(name)).expect(name);
        assert_eq!(stat.mtime(), expected, "{name}");
        if expected == 42 {
            assert_eq!((stat.mtime_nsec(), stat.atime()), (0, 42), "{name}");
        }
    }
}

#[test]
fn root_a_copy_into_a_filled_directory_merges() {
    let scratch = scratch();
    let original = rich_tree(scratch.path());
    let target = scratch.path().join("target");
    fs::create_dir_all(target.join("etc")).expect("directory");
    fs::write(target.join("etc/passwd"), "old").expect("old");
    fs::write(target.join("etc/kept"), "kept").expect("kept");
    tree::copy(&original, &target, CopyOptions::default(), &GO_ON).expect("copy");
    assert_eq!(differences(&original, &target), ["etc/kept: only in the second tree (file)"]);

    // A link where a directory is wanted is an error, never followed.
    let trap = scratch.path().join("trap");
    fs::create_dir_all(&trap).expect("directory");
    std::os::unix::fs::symlink(&target, trap.join("usr")).expect("link");
    let error = tree::copy(&original, &trap, CopyOptions::default(), &GO_ON).expect_err("trap");
    assert_eq!(error.to_string(), format!("cannot copy directory `{}`", original.join("usr").display()));
}

#[test]
fn root_what_the_destination_passes_on_does_not_stick() {
    let scratch = scratch();
    let original = rich_tree(scratch.path());
    let mut acl = [0; 256];
    let size = rustix::fs::getxattr(original.join("etc/conf.d"), "system.posix_acl_default", &mut acl[..])
        .expect("acl");
    // An ACL and a group for new files, on the root and on a directory that is merged with one of the tree.
    let target = scratch.path().join("target");
    fs::create_dir_all(target.join("usr")).expect("directories");
    for directory in [target.clone(), target.join("usr")] {
        std::os::unix::fs::chown(&directory, None, Some(99)).expect("chown");
        chmod(&directory, 0o2777);
        rustix::fs::setxattr(&directory, "system.posix_acl_default", &acl[..size], XattrFlags::empty())
            .expect("acl");
    }
    tree::copy(&original, &target, CopyOptions::default(), &GO_ON).expect("copy");
    let value = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let own = |path: &str| format!("{path}: xattr system.posix_acl_default none != {}", value(&acl[..size]));
    assert_eq!(differences(&original, &target), [own("."), own("usr")], "their own, and nobody else's");
}

#[test]
fn without_owners_everything_belongs_to_the_process() {
    let scratch = scratch();
    let original = scratch.path().join("original");
    fs::create_dir(&original).expect("directory");
    fs::write(original.join("file"), "x").expect("file");
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(original.join("file"), Some(77), Some(77)).expect("chown");
    }
    let copy = scratch.path().join("copy");
    let options = CopyOptions { no_preserve_owner: true, ..CopyOptions::default() };
    tree::copy(&original, &copy, options, &GO_ON).expect("copy");
    let owner = fs::metadata(copy.join("file")).expect("file").uid();
    assert_eq!(owner, rustix::process::geteuid().as_raw());
}

#[test]
fn an_interrupted_operation_says_so() {
    let scratch = scratch();
    let tree = scratch.path().join("tree");
    fs::create_dir_all(tree.join("a/b")).expect("directory");
    fs::write(tree.join("file"), "x").expect("file");
    let stop = AtomicBool::new(true);
    let outcomes = [
        tree::copy(&tree, &scratch.path().join("copy"), CopyOptions::default(), &stop),
        tree::measure(&tree, &stop).map(|_| ()),
        tree::remove(&tree, &stop),
        tree::digest(&tree, &stop).map(|_| ()),
    ];
    for outcome in outcomes {
        assert!(matches!(outcome, Err(TreeError::Interrupted)), "{outcome:?}");
    }
    assert!(tree.join("file").exists());
}

#[test]
fn removing_takes_links_and_files_and_nothing_alike() {
    let scratch = scratch();
    let target = scratch.path().join("target");
    fs::create_dir(&target).expect("directory");
    let link = scratch.path().join("link");
    std::os::unix::fs::symlink(&target, &link).expect("link");
    let odd = scratch.path().join(OsStr::from_bytes(b"\xff"));
    fs::write(&odd, "x").expect("file");
    for path in [&link, &odd, &scratch.path().join("not there")] {
        tree::remove(path, &GO_ON).expect("remove");
    }
    assert!(target.is_dir());
    assert_eq!(fs::read_dir(scratch.path()).expect("list").count(), 1);
}
