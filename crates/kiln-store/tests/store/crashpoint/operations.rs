//! What is done in a cache by the process that dies, and what is in the cache before.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use kiln_store::cache::{Cache, CacheOptions, Commit, Durability, MaximumSize, PruneOptions, PruneTarget};
use kiln_store::object::{ObjectStore, StoreOptions};
use kiln_testkit::fscache::content;

use crate::common::{GO_ON, set_time};

/// An operation that can die at any point.
pub(super) struct Operation {
    pub(super) name: &'static str,
    /// What is in the cache before.
    pub(super) given: fn(&Path),
    /// What the process does. It must be possible to do it again after it was done.
    pub(super) act: fn(&Path),
    /// The entries that are there whatever happens.
    pub(super) stays: &'static [&'static str],
}

/// Whose content the trees of objects say that they have: they are kept under several ids.
pub(super) const OBJECT: &str = "object";

/// The seed of all content: one file in a directory beside what tells about it.
const SEED: u64 = 20;

const OPTIONS: fn() -> CacheOptions = CacheOptions::default;

pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        name: "open new",
        given: |_| {},
        act: |directory| {
            let cache = open(directory, OPTIONS());
            cache.wait_for_reclaim();
        },
        stays: &[],
    },
    Operation {
        name: "open with leftovers",
        given: |directory| {
            entries(directory, &["a", "b"]);
            leftovers(directory);
        },
        act: |directory| open(directory, OPTIONS()).wait_for_reclaim(),
        stays: &["a", "b"],
    },
    Operation {
        name: "open unflushed",
        given: |directory| {
            entries(directory, &["a", "b"]);
            let lock = directory.join("objects/a/object.lock");
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o1644);
            fs::set_permissions(lock, mode).expect("mark");
        },
        act: |directory| open(directory, OPTIONS()).wait_for_reclaim(),
        stays: &["a", "b"],
    },
    Operation {
        name: "load",
        given: |directory| entries(directory, &["a"]),
        act: |directory| {
            let guard = quiet(directory).load("a").expect("load").expect("a hit");
            content::check(&guard.data(), "a").expect("whole");
        },
        stays: &["a"],
    },
    Operation {
        name: "stage",
        given: |directory| entries(directory, &["a"]),
        act: |directory| {
            let entry = quiet(directory).stage().expect("stage");
            content::fill(&entry.data(), "b", SEED).expect("fill");
            entry.discard().expect("discard");
        },
        stays: &["a"],
    },
    Operation {
        name: "commit",
        given: |directory| entries(directory, &["a"]),
        act: |directory| keep(&quiet(directory), "b", None),
        stays: &["a"],
    },
    Operation {
        name: "commit flushed",
        given: |directory| entries(directory, &["a"]),
        act: |directory| {
            let options = CacheOptions { durability: Durability::Before, reclaim: false, ..OPTIONS() };
            keep(&open(directory, options), "b", None);
        },
        stays: &["a"],
    },
    Operation {
        name: "commit existing",
        given: |directory| entries(directory, &["a"]),
        act: |directory| {
            let cache = quiet(directory);
            let entry = cache.stage().expect("stage");
            content::fill(&entry.data(), "a", SEED).expect("fill");
            let commit = entry.commit("a").expect("commit");
            assert!(matches!(commit, Commit::Exists(_)), "{commit:?}");
        },
        stays: &["a"],
    },
    Operation {
        name: "commit copy",
        given: |directory| entries(directory, &["a"]),
        act: |directory| {
            let cache = quiet(directory);
            let base = cache.load("a").expect("load").expect("a hit");
            let entry = cache.stage().expect("stage");
            entry.fill_from(&base.data(), &GO_ON).expect("copy");
            // It goes on changing into another one.
            fs::remove_dir_all(entry.data()).expect("remove");
            fs::create_dir(entry.data()).expect("directory");
            content::fill(&entry.data(), "b", SEED).expect("fill");
            let mut copy = cache.store().expect("store");
            copy.note("from", "a");
            copy.fill_from(&entry.data(), &GO_ON).expect("copy");
            drop(copy.commit("b").expect("commit"));
            entry.discard().expect("discard");
        },
        stays: &["a"],
    },
    Operation {
        name: "commit evicting",
        given: |directory| {
            entries(directory, &["a", "b", "c", "d"]);
            let cache = quiet(directory);
            let maximum = cache.size().expect("size");
            cache.set_maximum_size(MaximumSize::Bytes(maximum)).expect("maximum");
            drop(cache.load("d").expect("load"));
        },
        act: |directory| keep(&quiet(directory), "e", None),
        stays: &["c", "d"],
    },
    Operation {
        name: "commit replacing",
        given: |directory| {
            entries(directory, &["a"]);
            keep(&quiet(directory), "r", Some("one"));
        },
        act: |directory| keep(&quiet(directory), "r", Some("two")),
        stays: &["a", "r"],
    },
    Operation {
        name: "set limit",
        given: |directory| entries(directory, &["a"]),
        act: |directory| quiet(directory).set_maximum_size(MaximumSize::Bytes(1 << 30)).expect("maximum"),
        stays: &["a"],
    },
    Operation {
        name: "reclaim",
        given: |directory| {
            entries(directory, &["a", "b"]);
            leftovers(directory);
        },
        act: |directory| quiet(directory).reclaim().expect("reclaim"),
        stays: &["a", "b"],
    },
    Operation {
        name: "prune",
        given: |directory| entries(directory, &["a", "b", "c"]),
        act: |directory| {
            let cache = quiet(directory);
            drop(cache.load("c").expect("load"));
            let options =
                PruneOptions { target: PruneTarget::All, objects: true, downloads: true, dry_run: false };
            cache.prune(&options).expect("prune");
        },
        stays: &[],
    },
    // So many that they are removed by a thread while others are still chosen.
    Operation {
        name: "prune many",
        given: |directory| entries(directory, &["a", "b", "c", "d", "e", "f", "g", "h", "i"]),
        act: |directory| {
            let cache = quiet(directory);
            let _held = cache.load("e").expect("load").expect("a hit");
            let options =
                PruneOptions { target: PruneTarget::All, objects: true, downloads: true, dry_run: false };
            cache.prune(&options).expect("prune");
        },
        stays: &["e"],
    },
    Operation {
        name: "prune downloads",
        given: |directory| {
            entries(directory, &["a"]);
            downloads(directory);
        },
        act: |directory| {
            let cache = quiet(directory);
            cache.downloads().expect("count");
            let session = cache.begin_session().expect("session");
            session.uses([cache.sources().join(USED)]).expect("uses");
            let options =
                PruneOptions { target: PruneTarget::All, objects: false, downloads: true, dry_run: false };
            cache.prune(&options).expect("prune");
            cache.downloads().expect("count");
            assert!(cache.sources().join(USED).exists(), "it is in use");
        },
        stays: &["a"],
    },
    Operation {
        name: "object",
        given: |directory| entries(directory, &["a"]),
        act: |directory| {
            let options = StoreOptions {
                cache: CacheOptions { reclaim: false, ..OPTIONS() },
                ..StoreOptions::default()
            };
            let store = ObjectStore::open(directory, options).expect("open");
            let object = store.new_object("last", None).expect("begin");
            content::fill(object.tree(), OBJECT, SEED).expect("fill");
            fs::write(object.metadata_path("first").expect("path"), "{}").expect("metadata");
            object.checkpoint("first").expect("checkpoint");
            let (object, _) = object.finish(true).expect("finish");
            content::check(object.tree(), OBJECT).expect("whole");
        },
        stays: &["a"],
    },
    Operation {
        name: "build lock",
        given: |directory| entries(directory, &["a"]),
        act: |directory| drop(quiet(directory).try_build_lock("b").expect("try").expect("free")),
        stays: &["a"],
    },
    Operation {
        name: "temporary directory",
        given: |directory| entries(directory, &["a"]),
        act: |directory| {
            let temporary = quiet(directory).temporary_directory("x-").expect("temporary directory");
            content::fill(temporary.path(), "t", SEED).expect("fill");
            temporary.close().expect("close");
        },
        stays: &["a"],
    },
];

fn open(directory: &Path, options: CacheOptions) -> Arc<Cache> {
    Cache::open(directory, options).expect("open")
}

/// Opens a cache and leaves what is left behind where it is.
fn quiet(directory: &Path) -> Arc<Cache> {
    open(directory, CacheOptions { reclaim: false, ..OPTIONS() })
}

fn keep(cache: &Arc<Cache>, name: &str, recipe: Option<&str>) {
    let mut entry = cache.stage().expect("stage");
    if let Some(recipe) = recipe {
        entry.note_recipe(recipe);
    }
    content::fill(&entry.data(), name, SEED).expect("fill");
    match entry.commit(name).expect("commit") {
        Commit::Kept(guard) => content::check(&guard.data(), name).expect("whole"),
        // Done before.
        Commit::Exists(_) => {}
        Commit::Refused(_, refusal) => panic!("{refusal}"),
    }
}

/// Makes a cache with some entries, the first one used least recently.
fn entries(directory: &Path, names: &[&str]) {
    let cache = quiet(directory);
    cache.set_maximum_size(MaximumSize::Unlimited).expect("maximum");
    for name in names {
        keep(&cache, name, None);
    }
    cache.flush().expect("flush");
}

/// A download that is used.
const USED: &str = "org.osbuild.files/sha256:aa";

/// Leaves downloads that were not used for long.
fn downloads(directory: &Path) {
    let files = directory.join("sources/org.osbuild.files");
    fs::create_dir_all(&files).expect("directory");
    for name in ["sha256:aa", "sha256:bb", "sha256:cc"] {
        fs::write(files.join(name), "x").expect("file");
        set_time(&files.join(name), 1_000_000_000, 0);
    }
    // Else they would have to be counted each time.
    set_time(&files, 1_000_000_000, 0);
}

/// An entry without a name, files in it, and the bytes it is accounted with.
type Left<'a> = (&'a str, &'a [(&'a str, String)], u64);

/// Leaves what processes leave that die: one of each kind, accounted as it must be.
fn leftovers(directory: &Path) {
    let at = |path: &str| directory.join(path);
    let write = |path: &str, text: &str| {
        let path = at(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directory");
        fs::write(path, text).expect("file");
    };
    let info = |bytes: u64| format!(r#"{{"creation-boot-id": "0", "size": {bytes}}}"#);
    let mut accounted: u64 = fs::read_to_string(at("cache.size")).expect("size").parse().expect("a number");
    // Each with content, a lock, and the files that say how far it got.
    let entries: [Left<'_>; 8] = [
        ("stage/uuid-1", &[], 0),
        ("stage/uuid-2", &[("object.info", info(1000)), ("cache.size.more", String::new())], 0),
        ("objects/uuid-3", &[("object.info", info(2000))], 2000),
        ("objects/uuid-4", &[("object.info", info(3000)), ("cache.size.less", String::new())], 3000),
        ("objects/uuid-5", &[("object.gone", info(4000)), ("cache.size.less", String::new())], 4000),
        ("objects/uuid-6", &[("object.gone", info(5000))], 0),
        ("objects/uuid-7", &[("object.grave", String::new()), ("data/0/object.info", info(6000))], 6000),
        (
            "objects/uuid-8",
            &[
                ("object.grave", String::new()),
                ("object.gone", String::new()),
                ("data/0/object.info", info(7000)),
            ],
            0,
        ),
    ];
    for (entry, files, bytes) in entries {
        let is_grave = files.iter().any(|(file, _)| *file == "object.grave");
        write(&format!("{entry}/data/{}file", if is_grave { "0/data/" } else { "" }), "x");
        write(&format!("{entry}/object.lock"), "");
        for (file, text) in files {
            write(&format!("{entry}/{file}"), text);
        }
        accounted += bytes;
    }
    fs::create_dir(at("stage/uuid-9")).expect("directory");
    write("objects/uuid-10", "1");
    write("tmp/kiln-x/file", "x");
    write("tmp/locks/n", "");
    write("cache.size", &accounted.to_string());
}
