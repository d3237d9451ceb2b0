//! `org.osbuild.qemu`

use std::thread::available_parallelism;

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::support::single_file;

/// The variable of the build root's environment that sets how many requests `qemu-img` works on at once.
const COROUTINES: &str = "OSBUILD_QEMU_IMG_COROUTINES";

/// The least and the most requests that `qemu-img` is given at once: its own default, and its own limit.
const COROUTINES_RANGE: (usize, usize) = (8, 16);

/// Converts a disk image to another format.
///
/// The input `image` is one file: an image in any format that `qemu-img` of the build root recognises. Compressed images
/// are compressed by several threads; what a guest reads from them is always the same, but where in the file a
/// cluster lies may differ from run to run. In a pipeline with a `source-epoch` the file, too, is always the same, and
/// takes longer. The variable `OSBUILD_QEMU_IMG_COROUTINES` limits how many requests are worked on at once; `1` has
/// the effect of a `source-epoch`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// Path of the new image in the tree.
    filename: String,
    /// Format of the new image.
    format: Format,
}

#[derive(Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
enum Format {
    /// QEMU's own format.
    Qcow2 {
        /// Whether clusters are compressed; they are if nothing is said.
        compression: Option<bool>,
        /// Version of the format, as `0.10` or `1.1`.
        compat: Option<String>,
    },
    /// VirtualBox's format.
    Vdi {},
    /// VMware's format.
    Vmdk {
        /// Virtual disk controller.
        adapter_type: Option<AdapterType>,
        /// Whether the image states version 6.
        compat6: Option<bool>,
        /// Whether grains are compressed; they are if nothing is said.
        compression: Option<bool>,
        /// Layout of the image.
        subformat: Option<VmdkSubformat>,
    },
    /// Virtual PC's format, as Azure takes it.
    Vpc {
        /// Whether the size is exactly the source's, instead of the next one with a disk geometry; it is if nothing is said.
        force_size: Option<bool>,
        /// Layout of the image; fixed if nothing is said.
        subformat: Option<VpcSubformat>,
    },
    /// Hyper-V's format.
    Vhdx {},
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
enum AdapterType {
    #[serde(rename = "ide")]
    Ide,
    #[serde(rename = "lsilogic")]
    LsiLogic,
    #[serde(rename = "buslogic")]
    BusLogic,
    #[serde(rename = "legacyESX")]
    LegacyEsx,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
pub(crate) enum VmdkSubformat {
    #[serde(rename = "monolithicSparse")]
    MonolithicSparse,
    #[serde(rename = "monolithicFlat")]
    MonolithicFlat,
    #[serde(rename = "twoGbMaxExtentSparse")]
    TwoGbMaxExtentSparse,
    #[serde(rename = "twoGbMaxExtentFlat")]
    TwoGbMaxExtentFlat,
    #[serde(rename = "streamOptimized")]
    StreamOptimized,
}

#[derive(Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum VpcSubformat {
    #[default]
    Fixed,
    Dynamic,
}

/// What a format means to `qemu-img convert`.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    name: &'static str,
    compressed: bool,
    options: Vec<String>,
}

impl Format {
    fn target(&self) -> Target {
        let (name, compressed, options) = match self {
            Self::Qcow2 { compression, compat } => {
                let compat = compat.as_deref().filter(|compat| !compat.is_empty());
                let options = compat.map(|compat| format!("compat={compat}")).into_iter().collect();
                ("qcow2", compression.unwrap_or(true), options)
            }
            Self::Vdi {} => ("vdi", false, Vec::new()),
            Self::Vmdk { adapter_type, compat6, compression, subformat } => {
                let adapter = adapter_type.map(|adapter| format!("adapter_type={}", adapter.name()));
                let compat6 = compat6.unwrap_or(false).then(|| "compat6".to_owned());
                let subformat = subformat.map(|subformat| format!("subformat={}", subformat.name()));
                let options = [adapter, compat6, subformat].into_iter().flatten().collect();
                ("vmdk", compression.unwrap_or(true), options)
            }
            Self::Vpc { force_size, subformat } => {
                let subformat = match subformat.unwrap_or_default() {
                    VpcSubformat::Fixed => "fixed",
                    VpcSubformat::Dynamic => "dynamic",
                };
                let mut options = vec![format!("subformat={subformat}")];
                options.extend(force_size.unwrap_or(true).then(|| "force_size".to_owned()));
                ("vpc", false, options)
            }
            Self::Vhdx {} => ("vhdx", false, Vec::new()),
        };
        Target { name, compressed, options }
    }
}

impl AdapterType {
    const fn name(self) -> &'static str {
        match self {
            Self::Ide => "ide",
            Self::LsiLogic => "lsilogic",
            Self::BusLogic => "buslogic",
            Self::LegacyEsx => "legacyESX",
        }
    }
}

impl VmdkSubformat {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::MonolithicSparse => "monolithicSparse",
            Self::MonolithicFlat => "monolithicFlat",
            Self::TwoGbMaxExtentSparse => "twoGbMaxExtentSparse",
            Self::TwoGbMaxExtentFlat => "twoGbMaxExtentFlat",
            Self::StreamOptimized => "streamOptimized",
        }
    }
}

impl Target {
    /// The arguments before the files; `steady` if equal images must become equal files.
    fn arguments(&self, coroutines: Option<&str>, steady: bool) -> Vec<String> {
        let mut arguments: Vec<String> = ["convert", "-O", self.name].map(str::to_owned).into();
        if self.compressed {
            arguments.push("-c".to_owned());
        }
        if !self.options.is_empty() {
            arguments.extend(["-o".to_owned(), self.options.join(",")]);
        }
        let (least, most) = COROUTINES_RANGE;
        let default =
            || available_parallelism().map_or(least, |count| count.get().clamp(least, most)).to_string();
        let count = coroutines.map_or_else(default, str::to_owned);
        // Only a compressed qcow2 is worth it: its clusters are compressed in threads, but waiting for each
        // cluster's turn to be written leaves one thread busy at a time, however many requests there are. Out of
        // order, two processors take two thirds of the time.
        if self.compressed && self.name == "qcow2" && count != "1" && !steady {
            arguments.push("-W".to_owned());
        }
        arguments.extend(["-m".to_owned(), count]);
        arguments
    }
}

pub(crate) struct Qemu;

impl Stage for Qemu {
    const NAME: &'static str = "org.osbuild.qemu";
    type Options = Options;

    fn schema() -> ModuleSchema {
        let inputs = json!({
            "type": "object",
            "additionalProperties": false,
            "required": ["image"],
            "properties": {"image": {"type": "object"}},
        });
        ModuleSchema { inputs: Some(inputs), ..ModuleSchema::of::<Options>() }
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let source = single_file::only(context, "image")?;
        let target = context.tree().join(options.filename.trim_start_matches('/'));
        let coroutines = std::env::var(COROUTINES).ok().filter(|count| !count.is_empty());
        if let Some(count) = &coroutines {
            context.say(format_args!("qemu-img coroutines: {count}"));
        }
        // Who clamps times wants equal results from equal manifests.
        let steady = context.arguments.meta.source_epoch.is_some();
        let arguments = options.format.target().arguments(coroutines.as_deref(), steady);
        Ok(Run::new("qemu-img").args(arguments).arg(source).arg(target).run()?)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::FileExt;
    use std::path::{Path, PathBuf};

    use serde_json::Value;

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_test;

    const SIZE: usize = 9 << 20;

    /// An image of compressible, incompressible and empty clusters.
    fn image(path: &Path) {
        let file = fs::File::create(path).expect("create");
        file.set_len(SIZE as u64).expect("set size");
        let mut state = 1_u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(1 << 20)
        .collect();
        file.write_all_at(&noise, 1 << 20).expect("write");
        file.write_all_at("text ".repeat(400_000).as_bytes(), 4 << 20).expect("write");
    }

    fn convert(directory: &Path, format: &Value) -> Result<PathBuf, ModuleError> {
        convert_with(directory, format, &json!({"id": "0"}))
    }

    fn convert_with(directory: &Path, format: &Value, meta: &Value) -> Result<PathBuf, ModuleError> {
        let inputs = json!({"image": {"path": directory, "data": {"files": {"disk.raw": {}}}}});
        let mut context = stage_test::context(&json!({"tree": directory, "inputs": inputs, "meta": meta}));
        let options = json!({"filename": "/disk.out", "format": format});
        Qemu::run(serde_json::from_value(options).expect("valid"), &mut context)?;
        Ok(directory.join("disk.out"))
    }

    fn format(format: &Value) -> Format {
        serde_json::from_value(format.clone()).expect("valid")
    }

    #[test]
    fn schema() {
        let options = |format| json!({"filename": "disk.qcow2", "format": format});
        Agreement::stage::<Qemu>()
            .accepts(
                [
                    json!({"type": "qcow2"}),
                    json!({"type": "qcow2", "compression": false, "compat": "1.1"}),
                    json!({"type": "vdi"}),
                    json!({"type": "vmdk", "adapter_type": "legacyESX", "compat6": true, "compression": false,
                           "subformat": "streamOptimized"}),
                    json!({"type": "vpc", "force_size": false, "subformat": "dynamic"}),
                    json!({"type": "vhdx"}),
                ]
                .map(options),
            )
            .refuses(
                [
                    json!({}),
                    json!({"type": "raw"}),
                    json!({"type": "vdi", "compression": true}),
                    json!({"type": "qcow2", "subformat": "fixed"}),
                    json!({"type": "vmdk", "adapter_type": "sata"}),
                ]
                .map(options),
            );
        Agreement::stage::<Qemu>()
            .around(json!({"options": options(json!({"type": "vdi"}))}))
            .member("inputs")
            .accepts([json!({"image": {"type": "org.osbuild.files"}})])
            .refuses([json!({}), json!({"image": {}, "other": {}})]);
    }

    #[test]
    fn formats_become_arguments() {
        let cases = [
            (json!({"type": "qcow2"}), "convert -O qcow2 -c -W -m 3"),
            (
                json!({"type": "qcow2", "compression": false, "compat": "0.10"}),
                "convert -O qcow2 -o compat=0.10 -m 3",
            ),
            (json!({"type": "vdi"}), "convert -O vdi -m 3"),
            (
                json!({"type": "vmdk", "subformat": "streamOptimized", "adapter_type": "ide", "compat6": true}),
                "convert -O vmdk -c -o adapter_type=ide,compat6,subformat=streamOptimized -m 3",
            ),
            (json!({"type": "vpc"}), "convert -O vpc -o subformat=fixed,force_size -m 3"),
            (
                json!({"type": "vpc", "force_size": false, "subformat": "dynamic"}),
                "convert -O vpc -o subformat=dynamic -m 3",
            ),
            (json!({"type": "vhdx"}), "convert -O vhdx -m 3"),
        ];
        for (value, expected) in cases {
            assert_eq!(format(&value).target().arguments(Some("3"), false).join(" "), expected);
        }
        for (count, steady) in [("1", false), ("3", true)] {
            let one = format(&json!({"type": "qcow2"})).target().arguments(Some(count), steady).join(" ");
            assert_eq!(one, format!("convert -O qcow2 -c -m {count}"), "in order");
        }
    }

    #[test]
    fn every_format_holds_the_same_content() {
        let directory = tempfile::tempdir().expect("tempdir");
        let source = directory.path().join("disk.raw");
        image(&source);
        let formats = [
            json!({"type": "qcow2"}),
            json!({"type": "qcow2", "compression": false, "compat": "0.10"}),
            json!({"type": "vdi"}),
            json!({"type": "vmdk", "subformat": "streamOptimized"}),
            json!({"type": "vmdk", "subformat": "monolithicSparse", "compression": false, "adapter_type": "lsilogic"}),
            json!({"type": "vpc"}),
            json!({"type": "vpc", "subformat": "dynamic"}),
            json!({"type": "vhdx"}),
        ];
        for value in formats {
            let target = convert(directory.path(), &value).expect("convert");
            let name = format(&value).target().name;
            let info = stage_test::output("qemu-img", &["info", "-f", name, "--output=json"], &target);
            let info: Value = serde_json::from_str(&info).expect("JSON");
            assert_eq!(info["format"], name);
            assert_eq!(info["virtual-size"], SIZE, "{value}");
            match name {
                "qcow2" => {
                    let compat = value.get("compat").cloned().unwrap_or(json!("1.1"));
                    assert_eq!(info["format-specific"]["data"]["compat"], compat);
                    stage_test::output("qemu-img", &["check", "-f", name], &target);
                    assert_eq!(is_compressed(&target), value.get("compression").is_none(), "{value}");
                }
                "vmdk" => assert_eq!(info["format-specific"]["data"]["create-type"], value["subformat"]),
                // A fixed image is the content and a footer.
                "vpc" if value.get("subformat").is_none() => {
                    assert_eq!(fs::metadata(&target).expect("there").len(), SIZE as u64 + 512);
                }
                _ => {}
            }
            let compare = ["compare", "-f", name, "-F", "raw", target.to_str().expect("UTF-8")];
            assert_eq!(
                stage_test::output("qemu-img", &compare, &source),
                "Images are identical.\n",
                "{value}"
            );
            fs::remove_file(target).expect("remove");
        }
    }

    #[test]
    fn a_source_epoch_makes_equal_files() {
        let directory = tempfile::tempdir().expect("tempdir");
        image(&directory.path().join("disk.raw"));
        let convert = || {
            let meta = json!({"id": "0", "source-epoch": 0});
            let target = convert_with(directory.path(), &json!({"type": "qcow2"}), &meta).expect("convert");
            let content = fs::read(&target).expect("read");
            fs::remove_file(target).expect("remove");
            content
        };
        let first = convert();
        assert!((0..3).all(|_| convert() == first));
    }

    fn is_compressed(image: &Path) -> bool {
        let check = stage_test::output("qemu-img", &["check", "--output=json"], image);
        let check: Value = serde_json::from_str(&check).expect("JSON");
        check["compressed-clusters"].as_u64().unwrap_or(0) > 0
    }

    #[test]
    fn an_impossible_combination_is_reported_in_the_words_of_qemu_img() {
        let directory = tempfile::tempdir().expect("tempdir");
        image(&directory.path().join("disk.raw"));
        let error = convert(directory.path(), &json!({"type": "vmdk", "subformat": "monolithicFlat"}))
            .expect_err("flat images cannot be compressed");
        assert!(error.to_string().starts_with("`qemu-img` failed with exit status 1: "), "{error}");
    }

    #[test]
    fn the_input_must_be_one_file() {
        let inputs = json!({"image": {"path": "/x", "data": {"files": {"a": {}, "b": {}}}}});
        let context = stage_test::context(&json!({"inputs": inputs}));
        let error = single_file::only(&context, "image").expect_err("two");
        assert_eq!(error.to_string(), "invalid option `inputs.image`: must be one file, but has 2");
    }
}
