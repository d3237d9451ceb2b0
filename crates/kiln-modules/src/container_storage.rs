//! The host's storage of containers: what its configuration says.
//!
//! `/etc/containers/storage.conf` replaces `/usr/share/containers/storage.conf` as a whole. What is in neither has the
//! value that the programs that use such storages have built in, for root.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kiln_api::ModuleError;
use serde_json::{Map, Value};

/// Where the configuration may be; the first file that is there counts.
const PLACES: [&str; 2] = ["etc/containers/storage.conf", "usr/share/containers/storage.conf"];

const DRIVER: &str = "overlay";
const GRAPH_ROOT: &str = "/var/lib/containers/storage";
const RUN_ROOT: &str = "/run/containers/storage";

/// The configuration of a host's storage.
#[derive(Debug)]
pub(crate) struct ContainerStorage {
    /// The table `storage`; empty where nothing is configured.
    table: Map<String, Value>,
}

impl ContainerStorage {
    /// Reads the configuration below a root directory.
    pub(crate) fn of_host(root: &Path) -> Result<Self, ModuleError> {
        for place in PLACES {
            let path = root.join(place);
            match fs::read_to_string(&path) {
                Ok(text) => return Self::parse(&text, &path),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(ModuleError::io("read", path)(error)),
            }
        }
        Ok(Self { table: Map::new() })
    }

    fn parse(text: &str, path: &Path) -> Result<Self, ModuleError> {
        let table: toml::Table = toml::from_str(text).map_err(|error| {
            ModuleError::invalid(format!("`{}` is not valid TOML: {}", path.display(), error.message()))
        })?;
        match table.get("storage").cloned().map(json) {
            None => Ok(Self { table: Map::new() }),
            Some(Value::Object(table)) => Ok(Self { table }),
            Some(_) => Err(ModuleError::invalid(format!("`storage` of `{}` is no table", path.display()))),
        }
    }

    /// The table `storage` as stages are told of it.
    pub(crate) fn table(&self) -> &Map<String, Value> {
        &self.table
    }

    /// The directory with the images.
    pub(crate) fn graph_root(&self) -> PathBuf {
        self.text("graphroot", GRAPH_ROOT).into()
    }

    /// The name of an image in this storage, for `skopeo` and the like.
    pub(crate) fn image(&self, name: &str) -> String {
        let driver = self.text("driver", DRIVER);
        let graph_root = self.text("graphroot", GRAPH_ROOT);
        let run_root = self.text("runroot", RUN_ROOT);
        format!("containers-storage:[{driver}@{graph_root}+{run_root}]{name}")
    }

    fn text<'a>(&'a self, name: &str, default: &'a str) -> &'a str {
        self.table.get(name).and_then(Value::as_str).unwrap_or(default)
    }
}

/// A value of TOML as one of JSON; a date becomes its text.
fn json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(truth) => truth.into(),
        toml::Value::Datetime(date) => date.to_string().into(),
        toml::Value::Array(items) => items.into_iter().map(json).collect(),
        toml::Value::Table(members) => members.into_iter().map(|(name, value)| (name, json(value))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn write(root: &Path, place: &str, text: &str) {
        let path = root.join(place);
        fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        fs::write(path, text).expect("written");
    }

    #[test]
    fn the_first_configuration_counts_as_a_whole() {
        let root = tempfile::tempdir().expect("a directory");
        let read = || ContainerStorage::of_host(root.path()).expect("read");
        let none = read();
        assert!(none.table().is_empty());
        assert_eq!(none.graph_root(), Path::new("/var/lib/containers/storage"));
        let built_in = "containers-storage:[overlay@/var/lib/containers/storage+/run/containers/storage]x";
        assert_eq!(none.image("x"), built_in);

        write(root.path(), PLACES[1], "[storage]\ndriver = \"vfs\"\ngraphroot = \"/g\"\nrunroot = \"/r\"\n");
        assert_eq!(read().image("x"), "containers-storage:[vfs@/g+/r]x");
        write(
            root.path(),
            PLACES[0],
            "[storage]\ngraphroot = \"/h\"\n[storage.options]\nsizes = [1, true]\n",
        );
        assert_eq!(read().image("x"), "containers-storage:[overlay@/h+/run/containers/storage]x");
        assert_eq!(read().graph_root(), Path::new("/h"));
        assert_eq!(
            Value::Object(read().table().clone()),
            json!({"graphroot": "/h", "options": {"sizes": [1, true]}})
        );
        write(root.path(), PLACES[0], "");
        assert_eq!(read().image("x"), built_in, "the other file does not count");
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let root = tempfile::tempdir().expect("a directory");
        for (text, expected) in [("[storage", "is not valid TOML"), ("storage = 1", "is no table")] {
            write(root.path(), PLACES[0], text);
            let error = ContainerStorage::of_host(root.path()).expect_err(expected).to_string();
            assert!(error.contains(expected) && error.contains("etc/containers/storage.conf"), "{error}");
        }
    }
}
