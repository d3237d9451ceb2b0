//! `skopeo copy`: from a registry or a storage into a directory of the cache; and what its messages mean.

use std::collections::BTreeMap;
use std::path::Path;

use kiln_sys::command::CommandError;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::sources::tool::{Failure, SLICE, Tool, without_secrets};

/// The program.
pub(in crate::sources) const SKOPEO: Tool = Tool { program: "skopeo", debian: "skopeo", fedora: "skopeo" };

/// What its messages have in them when another try would end alike. Whatever else fails, a network for one, is tried again.
const PERMANENT: &[&str] = &[
    "authentication required",
    "denied",
    "does not resolve to an image ID",
    "identifier is not an image",
    "invalid reference format",
    "invalid source name",
    "manifest unknown",
    "no image found in",
    "no space left on device",
    "not currently supported",
    "name unknown",
    "policy",
    "read-only file system",
    "repository name not known",
    "server gave http response to https client",
    "signature",
    "unauthorized",
    "unknown flag",
    "x509:",
];

/// Where images are copied from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::sources) enum Transport {
    /// A registry.
    #[default]
    Docker,
    /// A storage of containers on this host.
    ContainersStorage,
}

/// One image, or an index of images, and where it is.
#[derive(Debug)]
pub(in crate::sources) struct Origin {
    pub(in crate::sources) name: String,
    pub(in crate::sources) digest: String,
    pub(in crate::sources) verify: bool,
    pub(in crate::sources) transport: Transport,
    pub(in crate::sources) storage: String,
}

impl Origin {
    /// The name for people.
    pub(in crate::sources) fn shown(&self) -> String {
        format!("{}@{}", self.name, self.digest)
    }

    /// The name for `skopeo`.
    fn reference(&self) -> String {
        let transport = match self.transport {
            Transport::Docker => "docker://",
            Transport::ContainersStorage => "containers-storage:",
        };
        let storage = match self.storage.as_str() {
            "" => String::new(),
            location => format!("[overlay@{location}]"),
        };
        format!("{transport}{storage}{}", self.shown())
    }

    /// Copies it to a directory in the form `dir`, as long as that is wanted. What is copied is held against the digest
    /// by `skopeo`.
    pub(in crate::sources) fn copy(
        &self,
        options: &[&str],
        target: &Path,
        environment: &BTreeMap<String, String>,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Result<(), Failure> {
        let mut to = std::ffi::OsString::from("dir:");
        to.push(target);
        let verify = if self.verify { None } else { Some("--src-tls-verify=false") };
        let run = SKOPEO
            .run(environment)?
            .arg("copy")
            .args(options)
            .args(verify)
            .arg("--")
            .arg(self.reference())
            .arg(to);
        match run.watched(SLICE, go_on) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(Failure::Interrupted),
            Err(error) => Err(self.failure(&error)),
        }
    }

    fn failure(&self, error: &CommandError) -> Failure {
        let words = last_words(&error.stderr);
        let prefix = format!("initializing source {}: ", self.reference());
        let words = without_secrets(words.strip_prefix(&prefix).unwrap_or(&words));
        let small = words.to_lowercase();
        let reason = match words.as_str() {
            "" => format!("`skopeo` failed with {}", error.status),
            words => format!("skopeo: {words}"),
        };
        if PERMANENT.iter().any(|text| small.contains(text)) {
            Failure::Permanent(reason)
        } else {
            Failure::Passing(reason)
        }
    }
}

/// What `skopeo` said at last: the text of its log line, or the last line as it is.
pub(in crate::sources) fn last_words(stderr: &str) -> String {
    let last = stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
    let Some((_, message)) = last.split_once(" msg=") else { return last.to_owned() };
    let Some(quoted) = message.strip_prefix('"') else { return message.to_owned() };
    let mut words = String::new();
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => break,
            '\\' => match characters.next() {
                Some('n' | 't') => words.push(' '),
                Some(other) => words.push(other),
                None => break,
            },
            other => words.push(other),
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn origin(transport: Transport, storage: &str) -> Origin {
        let (name, digest) = ("h.invalid:1/a/b".to_owned(), DIGEST.to_owned());
        Origin { name, digest, verify: true, transport, storage: storage.to_owned() }
    }

    #[test]
    fn references_name_transport_and_storage() {
        for (transport, storage, expected) in [
            (Transport::Docker, "", "docker://h.invalid:1/a/b@"),
            (Transport::ContainersStorage, "", "containers-storage:h.invalid:1/a/b@"),
            (Transport::ContainersStorage, "/x", "containers-storage:[overlay@/x]h.invalid:1/a/b@"),
        ] {
            assert_eq!(origin(transport, storage).reference(), format!("{expected}{DIGEST}"));
        }
    }

    #[test]
    fn words_come_out_of_log_lines() {
        let line =
            |message: &str| format!("more\ntime=\"2026-01-01T00:00:00Z\" level=fatal msg={message}\n\n");
        for (stderr, expected) in [
            (line(r#""no \"luck\" here\nat all""#), "no \"luck\" here at all"),
            (line("word"), "word"),
            (line(r#""cut"#), "cut"),
            ("one\ntwo\n".to_owned(), "two"),
            (String::new(), ""),
        ] {
            assert_eq!(last_words(&stderr), expected);
        }
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let origin = origin(Transport::Docker, "");
        let failure = |words: &str| {
            let initializing = format!("initializing source docker://{}: {words}", origin.shown());
            let stderr = format!("time=\"\" level=fatal msg=\"{initializing}\"");
            origin.failure(&CommandError { program: "skopeo".into(), status: "exit status 1".into(), stderr })
        };
        let passing = |words: &str| Failure::Passing(format!("skopeo: {words}"));
        let permanent = |words: &str| Failure::Permanent(format!("skopeo: {words}"));
        for words in
            ["dial tcp 127.0.0.1:1: connect: connection refused", "unexpected EOF", "TLS handshake timeout"]
        {
            assert_eq!(failure(words), passing(words));
        }
        for words in [
            "reading manifest in a/b: manifest unknown: manifest unknown",
            "x509: certificate signed by unknown authority",
            "unauthorized: authentication required",
            "Source image rejected: Running image is rejected by policy.",
        ] {
            assert_eq!(failure(words), permanent(words));
        }
        assert_eq!(
            failure(r#"Get \"https://s3.invalid/blob?Signature=secret\": EOF"#),
            passing(r#"Get "https://s3.invalid/blob?…": EOF"#)
        );
        let silent =
            CommandError { program: "skopeo".into(), status: "signal 9".into(), stderr: String::new() };
        assert_eq!(origin.failure(&silent), Failure::Passing("`skopeo` failed with signal 9".to_owned()));
    }
}
