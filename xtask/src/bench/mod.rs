//! `cargo xtask bench`.
use crate::error::Error;
use clap::Args;
/// The arguments of the verb.
#[derive(Debug, Args)]
pub(crate) struct Arguments {}
pub(crate) fn run(_: &Arguments) -> Result<(), Error> {
    Err(Error::Missing("not yet".to_owned()))
}
