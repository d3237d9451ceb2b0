//! `org.osbuild.isolinux`
//!
//! ```text
//! /isolinux/isolinux.bin    the boot loader, and its modules *.c32
//! /isolinux/isolinux.cfg    the menu
//! /isolinux/splash.png      the picture behind it
//! /isolinux/vmlinuz         the kernel and the first file system, which are the same files as in the kernel's directory
//! /isolinux/initrd.img
//! ```

mod menu;

use std::fs::{Permissions, hard_link};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::support::disc_menu::{Kernel, Product};
use crate::support::root::Root;

/// Where everything goes.
const TARGET: &str = "isolinux";
/// Where the input has the boot loader and its modules.
const PROGRAMS: &str = "usr/share/syslinux";
/// The boot loader, and what it needs to show a menu.
const NAMES: [&str; 5] = ["isolinux.bin", "ldlinux.c32", "libcom32.c32", "libutil.c32", "vesamenu.c32"];
/// Where the input has the picture.
const PICTURE: &str = "usr/share/anaconda/boot/syslinux-splash.png";
/// The mode of programs.
const MODE: u32 = 0o755;

/// Puts ISOLINUX and its menu on a disc that starts an installer on machines with BIOS.
///
/// The input `data` is a tree with ISOLINUX (`/usr/share/syslinux`) and the picture behind the menu
/// (`/usr/share/anaconda/boot/syslinux-splash.png`). The tree is that of the disc, and has the kernel already.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// What the disc installs.
    product: Product,
    /// The kernel of the installer.
    kernel: Kernel,
    /// Whether there is an entry to install in FIPS mode.
    #[serde(default)]
    fips: bool,
}

pub(crate) struct Isolinux;

impl Stage for Isolinux {
    const NAME: &'static str = "org.osbuild.isolinux";
    type Options = Options;

    fn schema() -> ModuleSchema {
        let inputs = json!({
            "type": "object",
            "additionalProperties": false,
            "required": ["data"],
            "properties": {"data": {"type": "object"}},
        });
        ModuleSchema { inputs: Some(inputs), ..ModuleSchema::of::<Options>() }
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let data = context.arguments.inputs.get("data");
        let data = Root::open(&data.ok_or_else(|| ModuleError::option("inputs.data", "is missing"))?.path)?;
        let tree = Root::open(context.tree())?;
        let target = Path::new(TARGET);
        // Two boot loaders for a disc are one too many.
        tree.make_directory(target, 0o777)?;
        copy(&data, Path::new(PICTURE), &tree, &target.join("splash.png"), None)?;
        for name in NAMES {
            copy(&data, &Path::new(PROGRAMS).join(name), &tree, &target.join(name), Some(MODE))?;
        }
        let menu = menu::text(&options.product, &options.kernel.opts.join(" "), options.fips);
        let path = target.join("isolinux.cfg");
        tree.create(&path)?
            .write_all(menu.as_bytes())
            .map_err(ModuleError::io("write", tree.shown(&path)))?;
        for name in ["vmlinuz", "initrd.img"] {
            let file = tree.resolve(Path::new(&options.kernel.dir).join(name))?;
            let link = tree.resolve_parent(target.join(name))?;
            hard_link(&file, &link).map_err(ModuleError::io("create hard link", &link))?;
        }
        Ok(())
    }
}

/// Copies the content of a file, and not what else is known of it.
fn copy(from: &Root, source: &Path, to: &Root, target: &Path, mode: Option<u32>) -> Result<(), ModuleError> {
    let (mut source, mut copy) = (from.read(source)?, to.create(target)?);
    let failed = || ModuleError::io("write", to.shown(target));
    io::copy(&mut source, &mut copy).map_err(failed())?;
    mode.map_or(Ok(()), |mode| copy.set_permissions(Permissions::from_mode(mode))).map_err(failed())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use serde_json::Value;

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::Fixture;
    use crate::support::grub::testing::equal_to_the_references;

    fn options(fips: bool) -> Value {
        json!({
            "product": {"name": "Kiln OS", "version": "9"}, "fips": fips,
            "kernel": {"dir": "/images/pxeboot", "opts": ["inst.stage2=hd:LABEL=KILN", "ro"]},
        })
    }

    #[test]
    fn schema_agrees() {
        Agreement::stage::<Isolinux>()
            .accepts([
                json!({"product": {"name": "a", "version": "1"}, "kernel": {"dir": "/", "more": 1}}),
                options(true),
            ])
            .refuses([
                json!({}),
                json!({"product": {"name": "a", "version": "1"}, "kernel": {}}),
                json!({"product": {"name": "a"}, "kernel": {"dir": "/"}}),
                json!({"product": {"name": "a", "version": "1"}, "kernel": {"dir": "/"}, "debug": true}),
            ]);
        Agreement::stage::<Isolinux>()
            .around(json!({"options": options(false)}))
            .member("inputs")
            .accepts([json!({"data": {"type": "org.osbuild.tree"}})])
            .refuses([json!({}), json!({"data": {}, "tree": {}})]);
    }

    fn prepare(fixture: &mut Fixture) {
        fixture.file("images/pxeboot/vmlinuz", "kernel").file("images/pxeboot/initrd.img", "first");
        let mut files = vec![(PICTURE.to_owned(), "picture".to_owned())];
        files.extend(NAMES.map(|name| (format!("{PROGRAMS}/{name}"), name.to_owned())));
        let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        fixture.input("data", &files);
    }

    #[test]
    fn trees_are_the_references() {
        let mut short = options(false);
        short["kernel"] = json!({"dir": "images/pxeboot"});
        for options in [options(false), options(true), short] {
            equal_to_the_references::<Isolinux>(prepare, &options, &["isolinux/isolinux.cfg"]);
        }
    }

    #[test]
    fn the_disc_has_its_files() {
        let mut fixture = Fixture::new();
        prepare(&mut fixture);
        fixture.run::<Isolinux>(options(true)).expect("made");
        let at = |path: &str| fixture.tree().join(path);
        let [kernel, link] =
            ["images/pxeboot/vmlinuz", "isolinux/vmlinuz"].map(|path| at(path).metadata().expect(path));
        assert_eq!(kernel.ino(), link.ino());
        assert_eq!(fs::read_to_string(at("isolinux/vesamenu.c32")).expect("copied"), "vesamenu.c32");
        assert_eq!(at("isolinux/isolinux.bin").metadata().expect("there").mode() & 0o777, MODE);
        let menu = fs::read_to_string(at("isolinux/isolinux.cfg")).expect("written");
        assert!(
            menu.contains("  append initrd=initrd.img inst.stage2=hd:LABEL=KILN ro quiet fips=1\n"),
            "{menu}"
        );
        let error = fixture.run::<Isolinux>(options(true)).expect_err("it is there").to_string();
        assert!(error.contains("isolinux`: File exists"), "{error}");
    }

    #[test]
    fn what_is_missing_is_said() {
        let mut fixture = Fixture::new();
        fixture.input("data", &[(PICTURE, "")]);
        let error = fixture.run::<Isolinux>(options(false)).expect_err("no programs").to_string();
        assert!(error.contains("usr/share/syslinux/isolinux.bin`: No such file"), "{error}");
        let mut fixture = Fixture::new();
        prepare(&mut fixture);
        fs::remove_file(fixture.tree().join("images/pxeboot/initrd.img")).expect("removed");
        let error = fixture.run::<Isolinux>(options(false)).expect_err("no file").to_string();
        assert!(error.contains("images/pxeboot/initrd.img`: No such file"), "{error}");
    }
}
