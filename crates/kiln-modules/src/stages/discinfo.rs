//! `org.osbuild.discinfo`

use std::io::Write;
use std::time::SystemTime;

use kiln_api::ModuleError;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::root::Root;

/// The file, below the tree.
const FILE: &str = ".discinfo";

/// Writes `.discinfo`, by which installers recognise the medium.
///
/// It has the time as seconds since 1970, the name of the release, and the architecture, a line each. The time is the
/// pipeline's `source-epoch` if it has one, so that equal manifests give equal media, or else that of the build.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Options {
    /// The architecture, as `x86_64`.
    basearch: String,
    /// The name of the product and its version.
    release: String,
}

pub(crate) struct Discinfo;

impl Stage for Discinfo {
    const NAME: &'static str = "org.osbuild.discinfo";
    type Options = Options;

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        #[expect(clippy::cast_precision_loss, reason = "no time of this era is that long")]
        let seconds = match context.arguments.meta.source_epoch {
            Some(epoch) => epoch as f64,
            None => {
                SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
            }
        };
        let text = format!("{seconds:?}\n{}\n{}\n", options.release, options.basearch);
        let tree = Root::open(context.tree())?;
        tree.create(FILE)?.write_all(text.as_bytes()).map_err(ModuleError::io("write", tree.shown(FILE)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::Fixture;

    fn options() -> Value {
        json!({"basearch": "x86_64", "release": "Some System 12"})
    }

    #[test]
    fn schema_agrees() {
        Agreement::stage::<Discinfo>()
            .accepts([options(), json!({"basearch": "", "release": "", "more": [1]})])
            .refuses([json!({}), json!({"basearch": "a"}), json!({"basearch": "a", "release": 12})]);
        Agreement::stage::<Discinfo>().member("inputs").refuses([json!({})]);
    }

    fn read(fixture: &Fixture) -> (f64, String) {
        let text = std::fs::read_to_string(fixture.tree().join(FILE)).expect("it is there");
        let (time, rest) = text.split_once('\n').expect("several lines");
        (time.parse().expect("a number"), rest.to_owned())
    }

    #[test]
    fn files_equal_the_reference_but_for_the_time() {
        let (one, other) = (Fixture::new(), Fixture::new());
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time").as_secs_f64();
        one.run::<Discinfo>(options()).expect("written");
        let (time, rest) = read(&one);
        assert_eq!(rest, "Some System 12\nx86_64\n");
        assert!((0.0..60.0).contains(&(time - now)), "{time}");
        let Some((succeeded, said)) = other.run_reference(Discinfo::NAME, options()) else { return };
        assert!(succeeded, "{said}");
        let (there, there_rest) = read(&other);
        assert_eq!(rest, there_rest);
        assert!((0.0..60.0).contains(&(there - time)), "{time}, there {there}");
    }

    #[test]
    fn the_source_epoch_is_the_time() {
        let fixture = Fixture::new().at(1_700_000_000);
        fixture.run::<Discinfo>(options()).expect("written");
        let text = std::fs::read_to_string(fixture.tree().join(FILE)).expect("it is there");
        assert_eq!(text, "1700000000.0\nSome System 12\nx86_64\n");
    }
}
