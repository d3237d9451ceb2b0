//! `org.osbuild.fstab`

use std::fmt::Write as _;
use std::io::Write as _;

use kiln_api::ModuleError;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::number::Number;
use crate::support::ostree::Deployment;
use crate::support::root::Root;

/// The file, below the tree or the deployment.
const FILE: &str = "etc/fstab";

/// Writes `/etc/fstab`.
///
/// Entries come in the given order; what the file held before is lost. Each entry names its file system in exactly
/// one way: `uuid`, `label`, `partlabel` or `device`. Values are written as they are: blanks must be given as `\040`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The entries.
    filesystems: Vec<Entry>,
    /// Writes the file of an OSTree deployment in the tree instead.
    ostree: Option<Ostree>,
}

/// One entry.
#[derive(Deserialize, JsonSchema)]
#[schemars(extend("oneOf" = [
    {"required": ["device", "path"]},
    {"required": ["uuid", "path"]},
    {"required": ["label", "path"]},
    {"required": ["partlabel", "path"]},
]))]
struct Entry {
    /// The UUID of the file system.
    #[serde(default)]
    uuid: String,
    /// The label of the file system.
    #[serde(default)]
    label: String,
    /// The label of the partition.
    #[serde(default)]
    partlabel: String,
    /// The device node, or another specification that `fstab` knows.
    #[serde(default)]
    device: String,
    /// The mount point.
    path: String,
    /// The type of the file system.
    #[serde(default = "none")]
    vfs_type: String,
    /// The mount options, separated by commas.
    #[serde(default = "defaults")]
    options: String,
    /// The days between dumps.
    #[serde(default = "zero")]
    freq: Number,
    /// The turn in which the file system is checked at boot; 0 is never.
    #[serde(default = "zero")]
    passno: Number,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Ostree {
    deployment: Deployment,
}

pub(crate) struct Fstab;

impl Stage for Fstab {
    const NAME: &'static str = "org.osbuild.fstab";
    type Options = Options;

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let directory = match options.ostree {
            None => context.tree().to_owned(),
            Some(ostree) => {
                let root = ostree.deployment.root(context.tree())?;
                context.say(format_args!("ostree support active: {}", root.display()));
                root
            }
        };
        let mut text = String::new();
        for (index, entry) in options.filesystems.iter().enumerate() {
            let what = specification(entry).ok_or_else(|| {
                let reason = "one of `uuid`, `label`, `partlabel` and `device` must have a value";
                ModuleError::option(format!("filesystems[{index}]"), reason)
            })?;
            let Entry { path, vfs_type, options, freq, passno, .. } = entry;
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{what}\t{path}\t{vfs_type}\t{options}\t{freq}\t{passno}");
        }
        let root = Root::open(&directory)?;
        root.create(FILE)?.write_all(text.as_bytes()).map_err(ModuleError::io("write", root.shown(FILE)))
    }
}

fn specification(entry: &Entry) -> Option<String> {
    [("UUID=", &entry.uuid), ("LABEL=", &entry.label), ("PARTLABEL=", &entry.partlabel), ("", &entry.device)]
        .into_iter()
        .find(|(_, value)| !value.is_empty())
        .map(|(prefix, value)| format!("{prefix}{value}"))
}

fn none() -> String {
    "none".to_owned()
}

fn defaults() -> String {
    "defaults".to_owned()
}

fn zero() -> Number {
    Number::from(0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::{Fixture, side_by_side};

    fn one(entry: &Value) -> Value {
        json!({"filesystems": [entry]})
    }

    #[test]
    fn schema_agrees() {
        let deployment = |deployment: Value| json!({"filesystems": [], "ostree": {"deployment": deployment}});
        Agreement::stage::<Fstab>()
            .accepts([
                json!({"filesystems": []}),
                one(&json!({"uuid": "a", "path": "/"})),
                one(&json!({"label": "a", "path": "/", "vfs_type": "ext4", "options": "ro", "freq": 1, "passno": 1.5})),
                one(&json!({"partlabel": "a", "path": "/", "ignored": 1})),
                one(&json!({"device": "", "path": "none"})),
                deployment(json!({"osname": "a", "ref": "b", "serial": 1})),
                deployment(json!({"osname": "a", "ref": "b", "default": false})),
                deployment(json!({"default": true})),
            ])
            .refuses([
                json!({}),
                one(&json!({"path": "/"})),
                one(&json!({"uuid": "a"})),
                one(&json!({"uuid": "a", "label": "b", "path": "/"})),
                one(&json!({"uuid": "a", "path": "/", "passno": "1"})),
                json!({"filesystems": [], "ostree": {}}),
                deployment(json!({"osname": "a"})),
                deployment(json!({"osname": "a", "ref": "b", "default": true})),
                deployment(json!({"default": true, "serial": 0})),
                deployment(json!({"default": true, "more": 0})),
            ]);
        Agreement::stage::<Fstab>().member("inputs").refuses([json!({})]);
    }

    fn full() -> Value {
        json!({"filesystems": [
            {"uuid": "6699-AFB5", "path": "/boot/efi", "vfs_type": "vfat", "options": "umask=0077", "passno": 2},
            {"label": "root", "path": "/", "vfs_type": "ext4", "freq": 1, "passno": 1},
            {"partlabel": "swap", "path": "none"},
            {"device": "/dev/sdb", "path": "/data", "freq": 1.5},
        ]})
    }

    #[test]
    fn entries_are_written_in_order() {
        let fixture = Fixture::new();
        fixture.file(FILE, "# old\n");
        fixture.run::<Fstab>(full()).expect("written");
        let expected = "UUID=6699-AFB5\t/boot/efi\tvfat\tumask=0077\t0\t2\n\
                        LABEL=root\t/\text4\tdefaults\t1\t1\n\
                        PARTLABEL=swap\tnone\tnone\tdefaults\t0\t0\n\
                        /dev/sdb\t/data\tnone\tdefaults\t1.5\t0\n";
        assert_eq!(std::fs::read_to_string(fixture.tree().join(FILE)).expect("written"), expected);
        let error =
            fixture.run::<Fstab>(one(&json!({"device": "", "path": "/"}))).expect_err("nothing to mount");
        assert!(error.to_string().contains("`filesystems[0]`"), "{error}");
    }

    #[test]
    fn trees_equal_the_reference() {
        let empty = one(&json!({"uuid": "", "path": "/"}));
        let ostree = json!({"filesystems": [], "ostree": {"deployment": {"default": true}}});
        for options in [full(), json!({"filesystems": []}), empty, ostree] {
            side_by_side::<Fstab>(|_| {}, &options);
            side_by_side::<Fstab>(
                |fixture| {
                    fixture.file(FILE, "# old\n");
                },
                &options,
            );
        }
    }

    #[test]
    fn an_absolute_link_means_the_tree() {
        let fixture = Fixture::new();
        fixture.file("real/.keep", "");
        std::os::unix::fs::symlink("/real", fixture.tree().join("etc")).expect("a link");
        fixture.run::<Fstab>(json!({"filesystems": []})).expect("written");
        assert!(fixture.tree().join("real/fstab").is_file());
    }
}
