//! `org.osbuild.ln`

use kiln_api::ModuleError;
use kiln_api::location::Location;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::support::root::Root;

/// Makes links in the tree or in a mounted file system.
///
/// The target of a symbolic link is written down as it is given. The target of a hard link is a path as the stage
/// sees it, as `/run/osbuild/tree/etc/hosts`, and must be on the same file system as the link.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The links to make, in this order.
    #[schemars(length(min = 1))]
    paths: Vec<Link>,
}

/// One link to make.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Link {
    /// What the link leads to, absolute or relative.
    target: String,
    /// Where the link is made: `tree:///path` or `mount://NAME/path`.
    #[schemars(extend("pattern" = "^(mount://[^/]+/|tree://)"))]
    link_name: String,
    /// Whether to make a symbolic link rather than a hard link.
    #[serde(default)]
    symbolic: bool,
}

pub(crate) struct Ln;

impl Stage for Ln {
    const NAME: &'static str = "org.osbuild.ln";
    type Options = Options;

    fn schema() -> ModuleSchema {
        ModuleSchema { inputs: Some(json!({"type": "object"})), ..ModuleSchema::of::<Options>() }
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        for link in &options.paths {
            let location = Location::parse(&link.link_name, &context.arguments)?;
            let name = location.to_path();
            let (name, target) = (name.display(), &link.target);
            let root = Root::open(&location.root)?;
            context.say(format_args!("Linking '{name}' -> '{target}'"));
            if link.symbolic {
                context.say(format_args!("Creating symbolic link: '{name}' -> '{target}'"));
                root.symlink(target, &location.path)?;
            } else {
                context.say(format_args!("Creating hard link: '{name}' -> '{target}'"));
                root.hard_link(target, &location.path)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use serde_json::Value;

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::{Fixture, side_by_side};

    fn one(target: &str, link_name: &str, symbolic: bool) -> Value {
        json!({"paths": [{"target": target, "link_name": link_name, "symbolic": symbolic}]})
    }

    #[test]
    fn schema_agrees() {
        Agreement::stage::<Ln>()
            .accepts([
                json!({"paths": [{"target": "", "link_name": "tree://"}]}),
                one("a", "tree:///b", true),
                one("/a", "mount://root/b", false),
            ])
            .refuses([
                json!({}),
                json!({"paths": []}),
                one("a", "b", true),
                one("a", "mount:///b", true),
                one("a", "input://x/b", true),
                json!({"paths": [{"target": "a"}]}),
            ]);
        Agreement::stage::<Ln>().member("inputs").accepts([json!({"x": {"type": "y"}}), json!({})]);
    }

    fn prepare(fixture: &mut Fixture) {
        fixture.mount("disk");
        fixture.file("dir/file", "content");
    }

    #[test]
    fn trees_equal_the_reference() {
        for options in [
            one("dir/file", "tree:///link", true),
            one("/nowhere", "tree:///dir/link", true),
            one("../x", "mount://disk/link", true),
            one("x", "tree:///dir/file", true),
            one("x", "tree:///no/link", true),
            one("", "tree:///empty", true),
            one("dir/file", "tree:///hard", false),
            one("x", "mount://none/link", true),
        ] {
            side_by_side::<Ln>(prepare, &options);
        }
    }

    #[test]
    fn links_are_made() {
        let mut fixture = Fixture::new();
        prepare(&mut fixture);
        let file = fixture.tree().join("dir/file");
        let target = file.to_str().expect("a plain path");
        fixture.run::<Ln>(one(target, "tree:///hard", false)).expect("linked");
        fixture.run::<Ln>(one("/usr/x", "tree:///soft", true)).expect("linked");
        assert_eq!(file.metadata().expect("it is there").nlink(), 2);
        assert_eq!(fs::read_link(fixture.tree().join("soft")).expect("a link").to_str(), Some("/usr/x"));
        let error = fixture.run::<Ln>(one("/usr/x", "tree:///soft", true)).expect_err("it exists");
        assert!(error.to_string().starts_with("cannot create symbolic link `"), "{error}");
    }
}
