//! PE images made byte by byte: small, and every number in them another one.

/// Where the signature is in an image made here.
pub const SIGNATURE: usize = 0x80;
/// Where the optional header is.
pub const OPTIONAL: usize = SIGNATURE + 24;

/// A section to be.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The name, ended by zeros.
    pub name: [u8; 8],
    /// The address, relative to the image base.
    pub address: u32,
    /// The content.
    pub content: &'a [u8],
    /// The flags.
    pub flags: u32,
}

/// An image, PE32+ if `wide`, for which at most 12 parts are taken. Its headers take 0x400 bytes.
pub fn image(wide: bool, parts: &[Part<'_>]) -> Vec<u8> {
    let mut optional = Vec::new();
    let mut put = |bytes: &[u8]| optional.extend_from_slice(bytes);
    put(&if wide { 0x20b_u16 } else { 0x10b }.to_le_bytes());
    put(&[2, 40]);
    for number in [0x1111_u32, 0x2222, 0x3333, 0x4444, 0x5555] {
        put(&number.to_le_bytes());
    }
    if wide {
        put(&0x1_4000_0000_u64.to_le_bytes());
    } else {
        put(&0x6666_u32.to_le_bytes());
        put(&0x40_0000_u32.to_le_bytes());
    }
    put(&0x1000_u32.to_le_bytes());
    put(&0x200_u32.to_le_bytes());
    for number in [1_u16, 2, 3, 4, 5, 6] {
        put(&number.to_le_bytes());
    }
    for number in [0xdead_u32, 0x9000, 0x400, 0xc0ff_ee00] {
        put(&number.to_le_bytes());
    }
    put(&10_u16.to_le_bytes());
    put(&0x160_u16.to_le_bytes());
    for number in [0x10_0000_u64, 0x1000, 0x20_0000, 0x2000] {
        let size = if wide { 8 } else { 4 };
        put(&number.to_le_bytes()[..size]);
    }
    put(&0xbeef_u32.to_le_bytes());
    put(&16_u32.to_le_bytes());
    for index in 0..16_u32 {
        let (address, size): (u32, u32) = if index == 5 { (0x3000, 12) } else { (0, 0) };
        put(&address.to_le_bytes());
        put(&size.to_le_bytes());
    }

    let mut file = vec![0; SIGNATURE];
    file[..2].copy_from_slice(b"MZ");
    file[0x3c..0x40].copy_from_slice(&(SIGNATURE as u32).to_le_bytes());
    file.extend_from_slice(b"PE\0\0");
    file.extend_from_slice(&0x8664_u16.to_le_bytes());
    file.extend_from_slice(&(parts.len() as u16).to_le_bytes());
    file.extend_from_slice(&0x6543_2100_u32.to_le_bytes());
    file.extend_from_slice(&[0; 8]);
    file.extend_from_slice(&(optional.len() as u16).to_le_bytes());
    file.extend_from_slice(&0x22_u16.to_le_bytes());
    file.extend_from_slice(&optional);
    let mut offset = 0x400_u32;
    for part in parts {
        let raw = (part.content.len() as u32).next_multiple_of(0x200);
        file.extend_from_slice(&part.name);
        for number in [part.content.len() as u32, part.address, raw, offset, 0, 0, 0, part.flags] {
            file.extend_from_slice(&number.to_le_bytes());
        }
        offset += raw;
    }
    file.resize(0x400, 0);
    for part in parts {
        file.extend_from_slice(part.content);
        // Padding that is not zero: it must never be taken for content.
        file.resize(file.len().next_multiple_of(0x200), b'#');
    }
    file
}

/// Puts a symbol table without symbols and a string table at the end of an image.
pub fn add_strings(file: &mut Vec<u8>, strings: &[u8]) {
    let table = file.len() as u32;
    put_u32(file, SIGNATURE + 12, table);
    file.extend_from_slice(&(strings.len() as u32 + 4).to_le_bytes());
    file.extend_from_slice(strings);
}

/// Puts a number into an image.
pub fn put_u32(file: &mut [u8], offset: usize, value: u32) {
    file[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
}

/// Puts a number into an image.
pub fn put_u16(file: &mut [u8], offset: usize, value: u16) {
    file[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
}
