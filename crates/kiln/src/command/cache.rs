//! `kiln cache`: what a cache holds and takes, pruning it, verifying it, and copying downloads to another one.
//!
//! In JSON, sizes are bytes and times are seconds since 1970-01-01 00:00 UTC, all as whole numbers. What is not known is `null`.

mod du;
mod export_sources;
mod info;
mod ls;
mod prune;
mod verify;
mod watch;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use kiln_store::cache::{Cache, CacheError, CacheOptions, EntryKind};
use serde_json::Value;

use super::session::CacheArguments;
use crate::error::{CliError, CliResult, Kind, chain};
use crate::present::print;

/// The arguments of `kiln cache`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kiln cache info\n  kiln cache ls --sort size\n  kiln cache prune --to 10GiB --dry-run\n  kiln cache verify --repair\n  kiln cache export-sources manifest.json /media/disk/cache\n\nJSON has sizes in bytes and times in seconds since 1970, and `null` for what is not known."
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show where the cache is, its limit, and how full it is
    Info(info::Arguments),
    /// List objects and downloads: the first is the first to be evicted
    Ls(ls::Arguments),
    /// Measure what objects and downloads take on disk, and what they share
    Du(du::Arguments),
    /// Remove what was not used for longest, but nothing that is in use
    Prune(prune::Arguments),
    /// Check everything that can be checked; exit with 1 if something is wrong and was not repaired
    Verify(verify::Arguments),
    /// Copy what a manifest's sources have fetched to another cache
    ExportSources(export_sources::Arguments),
}

/// What all of them take.
#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    cache: CacheArguments,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> CliResult<ExitCode> {
    match &arguments.command {
        Command::Info(arguments) => info::run(arguments),
        Command::Ls(arguments) => ls::run(arguments),
        Command::Du(arguments) => du::run(arguments),
        Command::Prune(arguments) => prune::run(arguments),
        Command::Verify(arguments) => verify::run(arguments),
        Command::ExportSources(arguments) => export_sources::run(arguments),
    }
}

impl Common {
    fn open(&self, reclaim: bool) -> CliResult<Arc<Cache>> {
        open(&self.cache, reclaim)
    }

    fn directory(&self) -> CliResult<&Path> {
        directory(&self.cache)
    }
}

/// Opens the cache, which must be there: looking must not make one.
fn open(cache: &CacheArguments, reclaim: bool) -> CliResult<Arc<Cache>> {
    Cache::open(directory(cache)?, CacheOptions { reclaim, ..CacheOptions::default() })
        .map_err(|error| cache_error(&error))
}

fn directory(cache: &CacheArguments) -> CliResult<&Path> {
    let directory = &cache.cache;
    if Cache::is_at(directory) {
        return Ok(directory);
    }
    Err(CliError::new(Kind::Usage, format!("there is no cache in `{}`", directory.display()))
        .hint("name the directory of one with `--cache`; `kiln build` makes it"))
}

/// The error for a cache that cannot be looked at.
fn cache_error(error: &CacheError) -> CliError {
    match error {
        CacheError::Interrupted => CliError::new(Kind::Interrupted, "interrupted"),
        CacheError::Syntax { .. } => CliError::new(Kind::Environment, chain(error))
            .hint("`kiln cache verify --repair` replaces what cannot be understood"),
        _ => CliError::new(Kind::Environment, chain(error)),
    }
}

fn print_json(value: &Value) {
    print(format_args!("{}\n", serde_json::to_string_pretty(value).unwrap_or_default()));
}

/// A time for programs.
fn stamp(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

const fn word(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::Object => "object",
        EntryKind::Download => "download",
    }
}

/// A name as far as people need it: digests are cut, and any beginning names the entry.
fn short(name: &str) -> String {
    const DIGITS: usize = 12;
    let (front, digest) = name
        .rsplit_once([':', '/'])
        .map_or(("", name), |(front, digest)| (name.get(..=front.len()).unwrap_or_default(), digest));
    let is_digest = digest.len() >= 32 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_digest { format!("{front}{}", digest.get(..DIGITS).unwrap_or(digest)) } else { name.to_owned() }
}

/// Whether an entry is meant by one of the names: its name, or the beginning of it or of its last part. All are without any.
fn is_meant(entry: &str, names: &[String]) -> bool {
    let last = entry.rsplit('/').next().unwrap_or(entry);
    names.is_empty()
        || names.iter().any(|name| !name.is_empty() && (entry.starts_with(name) || last.starts_with(name)))
}

/// The error for a name that means nothing.
fn unknown(names: &[String], entries: &[&str]) -> CliResult {
    let is_unknown =
        |name: &&String| !entries.iter().any(|entry| is_meant(entry, std::slice::from_ref(*name)));
    match names.iter().find(is_unknown) {
        Some(name) => Err(CliError::new(Kind::Build, format!("the cache has no entry `{name}`"))
            .hint("`kiln cache ls` shows what there is; the beginning of a name is enough")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_and_found_again() {
        let digest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        let cases = [
            (digest.to_owned(), "0123456789ab"),
            (format!("org.osbuild.files/sha256:{digest}"), "org.osbuild.files/sha256:0123456789ab"),
            ("org.osbuild.ostree/repo".to_owned(), "org.osbuild.ostree/repo"),
            ("a-name".to_owned(), "a-name"),
        ];
        for (name, expected) in cases {
            assert_eq!(short(&name), expected);
            assert!(is_meant(&name, &[]) && is_meant(&name, &["x".to_owned(), short(&name)]));
            assert!(!is_meant(&name, &["x".to_owned()]) && !is_meant(&name, &[String::new()]));
        }
        assert!(is_meant("org.osbuild.files/sha256:0123", &["sha256:01".to_owned()]));
    }
}
