//! `org.osbuild.sfdisk`
//!
//! The partition table is handed to `sfdisk` as a script: a header (`label`, `label-id`) and one line of fields
//! per partition, in the manifest's order.

use std::fmt::Write;
use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::stage_devices;

/// Writes a partition table to the device `device`.
///
/// Runs `sfdisk` of the build root. The kernel is not told of the new table. Starts and sizes are in sectors; what is left
/// out (or zero) is chosen by `sfdisk`: a partition starts after the one before it and fills what is left.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// UUID of the partition table (GPT), or its 32-bit identifier, as `0x1234abcd` (MBR).
    uuid: String,
    /// Type of the partition table; `mbr` is another name of `dos`.
    label: Label,
    /// Partitions in the order of the table.
    partitions: Option<Vec<Partition>>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Label {
    /// Master boot record.
    Mbr,
    /// Master boot record.
    Dos,
    /// GUID partition table.
    Gpt,
}

/// A partition.
#[derive(Deserialize, JsonSchema)]
struct Partition {
    /// Whether the partition is marked as bootable (MBR).
    bootable: Option<bool>,
    /// Name (GPT).
    name: Option<String>,
    /// Number, from one; without it, the place in the list counts.
    partnum: Option<i64>,
    /// Size in sectors.
    size: Option<i64>,
    /// First sector.
    start: Option<i64>,
    /// Type: a UUID (GPT), a hexadecimal number (MBR), or an alias that `sfdisk` knows.
    r#type: Option<String>,
    /// UUID (GPT).
    uuid: Option<String>,
    /// Attribute bits (GPT): 0 (required), 1 (no block I/O protocol), 2 (legacy BIOS bootable), 48 to 63 (depending on
    /// the type). Other bits are reserved and not set.
    #[schemars(length(max = 64), inner(range(min = 0, max = 63)), extend("uniqueItems" = true))]
    attrs: Option<Vec<i64>>,
}

impl Options {
    /// The script for `sfdisk`.
    fn script(&self, device: &Path) -> Result<String, ModuleError> {
        let label = match self.label {
            Label::Mbr | Label::Dos => "dos",
            Label::Gpt => "gpt",
        };
        let mut script = format!("label: {label}\nlabel-id: {}", checked("uuid", &self.uuid)?);
        for (index, partition) in self.partitions.iter().flatten().enumerate() {
            let fields = partition.fields(index)?.join(", ");
            script.push('\n');
            if let Some(number) = partition.partnum.filter(|number| *number != 0) {
                // Only the number at the end counts for `sfdisk`.
                let _ = write!(script, "{}p{number}: ", device.display());
            }
            script.push_str(&fields);
        }
        Ok(script)
    }
}

impl Partition {
    fn fields(&self, index: usize) -> Result<Vec<String>, ModuleError> {
        let number = |value: Option<i64>| value.filter(|value| *value != 0).map(|value| value.to_string());
        let text = |field: &str, value: &Option<String>| {
            let value = value.as_deref().filter(|value| !value.is_empty());
            value
                .map(|value| checked(&format!("partitions[{index}].{field}"), value).map(str::to_owned))
                .transpose()
        };
        let values = [
            ("start", number(self.start)),
            ("size", number(self.size)),
            ("type", text("type", &self.r#type)?),
            ("name", text("name", &self.name)?),
            ("uuid", text("uuid", &self.uuid)?),
            ("attrs", self.attributes()),
        ];
        let mut fields: Vec<_> =
            values.into_iter().filter_map(|(field, value)| Some(format!("{field}=\"{}\"", value?))).collect();
        if self.bootable == Some(true) {
            fields.push("bootable".to_owned());
        }
        Ok(fields)
    }

    fn attributes(&self) -> Option<String> {
        let name = |bit: &i64| match bit {
            0 => Some("RequiredPartition".to_owned()),
            1 => Some("NoBlockIOProtocol".to_owned()),
            2 => Some("LegacyBIOSBootable".to_owned()),
            48..=63 => Some(bit.to_string()),
            _ => None,
        };
        let names: Vec<_> = self.attrs.iter().flatten().filter_map(name).collect();
        (!names.is_empty()).then(|| names.join(","))
    }
}

/// A value that cannot end its field or line.
fn checked<'a>(option: &str, value: &'a str) -> Result<&'a str, ModuleError> {
    if value.contains(['"', '\n', '\r', '\0']) {
        return Err(ModuleError::option(option, "must not contain quotes or line breaks"));
    }
    Ok(value)
}

/// Checks what `sfdisk --json` says against what was asked for.
fn check(table: &str, wanted: usize) -> Result<(), ModuleError> {
    let table: Value = serde_json::from_str(table)
        .map_err(|error| ModuleError::invalid(format!("`sfdisk --json` gave no JSON: {error}")))?;
    let found = table.pointer("/partitiontable/partitions").and_then(Value::as_array).map_or(0, Vec::len);
    if found != wanted {
        return Err(ModuleError::invalid(format!(
            "`sfdisk` wrote {found} of {wanted} partitions: two of them may have the same number"
        )));
    }
    Ok(())
}

pub(crate) struct Sfdisk;

impl Stage for Sfdisk {
    const NAME: &'static str = "org.osbuild.sfdisk";
    type Options = Options;

    fn schema() -> ModuleSchema {
        stage_devices::schema::<Options>()
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let device = stage_devices::device(context)?.to_owned();
        let script = options.script(&device)?;
        context.say(&script);
        Run::new("sfdisk").args(["-q", "--no-tell-kernel"]).arg(&device).input(script).run()?;
        let table = Run::new("sfdisk").arg("--json").arg(&device).output()?;
        let table = String::from_utf8_lossy(&table);
        context.say(table.trim_end());
        check(&table, options.partitions.iter().flatten().count())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::run_reference;
    use crate::stage_test;

    const TABLE: &str = "D209C89E-EA5E-4FBD-B161-B461CCE297E0";
    const PARTITION: &str = "FAC7F1FB-3E8D-4137-A512-961DE09A5549";
    const BIOS_BOOT: &str = "21686148-6449-6E6F-744E-656564454649";

    fn gpt() -> Value {
        json!({"uuid": TABLE, "label": "gpt", "partitions": [
            {"bootable": true, "size": 2048, "start": 2048, "type": BIOS_BOOT, "uuid": PARTITION, "attrs": [2, 60]},
            {"partnum": 5, "size": 4096, "name": "data one"},
            {"type": "0FC63DAF-8483-4772-8E79-3D69D8477DE4", "name": ""},
        ]})
    }

    fn dos() -> Value {
        json!({"uuid": "0x14fc63d2", "label": "dos", "partitions": [
            {"bootable": true, "size": 4096, "start": 2048, "type": "83"},
            {"size": 2048, "type": "82"},
        ]})
    }

    fn table(path: &Path) -> Value {
        let mut table: Value =
            serde_json::from_str(&stage_test::output("sfdisk", &["--json"], path)).expect("JSON");
        let name = path.to_str().expect("UTF-8").to_owned();
        let table = table["partitiontable"].take();
        let text = table.to_string().replace(&name, "DISK").replace("DISKp", "DISK");
        serde_json::from_str(&text).expect("JSON")
    }

    #[test]
    fn schema() {
        Agreement::stage::<Sfdisk>().accepts([gpt(), dos(), json!({"uuid": TABLE, "label": "mbr"})]).refuses(
            [
                json!({"uuid": TABLE}),
                json!({"uuid": TABLE, "label": "bsd"}),
                json!({"uuid": TABLE, "label": "gpt", "partitions": [{"attrs": [64]}]}),
                json!({"uuid": TABLE, "label": "gpt", "partitions": [{"attrs": [1, 1]}]}),
            ],
        );
    }

    #[test]
    fn the_script_has_one_line_per_partition() {
        let options: Options = serde_json::from_value(gpt()).expect("valid");
        insta::assert_snapshot!(options.script(Path::new("/dev/loop0")).expect("script"), @r#"
        label: gpt
        label-id: D209C89E-EA5E-4FBD-B161-B461CCE297E0
        start="2048", size="2048", type="21686148-6449-6E6F-744E-656564454649", uuid="FAC7F1FB-3E8D-4137-A512-961DE09A5549", attrs="LegacyBIOSBootable,60", bootable
        /dev/loop0p5: size="4096", name="data one"
        type="0FC63DAF-8483-4772-8E79-3D69D8477DE4"
        "#);
    }

    #[test]
    fn values_cannot_add_lines_or_fields() {
        let options = json!({"uuid": TABLE, "label": "gpt", "partitions": [{"name": "a\", size=\"1"}]});
        let options: Options = serde_json::from_value(options).expect("valid");
        let error = options.script(Path::new("/dev/loop0")).expect_err("quotes");
        assert_eq!(
            error.to_string(),
            "invalid option `partitions[0].name`: must not contain quotes or line breaks"
        );
    }

    #[test]
    fn gpt_tables_are_written() {
        let image = stage_test::run_on_file::<Sfdisk>(16 << 20, &gpt()).expect("sfdisk");
        let table = table(image.path());
        assert_eq!((&table["label"], &table["id"]), (&json!("gpt"), &json!(TABLE)));
        let partitions = table["partitions"].as_array().expect("partitions");
        assert_eq!(
            partitions[0],
            json!({"node": "DISK1", "start": 2048, "size": 2048, "type": BIOS_BOOT, "uuid": PARTITION,
                   "attrs": "LegacyBIOSBootable GUID:60"})
        );
        let numbers: Vec<_> = partitions.iter().map(|partition| &partition["node"]).collect();
        assert_eq!(numbers, ["DISK1", "DISK2", "DISK5"]);
        assert_eq!(partitions[2]["name"], "data one");
        assert_eq!(partitions[2]["size"], 4096);
    }

    #[test]
    fn dos_tables_are_written() {
        for label in ["dos", "mbr"] {
            let mut options = dos();
            options["label"] = json!(label);
            let image = stage_test::run_on_file::<Sfdisk>(16 << 20, &options).expect("sfdisk");
            assert_eq!(
                table(image.path()),
                json!({"label": "dos", "id": "0x14fc63d2", "device": "DISK", "unit": "sectors", "sectorsize": 512,
                       "partitions": [
                           {"node": "DISK1", "start": 2048, "size": 4096, "type": "83", "bootable": true},
                           {"node": "DISK2", "start": 6144, "size": 2048, "type": "82"}]})
            );
        }
    }

    #[test]
    fn a_table_without_partitions_is_a_table() {
        let options = json!({"uuid": TABLE, "label": "gpt"});
        let image = stage_test::run_on_file::<Sfdisk>(16 << 20, &options).expect("sfdisk");
        assert_eq!(table(image.path())["id"], TABLE);
    }

    #[test]
    fn partitions_that_do_not_fit_are_reported_in_the_words_of_sfdisk() {
        let options = json!({"uuid": TABLE, "label": "gpt", "partitions": [{"size": 1 << 30}]});
        let error = stage_test::run_on_file::<Sfdisk>(16 << 20, &options).expect_err("too large");
        assert!(error.to_string().starts_with("`sfdisk` failed with exit status 1: "), "{error}");
    }

    #[test]
    fn tables_are_equal_to_the_references() {
        // Every UUID is given: the tool makes up what is missing.
        let mut gpt = gpt();
        for (index, partition) in gpt["partitions"].as_array_mut().expect("array").iter_mut().enumerate() {
            partition["uuid"] = json!(format!("{index}{}", &PARTITION[1..]));
        }
        for options in [gpt, dos()] {
            let ours = stage_test::run_on_file::<Sfdisk>(16 << 20, &options).expect("sfdisk");
            let theirs = tempfile::NamedTempFile::new().expect("temporary file");
            theirs.as_file().set_len(16 << 20).expect("set size");
            let arguments = json!({"devices": {"device": {"path": theirs.path()}}, "options": options});
            let Some((succeeded, said)) = run_reference(Sfdisk::NAME, &arguments) else { return };
            assert!(succeeded, "{said}");
            assert_eq!(table(ours.path()), table(theirs.path()));
        }
    }
}
