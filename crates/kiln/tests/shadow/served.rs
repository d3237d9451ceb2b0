//! What a loopback server has for a manifest: made of this machine's programs when a test runs, for both programs alike.
//!
//! ```text
//! {"programs", "directories", "python", "files"}   an archive: see `archive.rs`
//! {"text": TEXT}                                   a file
//! {"rpm": SPECIFICATION}                           a package
//! {"ostree": {"ref", "version", "files", "directories"}}   a repository with one commit
//! {"image": {"files"}}                             an image in a registry, with its index: see `image.rs`
//! {"storage": {"files"}}                           an image in a storage of containers, which no server has
//! ```
//!
//! Each is known by its checksum in manifests: `${NAME}`; a repository by its commit, an image by that of its
//! configuration, besides `${NAME.manifest}` and `${NAME.index}`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kiln_testkit::http::{Reply, Server};
use serde_json::{Map, Value};
use tempfile::TempDir;

use crate::archive::{archive, place_files};
use crate::case::digest;
use crate::image::Image;

pub(crate) struct Served {
    server: Server,
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
        let mut served = Self { server: Server::start(), names: BTreeMap::new(), storage: None, scratch };
        for (name, told) in told.into_iter().flatten() {
            served.add(name, told);
        }
        served
    }

    pub(crate) fn url(&self) -> String {
        self.server.url("")
    }

    fn add(&mut self, name: &str, told: &Value) {
        if let Some(told) = told.get("ostree") {
            let commit = self.repository(name, told);
            self.names.insert(name.to_owned(), commit);
        } else if let Some(told) = told.get("image") {
            self.image(name, &Image::new(told));
        } else if let Some(told) = told.get("storage") {
            self.store(name, &Image::new(told));
        } else {
            let content = if let Some(text) = told.get("text") {
                text.as_str().expect("a text").as_bytes().to_owned()
            } else if let Some(specification) = told.get("rpm") {
                self.package(specification.as_str().expect("a text"))
            } else {
                archive(told)
            };
            self.names.insert(name.to_owned(), digest(&content));
            self.server.serve(&format!("/{name}"), Reply::ok(content));
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
    fn repository(&self, name: &str, told: &Value) -> String {
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
        let commit = run(Command::new("ostree").args(arguments).arg(&content));
        self.files_of(&repository, name);
        commit.trim().to_owned()
    }

    fn files_of(&self, directory: &Path, url: &str) {
        for entry in fs::read_dir(directory).expect("read") {
            let entry = entry.expect("read");
            let url = format!("{url}/{}", entry.file_name().to_string_lossy());
            if entry.file_type().expect("a type").is_dir() {
                self.files_of(&entry.path(), &url);
            } else {
                self.server.serve(&format!("/{url}"), Reply::ok(fs::read(entry.path()).expect("read")));
            }
        }
    }

    fn image(&mut self, name: &str, image: &Image) {
        self.server.serve("/v2/", Reply::ok("{}"));
        for blob in [&image.layer, &image.configuration] {
            self.server.serve(&format!("/v2/{name}/blobs/{}", digest(blob)), Reply::ok(blob.clone()));
        }
        for (content, kind) in [(&image.manifest, "manifest"), (&image.index, "index")] {
            let reply = Reply::ok(content.clone()).header("Content-Type", Image::media_type(kind));
            self.server.serve(&format!("/v2/{name}/manifests/{}", digest(content)), reply);
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
            .arg(target));
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

/// Runs a program that has to succeed, and returns what it printed.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
