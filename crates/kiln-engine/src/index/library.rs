//! A library directory in the reference's layout: `stages/NAME`, `assemblers/NAME`, …, each with a
//! `NAME.meta.json` that describes it, or with the description in its Python source.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kiln_api::module::Kind;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Description, Unusable, python};

/// What the name of a description ends with.
const DESCRIPTION: &str = ".meta.json";

/// The package that Python modules of a library import.
const PACKAGE: &str = "osbuild";

/// A library directory.
#[derive(Clone, Debug)]
pub struct Library {
    directory: PathBuf,
    package: Option<PathBuf>,
}

/// The content of a description: exactly these members.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Meta {
    summary: String,
    description: Vec<String>,
    #[serde(default)]
    capabilities: Vec<String>,
    schema: Option<Map<String, Value>>,
    schema_2: Option<Map<String, Value>>,
}

impl Library {
    /// The library in a directory, which must be absolute: modules run elsewhere.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, package: None }
    }

    /// Lets its modules import a package that is elsewhere, as a whole directory.
    #[must_use]
    pub fn with_package(mut self, package: Option<PathBuf>) -> Self {
        self.package = package;
        self
    }

    /// Whether the package that its modules import is to be looked for elsewhere: there is a place for it, which is empty.
    pub fn lacks_package(&self) -> bool {
        fs::read_dir(self.directory.join(PACKAGE)).is_ok_and(|mut entries| entries.next().is_none())
    }

    /// The package that its modules import, if that is elsewhere.
    pub fn package_elsewhere(&self) -> Option<&Path> {
        self.package.as_deref()
    }

    /// The package that its modules import; there may be none.
    pub(super) fn package(&self) -> PathBuf {
        self.package.clone().unwrap_or_else(|| self.directory.join(PACKAGE))
    }

    /// Where Python finds the package.
    pub(crate) fn python_path(&self) -> Option<PathBuf> {
        let package = self.package();
        package.join("__init__.py").is_file().then(|| package.parent().map(Path::to_owned)).flatten()
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The directory of the modules of a kind.
    fn of_kind(&self, kind: Kind) -> PathBuf {
        self.directory.join(match kind {
            Kind::Stage => "stages",
            Kind::Assembler => "assemblers",
            Kind::Source => "sources",
            Kind::Input => "inputs",
            Kind::Device => "devices",
            Kind::Mount => "mounts",
            Kind::Runner => "runners",
        })
    }

    /// The program of a module; none if there is none.
    pub fn program(&self, kind: Kind, name: &str) -> Option<PathBuf> {
        is_name(name).then(|| self.of_kind(kind).join(name)).filter(|path| path.is_file())
    }

    /// All modules of a kind by name, in no order.
    pub fn list(&self, kind: Kind) -> Vec<(String, PathBuf)> {
        let Ok(entries) = fs::read_dir(self.of_kind(kind)) else { return Vec::new() };
        entries
            .filter_map(Result::ok)
            .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
            .filter(|(name, path)| !name.ends_with(DESCRIPTION) && path.is_file())
            .collect()
    }

    /// What a module says of itself.
    pub(super) fn describe(&self, kind: Kind, name: &str) -> Result<Description, Unusable> {
        if !is_name(name) {
            return Err(Unusable::Unknown);
        }
        let path = self.of_kind(kind).join(name);
        let mut meta = path.clone().into_os_string();
        meta.push(DESCRIPTION);
        let meta = PathBuf::from(meta);
        match fs::read(&meta) {
            Ok(text) => from_json(kind, name, path, &text)
                .map_err(|reason| Unusable::Broken(format!("`{}`: {reason}", meta.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => from_program(kind, name, &path),
            Err(error) => Err(Unusable::Broken(format!("cannot read `{}`: {error}", meta.display()))),
        }
    }
}

/// Whether a name is that of a file in a directory.
fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains('/') && name != "." && name != ".."
}

fn from_json(kind: Kind, name: &str, path: PathBuf, text: &[u8]) -> Result<Description, String> {
    let meta: Meta = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if meta.schema.is_none() && meta.schema_2.is_none() {
        return Err("has neither `schema` nor `schema_2`".to_owned());
    }
    let words = (meta.summary, meta.description.join("\n"));
    let fragments = (meta.schema.unwrap_or_default(), meta.schema_2.unwrap_or_default());
    Ok(Description::external(kind, name, path, words, meta.capabilities, fragments))
}

fn from_program(kind: Kind, name: &str, path: &Path) -> Result<Description, Unusable> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Unusable::Unknown),
        Err(error) => return Err(Unusable::Broken(format!("cannot read `{}`: {error}", path.display()))),
    };
    let broken = |reason: &str| Unusable::Broken(format!("`{}`: {reason}", path.display()));
    let Ok(text) = String::from_utf8(text) else {
        return Err(broken(&format!(
            "is not Python source, and there is no `{name}{DESCRIPTION}` beside it"
        )));
    };
    let facts = python::facts(&text);
    let (summary, rest) = facts.documentation.split_once('\n').unwrap_or((&facts.documentation, ""));
    let fragment = |name: &str, text: Option<&String>| match text {
        None => Ok(Map::new()),
        // What stands in the source are the members, without the braces around them.
        Some(text) => serde_json::from_str::<Map<String, Value>>(&format!("{{{text}}}"))
            .map_err(|error| broken(&format!("`{name}` is not JSON: {error}"))),
    };
    let one = fragment("SCHEMA", facts.schema.as_ref())?;
    let two = fragment("SCHEMA_2", facts.schema_2.as_ref())?;
    let words = (summary.to_owned(), rest.to_owned());
    Ok(Description::external(kind, name, path.to_owned(), words, facts.capabilities, (one, two)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::manifest::Format;

    fn library(files: &[(&str, &str)]) -> (tempfile::TempDir, Library) {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, text).expect("written");
        }
        let library = Library::new(directory.path().to_owned());
        (directory, library)
    }

    #[test]
    fn the_description_beside_a_module_says_what_it_takes() {
        let meta = json!({
            "summary": "Does it", "description": ["First.", "Second."], "capabilities": ["CAP_MAC_ADMIN"],
            "schema_2": {
                "options": {"definitions": {"d": {"type": "string"}}, "properties": {"o": {"$ref": "#/definitions/d"}}},
                "inputs": {"type": "object"},
            },
        });
        let (_directory, library) = library(&[("stages/org.x.a.meta.json", &meta.to_string())]);
        let found = library.describe(Kind::Stage, "org.x.a").expect("described");
        assert_eq!((found.summary.as_str(), found.text.as_str()), ("Does it", "First.\nSecond."));
        assert_eq!(found.capabilities, ["CAP_MAC_ADMIN"]);
        let schema = found.schema(Format::Two).expect("a schema");
        assert_eq!(schema["definitions"], json!({"d": {"type": "string"}}));
        assert_eq!(
            schema["properties"]["options"],
            json!({"properties": {"o": {"$ref": "#/definitions/d"}}})
        );
        assert_eq!(schema["properties"]["type"], json!({"enum": ["org.x.a"]}));
        assert_eq!(schema["properties"]["mounts"], json!({"type": "array"}));
        assert_eq!(schema["required"], json!(["type"]));
        // A module without a schema for format 1 takes any options there.
        let schema = found.schema(Format::One).expect("a schema");
        assert_eq!(schema["properties"]["options"], json!({}));
        assert_eq!(schema["properties"].get("inputs"), None);
    }

    #[test]
    fn the_package_is_in_the_library_or_elsewhere() {
        let (directory, library) = library(&[("osbuild/__init__.py", "")]);
        assert!(!library.lacks_package());
        assert_eq!(library.package_elsewhere(), None);
        assert_eq!(library.python_path().as_deref(), Some(directory.path()));

        let empty = tempfile::tempdir().expect("a directory");
        let other = Library::new(empty.path().to_owned());
        // Nobody wants one.
        assert!(!other.lacks_package());
        assert_eq!(other.python_path(), None);
        fs::create_dir(empty.path().join("osbuild")).expect("made");
        assert!(other.lacks_package());
        let other = other.with_package(Some(directory.path().join("osbuild")));
        assert_eq!(other.package_elsewhere(), Some(directory.path().join("osbuild").as_path()));
        assert_eq!(other.python_path().as_deref(), Some(directory.path()));
    }

    #[test]
    fn what_an_old_module_says_stands_in_its_source() {
        let source = "#!/usr/bin/python3\n\"\"\"Short\n\nLong.\n\"\"\"\nSCHEMA = \"\"\"\n\"required\": [\"a\"]\n\"\"\"\n";
        let (_directory, library) = library(&[("assemblers/org.x.old", source)]);
        let found = library.describe(Kind::Assembler, "org.x.old").expect("described");
        assert_eq!((found.summary.as_str(), found.text.as_str()), ("Short", "\nLong."));
        for (format, named) in [(Format::One, "name"), (Format::Two, "type")] {
            let schema = found.schema(format).expect("a schema");
            assert_eq!(schema["properties"]["options"], json!({"required": ["a"]}));
            assert_eq!(schema["required"], json!([named]));
        }
    }

    #[test]
    fn what_cannot_be_understood_says_why() {
        let (directory, library) = library(&[
            ("stages/a.meta.json", "{"),
            ("stages/b.meta.json", r#"{"summary": "s", "description": []}"#),
            ("stages/c.meta.json", r#"{"summary": "s", "description": [], "schema": {}, "extra": 1}"#),
            ("stages/d", "SCHEMA = \"oops\"\n"),
            ("mounts/m.meta.json", r#"{"summary": "s", "description": [], "schema": {"type": "object"}}"#),
        ]);
        fs::write(directory.path().join("stages/e"), [0x7f, b'E', 0xff]).expect("written");
        let reason = |name: &str| match library.describe(Kind::Stage, name) {
            Err(Unusable::Broken(reason)) => reason.replace(&directory.path().display().to_string(), ""),
            other => panic!("{other:?}"),
        };
        assert_eq!(reason("a"), "`/stages/a.meta.json`: EOF while parsing an object at line 1 column 1");
        assert_eq!(reason("b"), "`/stages/b.meta.json`: has neither `schema` nor `schema_2`");
        assert!(reason("c").contains("unknown field `extra`"), "{}", reason("c"));
        assert_eq!(reason("d"), "`/stages/d`: `SCHEMA` is not JSON: key must be a string at line 1 column 2");
        assert_eq!(reason("e"), "`/stages/e`: is not Python source, and there is no `e.meta.json` beside it");
        for name in ["f", "", "..", "../stages/a"] {
            assert_eq!(library.describe(Kind::Stage, name).err(), Some(Unusable::Unknown), "{name}");
        }
        // Mounts are of format 2 alone.
        let mount = library.describe(Kind::Mount, "m").expect("described");
        assert_eq!(mount.schema(Format::Two), None);
    }
}
