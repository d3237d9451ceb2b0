//! `org.osbuild.loopback`
//!
//! The file is opened inside the stage's tree: a symbolic link in the tree cannot lead out of it, because the device
//! is made on the host.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use kiln_api::ModuleError;
use kiln_api::device::{Device, DeviceReply, DeviceRequest, OpenDevice};
use kiln_api::loops::{LoopRequest, Loops};
use kiln_api::module::ModuleSchema;
use kiln_sys::loop_device::{LOOP_MAJOR, LoopDevice, LoopError, LoopOptions};
use kiln_sys::udev_inhibitor::{InhibitorError, LOCK_DIRECTORY, UdevInhibitor};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, json};

use super::mapping;
use super::nodes::Nodes;
use crate::host;

/// Makes a file of the tree, or a part of it, a block device.
///
/// The device lasts as long as the stage. The kernel detaches it by itself if Kiln is killed, and udev is kept from looking
/// at it (given the rules that osbuild installs for that). With `partscan` the kernel looks for partitions, and those
/// that it finds are devices too (`loop0p1`); a kernel without support for the partition table finds none, and only a
/// stage or mount that uses such a partition fails.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// Path of the file in the tree.
    filename: String,
    /// Whether the kernel looks for partitions.
    #[serde(default)]
    partscan: bool,
    /// Start of the part in sectors.
    #[serde(default)]
    start: f64,
    /// Length of the part in sectors; zero means up to the end of the file.
    #[serde(default)]
    size: f64,
    /// Size of a sector in bytes.
    #[serde(rename = "sector-size", default = "default_sector_size")]
    sector_size: f64,
    /// Whether the device is locked, which keeps udev from looking at it.
    #[serde(default)]
    lock: bool,
    /// Whether the device refuses writes.
    #[serde(rename = "read-only", default)]
    read_only: bool,
}

fn default_sector_size() -> f64 {
    512.0
}

impl Options {
    /// The device's properties for a file of this length.
    fn properties(&self, length: u64) -> Result<LoopOptions, ModuleError> {
        let whole = |option: &str, value: f64| {
            // Above 2^53 not every whole number is one of these.
            let valid = value >= 0.0 && value.fract() == 0.0 && value <= 9_007_199_254_740_992.0;
            let refused =
                || ModuleError::option(option, format!("must be a whole number from zero: {value}"));
            valid.then_some(value as u64).ok_or_else(refused)
        };
        let too_large = |option| ModuleError::option(option, "is too large");
        let sector_size = whole("sector-size", self.sector_size)?;
        let bytes = |option, sectors| {
            whole(option, sectors)?.checked_mul(sector_size).ok_or_else(|| too_large(option))
        };
        let offset = bytes("start", self.start)?;
        let size_limit = match bytes("size", self.size)? {
            0 => length.checked_sub(offset).ok_or_else(|| {
                let reason = format!("lies beyond the end of the file: byte {offset} of {length}");
                ModuleError::option("start", reason)
            })?,
            size => size,
        };
        Ok(LoopOptions {
            offset,
            size_limit,
            block_size: u32::try_from(sector_size).map_err(|_| too_large("sector-size"))?,
            read_only: self.read_only,
            partition_scan: self.partscan,
            lock: self.lock,
        })
    }
}

pub(crate) struct Loopback;

impl Device for Loopback {
    fn name(&self) -> &'static str {
        "org.osbuild.loopback"
    }

    fn schema(&self) -> ModuleSchema {
        ModuleSchema::of::<Options>()
    }

    fn open(&self, request: &DeviceRequest<'_>) -> Result<Box<dyn OpenDevice>, ModuleError> {
        let options: Options = host::options(request.options)?;
        let path = request.tree.join(options.filename.trim_start_matches('/'));
        let found = find(request.tree, &options.filename).map_err(|source| ModuleError::Io {
            action: "open",
            path: path.clone(),
            source: source.into(),
        })?;
        let link = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
        let info = fs::metadata(&link).map_err(ModuleError::io("look at", &path))?;
        if !info.is_file() {
            return Err(ModuleError::option(
                "filename",
                format!("`{}` is not a regular file", options.filename),
            ));
        }
        let properties = options.properties(info.len())?;
        let open = || OpenOptions::new().read(true).write(!properties.read_only).open(&link);
        let (device, inhibitor) = attach(&path, open, &properties, request.dev)?;
        let mut nodes = Nodes::new();
        nodes.make(request.dev, &device.name(), LOOP_MAJOR, device.number())?;
        for (name, major, minor) in device.partitions() {
            nodes.make(request.dev, &name, major, minor)?;
        }
        let node = json!({"major": LOOP_MAJOR, "minor": device.number()});
        let reply = DeviceReply { path: device.name(), data: Map::from_iter([("node".to_owned(), node)]) };
        Ok(Box::new(OpenLoopback { reply, nodes, device, inhibitor }))
    }
}

impl Loops for Loopback {
    fn attach(
        &self,
        file: OwnedFd,
        dev: OwnedFd,
        request: &LoopRequest,
    ) -> Result<Box<dyn OpenDevice>, ModuleError> {
        // By these the kernel finds what another process has opened in a mount namespace of its own.
        let link = |descriptor: &OwnedFd| PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()));
        let (file_link, dev_link) = (link(&file), link(&dev));
        let properties = LoopOptions {
            offset: request.offset.unwrap_or(0),
            size_limit: request.sizelimit.unwrap_or(0),
            block_size: request.sector_size,
            read_only: request.read_only,
            partition_scan: request.partscan,
            lock: request.lock,
        };
        let open = || OpenOptions::new().read(true).write(!properties.read_only).open(&file_link);
        let (device, inhibitor) = attach(&file_link, open, &properties, &dev_link)?;
        // Not removed by the link: its descriptor is another's by then. They go with the build root's `/dev`.
        let mut nodes = Nodes::new();
        nodes.make(&dev_link, &device.name(), LOOP_MAJOR, device.number())?;
        for (name, major, minor) in device.partitions() {
            nodes.make(&dev_link, &name, major, minor)?;
        }
        nodes.paths.clear();
        let node = json!({"major": LOOP_MAJOR, "minor": device.number()});
        let reply = DeviceReply { path: device.name(), data: Map::from_iter([("node".to_owned(), node)]) };
        Ok(Box::new(OpenLoopback { reply, nodes, device, inhibitor }))
    }
}

/// Finds a file in a tree, following the tree's links as if it were the root.
fn find(tree: &Path, filename: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(tree, flags | OFlags::DIRECTORY, Mode::empty())?;
    let relative = match filename.trim_start_matches('/') {
        "" => ".",
        path => path,
    };
    openat2(root, relative, flags, Mode::empty(), ResolveFlags::IN_ROOT)
}

fn attach(
    path: &Path,
    open: impl Fn() -> io::Result<File>,
    properties: &LoopOptions,
    dev: &Path,
) -> Result<(LoopDevice, UdevInhibitor), ModuleError> {
    enum Failure {
        Loop(LoopError),
        Inhibitor(InhibitorError),
    }
    impl From<LoopError> for Failure {
        fn from(error: LoopError) -> Self {
            Self::Loop(error)
        }
    }
    let inhibit = |number| {
        UdevInhibitor::for_device(Path::new(LOCK_DIRECTORY), LOOP_MAJOR, number).map_err(Failure::Inhibitor)
    };
    LoopDevice::attach(path, open, properties, dev, inhibit).map_err(|failure| match failure {
        Failure::Loop(error) => loop_error(error),
        Failure::Inhibitor(error) => host::invalid(&error),
    })
}

fn loop_error(error: LoopError) -> ModuleError {
    match error {
        LoopError::Io { action, path, source } => ModuleError::Io { action, path, source },
        error => host::invalid(&error),
    }
}

// Fields are dropped in this order: nobody may find the device by its nodes when it is given back, and udev
// may look at it only then.
struct OpenLoopback {
    reply: DeviceReply,
    nodes: Nodes,
    device: LoopDevice,
    inhibitor: UdevInhibitor,
}

impl OpenDevice for OpenLoopback {
    fn reply(&self) -> &DeviceReply {
        &self.reply
    }

    fn close(self: Box<Self>) -> Result<(), ModuleError> {
        let Self { nodes, device, inhibitor, .. } = *self;
        if let Some(dev) = nodes.paths.first().and_then(|node| node.parent()) {
            let parts = device.partitions().into_iter().map(|(_, major, minor)| (major, minor));
            parts
                .chain([(LOOP_MAJOR, device.number())])
                .for_each(|number| mapping::remove_all_on(dev, number));
        }
        let result = device.close().map_err(loop_error);
        drop(nodes);
        drop(inhibitor);
        result
    }
}

#[cfg(test)]
mod tests {
    use kiln_api::module::Kind;
    use serde_json::Value;

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_test::{self, attribute, unique_uuid};
    use crate::stages::testing::{MkfsBtrfs, MkfsExt4, MkfsFat, MkfsXfs, Mkswap, Sfdisk};

    struct Scratch {
        directory: tempfile::TempDir,
        tree: PathBuf,
        dev: PathBuf,
    }

    impl Scratch {
        fn new(size: u64) -> Self {
            // Whoever copies the host's mounts would keep what is mounted here busy.
            kiln_sys::chroot::private_mounts().expect("root");
            let directory = tempfile::tempdir().expect("tempdir");
            let (tree, dev) = (directory.path().join("tree"), directory.path().join("dev"));
            fs::create_dir(&tree).expect("create");
            fs::create_dir(&dev).expect("create");
            File::create(tree.join("disk.img")).and_then(|file| file.set_len(size)).expect("create");
            Self { directory, tree, dev }
        }

        fn open(&self, options: &Value) -> Result<Box<dyn OpenDevice>, ModuleError> {
            Loopback.open(&DeviceRequest { dev: &self.dev, parent: None, tree: &self.tree, options })
        }
    }

    #[test]
    fn schema() {
        Agreement::of(Kind::Device, "org.osbuild.loopback", Loopback.schema())
            .accepts([
                json!({"filename": "disk.img"}),
                json!({"filename": "disk.img", "partscan": true, "start": 2048, "size": 1e3, "sector-size": 4096,
                       "lock": true, "read-only": false}),
            ])
            .refuses([
                json!({}),
                json!({"filename": "disk.img", "offset": 1}),
                json!({"filename": "disk.img", "start": "1"}),
            ]);
    }

    #[test]
    fn properties_are_in_bytes() {
        let properties = |options: Value| {
            let options: Options = serde_json::from_value(options).expect("valid");
            options.properties(1 << 20).map(|found| (found.offset, found.size_limit, found.block_size))
        };
        assert_eq!(properties(json!({"filename": "x"})).expect("valid"), (0, 1 << 20, 512));
        assert_eq!(
            properties(json!({"filename": "x", "start": 8})).expect("valid"),
            (4096, (1 << 20) - 4096, 512)
        );
        let all = json!({"filename": "x", "start": 1, "size": 2.0, "sector-size": 4096});
        assert_eq!(properties(all).expect("valid"), (4096, 8192, 4096));
        for (option, value, reason) in [
            ("start", 0.5, "must be a whole number"),
            ("size", -1.0, "must be a whole number"),
            ("start", 4096.0, "lies beyond the end of the file: byte 2097152 of 1048576"),
            ("sector-size", 1e12, "too large"),
        ] {
            let error = properties(json!({"filename": "x", option: value})).expect_err(option).to_string();
            assert!(
                error.starts_with(&format!("invalid option `{option}`: ")) && error.contains(reason),
                "{error}"
            );
        }
    }

    #[test]
    fn root_the_device_has_a_node_and_is_gone_afterwards() {
        let scratch = Scratch::new(1 << 20);
        let device = scratch.open(&json!({"filename": "/disk.img", "lock": true})).expect("open");
        let reply = device.reply().clone();
        let minor = reply.data["node"]["minor"].as_u64().expect("minor");
        assert_eq!(reply.path, format!("loop{minor}"));
        assert_eq!(reply.data["node"]["major"], 7);
        let node = scratch.dev.join(&reply.path);
        fs::write(&node, "written").expect("write");
        let lock = Path::new(LOCK_DIRECTORY).join(format!("device-7:{minor}"));
        assert!(lock.exists());
        device.close().expect("close");
        // The lock file may already be that of another test, which was given the same number.
        assert!(!node.exists());
        assert_eq!(fs::read(scratch.tree.join("disk.img")).expect("read")[..7], *b"written");
        assert_eq!(stage_test::attached(&scratch.tree.join("disk.img")), Vec::<String>::new());
    }

    #[test]
    fn root_links_do_not_lead_out_of_the_tree() {
        let scratch = Scratch::new(1 << 20);
        std::os::unix::fs::symlink(scratch.directory.path().join("secret"), scratch.tree.join("link"))
            .expect("link");
        std::os::unix::fs::symlink("/disk.img", scratch.tree.join("inside")).expect("link");
        fs::write(scratch.directory.path().join("secret"), vec![0; 4096]).expect("write");
        for filename in ["link", "../secret"] {
            let error = scratch.open(&json!({"filename": filename})).err().expect("outside");
            assert!(error.to_string().starts_with("cannot open `"), "{error}");
        }
        scratch.open(&json!({"filename": "inside"})).expect("open").close().expect("close");
        let error = scratch.open(&json!({"filename": "/"})).err().expect("a directory");
        assert_eq!(error.to_string(), "invalid option `filename`: `/` is not a regular file");
    }

    #[test]
    fn root_a_file_of_a_read_only_device_is_left_alone() {
        let scratch = Scratch::new(1 << 20);
        let device = scratch.open(&json!({"filename": "disk.img", "read-only": true})).expect("open");
        let node = scratch.dev.join(&device.reply().path);
        assert!(fs::write(&node, "x").is_err());
        device.close().expect("close");
    }

    /// Two parts of one file, as a disk image has them.
    #[test]
    fn root_file_systems_are_made_in_their_part_of_a_disk() {
        type Make = fn(&Path, &Value) -> Result<(), ModuleError>;
        let cases: [(&str, u64, Make, Value); 5] = [
            ("ext4", 16, stage_test::run_on::<MkfsExt4>, json!({"uuid": unique_uuid(), "label": "part"})),
            ("xfs", 320, stage_test::run_on::<MkfsXfs>, json!({"uuid": unique_uuid(), "label": "part"})),
            ("btrfs", 128, stage_test::run_on::<MkfsBtrfs>, json!({"uuid": unique_uuid(), "label": "part"})),
            ("vfat", 16, stage_test::run_on::<MkfsFat>, json!({"volid": "7B7795E7", "label": "part"})),
            ("swap", 1, stage_test::run_on::<Mkswap>, json!({"uuid": unique_uuid(), "label": "part"})),
        ];
        for (kind, mebibytes, make, options) in cases {
            let scratch = Scratch::new((mebibytes + 2) << 20);
            let image = scratch.tree.join("disk.img");
            let table = json!({"uuid": "0x14fc63d2", "label": "dos",
                               "partitions": [{"start": 2048, "size": mebibytes * 2048, "type": "83"}]});
            stage_test::run_on::<Sfdisk>(&image, &table).expect("sfdisk");
            let first = fs::read(&image).expect("read")[..1 << 20].to_vec();
            let part = json!({"filename": "disk.img", "start": 2048, "size": mebibytes * 2048});
            let device = scratch.open(&part).expect("open");
            let node = scratch.dev.join(&device.reply().path);
            make(&node, &options).expect(kind);
            assert_eq!(attribute(&node, "TYPE"), kind);
            device.close().expect("close");
            let after = fs::read(&image).expect("read");
            assert!(after[..1 << 20] == first, "{kind}: the partition table is untouched");
            assert!(
                after[(mebibytes as usize + 1) << 20..].iter().all(|byte| *byte == 0),
                "{kind}: the rest, too"
            );
            let part = scratch.directory.path().join("part");
            fs::write(&part, &after[1 << 20..(mebibytes as usize + 1) << 20]).expect("write");
            assert_eq!(attribute(&part, "TYPE"), kind, "found where the partition is");
            assert_eq!(stage_test::attached(&image), Vec::<String>::new(), "{kind}");
        }
    }

    #[test]
    fn root_partitions_that_the_kernel_finds_have_nodes() {
        let scratch = Scratch::new(4 << 20);
        let image = scratch.tree.join("disk.img");
        let table =
            json!({"uuid": "0x14fc63d2", "label": "dos", "partitions": [{"start": 2048, "size": 2048}]});
        stage_test::run_on::<Sfdisk>(&image, &table).expect("sfdisk");
        let device = scratch.open(&json!({"filename": "disk.img", "partscan": true})).expect("open");
        let name = device.reply().path.clone();
        // A kernel without support for the partition table finds none, and that is no error here.
        let found = Path::new("/sys/block").join(&name).join(format!("{name}p1")).exists();
        assert_eq!(scratch.dev.join(format!("{name}p1")).exists(), found);
        device.close().expect("close");
        assert_eq!(fs::read_dir(&scratch.dev).expect("read").count(), 0);
    }
}
