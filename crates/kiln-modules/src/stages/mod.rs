//! Stages: each changes the tree (or a device), inside the build root.

use kiln_api::stage::StageModule;

mod copy;
mod error;
mod ln;
mod mkdir;
mod noop;

/// All native stages, sorted by name.
pub(crate) const STAGES: &[StageModule] = &[
    StageModule::of::<copy::Copy>(),
    StageModule::of::<error::Fail>(),
    StageModule::of::<ln::Ln>(),
    StageModule::of::<mkdir::Mkdir>(),
    StageModule::of::<noop::Noop>(),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn names_are_sorted_and_unique() {
        let names: Vec<_> = STAGES.iter().map(|stage| stage.name).collect();
        assert!(names.is_sorted_by(|one, other| one < other), "{names:?}");
    }

    #[test]
    fn every_file_is_in_the_list() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/stages");
        let files: BTreeSet<_> = std::fs::read_dir(directory)
            .expect("the sources are there")
            .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned()))
            .filter(|stem| stem != "mod")
            .collect();
        let listed: BTreeSet<_> = STAGES
            .iter()
            .filter_map(|stage| stage.name.splitn(3, '.').nth(2))
            .map(|name| name.replace(['.', '-'], "_"))
            .collect();
        assert_eq!(files, listed);
    }

    #[test]
    fn every_stage_has_valid_schemas_and_a_summary() {
        for stage in STAGES {
            let schema = (stage.schema)();
            let summary = schema.documentation().lines().next().unwrap_or_default();
            assert!(summary.ends_with('.'), "{}: `{summary}` is no summary", stage.name);
            for part in [Some(schema.options.clone()), schema.inputs, schema.devices, schema.mounts]
                .into_iter()
                .flatten()
            {
                jsonschema::draft202012::meta::validate(&part)
                    .unwrap_or_else(|error| panic!("{}: {error}", stage.name));
            }
        }
    }
}
