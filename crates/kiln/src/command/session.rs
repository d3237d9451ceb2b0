//! What building commands share: the cache, privileges, the private mount namespace.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use kiln_store::cache::{CacheOptions, Durability};
use kiln_store::object::{ObjectStore, StoreOptions};

use crate::error::{CliError, CliResult, Kind, chain};
use crate::settings;

/// The cache of a command.
#[derive(Clone, Debug, Args)]
pub(crate) struct CacheArguments {
    /// Directory with objects and downloads; may be shared with osbuild and with other runs
    #[arg(long, visible_alias = "store", value_name = "DIRECTORY", default_value = ".osbuild")]
    pub(crate) cache: PathBuf,
}

/// When results reach the disk: what the command line or the environment says.
pub(crate) fn durability(asked: Option<Durability>) -> CliResult<Durability> {
    let Some(text) = settings::cache_sync() else { return Ok(asked.unwrap_or_default()) };
    let set = parse_durability(&text).map_err(|reason| {
        CliError::new(
            Kind::Usage,
            format!("invalid value `{text}` of the variable `{}`", settings::CACHE_SYNC),
        )
        .hint(reason)
    });
    asked.map_or(set, Ok)
}

/// Parses when results reach the disk.
pub(crate) fn parse_durability(text: &str) -> Result<Durability, String> {
    match text {
        "deferred" => Ok(Durability::Deferred),
        "before" => Ok(Durability::Before),
        "off" => Ok(Durability::Off),
        _ => Err("expected `deferred`, `before` or `off`".to_owned()),
    }
}

/// Building needs root: mounts, owners, device nodes.
pub(crate) fn require_root(what: &str) -> CliResult {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(CliError::new(Kind::Environment, format!("{what} needs root"))
        .place("building mounts file systems and makes files of other owners")
        .hint("run the same command with `sudo`"))
}

/// Leaves the host's mount namespace and returns the path of the program in the new one. To be called before any
/// thread is started.
///
/// The path is asked for before: the running program stays a file of the old namespace, and inside a `chroot` the
/// kernel would then name it by a path that does not lead to it.
pub(crate) fn enter_private_namespace() -> CliResult<PathBuf> {
    let program = settings::program().map_err(|error| CliError::from_error(Kind::Environment, &error))?;
    kiln_sandbox::enter_private_namespace().map_err(|error| {
        CliError::new(Kind::Environment, chain(&error))
            .hint("inside a container, building needs the capability SYS_ADMIN")
    })?;
    Ok(program)
}

/// Opens the object store in a cache directory.
pub(crate) fn open_store(
    cache: &Path,
    durability: Durability,
    interrupt: &Arc<AtomicBool>,
) -> CliResult<ObjectStore> {
    let options = StoreOptions {
        cache: CacheOptions { durability, ..CacheOptions::default() },
        interrupt: Arc::clone(interrupt),
    };
    ObjectStore::open(cache, options).map_err(|error| {
        CliError::new(Kind::Environment, chain(&error))
            .place(format!("cache: {}", cache.display()))
            .hint("choose another directory with `--cache`")
    })
}
