//! `org.osbuild.tar`

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::support::root::Root;
use crate::support::tar::{SORTED, STEADY, attributes, pack};

/// Packs the input `tree` into a tar archive.
///
/// The build root's GNU `tar` packs it, with a compressor of the build root if need be. Entries are sorted by name and
/// carry no times but those of changes to the content, so that equal trees give equal archives.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("not" = {"required": ["paths", "root-node"]}))]
pub(crate) struct Options {
    /// The name of the archive.
    filename: String,
    /// The format of the archive.
    #[serde(default)]
    format: Format,
    /// The compression; `auto` goes by the suffix of the name.
    #[serde(default)]
    compression: Compression,
    /// Whether POSIX ACLs are packed.
    #[serde(default = "yes")]
    acls: bool,
    /// Whether SELinux labels are packed.
    #[serde(default = "yes")]
    selinux: bool,
    /// Whether extended attributes are packed.
    #[serde(default = "yes")]
    xattrs: bool,
    /// Whether the top directory itself is packed: names start with `./` if it is, which is the default.
    #[serde(default, rename = "root-node")]
    root_node: RootNode,
    /// Packs only these paths, in this order.
    #[serde(default)]
    paths: Vec<String>,
    /// Whether holes of files are kept as holes.
    #[serde(default)]
    sparse: bool,
    /// How names are changed: an expression of `sed`, as for `--transform`.
    #[serde(default)]
    transform: String,
    /// Whether owners are packed as numbers only.
    #[serde(default, rename = "numeric-owner")]
    numeric_owner: bool,
}

#[derive(Clone, Copy, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Gnu,
    Oldgnu,
    Posix,
    Ustar,
    V7,
}

#[derive(Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Compression {
    #[default]
    Auto,
    Xz,
    Gzip,
    Zstd,
}

#[derive(Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum RootNode {
    #[default]
    Include,
    Omit,
}

pub(crate) struct Tar;

impl Stage for Tar {
    const NAME: &'static str = "org.osbuild.tar";
    /// To read SELinux labels that the running policy does not know.
    const CAPABILITIES: &'static [&'static str] = &["CAP_MAC_ADMIN"];
    type Options = Options;

    fn schema() -> ModuleSchema {
        let inputs = json!({
            "type": "object",
            "additionalProperties": false,
            "required": ["tree"],
            "properties": {"tree": {"type": "object"}},
        });
        ModuleSchema { inputs: Some(inputs), ..ModuleSchema::of::<Options>() }
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let input = context.arguments.inputs.get("tree");
        let input = input.ok_or_else(|| ModuleError::invalid("the stage has no input `tree`"))?;
        let archive = Root::open(context.tree())?.resolve_parent(&options.filename)?;
        let names = match (options.paths.as_slice(), options.root_node) {
            ([], RootNode::Include) => vec![".".to_owned().into()],
            ([], RootNode::Omit) => entries(&input.path)?,
            (paths, _) => paths.iter().map(Into::into).collect(),
        };
        pack(&input.path, names, &archive, flags(&options))
    }
}

fn flags(options: &Options) -> Vec<String> {
    let format = match options.format {
        Format::Gnu => "gnu",
        Format::Oldgnu => "oldgnu",
        Format::Posix => "posix",
        Format::Ustar => "ustar",
        Format::V7 => "v7",
    };
    let compression = match options.compression {
        Compression::Auto => "--auto-compress",
        Compression::Xz => "--xz",
        Compression::Gzip => "--gzip",
        Compression::Zstd => "--zstd",
    };
    let mut flags = vec![format!("--format={format}"), SORTED.to_owned(), compression.to_owned()];
    let mut add = |wanted: bool, words: &[&str]| {
        if wanted {
            flags.extend(words.iter().map(|word| (*word).to_owned()));
        }
    };
    let attributes = attributes(options.acls, options.selinux, options.xattrs);
    // Whatever format was asked for, tar switches to posix archives for what only these can hold.
    add(options.format == Format::Posix && attributes.is_empty(), &[STEADY]);
    add(true, &attributes);
    add(options.sparse, &["--sparse"]);
    add(!options.transform.is_empty(), &["--transform", &options.transform]);
    add(options.numeric_owner, &["--numeric-owner"]);
    flags
}

/// The names in a directory, sorted: the order of a directory is not that of another one with the same content.
fn entries(directory: &std::path::Path) -> Result<Vec<std::ffi::OsString>, ModuleError> {
    let failed = || ModuleError::io("read directory", directory);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed())? {
        names.push(entry.map_err(failed())?.file_name());
    }
    names.sort();
    Ok(names)
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests;
