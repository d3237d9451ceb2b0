//! What a loopback server has for a manifest: made of this machine's programs when a test runs, for both programs alike.
//!
//! ```text
//! {"programs", "directories", "python", "files"}   an archive: see `archive.rs`
//! {"text": TEXT}                                   a file; `${server}` and the like stand for URLs in it
//! {"rpm": SPECIFICATION}                           a package
//! {"ostree": {"ref", "version", "files", "directories", "signed"}}   a repository with one commit, which is signed if asked to
//! {"image": {"files"}}                             an image in a registry, with its index: see `image.rs`
//! {"storage": {"files"}}                           an image in a storage of containers, which no server has
//! ```
//!
//! Each is known by its checksum in manifests: `${NAME}`; a repository by its commit, an image by that of its
//! configuration, besides `${NAME.manifest}` and `${NAME.index}`. `${NAME.key}` is the key that a commit is signed with.
//!
//! All of it is served without TLS, with TLS, and with TLS to clients that have a certificate; `${client.authority}`,
//! `${client.certificate}` and `${client.key}` are the files by which clients and servers know each other.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kiln_testkit::http::{Reply, Server};
use kiln_testkit::tls::Authority;
use serde_json::{Map, Value};
use tempfile::TempDir;

use crate::archive::{archive, place_files};
use crate::case::digest;
use crate::image::Image;

/// Whose key signs commits.
const KEY: &str = "shadow@example.invalid";

pub(crate) struct Served {
    server: Server,
    /// With TLS: for anybody, and for those that have a certificate.
    secure: [Server; 2],
    /// What stands for names in manifests.
    pub(crate) names: BTreeMap<String, String>,
    /// The configuration of a storage that both programs are to take for the host's.
    pub(crate) storage: Option<PathBuf>,
    scratch: TempDir,
}

impl Served {
    /// Makes everything, and serves it.
    pub(crate) fn new(told: Option<&Map<String, Value>>) -> Self {
        let scratch = TempDir::with_prefix("kiln-served-").expect("a directory");
        let authority = Authority::new();
        let files = authority.write(scratch.path());
        let names = [
            ("client.authority", files.authority),
            ("client.certificate", files.certificate),
            ("client.key", files.key),
        ];
        let names = names.map(|(name, path)| (name.to_owned(), path.to_str().expect("UTF-8").to_owned()));
        let mut served = Self {
            server: Server::start(),
            secure: [false, true].map(|wants_clients| authority.server("127.0.0.1", wants_clients)),
            names: names.into(),
            storage: None,
            scratch,
        };
        for (name, told) in told.into_iter().flatten() {
            served.add(name, told);
        }
        served
    }

    /// The URLs of the servers, by the names that stand for them.
    pub(crate) fn urls(&self) -> [(&'static str, String); 3] {
        let [open, closed] = &self.secure;
        [("server", self.server.url("")), ("tls", open.url("")), ("tls.clients", closed.url(""))]
    }

    /// A text in which names of servers stand for their URLs: lists of mirrors have them.
    fn with_urls(&self, text: &str) -> String {
        self.urls()
            .iter()
            .fold(text.to_owned(), |text, (name, url)| text.replace(&format!("${{{name}}}"), url))
    }

    fn serve(&self, target: &str, reply: &Reply) {
        for server in self.secure.iter().chain([&self.server]) {
            server.serve(target, reply.clone());
        }
    }

    fn add(&mut self, name: &str, told: &Value) {
        if let Some(told) = told.get("ostree") {
            let key = told.get("signed").map(|_| self.key());
            let home = key.as_ref().map(|(home, _)| home.path());
            let commit = self.repository(name, told, home);
            self.names.insert(name.to_owned(), commit);
            self.names.extend(key.map(|(_, key)| (format!("{name}.key"), key)));
        } else if let Some(told) = told.get("image") {
            self.image(name, &Image::new(told));
        } else if let Some(told) = told.get("storage") {
            self.store(name, &Image::new(told));
        } else {
            let content = if let Some(text) = told.get("text") {
                self.with_urls(text.as_str().expect("a text")).into_bytes()
            } else if let Some(specification) = told.get("rpm") {
                self.package(specification.as_str().expect("a text"))
            } else {
                archive(told)
            };
            self.names.insert(name.to_owned(), digest(&content));
            self.serve(&format!("/{}", quoted(name)), &Reply::ok(content));
        }
    }

    fn package(&self, specification: &str) -> Vec<u8> {
        let top = self.scratch.path().join("package");
        fs::create_dir(&top).expect("made");
        let file = top.join("package.spec");
        fs::write(&file, specification).expect("written");
        let define = format!("_topdir {}", top.display());
        let arguments = ["-bb", "--quiet", "--define", &define, "--define", "_rpmfilename package.rpm"];
        run(Command::new("rpmbuild").args(arguments).arg(file));
        fs::read(top.join("RPMS/package.rpm")).expect("the package")
    }

    /// Makes a repository with a commit, serves its files, and returns the commit.
    fn repository(&self, name: &str, told: &Value, key: Option<&Path>) -> String {
        let (content, repository) = (self.scratch.path().join("content"), self.scratch.path().join(name));
        place_files(told, &content);
        for directory in told["directories"].as_array().into_iter().flatten() {
            let path = directory.as_str().expect("a path").trim_start_matches('/');
            fs::create_dir_all(content.join(path)).expect("made");
        }
        let at = format!("--repo={}", repository.display());
        run(Command::new("ostree").args(["init", "--mode=archive", &at]));
        let branch = format!("--branch={}", told["ref"].as_str().expect("a reference"));
        let version =
            format!("--add-metadata-string=version={}", told["version"].as_str().expect("a version"));
        let arguments =
            ["commit", &at, &branch, &version, "--owner-uid=0", "--owner-gid=0", "--timestamp=@1700000000"];
        let mut command = Command::new("ostree");
        command.args(arguments).arg(&content);
        if let Some(home) = key {
            command.arg(format!("--gpg-sign={KEY}")).arg(format!("--gpg-homedir={}", home.display()));
        }
        let commit = run(&mut command);
        self.files_of(&repository, name);
        commit.trim().to_owned()
    }

    /// Makes a key; its directory, and the public key.
    fn key(&self) -> (TempDir, String) {
        // The socket of the agent needs a short path.
        let home = TempDir::with_prefix("kg").expect("a directory");
        let gpg = |arguments: &[&str]| {
            let mut gpg = Command::new("gpg");
            run(gpg.env("GNUPGHOME", home.path()).args(["--batch", "--passphrase", ""]).args(arguments))
        };
        gpg(&["--quick-generate-key", KEY, "ed25519", "sign", "never"]);
        let key = gpg(&["--armor", "--export", KEY]);
        (home, key)
    }

    fn files_of(&self, directory: &Path, url: &str) {
        for entry in fs::read_dir(directory).expect("read") {
            let entry = entry.expect("read");
            let url = format!("{url}/{}", entry.file_name().to_string_lossy());
            if entry.file_type().expect("a type").is_dir() {
                self.files_of(&entry.path(), &url);
            } else {
                self.serve(&format!("/{url}"), &Reply::ok(fs::read(entry.path()).expect("read")));
            }
        }
    }

    fn image(&mut self, name: &str, image: &Image) {
        self.serve("/v2/", &Reply::ok("{}"));
        for blob in [&image.layer, &image.configuration] {
            self.serve(&format!("/v2/{name}/blobs/{}", digest(blob)), &Reply::ok(blob.clone()));
        }
        for (content, kind) in [(&image.manifest, "manifest"), (&image.index, "index")] {
            let reply = Reply::ok(content.clone()).header("Content-Type", Image::media_type(kind));
            self.serve(&format!("/v2/{name}/manifests/{}", digest(content)), &reply);
            self.names.insert(format!("{name}.{kind}"), digest(content));
        }
        self.names.insert(name.to_owned(), digest(&image.configuration));
    }

    fn store(&mut self, name: &str, image: &Image) {
        let layout = self.scratch.path().join("layout");
        image.write_layout(&layout);
        let root = self.scratch.path().join("storage");
        let target = format!("containers-storage:[vfs@{0}/root+{0}/run]localhost/{name}:1", root.display());
        run(Command::new("skopeo")
            .args(["copy", "--quiet"])
            .arg(format!("oci:{}", layout.display()))
            .arg(&target));
        // What it is in the storage: a copy may have another manifest.
        let inspect = run(Command::new("skopeo").args(["inspect", "--format", "{{.Digest}}"]).arg(target));
        self.names.insert(format!("{name}.manifest"), inspect.trim().to_owned());
        let file = self.scratch.path().join("storage.conf");
        let text = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{0}/root\"\nrunroot = \"{0}/run\"\n",
            root.display()
        );
        fs::write(&file, text).expect("written");
        self.storage = Some(file);
        self.names.insert(name.to_owned(), digest(&image.configuration));
    }
}

/// A name as clients ask for it.
fn quoted(name: &str) -> String {
    let quote = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    name.bytes().map(quote).collect()
}

/// Runs a program that has to succeed, and returns what it printed.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
