//! What values must be like, beyond their type.

use std::collections::BTreeMap;

use super::Definition;
use super::blueprint::Inode;
use super::node::Placed;
use super::report::Report;

/// Languages that the C library has built in.
const BUILT_IN_LANGUAGES: [&str; 4] = ["C", "C.UTF-8", "C.utf8", "POSIX"];

/// Longest name of a host that the kernel takes.
const LONGEST_HOSTNAME: usize = 64;

pub(super) fn architecture(text: &Placed<String>, report: &mut Report) {
    let host = std::env::consts::ARCH;
    let name = match text.value.as_str() {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        name => name,
    };
    if name != host {
        let message = format!("the architecture `{}` is not the host's", text.value);
        report.add(text.span.clone(), message, Some(format!("build on such a host, or use `{host}`")));
    }
}

/// Debian's rule for package names (Policy, 5.6.1), a little wider: `_` is left to the package lists.
pub(super) fn package_name(name: &Placed<String>, report: &mut Report) {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
    let first = name.value.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    if !first || !name.value.chars().all(good) {
        let message = format!("`{}` is not a package name", name.value);
        let hint =
            "a name has lower-case letters, digits, `+`, `-` and `.`; the version has a key of its own";
        report.add(name.span.clone(), message, Some(hint.to_owned()));
    }
}

/// The solver takes a version, or the beginning of one before a star.
pub(super) fn package_version(version: &Placed<String>, report: &mut Report) {
    let start = version.value.strip_suffix('*').unwrap_or(&version.value);
    if !start.chars().all(|c| c.is_ascii_alphanumeric() || "+-.:~".contains(c)) {
        let message = format!("`{}` is not a version", version.value);
        let hint = "write a version, or the beginning of one and `*`";
        report.add(version.span.clone(), message, Some(hint.to_owned()));
    }
}

pub(super) fn hostname(name: &Placed<String>, report: &mut Report) {
    let label = |label: &str| {
        let good = |c: char| c.is_ascii_alphanumeric() || c == '-';
        !label.is_empty() && label.chars().all(good) && !label.starts_with('-') && !label.ends_with('-')
    };
    if name.value.len() > LONGEST_HOSTNAME || !name.value.split('.').all(label) {
        let message = format!("`{}` is not a host name", name.value);
        let hint =
            "a host name has letters, digits and `-`, in parts between dots, and at most 64 characters";
        report.add(name.span.clone(), message, Some(hint.to_owned()));
    }
}

pub(super) fn account(name: &Placed<String>, report: &mut Report) {
    let good = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if !name.value.chars().all(good) || name.value.starts_with('-') || name.value.len() > 32 {
        let message = format!("`{}` is not a name of a user or group", name.value);
        let hint = "a name has letters, digits, `_`, `.` and `-`, and at most 32 characters";
        report.add(name.span.clone(), message, Some(hint.to_owned()));
    }
}

pub(super) fn mode(text: &Placed<String>, report: &mut Report) -> Option<u32> {
    let digits = text.value.len() == 3 || text.value.len() == 4;
    let mode = u32::from_str_radix(&text.value, 8).ok().filter(|_| digits);
    if mode.is_none() {
        let message = format!("`{}` is not a mode", text.value);
        report.add(
            text.span.clone(),
            message,
            Some("write three or four octal digits, as in \"0644\"".to_owned()),
        );
    }
    mode
}

pub(super) fn path(path: &Placed<String>, report: &mut Report) {
    let text = path.value.as_str();
    let good = |part: &str| !matches!(part, "" | "." | "..");
    let absolute = text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(good));
    if !absolute || text.contains(['\n', '\0']) {
        let message = format!("`{text}` is not an absolute path of the image");
        let hint = "begin with `/`, leave out `.`, `..` and double or trailing slashes";
        report.add(path.span.clone(), message, Some(hint.to_owned()));
    }
}

pub(super) fn unique_paths<'a>(inodes: impl Iterator<Item = &'a Inode>, report: &mut Report) {
    let mut seen = BTreeMap::new();
    for inode in inodes {
        if seen.insert(inode.path.value.as_str(), ()).is_some() {
            report.add(inode.path.span.clone(), format!("`{}` is given twice", inode.path.value), None);
        }
    }
}

pub(super) fn repository(line: &Placed<String>, report: &mut Report) {
    let words: Vec<&str> = line.value.split_whitespace().collect();
    if words.first() != Some(&"deb") || words.len() < 3 || line.value.contains('\n') {
        let message = format!("`{}` is not a package source", line.value);
        let hint = "write a line as in sources.list: deb [OPTIONS] URL SUITE COMPONENT...";
        report.add(line.span.clone(), message, Some(hint.to_owned()));
    }
}

/// A language needs its data, and the package that has it is large: the choice is the user's.
pub(super) fn locale(definition: &Definition, report: &mut Report) {
    let Some(language) = &definition.customizations.language else { return };
    let built_in = BUILT_IN_LANGUAGES.contains(&language.value.as_str());
    let data = definition.packages.iter().any(|package| package.value.name == "locales-all");
    if !built_in && !data {
        let message = format!("nothing in the image knows the language `{}`", language.value);
        let hint = "add the package `locales-all`, or use `C.UTF-8`";
        report.add(language.span.clone(), message, Some(hint.to_owned()));
    }
}
