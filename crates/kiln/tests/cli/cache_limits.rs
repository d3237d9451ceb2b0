//! How much a cache may take, and how much of the disk stays free.

use std::fs;
use std::os::unix::fs::symlink;

use kiln_testkit::http::Reply;
use serde_json::{Value, json};

use crate::manifests::{checksum, copy_files, download, good, manifest, mkdir, pipeline};
use crate::world::{Finished, KILN, World, assert_shown, finish, names};

impl World {
    /// What `cache.info` says the limit is.
    pub(crate) fn limit(&self) -> Value {
        let info = fs::read_to_string(self.cache().join("cache.info")).expect("read");
        serde_json::from_str::<Value>(&info).expect("JSON")["maximum-size"].clone()
    }
}

#[test]
fn root_builds_set_a_limit_where_there_is_none() {
    let world = World::new();
    world.build(&good("a"), &[]).succeeded();
    let size = rustix::fs::statvfs(world.cache().as_path()).map(|volume| volume.f_blocks * volume.f_frsize);
    let quarter = size.expect("a file system") / 4;
    assert_eq!(world.limit(), quarter.min(20 << 30));
    world.build(&good("a"), &["--cache-max-size", "1 GiB"]).succeeded();
    assert_eq!(world.limit(), 1 << 30);
    world.build(&good("a"), &["--cache-max-size", "unlimited"]).succeeded();
    assert_eq!(world.limit(), "unlimited");
    world.build(&good("a"), &[]).succeeded();
    assert_eq!(world.limit(), "unlimited");
    assert_eq!(names(&world.cache().join("objects")).len(), 1);
}

/// Zero is a limit too: it stays, and what is not kept says why.
#[test]
fn root_a_limit_of_zero_keeps_nothing_and_says_so() {
    let world = World::new();
    world.build(&good("a"), &["--cache-max-size", "0"]).succeeded();
    let run = world.build(&good("b"), &["--checkpoint", "tree"]).succeeded();
    assert_eq!(world.limit(), 0);
    assert_shown!(world, run, @r#"
    exit code 0
    --- stderr
    tree: 1 stage ([ID])
    tree: [1] org.osbuild.mkdir
    warning: the result of `tree` is not kept in the cache: the cache keeps nothing because its maximum size is 0
    tree: done in [TIME]
      tree [TIME]  1 stage
    built in [TIME]
    "#);
    assert_eq!(names(&world.cache().join("objects")), [""; 0]);
    let run = world.build(&good("b"), &["--json", "--progress", "none"]).succeeded();
    assert_eq!(
        run.json()["warnings"],
        json!([
            "the result of `tree` is not kept in the cache: the cache keeps nothing because its maximum size is 0"
        ])
    );
}

/// As `osbuild` the program has the reference's default, which keeps nothing; but it says so.
#[test]
fn root_osbuild_has_no_default_limit() {
    let world = World::new();
    symlink(KILN, world.path("osbuild")).expect("linked");
    world.write("manifest.json", good("a").to_string());
    let osbuild = |more: &[&str]| {
        let arguments = ["manifest.json", "--cache", "cache", "--checkpoint", "tree", "--export", "tree"];
        let arguments = [&arguments[..], &["--output-directory", "output"], more].concat();
        finish(world.program(world.path("osbuild"), &arguments).spawn().expect("started")).succeeded()
    };
    for more in [&[][..], &["--json"]] {
        let run = osbuild(more);
        assert_eq!(
            run.stderr,
            "warning: the result of `tree` is not kept in the cache: the cache keeps nothing because its maximum size is 0\n"
        );
        assert_eq!(world.limit(), Value::Null);
        assert_eq!(names(&world.cache().join("objects")), [""; 0]);
    }
    assert_eq!(osbuild(&["--cache-max-size", "20 MB"]).stderr, "");
    assert_eq!(world.limit(), 20_000_000);
    assert_eq!(names(&world.cache().join("objects")).len(), 1);
}

/// Downloads count: what was used least recently makes room for an object, and what the build uses does not.
#[test]
fn root_one_limit_covers_objects_and_downloads() {
    let world = World::new();
    let contents = [vec![1; 300_000], vec![2; 300_000]];
    for (content, name) in contents.iter().zip(["one", "two"]) {
        let url = format!("/{name}");
        world.server.serve(&url, Reply::ok(content.clone()));
        let manifest = download(&checksum(content), &world.server.url(&url));
        world.build(&manifest, &["--cache-max-size", "unlimited", "--export", "tree"]).succeeded();
    }
    // Two downloads and two objects of 300 kB each; there is room for one of each and a bit.
    let files = world.cache().join("sources/org.osbuild.files");
    // Not as if a build had used it a moment ago, that may still run.
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    let oldest = fs::File::open(files.join(checksum(&contents[0]))).expect("opened");
    oldest.set_times(fs::FileTimes::new().set_accessed(long_ago)).expect("set");
    let mut small =
        manifest(&[pipeline("tree", &[copy_files(&[(&checksum(&contents[1]), "/new")]), mkdir(&["/x"])])]);
    crate::manifests::add_url(&mut small, &checksum(&contents[1]), &world.server.url("/two"));
    world.build(&small, &["--cache-max-size", "700kB", "--export", "tree"]).succeeded();
    assert_eq!(names(&files), [checksum(&contents[1])], "the one that the build used");
    assert_eq!(names(&world.cache().join("objects")).len(), 1);
    world.assert_sound();
}

/// A cache on a small file system of its own; the script sees the program as `$0`.
fn in_small_cache(world: &World, script: &str) -> Finished {
    fs::create_dir_all(world.path("small")).expect("a directory");
    let script = format!("mount -t tmpfs -o size=8M tmpfs small && {script}");
    finish(world.program("unshare", &["-m", "--", "sh", "-c", &script, KILN]).spawn().expect("started"))
}

#[test]
fn root_no_build_begins_without_the_room_that_must_stay() {
    let world = World::new();
    world.write("manifest.json", good("a").to_string());
    let run = in_small_cache(&world, "\"$0\" build manifest.json --cache small --min-free 100%");
    assert_shown!(world, run, @r#"
    exit code 3
    --- stderr
    error: too little room on the file system of the cache: 8.4 MB of the 8.4 MB that have to stay free
      nothing more can be evicted: what the cache holds is in use
    hint: make room on the file system of the cache, or choose another with `--cache`
    hint: `--min-free` says how much has to stay free; `kiln cache prune` says what is in use
    "#);
    let run = in_small_cache(&world, "\"$0\" build manifest.json --cache small --min-free 90%");
    assert_eq!(run.code(), Some(0), "{}", run.shown());
    world.assert_nothing_left();
}

#[test]
fn root_no_download_begins_without_the_room_that_must_stay() {
    let world = World::new();
    let content = vec![7; 3 << 20];
    world.server.serve("/file", Reply::ok(content.clone()));
    let mut big = download(&checksum(&content), &world.server.url("/file"));
    world.write("manifest.json", big.to_string());
    let build = "\"$0\" build manifest.json --cache small --min-free 6MiB; code=$?; \
                 ls small/sources/org.osbuild.files; exit $code";
    // The size is known when the server says it.
    let run = in_small_cache(&world, build);
    let mut settings = world.settings();
    settings.add_filter(r"\d+ bytes are free", "[N] bytes are free");
    settings.bind(|| insta::assert_snapshot!(run.shown(), @r#"
    exit code 1
    --- stderr
    fetch org.osbuild.curl: 1 item for `tree`
    fetch: sha256:[ID]: cannot download http://[SERVER]/file: too little room: [N] bytes are free on the file system of the cache, 3145728 are to be written, and 6291456 have to stay free
    fetch org.osbuild.curl: 1 item failed
    error: `org.osbuild.curl` could not fetch 1 item
      sha256:[ID]: cannot download http://[SERVER]/file: too little room: [N] bytes are free on the file system of the cache, 3145728 are to be written, and 6291456 have to stay free
    hint: make room on the file system of the cache, or choose another with `--cache`
    "#));
    // The size is known before.
    let item = &mut big["sources"]["org.osbuild.curl"]["items"][checksum(&content)];
    item["size"] = json!(content.len());
    world.write("manifest.json", big.to_string());
    let run = in_small_cache(&world, build);
    assert_eq!((run.code(), run.stdout.as_str()), (Some(3), ""), "{}", run.shown());
    assert!(run.stderr.contains("3.1 MB are to be written"), "{}", run.shown());
    assert_eq!(world.server.requests().len(), 1);
    world.assert_nothing_left();
}

/// Room is made before anything is refused.
#[test]
fn root_old_objects_make_room_that_must_stay() {
    let world = World::new();
    let content = vec![7; 3 << 20];
    world.server.serve("/file", Reply::ok(content.clone()));
    world.write("old.json", download(&checksum(&content), &world.server.url("/file")).to_string());
    world.write("new.json", good("a").to_string());
    let run = in_small_cache(
        &world,
        "\"$0\" build old.json --cache small --cache-max-size unlimited --progress none && \"$0\" cache prune --cache small --all --downloads \
         >/dev/null && \"$0\" build new.json --cache small --progress none --min-free 6MiB && ls small/objects | wc -l && \
         \"$0\" cache verify --cache small",
    );
    assert_shown!(world, run, @r#"
    exit code 0
    --- stdout
    1
    checked 1 object and 0 downloads (0 B hashed): nothing is wrong
    "#);
    world.assert_nothing_left();
}

/// A result that would fill the disk is exported, but not kept; the build says why.
#[test]
fn root_what_fills_the_disk_is_not_kept() {
    let world = World::new();
    let content = vec![7; 2 << 20];
    let mut manifest = manifest(&[]);
    let checksum = crate::manifests::add_inline(&mut manifest, &content);
    manifest["pipelines"] = json!([pipeline("tree", &[copy_files(&[(&checksum, "/file")])])]);
    world.write("manifest.json", manifest.to_string());
    let run = in_small_cache(
        &world,
        "\"$0\" build manifest.json --cache small --cache-max-size unlimited --min-free 5MiB --export tree && \
         ls small/objects",
    );
    let mut settings = world.settings();
    settings.add_filter(r"\d+ bytes are free", "[N] bytes are free");
    settings.bind(|| insta::assert_snapshot!(run.shown(), @r#"
    exit code 0
    --- stdout
    output/tree
    --- stderr
    fetch org.osbuild.inline: 1 item for `tree`
    fetch org.osbuild.inline: done, 2.1 MB in [TIME]
    tree: 1 stage ([ID])
    tree: [1] org.osbuild.copy
    warning: the result of `tree` is not kept in the cache: [N] bytes are free on the file system of the cache, and 5242880 have to stay free
    tree: done in [TIME]
    export tree: [TIME]
      tree [TIME]  1 stage
      output/tree/file (2.1 MB)
    built in [TIME]
    "#));
    assert!(world.path("output/tree/file").exists());
    world.assert_nothing_left();
}
