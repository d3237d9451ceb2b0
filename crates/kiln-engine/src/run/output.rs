//! A stage's output: bytes of any kind, decoded as they come.
//!
//! A character may be split between two reads, and the bytes may not be UTF-8 at all; neither may end a build.

/// Decodes UTF-8 piece by piece; what is not UTF-8 becomes U+FFFD.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// The beginning of a character whose end has not come yet: at most three bytes.
    pending: Vec<u8>,
}

impl Decoder {
    /// Decodes what can be decoded.
    pub(super) fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::with_capacity(self.pending.len());
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    match error.error_len() {
                        Some(length) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            rest = after.get(length..).unwrap_or_default();
                        }
                        None => {
                            rest = after;
                            break;
                        }
                    }
                }
            }
        }
        self.pending = rest.to_vec();
        text
    }

    /// Decodes what is left at the end.
    pub(super) fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_character_split_between_reads_survives() {
        let mut decoder = Decoder::default();
        let bytes = "a😀b".as_bytes();
        let mut text = String::new();
        for byte in bytes {
            text.push_str(&decoder.push(&[*byte]));
        }
        assert_eq!(text + &decoder.finish(), "a😀b");
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_decode_as_in_one(bytes: Vec<u8>, at in 0usize..64) {
            let mut decoder = Decoder::default();
            let (head, tail) = bytes.split_at(at.min(bytes.len()));
            let text = decoder.push(head) + &decoder.push(tail) + &decoder.finish();
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}
