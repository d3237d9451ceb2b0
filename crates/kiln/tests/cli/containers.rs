//! Images of containers from a registry, from a pipeline and from the host's storage, to a stage that looks at them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use kiln_testkit::host::provided;
use kiln_testkit::http::Reply;
use kiln_testkit::registry::{ARCHITECTURE, Image, Layout, REGISTRY, Registry, SKOPEO, media_type};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::manifests::{add_inline, copy_files, good, manifest, pipeline};
use crate::world::{KILN, World, assert_shown, finish, names};

/// Copies what it is given and what it is told; says when it could have changed it.
const LOOK: &str = "#!/bin/sh
cd /run/osbuild/inputs
cp -r . /run/osbuild/tree/inputs
cp /run/osbuild/api/arguments /run/osbuild/tree/arguments
find . -type d | while read directory; do
    (echo x >\"$directory/changed\") 2>/dev/null && echo changed $directory
done
exit 0
";

/// A library with that one stage.
fn library(world: &World) {
    let stages = world.path("library/stages");
    fs::create_dir_all(&stages).expect("made");
    fs::write(stages.join("org.example.look"), LOOK).expect("written");
    fs::set_permissions(stages.join("org.example.look"), fs::Permissions::from_mode(0o755))
        .expect("executable");
    let any = json!({"type": "object"});
    let meta = json!({"summary": "Looks", "description": [], "schema_2": {"options": any, "inputs": any}});
    fs::write(stages.join("org.example.look.meta.json"), meta.to_string()).expect("written");
}

fn look(inputs: &Value) -> Value {
    json!({"type": "org.example.look", "inputs": inputs})
}

fn source(name: &str, digest: &str) -> Value {
    json!({"image": {"name": name, "digest": digest, "tls-verify": false}})
}

fn of_registry(images: &Value) -> Value {
    json!({"type": "org.osbuild.containers", "origin": "org.osbuild.source", "references": images})
}

/// What the stage was told of its inputs.
fn told(tree: &Path) -> Value {
    let arguments = fs::read(tree.join("arguments")).expect("arguments");
    serde_json::from_slice::<Value>(&arguments).expect("JSON")["inputs"].take()
}

fn build(world: &World, manifest: &Value, more: &[&str]) -> Command {
    let arguments = ["--libdir", "library", "--export", "tree", "--output-directory", "output"];
    world.build_command(manifest, &[&arguments[..], more].concat())
}

#[test]
fn root_images_of_registries_and_pipelines_reach_a_stage() {
    if !provided("images of a registry", &[REGISTRY, SKOPEO]) {
        return;
    }
    let world = World::new();
    library(&world);
    let images: [(&str, &[&[u8]]); 2] = [("amd64", &[b"one"]), ("arm64", &[b"one", b"two"])];
    let layout = Layout::write(&world.path("layout"), &images);
    let registry = Registry::start(&world.path("registry"));
    let name = registry.push(&layout, "some/image");
    let [one, two] = layout.images.as_slice() else { panic!("two images") };
    let mut manifest = manifest(&[]);
    let (first, second) = (add_inline(&mut manifest, b"first"), add_inline(&mut manifest, b"second"));
    manifest["sources"]["org.osbuild.skopeo"]["items"] =
        json!({&one.id: source(&name, &one.manifest), &two.id: source(&name, &two.manifest)});
    manifest["sources"]["org.osbuild.skopeo-index"]["items"] =
        json!({&layout.index: {"image": {"name": name, "tls-verify": false}}});
    let of_pipelines = |references: Value| json!({"type": "org.osbuild.containers", "origin": "org.osbuild.pipeline", "references": references});
    let index =
        json!({"type": "org.osbuild.files", "origin": "org.osbuild.source", "references": [&layout.index]});
    manifest["pipelines"] = json!([
        pipeline("first", &[copy_files(&[(&first, "/a.tar"), (&second, "/b.tar")])]),
        pipeline("second", &[copy_files(&[(&second, "/b.tar")])]),
        pipeline(
            "tree",
            &[look(&json!({
                "images": of_registry(&json!({&one.id: {"name": "a"}, &two.id: {"name": "b"}})),
                "lists": index,
                "archive": of_pipelines(json!({"name:first": {"name": "c"}})),
                "archives": of_pipelines(json!({"name:first": {"name": "c"}, "name:second": {"name": "d"}})),
            }))]
        ),
    ]);
    let run = finish(build(&world, &manifest, &["--json"]).spawn().expect("started")).succeeded();
    assert!(!run.stdout.contains("changed"), "inputs can be written to: {}", run.stdout);
    let tree = world.path("output/tree");
    for image in [one, two] {
        let directory = tree.join("inputs/images").join(&image.id);
        for digest in image.layers.iter().chain([&image.id]) {
            let file = directory.join(digest.trim_start_matches("sha256:"));
            assert_eq!(fs::read(file).expect("a blob"), layout.content(digest));
        }
        assert_eq!(fs::read(directory.join("manifest.json")).expect("read"), layout.content(&image.manifest));
    }
    assert_eq!(
        fs::read(tree.join("inputs/lists").join(&layout.index)).expect("read"),
        layout.content(&layout.index)
    );
    let text = |path: &str| fs::read_to_string(tree.join("inputs").join(path)).expect(path);
    assert_eq!(names(&tree.join("inputs/archive")), ["a.tar", "b.tar"], "the whole tree");
    assert_eq!(names(&tree.join("inputs/archives")), ["a.tar", "b.tar"]);
    assert_eq!([text("archives/a.tar"), text("archives/b.tar")], ["first", "second"]);
    let told = told(&tree);
    let data = |format: &str, names: &[(&str, &str)]| {
        let archives =
            names.iter().map(|(key, name)| ((*key).to_owned(), json!({"format": format, "name": name})));
        json!({"archives": archives.collect::<serde_json::Map<_, _>>()})
    };
    assert_eq!(told["images"]["path"], "/run/osbuild/inputs/images");
    assert_eq!(told["images"]["data"], data("dir", &[(&one.id, "a"), (&two.id, "b")]));
    assert_eq!(told["archive"]["data"], data("oci-archive", &[("a.tar", "c")]));
    assert_eq!(told["archives"]["data"], data("oci-archive", &[("a.tar", "c"), ("b.tar", "d")]));
    // What is in the cache needs no registry.
    drop(registry);
    world.assert_nothing_left();
    world.assert_sound();
    fs::remove_dir_all(world.cache().join("objects")).expect("removed");
    finish(build(&world, &manifest, &[]).spawn().expect("started")).succeeded();
}

/// A manifest with an image that a server is slow to send.
fn slow(world: &World) -> (Value, Image, Vec<u8>) {
    library(world);
    let layer = vec![7; 300_000];
    let layout = Layout::write(&world.path("layout"), &[(ARCHITECTURE, &[&layer])]);
    let image = layout.images[0].clone();
    world.server.serve("/v2/", Reply::ok("{}"));
    world.server.serve(&format!("/v2/image/blobs/{}", image.id), Reply::ok(layout.content(&image.id)));
    let reply =
        Reply::ok(layout.content(&image.manifest)).header("Content-Type", media_type("manifest.v1+json"));
    world.server.serve(&format!("/v2/image/manifests/{}", image.manifest), reply);
    let stalling = Reply::ok(layer.clone()).stall_at(200_000);
    world.server.serve(&format!("/v2/image/blobs/{}", image.layers[0]), stalling);
    let images = of_registry(&json!({&image.id: {"name": "a"}}));
    let mut manifest = manifest(&[pipeline("tree", &[look(&json!({"images": images}))])]);
    let name = format!("127.0.0.1:{}/image", world.server.port());
    manifest["sources"]["org.osbuild.skopeo"]["items"] = json!({&image.id: source(&name, &image.manifest)});
    (manifest, image, layer)
}

#[test]
fn root_an_interruption_in_the_middle_of_an_image_leaves_nothing() {
    if !provided("fetching images", &[SKOPEO]) {
        return;
    }
    for by in [Signal::INT, Signal::KILL] {
        let world = World::new();
        let (manifest, image, layer) = slow(&world);
        let run = build(&world, &manifest, &[]).spawn().expect("started");
        world.server.wait_until_stalled(1);
        kill_process(Pid::from_child(&run), by).expect("it runs");
        let finished = finish(run);
        if by == Signal::INT {
            let expected = "error: interrupted\n";
            assert_eq!(finished.code(), Some(130), "{}", finished.shown());
            assert!(finished.stderr.ends_with(expected), "{}", finished.shown());
            world.assert_recovers(&good("a"), "tree");
        }
        world.assert_nothing_left();
        world.server.serve(&format!("/v2/image/blobs/{}", image.layers[0]), Reply::ok(layer));
        finish(build(&world, &manifest, &[]).spawn().expect("started")).succeeded();
        // What the killed one had begun is gone, too.
        world.assert_sound();
        assert_eq!(names(&world.cache().join("sources/org.osbuild.containers")), [image.id]);
    }
}

/// `skopeo` finds what it needs by the environment that Kiln was started with.
#[test]
fn root_credentials_that_the_environment_names_reach_the_registry() {
    if !provided("fetching images", &[SKOPEO]) {
        return;
    }
    let world = World::new();
    let (manifest, image, layer) = slow(&world);
    world.server.serve(&format!("/v2/image/blobs/{}", image.layers[0]), Reply::ok(layer));
    let refusal = Reply::status(401).header("WWW-Authenticate", "Basic realm=\"test\"");
    world.server.serve("/v2/", refusal);
    // `user:s3cret`
    let auths =
        json!({"auths": {format!("127.0.0.1:{}", world.server.port()): {"auth": "dXNlcjpzM2NyZXQ="}}});
    let file = world.write("auth.json", auths.to_string());
    let mut command = build(&world, &manifest, &[]);
    command.env("REGISTRY_AUTH_FILE", file);
    let shown = finish(command.spawn().expect("started")).succeeded().shown();
    assert!(!shown.contains("s3cret") && !shown.contains("dXNlcjpzM2NyZXQ"), "{shown}");
    let requests = world.server.requests();
    let authorized = requests.iter().filter_map(|request| request.header("authorization"));
    assert!(authorized.filter(|value| *value == "Basic dXNlcjpzM2NyZXQ=").count() >= 3, "{requests:?}");
}

#[test]
fn root_without_skopeo_the_package_is_named() {
    let world = World::new();
    let (manifest, ..) = slow(&world);
    let mut command = build(&world, &manifest, &["--progress", "none"]);
    command.env("PATH", world.path("library"));
    assert_shown!(world, finish(command.spawn().expect("started")), @r#"
    exit code 1
    --- stderr
    error: `org.osbuild.skopeo` could not fetch 1 item
      sha256:[ID]: cannot fetch the image [SERVER]/image@sha256:[ID]: the program `skopeo` is not installed; it comes with the package `skopeo` of Debian and `skopeo` of Fedora
    hint: what was fetched is kept: run the same command again to go on from there
    "#);
}

#[test]
fn root_images_of_the_hosts_storage_reach_a_stage() {
    if !provided("images of a storage", &[SKOPEO]) {
        return;
    }
    let world = World::new();
    library(&world);
    // An archive without files.
    let layout = Layout::write(&world.path("layout"), &[(ARCHITECTURE, &[&[0; 1024]])]);
    let id = &layout.images[0].id;
    let place = world.path("storage");
    let place = place.display();
    let mut copy = Command::new("skopeo");
    copy.args(["copy", "--quiet", &format!("oci:{}", world.path("layout").display())]);
    copy.arg(format!("containers-storage:[vfs@{place}/graph+{place}/run]localhost/image:1"));
    let output = copy.output().expect("skopeo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let configuration =
        format!("[storage]\ndriver = \"vfs\"\ngraphroot = \"{place}/graph\"\nrunroot = \"{place}/run\"\n");
    let configuration = world.write("storage.conf", configuration);
    let of_host = |id: &str| {
        let images = json!({
            "type": "org.osbuild.containers-storage", "origin": "org.osbuild.source", "references": {id: {"name": "a"}},
        });
        let mut manifest = manifest(&[pipeline("tree", &[look(&json!({"images": images}))])]);
        manifest["sources"]["org.osbuild.containers-storage"]["items"] = json!({id: {}});
        world.write("manifest.json", manifest.to_string())
    };
    let build = |manifest: &Path| {
        // In a mount namespace of its own, in which a file is the host's configuration.
        let mut command = world.program("unshare", &["--mount", "--propagation", "private", "sh", "-ec"]);
        let script = "mount -t tmpfs none /etc/containers; cp \"$0\" /etc/containers/storage.conf
            printf '{\"default\": [{\"type\": \"insecureAcceptAnything\"}]}' >/etc/containers/policy.json; exec \"$@\"";
        command
            .arg(script)
            .arg(&configuration)
            .arg(KILN)
            .arg("build")
            .arg(manifest)
            .arg("--cache")
            .arg(world.cache());
        command.args(["--libdir", "library", "--export", "tree", "--output-directory", "output", "--json"]);
        finish(command.stdin(Stdio::null()).spawn().expect("started"))
    };
    let run = build(&of_host(id)).succeeded();
    assert!(!run.stdout.contains("changed"), "inputs can be written to: {}", run.stdout);
    let tree = world.path("output/tree");
    let storage =
        json!({"driver": "vfs", "graphroot": format!("{place}/graph"), "runroot": format!("{place}/run")});
    let archive = json!({"format": "containers-storage", "name": "a", "storage": storage});
    assert_eq!(told(&tree)["images"]["data"], json!({"archives": {id: archive}}));
    let shown = names(&tree.join("inputs/images/storage"));
    assert!(shown.iter().any(|name| name == "vfs-images"), "{shown:?}");
    let absent = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
    let run = build(&of_host(absent));
    let expected = format!("the image {absent} is not in the host's storage of containers `{place}/graph`");
    assert_eq!(run.code(), Some(1), "{}", run.shown());
    assert!(run.stdout.contains(&expected) || run.stderr.contains(&expected), "{}", run.shown());
    world.assert_nothing_left();
}
