//! The `.deb` container: an `ar` archive of `debian-binary`, `control.tar.*` and `data.tar.*`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use kiln_api::ModuleError;

use super::control::{Package, parse_stanzas};

/// Largest control member that is read: real ones are below 2 MiB, and they are held in memory.
const CONTROL_LIMIT: u64 = 64 << 20;

/// A package file whose control part has been read.
#[derive(Debug)]
pub(super) struct Deb {
    /// The file.
    pub(super) path: PathBuf,
    /// What it says of itself.
    pub(super) package: Package,
    /// All control members but `control`: scripts, `md5sums`, `conffiles`, `triggers`, …
    pub(super) members: BTreeMap<String, Vec<u8>>,
    /// Compressed size of the content, to start the longest work first.
    pub(super) data_size: u64,
}

impl Deb {
    /// Reads a package file's control part.
    pub(super) fn read(path: &Path) -> Result<Self, ModuleError> {
        let damaged = |reason: &dyn std::fmt::Display| {
            ModuleError::invalid(format!("`{}` is no usable package: {reason}", path.display()))
        };
        let mut members = None;
        let mut archive = open(path)?;
        let mut first = true;
        while let Some(entry) = archive.next_entry() {
            let mut entry = entry.map_err(|error| damaged(&error))?;
            let name = String::from_utf8_lossy(entry.header().identifier()).into_owned();
            if first {
                let mut version = String::new();
                (&mut entry).take(64).read_to_string(&mut version).map_err(|error| damaged(&error))?;
                if name != "debian-binary" || !version.starts_with("2.") {
                    return Err(damaged(&"it does not start with a format version `2.…`"));
                }
                first = false;
            } else if name.starts_with("control.tar") {
                members = Some(read_control(&name, entry).map_err(|error| damaged(&error))?);
            } else if name.starts_with("data.tar") {
                let mut members =
                    members.ok_or_else(|| damaged(&"there is no control part before the content"))?;
                let control = members.remove("control").ok_or_else(|| damaged(&"it has no control file"))?;
                let text = String::from_utf8_lossy(&control).into_owned();
                let stanza = parse_stanzas(&text).map_err(|error| damaged(&error))?.into_iter().next();
                let package = Package::new(stanza.unwrap_or_default()).map_err(|error| damaged(&error))?;
                let data_size = entry.header().size();
                return Ok(Self { path: path.to_owned(), package, members, data_size });
            }
        }
        Err(damaged(&"it has no content"))
    }

    /// A control member as text.
    pub(super) fn text(&self, member: &str) -> Option<String> {
        self.members.get(member).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// Hands the content, a decompressed tar stream, to a function.
    pub(super) fn with_content<T>(
        &self,
        consume: impl FnOnce(&mut dyn Read) -> Result<T, ModuleError>,
    ) -> Result<T, ModuleError> {
        let read_error = |error| ModuleError::io("read package", &self.path)(error);
        let mut archive = open(&self.path)?;
        while let Some(entry) = archive.next_entry() {
            let entry = entry.map_err(read_error)?;
            let name = String::from_utf8_lossy(entry.header().identifier()).into_owned();
            if name.starts_with("data.tar") {
                let mut reader = decompress(&name, entry).map_err(read_error)?;
                return consume(&mut reader);
            }
        }
        Err(ModuleError::invalid(format!("`{}` lost its content while it was read", self.path.display())))
    }
}

fn open(path: &Path) -> Result<ar::Archive<BufReader<File>>, ModuleError> {
    let file = File::open(path).map_err(ModuleError::io("open package", path))?;
    Ok(ar::Archive::new(BufReader::with_capacity(1 << 17, file)))
}

fn read_control(name: &str, reader: impl Read) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut members = BTreeMap::new();
    let mut left = CONTROL_LIMIT;
    for entry in tar::Archive::new(decompress(name, reader)?).entries()? {
        let mut entry = entry?;
        let path = entry.path_bytes().into_owned();
        let path = String::from_utf8_lossy(&path);
        let name = path.strip_prefix("./").unwrap_or(&path).to_owned();
        if !entry.header().entry_type().is_file() {
            continue;
        }
        // Members become files of dpkg's database: letters only, no way out of its directory.
        if name.is_empty()
            || !name.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(letter))
            || name.starts_with('.')
        {
            return Err(io::Error::other(format!("control member with the name `{name}`")));
        }
        let mut content = Vec::new();
        entry.by_ref().take(left + 1).read_to_end(&mut content)?;
        left = left.checked_sub(content.len() as u64).ok_or_else(|| {
            io::Error::other(format!("its control part is larger than {CONTROL_LIMIT} bytes"))
        })?;
        members.insert(name, content);
    }
    Ok(members)
}

/// Chooses the decompressor by the member's name.
fn decompress<'a>(name: &str, reader: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let extension = name.split_once(".tar").map_or("", |(_, rest)| rest.trim_end_matches('/'));
    Ok(match extension {
        "" => Box::new(reader),
        ".gz" => Box::new(flate2::read::MultiGzDecoder::new(reader)),
        ".xz" => Box::new(liblzma::read::XzDecoder::new_multi_decoder(reader)),
        ".zst" => Box::new(zstd::Decoder::new(reader)?),
        other => {
            return Err(io::Error::other(format!(
                "member `{name}`: unknown compression `{other}` (known: none, .gz, .xz, .zst)"
            )));
        }
    })
}
