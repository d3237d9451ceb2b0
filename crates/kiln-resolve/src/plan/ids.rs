//! Identifiers that are the same each time.

use sha2::{Digest, Sha256};

use crate::definition::Definition;

/// A UUID for one part of the image: version 8, made of a digest of what the image is and what the part is.
pub(super) fn uuid(definition: &Definition, part: &str) -> String {
    let digest = Sha256::digest(format!("kiln\0{}\0{}\0{part}", definition.name, definition.version));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(digest.get(..16).unwrap_or(&[0; 16]));
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let part = |from, to| hex.get(from..to).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

/// The UUID of the root file system.
pub(super) fn root(definition: &Definition) -> String {
    uuid(definition, "root file system")
}

/// What identifies a disk with a `dos` table: 32 bits, as `sfdisk` writes them.
pub(super) fn dos(definition: &Definition) -> String {
    format!("0x{}", uuid(definition, "disk").chars().take(8).collect::<String>())
}

/// The serial number of the EFI system partition's file system, as the system shows it: `7B77-95E7`.
pub(super) fn esp(definition: &Definition) -> String {
    let number = serial(definition);
    let (high, low) = number.split_at(4);
    format!("{high}-{low}")
}

/// The same, as it is when the file system is made.
pub(super) fn serial(definition: &Definition) -> String {
    uuid(definition, "EFI system partition's file system").chars().take(8).collect::<String>().to_uppercase()
}
