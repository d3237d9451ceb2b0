//! A small world for the solver: a repository of packages without files, a configuration, and a state directory.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kiln_resolve::{Definition, Format, Progress, Refresh, Resolution, ResolveError, Resolver, resolve};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// The date of the world's releases: second 1,736,593,812.
pub(crate) const DATE: &str = "Sat, 11 Jan 2025 11:10:12 UTC";

/// The part of a definition that asks for a package with a dependency.
pub(crate) const HELLO: &str = "[[packages]]\nname = \"hello\"";

/// A definition of an archive with some more lines before its settings.
pub(crate) fn tar(more: &str) -> String {
    format!("name = \"x\"\ndistro = \"debian-12\"\n{more}\n[kiln]\noutputs = [\"tar\"]\n")
}

/// The names of the packages that a pipeline installs.
pub(crate) fn installed(manifest: &Value, pipeline: usize) -> Vec<String> {
    let stages = manifest["pipelines"][pipeline]["stages"].as_array().expect("stages");
    let install = stages.iter().find(|stage| stage["type"] == "org.kiln.deb").expect("packages");
    let references = &install["inputs"]["packages"]["references"];
    let items = &manifest["sources"]["org.osbuild.curl"]["items"];
    let name = |reference: &Value| {
        let url = items[reference.as_str().expect("a checksum")]["url"].as_str().expect("a URL").to_owned();
        let file = url.rsplit('/').next().expect("a file").to_owned();
        file.split('_').next().expect("a name").to_owned()
    };
    let mut names: Vec<_> = references.as_array().expect("references").iter().map(name).collect();
    names.sort();
    names
}

/// The stages of a pipeline.
pub(crate) fn stages<'a>(manifest: &'a Value, pipeline: &str) -> &'a [Value] {
    let pipelines = manifest["pipelines"].as_array().expect("pipelines");
    let found = pipelines.iter().find(|candidate| candidate["name"] == pipeline);
    found.unwrap_or_else(|| panic!("no {pipeline}"))["stages"].as_array().expect("stages")
}

/// A text that a manifest brings along.
pub(crate) fn inline(manifest: &Value, checksum: &str) -> String {
    let data = &manifest["sources"]["org.osbuild.inline"]["items"][checksum]["data"];
    let bytes = STANDARD.decode(data.as_str().expect("data")).expect("Base64");
    String::from_utf8(bytes).expect("UTF-8")
}

/// Everything that a resolution sees.
pub(crate) struct World {
    directory: TempDir,
    state: TempDir,
    host: bool,
    pub(crate) environment: BTreeMap<OsString, OsString>,
    pub(crate) refresh: Refresh,
    pub(crate) interrupted: AtomicBool,
    warnings: Mutex<Vec<String>>,
}

fn open_directory() -> TempDir {
    let directory = TempDir::new().expect("a temporary directory");
    // apt reads as a user of its own, who must be able to enter.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("permissions");
    directory
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A paragraph of an index; fields can be added at its end.
pub(crate) fn package(name: &str, version: &str) -> String {
    let architecture = architecture();
    let file = version.split_once(':').map_or(version, |(_, rest)| rest);
    let digest: String =
        Sha256::digest(format!("{name} {version}")).iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "Package: {name}\nVersion: {version}\nArchitecture: {architecture}\nInstalled-Size: 100\n\
         Filename: pool/{name}_{file}_{architecture}.deb\nSize: {}\nSHA256: {digest}\n\
         Description: a package\n with a second line: of text\n",
        1000 + name.len()
    )
}

/// What every image and build root needs, and a package with a dependency.
pub(crate) fn standard() -> Vec<String> {
    let plain = "apt dbus passwd udev tzdata e2fsprogs xfsprogs btrfs-progs fdisk grub-common grub-pc-bin \
                 dosfstools lvm2 cryptsetup-bin cryptsetup-initramfs grub-efi-amd64-bin grub-efi-arm64-bin mtools qemu-utils \
                 systemd-boot systemd-boot-efi binutils live-boot live-boot-initramfs-tools squashfs-tools xorriso \
                 isolinux syslinux-common linux-image-6.1.0-9-arch linux-image-6.1.0-10-arch \
                 initramfs-tools linux-image-cloud-amd64 linux-image-cloud-arm64 libinit libhello hello-doc";
    let mut packages: Vec<_> = plain.split(' ').map(|name| package(name, "1")).collect();
    packages.push(format!("{}Essential: yes\n", package("base", "12")));
    packages.push(format!("{}Depends: libinit\n", package("systemd", "252")));
    packages.push(format!("{}Depends: systemd\n", package("systemd-sysv", "252")));
    packages.push(format!("{}Depends: libhello\nRecommends: hello-doc\n", package("hello", "2.10")));
    packages
}

impl World {
    /// A world whose only source is a Debian 12 with these packages.
    pub(crate) fn new(packages: &[String]) -> Self {
        let mut world = Self::bare(false);
        for directory in ["etc/apt.conf.d", "etc/preferences.d", "etc/sources.list.d", "etc/trusted.gpg.d"] {
            fs::create_dir_all(world.directory().join(directory)).expect("a directory");
        }
        world.add_release("bookworm", DATE, packages);
        world
    }

    /// The host's own world.
    pub(crate) fn of_the_host() -> Self {
        Self::bare(true)
    }

    fn bare(host: bool) -> Self {
        let environment = std::env::vars_os().filter(|(name, _)| host || name == "PATH").collect();
        Self {
            directory: open_directory(),
            state: open_directory(),
            host,
            environment,
            refresh: Refresh::OlderThan(Duration::from_secs(3600)),
            interrupted: AtomicBool::new(false),
            warnings: Mutex::new(Vec::new()),
        }
    }

    /// The same world with nothing kept from before.
    pub(crate) fn with_new_state(self) -> Self {
        Self { state: open_directory(), ..self }
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn repository_url(&self) -> String {
        format!("file://{}/", self.directory().display())
    }

    pub(crate) fn source_line(&self) -> String {
        format!("deb [trusted=yes] {} bookworm main", self.repository_url())
    }

    /// Makes or replaces a suite, and a source for it.
    pub(crate) fn add_release(&mut self, suite: &str, date: &str, packages: &[String]) {
        let suite_directory = self.directory().join("dists").join(suite);
        let index = format!("main/binary-{}/Packages", architecture());
        let path = suite_directory.join(&index);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        let text = packages.join("\n");
        fs::write(&path, &text).expect("an index");
        let digest: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
        let release = format!(
            "Origin: Test\nSuite: {suite}\nCodename: {suite}\nDate: {date}\nArchitectures: {}\nComponents: main\n\
             SHA256:\n {digest} {} {index}\n",
            architecture(),
            text.len()
        );
        fs::write(suite_directory.join("Release"), release).expect("a release");
        let line = format!("deb [trusted=yes] {} {suite} main\n", self.repository_url());
        let known = fs::read_to_string(self.sources()).unwrap_or_default();
        if !known.contains(&format!(" {suite} main")) {
            self.add_source(&line);
        }
    }

    fn sources(&self) -> PathBuf {
        self.directory().join("etc/sources.list")
    }

    pub(crate) fn write_sources(&self, text: &str) {
        fs::write(self.sources(), text).expect("the sources");
    }

    pub(crate) fn add_source(&self, line: &str) {
        let text = fs::read_to_string(self.sources()).unwrap_or_default();
        self.write_sources(&format!("{text}{line}"));
    }

    pub(crate) fn write_configuration(&self, name: &str, text: &str) {
        fs::write(self.directory().join("etc").join(name), text).expect("a configuration file");
    }

    /// What the configuration and the repository consist of.
    pub(crate) fn configuration(&self) -> Vec<(PathBuf, u64, i64)> {
        listing(self.directory())
    }

    /// A text without the names of this run's directories.
    pub(crate) fn cleaned(&self, text: &str) -> String {
        text.replace(&self.directory().display().to_string(), "/WORLD")
    }

    pub(crate) fn warnings(&self) -> Vec<String> {
        self.warnings.lock().expect("warnings").clone()
    }

    pub(crate) fn resolve(&self, text: &str) -> Result<Resolution, ResolveError> {
        let definition = match Definition::parse(text, Path::new("image.toml"), Format::Toml) {
            Ok(definition) => definition,
            Err(findings) => panic!("{}", findings.first().expect("a finding")),
        };
        let etc = self.directory().join("etc");
        let note = |progress: Progress<'_>| {
            if let Progress::Warning(text) = progress {
                self.warnings.lock().expect("warnings").push(text.to_owned());
            }
        };
        let resolver = Resolver {
            state_directory: self.state.path(),
            environment: &self.environment,
            apt_directory: (!self.host).then_some(etc.as_path()),
            refresh: self.refresh,
            progress: &note,
            interrupted: &self.interrupted,
        };
        resolve(&definition, &resolver)
    }
}

/// Paths, sizes and times of all below a directory.
pub(crate) fn listing(directory: &Path) -> Vec<(PathBuf, u64, i64)> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(directory) else { return found };
    for entry in entries {
        let path = entry.expect("an entry").path();
        let meta = fs::symlink_metadata(&path).expect("metadata");
        if meta.is_dir() {
            found.extend(listing(&path));
        }
        found.push((path, meta.len(), meta.mtime()));
    }
    found.sort();
    found
}
