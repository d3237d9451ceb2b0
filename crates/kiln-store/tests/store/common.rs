//! What several test modules need: scratch directories, trees with everything in them, interrupt flags.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, makedev};
use tempfile::TempDir;

/// A flag that is never set.
pub(crate) static GO_ON: AtomicBool = AtomicBool::new(false);

pub(crate) fn scratch() -> TempDir {
    tempfile::Builder::new().prefix("kiln-store-").tempdir().expect("scratch directory")
}

/// Makes a tree with every kind of entry and attribute, and returns its path.
pub(crate) fn rich_tree(parent: &Path) -> PathBuf {
    let tree = parent.join("rich");
    for directory in ["etc/conf.d", "usr/bin", "dev", "empty", "deep"] {
        fs::create_dir_all(tree.join(directory)).expect("directory");
    }
    fs::write(tree.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").expect("passwd");
    fs::write(tree.join("empty-file"), "").expect("empty");
    fs::write(tree.join("big"), vec![7; 700_000]).expect("big");
    fs::write(tree.join("usr/bin/tool"), "#!/bin/sh\n").expect("tool");
    let odd = tree.join("etc").join(std::ffi::OsStr::from_bytes(b"odd \xff\xfe\nname"));
    fs::write(&odd, "odd").expect("odd name");
    sparse(&tree.join("sparse"));

    symlink("../etc/passwd", tree.join("usr/link")).expect("link");
    symlink("/nowhere", tree.join("etc/dangling")).expect("dangling");
    fs::hard_link(tree.join("etc/passwd"), tree.join("usr/passwd")).expect("hard link");
    fs::hard_link(tree.join("etc/passwd"), tree.join("deep/passwd")).expect("hard link");

    let node = |name: &str, kind, device| {
        rustix::fs::mknodat(CWD, tree.join(name), kind, Mode::from_raw_mode(0o640), device).expect(name);
    };
    node("dev/null", FileType::CharacterDevice, makedev(1, 3));
    node("dev/loop", FileType::BlockDevice, makedev(7, 300));
    node("dev/fifo", FileType::Fifo, 0);
    node("dev/socket", FileType::Socket, 0);
    fs::hard_link(tree.join("dev/fifo"), tree.join("dev/fifo2")).expect("hard link of a fifo");

    for (name, user, group) in
        [("usr/bin/tool", 12, 34), ("etc", 5, 6), ("usr/link", 7, 8), ("dev/fifo", 9, 10)]
    {
        std::os::unix::fs::lchown(tree.join(name), Some(user), Some(group)).expect("owner");
    }
    for (name, mode) in [("usr/bin/tool", 0o6755), ("etc/passwd", 0o604), ("empty", 0o1777), ("deep", 0o2500)]
    {
        fs::set_permissions(tree.join(name), fs::Permissions::from_mode(mode)).expect("mode");
    }
    // Version 2 of `security.capability`, effective, with `CAP_NET_RAW` permitted.
    let capability: Vec<u8> =
        [0x0200_0001_u32, 1 << 13, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
    // Version 2 of an ACL: user::rw-, user:42:r--, group::r--, mask::rw-, other::---.
    let acl: Vec<u8> = [(1, 6, u32::MAX), (2, 4, 42), (4, 4, u32::MAX), (16, 6, u32::MAX), (32, 0, u32::MAX)]
        .iter()
        .fold(2_u32.to_le_bytes().to_vec(), |mut bytes, (tag, permissions, id): &(u16, u16, u32)| {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(permissions.to_le_bytes());
            bytes.extend(id.to_le_bytes());
            bytes
        });
    let long = vec![b'l'; 1500];
    let attributes: [(&str, &str, &[u8]); 7] = [
        ("usr/bin/tool", "security.capability", &capability),
        ("etc/conf.d", "system.posix_acl_default", &acl),
        ("etc/conf.d", "system.posix_acl_access", &acl),
        ("big", "user.long", &long),
        ("empty-file", "user.empty", b""),
        ("usr/link", "trusted.on-link", b"t"),
        ("dev/null", "security.label", b"device"),
    ];
    for (name, attribute, value) in attributes {
        rustix::fs::lsetxattr(tree.join(name), attribute, value, XattrFlags::empty()).expect(attribute);
    }
    for (index, name) in
        ["etc/passwd", "etc/conf.d", "etc", "usr/link", "dev/null", "dev", "sparse", "empty", "deep", "."]
            .iter()
            .enumerate()
    {
        set_time(&tree.join(name), 1_000_000_000 + index as i64, 123_456_789);
    }
    tree
}

/// Makes a file with 64 KiB of data after 1 MiB of nothing, and 3 MiB of nothing after it.
pub(crate) fn sparse(path: &Path) {
    use std::os::unix::fs::FileExt;
    let file = fs::File::create(path).expect("sparse");
    file.write_all_at(&[1; 65536], 1 << 20).expect("data");
    file.set_len((4 << 20) + 65536).expect("length");
}

pub(crate) fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("times");
}
