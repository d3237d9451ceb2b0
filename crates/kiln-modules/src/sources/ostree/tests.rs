//! Pulls from repositories that the tool has made, served on the loopback interface.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use kiln_testkit::host::{Need, provided};
use kiln_testkit::http::{Reply, Server};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

mod behaviour;
mod trust;

/// A repository that is served, and a cache.
struct World {
    directory: TempDir,
    server: Server,
    environment: BTreeMap<String, String>,
    interrupted: AtomicBool,
    events: Mutex<Vec<String>>,
}

impl World {
    fn new(test: &str) -> Option<Self> {
        Self::with(test, Server::start)
    }

    fn with(test: &str, server: impl FnOnce() -> Server) -> Option<Self> {
        let needs = ["ostree", "gpg", "gpg-agent"].map(|name| Need { program: name, package: name });
        if !provided(test, &needs) {
            return None;
        }
        let world = Self {
            directory: tempfile::tempdir().expect("tempdir"),
            server: server(),
            environment: BTreeMap::from([("PATH".to_owned(), std::env::var("PATH").expect("a path"))]),
            interrupted: AtomicBool::new(false),
            events: Mutex::default(),
        };
        world.ostree("remote", &["init", "--mode=archive"]);
        Some(world)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The cache's directory for this content.
    fn cache(&self) -> PathBuf {
        self.path("sources").join(CONTENT_TYPE)
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Runs the tool in a repository; it has to succeed.
    fn ostree(&self, repository: &str, arguments: &[&str]) -> String {
        let repository = format!("--repo={}", self.path(repository).display());
        let output = Command::new("ostree").args(arguments).arg(repository).output().expect("run");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
    }

    /// Commits files, and serves the repository below `/repo`.
    fn commit(&self, files: &[(&str, &str)], arguments: &[&str]) -> String {
        let content = tempfile::tempdir_in(self.directory.path()).expect("tempdir");
        for (name, text) in files {
            let path = content.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, text).expect("written");
        }
        let content = content.path().to_str().expect("UTF-8");
        let commit = self.ostree("remote", &[&["commit", "--branch=b", content], arguments].concat());
        self.serve("/repo", |_| true);
        commit
    }

    /// Serves files of the remote's repository.
    fn serve(&self, url: &str, which: fn(&str) -> bool) {
        let root = self.path("remote");
        let mut waiting = vec![root.clone()];
        while let Some(path) = waiting.pop() {
            if path.is_dir() {
                waiting
                    .extend(fs::read_dir(path).expect("readable").map(|entry| entry.expect("entry").path()));
                continue;
            }
            let name = path.strip_prefix(&root).expect("below").to_str().expect("UTF-8").to_owned();
            if which(&name) {
                self.server.serve(&format!("{url}/{name}"), Reply::ok(fs::read(&path).expect("readable")));
            }
        }
    }

    fn url(&self) -> String {
        self.server.url("/repo")
    }

    fn pull_all(&self, items: &Value) -> Vec<ItemResult> {
        let request = DownloadRequest {
            items: items.as_object().expect("items"),
            options: &json!({}),
            cache: &self.path("sources"),
            environment: &self.environment,
            parallel: None,
            interrupted: &self.interrupted,
            room: &|_| Ok(()),
        };
        let note = |event: DownloadEvent<'_>| {
            let line = match event {
                DownloadEvent::Started { origin, .. } => format!("started {origin}"),
                DownloadEvent::Progress { bytes, .. } => {
                    assert!(bytes > 0);
                    return;
                }
                DownloadEvent::Retry { reason, .. } => format!("retry: {reason}"),
                DownloadEvent::Finished { cached, .. } => format!("finished {cached}"),
                DownloadEvent::Failed { reason, .. } => format!("failed: {reason}"),
            };
            self.events.lock().expect("not poisoned").push(line);
        };
        let secrets = Secrets::new(&self.environment, "OSTREE");
        download(&request, &note, &secrets, &|_, _| ())
    }

    fn pull(&self, commit: &str, remote: &Value) -> Result<bool, String> {
        let results = self.pull_all(&json!({commit: {"remote": remote}}));
        let [result] = results.as_slice() else { panic!("{results:?}") };
        assert_eq!(result.checksum, commit);
        match &result.error {
            Some(error) => Err(error.clone()),
            None => Ok(result.cached),
        }
    }

    fn events(&self) -> Vec<String> {
        std::mem::take(&mut self.events.lock().expect("not poisoned"))
    }

    fn has(&self, commit: &str) -> bool {
        Ostree.cached(&self.path("sources"), commit)
    }

    /// Nothing but a sound repository is in the cache, and it knows no remotes.
    fn is_sound(&self) {
        let names: Vec<_> =
            fs::read_dir(self.cache()).expect("there").map(|entry| entry.expect("it").file_name()).collect();
        assert_eq!(names, ["repo"]);
        let repository = format!("sources/{CONTENT_TYPE}/repo");
        assert_eq!(self.ostree(&repository, &["remote", "list"]), "");
        self.ostree(&repository, &["fsck"]);
    }

    /// How many files of the repository were asked for.
    fn asked(&self) -> usize {
        self.server.requests().iter().filter(|request| request.target.contains("/objects/")).count()
    }
}
