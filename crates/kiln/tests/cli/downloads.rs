//! Downloads as part of builds: what waits for them and what does not.

use std::io::Write as _;
use std::net::TcpStream;

use kiln_testkit::http::Reply;
use serde_json::{Value, json};

use crate::manifests::{add_url, checksum, copy_files, download, manifest, mkdir, pipeline};
use crate::world::{World, finish, names, wait_for};

const CONTENT: &[u8] = b"content that takes its time";

/// The server answers the second request only, which comes when the pipeline that needs nothing is built.
#[test]
fn root_a_pipeline_is_built_while_another_one_still_downloads() {
    let world = World::new();
    let digest = checksum(CONTENT);
    let mut two = manifest(&[
        pipeline("downloads", &[copy_files(&[(&digest, "/file")])]),
        pipeline("needs-nothing", &[mkdir(&["/a"])]),
    ]);
    add_url(&mut two, &digest, &world.server.url("/file"));
    world.server.serve("/file", Reply::ok(CONTENT).hold_for(2));
    let exports = ["--export", "downloads", "--export", "needs-nothing"];
    let child = world.build_command(&two, &exports).spawn().expect("started");
    let built = || names(&world.cache().join("objects")).into_iter().find(|name| name.len() == 64);
    let first = wait_for(built).expect("one is built while the other one waits");
    let mut release = TcpStream::connect(("127.0.0.1", world.server.port())).expect("connected");
    release.write_all(b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n").expect("asked");
    finish(child).succeeded();
    assert_eq!(std::fs::read(world.path("output/downloads/file")).expect("exported"), CONTENT);
    assert!(names(&world.cache().join("objects")).contains(&first));
}

/// A mirror that is added changes no id and has nothing built again; it is used where the first URL fails.
#[test]
fn root_mirrors_are_no_part_of_ids() {
    let world = World::new();
    let digest = checksum(CONTENT);
    world.server.serve("/mirror", Reply::ok(CONTENT));
    let plain = download(&digest, &world.server.url("/gone"));
    let mut mirrored = plain.clone();
    let size = CONTENT.len();
    let mirrors = [world.server.url("/gone-too"), world.server.url("/mirror")];
    mirrored["sources"]["org.osbuild.curl"]["items"][&digest] =
        json!({"url": world.server.url("/gone"), "mirrors": mirrors, "size": size});

    let pipelines = |manifest: &Value| {
        world.write("inspected.json", manifest.to_string());
        world.run(&["inspect", "inspected.json"]).succeeded().json()["pipelines"].clone()
    };
    assert_eq!(pipelines(&plain), pipelines(&mirrored));

    let failed = world.build(&plain, &["--export", "tree"]);
    assert_eq!(failed.code(), Some(1));
    world.build(&mirrored, &["--export", "tree"]).succeeded();
    assert_eq!(std::fs::read(world.path("output/tree/file")).expect("exported"), CONTENT);
    let requests = world.server.requests().len();
    let again = world.build(&plain, &["--export", "tree"]).succeeded();
    assert_eq!(world.server.requests().len(), requests, "{}", again.stderr);
    assert!(!again.stderr.contains("org.osbuild.copy"), "nothing is built again: {}", again.stderr);
}
