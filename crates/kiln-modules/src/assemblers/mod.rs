//! Native assemblers: the last step of a format-1 pipeline, which makes the result from the tree.
//!
//! To the engine an assembler is a stage with the tree as its input `tree`. It has a list of its own because some
//! have the name of a stage and other options.

use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::stage::{StageContext, StageModule};

mod error;
mod noop;
mod oci_archive;
mod ostree_commit;
mod qemu;
mod rawfs;
mod tar;

/// All native assemblers, sorted by name.
pub(crate) const ASSEMBLERS: &[StageModule] = &[
    StageModule::of::<error::Fail>(),
    StageModule::of::<noop::Noop>(),
    StageModule::of::<oci_archive::OciArchive>(),
    StageModule::of::<ostree_commit::OstreeCommit>(),
    StageModule::of::<qemu::Qemu>(),
    StageModule::of::<rawfs::RawFs>(),
    StageModule::of::<tar::Tar>(),
];

/// The tree that the result is made from.
fn source(context: &StageContext) -> Result<&Path, ModuleError> {
    let input = context.arguments.inputs.get("tree");
    let input = input.ok_or_else(|| ModuleError::invalid("the assembler has no input `tree`"))?;
    Ok(&input.path)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_sorted_and_unique() {
        let names: Vec<_> = ASSEMBLERS.iter().map(|assembler| assembler.name).collect();
        assert!(names.is_sorted_by(|one, other| one < other), "{names:?}");
    }

    #[test]
    fn every_file_is_in_the_list() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/assemblers");
        let files: BTreeSet<_> = std::fs::read_dir(directory)
            .expect("the sources are there")
            .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned()))
            .filter(|stem| stem != "mod")
            .collect();
        let listed: BTreeSet<_> = ASSEMBLERS
            .iter()
            .filter_map(|assembler| assembler.name.splitn(3, '.').nth(2))
            .map(|name| name.replace(['.', '-'], "_"))
            .collect();
        assert_eq!(files, listed);
    }

    #[test]
    fn every_assembler_has_a_valid_schema_and_a_summary() {
        for assembler in ASSEMBLERS {
            let schema = (assembler.schema)();
            let summary = schema.documentation().lines().next().unwrap_or_default();
            assert!(summary.ends_with('.'), "{}: `{summary}` is no summary", assembler.name);
            jsonschema::draft202012::meta::validate(&schema.options)
                .unwrap_or_else(|error| panic!("{}: {error}", assembler.name));
        }
    }
}
