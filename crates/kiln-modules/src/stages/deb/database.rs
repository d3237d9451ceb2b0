//! dpkg's database in the tree, as dpkg 1.16 and later read it.
//!
//! ```text
//! var/lib/dpkg/
//!   status            one stanza per package
//!   available         empty: only dselect used it
//!   arch              foreign architectures, if packages of several are there
//!   diversions        three lines each: from, to, package
//!   statoverride      user group mode path
//!   info/format       "1": packages that are co-installable carry their architecture in their files' names
//!   info/PKG.list     what the package contains; info/PKG.{md5sums,conffiles,postinst,…}: its control members
//!   triggers/File     path package: who wants to know of changes below a path
//!   triggers/NAME     package: who wants to know of an explicit trigger
//!   triggers/Unincorp trigger awaiting-package: activations that dpkg takes over when it next starts
//!   updates/          dpkg's journal, empty between its runs
//! ```
//!
//! A package is registered as `install ok unpacked` when its files are in place; the tree's own dpkg takes it
//! from there and rewrites the files in its own way.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use kiln_api::ModuleError;

use super::archive::Deb;
use super::control::{Package, parse_stanzas};
use super::tree::member_path;

/// Where the database is.
pub(super) const DIRECTORY: &str = "var/lib/dpkg";

/// Members that are scripts.
const SCRIPTS: [&str; 5] = ["preinst", "postinst", "prerm", "postrm", "config"];

/// A configuration file as its package names it.
pub(super) struct Conffile {
    /// Path below the tree.
    pub(super) path: PathBuf,
}

/// The configuration files of a package.
pub(super) fn conffiles(deb: &Deb) -> Vec<Conffile> {
    let text = deb.text("conffiles").unwrap_or_default();
    text.lines()
        // `remove-on-upgrade /path` names a file that the package no longer has.
        .filter(|line| line.starts_with('/'))
        .filter_map(|line| Some(Conffile { path: member_path(line.trim_end().as_bytes())? }))
        .collect()
}

/// A package that the tree already has.
#[derive(Debug)]
pub(super) struct Installed {
    /// The package.
    pub(super) package: Package,
    /// Its state, as `installed` or `unpacked`.
    pub(super) state: String,
}

/// A file that one package has moved out of the way for all others.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Diversion {
    /// The path that packages ship.
    pub(super) from: PathBuf,
    /// Where it goes instead.
    pub(super) to: PathBuf,
    /// The package whose own file stays at `from`; `:` if there is none.
    pub(super) package: String,
}

/// Owner and mode of a path that the administrator has set for good.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Override {
    /// The user's name, or `#` and its number.
    pub(super) user: String,
    /// The group's name, or `#` and its number.
    pub(super) group: String,
    /// Permission bits.
    pub(super) mode: u32,
    /// Path below the tree.
    pub(super) path: PathBuf,
}

/// The database of a tree.
pub(super) struct Database {
    directory: PathBuf,
}

impl Database {
    /// The database below a tree's root; what an empty one needs is made.
    pub(super) fn open(tree: &Path) -> Result<Self, ModuleError> {
        let database = Self { directory: tree.join(DIRECTORY) };
        for part in ["alternatives", "info", "parts", "triggers", "updates"] {
            let path = database.directory.join(part);
            std::fs::create_dir_all(&path).map_err(ModuleError::io("create directory", &path))?;
        }
        for (part, content) in [("status", ""), ("available", ""), ("info/format", "1\n")] {
            if !database.directory.join(part).exists() {
                database.write(part, content)?;
            }
        }
        Ok(database)
    }

    /// The packages that the tree has.
    pub(super) fn installed(&self) -> Result<Vec<Installed>, ModuleError> {
        let mut installed = Vec::new();
        for stanza in parse_stanzas(&self.read("status")?)? {
            let status = stanza.get("Status").unwrap_or_default();
            let state = status.rsplit(' ').next().unwrap_or_default().to_owned();
            if state != "not-installed" && stanza.get("Version").is_some() {
                installed.push(Installed { package: Package::new(stanza)?, state });
            }
        }
        Ok(installed)
    }

    /// The paths of an installed package, below the tree.
    pub(super) fn list(&self, id: &str) -> Result<Vec<PathBuf>, ModuleError> {
        let text = self.read(&format!("info/{id}.list"))?;
        Ok(text.lines().filter_map(|line| member_path(line.as_bytes())).collect())
    }

    /// The diversions in force.
    pub(super) fn diversions(&self) -> Result<Vec<Diversion>, ModuleError> {
        let text = self.read("diversions")?;
        let mut lines = text.lines();
        let mut diversions = Vec::new();
        while let (Some(from), Some(to), Some(package)) = (lines.next(), lines.next(), lines.next()) {
            if let (Some(from), Some(to)) = (member_path(from.as_bytes()), member_path(to.as_bytes())) {
                diversions.push(Diversion { from, to, package: package.to_owned() });
            }
        }
        Ok(diversions)
    }

    /// The owners and modes that are set for good.
    pub(super) fn overrides(&self) -> Result<Vec<Override>, ModuleError> {
        let text = self.read("statoverride")?;
        let parse = |line: &str| {
            let mut words = line.splitn(4, ' ');
            let (user, group, mode) = (words.next()?, words.next()?, words.next()?);
            Some(Override {
                user: user.to_owned(),
                group: group.to_owned(),
                mode: u32::from_str_radix(mode, 8).ok()?,
                path: member_path(words.next()?.as_bytes())?,
            })
        };
        Ok(text.lines().filter_map(parse).collect())
    }

    /// Who wants to know of changes below a path: lines of path, package.
    pub(super) fn file_interests(&self) -> Result<HashMap<PathBuf, Vec<String>>, ModuleError> {
        let mut interests: HashMap<PathBuf, Vec<String>> = HashMap::new();
        for line in self.read("triggers/File")?.lines() {
            if let Some((path, package)) = line.rsplit_once(' ')
                && let Some(path) = member_path(path.as_bytes())
            {
                interests.entry(path).or_default().push(package.to_owned());
            }
        }
        Ok(interests)
    }

    /// Adds activations of file triggers, as `dpkg-trigger` would: trigger and the packages that await it.
    pub(super) fn activate(
        &self,
        activations: &BTreeMap<PathBuf, BTreeSet<String>>,
    ) -> Result<(), ModuleError> {
        let mut text = self.read("triggers/Unincorp")?;
        for (path, awaiting) in activations {
            let packages: Vec<_> = awaiting.iter().map(String::as_str).collect();
            let packages = if packages.is_empty() { "-".to_owned() } else { packages.join(" ") };
            let _ = writeln!(text, "/{} {packages}", path.display());
        }
        if text.is_empty() { Ok(()) } else { self.write("triggers/Unincorp", &text) }
    }

    /// Writes a package's control members where `dpkg --unpack` would put them.
    pub(super) fn write_members(&self, deb: &Deb) -> Result<(), ModuleError> {
        let id = deb.package.id();
        for (member, content) in &deb.members {
            let mode = if SCRIPTS.contains(&member.as_str()) { 0o755 } else { 0o644 };
            write(&self.directory.join(format!("info/{id}.{member}")), content, mode)?;
        }
        Ok(())
    }

    /// Writes what a package contains.
    pub(super) fn write_list(&self, id: &str, paths: &[PathBuf]) -> Result<(), ModuleError> {
        let mut text = String::new();
        for path in paths {
            let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            let _ = writeln!(text, "/{}", path.display());
        }
        self.write(&format!("info/{id}.list"), &text)
    }

    /// Writes MD5 sums for a package that brings none.
    pub(super) fn write_sums(&self, id: &str, sums: &[(PathBuf, String)]) -> Result<(), ModuleError> {
        let mut text = String::new();
        for (path, sum) in sums {
            let _ = writeln!(text, "{sum}  {}", path.display());
        }
        self.write(&format!("info/{id}.md5sums"), &text)
    }

    /// Takes paths out of the list of a package whose files another has taken over.
    pub(super) fn unlist(&self, id: &str, paths: &BTreeSet<PathBuf>) -> Result<(), ModuleError> {
        let kept: Vec<_> = self.list(id)?.into_iter().filter(|path| !paths.contains(path)).collect();
        self.write_list(id, &kept)
    }

    /// Registers what packages want to be told.
    pub(super) fn register_interests(&self, debs: &[&Deb]) -> Result<(), ModuleError> {
        let mut added: BTreeMap<String, String> = BTreeMap::new();
        for deb in debs {
            let id = deb.package.id();
            for line in deb.text("triggers").unwrap_or_default().lines() {
                let line = line.split('#').next().unwrap_or_default();
                let mut words = line.split_whitespace();
                let (Some(directive), Some(name)) = (words.next(), words.next()) else { continue };
                let package = match directive {
                    "interest" | "interest-await" => id.clone(),
                    "interest-noawait" => format!("{id}/noawait"),
                    _ => continue,
                };
                if name.starts_with('/') {
                    let _ = writeln!(added.entry("File".to_owned()).or_default(), "{name} {package}");
                } else if is_trigger_name(name) {
                    let _ = writeln!(added.entry(name.to_owned()).or_default(), "{package}");
                } else {
                    return Err(ModuleError::invalid(format!(
                        "package `{}`: `{name}` is no trigger name",
                        deb.package.name
                    )));
                }
            }
        }
        for (file, lines) in added {
            let file = format!("triggers/{file}");
            self.write(&file, &(self.read(&file)? + &lines))?;
        }
        Ok(())
    }

    /// Registers packages as unpacked.
    ///
    /// `sums` holds the sums of configuration files that are in place already; dpkg puts the others there.
    pub(super) fn register(&self, debs: &[(&Deb, &[(PathBuf, String)])]) -> Result<(), ModuleError> {
        let mut status = self.read("status")?;
        if !status.is_empty() && !status.ends_with("\n\n") {
            status.push('\n');
        }
        for (deb, sums) in debs {
            let _ = writeln!(status, "Package: {}", deb.package.name);
            let _ = writeln!(status, "Status: install ok unpacked");
            for (name, value) in deb.package.stanza.fields() {
                if !["package", "status", "conffiles"].contains(&name.to_ascii_lowercase().as_str()) {
                    let _ = writeln!(status, "{name}: {value}");
                }
            }
            let conffiles = conffiles(deb);
            if !conffiles.is_empty() {
                let _ = writeln!(status, "Conffiles:");
            }
            for conffile in conffiles {
                let sum = sums.iter().find(|(path, _)| *path == conffile.path);
                let sum = sum.map_or("newconffile", |(_, sum)| sum);
                let _ = writeln!(status, " /{} {sum}", conffile.path.display());
            }
            status.push('\n');
        }
        self.write("status", &status)
    }

    /// Names the architectures beside the first that the packages are for.
    pub(super) fn register_architectures(
        &self,
        native: &str,
        all: &BTreeSet<String>,
    ) -> Result<(), ModuleError> {
        let foreign = all.iter().filter(|name| *name != native && *name != "all");
        let known: BTreeSet<_> = self.read("arch")?.lines().map(str::to_owned).collect();
        if foreign.clone().all(|name| known.contains(name)) {
            return Ok(());
        }
        let mut text = format!("{native}\n");
        for name in foreign {
            let _ = writeln!(text, "{name}");
        }
        self.write("arch", &text)
    }

    fn read(&self, part: &str) -> Result<String, ModuleError> {
        let path = self.directory.join(part);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(ModuleError::io("read", path)(error)),
        }
    }

    fn write(&self, part: &str, content: &str) -> Result<(), ModuleError> {
        write(&self.directory.join(part), content.as_bytes(), 0o644)
    }
}

/// Trigger names become file names in dpkg's database.
fn is_trigger_name(name: &str) -> bool {
    name.len() >= 2
        && name.chars().all(|letter| letter.is_ascii_graphic() && letter != '/')
        && !name.starts_with('.')
        && !["File", "Unincorp", "Lock"].contains(&name)
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), ModuleError> {
    let failed = || ModuleError::io("write", path);
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(mode).open(path).map_err(failed())?;
    file.write_all(content).map_err(failed())?;
    file.set_permissions(std::fs::Permissions::from_mode(mode)).map_err(failed())
}
