//! Content that is one file for each item goes from one cache to another: cloned where the file system can, and hashed
//! in any case. That a file has the name of a checksum is what is verified here, not what is relied on.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_api::ModuleError;
use kiln_api::source::{CopyRequest, DownloadEvent, ItemResult};

use super::content::{Unverified, Workspace, is_cached};
use crate::checksum::Checksum;

const BUFFER: usize = 256 * 1024;

/// Copies the files of a content type.
pub(super) fn copy_files(
    content_type: &str,
    request: &CopyRequest<'_>,
    events: &(dyn Fn(DownloadEvent<'_>) + Sync),
) -> Vec<ItemResult> {
    let (from, to) = (request.from.join(content_type), request.to.join(content_type));
    let mut workspace = None;
    let mut copy_one = |key: &str| {
        let checksum = Checksum::parse(key).map_err(|error| ModuleError::invalid(error.to_string()))?;
        if is_cached(&to, &checksum, None) {
            return Ok(true);
        }
        let workspace = match &mut workspace {
            Some(workspace) => workspace,
            empty => empty.insert(Workspace::create(&to)?),
        };
        copy(&from, &checksum, workspace, request.interrupted, events).map(|()| false)
    };
    each(request, events, &mut copy_one)
}

/// Does something for each item, and reports what became of it; `true` means that there was nothing to do.
pub(super) fn each(
    request: &CopyRequest<'_>,
    events: &(dyn Fn(DownloadEvent<'_>) + Sync),
    what: &mut dyn FnMut(&str) -> Result<bool, ModuleError>,
) -> Vec<ItemResult> {
    let result = |key: &String| {
        let result = if request.interrupted.load(Ordering::Relaxed) {
            Err(ModuleError::Interrupted)
        } else {
            what(key)
        };
        let reason = result.as_ref().err().map(ToString::to_string);
        let cached = matches!(result, Ok(true));
        events(match &reason {
            None => DownloadEvent::Finished { item: key, cached },
            Some(reason) => DownloadEvent::Failed { item: key, reason },
        });
        ItemResult { checksum: key.clone(), cached, error: reason }
    };
    request.items.keys().map(result).collect()
}

fn copy(
    from: &Path,
    checksum: &Checksum,
    workspace: &Workspace,
    interrupted: &AtomicBool,
    events: &(dyn Fn(DownloadEvent<'_>) + Sync),
) -> Result<(), ModuleError> {
    let path = from.join(checksum.as_str());
    let source = File::open(&path).map_err(ModuleError::io("open", &path))?;
    let size = source.metadata().map_err(ModuleError::io("look at", &path))?.len();
    let item = checksum.as_str();
    events(DownloadEvent::Started { item, origin: "the other cache", size: Some(size) });
    let mut target = workspace.file(checksum)?;
    let cloned = rustix::fs::ioctl_ficlone(&target.file, &source).is_ok();
    let found = pass(source, &path, &mut target, cloned, checksum, interrupted, events)?;
    if found != *checksum {
        return Err(ModuleError::invalid(format!(
            "the content of `{}` has another checksum: {found}; `kiln cache verify --repair` removes it",
            path.display()
        )));
    }
    target.commit()
}

/// Hashes the content, and writes it unless the target has it already.
fn pass(
    mut source: File,
    path: &Path,
    target: &mut Unverified,
    cloned: bool,
    checksum: &Checksum,
    interrupted: &AtomicBool,
    events: &(dyn Fn(DownloadEvent<'_>) + Sync),
) -> Result<Checksum, ModuleError> {
    let mut hasher = checksum.algorithm().hasher();
    let mut buffer = vec![0; BUFFER];
    loop {
        if interrupted.load(Ordering::Relaxed) {
            return Err(ModuleError::Interrupted);
        }
        let count = source.read(&mut buffer).map_err(ModuleError::io("read", path))?;
        let chunk = buffer.get(..count).unwrap_or_default();
        if chunk.is_empty() {
            return Ok(hasher.finish());
        }
        hasher.update(chunk);
        if !cloned {
            target.file.write_all(chunk).map_err(ModuleError::io("write", target.path()))?;
        }
        let bytes = i64::try_from(count).unwrap_or(i64::MAX);
        events(DownloadEvent::Progress { item: checksum.as_str(), bytes });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use serde_json::{Map, json};
    use tempfile::TempDir;

    use super::*;

    const ABC: &str = "md5:900150983cd24fb0d6963f7d28e17f72";
    const NOTHING: &str = "md5:d41d8cd98f00b204e9800998ecf8427e";

    struct Caches {
        from: TempDir,
        to: TempDir,
    }

    impl Caches {
        fn new() -> Self {
            let caches = Self {
                from: tempfile::tempdir().expect("tempdir"),
                to: tempfile::tempdir().expect("tempdir"),
            };
            fs::create_dir(caches.from.path().join("type")).expect("made");
            caches
        }

        fn write(&self, name: &str, content: &str) {
            fs::write(self.from.path().join("type").join(name), content).expect("written");
        }

        fn copy(&self, items: &[&str], interrupted: bool) -> Vec<(bool, Option<String>)> {
            let items: Map<_, _> = items.iter().map(|key| ((*key).to_owned(), json!({}))).collect();
            let request = CopyRequest {
                items: &items,
                options: &json!({}),
                from: self.from.path(),
                to: self.to.path(),
                environment: &BTreeMap::new(),
                interrupted: &AtomicBool::new(interrupted),
            };
            let results = copy_files("type", &request, &|_| ());
            results.into_iter().map(|result| (result.cached, result.error)).collect()
        }

        fn copied(&self) -> Vec<String> {
            let entries = fs::read_dir(self.to.path().join("type")).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        }
    }

    #[test]
    fn files_are_copied_once() {
        let caches = Caches::new();
        caches.write(ABC, "abc");
        assert_eq!(caches.copy(&[ABC], false), [(false, None)]);
        assert_eq!(caches.copy(&[ABC], false), [(true, None)]);
        assert_eq!(caches.copied(), [ABC]);
        assert_eq!(fs::read(caches.to.path().join("type").join(ABC)).expect("read"), b"abc");
    }

    #[test]
    fn what_is_wrong_or_missing_is_said_and_stops_nobody() {
        let caches = Caches::new();
        caches.write(NOTHING, "something");
        caches.write(ABC, "abc");
        let missing = "md5:00000000000000000000000000000000";
        let results = caches.copy(&[NOTHING, missing, "../x", ABC], false);
        for ((_, error), expected) in
            results.iter().zip(["another checksum", "cannot open", "is no checksum"])
        {
            assert!(error.as_deref().is_some_and(|error| error.contains(expected)), "{expected}: {error:?}");
        }
        assert_eq!(results.last(), Some(&(false, None)));
        assert_eq!(caches.copied(), [ABC]);
    }

    #[test]
    fn an_interruption_ends_it() {
        let caches = Caches::new();
        caches.write(ABC, "abc");
        assert_eq!(caches.copy(&[ABC], true), [(false, Some("interrupted".to_owned()))]);
        assert!(caches.copied().is_empty());
    }
}
