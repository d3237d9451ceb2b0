//! Disks with one and with several partitions, and what refuses to be one.

use std::fs;
use std::process::Command;

use super::*;
use crate::schema_agreement::Agreement;
use crate::stage_fixture::Fixture;
use crate::stage_test::{UUID, attached, attribute, output, unique_uuid};

const TABLE: &str = "D209C89E-EA5E-4FBD-B161-B461CCE297E0";
const BIOS_BOOT: &str = "21686148-6449-6E6F-744E-656564454649";

fn one(format: &str, members: &Value) -> Value {
    let mut options = json!({
        "format": format, "filename": "disk", "ptuuid": "0x14fc63d2", "size": 64 << 20, "root_fs_uuid": unique_uuid(),
    });
    options.as_object_mut().expect("an object").extend(members.as_object().expect("an object").clone());
    options
}

/// A disk with a GPT: for GRUB, `/boot` and `/`, the latter first in the table.
fn several(format: &str) -> Value {
    json!({
        "format": format, "filename": "disk", "ptuuid": TABLE, "size": 160 << 20, "pttype": "gpt",
        "bootloader": {"type": "grub2"},
        "partitions": [
            {"type": BIOS_BOOT, "size": 2048, "bootable": true},
            {"name": "root", "size": 131_072, "filesystem":
                {"type": "ext4", "uuid": unique_uuid(), "mountpoint": "/", "label": "root"}},
            {"name": "boot", "filesystem": {"type": "ext4", "uuid": unique_uuid(), "mountpoint": "/boot"}},
        ],
    })
}

#[test]
fn schema_agrees() {
    let with = |name: &str, value: Value| one("raw", &json!({name: value}));
    Agreement::assembler::<Qemu>()
        .accepts([
            one("raw.xz", &json!({})),
            one("qcow2", &json!({"qcow2_compat": "0.10", "root_fs_type": "xfs"})),
            one("vmdk", &json!({"vmdk_subformat": "streamOptimized", "bootloader": {}})),
            with("bootloader", json!({"type": "zipl"})),
            with("pttype", json!("mbr")),
            with("vmdk_subformat", json!("monolithicFlat")),
            several("vhdx"),
        ])
        .refuses([
            json!({}),
            with("format", json!("iso")),
            with("root_fs_type", json!("vfat")),
            with("size", json!("64M")),
            with("bootloader", json!({"type": "none"})),
            with("pttype", json!("apm")),
            with("root_fs_uuid", json!(1)),
            with("platform", json!("i386-pc")),
            json!({"format": "raw", "filename": "a", "ptuuid": "x", "size": 512, "pttype": "gpt"}),
        ]);
}

fn fixture() -> Fixture {
    // Whoever copies the host's mounts would keep what is mounted here busy.
    kiln_sys::chroot::private_mounts().expect("root");
    let mut fixture = Fixture::new();
    fixture.input(
        "tree",
        &[("etc/file", "content\n"), ("boot/grub2/grub.cfg", "menu\n"), ("boot/vmlinuz", "kernel\n")],
    );
    fixture
}

/// A partition of a disk, as a file of its own.
fn partition(fixture: &Fixture, image: &Path, number: usize) -> std::path::PathBuf {
    let told: Value = serde_json::from_str(&output("sfdisk", &["--json"], image)).expect("JSON");
    let [start, size] = ["start", "size"]
        .map(|name| told["partitiontable"]["partitions"][number][name].as_u64().expect(name) as usize * 512);
    let path = fixture.tree().join(format!("part{number}"));
    fs::write(&path, &fs::read(image).expect("the image")[start..start + size]).expect("written");
    path
}

/// The file in a file system, of which there is no fault.
fn content(image: &Path, path: &str) -> String {
    output("e2fsck", &["-f", "-n"], image);
    output("debugfs", &["-R", &format!("cat {path}")], image)
}

/// A core image of GRUB that finds the rest of itself on ext4.
fn core(prefix: &str, table: &str) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let options = ["-d", "/usr/lib/grub/i386-pc", "-O", "i386-pc", "-p", prefix, "-o"];
    let made = Command::new("grub-mkimage")
        .args(options)
        .arg(file.path())
        .args(["biosdisk", table, "ext2"])
        .status();
    assert!(made.expect("grub-mkimage").success());
    fs::read(file.path()).expect("a core image")
}

#[test]
fn root_a_disk_has_the_tree_and_grub() {
    let fixture = fixture();
    let options = one("raw", &json!({}));
    fixture.run::<Qemu>(options.clone()).expect("made");
    let image = fixture.tree().join("disk");
    assert_eq!(attached(&image), [""; 0]);
    output("sfdisk", &["--verify"], &image);
    let told: Value = serde_json::from_str(&output("sfdisk", &["--json"], &image)).expect("JSON");
    assert_eq!(told["partitiontable"]["id"], "0x14fc63d2");
    assert_eq!(told["partitiontable"]["partitions"][0]["bootable"], true);
    let root = partition(&fixture, &image, 0);
    assert_eq!(attribute(&root, "UUID"), options["root_fs_uuid"]);
    assert_eq!(content(&root, "/etc/file"), "content\n");
    let bytes = fs::read(&image).expect("the image");
    let boot = fs::read("/usr/lib/grub/i386-pc/boot.img").expect("GRUB");
    assert_eq!(bytes[..0x5c], boot[..0x5c]);
    assert_eq!(bytes[0x5c..0x64], 1_u64.to_le_bytes());
    assert!(bytes[512..].starts_with(&core("(,msdos1)/boot/grub2", "part_msdos")), "the core image");
}

#[test]
fn root_disks_have_several_file_systems() {
    let fixture = fixture();
    fixture.run::<Qemu>(several("raw")).expect("made");
    let image = fixture.tree().join("disk");
    assert_eq!(attached(&image), [""; 0]);
    let (root, boot) = (partition(&fixture, &image, 1), partition(&fixture, &image, 2));
    assert_eq!(attribute(&root, "LABEL"), "root");
    assert_eq!(content(&root, "/etc/file"), "content\n");
    assert_eq!(content(&boot, "/grub2/grub.cfg"), "menu\n");
    // What is in `/boot` is not below the root's.
    assert_eq!(content(&root, "/boot/vmlinuz"), "");
    let bytes = fs::read(&image).expect("the image");
    assert_eq!(bytes[0x5c..0x64], 2048_u64.to_le_bytes());
    let mut expected = core("(,gpt3)/grub2", "part_gpt");
    // Where the rest of it is.
    expected[500..508].copy_from_slice(&2049_u64.to_le_bytes());
    assert!(bytes[1 << 20..].starts_with(&expected), "the core image");
}

#[test]
fn root_images_have_each_format() {
    for (format, kind, members) in [
        ("qcow2", "qcow2", json!({"qcow2_compat": "0.10"})),
        ("vdi", "vdi", json!({})),
        ("vmdk", "vmdk", json!({"vmdk_subformat": "streamOptimized"})),
        ("vpc", "vpc", json!({})),
        ("vhdx", "vhdx", json!({})),
        ("raw.xz", "raw", json!({})),
    ] {
        let fixture = fixture();
        fixture.run::<Qemu>(one(format, &members)).expect(format);
        let image = fixture.tree().join("disk");
        assert_eq!(fs::read_dir(fixture.tree()).expect("the tree").count(), 1, "{format}");
        if format == "raw.xz" {
            let unpacked = Command::new("xz").args(["-d", "-c"]).arg(&image).output().expect("xz").stdout;
            fs::write(&image, unpacked).expect("written");
        }
        let raw = fixture.tree().join("raw");
        let converted =
            Command::new("qemu-img").args(["convert", "-f", kind, "-O", "raw"]).args([&image, &raw]).status();
        assert!(converted.expect("qemu-img").success(), "{format}");
        assert_eq!(raw.metadata().expect("there").len(), 64 << 20, "{format}");
        assert_eq!(content(&partition(&fixture, &raw, 0), "/etc/file"), "content\n", "{format}");
        if kind == "qcow2" {
            output("qemu-img", &["check", "-f", kind], &image);
            assert!(output("qemu-img", &["info"], &image).contains("compat: 0.10"));
        }
    }
}

#[test]
fn root_root_file_systems_are_of_each_kind() {
    for (kind, mebibytes) in [("btrfs", 160), ("xfs", 330)] {
        let fixture = fixture();
        let options = one("raw", &json!({"root_fs_type": kind, "size": mebibytes << 20}));
        fixture.run::<Qemu>(options.clone()).expect(kind);
        let root = partition(&fixture, &fixture.tree().join("disk"), 0);
        assert_eq!(
            (attribute(&root, "TYPE"), json!(attribute(&root, "UUID"))),
            (kind.to_owned(), options["root_fs_uuid"].clone())
        );
    }
}

#[test]
fn root_what_fails_leaves_nothing_attached() {
    let with = |members: Value| one("raw", &members);
    let mut nowhere = several("raw");
    nowhere["partitions"][1]["filesystem"]["mountpoint"] = json!("/srv");
    let mut without = several("raw");
    without["partitions"][0]["type"] = json!("0FC63DAF-8483-4772-8E79-3D69D8477DE4");
    let mut small = several("raw");
    small["partitions"][0]["size"] = json!(8);
    let mut early = with(json!({"pttype": "dos", "partitions": [
        {"start": 16, "filesystem": {"type": "ext4", "uuid": UUID, "mountpoint": "/"}}]}));
    early.as_object_mut().expect("an object").shift_remove("root_fs_uuid");
    let zipl = with(json!({"bootloader": {"type": "zipl"}}));
    let cases = [
        (with(json!({"size": 1000})), "invalid option `size`: `1000` is no multiple of 512"),
        (with(json!({"size": -512})), "invalid option `size`"),
        (with(json!({"size": 6 << 20})), "`cp` failed"),
        (nowhere, "none of them is mounted at `/`"),
        (without, "GRUB needs a BIOS boot partition"),
        (small, "and there is room for 4096"),
        (early, "and there is room for 7680"),
        (zipl, "the tree has no entry in /boot/loader/entries"),
    ];
    for (options, expected) in cases {
        let mut fixture = fixture();
        let large = "x".repeat(8 << 20);
        if expected.contains("cp") {
            fixture.input("more", &[]);
            let tree = fixture.tree();
            fs::write(tree.parent().expect("a directory").join("inputs/tree/large"), &large)
                .expect("written");
        }
        let error = fixture.run::<Qemu>(options).expect_err(expected).to_string();
        assert!(error.contains(expected), "{expected}: {error}");
        assert_eq!(attached(&fixture.tree().join("disk")), [""; 0], "{expected}");
    }
}

#[test]
fn root_the_table_is_the_references() {
    // The rest of the reference's assembler wants a service of its engine, for loop devices.
    let Some(reference) = crate::schema_agreement::reference("the partition table") else { return };
    let script = "import json, runpy, sys
assembler = runpy.run_path(sys.argv[1])
options = json.load(open(sys.argv[2]))
assembler['partition_table_from_options'](options).write_to(sys.argv[3])
";
    for options in [one("raw", &json!({})), several("raw")] {
        let fixture = fixture();
        fixture.run::<Qemu>(options.clone()).expect("made");
        let image = fixture.tree().join("disk");
        let theirs = fixture.tree().join("theirs");
        File::create(&theirs)
            .and_then(|file| file.set_len(options["size"].as_u64().expect("a size")))
            .expect("made");
        let file = fixture.tree().join("options");
        fs::write(&file, options.to_string()).expect("written");
        let ran = Command::new("python3")
            .args(["-c", script])
            .arg(reference.join("assemblers/org.osbuild.qemu"))
            .args([&file, &theirs])
            .env("PYTHONPATH", &reference)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()
            .expect("python3");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let table = |path: &Path| {
            let text = output("sfdisk", &["--json"], path).replace(path.to_str().expect("UTF-8"), "DISK");
            let mut table: Value = serde_json::from_str(&text).expect("JSON");
            for partition in table["partitiontable"]["partitions"].as_array_mut().expect("partitions") {
                // Those that are not told are random.
                partition["uuid"].take();
            }
            table
        };
        assert_eq!(table(&image), table(&theirs));
    }
}
