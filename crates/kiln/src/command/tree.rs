//! `kiln tree`: trees compared, digested, measured, copied and removed as builds do it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use kiln_store::tree::{self, CopyOptions};

use crate::error::{CliError, CliResult, Kind, chain};
use crate::present::print;
use crate::signals;

/// The arguments of `kiln tree`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kiln tree diff output/tree other/tree\n  kiln tree digest output/tree\n  kiln tree copy output/tree /srv/tree"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Copy a tree with everything that root may set, sharing blocks where the file system can
    Copy {
        /// The tree
        from: PathBuf,
        /// Where to; must not exist
        to: PathBuf,
    },
    /// Compare two trees in every path, content and attribute; exit with 1 if they differ
    Diff {
        /// The first tree
        left: PathBuf,
        /// The second tree
        right: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the digest of a tree: equal trees have equal digests
    Digest {
        /// The tree
        tree: PathBuf,
    },
    /// Print how much space a tree takes, in bytes
    Measure {
        /// The tree
        tree: PathBuf,
    },
    /// Remove a tree, whatever flags and permissions are in the way; what is mounted in it stays
    Remove {
        /// The tree
        tree: PathBuf,
    },
}

pub(crate) fn run(arguments: &Arguments) -> CliResult<ExitCode> {
    let interrupted =
        signals::interrupted().map_err(|error| CliError::from_error(Kind::Environment, &error))?;
    let failed = |error: tree::TreeError| CliError::new(Kind::Environment, chain(&error));
    match &arguments.command {
        Command::Copy { from, to } => {
            tree::clone_root(from, to, CopyOptions::default(), &interrupted).map_err(failed)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Diff { left, right, json } => {
            let differences = tree::compare(left, right, &interrupted).map_err(failed)?;
            if *json {
                print(format_args!("{}\n", serde_json::to_string(&differences).unwrap_or_default()));
            } else {
                for difference in &differences {
                    print(format_args!("{difference}\n"));
                }
            }
            Ok(if differences.is_empty() { ExitCode::SUCCESS } else { Kind::Build.code() })
        }
        Command::Digest { tree } => {
            print(format_args!("{}\n", tree::digest(tree, &interrupted).map_err(failed)?));
            Ok(ExitCode::SUCCESS)
        }
        Command::Measure { tree } => {
            print(format_args!("{}\n", tree::measure(tree, &interrupted).map_err(failed)?));
            Ok(ExitCode::SUCCESS)
        }
        Command::Remove { tree } => {
            tree::remove(tree, &interrupted).map_err(failed)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
