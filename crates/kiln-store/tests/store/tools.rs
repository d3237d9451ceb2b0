//! What the tools say of a cache on each kind of file system: sharing is seen where there is any, and a sound cache has no
//! findings once everything is on the disk.

use std::fs;
use std::os::unix::fs::FileExt;

use kiln_store::cache::{Cache, CacheOptions, Commit, MaximumSize, Progress, verify};

use crate::common::GO_ON;
use crate::tree_disk::{Disk, Kind};

const SIZE: u64 = 4 << 20;

fn tell_on(kind: Kind) {
    let Some(disk) = Disk::new(kind) else { return };
    let directory = disk.root().join("cache");
    let cache = Cache::open(&directory, CacheOptions::default()).expect("open");
    cache.set_maximum_size(MaximumSize::Unlimited).expect("maximum");
    let first = cache.store().expect("store");
    let tree = first.data().join("tree");
    fs::create_dir_all(tree.join("many")).expect("directories");
    let content: Vec<u8> = (0..SIZE).map(|index| (index / 4096 * 7 + index % 251) as u8).collect();
    fs::write(tree.join("big"), &content).expect("written");
    for number in 0..200 {
        fs::write(tree.join(format!("many/{number}")), &content[..number * 40]).expect("written");
    }
    // Pieces far apart: each has an extent of its own, and the file system needs blocks to remember them.
    let sparse = fs::File::create(tree.join("sparse")).expect("created");
    for piece in 0..500 {
        sparse.write_all_at(&content[..4096], piece * 1_000_000).expect("written");
    }
    drop(sparse);
    let Commit::Kept(first) = first.commit("first").expect("commit") else { panic!("not kept") };
    let second = cache.store().expect("store");
    second.fill_from(&first.data(), &GO_ON).expect("cloned");
    drop(first);
    let Commit::Kept(_) = second.commit("second").expect("commit") else { panic!("not kept") };
    cache.flush().expect("flush");
    disk.sync();

    let report = cache.usage(&|_, _| true, &Progress::default(), &GO_ON).expect("measured");
    let [first, second] = report.entries.as_slice() else { panic!("{report:?}") };
    assert_eq!(first.files, second.files, "{kind:?}");
    // But for the digits of the numbers in `object.info`.
    assert!(first.apparent.abs_diff(second.apparent) < 8, "{kind:?}: {report:?}");
    let on_disk = first.on_disk + second.on_disk;
    if kind.shares_blocks() {
        for entry in [first, second] {
            let shared = entry.shared.expect("it can tell");
            assert!(shared >= SIZE && shared <= entry.on_disk, "{kind:?}: {entry:?}");
        }
        let occupied = report.occupied.expect("it can tell");
        assert!(occupied <= on_disk - SIZE && occupied >= SIZE, "{kind:?}: {occupied} of {on_disk}");
    } else {
        assert_eq!((first.shared, second.shared), (Some(0), Some(0)), "{kind:?}");
        assert_eq!(report.occupied, Some(on_disk), "{kind:?}");
    }
    drop(cache);

    let report = verify(&directory, false, &Progress::default(), &GO_ON).expect("verified");
    assert!(report.findings.is_empty() && report.unchecked.is_empty(), "{kind:?}: {report:?}");
    assert_eq!(report.objects, 2);
}

#[test]
fn root_the_tools_tell_on_btrfs() {
    tell_on(Kind::Btrfs);
}

#[test]
fn root_the_tools_tell_on_ext4() {
    tell_on(Kind::Ext4);
}

#[test]
fn root_the_tools_tell_on_overlay() {
    tell_on(Kind::Overlay);
}

#[test]
fn root_the_tools_tell_on_tmpfs() {
    tell_on(Kind::Tmpfs);
}

#[test]
fn root_the_tools_tell_on_xfs() {
    tell_on(Kind::Xfs);
}
