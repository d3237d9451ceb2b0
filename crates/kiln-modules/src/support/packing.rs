//! Stages that pack a directory into a file system in a file of the tree: what they pack, and where they put it.

use std::path::PathBuf;

use kiln_api::ModuleError;
use kiln_api::location::Location;
use kiln_api::stage::StageContext;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::root::Root;

/// The location of a directory in a mount or an input.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("pattern" = "^(mount://|input://[^/]+/)"))]
pub(crate) struct Source(String);

/// The schema of `inputs`: exactly one, named `tree`.
pub(crate) fn inputs() -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["tree"],
        "properties": {"tree": {"type": "object"}},
    })
}

/// The directory that is packed: the input `tree`, if no other source is named.
pub(crate) fn source(context: &StageContext, source: Option<&Source>) -> Result<PathBuf, ModuleError> {
    let Some(Source(location)) = source else {
        let input = context.arguments.inputs.get("tree");
        let input = input.ok_or_else(|| ModuleError::invalid("the stage has no input `tree`"))?;
        return Ok(input.path.clone());
    };
    let Location { root, path, .. } = Location::parse(location, &context.arguments)?;
    let path = if path.as_os_str().is_empty() { root } else { Root::open(&root)?.resolve_parent(&path)? };
    // The tools say it less clearly, and not all of them fail.
    path.symlink_metadata().map_err(ModuleError::io("find", &path))?;
    Ok(path)
}

/// Where the file system goes.
pub(crate) fn target(context: &StageContext, filename: &str) -> Result<PathBuf, ModuleError> {
    Root::open(context.tree())?.resolve_parent(filename)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::stage_test;

    #[test]
    fn the_source_is_the_input_or_what_is_named() {
        let directory = tempfile::tempdir().expect("tempdir");
        let path = directory.path();
        std::fs::create_dir_all(path.join("mounts/boot/efi")).expect("create");
        std::os::unix::fs::symlink("/boot", path.join("mounts/link")).expect("link");
        let at = |name: &str| path.join(name);
        let context = stage_test::context(&json!({
            "paths": {"devices": "/dev", "inputs": at("inputs"), "mounts": at("mounts")},
            "inputs": {"tree": {"path": "/input"}, "more": {"path": at("mounts/boot")}},
            "mounts": {"boot": {"path": at("mounts/boot")}},
        }));
        let cases = [
            ("mount:///", Ok("mounts")),
            ("mount://boot/", Ok("mounts/boot")),
            ("mount://boot/efi/../efi", Ok("mounts/boot/efi")),
            ("mount:///link/efi", Ok("mounts/boot/efi")),
            ("input://more/efi/", Ok("mounts/boot/efi")),
            ("mount://boot", Err("the path of a location must start with `/`")),
            ("mount://root/", Err("unknown mount `root`: the stage has `boot`")),
            ("input://other/", Err("unknown input `other`: the stage has `more`, `tree`")),
            ("mount://boot/none", Err("No such file or directory")),
        ];
        for (location, expected) in cases {
            match (source(&context, Some(&Source(location.to_owned()))), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, at(expected), "{location}"),
                (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
                (found, _) => panic!("{location}: {found:?}"),
            }
        }
        assert_eq!(source(&context, None).expect("the input"), Path::new("/input"));
        let error = source(&stage_test::context(&json!({})), None).expect_err("no input");
        assert_eq!(error.to_string(), "the stage has no input `tree`");
    }
}
