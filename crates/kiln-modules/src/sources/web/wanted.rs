//! What is to be fetched, and where it can be had.

use super::url::Location;
use crate::checksum::Checksum;

/// A file to be fetched.
#[derive(Clone, Debug)]
pub(in crate::sources) struct Wanted {
    pub(in crate::sources) checksum: Checksum,
    /// The URL as the manifest has it.
    pub(in crate::sources) url: String,
    /// The URL as messages show it.
    pub(in crate::sources) shown: String,
    pub(in crate::sources) location: Location,
    pub(in crate::sources) insecure: bool,
    pub(in crate::sources) secrets: Option<String>,
    pub(in crate::sources) size: Option<u64>,
}

impl Wanted {
    /// The server that the file comes from; empty for files of this machine.
    pub(super) fn host(&self) -> &str {
        match &self.location {
            Location::Web(uri) => uri.authority().map_or("", |authority| authority.as_str()),
            Location::File(_) => "",
        }
    }
}
