//! The table of certificates: signatures for Secure Boot, appended to the image.

use std::io::{Read, Seek};

use super::reader::{Fields, Reader};
use super::{Directory, PeError};

/// The size of what stands before each certificate.
const HEADER_SIZE: u64 = 8;
/// Certificates begin at multiples of this.
const ALIGNMENT: u64 = 8;
/// No image has so many signatures.
const MOST: usize = 64;

/// A signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Certificate {
    /// The offset in the file, header included.
    pub offset: u64,
    /// The size, header included.
    pub size: u32,
    /// The version of the format: 0x200.
    pub revision: u16,
    /// What kind it is: 2 for PKCS #7, which is what Secure Boot knows.
    pub kind: u16,
}

/// Reads all headers of the table.
pub(super) fn read<R: Read + Seek>(
    reader: &mut Reader<'_, R>,
    directory: Directory,
) -> Result<Vec<Certificate>, PeError> {
    let mut offset = u64::from(directory.virtual_address);
    let end = offset + u64::from(directory.size);
    reader.check(|| "the table of certificates".to_owned(), offset, directory.size.into())?;
    let mut certificates = Vec::new();
    while offset < end {
        let wrong = |what: &str, found: String, expected: String| {
            Err(PeError::Wrong { what: what.to_owned(), offset, found, expected })
        };
        if certificates.len() == MOST {
            return wrong(
                "the table of certificates",
                "longer".to_owned(),
                format!("at most {MOST} certificates"),
            );
        }
        let header = reader.part("the header of a certificate", offset, HEADER_SIZE as usize)?;
        let mut fields = Fields(&header);
        let (size, revision, kind) = (fields.u32(), fields.u16(), fields.u16());
        if u64::from(size) < HEADER_SIZE || u64::from(size) > end - offset {
            let expected = format!("{HEADER_SIZE} to {} bytes", end - offset);
            return wrong("the size of a certificate", size.to_string(), expected);
        }
        certificates.push(Certificate { offset, size, revision, kind });
        offset += u64::from(size).next_multiple_of(ALIGNMENT);
    }
    Ok(certificates)
}
