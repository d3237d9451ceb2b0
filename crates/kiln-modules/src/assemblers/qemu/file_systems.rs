//! The file systems of a disk image, made and mounted for the time that the tree is copied.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use kiln_api::ModuleError;
use kiln_api::stage::{DeviceArgument, Stage, StageContext};
use kiln_sys::command::Run;
use kiln_sys::filesystem::{MountPlan, MountedFileSystem};
use kiln_sys::loop_device::{LoopDevice, LoopError, LoopOptions};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::super::rawfs::{loop_error, mount_error};
use super::table::{SECTOR, Table};
use super::{FileSystem, FileSystemType, parsed, with};
use crate::stages::formats::{MkfsBtrfs, MkfsExt4, MkfsFat, MkfsXfs};
use crate::stages::zipl_inst;
use crate::support::boot_entries;
use crate::support::root::Root;

/// The program that installs the boot loader of IBM Z.
const ZIPL: &str = "/usr/sbin/zipl";

/// What is mounted. [`close`](Self::close) takes it away, whatever happened before.
pub(super) struct Mounted {
    image: PathBuf,
    /// Where device nodes are made.
    nodes: PathBuf,
    /// Where the file system of `/` is mounted.
    root: TempDir,
    /// In the order in which they were mounted.
    file_systems: Vec<(MountedFileSystem, LoopDevice)>,
}

impl Mounted {
    pub(super) fn new(image: &Path, nodes: &Path) -> Result<Self, ModuleError> {
        let root = tempfile::Builder::new().prefix("osbuild-mnt-").tempdir_in("/tmp");
        let root = root.map_err(ModuleError::io("create a directory in", "/tmp"))?;
        Ok(Self { image: image.to_owned(), nodes: nodes.to_owned(), root, file_systems: Vec::new() })
    }

    /// Makes and mounts the file systems, and copies the tree to them.
    pub(super) fn fill(
        &mut self,
        table: &Table,
        tree: &Path,
        context: &StageContext,
    ) -> Result<(), ModuleError> {
        let file_systems = table.file_systems();
        match file_systems.first() {
            // A disk for others to fill.
            None => return Ok(()),
            Some((_, first)) if first.mountpoint != "/" => {
                return Err(ModuleError::option(
                    "partitions",
                    "none of them is mounted at `/`, where the tree goes",
                ));
            }
            Some(_) => {}
        }
        for (partition, file_system) in file_systems {
            let (offset, size_limit) = partition.bytes();
            let device = self.attach(&LoopOptions { offset, size_limit, ..LoopOptions::default() })?;
            make(file_system, device.path(), context)?;
            self.mount(file_system, device)?;
        }
        Ok(Run::new("cp").args(["-a", "--"]).arg(tree.join(".")).arg(self.root.path()).run()?)
    }

    /// Installs the boot loader of IBM Z with the first kernel that has an entry of the boot menu.
    pub(super) fn install_zipl(&self, table: &Table) -> Result<(), ModuleError> {
        let (number, _) = table.boot()?;
        let root = Root::open(self.root.path())?;
        let entry = boot_entries::kernels(&root)?.into_iter().next();
        let entry =
            entry.ok_or_else(|| ModuleError::invalid("the tree has no entry in /boot/loader/entries"))?;
        let disk = self.attach(&LoopOptions::default())?;
        let offset = table.start(number).cast_signed();
        let place = zipl_inst::Place { device: disk.path(), block_size: SECTOR.cast_signed(), offset };
        let installed = zipl_inst::install(Path::new(ZIPL), &root, &entry, &entry.options, &place)
            .and_then(|command| Ok(command.run()?));
        // Whatever failed first is told.
        let closed = disk.close().map_err(loop_error);
        installed.and(closed)
    }

    /// Unmounts what is mounted, the last first.
    pub(super) fn close(self) -> Result<(), ModuleError> {
        let mut result = Ok(());
        for (mounted, device) in self.file_systems.into_iter().rev() {
            let unmounted = mounted.unmount().map_err(mount_error);
            let closed = device.close().map_err(loop_error);
            result = result.and(unmounted).and(closed);
        }
        result
    }

    fn attach(&self, options: &LoopOptions) -> Result<LoopDevice, ModuleError> {
        let open = || OpenOptions::new().read(true).write(true).open(&self.image);
        let attached =
            LoopDevice::attach(&self.image, open, options, &self.nodes, |_| Ok::<_, LoopError>(()));
        attached.map(|(device, ())| device).map_err(loop_error)
    }

    fn mount(&mut self, file_system: &FileSystem, device: LoopDevice) -> Result<(), ModuleError> {
        let root = Root::open(self.root.path())?;
        root.make_directories(&file_system.mountpoint)?;
        let target = root.resolve(&file_system.mountpoint)?;
        let plan = MountPlan {
            kind: file_system.r#type.kind(),
            source: device.path(),
            target: &target,
            read_only: false,
            options: &[],
        };
        let mounted = MountedFileSystem::mount(&plan).map_err(mount_error)?;
        self.file_systems.push((mounted, device));
        Ok(())
    }
}

/// Makes an empty file system on a device.
fn make(file_system: &FileSystem, device: &Path, context: &StageContext) -> Result<(), ModuleError> {
    let mut context = with(context, |arguments| {
        let device = DeviceArgument { path: device.to_owned(), data: Map::new() };
        arguments.devices.insert("device".to_owned(), device);
    });
    let mut options = match file_system.r#type {
        FileSystemType::Vfat => json!({"volid": file_system.uuid.replace('-', "")}),
        _ => json!({"uuid": file_system.uuid}),
    };
    if let Some(label) = file_system.label.as_ref().filter(|label| !label.is_empty()) {
        options["label"] = json!(label);
    }
    match file_system.r#type {
        FileSystemType::Ext4 => run::<MkfsExt4>(options, &mut context),
        FileSystemType::Xfs => run::<MkfsXfs>(options, &mut context),
        FileSystemType::Btrfs => run::<MkfsBtrfs>(options, &mut context),
        FileSystemType::Vfat => run::<MkfsFat>(options, &mut context),
    }
}

fn run<S: Stage>(options: Value, context: &mut StageContext) -> Result<(), ModuleError> {
    S::run(parsed(options)?, context)
}
