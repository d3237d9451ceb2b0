//! What can be wrong with a cache, and what can be done about it.

use std::fmt;

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// `cache.info` cannot be understood.
    CacheInfo,
    /// The cache has a layout of another version.
    Version {
        /// The version, if it has any.
        version: Option<i64>,
    },
    /// A file that every cache has is missing.
    Missing,
    /// `CACHEDIR.TAG` is not the mark that programs for backups look for.
    Tag,
    /// `cache.size` holds no number.
    Size,
    /// The sum is wrong.
    Accounting {
        /// What `cache.size` says.
        accounted: u64,
        /// What all entries are accounted with.
        counted: u64,
    },
    /// `kiln.sources` says something else than what is there.
    Downloads {
        /// What it says.
        recorded: u64,
        /// What is there.
        counted: u64,
    },
    /// Nothing that belongs to a cache.
    Unknown,
    /// A name that no entry can have.
    Name,
    /// An object without what commits it.
    Half,
    /// An object without a lock file.
    NoLock,
    /// An object without a tree.
    NoTree,
    /// `object.info` cannot be understood.
    ObjectInfo,
    /// `object.info` does not say how many bytes the object is accounted with.
    NoSize,
    /// The recipe is none.
    Recipe,
    /// An object was not on the disk when the machine stopped.
    Unflushed,
    /// A tree takes another number of bytes than it is accounted with.
    Changed {
        /// What it is accounted with.
        accounted: u64,
        /// What it takes.
        measured: u64,
    },
    /// Metadata of a stage that is not JSON.
    Metadata,
    /// Something that a process left when it died.
    Leftover,
    /// A download whose name is no checksum.
    DownloadName,
    /// A download that is no regular file.
    NoFile,
    /// A download with another content than its name says.
    Checksum {
        /// The checksum of what it holds.
        found: String,
    },
}

/// What repairing does about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remedy {
    /// The file is made again.
    Rewrite,
    /// `cache.info` is replaced by that of a new cache; the limit has to be set again.
    StartAgain,
    /// The object is removed, to be built again.
    RemoveObject,
    /// The download is removed, to be fetched again.
    RemoveDownload,
    /// It is removed.
    Remove,
    /// The object is accounted with what it takes.
    Account,
    /// Everything is counted again.
    Count,
    /// Nothing: somebody must look at it.
    Leave,
}

impl Fault {
    /// A word for programs; it never changes.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::CacheInfo => "cache-info",
            Self::Version { .. } => "version",
            Self::Missing => "missing",
            Self::Tag => "tag",
            Self::Size => "size",
            Self::Accounting { .. } => "accounting",
            Self::Downloads { .. } => "downloads",
            Self::Unknown => "unknown",
            Self::Name => "name",
            Self::Half => "half",
            Self::NoLock => "no-lock",
            Self::NoTree => "no-tree",
            Self::ObjectInfo => "object-info",
            Self::NoSize => "no-size",
            Self::Recipe => "recipe",
            Self::Unflushed => "unflushed",
            Self::Changed { .. } => "changed",
            Self::Metadata => "metadata",
            Self::Leftover => "leftover",
            Self::DownloadName => "download-name",
            Self::NoFile => "no-file",
            Self::Checksum { .. } => "checksum",
        }
    }

    /// What repairing does about it.
    pub const fn remedy(&self) -> Remedy {
        match self {
            Self::CacheInfo => Remedy::StartAgain,
            Self::Missing | Self::Tag => Remedy::Rewrite,
            Self::Size | Self::Accounting { .. } | Self::Downloads { .. } => Remedy::Count,
            Self::Version { .. } | Self::Unknown | Self::Name | Self::DownloadName => Remedy::Leave,
            Self::Half
            | Self::NoLock
            | Self::NoTree
            | Self::ObjectInfo
            | Self::NoSize
            | Self::Recipe
            | Self::Unflushed
            | Self::Metadata => Remedy::RemoveObject,
            Self::Changed { .. } => Remedy::Account,
            Self::Leftover => Remedy::Remove,
            Self::NoFile | Self::Checksum { .. } => Remedy::RemoveDownload,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CacheInfo => formatter.write_str("it does not hold a JSON object"),
            Self::Version { version: Some(version) } => {
                write!(formatter, "it is the layout of another version: {version}")
            }
            Self::Version { version: None } => formatter.write_str("it does not say the layout's version"),
            Self::Missing => formatter.write_str("it is missing"),
            Self::Tag => formatter.write_str("it does not mark a cache for programs that make backups"),
            Self::Size => formatter.write_str("it does not hold a number"),
            Self::Accounting { accounted, counted } => {
                write!(formatter, "it says {accounted} bytes, and the entries are accounted with {counted}")
            }
            Self::Downloads { recorded, counted } => {
                write!(formatter, "it says {recorded} bytes, and the downloads take {counted}")
            }
            Self::Unknown => formatter.write_str("it does not belong to a cache"),
            Self::Name => formatter.write_str("no entry can have such a name"),
            Self::Half => formatter.write_str("half an object: it has no `object.info`"),
            Self::NoLock => formatter.write_str("an object without `object.lock`"),
            Self::NoTree => formatter.write_str("an object without `data`"),
            Self::ObjectInfo => formatter.write_str("it does not hold a JSON object"),
            Self::NoSize => formatter.write_str("it does not say how many bytes are accounted"),
            Self::Recipe => formatter.write_str("its recipe is not a hexadecimal digest"),
            Self::Unflushed => formatter.write_str("the machine stopped before all of it was on the disk"),
            Self::Changed { accounted, measured } => {
                write!(formatter, "it is accounted with {accounted} bytes, and takes {measured}")
            }
            Self::Metadata => formatter.write_str("metadata that is not JSON"),
            Self::Leftover => formatter.write_str("a process that has died left it"),
            Self::DownloadName => formatter.write_str("its name is not a checksum"),
            Self::NoFile => formatter.write_str("a download that is not a regular file"),
            Self::Checksum { found } => write!(formatter, "its content has another checksum: {found}"),
        }
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Rewrite => "writes it again",
            Self::StartAgain => "writes that of a new cache, without a limit",
            Self::RemoveObject => "removes the object, which will be built again",
            Self::RemoveDownload => "removes it, and it will be fetched again",
            Self::Remove => "removes it",
            Self::Account => "accounts it with what it takes",
            Self::Count => "counts again",
            Self::Leave => "leaves it: look at it yourself",
        })
    }
}
