//! `org.osbuild.mkfs.fat`

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::stage_devices::{self, flag};

/// Makes a FAT file system on the device `device`.
///
/// Runs `mkfs.fat` of the build root, with `-I`: what the device holds, partitions included, is not looked at.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// Serial number of the volume: eight hexadecimal digits.
    volid: String,
    /// Label of the file system.
    #[schemars(length(max = 11))]
    label: Option<String>,
    /// Width of an entry of the file allocation table in bits.
    #[serde(rename = "fat-size")]
    #[schemars(extend("enum" = [12, 16, 32]))]
    fat_size: Option<u8>,
    /// Disk geometry that the file system states.
    geometry: Option<Geometry>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Geometry {
    /// Number of heads.
    heads: i64,
    /// Number of sectors per track.
    #[serde(rename = "sectors-per-track")]
    sectors_per_track: i64,
}

pub(crate) struct MkfsFat;

impl Stage for MkfsFat {
    const NAME: &'static str = "org.osbuild.mkfs.fat";
    type Options = Options;

    fn schema() -> ModuleSchema {
        stage_devices::schema::<Options>()
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let device = stage_devices::device(context)?;
        let width = options.fat_size.map(|width| width.to_string());
        let geometry =
            options.geometry.map(|geometry| format!("{}/{}", geometry.heads, geometry.sectors_per_track));
        Ok(Run::new("mkfs.fat")
            .args(["-I", "-i", &options.volid])
            .args(flag("-n", options.label.as_deref()))
            .args(flag("-F", width.as_deref()))
            .args(flag("-g", geometry.as_deref()))
            .arg(device)
            .run()?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_test::{self, attribute};

    #[test]
    fn schema() {
        Agreement::stage::<MkfsFat>()
            .accepts([
                json!({"volid": "7B7795E7"}),
                json!({"volid": "7B7795E7", "label": "EFI-SYSTEM", "fat-size": 32,
                       "geometry": {"heads": 12, "sectors-per-track": 42}}),
            ])
            .refuses([
                json!({}),
                json!({"volid": "7B7795E7", "label": "TWELVE CHARS"}),
                json!({"volid": "7B7795E7", "fat-size": 8}),
                json!({"volid": "7B7795E7", "geometry": {"heads": 12}}),
            ]);
    }

    #[test]
    fn the_file_system_is_as_asked() {
        let cases = [(12, 2, 54), (16, 16, 54), (32, 64, 82)];
        for (width, mebibytes, place) in cases {
            let options = json!({"volid": "7B7795E7", "label": "EFI-SYSTEM", "fat-size": width,
                                 "geometry": {"heads": 12, "sectors-per-track": 42}});
            let image = stage_test::run_on_file::<MkfsFat>(mebibytes << 20, &options).expect("mkfs");
            assert_eq!(attribute(image.path(), "TYPE"), "vfat");
            assert_eq!(attribute(image.path(), "UUID"), "7B77-95E7");
            assert_eq!(attribute(image.path(), "LABEL"), "EFI-SYSTEM");
            let start = std::fs::read(image.path()).expect("read");
            let kind = format!("FAT{width}   ");
            assert_eq!(start[place..place + 8], *kind.as_bytes());
            assert_eq!(start[24..28], [42, 0, 12, 0], "sectors per track and heads");
            stage_test::output("fsck.fat", &["-n"], image.path());
        }
    }
}
