//! Values that a definition cannot have, as the user sees them.

use insta::assert_snapshot;

use crate::definition::customized;

#[test]
fn a_language_without_its_data_is_refused() {
    let text = r#"[customizations.locale]
languages = ["de_DE.UTF-8"]
"#;
    assert_snapshot!(customized(text), @r#"
    nothing in the image knows the language `de_DE.UTF-8`
     --> image.toml:3:14
    3 | languages = ["de_DE.UTF-8"]
      |              ^^^^^^^^^^^^^
    hint: add the package `locales-all`, or use `C.UTF-8`
    "#);
}

#[test]
fn a_distribution_is_one_of_the_known() {
    let text = r#"distro = "fedora-42"
"#;
    assert_snapshot!(customized(text), @r#"
    unknown distribution `fedora-42`
     --> image.toml:2:10
    2 | distro = "fedora-42"
      |          ^^^^^^^^^^^
    hint: Kiln resolves `debian-11`, `debian-12`, `debian-13`, `debian-14`
    "#);
}

#[test]
fn a_foreign_architecture_is_refused() {
    let text = r#"architecture = "s390x"
"#;
    assert_snapshot!(customized(text), @r#"
    the architecture `s390x` is not the host's
     --> image.toml:2:16
    2 | architecture = "s390x"
      |                ^^^^^^^
    hint: build on such a host, or use `x86_64`
    "#);
}

#[test]
fn a_package_needs_a_name_that_can_be_one() {
    let text = r#"[[packages]]
version = "1"
[[packages]]
name = "Foo Bar"
[[modules]]
name = "-x"
[[packages]]
name = "a"
version = "1 2"
"#;
    assert_snapshot!(customized(text), @r#"
    `packages` has no `name`
     --> image.toml:2:1
    2 | [[packages]]
      | ^^^^^^^^^^^^

    `Foo Bar` is not a package name
     --> image.toml:5:8
    5 | name = "Foo Bar"
      |        ^^^^^^^^^
    hint: a name has lower-case letters, digits, `+`, `-` and `.`; the version has a key of its own

    `-x` is not a package name
     --> image.toml:7:8
    7 | name = "-x"
      |        ^^^^
    hint: a name has lower-case letters, digits, `+`, `-` and `.`; the version has a key of its own

    `1 2` is not a version
     --> image.toml:10:11
    10 | version = "1 2"
       |           ^^^^^
    hint: write a version, or the beginning of one and `*`
    "#);
}

#[test]
fn names_of_hosts_users_and_groups_are_checked() {
    let text = r#"[customizations]
hostname = "-a_b"
[[customizations.user]]
name = "a b"
uid = -1
[[customizations.group]]
name = "-g"
[[customizations.sshkey]]
user = "u"
"#;
    assert_snapshot!(customized(text), @r#"
    `-a_b` is not a host name
     --> image.toml:3:12
    3 | hostname = "-a_b"
      |            ^^^^^^
    hint: a host name has letters, digits and `-`, in parts between dots, and at most 64 characters

    `a b` is not a name of a user or group
     --> image.toml:5:8
    5 | name = "a b"
      |        ^^^^^
    hint: a name has letters, digits, `_`, `.` and `-`, and at most 32 characters

    `customizations.user.uid` must be an integer, zero or more, not a negative integer
     --> image.toml:6:7
    6 | uid = -1
      |       ^^

    `-g` is not a name of a user or group
     --> image.toml:8:8
    8 | name = "-g"
      |        ^^^^
    hint: a name has letters, digits, `_`, `.` and `-`, and at most 32 characters

    `customizations.sshkey` has no `key`
     --> image.toml:9:1
    9 | [[customizations.sshkey]]
      | ^^^^^^^^^^^^^^^^^^^^^^^^^
    "#);
}

#[test]
fn modes_paths_and_owners_are_checked() {
    let text = r#"[[customizations.files]]
path = "etc/x"
mode = "rw"
user = true
[[customizations.files]]
path = "/etc/../x"
[[customizations.directories]]
path = "/etc/"
group = -1
"#;
    assert_snapshot!(customized(text), @r#"
    `etc/x` is not an absolute path of the image
     --> image.toml:3:8
    3 | path = "etc/x"
      |        ^^^^^^^
    hint: begin with `/`, leave out `.`, `..` and double or trailing slashes

    `rw` is not a mode
     --> image.toml:4:8
    4 | mode = "rw"
      |        ^^^^
    hint: write three or four octal digits, as in "0644"

    `customizations.files.user` must be a name or a number, zero or more, not a boolean
     --> image.toml:5:8
    5 | user = true
      |        ^^^^

    `/etc/../x` is not an absolute path of the image
     --> image.toml:7:8
    7 | path = "/etc/../x"
      |        ^^^^^^^^^^^
    hint: begin with `/`, leave out `.`, `..` and double or trailing slashes

    `/etc/` is not an absolute path of the image
     --> image.toml:9:8
    9 | path = "/etc/"
      |        ^^^^^^^
    hint: begin with `/`, leave out `.`, `..` and double or trailing slashes

    `customizations.directories.group` must be a name or a number, zero or more, not a negative integer
     --> image.toml:10:9
    10 | group = -1
       |         ^^
    "#);
}

#[test]
fn a_path_is_given_once() {
    let text = r#"[[customizations.files]]
path = "/etc/x"
[[customizations.directories]]
path = "/etc/x"
"#;
    assert_snapshot!(customized(text), @r#"
    `/etc/x` is given twice
     --> image.toml:5:8
    5 | path = "/etc/x"
      |        ^^^^^^^^
    "#);
}

#[test]
fn outputs_and_file_systems_get_suggestions() {
    let text = r#"[kiln]
outputs = ["qcow", "img", "tar"]
root-filesystem = "ext3"
"#;
    assert_snapshot!(customized(text), @r#"
    unknown output `qcow`
     --> image.toml:3:12
    3 | outputs = ["qcow", "img", "tar"]
      |            ^^^^^^
    hint: did you mean `qcow2`?

    unknown output `img`
     --> image.toml:3:20
    3 | outputs = ["qcow", "img", "tar"]
      |                    ^^^^^
    hint: there are `raw`, `qcow2`, `vmdk`, `vhdx`, `iso`, `tar`

    unknown file system `ext3`
     --> image.toml:4:19
    4 | root-filesystem = "ext3"
      |                   ^^^^^^
    hint: did you mean `ext4`?
    "#);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn firmware_and_swap_space_make_sense() {
    let text = r#"[kiln]
boot = "efi"
swap-size = "2 GiB"
disk-size = "2 GiB"
"#;
    assert_snapshot!(customized(text), @r#"
    unknown firmware `efi`
     --> image.toml:3:8
    3 | boot = "efi"
      |        ^^^^^
    hint: did you mean `uefi`?
    "#);
    assert_snapshot!(customized(&text.replace("efi", "uefi")), @r#"
    the swap space leaves no room on the disk
     --> image.toml:4:13
    4 | swap-size = "2 GiB"
      |             ^^^^^^^
    hint: make `disk-size` larger, or leave it out
    "#);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn boot_loaders_need_their_firmware() {
    let refused = |settings: &str| customized(&format!("[kiln]\n{settings}"));
    assert_snapshot!(refused("bootloader = \"refind\"\n"), @r#"
    unknown boot loader `refind`
     --> image.toml:3:14
    3 | bootloader = "refind"
      |              ^^^^^^^^
    hint: there are `grub`, `systemd-boot`, `uki`
    "#);
    for (boot, bootloader) in [("bios", "systemd-boot"), ("hybrid", "uki")] {
        let text = refused(&format!("boot = \"{boot}\"\nbootloader = \"{bootloader}\"\n"));
        assert!(
            text.starts_with(&format!("only UEFI starts `{bootloader}`\n --> image.toml:4:14\n")),
            "{text}"
        );
        assert!(text.contains("hint: use `boot = \"uefi\"`, or `bootloader = \"grub\"`"), "{text}");
    }
    assert_snapshot!(refused("outputs = [\"iso\"]\nbootloader = \"uki\"\n"), @r#"
    a disc has boot loaders of its own
     --> image.toml:4:14
    4 | bootloader = "uki"
      |              ^^^^^
    hint: leave `bootloader` out of the definition of an `iso`
    "#);
}

#[test]
fn a_live_system_has_no_disk() {
    assert_snapshot!(customized("[kiln]\noutputs = [\"qcow2\", \"iso\"]\n"), @r#"
    the system of a disc is not that of a disk
     --> image.toml:3:21
    3 | outputs = ["qcow2", "iso"]
      |                     ^^^^^
    hint: make `iso` of a definition of its own: a live system has no file system that it could keep things in
    "#);
}

#[test]
fn outputs_cannot_be_empty() {
    let text = r#"[kiln]
outputs = []
"#;
    assert_snapshot!(customized(text), @r#"
    `kiln.outputs` is empty
     --> image.toml:3:11
    3 | outputs = []
      |           ^^
    hint: name some of `raw`, `qcow2`, `vmdk`, `vhdx`, `iso`, `tar`
    "#);
}

#[test]
fn settings_are_checked() {
    let text = r#"[kiln]
source-epoch = "now"
disk-size = 0
recommends = "no"
repositories = ["https://example.invalid"]
output = "raw"
"#;
    assert_snapshot!(customized(text), @r#"
    `kiln.source-epoch` must be an integer, zero or more, not a string
     --> image.toml:3:16
    3 | source-epoch = "now"
      |                ^^^^^

    `kiln.disk-size` is not a size
     --> image.toml:4:13
    4 | disk-size = 0
      |             ^
    hint: write bytes, or for example "4 GiB"

    `kiln.recommends` must be `true` or `false`, not a string
     --> image.toml:5:14
    5 | recommends = "no"
      |              ^^^^

    `https://example.invalid` is not a package source
     --> image.toml:6:17
    6 | repositories = ["https://example.invalid"]
      |                 ^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: write a line as in sources.list: deb [OPTIONS] URL SUITE COMPONENT...

    unknown key `output` in `kiln`
     --> image.toml:7:1
    7 | output = "raw"
      | ^^^^^^
    hint: did you mean `outputs`?
    "#);
}
