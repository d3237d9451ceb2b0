//! What stages that set GRUB up have in common: where it finds file systems, and what is copied for it from the build
//! root.
//!
//! ```text
//! /usr/lib/grub/PLATFORM/*.mod, *.lst    modules, and lists of them     → /boot/grub2/PLATFORM
//! /usr/share/grub/unicode.pf2            the font of its menu           → /boot/grub2/fonts
//! /boot/efi/EFI/VENDOR                   programs that UEFI starts      → /boot/efi/EFI/VENDOR
//! ```

use std::fs::{self, File, FileTimes, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use kiln_api::ModuleError;
use schemars::JsonSchema;
use serde::Deserialize;

use super::root::Root;

/// What the configuration begins with, after the time that the menu waits: the entry that is to be started. Tools set
/// `next_entry` for one start, and `saved_entry` for all.
pub(crate) const SELECTION: &str = r#"
load_env

# What is to be started once goes before what is started always.
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="${saved_entry}"
fi
"#;

/// The font of the menu.
pub(crate) const FONT: &str = "/usr/share/grub/unicode.pf2";

/// Where packages put programs that UEFI starts.
pub(crate) const EFI_PROGRAMS: &str = "/boot/efi/EFI";

/// Where GRUB keeps variables from one start to the next.
pub(crate) const ENVIRONMENT: &str = "boot/grub2/grubenv";

/// The size of that file. GRUB writes to its blocks, not to the file, so that they must all be there.
const ENVIRONMENT_SIZE: usize = 1024;

/// The forms of UUIDs.
const UUID: &str = "^[0-9A-Za-z]{8}(-[0-9A-Za-z]{4}){3}-[0-9A-Za-z]{12}$|^[0-9A-Za-z]{4}-[0-9A-Za-z]{4}$";

/// The UUID of a file system: a long one, or the serial number of FAT.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("pattern" = UUID))]
pub(crate) struct Uuid(pub(crate) String);

/// How GRUB and the kernel find a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FileSystem {
    Uuid(String),
    Label(String),
    Device(String),
}

impl FileSystem {
    /// The one of the properties that is not empty.
    pub(crate) fn of(
        option: &str,
        uuid: Option<&Uuid>,
        label: Option<&str>,
        device: Option<&str>,
    ) -> Result<Self, ModuleError> {
        let filled = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let found = uuid.and_then(|Uuid(uuid)| filled(uuid)).map(Self::Uuid);
        let found = found.or_else(|| label.and_then(filled).map(Self::Label));
        let found = found.or_else(|| device.and_then(filled).map(Self::Device));
        found.ok_or_else(|| ModuleError::option(option, "does not say which file system it is"))
    }

    /// The arguments of GRUB's command `search`.
    pub(crate) fn search(&self) -> String {
        match self {
            Self::Uuid(uuid) => format!("--fs-uuid {uuid}"),
            Self::Label(label) => format!("--label {label}"),
            Self::Device(device) => device.clone(),
        }
    }

    /// The value of the kernel's argument `root`.
    pub(crate) fn root(&self) -> String {
        match self {
            Self::Uuid(uuid) => format!("UUID={uuid}"),
            Self::Label(label) => format!("LABEL={label}"),
            Self::Device(device) => device.clone(),
        }
    }
}

/// The content of GRUB's environment: lines, and what fills the file up.
pub(crate) fn environment(lines: &str) -> Result<String, ModuleError> {
    let mut text = format!("# GRUB Environment Block\n{lines}");
    let Some(rest) = ENVIRONMENT_SIZE.checked_sub(text.len()) else {
        return Err(ModuleError::invalid(format!(
            "GRUB's environment has room for {ENVIRONMENT_SIZE} bytes, not for {}: the kernel's options are too long",
            text.len()
        )));
    };
    text.extend(std::iter::repeat_n('#', rest));
    Ok(text)
}

/// A command about the terminal with its arguments, on a line of its own; nothing if there are none.
pub(crate) fn terminal(command: &str, arguments: &[String]) -> Option<String> {
    (!arguments.is_empty()).then(|| format!("\n{command} {}", arguments.join(" ")))
}

/// Writes a file of the tree.
pub(crate) fn write(tree: &Root, path: impl AsRef<Path>, text: &str) -> Result<(), ModuleError> {
    let path = path.as_ref();
    tree.create(path)?.write_all(text.as_bytes()).map_err(ModuleError::io("write", tree.shown(path)))
}

/// Copies the modules for a platform, and the font.
pub(crate) fn copy_modules(tree: &Root, platform: &str) -> Result<(), ModuleError> {
    let source = Path::new("/usr/lib/grub").join(platform);
    let target = Path::new("boot/grub2").join(platform);
    tree.make_directories(&target)?;
    let failed = || ModuleError::io("read directory", &source);
    for entry in fs::read_dir(&source).map_err(failed())? {
        let name = entry.map_err(failed())?.file_name();
        let kind = Path::new(&name).extension().and_then(|kind| kind.to_str());
        // The list of modules for device trees, which is empty.
        if matches!(kind, Some("mod" | "lst")) && name != "fdt.lst" {
            copy(&source.join(&name), tree, &target.join(&name))?;
        }
    }
    copy_font(tree, Path::new("boot/grub2/fonts"))
}

/// Copies the font to a directory.
pub(crate) fn copy_font(tree: &Root, target: &Path) -> Result<(), ModuleError> {
    tree.make_directories(target)?;
    copy(Path::new(FONT), tree, &target.join("unicode.pf2"))
}

/// Copies the programs of a vendor, and those that firmware starts if it knows of no others.
pub(crate) fn copy_efi_programs(tree: &Root, source: &Path, vendor: &str) -> Result<(), ModuleError> {
    let target = Path::new(EFI_PROGRAMS.trim_start_matches('/'));
    tree.make_directories(target)?;
    for directory in ["BOOT", vendor] {
        let target = target.join(directory);
        // Those of two packages would be mixed up.
        tree.make_directory(&target, 0o777)?;
        copy_tree(&source.join(directory), tree, &target)?;
    }
    Ok(())
}

/// Copies a file to the tree, with its mode and times.
pub(crate) fn copy(source: &Path, tree: &Root, target: &Path) -> Result<(), ModuleError> {
    let mut file = File::open(source).map_err(ModuleError::io("open", source))?;
    let mut copy = tree.create(target)?;
    io::copy(&mut file, &mut copy).map_err(ModuleError::io("copy", source))?;
    copy_status(&file, &copy).map_err(ModuleError::io("change", tree.shown(target)))
}

/// Copies a directory with all that is in it, also into one that is there; links are followed.
pub(crate) fn copy_tree(source: &Path, tree: &Root, target: &Path) -> Result<(), ModuleError> {
    let failed = || ModuleError::io("read directory", source);
    let entries = fs::read_dir(source).map_err(failed())?;
    tree.make_directories(target)?;
    for entry in entries {
        let name = entry.map_err(failed())?.file_name();
        let (source, target) = (source.join(&name), target.join(&name));
        if source.is_dir() { copy_tree(&source, tree, &target)? } else { copy(&source, tree, &target)? }
    }
    let directory = File::open(source).map_err(failed())?;
    copy_status(&directory, &tree.read(target)?).map_err(ModuleError::io("change", tree.shown(target)))
}

fn copy_status(from: &File, to: &File) -> io::Result<()> {
    let status = from.metadata()?;
    to.set_permissions(Permissions::from_mode(status.permissions().mode() & 0o7777))?;
    to.set_times(FileTimes::new().set_accessed(status.accessed()?).set_modified(status.modified()?))
}

/// Compares configurations.
#[cfg(test)]
pub(crate) mod testing {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;
    use crate::stage_fixture::Fixture;
    use kiln_api::stage::Stage;

    /// The commands of a configuration, without comments.
    pub(crate) fn commands(text: &str) -> Vec<String> {
        let lines = text.lines().map(|line| line.split_once(" # ").map_or(line, |(line, _)| line).trim_end());
        let is_command = |line: &&str| !line.is_empty() && !line.trim_start().starts_with('#');
        lines.filter(is_command).map(str::to_owned).collect()
    }

    /// Runs a stage and the reference's, and asserts that the trees are equal, but for comments in these files.
    #[track_caller]
    pub(crate) fn equal_to_the_references<S: Stage>(
        prepare: impl Fn(&mut Fixture),
        options: &Value,
        configurations: &[&str],
    ) {
        let [mut one, mut other] = [Fixture::new(), Fixture::new()];
        prepare(&mut one);
        prepare(&mut other);
        let Some((succeeded, said)) = other.run_reference(S::NAME, options.clone()) else { return };
        assert!(succeeded, "{options}: {said}");
        one.run::<S>(options.clone()).unwrap_or_else(|error| panic!("{options}: {error}"));
        let read = |fixture: &Fixture| -> BTreeMap<&str, Vec<String>> {
            let text = |path| fs::read_to_string(fixture.tree().join(path)).ok();
            configurations.iter().filter_map(|path| Some((*path, commands(&text(path)?)))).collect()
        };
        let (ours, theirs) = (read(&one), read(&other));
        assert!(!ours.is_empty(), "{options}: no configuration");
        assert_eq!(ours, theirs, "{options}");
        let listing = |fixture: &Fixture| {
            let shown =
                |line: &String| configurations.iter().any(|path| line.starts_with(&format!("tree/{path} ")));
            let lines = fixture.listing();
            lines.into_iter().filter(|line| !shown(line)).collect::<Vec<_>>()
        };
        assert_eq!(listing(&one), listing(&other), "{options}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_has_its_size_whatever_is_in_it() {
        for lines in ["", "saved_entry=1\n", "kernelopts=\u{e9}\n"] {
            let text = environment(lines).expect("it fits");
            assert_eq!(text.len(), ENVIRONMENT_SIZE);
            assert!(text.starts_with(&format!("# GRUB Environment Block\n{lines}#")), "{text}");
        }
        let error = environment(&"x".repeat(1024)).expect_err("too long").to_string();
        assert!(error.contains("1024 bytes, not for 1049"), "{error}");
    }

    #[test]
    fn directories_are_copied_with_modes_and_times() {
        let directory = tempfile::tempdir().expect("a directory");
        let (source, tree) = (directory.path().join("source"), directory.path().join("tree"));
        fs::create_dir_all(source.join("VENDOR/fw")).expect("made");
        fs::create_dir_all(source.join("BOOT")).expect("made");
        fs::create_dir_all(&tree).expect("made");
        let file = source.join("VENDOR/fw/a.efi");
        fs::write(&file, "program").expect("written");
        fs::set_permissions(&file, Permissions::from_mode(0o700)).expect("changed");
        std::os::unix::fs::symlink("VENDOR/fw/a.efi", source.join("link")).expect("linked");
        std::os::unix::fs::symlink("../link", source.join("BOOT/b.efi")).expect("linked");
        let old = FileTimes::new().set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(9));
        for path in ["VENDOR/fw/a.efi", "VENDOR/fw"] {
            File::open(source.join(path)).and_then(|file| file.set_times(old)).expect(path);
        }
        let root = Root::open(&tree).expect("a tree");
        copy_efi_programs(&root, &source, "VENDOR").expect("copied");
        for path in ["VENDOR/fw/a.efi", "BOOT/b.efi", "VENDOR/fw"] {
            let status = tree.join("boot/efi/EFI").join(path).symlink_metadata().expect(path);
            let age =
                status.modified().expect("a time").duration_since(std::time::UNIX_EPOCH).expect("after");
            assert_eq!(age.as_secs(), 9, "{path}");
            assert!(!status.is_symlink() && status.permissions().mode() & 0o777 >= 0o700, "{path}");
        }
        let error = copy_efi_programs(&root, &source, "VENDOR").expect_err("it is there").to_string();
        assert!(error.contains("File exists"), "{error}");
    }
}
