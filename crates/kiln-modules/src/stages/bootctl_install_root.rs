//! `org.osbuild.bootctl.install.root`

use kiln_api::ModuleError;
use kiln_api::location::Location;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::root::Root;

/// Where the build root's programs are: `bootctl` gets an environment of its own.
const PATH: &str = "/usr/sbin:/usr/bin";

/// Installs systemd-boot in a mounted system.
///
/// Runs `bootctl install` of the build root, without setting variables of the firmware. `bootctl` looks for an EFI system
/// partition that is mounted below the root, and refuses anything else.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The system's root: `mount://NAME/`, or `tree:///`.
    #[schemars(extend("oneOf" = [{"pattern": "^mount://[^/]+/"}, {"pattern": "^tree:///"}]))]
    root: String,
    /// Where the EFI system partition is mounted below the root.
    #[serde(rename = "esp-path")]
    esp_path: Option<String>,
    /// Where the partition for kernels (XBOOTLDR) is mounted below the root.
    #[serde(rename = "boot-path")]
    boot_path: Option<String>,
    /// Whether a directory will do that is no EFI system partition.
    #[serde(rename = "relax-esp-checks", default)]
    relax_esp_checks: bool,
    /// Whether a random seed is written, from which the systems that are started take theirs.
    #[serde(rename = "random-seed")]
    random_seed: Option<Choice>,
    /// Whether a directory for this system's kernels is made.
    #[serde(rename = "make-entry-directory")]
    make_entry_directory: Option<Choice>,
    /// What this system's entries are named after.
    #[serde(rename = "entry-token")]
    entry_token: Option<EntryToken>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Choice {
    Yes,
    No,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum EntryToken {
    Auto,
    MachineId,
    OsId,
    OsImageId,
}

impl Choice {
    const fn name(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
        }
    }
}

impl EntryToken {
    const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::MachineId => "machine-id",
            Self::OsId => "os-id",
            Self::OsImageId => "os-image-id",
        }
    }
}

impl Options {
    /// What `bootctl` is told besides the root.
    fn arguments(&self) -> Vec<&str> {
        let values = [
            ("--random-seed", self.random_seed.map(Choice::name)),
            ("--make-entry-directory", self.make_entry_directory.map(Choice::name)),
            ("--entry-token", self.entry_token.map(EntryToken::name)),
            ("--esp-path", filled(self.esp_path.as_deref())),
            ("--boot-path", filled(self.boot_path.as_deref())),
        ];
        values.into_iter().filter_map(|(option, value)| Some([option, value?])).flatten().collect()
    }
}

fn filled(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

pub(crate) struct BootctlInstallRoot;

impl Stage for BootctlInstallRoot {
    const NAME: &'static str = "org.osbuild.bootctl.install.root";
    type Options = Options;

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        Ok(command(&options, context, "bootctl")?.run()?)
    }
}

fn command(options: &Options, context: &StageContext, program: &str) -> Result<Run, ModuleError> {
    let location = Location::parse(&options.root, &context.arguments)?;
    let root = Root::open(&location.root)?.resolve(&location.path)?;
    let mut run = Run::new(program).env_clear().env("PATH", PATH);
    if options.relax_esp_checks {
        run = run.env("SYSTEMD_RELAX_ESP_CHECKS", "1");
    }
    Ok(run.args(["install", "--no-variables", "--root"]).arg(root).args(options.arguments()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::{Fixture, side_by_side};
    use crate::stage_test;

    fn everything() -> Value {
        json!({
            "root": "mount://root/sysroot/../", "esp-path": "/efi", "boot-path": "/boot", "relax-esp-checks": true,
            "random-seed": "no", "make-entry-directory": "yes", "entry-token": "os-image-id",
        })
    }

    #[test]
    fn schema_agrees() {
        let with = |name: &str, value: &str| json!({"root": "tree:///", name: value});
        Agreement::stage::<BootctlInstallRoot>()
            .accepts([
                json!({"root": "tree:///"}),
                everything(),
                with("entry-token", "auto"),
                with("entry-token", "machine-id"),
                with("entry-token", "os-id"),
                with("random-seed", "yes"),
                with("make-entry-directory", "no"),
            ])
            .refuses([
                json!({}),
                json!({"root": "/"}),
                json!({"root": "mount:///"}),
                json!({"root": "input://tree/"}),
                with("entry-token", "literal"),
                with("random-seed", "maybe"),
                json!({"root": "tree:///", "random-seed": true}),
            ]);
    }

    #[test]
    fn options_become_arguments() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().canonicalize().expect("a path");
        let context = stage_test::context(&json!({"tree": root, "mounts": {"root": {"path": root}}}));
        let words = |options: Value| {
            let options = serde_json::from_value(options).expect("valid");
            let words = command(&options, &context, "bootctl").expect("a command").words();
            let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
            words.join(" ").replace(root.to_str().expect("UTF-8"), "ROOT")
        };
        assert_eq!(
            words(json!({"root": "tree:///", "esp-path": ""})),
            "bootctl install --no-variables --root ROOT"
        );
        assert_eq!(
            words(everything()),
            "bootctl install --no-variables --root ROOT --random-seed no --make-entry-directory yes --entry-token \
             os-image-id --esp-path /efi --boot-path /boot"
        );
    }

    #[test]
    fn the_environment_is_what_is_told() {
        let options = serde_json::from_value(everything()).expect("valid");
        let directory = tempfile::tempdir().expect("a directory");
        let context = stage_test::context(&json!({"mounts": {"root": {"path": directory.path()}}}));
        let script = directory.path().join("bootctl");
        fs::write(&script, "#!/bin/sh\nenv | grep -v -e ^PWD= -e ^_= -e ^SHLVL= | sort\n").expect("written");
        fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("executable");
        let output =
            command(&options, &context, script.to_str().expect("UTF-8")).expect("a command").output();
        let output = String::from_utf8(output.expect("run")).expect("text");
        assert_eq!(output, format!("PATH={PATH}\nSYSTEMD_RELAX_ESP_CHECKS=1\n"));
    }

    #[test]
    fn what_is_no_partition_is_refused_as_by_the_reference() {
        let prepare = |fixture: &mut Fixture| {
            fs::create_dir_all(fixture.tree().join("efi")).expect("made");
        };
        let options = json!({"root": "tree:///", "esp-path": "/efi"});
        side_by_side::<BootctlInstallRoot>(prepare, &options);
        let mut fixture = Fixture::new();
        prepare(&mut fixture);
        let error = fixture.run::<BootctlInstallRoot>(options).expect_err("no partition").to_string();
        assert!(error.starts_with("`bootctl` failed with exit status 1"), "{error}");
    }

    #[test]
    fn root_any_file_system_will_do_if_it_is_told_so() {
        // In the reference, the option ends in an error of its own. FAT, which the partition has, this kernel may lack.
        kiln_sys::chroot::private_mounts().expect("root");
        let fixture = Fixture::new();
        let loader = "usr/lib/systemd/boot/efi/systemd-bootx64.efi";
        for directory in ["efi", "etc", "usr/lib/systemd/boot/efi"] {
            fs::create_dir_all(fixture.tree().join(directory)).expect("made");
        }
        fs::copy(format!("/{loader}"), fixture.tree().join(loader)).expect("copied");
        let partition = fixture.tree().join("efi");
        rustix::mount::mount("none", &partition, "tmpfs", rustix::mount::MountFlags::empty(), None)
            .expect("root");
        let options = json!({
            "root": "tree:///", "esp-path": "/efi", "relax-esp-checks": true, "make-entry-directory": "no",
        });
        let installed = fixture.run::<BootctlInstallRoot>(options).map_err(|error| error.to_string());
        let files = ["EFI/systemd/systemd-bootx64.efi", "EFI/BOOT/BOOTX64.EFI"]
            .map(|path| fs::read(partition.join(path)));
        let is_configured = partition.join("loader/loader.conf").is_file();
        rustix::mount::unmount(&partition, rustix::mount::UnmountFlags::empty()).expect("unmounted");
        assert_eq!(installed, Ok(String::new()));
        let expected = fs::read(format!("/{loader}")).expect("there");
        assert!(files.into_iter().all(|file| file.expect("installed") == expected) && is_configured);
    }
}
