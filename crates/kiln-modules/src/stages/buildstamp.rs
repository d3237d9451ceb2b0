//! `org.osbuild.buildstamp`

use std::io::Write;
use std::time::SystemTime;

use kiln_api::ModuleError;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::local_time::local_time;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::ini::Ini;
use crate::support::root::Root;

/// The file, below the tree.
const FILE: &str = ".buildstamp";

/// Writes `/.buildstamp`, which tells an installer what it installs.
///
/// The build's id in it is made of the time, to the minute, and the architecture. The time is the pipeline's
/// `source-epoch` if it has one, so that equal manifests give equal trees, or else that of the build.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Options {
    /// The architecture, as `x86_64`.
    arch: String,
    /// The name of the product.
    product: String,
    /// The version of the product.
    version: String,
    /// Whether it is a final release; the installer warns of others.
    r#final: bool,
    /// The variant of the product.
    #[serde(default)]
    variant: String,
    /// Where to report faults.
    #[serde(default)]
    bugurl: String,
}

pub(crate) struct Buildstamp;

impl Stage for Buildstamp {
    const NAME: &'static str = "org.osbuild.buildstamp";
    type Options = Options;

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let now = || {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            now.as_secs().cast_signed()
        };
        let text = stamp(options, context.arguments.meta.source_epoch.unwrap_or_else(now))?;
        let tree = Root::open(context.tree())?;
        tree.create(FILE)?.write_all(text.as_bytes()).map_err(ModuleError::io("write", tree.shown(FILE)))
    }
}

fn stamp(options: Options, seconds: i64) -> Result<String, ModuleError> {
    let time = local_time(seconds)
        .ok_or_else(|| ModuleError::invalid(format!("{seconds} seconds since 1970 are no time")))?;
    let date = format!("{}{:02}{:02}", time.year, time.month + 1, time.day);
    let id = format!("{date}{:02}{:02}.{}", time.hour, time.minute, options.arch);
    let mut stamp = Ini::default();
    let is_final = if options.r#final { "True" } else { "False" };
    for (key, value, option) in [
        ("product", options.product, "product"),
        ("version", options.version, "version"),
        ("isfinal", is_final.to_owned(), "final"),
        ("uuid", id, "arch"),
    ] {
        stamp.set("Main", key, value, option)?;
    }
    for (key, value) in [("bugurl", options.bugurl), ("variant", options.variant)] {
        if !value.is_empty() {
            stamp.set("Main", key, value, key)?;
        }
    }
    // Who made the installer: readers expect this section.
    stamp.set("Compose", "osbuild", "devel".to_owned(), "options")?;
    Ok(stamp.text(" = "))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::Fixture;

    fn least() -> Value {
        json!({"arch": "x86_64", "product": "Some System", "version": "12", "final": true})
    }

    fn with(more: &Value) -> Value {
        let mut options = least();
        for (name, value) in more.as_object().expect("an object") {
            options[name] = value.clone();
        }
        options
    }

    #[test]
    fn schema_agrees() {
        Agreement::stage::<Buildstamp>()
            .accepts([least(), with(&json!({"variant": "", "bugurl": "x", "more": 1}))])
            .refuses([
                json!({}),
                json!({"arch": "a", "product": "b", "version": "c"}),
                with(&json!({"final": "yes"})),
                with(&json!({"version": 12})),
                with(&json!({"variant": true})),
            ]);
        Agreement::stage::<Buildstamp>().member("inputs").refuses([json!({})]);
    }

    /// The file without the digits of the time.
    fn read(fixture: &Fixture) -> (String, String) {
        let text = std::fs::read_to_string(fixture.tree().join(FILE)).expect("it is there");
        let (before, rest) = text.split_once("uuid = ").expect("an id");
        let (time, after) = rest.split_at(12);
        assert!(time.bytes().all(|byte| byte.is_ascii_digit()), "{text}");
        (time.to_owned(), format!("{before}{after}"))
    }

    #[test]
    fn files_equal_the_reference_but_for_the_time() {
        for options in [
            least(),
            with(
                &json!({"final": false, "variant": "Server", "bugurl": "https://bugs.example.invalid/?a=b"}),
            ),
            with(&json!({"variant": "", "bugurl": ""})),
            with(&json!({"product": "two\nlines", "version": "%% and %(product)s", "more": "x"})),
            with(&json!({"product": "100%"})),
        ] {
            let (one, other) = (Fixture::new(), Fixture::new());
            let result = one.run::<Buildstamp>(options.clone());
            let Some((succeeded, said)) = other.run_reference(Buildstamp::NAME, options.clone()) else {
                continue;
            };
            assert_eq!(result.is_ok(), succeeded, "{options}: {result:?}, the reference: {said}");
            if succeeded {
                let ((time, text), (there, there_text)) = (read(&one), read(&other));
                assert_eq!(text, there_text, "{options}");
                // A minute may have begun in between, or a day, but no month.
                assert_eq!(time[..6], there[..6]);
            }
        }
    }

    #[test]
    fn the_source_epoch_is_the_time() {
        let fixture = Fixture::new().at(1_700_000_000);
        fixture.run::<Buildstamp>(least()).expect("written");
        let (time, text) = read(&fixture);
        // 2023-11-14 22:13 UTC, in whatever zone.
        assert!(time.starts_with("20231114") || time.starts_with("20231115"), "{time}");
        assert_eq!(
            text,
            "[Main]\nproduct = Some System\nversion = 12\nisfinal = True\n.x86_64\n\n[Compose]\nosbuild = devel\n\n"
        );
    }
}
