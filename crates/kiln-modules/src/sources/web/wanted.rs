//! What is to be fetched, and where it can be had.

use std::sync::Arc;

use super::url::{self, Location};
use crate::checksum::Checksum;

/// A file to be fetched.
#[derive(Clone, Debug)]
pub(in crate::sources) struct Wanted {
    pub(in crate::sources) checksum: Checksum,
    pub(in crate::sources) size: Option<u64>,
    pub(in crate::sources) places: Places,
}

/// The places of a file, the preferred one first; there is at least one.
#[derive(Clone, Debug)]
pub(in crate::sources) enum Places {
    /// Each on its own.
    Listed(Vec<Place>),
    /// A path on each of some mirrors. Mirrors are many and so are their files: a place is made when it is needed.
    Mirrored { mirrors: Arc<Mirrors>, path: String },
}

/// One place of a file.
#[derive(Clone, Debug)]
pub(in crate::sources) struct Place {
    /// The URL as the manifest has it, for which secrets are looked up.
    pub(in crate::sources) url: String,
    /// The URL as messages show it.
    pub(in crate::sources) shown: String,
    pub(in crate::sources) location: Location,
    pub(in crate::sources) insecure: bool,
    pub(in crate::sources) secrets: Option<String>,
}

/// Mirrors of one collection of files.
#[derive(Clone, Debug)]
pub(in crate::sources) struct Mirrors {
    /// The URL in the manifest that led to them.
    pub(in crate::sources) url: String,
    /// The URLs below which the files are, each with its host; the preferred one first.
    pub(in crate::sources) bases: Vec<(String, String)>,
    pub(in crate::sources) insecure: bool,
    pub(in crate::sources) secrets: Option<String>,
    /// How many files are fetched at the same time at most.
    pub(in crate::sources) parallel: Option<usize>,
}

impl Place {
    /// Reads a URL whose path is plain text.
    pub(in crate::sources) fn parse(
        url: &str,
        insecure: bool,
        secrets: Option<String>,
    ) -> Result<Self, String> {
        let shown = url::show(url);
        let location = url::parse(url).map_err(|reason| format!("invalid URL `{shown}`: {reason}"))?;
        Ok(Self { url: url.to_owned(), shown, location, insecure, secrets })
    }

    /// The server; empty for files of this machine.
    pub(super) fn host(&self) -> &str {
        self.location.host()
    }
}

impl Wanted {
    /// How many places there are.
    pub(super) fn count(&self) -> usize {
        match &self.places {
            Places::Listed(places) => places.len(),
            Places::Mirrored { mirrors, .. } => mirrors.bases.len(),
        }
    }

    /// The server of a place; empty for files of this machine.
    pub(super) fn host(&self, index: usize) -> &str {
        match &self.places {
            Places::Listed(places) => places.get(index).map_or("", Place::host),
            Places::Mirrored { mirrors, .. } => mirrors.bases.get(index).map_or("", |(_, host)| host),
        }
    }

    /// A place, and how messages name it even if it is none.
    pub(super) fn place(&self, index: usize) -> (String, Result<Place, String>) {
        match &self.places {
            Places::Listed(places) => match places.get(index) {
                Some(place) => (place.shown.clone(), Ok(place.clone())),
                None => (String::new(), Err("there is no such place".to_owned())),
            },
            Places::Mirrored { mirrors, path } => {
                let base = mirrors.bases.get(index).map_or("", |(base, _)| base);
                let url = url::below(base, path);
                let shown = url::show(&url);
                let place = url::parse_quoted(&url).map(|location| Place {
                    url: mirrors.url.clone(),
                    shown: shown.clone(),
                    location,
                    insecure: mirrors.insecure,
                    secrets: mirrors.secrets.clone(),
                });
                (shown.clone(), place.map_err(|reason| format!("invalid URL `{shown}`: {reason}")))
            }
        }
    }

    /// How many files may be fetched at the same time from wherever this one can be had.
    pub(super) fn parallel(&self) -> usize {
        match &self.places {
            Places::Listed(_) => usize::MAX,
            Places::Mirrored { mirrors, .. } => mirrors.parallel.unwrap_or(usize::MAX).max(1),
        }
    }

    /// What files have in common that can be had from the same servers.
    pub(super) fn group(&self) -> Group {
        match &self.places {
            Places::Listed(places) => {
                Group::Hosts(places.iter().map(|place| place.host().to_owned()).collect())
            }
            Places::Mirrored { mirrors, .. } => Group::Mirrors(Arc::as_ptr(mirrors).addr()),
        }
    }
}

/// What files have in common that can be had from the same servers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Group {
    Hosts(Vec<String>),
    /// Mirrors by where they are in memory: each list is one.
    Mirrors(usize),
}
