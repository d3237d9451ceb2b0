//! `org.osbuild.librepo`: downloads packages from the mirrors of a repository.
//!
//! [`description`] is what the manifest says, [`lists`] reads lists of mirrors; everything else is the work of
//! [`web`].

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use kiln_api::module::ModuleSchema;
use kiln_api::source::{CopyRequest, DownloadEvent, DownloadRequest, ItemResult, Source};
use serde::Deserialize;
use serde_json::Value;

use self::description::{Description, Kind, Mirror, Options, Package};
use super::copy::copy_files;
use super::web::{self, Mirrors, Patience, Place, Places, Wanted, Web, url};
use crate::checksum::Checksum;

mod description;
mod lists;
#[cfg(test)]
mod tests;

/// A list of mirrors is no larger; Fedora's have some 50 kB.
const LARGEST_LIST: u64 = 4 << 20;

pub(crate) struct Librepo;

impl Source for Librepo {
    fn name(&self) -> &'static str {
        "org.osbuild.librepo"
    }

    fn schema(&self) -> ModuleSchema {
        ModuleSchema::of::<Description>()
    }

    fn content_type(&self) -> &'static str {
        super::FILES
    }

    fn cached(&self, cache: &Path, checksum: &str) -> bool {
        web::is_file_cached(cache, checksum)
    }

    fn expected_size(&self, description: &Value) -> Option<u64> {
        description.get("size")?.as_u64()
    }

    fn download(
        &self,
        request: &DownloadRequest<'_>,
        events: &(dyn Fn(DownloadEvent<'_>) + Sync),
    ) -> Vec<ItemResult> {
        download(request, events, &Patience::default())
    }

    fn copy(
        &self,
        request: &CopyRequest<'_>,
        events: &(dyn Fn(DownloadEvent<'_>) + Sync),
    ) -> Vec<ItemResult> {
        copy_files(self.content_type(), request, events)
    }
}

/// Downloads with another patience than usual, as tests do.
fn download(
    request: &DownloadRequest<'_>,
    events: &(dyn Fn(DownloadEvent<'_>) + Sync),
    patience: &Patience<'_>,
) -> Vec<ItemResult> {
    let web = Web::new(request, events, patience);
    // In format 1 the options are the whole description, in which they are a member.
    let nested = request.options.get("options").filter(|_| request.options.get("items").is_some());
    let options = Options::deserialize(nested.unwrap_or(request.options));
    let options = options.map_err(|error| format!("invalid options: {error}"));
    // Each list is fetched once, and only if something is missing that may be there.
    let mut lists = HashMap::new();
    let mut files = Vec::new();
    for (index, (key, description)) in request.items.iter().enumerate() {
        let wanted = (|| {
            let checksum = Checksum::parse(key).map_err(|error| error.to_string())?;
            let package = Package::deserialize(description)
                .map_err(|error| format!("`{key}` is no package of a mirror: {error}"))?;
            if web.has(index, &checksum, package.size) {
                return Ok(None);
            }
            let mirrors = &options.as_ref().map_err(Clone::clone)?.mirrors;
            let mirror = mirrors.get(&package.mirror).ok_or_else(|| {
                let known: Vec<_> = mirrors.keys().map(|id| format!("`{id}`")).collect();
                format!("unknown mirror `{}`: expected one of {}", package.mirror, known.join(", "))
            })?;
            let list = lists.entry(package.mirror.clone());
            let mirrors = list.or_insert_with(|| find(&web, &package.mirror, mirror)).clone()?;
            let places = Places::Mirrored { mirrors, path: package.path };
            Ok(Some((index, Wanted { checksum, size: package.size, places })))
        })();
        match wanted {
            Ok(wanted) => files.extend(wanted),
            Err(reason) => web.report(index, Err(reason)),
        }
    }
    web.fetch(files);
    web.finish()
}

/// Finds the servers behind the mirror of a manifest.
fn find(web: &Web<'_>, id: &str, mirror: &Mirror) -> Result<Arc<Mirrors>, String> {
    let secrets = mirror.secrets.as_ref().map(|secrets| secrets.name.clone());
    let urls = match mirror.kind {
        Kind::Baseurl => vec![mirror.url.clone()],
        Kind::Metalink | Kind::Mirrorlist => {
            let shown = url::show(&mirror.url);
            let location = url::parse_quoted(&mirror.url)
                .map_err(|reason| format!("invalid URL `{shown}`: {reason}"))?;
            let (url, insecure) = (mirror.url.clone(), mirror.insecure);
            let place = Place { url, shown, location, insecure, secrets: secrets.clone() };
            let failed = |reason| format!("cannot download the list of mirrors `{id}`: {reason}");
            let text = web.text(&place, LARGEST_LIST).map_err(failed)?;
            let text = String::from_utf8_lossy(&text);
            let urls = match mirror.kind {
                Kind::Metalink => lists::metalink(&text),
                _ => Ok(lists::mirrorlist(&text)),
            };
            urls.map_err(|reason| format!("the list of mirrors `{id}` is no metalink: {reason}"))?
        }
    };
    let (mut bases, mut refused) = (Vec::new(), None);
    for url in urls {
        match url::parse_quoted(&url) {
            Ok(location) => bases.push((url, location)),
            // Lists name servers for other programs too.
            Err(reason) => refused = Some(format!("`{}`: {reason}", url::show(&url))),
        }
    }
    if bases.is_empty() {
        let reason = refused.unwrap_or_else(|| "it is empty".to_owned());
        return Err(format!("the mirror `{id}` names no server to download from: {reason}"));
    }
    if mirror.fastest_mirror {
        web.sort_by_distance(&mut bases);
    }
    Ok(Arc::new(Mirrors {
        url: mirror.url.clone(),
        bases: bases.into_iter().map(|(url, location)| (url, location.host().to_owned())).collect(),
        insecure: mirror.insecure,
        secrets,
        // Anything that is a number is allowed; less than one would be none at all.
        parallel: mirror.max_parallels.map(|most| most.max(1.0) as usize),
    }))
}
