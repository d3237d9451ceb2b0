//! Trees on file systems of every kind, and from one to the other.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kiln_store::tree::{self, CopyOptions, TreeError};
use kiln_sys::btrfs;
use rustix::fs::IFlags;

use crate::common::{GO_ON, rich_tree};
use crate::tree_disk::{Disk, Kind, device};

fn differences(left: &Path, right: &Path) -> Vec<String> {
    tree::compare(left, right, &GO_ON).expect("compare").iter().map(ToString::to_string).collect()
}

fn flags(path: &Path) -> IFlags {
    let flags = rustix::fs::ioctl_getflags(File::open(path).expect("open")).expect("flags");
    flags & (IFlags::IMMUTABLE | IFlags::APPEND | IFlags::NODUMP)
}

/// The flags that the tree below has beside the rest.
fn flagged() -> BTreeMap<&'static str, IFlags> {
    BTreeMap::from([
        ("deep", IFlags::IMMUTABLE),
        ("deep/passwd", IFlags::IMMUTABLE | IFlags::NODUMP),
        ("etc/conf.d", IFlags::APPEND),
        ("usr/bin/tool", IFlags::APPEND),
    ])
}

fn full_tree(parent: &Path) -> std::path::PathBuf {
    let tree = rich_tree(parent);
    for (name, wanted) in flagged() {
        let file = File::open(tree.join(name)).expect(name);
        rustix::fs::ioctl_setflags(&file, rustix::fs::ioctl_getflags(&file).expect(name) | wanted)
            .expect(name);
    }
    tree
}

/// What `du` would say, asked entry by entry and by path.
fn blocks(path: &Path) -> u64 {
    let metadata = fs::symlink_metadata(path).expect("metadata");
    let below: u64 = if metadata.is_dir() {
        fs::read_dir(path).expect("list").map(|entry| blocks(&entry.expect("entry").path())).sum()
    } else {
        0
    };
    metadata.blocks() * 512 + below
}

#[test]
fn root_trees_keep_everything_on_and_between_all_file_systems() {
    let disks: Vec<Disk> = Kind::ALL.into_iter().filter_map(Disk::new).collect();
    for from in &disks {
        let original = full_tree(&from.root());
        for to in &disks {
            let pair = format!("{:?} to {:?}", from.kind, to.kind);
            let copy = to.root().join("copy");
            tree::copy(&original, &copy, CopyOptions::default(), &GO_ON)
                .unwrap_or_else(|error| panic!("{pair}: {error:?}"));
            assert_eq!(differences(&original, &copy), Vec::<String>::new(), "{pair}");
            for (name, wanted) in flagged() {
                assert_eq!(flags(&copy.join(name)), wanted, "{pair}: {name}");
            }
            let sparse = fs::metadata(copy.join("sparse")).expect("sparse").blocks() * 512;
            assert!(sparse < 1 << 20, "{pair}: holes stay holes, {sparse} bytes are taken");
            to.sync();
            assert_eq!(tree::measure(&copy, &GO_ON).expect("measure"), blocks(&copy), "{pair}");
            let sum = tree::clamp_and_measure(&copy, i64::MAX, 0, &GO_ON).expect("clamp");
            assert_eq!(sum, blocks(&copy), "{pair}");
            assert_eq!(differences(&original, &copy), Vec::<String>::new(), "{pair}: nothing is that new");
            tree::remove(&copy, &GO_ON).unwrap_or_else(|error| panic!("{pair}: {error:?}"));
            assert!(!copy.exists(), "{pair}");
        }
        tree::remove(&original, &GO_ON).expect("remove");
    }
}

#[test]
fn root_copies_share_blocks_where_the_file_system_can() {
    for disk in Kind::ALL.into_iter().filter(|kind| kind.shares_blocks()).filter_map(Disk::new) {
        let original = rich_tree(&disk.root());
        disk.sync();
        let copy = disk.root().join("copy");
        tree::copy(&original, &copy, CopyOptions::default(), &GO_ON).expect("copy");
        disk.sync();
        let places = |path: &Path| {
            let found = kiln_sys::extents::extents(File::open(path).expect("open")).expect("extents");
            found.unwrap_or_default()
        };
        for name in ["big", "sparse"] {
            let (left, right) = (places(&original.join(name)), places(&copy.join(name)));
            assert!(!left.is_empty() && left.iter().all(|extent| extent.shared), "{:?}: {left:?}", disk.kind);
            assert_eq!(left, right, "{:?}: {name}", disk.kind);
        }
        // The other is not touched by a change of one.
        fs::write(copy.join("big"), "changed").expect("write");
        assert_eq!(fs::read(original.join("big")).expect("read"), vec![7; 700_000]);
    }
}

#[test]
fn root_a_root_is_a_subvolume_on_btrfs_only() {
    for disk in Kind::ALL.into_iter().filter_map(Disk::new) {
        let root = disk.root().join("tree");
        tree::create_root(&root).expect("root");
        let metadata = fs::metadata(&root).expect("metadata");
        assert_eq!(metadata.mode() & 0o7777, 0o755, "{:?}", disk.kind);
        let subvolume = btrfs::is_subvolume(File::open(&root).expect("open")).expect("stat");
        assert_eq!(subvolume, disk.kind == Kind::Btrfs, "{:?}", disk.kind);
        let error = tree::create_root(&root).expect_err("it is there already");
        assert_eq!(error.io_error().map(std::io::Error::kind), Some(std::io::ErrorKind::AlreadyExists));

        let original = full_tree(&root);
        let copy = disk.root().join("copy");
        tree::clone_root(&root, &copy, CopyOptions::default(), &GO_ON).expect("clone");
        assert_eq!(differences(&root, &copy), Vec::<String>::new(), "{:?}", disk.kind);
        assert_eq!(flags(&copy.join("rich/deep")), IFlags::IMMUTABLE, "{:?}", disk.kind);
        assert_eq!(tree::measure(&copy, &GO_ON).expect("measure"), blocks(&copy), "{:?}", disk.kind);
        let snapshot = fs::metadata(original.join("big")).expect("big").ino()
            == fs::metadata(copy.join("rich/big")).expect("big").ino();
        assert_eq!(snapshot, disk.kind == Kind::Btrfs, "{:?}", disk.kind);
        fs::write(copy.join("rich/big"), "changed").expect("write");
        assert_eq!(fs::metadata(original.join("big")).expect("big").len(), 700_000, "{:?}", disk.kind);

        let again = tree::clone_root(&root, &copy, CopyOptions::default(), &GO_ON);
        assert!(again.is_err(), "{:?}: the destination is there already", disk.kind);
        for path in [root, copy] {
            tree::remove(&path, &GO_ON).expect("remove");
            assert!(!path.exists());
        }
    }
}

#[test]
fn root_subvolumes_below_are_directories_of_the_tree() {
    let Some(disk) = Disk::new(Kind::Btrfs) else { return };
    let root = disk.root().join("tree");
    tree::create_root(&root).expect("root");
    rich_tree(&root);
    tree::create_root(&root.join("below")).expect("subvolume");
    let below = rich_tree(&root.join("below"));
    tree::create_root(&below.join("empty/lowest")).expect("subvolume");
    fs::write(below.join("empty/lowest/file"), "x").expect("file");
    assert_ne!(device(&root), device(&root.join("below")));
    disk.sync();
    assert_eq!(tree::measure(&root, &GO_ON).expect("measure"), blocks(&root));

    let copy = disk.root().join("copy");
    tree::clone_root(&root, &copy, CopyOptions::default(), &GO_ON).expect("clone");
    assert_eq!(differences(&root, &copy), Vec::<String>::new());
    assert_eq!(device(&copy), device(&copy.join("below")), "a copy, for a snapshot would be empty there");
    assert!(copy.join("below/rich/empty/lowest/file").exists());

    // Only one of them may go in one step; all of them go.
    for path in [root, copy] {
        tree::remove(&path, &GO_ON).expect("remove");
        assert!(!path.exists());
    }
    let plain = disk.root().join("plain");
    fs::create_dir_all(plain.join("a")).expect("directory");
    tree::create_root(&plain.join("a/subvolume")).expect("subvolume");
    rich_tree(&plain.join("a/subvolume"));
    tree::remove(&plain, &GO_ON).expect("remove");
    assert!(!plain.exists());
}

#[test]
fn root_what_is_mounted_in_a_subvolume_stays() {
    let Some(disk) = Disk::new(Kind::Btrfs) else { return };
    let root = disk.root().join("a tree");
    tree::create_root(&root).expect("root");
    let mounted = root.join("mounted");
    fs::create_dir(&mounted).expect("directory");
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("kiln-test", &mounted, "tmpfs", flags, None).expect("mount");
    fs::write(mounted.join("precious"), "x").expect("file");
    let outcomes = [
        tree::clone_root(&root, &disk.root().join("copy"), CopyOptions::default(), &GO_ON),
        tree::remove(&root, &GO_ON),
    ];
    let survived = mounted.join("precious").exists();
    rustix::mount::unmount(&mounted, rustix::mount::UnmountFlags::DETACH).expect("unmount");
    for outcome in outcomes {
        assert!(matches!(&outcome, Err(TreeError::MountPoint { path }) if *path == mounted), "{outcome:?}");
    }
    assert!(survived);
}
