//! Errors as people see them: what, where, what to do; and the exit code that tells callers the kind.

use std::fmt::Write as _;
use std::process::ExitCode;

pub(crate) use kiln_engine::chain;
use kiln_engine::manifest::place::Place;
use kiln_engine::manifest::{Finding, LoadError};

/// The kinds of error and the exit codes that callers see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The build failed, an export is unknown, no checkpoint matched, what was compared differs.
    Build = 1,
    /// The manifest, the definition or the command line is wrong.
    Usage = 2,
    /// The machine lacks something: privileges, a program, room on the disk.
    Environment = 3,
    /// The user interrupted.
    Interrupted = 130,
}

impl Kind {
    /// All kinds, by their exit codes.
    pub(crate) const ALL: [Self; 4] = [Self::Build, Self::Usage, Self::Environment, Self::Interrupted];

    /// What the exit code tells callers.
    const fn meaning(self) -> &'static str {
        match self {
            Self::Build => "the build failed, what was asked for is not there, or what was compared differs",
            Self::Usage => "the manifest, the definition or the command line is wrong",
            Self::Environment => "the machine lacks something: privileges, a program, room on the disk",
            Self::Interrupted => "interrupted",
        }
    }

    /// The exit code.
    pub(crate) fn code(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}

/// All exit codes and what they mean. The help and the manual pages are made of it, the README is compared with it.
pub(crate) fn exit_codes() -> impl Iterator<Item = (u8, &'static str)> {
    std::iter::once((0, "success")).chain(Kind::ALL.into_iter().map(|kind| (kind as u8, kind.meaning())))
}

/// The exit codes under the name `osbuild`, which are those of the reference: it has none for what the machine lacks.
pub(crate) const OSBUILD_EXIT_CODES: [(u8, &str); 4] = [
    (0, "success"),
    (
        Kind::Build as u8,
        "the build failed, the manifest cannot be read, what was asked for is not there, or the machine lacks something",
    ),
    (Kind::Usage as u8, "the manifest is invalid, or the command line is wrong"),
    (Kind::Interrupted as u8, "interrupted"),
];

/// An error on its way to the user.
#[derive(Debug)]
pub(crate) struct CliError {
    /// Fixes the exit code.
    pub(crate) kind: Kind,
    /// What went wrong, in one line or, for many findings, in paragraphs.
    pub(crate) message: String,
    /// Where: lines that are shown indented.
    pub(crate) places: Vec<String>,
    /// What to do.
    pub(crate) hints: Vec<String>,
}

/// What commands return.
pub(crate) type CliResult<T = ()> = Result<T, CliError>;

impl CliError {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), places: Vec::new(), hints: Vec::new() }
    }

    #[must_use]
    pub(crate) fn place(mut self, place: impl Into<String>) -> Self {
        self.places.push(place.into());
        self
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// An error with all its causes in one line.
    pub(crate) fn from_error(kind: Kind, error: &dyn std::error::Error) -> Self {
        Self::new(kind, chain(error))
    }

    /// The text that is shown, without a final line break.
    pub(crate) fn render(&self) -> String {
        let mut text = format!("error: {}", self.message);
        for place in &self.places {
            let _ = write!(text, "\n{}", indent(place));
        }
        for hint in &self.hints {
            let _ = write!(text, "\nhint: {hint}");
        }
        text
    }
}

fn indent(text: &str) -> String {
    let indented = |line: &str| if line.is_empty() { String::new() } else { format!("  {line}") };
    text.lines().map(indented).collect::<Vec<_>>().join("\n")
}

/// The error for a manifest that cannot be used.
pub(crate) fn manifest_error(name: &str, text: &str, error: &LoadError) -> CliError {
    match error {
        LoadError::Syntax(fault) => {
            let place = Place::at(text, fault.offset, 1);
            CliError::new(Kind::Usage, format!("the manifest is not valid JSON: {}", fault.message))
                .place(located(name, &place, ""))
                .hint("a manifest is one JSON object, without comments and trailing commas")
        }
        LoadError::Unsupported => CliError::new(Kind::Usage, format!("unsupported manifest format: {name}"))
            .hint("a manifest is a JSON object with `\"version\": \"2\"`, or one of format 1"),
        LoadError::Invalid(findings) => findings_error(name, &locate(text, findings.clone())),
    }
}

/// A finding and where it is in the text of the manifest.
pub(crate) type Located = (Finding, Option<Place>);

/// Looks for the places of findings; the result is in the order in which somebody reads the text.
pub(crate) fn locate(text: &str, findings: Vec<Finding>) -> Vec<Located> {
    let places = Place::of_all(text, &findings.iter().map(Finding::target).collect::<Vec<_>>());
    let mut located: Vec<Located> = findings.into_iter().zip(places).collect();
    located.sort_by_key(|(_, place)| place.as_ref().map(|place| (place.line, place.column)));
    located
}

/// The error for a manifest with faults.
pub(crate) fn findings_error(name: &str, findings: &[Located]) -> CliError {
    let single = match findings {
        [(finding, _)] => Some(finding),
        _ => None,
    };
    let message = match single {
        Some(finding) => finding.message.clone(),
        None => format!("the manifest has {} errors", findings.len()),
    };
    let mut error = CliError::new(Kind::Usage, message);
    for (finding, place) in findings {
        let path = finding.target().path;
        let mut text = match place {
            Some(place) => located(name, place, &format!(" ({path})")),
            None => format!("{name}: {path}"),
        };
        if single.is_none() {
            text = format!("{}\n{text}", finding.message);
            if let Some(hint) = &finding.hint {
                let _ = write!(text, "\nhint: {hint}");
            }
        }
        error = error.place(text);
    }
    match single.and_then(|finding| finding.hint.clone()) {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

fn located(name: &str, place: &Place, path: &str) -> String {
    format!("--> {name}:{}:{}{path}\n{}", place.line, place.column, place.picture())
}
