//! The id of this boot as the cache shows it: derived from the kernel's, which stays secret.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::CacheError;

const KERNEL_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The boot id for an application, as 32 hexadecimal digits.
pub(super) fn boot_id(application: &str) -> Result<String, CacheError> {
    let id = std::fs::read_to_string(KERNEL_ID).map_err(CacheError::io("read", KERNEL_ID))?;
    derive(id.trim(), application)
}

/// HMAC-SHA-256 of the application's name, with the kernel's id as the key.
fn derive(id: &str, application: &str) -> Result<String, CacheError> {
    let mut mac = Hmac::<Sha256>::new_from_slice(id.as_bytes()).map_err(|_| {
        CacheError::io("use", KERNEL_ID)(std::io::Error::from(std::io::ErrorKind::InvalidData))
    })?;
    mac.update(application.as_bytes());
    let digest: [u8; 32] = mac.finalize().into_bytes().into();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(digest.split_at(16).0);
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    // From byte 6, not 8: an oversight of the reference that is part of the format now.
    bytes[8] = (bytes[6] & 0x3f) | 0x80;
    Ok(hexadecimal(bytes))
}

/// Marks 16 bytes as a random UUID and gives its 32 hexadecimal digits.
pub(super) fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    hexadecimal(bytes)
}

fn hexadecimal(bytes: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_derived_as_in_the_reference() {
        // Computed with Python's hmac module by the rule above.
        let cases = [
            ("5b3b8e49-23c1-4a3e-9d10-0c4f7a3c0001", "osbuild", "c13e4d7d0f9743fd8303f9bd6db80199"),
            ("00000000-0000-0000-0000-000000000000", "other", "67f3d8882e8142e88236f0ad5529ae4c"),
        ];
        for (id, application, expected) in cases {
            assert_eq!(derive(id, application).expect("derive"), expected);
        }
    }
}
