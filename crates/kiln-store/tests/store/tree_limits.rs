//! Trees that are deep, wide, long in their paths, or changed under one's feet.

use std::ffi::{CStr, CString};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kiln_store::tree::{self, CopyOptions, TreeError};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::common::{GO_ON, scratch};
use crate::tree_disk::{Disk, Kind};

/// How deep, how wide.
const LEVELS: usize = 5_000;
const ENTRIES: usize = 100_000;

/// The usual limit of open files, and far less than two for each level.
const OPEN_FILES: u64 = 1_024;

fn differences(left: &Path, right: &Path) -> Vec<String> {
    tree::compare(left, right, &GO_ON).expect("compare").iter().map(ToString::to_string).collect()
}

/// For all tests of this process: none needs more.
fn limit_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let current = limit.current.map_or(OPEN_FILES, |current| current.min(OPEN_FILES));
    setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limit }).expect("limit");
}

fn descend(at: &OwnedFd, name: &CStr) -> OwnedFd {
    rustix::fs::mkdirat(at, name, Mode::RWXU).expect("mkdir");
    rustix::fs::openat(at, name, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).expect("open")
}

fn make_file(at: &OwnedFd, name: &CStr) {
    rustix::fs::mknodat(at, name, FileType::RegularFile, Mode::RUSR, 0).expect("file");
}

/// A chain of directories, with files all the way down, side branches here and there, and one file that has
/// a name on top and one at the bottom.
fn deep_tree(root: &Path) {
    fs::create_dir(root).expect("directory");
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::open(root, flags, Mode::empty()).expect("open");
    make_file(&top, c"linked");
    let mut at = rustix::io::fcntl_dupfd_cloexec(&top, 0).expect("descriptor");
    for level in 0..LEVELS {
        if level % 100 == 7 {
            make_file(&at, c"file");
            // Two branches, so that some wait while the chain is walked, whichever comes first.
            for name in [c"a", c"z"] {
                let branch = descend(&at, name);
                make_file(&branch, c"leaf");
                make_file(&descend(&branch, c"twig"), c"leaf");
            }
        }
        at = descend(&at, c"d");
    }
    rustix::fs::linkat(&top, c"linked", &at, c"bottom", AtFlags::empty()).expect("link");
}

#[test]
fn root_a_tree_of_thousands_of_levels_needs_few_descriptors() {
    let Some(disk) = Disk::new(Kind::Tmpfs) else { return };
    limit_open_files();
    let (original, copy) = (disk.root().join("original"), disk.root().join("copy"));
    deep_tree(&original);
    tree::copy(&original, &copy, CopyOptions::default(), &GO_ON).expect("copy");
    let measured = tree::measure(&original, &GO_ON).expect("measure");
    assert_eq!(measured, tree::clamp_and_measure(&copy, 0, 42, &GO_ON).expect("clamp"));
    // Each directory differs in this now, and each file, and in nothing else.
    let found = differences(&original, &copy);
    assert_eq!(found.len(), 1 + LEVELS + 1 + 1 + LEVELS / 100 * (1 + 2 * 4));
    assert!(found.iter().all(|line| line.contains(": mtime ")), "{:?}", found.first());
    for path in [original, copy] {
        tree::remove(&path, &GO_ON).expect("remove");
        assert!(!path.exists());
    }
}

#[test]
fn paths_longer_than_the_kernel_takes_are_no_problem() {
    let scratch = scratch();
    let original = scratch.path().join("original");
    fs::create_dir(&original).expect("directory");
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at: OwnedFd = rustix::fs::open(&original, flags, Mode::empty()).expect("open");
    let component = CString::new(vec![b'd'; 250]).expect("no NUL");
    for _ in 0..40 {
        at = descend(&at, &component);
    }
    let create = OFlags::CREATE | OFlags::WRONLY;
    let file = rustix::fs::openat(&at, c"file", create, Mode::RWXU).expect("file");
    rustix::io::write(&file, b"deep").expect("write");
    rustix::fs::linkat(&at, c"file", &at, c"name", AtFlags::empty()).expect("link");

    let copy = scratch.path().join("copy");
    tree::copy(&original, &copy, CopyOptions::default(), &GO_ON).expect("copy");
    assert_eq!(differences(&original, &copy), Vec::<String>::new());
    assert_eq!(
        tree::measure(&original, &GO_ON).expect("measure"),
        tree::measure(&copy, &GO_ON).expect("measure")
    );
    for tree in [original, copy] {
        tree::remove(&tree, &GO_ON).expect("remove");
        assert!(!tree.exists());
    }
}

fn wide_tree(root: &Path) {
    fs::create_dir(root).expect("directory");
    let at = rustix::fs::openat(CWD, root, OFlags::DIRECTORY, Mode::empty()).expect("open");
    for index in 0..ENTRIES {
        rustix::fs::symlinkat("x", &at, format!("{index}")).expect("link");
    }
}

#[test]
fn root_a_directory_of_very_many_entries() {
    let Some(disk) = Disk::new(Kind::Tmpfs) else { return };
    let (original, copy) = (disk.root().join("original"), disk.root().join("copy"));
    wide_tree(&original);
    tree::copy(&original, &copy, CopyOptions::default(), &GO_ON).expect("copy");
    assert_eq!(fs::read_dir(&copy).expect("list").count(), ENTRIES);
    assert_eq!(differences(&original, &copy), Vec::<String>::new());
    tree::remove(&copy, &GO_ON).expect("remove");
    assert!(!copy.exists());

    // Interrupted as soon as something can be seen, it stops with most of it undone.
    let stop = AtomicBool::new(false);
    let (outcome, asked) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let limit = Instant::now() + Duration::from_secs(30);
            while fs::read_dir(&copy).map_or(0, Iterator::count) == 0 && Instant::now() < limit {
                std::thread::yield_now();
            }
            stop.store(true, Ordering::Relaxed);
            Instant::now()
        });
        let outcome = tree::copy(&original, &copy, CopyOptions::default(), &stop);
        (outcome, watch.join().expect("watch"))
    });
    assert!(matches!(outcome, Err(TreeError::Interrupted)), "{outcome:?}");
    assert!(asked.elapsed() < Duration::from_secs(5));
    let done = fs::read_dir(&copy).expect("list").count();
    assert!(done > 0 && done < ENTRIES, "{done}");
}

/// How many files called `secret` are in a tree, links not followed.
fn secrets(path: &Path) -> usize {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => secrets(&entry.path()),
            _ => usize::from(entry.file_name() == "secret"),
        })
        .sum()
}

#[test]
fn a_directory_that_becomes_a_link_leads_nowhere() {
    let scratch = scratch();
    let at = |name: &str| scratch.path().join(name);
    let outside = at("outside");
    fs::create_dir_all(outside.join("sub")).expect("directory");
    for name in ["secret", "sub/secret"] {
        fs::write(outside.join(name), "precious").expect("secret");
    }
    let before = tree::digest(&outside, &GO_ON).expect("digest");
    let (tree, copy) = (at("tree"), at("copy"));
    let pairs = ["one", "two", "three"].map(|name| (tree.join(name), at(name)));
    let (mut swaps, mut leaked) = (0_u32, 0);
    for _ in 0..10 {
        for (place, decoy) in &pairs {
            for index in 0..20 {
                let directory = place.join(format!("{index}/sub"));
                fs::create_dir_all(&directory).expect("directory");
                fs::write(directory.join("file"), "x").expect("file");
            }
            symlink(&outside, decoy).expect("link");
        }
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let swapper = scope.spawn(|| {
                let mut swaps = 0;
                while !done.load(Ordering::Relaxed) {
                    for (place, decoy) in &pairs {
                        // Fails once one of them is removed.
                        let swapped =
                            rustix::fs::renameat_with(CWD, decoy, CWD, place, RenameFlags::EXCHANGE);
                        swaps += u32::from(swapped.is_ok());
                    }
                }
                swaps
            });
            for _ in 0..3 {
                // What fails because of the change may fail.
                let _ = tree::copy(&tree, &copy, CopyOptions::default(), &GO_ON);
                leaked += secrets(&copy);
                let _ = tree::remove(&copy, &GO_ON);
                let _ = tree::clamp_and_measure(&tree, 0, 42, &GO_ON);
            }
            let _ = tree::remove(&tree, &GO_ON);
            done.store(true, Ordering::Relaxed);
            swaps += swapper.join().expect("swapper");
        });
        assert_eq!(tree::digest(&outside, &GO_ON).expect("digest"), before);
        for path in [&tree, &pairs[0].1, &pairs[1].1, &pairs[2].1] {
            tree::remove(path, &GO_ON).expect("remove");
        }
    }
    assert_eq!(leaked, 0);
    assert!(swaps > 100, "{swaps}");
}
