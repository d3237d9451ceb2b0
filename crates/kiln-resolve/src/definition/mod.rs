//! The definition: a blueprint, as image-builder's users write it, and a table `[kiln]` for what blueprints lack.
//!
//! Reading is strict: a key that the blueprint format has and Kiln does not carry out yet is refused by name,
//! any other key is unknown, and both point at the place in the text. Nothing is ignored. All mistakes of a
//! definition are found in one reading.

mod blueprint;
mod boot;
mod disk;
mod json;
mod kiln;
mod node;
mod partition_table;
mod report;
mod rules;
mod size;
mod table;
mod toml;

use std::path::Path;

pub use self::kiln::{FileSystem, Output};
pub use self::report::Finding;

pub(crate) use self::blueprint::{Customizations, Inode, Owner, Package, User};
pub(crate) use self::boot::Bootloader;
pub(crate) use self::disk::{Content, Partition, Space, needs_boot};
pub(crate) use self::kiln::Settings;
pub(crate) use self::node::{Placed, Span};
pub(crate) use self::partition_table::{Entry, LONGEST_NAME, PartitionTable};
pub(crate) use self::report::Source;
pub(crate) use self::table::list;

/// How a definition is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// TOML, the usual form.
    Toml,
    /// JSON, the form that image-builder's interfaces exchange.
    Json,
}

/// A definition that was read without a finding.
#[derive(Clone, Debug)]
pub struct Definition {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) distro: Option<Placed<&'static Release>>,
    pub(crate) packages: Vec<Placed<Package>>,
    pub(crate) customizations: Customizations,
    /// The partitions with the system's file systems, in their order; `/` is among them.
    pub(crate) partitions: Vec<Partition>,
    pub(crate) kiln: Settings,
    pub(crate) source: Source,
}

impl Definition {
    /// Reads a definition; `name` is what findings call its file.
    pub fn parse(text: &str, name: &Path, format: Format) -> Result<Self, Vec<Finding>> {
        let source = Source::new(name, text);
        let mut report = report::Report::default();
        let root = match format {
            Format::Toml => toml::parse(text, &mut report),
            Format::Json => json::parse(text, &mut report),
        };
        let definition = root.and_then(|root| blueprint::read(&root, source.clone(), &mut report));
        let findings = report.finish(&source);
        match definition {
            Some(definition) if findings.is_empty() => Ok(definition),
            _ => Err(findings),
        }
    }

    /// The image's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is to be made of the image.
    pub fn outputs(&self) -> &[Output] {
        &self.kiln.outputs
    }

    /// The name as part of a file name.
    pub(crate) fn file_stem(&self) -> String {
        self.name.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect()
    }

    /// Makes a finding of a place in the definition.
    pub(crate) fn finding(&self, span: &Span, message: String, hint: Option<String>) -> Finding {
        self.source.finding(span, message, hint)
    }
}

/// A release of Debian.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Release {
    /// The number in `distro`.
    pub(crate) number: u32,
    /// The name that package sources have for it.
    pub(crate) codename: &'static str,
}

/// The releases that `distro` may name.
pub(crate) const RELEASES: [Release; 4] = [
    Release { number: 11, codename: "bullseye" },
    Release { number: 12, codename: "bookworm" },
    Release { number: 13, codename: "trixie" },
    Release { number: 14, codename: "forky" },
];
