//! Resolution against small package repositories made on the spot, and of the examples with the host's.

mod world;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use insta::assert_snapshot;
use kiln_resolve::{Definition, Format, Output, Refresh, ResolveError};
use serde_json::Value;

use world::{World, package, standard};

/// A definition of an archive with some more lines before its settings.
fn tar(more: &str) -> String {
    format!("name = \"x\"\ndistro = \"debian-12\"\n{more}\n[kiln]\noutputs = [\"tar\"]\n")
}

const HELLO: &str = "[[packages]]\nname = \"hello\"";

/// An error as the program shows it, three parts.
fn shown(error: &ResolveError) -> String {
    match error.finding() {
        Some(finding) => finding.to_string(),
        None => format!("{error}\nhint: {}", error.hint().unwrap_or_default()),
    }
}

/// The names of the packages that a pipeline installs.
fn installed(manifest: &Value, pipeline: usize) -> Vec<String> {
    let references = &manifest["pipelines"][pipeline]["stages"][0]["inputs"]["packages"]["references"];
    let items = &manifest["sources"]["org.osbuild.curl"]["items"];
    let name = |reference: &Value| {
        let url = items[reference.as_str().expect("a checksum")]["url"].as_str().expect("a URL").to_owned();
        let file = url.rsplit('/').next().expect("a file").to_owned();
        file.split('_').next().expect("a name").to_owned()
    };
    let mut names: Vec<_> = references.as_array().expect("references").iter().map(name).collect();
    names.sort();
    names
}

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
            "type": "org.osbuild.kernel-cmdline",
            "options": {
              "root_fs_uuid": "6214ba45-afcf-8399-bc89-f783a19e755c",
              "kernel_opts": "ro console=tty0 console=ttyS0,115200n8 quiet"
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
    let image = "apt base initramfs-tools libinit linux-image-cloud-amd64 passwd systemd systemd-sysv tzdata udev \
                 xfsprogs";
    let image: Vec<_> = image.split_whitespace().collect();
    assert_eq!(installed(&resolution.manifest, 1), image);
    let build = "apt base fdisk grub-common grub-pc-bin libinit passwd qemu-utils systemd xfsprogs";
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
fn the_epoch_is_the_date_of_the_newest_release_in_use() {
    let mut world = World::new(&standard());
    world.add_release("bookworm-updates", "Sun, 12 Jan 2025 00:00:00 UTC", &[]);
    let resolution = world.resolve(&tar(HELLO)).expect("resolves");
    assert_eq!(resolution.summary.source_epoch, 1_736_593_812, "no package is of the newer release");
    world.add_release("bookworm-updates", "Sun, 12 Jan 2025 00:00:00 UTC", &[package("hello", "3")]);
    world.refresh = Refresh::Always;
    let resolution = world.resolve(&tar(HELLO)).expect("resolves");
    assert_eq!(resolution.summary.source_epoch, 1_736_640_000);
    assert!(resolution.manifest.to_string().contains("hello_3_"), "the newer one is taken");
}

#[test]
fn recommended_packages_are_asked_for() {
    let world = World::new(&standard());
    let plain = world.resolve(&tar(HELLO)).expect("resolves");
    assert_eq!(installed(&plain.manifest, 1), ["apt", "base", "hello", "libhello"]);
    let more = world.resolve(&format!("{}recommends = true\n", tar(HELLO))).expect("resolves");
    assert_eq!(installed(&more.manifest, 1), ["apt", "base", "hello", "hello-doc", "libhello"]);
}

#[test]
fn a_version_can_be_asked_for() {
    let mut packages = standard();
    packages.push(package("hello", "1.0"));
    let world = World::new(&packages);
    let text = tar(&format!("{HELLO}\nversion = \"1.*\""));
    let resolution = world.resolve(&text).expect("resolves");
    assert!(resolution.manifest.to_string().contains("hello_1.0_"), "{}", resolution.manifest);
    let error = world.resolve(&tar(&format!("{HELLO}\nversion = \"9\""))).expect_err("no such version");
    assert_snapshot!(shown(&error), @r#"
    the packages cannot be installed together: Version '9' for 'hello' was not found
     --> image.toml:4:8
    4 | name = "hello"
      |        ^^^^^^^
    hint: leave one of them out, ask for another version, or add the source that has what is missing
    "#);
}

#[test]
fn names_with_marks_that_urls_quote_are_found() {
    let mut packages = standard();
    packages.push(package("libfoo++", "1:2.0~rc1+b1"));
    let world = World::new(&packages);
    let resolution = world.resolve(&tar("[[packages]]\nname = \"libfoo++\"")).expect("resolves");
    let text = resolution.manifest.to_string();
    assert!(text.contains("/libfoo++_2.0~rc1+b1_"), "the path is not quoted: the source quotes it: {text}");
}

#[test]
fn a_package_that_does_not_exist_gets_suggestions() {
    let world = World::new(&standard());
    let error = world.resolve(&tar("[[packages]]\nname = \"hallo\"")).expect_err("no such package");
    assert_snapshot!(shown(&error), @r#"
    the package lists have no package `hallo`
     --> image.toml:4:8
    4 | name = "hallo"
      |        ^^^^^^^
    hint: did you mean `hello`?
    "#);
    let error =
        world.resolve(&tar("[customizations.kernel]\nname = \"linux-zen\"")).expect_err("no such kernel");
    assert_snapshot!(shown(&error), @r#"
    the package lists have no package `linux-zen`
     --> image.toml:4:8
    4 | name = "linux-zen"
      |        ^^^^^^^^^^^
    hint: check the name, and that the package's section is among the sources
    "#);
}

#[test]
fn an_unmet_dependency_is_shown_at_its_package() {
    let mut packages = standard();
    packages.push(format!("{}Depends: nowhere (>= 2)\n", package("broken", "1")));
    let world = World::new(&packages);
    let error = world.resolve(&tar("[[packages]]\nname = \"broken\"")).expect_err("unmet");
    assert_snapshot!(shown(&error), @r#"
    the packages cannot be installed together: broken : Depends: nowhere (>= 2) but it is not installable
     --> image.toml:4:8
    4 | name = "broken"
      |        ^^^^^^^^
    hint: leave one of them out, ask for another version, or add the source that has what is missing
    "#);
}

#[test]
fn packages_that_conflict_are_shown() {
    let mut packages = standard();
    packages.push(format!("{}Conflicts: hello\n", package("goodbye", "1")));
    let world = World::new(&packages);
    let text = tar(&format!("{HELLO}\n[[packages]]\nname = \"goodbye\""));
    let error = world.resolve(&text).expect_err("conflict");
    assert_snapshot!(shown(&error), @r#"
    the packages cannot be installed together: goodbye : Conflicts: hello but 2.10 is to be installed
     --> image.toml:4:8
    4 | name = "hello"
      |        ^^^^^^^
    hint: leave one of them out, ask for another version, or add the source that has what is missing
    "#);
}

#[test]
fn a_set_that_every_image_needs_can_be_missing_too() {
    let without: Vec<_> = standard().into_iter().filter(|text| !text.contains("Package: passwd\n")).collect();
    let world = World::new(&without);
    let error = world.resolve(&tar(HELLO)).expect_err("no passwd");
    assert_snapshot!(shown(&error), @r#"
    the packages of the build root cannot be installed: Unable to locate package passwd
    hint: check that all suites of the release are configured as sources
    "#);
}

#[test]
fn without_apt_there_is_one_clear_error() {
    let mut world = World::new(&standard());
    world.environment.insert("PATH".into(), "/nonexistent".into());
    let error = world.resolve(&tar(HELLO)).expect_err("no apt");
    assert_snapshot!(shown(&error), @r#"
    packages cannot be resolved: there is no `apt-get` in PATH
    hint: resolve on a Debian host, or build a manifest that was resolved on one
    "#);
}

#[test]
fn without_sources_there_is_one_clear_error() {
    let world = World::new(&standard());
    world.write_sources("");
    let error = world.resolve(&tar(HELLO)).expect_err("no sources");
    assert_snapshot!(world.cleaned(&shown(&error)), @r#"
    packages cannot be resolved: no package source is configured in /WORLD/etc
    hint: add a file to sources.list.d there, or name sources in `repositories` of the table `[kiln]`
    "#);
}

#[test]
fn sources_without_lists_are_one_clear_error() {
    let world = World::new(&standard());
    world.write_sources("deb [trusted=yes] file:///nonexistent bookworm main\n");
    let error = world.resolve(&tar(HELLO)).expect_err("no lists");
    assert_snapshot!(world.cleaned(&shown(&error)), @r#"
    packages cannot be resolved: no package list could be fetched from /WORLD/etc
    hint: see the warnings above; check the network and the sources' addresses
    "#);
    assert!(!world.warnings().is_empty(), "the reason is told");
}

#[test]
fn a_broken_source_is_a_warning_if_the_packages_are_found() {
    let world = World::new(&standard());
    world.add_source("deb [trusted=yes] file:///nonexistent bookworm main\n");
    let resolution = world.resolve(&tar(HELLO)).expect("resolves");
    assert_eq!(resolution.summary.image_packages, 4);
    assert!(world.warnings().iter().any(|text| text.contains("/nonexistent")), "{:?}", world.warnings());
}

#[test]
fn the_distribution_must_be_among_the_sources() {
    let world = World::new(&standard());
    let text = tar(HELLO).replace("debian-12", "debian-13");
    assert_snapshot!(shown(&world.resolve(&text).expect_err("bookworm only")), @r#"
    no package source has the suite `trixie` of debian-13: there are `bookworm`
     --> image.toml:2:10
    2 | distro = "debian-13"
      |          ^^^^^^^^^^^
    hint: use `debian-12`, or configure sources of the suite
    "#);
}

#[test]
fn without_a_distribution_the_sources_decide_if_they_can() {
    let mut world = World::new(&standard());
    let text = tar(HELLO).replace("distro = \"debian-12\"\n", "");
    assert_eq!(world.resolve(&text).expect("resolves").summary.distro, "debian-12");
    world.add_release("trixie", "Sun, 12 Jan 2025 00:00:00 UTC", &[package("hello", "9")]);
    world.refresh = Refresh::Always;
    assert_snapshot!(shown(&world.resolve(&text).expect_err("two")), @r#"
    the definition names no distribution, and the package sources have `bookworm`, `trixie`
    hint: name one of Debian's releases, for example `distro = "debian-12"`
    "#);
}

#[test]
fn one_release_is_resolved_where_several_are_configured() {
    let mut world = World::new(&standard());
    world.add_release("trixie", "Sun, 12 Jan 2025 00:00:00 UTC", &[package("hello", "9")]);
    let text = world.resolve(&tar(HELLO)).expect("resolves").manifest.to_string();
    assert!(text.contains("hello_2.10_") && !text.contains("hello_9_"), "{text}");
}

#[test]
fn a_file_that_a_manifest_cannot_name_is_refused() {
    let world = World::new(&standard());
    world.write_sources(
        &world.source_line().replace("deb [trusted=yes] file://", "deb [trusted=yes] mirror+file://"),
    );
    let error = world.resolve(&tar(HELLO)).expect_err("no such way");
    assert!(matches!(error, ResolveError::NoLists { .. } | ResolveError::Transport { .. }), "{error}");
}

#[test]
fn a_file_without_checksum_is_refused() {
    let mut packages = standard();
    let text = package("weak", "1");
    let kept = text.lines().filter(|line| !line.starts_with("SHA256"));
    packages.push(kept.map(|line| format!("{line}\n")).collect());
    let world = World::new(&packages);
    let error = world.resolve(&tar("[[packages]]\nname = \"weak\"")).expect_err("no checksum");
    assert_snapshot!(shown(&error), @r#"
    the package lists have no SHA-256 and size of the package `weak`
    hint: refresh the package lists, or use another source
    "#);
}

#[test]
fn hooks_of_the_configuration_are_not_run_and_nothing_of_it_changes() {
    let world = World::new(&standard());
    let trace = world.directory().join("trace");
    let hooks = ["APT::Update::Pre-Invoke", "APT::Update::Post-Invoke", "APT::Update::Post-Invoke-Success"];
    let text: String =
        hooks.iter().map(|hook| format!("{hook} {{ \"touch {}\"; }};\n", trace.display())).collect();
    world.write_configuration("apt.conf.d/99hooks", &text);
    let before = world.configuration();
    world.resolve(&tar(HELLO)).expect("resolves");
    assert!(!trace.exists(), "a hook ran");
    assert_eq!(world.configuration(), before);
}

#[test]
fn pins_of_the_configuration_count() {
    let mut packages = standard();
    packages.push(package("hello", "1.0"));
    let world = World::new(&packages);
    world.write_configuration("preferences.d/old", "Package: hello\nPin: version 1.0\nPin-Priority: 1001\n");
    let text = world.resolve(&tar(HELLO)).expect("resolves").manifest.to_string();
    assert!(text.contains("hello_1.0_"), "{text}");
}

#[test]
fn sources_of_the_definition_stand_alone() {
    let world = World::new(&standard());
    let line = world.source_line();
    world.write_sources("");
    let text = format!("{}repositories = [\"{line}\"]\n", tar(HELLO));
    assert_eq!(world.resolve(&text).expect("resolves").summary.image_packages, 4);
}

#[test]
fn lists_are_refreshed_when_they_are_old_or_of_other_sources() {
    let mut world = World::new(&standard());
    // With `file:` apt reads the index where it is.
    world.write_sources(&world.source_line().replace("file:", "copy:"));
    let newest = |world: &World| {
        let text = world.resolve(&tar(HELLO)).expect("resolves").manifest.to_string();
        ["hello_4_", "hello_3_", "hello_2.10_"].into_iter().find(|name| text.contains(name))
    };
    world.refresh = Refresh::Never;
    assert_eq!(newest(&world), Some("hello_2.10_"), "missing lists are always fetched");
    let mut packages = standard();
    packages.push(package("hello", "3"));
    world.add_release("bookworm", world::DATE, &packages);
    assert_eq!(newest(&world), Some("hello_2.10_"));
    world.refresh = Refresh::OlderThan(Duration::from_secs(3600));
    assert_eq!(newest(&world), Some("hello_2.10_"));
    world.refresh = Refresh::OlderThan(Duration::ZERO);
    assert_eq!(newest(&world), Some("hello_3_"));
    packages.push(package("hello", "4"));
    world.add_release("bookworm", world::DATE, &packages);
    world.refresh = Refresh::Never;
    assert_eq!(newest(&world), Some("hello_3_"));
    world.add_source("\n# the sources are others now\n");
    assert_eq!(newest(&world), Some("hello_4_"));
}

#[test]
fn an_interrupt_ends_the_resolution() {
    let world = World::new(&standard());
    world.interrupted.store(true, Ordering::Relaxed);
    let error = world.resolve(&tar(HELLO)).expect_err("interrupted");
    assert!(matches!(error, ResolveError::Interrupted), "{error}");
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

fn examples() -> Vec<(String, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut examples: Vec<_> = std::fs::read_dir(&directory)
        .expect("the directory of the examples")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("a text");
            (path.file_name().expect("a name").to_string_lossy().into_owned(), text)
        })
        .collect();
    examples.sort();
    assert!(examples.len() >= 5, "{directory:?} has the examples");
    examples
}

#[test]
fn examples_are_definitions_without_a_finding() {
    for (name, text) in examples() {
        if let Err(findings) = Definition::parse(&text, Path::new(&name), Format::Toml) {
            panic!("{}", findings.first().expect("a finding"));
        }
    }
}

/// Needs the host's package sources, and Debian 12 among them: a failure says which.
#[test]
fn examples_resolve_with_the_hosts_sources() {
    let world = World::of_the_host();
    let before = world::listing(Path::new("/var/lib/apt/lists"));
    for (name, text) in examples() {
        let resolution = world.resolve(&text).unwrap_or_else(|error| {
            panic!("{name}: {}; warnings: {:?}", shown(&error), world.warnings());
        });
        let items = resolution.manifest["sources"]["org.osbuild.curl"]["items"].as_object().expect("items");
        for (checksum, item) in items {
            assert_eq!(checksum.len(), "sha256:".len() + 64, "{name}: {checksum}");
            assert!(item["size"].as_u64().is_some_and(|size| size > 0), "{name}: {item}");
        }
        let packages = installed(&resolution.manifest, 1);
        for needed in ["dpkg", "libc6", "bash", "apt"] {
            assert!(packages.iter().any(|name| name == needed), "{name} has no {needed}");
        }
    }
    assert_eq!(world::listing(Path::new("/var/lib/apt/lists")), before, "the host's lists are untouched");
}
