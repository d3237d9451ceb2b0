//! Installing packages with `apt-get`, without surprises.
//!
//! Every installation is simulated first. Nothing is ever removed. Where an installed package is newer than
//! what any configured source offers (it came from a source that is not configured any more) and stands in the way,
//! exactly that package goes back to the newest version that is offered.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use kiln_sys::command::{CommandError, Run};

use super::HostError;

/// The package manager of a system.
#[derive(Debug, Clone, Default)]
pub struct Apt {
    /// Arguments that lead `apt-get` and `apt-cache` to another system than the host.
    options: Vec<String>,
    root: PathBuf,
}

impl Apt {
    /// The host's package manager.
    pub fn of_host() -> Self {
        Self { options: Vec::new(), root: "/".into() }
    }

    /// The package manager with its whole state below another directory.
    pub fn below(root: &Path) -> Self {
        let mut options = Vec::new();
        for (key, value) in [
            ("Dir", root.to_owned()),
            ("Dir::State::status", root.join("var/lib/dpkg/status")),
            ("Dir::Etc::trusted", root.join("etc/apt/trusted.gpg")),
        ] {
            options.extend(["-o".to_owned(), format!("{key}={}", value.display())]);
        }
        Self { options, root: root.to_owned() }
    }

    /// Installs packages and what they depend on.
    pub fn install(&self, packages: &[String]) -> Result<(), HostError> {
        let failed = |arguments: &[String]| {
            let command = command(arguments);
            move |source| HostError::Install { packages: packages.to_vec(), command, source }
        };
        if !self.has_lists() {
            self.update().map_err(failed(packages))?;
        }
        let arguments = match self.plan(packages) {
            Ok(arguments) => arguments,
            // The lists may be older than what the sources hold now.
            Err(_) => self.update().and_then(|()| self.plan(packages)).map_err(failed(packages))?,
        };
        let run = || self.get("install").args(flags(&arguments)).args(&arguments).output();
        run().or_else(|_| self.update().and_then(|()| run())).map(|_| ()).map_err(failed(&arguments))
    }

    /// The arguments with which `apt-get install` will succeed: the packages, and `NAME=VERSION` for each that has
    /// to go back to an older version for that.
    pub fn plan(&self, packages: &[String]) -> Result<Vec<String>, CommandError> {
        let mut arguments = packages.to_vec();
        loop {
            let simulation =
                Simulation::of(self.get("install").args(["-s"]).args(flags(&arguments)), &arguments)?;
            let conflicting = match simulation {
                Simulation::Works => return Ok(arguments),
                Simulation::Unmet(conflicting, error) => (conflicting, error),
            };
            let before = arguments.len();
            for name in conflicting.0 {
                let pinned = arguments.iter().any(|argument| argument.starts_with(&format!("{name}=")));
                if !pinned && let Some(version) = self.older_version(&name)? {
                    arguments.push(format!("{name}={version}"));
                }
            }
            // No package left that could give way.
            if arguments.len() == before {
                return Err(conflicting.1);
            }
        }
    }

    /// Fetches the archive of the package that another one depends on first, into a directory, and says where it is. It is not installed.
    pub fn fetch_newest(&self, package: &str, into: &Path) -> Result<PathBuf, HostError> {
        let packages = [package.to_owned()];
        let failed = |source| HostError::Install {
            packages: packages.to_vec(),
            command: format!("apt-get download {package}"),
            source,
        };
        if !self.has_lists() {
            self.update().map_err(failed)?;
        }
        let fetch = || -> Result<(), CommandError> {
            let text = self.program("apt-cache").args(["show", "--no-all-versions", package]).output()?;
            let newest = first_dependency(&String::from_utf8_lossy(&text)).unwrap_or(package.to_owned());
            // As a user of its own it could not write to a directory of root's.
            let get = self.program("apt-get").args(["-q", "-o", "APT::Sandbox::User=root", "download"]);
            get.arg(newest).current_dir(into).output().map(|_| ())
        };
        // The lists may be older than what the sources hold now.
        fetch().or_else(|_| self.update().and_then(|()| fetch())).map_err(failed)?;
        let file = |source| HostError::File { path: into.to_owned(), source };
        let archives = fs::read_dir(into).map_err(file)?.filter_map(Result::ok).map(|entry| entry.path());
        let mut archives = archives.filter(|path| path.extension().is_some_and(|ending| ending == "deb"));
        archives.next().ok_or_else(|| file(std::io::ErrorKind::NotFound.into()))
    }

    /// Fetches the lists of the configured sources.
    pub fn update(&self) -> Result<(), CommandError> {
        self.get("update").output().map(|_| ())
    }

    fn has_lists(&self) -> bool {
        let lists = fs::read_dir(self.root.join("var/lib/apt/lists"));
        lists.is_ok_and(|mut entries| {
            entries.any(|entry| {
                entry.is_ok_and(|entry| entry.file_name().to_string_lossy().contains("Packages"))
            })
        })
    }

    /// The version that a package must go back to, if what is installed is newer than anything offered.
    fn older_version(&self, package: &str) -> Result<Option<String>, CommandError> {
        let text = self.program("apt-cache").args(["policy", package]).output()?;
        Ok(older_version(&String::from_utf8_lossy(&text)))
    }

    fn get(&self, verb: &str) -> Run {
        self.program("apt-get").args(["-q", "-y", "-o", "Dpkg::Use-Pty=0"]).arg(verb)
    }

    fn program(&self, name: &str) -> Run {
        // The messages are parsed: they must be in English.
        Run::new(name).env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive").args(&self.options)
    }
}

/// What to type to install something.
pub(super) fn command(arguments: &[String]) -> String {
    format!("apt-get install {} {}", flags(arguments).join(" "), arguments.join(" "))
}

fn flags(arguments: &[String]) -> Vec<&'static str> {
    let mut flags = vec!["--no-install-recommends"];
    if arguments.iter().any(|argument| argument.contains('=')) {
        flags.push("--allow-downgrades");
    }
    flags
}

enum Simulation {
    Works,
    /// The packages named in the explanation, and the error itself.
    Unmet(BTreeSet<String>, CommandError),
}

impl Simulation {
    fn of(run: Run, arguments: &[String]) -> Result<Self, CommandError> {
        // The explanation is on standard output, which an error does not carry: a shell joins both streams and
        // gives the status as the last line.
        let words = run.args(arguments).words();
        let text = Run::new("sh")
            .args(["-c", "\"$@\" 2>&1; echo \"kiln-status=$?\"", "sh"])
            .args(words)
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .output()?;
        let text = String::from_utf8_lossy(&text);
        let removed: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("Remv ")).collect();
        if text.trim_end().ends_with("kiln-status=0") && removed.is_empty() {
            return Ok(Self::Works);
        }
        let reason = match removed.as_slice() {
            [] => text.lines().filter(|line| line.starts_with("E: ")).collect::<Vec<_>>().join("; "),
            removed => format!("packages would be removed: {}", removed.join(", ")),
        };
        let error = CommandError {
            program: "apt-get install".to_owned(),
            status: "an error in the simulation".to_owned(),
            stderr: reason,
        };
        // A package that stands in the way is named in the explanation, or would be removed to make way.
        let mut conflicting = unmet(&text);
        conflicting.extend(removed.iter().filter_map(|line| line.split(' ').next()).map(str::to_owned));
        if conflicting.is_empty() { Err(error) } else { Ok(Self::Unmet(conflicting, error)) }
    }
}

/// The names in the explanation of unmet dependencies: who has them, and on whom.
fn unmet(text: &str) -> BTreeSet<String> {
    const RELATIONS: [&str; 5] = ["Depends: ", "PreDepends: ", "Breaks: ", "Conflicts: ", "Recommends: "];
    let name = |text: &str| {
        let name = text.split([' ', ':']).next().unwrap_or_default();
        (!name.is_empty()).then(|| name.to_owned())
    };
    let block = text.lines().skip_while(|line| !line.contains("have unmet dependencies")).skip(1);
    let mut names = BTreeSet::new();
    for line in block.take_while(|line| line.starts_with(' ')) {
        if let Some((owner, _)) = line.split_once(" : ") {
            names.extend(name(owner.trim()));
        }
        for relation in RELATIONS {
            if let Some((_, other)) = line.split_once(relation) {
                names.extend(name(other));
            }
        }
    }
    names
}

/// The first package that a package depends on, in what `apt-cache show` prints.
fn first_dependency(text: &str) -> Option<String> {
    let depends = text.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    depends.split([',', ' ', '|', ':']).next().filter(|name| !name.is_empty()).map(str::to_owned)
}

/// The newest offered version in what `apt-cache policy` prints, if the installed one is not offered by any source.
fn older_version(policy: &str) -> Option<String> {
    let installed = policy.lines().find_map(|line| line.trim().strip_prefix("Installed: "))?;
    if installed == "(none)" {
        return None;
    }
    let mut offered: Vec<&str> = Vec::new();
    let mut version = "";
    for line in policy.lines().skip_while(|line| !line.contains("Version table:")).skip(1) {
        // A version is indented by four blanks or its mark, a source by more.
        match line.get(..5) {
            Some("     " | " *** ") if !line.starts_with("        ") => {
                version = line.trim_start_matches([' ', '*']).split(' ').next().unwrap_or_default();
            }
            _ if line.trim_end().ends_with("/dpkg/status") => {}
            _ => offered.push(version),
        }
    }
    if offered.contains(&installed) {
        return None;
    }
    offered.first().map(|version| (*version).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_dependency_is_the_newest_kernel() {
        for (text, expected) in [
            (
                "Package: a\nDepends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)\nX: y\n",
                Some("linux-image-6.1.0-56-cloud-amd64"),
            ),
            ("Depends: a, b\n", Some("a")),
            ("Package: a\n", None),
        ] {
            assert_eq!(first_dependency(text).as_deref(), expected);
        }
    }

    /// A system whose installed `tool-utils` is newer than what its only source offers, which also offers a `tool` that
    /// wants the very same version of `tool-common` as `tool-utils` does.
    fn system(installed: &str, offered: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
            fs::write(path, text).expect("a file");
        };
        for directory in
            ["var/lib/apt/lists/partial", "var/cache/apt/archives/partial", "etc/apt/preferences.d"]
        {
            fs::create_dir_all(root.path().join(directory)).expect("directories");
        }
        let source = root.path().join("source");
        put("etc/apt/sources.list", &format!("deb [trusted=yes] file:{} ./\n", source.display()));
        put("var/lib/dpkg/status", installed);
        put("source/Packages", offered);
        root
    }

    fn package(name: &str, version: &str, more: &str) -> String {
        format!(
            "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Nobody <nobody@example.invalid>\n\
             Description: {name}\n{more}"
        )
    }

    fn installed(name: &str, version: &str, more: &str) -> String {
        package(name, version, &format!("Status: install ok installed\n{more}\n"))
    }

    fn offered(name: &str, version: &str, more: &str) -> String {
        let hash = "0".repeat(64);
        let place = format!("Filename: ./{name}_{version}_all.deb\nSize: 1\nSHA256: {hash}\n{more}\n");
        package(name, version, &place)
    }

    fn plan(installed: &str, offered: &str) -> Option<Result<Vec<String>, String>> {
        if super::super::find("apt-get").is_none() {
            super::super::skip("there is no `apt-get`");
            return None;
        }
        let root = system(installed, offered);
        let apt = Apt::below(root.path());
        assert!(!apt.has_lists());
        apt.update().expect("the lists");
        assert!(apt.has_lists());
        Some(apt.plan(&["tool".to_owned()]).map_err(|error| error.to_string()))
    }

    const SAME_COMMON: &str = "Depends: tool-common (= 1.0)\n";

    #[test]
    fn a_package_that_fits_is_installed_as_it_is() {
        let Some(plan) =
            plan("", &(offered("tool", "1.0", SAME_COMMON) + &offered("tool-common", "1.0", "")))
        else {
            return;
        };
        assert_eq!(plan, Ok(vec!["tool".to_owned()]));
    }

    #[test]
    fn installed_packages_newer_than_every_source_give_way() {
        let there = installed("tool-utils", "2.0", "Depends: tool-common (= 2.0)\n")
            + &installed("tool-common", "2.0", "")
            + &installed("bystander", "9.0", "");
        let sources = offered("tool", "1.0", SAME_COMMON)
            + &offered("tool-utils", "1.0", SAME_COMMON)
            + &offered("tool-utils", "0.9", "")
            + &offered("tool-common", "1.0", "")
            + &offered("bystander", "1.0", "");
        let Some(plan) = plan(&there, &sources) else { return };
        assert_eq!(plan, Ok(["tool", "tool-common=1.0", "tool-utils=1.0"].map(str::to_owned).to_vec()));
    }

    #[test]
    fn nothing_is_removed_and_the_reason_is_given() {
        let there = installed("vital", "1.0", "");
        let sources = offered("vital", "1.0", "") + &offered("tool", "1.0", "Conflicts: vital\n");
        let Some(plan) = plan(&there, &sources) else { return };
        let error = plan.expect_err("`vital` would go");
        assert!(error.contains("packages would be removed: vital"), "{error}");
    }

    #[test]
    fn an_unknown_package_is_named() {
        let Some(plan) = plan("", &offered("other", "1.0", "")) else { return };
        let error = plan.expect_err("there is none");
        assert!(error.contains("Unable to locate package tool"), "{error}");
    }

    #[test]
    fn the_command_to_type_allows_downgrades_only_when_needed() {
        assert_eq!(command(&["a".to_owned()]), "apt-get install --no-install-recommends a");
        assert_eq!(
            command(&["a".to_owned(), "b=1".to_owned()]),
            "apt-get install --no-install-recommends --allow-downgrades a b=1"
        );
    }
}
