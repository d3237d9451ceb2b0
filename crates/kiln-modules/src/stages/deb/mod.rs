//! `org.kiln.deb`
//!
//! How a set of packages becomes a working tree:
//!
//! 1. [`archive`] and [`control`] read what the files say of themselves; [`plan`] orders the packages.
//! 2. [`staging`] unpacks all contents in parallel into a directory at the tree's root, the base first, and goes
//!    on while the base is configured.
//! 3. Round by round, `preinst` scripts run, [`commit`] moves the files to their places, and [`database`]
//!    registers the packages with dpkg as unpacked.
//! 4. [`configure`] lets the tree's own dpkg configure everything, in the [`environment`] made for that.
//! 5. [`tidy`] removes what would make two builds differ.
//!
//! The host needs no dpkg; the tree needs one, which is normally among the packages.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;
use std::path::{Path, PathBuf};

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

mod archive;
mod commit;
mod configure;
mod control;
mod database;
mod environment;
mod install;
mod owners;
mod plan;
mod staging;
mod tidy;
mod tree;
mod version;

use archive::Deb;

/// The name of the input that holds the packages.
const INPUT: &str = "packages";

/// Installs Debian packages into the tree.
///
/// Unpacks the `.deb` files of the input `packages`, registers them with the tree's dpkg, and lets that dpkg
/// configure them, without services, network or questions. The packages must be complete: what they depend on
/// is either among them or in the tree. A tree without dpkg gets one from the packages, and is set up with a
/// merged `/usr`. Packages that the tree already has in the same version are skipped; another version is an
/// error, since the stage adds packages and does not upgrade them.
///
/// Nothing that must differ from machine to machine stays: `/etc/machine-id` is empty, ssh host keys made
/// during the installation are removed and made anew when the ssh server first starts.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// Answers to questions of packages, by package and by question.
    #[serde(default)]
    debconf: BTreeMap<String, BTreeMap<String, Answer>>,
}

/// The answer to a question.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Answer {
    /// The question's type.
    #[serde(rename = "type", default)]
    kind: AnswerKind,
    /// The answer, as debconf writes it: `true`, `en_US.UTF-8 UTF-8`.
    value: String,
}

/// The types of question.
#[derive(Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum AnswerKind {
    /// One line of text.
    #[default]
    String,
    /// `true` or `false`.
    Boolean,
    /// One of several.
    Select,
    /// Any of several, separated by commas.
    Multiselect,
    /// A note that has been seen.
    Note,
    /// A secret.
    Password,
}

impl Options {
    /// The answers as lines for `debconf-set-selections`.
    fn answers(&self) -> Result<String, ModuleError> {
        let mut lines = String::new();
        for (package, answers) in &self.debconf {
            for (question, answer) in answers {
                let kind = match answer.kind {
                    AnswerKind::String => "string",
                    AnswerKind::Boolean => "boolean",
                    AnswerKind::Select => "select",
                    AnswerKind::Multiselect => "multiselect",
                    AnswerKind::Note => "note",
                    AnswerKind::Password => "password",
                };
                let words = [package, question];
                if words.iter().any(|word| word.is_empty() || word.contains(char::is_whitespace))
                    || answer.value.contains('\n')
                {
                    return Err(ModuleError::option(
                        format!("debconf.{package}.{question}"),
                        "names have no spaces, and the value is one line",
                    ));
                }
                lines.push_str(&format!("{package} {question} {kind} {}\n", answer.value));
            }
        }
        Ok(lines)
    }
}

pub(crate) struct InstallDebs;

impl Stage for InstallDebs {
    const NAME: &'static str = "org.kiln.deb";
    type Options = Options;

    fn schema() -> ModuleSchema {
        ModuleSchema {
            options_optional: true,
            inputs: Some(json!({
                "type": "object",
                "additionalProperties": false,
                "required": [INPUT],
                "properties": {
                    INPUT: {
                        "type": "object",
                        "additionalProperties": true,
                        "required": ["type", "origin", "references"],
                        "properties": {
                            "type": {"enum": ["org.osbuild.files"]},
                            "origin": {"enum": ["org.osbuild.source"]},
                        },
                    },
                },
            })),
            ..ModuleSchema::of::<Options>()
        }
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let answers = options.answers()?;
        let debs = read_packages(&package_files(context)?)?;
        install::install(&debs, &answers, context)
    }
}

/// The files of the input.
fn package_files(context: &StageContext) -> Result<Vec<PathBuf>, ModuleError> {
    let input = context
        .arguments
        .inputs
        .get(INPUT)
        .ok_or_else(|| ModuleError::invalid(format!("the stage has no input `{INPUT}`")))?;
    let names = input.data.get("files").and_then(serde_json::Value::as_object).into_iter().flatten();
    let files: Vec<_> = names.map(|(name, _)| input.path.join(name)).collect();
    if files.is_empty() {
        return Err(ModuleError::invalid(format!("the input `{INPUT}` has no files")));
    }
    Ok(files)
}

/// Reads the control parts of all packages, and sorts the packages by name and architecture.
fn read_packages(files: &[PathBuf]) -> Result<Vec<Deb>, ModuleError> {
    let share = files.len().div_ceil(workers()).max(1);
    let mut debs = std::thread::scope(|scope| {
        let read =
            |files: &[PathBuf]| files.iter().map(|path| Deb::read(path)).collect::<Result<Vec<_>, _>>();
        let workers: Vec<_> = files.chunks(share).map(|files| scope.spawn(move || read(files))).collect();
        let results = workers.into_iter().map(join);
        results.collect::<Result<Vec<_>, _>>()
    })?
    .into_iter()
    .flatten()
    .collect::<Vec<_>>();
    let key = |deb: &Deb| (deb.package.name.clone(), deb.package.architecture.clone());
    debs.sort_by_cached_key(key);
    let twice = debs.windows(2).find_map(|pair| match pair {
        [one, two] if key(one) == key(two) => Some((&one.package, &two.package)),
        [one, two]
            if one.package.name == two.package.name
                && !(one.package.multi_arch_same && two.package.multi_arch_same) =>
        {
            Some((&one.package, &two.package))
        }
        _ => None,
    });
    match twice {
        Some((one, two)) => Err(ModuleError::invalid(format!(
            "package `{}` is there twice, as {} for {} and as {} for {}",
            one.name, one.version, one.architecture, two.version, two.architecture
        ))),
        None => Ok(debs),
    }
}

/// How many threads unpack.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Waits for a thread; a panic in it goes on here.
fn join<T>(handle: std::thread::ScopedJoinHandle<'_, T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The architecture of dpkg itself, which is the native one.
fn native_architecture(debs: &[Deb]) -> Option<&str> {
    let dpkg = debs.iter().find(|deb| deb.package.name == "dpkg")?;
    Some(&dpkg.package.architecture)
}

/// All architectures of packages.
fn architectures(debs: &[Deb]) -> BTreeSet<String> {
    debs.iter().map(|deb| deb.package.architecture.clone()).collect()
}

/// Where contents are unpacked to before they are moved to their places.
fn staging_directory(tree: &Path) -> PathBuf {
    tree.join(".kiln-deb")
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_system;
