//! LVM's checksum: CRC-32 with a start value of its own and without a final inversion.

const START: u32 = 0xf597_a6cf;
const POLYNOMIAL: u32 = 0xedb8_8320;

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { value >> 1 ^ POLYNOMIAL } else { value >> 1 };
            bit += 1;
        }
        table[byte] = value;
        byte += 1;
    }
    table
};

/// The checksum of some bytes.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(START, |sum, byte| sum >> 8 ^ TABLE[((sum ^ u32::from(*byte)) & 0xff) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CRC-32 itself, which differs in its start and its end only: `123456789` has a well-known one.
    #[test]
    fn the_table_is_that_of_crc_32() {
        let sum = b"123456789"
            .iter()
            .fold(u32::MAX, |sum, byte| sum >> 8 ^ TABLE[((sum ^ u32::from(*byte)) & 0xff) as usize]);
        assert_eq!(!sum, 0xcbf4_3926);
        assert_eq!(checksum(b""), START);
    }
}
