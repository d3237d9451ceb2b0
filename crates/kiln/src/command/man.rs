//! `kiln man`: the manual pages, made of the same descriptions as the help.

mod page;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Command, ValueEnum};
use kiln_engine::manifest::{did_you_mean, list};

use super::resolve::write;
use crate::error::{CliError, CliResult, Kind};
use crate::present::print;

/// The arguments of `kiln man`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kiln man | man -l -\n  kiln man --page kiln-build | man -l -\n  kiln man /usr/local/share/man/man1"
)]
pub(crate) struct Arguments {
    /// Directory for all pages; one page is printed if left out
    directory: Option<PathBuf>,
    /// Page to print
    #[arg(long, value_name = "NAME", default_value = "kiln", conflicts_with = "directory")]
    page: String,
}

/// The programs that have pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Program {
    /// Kiln's own command line
    Kiln,
    /// The command line of osbuild
    Osbuild,
}

impl Program {
    /// All that the command line takes.
    pub(crate) fn command(self) -> Command {
        match self {
            Self::Kiln => super::command(),
            Self::Osbuild => super::osbuild::command(),
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> CliResult<ExitCode> {
    let pages = page::all();
    if let Some(directory) = &arguments.directory {
        fs::create_dir_all(directory).map_err(|error| {
            CliError::new(Kind::Environment, format!("cannot make `{}`: {error}", directory.display()))
        })?;
        for page in &pages {
            write(&directory.join(format!("{}.1", page.name)), &page.text)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let Some(page) = pages.iter().find(|page| page.name == arguments.page) else {
        let names = || pages.iter().map(|page| page.name.as_str());
        return Err(CliError::new(Kind::Usage, format!("there is no page `{}`", arguments.page)).hint(
            did_you_mean(&arguments.page, names()).unwrap_or_else(|| format!("pages are {}", list(names()))),
        ));
    };
    print(&page.text);
    Ok(ExitCode::SUCCESS)
}
