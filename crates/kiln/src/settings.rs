//! What the program takes from its surroundings, once, at its start.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::path::PathBuf;

/// The environment as sources see it: all of it, because what the programs look for that fetch for them (credentials, certificates,
/// proxies, configuration) has many names.
pub(crate) fn source_environment() -> BTreeMap<String, String> {
    let text =
        |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    std::env::vars_os().filter_map(text).collect()
}

/// Where Python looks for packages before all others.
pub(crate) fn python_path() -> Vec<PathBuf> {
    let value = std::env::var_os("PYTHONPATH").unwrap_or_default();
    let directories = std::env::split_paths(&value).filter(|directory| !directory.as_os_str().is_empty());
    directories.filter_map(|directory| std::path::absolute(directory).ok()).collect()
}

/// The whole environment, for the distribution's package manager.
pub(crate) fn environment() -> BTreeMap<OsString, OsString> {
    std::env::vars_os().collect()
}

/// Where device nodes of build roots are mounted.
pub(crate) const RUNDIR: &str = "/run/osbuild";

/// The same for `osbuild`, whoever the user is.
pub(crate) fn rundir() -> PathBuf {
    let user = rustix::process::getuid();
    if user.is_root() {
        return PathBuf::from(RUNDIR);
    }
    match std::env::var_os("XDG_RUNTIME_DIR").filter(|directory| !directory.is_empty()) {
        Some(directory) => PathBuf::from(directory).join("osbuild"),
        None => PathBuf::from(format!("/run/user/{user}/osbuild")),
    }
}

/// Owners of exported files are not kept when the environment says so.
pub(crate) fn keep_owners() -> bool {
    std::env::var_os("OSBUILD_EXPORT_FORCE_NO_PRESERVE_OWNER").is_none_or(|value| value != "1")
}

/// The terminal type that stages are told.
pub(crate) fn terminal() -> String {
    std::env::var("TERM").unwrap_or_else(|_| "dumb".to_owned())
}

/// The variable that says when results reach the disk, for callers that cannot give the option.
pub(crate) const CACHE_SYNC: &str = "KILN_CACHE_SYNC";

/// When results reach the disk, if the environment says it.
pub(crate) fn cache_sync() -> Option<String> {
    variable(CACHE_SYNC)
}

/// A variable of the environment that is set to something.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whether standard error is a terminal.
pub(crate) fn stderr_is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// The executable itself, to be bound into build roots.
pub(crate) fn program() -> std::io::Result<PathBuf> {
    std::env::current_exe()
}
