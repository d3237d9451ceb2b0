//! Moving unpacked files to their places, one package after the other, by the rules of `dpkg --unpack`.
//!
//! - A directory that exists stays as it is; so does a link that leads to a directory.
//! - A file that another package owns is an error that names both packages, unless one replaces the other or
//!   both are the same package for two architectures and the files are equal.
//! - A diverted file goes where the diversion says, unless the package is the one that diverted it.
//! - A configuration file waits as `FILE.dpkg-new` for dpkg to put it in place. In the first round there is no
//!   dpkg that works yet: files that do not exist are put in place at once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use kiln_api::ModuleError;
use rustix::fs::{AtFlags, FileType, Gid, Mode, Uid};

use super::archive::Deb;
use super::control::Package;
use super::database::{Database, Diversion, Override, conffiles};
use super::owners::Accounts;
use super::staging::{Entry, Kind, Staged};
use super::tree::{Place, Tree};

/// A path that is being made while an old one is still there.
const TEMPORARY: &str = ".dpkg-tmp";

/// A configuration file that waits for dpkg.
const NEW: &str = ".dpkg-new";

/// What committing a package left to be registered.
#[derive(Default)]
pub(super) struct Outcome {
    /// What the package contains, in the archive's order.
    pub(super) paths: Vec<PathBuf>,
    /// Sums of its files, for packages that bring none.
    pub(super) sums: Vec<(PathBuf, String)>,
    /// Sums of the configuration files that are in place.
    pub(super) conffile_sums: Vec<(PathBuf, String)>,
    /// Paths taken over from others, by the others' names in the database.
    pub(super) taken: BTreeMap<String, BTreeSet<PathBuf>>,
}

/// Who owns what in the tree.
#[derive(Default)]
pub(super) struct Owners {
    packages: Vec<Package>,
    paths: HashMap<PathBuf, usize>,
}

impl Owners {
    /// Adds a package that the tree has, with its paths.
    pub(super) fn add(&mut self, tree: &Tree, package: Package, paths: &[PathBuf]) {
        let index = self.packages.len();
        self.packages.push(package);
        for path in paths {
            self.paths.insert(tree.canonical(path), index);
        }
    }
}

/// One round of committing.
pub(super) struct Commit<'a> {
    tree: &'a Tree,
    owners: &'a mut Owners,
    diversions: Vec<Diversion>,
    overrides: Vec<Override>,
    accounts: Accounts,
    first_round: bool,
    made: Vec<(PathBuf, Entry)>,
}

impl<'a> Commit<'a> {
    /// Starts a round; `first_round` puts configuration files in place.
    pub(super) fn start(
        tree: &'a Tree,
        database: &Database,
        owners: &'a mut Owners,
        first_round: bool,
    ) -> Result<Self, ModuleError> {
        Ok(Self {
            diversions: database.diversions()?,
            overrides: database.overrides()?,
            accounts: Accounts::read(tree)?,
            tree,
            owners,
            first_round,
            made: Vec::new(),
        })
    }

    /// Moves one package's files to their places.
    pub(super) fn package(&mut self, deb: &Deb, staged: Staged) -> Result<Outcome, ModuleError> {
        let index = self.owners.packages.len();
        self.owners.packages.push(deb.package.clone());
        let conffiles: BTreeSet<_> = conffiles(deb).into_iter().map(|conffile| conffile.path).collect();
        let mut package = Committing {
            index,
            package: &deb.package,
            conffiles,
            has_sums: deb.members.contains_key("md5sums"),
            staged_in: staged.directory,
            placed: HashMap::new(),
            outcome: Outcome::default(),
        };
        for entry in staged.entries {
            self.entry(&mut package, entry)?;
        }
        Ok(package.outcome)
    }

    /// Sets the times of the directories that were made, which adding files to them has changed.
    pub(super) fn finish(self) -> Result<(), ModuleError> {
        for (path, entry) in self.made.iter().rev() {
            let place = self.tree.place(path)?;
            rustix::fs::utimensat(&place.parent, &place.name, &entry.times(), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| {
                    ModuleError::io("set times of", self.tree.path().join(path))(error.into())
                })?;
        }
        self.tree.forget();
        Ok(())
    }

    fn entry(&mut self, package: &mut Committing<'_>, entry: Entry) -> Result<(), ModuleError> {
        let failed = |error: io::Error| ModuleError::io("unpack", self.tree.path().join(&entry.path))(error);
        if matches!(entry.kind, Kind::Directory) {
            package.outcome.paths.push(entry.path.clone());
            if self.is_directory(&entry.path)? {
                return Ok(());
            }
            // `lib64`, `lib32` and the like: which there are depends on the packages.
            if let Some(name) = entry.path.to_str()
                && name.starts_with("lib")
                && !name.contains('/')
                && self.tree.is_merged("lib")
            {
                return self.tree.make_merged(name);
            }
            if let Some(other) = self.owner(&entry.path, package.index) {
                return Err(conflict(package.package, other, &entry.path));
            }
            let place = self.tree.place(&entry.path)?;
            rustix::fs::mkdirat(&place.parent, &place.name, Mode::from_raw_mode(0o700))
                .map_err(|error| failed(error.into()))?;
            self.set_status(&place, &entry).map_err(failed)?;
            self.made.push((entry.path.clone(), entry));
            return Ok(());
        }
        let target = self.divert(&entry.path, package.package)?;
        let place = self.tree.place(&target)?;
        let existing = place.status().map_err(failed)?;
        let existing = existing.map(|status| FileType::from_raw_mode(status.st_mode));
        if existing == Some(FileType::Directory) {
            // As dpkg: a directory may stand where a link to a directory is shipped.
            if let Kind::Symlink(text) = &entry.kind
                && self.is_directory(&target.parent().unwrap_or(Path::new("")).join(text))?
            {
                package.outcome.paths.push(entry.path);
                return Ok(());
            }
            return Err(ModuleError::invalid(format!(
                "package `{}`: `/{}` is a directory in the tree and none in the package",
                package.package.name,
                target.display()
            )));
        }
        if existing.is_some()
            && let Some(other) = self.owner(&target, package.index)
        {
            let other_id = other.id();
            if other.name == package.package.name && other.multi_arch_same && package.package.multi_arch_same
            {
                if !self.is_same(package, &entry, &target)? {
                    return Err(conflict(package.package, other, &entry.path));
                }
                package.placed.insert(entry.path.clone(), target);
                package.outcome.paths.push(entry.path);
                return Ok(());
            } else if package.package.replaces(other) {
                package.outcome.taken.entry(other_id).or_default().insert(entry.path.clone());
            } else if other.replaces(package.package) {
                package.placed.insert(entry.path, target);
                return Ok(());
            } else {
                return Err(conflict(package.package, other, &entry.path));
            }
        }
        let target = self.conffile_target(package, &entry, target, existing.is_some());
        if let Kind::File { md5: Some(sum), .. } = &entry.kind {
            let sums = if package.conffiles.contains(&entry.path) {
                self.first_round.then_some(&mut package.outcome.conffile_sums)
            } else {
                (!package.has_sums).then_some(&mut package.outcome.sums)
            };
            sums.into_iter().for_each(|sums| sums.push((entry.path.clone(), sum.clone())));
        }
        if let Some(target) = target {
            let place = self.tree.place(&target)?;
            self.put(package, &entry, &place).map_err(failed)?;
            package.placed.insert(entry.path.clone(), target);
        }
        package.outcome.paths.push(entry.path.clone());
        self.owners
            .paths
            .insert(self.tree.canonical(&self.divert(&entry.path, package.package)?), package.index);
        Ok(())
    }

    /// Where a file goes, given what it is; `None` if what is there stays.
    fn conffile_target(
        &self,
        package: &Committing<'_>,
        entry: &Entry,
        target: PathBuf,
        exists: bool,
    ) -> Option<PathBuf> {
        if !package.conffiles.contains(&entry.path) || !matches!(entry.kind, Kind::File { .. }) {
            return Some(target);
        }
        match (self.first_round, exists) {
            (true, false) => Some(target),
            // Somebody put it there before the packages came: theirs stays, as with `--force-confold`.
            (true, true) => None,
            (false, _) => Some(with_suffix(&target, NEW)),
        }
    }

    fn put(&self, package: &Committing<'_>, entry: &Entry, place: &Place) -> io::Result<()> {
        if let Kind::File { number, .. } = &entry.kind {
            rustix::fs::renameat(&package.staged_in, number.to_string(), &place.parent, &place.name)?;
            return self.correct_owner(place, entry);
        }
        let make = |place: &Place| -> io::Result<()> {
            let mode = Mode::from_raw_mode(0o600);
            match &entry.kind {
                Kind::Symlink(text) => rustix::fs::symlinkat(text, &place.parent, &place.name)?,
                Kind::HardLink(member) => {
                    let source = package.placed.get(member).ok_or_else(|| {
                        io::Error::other(format!(
                            "hard link to `{}`, which is no earlier file of the package",
                            member.display()
                        ))
                    })?;
                    let source = self.tree.place(source).map_err(io::Error::other)?;
                    let flags = AtFlags::empty();
                    rustix::fs::linkat(&source.parent, &source.name, &place.parent, &place.name, flags)?;
                    return Ok(());
                }
                Kind::CharacterDevice(device) => {
                    rustix::fs::mknodat(
                        &place.parent,
                        &place.name,
                        FileType::CharacterDevice,
                        mode,
                        *device,
                    )?;
                }
                Kind::BlockDevice(device) => {
                    rustix::fs::mknodat(&place.parent, &place.name, FileType::BlockDevice, mode, *device)?;
                }
                Kind::Fifo => rustix::fs::mknodat(&place.parent, &place.name, FileType::Fifo, mode, 0)?,
                Kind::Directory | Kind::File { .. } => {}
            }
            self.set_status(place, entry)
        };
        match make(place) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let mut name = place.name.clone();
                name.push(TEMPORARY);
                let temporary = Place { parent: place.parent.clone(), name };
                make(&temporary)?;
                rustix::fs::renameat(&temporary.parent, &temporary.name, &place.parent, &place.name)?;
                // Renaming a name of a file over another name of it does nothing: the name is still there.
                match rustix::fs::unlinkat(&temporary.parent, &temporary.name, AtFlags::empty()) {
                    Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            }
            result => result,
        }
    }

    /// Sets owner, mode and time of what was made just now.
    fn set_status(&self, place: &Place, entry: &Entry) -> io::Result<()> {
        let (uid, gid, mode) = self.wanted(entry);
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let (user, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(&place.parent, &place.name, user, group, flags)?;
        if !matches!(entry.kind, Kind::Symlink(_)) {
            rustix::fs::chmodat(&place.parent, &place.name, Mode::from_raw_mode(mode), AtFlags::empty())?;
        }
        if !matches!(entry.kind, Kind::Directory) {
            rustix::fs::utimensat(&place.parent, &place.name, &entry.times(), flags)?;
        }
        Ok(())
    }

    /// Corrects a staged file where names or overrides say something else than its numbers.
    fn correct_owner(&self, place: &Place, entry: &Entry) -> io::Result<()> {
        let wanted = self.wanted(entry);
        if wanted != (entry.uid, entry.gid, entry.mode) {
            let (user, group) = (Some(Uid::from_raw(wanted.0)), Some(Gid::from_raw(wanted.1)));
            rustix::fs::chownat(&place.parent, &place.name, user, group, AtFlags::SYMLINK_NOFOLLOW)?;
            rustix::fs::chmodat(&place.parent, &place.name, Mode::from_raw_mode(wanted.2), AtFlags::empty())?;
        }
        Ok(())
    }

    fn wanted(&self, entry: &Entry) -> (u32, u32, u32) {
        if let Some(forced) = self.overrides.iter().find(|forced| forced.path == entry.path) {
            let uid = self.accounts.user(&forced.user).unwrap_or(entry.uid);
            let gid = self.accounts.group(&forced.group).unwrap_or(entry.gid);
            return (uid, gid, forced.mode);
        }
        let uid = entry.user.as_deref().and_then(|name| self.accounts.user(name)).unwrap_or(entry.uid);
        let gid = entry.group.as_deref().and_then(|name| self.accounts.group(name)).unwrap_or(entry.gid);
        (uid, gid, entry.mode)
    }

    fn owner(&self, path: &Path, but: usize) -> Option<&Package> {
        let owner = *self.owners.paths.get(&self.tree.canonical(path))?;
        if owner == but { None } else { self.owners.packages.get(owner) }
    }

    fn divert(&self, path: &Path, package: &Package) -> Result<PathBuf, ModuleError> {
        for diversion in &self.diversions {
            if diversion.from == path && diversion.package != package.name {
                return Ok(diversion.to.clone());
            }
            if diversion.to == path {
                return Err(ModuleError::invalid(format!(
                    "package `{}`: `/{}` is where package `{}` has diverted `/{}` to",
                    package.name,
                    path.display(),
                    diversion.package,
                    diversion.from.display()
                )));
            }
        }
        Ok(path.to_owned())
    }

    fn is_directory(&self, path: &Path) -> Result<bool, ModuleError> {
        let status = self.tree.status_followed(path)?;
        Ok(status.is_some_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::Directory))
    }

    fn is_same(&self, package: &Committing<'_>, entry: &Entry, target: &Path) -> Result<bool, ModuleError> {
        let failed = || ModuleError::io("compare", self.tree.path().join(target));
        let Kind::File { number, .. } = &entry.kind else {
            return Ok(true);
        };
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        let staged = rustix::fs::openat(&package.staged_in, number.to_string(), flags, Mode::empty())
            .map_err(|error| failed()(error.into()))?;
        same_content(std::fs::File::from(staged), self.tree.read(target)?).map_err(failed())
    }
}

/// A package while it is being committed.
struct Committing<'a> {
    index: usize,
    package: &'a Package,
    conffiles: BTreeSet<PathBuf>,
    has_sums: bool,
    staged_in: std::os::fd::OwnedFd,
    /// Where members really are, for hard links to them.
    placed: HashMap<PathBuf, PathBuf>,
    outcome: Outcome,
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut text = OsString::from(path);
    text.push(suffix);
    PathBuf::from(text)
}

fn conflict(package: &Package, other: &Package, path: &Path) -> ModuleError {
    ModuleError::invalid(format!(
        "packages `{}` and `{}` both contain `/{}`, and neither replaces the other",
        other.name,
        package.name,
        path.display()
    ))
}

fn same_content(mut one: impl Read, mut two: impl Read) -> io::Result<bool> {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    loop {
        first.clear();
        second.clear();
        one.by_ref().take(1 << 16).read_to_end(&mut first)?;
        two.by_ref().take(1 << 16).read_to_end(&mut second)?;
        if first != second {
            return Ok(false);
        }
        if first.is_empty() {
            return Ok(true);
        }
    }
}
