//! `org.osbuild.lvm2.metadata`

use std::fs::OpenOptions;

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::host;
use crate::lvm2::{Lvm2Error, PhysicalVolume};
use crate::stage_devices;

/// Renames the volume group of the physical volume `device`, and sets what its metadata says of where it was made.
///
/// Neither programs nor the kernel are needed. Comments, in which LVM's tools tell of the machine that they ran on, are
/// taken out. A volume group that spreads over several physical volumes must be renamed on each of them.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Options {
    /// Name of the volume group.
    // As the reference has it: what is no name for a group is refused when the stage runs.
    #[schemars(regex(pattern = r"[a-zA-Z0-9+_.][a-zA-Z0-9+_.-]*"))]
    vg_name: String,
    /// Host name of the machine that made the group.
    #[schemars(length(min = 1, max = 255))]
    creation_host: Option<String>,
    /// Seconds since 1970, in digits, when the group was made.
    #[schemars(regex(pattern = "[0-9]+"))]
    creation_time: Option<String>,
    /// Description of the metadata.
    #[schemars(length(min = 1))]
    description: Option<String>,
}

pub(crate) struct Lvm2Metadata;

impl Stage for Lvm2Metadata {
    const NAME: &'static str = "org.osbuild.lvm2.metadata";
    type Options = Options;

    fn schema() -> ModuleSchema {
        stage_devices::schema::<Options>()
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let path = stage_devices::device(context)?;
        let time = match &options.creation_time {
            Some(digits) => Some(digits.trim().parse::<u64>().map_err(|_| {
                ModuleError::option("creation_time", format!("must be seconds since 1970: `{digits}`"))
            })?),
            None => None,
        };
        let failed = |error: Lvm2Error| match error {
            Lvm2Error::Name { .. } => ModuleError::option("vg_name", error.to_string()),
            error => ModuleError::invalid(format!("`{}`: {}", path.display(), host::invalid(&error))),
        };
        let open = OpenOptions::new().read(true).write(true).open(path);
        let mut device = open.map_err(ModuleError::io("open", path))?;
        let mut volume = PhysicalVolume::read(&mut device).map_err(failed)?;
        let metadata = volume.metadata_mut();
        metadata.remove_comments();
        metadata.rename(&options.vg_name).map_err(failed)?;
        if let Some(host) = &options.creation_host {
            metadata.set_creation_host(host);
        }
        if let Some(time) = time {
            metadata.set_creation_time(time);
        }
        if let Some(description) = &options.description {
            metadata.set_description(description);
        }
        volume.write(&mut device).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::Path;

    use kiln_testkit::lvm2::{TEXT, disk, usual};
    use serde_json::{Value, json};

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::run_reference;
    use crate::stage_test;

    fn all() -> Value {
        json!({"vg_name": "rootvg", "creation_host": "host.example.invalid", "creation_time": "1700000001",
               "description": "made \"here\""})
    }

    fn image() -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        fs::write(file.path(), disk(&[usual(TEXT)])).expect("write");
        file
    }

    fn read(path: &Path) -> PhysicalVolume {
        PhysicalVolume::read(&mut File::open(path).expect("the image")).expect("a physical volume")
    }

    #[test]
    fn schema() {
        Agreement::stage::<Lvm2Metadata>().accepts([all(), json!({"vg_name": "x", "more": 1})]).refuses([
            json!({}),
            json!({"vg_name": ""}),
            json!({"vg_name": "x", "creation_host": ""}),
            json!({"vg_name": "x", "creation_host": "x".repeat(256)}),
            json!({"vg_name": "x", "creation_time": 1}),
            json!({"vg_name": "x", "creation_time": "x"}),
            json!({"vg_name": "x", "description": ""}),
        ]);
    }

    #[test]
    fn metadata_is_set() {
        let image = image();
        stage_test::run_on::<Lvm2Metadata>(image.path(), &all()).expect("set");
        let volume = read(image.path());
        let metadata = volume.metadata();
        assert_eq!(
            (metadata.name(), metadata.volumes()),
            ("rootvg", vec!["root".to_owned(), "swap".to_owned()])
        );
        assert_eq!(metadata.value("creation_host").as_deref(), Some("host.example.invalid"));
        assert_eq!(metadata.value("creation_time").as_deref(), Some("1700000001"));
        assert_eq!(metadata.value("description").as_deref(), Some("made \"here\""));
        assert!(!metadata.text().contains(&b'#'), "comments tell of another machine");
        assert_eq!(
            volume.volume("root").expect("a volume"),
            read(image.path()).volume("root").expect("a volume")
        );
    }

    #[test]
    fn what_cannot_be_is_refused_and_changes_nothing() {
        let image = image();
        let before = fs::read(image.path()).expect("read");
        for (options, expected) in [
            (json!({"vg_name": "a b"}), "invalid option `vg_name`: `a b` is no name for a volume group: "),
            (
                json!({"vg_name": "a", "creation_time": "1x"}),
                "invalid option `creation_time`: must be seconds since 1970: `1x`",
            ),
        ] {
            let error =
                stage_test::run_on::<Lvm2Metadata>(image.path(), &options).expect_err("refused").to_string();
            assert!(error.starts_with(expected), "{error}");
        }
        assert!(fs::read(image.path()).expect("read") == before);
        let error =
            stage_test::run_on_file::<Lvm2Metadata>(1 << 20, &all()).expect_err("no volume").to_string();
        let expected = "`: the device is no physical volume: its first four sectors hold no label of LVM2";
        assert!(error.ends_with(expected), "{error}");
    }

    /// Which say the same; where on the device they say it differs: the reference writes over the old text. It does not know
    /// that a quotation mark can stand in quotation marks, and writes a text that LVM refuses if one does.
    #[test]
    fn values_are_those_of_the_reference() {
        for options in [
            all(),
            json!({"vg_name": "6a1c5b7c-2b3c-4bd2-8f70-6d2c7cbd3b1f"}),
            json!({"vg_name": "1", "creation_time": "0"}),
        ] {
            let mut options = options;
            if options.get("description").is_some() {
                options["description"] = json!("made here");
            }
            let (ours, theirs) = (image(), image());
            for image in [&ours, &theirs] {
                let text = TEXT.replace("\\\"", "");
                fs::write(image.path(), disk(&[usual(&text)])).expect("write");
            }
            let arguments = json!({"devices": {"device": {"path": theirs.path()}}, "options": options});
            let Some((succeeded, said)) = run_reference(Lvm2Metadata::NAME, &arguments) else { return };
            assert!(succeeded, "{said}");
            stage_test::run_on::<Lvm2Metadata>(ours.path(), &options).expect("set");
            let (ours, theirs) = (read(ours.path()), read(theirs.path()));
            assert_eq!(ours.metadata().name(), theirs.metadata().name());
            for name in ["creation_host", "creation_time", "version", "contents"] {
                assert_eq!(ours.metadata().value(name), theirs.metadata().value(name), "{name}");
            }
            if options.get("description").is_some() {
                assert_eq!(ours.metadata().value("description"), theirs.metadata().value("description"));
            }
            for name in ["root", "swap"] {
                assert_eq!(ours.volume(name).expect("a volume"), theirs.volume(name).expect("a volume"));
            }
            assert_eq!(ours.metadata().volumes(), theirs.metadata().volumes());
        }
    }
}
