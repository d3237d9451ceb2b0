//! `org.osbuild.fix-bls`

use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::boot_entries;
use crate::support::root::Root;

/// The directory whose paths are changed.
const BOOT: &str = "/boot";

/// Corrects paths in the entries of the boot menu that begin with where the tree was when they were made.
///
/// Tools that install kernels look at what is mounted to tell the path of `/boot` on its file system, and find that of
/// the tree in the build root. In each line of `/boot/loader/entries/*.conf`, what is between the first `/` and the end
/// of the last `/boot` becomes the prefix.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// What `/boot` is on the file system that the entries are on: `/boot`, or nothing if it is a file system of its own.
    #[serde(default = "default_prefix")]
    prefix: String,
    /// Whether only paths are changed that have something before `/boot`.
    #[serde(default = "yes")]
    require_boot_prefix: bool,
}

pub(crate) struct FixBls;

impl Stage for FixBls {
    const NAME: &'static str = "org.osbuild.fix-bls";
    type Options = Options;

    fn schema() -> ModuleSchema {
        ModuleSchema { options_optional: true, ..ModuleSchema::of::<Options>() }
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let tree = Root::open(context.tree())?;
        for entry in boot_entries::find(&tree, Path::new(BOOT))? {
            boot_entries::change(&tree, &entry, |text| {
                text.split_inclusive('\n').map(|line| correct(line, &options)).collect()
            })?;
        }
        Ok(())
    }
}

fn correct(line: &str, options: &Options) -> String {
    let change = || {
        let first = line.find('/')?;
        let last = line.rfind(BOOT)?;
        let least = if options.require_boot_prefix { first + 1 } else { first };
        let (before, after) = (line.get(..first)?, line.get(last + BOOT.len()..)?);
        (last >= least).then(|| format!("{before}{}{after}", options.prefix))
    };
    change().unwrap_or_else(|| line.to_owned())
}

fn default_prefix() -> String {
    BOOT.to_owned()
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::{Fixture, side_by_side};

    #[test]
    fn schema_agrees() {
        Agreement::stage::<FixBls>()
            .accepts([
                json!({}),
                json!({"prefix": ""}),
                json!({"prefix": "/boot", "require_boot_prefix": false}),
            ])
            .refuses([json!({"prefix": 1}), json!({"require_boot_prefix": "no"}), json!({"other": ""})]);
        Agreement::stage::<FixBls>().member("inputs").refuses([json!({})]);
    }

    const LINES: &[&str] = &[
        "title no path",
        "linux /run/osbuild/tree/boot/vmlinuz",
        "linux /boot/vmlinuz",
        "initrd /vmlinuz",
        "initrd /boot/initrd /boot/other",
        "linux /a/boot/b /c/boot/d/boot",
        "options root=/dev/sda1 x=/boot",
        "efi /bootable /x/bootable",
        "boot//boot",
        "linux /boot/a/boo",
        "/boo/t/boot",
        "title ü /ü/boot/ü",
        "",
    ];

    fn prepare(fixture: &mut Fixture) {
        fixture.file("boot/loader/entries/a.conf", &LINES.join("\n"));
        fixture.file("boot/loader/entries/b.conf", "linux /tree/boot/b\n");
        fixture.file("boot/loader/entries/.hidden.conf", "linux /tree/boot/b\n");
        fixture.file("boot/loader/entries/b.txt", "linux /tree/boot/b\n");
    }

    fn cases() -> Vec<Value> {
        vec![
            json!({}),
            json!({"prefix": ""}),
            json!({"prefix": "/other/place", "require_boot_prefix": true}),
            json!({"prefix": "", "require_boot_prefix": false}),
            json!({"require_boot_prefix": false}),
        ]
    }

    #[test]
    fn trees_equal_the_reference() {
        for options in cases() {
            side_by_side::<FixBls>(prepare, &options);
            side_by_side::<FixBls>(|_| {}, &options);
        }
    }

    #[test]
    fn paths_of_the_build_root_go() {
        let corrected = |line: &str, options: Value| {
            correct(line, &serde_json::from_value(options).expect("valid options"))
        };
        let line = "linux /run/osbuild/tree/boot/vmlinuz\n";
        assert_eq!(corrected(line, json!({})), "linux /boot/vmlinuz\n");
        assert_eq!(corrected(line, json!({"prefix": ""})), "linux /vmlinuz\n");
        let plain = "linux /boot/vmlinuz";
        assert_eq!(corrected(plain, json!({"prefix": ""})), plain);
        assert_eq!(corrected(plain, json!({"prefix": "", "require_boot_prefix": false})), "linux /vmlinuz");
    }

    #[test]
    fn what_is_no_text_is_an_error_and_stays() {
        let mut fixture = Fixture::new();
        prepare(&mut fixture);
        let entry = fixture.tree().join("boot/loader/entries/c.conf");
        fs::write(&entry, b"linux /tree/boot/\xff").expect("written");
        let error = fixture.run::<FixBls>(json!({})).expect_err("no text").to_string();
        assert!(error.starts_with("cannot read `") && error.contains("/c.conf`"), "{error}");
        assert_eq!(fs::read(&entry).expect("there"), b"linux /tree/boot/\xff");
    }
}
