//! Copying bytes between open files and devices, from where they are.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use kiln_api::ModuleError;

/// How much is read at a time: devices are slow when written in small pieces.
const BUFFER: usize = 1 << 20;

/// An open file, and its path for messages.
pub(crate) struct Named<'a> {
    pub(crate) file: File,
    pub(crate) path: &'a Path,
}

/// Copies at most so many bytes, each of them: holes become zeros. Returns how many there were.
pub(crate) fn copy(source: &mut Named, target: &mut Named, count: u64) -> Result<u64, ModuleError> {
    let mut source_bytes = (&mut source.file).take(count);
    let mut buffer = vec![0; BUFFER];
    let mut copied = 0;
    loop {
        let length = match source_bytes.read(&mut buffer) {
            Ok(0) => return Ok(copied),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(ModuleError::io("read", source.path)(error)),
        };
        let bytes = buffer.get(..length).unwrap_or_default();
        target.file.write_all(bytes).map_err(ModuleError::io("write", target.path))?;
        copied += length as u64;
    }
}
