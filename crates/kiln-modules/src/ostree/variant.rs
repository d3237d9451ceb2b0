//! The two kinds of objects that lead to others, in GLib's serialisation of typed values.
//!
//! ```text
//! dirtree   (a(say)a(sayay))             files: name, digest; directories: name, dirtree, dirmeta
//! commit    (a{sv}aya(say)sstayay)       …, time, dirtree and dirmeta of the root
//! ```
//!
//! A container ends with the offsets of the ends of its parts, as far as they are not fixed: of all elements of an array, in
//! order, and of the members of a tuple but its last one, in reverse order. How many bytes an offset has depends on
//! how large the container is. All else is aligned; only the commit's time has an alignment that matters here.
//!
//! Bytes come from servers (verified by their digest, but whose digest is another question): whatever they are, there is an answer.

use super::Digest;

/// What a directory has.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Directory {
    /// Names and contents of files.
    pub(super) files: Vec<(String, Digest)>,
    /// Names, entries and metadata of directories.
    pub(super) directories: Vec<(String, Digest, Digest)>,
}

impl Directory {
    /// Reads a `dirtree`; none if it is damaged.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut directory = Self::default();
        let [files, directories] = members(bytes)?;
        for entry in elements(files)? {
            let [name, digest] = members(entry)?;
            directory.files.push((text(name)?, digest_of(digest)?));
        }
        for entry in elements(directories)? {
            let [name, tree, metadata] = members(entry)?;
            directory.directories.push((text(name)?, digest_of(tree)?, digest_of(metadata)?));
        }
        Some(directory)
    }
}

/// The `dirtree` and `dirmeta` of a commit's root; none if it is damaged.
pub(super) fn root_of(commit: &[u8]) -> Option<(Digest, Digest)> {
    // Ends of: metadata, parent, related objects, subject, body, and, after the time, the dirtree.
    const ENDS: usize = 6;
    let size = offset_size(commit.len());
    let table = commit.len().checked_sub(ENDS * size)?;
    let end_of = |member: usize| offset(commit, commit.len().checked_sub((member + 1) * size)?, size);
    let time = end_of(4)?.checked_next_multiple_of(8)?;
    let tree_end = end_of(5)?;
    let tree = commit.get(time.checked_add(8)?..tree_end)?;
    let metadata = commit.get(tree_end..table)?;
    Some((digest_of(tree)?, digest_of(metadata)?))
}

fn offset_size(length: usize) -> usize {
    match length {
        0..=0xff => 1,
        0x100..=0xffff => 2,
        0x1_0000..=0xffff_ffff => 4,
        _ => 8,
    }
}

fn offset(bytes: &[u8], at: usize, size: usize) -> Option<usize> {
    let bytes = bytes.get(at..at.checked_add(size)?)?;
    let value = bytes
        .iter()
        .rev()
        .try_fold(0usize, |value, byte| value.checked_mul(256).map(|value| value | usize::from(*byte)))?;
    Some(value)
}

/// The members of a tuple, none of which is fixed or aligned.
pub(super) fn members<const N: usize>(bytes: &[u8]) -> Option<[&[u8]; N]> {
    let size = offset_size(bytes.len());
    let table = bytes.len().checked_sub((N - 1) * size)?;
    let mut found = [&bytes[..0]; N];
    let mut start = 0;
    for (index, member) in found.iter_mut().enumerate() {
        let end = if index + 1 == N {
            table
        } else {
            offset(bytes, bytes.len().checked_sub((index + 1) * size)?, size)?
        };
        *member = bytes.get(..table)?.get(start..end)?;
        start = end;
    }
    Some(found)
}

/// The elements of an array, none of which is fixed or aligned.
pub(super) fn elements(bytes: &[u8]) -> Option<Vec<&[u8]>> {
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let size = offset_size(bytes.len());
    let table = offset(bytes, bytes.len().checked_sub(size)?, size)?;
    let offsets = bytes.get(table..)?;
    if !offsets.len().is_multiple_of(size) {
        return None;
    }
    let mut start = 0;
    let element = |at: usize| {
        let end = offset(offsets, at, size)?;
        let element = bytes.get(..table)?.get(start..end)?;
        start = end;
        Some(element)
    };
    (0..offsets.len()).step_by(size).map(element).collect()
}

fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.strip_suffix(b"\0")?.to_owned()).ok()
}

fn digest_of(bytes: &[u8]) -> Option<Digest> {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Digest::parse(&digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A container of parts, each of which has its end in the table.
    fn container(parts: &[&[u8]], fixed: usize, reverse: bool) -> Vec<u8> {
        let content: Vec<u8> = parts.concat();
        let mut ends: Vec<_> = parts
            .iter()
            .scan(0, |end, part| {
                *end += part.len();
                Some(*end)
            })
            .collect();
        ends.truncate(ends.len() - fixed);
        if reverse {
            ends.reverse();
        }
        let size = [1, 2, 4]
            .into_iter()
            .find(|size| offset_size(content.len() + ends.len() * size) == *size)
            .expect("a size");
        let table = ends.iter().flat_map(|end| end.to_le_bytes().into_iter().take(size));
        content.into_iter().chain(table).collect()
    }

    fn tuple(parts: &[&[u8]]) -> Vec<u8> {
        container(parts, 1, true)
    }

    fn array(parts: &[Vec<u8>]) -> Vec<u8> {
        container(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>(), 0, false)
    }

    fn digest(byte: u8) -> Digest {
        digest_of(&[byte; 32]).expect("a digest")
    }

    #[test]
    fn directories_of_all_sizes_are_read() {
        for count in [0u32, 1, 5, 7, 300, 2000] {
            let name = |number: u32| format!("file-{number}");
            let files: Vec<_> =
                (0..count).map(|n| tuple(&[format!("{}\0", name(n)).as_bytes(), &[1; 32]])).collect();
            let below = [tuple(&[b"etc\0", &[2; 32], &[3; 32]])];
            let bytes = tuple(&[&array(&files), &array(&below)]);
            let directory = Directory::parse(&bytes).expect("sound");
            let expected: Vec<_> = (0..count).map(|n| (name(n), digest(1))).collect();
            assert_eq!(directory.files, expected);
            assert_eq!(directory.directories, [("etc".to_owned(), digest(2), digest(3))]);
        }
    }

    #[test]
    fn whatever_the_bytes_are_there_is_an_answer() {
        let files = [tuple(&[b"a\0", &[1; 32]]), tuple(&[b"b\0", &[2; 32]])];
        let good = tuple(&[&array(&files), &array(&[])]);
        for length in 0..good.len() {
            let _ = Directory::parse(&good[..length]);
            let _ = root_of(&good[..length]);
            for byte in [0, 1, 0x7f, 0xff, good[length].wrapping_add(1)] {
                let mut bad = good.clone();
                bad[length] = byte;
                let _ = Directory::parse(&bad);
                let _ = root_of(&bad);
            }
        }
        for bytes in [&b""[..], b"\xff", b"\0\0\0\0\0\0\0\0"] {
            assert_eq!(root_of(bytes), None);
        }
        let short = tuple(&[&array(&[tuple(&[b"a\0", &[1; 31]])]), &array(&[])]);
        assert_eq!(Directory::parse(&short), None, "a digest that is too short");
    }
}
