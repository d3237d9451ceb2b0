//! Files of kernel modules: what is in them, and what they say of themselves.
//!
//! A module is an ELF file, perhaps compressed. Its section `.modinfo` holds `KEY=VALUE` texts that end with a zero byte:
//! `depends` names other modules, `alias` names under which the kernel asks for it.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use rustix::io::Errno;

/// What the names of module files end with.
pub(super) const ENDINGS: [&str; 4] = [".ko", ".ko.gz", ".ko.xz", ".ko.zst"];

/// The section that holds what a module says of itself.
const SECTION: &[u8] = b".modinfo";

/// The name of the module in a file, as the kernel has it.
pub(super) fn name_of(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let name = ENDINGS.iter().find_map(|ending| name.strip_suffix(ending))?;
    Some(normalised(name))
}

/// Names of modules may be written with hyphens.
pub(super) fn normalised(name: &str) -> String {
    name.replace('-', "_")
}

/// Reads a module, without its compression.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = fs::read(path)?;
    let mut content = Vec::new();
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("gz") => flate2::read::GzDecoder::new(file.as_slice()).read_to_end(&mut content)?,
        Some("xz") => liblzma::read::XzDecoder::new(file.as_slice()).read_to_end(&mut content)?,
        Some("zst") => zstd::Decoder::new(file.as_slice())?.read_to_end(&mut content)?,
        _ => return Ok(file),
    };
    Ok(content)
}

/// Loads a module into the running kernel. One that is there already is no error.
pub(super) fn insert(module: &[u8]) -> io::Result<()> {
    match rustix::system::init_module(module, c"") {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What a module says of itself under a key.
pub(super) fn values<'a>(module: &'a [u8], key: &'a str) -> impl Iterator<Item = &'a str> {
    section(module)
        .unwrap_or_default()
        .split(|&byte| byte == 0)
        .filter_map(move |text| std::str::from_utf8(text).ok()?.strip_prefix(key)?.strip_prefix('='))
}

/// Finds the section in an ELF file of 64 bits, little endian.
fn section(module: &[u8]) -> Option<&[u8]> {
    let number = |at: usize, length: usize| {
        let bytes = module.get(at..at.checked_add(length)?)?;
        let value = bytes.iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte));
        usize::try_from(value).ok()
    };
    if module.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, size, count, names) =
        (number(0x28, 8)?, number(0x3a, 2)?, number(0x3c, 2)?, number(0x3e, 2)?);
    let header = |index: usize| table.checked_add(index.checked_mul(size)?);
    let content = |header: usize| {
        let (start, length) = (number(header.checked_add(0x18)?, 8)?, number(header.checked_add(0x20)?, 8)?);
        module.get(start..start.checked_add(length)?)
    };
    let names = content(header(names)?)?;
    (0..count).find_map(|index| {
        let header = header(index)?;
        let name = names.get(number(header, 4)?..)?;
        (name.starts_with(SECTION) && name.get(SECTION.len()) == Some(&0)).then(|| content(header))?
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    /// An ELF file with a table of names and the section, and nothing else.
    fn module(information: &[u8]) -> Vec<u8> {
        const NAMES: &[u8] = b"\0.shstrtab\0.modinfo\0";
        let mut file = b"\x7fELF\x02\x01".to_vec();
        file.resize(0x40, 0);
        let names = file.len();
        file.extend(NAMES);
        let start = file.len();
        file.extend(information);
        let table = file.len() as u64;
        for (name, start, length) in [(0, 0, 0), (1, names, NAMES.len()), (11, start, information.len())] {
            let mut header = vec![0; 0x40];
            header[..4].copy_from_slice(&u32::to_le_bytes(name));
            header[0x18..0x20].copy_from_slice(&(start as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(length as u64).to_le_bytes());
            file.extend(header);
        }
        file[0x28..0x30].copy_from_slice(&table.to_le_bytes());
        file[0x3a..0x40].copy_from_slice(&[0x40, 0, 3, 0, 1, 0]);
        file
    }

    const INFORMATION: &[u8] = b"license=GPL\0alias=fs-vfat\0alias=fs-x\0depends=fat,nls-base\0dependsx=y\0";

    #[test]
    fn a_module_says_what_it_depends_on() {
        let module = module(INFORMATION);
        assert_eq!(values(&module, "depends").collect::<Vec<_>>(), ["fat,nls-base"]);
        assert_eq!(values(&module, "alias").collect::<Vec<_>>(), ["fs-vfat", "fs-x"]);
        assert_eq!(values(b"text", "alias").count(), 0);
    }

    #[test]
    fn compressed_modules_are_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let content = module(INFORMATION);
        let gz = {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&content).expect("compressed");
            encoder.finish().expect("compressed")
        };
        let xz = {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(&content).expect("compressed");
            encoder.finish().expect("compressed")
        };
        let zst = zstd::encode_all(content.as_slice(), 1).expect("compressed");
        for (ending, file) in ENDINGS.iter().zip([content.clone(), gz, xz, zst]) {
            let path = directory.path().join(format!("dm-mod{ending}"));
            fs::write(&path, file).expect("written");
            assert_eq!(read(&path).expect(ending), content);
            assert_eq!(name_of(&path).as_deref(), Some("dm_mod"), "{ending}");
        }
        assert_eq!(name_of(Path::new("/x/modules.dep")), None);
        fs::write(directory.path().join("broken.ko.xz"), "no").expect("written");
        assert!(read(&directory.path().join("broken.ko.xz")).is_err());
    }

    proptest! {
        #[test]
        fn damaged_modules_are_no_trouble(at in 0usize..400, byte: u8, length in 0usize..400) {
            let mut damaged = module(INFORMATION);
            if let Some(found) = damaged.get_mut(at) {
                *found = byte;
            }
            damaged.truncate(length);
            for value in values(&damaged, "alias") {
                prop_assert!(value.len() < 400);
            }
        }
    }
}
