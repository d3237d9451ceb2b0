//! What commands are given: a manifest, or a definition that is resolved first.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use kiln_engine::index::Index;
use kiln_engine::manifest::{LoadError, Manifest, check, load, load_valid};
use kiln_resolve::{Definition, Format, Progress, Refresh, Resolution, ResolveError, Resolver, resolve};

use super::library::assign_recipes;
use crate::error::{CliError, CliResult, Kind, chain, manifest_error};
use crate::settings;

/// Package lists older than this are fetched anew: Debian publishes several times a day.
const LISTS_AGE: Duration = Duration::from_secs(6 * 60 * 60);

/// A text that was read, and what to call it.
pub(crate) struct Input {
    pub(crate) name: String,
    pub(crate) text: String,
    format: Option<Format>,
}

/// How a definition is resolved.
pub(crate) struct Resolving<'a> {
    /// Where package lists are kept: the cache.
    pub(crate) state: PathBuf,
    /// Fetch package lists anew.
    pub(crate) refresh: bool,
    /// Is told what is going on.
    pub(crate) note: &'a dyn Fn(&str),
    pub(crate) interrupted: &'a AtomicBool,
}

/// A manifest that was loaded, and what is exported if nothing else is said.
pub(crate) struct Ready {
    pub(crate) manifest: Manifest,
    pub(crate) exports: Vec<String>,
}

impl Input {
    /// Reads a file, or standard input for `-`.
    pub(crate) fn read(path: &Path) -> CliResult<Self> {
        let standard_input = path == Path::new("-");
        let name = if standard_input { "<stdin>".to_owned() } else { path.display().to_string() };
        let mut text = String::new();
        let read = if standard_input {
            std::io::stdin().read_to_string(&mut text).map(|_| ())
        } else {
            std::fs::read_to_string(path).map(|content| text = content)
        };
        read.map_err(|error| CliError::new(Kind::Usage, format!("cannot read `{name}`: {error}")))?;
        let format = match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") => Some(Format::Toml),
            _ if is_blueprint(&text) => Some(Format::Json),
            _ => None,
        };
        Ok(Self { name, text, format })
    }

    /// Whether it is a definition rather than a manifest.
    pub(crate) fn is_definition(&self) -> bool {
        self.format.is_some()
    }

    /// Loads and checks the manifest, resolving the definition first if it is one.
    pub(crate) fn ready(&self, resolving: &Resolving<'_>, index: &Index) -> CliResult<Ready> {
        if !self.is_definition() {
            return self.with_recipes(&self.text, Vec::new(), index);
        }
        let resolution = self.resolve(resolving)?;
        let text = resolution.manifest.to_string();
        let exports = resolution.exports.iter().map(|export| export.pipeline.clone()).collect();
        self.with_recipes(&text, exports, index)
    }

    /// Loads what is going to be planned or built.
    fn with_recipes(&self, text: &str, exports: Vec<String>, index: &Index) -> CliResult<Ready> {
        let mut manifest = self.load(text, Some(index))?;
        assign_recipes(&mut manifest, index);
        Ok(Ready { manifest, exports })
    }

    /// Loads a manifest and, if there is an index to hold them against, checks all modules and their options.
    pub(crate) fn load(&self, text: &str, index: Option<&Index>) -> CliResult<Manifest> {
        let loaded = match index {
            // All that is wrong is told at once.
            Some(index) => load_valid(text, index).map_err(|error| match error {
                LoadError::Invalid(findings) => LoadError::Invalid(check(text, index).unwrap_or(findings)),
                other => other,
            }),
            None => load(text),
        };
        loaded.map_err(|error| manifest_error(&self.name, text, &error))
    }

    /// Loads the manifest without looking at modules, resolving the definition first if it is one.
    pub(crate) fn manifest(&self, resolving: &Resolving<'_>) -> CliResult<Manifest> {
        if !self.is_definition() {
            return self.load(&self.text, None);
        }
        self.load(&self.resolve(resolving)?.manifest.to_string(), None)
    }

    /// Reads the definition, or gives everything that is wrong with it.
    pub(crate) fn definition(&self) -> Result<Definition, Vec<kiln_resolve::Finding>> {
        Definition::parse(&self.text, Path::new(&self.name), self.format.unwrap_or(Format::Toml))
    }

    /// Resolves the definition.
    pub(crate) fn resolve(&self, resolving: &Resolving<'_>) -> CliResult<Resolution> {
        let definition = self.definition().map_err(|findings| definition_error(&findings))?;
        let progress = |progress: Progress<'_>| match progress {
            Progress::Line(line) => (resolving.note)(line),
            Progress::Warning(warning) => (resolving.note)(&format!("warning: {warning}")),
        };
        let state = std::path::absolute(&resolving.state)
            .map_err(|error| CliError::new(Kind::Environment, format!("cannot find the cache: {error}")))?;
        let resolver = Resolver {
            state_directory: &state,
            environment: &settings::environment(),
            apt_directory: None,
            refresh: if resolving.refresh { Refresh::Always } else { Refresh::OlderThan(LISTS_AGE) },
            progress: &progress,
            interrupted: resolving.interrupted,
        };
        resolve(&definition, &resolver).map_err(|error| resolve_error(&error))
    }
}

/// The error for a definition with faults.
pub(crate) fn definition_error(findings: &[kiln_resolve::Finding]) -> CliError {
    let mut error = match findings {
        [finding] => CliError::new(Kind::Usage, finding.message.clone()),
        _ => CliError::new(Kind::Usage, format!("the definition has {} errors", findings.len())),
    };
    let single = findings.len() == 1;
    for finding in findings {
        let place = located(finding);
        error = match (single, &finding.hint) {
            (true, Some(hint)) => error.place(place).hint(hint.clone()),
            (true, None) => error.place(place),
            (false, Some(hint)) => error.place(format!("{}\n{place}\nhint: {hint}", finding.message)),
            (false, None) => error.place(format!("{}\n{place}", finding.message)),
        };
    }
    error
}

fn located(finding: &kiln_resolve::Finding) -> String {
    format!("--> {}:{}:{}\n{}", finding.file.display(), finding.line, finding.column, finding.excerpt)
}

fn resolve_error(error: &ResolveError) -> CliError {
    let kind = match error {
        ResolveError::Definition(_) | ResolveError::Distribution { .. } => Kind::Usage,
        ResolveError::Interrupted => Kind::Interrupted,
        _ => Kind::Environment,
    };
    let mut result = CliError::new(kind, chain(error));
    if let Some(finding) = error.finding() {
        result = result.place(located(finding));
    }
    match error.hint() {
        Some(hint) => result.hint(hint),
        None => result,
    }
}

/// A blueprint has a name and none of what makes a manifest.
fn is_blueprint(text: &str) -> bool {
    let Ok(serde_json::Value::Object(object)) = serde_json::from_str(text) else { return false };
    object.contains_key("name")
        && !["pipelines", "pipeline", "sources"].iter().any(|key| object.contains_key(*key))
}
