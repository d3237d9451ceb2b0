//! The manifest that comes out: all of it, the same each time, and nothing secret in it.

use insta::assert_snapshot;
use kiln_resolve::Output;
use serde_json::Value;

use crate::world::{HELLO, World, installed, stages, standard, tar};

#[test]
fn an_archive_becomes_three_pipelines_and_locked_sources() {
    let world = World::new(&standard());
    let resolution = world.resolve(&tar(HELLO)).expect("resolves");
    let text = serde_json::to_string_pretty(&resolution.manifest).expect("text");
    assert_snapshot!(text.replace(&world.repository_url(), "file:///REPOSITORY/"), @r#"
    {
      "version": "2",
      "pipelines": [
        {
          "name": "build",
          "runner": "org.osbuild.debian12",
          "source-epoch": 1736593812,
          "stages": [
            {
              "type": "org.kiln.deb",
              "inputs": {
                "packages": {
                  "type": "org.osbuild.files",
                  "origin": "org.osbuild.source",
                  "references": [
                    "sha256:1940bb7c9cae015647185de6ec9fbceec922a50f2e9b9a5a77a839938af06c79",
                    "sha256:1e912e1c0219bd014f457801bdae7b1c7b817890fe9c6ed4af2f4a5b7554a74a",
                    "sha256:2d7918153776c8b5311deab4432080a5c521cd21cdf23550f27fe33298c29965",
                    "sha256:93cb30d1a85af147c17b68695a51ed701951921f639015582202b774fd304077",
                    "sha256:ff97f3cfd881d3321bbcb46ff1e562f633d4289676e4ebb02b11cae178cea2f9"
                  ]
                }
              }
            }
          ]
        },
        {
          "name": "tree",
          "build": "name:build",
          "source-epoch": 1736593812,
          "stages": [
            {
              "type": "org.kiln.deb",
              "inputs": {
                "packages": {
                  "type": "org.osbuild.files",
                  "origin": "org.osbuild.source",
                  "references": [
                    "sha256:1940bb7c9cae015647185de6ec9fbceec922a50f2e9b9a5a77a839938af06c79",
                    "sha256:7e5f80b4bea4515b0dff492f87eb9ddceeb190c16fbd027fe3248a594d8d89a6",
                    "sha256:98dd1a6206d9bf6a2c3ad5cd327bc5f14df067206f356c85871a74841b1403a9",
                    "sha256:ff97f3cfd881d3321bbcb46ff1e562f633d4289676e4ebb02b11cae178cea2f9"
                  ]
                }
              }
            }
          ]
        },
        {
          "name": "tar",
          "build": "name:build",
          "source-epoch": 1736593812,
          "stages": [
            {
              "type": "org.osbuild.tar",
              "inputs": {
                "tree": {
                  "type": "org.osbuild.tree",
                  "origin": "org.osbuild.pipeline",
                  "references": [
                    "name:tree"
                  ]
                }
              },
              "options": {
                "filename": "x.tar",
                "numeric-owner": true
              }
            }
          ]
        }
      ],
      "sources": {
        "org.osbuild.curl": {
          "items": {
            "sha256:1940bb7c9cae015647185de6ec9fbceec922a50f2e9b9a5a77a839938af06c79": {
              "url": "file:///REPOSITORY/pool/base_12_amd64.deb",
              "size": 1004
            },
            "sha256:1e912e1c0219bd014f457801bdae7b1c7b817890fe9c6ed4af2f4a5b7554a74a": {
              "url": "file:///REPOSITORY/pool/systemd_252_amd64.deb",
              "size": 1007
            },
            "sha256:2d7918153776c8b5311deab4432080a5c521cd21cdf23550f27fe33298c29965": {
              "url": "file:///REPOSITORY/pool/libinit_1_amd64.deb",
              "size": 1007
            },
            "sha256:7e5f80b4bea4515b0dff492f87eb9ddceeb190c16fbd027fe3248a594d8d89a6": {
              "url": "file:///REPOSITORY/pool/hello_2.10_amd64.deb",
              "size": 1005
            },
            "sha256:93cb30d1a85af147c17b68695a51ed701951921f639015582202b774fd304077": {
              "url": "file:///REPOSITORY/pool/passwd_1_amd64.deb",
              "size": 1006
            },
            "sha256:98dd1a6206d9bf6a2c3ad5cd327bc5f14df067206f356c85871a74841b1403a9": {
              "url": "file:///REPOSITORY/pool/libhello_1_amd64.deb",
              "size": 1008
            },
            "sha256:ff97f3cfd881d3321bbcb46ff1e562f633d4289676e4ebb02b11cae178cea2f9": {
              "url": "file:///REPOSITORY/pool/apt_1_amd64.deb",
              "size": 1003
            }
          }
        }
      }
    }
    "#);
    let exports: Vec<_> =
        resolution.exports.iter().map(|export| (export.output, &*export.pipeline, &*export.file)).collect();
    assert_eq!(exports, [(Output::Tar, "tar", "x.tar")]);
    assert_eq!(resolution.summary.distro, "debian-12");
    assert_eq!(resolution.summary.image_packages, 4);
}

#[test]
fn a_disk_has_everything_that_boots() {
    let world = World::new(&standard());
    let definition = r#"
name = "My disk"
distro = "debian-12"
[customizations]
hostname = "host.example.invalid"
[customizations.kernel]
append = "quiet"
[customizations.timezone]
timezone = "Etc/UTC"
[[customizations.group]]
name = "staff2"
gid = 900
[[customizations.user]]
name = "ann"
password = "$6$salt$hash"
key = "ssh-ed25519 A"
[[customizations.sshkey]]
user = "ann"
key = "ssh-ed25519 B"
[[customizations.sshkey]]
user = "root"
key = "ssh-ed25519 C"
[[customizations.directories]]
path = "/srv/a"
mode = "2775"
group = 900
ensure_parents = true
[[customizations.files]]
path = "/etc/hosts"
mode = "0600"
user = "ann"
data = "mine"
[customizations.services]
enabled = ["a.service"]
masked = ["b.service"]
[kiln]
outputs = ["raw", "qcow2"]
root-filesystem = "xfs"
disk-size = "1 GiB"
source-epoch = 5
"#;
    let resolution = world.resolve(definition).expect("resolves");
    let mut pipelines = resolution.manifest["pipelines"].clone();
    for pipeline in pipelines.as_array_mut().expect("pipelines") {
        for stage in pipeline["stages"].as_array_mut().expect("stages") {
            if stage["type"] == "org.kiln.deb" {
                stage["inputs"] = Value::from("packages");
            }
        }
    }
    assert_snapshot!(serde_json::to_string_pretty(&pipelines).expect("text"), @r#"
    [
      {
        "name": "build",
        "runner": "org.osbuild.debian12",
        "source-epoch": 5,
        "stages": [
          {
            "type": "org.kiln.deb",
            "inputs": "packages"
          }
        ]
      },
      {
        "name": "tree",
        "build": "name:build",
        "source-epoch": 5,
        "stages": [
          {
            "type": "org.osbuild.mkdir",
            "options": {
              "paths": [
                {
                  "path": "/etc",
                  "mode": 493,
                  "parents": true,
                  "exist_ok": true
                },
                {
                  "path": "/etc/initramfs-tools/conf.d",
                  "mode": 493,
                  "parents": true,
                  "exist_ok": true
                }
              ]
            }
          },
          {
            "type": "org.osbuild.copy",
            "inputs": {
              "files": {
                "type": "org.osbuild.files",
                "origin": "org.osbuild.source",
                "references": [
                  "sha256:6a5c5261c1b4bfbc99d8be7615fd2ae6d1355eaca2ca8887aaf28ca46b8d5dd3"
                ]
              }
            },
            "options": {
              "paths": [
                {
                  "from": "input://files/sha256:6a5c5261c1b4bfbc99d8be7615fd2ae6d1355eaca2ca8887aaf28ca46b8d5dd3",
                  "to": "tree:///etc/initramfs-tools/conf.d/resume",
                  "remove_destination": true
                }
              ]
            }
          },
          {
            "type": "org.osbuild.chmod",
            "options": {
              "items": {
                "/etc/initramfs-tools/conf.d/resume": {
                  "mode": "0644"
                }
              }
            }
          },
          {
            "type": "org.osbuild.fstab",
            "options": {
              "filesystems": [
                {
                  "uuid": "6214ba45-afcf-8399-bc89-f783a19e755c",
                  "path": "/",
                  "vfs_type": "xfs",
                  "options": "defaults",
                  "passno": 0
                }
              ]
            }
          },
          {
            "type": "org.kiln.deb",
            "inputs": "packages"
          },
          {
            "type": "org.osbuild.hostname",
            "options": {
              "hostname": "host.example.invalid"
            }
          },
          {
            "type": "org.osbuild.timezone",
            "options": {
              "zone": "Etc/UTC"
            }
          },
          {
            "type": "org.osbuild.groups",
            "options": {
              "groups": {
                "staff2": {
                  "gid": 900
                }
              }
            }
          },
          {
            "type": "org.osbuild.users",
            "options": {
              "users": {
                "root": {
                  "key": "ssh-ed25519 C"
                },
                "ann": {
                  "home": "/home/ann",
                  "shell": "/bin/bash",
                  "password": "$6$salt$hash",
                  "keys": [
                    "ssh-ed25519 B",
                    "ssh-ed25519 A"
                  ]
                }
              }
            }
          },
          {
            "type": "org.osbuild.mkdir",
            "options": {
              "paths": [
                {
                  "path": "/boot/grub",
                  "parents": true,
                  "exist_ok": true
                }
              ]
            }
          },
          {
            "type": "org.osbuild.copy",
            "inputs": {
              "build": {
                "type": "org.osbuild.tree",
                "origin": "org.osbuild.pipeline",
                "references": [
                  "name:build"
                ]
              }
            },
            "options": {
              "paths": [
                {
                  "from": "input://build/usr/lib/grub/i386-pc",
                  "to": "tree:///boot/grub/"
                }
              ]
            }
          },
          {
            "type": "org.osbuild.mkdir",
            "options": {
              "paths": [
                {
                  "path": "/srv/a",
                  "parents": true,
                  "exist_ok": true
                },
                {
                  "path": "/boot/grub",
                  "parents": true,
                  "exist_ok": true
                },
                {
                  "path": "/etc",
                  "parents": true,
                  "exist_ok": true
                }
              ]
            }
          },
          {
            "type": "org.osbuild.copy",
            "inputs": {
              "files": {
                "type": "org.osbuild.files",
                "origin": "org.osbuild.source",
                "references": [
                  "sha256:3fd30542fe3f61b14bd4a4b2dc0b6fb30fa6f63ebce52dd1778aaa8c4dc02cff",
                  "sha256:5fb84f93ff7e37887b9abc4d349154a24b8c258a59cf26edcfa50476f1e55713"
                ]
              }
            },
            "options": {
              "paths": [
                {
                  "from": "input://files/sha256:3fd30542fe3f61b14bd4a4b2dc0b6fb30fa6f63ebce52dd1778aaa8c4dc02cff",
                  "to": "tree:///etc/hosts",
                  "remove_destination": true
                },
                {
                  "from": "input://files/sha256:5fb84f93ff7e37887b9abc4d349154a24b8c258a59cf26edcfa50476f1e55713",
                  "to": "tree:///boot/grub/grub.cfg",
                  "remove_destination": true
                }
              ]
            }
          },
          {
            "type": "org.osbuild.chown",
            "options": {
              "items": {
                "/srv/a": {
                  "group": 900
                },
                "/etc/hosts": {
                  "user": "ann"
                }
              }
            }
          },
          {
            "type": "org.osbuild.chmod",
            "options": {
              "items": {
                "/srv/a": {
                  "mode": "2775"
                },
                "/etc/hosts": {
                  "mode": "0600"
                },
                "/boot/grub/grub.cfg": {
                  "mode": "0644"
                }
              }
            }
          },
          {
            "type": "org.osbuild.kernel-cmdline",
            "options": {
              "kernel_opts": "root=UUID=6214ba45-afcf-8399-bc89-f783a19e755c ro console=tty0 console=ttyS0,115200n8 quiet"
            }
          },
          {
            "type": "org.osbuild.machine-id",
            "options": {
              "first-boot": "no"
            }
          },
          {
            "type": "org.osbuild.systemd",
            "options": {
              "enabled_services": [
                "a.service"
              ],
              "masked_services": [
                "b.service"
              ]
            }
          }
        ]
      },
      {
        "name": "image",
        "build": "name:build",
        "source-epoch": 5,
        "stages": [
          {
            "type": "org.osbuild.truncate",
            "options": {
              "filename": "My-disk.raw",
              "size": "1073741824"
            }
          },
          {
            "type": "org.osbuild.sfdisk",
            "options": {
              "label": "gpt",
              "uuid": "2f936ce7-9e73-8821-a07b-df6fdd4bcc6f",
              "partitions": [
                {
                  "start": 2048,
                  "size": 2048,
                  "type": "21686148-6449-6e6f-744e-656564454649",
                  "uuid": "eda694f7-6eb7-8a03-8bc3-c9cb878d7064",
                  "name": "boot"
                },
                {
                  "start": 4096,
                  "size": 2091008,
                  "type": "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
                  "uuid": "eb3786c9-ebcc-8108-b979-6e52ca411aa8",
                  "name": "root"
                }
              ]
            },
            "devices": {
              "device": {
                "type": "org.osbuild.loopback",
                "options": {
                  "filename": "My-disk.raw",
                  "lock": true
                }
              }
            }
          },
          {
            "type": "org.osbuild.mkfs.xfs",
            "options": {
              "uuid": "6214ba45-afcf-8399-bc89-f783a19e755c"
            },
            "devices": {
              "device": {
                "type": "org.osbuild.loopback",
                "options": {
                  "filename": "My-disk.raw",
                  "start": 4096,
                  "size": 2091008,
                  "lock": true
                }
              }
            }
          },
          {
            "type": "org.osbuild.copy",
            "inputs": {
              "tree": {
                "type": "org.osbuild.tree",
                "origin": "org.osbuild.pipeline",
                "references": [
                  "name:tree"
                ]
              }
            },
            "options": {
              "paths": [
                {
                  "from": "input://tree/",
                  "to": "mount://root/"
                }
              ]
            },
            "devices": {
              "device": {
                "type": "org.osbuild.loopback",
                "options": {
                  "filename": "My-disk.raw",
                  "start": 4096,
                  "size": 2091008
                }
              }
            },
            "mounts": [
              {
                "name": "root",
                "type": "org.osbuild.xfs",
                "source": "device",
                "target": "/"
              }
            ]
          },
          {
            "type": "org.osbuild.grub2.inst",
            "options": {
              "filename": "My-disk.raw",
              "platform": "i386-pc",
              "location": 2048,
              "core": {
                "type": "mkimage",
                "partlabel": "gpt",
                "filesystem": "xfs",
                "binary": "grub-mkimage"
              },
              "prefix": {
                "type": "partition",
                "partlabel": "gpt",
                "number": 1,
                "path": "/boot/grub"
              }
            }
          }
        ]
      },
      {
        "name": "qcow2",
        "build": "name:build",
        "source-epoch": 5,
        "stages": [
          {
            "type": "org.osbuild.qemu",
            "inputs": {
              "image": {
                "type": "org.osbuild.files",
                "origin": "org.osbuild.pipeline",
                "references": {
                  "name:image": {
                    "file": "My-disk.raw"
                  }
                }
              }
            },
            "options": {
              "filename": "My-disk.qcow2",
              "format": {
                "type": "qcow2"
              }
            }
          }
        ]
      }
    ]
    "#);
    let image = "apt base dbus initramfs-tools libinit linux-image-cloud-amd64 passwd systemd systemd-sysv tzdata udev \
                 xfsprogs";
    let image: Vec<_> = image.split_whitespace().collect();
    assert_eq!(installed(&resolution.manifest, 1), image);
    let build = "apt base fdisk grub-common grub-pc-bin libinit passwd qemu-utils systemd tzdata xfsprogs";
    assert_eq!(installed(&resolution.manifest, 0), build.split(' ').collect::<Vec<_>>());
}

#[test]
fn the_same_lists_give_the_same_bytes() {
    let world = World::new(&standard());
    let definition = tar(HELLO);
    let first = world.resolve(&definition).expect("resolves").manifest.to_string();
    assert_eq!(world.resolve(&definition).expect("resolves").manifest.to_string(), first);
    let elsewhere = world.with_new_state();
    assert_eq!(elsewhere.resolve(&definition).expect("resolves").manifest.to_string(), first);
}

#[test]
fn a_plain_password_is_hashed_the_same_way_each_time() {
    let world = World::new(&standard());
    let user = "[[customizations.user]]\nname = \"ann\"\npassword = \"open sesame\"";
    let manifest = world.resolve(&tar(user)).expect("resolves").manifest;
    let text = manifest.to_string();
    assert!(!text.contains("open sesame"));
    assert!(text.contains("\"password\":\"$6$rounds=5000$"), "{text}");
    assert_eq!(world.resolve(&tar(user)).expect("resolves").manifest.to_string(), text);
}

#[test]
fn disks_are_converted_for_virtual_machines() {
    let world = World::new(&standard());
    let definition =
        "name = \"x\"\ndistro = \"debian-12\"\n[kiln]\noutputs = [\"vhdx\", \"vmdk\", \"qcow2\", \"raw\"]\n";
    let resolution = world.resolve(definition).expect("resolves");
    let exports: Vec<_> =
        resolution.exports.iter().map(|export| (&*export.pipeline, &*export.file)).collect();
    let expected = [("image", "x.raw"), ("qcow2", "x.qcow2"), ("vmdk", "x.vmdk"), ("vhdx", "x.vhdx")];
    assert_eq!(exports, expected);
    for (pipeline, format) in [
        ("qcow2", serde_json::json!({"type": "qcow2"})),
        ("vmdk", serde_json::json!({"type": "vmdk", "subformat": "streamOptimized"})),
        ("vhdx", serde_json::json!({"type": "vhdx"})),
    ] {
        assert_eq!(stages(&resolution.manifest, pipeline)[0]["options"]["format"], format);
    }
}
