//! The sums.

use super::{Fault, VerifyReport};
use crate::cache::downloads::COUNTED;
use crate::cache::files::present;
use crate::cache::info::{accounted, parse_info};
use crate::cache::inspect::{file_name, is_anonymous, sorted_paths};
use crate::cache::journal::owed;
use crate::cache::{CACHE_SIZE, Cache, CacheError, OBJECT_INFO, OBJECTS};

impl Cache {
    /// Compares `cache.size` with what all entries are accounted with. Nobody else has the cache open.
    pub(super) fn check_accounting(&self, report: &mut VerifyReport) -> Result<(), CacheError> {
        let mut counted = 0_u64;
        for path in sorted_paths(&self.directory().join(OBJECTS))? {
            let bytes = if is_anonymous(&path) {
                owed(&self.root, &format!("{OBJECTS}/{}", file_name(&path)))?
            } else {
                let info = path.join(OBJECT_INFO);
                let text = present(std::fs::read(&info), "read", &info)?;
                text.and_then(|text| parse_info(&text)).map_or(0, |info| accounted(&info))
            };
            counted = counted.saturating_add(bytes);
        }
        let path = self.directory().join(CACHE_SIZE);
        let text = present(std::fs::read(&path), "read", &path)?.unwrap_or_default();
        match serde_json::from_slice::<u64>(&text) {
            Ok(accounted) if accounted == counted => {}
            Ok(accounted) => report.add(path, Fault::Accounting { accounted, counted }),
            Err(_) => report.add(path, Fault::Size),
        }
        let remembered = self.downloads_size()?;
        let counted = self.list_downloads()?.iter().map(|download| download.bytes).sum();
        if remembered != counted {
            let path = self.directory().join(COUNTED);
            report.add(path, Fault::Downloads { recorded: remembered, counted });
        }
        Ok(())
    }
}
