//! `cargo xtask docs`: what is generated in `docs/`.

use std::fs;

use crate::cargo::{cargo, root, step};
use crate::error::Error;

/// Writes the manual pages anew, so that none is left of a command that is gone.
pub(crate) fn run() -> Result<(), Error> {
    let directory = root().join("docs/man");
    if directory.exists() {
        fs::remove_dir_all(&directory).map_err(Error::file("remove", &directory))?;
    }
    let mut command = cargo(&["run", "--quiet", "--package", "kiln", "--", "man"]);
    step("writing the manual pages", command.arg(&directory))
}
