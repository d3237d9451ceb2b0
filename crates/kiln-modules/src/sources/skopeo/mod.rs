//! `org.osbuild.skopeo`: images of containers, from registries or from storages of this host.
//!
//! ```text
//! sources/org.osbuild.containers/sha256:ID/image/       an image, verified, never changed again: see `image`
//! sources/org.osbuild.containers/.unverified-kiln-…/    images on their way
//! ```
//!
//! - [`item`]: what the manifest says; [`command`]: one try, by `skopeo`; [`image`]: what has come, and whether it is right.
//!
//! An image appears under its id by one rename, together with the directory around it. What is there already and was cut by
//! a crash of the machine is replaced.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::source::{CopyRequest, DownloadEvent, DownloadRequest, ItemResult, Source};
use serde_json::Value;

use self::image::Image;
use self::item::Wanted;
use super::content::Workspace;
use super::copy::each;
use super::tool::{self, Failure, Tries, side_by_side};
use crate::checksum::Checksum;

pub(super) mod command;
mod image;
pub(super) mod item;
#[cfg(test)]
mod tests;

/// How many images are fetched at the same time: for each, `skopeo` fetches six layers at the same time.
const PARALLEL: usize = 3;
/// The type of content.
const CONTAINERS: &str = "org.osbuild.containers";
/// The directory of the image in that of its id.
const IMAGE: &str = "image";
/// After how many more bytes it is asked again whether there is room: nobody knows the size of an image before.
const ROOM: u64 = 64 << 20;

type Events<'a> = &'a (dyn Fn(DownloadEvent<'_>) + Sync);
pub(super) type Pause<'a> = &'a (dyn Fn(Duration, &AtomicBool) + Sync);

pub(crate) struct Skopeo;

impl Source for Skopeo {
    fn name(&self) -> &'static str {
        "org.osbuild.skopeo"
    }

    fn schema(&self) -> ModuleSchema {
        ModuleSchema::of::<item::Description>()
    }

    fn content_type(&self) -> &'static str {
        CONTAINERS
    }

    fn cached(&self, cache: &Path, checksum: &str) -> bool {
        Checksum::parse(checksum).is_ok_and(|id| is_cached(&cache.join(CONTAINERS), &id))
    }

    fn expected_size(&self, description: &Value) -> Option<u64> {
        item::stated_size(description)
    }

    fn download(&self, request: &DownloadRequest<'_>, events: Events<'_>) -> Vec<ItemResult> {
        download(request, events, &tool::pause)
    }

    fn copy(&self, request: &CopyRequest<'_>, events: Events<'_>) -> Vec<ItemResult> {
        copy(request, events)
    }
}

fn is_cached(directory: &Path, id: &Checksum) -> bool {
    Image::read(&directory.join(id.as_str()).join(IMAGE)).is_ok_and(|image| image.is_whole())
}

fn download(request: &DownloadRequest<'_>, events: Events<'_>, pause: Pause<'_>) -> Vec<ItemResult> {
    let directory = request.cache.join(CONTAINERS);
    let look = |(key, description): (&String, &Value)| match Wanted::parse(key, description) {
        Ok(wanted) if is_cached(&directory, &wanted.id) => Ok(None),
        found => found.map(Some),
    };
    let found: Vec<_> = request.items.iter().map(look).collect();
    let is_missing = |found: &Result<Option<Wanted>, String>| matches!(found, Ok(Some(_)));
    // Made only if there is something to be fetched.
    let workspace = found.iter().any(is_missing).then(|| Workspace::create(&directory)).transpose();
    let fetch = |(number, found): (usize, Result<Option<Wanted>, String>)| {
        let Some(wanted) = found? else { return Ok(true) };
        let workspace = workspace.as_ref().map_err(ToString::to_string)?;
        let Some(workspace) = workspace else { return Err(tool::INTERRUPTED.to_owned()) };
        let (item, shown) = (wanted.id.as_str(), wanted.origin.shown());
        let job = Job { request, events, wanted: &wanted, made: workspace.path().join(number.to_string()) };
        let tries = Tries { events, interrupted: request.interrupted, pause };
        if !request.interrupted.load(Ordering::Relaxed) {
            events(DownloadEvent::Started { item, origin: &shown, size: wanted.size });
        }
        match tries.run(item, || job.attempt(&directory)) {
            Ok(()) => Ok(false),
            Err(reason) if reason == tool::INTERRUPTED => Err(reason),
            Err(reason) => Err(format!("cannot fetch the image {shown}: {reason}")),
        }
    };
    side_by_side(request, events, found.into_iter().enumerate().collect(), PARALLEL, fetch)
}

/// One image to fetch.
struct Job<'a> {
    request: &'a DownloadRequest<'a>,
    events: Events<'a>,
    wanted: &'a Wanted,
    /// The directory in the workspace that gets the name of the image's id.
    made: PathBuf,
}

impl Job<'_> {
    fn attempt(&self, directory: &Path) -> Result<(), Failure> {
        if self.request.interrupted.load(Ordering::Relaxed) {
            return Err(Failure::Interrupted);
        }
        (self.request.room)(self.wanted.size.unwrap_or(0)).map_err(Failure::Permanent)?;
        let image = self.made.join(IMAGE);
        prepare(&self.made).map_err(|error| Failure::permanent(&error))?;
        let mut arrived = Arrived { item: self.wanted.id.as_str(), events: self.events, bytes: 0 };
        let result = self.fetch(&image, &mut arrived);
        if result.is_err() {
            arrived.take_back();
            return result;
        }
        commit(&self.made, directory, &self.wanted.id).map_err(|error| Failure::permanent(&error))
    }

    fn fetch(&self, image: &Path, arrived: &mut Arrived<'_>) -> Result<(), Failure> {
        let (mut asked, mut full) = (0, None);
        let mut go_on = || {
            arrived.look(image);
            if arrived.bytes >= asked + ROOM {
                asked = arrived.bytes;
                full = (self.request.room)(0).err();
            }
            full.is_none() && !self.request.interrupted.load(Ordering::Relaxed)
        };
        let copied = self.wanted.origin.copy(&[], image, self.request.environment, &mut go_on);
        match full {
            Some(reason) => return Err(Failure::Permanent(reason)),
            None => copied?,
        }
        arrived.look(image);
        let verify = || {
            Image::read(image)?.verify(&self.wanted.id, self.request.interrupted)?;
            image::settle(image)
        };
        verify().map_err(|error| Failure::permanent(&error))
    }
}

/// How much of an image has arrived: as much as its directory has grown by, since `skopeo` does not tell.
struct Arrived<'a> {
    item: &'a str,
    events: Events<'a>,
    bytes: u64,
}

impl Arrived<'_> {
    fn look(&mut self, directory: &Path) {
        let now = image::size(directory);
        if now != self.bytes {
            let bytes = now.cast_signed() - self.bytes.cast_signed();
            (self.events)(DownloadEvent::Progress { item: self.item, bytes });
            self.bytes = now;
        }
    }

    fn take_back(&mut self) {
        if self.bytes > 0 {
            (self.events)(DownloadEvent::Progress { item: self.item, bytes: -self.bytes.cast_signed() });
            self.bytes = 0;
        }
    }
}

/// Makes the directory around an image anew.
fn prepare(made: &Path) -> Result<(), ModuleError> {
    match fs::remove_dir_all(made) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(ModuleError::io("remove", made)(error));
        }
        _ => {}
    }
    let make = |path: &Path| {
        fs::create_dir(path)?;
        // The mode is set, not asked for: the umask of whoever runs this must not decide who can read.
        fs::set_permissions(path, Permissions::from_mode(0o755))
    };
    make(made).map_err(ModuleError::io("create directory", made))
}

/// Moves a verified image to its place.
fn commit(made: &Path, directory: &Path, id: &Checksum) -> Result<(), ModuleError> {
    let place = directory.join(id.as_str());
    let aside = made.with_extension("replaced");
    loop {
        match fs::rename(made, &place) {
            Err(error) if is_taken(&error) => {
                // Somebody else was quicker, or what is there is not whole.
                if is_cached(directory, id) {
                    return Ok(());
                }
                match fs::rename(&place, &aside) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(ModuleError::io("move aside", place)(error));
                    }
                    _ => {}
                }
            }
            result => {
                result.map_err(ModuleError::io("move the image to", &place))?;
                let sync = || File::open(directory)?.sync_all();
                return sync().map_err(ModuleError::io("write to disk", directory));
            }
        }
    }
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists)
}

/// Copies images to another cache; they are verified there.
fn copy(request: &CopyRequest<'_>, events: Events<'_>) -> Vec<ItemResult> {
    let (from, to) = (request.from.join(CONTAINERS), request.to.join(CONTAINERS));
    let mut workspace = None;
    let mut copy_one = |key: &str| {
        let id = item::image_id(key).map_err(ModuleError::invalid)?;
        if is_cached(&to, &id) {
            return Ok(true);
        }
        let workspace = match &mut workspace {
            Some(workspace) => workspace,
            empty => empty.insert(Workspace::create(&to)?),
        };
        let source = from.join(id.as_str()).join(IMAGE);
        let made = workspace.path().join(id.as_str());
        prepare(&made)?;
        events(DownloadEvent::Started {
            item: key,
            origin: "the other cache",
            size: Some(image::size(&source)),
        });
        let image = made.join(IMAGE);
        copy_image(&source, &image, request.interrupted, &|bytes| {
            events(DownloadEvent::Progress { item: key, bytes: bytes.cast_signed() });
        })?;
        Image::read(&image)?.verify(&id, request.interrupted)?;
        image::settle(&image)?;
        commit(&made, &to, &id).map(|()| false)
    };
    each(request, events, &mut copy_one)
}

fn copy_image(
    source: &Path,
    target: &Path,
    interrupted: &AtomicBool,
    copied: &dyn Fn(u64),
) -> Result<(), ModuleError> {
    let entries = fs::read_dir(source).map_err(ModuleError::io("read", source))?;
    fs::create_dir(target).map_err(ModuleError::io("create directory", target))?;
    for entry in entries {
        if interrupted.load(Ordering::Relaxed) {
            return Err(ModuleError::Interrupted);
        }
        let entry = entry.map_err(ModuleError::io("read", source))?;
        let to = target.join(entry.file_name());
        // Cloned where the file system can.
        copied(fs::copy(entry.path(), &to).map_err(ModuleError::io("copy", entry.path()))?);
    }
    Ok(())
}
