//! How images start: what the manifest makes for it.

use std::path::Path;

use insta::assert_snapshot;
use kiln_resolve::{Definition, Format, ResolveError};
use serde_json::{Value, json};

use crate::world::{World, inline, installed, package, stages, standard};

/// A definition with a kernel of which the test world knows the version, and settings.
fn definition(settings: &str) -> String {
    format!(
        "name = \"My image\"\ndistro = \"debian-12\"\n[[packages]]\nname = \"linux-image-6.1.0-9-arch\"\n\
         [customizations.kernel]\nname = \"linux-image-6.1.0-10-arch\"\nappend = \"quiet\"\n[kiln]\n{settings}\n"
    )
}

/// What a stage copies, a line each; content of the manifest by its first words.
fn copied(manifest: &Value, stage: &Value) -> String {
    let mut text = String::new();
    for path in stage["options"]["paths"].as_array().expect("paths") {
        let [from, to] = ["from", "to"].map(|name| path[name].as_str().expect("a location"));
        let from = from.strip_prefix("input://").expect("an input");
        let from = match from.strip_prefix("files/") {
            Some(checksum) => format!("{:?}", inline(manifest, checksum)),
            None => from.to_owned(),
        };
        text += &format!("{} <- {from}\n", to.strip_prefix("tree://").expect("in the tree"));
    }
    text
}

fn find<'a>(stages: &'a [Value], kind: &str) -> Option<&'a Value> {
    stages.iter().find(|stage| stage["type"] == format!("org.{kind}"))
}

/// The size of the EFI system partition in MiB.
fn esp_size(manifest: &Value) -> u64 {
    let partitions =
        &find(stages(manifest, "image"), "osbuild.sfdisk").expect("a table")["options"]["partitions"];
    let mut all = partitions.as_array().expect("partitions").iter();
    let esp = all.find(|partition| partition["name"] == "esp").expect("a partition");
    esp["size"].as_u64().expect("a number") / 2048
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_disk_boots_with_either_firmware() {
    let world = World::new(&standard());
    let definition = |boot: &str| {
        format!(
            "name = \"x\"\ndistro = \"debian-12\"\n[kiln]\noutputs = [\"raw\"]\nboot = \"{boot}\"\n\
             swap-size = \"100 MB\"\ndisk-size = \"1 GiB\"\n"
        )
    };
    const MIB: u64 = 2048;
    // Name, start and size of each partition, and the stages that fill them and write boot code.
    let cases = [
        (
            "bios",
            vec![("boot", 1, 1), ("swap", 2, 96), ("root", 98, 925)],
            vec!["mkswap", "mkfs.ext4", "copy", "grub2.inst"],
        ),
        (
            "uefi",
            vec![("esp", 1, 64), ("swap", 65, 96), ("root", 161, 862)],
            vec!["fat", "mkswap", "mkfs.ext4", "copy"],
        ),
        (
            "hybrid",
            vec![("boot", 1, 1), ("esp", 2, 64), ("swap", 66, 96), ("root", 162, 861)],
            vec!["fat", "mkswap", "mkfs.ext4", "copy", "grub2.inst"],
        ),
    ];
    for (boot, partitions, rest) in cases {
        let manifest = world.resolve(&definition(boot)).expect(boot).manifest;
        let image = stages(&manifest, "image");
        let found: Vec<_> = image[1]["options"]["partitions"]
            .as_array()
            .expect("partitions")
            .iter()
            .map(|partition| {
                let number = |member: &str| partition[member].as_u64().expect("a number") / MIB;
                (partition["name"].as_str().expect("a name"), number("start"), number("size"))
            })
            .collect();
        assert_eq!(found, partitions, "{boot}");
        let names: Vec<_> = image[2..]
            .iter()
            .map(|stage| stage["type"].as_str().expect("a type").splitn(3, '.').nth(2).expect("a name"))
            .collect();
        assert_eq!(names, rest, "{boot}");
        if boot != "uefi" {
            let grub = image.last().expect("a stage");
            assert_eq!(grub["options"]["prefix"]["number"], partitions.len() - 1, "{boot}");
        }
        let text = serde_json::to_string(&manifest).expect("text");
        assert_eq!(text.contains("grub/i386-pc"), boot != "uefi");
        assert_eq!(text.contains("monolithic/grubx64.efi"), boot != "bios");
        let tree = stages(&manifest, "tree");
        let table = tree.iter().find(|stage| stage["type"] == "org.osbuild.fstab").expect("a table");
        let lines = table["options"]["filesystems"].as_array().expect("lines");
        let paths: Vec<_> = lines.iter().map(|line| line["path"].as_str().expect("a path")).collect();
        let expected = if boot == "bios" { vec!["/", "none"] } else { vec!["/", "/boot/efi", "none"] };
        assert_eq!(paths, expected, "{boot}");
        if boot == "bios" {
            continue;
        }
        // What the file system is made with is what the system looks for.
        let fat = image.iter().find(|stage| stage["type"] == "org.kiln.fat").expect("a stage");
        let serial = fat["options"]["volid"].as_str().expect("a number");
        assert_eq!(lines[1]["uuid"], format!("{}-{}", &serial[..4], &serial[4..]));
        let copies = stages(&manifest, "esp")[1]["options"]["paths"].as_array().expect("paths");
        let targets: Vec<_> = copies.iter().map(|copy| copy["to"].as_str().expect("a path")).collect();
        assert_eq!(targets, ["tree:///EFI/BOOT/BOOTX64.EFI", "tree:///EFI/debian/grub.cfg"]);
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn systemd_boot_has_entries_as_kernel_install_makes_them() {
    let world = World::new(&standard());
    let text = definition("outputs = [\"raw\"]\nbootloader = \"systemd-boot\"\ndisk-size = \"2 GiB\"");
    let manifest = world.resolve(&text).expect("resolves").manifest;
    let esp = stages(&manifest, "esp");
    assert_snapshot!(copied(&manifest, &esp[1]), @r#"
    /EFI/BOOT/BOOTX64.EFI <- tree/usr/lib/systemd/boot/efi/systemd-bootx64.efi
    /EFI/systemd/systemd-bootx64.efi <- tree/usr/lib/systemd/boot/efi/systemd-bootx64.efi
    /debian/6.1.0-10-arch/linux <- tree/boot/vmlinuz-6.1.0-10-arch
    /debian/6.1.0-10-arch/initrd.img-6.1.0-10-arch <- tree/boot/initrd.img-6.1.0-10-arch
    /debian/6.1.0-9-arch/linux <- tree/boot/vmlinuz-6.1.0-9-arch
    /debian/6.1.0-9-arch/initrd.img-6.1.0-9-arch <- tree/boot/initrd.img-6.1.0-9-arch
    /loader/loader.conf <- "timeout 1\nconsole-mode keep\ndefault debian-*\n"
    /loader/entries.srel <- "type1\n"
    /loader/entries/debian-6.1.0-10-arch.conf <- "title      Debian GNU/Linux 12 (bookworm)\nversion    6.1.0-10-arch\nsort-key   debian\noptions    root=UUID=133b4b67-574d-8990-b8ef-43455d0d7d54 ro console=tty0 console=ttyS0,115200n8 quiet\nlinux      /debian/6.1.0-10-arch/linux\ninitrd     /debian/6.1.0-10-arch/initrd.img-6.1.0-10-arch\n"
    /loader/entries/debian-6.1.0-9-arch.conf <- "title      Debian GNU/Linux 12 (bookworm)\nversion    6.1.0-9-arch\nsort-key   debian\noptions    root=UUID=133b4b67-574d-8990-b8ef-43455d0d7d54 ro console=tty0 console=ttyS0,115200n8 quiet\nlinux      /debian/6.1.0-9-arch/linux\ninitrd     /debian/6.1.0-9-arch/initrd.img-6.1.0-9-arch\n"
    "#);
    let directories = esp[0]["options"]["paths"].as_array().expect("paths").iter();
    let directories: Vec<_> = directories.map(|path| path["path"].as_str().expect("a path")).collect();
    let expected =
        ["/EFI/BOOT", "/EFI/systemd", "/loader/entries", "/debian/6.1.0-10-arch", "/debian/6.1.0-9-arch"];
    assert_eq!(directories, expected);
    assert_eq!(esp_size(&manifest), 512);
    // The running system goes on with these.
    let tree = stages(&manifest, "tree");
    let files =
        copied(&manifest, tree.iter().rfind(|stage| stage["type"] == "org.osbuild.copy").expect("files"));
    assert_eq!(files, "/etc/kernel/entry-token <- \"debian\\n\"\n");
    let packages = installed(&manifest, 1);
    assert!(packages.contains(&"systemd-boot".to_owned()), "{packages:?}");
    let text = manifest["pipelines"].to_string();
    assert!(!text.contains("grub"), "{text}");

    // From Debian 13 on.
    let mut packages = standard();
    packages.retain(|text| !text.starts_with("Package: systemd-boot\n"));
    packages.push(package("systemd-boot-efi-amd64-signed", "257"));
    packages.push(format!("{}Depends: systemd-boot-efi-amd64-signed\n", package("systemd-boot", "257")));
    let text = definition("bootloader = \"systemd-boot\"");
    let manifest = World::new(&packages).resolve(&text).expect("resolves").manifest;
    let copied = copied(&manifest, &stages(&manifest, "esp")[1]);
    assert_eq!(
        copied.matches("<- tree/usr/lib/systemd/boot/efi/systemd-bootx64.efi.signed\n").count(),
        2,
        "{copied}"
    );
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_unified_kernel_image_is_what_the_firmware_starts() {
    let world = World::new(&standard());
    let text = definition("outputs = [\"raw\"]\nbootloader = \"uki\"\nboot = \"uefi\"");
    let manifest = world.resolve(&text).expect("resolves").manifest;
    let esp = stages(&manifest, "esp");
    let file = |path: &str| {
        json!({
            "type": "org.osbuild.files", "origin": "org.osbuild.pipeline",
            "references": {"name:tree": {"file": path}},
        })
    };
    let inputs = json!({
        "kernel": file("boot/vmlinuz-6.1.0-10-arch"),
        "initrd": file("boot/initrd.img-6.1.0-10-arch"),
        "osrel": file("usr/lib/os-release"),
    });
    assert_eq!(esp[1]["inputs"], inputs);
    assert_eq!(esp[1]["options"]["filename"], "/EFI/BOOT/BOOTX64.EFI");
    let words = esp[1]["options"]["kernel"]["opts"].as_array().expect("words");
    assert!(words[0].as_str().expect("text").starts_with("root=UUID="), "{words:?}");
    assert_eq!(words[1..], ["ro", "console=tty0", "console=ttyS0,115200n8", "quiet"]);
    assert_eq!(esp_size(&manifest), 512);
    let packages = installed(&manifest, 0);
    for package in ["binutils", "systemd-boot-efi", "mtools", "dosfstools"] {
        assert!(packages.contains(&package.to_owned()), "{package}: {packages:?}");
    }
    assert!(!manifest["pipelines"].to_string().contains("grub"));
}

/// GRUB could not read the encrypted partition; what starts the kernel from the EFI system partition needs not.
#[cfg(target_arch = "x86_64")]
#[test]
fn an_encrypted_disk_has_its_kernels_in_one_place() {
    let world = World::new(&standard());
    for (bootloader, expected) in [
        ("grub", &["esp", "kernels", "root"][..]),
        ("systemd-boot", &["esp", "root"]),
        ("uki", &["esp", "root"]),
    ] {
        let settings = format!(
            "outputs = [\"raw\"]\nboot = \"uefi\"\nbootloader = \"{bootloader}\"\nencryption = {{ passphrase = \"secret\" }}"
        );
        let manifest = world.resolve(&definition(&settings)).expect(bootloader).manifest;
        let table = find(stages(&manifest, "image"), "osbuild.sfdisk").expect("a table");
        let partitions = table["options"]["partitions"].as_array().expect("partitions").iter();
        let names: Vec<_> = partitions.map(|partition| partition["name"].as_str().expect("a name")).collect();
        assert_eq!(names, expected, "{bootloader}");
    }
    let text = definition("outputs = [\"iso\"]\nencryption = { passphrase = \"secret\" }");
    let findings = Definition::parse(&text, Path::new("image.toml"), Format::Toml).expect_err("refused");
    assert!(findings[0].to_string().starts_with("what is on a disc is not encrypted\n"), "{}", findings[0]);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_disc_starts_a_live_system_with_either_firmware() {
    let world = World::new(&standard());
    let disc = |settings: &str| {
        world.resolve(&definition(&format!("outputs = [\"iso\"]\n{settings}"))).expect("resolves").manifest
    };
    let manifest = disc("");
    let files = stages(&manifest, "disc");
    assert_snapshot!(copied(&manifest, &files[2]), @r#"
    /live/vmlinuz <- tree/boot/vmlinuz-6.1.0-10-arch
    /live/initrd.img <- tree/boot/initrd.img-6.1.0-10-arch
    /.disk/id/2bba85da-533e-8d13-bf94-2b7f27147d5f <- "2bba85da-533e-8d13-bf94-2b7f27147d5f\n"
    /isolinux/ <- build/usr/lib/ISOLINUX/isolinux.bin
    /isolinux/ <- build/usr/lib/syslinux/modules/bios/ldlinux.c32
    /isolinux/isolinux.cfg <- "serial 0 115200\ndefault live\ntimeout 10\nlabel live\n  kernel /live/vmlinuz\n  initrd /live/initrd.img\n  append boot=live console=tty0 console=ttyS0,115200n8 quiet\n"
    / <- esp/EFI
    "#);
    assert_snapshot!(copied(&manifest, &stages(&manifest, "esp")[1]), @r#"
    /EFI/BOOT/BOOTX64.EFI <- build/usr/lib/grub/x86_64-efi/monolithic/grubx64.efi
    /EFI/debian/grub.cfg <- "search --no-floppy --set=root --file /.disk/id/2bba85da-533e-8d13-bf94-2b7f27147d5f\nset timeout=1\nmenuentry \"My image\" {\n  linux /live/vmlinuz boot=live console=tty0 console=ttyS0,115200n8 quiet\n  initrd /live/initrd.img\n}\n"
    "#);
    let disc_options = json!({
        "filename": "My-image.iso", "volid": "MY-IMAGE", "isolevel": 3,
        "boot": {"image": "isolinux/isolinux.bin", "catalog": "isolinux/boot.cat"},
        "isohybridmbr": "/usr/lib/ISOLINUX/isohdpfx.bin", "efi": "boot/grub/efi.img",
    });
    assert_eq!(stages(&manifest, "iso")[0]["options"], disc_options);
    let kinds: Vec<_> = files.iter().map(|stage| stage["type"].as_str().expect("a type")).collect();
    let expected = ["osbuild.mkdir", "osbuild.squashfs", "osbuild.copy", "osbuild.truncate", "kiln.fat"]
        .map(|kind| format!("org.{kind}"));
    assert_eq!(kinds, expected);
    // What is mounted is for live-boot to say.
    assert!(find(stages(&manifest, "tree"), "osbuild.fstab").is_none());
    assert!(find(stages(&manifest, "tree"), "osbuild.machine-id").is_some());
    let packages = installed(&manifest, 1);
    assert!(
        packages.contains(&"live-boot".to_owned()) && !packages.contains(&"e2fsprogs".to_owned()),
        "{packages:?}"
    );

    for (boot, bios, uefi) in [("bios", true, false), ("uefi", false, true)] {
        let manifest = disc(&format!("boot = \"{boot}\""));
        let text = manifest.to_string();
        assert_eq!((text.contains("isolinux"), text.contains("efi.img")), (bios, uefi), "{boot}");
        let packages = installed(&manifest, 0);
        let there = |name: &str| packages.contains(&name.to_owned());
        assert_eq!((there("isolinux"), there("grub-efi-amd64-bin")), (bios, uefi), "{boot}");
    }
}

#[test]
fn a_kernel_without_a_version_is_refused() {
    let world = World::new(&standard());
    for setting in ["outputs = [\"iso\"]", "bootloader = \"systemd-boot\"", "bootloader = \"uki\""] {
        let text = format!(
            "name = \"x\"\ndistro = \"debian-12\"\n[customizations.kernel]\nname = \"hello\"\n[kiln]\n{setting}\n"
        );
        let error = world.resolve(&text).expect_err("refused");
        assert!(matches!(error, ResolveError::NoKernel), "{setting}: {error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("`customizations.kernel`")));
    }
}
