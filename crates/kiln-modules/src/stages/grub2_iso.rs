//! `org.osbuild.grub2.iso`
//!
//! ```text
//! /EFI/BOOT/BOOTARCH.EFI    shim, which firmware starts
//! /EFI/BOOT/mmARCH.efi      where shim asks for keys
//! /EFI/BOOT/grubARCH.efi    GRUB, made for discs
//! /EFI/BOOT/grub.cfg        the menu
//! /EFI/BOOT/fonts           the font of the menu
//! ```

use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::disc_menu::{Config, Custom, Firmware, Kernel, Menu, Product};
use crate::support::grub;
use crate::support::root::Root;

/// Where everything goes.
const TARGET: &str = "EFI/BOOT";

/// Puts GRUB and its menu on a disc that starts an installer on machines with UEFI.
///
/// The programs are taken from `/boot/efi/EFI/VENDOR` of the build root, the font from `/usr/share/grub`. The tree is that
/// of the disc, or of an EFI system partition for it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// What the disc installs.
    product: Product,
    /// The kernel of the installer.
    kernel: Kernel,
    /// The label of the disc.
    isolabel: String,
    /// The architectures as names of programs have them, as `X64`; needed.
    architectures: Option<Vec<String>>,
    /// The vendor of the programs, after whom their directory is named; needed.
    vendor: Option<String>,
    /// Whether there is an entry to install in FIPS mode.
    #[serde(default)]
    fips: bool,
    /// Whether there is a menu with entries for trouble.
    #[serde(default = "yes")]
    troubleshooting: bool,
    /// Whether there is an entry to check the disc first.
    #[serde(default = "yes")]
    test: bool,
    /// Whether there is an entry to install at once.
    #[serde(default = "yes")]
    install: bool,
    /// More entries, which are before the others.
    #[serde(default)]
    custom: Vec<Custom>,
    /// Settings of GRUB itself.
    #[serde(default)]
    config: Config,
}

const fn yes() -> bool {
    true
}

pub(crate) struct Grub2Iso;

impl Stage for Grub2Iso {
    const NAME: &'static str = "org.osbuild.grub2.iso";
    type Options = Options;

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let missing = |name| move || ModuleError::option(name, "is missing");
        let architectures = options.architectures.as_deref().ok_or_else(missing("architectures"))?;
        let vendor = options.vendor.as_deref().ok_or_else(missing("vendor"))?;
        let tree = Root::open(context.tree())?;
        tree.make_directories("EFI")?;
        // Two boot loaders for a disc are one too many.
        tree.make_directory(TARGET, 0o777)?;
        let (source, target) = (Path::new(grub::EFI_PROGRAMS).join(vendor), Path::new(TARGET));
        for architecture in architectures {
            let architecture = architecture.to_lowercase();
            for (from, to) in [
                (format!("shim{architecture}.efi"), format!("BOOT{architecture}.EFI").to_uppercase()),
                (format!("mm{architecture}.efi"), format!("mm{architecture}.efi")),
                (format!("gcd{architecture}.efi"), format!("grub{architecture}.efi")),
            ] {
                grub::copy(&source.join(from), &tree, &target.join(to))?;
            }
        }
        grub::copy_font(&tree, &target.join("fonts"))?;
        context.say(format_args!("kernel dir at {}", options.kernel.dir));
        let menu = options.menu();
        grub::write(&tree, target.join("grub.cfg"), &menu)?;
        if architectures.iter().any(|architecture| architecture == "IA32") {
            // The firmware of some machines looks for it by this name.
            grub::write(&tree, target.join("BOOT.cfg"), &menu)?;
        }
        Ok(())
    }
}

impl Options {
    fn menu(&self) -> String {
        let menu = Menu {
            product: &self.product,
            kernel: &self.kernel,
            isolabel: &self.isolabel,
            fips: self.fips,
            troubleshooting: self.troubleshooting,
            test: self.test,
            install: self.install,
            custom: &self.custom,
            config: &self.config,
            firmware: Firmware::Uefi,
        };
        menu.text()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
    use serde_json::{Value, json};

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::{Fixture, side_by_side};
    use crate::stage_test::output;

    fn everything() -> Value {
        json!({
            "product": {"name": "Kiln OS", "version": "9"}, "isolabel": "KILN-9", "vendor": "kiln",
            "kernel": {"dir": "/images/pxeboot/", "opts": ["inst.stage2=hd:LABEL=KILN-9", "ro"], "more": 1},
            "architectures": ["X64", "IA32"], "fips": true, "troubleshooting": true, "test": true, "install": true,
            "custom": [
                {"name": "Start $product", "linux": "${kernelpath} ${root} $$x $unknown", "initrd": "${initrdpath}"},
                {"name": "Other", "linux": "/a", "initrd": "/b"},
            ],
            "config": {"timeout": 5, "default": 1},
        })
    }

    fn with(name: &str, value: &Value) -> Value {
        let mut options = json!({
            "product": {"name": "Kiln OS", "version": "9"}, "isolabel": "KILN-9", "vendor": "kiln",
            "architectures": ["X64"], "kernel": {"dir": "/images", "opts": []},
        });
        options[name] = value.clone();
        options
    }

    #[test]
    fn schema_agrees() {
        Agreement::stage::<Grub2Iso>()
            .accepts([
                json!({"product": {"name": "a", "version": "1"}, "kernel": {"dir": "/"}, "isolabel": "x"}),
                everything(),
            ])
            .refuses([
                json!({}),
                with("kernel", &json!({})),
                with("product", &json!({"name": "a"})),
                with("custom", &json!([{"name": "a"}])),
                with("config", &json!({"timeout": -1})),
                with("config", &json!({"default": "a"})),
                with("efi", &json!(true)),
            ]);
    }

    /// Puts programs where packages have them, as nobody else sees.
    fn programs() {
        kiln_sys::chroot::private_mounts().expect("root");
        mount("none", "/boot", "tmpfs", MountFlags::empty(), None).expect("root");
        let directory = Path::new(grub::EFI_PROGRAMS).join("kiln");
        fs::create_dir_all(&directory).expect("made");
        for name in ["shimx64", "mmx64", "gcdx64", "shimia32", "mmia32", "gcdia32"] {
            fs::write(directory.join(format!("{name}.efi")), name).expect("written");
        }
    }

    #[test]
    fn root_trees_are_the_references() {
        programs();
        let none = ["fips", "troubleshooting", "test", "install"];
        let mut small = with("config", &json!({}));
        none.iter().for_each(|name| small[*name] = json!(false));
        for options in
            [everything(), small, with("fips", &json!(true)), with("config", &json!({"default": 0}))]
        {
            side_by_side::<Grub2Iso>(|_| {}, &options);
        }
        unmount("/boot", UnmountFlags::DETACH).expect("unmounted");
    }

    #[test]
    fn root_the_disc_has_its_programs() {
        programs();
        let fixture = Fixture::new();
        let done = fixture.run::<Grub2Iso>(everything());
        let again = fixture.run::<Grub2Iso>(everything());
        let none = Fixture::new().run::<Grub2Iso>(with("architectures", &json!(["AA64"])));
        unmount("/boot", UnmountFlags::DETACH).expect("unmounted");
        done.expect("made");
        let read = |name: &str| fs::read_to_string(fixture.tree().join(TARGET).join(name)).expect(name);
        let expected = [
            ("BOOTX64.EFI", "shimx64"),
            ("mmx64.efi", "mmx64"),
            ("grubx64.efi", "gcdx64"),
            ("BOOTIA32.EFI", "shimia32"),
            ("grubia32.efi", "gcdia32"),
        ];
        for (name, text) in expected {
            assert_eq!(read(name), text);
        }
        assert_eq!(read("BOOT.cfg"), read("grub.cfg"));
        output("grub-script-check", &[], &fixture.tree().join(TARGET).join("grub.cfg"));
        assert!(read("grub.cfg").contains("menuentry 'Start Kiln OS'"));
        assert!(again.expect_err("it is there").to_string().contains("EFI/BOOT`: File exists"));
        assert!(
            none.expect_err("no programs")
                .to_string()
                .contains("/boot/efi/EFI/kiln/shimaa64.efi`: No such file")
        );
    }

    #[test]
    fn without_words_there_are_none() {
        // The reference ends with an error of its own.
        let options: Options =
            serde_json::from_value(with("kernel", &json!({"dir": "/images"}))).expect("valid");
        assert!(options.menu().contains("\tlinux /images/vmlinuz  quiet\n"));
        for name in ["vendor", "architectures"] {
            let mut options = with("isolabel", &json!("x"));
            options.as_object_mut().expect("an object").shift_remove(name);
            let error = Fixture::new().run::<Grub2Iso>(options).expect_err(name).to_string();
            assert_eq!(error, format!("invalid option `{name}`: is missing"));
        }
    }
}
