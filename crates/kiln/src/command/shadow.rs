//! `kiln shadow`: builds a manifest with Kiln and with the reference, each with a cache of its own, and says what differs.
//!
//! Both are run as `osbuild` and keep every stage's result, so that the first stage whose result differs can be named.
//! What is never twice the same is not compared: times, what stages write, and the members that Kiln adds to results.

mod compare;
mod records;
mod side;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use clap::Args;
use serde_json::json;

use self::compare::Compared;
use self::side::Side;
use super::library::LibraryArguments;
use super::session;
use crate::error::{CliError, CliResult, Kind, chain};
use crate::present::{print, say};
use crate::{settings, signals};

/// The arguments of `kiln shadow`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kiln shadow --reference ../osbuild manifest.json --export image\n  kiln shadow --reference ../osbuild manifest.json --export tree --libdir ../osbuild --json"
)]
pub(crate) struct Arguments {
    /// The manifest
    manifest: PathBuf,
    /// A checkout of osbuild
    ///
    /// Its modules are used by the reference, and by Kiln its own. With --libdir both use the modules of that directory.
    #[arg(long, value_name = "DIRECTORY")]
    reference: PathBuf,
    /// Pipeline to build and to compare, by name or id (repeat)
    #[arg(long, value_name = "NAME", required = true)]
    export: Vec<String>,
    #[command(flatten)]
    library: LibraryArguments,
    /// Compare all stages; otherwise those after the first that differs are not compared, being made from that
    #[arg(long)]
    every_stage: bool,
    /// Directory for both caches and outputs, which stays; by default a temporary one, which does not
    #[arg(long, value_name = "DIRECTORY")]
    keep: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> CliResult<ExitCode> {
    session::require_root("`kiln shadow`")?;
    let interrupted =
        signals::interrupted().map_err(|error| CliError::from_error(Kind::Environment, &error))?;
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: std::io::Error| CliError::new(Kind::Environment, format!("cannot {what}: {error}"))
    };
    let reference = std::path::absolute(&arguments.reference).map_err(failed("find the reference"))?;
    if !reference.join("osbuild").is_dir() {
        let named = arguments.reference.display();
        return Err(CliError::new(Kind::Usage, format!("`{named}` is no checkout of osbuild"))
            .hint("`--reference` names a directory with `osbuild`, `stages` and the like in it"));
    }
    let library = arguments.library.directory().unwrap_or(&reference);
    let library = std::path::absolute(library).map_err(failed("find the library"))?;
    let manifest = std::path::absolute(&arguments.manifest).map_err(failed("find the manifest"))?;
    if !manifest.is_file() {
        return Err(CliError::new(Kind::Usage, format!("cannot read `{}`", arguments.manifest.display())));
    }
    let work = match &arguments.keep {
        Some(directory) => {
            std::fs::create_dir_all(directory).map_err(failed("make the directory to keep"))?;
            Work {
                path: std::path::absolute(directory).map_err(failed("find the directory to keep"))?,
                kept: true,
            }
        }
        // Results are large: not in memory, where temporary directories may be.
        None => {
            let made = tempfile::Builder::new().prefix("kiln-shadow-").tempdir_in("/var/tmp");
            Work { path: made.map_err(failed("make a directory in /var/tmp"))?.keep(), kept: false }
        }
    };
    let program = settings::program().map_err(failed("find this program"))?;
    let kiln = Side::kiln(&program, arguments.library.words()?, &work.path);
    let there = Side::reference(&reference, &library, &work.path);
    let mut sides = Vec::new();
    for side in [&kiln, &there] {
        say(format_args!("building with {} …", side.name));
        let ended = side.run(&manifest, &arguments.export, &interrupted)?;
        say(format_args!("{}: exit code {} in {:.1} s", side.name, ended.code, ended.duration.as_secs_f64()));
        if interrupted.load(std::sync::atomic::Ordering::Relaxed) {
            return Ok(Kind::Interrupted.code());
        }
        sides.push(ended);
    }
    let [ours, theirs] = sides.as_slice() else { return Ok(Kind::Build.code()) };
    let compared = Compared::new(
        (&kiln, ours),
        (&there, theirs),
        &arguments.export,
        arguments.every_stage,
        &interrupted,
    )?;
    if arguments.json {
        let differences: Vec<_> = compared.differences.iter().map(compare::Found::to_json).collect();
        print(format_args!(
            "{}\n",
            json!({"equal": differences.is_empty(), "compared": compared.counts(), "differences": differences})
        ));
    } else {
        print(&compared);
    }
    Ok(if compared.differences.is_empty() { ExitCode::SUCCESS } else { Kind::Build.code() })
}

/// Where both programs work.
struct Work {
    path: PathBuf,
    kept: bool,
}

impl Drop for Work {
    fn drop(&mut self) {
        // Trees may have immutable directories, which the usual removal of temporary directories leaves.
        if !self.kept
            && let Err(error) = kiln_store::tree::remove(&self.path, &AtomicBool::new(false))
        {
            say(format_args!("cannot remove {}: {}", self.path.display(), chain(&error)));
        }
    }
}
