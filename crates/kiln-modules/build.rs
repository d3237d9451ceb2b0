//! Digests the code that results depend on, so that the cache does not serve what older code has made.

use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Relative to this crate: what runs in a build root, and what sets one up.
const CODE: [&str; 5] =
    ["src", "../kiln-api/src", "../kiln-sandbox/src", "../kiln-sys/src", "../../Cargo.lock"];

fn main() -> io::Result<()> {
    let mut files = Vec::new();
    for path in CODE {
        println!("cargo::rerun-if-changed={path}");
        list(Path::new(path), &mut files)?;
    }
    files.sort();
    let mut digest = Sha256::new();
    for file in files {
        let content = std::fs::read(&file)?;
        for part in [file.to_string_lossy().as_bytes(), &content] {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
    }
    let text: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    println!("cargo::rustc-env=KILN_CODE={text}");
    Ok(())
}

fn list(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in std::fs::read_dir(path)? {
        list(&entry?.path(), files)?;
    }
    Ok(())
}
