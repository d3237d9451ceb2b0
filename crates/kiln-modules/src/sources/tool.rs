//! Programs of the host that fetch content for a source.
//!
//! A program is looked for on the search path of the request's environment and is given that environment and nothing
//! else: proxies, and where credentials are, are its own business. It is tried again when it failed for a reason that
//! may pass. Programs say more than is good in their messages: see [`without_secrets`].

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use kiln_api::source::{DownloadEvent, DownloadRequest, ItemResult};
use kiln_sys::command::Run;

/// How often something is tried at most; the pauses in between are some eight seconds together.
const TRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// How long an interruption may go unnoticed.
pub(super) const SLICE: Duration = Duration::from_millis(100);
/// Why there is no result after an interruption.
pub(super) const INTERRUPTED: &str = "interrupted";

/// Where programs are if the environment does not say.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program and the packages that bring it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tool {
    pub(super) program: &'static str,
    pub(super) debian: &'static str,
    pub(super) fedora: &'static str,
}

impl Tool {
    /// A child process to be described further.
    pub(super) fn run(&self, environment: &BTreeMap<String, String>) -> Result<Run, Failure> {
        let program = self.find(environment).ok_or_else(|| {
            Failure::Permanent(format!(
                "the program `{}` is not installed; it comes with the package `{}` of Debian and `{}` of Fedora",
                self.program, self.debian, self.fedora
            ))
        })?;
        let run = Run::new(program).env_clear();
        Ok(environment.iter().fold(run, |run, (name, value)| run.env(name, value)))
    }

    fn find(&self, environment: &BTreeMap<String, String>) -> Option<PathBuf> {
        let path = environment.get("PATH").map_or(SEARCH_PATH, String::as_str);
        std::env::split_paths(path).map(|directory| directory.join(self.program)).find(|file| {
            let may_run = |mode: u32| mode & 0o111 != 0;
            file.metadata().is_ok_and(|found| found.is_file() && may_run(found.permissions().mode()))
        })
    }
}

/// Why a try failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Every further try would end like this one.
    Permanent(String),
    /// Another try may succeed.
    Passing(String),
    /// The run was interrupted.
    Interrupted,
}

impl Failure {
    /// A failure of this machine or of a module, which does not pass.
    pub(super) fn permanent(error: &dyn std::fmt::Display) -> Self {
        Self::Permanent(error.to_string())
    }
}

/// Waits so long, unless the run is interrupted.
pub(super) fn pause(duration: Duration, interrupted: &AtomicBool) {
    let start = Instant::now();
    while !interrupted.load(Ordering::Relaxed) {
        let left = duration.saturating_sub(start.elapsed());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(SLICE));
    }
}

/// How tries follow each other; tests wait for nothing.
pub(super) struct Tries<'a> {
    pub(super) events: &'a (dyn Fn(DownloadEvent<'_>) + Sync),
    pub(super) interrupted: &'a AtomicBool,
    /// Waits between two tries.
    pub(super) pause: &'a (dyn Fn(Duration, &AtomicBool) + Sync),
}

impl Tries<'_> {
    /// Tries until it works, or until it makes no sense any more; the error is the last reason.
    pub(super) fn run<T>(
        &self,
        item: &str,
        mut attempt: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, String> {
        let interrupted = || self.interrupted.load(Ordering::Relaxed);
        let mut tries = 0;
        loop {
            let result = attempt();
            tries += 1;
            let reason = match result {
                Ok(result) => return Ok(result),
                Err(_) if interrupted() => return Err(INTERRUPTED.to_owned()),
                Err(Failure::Interrupted) => return Err(INTERRUPTED.to_owned()),
                Err(Failure::Permanent(reason)) if tries == 1 => return Err(reason),
                Err(Failure::Permanent(reason)) => return Err(format!("{reason} (after {tries} tries)")),
                Err(Failure::Passing(reason)) if tries == TRIES => {
                    return Err(format!("{reason} (after {tries} tries)"));
                }
                Err(Failure::Passing(reason)) => reason,
            };
            (self.events)(DownloadEvent::Retry { item, reason: &reason });
            (self.pause)(length(tries), self.interrupted);
        }
    }
}

/// How long to wait after so many tries (from 1): it grows, and is shortened by up to a half at random, so that many
/// clients of one server do not come back at the same time.
fn length(tries: u32) -> Duration {
    let full = FIRST_PAUSE.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(LONGEST_PAUSE);
    let random = RandomState::new().hash_one(tries) % 1000;
    full.mul_f64(1.0 - 0.5 * (random as f64 / 1000.0))
}

/// A program's words without what may be a secret: the user and password of URLs of the web and of proxies, and their
/// queries, where storage services have signatures.
pub(super) fn without_secrets(text: &str) -> String {
    const SCHEMES: [&str; 6] = ["http://", "https://", "socks4://", "socks5://", "socks5h://", "ftp://"];
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    loop {
        let next = SCHEMES.iter().filter_map(|scheme| Some((rest.find(scheme)?, scheme.len()))).min();
        let Some((before, url)) = next.and_then(|(at, length)| rest.split_at_checked(at + length)) else {
            clean.push_str(rest);
            return clean;
        };
        clean.push_str(before);
        // A password may have any of these in it, too; then the URL ends later than it seems to, at its host.
        let authority = url.find(['/', '"', ' ', '\n']).unwrap_or(url.len());
        let end = url.find([' ', '"', '\'', '\n', '\t', '>', ')', ',', '`']).unwrap_or(url.len());
        let host = url.get(..authority).and_then(|authority| authority.rfind('@')).map_or(0, |at| at + 1);
        let end = end.max(host);
        let (url, after) = url.split_at_checked(end).unwrap_or((url, ""));
        let url = url.get(host..).unwrap_or_default();
        match url.split_once('?') {
            Some((url, _)) => {
                clean.push_str(url);
                clean.push_str("?…");
            }
            None => clean.push_str(url),
        }
        rest = after;
    }
}

/// Does something with all items of a request, so many at the same time; `true` says that there was nothing to do. What
/// becomes of each is reported at once, the results are in the order of the items.
pub(super) fn side_by_side<T: Send>(
    request: &DownloadRequest<'_>,
    events: &(dyn Fn(DownloadEvent<'_>) + Sync),
    items: Vec<T>,
    workers: usize,
    what: impl Fn(T) -> Result<bool, String> + Sync,
) -> Vec<ItemResult> {
    let workers = request.parallel.unwrap_or(workers).clamp(1, items.len().max(1));
    let waiting = Mutex::new(request.items.keys().zip(items).enumerate());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    let do_one = |key: &String, item| {
        let result = what(item);
        events(match &result {
            Ok(cached) => DownloadEvent::Finished { item: key, cached: *cached },
            Err(reason) => DownloadEvent::Failed { item: key, reason },
        });
        let cached = result == Ok(true);
        ItemResult { checksum: key.clone(), cached, error: result.err() }
    };
    let work = || {
        let mut results = Vec::new();
        while let Some((index, (key, item))) = next() {
            results.push((index, do_one(key, item)));
        }
        results
    };
    let mut results: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        // A panic goes on where it would have gone without threads.
        let join = |worker: std::thread::ScopedJoinHandle<'_, _>| {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        workers.into_iter().flat_map(join).collect()
    });
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    fn tries(results: &[Result<u32, Failure>], interrupted: bool) -> (Result<u32, String>, Vec<String>) {
        let log = Mutex::new(Vec::new());
        let note = |line: String| log.lock().expect("not poisoned").push(line);
        let interrupted = AtomicBool::new(interrupted);
        let events = |event: DownloadEvent<'_>| {
            let DownloadEvent::Retry { item, reason } = event else { panic!("{event:?}") };
            note(format!("{item}: {reason}"));
        };
        let pause = |duration: Duration, _: &AtomicBool| {
            assert!((125..=8000).contains(&duration.as_millis()), "{duration:?}");
            note("pause".to_owned());
        };
        let mut results = results.iter().cycle().cloned();
        let tries = Tries { events: &events, interrupted: &interrupted, pause: &pause };
        let result = tries.run("a", || results.next().expect("endless"));
        (result, log.into_inner().expect("not poisoned"))
    }

    #[test]
    fn what_may_pass_is_tried_again() {
        let passing = || Err(Failure::Passing("later".to_owned()));
        let permanent = || Err(Failure::Permanent("never".to_owned()));
        assert_eq!(tries(&[Ok(1)], false), (Ok(1), Vec::new()));
        let retry = || ["a: later".to_owned(), "pause".to_owned()];
        assert_eq!(tries(&[passing(), Ok(2)], false), (Ok(2), retry().to_vec()));
        assert_eq!(tries(&[permanent()], false), (Err("never".to_owned()), Vec::new()));
        let (result, log) = tries(&[passing(), permanent()], false);
        assert_eq!((result, log.len()), (Err("never (after 2 tries)".to_owned()), 2));
        let (result, log) = tries(&[passing()], false);
        assert_eq!((result, log.len()), (Err("later (after 6 tries)".to_owned()), 10));
        assert_eq!(tries(&[passing()], true), (Err("interrupted".to_owned()), Vec::new()));
        assert_eq!(tries(&[Err(Failure::Interrupted)], false), (Err("interrupted".to_owned()), Vec::new()));
    }

    #[test]
    fn pauses_grow_and_end_with_an_interruption() {
        for (tries, full) in [(1, 250), (2, 500), (6, 8000), (u32::MAX, 8000)] {
            let pause = length(tries).as_millis();
            assert!((full / 2..=full).contains(&pause), "{tries}: {pause}");
        }
        let start = Instant::now();
        pause(Duration::from_secs(100), &AtomicBool::new(true));
        pause(Duration::from_millis(1), &AtomicBool::new(false));
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn items_are_done_side_by_side_and_results_are_in_order() {
        let keys = ["a", "b", "c", "d"];
        let items: Map<_, _> = keys.into_iter().map(|key| (key.to_owned(), json!({}))).collect();
        for parallel in [None, Some(0), Some(1), Some(9)] {
            let request = DownloadRequest {
                items: &items,
                options: &json!({}),
                cache: std::path::Path::new("/nowhere"),
                environment: &BTreeMap::new(),
                parallel,
                interrupted: &AtomicBool::new(false),
                room: &|_| Ok(()),
            };
            let log = Mutex::new(Vec::new());
            let events =
                |event: DownloadEvent<'_>| log.lock().expect("not poisoned").push(format!("{event:?}"));
            let what = |number: usize| if number == 2 { Err("no".to_owned()) } else { Ok(number == 1) };
            let found = side_by_side(&request, &events, (0..keys.len()).collect(), 2, what);
            let found: Vec<_> = found
                .iter()
                .map(|result| (result.checksum.as_str(), result.cached, result.error.as_deref()))
                .collect();
            assert_eq!(
                found,
                [("a", false, None), ("b", true, None), ("c", false, Some("no")), ("d", false, None)]
            );
            assert_eq!(log.into_inner().expect("not poisoned").len(), keys.len());
        }
    }

    #[test]
    fn a_program_has_the_environment_of_the_request_and_nothing_else() {
        let sh = Tool { program: "sh", debian: "dash", fedora: "bash" };
        let environment: BTreeMap<_, _> = [("PATH", "/nowhere:/usr/bin:/bin"), ("A", "1")]
            .map(|(name, value)| (name.into(), value.into()))
            .into();
        let run = sh.run(&environment).expect("it is there").args(["-c", "echo $A; env | grep -c CARGO"]);
        let error = run.output().expect_err("grep finds nothing");
        assert_eq!(error.status, "exit status 1");
        let run = sh.run(&environment).expect("it is there").args(["-c", "echo $A"]);
        assert_eq!(run.output().expect("runs"), b"1\n");
        let none = [("PATH".to_owned(), "/nowhere:/proc".to_owned())].into();
        let tool = Tool { program: "version", debian: "one", fedora: "two" };
        let Failure::Permanent(reason) = tool.run(&none).expect_err("it is not there") else { panic!() };
        assert_eq!(
            reason,
            "the program `version` is not installed; it comes with the package `one` of Debian and `two` of Fedora"
        );
    }

    #[test]
    fn secrets_of_urls_are_left_out() {
        let cases = [
            ("no URL at all", "no URL at all"),
            (r#"Get "https://h:1/v2/": EOF"#, r#"Get "https://h:1/v2/": EOF"#),
            (r#"Get "https://u:p@h/x?sig=s3cret&a=b": EOF"#, r#"Get "https://h/x?…": EOF"#),
            (
                "docker://busybox@sha256:00 and http://u:p%40@proxy",
                "docker://busybox@sha256:00 and http://proxy",
            ),
            ("via socks5h://u:a@b@h:1080, then http://h2", "via socks5h://h:1080, then http://h2"),
            ("https://h/a@b", "https://h/a@b"),
            ("https://u:p@", "https://"),
            ("http://a,b'c@h/ x", "http://h/ x"),
            ("https://", "https://"),
        ];
        for (text, expected) in cases {
            assert_eq!(without_secrets(text), expected, "{text}");
        }
    }
}
