//! Disks that a definition cannot have, as the user sees it.

use insta::assert_snapshot;

use crate::definition::customized;

#[test]
fn file_systems_have_places_and_sizes() {
    let text = r#"[[customizations.filesystem]]
mountpoint = "/home"
[[customizations.filesystem]]
mountpoint = "/etc/x"
minsize = "1 GiB"
[[customizations.filesystem]]
mountpoint = "/var/"
minsize = "1 GiB"
[[customizations.filesystem]]
mountpoint = "/boot/efi"
minsize = "1 GiB"
[[customizations.filesystem]]
mountpoint = "/home"
minsize = "1 GiB"
[[customizations.filesystem]]
mountpoint = "/usr/lib"
minsize = "1 GiB"
[[customizations.filesystem]]
mountpoint = "/var/run"
minsize = "1 GiB"
"#;
    assert_snapshot!(customized(text), @r#"
    `customizations.filesystem` has no `minsize`
     --> image.toml:2:1
    2 | [[customizations.filesystem]]
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: say how large it is; only the file system for `/` takes what is left

    `/etc/x` must be on the root file system
     --> image.toml:5:14
    5 | mountpoint = "/etc/x"
      |              ^^^^^^^^
    hint: leave it out

    `/var/` is not an absolute path of the image
     --> image.toml:8:14
    8 | mountpoint = "/var/"
      |              ^^^^^^^
    hint: begin with `/`, leave out `.`, `..` and double or trailing slashes

    `/boot/efi` is Kiln's own
     --> image.toml:11:14
    11 | mountpoint = "/boot/efi"
       |              ^^^^^^^^^^^
    hint: leave it out: `boot` of the table `[kiln]` has the EFI system partition

    `/home` is given twice
     --> image.toml:14:14
    14 | mountpoint = "/home"
       |              ^^^^^^^
    hint: one file system is mounted at a place

    `/usr/lib` must be on the root file system
     --> image.toml:17:14
    17 | mountpoint = "/usr/lib"
       |              ^^^^^^^^^^
    hint: leave it out

    `/var/run` cannot be a file system of its own
     --> image.toml:20:14
    20 | mountpoint = "/var/run"
       |              ^^^^^^^^^^
    hint: leave it out
    "#);
    let fine = ["/", "/boot", "/home", "/srv/data", "/tmp", "/usr", "/usr/local", "/var", "/var/log"];
    let tables = fine
        .map(|path| format!("[[customizations.filesystem]]\nmountpoint = \"{path}\"\nminsize = \"1 GiB\"\n"));
    assert_eq!(customized(&tables.concat()), "accepted");
}

#[test]
fn a_disk_has_a_table_that_firmware_reads() {
    let text = r#"[customizations.disk]
type = "mbr"
sector_size = 4096
minsize = "many"
[[customizations.disk.partitions]]
type = "zfs"
mountpoint = "/"
[[customizations.disk.partitions]]
mountpoint = "/"
part_uuid = "a"
subvolumes = []
[[customizations.filesystem]]
mountpoint = "/home"
minsize = "1 GiB"
"#;
    assert_snapshot!(customized(text), @r#"
    `customizations.disk` and `customizations.filesystem` exclude each other
     --> image.toml:2:1
    2 | [customizations.disk]
      | ^^^^^^^^^^^^^^^^^^^^^
    hint: say it all in `customizations.disk`

    unknown partition table `mbr`
     --> image.toml:3:8
    3 | type = "mbr"
      |        ^^^^^
    hint: there are `gpt`, `dos`

    `customizations.disk.sector_size` is not supported yet
     --> image.toml:4:1
    4 | sector_size = 4096
      | ^^^^^^^^^^^
    hint: remove it: sectors have 512 bytes

    `customizations.disk.minsize` is not a size
     --> image.toml:5:11
    5 | minsize = "many"
      |           ^^^^^^
    hint: write bytes, or for example "4 GiB"

    unknown partition type `zfs`
     --> image.toml:7:8
    7 | type = "zfs"
      |        ^^^^^
    hint: there are `plain`, `lvm`, `btrfs`

    `a` is not the UUID of a partition
     --> image.toml:11:13
    11 | part_uuid = "a"
       |             ^^^
    hint: write it as "0fc63daf-8483-4772-8e79-3d69d8477de4", or leave it out

    unknown key `subvolumes` in `customizations.disk.partitions`
     --> image.toml:12:1
    12 | subvolumes = []
       | ^^^^^^^^^^
    hint: the keys here are `fs_type`, `label`, `minsize`, `mountpoint`, `part_label`, `part_type`, `part_uuid`, `type`
    "#);
}

#[test]
fn what_the_table_says_is_checked() {
    let text = r#"[[customizations.disk.partitions]]
mountpoint = "/"
part_type = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
part_label = "ääääääääääääääääääääääääääääääääääää"
part_uuid = "CF2CB2A4-2FB8-4B0A-A2E1-3C6B0C3F1D11"
[[customizations.disk.partitions]]
mountpoint = "/home"
minsize = "1 GiB"
part_type = "83"
part_label = "ääääääääääääääääääääääääääääääääääää1"
part_uuid = "cf2cb2a4-2fb8-4b0a-a2e1-3c6b0c3f1d11"
[[customizations.disk.partitions]]
type = "lvm"
part_label = "a\", size=\"1"
part_uuid = "cf2cb2a4-2fb8-4b0a-a2e1-3c6b0c3f1d1g"
[[customizations.disk.partitions.logical_volumes]]
mountpoint = "/srv"
minsize = "1 GiB"
part_label = "srv"
"#;
    assert_snapshot!(customized(text), @r#"
    `83` is not the UUID of a partition's type
     --> image.toml:10:13
    10 | part_type = "83"
       |             ^^^^
    hint: write it as "0fc63daf-8483-4772-8e79-3d69d8477de4", or leave it out

    the name `ääääääääääääääääääääääääääääääääääää1` is too long for a partition
     --> image.toml:11:14
    11 | part_label = "ääääääääääääääääääääääääääääääääääää1"
       |              ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: use at most 36 characters

    the UUID `cf2cb2a4-2fb8-4b0a-a2e1-3c6b0c3f1d11` is given twice
     --> image.toml:12:13
    12 | part_uuid = "cf2cb2a4-2fb8-4b0a-a2e1-3c6b0c3f1d11"
       |             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: give each its own, or leave it out

    `a\", size=\"1` is not a name of a partition
     --> image.toml:15:14
    15 | part_label = "a\", size=\"1"
       |              ^^^^^^^^^^^^^^^
    hint: leave out quotes, backslashes and line breaks

    `cf2cb2a4-2fb8-4b0a-a2e1-3c6b0c3f1d1g` is not the UUID of a partition
     --> image.toml:16:13
    16 | part_uuid = "cf2cb2a4-2fb8-4b0a-a2e1-3c6b0c3f1d1g"
       |             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: write it as "0fc63daf-8483-4772-8e79-3d69d8477de4", or leave it out

    unknown key `part_label` in `customizations.disk.partitions.logical_volumes`
     --> image.toml:20:1
    20 | part_label = "srv"
       | ^^^^^^^^^^
    hint: the keys here are `fs_type`, `label`, `minsize`, `mountpoint`, `name`
    "#);
}

#[test]
fn a_table_of_old_says_little() {
    let text = r#"[customizations.disk]
type = "dos"
[[customizations.disk.partitions]]
mountpoint = "/"
part_type = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
part_label = "root"
part_uuid = "cf2cb2a4-2fb8-4b0a-a2e1-3c6b0c3f1d11"
[[customizations.disk.partitions]]
mountpoint = "/srv"
minsize = "1 GiB"
part_type = "00"
[kiln]
boot = "uefi"
"#;
    assert_snapshot!(customized(text), @r#"
    only BIOS starts a disk with a `dos` table
     --> image.toml:3:8
    3 | type = "dos"
      |        ^^^^^
    hint: use `gpt`, or `boot = "bios"` of the table `[kiln]`

    `0FC63DAF-8483-4772-8E79-3D69D8477DE4` is not the type of a partition in a `dos` table
     --> image.toml:6:13
    6 | part_type = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
      |             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: write it as "83", or leave it out

    a `dos` table has no names and no UUIDs of partitions
     --> image.toml:7:14
    7 | part_label = "root"
      |              ^^^^^^
    hint: remove it, or use `gpt`

    a `dos` table has no names and no UUIDs of partitions
     --> image.toml:8:13
    8 | part_uuid = "cf2cb2a4-2fb8-4b0a-a2e1-3c6b0c3f1d11"
      |             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: remove it, or use `gpt`

    `00` is not the type of a partition in a `dos` table
     --> image.toml:12:13
    12 | part_type = "00"
       |             ^^^^
    hint: write it as "83", or leave it out
    "#);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_table_of_old_has_four_partitions() {
    let place = |name: &str| {
        format!("[[customizations.disk.partitions]]\nmountpoint = \"/{name}\"\nminsize = \"1 GiB\"\n")
    };
    let disk = |partitions: &[&str], settings: &str| {
        let partitions: String = partitions.iter().map(|name| place(name)).collect();
        customized(&format!("[customizations.disk]\ntype = \"dos\"\n{partitions}[kiln]\n{settings}"))
    };
    // There is one for `/`.
    assert_eq!(disk(&["srv", "opt", "home"], ""), "accepted");
    assert_snapshot!(disk(&["srv", "opt", "home", "var"], ""), @r#"
    a `dos` table has room for 4 partitions, and this disk has 5
     --> image.toml:3:8
    3 | type = "dos"
      |        ^^^^^
    hint: use `gpt`
    "#);
    let swap = "swap-size = \"1 GiB\"\n";
    let encrypted = "[kiln.encryption]\npassphrase = \"open sesame\"\n";
    assert_eq!(disk(&["srv", "opt"], swap), "accepted");
    assert_eq!(disk(&["srv", "opt"], encrypted), "accepted");
    assert_eq!(disk(&["srv", "opt", "boot"], encrypted), "accepted");
    for settings in [swap, encrypted] {
        let refused = disk(&["srv", "opt", "home"], settings);
        assert!(refused.starts_with("a `dos` table has room for 4 "), "{refused}");
    }
}

#[test]
fn plain_partitions_are_checked() {
    let text = r#"[[customizations.disk.partitions]]
fs_type = "vfat"
mountpoint = "/boot/efi"
minsize = "1 GiB"
[[customizations.disk.partitions]]
fs_type = "ext3"
mountpoint = "/home"
minsize = "1 GiB"
[[customizations.disk.partitions]]
fs_type = "swap"
mountpoint = "/swap"
minsize = "1 GiB"
[[customizations.disk.partitions]]
fs_type = "swap"
[[customizations.disk.partitions]]
minsize = "1 GiB"
[[customizations.disk.partitions]]
mountpoint = "/"
label = "more than twelve"
fs_type = "xfs"
"#;
    assert_snapshot!(customized(text), @r#"
    `vfat` is not supported here
     --> image.toml:3:11
    3 | fs_type = "vfat"
      |           ^^^^^^
    hint: leave the partition out: `boot` of the table `[kiln]` has the EFI system partition

    unknown file system `ext3`
     --> image.toml:7:11
    7 | fs_type = "ext3"
      |           ^^^^^^
    hint: did you mean `ext4`?

    swap space is not mounted
     --> image.toml:12:14
    12 | mountpoint = "/swap"
       |              ^^^^^^^
    hint: remove it

    `customizations.disk.partitions` has no `minsize`
     --> image.toml:14:1
    14 | [[customizations.disk.partitions]]
       | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: say how large it is; only the file system for `/` takes what is left

    `customizations.disk.partitions` has no `mountpoint`
     --> image.toml:16:1
    16 | [[customizations.disk.partitions]]
       | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^

    the label `more than twelve` is too long for xfs
     --> image.toml:20:9
    20 | label = "more than twelve"
       |         ^^^^^^^^^^^^^^^^^^
    hint: use at most 12 bytes
    "#);
}

#[test]
fn subvolumes_are_checked() {
    let text = r#"[[customizations.disk.partitions]]
type = "btrfs"
subvolumes = [
    { name = "@", mountpoint = "/" },
    { name = "@", mountpoint = "/home" },
    { name = "a,b", mountpoint = "/srv" },
    { name = "../c", mountpoint = "/opt" },
    { mountpoint = "/home" },
]
[[customizations.disk.partitions]]
type = "btrfs"
[kiln]
root-filesystem = "ext4"
"#;
    assert_snapshot!(customized(text), @r#"
    the subvolume `@` is given twice
     --> image.toml:6:14
    6 |     { name = "@", mountpoint = "/home" },
      |              ^^^

    `a,b` is not a name of a subvolume
     --> image.toml:7:14
    7 |     { name = "a,b", mountpoint = "/srv" },
      |              ^^^^^
    hint: write a path without `.`, `..`, commas and blanks

    `../c` is not a name of a subvolume
     --> image.toml:8:14
    8 |     { name = "../c", mountpoint = "/opt" },
      |              ^^^^^^
    hint: write a path without `.`, `..`, commas and blanks

    `customizations.disk.partitions.subvolumes` has no `name`
     --> image.toml:9:5
    9 |     { mountpoint = "/home" },
      |     ^^^^^^^^^^^^^^^^^^^^^^^^

    `/home` is given twice
     --> image.toml:9:20
    9 |     { mountpoint = "/home" },
      |                    ^^^^^^^
    hint: one file system is mounted at a place

    a partition of type `btrfs` needs subvolumes
     --> image.toml:11:1
    11 | [[customizations.disk.partitions]]
       | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: add `[[customizations.disk.partitions.subvolumes]]`, or use the type `plain`

    a second partition of type `btrfs` is not supported
     --> image.toml:11:1
    11 | [[customizations.disk.partitions]]
       | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: use `plain` partitions beside it

    `kiln.root-filesystem` repeats `customizations.disk.partitions.fs_type`
     --> image.toml:14:19
    14 | root-filesystem = "ext4"
       |                   ^^^^^^
    hint: keep one of the two
    "#);
}

#[test]
fn logical_volumes_are_checked() {
    let text = r#"[[customizations.disk.partitions]]
type = "lvm"
name = "a group"
logical_volumes = [
    { name = "boot", mountpoint = "/boot", minsize = "1 GiB" },
    { name = "boot", fs_type = "swap", minsize = "1 GiB" },
    { name = "-x", mountpoint = "/home" },
]
[[customizations.disk.partitions]]
type = "lvm"
[[customizations.disk.partitions]]
type = "btrfs"
subvolumes = [{ name = "@", mountpoint = "/srv" }]
"#;
    assert_snapshot!(customized(text), @r#"
    `a group` is not a name of a volume group
     --> image.toml:4:8
    4 | name = "a group"
      |        ^^^^^^^^^
    hint: a name has letters, digits, `+`, `_`, `.` and `-`, and at most 50 characters

    the boot loader does not find `/boot` in a volume group
     --> image.toml:6:35
    6 |     { name = "boot", mountpoint = "/boot", minsize = "1 GiB" },
      |                                   ^^^^^^^
    hint: give it a partition of type `plain`, or leave it out: Kiln makes one

    the logical volume `boot` is given twice
     --> image.toml:7:14
    7 |     { name = "boot", fs_type = "swap", minsize = "1 GiB" },
      |              ^^^^^^

    `customizations.disk.partitions.logical_volumes` has no `minsize`
     --> image.toml:8:5
    8 |     { name = "-x", mountpoint = "/home" },
      |     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: say how large it is; only the file system for `/` takes what is left

    `-x` is not a name of a logical volume
     --> image.toml:8:14
    8 |     { name = "-x", mountpoint = "/home" },
      |              ^^^^
    hint: a name has letters, digits, `+`, `_`, `.` and `-`, and at most 50 characters

    a partition of type `lvm` needs logical volumes
     --> image.toml:10:1
    10 | [[customizations.disk.partitions]]
       | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: add `[[customizations.disk.partitions.logical_volumes]]`

    a second partition of type `lvm` is not supported
     --> image.toml:10:1
    10 | [[customizations.disk.partitions]]
       | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: use `plain` partitions beside it

    partitions of type `btrfs` and `lvm` cannot be combined
     --> image.toml:12:1
    12 | [[customizations.disk.partitions]]
       | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: use `plain` partitions beside it
    "#);
}

#[test]
fn file_systems_are_large_enough_for_their_type() {
    let text = r#"[[customizations.disk.partitions]]
mountpoint = "/home"
minsize = "299 MiB"
fs_type = "xfs"
[[customizations.disk.partitions]]
mountpoint = "/srv"
minsize = "100 MiB"
fs_type = "btrfs"
"#;
    assert_snapshot!(customized(text), @r#"
    a file system of type xfs needs at least 300 MiB
     --> image.toml:2:1
    2 | [[customizations.disk.partitions]]
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: make it larger, or use another `fs_type`

    a file system of type btrfs needs at least 114 MiB
     --> image.toml:6:1
    6 | [[customizations.disk.partitions]]
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: make it larger, or use another `fs_type`
    "#);
}

#[test]
fn encryption_is_checked() {
    let text = r#"[[customizations.disk.partitions]]
fs_type = "swap"
minsize = "1 GiB"
[[customizations.disk.partitions]]
type = "btrfs"
subvolumes = [{ name = "@", mountpoint = "/" }, { name = "@boot", mountpoint = "/boot" }]
[kiln]
swap-size = "1 GiB"
[kiln.encryption]
passphrase = "two\nlines"
key_file = true
"#;
    assert_snapshot!(customized(text), @r#"
    swap space beside an encrypted partition is not encrypted
     --> image.toml:2:1
    2 | [[customizations.disk.partitions]]
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: make it a logical volume beside `/`, in a partition of type `lvm`

    the boot loader does not find `/boot` in an encrypted partition
     --> image.toml:7:80
    7 | subvolumes = [{ name = "@", mountpoint = "/" }, { name = "@boot", mountpoint = "/boot" }]
      |                                                                                ^^^^^^^
    hint: give it a partition of type `plain`, or leave it out: Kiln makes one

    swap space beside an encrypted partition is not encrypted
     --> image.toml:9:13
    9 | swap-size = "1 GiB"
      |             ^^^^^^^
    hint: make it a logical volume beside `/`, in a partition of type `lvm`

    the passphrase cannot be typed
     --> image.toml:11:14
    11 | passphrase = "two\nlines"
       |              ^^^^^^^^^^^^
    hint: write one line of at most 512 bytes

    unknown key `key_file` in `kiln.encryption`
     --> image.toml:12:1
    12 | key_file = true
       | ^^^^^^^^
    hint: did you mean `key-file`?
    "#);
    assert_snapshot!(customized("[kiln.encryption]\n"), @r#"
    `kiln.encryption` has no `passphrase`
     --> image.toml:2:1
    2 | [kiln.encryption]
      | ^^^^^^^^^^^^^^^^^
    "#);
}
