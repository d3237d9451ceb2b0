//! Safe wrappers of the Linux interfaces that Kiln needs and that no well-kept crate has.
//!
//! This is the only crate in which `unsafe` is allowed; each use has a `SAFETY` note.
//!
//! - [`bind`]: files and directories shown at a second place.
//! - [`btrfs`]: subvolumes: directories that are copied and removed in one step.
//! - [`chroot`]: a thread with mounts of its own, and children with another root.
//! - [`command`]: the one way to run a child process.
//! - [`device_mapper`]: block devices whose sectors are those of others.
//! - [`extents`]: where files are on their disk, and which of them share it.
//! - [`filesystem`]: file systems on block devices, mounted and unmounted with errors that say why.
//! - [`holders`]: who keeps a device or a file system busy.
//! - [`inherited`]: descriptors that the program was started with.
//! - [`local_time`]: times of day in the machine's zone.
//! - [`loop_device`]: files as block devices.
//! - [`udev_inhibitor`]: keeps udev away from them.
//! - [`lock`]: open-file-description locks on whole files.
//! - [`mount`]: the part of the mount interface that `rustix` lacks.
//! - [`namespace`]: namespaces of the calling process.
//! - [`process`]: starting a process in new namespaces.
//! - [`quiet_sync`]: children whose flushes do nothing.
//! - [`rename`]: `renameat2`, with a fallback where flags are refused.
//! - [`terminal`]: which processes read from the terminal.
//! - [`trace`]: child processes that stop at each system call, for tests.
//! - [`xfs`]: how XFS divides its space.

pub mod bind;
pub mod btrfs;
pub mod chroot;
pub mod command;
pub mod device_mapper;
pub mod extents;
pub mod filesystem;
pub mod holders;
pub mod inherited;
pub mod local_time;
pub mod lock;
pub mod loop_device;
pub mod mount;
pub mod namespace;
pub mod process;
pub mod quiet_sync;
pub mod rename;
pub mod terminal;
pub mod trace;
pub mod udev_inhibitor;
pub mod xfs;
