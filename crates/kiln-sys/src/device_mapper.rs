//! The device mapper: block devices whose sectors are those of others.
//!
//! [`Control`] makes, loads and removes mappings by the kernel's own requests, without `dmsetup`. Nothing waits for udev.
//!
//! The kernel removes a mapping by itself that was told to go ([`Control::remove`]) as soon as nobody has it open, as
//! it detaches a loop device that was attached with `LO_FLAGS_AUTOCLEAR`. But a mapping cannot be made with that mark: it is given
//! afterwards. A [`Guard`] is a process that does it for a program that was killed in between.

use std::ffi::CStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use rustix::fs::{FileType, Mode, makedev, mknodat};
use rustix::io::Errno;

pub use guard::Guard;
use request::{Buffer, Request};

mod guard;
mod request;

/// The device that requests go to: major and minor number. Opening it loads the kernel's module.
const CONTROL: (u32, u32) = (10, 236);

/// The longest name of a mapping.
pub const LONGEST_NAME: usize = 127;

/// The name of a mapping or its id, with the zero that ends it.
type Name = [u8; 129];

/// A part of a mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where in the mapping it begins, in sectors of 512 bytes.
    pub start: u64,
    /// How many sectors it has.
    pub length: u64,
    /// What maps it: `linear`, `striped`.
    pub kind: &'static str,
    /// What that is told.
    pub parameters: String,
}

/// Takes requests for mappings.
#[derive(Debug)]
pub struct Control {
    file: File,
}

impl Control {
    /// Opens the control device by the host's node, or by one that is made in a directory for as long as that takes.
    ///
    /// That there is none means that the kernel has no device mapper, and could not load it.
    pub fn open(nodes: &Path) -> io::Result<Self> {
        let open = |path: &Path| OpenOptions::new().read(true).write(true).open(path);
        if let Ok(file) = open(Path::new("/dev/mapper/control")) {
            return Ok(Self { file });
        }
        let node = nodes.join(format!(".mapper-control-{}", rustix::thread::gettid().as_raw_nonzero()));
        let number = makedev(CONTROL.0, CONTROL.1);
        mknodat(rustix::fs::CWD, &node, FileType::CharacterDevice, Mode::RUSR | Mode::WUSR, number)?;
        let file = open(&node);
        // Best effort: it is in a directory of the caller's.
        let _ = fs::remove_file(&node);
        Ok(Self { file: file? })
    }

    /// Makes a mapping without any content, and returns the number of its device.
    pub fn create(&self, name: &str, id: Option<&str>) -> io::Result<u64> {
        let mut buffer = Buffer::default();
        buffer.name(&terminated(name)?);
        if let Some(id) = id {
            buffer.id(&terminated(id)?);
        }
        buffer.send(&self.file, Request::Create)?;
        Ok(buffer.device())
    }

    /// Tells what the sectors of a mapping are, and lets it be read and written.
    pub fn load(&self, name: &str, targets: &[Target], read_only: bool) -> io::Result<()> {
        let name = terminated(name)?;
        let mut buffer = Buffer::with_room(targets.iter().map(|target| 64 + target.parameters.len()).sum());
        buffer.name(&name);
        if read_only {
            buffer.set_read_only();
        }
        for target in targets {
            buffer.add_target(target)?;
        }
        buffer.send(&self.file, Request::Load)?;
        let mut buffer = Buffer::default();
        buffer.name(&name);
        // Without the flag to suspend it, this resumes it.
        buffer.send(&self.file, Request::Suspend)?;
        Ok(())
    }

    /// Has the kernel remove a mapping when nobody has it open any more. There may be none of that name.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match remove(&self.file, &terminated(name)?) {
            Ok(()) | Err(Errno::NXIO) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Has the kernel remove all mappings that stand on a device, directly or not, when nobody has them open any more.
    pub fn remove_all_on(&self, device: u64) {
        remove_all_on(&self.file, device);
    }
}

fn terminated(text: &str) -> io::Result<Name> {
    let mut name = [0; 129];
    let bytes = text.as_bytes();
    if bytes.len() > LONGEST_NAME + 1 || bytes.contains(&0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    name.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    Ok(name)
}

/// Neither this nor what it calls allocates: [`Guard`] does it in a process that was forked.
fn remove(control: &File, name: &Name) -> Result<(), Errno> {
    let mut buffer = Buffer::default();
    buffer.name(name);
    buffer.set_deferred();
    buffer.send(control, Request::Remove)
}

/// How many mappings on one device are found.
const MOST: usize = 64;

/// Best effort: what cannot be removed is left. Does not allocate.
fn remove_all_on(control: &File, device: u64) {
    let mut below = [device; MOST];
    let mut count = 1;
    // A mapping on a mapping is found in a later round.
    loop {
        let before = count;
        let mut list = Buffer::default();
        if list.send(control, Request::List).is_err() {
            return;
        }
        list.each_listed(|number, name| {
            let known = below.get(..count).unwrap_or_default();
            if count < MOST && !known.contains(&number) && stands_on(control, name, known) {
                // Fails if it has gone meanwhile.
                let _ = remove(control, name);
                if let Some(place) = below.get_mut(count) {
                    *place = number;
                }
                count += 1;
            }
        });
        if count == before {
            return;
        }
    }
}

fn stands_on(control: &File, name: &Name, devices: &[u64]) -> bool {
    // What is there is asked for, and what was loaded and not yet put there.
    [false, true].into_iter().any(|inactive| {
        let mut buffer = Buffer::default();
        buffer.name(name);
        if inactive {
            buffer.set_inactive();
        }
        buffer.send(control, Request::Dependencies).is_ok()
            && buffer.any_dependency(|device| devices.contains(&device))
    })
}

/// Whether a mapping has no content at all: its maker was killed.
fn is_empty(control: &File, name: &Name) -> bool {
    let mut buffer = Buffer::default();
    buffer.name(name);
    buffer.send(control, Request::Status).is_ok() && buffer.has_no_table()
}

/// The text up to the first zero.
fn text(bytes: &[u8]) -> &[u8] {
    CStr::from_bytes_until_nul(bytes).map_or(bytes, CStr::to_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loop_device::{LoopDevice, LoopError, LoopOptions};

    fn attach(directory: &Path) -> LoopDevice {
        let image = directory.join("image");
        fs::write(&image, vec![7; 64 << 10]).expect("an image");
        let options = LoopOptions::default();
        let open = || OpenOptions::new().read(true).write(true).open(&image);
        LoopDevice::attach(&image, open, &options, directory, |_| Ok::<_, LoopError>(())).expect("attached").0
    }

    fn linear(on: (u64, u64), offset: u64) -> [Target; 1] {
        let parameters = format!("{}:{} {offset}", on.0, on.1);
        [Target { start: 0, length: 8, kind: "linear", parameters }]
    }

    /// Those without content have no place in sysfs.
    fn mapped(control: &Control, name: &str) -> bool {
        let mut found = false;
        let mut list = Buffer::default();
        list.send(&control.file, Request::List).expect("a list");
        list.each_listed(|_, listed| found |= text(listed) == name.as_bytes());
        found
    }

    #[test]
    fn names_have_an_end() {
        assert_eq!(text(&terminated("name").expect("valid")), b"name");
        assert!(terminated(&"x".repeat(128)).is_ok() && terminated(&"x".repeat(129)).is_err());
        assert!(terminated("a\0b").is_err());
    }

    #[test]
    #[ignore = "runs in the guest: cargo xtask guest-test"]
    fn guest_a_mapping_lasts_as_long_as_it_is_open() {
        let directory = tempfile::tempdir().expect("a directory");
        let device = attach(directory.path());
        let control = Control::open(directory.path()).expect("a device mapper");
        let number = control.create("kiln-sys-one", Some("KILN-one")).expect("made");
        assert_eq!(
            control.create("kiln-sys-one", None).expect_err("taken").raw_os_error(),
            Some(libc::EBUSY)
        );
        control.load("kiln-sys-one", &linear((7, device.number().into()), 8), true).expect("loaded");
        let node = directory.path().join("node");
        mknodat(rustix::fs::CWD, &node, FileType::BlockDevice, Mode::RUSR, number).expect("a node");
        let open = File::open(&node).expect("opened");
        control.remove("kiln-sys-one").expect("told");
        assert!(mapped(&control, "kiln-sys-one"));
        assert_eq!(fs::read(&node).expect("read"), vec![7; 8 * 512]);
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        let read_only = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/ro")).expect("sysfs");
        assert_eq!(read_only, "1\n");
        drop(open);
        while mapped(&control, "kiln-sys-one") {
            std::thread::yield_now();
        }
        control.remove("kiln-sys-one").expect("there is none");
        device.close().expect("closed");
    }

    /// In each state that the death of its maker can leave a mapping in; another one is left alone.
    #[test]
    #[ignore = "runs in the guest: cargo xtask guest-test"]
    fn guest_a_guard_removes_what_the_dead_have_made() {
        let directory = tempfile::tempdir().expect("a directory");
        let (device, other_directory) = (attach(directory.path()), tempfile::tempdir().expect("a directory"));
        let other = attach(other_directory.path());
        let control = Control::open(directory.path()).expect("a device mapper");
        let number = |device: &LoopDevice| (7, u64::from(device.number()));
        control.create("kiln-sys-other", None).expect("made");
        control.load("kiln-sys-other", &linear(number(&other), 0), false).expect("loaded");
        let empty = || assert_ne!(control.create("kiln-sys-guarded", None).expect("made"), 0);
        let below = || {
            let below = control.create("kiln-sys-below", None).expect("made");
            control.load("kiln-sys-below", &linear(number(&device), 0), false).expect("loaded");
            let number = (rustix::fs::major(below).into(), rustix::fs::minor(below).into());
            empty();
            control.load("kiln-sys-guarded", &linear(number, 0), false).expect("loaded");
        };
        for (dead, make) in [(true, &empty as &dyn Fn()), (true, &below), (false, &below)] {
            let held = File::open(device.path()).expect("the device");
            let guard = Guard::new(&control, &held, "kiln-sys-guarded").expect("a guard");
            make();
            if dead {
                guard.die();
            } else {
                drop(guard);
            }
            drop(held);
            assert_eq!(mapped(&control, "kiln-sys-guarded"), !dead);
            assert!(mapped(&control, "kiln-sys-other"));
        }
        control.remove_all_on(makedev(7, device.number()));
        assert!(!mapped(&control, "kiln-sys-guarded") && !mapped(&control, "kiln-sys-below"));
        control.remove("kiln-sys-other").expect("removed");
        device.close().expect("closed");
        other.close().expect("closed");
    }
}
