//! Loop devices and the file systems on them, with the real kernel. All tests need root.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use kiln_sys::command::Run;
use kiln_sys::filesystem::{MountError, MountOption, MountPlan, MountedFileSystem};
use kiln_sys::loop_device::{LoopDevice, LoopError, LoopOptions};

const MIB: u64 = 1 << 20;

struct Scratch {
    directory: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Self {
        // Whoever copies the host's mounts would keep the file systems of these tests busy.
        kiln_sys::chroot::private_mounts().expect("root");
        Self { directory: tempfile::tempdir().expect("tempdir") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn file(&self, name: &str, size: u64) -> PathBuf {
        let path = self.path(name);
        File::create(&path).and_then(|file| file.set_len(size)).expect("create");
        path
    }

    fn directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).expect("create directory");
        path
    }
}

/// The loop devices that are attached to a file, as `losetup -j` shows them.
fn attached(backing: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/block").expect("sysfs").flatten() {
        let file = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        if file.trim_end().trim_end_matches(" (deleted)") == backing.to_str().expect("UTF-8") {
            found.push(entry.file_name().into_string().expect("UTF-8"));
        }
    }
    found
}

fn attach(backing: &Path, options: &LoopOptions) -> Result<LoopDevice, LoopError> {
    let nodes = backing.parent().expect("parent");
    let open = || OpenOptions::new().read(true).write(!options.read_only).open(backing);
    LoopDevice::attach(backing, open, options, nodes, |_| Ok(())).map(|(device, ())| device)
}

fn ext4(scratch: &Scratch, name: &str) -> PathBuf {
    let image = scratch.file(name, 16 * MIB);
    Run::new("mkfs.ext4").arg("-q").arg(&image).output().expect("mkfs.ext4");
    image
}

fn mount(
    device: &LoopDevice,
    kind: &str,
    target: &Path,
    read_only: bool,
    options: &[MountOption],
) -> Result<MountedFileSystem, MountError> {
    MountedFileSystem::mount(&MountPlan { kind, source: device.path(), target, read_only, options })
}

#[test]
fn root_a_device_shows_the_asked_part_of_its_file_and_writes_reach_it() {
    let scratch = Scratch::new();
    let image = scratch.file("image", 4 * MIB);
    let options = LoopOptions {
        offset: MIB,
        size_limit: 2 * MIB,
        block_size: 4096,
        lock: true,
        ..LoopOptions::default()
    };
    let device = attach(&image, &options).expect("attach");
    assert_eq!(attached(&image), [device.name()]);
    let status = device.status().expect("status").expect("attached");
    assert!(status.autoclear, "set from the first moment");
    assert_eq!((status.offset, status.size_limit), (MIB, 2 * MIB));
    assert!(!status.read_only && !status.partition_scan);
    let mut node = OpenOptions::new().read(true).write(true).open(device.path()).expect("open the node");
    assert_eq!(node.seek(SeekFrom::End(0)).expect("size"), 2 * MIB);
    assert_eq!(
        fs::read_to_string(format!("/sys/block/{}/queue/logical_block_size", device.name()))
            .expect("sysfs")
            .trim(),
        "4096"
    );
    node.write_all_at(b"from the device", 4096).expect("write");
    drop(node);
    device.close().expect("close");
    assert_eq!(attached(&image), Vec::<String>::new());
    let mut text = [0; 15];
    File::open(&image).expect("open").read_exact_at(&mut text, MIB + 4096).expect("read");
    assert_eq!(&text, b"from the device");
}

#[test]
fn root_a_read_only_device_refuses_writes() {
    let scratch = Scratch::new();
    let image = scratch.file("image", MIB);
    let device = attach(&image, &LoopOptions { read_only: true, ..LoopOptions::default() }).expect("attach");
    assert!(device.status().expect("status").expect("attached").read_only);
    let error = OpenOptions::new().write(true).open(device.path()).and_then(|node| node.write_at(b"x", 0));
    assert!(error.is_err(), "{error:?}");
    device.close().expect("close");
}

#[test]
fn root_a_bad_block_size_is_explained() {
    let scratch = Scratch::new();
    let image = scratch.file("image", MIB);
    let error =
        attach(&image, &LoopOptions { block_size: 1000, ..LoopOptions::default() }).expect_err("refused");
    assert!(error.to_string().contains("block size 1000"), "{error}");
    assert_eq!(attached(&image), Vec::<String>::new());
}

#[test]
fn root_many_devices_can_be_attached_at_once() {
    let scratch = Scratch::new();
    let image = scratch.file("image", MIB);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let device = attach(&image, &LoopOptions::default()).expect("attach");
                    assert!(device.status().expect("status").is_some());
                    device.close().expect("close");
                }
            });
        }
    });
    assert_eq!(attached(&image), Vec::<String>::new());
}

#[test]
fn root_what_was_prepared_for_other_numbers_is_dropped() {
    let scratch = Scratch::new();
    let image = scratch.file("image", MIB);
    let open = || OpenOptions::new().read(true).write(true).open(&image);
    let prepare = |number| Ok::<_, LoopError>(number);
    let (device, guard) =
        LoopDevice::attach(&image, open, &LoopOptions::default(), scratch.directory.path(), prepare)
            .expect("attach");
    assert_eq!(guard, device.number());
    device.close().expect("close");
}

#[test]
fn root_closing_waits_for_others_who_have_the_device_open() {
    let scratch = Scratch::new();
    let image = scratch.file("image", MIB);
    let device = attach(&image, &LoopOptions::default()).expect("attach");
    let other = File::open(device.path()).expect("open");
    let (send, receive) = mpsc::channel();
    std::thread::scope(|scope| {
        let closing = scope.spawn(move || {
            send.send(()).expect("send");
            device.close()
        });
        receive.recv().expect("started");
        assert_eq!(attached(&image).len(), 1, "the other user still has it");
        drop(other);
        closing.join().expect("join").expect("close");
    });
    assert_eq!(attached(&image), Vec::<String>::new());
}

#[test]
#[ignore = "is the child of root_a_killed_process_leaves_no_loop_device"]
fn child_holds_a_device_until_it_is_killed() {
    let image = PathBuf::from(std::env::var_os("KILN_TEST_IMAGE").expect("run by its parent"));
    let device = attach(&image, &LoopOptions::default()).expect("attach");
    io::stderr().write_all(format!("{}\n", device.name()).as_bytes()).expect("tell");
    let _ = io::stdin().read(&mut [0]);
}

#[test]
fn root_a_killed_process_leaves_no_loop_device() {
    let scratch = Scratch::new();
    let image = scratch.file("image", MIB);
    let mut child = Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", "child_holds_a_device_until_it_is_killed", "--ignored", "--nocapture"])
        .env("KILN_TEST_IMAGE", &image)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start");
    let mut name = String::new();
    BufReader::new(child.stderr.take().expect("piped")).read_line(&mut name).expect("read");
    assert_eq!(attached(&image), [name.trim()]);
    child.kill().expect("kill");
    child.wait().expect("wait");
    assert_eq!(attached(&image), Vec::<String>::new());
}

#[test]
fn root_file_systems_are_mounted_synced_and_unmounted() {
    let scratch = Scratch::new();
    let image = ext4(&scratch, "image");
    let target = scratch.directory("target");
    let device = attach(&image, &LoopOptions::default()).expect("attach");
    let mounted = mount(&device, "ext4", &target, false, &[]).expect("mount");
    fs::write(target.join("file"), "content").expect("write");
    mounted.unmount().expect("unmount");
    assert!(!target.join("file").exists());
    let mounted = mount(&device, "ext4", &target, true, &[MountOption::flag("norecovery")]).expect("mount");
    assert_eq!(fs::read_to_string(target.join("file")).expect("read"), "content");
    let error = fs::write(target.join("other"), "").expect_err("read-only");
    assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
    mounted.unmount().expect("unmount");
    device.close().expect("close");
    assert_eq!(attached(&image), Vec::<String>::new());
}

#[test]
fn root_a_refused_option_is_named_with_the_kernels_own_words() {
    let scratch = Scratch::new();
    let image = ext4(&scratch, "image");
    let target = scratch.directory("target");
    let device = attach(&image, &LoopOptions::default()).expect("attach");
    let options = [MountOption::flag("acl"), MountOption::value("errors", "shrug")];
    let error = mount(&device, "ext4", &target, false, &options).expect_err("refused");
    let message = error.to_string();
    assert!(message.starts_with("ext4 refused the mount option `errors=shrug`: "), "{message}");
    assert!(message.contains("Invalid argument"), "{message}");
    let error = mount(&device, "xfs", &target, false, &[]).expect_err("not xfs");
    assert!(error.to_string().starts_with("cannot mount `/dev/loop"), "{error}");
    device.close().expect("close");
}

#[test]
fn root_a_missing_partition_is_explained() {
    let scratch = Scratch::new();
    let target = scratch.directory("target");
    let plan = MountPlan {
        kind: "ext4",
        source: &scratch.path("loop0p1"),
        target: &target,
        read_only: false,
        options: &[],
    };
    let error = MountedFileSystem::mount(&plan).expect_err("no node").to_string();
    assert!(error.contains("there is no such device"), "{error}");
}

#[test]
fn root_a_busy_file_system_is_detached_and_its_users_are_named() {
    let scratch = Scratch::new();
    let image = ext4(&scratch, "image");
    let target = scratch.directory("target");
    let device = attach(&image, &LoopOptions::default()).expect("attach");
    let mounted = mount(&device, "ext4", &target, false, &[]).expect("mount");
    let held = File::create(target.join("held")).expect("create");
    let error = mounted.unmount().expect_err("busy");
    let MountError::Busy { holders, .. } = &error else { panic!("{error}") };
    assert!(holders.iter().any(|holder| holder.ends_with(&format!("({})", std::process::id()))), "{error}");
    assert!(!target.join("held").exists(), "detached nevertheless");
    drop(held);
    device.close().expect("close");
    assert_eq!(attached(&image), Vec::<String>::new());
}

#[test]
fn root_a_device_that_is_busy_for_a_moment_is_waited_for() {
    let scratch = Scratch::new();
    let image = ext4(&scratch, "image");
    let target = scratch.directory("target");
    let device = attach(&image, &LoopOptions::default()).expect("attach");
    let mounted = mount(&device, "ext4", &target, false, &[]).expect("mount");
    let (copied, is_copied) = mpsc::channel();
    let (go, may_go) = mpsc::channel();
    let other = std::thread::spawn(move || {
        kiln_sys::chroot::private_mounts().expect("root");
        copied.send(()).expect("sent");
        may_go.recv().expect("told");
        // Long enough for a first try; the namespace goes with the thread.
        std::thread::sleep(Duration::from_millis(30));
    });
    is_copied.recv().expect("a copy of the mounts");
    mounted.unmount().expect("unmount");
    go.send(()).expect("sent");
    // The kernel neither mounts a file system read-only while it is mounted writable, nor the other way round.
    let mounted = mount(&device, "ext4", &target, true, &[]).expect("mount read-only");
    mounted.unmount().expect("unmount");
    device.close().expect("close");
    other.join().expect("ended");
}

#[test]
fn root_a_dropped_mount_and_device_leave_nothing() {
    let scratch = Scratch::new();
    let image = ext4(&scratch, "image");
    let target = scratch.directory("target");
    let device = attach(&image, &LoopOptions::default()).expect("attach");
    let mounted = mount(&device, "ext4", &target, false, &[]).expect("mount");
    drop(mounted);
    drop(device);
    let table = fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
    assert!(!table.contains(target.to_str().expect("UTF-8")));
    assert_eq!(attached(&image), Vec::<String>::new());
}

#[test]
fn root_btrfs_subvolumes_are_mounted_read_only_and_writable_side_by_side() {
    let scratch = Scratch::new();
    let image = scratch.file("image", 128 * MIB);
    Run::new("mkfs.btrfs").arg("-q").arg(&image).output().expect("mkfs.btrfs");
    let device = attach(&image, &LoopOptions::default()).expect("attach");
    let (all, first, second) =
        (scratch.directory("all"), scratch.directory("first"), scratch.directory("second"));
    let mounted = mount(&device, "btrfs", &all, false, &[]).expect("mount");
    for name in ["first", "second"] {
        Run::new("btrfs").args(["subvolume", "create"]).arg(all.join(name)).output().expect("subvolume");
    }
    mounted.unmount().expect("unmount");
    let subvolume = |name: &str| [MountOption::value("subvol", name)];
    let one = mount(&device, "btrfs", &first, true, &subvolume("first")).expect("mount read-only");
    let two = mount(&device, "btrfs", &second, false, &subvolume("second")).expect("mount writable");
    fs::write(second.join("file"), "").expect("write");
    assert!(fs::write(first.join("file"), "").is_err());
    two.unmount().expect("unmount");
    one.unmount().expect("unmount");
    let error = mount(&device, "btrfs", &all, false, &subvolume("third")).expect_err("none such");
    assert!(error.to_string().contains("with the options `subvol=third`"), "{error}");
    device.close().expect("close");
    assert_eq!(attached(&image), Vec::<String>::new());
}
