//! A build root as plain data.
//!
//! Operations are carried out in their order: a later one may be mounted inside an earlier one. Targets are
//! absolute paths inside the new root, and no symbolic link leads a target out of it.

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Everything about the environment that one process is started in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildRoot {
    /// What `/` is.
    pub root: Root,
    /// What is put there, in this order.
    pub operations: Vec<Operation>,
    /// Names of the capabilities that are kept, as `CAP_CHOWN`; all others are dropped for good.
    pub capabilities: Vec<String>,
    /// The whole environment; nothing is inherited.
    pub environment: Vec<(String, String)>,
    /// Program and arguments.
    pub arguments: Vec<String>,
    /// Whether the program is for the user at the terminal that is its standard input: it stays in Kiln's session and
    /// reads from the terminal. All others have a session of their own.
    #[serde(default)]
    pub terminal: bool,
}

/// What `/` is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Root {
    /// An empty file system in memory that vanishes with the build root.
    Tmpfs,
    /// A directory of the host, writable; what is written to it stays.
    Directory(PathBuf),
}

/// One thing that is put into a build root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// Shows a file or directory of the host, with everything mounted below it.
    Bind(Bind),
    /// An empty file system in memory.
    Tmpfs {
        /// Where.
        target: PathBuf,
    },
    /// A directory, made if it is not there.
    Directory {
        /// Where.
        target: PathBuf,
        /// Its permissions, set even if it was there.
        mode: u32,
    },
    /// A symbolic link.
    Symlink {
        /// Where.
        target: PathBuf,
        /// Where it leads.
        content: PathBuf,
    },
    /// The process information of the new pid namespace, with its switches for the machine read-only.
    Proc {
        /// Where.
        target: PathBuf,
    },
    /// A read-only file with a given content, mounted over what is there.
    File {
        /// Where.
        target: PathBuf,
        /// What it contains.
        content: String,
    },
    /// Copies what a runner prepared over what is there: see [`PrepareRoot`](crate::PrepareRoot).
    Prepared {
        /// The directory on the host that holds it.
        source: PathBuf,
    },
}

/// A file or directory of the host that a build root shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// The path on the host; below `within` if that is given.
    pub source: PathBuf,
    /// A directory on the host that symbolic links in `source` cannot lead out of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<PathBuf>,
    /// Where it is shown.
    pub target: PathBuf,
    /// What may be done with it.
    pub access: Access,
    /// What happens if it is not there.
    pub presence: Presence,
}

/// What may be done with a bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Reading; device nodes do not work.
    ReadOnly,
    /// Reading and writing; device nodes do not work.
    ReadWrite,
    /// Reading and writing, and using device nodes.
    Devices,
}

/// What happens if the source of a bind is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Presence {
    /// An error.
    Required,
    /// Nothing.
    IfPresent,
    /// Nothing, also if it is no directory or a symbolic link to one.
    IfDirectory,
}

impl BuildRoot {
    /// The build root as text, one line per item.
    pub fn describe(&self) -> String {
        let mut text = match &self.root {
            Root::Tmpfs => "root         tmpfs\n".to_owned(),
            Root::Directory(path) => format!("root         {}\n", path.display()),
        };
        for operation in &self.operations {
            line(&mut text, operation);
        }
        let session = if self.terminal { "the user's terminal" } else { "new session" };
        line(
            &mut text,
            format_args!("namespaces   mount, pid, ipc, network (loopback only), uts; {session}"),
        );
        for name in &self.capabilities {
            line(&mut text, format_args!("capability   {name}"));
        }
        for (name, value) in &self.environment {
            line(&mut text, format_args!("environment  {name}={value}"));
        }
        for argument in &self.arguments {
            line(&mut text, format_args!("argument     {argument}"));
        }
        text
    }
}

fn line(text: &mut String, item: impl fmt::Display) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{item}");
}

impl Operation {
    /// The operation as a phrase for `cannot …`.
    pub(crate) fn action(&self) -> String {
        match self {
            Self::Bind(bind) => format!("bind `{}` to `{}`", bind.host_path().display(), show(&bind.target)),
            Self::Tmpfs { target } => format!("mount tmpfs on `{}`", show(target)),
            Self::Directory { target, .. } => format!("make directory `{}`", show(target)),
            Self::Symlink { target, .. } => format!("make symbolic link `{}`", show(target)),
            Self::Proc { target } => format!("mount proc on `{}`", show(target)),
            Self::File { target, .. } => format!("mount file `{}`", show(target)),
            Self::Prepared { source } => format!("copy prepared build root `{}`", source.display()),
        }
    }
}

fn show(path: &Path) -> impl fmt::Display {
    path.display()
}

impl Bind {
    /// The path on the host, as far as it can be written as one.
    pub(crate) fn host_path(&self) -> PathBuf {
        match &self.within {
            Some(directory) => directory.join(self.source.strip_prefix("/").unwrap_or(&self.source)),
            None => self.source.clone(),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(bind) => {
                let access = match bind.access {
                    Access::ReadOnly => "read-only",
                    Access::ReadWrite => "read-write",
                    Access::Devices => "read-write, device nodes",
                };
                let presence = match bind.presence {
                    Presence::Required => "",
                    Presence::IfPresent => ", if present",
                    Presence::IfDirectory => ", if a directory",
                };
                let source = bind.host_path();
                write!(f, "bind         {} from {}, {access}{presence}", show(&bind.target), show(&source))
            }
            Self::Tmpfs { target } => write!(f, "tmpfs        {}", show(target)),
            Self::Directory { target, mode } => write!(f, "directory    {}, mode {mode:04o}", show(target)),
            Self::Symlink { target, content } => {
                write!(f, "symlink      {} to {}", show(target), show(content))
            }
            Self::Proc { target } => write!(f, "proc         {}", show(target)),
            Self::File { target, content } => write!(f, "file         {} with {content:?}", show(target)),
            Self::Prepared { source } => write!(f, "prepared     / from {}", show(source)),
        }
    }
}
