//! `org.osbuild.grub2`
//!
//! ```text
//! /etc/default/grub                 what tools make a new configuration from
//! /boot/grub2/grubenv               variables that GRUB keeps
//! /boot/grub2/grub.cfg              the configuration, for machines with BIOS
//! /boot/efi/EFI/VENDOR/grub.cfg     the configuration for machines with UEFI, or one that leads to the other
//! ```

mod configuration;

use std::path::{Path, PathBuf};

use kiln_api::ModuleError;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::grub::{self, FileSystem, Uuid};
use crate::support::number::Number;
use crate::support::root::Root;

/// The platform of machines with BIOS.
const BIOS: &str = "i386-pc";

/// Sets GRUB up to start the kernels that entries of the boot menu tell of (Boot Loader Specification).
///
/// Writes `/etc/default/grub`, GRUB's environment and its configuration. For a platform without UEFI (`legacy`), GRUB's
/// modules and font are copied from the build root; `org.osbuild.grub2.inst` makes the rest. With both, the
/// configuration is in `/boot/grub2`, and the one on the EFI system partition leads there.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [{"required": ["root_fs_uuid"]}, {"required": ["rootfs"]}]))]
pub(crate) struct Options {
    /// The version of what this stage does: 1 leaves names of variables that are not set in the configuration.
    #[schemars(extend("enum" = [1, 2]))]
    compat_version: Option<Number>,
    /// The root file system.
    rootfs: Option<Place>,
    /// The file system with `/boot`, if it is another one.
    bootfs: Option<Place>,
    /// UUID of the root file system.
    root_fs_uuid: Option<Uuid>,
    /// UUID of the file system with `/boot`.
    boot_fs_uuid: Option<Uuid>,
    /// Options of the kernel besides `root`.
    #[serde(default)]
    kernel_opts: String,
    /// Whether GRUB is for machines without UEFI, too; with the name of a platform, for which.
    legacy: Option<Legacy>,
    /// GRUB for machines with UEFI.
    uefi: Option<Uefi>,
    /// The entry of the menu that is started: it is in the environment.
    saved_entry: Option<String>,
    /// Whether `/etc/default/grub` is written.
    #[serde(default = "yes")]
    write_defaults: bool,
    /// Whether the command line of the kernel is in the environment.
    #[serde(default = "yes")]
    write_cmdline: bool,
    /// Whether the configuration reads what Ignition needs at the first start.
    #[serde(default)]
    ignition: bool,
    /// Whether starts are counted, and the entry before is started when they fail.
    #[serde(default)]
    greenboot: bool,
    /// Settings of GRUB itself.
    #[serde(default)]
    config: Config,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(extend("oneOf" = [{"required": ["uuid"]}, {"required": ["label"]}]))]
struct Place {
    /// Label of the file system.
    label: Option<String>,
    /// UUID of the file system.
    uuid: Option<Uuid>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum Legacy {
    Usual(bool),
    Platform(String),
}

#[derive(Deserialize, JsonSchema)]
struct Uefi {
    /// The vendor of the programs, after whom their directory is named.
    #[schemars(regex(pattern = "^(.+)$"))]
    vendor: String,
    /// Where the build root has the programs.
    efi_src_dir: Option<String>,
    /// Whether the programs are copied from the build root.
    #[serde(default)]
    install: bool,
    /// Whether the configuration is in `/boot/grub2`, as with `legacy`.
    #[serde(default)]
    unified: bool,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The entry that is started, in `/etc/default/grub`.
    default: Option<String>,
    /// Whether there are no entries for rescue.
    disable_recovery: Option<bool>,
    /// Whether there are no menus within the menu.
    disable_submenu: Option<bool>,
    /// Name of the distributor.
    distributor: Option<String>,
    /// Where input comes from and output goes to, as `serial` or `console`, in `/etc/default/grub`.
    terminal: Option<Vec<String>>,
    /// Where input comes from.
    terminal_input: Option<Vec<String>>,
    /// Where output goes to.
    terminal_output: Option<Vec<String>>,
    /// How long the menu waits, in seconds.
    #[serde(default)]
    timeout: u64,
    /// What is shown while it waits.
    timeout_style: Option<TimeoutStyle>,
    /// GRUB's whole command for the serial port, as `serial --speed=115200`.
    serial: Option<String>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum TimeoutStyle {
    Hidden,
    Menu,
    Countdown,
}

impl TimeoutStyle {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Hidden => "hidden",
            Self::Menu => "menu",
            Self::Countdown => "countdown",
        }
    }
}

const fn yes() -> bool {
    true
}

impl Place {
    fn decode(&self, option: &str) -> Result<FileSystem, ModuleError> {
        FileSystem::of(option, self.uuid.as_ref(), self.label.as_deref(), None)
    }
}

impl Options {
    /// The root file system.
    fn root(&self) -> Result<FileSystem, ModuleError> {
        match &self.rootfs {
            Some(place) => place.decode("rootfs"),
            None => FileSystem::of("root_fs_uuid", self.root_fs_uuid.as_ref(), None, None),
        }
    }

    /// The file system with `/boot`, if it is another one.
    fn boot(&self) -> Result<Option<FileSystem>, ModuleError> {
        let of = |uuid| FileSystem::of("boot_fs_uuid", Some(uuid), None, None);
        match &self.bootfs {
            Some(place) => place.decode("bootfs").map(Some),
            None => self.boot_fs_uuid.as_ref().map(of).transpose(),
        }
    }

    /// The platform without UEFI.
    fn platform(&self) -> Option<&str> {
        match &self.legacy {
            Some(Legacy::Usual(true)) => Some(BIOS),
            Some(Legacy::Platform(platform)) if !platform.is_empty() => Some(platform),
            _ => None,
        }
    }
}

pub(crate) struct Grub2;

impl Stage for Grub2 {
    const NAME: &'static str = "org.osbuild.grub2";
    type Options = Options;

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let (root, boot) = (options.root()?, options.boot()?);
        let platform = options.platform();
        let is_hybrid = options.uefi.is_some() && platform.is_some();
        let environment = grub::environment(&configuration::variables(&options, &root))?;
        let tree = Root::open(context.tree())?;
        if options.write_defaults {
            tree.make_directories("etc/default")?;
            grub::write(&tree, "etc/default/grub", &configuration::defaults(&options))?;
        }
        tree.make_directories("boot/grub2")?;
        if is_hybrid {
            // Packages for UEFI have a link there, to the partition that other machines do not look at.
            tree.remove(grub::ENVIRONMENT)?;
        }
        context.say(&environment);
        grub::write(&tree, grub::ENVIRONMENT, &environment)?;
        let mut path = PathBuf::from("boot/grub2/grub.cfg");
        if let Some(uefi) = &options.uefi {
            if uefi.install {
                let source = uefi.efi_src_dir.as_deref().unwrap_or(grub::EFI_PROGRAMS);
                grub::copy_efi_programs(&tree, Path::new(source), &uefi.vendor)?;
            }
            let on_partition = Path::new("boot/efi/EFI").join(&uefi.vendor).join("grub.cfg");
            if is_hybrid || uefi.unified {
                context.say("hybrid boot or unified grub config enabled. Writing alias grub config");
                grub::write(&tree, on_partition, &configuration::redirection(boot.is_some()))?;
            } else {
                path = on_partition;
            }
        }
        grub::write(
            &tree,
            path,
            &configuration::main(&options, boot.as_ref().unwrap_or(&root), boot.is_some())?,
        )?;
        platform.map_or(Ok(()), |platform| grub::copy_modules(&tree, platform))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use serde_json::{Value, json};

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::Fixture;
    use crate::stage_test::{UUID, output};
    use crate::support::grub::testing::equal_to_the_references;

    const FILES: [&str; 2] = ["boot/grub2/grub.cfg", "boot/efi/EFI/kiln/grub.cfg"];

    fn everything() -> Value {
        json!({
            "compat_version": 2, "rootfs": {"label": "root"}, "bootfs": {"uuid": "6699-AFB5"}, "kernel_opts": "ro quiet",
            "legacy": "i386-pc", "uefi": {"vendor": "kiln", "unified": true}, "saved_entry": "ffff-6.1",
            "write_defaults": true, "write_cmdline": true, "ignition": true, "greenboot": true,
            "config": {
                "default": "saved", "disable_recovery": true, "disable_submenu": false, "distributor": "Kiln OS",
                "terminal": ["serial", "console"], "terminal_input": ["console"], "terminal_output": ["console", "serial"],
                "timeout": 5, "timeout_style": "countdown", "serial": "serial --unit=0 --speed=115200",
            },
        })
    }

    #[test]
    fn schema_agrees() {
        let with = |name: &str, value: Value| json!({"root_fs_uuid": UUID, name: value});
        Agreement::stage::<Grub2>()
            .accepts([
                json!({"root_fs_uuid": UUID}),
                json!({"rootfs": {"uuid": "6699-AFB5"}, "boot_fs_uuid": UUID}),
                with("legacy", json!(true)),
                with("compat_version", json!(1)),
                with("uefi", json!({"vendor": "kiln", "install": true, "efi_src_dir": "/x", "more": 1})),
                with("config", json!({"timeout_style": "hidden"})),
                with("config", json!({"timeout_style": "menu"})),
                everything(),
            ])
            .refuses([
                json!({}),
                json!({"root_fs_uuid": UUID, "rootfs": {"uuid": UUID}}),
                json!({"rootfs": {"uuid": UUID, "label": "a"}}),
                json!({"rootfs": {"device": "/dev/vda"}}),
                json!({"root_fs_uuid": "1-2"}),
                with("compat_version", json!(3)),
                with("uefi", json!({})),
                with("uefi", json!({"vendor": ""})),
                with("config", json!({"timeout": -1})),
                with("config", json!({"terminal": "serial"})),
                with("legacy", json!(1)),
            ]);
    }

    fn prepare(fixture: &mut Fixture) {
        fs::create_dir_all(fixture.tree().join("boot/efi/EFI/kiln")).expect("made");
    }

    #[test]
    fn trees_are_the_references() {
        let small = |options: Value| {
            let mut all = options;
            all["root_fs_uuid"] = json!(UUID);
            all
        };
        let cases = [
            everything(),
            small(json!({})),
            small(
                json!({"compat_version": 2, "write_defaults": false, "write_cmdline": false, "legacy": false}),
            ),
            small(json!({"boot_fs_uuid": UUID, "kernel_opts": "console=ttyS0", "ignition": true})),
            small(json!({"uefi": {"vendor": "kiln"}, "greenboot": true, "saved_entry": "x"})),
            small(json!({"uefi": {"vendor": "kiln", "unified": true}})),
            small(json!({"legacy": true, "config": {"serial": "serial", "default": "0", "distributor": ""}})),
            small(
                json!({"config": {"terminal_input": ["serial"], "terminal_output": [], "disable_submenu": true}}),
            ),
        ];
        for options in cases {
            equal_to_the_references::<Grub2>(prepare, &options, &FILES);
        }
    }

    #[test]
    fn programs_for_uefi_are_copied() {
        let source = tempfile::tempdir().expect("a directory");
        for (path, text) in
            [("BOOT/BOOTX64.EFI", "one"), ("kiln/grubx64.efi", "two"), ("kiln/fw/fw.efi", "three")]
        {
            let path = source.path().join(path);
            fs::create_dir_all(path.parent().expect("a directory")).expect("made");
            fs::write(path, text).expect("written");
        }
        let uefi = json!({"vendor": "kiln", "install": true, "efi_src_dir": source.path()});
        let options = json!({"root_fs_uuid": UUID, "uefi": uefi});
        equal_to_the_references::<Grub2>(|_| {}, &options, &FILES);
        let fixture = Fixture::new();
        fixture.run::<Grub2>(options.clone()).expect("set up");
        let read =
            |path: &str| fs::read_to_string(fixture.tree().join("boot/efi/EFI").join(path)).expect(path);
        assert_eq!(
            (read("kiln/fw/fw.efi"), read("BOOT/BOOTX64.EFI")),
            ("three".to_owned(), "one".to_owned())
        );
        assert!(read("kiln/grub.cfg").contains("blscfg"));
        let error = fixture.run::<Grub2>(options).expect_err("it is there").to_string();
        assert!(error.contains("boot/efi/EFI/BOOT") && error.contains("File exists"), "{error}");
    }

    #[test]
    fn the_environment_of_both_kinds_of_machine_is_a_file() {
        let prepare = |fixture: &Fixture| {
            fs::create_dir_all(fixture.tree().join("boot/grub2")).expect("made");
            fs::create_dir_all(fixture.tree().join("boot/efi/EFI/kiln")).expect("made");
            symlink("../efi/EFI/kiln/grubenv", fixture.tree().join(grub::ENVIRONMENT)).expect("linked");
        };
        for (legacy, is_link) in [(true, false), (false, true)] {
            let fixture = Fixture::new();
            prepare(&fixture);
            let options = json!({"root_fs_uuid": UUID, "legacy": legacy, "uefi": {"vendor": "kiln"}});
            fixture.run::<Grub2>(options.clone()).expect("set up");
            assert_eq!(fixture.tree().join(grub::ENVIRONMENT).is_symlink(), is_link);
            assert_eq!(fixture.tree().join("boot/efi/EFI/kiln/grubenv").exists(), is_link);
            equal_to_the_references::<Grub2>(|fixture| prepare(fixture), &options, &FILES);
        }
    }

    #[test]
    fn grub_understands_it() {
        let fixture = Fixture::new();
        let mut fixture = fixture;
        prepare(&mut fixture);
        fixture.run::<Grub2>(everything()).expect("set up");
        for path in FILES {
            output("grub-script-check", &[], &fixture.tree().join(path));
        }
        let environment = fixture.tree().join(grub::ENVIRONMENT);
        let listed = output("sh", &["-c", "exec grub-editenv \"$0\" list"], &environment);
        assert_eq!(listed, "kernelopts=root=LABEL=root ro quiet\nsaved_entry=ffff-6.1\n");
    }

    #[test]
    fn what_cannot_be_is_said() {
        let cases = [
            (
                json!({"rootfs": {"label": ""}}),
                "invalid option `rootfs`: does not say which file system it is",
            ),
            (
                json!({"root_fs_uuid": UUID, "kernel_opts": "x".repeat(1000)}),
                "GRUB's environment has room for 1024 bytes",
            ),
            (
                json!({"root_fs_uuid": UUID, "uefi": {"vendor": "none"}}),
                "boot/efi/EFI/none/grub.cfg`: No such file",
            ),
            (json!({"root_fs_uuid": UUID, "legacy": "none"}), "cannot read directory `/usr/lib/grub/none`"),
        ];
        for (options, expected) in cases {
            let error = Fixture::new().run::<Grub2>(options).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
