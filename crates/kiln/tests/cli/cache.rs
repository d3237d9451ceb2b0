//! `kiln cache`, and the limits of the cache in builds.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_store::cache::{Cache, CacheOptions};
use kiln_testkit::http::Reply;
use serde_json::{Value, json};

use crate::manifests::{checksum, download};
use crate::world::{Finished, KILN, World, assert_shown, finish, names};

const CONTENT: &[u8] = b"some content";

impl World {
    /// `kiln cache` with this world's cache.
    fn cache_command(&self, arguments: &[&str]) -> Finished {
        self.run(&[&["cache"], arguments, &["--cache", "cache"]].concat())
    }

    /// Builds something with a download: afterwards the cache has one of each.
    fn build_with_download(&self) {
        self.server.serve("/file", Reply::ok(CONTENT));
        let manifest = download(&checksum(CONTENT), &self.server.url("/file"));
        self.build(&manifest, &["--export", "tree"]).succeeded();
    }

    /// The path of the only object.
    fn object(&self) -> PathBuf {
        let objects = self.cache().join("objects");
        let [name] = names(&objects).try_into().expect("one object");
        objects.join(name)
    }

    fn download_path(&self) -> PathBuf {
        self.cache().join("sources/org.osbuild.files").join(checksum(CONTENT))
    }

    fn open(&self) -> Arc<Cache> {
        Cache::open(&self.cache(), CacheOptions::default()).expect("opened")
    }

    /// Text with sizes and ages replaced; objects' sizes depend on the file system.
    fn sizes(&self) -> insta::Settings {
        let mut settings = self.settings();
        settings.add_filter(r" *\d+(\.\d)? [kMGT]?B\b", " [SIZE]");
        settings.add_filter(r" *(just now|\d+ (min|h|d) ago)", " [AGO]");
        settings.add_filter(r"\b[0-9a-f]{12}\b", "[ID]");
        settings.add_filter(r"file system:   .*", "file system:   [TYPE AND ROOM]");
        settings.add_filter(r"\d+ % of the limit", "[N] % of the limit");
        settings
    }
}

/// Everything in a directory and what it is, without what looking may change.
fn picture(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(path) = todo.pop() {
        let stat = fs::symlink_metadata(&path).expect("there");
        let name = path.file_name().expect("a name");
        // What was counted may be remembered.
        if name == "kiln.sources" || name == "kiln.count" {
            continue;
        }
        if stat.is_dir() {
            todo.extend(fs::read_dir(&path).expect("read").map(|entry| entry.expect("an entry").path()));
            found.push(format!("{}/", path.display()));
        } else {
            // The clock of last use.
            let is_clock = name == "object.lock" || path.starts_with(directory.join("sources"));
            let used = is_clock.then(|| stat.accessed().expect("a time"));
            found.push(format!("{}: {} {used:?}", path.display(), stat.len()));
        }
    }
    found.sort();
    found
}

#[test]
fn help_suffices() {
    let world = World::new();
    let cases: [(&[&str], &[&str]); 6] = [
        (&["cache", "--help"], &["info", "ls", "du", "prune", "verify", "Examples:", "bytes", "seconds"]),
        (&["cache", "info", "--help"], &["--cache", "--json", "file-system"]),
        (&["cache", "ls", "--help"], &["--sort", "used", "size", "name", "last-used"]),
        (&["cache", "du", "--help"], &["SHARED", "UNIQUE", "occupied"]),
        (
            &["cache", "prune", "--help"],
            &["--to", "--older-than", "--all", "--dry-run", "--objects", "because"],
        ),
        (&["cache", "verify", "--help"], &["--repair", "outcome", "others-here"]),
    ];
    for (arguments, expected) in cases {
        let help = world.run(arguments).succeeded();
        for word in expected {
            assert!(help.stdout.contains(word), "`{word}`: {}", help.shown());
        }
    }
}

#[test]
fn mistakes() {
    let world = World::new();
    for verb in ["info", "ls", "du", "prune", "verify"] {
        let expected = "exit code 2\n--- stderr\nerror: there is no cache in `cache`\n\
                        hint: name the directory of one with `--cache`; `kiln build` makes it\n";
        assert_eq!(world.cache_command(&[verb]).shown(), expected);
    }
    assert!(!world.cache().exists(), "looking makes none");
    let cases: [&[&str]; 7] = [
        &["prune", "--all", "--to", "5"],
        &["prune", "--all", "--older-than", "5d"],
        &["prune", "--to", "many"],
        &["prune", "--older-than", "5"],
        &["prune", "--objects", "--downloads"],
        &["ls", "--sort", "colour"],
        &["explode"],
    ];
    for arguments in cases {
        let run = world.cache_command(arguments);
        assert_eq!(run.code(), Some(2), "{arguments:?}: {}", run.shown());
    }
    for size in ["much", "101%", "1KB"] {
        let run = world.run(&["build", "manifest.json", "--min-free", size]);
        assert_eq!(run.code(), Some(2), "{size}: {}", run.shown());
    }
}

#[test]
fn root_info_of_a_cache() {
    let world = World::new();
    world.build_with_download();
    let shown = world.cache_command(&["info"]);
    world.sizes().bind(|| {
        insta::assert_snapshot!(shown.shown(), @r#"
    exit code 0
    --- stdout
    cache:         [DIR]/cache
    file system:   [TYPE AND ROOM]
    layout:        version 1
    made in:       a boot that was not noted
    limit: [SIZE]
    objects:       1, [SIZE]
    downloads:     1, [SIZE]
    in the making: 0 entries
    left behind:   0 entries
    together: [SIZE], [N] % of the limit
    "#);
    });
    fs::create_dir(world.cache().join("stage/uuid-dead")).expect("made");
    let info = world.cache_command(&["info", "--json"]).succeeded().json();
    let object: Value =
        serde_json::from_slice(&fs::read(world.object().join("object.info")).expect("read")).expect("JSON");
    assert_eq!(info["directory"], json!(world.cache()));
    assert_eq!(info["version"], 1);
    assert_eq!(info["limit"], world.limit());
    assert_eq!(info["objects"], json!({"count": 1, "bytes": object["size"]}));
    assert_eq!(info["downloads"], json!({"count": 1, "bytes": 4096}));
    assert_eq!(info["size"], object["size"].as_u64().expect("a size") + 4096);
    assert_eq!((&info["active"], &info["leftovers"]), (&json!(0), &json!(1)));
    assert_eq!(info["boot-stamped"], false);
    let place = &info["file-system"];
    assert!(place["type"].is_string() && place["size"].as_u64() > place["free"].as_u64(), "{place}");
    assert_eq!(names(&world.cache().join("stage")), ["uuid-dead"], "looking removes nothing");
}

#[test]
fn root_entries_are_listed() {
    let world = World::new();
    world.build_with_download();
    let list = world.cache_command(&["ls", "--json", "--sort", "name"]).succeeded().json();
    let [object, download] = list.as_array().expect("an array").as_slice() else { panic!("{list}") };
    assert_eq!(
        (&object["kind"], &object["this-boot"], &object["in-use"]),
        (&json!("object"), &json!(true), &json!(false))
    );
    assert_eq!(object["path"], json!(world.object()));
    assert_eq!(object["flushed"], true, "the program has ended");
    assert!(object["recipe"].as_str().is_some_and(|recipe| recipe.len() == 64), "{object}");
    assert_eq!(object["notes"], json!({"pipeline": "tree", "stage": "org.osbuild.copy"}));
    for time in ["created", "last-used"] {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("now").as_secs();
        assert!(object[time].as_u64().is_some_and(|time| now - 600 <= time && time <= now), "{object}");
    }
    let name = format!("org.osbuild.files/{}", checksum(CONTENT));
    assert_eq!((&download["kind"], &download["name"]), (&json!("download"), &json!(name)));
    assert_eq!((&download["recipe"], &download["this-boot"]), (&json!(null), &json!(null)));

    let id = object["name"].as_str().expect("a name").to_owned();
    let guard = world.open().load(&id).expect("loaded").expect("there");
    let shown =
        world.cache_command(&["ls", &id[..8], &checksum(CONTENT)[..20], "--sort", "size"]).succeeded();
    world.sizes().bind(|| {
        insta::assert_snapshot!(shown.shown(), @r#"
    exit code 0
    --- stdout
              NAME                                      SIZE   CREATED  LAST USED  STATE   WHAT
    object    [ID] [SIZE] [AGO] [AGO]  in use  tree: org.osbuild.copy, recipe [ID]
    download  org.osbuild.files/sha256:[ID] [SIZE] [AGO] [AGO]  -
    2 entries, [SIZE]
    "#);
    });
    drop(guard);
    let one = world.cache_command(&["ls", &id[..8], "--json"]).succeeded().json();
    assert_eq!(one.as_array().expect("an array").len(), 1);
    assert_shown!(world, world.cache_command(&["ls", "nothing"]), @r#"
    exit code 1
    --- stderr
    error: the cache has no entry `nothing`
    hint: `kiln cache ls` shows what there is; the beginning of a name is enough
    "#);
}

#[test]
fn root_what_entries_take_is_measured() {
    let world = World::new();
    world.build_with_download();
    let usage = world.cache_command(&["du", "--json"]).succeeded().json();
    let [object, download] = usage["entries"].as_array().expect("an array").as_slice() else {
        panic!("{usage}")
    };
    assert_eq!((&download["files"], &download["apparent"]), (&json!(1), &json!(CONTENT.len())));
    assert!(object["files"].as_u64().expect("a number") >= 6, "{object}");
    for entry in [object, download] {
        let number = |key: &str| entry[key].as_u64();
        assert!(number("on-disk") >= number("apparent"), "{entry}");
        if let (Some(shared), Some(unique)) = (number("shared"), number("unique")) {
            assert_eq!(Some(shared + unique), number("on-disk"), "{entry}");
        }
    }
    let on_disk = |value: &Value| value["on-disk"].as_u64().expect("a number");
    assert_eq!(on_disk(&usage["total"]), on_disk(object) + on_disk(download));
    let shown = world.cache_command(&["du"]).succeeded().stdout;
    assert!(shown.starts_with("          NAME "), "{shown}");
    assert_eq!(shown.lines().count(), 5, "{shown}");
    let one = world.cache_command(&["du", "--json", "sha256:"]).succeeded().json();
    assert_eq!(one["entries"].as_array().expect("an array").len(), 1);
    assert_eq!(world.cache_command(&["du", "nothing"]).code(), Some(1));
}

#[test]
fn root_pruning() {
    let world = World::new();
    world.build_with_download();
    assert_shown!(world, world.cache_command(&["prune"]), @r#"
    exit code 0
    --- stdout
    nothing to remove
    "#);
    let before = picture(&world.cache());
    for target in [&["--all"][..], &["--to", "0"], &["--older-than", "0s"]] {
        let run =
            world.cache_command(&[&["prune", "--dry-run", "--json"], target].concat()).succeeded().json();
        assert_eq!(run["removed"].as_array().expect("an array").len(), 2, "{target:?}: {run}");
        assert_eq!((&run["dry-run"], &run["missing"]), (&json!(true), &json!(0)));
        assert_eq!(run["freed"], run["before"]);
    }
    let shown = world.cache_command(&["prune", "--dry-run", "--all"]).succeeded();
    world.sizes().bind(|| {
        insta::assert_snapshot!(shown.shown(), @r#"
    exit code 0
    --- stdout
    would remove  download  org.osbuild.files/sha256:[ID] [SIZE]  used [AGO]
    would remove  object    [ID] [SIZE]  used [AGO]
    would free [SIZE] of [SIZE] (2 entries)
    "#);
    });
    assert_eq!(picture(&world.cache()), before, "a rehearsal changes nothing");
    assert_eq!(
        world.cache_command(&["prune", "--older-than", "1h"]).succeeded().stdout,
        "nothing to remove\n"
    );

    // An object that somebody has loaded stays, and so do young downloads: others have the cache open.
    let id = world.object().file_name().expect("a name").to_string_lossy().into_owned();
    let guard = world.open().load(&id).expect("loaded").expect("there");
    let kept = world.cache_command(&["prune", "--all", "--json"]).succeeded().json();
    assert_eq!(kept["removed"], json!([]));
    let because: Vec<_> =
        kept["kept"].as_array().expect("an array").iter().map(|kept| kept["because"].clone()).collect();
    assert_eq!(because, [json!("recent"), json!("in-use")]);
    let shown = world.cache_command(&["prune", "--all"]).succeeded();
    world.sizes().bind(|| insta::assert_snapshot!(shown.shown(), @r#"
    exit code 0
    --- stdout
    kept  download  org.osbuild.files/sha256:[ID] [SIZE]  used [AGO]  used within a day, and others have the cache open
    kept  object    [ID] [SIZE]  used [AGO]  in use
    freed [SIZE] of [SIZE] (0 entries)
     [SIZE] stay that should go: what has them is in use
    "#));
    assert!(world.object().exists() && world.download_path().exists());
    drop(guard);

    world.cache_command(&["prune", "--all", "--downloads"]).succeeded();
    assert!(world.object().exists() && !world.download_path().exists());
    world.cache_command(&["prune", "--all"]).succeeded();
    assert_eq!(names(&world.cache().join("objects")), [""; 0]);
    world.assert_sound();
    // The cache is as good as new.
    world.build_with_download();
    world.assert_sound();
}

#[test]
fn root_pruning_without_a_limit_says_so() {
    let world = World::new();
    drop(world.open());
    assert_shown!(world, world.cache_command(&["prune"]), @r#"
    exit code 0
    --- stdout
    nothing to remove: the cache has no limit; say how far with `--to`, `--older-than` or `--all`
    "#);
}

#[test]
fn root_a_cache_that_was_built_in_is_sound() {
    let world = World::new();
    world.build_with_download();
    assert_shown!(world, world.cache_command(&["verify"]), @r#"
    exit code 0
    --- stdout
    checked 1 object and 1 download (12 B hashed): nothing is wrong
    "#);
    let report = world.cache_command(&["verify", "--json"]).succeeded().json();
    assert_eq!(
        report,
        json!({
            "sound": true, "objects": 1, "downloads": 1, "hashed": 12, "findings": [], "unchecked": [],
        })
    );
}

#[test]
fn root_damage_is_found_and_repaired() {
    let world = World::new();
    world.build_with_download();
    fs::write(world.download_path(), "other content").expect("written");
    fs::write(world.object().join("data/meta/info.json"), "{").expect("written");
    fs::write(world.cache().join("cache.size"), "7").expect("written");
    fs::create_dir_all(world.cache().join("stage/uuid-dead/data")).expect("made");
    let found = world.cache_command(&["verify"]);
    let mut settings = world.settings();
    settings.add_filter(r"accounted with \d+", "accounted with [N]");
    settings.bind(|| {
        insta::assert_snapshot!(found.shown(), @r#"
    exit code 1
    --- stdout
    [DIR]/cache/cache.size: it says 7 bytes, and the entries are accounted with [N]
      `--repair` counts again
    [DIR]/cache/objects/[ID]/data/meta/info.json: metadata that is not JSON
      `--repair` removes the object, which will be built again
    [DIR]/cache/sources/org.osbuild.files/sha256:[ID]: its content has another checksum: sha256:[ID]
      `--repair` removes it, and it will be fetched again
    [DIR]/cache/stage/uuid-dead: a process that has died left it
      `--repair` removes it
    checked 1 object and 1 download (13 B hashed): 4 findings, 0 repaired
    "#);
    });
    let faults = |report: &Value, key: &str| -> Vec<Value> {
        report["findings"].as_array().expect("an array").iter().map(|finding| finding[key].clone()).collect()
    };
    let expected = ["accounting", "metadata", "checksum", "leftover"];
    let report = world.cache_command(&["verify", "--json"]);
    assert_eq!(report.code(), Some(1));
    assert_eq!(faults(&report.json(), "fault"), expected);
    assert_eq!(faults(&report.json(), "outcome"), ["not-asked"; 4]);

    let repaired = world.cache_command(&["verify", "--repair", "--json"]).succeeded().json();
    assert_eq!(faults(&repaired, "fault"), expected);
    assert_eq!(faults(&repaired, "outcome"), ["repaired"; 4]);
    assert_eq!(repaired["sound"], true);
    assert_eq!(
        world.cache_command(&["verify"]).succeeded().stdout,
        "checked 0 objects and 0 downloads (0 B hashed): nothing is wrong\n"
    );
    world.assert_sound();
    world.build_with_download();
    world.assert_sound();
}

#[test]
fn root_a_repair_leaves_alone_what_is_in_use() {
    let world = World::new();
    world.build_with_download();
    fs::write(world.object().join("data/meta/info.json"), "{").expect("written");
    let id = world.object().file_name().expect("a name").to_string_lossy().into_owned();
    let guard = world.open().load(&id).expect("loaded").expect("there");
    assert_shown!(world, world.cache_command(&["verify", "--repair"]), @r#"
    exit code 1
    --- stdout
    [DIR]/cache/objects/[ID]/data/meta/info.json: metadata that is not JSON
      not repaired: it is in use
    not checked: the sum of all sizes: others have the cache open, or it may only be read
    checked 1 object and 1 download (12 B hashed): 1 finding, 0 repaired
    "#);
    drop(guard);
    world.cache_command(&["verify", "--repair"]).succeeded();
    assert_eq!(names(&world.cache().join("objects")), [""; 0]);
}

#[test]
fn a_cache_that_cannot_be_opened() {
    let world = World::new();
    drop(world.open());
    fs::write(world.cache().join("cache.info"), "").expect("written");
    assert_shown!(world, world.cache_command(&["info"]), @r#"
    exit code 3
    --- stderr
    error: cannot understand `[DIR]/cache/cache.info`: EOF while parsing a value at line 1 column 0
    hint: `kiln cache verify --repair` replaces what cannot be understood
    "#);
    assert_shown!(world, world.cache_command(&["verify"]), @r#"
    exit code 1
    --- stdout
    [DIR]/cache/cache.info: it does not hold a JSON object
      `--repair` writes that of a new cache, without a limit
    not checked: everything else, because the cache cannot be opened
    checked 0 objects and 0 downloads (0 B hashed): 1 finding, 0 repaired
    "#);
    world.cache_command(&["verify", "--repair"]).succeeded();
    world.cache_command(&["info"]).succeeded();
}

/// Who may only read a cache can look at it all the same.
#[test]
fn root_a_cache_that_cannot_be_written_to_can_be_looked_at() {
    let world = World::new();
    world.build_with_download();
    let _ = fs::remove_file(world.cache().join("kiln.sources"));
    let before = picture(&world.cache());
    let look = |verb: &str| {
        let script = format!(
            "mount --bind cache cache && mount -o remount,ro,bind cache && \"$0\" cache {verb} --cache cache"
        );
        let command = world.program("unshare", &["-m", "--", "sh", "-c", &script, KILN]).spawn();
        finish(command.expect("started"))
    };
    for verb in ["info", "ls", "du", "prune --all --dry-run"] {
        let run = look(verb).succeeded();
        assert!(run.stderr.is_empty() && !run.stdout.is_empty(), "{verb}: {}", run.shown());
    }
    assert_shown!(world, look("verify"), @r#"
    exit code 0
    --- stdout
    not checked: the sum of all sizes: others have the cache open, or it may only be read
    checked 1 object and 1 download (12 B hashed): nothing is wrong
    "#);
    let prune = look("prune --all");
    assert_eq!(prune.code(), Some(3), "{}", prune.shown());
    assert!(prune.stderr.contains("Read-only file system"), "{}", prune.shown());
    assert_eq!(picture(&world.cache()), before);
}
