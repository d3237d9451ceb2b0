//! `org.osbuild.ostree`: pulls commits from OSTree repositories, by the host's `ostree`.
//!
//! ```text
//! sources/org.osbuild.ostree/repo/                  the cache's repository, shared with the reference
//! sources/org.osbuild.ostree/.unverified-kiln-…/    of one running download, only its owner may look into it
//!     repo/config                                   the remote, and the cache's repository as `parent`
//!     repo/kiln.trustedkeys.gpg                     the remote's keys
//!     repo/objects/, repo/tmp/                      what the cache lacks
//! ```
//!
//! `ostree` knows remotes only by the configuration of a repository. The shared one is no place for a remote: another
//! program may read and write it at the same time, a program that is killed leaves its remote there, and everybody can read
//! the passwords in it. So each remote gets a repository of its own. It has the cache's as its parent, hence
//! `ostree` fetches only what the cache lacks; then all objects are renamed into the cache, the commits last
//! ([`crate::ostree`]). Whenever a program is killed, the cache has whole commits and maybe objects that the
//! next pull need not fetch, and the lock on the directory of the download is gone, so that the next one removes it.
//! Importing by `ostree pull-local` was measured to take 1.5 s for 20,000 objects, and
//! a program that dies in it leaves a commit that `ostree show`, by which the reference looks, takes for whole.
//!
//! Commits of one remote are pulled one after the other (they share objects, and each pull has several connections),
//! those of several remotes at the same time.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indexmap::IndexMap;
use kiln_api::module::ModuleSchema;
use kiln_api::source::{CopyRequest, DownloadEvent, DownloadRequest, ItemResult, Source};
use serde::Deserialize as _;
use serde_json::Map;

use self::pull::Pull;
use self::remote::{Item, Remote};
use super::secrets::Secrets;
use super::tool;
use crate::ostree::{Digest, Repository};

mod pull;
mod remote;
#[cfg(test)]
mod tests;

const CONTENT_TYPE: &str = "org.osbuild.ostree";

/// From how many remotes commits are pulled at the same time.
const PARALLEL: usize = 4;

pub(crate) struct Ostree;

impl Source for Ostree {
    fn name(&self) -> &'static str {
        "org.osbuild.ostree"
    }

    fn schema(&self) -> ModuleSchema {
        ModuleSchema::of::<remote::Description>()
    }

    fn content_type(&self) -> &'static str {
        CONTENT_TYPE
    }

    fn cached(&self, cache: &Path, checksum: &str) -> bool {
        let repository = Repository::at(cache.join(self.place(checksum)));
        Digest::parse(checksum).is_some_and(|commit| repository.has(&commit))
    }

    fn place(&self, _checksum: &str) -> PathBuf {
        Path::new(CONTENT_TYPE).join("repo")
    }

    fn download(
        &self,
        request: &DownloadRequest<'_>,
        events: &(dyn Fn(DownloadEvent<'_>) + Sync),
    ) -> Vec<ItemResult> {
        let secrets = Secrets::new(request.environment, "OSTREE");
        download(request, events, &secrets, &tool::pause)
    }

    /// Copies commits like those of a remote that is another cache; what is copied is verified.
    fn copy(
        &self,
        request: &CopyRequest<'_>,
        events: &(dyn Fn(DownloadEvent<'_>) + Sync),
    ) -> Vec<ItemResult> {
        let from = std::path::absolute(request.from).unwrap_or_else(|_| request.from.to_owned());
        let remote = Remote::local(&from.join(CONTENT_TYPE).join("repo"));
        let (present, missing): (Vec<_>, Vec<_>) = request
            .items
            .keys()
            .partition(|key| self.cached(request.from, key) || self.cached(request.to, key));
        let items: Map<_, _> = present
            .into_iter()
            .map(|key| (key.clone(), serde_json::json!({"remote": {"url": remote.url}})))
            .collect();
        for key in &missing {
            events(DownloadEvent::Failed { item: key, reason: NOT_CACHED });
        }
        let request_of_all = DownloadRequest {
            items: &items,
            options: request.options,
            cache: request.to,
            environment: request.environment,
            parallel: None,
            interrupted: request.interrupted,
            room: &|_| Ok(()),
        };
        let mut copied: IndexMap<_, _> = self
            .download(&request_of_all, events)
            .into_iter()
            .map(|result| (result.checksum.clone(), result))
            .collect();
        let not_cached = |key: &String| ItemResult {
            checksum: key.clone(),
            cached: false,
            error: Some(NOT_CACHED.to_owned()),
        };
        request.items.keys().map(|key| copied.swap_remove(key).unwrap_or_else(|| not_cached(key))).collect()
    }
}

const NOT_CACHED: &str = "the commit is not in the cache";

type Paused<'a> = &'a (dyn Fn(Duration, &AtomicBool) + Sync);

/// What is to be pulled: the index among all items, and the commit.
type Wanted = (usize, Digest);

fn download(
    request: &DownloadRequest<'_>,
    events: &(dyn Fn(DownloadEvent<'_>) + Sync),
    secrets: &Secrets<'_>,
    pause: Paused<'_>,
) -> Vec<ItemResult> {
    let mut results: Vec<Option<Result<bool, String>>> = vec![None; request.items.len()];
    let mut remotes: IndexMap<Remote, Vec<Wanted>> = IndexMap::new();
    for (index, (key, description)) in request.items.iter().enumerate() {
        let result = match (Digest::parse(key), Item::deserialize(description)) {
            _ if Ostree.cached(request.cache, key) => Ok(true),
            (Some(commit), Ok(item)) => {
                remotes.entry(item.remote).or_default().push((index, commit));
                continue;
            }
            (None, _) => Err(format!("`{key}` is no commit: expected 64 hexadecimal digits")),
            (_, Err(error)) => Err(format!("`{key}` has no remote to pull it from: {error}")),
        };
        report(key, &result, events);
        if let Some(place) = results.get_mut(index) {
            *place = Some(result);
        }
    }
    let pull = Pull { request, events, secrets, pause };
    let workers = request.parallel.unwrap_or(PARALLEL).clamp(1, remotes.len().max(1));
    let waiting = Mutex::new(remotes.into_iter());
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((remote, commits)) = next else { break };
                    let mut repository = None;
                    for (index, commit) in commits {
                        let result = if request.interrupted.load(Ordering::Relaxed) {
                            Err("interrupted".to_owned())
                        } else {
                            pull.commit(&remote, &commit, &mut repository).map(|()| false)
                        };
                        report(commit.as_str(), &result, events);
                        done.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
                    }
                }
            });
        }
    });
    for (index, result) in done.into_inner().unwrap_or_else(PoisonError::into_inner) {
        if let Some(place) = results.get_mut(index) {
            *place = Some(result);
        }
    }
    let result = |(checksum, result): (&String, Option<Result<bool, String>>)| {
        let (cached, error) = match result {
            Some(Ok(cached)) => (cached, None),
            Some(Err(error)) => (false, Some(error)),
            None => (false, Some("interrupted".to_owned())),
        };
        ItemResult { checksum: checksum.clone(), cached, error }
    };
    request.items.keys().zip(results).map(result).collect()
}

fn report(key: &str, result: &Result<bool, String>, events: &(dyn Fn(DownloadEvent<'_>) + Sync)) {
    events(match result {
        Ok(cached) => DownloadEvent::Finished { item: key, cached: *cached },
        Err(reason) => DownloadEvent::Failed { item: key, reason },
    });
}
