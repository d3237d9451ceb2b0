//! What the kernel of this machine may lack, with the kernel of a guest (`cargo xtask guest-test`).

use std::fs::{self, File};
use std::io;
use std::path::Path;

use kiln_sys::command::Run;
use kiln_sys::filesystem::{MountOption, MountPlan, MountedFileSystem};
use kiln_sys::loop_device::{LoopDevice, LoopError, LoopOptions};

fn attach(image: &Path, read_only: bool) -> LoopDevice {
    let options = LoopOptions { read_only, ..LoopOptions::default() };
    let open = || File::options().read(true).write(!read_only).open(image);
    let nodes = Path::new("/dev");
    LoopDevice::attach(image, open, &options, nodes, |_| Ok::<_, LoopError>(())).expect("attached").0
}

#[test]
#[ignore = "runs in the guest: cargo xtask guest-test"]
fn guest_an_iso_9660_image_is_mounted() {
    let directory = tempfile::tempdir().expect("a directory");
    let [tree, image, target] = ["tree", "image.iso", "target"].map(|name| directory.path().join(name));
    fs::create_dir_all(tree.join("EFI")).expect("created");
    fs::create_dir(&target).expect("created");
    fs::write(tree.join("EFI/A long name in Lower Case"), "content").expect("written");
    let pack = Run::new("xorriso")
        .args(["-as", "mkisofs", "-quiet", "-R", "-J", "-V", "KILN", "-o"])
        .arg(&image)
        .arg(&tree);
    pack.output().expect("packed");
    let device = attach(&image, true);
    let mount = |options: &[MountOption]| {
        let source = device.path();
        MountedFileSystem::mount(&MountPlan {
            kind: "iso9660",
            source,
            target: &target,
            read_only: true,
            options,
        })
    };
    let mounted = mount(&[]).expect("mounted");
    let file = target.join("EFI/A long name in Lower Case");
    assert_eq!(fs::read_to_string(&file).expect("read"), "content");
    assert_eq!(fs::write(&file, "").expect_err("read-only").kind(), io::ErrorKind::ReadOnlyFilesystem);
    mounted.unmount().expect("unmounted");
    // What the names are where neither extension is looked at.
    let flags = ["norock", "nojoliet"].map(|name| MountOption { name, value: None });
    let mounted = mount(&flags).expect("mounted");
    let names: Vec<_> = fs::read_dir(target.join("efi"))
        .expect("read")
        .map(|entry| entry.expect("read").file_name())
        .collect();
    assert_eq!(names, ["a_long_n"]);
    mounted.unmount().expect("unmounted");
    device.close().expect("closed");
}

#[test]
#[ignore = "runs in the guest: cargo xtask guest-test"]
fn guest_device_mapper_maps_parts_of_a_loop_device() {
    let directory = tempfile::tempdir().expect("a directory");
    let image = directory.path().join("image");
    let content: Vec<u8> = (0..64 * 512u32).map(|index| (index / 512) as u8).collect();
    fs::write(&image, &content).expect("written");
    let device = attach(&image, false);
    let table = format!("0 8 linear {0} 56\n8 8 linear {0} 0\n", device.path().display());
    Run::new("dmsetup").args(["create", "--noudevsync", "kiln-guest"]).input(table).output().expect("mapped");
    // Nobody makes links without udev; the kernel's own node is by number.
    let columns = ["info", "--columns", "--noheadings", "-o", "minor", "kiln-guest"];
    let minor = Run::new("dmsetup").args(columns).output().expect("a number");
    let minor = String::from_utf8(minor).expect("UTF-8");
    let mapped = fs::read(format!("/dev/dm-{}", minor.trim())).expect("read");
    assert_eq!(mapped, [&content[56 * 512..], &content[..8 * 512]].concat());
    Run::new("dmsetup").args(["remove", "--noudevsync", "kiln-guest"]).output().expect("removed");
    device.close().expect("closed");
}

#[test]
#[ignore = "runs in the guest: cargo xtask guest-test"]
fn guest_mounts_are_the_guests_own() {
    let mounts = fs::read_to_string("/proc/mounts").expect("read");
    let targets: Vec<_> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    let own = ["/dev", "/proc", "/sys", "/", "/run", "/run/kiln/kiln", "/dev/pts", "/dev/shm"];
    assert_eq!(targets.iter().take(own.len()).copied().collect::<Vec<_>>(), own);
    assert!(mounts.contains("root / overlay rw,"), "{mounts}");
    // What is written is there, and not on the host.
    let file = Path::new("/etc/kiln-guest-test");
    fs::write(file, "written").expect("written");
    assert_eq!(fs::read_to_string(file).expect("read"), "written");
    fs::remove_file(file).expect("removed");
}
