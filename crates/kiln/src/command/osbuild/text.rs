//! What the reference says on standard output, word for word: callers and scripts read it.

use std::fmt::Write as _;
use std::io::IsTerminal as _;

use kiln_engine::manifest::{Finding, Id, Manifest};

/// Escape codes; nothing unless standard output is a terminal.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Style {
    reset: &'static str,
    bold: &'static str,
    red: &'static str,
}

impl Style {
    pub(super) fn of_stdout() -> Self {
        if std::io::stdout().is_terminal() {
            Self { reset: "\u{1b}[0m", bold: "\u{1b}[1m", red: "\u{1b}[31m" }
        } else {
            Self::default()
        }
    }

    fn alarm(self, text: &str) -> String {
        let Self { reset, bold, red } = self;
        format!("{reset}{bold}{red}{text}{reset}")
    }

    /// The build failed, or cannot begin.
    pub(super) fn failed(self) -> String {
        self.alarm("Failed") + "\n"
    }

    /// The user interrupted: on a line of its own, after what the terminal shows for the key.
    pub(super) fn aborted(self) -> String {
        format!("\n{}\n", self.alarm("Aborted"))
    }

    /// An export that the manifest does not have.
    pub(super) fn unknown_export(self, name: &str, manifest: &Manifest) -> String {
        let known: Vec<String> = manifest.pipelines.keys().map(|name| python_string(name)).collect();
        format!("Export {}{name}{} not found in [{}]\n", self.bold, self.reset, known.join(", "))
    }

    /// All that is wrong with a manifest.
    pub(super) fn invalid(self, name: &str, findings: &[Finding]) -> String {
        let Self { reset, bold, red } = self;
        let mut text = format!("{bold}{name}{reset} has {bold}{red}errors{reset}:\n\n");
        for finding in findings {
            let _ = write!(text, "{bold}{}{reset}:\n  {}\n\n", finding.path, finding.message);
        }
        text
    }

    /// The end of a build that succeeded.
    pub(super) fn summary(self, manifest: &Manifest, checkpoints: &[(&Id, bool)]) -> String {
        let mut text = "\nPipelines\n".to_owned();
        for pipeline in manifest.pipelines.values() {
            let id = pipeline.id().map_or("None", |id| id.as_str());
            let _ = writeln!(text, "  {:<10}\t{id}", format!("{}:", pipeline.name));
        }
        text.push_str("\nCheckpoints\n");
        for (id, cached) in checkpoints {
            let state = if *cached { "cached".to_owned() } else { self.alarm("not cached") };
            let _ = writeln!(text, "  {id}: {state}");
        }
        text
    }
}

/// A wrong command line: a line of usage, and what is wrong with it after the program's name, which callers look for.
pub(super) fn usage(error: &clap::Error) -> String {
    let text = error.to_string();
    let told = text.strip_prefix("error: ").unwrap_or(&text);
    let mut paragraphs = told.split("\n\n").map(str::trim_end);
    let mistake = paragraphs.next().unwrap_or_default();
    let mut shown = format!("usage: osbuild [OPTIONS] MANIFEST\nosbuild: error: {mistake}");
    // The usage is said already.
    let more = paragraphs.filter(|paragraph| {
        !["Usage:", "For more information"].iter().any(|begin| paragraph.starts_with(begin))
            && !paragraph.is_empty()
    });
    for paragraph in more {
        let _ = write!(shown, "\n{paragraph}");
    }
    shown
}

/// A text as Python shows it in a list.
fn python_string(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut shown = String::from(quote);
    for character in text.chars() {
        match character {
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            '\\' => shown.push_str("\\\\"),
            _ if character == quote => shown.extend(['\\', quote]),
            _ => shown.push(character),
        }
    }
    shown.push(quote);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_in_lists_are_quoted_as_in_python() {
        let cases = [
            ("tree", "'tree'"),
            ("it's", "\"it's\""),
            ("\"it's\"", "'\"it\\'s\"'"),
            ("a\\b\n", "'a\\\\b\\n'"),
            ("bäume", "'bäume'"),
        ];
        for (text, expected) in cases {
            assert_eq!(python_string(text), expected);
        }
    }

    #[test]
    fn a_terminal_gets_colours() {
        let style = Style { reset: "<0>", bold: "<1>", red: "<31>" };
        assert_eq!(style.failed(), "<0><1><31>Failed<0>\n");
        assert_eq!(style.aborted(), "\n<0><1><31>Aborted<0>\n");
        assert_eq!(Style::default().failed(), "Failed\n");
    }
}
