//! Full disks: every write of every operation finds no room, and nothing is half there afterwards.
//!
//! A small file system is filled up to so many free blocks, or so many free inodes: none at first, then one more each
//! time until the operation finds enough. Whatever it did then, the cache must be exact as it lies there; and as soon as
//! there is room again, it must clean up, and the operation must succeed.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_store::cache::{
    Cache, CacheError, CacheOptions, Commit, Entry, MaximumSize, PruneOptions, PruneTarget,
};
use kiln_sys::command::Run;
use kiln_testkit::fscache::content;
use kiln_testkit::fscache::shape::Shape;
use kiln_testkit::host;
use rustix::fs::FallocateFlags;
use rustix::mount::{MountFlags, UnmountFlags};
use tempfile::TempDir;

use crate::common::scratch;

const SEED: u64 = 20;

/// So many blocks or inodes are more than any operation needs.
const ENOUGH: u64 = 48;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Tmpfs,
    Ext4,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Scarce {
    Blocks,
    Inodes,
}

/// A small file system; dropping it unmounts it.
struct Small {
    directory: TempDir,
}

impl Small {
    /// Makes and mounts a file system; none if this machine cannot, which is said then.
    fn new(kind: Kind) -> Option<Self> {
        if !host::is_root() {
            host::skip("mounting needs root");
            return None;
        }
        let small = Self { directory: scratch() };
        let root = small.root();
        fs::create_dir(&root).expect("mount point");
        match kind {
            Kind::Tmpfs => {
                let options = Some(c"size=2m,nr_inodes=200,mode=755");
                rustix::mount::mount("kiln-test", &root, "tmpfs", MountFlags::empty(), options)
                    .expect("mount");
            }
            Kind::Ext4 => {
                let mut needs = host::TESTS.iter().copied();
                let need = needs.find(|need| need.program == "mkfs.ext4").expect("it is in the list");
                if !host::provided("a small ext4", &[need]) {
                    return None;
                }
                let image = small.directory.path().join("image");
                File::create(&image).and_then(|file| file.set_len(8 << 20)).expect("image");
                // Nothing is set aside for root: what counts as free is free.
                let arguments = ["-q", "-F", "-b", "4096", "-m", "0", "-N", "128"];
                Run::new("mkfs.ext4").args(arguments).arg(&image).output().expect("mkfs");
                Run::new("mount").args(["-o", "loop"]).args([&image, &root]).output().expect("mount");
            }
        }
        Some(small)
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    fn cache(&self) -> PathBuf {
        self.root().join("cache")
    }

    fn free(&self, scarce: Scarce) -> u64 {
        // Blocks that are only reserved for what is not written yet count as free until they are.
        rustix::fs::syncfs(File::open(self.root()).expect("open")).expect("sync");
        let stat = rustix::fs::statvfs(self.root()).expect("statvfs");
        match scarce {
            Scarce::Blocks => stat.f_bavail,
            Scarce::Inodes => stat.f_favail,
        }
    }

    /// Leaves so much free.
    fn fill(&self, scarce: Scarce, leave: u64) {
        let filler = self.root().join("filler");
        fs::create_dir(&filler).expect("directory");
        let mut number = 0;
        loop {
            let more = self.free(scarce).saturating_sub(leave);
            if more == 0 {
                break;
            }
            match scarce {
                Scarce::Blocks => {
                    let size = rustix::fs::statvfs(self.root()).expect("statvfs").f_frsize;
                    let file = File::create(filler.join(number.to_string())).expect("file");
                    // The file system may need some blocks for itself: then less at once.
                    let blocks = if number == 0 { more.saturating_sub(16).max(1) } else { 1 };
                    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, blocks * size).expect("fill");
                    number += 1;
                }
                Scarce::Inodes => {
                    for _ in 0..more {
                        File::create(filler.join(number.to_string())).expect("file");
                        number += 1;
                    }
                }
            }
        }
        assert_eq!(self.free(scarce), leave, "{scarce:?}");
    }

    fn make_room(&self) {
        fs::remove_dir_all(self.root().join("filler")).expect("remove");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Detached: a test that fails may have files open. Not mounted if mounting failed.
        let _ = rustix::mount::unmount(self.root(), UnmountFlags::DETACH);
    }
}

/// Something that is done on a full disk.
struct Operation {
    name: &'static str,
    /// What is there before, beside the entries `a` and `b`, of which `a` was used less recently.
    given: fn(&Arc<Cache>) -> Option<Entry>,
    act: fn(&Arc<Cache>, Option<Entry>) -> Result<(), CacheError>,
    /// Whether it must succeed however full the disk is: it is what makes room.
    always: bool,
    /// The entries that are there once it has succeeded.
    result: &'static [&'static str],
}

const OPERATIONS: &[Operation] = &[
    Operation {
        name: "commit",
        given: |cache| Some(filled(cache, "c", None)),
        act: |cache, entry| commit(entry.unwrap_or_else(|| filled(cache, "c", None)), "c"),
        always: false,
        result: &["a", "b", "c"],
    },
    Operation {
        name: "stage, fill, and commit",
        given: |_| None,
        act: |cache, _| {
            let entry = cache.stage()?;
            content::fill(&entry.data(), "c", SEED).map_err(|source| CacheError::Io {
                action: "fill",
                path: entry.data(),
                source,
            })?;
            commit(entry, "c")
        },
        always: false,
        result: &["a", "b", "c"],
    },
    Operation {
        name: "commit and evict",
        given: |cache| {
            let size = cache.size().expect("size");
            cache.set_maximum_size(MaximumSize::Bytes(size)).expect("maximum");
            Some(filled(cache, "c", None))
        },
        act: |cache, entry| commit(entry.unwrap_or_else(|| filled(cache, "c", None)), "c"),
        always: false,
        // Twice as much is evicted as is needed.
        result: &["c"],
    },
    Operation {
        name: "replace",
        given: |cache| {
            commit(filled(cache, "r", Some("one")), "r").expect("commit");
            Some(filled(cache, "r", Some("two")))
        },
        act: |cache, entry| commit(entry.unwrap_or_else(|| filled(cache, "r", Some("two"))), "r"),
        always: false,
        result: &["a", "b", "r"],
    },
    Operation {
        name: "commit what exists",
        given: |cache| Some(filled(cache, "a", None)),
        act: |cache, entry| commit(entry.unwrap_or_else(|| filled(cache, "a", None)), "a"),
        always: false,
        result: &["a", "b"],
    },
    Operation {
        name: "set limit",
        given: |_| None,
        act: |cache, _| cache.set_maximum_size(MaximumSize::Bytes(1 << 30)),
        always: false,
        result: &["a", "b"],
    },
    Operation {
        name: "open another handle",
        given: |cache| {
            let left = cache.directory().join("stage/uuid-1");
            fs::create_dir_all(left.join("data/tree")).expect("directory");
            fs::write(left.join("object.lock"), "").expect("lock");
            None
        },
        act: |cache, _| {
            Cache::open(cache.directory(), CacheOptions::default())?.wait_for_reclaim();
            cache.reclaim()
        },
        always: true,
        result: &["a", "b"],
    },
    Operation {
        name: "load",
        given: |_| None,
        act: |cache, _| cache.load("a").map(|guard| assert!(guard.is_some(), "a hit")),
        always: true,
        result: &["a", "b"],
    },
    Operation {
        name: "prune",
        given: |_| None,
        act: |cache, _| {
            let options =
                PruneOptions { target: PruneTarget::All, objects: true, downloads: true, dry_run: false };
            cache.prune(&options).map(|_| ())
        },
        always: true,
        result: &[],
    },
];

fn filled(cache: &Arc<Cache>, name: &str, recipe: Option<&str>) -> Entry {
    let mut entry = cache.stage().expect("stage");
    if let Some(recipe) = recipe {
        entry.note_recipe(recipe);
    }
    content::fill_made_by(&entry.data(), name, SEED, recipe).expect("fill");
    entry
}

fn commit(entry: Entry, name: &str) -> Result<(), CacheError> {
    match entry.commit(name)? {
        Commit::Kept(_) | Commit::Exists(_) => Ok(()),
        Commit::Refused(_, refusal) => panic!("{refusal}"),
    }
}

/// Opens the cache on a new file system, with two entries.
fn prepare(small: &Small) -> Arc<Cache> {
    let cache = Cache::open(&small.cache(), CacheOptions::default()).expect("open");
    cache.set_maximum_size(MaximumSize::Unlimited).expect("maximum");
    for name in ["a", "b"] {
        commit(filled(&cache, name, None), name).expect("commit");
    }
    cache.flush().expect("flush");
    cache
}

fn check_entries(cache: &Arc<Cache>, shape: &Shape, place: &str) {
    for name in shape.named.keys() {
        let guard = cache.load(name).expect("load").unwrap_or_else(|| panic!("{place}: `{name}` is a miss"));
        content::check(&guard.data(), name).unwrap_or_else(|text| panic!("{place}: {text}"));
    }
}

/// Does something with so much free, and says whether that was enough.
fn attempt(operation: &Operation, kind: Kind, scarce: Scarce, leave: u64) -> Option<bool> {
    let small = Small::new(kind)?;
    let place = format!("{}, {kind:?}, {leave} {scarce:?}", operation.name);
    let cache = prepare(&small);
    let entry = (operation.given)(&cache);
    small.fill(scarce, leave);

    let result = (operation.act)(&cache, entry);
    let shape = Shape::read(&small.cache()).expect("shape");
    assert_eq!(shape.wrong(), Vec::<String>::new(), "{place}, {result:?}");
    check_entries(&cache, &shape, &place);
    let enough = match &result {
        Ok(()) => true,
        Err(CacheError::Io { path, source, .. }) => {
            assert_eq!(source.kind(), ErrorKind::StorageFull, "{place}: {result:?}");
            assert!(path.starts_with(small.cache()), "{place}: {result:?}");
            false
        }
        Err(CacheError::Tree(error)) => {
            let text = format!("{error:?}");
            assert!(text.contains("StorageFull"), "{place}: {text}");
            false
        }
        Err(other) => panic!("{place}: {other:?}"),
    };
    assert!(enough || !operation.always, "{place}: {result:?}");

    small.make_room();
    cache.reclaim().expect("reclaim");
    let shape = Shape::read(&small.cache()).expect("shape");
    assert_eq!(shape.wrong_at_rest(), Vec::<String>::new(), "{place}, with room again");
    (operation.act)(&cache, None).unwrap_or_else(|error| panic!("{place}, with room again: {error:?}"));
    let shape = Shape::read(&small.cache()).expect("shape");
    assert_eq!(shape.wrong_at_rest(), Vec::<String>::new(), "{place}, done again");
    assert_eq!(shape.named.keys().collect::<Vec<_>>(), operation.result, "{place}, done again");
    check_entries(&cache, &shape, &place);
    Some(enough)
}

fn sweep(kind: Kind, scarce: Scarce) {
    for operation in OPERATIONS {
        let mut failures = 0;
        for leave in 0.. {
            let Some(enough) = attempt(operation, kind, scarce, leave) else { return };
            if enough {
                break;
            }
            failures += 1;
            assert!(leave < ENOUGH, "{}, {kind:?}: {leave} {scarce:?} are not enough", operation.name);
        }
        let text = format!("{}, {kind:?}, {scarce:?}: {failures} failed\n", operation.name);
        std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes()).expect("stderr");
    }
}

#[test]
fn root_no_block_is_left_on_tmpfs() {
    sweep(Kind::Tmpfs, Scarce::Blocks);
}

#[test]
fn root_no_inode_is_left_on_tmpfs() {
    sweep(Kind::Tmpfs, Scarce::Inodes);
}

#[test]
fn root_no_block_is_left_on_ext4() {
    sweep(Kind::Ext4, Scarce::Blocks);
}

#[test]
fn root_no_inode_is_left_on_ext4() {
    sweep(Kind::Ext4, Scarce::Inodes);
}

/// What users see.
#[test]
fn root_a_full_disk_is_named_in_the_error() {
    let Some(small) = Small::new(Kind::Tmpfs) else { return };
    let cache = prepare(&small);
    let entry = filled(&cache, "c", None);
    small.fill(Scarce::Blocks, 0);
    let Err(CacheError::Io { path, source, .. }) = entry.commit("c") else { panic!("no room") };
    let text = format!("{} {source}", path.display());
    assert!(
        path.starts_with(Path::new(&small.cache())) && text.contains("No space left on device"),
        "{text}"
    );
}
