//! Names of entries.

use super::CacheError;

/// What the names of anonymous entries and files start with.
pub(super) const ANONYMOUS: &str = "uuid-";

/// The longest name that file systems take.
const LONGEST: usize = 255;

/// Refuses what cannot be the name of an entry.
pub(super) fn check(name: &str) -> Result<(), CacheError> {
    let refuse = |reason| Err(CacheError::Name { name: name.to_owned(), reason });
    match name {
        "" => refuse("it is empty"),
        "." | ".." => refuse("it means a directory"),
        _ if name.contains('/') => refuse("it contains `/`"),
        _ if name.contains('\0') => refuse("it contains a NUL character"),
        _ if name.len() > LONGEST => refuse("it is longer than 255 bytes"),
        _ if name.starts_with(ANONYMOUS) => refuse("names that start with `uuid-` are reserved"),
        _ => Ok(()),
    }
}

/// Makes a name that nothing else has: `uuid-` and 32 hexadecimal digits of a random UUID.
pub(super) fn anonymous() -> Result<String, CacheError> {
    Ok(format!("{ANONYMOUS}{}", random()?))
}

/// Makes 32 hexadecimal digits of a random UUID.
pub(super) fn random() -> Result<String, CacheError> {
    let mut bytes = [0; 16];
    // The kernel never gives fewer than 256 bytes less than it was asked for.
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(CacheError::io("read", "/dev/urandom"))?;
    Ok(super::boot_id::uuid(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cannot_be() {
        let long = "x".repeat(256);
        let cases = [
            ("", "empty"),
            (".", "directory"),
            ("..", "directory"),
            ("a/b", "`/`"),
            ("a\0b", "NUL"),
            (&long, "longer"),
            ("uuid-1", "reserved"),
        ];
        for (name, reason) in cases {
            let message = check(name).expect_err(name).to_string();
            assert!(message.contains(reason), "{message}");
        }
        for name in ["0123abcd", "...", "ä b", &"x".repeat(255)] {
            check(name).expect(name);
        }
    }

    #[test]
    fn random_names_are_version_4_uuids() {
        let name = anonymous().expect("random");
        let digits = name.strip_prefix("uuid-").expect("prefix");
        assert_eq!(digits.len(), 32);
        assert_eq!(digits.as_bytes().get(12), Some(&b'4'));
        assert_ne!(name, anonymous().expect("random"));
    }
}
