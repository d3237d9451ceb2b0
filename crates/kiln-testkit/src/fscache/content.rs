//! Content that proves itself: whose it is, and that nothing of it is missing, changed or too much.
//!
//! ```text
//! about          JSON: {"name": NAME, "recipe": RECIPE, "files": {PATH: [BYTES, SHA-256], …}}; written last
//! f0, d1/f1, …   a line `NAME PATH`, then what the seed gives
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Dice;

const ABOUT: &str = "about";
/// The most files that an entry has beside `about`.
const FILES: u64 = 6;
/// The most bytes that a file has beside its first line.
const BYTES: u64 = 32 << 10;

/// Fills a directory with the content of an entry.
pub fn fill(directory: &Path, name: &str, seed: u64) -> std::io::Result<()> {
    fill_made_by(directory, name, seed, None)
}

/// Fills a directory with the content of an entry that was made by a recipe.
pub fn fill_made_by(directory: &Path, name: &str, seed: u64, recipe: Option<&str>) -> std::io::Result<()> {
    let mut dice = Dice::new(seed);
    let mut files = serde_json::Map::new();
    for number in 0..=dice.below(FILES) {
        let depth = dice.below(4);
        let parents: String = (0..depth).map(|level| format!("d{number}{level}/")).collect();
        let path = format!("{parents}f{number}");
        let mut bytes = format!("{name} {path}\n").into_bytes();
        let length = bytes.len() + usize::try_from(dice.below(BYTES)).unwrap_or_default();
        while bytes.len() < length {
            bytes.extend(dice.roll().to_le_bytes());
        }
        bytes.truncate(length);
        let file = directory.join(&path);
        fs::create_dir_all(file.parent().unwrap_or(directory))?;
        fs::File::create_new(file)?.write_all(&bytes)?;
        files.insert(path, json!([length, digest(&bytes)]));
    }
    let about = json!({"name": name, "recipe": recipe, "files": files});
    fs::File::create_new(directory.join(ABOUT))?.write_all(about.to_string().as_bytes())
}

/// The recipe that content was made by; none if it does not say.
pub fn recipe(directory: &Path) -> Option<String> {
    let about: Value = serde_json::from_slice(&fs::read(directory.join(ABOUT)).ok()?).ok()?;
    about["recipe"].as_str().map(str::to_owned)
}

/// Checks that a directory holds all content of an entry and nothing else, and says what is wrong.
pub fn check(directory: &Path, name: &str) -> Result<(), String> {
    let at = |what: &str| format!("`{}`: {what}", directory.display());
    let about = fs::read(directory.join(ABOUT)).map_err(|error| at(&format!("`{ABOUT}`: {error}")))?;
    let about: Value =
        serde_json::from_slice(&about).map_err(|error| at(&format!("`{ABOUT}` is not whole: {error}")))?;
    if about["name"] != name {
        return Err(at(&format!("asked for `{name}`, got the entry of {}", about["name"])));
    }
    let mut found = BTreeMap::new();
    collect(directory, directory, &mut found).map_err(|error| at(&format!("cannot be read: {error}")))?;
    found.remove(ABOUT);
    let expected = about["files"].as_object().ok_or_else(|| at("no list of files"))?;
    if !found.keys().eq(expected.keys().collect::<std::collections::BTreeSet<_>>()) {
        let (found, expected) = (found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        return Err(at(&format!("holds {found:?} instead of {expected:?}")));
    }
    for (path, bytes) in &found {
        if expected[path] != json!([bytes.len(), digest(bytes)]) {
            return Err(at(&format!("`{path}` has other content: {} bytes", bytes.len())));
        }
        if !bytes.starts_with(format!("{name} {path}\n").as_bytes()) {
            return Err(at(&format!("`{path}` belongs to another entry")));
        }
    }
    Ok(())
}

fn collect(top: &Path, directory: &Path, found: &mut BTreeMap<String, Vec<u8>>) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(top, &entry.path(), found)?;
        } else {
            let path = entry.path();
            let name = path.strip_prefix(top).unwrap_or(&path).to_string_lossy().into_owned();
            found.insert(name, fs::read(path)?);
        }
    }
    Ok(())
}

/// The SHA-256 of bytes, in hexadecimal digits.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_says_which_recipe_made_it() {
        let directory = tempfile::tempdir().expect("a directory");
        fill_made_by(directory.path(), "a", 9, Some("r")).expect("content");
        check(directory.path(), "a").expect("it is whole");
        assert_eq!(recipe(directory.path()).as_deref(), Some("r"));
    }

    #[test]
    fn whatever_is_wrong_with_content_is_found() {
        let whole = || {
            let directory = tempfile::tempdir().expect("a directory");
            fill(directory.path(), "a", 9).expect("content");
            directory
        };
        let directory = whole();
        check(directory.path(), "a").expect("it is whole");
        assert_eq!(recipe(directory.path()).as_deref(), None);
        let mut files = BTreeMap::new();
        collect(directory.path(), directory.path(), &mut files).expect("files");
        assert!(files.len() > 3, "several files: {:?}", files.keys());
        assert!(check(directory.path(), "b").expect_err("foreign").contains("got the entry of \"a\""));
        for path in files.keys() {
            let damages: [&dyn Fn(&Path); 4] = [
                &|file| fs::remove_file(file).expect("remove"),
                &|file| fs::write(file, "").expect("empty"),
                &|file| {
                    let mut bytes = fs::read(file).expect("read");
                    *bytes.last_mut().expect("not empty") ^= 1;
                    fs::write(file, bytes).expect("change");
                },
                &|file| fs::write(file.with_extension("more"), "x").expect("add"),
            ];
            for (number, damage) in damages.iter().enumerate() {
                let directory = whole();
                damage(&directory.path().join(path));
                check(directory.path(), "a").expect_err(&format!("{path}, damage {number}"));
            }
        }
    }
}
