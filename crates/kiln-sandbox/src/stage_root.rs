//! The build roots that Kiln makes: from the facts about a stage to a plan.
//!
//! The source of the rules is osbuild's own build root. Where it differs by accident only, the regular value is
//! used: `/dev` has mode 0755 and `/var/tmp` really has mode 1777.

use std::path::{Path, PathBuf};

use crate::build_root::{Access, Bind, BuildRoot, Operation, Presence, Root};
use crate::capability;

/// The kernel command line that stages see: the device does not exist, so that no tool takes the host's root
/// for the image's.
pub const PROC_CMDLINE: &str = "root=/dev/osbuild\n";

/// The argument with which a native runner prepares a build root and ends.
pub const PREPARE: &str = "--prepare";

/// What of the host's `/etc` a pipeline without a build pipeline sees.
const HOST_ETC: &[&str] = &["etc/containers"];

/// What of a build tree's own files beside `/usr` and `/boot` stages see.
const BUILD_TREE: &[&str] = &["etc/mke2fs.conf", "etc/containers", "ostree", "etc/selinux"];

/// A program that is shown in a build root. For a native module or runner this is Kiln itself.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    /// Its path on the host.
    pub path: &'a Path,
    /// Its file name inside, as `org.osbuild.debian`.
    pub name: &'a str,
}

/// The facts about one stage that its build root depends on. All paths are the host's.
#[derive(Clone, Copy, Debug)]
pub struct StageRoot<'a> {
    /// The build tree; `/` for the host's own tools.
    pub root: &'a Path,
    /// Whether `/boot` of the build tree is shown: when there is a build pipeline.
    pub boot: bool,
    /// The directory that becomes `/dev`: see [`prepare_dev`](crate::prepare_dev).
    pub dev: &'a Path,
    /// An empty directory on disk that becomes `/var`.
    pub var: &'a Path,
    /// The content of `/proc/cmdline`: normally [`PROC_CMDLINE`].
    pub proc_cmdline: &'a str,
    /// The library directory of modules that are not native.
    pub library: Option<&'a Path>,
    /// The Python package that these modules import, if it is not in the library directory, which has an empty directory
    /// for it.
    pub package: Option<&'a Path>,
    /// The runner.
    pub runner: Program<'a>,
    /// The stage.
    pub module: Program<'a>,
    /// What the stage's program is told in its arguments: a native one, which kind of module it is to be.
    pub words: &'a [&'a str],
    /// The tree that the stage changes.
    pub tree: &'a Path,
    /// An empty file for the stage's metadata.
    pub meta: &'a Path,
    /// The directory with the inputs.
    pub inputs: &'a Path,
    /// The directory with the mounts.
    pub mounts: &'a Path,
    /// The file with the stage's arguments.
    pub arguments: &'a Path,
    /// Sockets of host services, and their names below `/run/osbuild/api`.
    pub sockets: &'a [(PathBuf, &'a str)],
    /// Environment variables beyond the default ones, as `SOURCE_DATE_EPOCH`.
    pub environment: &'a [(&'a str, &'a str)],
    /// Capabilities beyond the default ones, as `CAP_MAC_ADMIN`.
    pub capabilities: &'a [&'a str],
    /// The value of `TERM`.
    pub terminal: &'a str,
    /// What a native runner prepared in this build tree; the stage is then executed without it.
    pub prepared: Option<&'a Path>,
}

/// The facts about the run of a native runner that prepares a build tree for all stages that use it.
#[derive(Clone, Copy, Debug)]
pub struct PrepareRoot<'a> {
    /// The build tree; `/` for the host's own tools.
    pub root: &'a Path,
    /// Whether `/boot` of the build tree is shown.
    pub boot: bool,
    /// The directory that becomes `/dev`.
    pub dev: &'a Path,
    /// The runner.
    pub runner: Program<'a>,
    /// The value of `TERM`.
    pub terminal: &'a str,
    /// An empty directory on disk, made for this, that will hold the result after
    /// [`finish_prepared`](crate::finish_prepared).
    pub into: &'a Path,
}

impl StageRoot<'_> {
    /// Makes the plan.
    pub fn plan(&self) -> BuildRoot {
        let mut operations = file_systems(self.root, self.boot, self.dev);
        for target in ["/run", "/tmp"] {
            operations.push(Operation::Tmpfs { target: target.into() });
        }
        operations.push(bind(self.var, "/var", Access::ReadWrite));
        operations.push(directory("/var/tmp", 0o1777));
        operations.extend(self.prepared.map(|source| Operation::Prepared { source: source.to_owned() }));
        operations.extend(system(self.root, self.proc_cmdline));
        operations.push(directory("/run/osbuild", 0o700));
        operations.push(match self.library {
            Some(library) => bind(library, "/run/osbuild/lib", Access::ReadOnly),
            None => directory("/run/osbuild/lib", 0o755),
        });
        operations
            .extend(self.package.map(|package| bind(package, "/run/osbuild/lib/osbuild", Access::ReadOnly)));
        operations.extend([
            bind(self.tree, "/run/osbuild/tree", Access::ReadWrite),
            bind(self.meta, "/run/osbuild/meta", Access::ReadWrite),
            bind(self.mounts, "/run/osbuild/mounts", Access::ReadWrite),
            directory("/run/osbuild/bin", 0o700),
            bind(self.module.path, &module(self.module.name), Access::ReadOnly),
            bind(self.inputs, "/run/osbuild/inputs", Access::ReadOnly),
            directory("/run/osbuild/api", 0o700),
            bind(self.arguments, "/run/osbuild/api/arguments", Access::ReadOnly),
        ]);
        for (path, name) in self.sockets {
            operations.push(bind(path, &format!("/run/osbuild/api/{name}"), Access::ReadWrite));
        }
        operations.extend(runner(self.runner));
        let mut arguments = vec![module(self.module.name)];
        if self.prepared.is_none() {
            // Its work is in the prepared build root; all it would do now is to execute the module.
            arguments.insert(0, runner_path(self.runner.name));
        }
        arguments.extend(self.words.iter().map(|word| (*word).to_owned()));
        BuildRoot {
            root: Root::Tmpfs,
            operations,
            capabilities: capabilities(self.capabilities),
            environment: environment(self.terminal, self.environment),
            arguments,
            terminal: false,
        }
    }
}

impl PrepareRoot<'_> {
    /// Makes the plan.
    pub fn plan(&self) -> BuildRoot {
        let mut operations = vec![directory("/", 0o755)];
        operations.extend(file_systems(self.root, self.boot, self.dev));
        operations.extend(["/run", "/tmp", "/var"].map(|target| directory(target, 0o755)));
        operations.push(directory("/var/tmp", 0o1777));
        operations.extend(system(self.root, PROC_CMDLINE));
        operations.push(directory("/run/osbuild", 0o700));
        operations.push(directory("/run/osbuild/lib", 0o755));
        operations.extend(runner(self.runner));
        BuildRoot {
            root: Root::Directory(self.into.to_owned()),
            operations,
            capabilities: capabilities(&[]),
            environment: environment(self.terminal, &[]),
            arguments: vec![runner_path(self.runner.name), PREPARE.to_owned()],
            terminal: false,
        }
    }
}

/// The build tree's programs, the links that lead to them, and `/dev`.
fn file_systems(root: &Path, boot: bool, dev: &Path) -> Vec<Operation> {
    let mut operations = Vec::new();
    for name in ["boot", "usr"].into_iter().filter(|name| boot || *name != "boot") {
        operations.push(from_build_tree(root, name, Presence::IfDirectory));
    }
    for name in ["lib", "lib64", "bin", "sbin"] {
        let target = Path::new("/").join(name);
        operations.push(Operation::Symlink { target, content: Path::new("usr").join(name) });
    }
    operations.push(bind(dev, "/dev", Access::Devices));
    operations.push(Operation::Tmpfs { target: "/dev/shm".into() });
    operations.push(directory("/etc", 0o755));
    operations
}

/// `/proc`, `/sys`, and the build tree's configuration.
fn system(root: &Path, cmdline: &str) -> Vec<Operation> {
    let mut operations = vec![
        Operation::Proc { target: "/proc".into() },
        bind(Path::new("/sys"), "/sys", Access::ReadOnly),
        Operation::File { target: "/proc/cmdline".into(), content: cmdline.to_owned() },
    ];
    let names = if root == Path::new("/") { HOST_ETC } else { BUILD_TREE };
    operations.extend(names.iter().map(|name| from_build_tree(root, name, Presence::IfPresent)));
    operations
}

fn from_build_tree(root: &Path, name: &str, presence: Presence) -> Operation {
    Operation::Bind(Bind {
        source: Path::new("/").join(name),
        within: Some(root.to_owned()),
        target: Path::new("/").join(name),
        access: Access::ReadOnly,
        presence,
    })
}

fn runner(runner: Program<'_>) -> [Operation; 2] {
    [directory("/run/osbuild/runner", 0o700), bind(runner.path, &runner_path(runner.name), Access::ReadOnly)]
}

fn runner_path(name: &str) -> String {
    format!("/run/osbuild/runner/{name}")
}

fn module(name: &str) -> String {
    format!("/run/osbuild/bin/{name}")
}

fn bind(source: &Path, target: &str, access: Access) -> Operation {
    let presence = Presence::Required;
    Operation::Bind(Bind { source: source.to_owned(), within: None, target: target.into(), access, presence })
}

fn directory(target: &str, mode: u32) -> Operation {
    Operation::Directory { target: target.into(), mode }
}

fn capabilities(extra: &[&str]) -> Vec<String> {
    let mut names: Vec<_> = capability::DEFAULT.iter().chain(extra).map(|&name| name.to_owned()).collect();
    names.sort();
    names.dedup();
    names
}

fn environment(terminal: &str, extra: &[(&str, &str)]) -> Vec<(String, String)> {
    let default = [
        ("LC_CTYPE", "C.UTF-8"),
        ("PATH", "/usr/sbin:/usr/bin"),
        ("PWD", "/"),
        ("PYTHONPATH", "/run/osbuild/lib"),
        ("PYTHONUNBUFFERED", "1"),
        ("TERM", terminal),
        ("container", "bwrap-osbuild"),
    ];
    let mut environment = std::collections::BTreeMap::new();
    for (name, value) in default.iter().chain(extra) {
        environment.insert((*name).to_owned(), (*value).to_owned());
    }
    environment.into_iter().collect()
}
