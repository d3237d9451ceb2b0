//! Images from a real registry, and from servers that fail in the middle.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use kiln_testkit::host::{is_root, provided};
use kiln_testkit::http::{Reply, Server};
use kiln_testkit::registry::{ARCHITECTURE, Layout, REGISTRY, Registry, SKOPEO, media_type};
use serde_json::{Map, json};
use tempfile::TempDir;

use super::*;
use crate::sources::skopeo_index::SkopeoIndex;

const WRONG: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

/// A cache, and a place for a registry's content.
struct World {
    directory: TempDir,
    environment: BTreeMap<String, String>,
    interrupted: AtomicBool,
}

type Found = Vec<(bool, Option<String>)>;

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        // No configuration of whoever runs the tests.
        let home = directory.path().display().to_string();
        let environment =
            [("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned()), ("HOME".to_owned(), home)];
        Self { directory, environment: environment.into(), interrupted: AtomicBool::new(false) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn cache(&self) -> PathBuf {
        self.path("sources")
    }

    /// Two images with one layer in common, and their index; the first is that of this machine.
    fn layout(&self) -> Layout {
        let (own, other) = (ARCHITECTURE, if ARCHITECTURE == "arm64" { "amd64" } else { "arm64" });
        let images: [(&str, &[&[u8]]); 2] = [(own, &[b"common", b"own"]), (other, &[b"common", b"other"])];
        Layout::write(&self.path("layout"), &images)
    }

    /// Fetches with a source and returns the results and what was reported; `pause` is what happens between two tries.
    fn fetch_with(
        &self,
        source: &dyn Fn(&DownloadRequest<'_>, Events<'_>, Pause<'_>) -> Vec<ItemResult>,
        items: &Map<String, Value>,
        pause: &(dyn Fn() + Sync),
    ) -> (Found, Vec<String>) {
        let log = Mutex::new(Vec::new());
        let arrived = Mutex::new(BTreeMap::<String, i64>::new());
        let request = DownloadRequest {
            items,
            options: &json!({}),
            cache: &self.cache(),
            environment: &self.environment,
            parallel: None,
            interrupted: &self.interrupted,
            room: &|_| Ok(()),
        };
        let events = |event: DownloadEvent<'_>| {
            let line = match event {
                DownloadEvent::Started { origin, .. } => format!("started: {origin}"),
                DownloadEvent::Progress { item, bytes } => {
                    let mut arrived = arrived.lock().expect("not poisoned");
                    return *arrived.entry(item.to_owned()).or_default() += bytes;
                }
                DownloadEvent::Retry { reason, .. } => format!("retry: {reason}"),
                DownloadEvent::Finished { item, cached } => {
                    let arrived = arrived.lock().expect("not poisoned").get(item).copied().unwrap_or(0);
                    format!("finished: cached {cached}, {arrived} bytes")
                }
                DownloadEvent::Failed { item, reason } => {
                    let arrived = arrived.lock().expect("not poisoned").get(item).copied().unwrap_or(0);
                    assert_eq!(arrived, 0, "what has arrived was not taken back");
                    format!("failed: {reason}")
                }
            };
            log.lock().expect("not poisoned").push(line);
        };
        let results = source(&request, &events, &|_, _| pause());
        let keys: Vec<_> = items.keys().collect();
        assert_eq!(results.iter().map(|result| &result.checksum).collect::<Vec<_>>(), keys);
        let found = results.into_iter().map(|result| (result.cached, result.error)).collect();
        (found, log.into_inner().expect("not poisoned"))
    }

    fn fetch(&self, items: &Map<String, Value>) -> (Found, Vec<String>) {
        self.fetch_with(&download, items, &|| ())
    }

    /// The names in the cache's directory.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.cache().join(CONTAINERS)).into_iter().flatten().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

fn item(id: &str, name: &str, digest: &str) -> (String, Value) {
    (id.to_owned(), json!({"image": {"name": name, "digest": digest, "tls-verify": false}}))
}

fn one(id: &str, name: &str, digest: &str) -> Map<String, Value> {
    [item(id, name, digest)].into_iter().collect()
}

fn error(found: &Found) -> &str {
    found[0].1.as_deref().expect("it fails")
}

#[test]
fn images_are_fetched_once_and_held_against_their_ids() {
    if !provided("fetching images", &[REGISTRY, SKOPEO]) {
        return;
    }
    let world = World::new();
    let layout = world.layout();
    let registry = Registry::start(&world.path("registry"));
    let name = registry.push(&layout, "some/image");
    let [own, other] = layout.images.as_slice() else { panic!("two images") };
    // The index stands for the image of this machine.
    let items: Map<_, _> =
        [item(&other.id, &name, &other.manifest), item(&own.id, &name, &layout.index)].into_iter().collect();
    let (found, mut log) = world.fetch(&items);
    assert_eq!(found, [(false, None), (false, None)]);
    log.sort();
    let started: Vec<_> = log.iter().filter(|line| line.starts_with("started")).collect();
    let expected = [&other.manifest, &layout.index].map(|digest| format!("started: {name}@{digest}"));
    assert!(started.len() == 2 && expected.iter().all(|line| log.contains(line)), "{log:?}");
    for image in [own, other] {
        let directory = world.cache().join(CONTAINERS).join(&image.id).join("image");
        for digest in image.layers.iter().chain([&image.id]) {
            let blob = fs::read(directory.join(digest.trim_start_matches("sha256:"))).expect("a blob");
            assert_eq!(blob, layout.content(digest));
        }
        assert_eq!(fs::read(directory.join("manifest.json")).expect("read"), layout.content(&image.manifest));
        let bytes = image::size(&directory);
        assert!(log.contains(&format!("finished: cached false, {bytes} bytes")), "{bytes}: {log:?}");
        assert!(Skopeo.cached(&world.cache(), &image.id));
    }
    let mut ids = [own.id.clone(), other.id.clone()];
    ids.sort();
    assert_eq!(world.names(), ids, "nothing else stays");

    drop(registry);
    let (found, log) = world.fetch(&items);
    assert_eq!(found, [(true, None), (true, None)]);
    assert_eq!(log, ["finished: cached true, 0 bytes", "finished: cached true, 0 bytes"]);
}

#[test]
fn what_is_not_what_was_asked_for_is_said_and_stops_nobody() {
    if !provided("fetching images", &[REGISTRY, SKOPEO]) {
        return;
    }
    let world = World::new();
    let layout = world.layout();
    let registry = Registry::start(&world.path("registry"));
    let name = registry.push(&layout, "some/image");
    let [own, other] = layout.images.as_slice() else { panic!("two images") };
    let gone = format!("{}/no/image", registry.address());
    let verified = json!({"image": {"name": name, "digest": own.manifest}});
    let cases = [
        (
            item(WRONG, &name, &own.manifest),
            format!("the image has another id: {}, expected: {WRONG}", own.id),
        ),
        (item(&own.id, &name, WRONG), "manifest unknown".to_owned()),
        (item(&own.id, &gone, &own.manifest), "unknown".to_owned()),
        (item(&own.id, "NO NAME", &own.manifest), "invalid reference format".to_owned()),
        ((own.id.clone(), verified), "server gave HTTP response to HTTPS client".to_owned()),
        ((own.id.clone(), json!({"image": {"name": name}})), "missing field `digest`".to_owned()),
    ];
    for ((id, description), expected) in cases {
        let mut items: Map<_, _> = [(id, description.clone())].into_iter().collect();
        items.extend([item(&other.id, &name, &other.manifest)]);
        let (found, log) = world.fetch(&items);
        let reason = error(&found);
        assert!(reason.contains(&expected), "{reason}, expected: {expected}");
        if let Some(name) = description["image"]["digest"].as_str() {
            let shown = format!(
                "cannot fetch the image {}@{name}: ",
                description["image"]["name"].as_str().expect("one")
            );
            assert!(reason.starts_with(&shown), "{reason}");
        }
        assert!(!log.iter().any(|line| line.starts_with("retry")), "{log:?}");
        assert_eq!(found[1].1, None, "the other image");
        assert_eq!(world.names(), [other.id.as_str()]);
        fs::remove_dir_all(world.cache()).expect("removed");
    }
}

#[test]
fn a_registry_may_be_away_for_a_while() {
    if !provided("fetching images", &[REGISTRY, SKOPEO]) {
        return;
    }
    let world = World::new();
    let layout = world.layout();
    let storage = world.path("registry");
    let registry = Registry::start(&storage);
    let name = registry.push(&layout, "image");
    let port = registry.port();
    drop(registry);
    let items = one(&layout.images[0].id, &name, &layout.images[0].manifest);
    let (found, log) = world.fetch(&items);
    let reason = error(&found);
    assert!(reason.contains("connection refused") && reason.ends_with("(after 6 tries)"), "{reason}");
    assert_eq!(log.iter().filter(|line| line.starts_with("retry: ")).count(), 5, "{log:?}");
    assert_eq!(world.names(), [""; 0]);

    let back = Mutex::new(None);
    let start = || *back.lock().expect("not poisoned") = Some(Registry::start_with(&storage, port, None));
    let (found, log) = world.fetch_with(&download, &items, &start);
    assert_eq!(found, [(false, None)], "{log:?}");
    assert!(log[1].starts_with("retry: skopeo: pinging container registry 127.0.0.1:"), "{log:?}");
}

/// Lets a server have one image.
fn serve(server: &Server, layout: &Layout) {
    let image = &layout.images[0];
    server.serve("/v2/", Reply::ok("{}"));
    for blob in image.layers.iter().chain([&image.id]) {
        server.serve(&format!("/v2/image/blobs/{blob}"), Reply::ok(layout.content(blob)));
    }
    let manifest =
        Reply::ok(layout.content(&image.manifest)).header("Content-Type", media_type("manifest.v1+json"));
    server.serve(&format!("/v2/image/manifests/{}", image.manifest), manifest);
}

fn served(server: &Server) -> String {
    format!("127.0.0.1:{}/image", server.port())
}

#[test]
fn a_registry_may_die_in_the_middle_of_a_layer() {
    if !provided("fetching images", &[SKOPEO]) {
        return;
    }
    let world = World::new();
    let large = vec![7; 300_000];
    let layout = Layout::write(&world.path("layout"), &[(ARCHITECTURE, &[&large])]);
    let server = Server::start();
    serve(&server, &layout);
    let layer = format!("/v2/image/blobs/{}", layout.images[0].layers[0]);
    server.serve(&layer, Reply::ok(large.clone()).cut_at(100_000));
    let items = one(&layout.images[0].id, &served(&server), &layout.images[0].manifest);
    let tries = AtomicUsize::new(0);
    let (found, log) = world.fetch_with(&download, &items, &|| {
        if tries.fetch_add(1, Ordering::Relaxed) == 1 {
            server.serve(&layer, Reply::ok(large.clone()));
        }
    });
    assert_eq!(found, [(false, None)], "{log:?}");
    assert_eq!(log.iter().filter(|line| line.starts_with("retry: skopeo: ")).count(), 2, "{log:?}");
    assert_eq!(world.names(), [layout.images[0].id.clone()]);
    assert_eq!(log.len(), 4, "{log:?}");
}

#[test]
fn an_interruption_in_the_middle_of_a_layer_leaves_nothing() {
    if !provided("fetching images", &[SKOPEO]) {
        return;
    }
    let world = World::new();
    let large = vec![7; 300_000];
    let layout = Layout::write(&world.path("layout"), &[(ARCHITECTURE, &[&large])]);
    let server = Server::start();
    serve(&server, &layout);
    let layer = format!("/v2/image/blobs/{}", layout.images[0].layers[0]);
    server.serve(&layer, Reply::ok(large).stall_at(200_000));
    let mut items = one(&layout.images[0].id, &served(&server), &layout.images[0].manifest);
    // More than are fetched at the same time.
    items.extend(
        (0..8).map(|number| {
            item(&format!("sha256:{number:064x}"), &served(&server), &layout.images[0].manifest)
        }),
    );
    let (found, log) = std::thread::scope(|scope| {
        scope.spawn(|| {
            server.wait_until_stalled(1);
            world.interrupted.store(true, Ordering::Relaxed);
        });
        world.fetch(&items)
    });
    assert!(found.iter().all(|result| *result == (false, Some("interrupted".to_owned()))), "{found:?}");
    assert!(log.iter().filter(|line| line.starts_with("started")).count() <= PARALLEL, "{log:?}");
    assert_eq!(world.names(), [""; 0]);
    let marker = world.directory.path().as_os_str().as_encoded_bytes();
    let processes = fs::read_dir("/proc").expect("read").flatten();
    let left = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    assert!(
        !left.into_iter().any(|line| line.windows(marker.len()).any(|part| part == marker)),
        "skopeo runs on"
    );
}

#[test]
fn tls_is_verified_against_the_authorities_of_the_environment() {
    if !provided("fetching images over TLS", &[REGISTRY, SKOPEO]) {
        return;
    }
    let world = World::new();
    let layout = world.layout();
    let storage = world.path("registry");
    let plain = Registry::start(&storage);
    plain.push(&layout, "image");
    drop(plain);
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("a certificate");
    let files = [("cert.pem", certificate.pem()), ("key.pem", key.serialize_pem())].map(|(name, text)| {
        fs::write(world.path(name), text).expect("written");
        world.path(name)
    });
    let registry = Registry::start_with(&storage, 0, Some((&files[0], &files[1])));
    let image = &layout.images[0];
    let name = format!("{}/image", registry.address());
    let items: Map<_, _> = [(image.id.clone(), json!({"image": {"name": name, "digest": image.manifest}}))]
        .into_iter()
        .collect();
    let (found, log) = world.fetch(&items);
    assert!(error(&found).contains("x509: "), "{found:?}");
    assert!(!log.iter().any(|line| line.starts_with("retry")), "{log:?}");

    let mut trusting = World::new();
    trusting.environment.insert("SSL_CERT_FILE".to_owned(), files[0].display().to_string());
    assert_eq!(trusting.fetch(&items).0, [(false, None)]);
    let (found, _) = world.fetch(&one(&image.id, &name, &image.manifest));
    assert_eq!(found, [(false, None)], "`tls-verify` is false");
}

#[test]
fn credentials_are_skopeos_business_and_never_shown() {
    if !provided("fetching images with credentials", &[SKOPEO]) {
        return;
    }
    let mut world = World::new();
    let layout = Layout::write(&world.path("layout"), &[(ARCHITECTURE, &[b"layer"])]);
    let server = Server::start();
    serve(&server, &layout);
    let refusal = Reply::status(401).header("WWW-Authenticate", "Basic realm=\"test\"");
    server.serve("/v2/", refusal.clone());
    let items = one(&layout.images[0].id, &served(&server), &layout.images[0].manifest);
    let file = world.path("auth.json");
    // `user:s3cret`
    let auths = json!({"auths": {format!("127.0.0.1:{}", server.port()): {"auth": "dXNlcjpzM2NyZXQ="}}});
    fs::write(&file, auths.to_string()).expect("written");
    world.environment.insert("REGISTRY_AUTH_FILE".to_owned(), file.display().to_string());
    let (found, log) = world.fetch(&items);
    assert_eq!(found, [(false, None)], "{log:?}");
    let sent = server
        .requests()
        .into_iter()
        .filter_map(|request| request.header("authorization").map(str::to_owned));
    assert!(sent.clone().count() >= 3 && sent.into_iter().all(|value| value == "Basic dXNlcjpzM2NyZXQ="));

    fs::remove_dir_all(world.cache()).expect("removed");
    server.serve(&format!("/v2/image/manifests/{}", layout.images[0].manifest), refusal);
    let (found, log) = world.fetch(&items);
    let reason = error(&found);
    assert!(reason.contains("unauthorized") || reason.contains("authentication required"), "{reason}");
    for line in log.iter().map(String::as_str).chain([reason]) {
        assert!(!line.contains("s3cret") && !line.contains("dXNlcjpzM2NyZXQ"), "{line}");
    }
}

#[test]
fn without_skopeo_the_package_is_named() {
    let mut world = World::new();
    world.environment.insert("PATH".to_owned(), "/nowhere".to_owned());
    let (found, log) = world.fetch(&one(WRONG, "h.invalid/image", WRONG));
    let expected = format!(
        "cannot fetch the image h.invalid/image@{WRONG}: the program `skopeo` is not installed; \
         it comes with the package `skopeo` of Debian and `skopeo` of Fedora"
    );
    assert_eq!(error(&found), expected);
    assert_eq!(log, [format!("started: h.invalid/image@{WRONG}"), format!("failed: {expected}")]);
    assert_eq!(world.names(), [""; 0]);
}

#[test]
fn too_little_room_is_said_before_anything_is_fetched() {
    let world = World::new();
    let items = one(WRONG, "h.invalid/image", WRONG);
    let request = DownloadRequest {
        items: &items,
        options: &json!({}),
        cache: &world.cache(),
        environment: &world.environment,
        parallel: None,
        interrupted: &world.interrupted,
        room: &|_| Err("too little room".to_owned()),
    };
    let results = Skopeo.download(&request, &|_| ());
    assert_eq!(
        results[0].error,
        Some(format!("cannot fetch the image h.invalid/image@{WRONG}: too little room"))
    );
}

/// Puts an image into a cache, as if it had been fetched.
fn place(cache: &Path, layer: &[u8]) -> String {
    let scratch = cache.join("scratch");
    fs::create_dir_all(&scratch).expect("made");
    let id = image::tests::write(&scratch, layer);
    let directory = cache.join(CONTAINERS).join(&id);
    fs::create_dir_all(&directory).expect("made");
    fs::rename(scratch, directory.join(IMAGE)).expect("moved");
    id
}

#[test]
fn what_a_crash_has_cut_is_replaced_and_what_is_whole_stays() {
    let cache = tempfile::tempdir().expect("a directory");
    let id = place(cache.path(), b"layer");
    let directory = cache.path().join(CONTAINERS);
    let image = directory.join(&id).join(IMAGE);
    let parsed = Checksum::parse(&id).expect("an id");
    let again = |name: &str| {
        let made = directory.join(name);
        prepare(&made).expect("made");
        copy_image(&image, &made.join(IMAGE), &AtomicBool::new(false), &|_| ()).expect("copied");
        fs::write(made.join(IMAGE).join(name), "").expect("written");
        made
    };
    let (second, third) = (again("second"), again("third"));
    commit(&second, &directory, &parsed).expect("it is there");
    assert!(second.exists() && !image.join("second").exists(), "what is whole was replaced");
    fs::write(image.join("manifest.json"), "").expect("cut");
    assert!(!Skopeo.cached(cache.path(), &id));
    commit(&third, &directory, &parsed).expect("replaced");
    assert!(Skopeo.cached(cache.path(), &id) && image.join("third").exists());
    // A directory without an image, as a program leaves that dies between two steps.
    fs::remove_dir_all(directory.join(&id)).expect("removed");
    fs::create_dir(directory.join(&id)).expect("made");
    commit(&second, &directory, &parsed).expect("replaced");
    assert!(Skopeo.cached(cache.path(), &id));
}

#[test]
fn images_are_copied_to_another_cache_and_verified_there() {
    let world = World::new();
    let id = place(&world.cache(), b"layer");
    let damaged = place(&world.cache(), b"damaged");
    let layer = layers(&world.cache().join(CONTAINERS).join(&damaged).join(IMAGE));
    fs::write(&layer, "DAMAGED").expect("written");
    let other = world.path("other");
    let copy = |items: &[&str]| {
        let items: Map<_, _> = items.iter().map(|id| ((*id).to_owned(), json!({}))).collect();
        let request = CopyRequest {
            items: &items,
            options: &json!({}),
            from: &world.cache(),
            to: &other,
            environment: &world.environment,
            interrupted: &world.interrupted,
        };
        let results = Skopeo.copy(&request, &|_| ());
        results.into_iter().map(|result| (result.cached, result.error)).collect::<Vec<_>>()
    };
    let results = copy(&[&damaged, WRONG, &id]);
    let expected = ["has another checksum: ", "cannot read", ""];
    for ((_, error), expected) in results.iter().zip(expected) {
        assert!(error.as_deref().unwrap_or_default().contains(expected), "{error:?}, expected: {expected}");
    }
    assert_eq!(results[2], (false, None));
    assert_eq!(copy(&[&id]), [(true, None)]);
    let names: Vec<_> = fs::read_dir(other.join(CONTAINERS)).expect("read").flatten().collect();
    assert!(names.len() == 1 && Skopeo.cached(&other, &id), "{names:?}");
    world.interrupted.store(true, Ordering::Relaxed);
    assert_eq!(copy(&[&id]), [(false, Some("interrupted".to_owned()))]);
}

/// The file of the only layer of an image.
fn layers(image: &Path) -> PathBuf {
    let manifest: Value =
        serde_json::from_slice(&fs::read(image.join("manifest.json")).expect("read")).expect("JSON");
    let digest = manifest["layers"][0]["digest"].as_str().expect("a digest");
    image.join(digest.trim_start_matches("sha256:"))
}

#[test]
fn indexes_are_files_among_others() {
    if !provided("fetching indexes", &[REGISTRY, SKOPEO]) {
        return;
    }
    let world = World::new();
    let layout = world.layout();
    let registry = Registry::start(&world.path("registry"));
    let name = registry.push(&layout, "image");
    let index = |digest: &str| (digest.to_owned(), json!({"image": {"name": name, "tls-verify": false}}));
    let image = &layout.images[0].manifest;
    let items: Map<_, _> = [index(WRONG), index(image), index(&layout.index)].into_iter().collect();
    let source = |request: &DownloadRequest<'_>, events: Events<'_>, _: Pause<'_>| {
        SkopeoIndex.download(request, events)
    };
    let (found, log) = world.fetch_with(&source, &items, &|| ());
    assert!(
        error(&found).starts_with(&format!("cannot fetch the index {name}@{WRONG}: skopeo: ")),
        "{found:?}"
    );
    let no_index = format!("cannot fetch the index {name}@{image}: ");
    assert!(found[1].1.as_deref().is_some_and(|reason| reason.starts_with(&no_index)), "{found:?}");
    assert_eq!(found[2], (false, None));
    let content = layout.content(&layout.index);
    assert!(log.contains(&format!("finished: cached false, {} bytes", content.len())), "{log:?}");
    let directory = world.cache().join("org.osbuild.files");
    assert_eq!(fs::read(directory.join(&layout.index)).expect("a file"), content);
    assert_eq!(fs::read_dir(&directory).expect("read").count(), 1, "nothing else stays");
    assert!(SkopeoIndex.cached(&world.cache(), &layout.index));
    drop(registry);
    let items = [index(&layout.index)].into_iter().collect();
    assert_eq!(world.fetch_with(&source, &items, &|| ()).0, [(true, None)]);
}

#[test]
fn root_images_are_copied_from_a_storage_of_this_host() {
    if !is_root() || !provided("a storage of containers", &[SKOPEO]) {
        return;
    }
    let mut world = World::new();
    // An archive without files.
    let layout = Layout::write(&world.path("layout"), &[(ARCHITECTURE, &[&[0; 1024]])]);
    let image = &layout.images[0];
    let place = world.directory.path().display().to_string();
    let text =
        format!("[storage]\ndriver = \"vfs\"\ngraphroot = \"{place}/graph\"\nrunroot = \"{place}/run\"\n");
    fs::write(world.path("storage.conf"), text).expect("written");
    world.environment.insert("CONTAINERS_STORAGE_CONF".to_owned(), format!("{place}/storage.conf"));
    let mut command = std::process::Command::new("skopeo");
    command.args(["copy", "--quiet", &format!("oci:{place}/layout"), "containers-storage:localhost/image:1"]);
    let output = command.envs(&world.environment).output().expect("skopeo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let of_storage = |digest: &str| json!({"image": {"name": "localhost/image", "digest": digest, "containers-transport": "containers-storage"}});
    let items: Map<_, _> = [(image.id.clone(), of_storage(&image.manifest))].into_iter().collect();
    let (found, log) = world.fetch(&items);
    assert_eq!(found, [(false, None)], "{log:?}");
    assert_eq!(world.names(), [image.id.as_str()]);
    let items: Map<_, _> = [(WRONG.to_owned(), of_storage(WRONG))].into_iter().collect();
    let (found, log) = world.fetch(&items);
    assert!(error(&found).contains("does not resolve to an image ID"), "{found:?}");
    assert!(!log.iter().any(|line| line.starts_with("retry")), "{log:?}");
}
