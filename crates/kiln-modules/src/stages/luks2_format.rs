//! `org.osbuild.luks2.format`

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::stage_devices::{self, flag};

/// Memory of a key derivation function that says nothing of it, in KiB: the least that there can be.
const MEMORY: u32 = 32;
/// Threads of a key derivation function that says nothing of them.
const PARALLELISM: u32 = 1;

/// Makes the device `device` a LUKS container, version 2.
///
/// Runs `cryptsetup` of the build root, which reads the passphrase from its standard input. The device `org.osbuild.luks2`
/// opens the container.
// No `Debug`: the passphrase is in it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// Passphrase of the first key slot, up to the end of its first line.
    passphrase: String,
    /// UUID of the container.
    uuid: String,
    /// Cipher, as `aes-xts-plain64`; without it, the one that `cryptsetup` was built for.
    cipher: Option<String>,
    /// How the key slot's key is derived from the passphrase.
    pbkdf: Derivation,
    /// Label of the container.
    label: Option<String>,
    /// Second label; it counts only if there is a first one.
    subsystem: Option<String>,
    /// Size of the sectors that are encrypted one by one, in bytes.
    #[serde(rename = "sector-size")]
    sector_size: Option<i64>,
    /// How the data is protected from being changed.
    integrity: Option<Integrity>,
}

/// A key derivation function and what it costs.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum Derivation {
    /// PBKDF2.
    Pbkdf2(Pbkdf2),
    /// Argon2.
    Argon2(Argon2),
}

/// A function that costs time only.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Pbkdf2 {
    /// The function's name: there is one.
    #[serde(rename = "method")]
    _method: Pbkdf2Method,
    /// Number of iterations.
    #[schemars(range(min = 1000, max = 4_294_967_295_u32))]
    iterations: i64,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Pbkdf2Method {
    /// PBKDF2.
    Pbkdf2,
}

/// A function that costs time and memory.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Argon2 {
    /// The function's name.
    method: Argon2Method,
    /// Memory in KiB; 32 if nothing is said.
    #[schemars(range(min = 32, max = 4_194_304))]
    memory: Option<i64>,
    /// Number of iterations.
    #[schemars(range(min = 4, max = 4_294_967_295_u32))]
    iterations: i64,
    /// Number of threads; one if nothing is said.
    #[schemars(range(min = 1, max = 4))]
    parallelism: Option<i64>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Argon2Method {
    /// Argon2i.
    Argon2i,
    /// Argon2id.
    Argon2id,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Integrity {
    /// A checksum with a key of its own beside each sector.
    HmacSha256,
}

impl Derivation {
    fn arguments(&self) -> [String; 8] {
        let (method, iterations, memory, parallelism) = match self {
            Self::Pbkdf2(function) => ("pbkdf2", function.iterations, None, None),
            Self::Argon2(function) => {
                let method = match function.method {
                    Argon2Method::Argon2i => "argon2i",
                    Argon2Method::Argon2id => "argon2id",
                };
                (method, function.iterations, function.memory, function.parallelism)
            }
        };
        let memory = memory.unwrap_or(MEMORY.into());
        let parallelism = parallelism.unwrap_or(PARALLELISM.into());
        [
            "--pbkdf".to_owned(),
            method.to_owned(),
            "--pbkdf-force-iterations".to_owned(),
            iterations.to_string(),
            "--pbkdf-memory".to_owned(),
            memory.to_string(),
            "--pbkdf-parallel".to_owned(),
            parallelism.to_string(),
        ]
    }
}

impl Options {
    /// The arguments before the device.
    fn arguments(&self) -> Vec<String> {
        let words = ["-q", "--uuid", &self.uuid, "luksFormat", "--type", "luks2", "--force-password"];
        let mut arguments = words.map(str::to_owned).to_vec();
        arguments.extend(flag("--cipher", self.cipher.as_deref()));
        if let Some(label) = self.label.as_ref().filter(|label| !label.is_empty()) {
            let subsystem = self.subsystem.as_deref().unwrap_or_default();
            arguments.extend(["--label", label, "--subsystem", subsystem].map(str::to_owned));
        }
        let sector_size = self.sector_size.filter(|size| *size != 0).map(|size| size.to_string());
        arguments.extend(flag("--sector-size", sector_size.as_deref()));
        arguments.extend(flag("--integrity", self.integrity.map(|Integrity::HmacSha256| "hmac-sha256")));
        arguments.extend(self.pbkdf.arguments());
        arguments
    }
}

pub(crate) struct Luks2Format;

impl Stage for Luks2Format {
    const NAME: &'static str = "org.osbuild.luks2.format";
    type Options = Options;

    fn schema() -> ModuleSchema {
        stage_devices::schema::<Options>()
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let device = stage_devices::device(context)?;
        let run = Run::new("cryptsetup").args(options.arguments()).arg(device);
        Ok(run.input(options.passphrase).run()?)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use kiln_testkit::host;
    use serde_json::{Value, json};

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::run_reference;
    use crate::stage_test::{self, UUID, attribute};

    fn pbkdf2() -> Value {
        json!({"method": "pbkdf2", "iterations": 1000})
    }

    fn all() -> Value {
        json!({"passphrase": "secret", "uuid": UUID, "cipher": "aes-xts-plain64", "label": "crypt", "subsystem": "tests",
               "sector-size": 512,
               "pbkdf": {"method": "argon2id", "memory": 64, "iterations": 4, "parallelism": 2}})
    }

    #[test]
    fn schema() {
        let with = |pbkdf: Value| json!({"passphrase": "", "uuid": UUID, "pbkdf": pbkdf});
        Agreement::stage::<Luks2Format>()
            .accepts([
                all(),
                with(pbkdf2()),
                with(json!({"method": "argon2i", "iterations": 4})),
                json!({"passphrase": "", "uuid": UUID, "pbkdf": pbkdf2(), "integrity": "hmac-sha256"}),
            ])
            .refuses([
                json!({"uuid": UUID, "pbkdf": pbkdf2()}),
                json!({"passphrase": "", "uuid": UUID}),
                with(json!({"method": "pbkdf2", "iterations": 999})),
                with(json!({"method": "pbkdf2", "iterations": 1000, "memory": 32})),
                with(json!({"method": "argon2i", "iterations": 3})),
                with(json!({"method": "argon2i", "iterations": 4, "memory": 31})),
                with(json!({"method": "argon2i", "iterations": 4, "parallelism": 5})),
                with(json!({"method": "scrypt", "iterations": 4})),
            ]);
        Agreement::stage::<Luks2Format>()
            .member("devices")
            .around(json!({"type": "org.osbuild.luks2.format", "options": with(pbkdf2())}))
            .accepts([json!({"device": {"type": "x"}})])
            .refuses([json!({})]);
    }

    #[test]
    fn options_become_arguments() {
        let arguments = |options: Value| {
            let options: Options = serde_json::from_value(options).expect("valid");
            options.arguments().join(" ")
        };
        let start = format!("-q --uuid {UUID} luksFormat --type luks2 --force-password");
        assert_eq!(
            arguments(all()),
            format!(
                "{start} --cipher aes-xts-plain64 --label crypt --subsystem tests --sector-size 512 --pbkdf argon2id \
                 --pbkdf-force-iterations 4 --pbkdf-memory 64 --pbkdf-parallel 2"
            )
        );
        let least = json!({"passphrase": "secret", "uuid": UUID, "pbkdf": pbkdf2(), "subsystem": "alone", "label": "",
                           "sector-size": 0, "integrity": "hmac-sha256"});
        assert_eq!(
            arguments(least),
            format!(
                "{start} --integrity hmac-sha256 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --pbkdf-memory 32 \
                 --pbkdf-parallel 1"
            )
        );
    }

    /// What a container says of itself, without what is random.
    fn dump(image: &Path) -> String {
        let text = stage_test::output("cryptsetup", &["luksDump"], image);
        let random = |line: &str| {
            // Salts and digests take lines of bytes.
            line.starts_with("\t            ") || line.contains("Salt:") || line.contains("Digest:")
        };
        text.lines().filter(|line| !random(line)).collect::<Vec<_>>().join("\n")
    }

    fn opens(image: &Path, passphrase: &str) -> bool {
        let run = Run::new("cryptsetup").args(["open", "--test-passphrase"]).arg(image);
        run.input(passphrase).status().expect("cryptsetup").success()
    }

    #[test]
    fn containers_are_as_asked() {
        if !host::provided("LUKS", &[host::CRYPTSETUP]) {
            return;
        }
        let image = stage_test::run_on_file::<Luks2Format>(32 << 20, &all()).expect("cryptsetup");
        assert_eq!(attribute(image.path(), "TYPE"), "crypto_LUKS");
        assert_eq!(attribute(image.path(), "UUID"), UUID);
        assert_eq!(attribute(image.path(), "LABEL"), "crypt");
        let dump = dump(image.path());
        for expected in [
            "Version:       \t2",
            "Subsystem:     \ttests",
            "PBKDF:      argon2id",
            "Memory:     64",
            "Threads:    2",
        ] {
            assert!(dump.contains(expected), "{expected} is not in {dump}");
        }
        assert!(opens(image.path(), "secret") && !opens(image.path(), "Secret"));
    }

    #[test]
    fn containers_are_those_of_the_reference() {
        if !host::provided("LUKS", &[host::CRYPTSETUP]) {
            return;
        }
        for options in [all(), json!({"passphrase": "pass\"word $x", "uuid": UUID, "pbkdf": pbkdf2()})] {
            let theirs = tempfile::NamedTempFile::new().expect("temporary file");
            theirs.as_file().set_len(32 << 20).expect("set size");
            let arguments = json!({"devices": {"device": {"path": theirs.path()}}, "options": options});
            let Some((succeeded, said)) = run_reference(Luks2Format::NAME, &arguments) else { return };
            assert!(succeeded, "{said}");
            let ours = stage_test::run_on_file::<Luks2Format>(32 << 20, &options).expect("cryptsetup");
            assert_eq!(dump(ours.path()), dump(theirs.path()));
            let passphrase = options["passphrase"].as_str().expect("a text");
            assert!(opens(ours.path(), passphrase) && opens(theirs.path(), passphrase));
        }
    }

    #[test]
    fn the_passphrase_is_in_no_error() {
        if !host::provided("LUKS", &[host::CRYPTSETUP]) {
            return;
        }
        let mut options = all();
        options["passphrase"] = json!("correct horse");
        options["cipher"] = json!("no-such-cipher");
        let error = stage_test::run_on_file::<Luks2Format>(32 << 20, &options).expect_err("refused");
        for text in [error.to_string(), format!("{error:?}")] {
            assert!(text.contains("cryptsetup") && !text.contains("horse"), "{text}");
        }
    }
}
