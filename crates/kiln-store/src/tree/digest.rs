//! One value for everything in a tree.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use rustix::fs::FileType;
use sha2::{Digest, Sha256};

use super::TreeError;
use super::escape::escape;
use super::scan::{Item, Listing, hexadecimal};

/// Computes the SHA-256 of a tree's canonical listing, in hexadecimal.
///
/// The listing has a line for each entry, the root (`.`) first and each directory before what is in it,
/// names of a directory in byte order. Fields are separated by one space and lines ended by `\n`:
///
/// ```text
/// PATH KIND MODE UID:GID SECONDS.NANOSECONDS DETAIL [link=FIRST] [NAME=HEX]...
/// ```
///
/// `KIND` is `file`, `directory`, `symlink`, `fifo`, `socket`, `character-device` or `block-device`; `MODE`
/// four or more octal digits; `DETAIL` the SHA-256 of a file, the target of a symlink, `MAJOR:MINOR` of a
/// device, `-` else; `link` the first path among the names of a file that has several in the tree; and
/// then come the extended attributes, by name, with their values in hexadecimal. In paths, targets and
/// names white space, control characters, backslashes and bytes that are not UTF-8 are written `\xNN`.
/// Access and change times, inode numbers, holes and inode flags are not part of it.
pub fn digest(tree: &Path, interrupt: &AtomicBool) -> Result<String, TreeError> {
    let listing = Listing::read(tree, interrupt)?;
    let links = listing.hard_links();
    let lines: Vec<String> = listing
        .items
        .par_iter()
        .map(|item| line(&listing, &links, item, interrupt))
        .collect::<Result<_, _>>()?;
    let mut hash = Sha256::new();
    for line in lines {
        hash.update(line);
    }
    Ok(hexadecimal(&hash.finalize()))
}

fn line(
    listing: &Listing,
    links: &HashMap<&[u8], Vec<&[u8]>>,
    item: &Item,
    interrupt: &AtomicBool,
) -> Result<String, TreeError> {
    let detail = match item.kind {
        FileType::RegularFile => listing.content(item, interrupt)?,
        FileType::Symlink => escape(&item.target),
        FileType::CharacterDevice | FileType::BlockDevice => item.device(),
        _ => "-".to_owned(),
    };
    let path = if item.path.is_empty() { ".".to_owned() } else { escape(&item.path) };
    let (kind, mode, owner, time) = (item.word(), item.mode(), item.owner(), item.modified());
    let mut line = format!("{path} {kind} {mode} {owner} {time} {detail}");
    if let Some(first) = links.get(item.path.as_slice()).and_then(|names| names.first()) {
        line.push_str(" link=");
        line.push_str(&escape(first));
    }
    for (name, value) in &item.xattrs {
        line.push(' ');
        line.push_str(&escape(name.to_bytes()));
        line.push('=');
        line.push_str(&hexadecimal(value));
    }
    line.push('\n');
    Ok(line)
}
