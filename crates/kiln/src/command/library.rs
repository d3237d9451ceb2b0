//! Where modules come from: the arguments that say it.

mod package;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use kiln_api::module;
use kiln_engine::index::{Index, Library, Preference};
use kiln_engine::manifest::Manifest;
use kiln_engine::{recipe, runner};
use kiln_modules::{LOOPS, MODULES};

use crate::error::{CliError, CliResult, Kind};

/// Where the system has modules that are not native.
const SYSTEM: &str = "/usr/lib/osbuild";

/// Where modules come from.
#[derive(Debug, Args)]
pub(crate) struct LibraryArguments {
    /// Directory with modules that go before the native ones
    ///
    /// In osbuild's layout: stages/, assemblers/, sources/, inputs/, devices/, mounts/ and runners/. Without it, what is
    /// not native is looked for in /usr/lib/osbuild.
    #[arg(short, long, value_name = "DIRECTORY", global = true)]
    libdir: Option<PathBuf>,
    /// Let native modules go before those of --libdir: all, or those of a kind (repeat)
    #[arg(long, global = true, value_name = "KIND", num_args = 0..=1, require_equals = true, default_missing_value = "all")]
    prefer_native: Vec<Preferred>,
}

/// The kinds of module that may be preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Preferred {
    All,
    Stages,
    Assemblers,
    Sources,
    Inputs,
    Devices,
    Mounts,
    Runners,
}

impl Preferred {
    const fn kind(self) -> Option<module::Kind> {
        Some(match self {
            Self::All => return None,
            Self::Stages => module::Kind::Stage,
            Self::Assemblers => module::Kind::Assembler,
            Self::Sources => module::Kind::Source,
            Self::Inputs => module::Kind::Input,
            Self::Devices => module::Kind::Device,
            Self::Mounts => module::Kind::Mount,
            Self::Runners => module::Kind::Runner,
        })
    }
}

impl LibraryArguments {
    /// The directory that is named.
    pub(crate) fn directory(&self) -> Option<&Path> {
        self.libdir.as_deref()
    }

    /// The same arguments for another run of this program, in whichever directory that is.
    pub(crate) fn words(&self) -> CliResult<Vec<OsString>> {
        let mut words = Vec::new();
        if let Some(directory) = &self.libdir {
            words.extend(["--libdir".into(), absolute(directory)?.into_os_string()]);
        }
        for preferred in self.prefer_native.iter().filter_map(ValueEnum::to_possible_value) {
            words.push(format!("--prefer-native={}", preferred.get_name()).into());
        }
        Ok(words)
    }

    /// The modules that there are.
    pub(crate) fn index(&self) -> CliResult<Index> {
        let Some(directory) = &self.libdir else {
            let library = Path::new(SYSTEM).is_dir().then(|| library(SYSTEM.into()));
            return Ok(Index::new(MODULES, library, Preference::Native).with_loops(LOOPS));
        };
        let named = directory.display();
        if !directory.is_dir() {
            return Err(CliError::new(Kind::Usage, format!("there is no library directory `{named}`"))
                .hint("`--libdir` names a directory with `stages`, `sources` and the like in it"));
        }
        let directory = absolute(directory)?;
        let kinds: Option<Vec<_>> = self.prefer_native.iter().map(|preferred| preferred.kind()).collect();
        let preference = kinds.map_or(Preference::Native, Preference::Library);
        Ok(Index::new(MODULES, Some(library(directory)), preference).with_loops(LOOPS))
    }
}

/// The library in a directory, with the package that its modules import.
fn library(directory: PathBuf) -> Library {
    let library = Library::new(directory);
    let package = library.lacks_package().then(package::find).flatten();
    library.with_package(package)
}

fn absolute(directory: &Path) -> CliResult<PathBuf> {
    let named = directory.display();
    std::path::absolute(directory)
        .map_err(|error| CliError::new(Kind::Environment, format!("cannot find `{named}`: {error}")))
}

/// The runner that would be chosen for the host; what the host asks for if none fits.
pub(crate) fn host_runner(index: &Index) -> String {
    let requested = runner::request_of(Path::new("/"));
    index.runner(&requested).map_or(requested, |chosen| chosen.name)
}

/// Gives every stage its recipe: only where something is planned or built does it matter what made the cache's objects.
pub(crate) fn assign_recipes(manifest: &mut Manifest, index: &Index) {
    let code = |kind, name: &str| index.code(kiln_modules::CODE, kind, name);
    recipe::assign(manifest, &code, &runner::request_of(Path::new("/")));
}
