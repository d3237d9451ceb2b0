//! Downloads: their content is hashed again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;
use rustix::fs::OFlags;
use sha2::digest::DynDigest;

use super::{Fault, Unchecked, VerifyReport};
use crate::cache::downloads::{FILES, is_left, is_partial, is_unfinished};
use crate::cache::files::present;
use crate::cache::inspect::{Progress, file_name, sorted_paths};
use crate::cache::{Cache, CacheError};

/// How much is read at once.
const BUFFER: usize = 1 << 20;

impl Cache {
    /// Looks at all downloads, in parallel.
    pub(super) fn check_downloads(
        &self,
        report: &mut VerifyReport,
        progress: &Progress,
        interrupt: &AtomicBool,
    ) -> Result<(), CacheError> {
        let mut files = Vec::new();
        let mut others: BTreeMap<String, u64> = BTreeMap::new();
        let alone = self.alone()?.is_some();
        for path in sorted_paths(&self.sources())? {
            if !path.symlink_metadata().is_ok_and(|stat| stat.is_dir()) {
                report.add(path, Fault::Unknown);
                continue;
            }
            let content_type = file_name(&path);
            for item in sorted_paths(&path)? {
                if is_unfinished(&item) {
                    if is_left(&item, alone)? {
                        report.add(item, Fault::Leftover);
                    }
                } else if is_partial(&item) {
                    // It is hashed when somebody goes on with it: there is no checksum of a part.
                } else if content_type == FILES {
                    let length = item.symlink_metadata().map_or(0, |stat| stat.len());
                    progress.expect(length);
                    files.push((length, item));
                } else {
                    *others.entry(content_type.clone()).or_default() += 1;
                }
            }
        }
        report.downloads = u64::try_from(files.len()).unwrap_or(u64::MAX) + others.values().sum::<u64>();
        let unchecked = others.into_iter();
        report
            .unchecked
            .extend(unchecked.map(|(content_type, items)| Unchecked::Content { content_type, items }));
        // The largest first, so that none of them is begun last.
        files.sort_unstable_by(|one, other| other.cmp(one));
        let (found, hashed) = (Mutex::new(Vec::new()), AtomicU64::new(0));
        files.par_iter().try_for_each(|(_, path)| {
            let count = |bytes| {
                progress.add(bytes);
                hashed.fetch_add(bytes, Ordering::Relaxed);
            };
            if let Some(fault) = check_download(path, &count, interrupt)? {
                found.lock().unwrap_or_else(PoisonError::into_inner).push((path.clone(), fault));
            }
            Ok::<(), CacheError>(())
        })?;
        report.hashed = hashed.into_inner();
        for (path, fault) in found.into_inner().unwrap_or_else(PoisonError::into_inner) {
            report.add(path, fault);
        }
        Ok(())
    }
}

/// Checks one download by its name; none if it is what it should be, or has gone.
pub(in crate::cache) fn check_download(
    path: &Path,
    count: &dyn Fn(u64),
    interrupt: &AtomicBool,
) -> Result<Option<Fault>, CacheError> {
    let name = file_name(path);
    let Some((mut hasher, algorithm, expected)) = hasher(&name) else { return Ok(Some(Fault::DownloadName)) };
    let Some(stat) = present(path.symlink_metadata(), "read attributes of", path)? else { return Ok(None) };
    if !stat.is_file() {
        return Ok(Some(Fault::NoFile));
    }
    // It may have been evicted meanwhile.
    let Some(mut file) = present(open(path), "open", path)? else { return Ok(None) };
    let mut buffer = vec![0; BUFFER];
    loop {
        if interrupt.load(Ordering::Relaxed) {
            return Err(CacheError::Interrupted);
        }
        let length = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CacheError::io("read", path)(error)),
        };
        hasher.update(buffer.get(..length).unwrap_or_default());
        count(u64::try_from(length).unwrap_or(0));
    }
    let found: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let found = format!("{algorithm}:{found}");
    Ok((found != format!("{algorithm}:{expected}")).then_some(Fault::Checksum { found }))
}

/// Opens a download without marking it as used.
fn open(path: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    options.read(true);
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    match options.custom_flags((flags | OFlags::NOATIME).bits() as i32).open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            options.custom_flags(flags.bits() as i32).open(path)
        }
        other => other,
    }
}

/// The hasher for a download's name, the algorithm, and the digest; none if the name is no checksum.
fn hasher(name: &str) -> Option<(Box<dyn DynDigest>, &str, &str)> {
    let (algorithm, digest) = name.split_once(':')?;
    let hasher: Box<dyn DynDigest> = match algorithm {
        "md5" => Box::new(md5::Md5::default()),
        "sha1" => Box::new(sha1::Sha1::default()),
        "sha256" => Box::new(sha2::Sha256::default()),
        "sha384" => Box::new(sha2::Sha384::default()),
        "sha512" => Box::new(sha2::Sha512::default()),
        _ => return None,
    };
    let is_digest = digest.len() == 2 * hasher.output_size()
        && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_digest.then_some((hasher, algorithm, digest))
}
