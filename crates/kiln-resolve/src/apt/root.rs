//! The private root: its configuration, its package lists, and what they hold.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use super::child::{self, Ended};
use crate::definition::{Definition, Release};
use crate::{Progress, Refresh, ResolveError, Resolver};

/// How often a wait for another resolution looks for an interrupt.
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// What is fetched of a source: its package index, and no translations, icons or contents.
const TARGETS: &str = r#"#clear Acquire::IndexTargets::deb;
#clear Acquire::IndexTargets::deb-src;
Acquire::IndexTargets::deb::Packages {
  MetaKey "$(COMPONENT)/binary-$(ARCHITECTURE)/Packages";
  flatMetaKey "Packages";
  ShortDescription "Packages";
  Description "$(RELEASE)/$(COMPONENT) $(ARCHITECTURE) Packages";
  flatDescription "$(RELEASE) Packages";
  Optional "no";
};
Acquire::Languages "none";
Acquire::GzipIndexes "false";
"#;

/// The host's hooks, which act on the host.
const HOOKS: [&str; 7] = [
    "APT::Update::Pre-Invoke",
    "APT::Update::Post-Invoke",
    "APT::Update::Post-Invoke-Success",
    "DPkg::Pre-Invoke",
    "DPkg::Post-Invoke",
    "DPkg::Pre-Install-Pkgs",
    "AptCli::Hooks",
];

/// The private root, locked for as long as this lives.
pub(crate) struct Apt<'a> {
    resolver: &'a Resolver<'a>,
    program: PathBuf,
    environment: BTreeMap<OsString, OsString>,
    digest: String,
    _lock: File,
}

/// A package index that apt has fetched.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) file: PathBuf,
    /// Where the index's file names begin, with a slash at the end.
    pub(crate) repository: String,
    pub(crate) codename: String,
    /// Where the index stands in its release.
    pub(crate) key: String,
}

impl<'a> Apt<'a> {
    /// Finds apt and prepares the private root.
    pub(crate) fn open(resolver: &'a Resolver<'a>, definition: &Definition) -> Result<Self, ResolveError> {
        let program = find(resolver, "apt-get").ok_or(ResolveError::AptMissing)?;
        let root = resolver.state_directory;
        for directory in ["state/lists/partial", "cache/archives/partial", "log"] {
            create(&root.join(directory))?;
        }
        let lock = lock(resolver)?;
        let etc = resolver.apt_directory.unwrap_or(Path::new("/etc/apt"));
        let digest = digest(etc, definition)?;
        write(&root.join("status"), "")?;
        let sources = root.join("sources.list");
        let repositories: String =
            definition.kiln.repositories.iter().map(|line| format!("{}\n", line.value)).collect();
        write(&sources, &repositories)?;
        let release = definition.distro.as_ref().map(|distro| distro.value);
        write(&root.join("apt.conf"), &configuration(root, release, !repositories.is_empty())?)?;
        let mut environment = resolver.environment.clone();
        // Messages are read, so they must be in the language that is read.
        environment.insert("LC_ALL".into(), "C.UTF-8".into());
        environment.remove(OsStr::new("LANGUAGE"));
        if let Some(etc) = resolver.apt_directory {
            let early = root.join("early.conf");
            write(&early, &format!("Dir::Etc \"{}\";\n", plain(etc)?))?;
            environment.insert("APT_CONFIG".into(), early.into());
        }
        Ok(Self { resolver, program, environment, digest, _lock: lock })
    }

    /// How many sources are configured; asks nobody.
    pub(crate) fn sources(&self) -> Result<usize, ResolveError> {
        let ended = self.run(&["-q", "--print-uris", "update"], |_| {})?;
        if !ended.status.success() {
            return Err(self.failure(&ended));
        }
        Ok(ended.stdout.iter().filter(|line| line.starts_with('\'')).count())
    }

    /// Brings the package lists up to date if they are too old, missing, or of other sources.
    pub(crate) fn refresh(&self) -> Result<(), ResolveError> {
        let stamp = self.resolver.state_directory.join("refreshed");
        let same = fs::read_to_string(&stamp).is_ok_and(|digest| digest == self.digest);
        let age = || -> Option<Duration> {
            SystemTime::now().duration_since(fs::metadata(&stamp).ok()?.modified().ok()?).ok()
        };
        let fresh = match self.resolver.refresh {
            Refresh::Always => false,
            Refresh::Never => true,
            Refresh::OlderThan(limit) => age().is_some_and(|age| age < limit),
        };
        if same && fresh {
            return Ok(());
        }
        let progress = |line: &str| {
            if !line.is_empty() {
                (self.resolver.progress)(Progress::Line(line));
            }
        };
        let ended = self.run(&["-q", "update"], progress)?;
        // A source that cannot be reached matters only if the packages are not found without it.
        let complaints: Vec<_> = ended.stderr.iter().filter_map(|line| complaint(line)).collect();
        for complaint in &complaints {
            (self.resolver.progress)(Progress::Warning(complaint));
        }
        if ended.status.success() && complaints.is_empty() {
            write(&stamp, &self.digest)?;
        } else if let Err(source) = fs::remove_file(&stamp)
            && source.kind() != std::io::ErrorKind::NotFound
        {
            return Err(ResolveError::Io { path: stamp, source });
        }
        Ok(())
    }

    /// The package indexes that there are.
    pub(crate) fn targets(&self) -> Result<Vec<Target>, ResolveError> {
        let format = "$(FILENAME)\t$(REPO_URI)\t$(CODENAME)\t$(METAKEY)\t$(CREATED_BY)";
        let ended = self.run(&["indextargets", "--format", format], |_| {})?;
        if !ended.status.success() {
            return Err(self.failure(&ended));
        }
        let mut targets = Vec::new();
        for line in &ended.stdout {
            let fields: Vec<&str> = line.split('\t').collect();
            let [file, repository, codename, key, "Packages"] = fields[..] else { continue };
            let slash = if repository.ends_with('/') { "" } else { "/" };
            targets.push(Target {
                file: PathBuf::from(file),
                repository: format!("{repository}{slash}"),
                codename: codename.to_owned(),
                key: key.to_owned(),
            });
        }
        // The order of the configuration is kept by apt; ours must not depend on it.
        targets.sort_by(|a, b| a.file.cmp(&b.file));
        Ok(targets)
    }

    /// Runs `apt-get` with the private configuration.
    pub(super) fn run(&self, arguments: &[&str], progress: impl FnMut(&str)) -> Result<Ended, ResolveError> {
        let configuration = self.resolver.state_directory.join("apt.conf");
        let mut words = vec![OsStr::new("-c"), configuration.as_os_str()];
        words.extend(arguments.iter().map(OsStr::new));
        child::run(&self.program, &words, &self.environment, self.resolver.interrupted, progress)
    }

    /// The error of a run that failed for no reason that is known better.
    pub(super) fn failure(&self, ended: &Ended) -> ResolveError {
        let complaints: Vec<_> = ended.stderr.iter().filter_map(|line| complaint(line)).collect();
        let status = kiln_sys::command::describe(ended.status);
        let message = if complaints.is_empty() { status } else { complaints.join("; ") };
        ResolveError::Apt { message }
    }
}

/// The text of a warning or error line of apt.
pub(super) fn complaint(line: &str) -> Option<&str> {
    line.strip_prefix("E: ").or_else(|| line.strip_prefix("W: ")).or_else(|| line.strip_prefix("Err: "))
}

fn find(resolver: &Resolver<'_>, name: &str) -> Option<PathBuf> {
    let path = resolver.environment.get(OsStr::new("PATH"))?;
    std::env::split_paths(path).map(|directory| directory.join(name)).find(|candidate| {
        fs::metadata(candidate).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    })
}

fn lock(resolver: &Resolver<'_>) -> Result<File, ResolveError> {
    let path = resolver.state_directory.join("lock");
    let failed = |source| ResolveError::Io { path: path.clone(), source };
    let file = File::create(&path).map_err(failed)?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
            Err(TryLockError::WouldBlock) if resolver.interrupted.load(Ordering::Relaxed) => {
                return Err(ResolveError::Interrupted);
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
        }
    }
}

/// The configuration that is read after the host's.
fn configuration(root: &Path, release: Option<&Release>, own: bool) -> Result<String, ResolveError> {
    let path = plain(root)?;
    let mut text = format!(
        "Dir::State \"{path}/state\";\nDir::State::lists \"lists\";\nDir::State::status \"{path}/status\";\n\
         Dir::Cache \"{path}/cache\";\nDir::Cache::pkgcache \"pkgcache.bin\";\n\
         Dir::Cache::srcpkgcache \"srcpkgcache.bin\";\nDir::Log \"{path}/log\";\n"
    );
    for hook in HOOKS {
        text.push_str(&format!("#clear {hook};\n"));
    }
    text.push_str(TARGETS);
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    text.push_str(&format!(
        "APT::Architecture \"{architecture}\";\n#clear APT::Architectures;\nAPT::Architectures {{ \"{architecture}\"; }};\n"
    ));
    if own {
        text.push_str(&format!(
            "Dir::Etc::sourcelist \"{path}/sources.list\";\nDir::Etc::sourceparts \"-\";\n"
        ));
    }
    if let Some(release) = release {
        // The suites of one release count alike: a plain name would put security updates behind.
        let codename = release.codename;
        text.push_str(&format!("APT::Default-Release \"/^{codename}(|-security|-updates)$/\";\n"));
    }
    if !reachable(root) {
        // apt's unprivileged download user could not enter the directory.
        text.push_str("APT::Sandbox::User \"root\";\n");
    }
    Ok(text)
}

/// Whether everybody may enter a directory and all that lead to it.
fn reachable(directory: &Path) -> bool {
    directory.ancestors().all(|parent| fs::metadata(parent).is_ok_and(|meta| meta.mode() & 0o001 != 0))
}

/// A path that can stand in apt's configuration, which knows no escapes.
fn plain(path: &Path) -> Result<&str, ResolveError> {
    path.to_str()
        .filter(|text| path.is_absolute() && !text.contains(['"', '\n', '\\', ';', '{', '}']))
        .ok_or_else(|| ResolveError::Path { path: path.to_owned() })
}

/// What the package lists depend on.
fn digest(etc: &Path, definition: &Definition) -> Result<String, ResolveError> {
    let mut digest = Sha256::new();
    for repository in &definition.kiln.repositories {
        digest.update(format!("repository {}\n", repository.value));
    }
    if definition.kiln.repositories.is_empty() {
        let mut files = vec![etc.join("sources.list")];
        if let Ok(entries) = fs::read_dir(etc.join("sources.list.d")) {
            files.extend(entries.flatten().map(|entry| entry.path()));
        }
        files.sort();
        for path in files {
            match fs::read(&path) {
                Ok(text) => {
                    digest.update(format!("file {} {}\n", path.display(), text.len()));
                    digest.update(text);
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(ResolveError::Io { path, source }),
            }
        }
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn create(path: &Path) -> Result<(), ResolveError> {
    fs::create_dir_all(path).map_err(|source| ResolveError::Io { path: path.to_owned(), source })
}

fn write(path: &Path, text: &str) -> Result<(), ResolveError> {
    fs::write(path, text).map_err(|source| ResolveError::Io { path: path.to_owned(), source })
}
