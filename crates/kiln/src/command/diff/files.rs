//! Names for checksums: those of the files that are downloaded.

use std::collections::{HashMap, HashSet};

use kiln_engine::compare::{Change, Edit};
use kiln_engine::manifest::Manifest;
use kiln_engine::manifest::json::Json;
use kiln_engine::manifest::place::Step;

/// How many digits of an id or a checksum are shown: enough to find it.
const SHORT: usize = 12;

/// File names of what is downloaded, by checksum.
pub(super) struct Files(HashMap<String, String>);

impl Files {
    /// The files of both manifests.
    pub(super) fn new(old: &Manifest, new: &Manifest) -> Self {
        let manifests = [old, new].into_iter();
        let items = manifests.flat_map(|manifest| manifest.sources.values()).flat_map(|source| &source.items);
        let file = |(checksum, item): (&String, &Json)| {
            let url =
                item.as_str().or_else(|| ["url", "path"].iter().find_map(|key| item.get(key)?.as_str()))?;
            let name = url.split(['?', '#']).next()?.trim_end_matches('/').rsplit('/').next()?;
            Some((checksum.clone(), name.to_owned()))
        };
        Self(items.filter_map(file).collect())
    }

    /// The name of a file.
    pub(super) fn name(&self, checksum: &str) -> Option<&str> {
        self.0.get(checksum).map(String::as_str)
    }

    /// Files that came for files of the same package that went: the place of what was added by that of what was removed.
    pub(super) fn replaced(&self, changes: &[Change]) -> Replaced {
        let mut packages: HashMap<(&[Step], &str), [Vec<usize>; 2]> = HashMap::new();
        for (index, change) in changes.iter().enumerate() {
            let side = match change.edit {
                Edit::Removed(_) => 0,
                Edit::Added(_) => 1,
                _ => continue,
            };
            if let Some((Step::Key(key), above)) = change.path.0.split_last()
                && let Some(name) = self.name(key)
            {
                packages.entry((above, package(name))).or_default()[side].push(index);
            }
        }
        let pairs = packages.into_values().filter_map(|sides| match [&sides[0][..], &sides[1][..]] {
            [[removed], [added]] => Some((*removed, *added)),
            _ => None,
        });
        let by_removed: HashMap<usize, usize> = pairs.collect();
        Replaced { added: by_removed.values().copied().collect(), by_removed }
    }
}

/// Changes that belong together, by their places.
pub(super) struct Replaced {
    /// What came, by what went.
    pub(super) by_removed: HashMap<usize, usize>,
    /// What came.
    pub(super) added: HashSet<usize>,
}

/// The name of the package in the name of a file: `bash` in `bash_5.2-1_amd64.deb` and in `bash-5.2-1.x86_64.rpm`.
fn package(file: &str) -> &str {
    if let Some((name, _)) = file.strip_suffix(".rpm").and_then(|name| name.rsplit_once('-'))
        && let Some((name, _)) = name.rsplit_once('-')
    {
        return name;
    }
    match file.split_once('_') {
        Some((name, _)) if file.ends_with(".deb") => name,
        _ => file,
    }
}

/// The beginning of an id or of digits.
pub(super) fn cut(text: &str) -> &str {
    text.get(..SHORT).unwrap_or(text)
}

/// The short form of a checksum; none if it is not one.
pub(super) fn checksum(text: &str) -> Option<String> {
    let (algorithm, digits) = text.split_once(':')?;
    let known = ["md5", "sha1", "sha256", "sha384", "sha512"].contains(&algorithm);
    (known && digits.len() >= 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
        .then(|| format!("{algorithm}:{}", cut(digits)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_known_by_the_names_of_their_files() {
        for (file, expected) in [
            ("bash_5.2.15-2+b7_amd64.deb", "bash"),
            ("libstdc++6_12.2.0-14_amd64.deb", "libstdc++6"),
            ("aardvark-dns-1.17.0-1.fc43.x86_64.rpm", "aardvark-dns"),
            ("noversion.rpm", "noversion.rpm"),
            ("one-two.rpm", "one-two.rpm"),
            ("some_file.tar", "some_file.tar"),
            ("", ""),
        ] {
            assert_eq!(package(file), expected);
        }
    }

    #[test]
    fn only_checksums_are_cut() {
        let digits = "0123456789abcdef".repeat(4);
        assert_eq!(checksum(&format!("sha256:{digits}")).as_deref(), Some("sha256:0123456789ab"));
        for text in
            ["sha256:abc", "name:tree", &format!("crc:{digits}"), &format!("sha256:{}", "ä".repeat(32)), ""]
        {
            assert_eq!(checksum(text), None, "{text}");
        }
    }
}
