//! Paths and values of any bytes as printable text that can be told apart.

use std::fmt::Write;

/// Printable UTF-8 stays; backslash, white space and all other bytes become `\xNN`.
pub(super) fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character == '\\' || character.is_whitespace() || character.is_control() {
                let mut encoded = [0; 4];
                hex(&mut text, character.encode_utf8(&mut encoded).as_bytes());
            } else {
                text.push(character);
            }
        }
        hex(&mut text, chunk.invalid());
    }
    text
}

fn hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "\\x{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_printable_and_unambiguous() {
        let cases: [(&[u8], &str); 6] = [
            (b"etc/passwd", "etc/passwd"),
            ("größe".as_bytes(), "größe"),
            (b"a b\n", "a\\x20b\\x0a"),
            (b"a\\x20b", "a\\x5cx20b"),
            (b"\xff\xfe", "\\xff\\xfe"),
            (b"", ""),
        ];
        for (bytes, expected) in cases {
            assert_eq!(escape(bytes), expected);
        }
    }
}
