//! Checksums of content: `ALGORITHM:HEX`, the key of a source's item and the name of its file in the cache.
//!
//! A [`Checksum`] is only made from text of exactly that form, with as many digits as the algorithm has.
//! The reference's schemas are more lenient (their patterns are not anchored), so text from a manifest must
//! pass through here before it becomes a path.

use std::fmt;

use sha2::Digest;
use sha2::digest::DynDigest;

/// The algorithms that a checksum may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Algorithm {
    Md5,
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

impl Algorithm {
    const ALL: [Self; 5] = [Self::Md5, Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512];

    const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// How many hexadecimal digits a checksum has.
    const fn digits(self) -> usize {
        match self {
            Self::Md5 => 32,
            Self::Sha1 => 40,
            Self::Sha256 => 64,
            Self::Sha384 => 96,
            Self::Sha512 => 128,
        }
    }

    /// Starts to compute a checksum.
    pub(crate) fn hasher(self) -> Hasher {
        let digest: Box<dyn Digester> = match self {
            Self::Md5 => Box::new(md5::Md5::new()),
            Self::Sha1 => Box::new(sha1::Sha1::new()),
            Self::Sha256 => Box::new(sha2::Sha256::new()),
            Self::Sha384 => Box::new(sha2::Sha384::new()),
            Self::Sha512 => Box::new(sha2::Sha512::new()),
        };
        Hasher { algorithm: self, digest }
    }
}

/// An algorithm at work; it can be asked in between, so it can be copied.
trait Digester: DynDigest + Send {
    fn copied(&self) -> Box<dyn Digester>;
}

impl<T: DynDigest + Clone + Send + 'static> Digester for T {
    fn copied(&self) -> Box<dyn Digester> {
        Box::new(self.clone())
    }
}

impl Clone for Box<dyn Digester> {
    fn clone(&self) -> Self {
        (**self).copied()
    }
}

/// A checksum as a manifest has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Checksum {
    algorithm: Algorithm,
    text: String,
}

/// Why a text is no checksum.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChecksumError {
    #[error("`{0}` is no checksum: expected `ALGORITHM:HEX` with md5, sha1, sha256, sha384 or sha512")]
    Form(String),
    #[error("`{text}` is no checksum: {algorithm} has {expected} lower-case hexadecimal digits")]
    Digits { text: String, algorithm: &'static str, expected: usize },
}

impl Checksum {
    /// Reads a checksum.
    pub(crate) fn parse(text: &str) -> Result<Self, ChecksumError> {
        let form = || ChecksumError::Form(text.to_owned());
        let (name, hex) = text.split_once(':').ok_or_else(form)?;
        let algorithm =
            Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name).ok_or_else(form)?;
        let digits = hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if !digits || hex.len() != algorithm.digits() {
            return Err(ChecksumError::Digits {
                text: text.to_owned(),
                algorithm: algorithm.name(),
                expected: algorithm.digits(),
            });
        }
        Ok(Self { algorithm, text: text.to_owned() })
    }

    /// The whole text, `sha256:…`; safe as a file name.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Whether this is the checksum of no bytes at all.
    pub(crate) fn is_of_nothing(&self) -> bool {
        self.algorithm.hasher().finish() == *self
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// Computes a checksum while the content passes by.
#[derive(Clone)]
pub(crate) struct Hasher {
    algorithm: Algorithm,
    digest: Box<dyn Digester>,
}

impl Hasher {
    /// Adds content.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
    }

    /// Ends with the checksum of everything that was added.
    pub(crate) fn finish(self) -> Checksum {
        let mut text = format!("{}:", self.algorithm.name());
        for byte in self.digest.finalize() {
            for digit in [byte >> 4, byte & 0xf] {
                text.push(char::from_digit(digit.into(), 16).unwrap_or_default());
            }
        }
        Checksum { algorithm: self.algorithm, text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the three bytes `abc`, from the algorithms' specifications.
    const ABC: [&str; 5] = [
        "md5:900150983cd24fb0d6963f7d28e17f72",
        "sha1:a9993e364706816aba3e25717850c26c9cd0d89d",
        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "sha384:cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed\
         8086072ba1e7cc2358baeca134c825a7",
        "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
         2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
    ];

    #[test]
    fn every_algorithm_computes_its_test_vector() {
        for text in ABC {
            let expected = Checksum::parse(text).expect(text);
            let mut hasher = expected.algorithm().hasher();
            hasher.update(b"a");
            hasher.update(b"bc");
            assert_eq!(hasher.finish(), expected);
            assert!(!expected.is_of_nothing());
        }
    }

    #[test]
    fn no_bytes_have_a_checksum_too() {
        let empty = Checksum::parse("md5:d41d8cd98f00b204e9800998ecf8427e").expect("a checksum");
        assert!(empty.is_of_nothing());
    }

    #[test]
    fn anything_else_is_refused() {
        let long = format!("sha256:{}", "a".repeat(65));
        let upper = format!("md5:{}", "A".repeat(32));
        let outside = format!("../../sha1:{}", "a".repeat(40));
        let tail = format!("sha1:{}/x", "a".repeat(38));
        for text in ["", "sha256", "sha256:", "crc32:00000000", &long, &upper, &outside, &tail] {
            Checksum::parse(text).expect_err(text);
        }
    }
}
