//! One try to fetch one item: request, redirections, body, checksum.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use kiln_api::source::DownloadEvent;
use ureq::Body;
use ureq::http::{Response, Uri};

use super::client::{BUFFER, Clients};
use super::failure::Failure;
use super::wanted::Wanted;
use super::tcp::Stop;
use super::tls::Profile;
use super::url::{self, Location};
use crate::checksum::Hasher;
use crate::sources::content::{Unverified, Workspace};

/// How many redirections are followed; curl's limit is 50, browsers' 20.
const REDIRECTIONS: usize = 20;
/// A transfer that brings fewer bytes per second than this for as long as a server may be silent is given up.
const SLOWEST: u64 = 1000;

/// What every transfer of a download needs.
pub(super) struct Transfers<'a> {
    pub(super) clients: Clients<'a>,
    pub(super) workspace: Workspace,
    pub(super) events: &'a (dyn Fn(DownloadEvent<'_>) + Sync),
    pub(super) stop: Stop,
    pub(super) stall: Duration,
    pub(super) room: &'a (dyn Fn(u64) -> Result<(), String> + Sync),
}

impl Transfers<'_> {
    /// Fetches an item into the cache.
    pub(super) fn attempt(&self, item: &Wanted) -> Result<(), Failure> {
        match &item.location {
            Location::File(path) => self.copy(item, path),
            Location::Web(uri) => self.fetch(item, uri),
        }
    }

    fn copy(&self, item: &Wanted, path: &Path) -> Result<(), Failure> {
        let cannot = |error| Failure::permanent(format!("cannot read `{}`: {error}", path.display()));
        let mut file = File::open(path).map_err(cannot)?;
        let metadata = file.metadata().map_err(cannot)?;
        if !metadata.is_file() {
            return Err(Failure::permanent(format!("`{}` is not a regular file", path.display())));
        }
        self.store(item, &mut file, Some(metadata.len())).map_err(|failure| Failure { tries: 1, ..failure })
    }

    fn fetch(&self, item: &Wanted, uri: &Uri) -> Result<(), Failure> {
        let identity = match &item.secrets {
            Some(provider) => Some(self.clients.identity(provider, &item.url).map_err(Failure::permanent)?),
            None => None,
        };
        let profile = Profile { insecure: item.insecure, identity };
        let mut uri = uri.clone();
        let mut hops = 0;
        loop {
            let response = self.ask(&uri, &profile)?;
            let status = response.status();
            if status.is_redirection() && status.as_u16() != 304 {
                hops += 1;
                if hops > REDIRECTIONS {
                    return Err(Failure::permanent(format!("more than {REDIRECTIONS} redirections")));
                }
                uri = redirection(&uri, &response)?;
                continue;
            }
            if !status.is_success() || status.as_u16() == 206 {
                let mut failure = Failure::status(status.as_u16(), response.headers(), SystemTime::now());
                if hops > 0 {
                    let place = url::show(&uri.to_string());
                    failure.reason = format!("{} (redirected to {place})", failure.reason);
                }
                return Err(failure);
            }
            let length = response.body().content_length();
            return self.store(item, &mut response.into_body().into_reader(), length);
        }
    }

    fn ask(&self, uri: &Uri, profile: &Profile) -> Result<Response<Body>, Failure> {
        let agent = self.clients.agent(uri, profile).map_err(Failure::permanent)?;
        agent.get(uri).call().map_err(|error| Failure::client(&error))
    }

    /// Writes and verifies the content.
    fn store(&self, item: &Wanted, content: &mut dyn Read, length: Option<u64>) -> Result<(), Failure> {
        if let (Some(size), Some(length)) = (item.size, length)
            && size != length
        {
            return Err(Failure::wrong(format!("the content has {length} bytes instead of {size}")));
        }
        let internal = |error: kiln_api::ModuleError| Failure::permanent(error.to_string());
        let size = length.or(item.size);
        (self.room)(size.unwrap_or(0)).map_err(Failure::permanent)?;
        let mut target = self.workspace.file(&item.checksum).map_err(internal)?;
        let name = item.checksum.as_str();
        (self.events)(DownloadEvent::Started { item: name, origin: &item.shown, size });
        let mut arrived = 0;
        let result = self.pass(item, content, &mut target, &mut arrived).and_then(|hasher| {
            let found = hasher.finish();
            if item.size.is_some_and(|size| size != arrived) {
                let size = item.size.unwrap_or_default();
                return Err(Failure::wrong(format!("the content has {arrived} bytes instead of {size}")));
            }
            if found != item.checksum {
                return Err(Failure::wrong(format!("the content has another checksum: {found}")));
            }
            target.commit().map_err(internal)
        });
        if result.is_err() {
            let bytes = i64::try_from(arrived).unwrap_or(i64::MAX);
            (self.events)(DownloadEvent::Progress { item: name, bytes: -bytes });
        }
        result
    }

    /// Passes the content on to file and checksum as it arrives.
    fn pass(
        &self,
        item: &Wanted,
        content: &mut dyn Read,
        target: &mut Unverified,
        arrived: &mut u64,
    ) -> Result<Hasher, Failure> {
        let mut hasher = item.checksum.algorithm().hasher();
        let mut buffer = vec![0; BUFFER];
        let mut window = (Instant::now(), 0);
        loop {
            if self.stop.is_set() {
                return Err(Failure::permanent("interrupted"));
            }
            let count = match content.read(&mut buffer) {
                Ok(0) => return Ok(hasher),
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Failure::client(&error.into())),
            };
            let chunk = buffer.get(..count).unwrap_or_default();
            *arrived += count as u64;
            if item.size.is_some_and(|size| *arrived > size) {
                // Counted but not written: nobody has to make room for what is wrong already.
                *arrived -= count as u64;
                let size = item.size.unwrap_or_default();
                return Err(Failure::wrong(format!("the content has more than {size} bytes")));
            }
            hasher.update(chunk);
            target.file.write_all(chunk).map_err(|error| {
                Failure::permanent(format!("cannot write `{}`: {error}", target.path().display()))
            })?;
            let bytes = i64::try_from(count).unwrap_or(i64::MAX);
            (self.events)(DownloadEvent::Progress { item: item.checksum.as_str(), bytes });
            window.1 += count as u64;
            let elapsed = window.0.elapsed();
            if elapsed >= self.stall {
                if window.1 < SLOWEST * elapsed.as_secs() {
                    return Err(Failure::passing(format!("slower than {SLOWEST} bytes per second")));
                }
                window = (Instant::now(), 0);
            }
        }
    }
}

fn redirection(base: &Uri, response: &Response<Body>) -> Result<Uri, Failure> {
    let location = response.headers().get("location").map(|value| value.as_bytes()).unwrap_or_default();
    if location.is_empty() {
        return Err(Failure::permanent("the server redirects without saying where to"));
    }
    url::join(base, &String::from_utf8_lossy(location)).map_err(Failure::permanent)
}
