//! Manifests of disks that the definition divides.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use insta::assert_snapshot;
use serde_json::Value;

use crate::world::{World, stages, standard};

/// A disk with these partitions and settings: the manifest.
fn disk(world: &World, text: &str) -> Value {
    let definition = format!("name = \"x\"\ndistro = \"debian-12\"\n{text}");
    world.resolve(&definition).expect("resolves").manifest
}

/// The stages of a pipeline without what is in other tests: options of those named, the names of all.
fn shown(manifest: &Value, pipeline: &str, wanted: &[&str]) -> String {
    let mut lines = Vec::new();
    for stage in stages(manifest, pipeline) {
        let name = stage["type"].as_str().expect("a type");
        let short = name.trim_start_matches("org.osbuild.");
        if !wanted.contains(&short) {
            lines.push(short.to_owned());
            continue;
        }
        lines.push(format!("{short} {}", stage["options"]));
        for (name, device) in stage["devices"].as_object().into_iter().flatten() {
            let parent = device.get("parent").map(|parent| format!(" on {parent}")).unwrap_or_default();
            lines.push(format!("  {name}: {} {}{parent}", device["type"], device["options"]));
        }
        for mount in stage["mounts"].as_array().into_iter().flatten() {
            lines.push(format!("  {mount}"));
        }
    }
    lines.join("\n").replace("org.osbuild.", "")
}

/// The files that the tree has before its packages, with their content.
fn early(manifest: &Value) -> Vec<(String, String)> {
    let copy = stages(manifest, "tree").iter().take_while(|stage| stage["type"] != "org.kiln.deb");
    let copy = copy.filter(|stage| stage["type"] == "org.osbuild.copy");
    let mut files = Vec::new();
    for item in copy.flat_map(|stage| stage["options"]["paths"].as_array().expect("paths")) {
        let from = item["from"].as_str().expect("a source").trim_start_matches("input://files/");
        let data = &manifest["sources"]["org.osbuild.inline"]["items"][from]["data"];
        let text = STANDARD.decode(data.as_str().expect("data")).expect("base64");
        let to = item["to"].as_str().expect("a target").trim_start_matches("tree://");
        files.push((to.to_owned(), String::from_utf8(text).expect("text")));
    }
    // No swap space of another machine's is waited for, whatever else there is.
    let (path, resume) = files.remove(0);
    assert_eq!(path, "/etc/initramfs-tools/conf.d/resume");
    assert!(resume.ends_with("\nRESUME=none\n"), "{resume}");
    files
}

fn kernel_options(manifest: &Value) -> String {
    let stages = stages(manifest, "tree");
    let stage = stages.iter().find(|stage| stage["type"] == "org.osbuild.kernel-cmdline").expect("a stage");
    stage["options"]["kernel_opts"].as_str().expect("a text").to_owned()
}

#[cfg(target_arch = "x86_64")]
#[test]
fn partitions_keep_their_order_and_the_roots_takes_the_rest() {
    let world = World::new(&standard());
    let manifest = disk(
        &world,
        r#"
[[customizations.disk.partitions]]
mountpoint = "/var/log"
minsize = "300 MiB"
fs_type = "xfs"
[[customizations.disk.partitions]]
mountpoint = "/"
[[customizations.disk.partitions]]
mountpoint = "/var"
minsize = "200 MiB"
label = "var"
[[customizations.disk.partitions]]
fs_type = "swap"
minsize = "1 MB"
[kiln]
disk-size = "1 GiB"
"#,
    );
    assert_snapshot!(shown(&manifest, "image", &["sfdisk", "mkfs.ext4", "mkswap", "copy", "grub2.inst"]), @r#"
    truncate
    sfdisk {"label":"gpt","uuid":"ef50fbfa-9364-8909-b483-5dad7d933347","partitions":[{"start":2048,"size":2048,"type":"21686148-6449-6e6f-744e-656564454649","uuid":"aa6e19f7-ad99-83cd-bc98-995d5157a748","name":"boot"},{"start":4096,"size":614400,"type":"0fc63daf-8483-4772-8e79-3d69d8477de4","uuid":"902df5e6-0190-8202-a698-c0e184b0cf75","name":"var-log"},{"start":618496,"size":1064960,"type":"4f68bce3-e8cd-4db1-96e7-fbcaf984b709","uuid":"113036c7-2007-835a-a0e1-077fdc5229a2","name":"root"},{"start":1683456,"size":409600,"type":"0fc63daf-8483-4772-8e79-3d69d8477de4","uuid":"c1ce5b9a-9aba-842e-8b43-432d1d929b09","name":"var"},{"start":2093056,"size":2048,"type":"0657fd6d-a4ab-43c4-84e5-0933c84b4f4f","uuid":"fc7001c7-1c17-8062-b747-e13bc598f025","name":"swap"}]}
      device: "loopback" {"filename":"x.raw","lock":true}
    mkfs.xfs
    mkfs.ext4 {"uuid":"3114050e-4b48-83e6-a7ae-18e2c50d9c83","metadata_csum_seed":false,"orphan_file":false}
      device: "loopback" {"filename":"x.raw","start":618496,"size":1064960,"lock":true}
    mkfs.ext4 {"uuid":"80457a34-ef3c-8472-998b-c2217be9fd65","label":"var","metadata_csum_seed":false,"orphan_file":false}
      device: "loopback" {"filename":"x.raw","start":1683456,"size":409600,"lock":true}
    mkswap {"uuid":"4e2a3bd3-88b1-8f20-8097-6011adb1c49f"}
      device: "loopback" {"filename":"x.raw","start":2093056,"size":2048,"lock":true}
    copy {"paths":[{"from":"input://tree/","to":"mount://root/"}]}
      partition3: "loopback" {"filename":"x.raw","start":618496,"size":1064960}
      partition4: "loopback" {"filename":"x.raw","start":1683456,"size":409600}
      partition2: "loopback" {"filename":"x.raw","start":4096,"size":614400}
      {"name":"root","type":"ext4","source":"partition3","target":"/"}
      {"name":"mount1","type":"ext4","source":"partition4","target":"/var"}
      {"name":"mount2","type":"xfs","source":"partition2","target":"/var/log"}
    grub2.inst {"filename":"x.raw","platform":"i386-pc","location":2048,"core":{"type":"mkimage","partlabel":"gpt","filesystem":"ext4","binary":"grub-mkimage"},"prefix":{"type":"partition","partlabel":"gpt","number":2,"path":"/boot/grub"}}
    "#);
    assert_snapshot!(shown(&manifest, "tree", &["mkdir", "fstab"]), @r#"
    mkdir {"paths":[{"path":"/etc","mode":493,"parents":true,"exist_ok":true},{"path":"/etc/initramfs-tools/conf.d","mode":493,"parents":true,"exist_ok":true}]}
    copy
    chmod
    fstab {"filesystems":[{"uuid":"3114050e-4b48-83e6-a7ae-18e2c50d9c83","path":"/","vfs_type":"ext4","options":"defaults","passno":1},{"uuid":"80457a34-ef3c-8472-998b-c2217be9fd65","path":"/var","vfs_type":"ext4","options":"defaults","passno":2},{"uuid":"934045a0-3c2d-8177-a0f7-bdc17364f7c6","path":"/var/log","vfs_type":"xfs","options":"defaults","passno":0},{"uuid":"4e2a3bd3-88b1-8f20-8097-6011adb1c49f","path":"none","vfs_type":"swap","options":"defaults"}]}
    org.kiln.deb
    mkdir {"paths":[{"path":"/var","parents":true,"exist_ok":true},{"path":"/var/log","parents":true,"exist_ok":true},{"path":"/boot/grub","parents":true,"exist_ok":true}]}
    copy
    mkdir {"paths":[{"path":"/boot/grub","parents":true,"exist_ok":true}]}
    copy
    chmod
    kernel-cmdline
    machine-id
    "#);
    assert_eq!(early(&manifest), []);
}

#[cfg(target_arch = "x86_64")]
#[cfg(target_arch = "x86_64")]
#[test]
fn the_table_says_what_the_definition_does() {
    let manifest = disk(
        &World::new(&standard()),
        r#"
[[customizations.disk.partitions]]
mountpoint = "/"
part_type = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
part_label = "my root"
part_uuid = "CF2CB2A4-2FB8-4B0A-A2E1-3C6B0C3F1D11"
[[customizations.disk.partitions]]
type = "btrfs"
minsize = "1 GiB"
part_label = "data"
subvolumes = [{ name = "home", mountpoint = "/home" }]
"#,
    );
    let partitions = &stages(&manifest, "image")[1]["options"]["partitions"];
    let said = |index: usize| ["type", "name", "uuid"].map(|key| partitions[index][key].as_str());
    assert_eq!(
        said(1),
        [
            Some("0fc63daf-8483-4772-8e79-3d69d8477de4"),
            Some("my root"),
            Some("cf2cb2a4-2fb8-4b0a-a2e1-3c6b0c3f1d11")
        ]
    );
    assert_eq!(
        said(2),
        [
            Some("0fc63daf-8483-4772-8e79-3d69d8477de4"),
            Some("data"),
            Some("7adf358c-c225-8eaa-a0ec-bd2dde638861")
        ]
    );
}

/// There is no partition for GRUB's core, and where the kernels are is marked.
#[cfg(target_arch = "x86_64")]
#[test]
fn a_table_of_old_has_four_partitions_and_no_names() {
    let manifest = disk(
        &World::new(&standard()),
        r#"
[customizations.disk]
type = "dos"
[[customizations.disk.partitions]]
fs_type = "swap"
minsize = "1 MiB"
[[customizations.disk.partitions]]
mountpoint = "/srv"
minsize = "64 MiB"
part_type = "DA"
[[customizations.disk.partitions]]
type = "lvm"
logical_volumes = [{ mountpoint = "/" }]
[kiln]
disk-size = "1 GiB"
"#,
    );
    assert_snapshot!(shown(&manifest, "image", &["sfdisk", "grub2.inst"]), @r#"
    truncate
    sfdisk {"label":"dos","uuid":"0xef50fbfa","partitions":[{"start":2048,"size":1048576,"type":"83","bootable":true},{"start":1050624,"size":2048,"type":"82"},{"start":1052672,"size":131072,"type":"da"},{"start":1183744,"size":911360,"type":"8e"}]}
      device: "loopback" {"filename":"x.raw","lock":true}
    mkfs.ext4
    mkswap
    mkfs.ext4
    lvm2.create
    mkfs.ext4
    copy
    lvm2.metadata
    grub2.inst {"filename":"x.raw","platform":"i386-pc","location":1,"core":{"type":"mkimage","partlabel":"dos","filesystem":"ext4","binary":"grub-mkimage"},"prefix":{"type":"partition","partlabel":"dos","number":0,"path":"/grub"}}
    "#);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_table_of_old_ends_at_2_tebibytes() {
    let world = World::new(&standard());
    let resolved = |size: &str| {
        let partition = format!("mountpoint = \"/srv\"\nminsize = \"{size}\"\n");
        let disk =
            format!("[customizations.disk]\ntype = \"dos\"\n[[customizations.disk.partitions]]\n{partition}");
        let definition = format!("name = \"x\"\ndistro = \"debian-12\"\n{disk}");
        world.resolve(&definition).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(resolved("2045 GiB"), Ok(()));
    assert_eq!(resolved("2048 GiB"), Err("a `dos` table ends at 2 TiB".to_owned()));
}

#[test]
fn subvolumes_are_mounted_where_they_belong() {
    let world = World::new(&standard());
    let manifest = disk(
        &world,
        r#"
[[customizations.disk.partitions]]
type = "btrfs"
subvolumes = [{ name = "all/home", mountpoint = "/home" }, { name = "all", mountpoint = "/" }]
[kiln]
boot = "hybrid"
disk-size = "1 GiB"
"#,
    );
    let wanted = ["sfdisk", "btrfs.subvol", "copy", "grub2.inst"];
    assert_snapshot!(shown(&manifest, "image", &wanted), @r#"
    truncate
    sfdisk {"label":"gpt","uuid":"ef50fbfa-9364-8909-b483-5dad7d933347","partitions":[{"start":2048,"size":2048,"type":"21686148-6449-6e6f-744e-656564454649","uuid":"aa6e19f7-ad99-83cd-bc98-995d5157a748","name":"boot"},{"start":4096,"size":131072,"type":"c12a7328-f81f-11d2-ba4b-00a0c93ec93b","uuid":"9cd5c702-e0d4-8567-b343-976fff5f9119","name":"esp"},{"start":135168,"size":1959936,"type":"4f68bce3-e8cd-4db1-96e7-fbcaf984b709","uuid":"113036c7-2007-835a-a0e1-077fdc5229a2","name":"root"}]}
      device: "loopback" {"filename":"x.raw","lock":true}
    org.kiln.fat
    mkfs.btrfs
    btrfs.subvol {"subvolumes":[{"name":"/all"},{"name":"/all/home"}]}
      device: "loopback" {"filename":"x.raw","start":135168,"size":1959936}
      {"name":"volume","type":"btrfs","source":"device","target":"/"}
    copy {"paths":[{"from":"input://tree/","to":"mount://root/"}]}
      device: "loopback" {"filename":"x.raw","start":135168,"size":1959936}
      {"name":"root","type":"btrfs","source":"device","target":"/","options":{"subvol":"all"}}
      {"name":"mount1","type":"btrfs","source":"device","target":"/home","options":{"subvol":"all/home"}}
    grub2.inst {"filename":"x.raw","platform":"i386-pc","location":2048,"core":{"type":"mkimage","partlabel":"gpt","filesystem":"btrfs","binary":"grub-mkimage"},"prefix":{"type":"partition","partlabel":"gpt","number":2,"path":"/all/boot/grub"}}
    "#);
    assert!(kernel_options(&manifest).contains(" rootflags=subvol=all ro "), "{}", kernel_options(&manifest));
    let text = manifest.to_string();
    for (path, beginning) in [("grub.cfg", "set timeout"), ("EFI/debian/grub.cfg", "search.fs_uuid")] {
        let items = manifest["sources"]["org.osbuild.inline"]["items"].as_object().expect("items");
        let texts =
            items.values().map(|item| STANDARD.decode(item["data"].as_str().expect("data")).expect("base64"));
        let mut texts = texts.map(|text| String::from_utf8(text).expect("text"));
        let found =
            texts.find(|text| text.starts_with(beginning)).unwrap_or_else(|| panic!("no {path}: {text}"));
        let expected = if path == "grub.cfg" { "linux /all/vmlinuz " } else { "($root)/all/boot/grub" };
        assert!(found.contains(expected), "{found}");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn logical_volumes_are_made_filled_and_named() {
    let world = World::new(&standard());
    let manifest = disk(
        &world,
        r#"
[[customizations.disk.partitions]]
type = "lvm"
name = "my-vg"
logical_volumes = [
    { mountpoint = "/home", minsize = "10 MiB" },
    { mountpoint = "/" },
    { fs_type = "swap", minsize = "8 MiB" },
]
[kiln]
disk-size = "1 GiB"
source-epoch = 5
"#,
    );
    let wanted = ["sfdisk", "lvm2.create", "mkfs.ext4", "mkswap", "copy", "lvm2.metadata", "grub2.inst"];
    assert_snapshot!(shown(&manifest, "image", &wanted), @r#"
    truncate
    sfdisk {"label":"gpt","uuid":"ef50fbfa-9364-8909-b483-5dad7d933347","partitions":[{"start":2048,"size":2048,"type":"21686148-6449-6e6f-744e-656564454649","uuid":"aa6e19f7-ad99-83cd-bc98-995d5157a748","name":"boot"},{"start":4096,"size":1048576,"type":"bc13c2ff-59e6-4262-a352-b275fd6f7172","uuid":"902df5e6-0190-8202-a698-c0e184b0cf75","name":"kernels"},{"start":1052672,"size":1042432,"type":"e6d6d379-f507-44c2-a23c-238f2a3df928","uuid":"113036c7-2007-835a-a0e1-077fdc5229a2","name":"my-vg"}]}
      device: "loopback" {"filename":"x.raw","lock":true}
    mkfs.ext4 {"uuid":"14c0e783-d7b2-8b01-be1a-67382467662c","metadata_csum_seed":false,"orphan_file":false}
      device: "loopback" {"filename":"x.raw","start":4096,"size":1048576,"lock":true}
    lvm2.create {"volumes":[{"name":"homelv","extents":"3"},{"name":"rootlv","extents":"122"},{"name":"swaplv","extents":"2"}]}
      device: "loopback" {"filename":"x.raw","start":1052672,"size":1042432,"lock":true}
    mkswap {"uuid":"4e2a3bd3-88b1-8f20-8097-6011adb1c49f"}
      disk3: "loopback" {"filename":"x.raw","start":1052672,"size":1042432}
      device: "lvm2.lv" {"volume":"swaplv"} on "disk3"
    mkfs.ext4 {"uuid":"3114050e-4b48-83e6-a7ae-18e2c50d9c83","metadata_csum_seed":false,"orphan_file":false}
      disk3: "loopback" {"filename":"x.raw","start":1052672,"size":1042432}
      device: "lvm2.lv" {"volume":"rootlv"} on "disk3"
    mkfs.ext4 {"uuid":"690ef4fb-6b4f-8499-b128-c56347e98ec2","metadata_csum_seed":false,"orphan_file":false}
      disk3: "loopback" {"filename":"x.raw","start":1052672,"size":1042432}
      device: "lvm2.lv" {"volume":"homelv"} on "disk3"
    copy {"paths":[{"from":"input://tree/","to":"mount://root/"}]}
      disk3: "loopback" {"filename":"x.raw","start":1052672,"size":1042432}
      volume-rootlv: "lvm2.lv" {"volume":"rootlv"} on "disk3"
      partition2: "loopback" {"filename":"x.raw","start":4096,"size":1048576}
      volume-homelv: "lvm2.lv" {"volume":"homelv"} on "disk3"
      {"name":"root","type":"ext4","source":"volume-rootlv","target":"/"}
      {"name":"mount1","type":"ext4","source":"partition2","target":"/boot"}
      {"name":"mount2","type":"ext4","source":"volume-homelv","target":"/home"}
    lvm2.metadata {"vg_name":"my-vg","creation_host":"localhost","creation_time":"5","description":"Made by Kiln"}
      device: "loopback" {"filename":"x.raw","start":1052672,"size":1042432,"lock":true}
    grub2.inst {"filename":"x.raw","platform":"i386-pc","location":2048,"core":{"type":"mkimage","partlabel":"gpt","filesystem":"ext4","binary":"grub-mkimage"},"prefix":{"type":"partition","partlabel":"gpt","number":1,"path":"/grub"}}
    "#);
    assert!(kernel_options(&manifest).starts_with("root=/dev/mapper/my--vg-rootlv ro "));
    let links = (
        "/etc/kernel-img.conf".to_owned(),
        "# The boot loader reads no other file system.\nlink_in_boot = yes\n".to_owned(),
    );
    assert_eq!(early(&manifest), [links]);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_roots_partition_is_encrypted() {
    let world = World::new(&standard());
    let definition = |key: bool| {
        format!(
            r#"
[[customizations.disk.partitions]]
type = "lvm"
logical_volumes = [{{ mountpoint = "/", minsize = "512 MiB" }}]
[[customizations.disk.partitions]]
mountpoint = "/boot"
minsize = "100 MiB"
[kiln.encryption]
passphrase = "open sesame"
key-file = {key}
"#
        )
    };
    let manifest = disk(&world, &definition(true));
    let wanted = ["sfdisk", "luks2.format", "lvm2.create", "mkfs.ext4", "copy", "lvm2.metadata"];
    assert_snapshot!(shown(&manifest, "image", &wanted), @r#"
    truncate
    sfdisk {"label":"gpt","uuid":"ef50fbfa-9364-8909-b483-5dad7d933347","partitions":[{"start":2048,"size":2048,"type":"21686148-6449-6e6f-744e-656564454649","uuid":"aa6e19f7-ad99-83cd-bc98-995d5157a748","name":"boot"},{"start":4096,"size":1083392,"type":"ca7d7ccb-63ed-4c53-861c-1742536059cc","uuid":"113036c7-2007-835a-a0e1-077fdc5229a2","name":"root"},{"start":1087488,"size":204800,"type":"bc13c2ff-59e6-4262-a352-b275fd6f7172","uuid":"7adf358c-c225-8eaa-a0ec-bd2dde638861","name":"kernels"}]}
      device: "loopback" {"filename":"x.raw","lock":true}
    luks2.format {"passphrase":"open sesame","uuid":"882e673c-2747-872b-b571-1f1f29eb4474","label":"root","pbkdf":{"method":"argon2id","memory":65536,"iterations":4,"parallelism":4}}
      device: "loopback" {"filename":"x.raw","start":4096,"size":1083392,"lock":true}
    lvm2.create {"volumes":[{"name":"rootlv","extents":"128"}]}
      disk2: "loopback" {"filename":"x.raw","start":4096,"size":1083392}
      device: "luks2" {"passphrase":"open sesame"} on "disk2"
    mkfs.ext4 {"uuid":"3114050e-4b48-83e6-a7ae-18e2c50d9c83","metadata_csum_seed":false,"orphan_file":false}
      disk2: "loopback" {"filename":"x.raw","start":4096,"size":1083392}
      luks2: "luks2" {"passphrase":"open sesame"} on "disk2"
      device: "lvm2.lv" {"volume":"rootlv"} on "luks2"
    mkfs.ext4 {"uuid":"14c0e783-d7b2-8b01-be1a-67382467662c","metadata_csum_seed":false,"orphan_file":false}
      device: "loopback" {"filename":"x.raw","start":1087488,"size":204800,"lock":true}
    copy {"paths":[{"from":"input://tree/","to":"mount://root/"}]}
      disk2: "loopback" {"filename":"x.raw","start":4096,"size":1083392}
      luks2: "luks2" {"passphrase":"open sesame"} on "disk2"
      volume-rootlv: "lvm2.lv" {"volume":"rootlv"} on "luks2"
      partition3: "loopback" {"filename":"x.raw","start":1087488,"size":204800}
      {"name":"root","type":"ext4","source":"volume-rootlv","target":"/"}
      {"name":"mount1","type":"ext4","source":"partition3","target":"/boot"}
    lvm2.metadata {"vg_name":"rootvg","creation_host":"localhost","creation_time":"1736593812","description":"Made by Kiln"}
      disk2: "loopback" {"filename":"x.raw","start":4096,"size":1083392}
      device: "luks2" {"passphrase":"open sesame"} on "disk2"
    grub2.inst
    "#);
    let shown: Vec<String> =
        early(&manifest).into_iter().map(|(path, text)| format!("{path}: {}", text.trim_end())).collect();
    assert_snapshot!(shown.join("\n"), @r#"
    /etc/kernel-img.conf: # The boot loader reads no other file system.
    link_in_boot = yes
    /etc/crypttab: luks-root UUID=882e673c-2747-872b-b571-1f1f29eb4474 /etc/cryptsetup-keys.d/luks-root.key luks,initramfs
    /etc/cryptsetup-keys.d/luks-root.key: open sesame
    /etc/cryptsetup-initramfs/conf-hook: KEYFILE_PATTERN="/etc/cryptsetup-keys.d/*.key"
    /etc/initramfs-tools/conf.d/key: UMASK=0077
    "#);
    let modes = stages(&manifest, "tree").iter().find(|stage| stage["type"] == "org.osbuild.chmod");
    let modes = &modes.expect("modes")["options"]["items"];
    assert_eq!(modes["/etc/cryptsetup-keys.d/luks-root.key"]["mode"], "0400");
    let asked = early(&disk(&world, &definition(false)));
    let names: Vec<&str> = asked.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(names, ["/etc/kernel-img.conf", "/etc/crypttab"]);
    assert!(asked[1].1.ends_with(" none luks,initramfs\n"), "{}", asked[1].1);
}

#[test]
fn a_disk_has_room_for_the_root() {
    let world = World::new(&standard());
    let home = "[[customizations.disk.partitions]]\nmountpoint = \"/home\"\nminsize = \"1 GiB\"\n";
    let group = "[[customizations.disk.partitions]]\ntype = \"lvm\"\n\
                 logical_volumes = [{ mountpoint = \"/srv\", minsize = \"500 MiB\" }]\n";
    let root = "[[customizations.disk.partitions]]\nmountpoint = \"/\"\nminsize = \"1 GiB\"\n";
    // The volume group needs a partition for `/boot` beside it.
    for (partitions, size, fits) in [
        (home, "1 GiB", false),
        (home, "2 GiB", true),
        (group, "1 GiB", false),
        (group, "1200 MiB", true),
        // What is larger than the disk makes the disk larger.
        (&format!("{home}{root}"), "1 GiB", true),
    ] {
        let definition =
            format!("name = \"x\"\ndistro = \"debian-12\"\n{partitions}[kiln]\ndisk-size = \"{size}\"\n");
        match world.resolve(&definition) {
            Ok(_) => assert!(fits, "{definition}"),
            Err(error) => {
                assert!(!fits, "{definition}: {error}");
                let finding = error.finding().expect("a place");
                assert_eq!(finding.message, "the disk has 1024 MiB, and no room for `/` beside the rest");
                assert!(finding.excerpt.contains("disk-size"), "{finding}");
            }
        }
    }
}
