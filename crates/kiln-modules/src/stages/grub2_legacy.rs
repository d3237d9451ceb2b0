//! `org.osbuild.grub2.legacy`

mod configuration;

use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::grub::{self, FileSystem, Uuid};
use crate::support::root::Root;

/// Sets GRUB up with a menu of its own, for systems without entries of the Boot Loader Specification.
///
/// Writes `/etc/default/grub`, GRUB's environment, and a configuration with the given entries for machines with BIOS
/// (`bios`), with UEFI (`uefi`), or both. For the former, GRUB's modules and font are copied from the build root.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("anyOf" = [{"required": ["bios"]}, {"required": ["uefi"]}]))]
pub(crate) struct Options {
    /// The root file system.
    rootfs: Place,
    /// The file system with `/boot`, if it is another one.
    bootfs: Option<Place>,
    /// GRUB for machines without UEFI.
    bios: Option<Bios>,
    /// GRUB for machines with UEFI.
    uefi: Option<Uefi>,
    /// Whether `/etc/default/grub` is written.
    #[serde(default = "yes")]
    write_defaults: bool,
    /// The entries of the menu.
    #[schemars(length(min = 1))]
    entries: Vec<Entry>,
    /// Settings of GRUB itself.
    #[serde(default)]
    config: Config,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(extend("oneOf" = [{"required": ["uuid"]}, {"required": ["label"]}, {"required": ["device"]}]))]
struct Place {
    /// The device with the file system: for the kernel its node, for GRUB a name of GRUB's.
    device: Option<String>,
    /// Label of the file system.
    label: Option<String>,
    /// UUID of the file system.
    uuid: Option<Uuid>,
}

#[derive(Deserialize, JsonSchema)]
struct Bios {
    /// GRUB's name of the platform.
    platform: Platform,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
enum Platform {
    #[serde(rename = "i386-pc")]
    Pc,
    #[serde(rename = "powerpc-ieee1275")]
    PowerPc,
}

#[derive(Deserialize, JsonSchema)]
struct Uefi {
    /// The vendor of the programs, after whom their directory is named.
    #[schemars(regex(pattern = "^(.+)$"))]
    vendor: String,
    /// Whether the programs are copied from the build root.
    #[serde(default)]
    install: bool,
}

/// An entry of the menu.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Whether this is the entry that is started; of at most one.
    #[serde(default)]
    default: bool,
    /// What tells the entry from others with the same kernel: GRUB's tools take the UUID of the root file system.
    id: String,
    /// What is started.
    product: Product,
    /// The version of the kernel, as in the names of its files.
    kernel: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Product {
    /// Its name.
    name: String,
    /// Its nickname.
    nick: Option<String>,
    /// Its version.
    version: String,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Options of the kernel besides `root`.
    #[serde(default)]
    cmdline: String,
    /// The entry that is started, in `/etc/default/grub`; `saved` if it is not told.
    default: Option<String>,
    /// Whether there are no entries for rescue; there are none if it is not told.
    disable_recovery: Option<bool>,
    /// Whether there are no menus within the menu; there are none if it is not told.
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
    /// What is shown while it waits; `countdown` if it is not told.
    timeout_style: Option<super::grub2::TimeoutStyle>,
    /// GRUB's whole command for the serial port, as `serial --speed=115200`.
    serial: Option<String>,
}

const fn yes() -> bool {
    true
}

impl Place {
    fn decode(&self, option: &str) -> Result<FileSystem, ModuleError> {
        FileSystem::of(option, self.uuid.as_ref(), self.label.as_deref(), self.device.as_deref())
    }
}

impl Platform {
    const fn name(self) -> &'static str {
        match self {
            Self::Pc => "i386-pc",
            Self::PowerPc => "powerpc-ieee1275",
        }
    }
}

pub(crate) struct Grub2Legacy;

impl Stage for Grub2Legacy {
    const NAME: &'static str = "org.osbuild.grub2.legacy";
    type Options = Options;

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let root = options.rootfs.decode("rootfs")?;
        let boot = options.bootfs.as_ref().map(|place| place.decode("bootfs")).transpose()?;
        let environment = grub::environment(&configuration::variables(&options.entries)?)?;
        let tree = Root::open(context.tree())?;
        if options.write_defaults {
            tree.make_directories("etc/default")?;
            grub::write(&tree, "etc/default/grub", &configuration::defaults(&options.config))?;
        }
        tree.make_directories("boot/grub2")?;
        context.say(&environment);
        grub::write(&tree, grub::ENVIRONMENT, &environment)?;
        let mut write = |path: &Path, is_uefi: bool| {
            let text = configuration::main(&options, &root, boot.as_ref(), is_uefi);
            context.say(&text);
            grub::write(&tree, path, &text)
        };
        if let Some(uefi) = &options.uefi {
            if uefi.install {
                grub::copy_efi_programs(&tree, Path::new(grub::EFI_PROGRAMS), &uefi.vendor)?;
            }
            write(&Path::new("boot/efi/EFI").join(&uefi.vendor).join("grub.cfg"), true)?;
        }
        if let Some(bios) = &options.bios {
            write(Path::new("boot/grub2/grub.cfg"), false)?;
            grub::copy_modules(&tree, bios.platform.name())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
    use serde_json::{Value, json};

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::Fixture;
    use crate::stage_test::{UUID, output};
    use crate::support::grub::testing::equal_to_the_references;

    const FILES: [&str; 2] = ["boot/grub2/grub.cfg", "boot/efi/EFI/kiln/grub.cfg"];

    fn entry() -> Value {
        json!({"id": "a1", "product": {"name": "Kiln", "version": "9"}, "kernel": "6.1-1"})
    }

    fn with(name: &str, value: &Value) -> Value {
        let mut options =
            json!({"rootfs": {"uuid": UUID}, "bios": {"platform": "i386-pc"}, "entries": [entry()]});
        options[name] = value.clone();
        options
    }

    fn everything() -> Value {
        let mut other = entry();
        other["product"]["nick"] = json!("Fire");
        other["kernel"] = json!("6.2-1");
        json!({
            "rootfs": {"device": "/dev/vda1"}, "bootfs": {"label": "boot"}, "bios": {"platform": "i386-pc"},
            "uefi": {"vendor": "kiln"}, "write_defaults": true, "entries": [entry(), other],
            "config": {
                "cmdline": "ro quiet", "default": "0", "disable_recovery": false, "disable_submenu": false,
                "distributor": "Kiln OS", "terminal": ["serial"], "terminal_input": ["console", "serial"],
                "terminal_output": ["console"], "timeout": 7, "timeout_style": "menu", "serial": "serial --unit=0",
            },
        })
    }

    #[test]
    fn schema_agrees() {
        Agreement::stage::<Grub2Legacy>()
            .accepts([
                with("rootfs", &json!({"label": "root", "more": 1})),
                with("bios", &json!({"platform": "powerpc-ieee1275"})),
                with("config", &json!({"timeout_style": "hidden"})),
                everything(),
            ])
            .refuses([
                json!({}),
                json!({"rootfs": {"uuid": UUID}, "entries": [entry()]}),
                with("entries", &json!([])),
                with("entries", &json!([{"id": "a"}])),
                with("bios", &json!({"platform": "x86_64-efi"})),
                with("rootfs", &json!({})),
                with("uefi", &json!({"install": true})),
                with("config", &json!({"timeout": 1.5})),
                with("ignition", &json!(true)),
            ]);
    }

    fn prepare(fixture: &mut Fixture) {
        fs::create_dir_all(fixture.tree().join("boot/efi/EFI/kiln")).expect("made");
    }

    #[test]
    fn trees_are_the_references() {
        let mut both = with("uefi", &json!({"vendor": "kiln"}));
        both["write_defaults"] = json!(false);
        let small = json!({"terminal_input": ["serial"], "distributor": "", "terminal": []});
        for options in [everything(), both, with("config", &small)] {
            equal_to_the_references::<Grub2Legacy>(prepare, &options, &FILES);
        }
    }

    #[test]
    fn the_default_entry_is_one_of_the_menu() {
        // In the reference it is not: the name in the environment has a dollar sign that the entry has not.
        let mut entries = [entry(), entry()];
        entries[1]["kernel"] = json!("6.2-1");
        entries[1]["default"] = json!(true);
        let fixture = Fixture::new();
        fixture.run::<Grub2Legacy>(with("entries", &json!(entries))).expect("set up");
        let read = |path: &str| fs::read_to_string(fixture.tree().join(path)).expect(path);
        assert!(read(grub::ENVIRONMENT).contains("\nsaved_entry=gnulinux-6.2-1-advanced-a1\n#"));
        assert!(read(FILES[0]).contains("--id 'gnulinux-6.2-1-advanced-a1'"));
        entries[0]["default"] = json!(true);
        let error =
            fixture.run::<Grub2Legacy>(with("entries", &json!(entries))).expect_err("two").to_string();
        assert_eq!(error, "invalid option `entries`: at most one of them can be the default entry, not 2");
    }

    #[test]
    fn kernels_are_started_as_the_firmware_wants() {
        let fixture = |options: Value| {
            let mut fixture = Fixture::new();
            prepare(&mut fixture);
            fixture.run::<Grub2Legacy>(options).expect("set up");
            move |path: &str| fs::read_to_string(fixture.tree().join(path)).expect(path)
        };
        let read = fixture(everything());
        assert!(read(FILES[0]).contains("\tlinux16 /vmlinuz-6.1-1 root=/dev/vda1 ro quiet\n\tinitrd16 "));
        assert!(read(FILES[1]).contains("\tlinuxefi /vmlinuz-6.1-1 root=/dev/vda1 ro quiet\n\tinitrdefi "));
        // Without a platform there is no menu for machines with BIOS; the reference ends with an error of its own.
        let mut options = with("uefi", &json!({"vendor": "kiln"}));
        options.as_object_mut().expect("an object").shift_remove("bios");
        let read = fixture(options);
        assert!(read(FILES[1]).contains("\tlinux /boot/vmlinuz-6.1-1 root=UUID="));
    }

    #[test]
    fn grub_understands_it() {
        let mut fixture = Fixture::new();
        prepare(&mut fixture);
        fixture.run::<Grub2Legacy>(everything()).expect("set up");
        for path in FILES {
            output("grub-script-check", &[], &fixture.tree().join(path));
        }
    }

    #[test]
    fn root_programs_for_uefi_are_copied() {
        kiln_sys::chroot::private_mounts().expect("root");
        mount("none", "/boot", "tmpfs", MountFlags::empty(), None).expect("root");
        for (path, text) in [("BOOT/BOOTX64.EFI", "one"), ("kiln/grubx64.efi", "two")] {
            let path = Path::new(grub::EFI_PROGRAMS).join(path);
            fs::create_dir_all(path.parent().expect("a directory")).expect("made");
            fs::write(path, text).expect("written");
        }
        let mut options = with("uefi", &json!({"vendor": "kiln", "install": true}));
        options["entries"] = json!([entry()]);
        equal_to_the_references::<Grub2Legacy>(|_| {}, &options, &FILES);
        let fixture = Fixture::new();
        let done = fixture.run::<Grub2Legacy>(options);
        unmount("/boot", UnmountFlags::DETACH).expect("unmounted");
        done.expect("set up");
        let program = fixture.tree().join("boot/efi/EFI/kiln/grubx64.efi");
        assert_eq!(fs::read_to_string(program).expect("copied"), "two");
    }
}
