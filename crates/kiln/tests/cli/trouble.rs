//! What goes wrong while building: servers, disks, directories, stages. Afterwards the cache is sound and builds.

use std::net::TcpListener;

use kiln_testkit::http::Reply;
use serde_json::json;

use crate::manifests::{
    add_inline, add_url, checksum, copy_files, disk, download, good, manifest, mkdir, pipeline, scripted,
};
use crate::world::{World, assert_shown, finish, names};

const CONTENT: &[u8] = b"what was to be fetched\n";

#[test]
fn root_checksum_mismatch() {
    let world = World::new();
    world.server.serve("/file", Reply::ok("something else"));
    let manifest = download(&checksum(CONTENT), &world.server.url("/file"));
    assert_shown!(world, world.build(&manifest, &["--export", "tree"]), @r#"
    exit code 1
    --- stderr
    fetch org.osbuild.curl: 1 item for `tree`
    fetch: trying again: the content has another checksum: sha256:[ID]
    fetch: trying again: the content has another checksum: sha256:[ID]
    fetch: sha256:[ID]: cannot download http://[SERVER]/file: the content has another checksum: sha256:[ID] (after 3 tries)
    fetch org.osbuild.curl: 1 item failed
    error: `org.osbuild.curl` could not fetch 1 item
      sha256:[ID]: cannot download http://[SERVER]/file: the content has another checksum: sha256:[ID] (after 3 tries)
    hint: what was fetched is kept: run the same command again to go on from there
    "#);
    world.server.serve("/file", Reply::ok(CONTENT));
    world.assert_recovers(&manifest, "tree");
}

#[test]
fn root_not_found() {
    let world = World::new();
    let manifest = download(&checksum(CONTENT), &world.server.url("/file"));
    assert_shown!(world, world.build(&manifest, &["--export", "tree"]), @r#"
    exit code 1
    --- stderr
    fetch org.osbuild.curl: 1 item for `tree`
    fetch: sha256:[ID]: cannot download http://[SERVER]/file: the server answered 404 Not Found
    fetch org.osbuild.curl: 1 item failed
    error: `org.osbuild.curl` could not fetch 1 item
      sha256:[ID]: cannot download http://[SERVER]/file: the server answered 404 Not Found
    hint: what was fetched is kept: run the same command again to go on from there
    "#);
    assert_eq!(world.server.requests().len(), 1, "what is not there does not come by asking again");
    world.server.serve("/file", Reply::ok(CONTENT));
    world.assert_recovers(&manifest, "tree");
}

/// These are tried again with pauses, so they wait side by side.
#[test]
fn root_server_down_and_truncated_download() {
    let (down, truncated) = (World::new(), World::new());
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let manifest = download(&checksum(CONTENT), &format!("http://{free}/file"));
    let down_run = down.build_command(&manifest, &["--export", "tree"]).spawn().expect("started");
    truncated.server.serve("/file", Reply::ok(CONTENT).cut_at(5));
    let truncated_manifest = download(&checksum(CONTENT), &truncated.server.url("/file"));
    let truncated_run = truncated.build_command(&truncated_manifest, &["--export", "tree"]).spawn();
    let mut settings = down.settings();
    settings.add_filter(&free.to_string(), "[NOBODY]");
    // How often it is said how far it has come depends on the pauses.
    let progress = r"(?m)^(fetch org\.osbuild\.curl: 0 of|  file: ) ?.*\n";
    let again = r"(?m)^(fetch: trying again: .*\n)+";
    settings.add_filter(progress, "");
    settings.add_filter(again, "fetch: trying again: [...]\n");
    settings.bind(|| insta::assert_snapshot!(finish(down_run).shown(), @r#"
    exit code 1
    --- stderr
    fetch org.osbuild.curl: 1 item for `tree`
    fetch: trying again: [...]
    fetch: sha256:[ID]: cannot download http://[NOBODY]/file: the server cannot be reached: Connection refused (os error 111) (after 10 tries)
    fetch org.osbuild.curl: 1 item failed
    error: `org.osbuild.curl` could not fetch 1 item
      sha256:[ID]: cannot download http://[NOBODY]/file: the server cannot be reached: Connection refused (os error 111) (after 10 tries)
    hint: what was fetched is kept: run the same command again to go on from there
    "#));
    let mut settings = truncated.settings();
    settings.add_filter(progress, "");
    settings.add_filter(again, "fetch: trying again: [...]\n");
    settings.bind(|| insta::assert_snapshot!(finish(truncated_run.expect("started")).shown(), @r#"
    exit code 1
    --- stderr
    fetch org.osbuild.curl: 1 item for `tree`
    fetch: trying again: [...]
    fetch: sha256:[ID]: cannot download http://[SERVER]/file: the connection was closed before the end (after 10 tries)
    fetch org.osbuild.curl: 1 item failed
    error: `org.osbuild.curl` could not fetch 1 item
      sha256:[ID]: cannot download http://[SERVER]/file: the connection was closed before the end (after 10 tries)
    hint: what was fetched is kept: run the same command again to go on from there
    "#));
    truncated.server.serve("/file", Reply::ok(CONTENT));
    truncated.assert_recovers(&truncated_manifest, "tree");
    let manifest = download(&checksum(CONTENT), &truncated.server.url("/file"));
    down.assert_recovers(&manifest, "tree");
}

/// A download that stops half-way is taken up where it stopped, or started again, until it is whole.
#[test]
fn root_a_download_that_is_cut_once_is_not_a_failure() {
    let world = World::new();
    world.server.script("/file", [Reply::ok(CONTENT).cut_at(5), Reply::ok(CONTENT)]);
    let manifest = download(&checksum(CONTENT), &world.server.url("/file"));
    world.build(&manifest, &["--export", "tree"]).succeeded();
    assert_eq!(std::fs::read(world.path("output/tree/file")).expect("exported"), CONTENT);
}

/// A cache on a small file system of its own, mounted in the program's mount namespace only.
fn build_in_small_cache(world: &World, manifest: &serde_json::Value, size: &str) -> crate::world::Finished {
    world.write("manifest.json", manifest.to_string());
    std::fs::create_dir_all(world.path("small")).expect("a directory");
    let script = format!(
        "mount -t tmpfs -o size={size} tmpfs small && \"$0\" build manifest.json --cache small --export tree; \
         code=$?; ls small/stage small/objects; exit $code"
    );
    let run = world.program("unshare", &["-m", "--", "sh", "-c", &script, crate::world::KILN]).spawn();
    finish(run.expect("started"))
}

#[test]
fn root_disk_full_in_a_stage() {
    let world = World::new();
    let mut big = disk("a", "64M");
    big["pipelines"][1]["name"] = json!("tree");
    big["pipelines"][0]["name"] = json!("files");
    big["pipelines"][1]["stages"][2]["inputs"]["tree"]["references"] = json!(["name:files"]);
    let mut settings = world.settings();
    // What mkfs.ext4 says differs between versions, and its two streams come in any order.
    let said = r"(?s)( is full\n)  .*?\n  (org\.osbuild.*?failed).*?\nhint";
    settings.add_filter(said, "$1  [...]\n  $2 [...]\nhint");
    let run = build_in_small_cache(&world, &big, "1M");
    settings.bind(|| insta::assert_snapshot!(run.shown(), @r#"
    exit code 1
    --- stdout
    small/objects:
    [ID]

    small/stage:
    --- stderr
    files: 1 stage ([ID])
    files: [1] org.osbuild.mkdir
    files: done in [TIME]
    tree: 3 stages ([ID])
    tree: [1] org.osbuild.truncate
    tree: [2] org.osbuild.mkfs.ext4
    tree: org.osbuild.mkfs.ext4 failed: exit status 1; the file system of the cache is full
    tree: failed in [TIME]
    error: the stage `org.osbuild.mkfs.ext4` of the pipeline `tree` failed: exit status 1; the file system of the cache is full
      [...]
      org.osbuild.mkfs.ext4: `mkfs.ext4` failed [...]
    hint: make room on the file system of the cache, or choose another with `--cache`
    hint: the stage's id is [ID]; `--json` prints its whole output
    "#));
    world.assert_nothing_left();
    world.assert_recovers(&big, "tree");
}

#[test]
fn root_disk_full_in_a_download() {
    let world = World::new();
    let content = vec![7; 3 << 20];
    world.server.serve("/file", Reply::ok(content.clone()));
    let big = download(&checksum(&content), &world.server.url("/file"));
    assert_shown!(world, build_in_small_cache(&world, &big, "1M"), @r#"
    exit code 1
    --- stdout
    small/objects:

    small/stage:
    --- stderr
    fetch org.osbuild.curl: 1 item for `tree`
    fetch: sha256:[ID]: cannot download http://[SERVER]/file: cannot write `[DIR]/small/sources/org.osbuild.files/.partial-kiln-sha256:[ID]`: No space left on device (os error 28)
    fetch org.osbuild.curl: 1 item failed
    error: `org.osbuild.curl` could not fetch 1 item
      sha256:[ID]: cannot download http://[SERVER]/file: cannot write `[DIR]/small/sources/org.osbuild.files/.partial-kiln-sha256:[ID]`: No space left on device (os error 28)
    hint: make room on the file system of the cache, or choose another with `--cache`
    "#);
    world.assert_nothing_left();
    world.assert_recovers(&big, "tree");
}

#[test]
fn root_disk_full_in_the_output_directory() {
    let world = World::new();
    let mut big = manifest(&[]);
    let sum = add_inline(&mut big, &vec![7; 3 << 20]);
    big["pipelines"] = json!([pipeline("tree", &[copy_files(&[(&sum, "/file")])])]);
    world.write("manifest.json", big.to_string());
    std::fs::create_dir(world.path("small")).expect("a directory");
    let script = "mount -t tmpfs -o size=1M tmpfs small && \
                  exec \"$0\" build manifest.json --cache cache --export tree --output-directory small";
    let run = world.program("unshare", &["-m", "--", "sh", "-c", script, crate::world::KILN]).spawn();
    let mut settings = world.settings();
    settings.add_filter(r"/\.tree-\w+/", "/.tree-[RANDOM]/");
    let run = finish(run.expect("started"));
    settings.bind(|| insta::assert_snapshot!(run.shown(), @r#"
    exit code 3
    --- stderr
    fetch org.osbuild.inline: 1 item for `tree`
    fetch org.osbuild.inline: done, 3.1 MB in [TIME]
    tree: 1 stage ([ID])
    tree: [1] org.osbuild.copy
    tree: done in [TIME]
    error: cannot write to the output directory `[DIR]/small/.tree-[RANDOM]/tree`: cannot copy `[DIR]/cache/objects/[ID]/data/tree/file`: No space left on device (os error 28)
    hint: make room there, or choose another directory with `--output-directory`
    "#));
    world.assert_recovers(&big, "tree");
}

#[test]
fn root_output_directory_not_writable() {
    let world = World::new();
    world.write("file", "");
    let run = |output| world.build(&good("a"), &["--export", "tree", "--output-directory", output]);
    assert_shown!(world, run("file"), @r#"
    exit code 3
    --- stderr
    error: cannot write to the output directory `file`: File exists (os error 17)
    hint: choose another directory with `--output-directory`
    "#);
    assert_shown!(world, run("/proc/kiln"), @r#"
    exit code 3
    --- stderr
    error: cannot write to the output directory `/proc/kiln`: No such file or directory (os error 2)
    hint: choose another directory with `--output-directory`
    "#);
    world.assert_recovers(&good("a"), "tree");
}

#[test]
fn root_cache_not_usable() {
    let world = World::new();
    world.write("cache", "");
    assert_shown!(world, world.build(&good("a"), &["--export", "tree"]), @r#"
    exit code 3
    --- stderr
    error: cannot open directory `[DIR]/cache`: Not a directory (os error 20)
      cache: [DIR]/cache
    hint: choose another directory with `--cache`
    "#);
    std::fs::remove_file(world.cache()).expect("removed");
    world.assert_recovers(&good("a"), "tree");
}

#[test]
fn root_failing_stage() {
    let world = World::new();
    let failing = manifest(&[pipeline(
        "tree",
        &[
            mkdir(&["/a"]),
            json!({"type": "org.osbuild.error", "options": {"returncode": 42}}),
            mkdir(&["/b"]),
        ],
    )]);
    assert_shown!(world, world.build(&failing, &["--export", "tree"]), @r#"
    exit code 1
    --- stderr
    tree: 3 stages ([ID])
    tree: [1] org.osbuild.mkdir
    tree: [2] org.osbuild.error
    tree: org.osbuild.error failed: exit status 1
    tree: failed in [TIME]
    error: the stage `org.osbuild.error` of the pipeline `tree` failed: exit status 1
      Error stage will now return error: 42
      org.osbuild.error: failed on request with exit status 42
    hint: the stage's id is [ID]; `--json` prints its whole output
    "#);
    assert_eq!(names(&world.path("output")), [""; 0]);
    world.assert_recovers(&good("a"), "tree");
}

#[test]
fn root_exceptions_are_in_the_result() {
    let world = World::new();
    let failing = manifest(&[pipeline("tree", &[json!({"type": "org.osbuild.error"})])]);
    let result = world.build(&failing, &["--json", "--progress", "none", "--export", "tree"]);
    assert_eq!(result.code(), Some(1));
    let result = result.json();
    assert_eq!(result["success"], false);
    assert_eq!(result["error"]["type"], "org.osbuild.error.stage");
    let error = &result["error"]["details"]["stage"]["error"];
    assert_eq!(
        *error,
        json!({"type": "exception", "data": {
            "type": "RuntimeError", "value": "failed on request with exit status 255", "traceback": "",
        }})
    );
    assert_eq!(result["log"]["tree"][0]["success"], false);
    assert_eq!(result["log"]["tree"][0]["error"], *error);
}

/// Only the end of a long output is shown; the result has all of it.
#[test]
fn root_a_failing_tool_shows_the_tail_of_its_output() {
    let world = World::new();
    let failing = scripted("i=0; while [ $i -lt 100 ]; do i=$((i+1)); echo line $i; done; exit 7");
    let run = world.build(&failing, &["--export", "tree"]);
    assert_shown!(world, run, @r#"
    exit code 1
    --- stderr
    fetch org.osbuild.inline: 1 item for `build`
    fetch org.osbuild.inline: done, 82 B in [TIME]
    fetch org.osbuild.curl: 4 items for `build`
    fetch org.osbuild.curl: done, 2.3 MB in [TIME]
    build: 4 stages ([ID])
    build: [1] org.osbuild.mkdir
    build: [2] org.osbuild.copy
    build: [3] org.osbuild.ln
    build: [4] org.osbuild.chmod
    build: done in [TIME]
    tree: 1 stage ([ID])
    tree: [1] org.osbuild.hostname
    tree: org.osbuild.hostname failed: exit status 1
    tree: failed in [TIME]
    error: the stage `org.osbuild.hostname` of the pipeline `tree` failed: exit status 1
      line 82
      line 83
      line 84
      line 85
      line 86
      line 87
      line 88
      line 89
      line 90
      line 91
      line 92
      line 93
      line 94
      line 95
      line 96
      line 97
      line 98
      line 99
      line 100
      org.osbuild.hostname: `systemd-firstboot` failed with exit status 7
    hint: the stage's id is [ID]; `--json` prints its whole output
    "#);
    world.assert_recovers(&good("a"), "tree");
}

#[test]
fn root_output_that_is_not_text() {
    let world = World::new();
    let odd = scripted(r"printf 'a\377b\360\237\n'");
    let result = world.build(&odd, &["--json", "--progress", "none", "--export", "tree"]).succeeded().json();
    assert_eq!(result["log"]["tree"][0]["output"], "a\u{fffd}b\u{fffd}\n");
}

/// The limit is wall time: output does not extend it, and children of the tool end too.
#[test]
fn root_stage_timeout_stops_the_whole_process_tree() {
    let world = World::new();
    let slow = scripted("(sleep 1001 &); trap '' TERM INT; while :; do echo tick; sleep 0.1; done");
    let start = std::time::Instant::now();
    let run = world.build(&slow, &["--export", "tree", "--stage-timeout", "1"]);
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    let mut settings = world.settings();
    settings.add_filter(r"(?m)^(\s*tick\n)+", "  tick[...]\n");
    settings.bind(|| insta::assert_snapshot!(run.shown(), @r#"
    exit code 1
    --- stderr
    fetch org.osbuild.inline: 1 item for `build`
    fetch org.osbuild.inline: done, 86 B in [TIME]
    fetch org.osbuild.curl: 4 items for `build`
    fetch org.osbuild.curl: done, 2.3 MB in [TIME]
    build: 4 stages ([ID])
    build: [1] org.osbuild.mkdir
    build: [2] org.osbuild.copy
    build: [3] org.osbuild.ln
    build: [4] org.osbuild.chmod
    build: done in [TIME]
    tree: 1 stage ([ID])
    tree: [1] org.osbuild.hostname
    tree: org.osbuild.hostname failed: the stage was stopped: it ran longer than 1 s
    tree: failed in [TIME]
    error: the stage `org.osbuild.hostname` of the pipeline `tree` failed: the stage was stopped: it ran longer than 1 s
      tick[...]
      the stage was stopped: it ran longer than 1 s
    hint: the stage's id is [ID]; `--json` prints its whole output
    "#));
    world.assert_recovers(&good("a"), "tree");
}

/// An unused URL that is down does not matter; with `--prefetch` it does.
#[test]
fn root_only_what_is_needed_is_fetched() {
    let world = World::new();
    let mut manifest = good("a");
    add_url(&mut manifest, &checksum(CONTENT), &world.server.url("/gone"));
    world.build(&manifest, &["--export", "tree"]).succeeded();
    assert_eq!(world.server.requests().len(), 0);
    assert_shown!(world, world.build(&manifest, &["--export", "tree", "--prefetch"]), @r#"
    exit code 1
    --- stderr
    fetch org.osbuild.curl: 1 item
    fetch: sha256:[ID]: cannot download http://[SERVER]/gone: the server answered 404 Not Found
    fetch org.osbuild.curl: 1 item failed
    error: `org.osbuild.curl` could not fetch 1 item
      sha256:[ID]: cannot download http://[SERVER]/gone: the server answered 404 Not Found
    hint: what was fetched is kept: run the same command again to go on from there
    "#);
    world.assert_recovers(&manifest, "tree");
}
