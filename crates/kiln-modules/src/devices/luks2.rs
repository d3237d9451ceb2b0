//! `org.osbuild.luks2`

use kiln_api::ModuleError;
use kiln_api::device::{Device, DeviceReply, DeviceRequest, OpenDevice};
use kiln_api::module::ModuleSchema;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, json};

use super::mapping::{self, Host, Make, Mapping, Plan};
use crate::host;
use crate::support::random;

const NAME: &str = "org.osbuild.luks2";

/// Opens the LUKS container on the parent device.
///
/// Needs `cryptsetup` on the host, which reads the passphrase from its standard input, and a kernel with the device mapper. The device lasts as long as the stage; the kernel removes it by itself if Kiln is killed, and udev is kept from
/// looking at it (given the rules that osbuild installs for that). On a device that refuses writes, it is opened for reading.
// No `Debug`: the passphrase is in it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// Passphrase, up to the end of its first line.
    passphrase: String,
}

pub(crate) struct Luks2;

impl Device for Luks2 {
    fn name(&self) -> &'static str {
        NAME
    }

    fn schema(&self) -> ModuleSchema {
        ModuleSchema::of::<Options>()
    }

    fn open(&self, request: &DeviceRequest<'_>) -> Result<Box<dyn OpenDevice>, ModuleError> {
        open(request, Host::new())
    }
}

fn open(request: &DeviceRequest<'_>, host: Host) -> Result<Box<dyn OpenDevice>, ModuleError> {
    let options: Options = host::options(request.options)?;
    let parent = mapping::parent(request.dev, request.parent, NAME)?;
    let (_, read_only) = mapping::device(&parent)?;
    // Only for now: it is not written to the container.
    let name = format!("osbuild-luks-{}", random::uuid()?);
    // The tool has the build root's `/dev` for its own.
    let inside = std::path::Path::new("/dev").join(request.parent.unwrap_or_default());
    let tool = host.tool(&host.cryptsetup, request.dev)?;
    let make = tool.args(["-q", "open"]).args(read_only.then_some("--readonly")).arg(inside).arg(&name);
    let make = Make::Tool(Box::new(make.input(options.passphrase)));
    let plan = Plan { name: &name, dev: request.dev, below: &parent, make };
    let mapping = Mapping::make(host, plan)?;
    let (major, minor) = mapping.number();
    let node = json!({"major": major, "minor": minor});
    let data = Map::from_iter([("name".to_owned(), json!(name)), ("node".to_owned(), node)]);
    let reply = DeviceReply { path: format!("mapper/{name}"), data };
    Ok(Box::new(OpenMapping { reply, mapping }))
}

/// An open device that is a mapping.
pub(super) struct OpenMapping {
    pub(super) reply: DeviceReply,
    pub(super) mapping: Mapping,
}

impl OpenDevice for OpenMapping {
    fn reply(&self) -> &DeviceReply {
        &self.reply
    }

    fn close(self: Box<Self>) -> Result<(), ModuleError> {
        self.mapping.close()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use kiln_api::module::Kind;
    use kiln_testkit::host as needs;
    use serde_json::Value;

    use super::*;
    use crate::devices::fixture::{Fixture, guest};
    use crate::schema_agreement::Agreement;
    use crate::stage_test::{self, UUID};
    use crate::stages::testing::{Luks2Format, MkfsExt4};

    #[test]
    fn schema() {
        Agreement::of(Kind::Device, NAME, Luks2.schema())
            .accepts([json!({"passphrase": "secret"}), json!({"passphrase": ""})])
            .refuses([json!({}), json!({"passphrase": 1}), json!({"passphrase": "x", "more": 1})]);
    }

    fn secret() -> Value {
        json!({"passphrase": "correct horse"})
    }

    #[test]
    fn root_the_tools_are_called_and_the_mapping_goes() {
        let fixture = Fixture::new(32 << 20);
        let opened = open(&fixture.request(&secret()), fixture.host()).expect("opened");
        let reply = opened.reply().clone();
        let name = reply.data["name"].as_str().expect("a name").to_owned();
        assert!(name.starts_with("osbuild-luks-") && name.len() == 13 + 36, "{name}");
        assert_eq!(reply.path, format!("mapper/{name}"));
        assert_eq!(reply.data["node"], fixture.number());
        let parent = fixture.parent();
        let called = fixture.called();
        let expected =
            [format!("cryptsetup -q open /dev/{parent} {name} <correct horse"), format!("remove {name}")];
        assert_eq!(called, expected);
        assert!(fixture.locked(&name), "udev would look at it");
        assert!(fixture.dev.join(&reply.path).exists());
        assert!(!Path::new("/dev").join(&reply.path).exists(), "a node of the host");
        opened.close().expect("closed");
        assert!(!fixture.dev.join(&reply.path).exists() && !fixture.locked(&name));
        fixture.end();
    }

    #[test]
    fn root_a_device_that_refuses_writes_is_opened_for_reading() {
        let fixture = Fixture::read_only(32 << 20);
        let opened = open(&fixture.request(&secret()), fixture.host()).expect("opened");
        assert!(fixture.called()[0].starts_with("cryptsetup -q open --readonly /dev/loop"));
        opened.close().expect("closed");
        fixture.end();
    }

    #[test]
    fn root_errors_say_what_to_do_and_not_the_passphrase() {
        let fixture = Fixture::new(32 << 20);
        let message = |host: Host, parent: Option<&str>| {
            let options = secret();
            let request = DeviceRequest { parent, ..fixture.request(&options) };
            let error = open(&request, host).err().expect("an error").to_string();
            assert!(!error.contains("horse"), "{error}");
            error
        };
        let parent = fixture.parent();
        assert_eq!(
            message(fixture.host(), None),
            "`org.osbuild.luks2` needs a `parent`: the device that it stands on, as a loop device"
        );
        assert!(message(fixture.host(), Some("none")).starts_with("cannot look at `"));
        assert_eq!(
            message(fixture.without_mapper(), Some(&parent)),
            "the kernel has no device mapper: load its module (`modprobe dm_mod`), or run the pipeline in a guest, whose \
             kernel has one (`--in-vm PIPELINE`)"
        );
        let missing = Host { cryptsetup: "/none/cryptsetup".into(), ..fixture.host() };
        assert_eq!(
            message(missing, Some(&parent)),
            "this machine has no `/none/cryptsetup`, which the device needs: install Debian's `cryptsetup-bin` or \
             Fedora's `cryptsetup`"
        );
        fixture.fail("No key available with this passphrase.");
        let failed = message(fixture.host(), Some(&parent));
        assert!(
            failed.ends_with("` failed with exit status 2: No key available with this passphrase."),
            "{failed}"
        );
        assert_eq!(fixture.locks(), Vec::<String>::new());
        fixture.end();
    }

    /// Made, but of no use here: it is removed again.
    #[test]
    fn root_a_mapping_that_cannot_be_held_is_removed() {
        let fixture = Fixture::new(32 << 20);
        fixture.give_number("120:0");
        let options = secret();
        let error =
            open(&fixture.request(&options), fixture.host()).err().expect("no such device").to_string();
        assert!(error.starts_with("cannot open `"), "{error}");
        let called = fixture.called();
        assert!(called[1].starts_with("remove osbuild-luks-"), "{called:?}");
        assert_eq!((called.len(), fixture.locks()), (2, Vec::new()));
        fixture.end();
    }

    #[test]
    fn root_a_mapping_that_stays_busy_is_an_error() {
        let fixture = Fixture::new(32 << 20);
        fixture.keep_busy();
        let opened = open(&fixture.request(&secret()), fixture.host()).expect("opened");
        let name = opened.reply().data["name"].as_str().expect("a name").to_owned();
        let error = opened.close().expect_err("busy").to_string();
        assert!(error.starts_with(&format!("the mapping `{name}` is still in use after 0 s")), "{error}");
        fixture.end();
    }

    /// What a killed Kiln left is removed: what stands on loop devices that go away, and nothing else.
    #[test]
    fn root_what_was_left_is_removed() {
        let fixture = Fixture::new(32 << 20);
        fixture.leave("dm-90", "osbuild-luks-left", true);
        fixture.leave("dm-91", "osbuild-luks-left_dif", true);
        fixture.leave("dm-92", "others", true);
        fixture.leave("dm-93", "rootvg-root", false);
        fixture.stale_lock("osbuild-luks-left");
        fixture.stale_lock("rootvg-root");
        let opened = open(&fixture.request(&secret()), fixture.host()).expect("opened");
        opened.close().expect("closed");
        let called = fixture.called();
        assert_eq!(called.len(), 3, "{called:?}");
        assert_eq!(called[0], "remove osbuild-luks-left osbuild-luks-left_dif");
        assert!(called[1].starts_with("cryptsetup -q open "), "{called:?}");
        assert_eq!(fixture.locks(), Vec::<String>::new());
        fixture.end();
    }

    #[test]
    #[ignore = "runs in the guest: cargo xtask guest-test"]
    fn guest_containers_are_opened() {
        if !needs::provided("LUKS", &[needs::CRYPTSETUP]) {
            return;
        }
        let fixture = Fixture::new(64 << 20);
        let options = json!({"passphrase": "correct horse", "uuid": UUID,
                             "pbkdf": {"method": "pbkdf2", "iterations": 1000}});
        stage_test::run_on::<Luks2Format>(&fixture.dev.join(fixture.parent()), &options).expect("formatted");
        for (round, content) in ["none", "written"].into_iter().enumerate() {
            let opened = Luks2.open(&fixture.request(&secret())).expect("opened");
            let node = fixture.dev.join(&opened.reply().path);
            if round == 0 {
                let id = stage_test::unique_uuid();
                stage_test::run_on::<MkfsExt4>(&node, &json!({"uuid": id, "label": "inside"})).expect("mkfs");
                guest::write(&node, 8 << 20, b"written");
            } else {
                assert_eq!(guest::read(&node, 8 << 20, 7), content.as_bytes());
                assert_eq!(stage_test::attribute(&node, "LABEL"), "inside");
            }
            let name = opened.reply().data["name"].as_str().expect("a name").to_owned();
            assert!(guest::mapped(&name));
            opened.close().expect("closed");
            assert!(!guest::mapped(&name) && !node.exists());
        }
        let error =
            Luks2.open(&fixture.request(&json!({"passphrase": "wrong"}))).err().expect("refused").to_string();
        assert!(error.contains("`cryptsetup` failed with exit status 2: No key available"), "{error}");
        fixture.end();
    }

    /// With integrity, two mappings stand on each other.
    #[test]
    #[ignore = "runs in the guest: cargo xtask guest-test"]
    fn guest_both_mappings_of_a_container_with_integrity_go() {
        if !needs::provided("LUKS", &[needs::CRYPTSETUP]) {
            return;
        }
        let fixture = Fixture::new(48 << 20);
        let options = json!({"passphrase": "correct horse", "uuid": UUID, "integrity": "hmac-sha256",
                             "pbkdf": {"method": "pbkdf2", "iterations": 1000}});
        stage_test::run_on::<Luks2Format>(&fixture.dev.join(fixture.parent()), &options).expect("formatted");
        let opened = Luks2.open(&fixture.request(&secret())).expect("opened");
        let name = opened.reply().data["name"].as_str().expect("a name").to_owned();
        assert!(guest::mapped(&name) && guest::mapped(&format!("{name}_dif")));
        opened.close().expect("closed");
        assert!(!guest::mapped(&name) && !guest::mapped(&format!("{name}_dif")));
        fixture.end();
    }

    /// Dropped as a killed Kiln drops it: its descriptors are closed, nothing else is done.
    #[test]
    #[ignore = "runs in the guest: cargo xtask guest-test"]
    fn guest_the_kernel_removes_what_is_dropped() {
        if !needs::provided("LUKS", &[needs::CRYPTSETUP]) {
            return;
        }
        let fixture = Fixture::new(32 << 20);
        let options = json!({"passphrase": "correct horse", "uuid": UUID,
                             "pbkdf": {"method": "pbkdf2", "iterations": 1000}});
        stage_test::run_on::<Luks2Format>(&fixture.dev.join(fixture.parent()), &options).expect("formatted");
        let opened = Luks2.open(&fixture.request(&secret())).expect("opened");
        let name = opened.reply().data["name"].as_str().expect("a name").to_owned();
        drop(opened);
        guest::wait_until("the mapping is gone", || !guest::mapped(&name));
        fixture.end();
    }

    /// Killed after `cryptsetup` and before the kernel was told to remove the mapping: the next one finds it.
    #[test]
    #[ignore = "runs in the guest: cargo xtask guest-test"]
    fn guest_what_was_left_is_removed() {
        if !needs::provided("LUKS", &[needs::CRYPTSETUP]) {
            return;
        }
        let formatted = || {
            let fixture = Fixture::new(32 << 20);
            let options = json!({"passphrase": "correct horse", "uuid": UUID,
                                 "pbkdf": {"method": "pbkdf2", "iterations": 1000}});
            stage_test::run_on::<Luks2Format>(&fixture.dev.join(fixture.parent()), &options)
                .expect("formatted");
            fixture
        };
        let (killed, fixture) = (formatted(), formatted());
        let name = "osbuild-luks-guest-left";
        let host = Host::new();
        let run = host.tool(&host.cryptsetup, &killed.dev).expect("a tool").args(["-q", "open"]);
        let node = Path::new("/dev").join(killed.parent());
        run.arg(node).arg(name).input("correct horse").run().expect("opened");
        std::fs::create_dir_all(&host.locks).expect("a directory");
        let lock = host.locks.join(format!("dm-{name}"));
        std::fs::write(&lock, "kiln\n").expect("written");
        assert!(guest::mapped(name));
        Luks2.open(&fixture.request(&secret())).expect("opened").close().expect("closed");
        guest::wait_until("what was left is gone", || !guest::mapped(name));
        assert!(!lock.exists());
        killed.end();
        fixture.end();
    }
}
