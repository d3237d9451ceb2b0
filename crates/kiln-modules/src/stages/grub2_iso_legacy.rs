//! `org.osbuild.grub2.iso.legacy`
//!
//! ```text
//! /boot/grub2/PLATFORM    GRUB's modules
//! /boot/grub2/grub.cfg    the menu
//! ```

use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::disc_menu::{Config, Custom, Firmware, Kernel, Menu, Product};
use crate::support::grub;
use crate::support::root::Root;

/// Where packages put the modules.
const MODULES: &str = "/usr/lib/grub";
/// Where they go if nothing is said.
const TARGET: &str = "boot/grub2";

/// Puts GRUB's modules and its menu on a disc that starts an installer on machines with BIOS.
///
/// The modules are taken from `/usr/lib/grub/PLATFORM` of the build root. What starts GRUB from the disc is made by
/// `org.osbuild.grub2.inst`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// What the disc installs.
    product: Product,
    /// The kernel of the installer.
    kernel: Kernel,
    /// The label of the disc.
    isolabel: String,
    /// The directory on the disc for modules and menu; `boot/grub2` if it is empty.
    #[serde(default = "target")]
    grub2dir: String,
    /// What GRUB is for.
    #[serde(default)]
    platform: Platform,
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

#[derive(Clone, Copy, Default, Deserialize, JsonSchema)]
enum Platform {
    /// A PC with BIOS.
    #[default]
    #[serde(rename = "i386-pc")]
    I386Pc,
    /// Open Firmware.
    #[serde(rename = "powerpc-ieee1275")]
    PowerpcIeee1275,
}

impl Platform {
    fn name(self) -> &'static str {
        match self {
            Self::I386Pc => "i386-pc",
            Self::PowerpcIeee1275 => "powerpc-ieee1275",
        }
    }
}

const fn yes() -> bool {
    true
}

fn target() -> String {
    TARGET.to_owned()
}

pub(crate) struct Grub2IsoLegacy;

impl Stage for Grub2IsoLegacy {
    const NAME: &'static str = "org.osbuild.grub2.iso.legacy";
    type Options = Options;

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let tree = Root::open(context.tree())?;
        // A path of the disc, whether it begins with a slash or not.
        let target = match options.grub2dir.trim_start_matches('/') {
            "" => Path::new(TARGET),
            path => Path::new(path),
        };
        let platform = options.platform.name();
        grub::copy_tree(&Path::new(MODULES).join(platform), &tree, &target.join(platform))?;
        context.say(format_args!("kernel dir at {}", options.kernel.dir));
        let menu = Menu {
            product: &options.product,
            kernel: &options.kernel,
            isolabel: &options.isolabel,
            fips: options.fips,
            troubleshooting: options.troubleshooting,
            test: options.test,
            install: options.install,
            custom: &options.custom,
            config: &options.config,
            firmware: Firmware::Legacy,
        };
        grub::write(&tree, target.join("grub.cfg"), &menu.text())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use kiln_testkit::host;
    use serde_json::{Value, json};

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::{Fixture, side_by_side};
    use crate::stage_test::output;

    fn with(name: &str, value: &Value) -> Value {
        let mut options = json!({
            "product": {"name": "Kiln OS", "version": "9"}, "isolabel": "KILN-9",
            "kernel": {"dir": "/images", "opts": ["ro"]},
        });
        options[name] = value.clone();
        options
    }

    fn everything() -> Value {
        json!({
            "product": {"name": "Kiln OS", "version": "9"}, "isolabel": "KILN-9", "grub2dir": "EFI/grub",
            "kernel": {"dir": "/images/pxeboot/", "opts": ["inst.stage2=hd:LABEL=KILN-9", "ro"], "more": 1},
            "platform": "i386-pc", "fips": true, "troubleshooting": true, "test": true, "install": true,
            "custom": [{"name": "Start $product", "linux": "${kernelpath} ${root}", "initrd": "${initrdpath}"}],
            "config": {"timeout": 5, "default": 1},
        })
    }

    #[test]
    fn schema_agrees() {
        Agreement::stage::<Grub2IsoLegacy>().accepts([with("fips", &json!(false)), everything()]).refuses([
            json!({}),
            with("kernel", &json!({})),
            with("product", &json!({"name": "a"})),
            with("platform", &json!("x86_64-efi")),
            with("grub2dir", &json!(1)),
            with("config", &json!({"timeout": -1})),
            with("vendor", &json!("kiln")),
        ]);
    }

    #[test]
    fn root_trees_are_the_references() {
        if !host::provided("GRUB's modules", &[host::GRUB_PC]) {
            return;
        }
        let mut small = with("grub2dir", &json!(""));
        for name in ["troubleshooting", "test", "install"] {
            small[name] = json!(false);
        }
        for options in [everything(), small, with("fips", &json!(true)), with("config", &json!({}))] {
            side_by_side::<Grub2IsoLegacy>(|_| {}, &options);
        }
    }

    #[test]
    fn root_the_disc_has_modules_and_a_menu() {
        if !host::provided("GRUB's modules", &[host::GRUB_PC]) {
            return;
        }
        let fixture = Fixture::new();
        // A second menu of another stage on the same disc shares the directory.
        fs::create_dir_all(fixture.tree().join("boot/grub2/i386-pc")).expect("made");
        fixture.run::<Grub2IsoLegacy>(with("grub2dir", &json!("/boot/grub2"))).expect("made");
        let directory = fixture.tree().join("boot/grub2");
        assert!(directory.join("i386-pc/chain.mod").is_file());
        output("grub-script-check", &[], &directory.join("grub.cfg"));
        let menu = fs::read_to_string(directory.join("grub.cfg")).expect("a menu");
        assert!(menu.contains("insmod chain") && menu.contains("chainloader (hd0)+1"), "{menu}");
        assert!(!menu.contains("efi_gop"), "{menu}");
    }

    #[test]
    fn modules_that_are_missing_are_named() {
        let error = Fixture::new().run::<Grub2IsoLegacy>(with("platform", &json!("powerpc-ieee1275")));
        let error = error.expect_err("no modules").to_string();
        assert!(error.contains("/usr/lib/grub/powerpc-ieee1275`: No such file"), "{error}");
    }
}
