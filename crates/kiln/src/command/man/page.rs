//! Manual pages in the language of man(7).
//!
//! What the help says after the options is sorted into sections: paragraphs that begin with `Examples:` or `Exit codes:`
//! have their own, everything else is a note. Nothing of it depends on the machine: the pages are kept in the project,
//! and a test compares them.

use std::fmt::Write as _;

use clap::Command;
use clap_mangen::Man;

use super::Program;
use crate::error::{OSBUILD_EXIT_CODES, exit_codes};

/// What the programs take from the environment.
const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "KILN_CACHE_SYNC",
        "When results reach the disk: deferred, before or off, as for the option --cache-sync of kiln-build(1), which goes before it.",
    ),
    (
        "KILN_VM_ACCEL",
        "With the value kvm, virtual machines use /dev/kvm, if they come up with it; otherwise their processors are emulated.",
    ),
    (
        "KILN_VM_KERNEL, KILN_VM_MEMORY, KILN_VM_PROCESSORS",
        "Kernel, memory and processors of virtual machines, as for the options --vm-kernel, --vm-memory and --vm-processors of kiln-build(1), which go before them.",
    ),
    (
        "OSBUILD_EXPORT_FORCE_NO_PRESERVE_OWNER",
        "With the value 1, exported files belong to whoever exports them.",
    ),
    (
        "OSBUILD_SOURCES_CURL_PROXY",
        "The proxy of downloads; without it http_proxy, https_proxy, all_proxy and no_proxy count.",
    ),
    (
        "OSBUILD_SOURCES_CURL_SSL_CA_CERT, OSBUILD_SOURCES_CURL_SSL_CLIENT_CERT, OSBUILD_SOURCES_CURL_SSL_CLIENT_KEY",
        "Files for downloads whose secret is org.osbuild.mtls.",
    ),
];

/// What every part of a page begins with.
const PREAMBLE: &str = ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n";

/// The program with exit codes of its own.
const OSBUILD: &str = "osbuild";

/// What the paragraph about exit codes begins with.
const EXIT_CODES: &str = "Exit codes:";
/// What the paragraph of examples begins with.
const EXAMPLES: &str = "Examples:";

/// A manual page.
pub(super) struct Page {
    /// Its name without the section.
    pub(super) name: String,
    pub(super) text: String,
}

/// All pages, sorted by name.
pub(super) fn all() -> Vec<Page> {
    let mut pages = Vec::new();
    for program in [Program::Kiln, Program::Osbuild] {
        // `help` is explained by itself.
        let mut command = program.command().disable_help_subcommand(true);
        command.build();
        collect(&command, &mut pages);
    }
    pages.sort_by(|a, b| a.name.cmp(&b.name));
    let names: Vec<String> = pages.iter().map(|page| page.name.clone()).collect();
    for page in &mut pages {
        see_also(page, &names);
    }
    pages
}

fn collect(command: &Command, pages: &mut Vec<Page>) {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    pages.push(Page { text: page(command, &name), name });
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        collect(subcommand, pages);
    }
}

fn page(command: &Command, name: &str) -> String {
    let man = Man::new(command.clone());
    let mut out = Vec::new();
    // Writing to memory cannot fail.
    let _ = man.render_name_section(&mut out);
    let _ = man.render_synopsis_section(&mut out);
    let _ = man.render_description_section(&mut out);
    if command.get_arguments().any(|argument| !argument.is_hide_set()) {
        let _ = man.render_options_section(&mut out);
    }
    if command.has_subcommands() {
        let _ = man.render_subcommands_section(&mut out);
    }
    // How quotation marks are set, once, and a title without a date, so that equal descriptions give equal pages.
    let mut text = format!(
        "{PREAMBLE}.TH {} 1 \"\" \"Kiln {}\" \"Kiln Manual\"\n",
        name.to_uppercase(),
        env!("CARGO_PKG_VERSION")
    );
    for line in String::from_utf8_lossy(&out).replace(PREAMBLE, "").lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    let after = command.get_after_long_help().or_else(|| command.get_after_help());
    let after = after.map(ToString::to_string).unwrap_or_default();
    let (mut examples, mut notes, mut exit) = (Vec::new(), Vec::new(), None);
    for paragraph in after.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty()) {
        if let Some(rest) = paragraph.strip_prefix(EXAMPLES) {
            examples.extend(rest.lines().map(str::trim).filter(|line| !line.is_empty()));
        } else if let Some(rest) = paragraph.strip_prefix(EXIT_CODES) {
            exit = Some(rest.trim());
        } else {
            notes.push(paragraph);
        }
    }
    if !notes.is_empty() {
        text.push_str(".SH NOTES\n");
        for (index, note) in notes.iter().enumerate() {
            text.push_str(if index > 0 { ".PP\n" } else { "" });
            note.lines().for_each(|line| push(line.trim(), &mut text));
        }
    }
    text.push_str(".SH \"EXIT STATUS\"\n");
    match exit {
        // One of the command's own, in a sentence.
        Some(words) if !words.contains('\n') => push(words, &mut text),
        _ => {
            let codes: Vec<_> =
                if name == OSBUILD { OSBUILD_EXIT_CODES.to_vec() } else { exit_codes().collect() };
            for (code, meaning) in codes {
                let _ = writeln!(text, ".TP\n\\fB{code}\\fR");
                push(meaning, &mut text);
            }
        }
    }
    if !name.contains('-') {
        text.push_str(".SH ENVIRONMENT\n");
        for (variable, meaning) in ENVIRONMENT {
            text.push_str(".TP\n");
            push(variable, &mut text);
            push(meaning, &mut text);
        }
    }
    if !examples.is_empty() {
        text.push_str(".SH EXAMPLES\n.nf\n");
        examples.iter().for_each(|line| push(line, &mut text));
        text.push_str(".fi\n");
    }
    text
}

/// Names the pages above, beside and below.
fn see_also(page: &mut Page, names: &[String]) {
    let program = page.name.split('-').next().unwrap_or_default();
    let above = page.name.rsplit_once('-').map(|(above, _)| above);
    let is_below = |name: &str, above: &str| {
        name.strip_prefix(above)
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(|rest| !rest.contains('-'))
    };
    let related: Vec<String> = names
        .iter()
        .filter(|name| **name != page.name)
        .filter(|name| {
            Some(name.as_str()) == above
                || *name == program
                || is_below(name, &page.name)
                || (above.is_none() && !name.contains('-'))
        })
        .map(|name| format!("{name}(1)"))
        .collect();
    page.text.push_str(".SH \"SEE ALSO\"\n");
    push(&related.join(", "), &mut page.text);
}

/// Adds a line of text, in which nothing is an instruction.
fn push(line: &str, out: &mut String) {
    if line.starts_with(['.', '\'']) {
        out.push_str("\\&");
    }
    for character in line.chars() {
        match character {
            '\\' => out.push_str("\\e"),
            '-' => out.push_str("\\-"),
            '\'' => out.push_str("\\(aq"),
            '`' => out.push_str("\\(ga"),
            '~' => out.push_str("\\(ti"),
            '^' => out.push_str("\\(ha"),
            other => out.push(other),
        }
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_with_everything_in_it() {
        let pages = all();
        let names: Vec<&str> = pages.iter().map(|page| page.name.as_str()).collect();
        for name in
            ["kiln", "kiln-build", "kiln-cache", "kiln-cache-verify", "kiln-man", "kiln-tree-diff", "osbuild"]
        {
            assert!(names.contains(&name), "{name} in {names:?}");
        }
        for page in &pages {
            for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "\"EXIT STATUS\"", "\"SEE ALSO\""] {
                assert_eq!(
                    page.text.matches(&format!(".SH {section}\n")).count(),
                    1,
                    "{section} of {}",
                    page.name
                );
            }
            let about =
                page.text.split(".SH NAME\n").nth(1).and_then(|text| text.lines().next()).expect("a line");
            assert!(about.starts_with(&format!("{} \\- ", page.name.replace('-', "\\-"))), "{about}");
            assert!(!page.text.contains("/home/") && !page.text.contains("/tmp/"), "{}", page.name);
        }
    }

    #[test]
    fn text_is_never_an_instruction() {
        let mut out = String::new();
        for line in [".so /etc/passwd", "'br", "a\\fBb", "--cache-sync", "~/x `y` '^'"] {
            push(line, &mut out);
        }
        assert_eq!(
            out,
            "\\&.so /etc/passwd\n\\&\\(aqbr\na\\efBb\n\\-\\-cache\\-sync\n\\(ti/x \\(gay\\(ga \\(aq\\(ha\\(aq\n"
        );
    }
}
