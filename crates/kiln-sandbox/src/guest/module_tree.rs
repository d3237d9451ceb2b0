//! All modules of a kernel: which there are, what they depend on, and by which names the kernel asks for them.
//!
//! This is in `modules.dep`, `modules.alias` and `modules.builtin`, which `depmod` makes when a kernel is installed. Of a kernel
//! that was only unpacked the first two are missing: the modules are then asked themselves.
//!
//! ```text
//! modules.dep       kernel/fs/fat/vfat.ko: kernel/fs/fat/fat.ko
//! modules.alias     alias fs-vfat vfat
//! modules.builtin   kernel/fs/ext4/ext4.ko
//! ```
//!
//! Aliases with a colon name pieces of hardware, by patterns, and are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::kernel_module::{name_of, normalised, read, values};

const DEPENDENCIES: &str = "modules.dep";
const ALIASES: &str = "modules.alias";
const BUILT_IN: &str = "modules.builtin";

/// A name that no module of the kernel has.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("it has no module `{0}`")]
pub struct NoModule(pub String);

/// A module: its file, relative to the directory, and the names of those it depends on.
#[derive(Debug, Default, PartialEq, Eq)]
struct Module {
    file: PathBuf,
    needs: Vec<String>,
}

/// The modules of a kernel.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ModuleTree {
    modules: BTreeMap<String, Module>,
    aliases: BTreeMap<String, Vec<String>>,
    built_in: BTreeSet<String>,
}

impl ModuleTree {
    /// Reads what there is in the directory of a kernel's modules.
    pub fn read(directory: &Path) -> io::Result<Self> {
        let mut tree = Self::default();
        for line in optional(&directory.join(BUILT_IN))?.unwrap_or_default().lines() {
            tree.built_in.extend(name_of(Path::new(line)));
        }
        let Some(dependencies) = optional(&directory.join(DEPENDENCIES))? else {
            tree.ask(directory, Path::new(""))?;
            return Ok(tree);
        };
        for (file, needs) in dependencies.lines().filter_map(|line| line.split_once(':')) {
            let file = PathBuf::from(file);
            let needs = needs.split_ascii_whitespace().filter_map(|file| name_of(Path::new(file))).collect();
            let Some(name) = name_of(&file) else { continue };
            tree.modules.insert(name, Module { file, needs });
        }
        for line in optional(&directory.join(ALIASES))?.unwrap_or_default().lines() {
            let mut words = line.split_ascii_whitespace().skip_while(|word| *word != "alias").skip(1);
            if let (Some(alias), Some(name)) = (words.next(), words.next()) {
                tree.add_alias(alias, name);
            }
        }
        Ok(tree)
    }

    /// Writes it, to be [read](Self::read) elsewhere: the content of each file, by name.
    pub(super) fn files(&self) -> [(&'static str, String); 3] {
        let (mut dependencies, mut aliases, mut built_in) = (String::new(), String::new(), String::new());
        let file = |name: &String| self.modules.get(name).map(|module| module.file.display());
        for module in self.modules.values() {
            // Writing to memory cannot fail.
            let _ = write!(dependencies, "{}:", module.file.display());
            for need in module.needs.iter().filter_map(file) {
                let _ = write!(dependencies, " {need}");
            }
            dependencies.push('\n');
        }
        for (alias, names) in &self.aliases {
            for name in names {
                let _ = writeln!(aliases, "alias {alias} {name}");
            }
        }
        for name in &self.built_in {
            let _ = writeln!(built_in, "{name}.ko");
        }
        [(DEPENDENCIES, dependencies), (ALIASES, aliases), (BUILT_IN, built_in)]
    }

    /// The modules that a name means: of one, or an alias; none if there are none, or if it is built in.
    pub fn named(&self, name: &str) -> Vec<String> {
        let own = normalised(name);
        if self.modules.contains_key(&own) {
            return vec![own];
        }
        self.aliases.get(&own).cloned().unwrap_or_default()
    }

    /// The files of modules and of all that they depend on, relative to the directory, in the order in which they are loaded.
    pub fn order(&self, names: &[&str]) -> Result<Vec<PathBuf>, NoModule> {
        let (mut order, mut seen) = (Vec::new(), BTreeSet::new());
        for name in names {
            self.add(&normalised(name), &mut order, &mut seen)?;
        }
        Ok(order)
    }

    fn add(&self, name: &str, order: &mut Vec<PathBuf>, seen: &mut BTreeSet<String>) -> Result<(), NoModule> {
        // Noted before what it needs: modules that need each other must not go round.
        if self.built_in.contains(name) || !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let module = self.modules.get(name).ok_or_else(|| NoModule(name.to_owned()))?;
        for need in &module.needs {
            self.add(need, order, seen)?;
        }
        order.push(module.file.clone());
        Ok(())
    }

    /// Asks all modules below a directory.
    fn ask(&mut self, directory: &Path, below: &Path) -> io::Result<()> {
        for entry in fs::read_dir(directory.join(below))? {
            let entry = entry?;
            let file = below.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                self.ask(directory, &file)?;
            } else if let Some(name) = name_of(&file) {
                let content = read(&entry.path())?;
                let needs = values(&content, "depends").flat_map(|names| names.split(','));
                let needs = needs.filter(|need| !need.is_empty()).map(normalised).collect();
                for alias in values(&content, "alias") {
                    self.add_alias(alias, &name);
                }
                self.modules.insert(name, Module { file, needs });
            }
        }
        Ok(())
    }

    fn add_alias(&mut self, alias: &str, name: &str) {
        if !alias.contains(':') {
            let names = self.aliases.entry(normalised(alias)).or_default();
            let name = normalised(name);
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
}

fn optional(path: &Path) -> io::Result<Option<String>> {
    match fs::read(path) {
        Ok(text) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> (tempfile::TempDir, ModuleTree) {
        let directory = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).expect("written");
        write(BUILT_IN, "kernel/fs/ext4/ext4.ko\n");
        write(
            DEPENDENCIES,
            "kernel/fs/fat/vfat.ko.xz: kernel/fs/fat/fat.ko.xz kernel/fs/ext4/ext4.ko\nkernel/fs/fat/fat.ko.xz:\n\
             kernel/a.ko: kernel/b-c.ko\nkernel/b-c.ko: kernel/a.ko\n",
        );
        write(
            ALIASES,
            "# Aliases extracted from modules themselves.\nalias fs-vfat vfat\nalias pci:v1* fat\nalias x a\nalias x b-c\n",
        );
        let tree = ModuleTree::read(directory.path()).expect("read");
        (directory, tree)
    }

    #[test]
    fn modules_come_after_what_they_depend_on() {
        let (_directory, tree) = tree();
        let order = |names: &[&str]| tree.order(names);
        assert_eq!(
            order(&["vfat"]),
            Ok(vec!["kernel/fs/fat/fat.ko.xz".into(), "kernel/fs/fat/vfat.ko.xz".into()])
        );
        assert_eq!(order(&["ext4"]), Ok(vec![]));
        assert_eq!(order(&["b-c", "a"]).map(|files| files.len()), Ok(2));
        assert_eq!(order(&["fat", "xfs"]), Err(NoModule("xfs".to_owned())));
    }

    #[test]
    fn the_kernel_asks_by_alias_or_by_name() {
        let (_directory, tree) = tree();
        for (name, expected) in [
            ("fs-vfat", &["vfat"][..]),
            ("fs_vfat", &["vfat"]),
            ("b_c", &["b_c"]),
            ("x", &["a", "b_c"]),
            ("pci:v1*", &[]),
            ("ext4", &[]),
        ] {
            assert_eq!(tree.named(name), expected, "{name}");
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        let (directory, tree) = tree();
        for (name, text) in tree.files() {
            fs::write(directory.path().join(name), text).expect("written");
        }
        let mut expected = tree;
        // What is built in is in no file.
        expected.modules.get_mut("vfat").expect("there").needs.retain(|name| name != "ext4");
        assert_eq!(ModuleTree::read(directory.path()).expect("read"), expected);
    }
}
