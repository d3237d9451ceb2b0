//! One manifest, and what is told about it: `manifests/NAME.json`.
//!
//! ```text
//! about      what the manifest is for
//! needs      programs, or absolute paths of files, that it needs here: {PROGRAM: DEBIAN PACKAGE}
//! exports    the pipelines that are exported and compared
//! files      files that become items of `org.osbuild.inline`: {NAME: TEXT}
//! served     what a loopback server has: see `served.rs`
//! differs    files that no two builds make alike: {PATH: WHY}
//! code       the exit code of both programs; 0 if it is not told
//! crashes    why the reference ends in a traceback, without a result: then results and records are not compared
//! manifest   the manifest
//! ```
//!
//! In the manifest `${NAME}` stands for the checksum of a file or of what is served, `${server}` for the server's URL
//! and `${host}` for its address.

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

const MEMBERS: [&str; 9] =
    ["about", "needs", "exports", "files", "served", "differs", "code", "crashes", "manifest"];

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

    pub(crate) fn code(&self) -> i64 {
        self.told.get("code").map_or(0, |code| code.as_i64().expect("an exit code"))
    }

    pub(crate) fn crashes(&self) -> bool {
        self.told.contains_key("crashes")
    }

    /// The paths of files that differ from build to build.
    pub(crate) fn differs(&self) -> Vec<String> {
        self.texts("differs").into_keys().collect()
    }

    pub(crate) fn served(&self) -> Option<&Map<String, Value>> {
        self.told.get("served").map(|served| served.as_object().expect("archives"))
    }

    /// The manifest as a text, given the checksums of what is served, and where.
    pub(crate) fn manifest(&self, server: &str, served: &BTreeMap<String, String>) -> String {
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
            manifest["sources"]["org.osbuild.inline"] = json!({"items": items});
        }
        let mut text = serde_json::to_string_pretty(&manifest).expect("JSON");
        for (name, checksum) in names {
            text = text.replace(&format!("${{{name}}}"), &checksum);
        }
        let host = server.trim_start_matches("http://");
        let text = text.replace("${server}", server).replace("${host}", host);
        assert!(!text.contains("${"), "{}: not all names are known", self.name);
        text
    }

    /// The manifest with something in the place of what is made when it is run.
    pub(crate) fn sketch(&self) -> String {
        let names = self.served().into_iter().flat_map(|served| served.keys());
        let all = names.flat_map(|name| ["", ".manifest", ".index"].map(|of| format!("{name}{of}")));
        self.manifest(
            "http://127.0.0.1:1",
            &all.map(|name| (name.clone(), digest(name.as_bytes()))).collect(),
        )
    }

    fn texts(&self, member: &str) -> BTreeMap<String, String> {
        let Some(texts) = self.told.get(member) else { return BTreeMap::new() };
        let texts = texts.as_object().expect("an object");
        texts.iter().map(|(name, text)| (name.clone(), text.as_str().expect("a text").to_owned())).collect()
    }
}
