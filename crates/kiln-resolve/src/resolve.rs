//! From a definition to its manifest: which packages, of which distribution, at which time.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::apt::{self, Apt, Record, Target};
use crate::definition::{Definition, Finding, RELEASES, Release, list};
use crate::near::near;
use crate::plan::{self, Export};

/// How many lines of the solver's reasons an error has.
const MOST_REASONS: usize = 3;

/// What a resolution needs from its caller.
pub struct Resolver<'a> {
    /// A directory, absolute, that keeps the package lists between resolutions; it is made if it is not there.
    pub state_directory: &'a Path,
    /// The environment of the solver; `apt-get` is looked for in its `PATH`.
    pub environment: &'a BTreeMap<OsString, OsString>,
    /// A directory that is read instead of `/etc/apt`.
    pub apt_directory: Option<&'a Path>,
    /// When the package lists are fetched anew.
    pub refresh: Refresh,
    /// Is told what is going on.
    pub progress: &'a dyn Fn(Progress<'_>),
    /// Set by the caller to stop the resolution soon.
    pub interrupted: &'a AtomicBool,
}

/// When package lists are fetched anew; missing ones and those of other sources always are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// Each time.
    Always,
    /// If they are older than this.
    OlderThan(Duration),
    /// Not as long as there are some.
    Never,
}

/// What is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// A line of the solver's output.
    Line(&'a str),
    /// Something that did not stop the resolution and that the user should know.
    Warning(&'a str),
}

/// A definition with everything it needs pinned.
#[derive(Clone, Debug)]
pub struct Resolution {
    /// The manifest, format 2.
    pub manifest: serde_json::Value,
    /// What to export, one for each output.
    pub exports: Vec<Export>,
    /// The resolution in numbers.
    pub summary: Summary,
}

/// A resolution in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The distribution, as in `distro`.
    pub distro: String,
    /// How many packages the image has.
    pub image_packages: usize,
    /// How many packages the build root has.
    pub build_packages: usize,
    /// The bytes of all distinct package files.
    pub download_size: u64,
    /// The time that files of the image get, in seconds since 1970.
    pub source_epoch: u64,
}

/// Why a definition could not be resolved.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// There is no solver.
    #[error("packages cannot be resolved: there is no `apt-get` in PATH")]
    AptMissing,
    /// No package source is configured.
    #[error("packages cannot be resolved: no package source is configured in {}", directory.display())]
    NoSources {
        /// The directory of the configuration.
        directory: PathBuf,
    },
    /// Sources are configured and none has a package list.
    #[error("packages cannot be resolved: no package list could be fetched from {}", directory.display())]
    NoLists {
        /// The directory of the configuration, or what stands for it.
        directory: PathBuf,
    },
    /// The definition asks for what the package lists do not have.
    #[error("{}", .0.message)]
    Definition(Box<Finding>),
    /// The package lists are of several distributions, or of none that is known.
    #[error("the definition names no distribution, and the package sources have {found}")]
    Distribution {
        /// What they have.
        found: String,
    },
    /// The packages that every image has cannot be installed.
    #[error("the packages of the {set} cannot be installed: {reason}")]
    Unsatisfiable {
        /// `image` or `build root`.
        set: &'static str,
        /// The solver's words.
        reason: String,
    },
    /// The solver chose a file that no list describes.
    #[error("the package lists do not describe {url}")]
    NoRecord {
        /// The file.
        url: String,
    },
    /// A package comes in a way that only apt knows.
    #[error("a manifest cannot fetch {url}")]
    Transport {
        /// The file.
        url: String,
    },
    /// What starts the image needs to know its kernel, and there is none.
    #[error("the packages of the image have no kernel: none is called `linux-image-VERSION`")]
    NoKernel,
    /// A package list has no SHA-256 or no size of a file.
    #[error("the package lists have no SHA-256 and size of the package `{package}`")]
    NoChecksum {
        /// The package.
        package: String,
    },
    /// Nothing says how new the package lists are.
    #[error("the package lists have no date to use as source epoch")]
    NoDate,
    /// A password could not be hashed.
    #[error("hashing the password of the user `{user}`")]
    Password {
        /// The user.
        user: String,
    },
    /// A path that cannot stand in the solver's configuration.
    #[error("a path must be absolute and without quotes, braces and semicolons: {}", path.display())]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// The solver failed for another reason.
    #[error("`apt-get` failed: {message}")]
    Apt {
        /// Its words, or its exit status.
        message: String,
    },
    /// A file could not be read or written, or a program not run.
    #[error("accessing {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl ResolveError {
    /// The place in the definition, if the error has one.
    pub fn finding(&self) -> Option<&Finding> {
        match self {
            Self::Definition(finding) => Some(finding),
            _ => None,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::AptMissing => "resolve on a Debian host, or build a manifest that was resolved on one",
            Self::NoSources { .. } => {
                "add a file to sources.list.d there, or name sources in `repositories` of the table `[kiln]`"
            }
            Self::NoLists { .. } => "see the warnings above; check the network and the sources' addresses",
            Self::Definition(finding) => return finding.hint.clone(),
            Self::Distribution { .. } => {
                "name one of Debian's releases, for example `distro = \"debian-12\"`"
            }
            Self::Unsatisfiable { .. } => "check that all suites of the release are configured as sources",
            Self::NoRecord { .. } | Self::NoChecksum { .. } => {
                "refresh the package lists, or use another source"
            }
            Self::NoKernel => "name a kernel of the distribution in `customizations.kernel`, or leave it out",
            Self::Transport { .. } => "use a package source with http, https or file",
            Self::NoDate => "set `source-epoch` in the table `[kiln]`",
            Self::Path { .. } => "use another directory",
            Self::Password { .. } | Self::Apt { .. } | Self::Io { .. } | Self::Interrupted => return None,
        };
        Some(hint.to_owned())
    }
}

/// Resolves a definition into its manifest.
///
/// The same package lists and the same definition give the same manifest, byte for byte.
pub fn resolve(definition: &Definition, resolver: &Resolver<'_>) -> Result<Resolution, ResolveError> {
    let apt = Apt::open(resolver, definition)?;
    if apt.sources()? == 0 {
        return Err(ResolveError::NoSources { directory: resolver.directory() });
    }
    apt.refresh()?;
    let targets: Vec<Target> = apt.targets()?.into_iter().filter(|target| target.file.exists()).collect();
    if targets.is_empty() {
        return Err(ResolveError::NoLists { directory: resolver.directory() });
    }
    let release = distribution(definition, &targets)?;
    check_names(definition, &targets)?;
    let recommends = definition.kiln.recommends;
    let image = match apt.solve(&plan::image_packages(definition), recommends)? {
        Ok(urls) => urls,
        Err(refusal) => return Err(blame(definition, &refusal.lines)),
    };
    let build = match apt.solve(&plan::build_packages(definition), false)? {
        Ok(urls) => urls,
        Err(refusal) => {
            let reason = reasons(&refusal.lines);
            return Err(ResolveError::Unsatisfiable { set: "build root", reason });
        }
    };
    let image = apt::lock(&targets, &image)?;
    let build = apt::lock(&targets, &build)?;
    let source_epoch = match definition.kiln.source_epoch {
        Some(epoch) => epoch,
        None => apt::epoch(image.iter().chain(&build))?.ok_or(ResolveError::NoDate)?,
    };
    let (manifest, exports) = plan::manifest(definition, release, &image, &build, source_epoch)?;
    let files: BTreeMap<&str, u64> =
        image.iter().chain(&build).map(|record| (record.sha256.as_str(), record.size)).collect();
    let summary = Summary {
        distro: format!("debian-{}", release.number),
        image_packages: image.len(),
        build_packages: build.len(),
        download_size: files.values().sum(),
        source_epoch,
    };
    Ok(Resolution { manifest, exports, summary })
}

impl Resolver<'_> {
    fn directory(&self) -> PathBuf {
        self.apt_directory.unwrap_or(Path::new("/etc/apt")).to_owned()
    }
}

/// The release to be built: the definition's, or the only one that the sources have.
fn distribution(definition: &Definition, targets: &[Target]) -> Result<&'static Release, ResolveError> {
    let codenames: BTreeSet<&str> =
        targets.iter().map(|target| target.codename.as_str()).filter(|name| !name.is_empty()).collect();
    let known: Vec<&Release> =
        RELEASES.iter().filter(|release| codenames.contains(release.codename)).collect();
    let Some(distro) = &definition.distro else {
        if let [release] = known[..] {
            return Ok(release);
        }
        let names: Vec<&str> = codenames.into_iter().collect();
        let found = if names.is_empty() { "no release with a name".to_owned() } else { list(&names) };
        return Err(ResolveError::Distribution { found });
    };
    if known.contains(&distro.value) {
        return Ok(distro.value);
    }
    let names: Vec<&str> = codenames.into_iter().collect();
    let message = format!(
        "no package source has the suite `{}` of debian-{}: there are {}",
        distro.value.codename,
        distro.value.number,
        list(&names)
    );
    let hint = match known.first() {
        Some(release) => format!("use `debian-{}`, or configure sources of the suite", release.number),
        None => "configure sources of the suite".to_owned(),
    };
    Err(ResolveError::Definition(Box::new(definition.finding(&distro.span, message, Some(hint)))))
}

/// Checks that every package that the definition names is in the lists.
fn check_names(definition: &Definition, targets: &[Target]) -> Result<(), ResolveError> {
    let names = apt::names(targets)?;
    let packages = definition.packages.iter().map(|package| (&package.value.name, &package.span));
    let kernel = definition.customizations.kernel.iter().map(|kernel| (&kernel.value, &kernel.span));
    for (name, span) in packages.chain(kernel) {
        if names.contains(name) {
            continue;
        }
        let near = near(name, names.iter().map(String::as_str));
        let hint = if near.is_empty() {
            "check the name, and that the package's section is among the sources".to_owned()
        } else {
            format!("did you mean {}?", list(&near))
        };
        let message = format!("the package lists have no package `{name}`");
        return Err(ResolveError::Definition(Box::new(definition.finding(span, message, Some(hint)))));
    }
    Ok(())
}

/// The error of packages that cannot be installed, at the definition's package that it is about.
fn blame(definition: &Definition, lines: &[String]) -> ResolveError {
    let outside = |c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c));
    let words = |line: &str| -> Vec<String> {
        line.split(outside).filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    // A reason begins with the package that has it; the others it mentions are a second choice.
    let first: Vec<String> = lines.iter().filter_map(|line| words(line).into_iter().next()).collect();
    let all: Vec<String> = lines.iter().flat_map(|line| words(line)).collect();
    let place = [first, all]
        .into_iter()
        .find_map(|names| definition.packages.iter().find(|package| names.contains(&package.value.name)));
    let reason = reasons(lines);
    let Some(package) = place else { return ResolveError::Unsatisfiable { set: "image", reason } };
    let message = format!("the packages cannot be installed: {reason}");
    let hint = "leave it out, ask for another version, or add the source that has what is missing";
    ResolveError::Definition(Box::new(definition.finding(&package.span, message, Some(hint.to_owned()))))
}

fn reasons(lines: &[String]) -> String {
    let mut reasons: Vec<&str> = lines.iter().take(MOST_REASONS).map(String::as_str).collect();
    if lines.len() > MOST_REASONS {
        reasons.push("...");
    }
    reasons.join("; ")
}

/// The bytes that packages take up when they are installed.
pub(crate) fn installed(records: &[Record]) -> u64 {
    records.iter().map(|record| record.installed).sum()
}
