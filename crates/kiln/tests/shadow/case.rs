//! One manifest, and what is told about it: `manifests/NAME.json`.
//!
//! ```text
//! about      what the manifest is for
//! needs      programs, or absolute paths of files, that it needs here: {PROGRAM: DEBIAN PACKAGE}
//! exports    the pipelines that are exported and compared
//! files      files that become items of `org.osbuild.inline`: {NAME: TEXT}
//! served     what a loopback server has: see `served.rs`
//! differs    files that no two builds make alike: {PATH: WHY}
//! times      files that differ with native sources, whose content has a time that is not that of the download: {PATH: WHY}
//! code       the exit code of both programs; 0 if it is not told
//! variables  what both programs have in their environment: {NAME: VALUE}
//! crashes    why the reference ends in a traceback, without a result: then results and records are not compared
//! manifest   the manifest
//! ```
//!
//! In the manifest and in variables `${NAME}` stands for the checksum of a file or of what is served, `${server}` for the
//! server's URL and `${host}` for its address, `${tls}` and `${tls.clients}` for the URLs of those with TLS.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use kiln_testkit::host::Need;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

/// A manifest with what is told about it.
pub(crate) struct Case {
    pub(crate) name: String,
    told: Map<String, Value>,
}

const MEMBERS: [&str; 11] = [
    "about",
    "needs",
    "exports",
    "files",
    "served",
    "differs",
    "times",
    "code",
    "crashes",
    "variables",
    "manifest",
];

pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shadow/manifests")
}

/// The names of all cases, sorted.
pub(crate) fn names() -> Vec<String> {
    let files = fs::read_dir(directory()).expect("read").map(|entry| entry.expect("read").path());
    let mut names: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

pub(crate) fn digest(content: &[u8]) -> String {
    let digest = Sha256::digest(content);
    digest.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

impl Case {
    pub(crate) fn read(name: &str) -> Self {
        let path = directory().join(format!("{name}.json"));
        let text = fs::read(&path).expect("read");
        let told: Value = serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let Value::Object(told) = told else { panic!("{name} is no object") };
        for member in told.keys() {
            assert!(MEMBERS.contains(&member.as_str()), "{name}: unknown member `{member}`");
        }
        assert!(told["about"].as_str().is_some_and(|about| about.ends_with('.')), "{name}: no sentence");
        Self { name: name.to_owned(), told }
    }

    pub(crate) fn needs(&self) -> Vec<Need> {
        let owned = self.texts("needs");
        // Needs are told in constants everywhere else; these live as long as the test.
        let forever = |text: String| -> &'static str { text.leak() };
        owned
            .into_iter()
            .map(|(program, package)| Need { program: forever(program), package: forever(package) })
            .collect()
    }

    pub(crate) fn exports(&self) -> Vec<&str> {
        let exports = self.told["exports"].as_array().expect("a list of exports");
        exports.iter().map(|name| name.as_str().expect("a name")).collect()
    }

    /// Whether the manifest has a source or an input.
    pub(crate) fn has_content(&self) -> bool {
        let text = self.told["manifest"].to_string();
        self.told.contains_key("files") || text.contains("\"sources\"") || text.contains("\"inputs\"")
    }

    pub(crate) fn code(&self) -> i64 {
        self.told.get("code").map_or(0, |code| code.as_i64().expect("an exit code"))
    }

    pub(crate) fn crashes(&self) -> bool {
        self.told.contains_key("crashes")
    }

    /// The paths of files that differ from build to build, or between the sources of the two programs.
    pub(crate) fn differs(&self, native_sources: bool) -> Vec<String> {
        let times = if native_sources { self.texts("times") } else { BTreeMap::new() };
        self.texts("differs").into_keys().chain(times.into_keys()).collect()
    }

    pub(crate) fn served(&self) -> Option<&Map<String, Value>> {
        self.told.get("served").map(|served| served.as_object().expect("archives"))
    }

    /// The manifest as a text, given the checksums of what is served, and where.
    pub(crate) fn manifest(
        &self,
        servers: &[(&'static str, String)],
        served: &BTreeMap<String, String>,
    ) -> String {
        let mut manifest = self.told["manifest"].clone();
        let mut names = served.clone();
        let files = self.texts("files");
        if !files.is_empty() {
            let mut items = Map::new();
            for (name, text) in files {
                let checksum = digest(text.as_bytes());
                let data = BASE64_STANDARD.encode(&text);
                items.insert(checksum.clone(), json!({"encoding": "base64", "data": data}));
                names.insert(name, checksum);
            }
            for (checksum, item) in items {
                manifest["sources"]["org.osbuild.inline"]["items"][checksum] = item;
            }
        }
        let text = serde_json::to_string_pretty(&manifest).expect("JSON");
        self.fill(text, servers, &names)
    }

    /// What both programs have in their environment.
    pub(crate) fn variables(
        &self,
        servers: &[(&'static str, String)],
        served: &BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        let texts = self.texts("variables").into_iter();
        texts.map(|(name, text)| (name, self.fill(text, servers, served))).collect()
    }

    /// Writes what names stand for in their places.
    fn fill(
        &self,
        mut text: String,
        servers: &[(&'static str, String)],
        names: &BTreeMap<String, String>,
    ) -> String {
        for (name, url) in servers {
            text = text.replace(&format!("${{{name}}}"), url);
            if *name == "server" {
                text = text.replace("${host}", url.trim_start_matches("http://"));
            }
        }
        for (name, value) in names {
            // As a part of a text of JSON: keys have several lines.
            let value = json!(value).to_string();
            text = text.replace(&format!("${{{name}}}"), value.trim_matches('"'));
        }
        assert!(!text.contains("${"), "{}: not all names are known", self.name);
        text
    }

    /// The manifest with something in the place of what is made when it is run.
    pub(crate) fn sketch(&self) -> String {
        let names = self.served().into_iter().flat_map(|served| served.keys());
        let all = names.flat_map(|name| ["", ".manifest", ".index", ".key"].map(|of| format!("{name}{of}")));
        let urls = ["server", "tls", "tls.clients"].map(|name| (name, "http://127.0.0.1:1".to_owned()));
        self.manifest(&urls, &all.map(|name| (name.clone(), digest(name.as_bytes()))).collect())
    }

    fn texts(&self, member: &str) -> BTreeMap<String, String> {
        let Some(texts) = self.told.get(member) else { return BTreeMap::new() };
        let texts = texts.as_object().expect("an object");
        texts.iter().map(|(name, text)| (name.clone(), text.as_str().expect("a text").to_owned())).collect()
    }
}
