//! Pulling one commit: a repository for the remote, the tool, and what its end means.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use kiln_api::source::{DownloadEvent, DownloadRequest};
use kiln_sys::command::CommandError;

use super::super::content::Workspace;
use super::super::secrets::Secrets;
use super::super::tool::{Failure, SLICE, Tool, Tries, without_secrets};
use super::remote::{NAME, Remote};
use super::{CONTENT_TYPE, Paused};
use crate::ostree::{Digest, Repository, objects_below, staging};

const OSTREE: Tool = Tool { program: "ostree", debian: "ostree", fedora: "ostree" };

/// Every how many [`SLICE`]s it is looked what has come.
const LOOK: u32 = 5;

/// Failures of libcurl that may pass, by its numbers: of names, connections and transfers that broke.
const PASSING: [&str; 11] =
    ["[5]", "[6]", "[7]", "[16]", "[18]", "[28]", "[52]", "[55]", "[56]", "[92]", "[95]"];

/// Statuses of servers that may pass.
const PASSING_STATUS: [&str; 7] =
    ["HTTP 408", "HTTP 425", "HTTP 429", "HTTP 500", "HTTP 502", "HTTP 503", "HTTP 504"];

/// What all pulls of a download have in common.
pub(super) struct Pull<'a> {
    pub(super) request: &'a DownloadRequest<'a>,
    pub(super) events: &'a (dyn Fn(DownloadEvent<'_>) + Sync),
    pub(super) secrets: &'a Secrets<'a>,
    pub(super) pause: Paused<'a>,
}

/// The repository that has a remote; it goes with the workspace.
pub(super) struct RemoteRepository {
    repository: Repository,
    workspace: Workspace,
}

impl Pull<'_> {
    /// Pulls a commit into the cache. The remote's repository is made for the first one.
    pub(super) fn commit(
        &self,
        remote: &Remote,
        commit: &Digest,
        repository: &mut Option<RemoteRepository>,
    ) -> Result<(), String> {
        let shown = without_secrets(&remote.url);
        let item = commit.as_str();
        let fail = |reason: String| match reason.as_str() {
            "interrupted" => reason,
            _ => format!("cannot pull the commit `{item}` from `{shown}`: {reason}"),
        };
        (self.events)(DownloadEvent::Started { item, origin: &shown, size: None });
        (self.request.room)(0)?;
        let cache = Repository::create(self.directory().join("repo")).map_err(|error| error.to_string())?;
        let own = match repository {
            Some(own) => own,
            empty => empty.insert(self.prepare(remote, &cache).map_err(&fail)?),
        };
        if cache.has_part(commit) {
            // `ostree` would not look whether its parent has only a part.
            own.repository.mark(commit).map_err(|error| error.to_string())?;
        }
        let tries = Tries { events: self.events, interrupted: self.request.interrupted, pause: self.pause };
        let mut arrived = Arrived::default();
        let result = tries.run(item, || self.attempt(own, commit, &mut arrived)).map_err(fail);
        if result.is_err() {
            // Best effort: it saves the next pull something, and nobody relies on it.
            let _ = cache.salvage(&own.repository);
            return result;
        }
        cache
            .adopt(&own.repository)
            .and_then(|()| cache.unmark(commit))
            .map_err(|error| error.to_string())?;
        if cache.has(commit) {
            Ok(())
        } else {
            Err(format!("`ostree` pulled the commit `{item}` from `{shown}`, but it is not there"))
        }
    }

    fn directory(&self) -> PathBuf {
        // `ostree` takes the path of the parent from a file: it must not depend on a working directory.
        let directory = self.request.cache.join(CONTENT_TYPE);
        std::path::absolute(&directory).unwrap_or(directory)
    }

    fn prepare(&self, remote: &Remote, cache: &Repository) -> Result<RemoteRepository, String> {
        let config = remote.config(cache.path(), self.request.environment, self.secrets)?;
        let workspace = Workspace::create(&self.directory()).map_err(|error| error.to_string())?;
        let repository = Repository::create_private(workspace.path().join("repo"), &config)
            .map_err(|error| error.to_string())?;
        let own = RemoteRepository { repository, workspace };
        for key in &remote.gpgkeys {
            let run = self.tool(&own).map_err(reason)?;
            let run = run.args(["remote", "gpg-import", "--stdin", NAME]).input(key.as_str());
            let run = run.arg(repository_argument(&own.repository));
            run.output()
                .map_err(|error| format!("a key of `gpgkeys` cannot be read: {}", last_words(&error)))?;
        }
        Ok(own)
    }

    fn tool(&self, own: &RemoteRepository) -> Result<kiln_sys::command::Run, Failure> {
        // What it leaves when it is killed goes with the workspace.
        Ok(OSTREE.run(self.request.environment)?.env("TMPDIR", own.workspace.path()))
    }

    fn attempt(&self, own: &RemoteRepository, commit: &Digest, arrived: &mut Arrived) -> Result<(), Failure> {
        let run = self.tool(own)?.arg("pull").arg(repository_argument(&own.repository));
        let mut slices = 0;
        let mut go_on = || {
            slices += 1;
            if slices % LOOK == 0 {
                self.progress(commit, arrived, &own.repository);
            }
            !self.request.interrupted.load(Ordering::Relaxed)
        };
        // Commits of this machine are verified like those of others.
        let run = run.args(["--untrusted", NAME, commit.as_str()]);
        match run.watched(SLICE, &mut go_on) {
            Ok(Some(_)) => {
                self.progress(commit, arrived, &own.repository);
                Ok(())
            }
            Ok(None) => Err(Failure::Interrupted),
            Err(error) => Err(failure(&error)),
        }
    }

    fn progress(&self, commit: &Digest, arrived: &mut Arrived, repository: &Repository) {
        let bytes = arrived.since(repository.path());
        if bytes > 0 {
            (self.events)(DownloadEvent::Progress { item: commit.as_str(), bytes });
        }
    }
}

fn repository_argument(repository: &Repository) -> std::ffi::OsString {
    let mut argument = std::ffi::OsString::from("--repo=");
    argument.push(repository.path());
    argument
}

/// The objects that have been seen, by name: each is looked at once, however often it is asked what has come.
#[derive(Default)]
struct Arrived(HashSet<PathBuf>);

impl Arrived {
    /// How many bytes of objects have come since it was last asked.
    fn since(&mut self, repository: &Path) -> i64 {
        let places = staging(repository).into_iter().chain([repository.join("objects")]);
        // What vanishes in between was moved to its last place, or is no object.
        let objects = places.flat_map(|root| objects_below(&root).unwrap_or_default());
        let mut bytes: u64 = 0;
        for object in objects {
            let folder = object.parent().and_then(Path::file_name).unwrap_or_default();
            let name = Path::new(folder).join(object.file_name().unwrap_or_default());
            if !self.0.contains(&name)
                && let Ok(metadata) = object.symlink_metadata()
            {
                bytes += metadata.size();
                self.0.insert(name);
            }
        }
        i64::try_from(bytes).unwrap_or(i64::MAX)
    }
}

fn reason(failure: Failure) -> String {
    match failure {
        Failure::Permanent(reason) | Failure::Passing(reason) => reason,
        Failure::Interrupted => "interrupted".to_owned(),
    }
}

fn failure(error: &CommandError) -> Failure {
    let words = last_words(error);
    let passes = PASSING.iter().chain(&PASSING_STATUS).any(|sign| words.contains(sign));
    if passes { Failure::Passing(words) } else { Failure::Permanent(words) }
}

/// What the tool said in the end, without what may be a secret.
fn last_words(error: &CommandError) -> String {
    let lines: Vec<_> = error.stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines.iter().rposition(|line| line.starts_with("error: "));
    let words = match last {
        Some(at) => lines.get(at..).unwrap_or_default().join("; "),
        None => lines.last().map_or(String::new(), |line| (*line).to_owned()),
    };
    match words.strip_prefix("error: ").unwrap_or(&words) {
        "" => format!("`ostree` failed with {}", error.status),
        words => without_secrets(words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(stderr: &str) -> CommandError {
        CommandError { program: "ostree".into(), status: "exit status 1".into(), stderr: stderr.into() }
    }

    #[test]
    fn failures_are_told_by_their_last_words() {
        let cases = [
            ("", Failure::Permanent("`ostree` failed with exit status 1".into())),
            ("noise\nerror: Server returned HTTP 404", Failure::Permanent("Server returned HTTP 404".into())),
            ("error: Server returned HTTP 503", Failure::Passing("Server returned HTTP 503".into())),
            (
                "error: While fetching http://u:p@h/x: [7] Couldn't connect to server",
                Failure::Passing("While fetching http://h/x: [7] Couldn't connect to server".into()),
            ),
            (
                "error: Commit ab: GPG: Can't\n  key one\n",
                Failure::Permanent("Commit ab: GPG: Can't; key one".into()),
            ),
        ];
        for (stderr, expected) in cases {
            assert_eq!(failure(&error(stderr)), expected);
        }
    }

    #[test]
    fn what_has_come_is_counted_once() {
        let scratch = tempfile::tempdir().expect("tempdir");
        let repository = Repository::create(scratch.path()).expect("made");
        let mut arrived = Arrived::default();
        assert_eq!(arrived.since(repository.path()), 0);
        let staged = scratch.path().join("tmp/staging-1/ab");
        std::fs::create_dir_all(&staged).expect("made");
        std::fs::write(staged.join("c.filez"), [0; 100]).expect("written");
        assert_eq!(arrived.since(repository.path()), 100);
        std::fs::create_dir(scratch.path().join("objects/ab")).expect("made");
        std::fs::rename(staged.join("c.filez"), scratch.path().join("objects/ab/c.filez")).expect("moved");
        assert_eq!(arrived.since(repository.path()), 0);
    }
}
