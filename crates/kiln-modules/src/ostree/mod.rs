//! OSTree repositories, as far as they can be read and filled without the `ostree` tool.
//!
//! ```text
//! config                          [core] repo_version=1, mode=archive-z2
//! objects/ab/cdef….filez          a file: a header and a deflate stream
//! objects/ab/cdef….dirtree        names in a directory, and what they stand for
//! objects/ab/cdef….dirmeta        a directory's owner, mode and attributes
//! objects/ab/cdef….commit         the root directory's two objects, among other things
//! objects/ab/cdef….commitmeta     signatures of a commit, if it has any
//! refs/heads/NAME                 the commit that a name stands for
//! refs/remotes/REMOTE/NAME        the same, as a remote had it
//! state/….commitpartial           the commit is there, but maybe not all that belongs to it
//! tmp/staging-…/ab/cdef….filez    verified objects of a pull that has not ended
//! ```
//!
//! An object's name is the digest of what it means, so objects of one name are the same, whoever made them, and a
//! repository may be filled by several programs at once. The order matters: [`Repository::adopt`] and
//! [`Repository::link`] make the commit appear last, so a commit that is there is whole, at whatever point a program dies.
//! Neither takes the repository's lock, which only keeps pruning away: nothing refers to the commits of a cache, so
//! whoever prunes it means to empty it.

use std::collections::HashSet;
use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use kiln_api::ModuleError;
use rustix::fs::{CWD, RenameFlags, renameat_with, syncfs};

use self::variant::{Directory, root_of};

mod checkout;
mod variant;

/// What a repository in archive mode is known by.
const CONFIG: &str = "[core]\nrepo_version=1\nmode=archive-z2\n";

/// What a repository consists of, besides its configuration.
const DIRECTORIES: [&str; 8] =
    ["extensions", "objects", "refs/heads", "refs/mirrors", "refs/remotes", "state", "tmp", "tmp/cache"];

/// The digest of an object: 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Digest(String);

impl Digest {
    /// Reads a digest; none if the text is something else, an abbreviation for one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == 64 && text.bytes().all(is_digit)).then(|| Self(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A repository in archive mode.
pub(crate) struct Repository {
    path: PathBuf,
}

/// An object's file name below `objects`: digest and kind.
type Name = String;

impl Repository {
    /// The repository at a path, whether it is there or not.
    pub(crate) fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Makes what the cache's repository lacks, of one that a program has left unfinished, too.
    pub(crate) fn create(path: impl Into<PathBuf>) -> Result<Self, ModuleError> {
        Self::create_with(path.into(), &format!("{CONFIG}\n[repo]\nlocking=true\n"), 0o644)
    }

    /// Makes a repository that stages get.
    pub(crate) fn create_plain(path: impl Into<PathBuf>) -> Result<Self, ModuleError> {
        Self::create_with(path.into(), CONFIG, 0o644)
    }

    /// Makes a repository that has this configuration, which only its owner may read.
    pub(crate) fn create_private(path: impl Into<PathBuf>, config: &str) -> Result<Self, ModuleError> {
        Self::create_with(path.into(), config, 0o600)
    }

    fn create_with(path: PathBuf, config: &str, mode: u32) -> Result<Self, ModuleError> {
        for name in DIRECTORIES {
            let directory = path.join(name);
            fs::create_dir_all(&directory).map_err(ModuleError::io("create directory", &directory))?;
        }
        let target = path.join("config");
        if target.exists() {
            return Ok(Self { path });
        }
        let mut file = tempfile::Builder::new()
            .prefix(".config-")
            .tempfile_in(&path)
            .map_err(ModuleError::io("create in", &path))?;
        file.write_all(config.as_bytes()).map_err(ModuleError::io("write", file.path()))?;
        file.as_file()
            .set_permissions(Permissions::from_mode(mode))
            .map_err(ModuleError::io("set the mode of", file.path()))?;
        match file.persist_noclobber(&target) {
            Ok(_) => Ok(Self { path }),
            // Another program was faster.
            Err(failed) if failed.error.kind() == io::ErrorKind::AlreadyExists => Ok(Self { path }),
            Err(failed) => Err(ModuleError::io("create", &target)(failed.error)),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether objects lie in the repository itself, in archive mode: then they can be linked.
    pub(crate) fn is_archive(&self) -> Result<bool, ModuleError> {
        let path = self.path.join("config");
        let text = fs::read_to_string(&path).map_err(ModuleError::io("read", &path))?;
        let settings: Vec<_> = text
            .lines()
            .skip_while(|line| line.trim() != "[core]")
            .skip(1)
            .take_while(|line| !line.starts_with('['))
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.trim(), value.trim()))
            .collect();
        Ok(settings.iter().any(|setting| matches!(setting, ("mode", "archive-z2" | "archive")))
            && !settings.iter().any(|(name, _)| *name == "parent"))
    }

    /// Whether a commit is there, with all that belongs to it.
    pub(crate) fn has(&self, commit: &Digest) -> bool {
        self.object(&name(commit, "commit")).is_file() && !self.has_part(commit)
    }

    /// Whether a commit was left in part, by a pull that died.
    pub(crate) fn has_part(&self, commit: &Digest) -> bool {
        self.partial(commit).exists()
    }

    /// Marks a commit as one that is there in part.
    pub(crate) fn mark(&self, commit: &Digest) -> Result<(), ModuleError> {
        let path = self.partial(commit);
        fs::write(&path, "").map_err(ModuleError::io("create", path))
    }

    /// Takes the mark away: all that belongs to the commit is there.
    pub(crate) fn unmark(&self, commit: &Digest) -> Result<(), ModuleError> {
        let path = self.partial(commit);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(ModuleError::io("remove", path)(error))
            }
            _ => Ok(()),
        }
    }

    fn partial(&self, commit: &Digest) -> PathBuf {
        self.path.join("state").join(format!("{}.commitpartial", commit.as_str()))
    }

    fn object(&self, name: &str) -> PathBuf {
        self.path.join("objects").join(place(name))
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, ModuleError> {
        let path = self.object(name);
        fs::read(&path).map_err(ModuleError::io("read", path))
    }

    /// The names of all objects of a commit, each once; the commit's own come last.
    pub(crate) fn objects(&self, commit: &Digest) -> Result<Vec<Name>, ModuleError> {
        let own = name(commit, "commit");
        let (tree, metadata) = root_of(&self.read(&own)?).ok_or_else(|| self.damaged(&own))?;
        let mut names = vec![name(&metadata, "dirmeta")];
        let mut seen: HashSet<_> = names.iter().cloned().collect();
        let mut trees = vec![name(&tree, "dirtree")];
        while let Some(tree) = trees.pop() {
            if !seen.insert(tree.clone()) {
                continue;
            }
            let directory = Directory::parse(&self.read(&tree)?).ok_or_else(|| self.damaged(&tree))?;
            let files = directory.files.iter().map(|(_, digest)| name(digest, "filez"));
            let below = directory.directories.iter().map(|(.., metadata)| name(metadata, "dirmeta"));
            names.extend(files.chain(below).filter(|name| seen.insert(name.clone())));
            trees.extend(directory.directories.iter().map(|(_, tree, _)| name(tree, "dirtree")));
            names.push(tree);
        }
        let signatures = name(commit, "commitmeta");
        if self.object(&signatures).exists() {
            names.push(signatures);
        }
        names.push(own);
        Ok(names)
    }

    /// Makes a commit of another repository appear in this one: by links, or by copies on another file system.
    pub(crate) fn link(&self, commit: &Digest, from: &Self) -> Result<(), ModuleError> {
        let mut made = HashSet::new();
        for name in from.objects(commit)? {
            let (source, target) = (from.object(&name), self.object(&name));
            make_parent(&target, &mut made)?;
            match fs::hard_link(&source, &target) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) if may_copy(&error) => self.copy(&source, &target)?,
                Err(error) => return Err(ModuleError::io("link", source)(error)),
            }
        }
        Ok(())
    }

    /// Copies an object; it appears under its name when it is whole.
    fn copy(&self, source: &Path, target: &Path) -> Result<(), ModuleError> {
        let scratch = tempfile::Builder::new()
            .prefix(".object-")
            .tempfile_in(self.path.join("tmp"))
            .map_err(ModuleError::io("create in", &self.path))?;
        fs::copy(source, scratch.path()).map_err(ModuleError::io("copy", source))?;
        match scratch.persist_noclobber(target) {
            Ok(_) => Ok(()),
            Err(failed) if failed.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(failed) => Err(ModuleError::io("create", target)(failed.error)),
        }
    }

    /// Makes what is in it so far survive a crash of the machine.
    fn flush(&self) -> Result<(), ModuleError> {
        let directory = File::open(&self.path).map_err(ModuleError::io("open", &self.path))?;
        syncfs(&directory).map_err(|errno| ModuleError::io("flush", &self.path)(errno.into()))
    }

    /// Moves all objects of another repository here, the commits last.
    pub(crate) fn adopt(&self, from: &Self) -> Result<(), ModuleError> {
        from.flush()?;
        let mut made = HashSet::new();
        let mut commits = Vec::new();
        for object in objects_below(&from.path.join("objects"))? {
            match kind(&object) {
                "filez" | "dirtree" | "dirmeta" => self.receive(&object, &mut made)?,
                "commit" | "commitmeta" => commits.push(object),
                _ => {}
            }
        }
        // `….commit` is before `….commitmeta`, and has to be moved after it.
        commits.sort();
        for object in commits.iter().rev() {
            self.receive(object, &mut made)?;
        }
        Ok(())
    }

    /// Moves what a pull brought that has not ended, so that the next one need not fetch it again: objects that were
    /// verified, but no commit.
    pub(crate) fn salvage(&self, from: &Self) -> Result<(), ModuleError> {
        from.flush()?;
        let mut made = HashSet::new();
        for root in staging(&from.path).into_iter().chain([from.path.join("objects")]) {
            let objects = objects_below(&root)?;
            objects
                .iter()
                .filter(|object| matches!(kind(object), "filez" | "dirtree" | "dirmeta"))
                .try_for_each(|object| self.receive(object, &mut made))?;
        }
        Ok(())
    }

    fn receive(&self, object: &Path, made: &mut HashSet<PathBuf>) -> Result<(), ModuleError> {
        let file = object.file_name().unwrap_or_default();
        let target = self.path.join("objects").join(folder(object)).join(file);
        make_parent(&target, made)?;
        match renameat_with(CWD, object, CWD, &target, RenameFlags::NOREPLACE) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(errno) => Err(ModuleError::io("move to the cache", object)(errno.into())),
        }
    }

    /// Makes a name for a commit, as `ostree refs --create` does: `NAME` or `REMOTE:NAME`.
    pub(crate) fn name(&self, reference: &str, commit: &Digest) -> Result<(), ModuleError> {
        let invalid = |reason: &str| ModuleError::invalid(format!("the ref `{reference}` {reason}"));
        let path = ref_path(reference).ok_or_else(|| invalid("is no name that OSTree allows"))?;
        let path = self.path.join("refs").join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(ModuleError::io("create directory", parent))?;
        }
        match File::create_new(&path) {
            Ok(mut file) => writeln!(file, "{}", commit.as_str()).map_err(ModuleError::io("write", path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(invalid("is asked for more than once"))
            }
            Err(error) => Err(ModuleError::io("create", path)(error)),
        }
    }
}

fn name(digest: &Digest, kind: &str) -> Name {
    format!("{}.{kind}", digest.as_str())
}

/// The path of an object below `objects`.
fn place(name: &str) -> PathBuf {
    let (folder, rest) = name.split_at_checked(2).unwrap_or((name, ""));
    Path::new(folder).join(rest)
}

fn kind(object: &Path) -> &str {
    object.extension().and_then(|kind| kind.to_str()).unwrap_or_default()
}

fn folder(object: &Path) -> String {
    let folder = object.parent().and_then(Path::file_name).unwrap_or_default();
    folder.to_string_lossy().into_owned()
}

/// The directories of pulls that have not ended.
pub(crate) fn staging(repository: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(repository.join("tmp")).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("staging-"))
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

/// The files in the directories below a directory.
pub(crate) fn objects_below(root: &Path) -> Result<Vec<PathBuf>, ModuleError> {
    let mut found = Vec::new();
    for folder in fs::read_dir(root).map_err(ModuleError::io("read", root))? {
        let folder = folder.map_err(ModuleError::io("read", root))?.path();
        if folder.is_dir() {
            for object in fs::read_dir(&folder).map_err(ModuleError::io("read", &folder))? {
                found.push(object.map_err(ModuleError::io("read", &folder))?.path());
            }
        }
    }
    Ok(found)
}

fn make_parent(path: &Path, made: &mut HashSet<PathBuf>) -> Result<(), ModuleError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    if !made.contains(parent) {
        fs::create_dir_all(parent).map_err(ModuleError::io("create directory", parent))?;
        made.insert(parent.to_owned());
    }
    Ok(())
}

fn may_copy(error: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, PermissionDenied, TooManyLinks, Unsupported};
    matches!(error.kind(), CrossesDevices | PermissionDenied | TooManyLinks | Unsupported)
}

/// Where a ref is below `refs`; none if OSTree does not allow the name.
fn ref_path(reference: &str) -> Option<PathBuf> {
    let is_part = |part: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        // OSTree would take the dots, and leave its directory by them.
        !part.is_empty() && part.bytes().all(allowed) && part != "." && part != ".."
    };
    let (mut path, rest) = match reference.split_once(':') {
        Some((remote, rest)) => (Path::new("remotes").join(Some(remote).filter(|name| is_part(name))?), rest),
        None => (PathBuf::from("heads"), reference),
    };
    for part in rest.split('/') {
        path.push(Some(part).filter(|part| is_part(part))?);
    }
    Some(path)
}

#[cfg(test)]
mod tests;
