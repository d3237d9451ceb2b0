//! `org.osbuild.grub2.d`

use std::io::Write;

use kiln_api::ModuleError;
use kiln_api::location::Location;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::root::Root;

/// Writes a file that adds settings of the console to the configuration of GRUB.
///
/// As `console.cfg`, which boot loaders that `bootupd` installs read. Directories that are missing are made.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The file: `tree:///path` or `mount://NAME/path`.
    #[schemars(extend("oneOf" = [{"pattern": "^mount://[^/]+/"}, {"pattern": "^tree:///"}]))]
    path: String,
    /// The settings; at least one.
    config: Config,
}

/// The settings.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
struct Config {
    /// Where input comes from, as `console` or `serial`.
    #[serde(default)]
    terminal_input: Vec<String>,
    /// Where output goes to, as `gfxterm` or `serial`.
    #[serde(default)]
    terminal_output: Vec<String>,
    /// GRUB's whole command for the serial port, as `serial --speed=115200`.
    #[serde(default)]
    serial: String,
}

pub(crate) struct Grub2D;

impl Stage for Grub2D {
    const NAME: &'static str = "org.osbuild.grub2.d";
    type Options = Options;

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let location = Location::parse(&options.path, &context.arguments)?;
        let directory = location.path.parent().filter(|_| !location.content);
        let directory = directory
            .ok_or_else(|| ModuleError::option("path", format!("`{}` is no path of a file", options.path)))?;
        let root = Root::open(&location.root)?;
        root.make_directories(directory)?;
        root.create(&location.path)?
            .write_all(commands(&options.config).as_bytes())
            .map_err(ModuleError::io("write", root.shown(&location.path)))
    }
}

fn commands(config: &Config) -> String {
    let terminal = |command: &str, names: &[String]| match names {
        [] => String::new(),
        names => format!("{command} {}\n", names.join(" ")),
    };
    let serial = if config.serial.is_empty() { String::new() } else { format!("{}\n", config.serial) };
    let input = terminal("terminal_input", &config.terminal_input);
    let output = terminal("terminal_output", &config.terminal_output);
    serial + &input + &output
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use serde_json::{Value, json};

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::{Fixture, side_by_side};

    fn at(path: &str) -> Value {
        json!({"path": path, "config": {"serial": "serial --unit=1"}})
    }

    fn of(config: &Value) -> Value {
        json!({"path": "tree:///boot/grub2/custom.d/console.cfg", "config": config})
    }

    fn full() -> Value {
        json!({
            "terminal_output": ["serial", "gfxterm"],
            "terminal_input": ["console"],
            "serial": "serial --speed=115200",
        })
    }

    #[test]
    fn schema_agrees() {
        Agreement::stage::<Grub2D>()
            .accepts([of(&full()), of(&json!({"terminal_input": []})), at("mount://boot/a"), at("tree:///")])
            .refuses([
                json!({}),
                json!({"path": "tree:///a"}),
                json!({"config": full()}),
                of(&json!({})),
                of(&json!({"serial": true})),
                of(&json!({"terminal_input": "console"})),
                of(&json!({"other": "x"})),
                at("/a"),
                at("mount:///a"),
                at("input://a/b"),
            ]);
        Agreement::stage::<Grub2D>().member("inputs").refuses([json!({})]);
        Agreement::stage::<Grub2D>().member("mounts").accepts([json!([{"name": "x"}])]);
        Agreement::stage::<Grub2D>().member("devices").accepts([json!({"x": {}})]);
    }

    fn prepare(fixture: &mut Fixture) {
        fixture.mount("root");
        fixture.file("old/file", "an older and longer file than that which is written");
    }

    #[test]
    fn trees_equal_the_reference() {
        for options in [
            of(&full()),
            of(&json!({"terminal_input": ["a", "b"]})),
            of(&json!({"terminal_input": [], "terminal_output": []})),
            of(&json!({"serial": ""})),
            at("mount://root/etc/grub.d/99"),
            at("mount://none/etc/grub.d/99"),
            at("tree:///old/file"),
            at("tree:///old/file/below"),
            at("tree:///old"),
            at("tree:///old/"),
            at("tree:///"),
            at("tree:///../top"),
        ] {
            side_by_side::<Grub2D>(prepare, &options);
        }
    }

    #[test]
    fn an_absolute_link_means_the_tree() {
        let mut fixture = Fixture::new();
        prepare(&mut fixture);
        symlink("/old", fixture.tree().join("link")).expect("a link");
        fixture.run::<Grub2D>(at("tree:///link/deep/er.cfg")).expect("written");
        let written = fs::read_to_string(fixture.tree().join("old/deep/er.cfg")).expect("it is there");
        assert_eq!(written, "serial --unit=1\n");
        let error = fixture.run::<Grub2D>(at("tree:///link/")).expect_err("a directory").to_string();
        assert_eq!(error, "invalid option `path`: `tree:///link/` is no path of a file");
    }
}
