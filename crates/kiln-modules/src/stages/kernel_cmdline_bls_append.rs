//! `org.osbuild.kernel-cmdline.bls-append`

use kiln_api::ModuleError;
use kiln_api::location::Location;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::boot_entries;
use crate::support::root::Root;

/// Appends parameters to the kernel's command line in every entry of the boot menu.
///
/// The entries are the files `loader/entries/*.conf` of the Boot Loader Specification; at least one is expected. The
/// parameters go to the end of the first line with `options`, or onto a new one.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The parameters.
    kernel_opts: Vec<String>,
    /// Where the file system for booting is: `tree:///path`, or `mount:///path` if it is mounted.
    #[serde(default = "default_boot")]
    #[schemars(extend("pattern" = "^(mount|tree):///"))]
    bootpath: String,
}

pub(crate) struct KernelCmdlineBlsAppend;

impl Stage for KernelCmdlineBlsAppend {
    const NAME: &'static str = "org.osbuild.kernel-cmdline.bls-append";
    type Options = Options;

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let boot = Location::parse(&options.bootpath, &context.arguments)?;
        let root = Root::open(&boot.root)?;
        let entries = boot_entries::find(&root, &boot.path)?;
        if entries.is_empty() {
            let place = root.shown(boot.path.join("loader/entries"));
            let reason = format!("there is no entry of a boot menu: `{}/*.conf`", place.display());
            return Err(ModuleError::option("bootpath", reason));
        }
        let parameters = options.kernel_opts.join(" ");
        for entry in entries {
            boot_entries::change(&root, &entry, |text| append(text, &parameters))?;
        }
        Ok(())
    }
}

fn append(text: &str, parameters: &str) -> String {
    let mut changed = String::new();
    let mut found = false;
    for line in text.lines() {
        changed.push_str(line);
        if !found && line.starts_with("options ") {
            changed = changed + " " + parameters;
            found = true;
        }
        changed.push('\n');
    }
    if !found {
        changed = changed + "options " + parameters + "\n";
    }
    changed
}

fn default_boot() -> String {
    "tree:///boot".to_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use serde_json::{Value, json};

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::{Fixture, side_by_side};

    fn at(boot: &str) -> Value {
        json!({"kernel_opts": ["console=ttyS0", "quiet"], "bootpath": boot})
    }

    #[test]
    fn schema_agrees() {
        Agreement::stage::<KernelCmdlineBlsAppend>()
            .accepts([json!({"kernel_opts": []}), at("tree:///"), at("mount:///boot")])
            .refuses([
                json!({}),
                json!({"kernel_opts": "quiet"}),
                json!({"kernel_opts": [1]}),
                at("/boot"),
                at("mount://root/boot"),
                at("input:///boot"),
            ]);
        Agreement::stage::<KernelCmdlineBlsAppend>().member("inputs").refuses([json!({})]);
        Agreement::stage::<KernelCmdlineBlsAppend>().member("mounts").accepts([json!([{"name": "x"}])]);
        Agreement::stage::<KernelCmdlineBlsAppend>().member("devices").accepts([json!({"x": {}})]);
    }

    fn prepare(fixture: &mut Fixture) {
        for (name, text) in [
            ("a.conf", "title A\noptions root=/dev/sda1 ro\nlinux /vmlinuz\n"),
            ("b.conf", "title B\nlinux /vmlinuz"),
            ("c.conf", "options a\noptions b\noptionsX c\n options d\n"),
            ("d.conf", ""),
            ("e.conf", "options\r\n\noptions \n"),
            (".hidden.conf", "options hidden\n"),
            ("conf", "options other\n"),
        ] {
            fixture.file(&format!("boot/loader/entries/{name}"), text);
        }
        let mount = fixture.mount("root");
        fs::create_dir_all(mount.join("loader/entries")).expect("a directory");
        fs::write(mount.join("loader/entries/m.conf"), "options m\n").expect("a file");
        fixture.file("empty/loader/entries/.keep", "");
    }

    #[test]
    fn trees_equal_the_reference() {
        for options in [
            json!({"kernel_opts": ["console=ttyS0", "quiet"]}),
            json!({"kernel_opts": []}),
            at("tree:///boot/"),
            at("mount:///root"),
            at("mount:///"),
            at("tree:///empty"),
            at("tree:///missing"),
        ] {
            side_by_side::<KernelCmdlineBlsAppend>(prepare, &options);
        }
    }

    #[test]
    fn mode_and_owner_of_entries_stay() {
        let mut fixture = Fixture::new();
        prepare(&mut fixture);
        let entry = fixture.tree().join("boot/loader/entries/a.conf");
        fs::set_permissions(&entry, fs::Permissions::from_mode(0o600)).expect("a mode");
        let before = entry.metadata().expect("there");
        fixture.run::<KernelCmdlineBlsAppend>(json!({"kernel_opts": ["x"]})).expect("appended");
        let after = entry.metadata().expect("there");
        assert_eq!((after.mode(), after.uid(), after.ino()), (before.mode(), before.uid(), before.ino()));
        assert_eq!(
            fs::read_to_string(&entry).expect("there"),
            "title A\noptions root=/dev/sda1 ro x\nlinux /vmlinuz\n"
        );
    }

    #[test]
    fn an_absolute_link_means_the_tree_and_no_entry_is_an_error() {
        let mut fixture = Fixture::new();
        prepare(&mut fixture);
        symlink("/boot", fixture.tree().join("link")).expect("a link");
        fixture.run::<KernelCmdlineBlsAppend>(at("tree:///link")).expect("appended");
        let text = fs::read_to_string(fixture.tree().join("boot/loader/entries/b.conf")).expect("there");
        assert_eq!(text, "title B\nlinux /vmlinuz\noptions console=ttyS0 quiet\n");
        let error = fixture.run::<KernelCmdlineBlsAppend>(at("tree:///empty")).expect_err("none").to_string();
        assert!(error.ends_with("/tree/empty/loader/entries/*.conf`"), "{error}");
    }
}
