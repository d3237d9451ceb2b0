//! `org.osbuild.parted`

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::stage_devices;

/// Writes a GUID partition table to the device `device`.
///
/// Runs `parted` of the build root, which gives the table and the partitions random UUIDs; `org.osbuild.sfdisk` and
/// `org.osbuild.sgdisk` can be told them. Nothing is aligned but by what the manifest says.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// Type of the partition table.
    label: Label,
    /// Partitions in the order of the table.
    partitions: Option<Vec<Partition>>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Label {
    /// GUID partition table.
    Gpt,
}

/// A partition.
#[derive(Deserialize, JsonSchema)]
struct Partition {
    /// Whether the flag `boot` is set, which makes it an EFI system partition.
    bootable: Option<bool>,
    /// Name.
    name: Option<String>,
    /// Size in sectors; needed.
    size: Option<i64>,
    /// First sector; needed.
    start: Option<i64>,
    /// The flag of `parted` that says the partition's type, as `esp`, `bios_grub` or `lvm`.
    r#type: Option<String>,
}

impl Options {
    /// What `parted` is told to do.
    fn commands(&self) -> Result<Vec<String>, ModuleError> {
        let Label::Gpt = self.label;
        let mut commands = ["unit", "s", "mklabel", "gpt"].map(str::to_owned).to_vec();
        for (index, partition) in self.partitions.iter().flatten().enumerate() {
            partition.add_to(&mut commands, index)?;
        }
        Ok(commands)
    }
}

impl Partition {
    fn add_to(&self, commands: &mut Vec<String>, index: usize) -> Result<(), ModuleError> {
        let option = |field: &str| format!("partitions[{index}].{field}");
        let refuse = |field: &str, reason: &str| Err(ModuleError::option(option(field), reason));
        let needed = |field: &str, value: Option<i64>| match value {
            Some(number) => Ok(number),
            None => refuse(field, "is missing").map(|()| 0),
        };
        let (start, size) = (needed("start", self.start)?, needed("size", self.size)?);
        let Some(end) = start.checked_add(size).map(|end| end - 1).filter(|end| *end >= start && start >= 0)
        else {
            return refuse("size", "must be at least one sector, and the first sector not less than zero");
        };
        let name = self.name.as_deref().unwrap_or_default();
        // Within quotation marks, `parted` takes everything else as it is.
        if name.contains(['"', '\\']) {
            return refuse("name", "must contain neither quotation marks nor backslashes");
        }
        commands.extend(["mkpart".to_owned(), format!("\"{name}\""), start.to_string(), end.to_string()]);
        let mut set = |flag: &str| {
            commands.extend(["set".to_owned(), (index + 1).to_string(), flag.to_owned(), "on".to_owned()]);
        };
        if self.bootable == Some(true) {
            set("boot");
        }
        if let Some(flag) = self.r#type.as_deref().filter(|flag| !flag.is_empty()) {
            set(flag);
        }
        Ok(())
    }
}

pub(crate) struct Parted;

impl Stage for Parted {
    const NAME: &'static str = "org.osbuild.parted";
    type Options = Options;

    fn schema() -> ModuleSchema {
        stage_devices::schema::<Options>()
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let device = stage_devices::device(context)?.to_owned();
        let commands = options.commands()?;
        // Names are UTF-8, whatever the locale; in another one, `parted` does not write them.
        let parted = || {
            let run = Run::new("parted").env("LC_ALL", "C.UTF-8");
            run.args(["-a", "none", "-s"]).arg(&device).arg("--")
        };
        parted().args(commands).run()?;
        Ok(parted().arg("print").run()?)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::run_reference;
    use crate::stage_test;

    fn four() -> Value {
        json!({"label": "gpt", "partitions": [
            {"name": "bios boot", "start": 2048, "size": 2048, "type": "bios_grub"},
            {"name": "EFI: \u{fc}", "start": 4096, "size": 8192, "bootable": true},
            {"name": "lvm", "start": 12288, "size": 4001, "type": "lvm", "bootable": false},
            {"name": "it's", "start": 16289, "size": 1},
        ]})
    }

    fn with(partition: &Value) -> Value {
        json!({"label": "gpt", "partitions": [partition]})
    }

    /// What is in a table but what `parted` makes up.
    fn table(path: &Path) -> Value {
        let name = path.to_str().expect("UTF-8").to_owned();
        let text = stage_test::output("sfdisk", &["--json"], path);
        // After a digit there is a `p` before the number.
        let text = text.replace(&name, "DISK").replace("DISKp", "DISK");
        let mut table: Value = serde_json::from_str(&text).expect("JSON");
        let mut table = table["partitiontable"].take();
        table["id"].take();
        for partition in table["partitions"].as_array_mut().expect("partitions") {
            partition["uuid"].take();
        }
        table
    }

    #[test]
    fn schema() {
        Agreement::stage::<Parted>()
            .accepts([four(), json!({"label": "gpt"}), with(&json!({"more": 1}))])
            .refuses([
                json!({}),
                json!({"label": "dos"}),
                json!({"label": "gpt", "uuid": "x"}),
                with(&json!({"size": "1M"})),
                with(&json!({"bootable": 1})),
            ]);
    }

    #[test]
    fn partitions_become_commands() {
        let options: Options = serde_json::from_value(four()).expect("valid");
        let commands = options.commands().expect("valid").join(" ");
        assert_eq!(
            commands,
            "unit s mklabel gpt mkpart \"bios boot\" 2048 4095 set 1 bios_grub on \
             mkpart \"EFI: \u{fc}\" 4096 12287 set 2 boot on mkpart \"lvm\" 12288 16288 set 3 lvm on \
             mkpart \"it's\" 16289 16289"
        );
    }

    #[test]
    fn tables_are_written() {
        let image = stage_test::run_on_file::<Parted>(16 << 20, &four()).expect("parted");
        let table = table(image.path());
        let partitions = table["partitions"].as_array().expect("partitions");
        let types: Vec<_> = partitions.iter().map(|partition| &partition["type"]).collect();
        assert_eq!(
            types,
            [
                "21686148-6449-6E6F-744E-656564454649",
                "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
                "E6D6D379-F507-44C2-A23C-238F2A3DF928",
                "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
            ]
        );
        let expected = [
            ("bios boot", 2048, 2048),
            ("EFI: \u{fc}", 4096, 8192),
            ("lvm", 12288, 4001),
            ("it's", 16289, 1),
        ];
        for (partition, (name, start, size)) in partitions.iter().zip(expected) {
            assert_eq!(
                (&partition["name"], &partition["start"], &partition["size"]),
                (&json!(name), &json!(start), &json!(size))
            );
        }
        let image = stage_test::run_on_file::<Parted>(16 << 20, &with(&json!({"start": 64, "size": 8})))
            .expect("parted");
        assert_eq!(self::table(image.path())["partitions"][0].get("name"), None);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let cases = [
            (json!({"size": 1}), "invalid option `partitions[0].start`: is missing"),
            (json!({"start": 2048}), "invalid option `partitions[0].size`: is missing"),
            (
                json!({"start": 2048, "size": 0}),
                "invalid option `partitions[0].size`: must be at least one sector, and the first sector not less than \
                 zero",
            ),
            (
                json!({"start": 2048, "size": i64::MAX}),
                "invalid option `partitions[0].size`: must be at least one sector, and the first sector not less than \
                 zero",
            ),
            (
                json!({"start": 2048, "size": 1, "name": "a\" 0 1"}),
                "invalid option `partitions[0].name`: must contain neither quotation marks nor backslashes",
            ),
        ];
        for (partition, expected) in cases {
            let error = stage_test::run_on_file::<Parted>(16 << 20, &with(&partition)).expect_err("refused");
            assert_eq!(error.to_string(), expected);
        }
        let options = with(&json!({"start": 2048, "size": 1 << 30}));
        let error = stage_test::run_on_file::<Parted>(16 << 20, &options).expect_err("too large").to_string();
        assert!(error.starts_with("`parted` failed with exit status 1"), "{error}");
    }

    #[test]
    fn tables_are_equal_to_the_references() {
        let ours = stage_test::run_on_file::<Parted>(16 << 20, &four()).expect("parted");
        let theirs = tempfile::NamedTempFile::new().expect("temporary file");
        theirs.as_file().set_len(16 << 20).expect("set size");
        let arguments = json!({"devices": {"device": {"path": theirs.path()}}, "options": four()});
        let Some((succeeded, said)) = run_reference(Parted::NAME, &arguments) else { return };
        assert!(succeeded, "{said}");
        assert_eq!(table(ours.path()), table(theirs.path()));
    }
}
