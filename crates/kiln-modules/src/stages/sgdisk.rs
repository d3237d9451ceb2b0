//! `org.osbuild.sgdisk`

use std::collections::BTreeSet;

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::stage_devices::{self, flag};

/// The attribute of a partition that a BIOS may boot from.
const LEGACY_BIOS_BOOTABLE: i64 = 2;

/// Writes a GUID partition table to the device `device`.
///
/// Runs `sgdisk` of the build root, which is told everything at once. Starts and sizes are in sectors; what is left out (or
/// zero) is chosen by `sgdisk`: a partition starts where the largest gap does, and fills it. A partition without a UUID gets
/// a random one.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// UUID of the partition table.
    uuid: String,
    /// Whether names are written with quotation marks around them, as they always were once.
    #[serde(default = "yes")]
    quote_partition_name: bool,
    /// Type of the partition table: there is one.
    #[serde(rename = "label")]
    _label: Option<Label>,
    /// Partitions in the order in which they are made.
    partitions: Option<Vec<Partition>>,
}

const fn yes() -> bool {
    true
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
    /// Whether a BIOS may boot from it: attribute 2.
    bootable: Option<bool>,
    /// Name.
    name: Option<String>,
    /// Number, from one; without it, the place in the list counts.
    partnum: Option<i64>,
    /// Size in sectors.
    size: Option<i64>,
    /// First sector; less than zero, it is counted from the end of the largest gap.
    start: Option<i64>,
    /// Type: a UUID, or a code of `sgdisk` (`EF00`); `8300`, Linux, if nothing is said.
    r#type: Option<String>,
    /// UUID.
    uuid: Option<String>,
    /// Numbers of the attributes that are set.
    #[schemars(length(max = 64), inner(range(min = 0, max = 63)), extend("uniqueItems" = true))]
    attrs: Option<Vec<i64>>,
}

impl Options {
    /// The arguments after the device.
    fn arguments(&self) -> Result<Vec<String>, ModuleError> {
        let mut arguments = vec!["-g".to_owned()];
        arguments.extend(flag("-U", Some(&self.uuid)));
        for (index, partition) in self.partitions.iter().flatten().enumerate() {
            partition.add_to(&mut arguments, index, self.quote_partition_name)?;
        }
        Ok(arguments)
    }
}

impl Partition {
    fn add_to(&self, arguments: &mut Vec<String>, index: usize, quoted: bool) -> Result<(), ModuleError> {
        let refuse = |field: &str, reason: &str| {
            Err(ModuleError::option(format!("partitions[{index}].{field}"), reason))
        };
        let number = match self.partnum.filter(|number| *number != 0) {
            Some(number) => number.to_string(),
            None => (index + 1).to_string(),
        };
        let end = match self.size.filter(|size| *size != 0) {
            Some(size) if size < 0 => return refuse("size", "must not be less than zero"),
            Some(size) => format!("+{size}"),
            None => "0".to_owned(),
        };
        let mut add = |flag: &str, value: String| {
            arguments.extend([flag.to_owned(), format!("{number}:{value}")]);
        };
        add("-n", format!("{}:{end}", self.start.unwrap_or(0)));
        if let Some(name) = given(self.name.as_ref()) {
            if name.contains(':') {
                return refuse("name", "must not contain a colon: `sgdisk` cuts names there");
            }
            add("-c", if quoted { format!("\"{name}\"") } else { name.to_owned() });
        }
        for (flag, value) in [("-u", &self.uuid), ("-t", &self.r#type)] {
            if let Some(value) = given(value.as_ref()) {
                add(flag, value.to_owned());
            }
        }
        for attribute in self.attributes() {
            add("-A", format!("set:{attribute}"));
        }
        Ok(())
    }

    fn attributes(&self) -> BTreeSet<i64> {
        let bootable = (self.bootable == Some(true)).then_some(LEGACY_BIOS_BOOTABLE);
        self.attrs.iter().flatten().copied().chain(bootable).collect()
    }
}

/// A text that is not empty.
fn given(text: Option<&String>) -> Option<&str> {
    text.map(String::as_str).filter(|text| !text.is_empty())
}

pub(crate) struct Sgdisk;

impl Stage for Sgdisk {
    const NAME: &'static str = "org.osbuild.sgdisk";
    type Options = Options;

    fn schema() -> ModuleSchema {
        stage_devices::schema::<Options>()
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let device = stage_devices::device(context)?.to_owned();
        Run::new("sgdisk").arg("-Z").arg(&device).args(options.arguments()?).run()?;
        Ok(Run::new("sgdisk").arg("-p").arg(&device).run()?)
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

    const TABLE: &str = "D209C89E-EA5E-4FBD-B161-B461CCE297E0";
    const PARTITION: &str = "FAC7F1FB-3E8D-4137-A512-961DE09A5549";
    const BIOS_BOOT: &str = "21686148-6449-6E6F-744E-656564454649";

    fn two() -> Value {
        json!({"uuid": TABLE, "label": "gpt", "partitions": [
            {"bootable": true, "size": 2048, "start": 2048, "type": BIOS_BOOT, "uuid": PARTITION, "name": "bios boot"},
            {"partnum": 5, "start": 8192, "type": "8200", "uuid": PARTITION.replace("FAC7", "0000"), "name": ""},
        ]})
    }

    fn arguments(options: Value) -> Result<String, ModuleError> {
        let options: Options = serde_json::from_value(options).expect("valid");
        options.arguments().map(|arguments| arguments.join(" "))
    }

    fn table(path: &Path) -> Value {
        let name = path.to_str().expect("UTF-8").to_owned();
        let text = stage_test::output("sfdisk", &["--json"], path);
        // After a digit there is a `p` before the number.
        let text = text.replace(&name, "DISK").replace("DISKp", "DISK");
        let mut table: Value = serde_json::from_str(&text).expect("JSON");
        table["partitiontable"].take()
    }

    #[test]
    fn schema() {
        let with = |partition: Value| json!({"uuid": TABLE, "partitions": [partition]});
        Agreement::stage::<Sgdisk>()
            .accepts([
                two(),
                json!({"uuid": TABLE, "quote_partition_name": false}),
                with(json!({"attrs": [0, 2, 63], "more": 1})),
            ])
            .refuses([
                json!({}),
                json!({"uuid": TABLE, "label": "dos"}),
                json!({"uuid": TABLE, "quote_partition_name": 0}),
                with(json!({"attrs": [64]})),
                with(json!({"attrs": [1, 1]})),
                with(json!({"size": "1M"})),
            ]);
    }

    #[test]
    fn partitions_become_arguments() {
        let first =
            format!("-n 1:2048:+2048 -c 1:\"bios boot\" -u 1:{PARTITION} -t 1:{BIOS_BOOT} -A 1:set:2");
        let second = format!("-n 5:8192:0 -u 5:{} -t 5:8200", PARTITION.replace("FAC7", "0000"));
        assert_eq!(arguments(two()).expect("valid"), format!("-g -U {TABLE} {first} {second}"));
        let options = json!({"uuid": "", "quote_partition_name": false, "partitions": [
            {}, {"name": "a b", "attrs": [60, 2, 1], "bootable": true}
        ]});
        let expected = "-g -n 1:0:0 -n 2:0:0 -c 2:a b -A 2:set:1 -A 2:set:2 -A 2:set:60";
        assert_eq!(arguments(options).expect("valid"), expected);
        for (partition, expected) in [
            (json!({"name": "a:b"}), "name`: must not contain a colon: `sgdisk` cuts names there"),
            (json!({"size": -1}), "size`: must not be less than zero"),
        ] {
            let error = arguments(json!({"uuid": TABLE, "partitions": [partition]})).expect_err("refused");
            assert_eq!(error.to_string(), format!("invalid option `partitions[0].{expected}"));
        }
    }

    #[test]
    fn tables_are_written() {
        let mut options = two();
        options["partitions"][0]["attrs"] = json!([60, 2]);
        let image = stage_test::run_on_file::<Sgdisk>(16 << 20, &options).expect("sgdisk");
        let found = table(image.path());
        assert_eq!((&found["label"], &found["id"]), (&json!("gpt"), &json!(TABLE)));
        assert_eq!(
            found["partitions"][0],
            json!({"node": "DISK1", "start": 2048, "size": 2048, "type": BIOS_BOOT, "uuid": PARTITION,
                   "name": "\"bios boot\"", "attrs": "LegacyBIOSBootable GUID:60"})
        );
        let second = &found["partitions"][1];
        assert_eq!((&second["node"], &second["start"]), (&json!("DISK5"), &json!(8192)));
        assert_eq!(second["type"], "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F");
        assert!(second["size"].as_i64() > Some(20_000), "all that is left: {second}");

        let options = json!({"uuid": TABLE});
        let image = stage_test::run_on_file::<Sgdisk>(16 << 20, &options).expect("sgdisk");
        assert_eq!(table(image.path())["id"], TABLE);
    }

    #[test]
    fn failures_are_in_the_words_of_sgdisk() {
        let with = |partition: Value| json!({"uuid": TABLE, "partitions": [partition]});
        for (options, expected) in [
            (with(json!({"size": 1 << 30})), "Could not create partition 1"),
            (with(json!({"type": "nonsense"})), "Could not change partition 1's type code to nonsense!"),
        ] {
            let error =
                stage_test::run_on_file::<Sgdisk>(16 << 20, &options).expect_err("refused").to_string();
            assert!(error.starts_with("`sgdisk` failed with exit status 4: "), "{error}");
            assert!(error.contains(expected), "{error}");
        }
    }

    /// Without `attrs`: a list of them is an error there.
    #[test]
    fn tables_are_equal_to_the_references() {
        for quoted in [true, false] {
            let mut options = two();
            options["quote_partition_name"] = json!(quoted);
            let ours = stage_test::run_on_file::<Sgdisk>(16 << 20, &options).expect("sgdisk");
            let theirs = tempfile::NamedTempFile::new().expect("temporary file");
            theirs.as_file().set_len(16 << 20).expect("set size");
            let arguments = json!({"devices": {"device": {"path": theirs.path()}}, "options": options});
            let Some((succeeded, said)) = run_reference(Sgdisk::NAME, &arguments) else { return };
            assert!(succeeded, "{said}");
            assert_eq!(table(ours.path()), table(theirs.path()));
        }
    }
}
