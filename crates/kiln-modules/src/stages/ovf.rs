//! `org.osbuild.ovf`
//!
//! ```text
//! DISK.vmdk     the image, which is there
//! DISK.ovf      describes a machine with it
//! DISK.mf       checksums of both
//! ```

mod description;

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::location::normalise;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use self::description::Machine;
use crate::support::root::Root;

/// The part of network addresses that VirtualBox's machines have in common.
const ADDRESSES: &str = "080027";

/// How much is read at once.
const CHUNK: usize = 1 << 20;

/// Writes a description of a virtual machine for a disk image, and a manifest with the checksums of both.
///
/// The machine has two processors, 4 GiB of memory and UEFI in VMware, and one network card in VirtualBox. The files are
/// written beside the image, and have its name with the extensions `ovf` and `mf`. What tells one machine from another
/// (its UUIDs, and its network address if none is given) comes from the image: equal images have equal descriptions.
/// The image's virtual size is asked for with `qemu-img` of the build root.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The path of the image in the tree.
    #[schemars(regex(pattern = "[a-zA-Z0-9+_.-]+.vmdk"))]
    vmdk: String,
    /// What VMware is told.
    #[serde(default)]
    vmware: VmWare,
    /// What VirtualBox is told.
    #[serde(default)]
    virtualbox: VirtualBox,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct VmWare {
    /// VMware's name of the operating system.
    os_type: String,
    /// The version of the virtual hardware.
    #[schemars(regex(pattern = "^vmx-[0-9]+$"))]
    virtual_hardware_version: String,
}

impl Default for VmWare {
    fn default() -> Self {
        Self { os_type: "other26xLinux64Guest".to_owned(), virtual_hardware_version: "vmx-15".to_owned() }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct VirtualBox {
    /// VirtualBox's name of the operating system.
    os_type: String,
    /// The address of the network card: twelve hexadecimal digits.
    #[schemars(regex(pattern = "^[a-fA-F0-9]{12}$"))]
    mac_address: Option<String>,
}

impl Default for VirtualBox {
    fn default() -> Self {
        Self { os_type: "OtherLinux_64".to_owned(), mac_address: None }
    }
}

pub(crate) struct Ovf;

impl Stage for Ovf {
    const NAME: &'static str = "org.osbuild.ovf";
    type Options = Options;

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let tree = Root::open(context.tree())?;
        let image = normalise(Path::new(&options.vmdk));
        let name = file_name(&image)?;
        let content = Digested::of_file(&tree, &image)?;
        let capacity = virtual_size(&tree.resolve(&image)?)?;
        let description = describe(&options, name, &content, capacity);
        let description_path = image.with_extension("ovf");
        let description_name = file_name(&description_path)?;
        write(&tree, &description_path, &description)?;
        let checksum = hex(&Sha256::digest(&description));
        let manifest =
            format!("SHA256({description_name})= {checksum}\nSHA256({name})= {}\n", hex(&content.digest));
        write(&tree, &image.with_extension("mf"), &manifest)
    }
}

fn file_name(path: &Path) -> Result<&str, ModuleError> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.ok_or_else(|| ModuleError::option("vmdk", format!("`{}` is no path of a file", path.display())))
}

fn write(tree: &Root, path: &Path, text: &str) -> Result<(), ModuleError> {
    tree.create(path)?.write_all(text.as_bytes()).map_err(ModuleError::io("write", tree.shown(path)))
}

/// What the content of a file is known by.
struct Digested {
    digest: [u8; 32],
    size: u64,
}

impl Digested {
    fn of_file(tree: &Root, path: &Path) -> Result<Self, ModuleError> {
        let mut file: File = tree.read(path)?;
        let mut digest = Sha256::new();
        let (mut buffer, mut size) = (vec![0; CHUNK], 0);
        loop {
            let count = file.read(&mut buffer).map_err(ModuleError::io("read", tree.shown(path)))?;
            if count == 0 {
                return Ok(Self { digest: digest.finalize().into(), size });
            }
            digest.update(buffer.get(..count).unwrap_or_default());
            size += count as u64;
        }
    }

    /// Bytes that nothing else has: from the content, and what they are for.
    fn own<const N: usize>(&self, purpose: &str) -> [u8; N] {
        let digest = Sha256::new().chain_update(self.digest).chain_update(purpose).finalize();
        let mut bytes = [0; N];
        bytes.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        bytes
    }

    /// A UUID of version 8: one of bytes that an application chose.
    fn uuid(&self, purpose: &str) -> String {
        let mut bytes = self.own::<16>(purpose);
        bytes[6] = bytes[6] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let text = hex(&bytes);
        let part = |range| text.get::<std::ops::Range<usize>>(range).unwrap_or_default();
        [part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)].join("-")
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The size of the disk that a guest sees.
pub(super) fn virtual_size(image: &Path) -> Result<u64, ModuleError> {
    let told = Run::new("qemu-img").args(["info", "--output=json"]).arg(image).output()?;
    let told: Value = serde_json::from_slice(&told).unwrap_or_default();
    let size = told.get("virtual-size").and_then(Value::as_u64);
    size.ok_or_else(|| {
        ModuleError::invalid(format!("`qemu-img` does not tell the virtual size of `{}`", image.display()))
    })
}

fn describe(options: &Options, name: &str, content: &Digested, capacity: u64) -> String {
    let own_address = || format!("{ADDRESSES}{}", hex(&content.own::<3>("network card")));
    let machine = Machine {
        name,
        size: content.size,
        capacity,
        disk: &content.uuid("disk"),
        machine: &content.uuid("machine"),
        vmware_os: &options.vmware.os_type,
        hardware: &options.vmware.virtual_hardware_version,
        virtualbox_os: &options.virtualbox.os_type,
        address: &options.virtualbox.mac_address.clone().unwrap_or_else(own_address),
    };
    machine.description()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::Fixture;
    use crate::stage_test::output;

    #[test]
    fn schema_agrees() {
        Agreement::stage::<Ovf>()
            .accepts([
                json!({"vmdk": "a.vmdk"}),
                json!({"vmdk": "a.vmdk", "vmware": {}, "virtualbox": {}}),
                json!({"vmdk": "a.vmdk", "vmware": {"os_type": "x", "virtual_hardware_version": "vmx-19"},
                       "virtualbox": {"os_type": "y", "mac_address": "080027aAfF09"}}),
            ])
            .refuses([
                json!({}),
                json!({"vmdk": "a.raw"}),
                json!({"vmdk": "a.vmdk", "vmware": {"virtual_hardware_version": "15"}}),
                json!({"vmdk": "a.vmdk", "virtualbox": {"mac_address": "08:00:27:00:00:00"}}),
                json!({"vmdk": "a.vmdk", "virtualbox": {"memory": 1}}),
            ]);
    }

    fn fixture(megabytes: u32) -> Fixture {
        let fixture = Fixture::new();
        fs::create_dir(fixture.tree().join("out")).expect("made");
        let size = format!("{megabytes}M");
        // Such an image has a random id: for an equal one, the bytes are copied.
        let options = ["create", "-q", "-f", "vmdk", "-o", "subformat=streamOptimized"];
        let image = fixture.tree().join("out/a.b.vmdk");
        let status = std::process::Command::new("qemu-img").args(options).arg(&image).arg(size).status();
        assert!(status.expect("qemu-img").success());
        fixture
    }

    fn read(fixture: &Fixture, name: &str) -> String {
        fs::read_to_string(fixture.tree().join("out").join(name)).expect(name)
    }

    /// The value of an attribute.
    fn value<'a>(text: &'a str, name: &str) -> &'a str {
        let (_, rest) = text.split_once(&format!("{name}=\"")).unwrap_or_else(|| panic!("no {name}"));
        rest.split_once('"').expect("its end").0
    }

    #[test]
    fn the_description_is_of_the_image() {
        let fixture = fixture(3);
        let options = json!({
            "vmdk": "out/a.b.vmdk",
            "vmware": {"os_type": "<{name}> & \"more\"", "virtual_hardware_version": "vmx-21"},
        });
        fixture.run::<Ovf>(options.clone()).expect("described");
        let text = read(&fixture, "a.b.ovf");
        output("xmllint", &["--noout"], &fixture.tree().join("out/a.b.ovf"));
        let image = fs::read(fixture.tree().join("out/a.b.vmdk")).expect("the image");
        assert_eq!(value(&text, "ovf:href"), "a.b.vmdk");
        assert_eq!(value(&text, "ovf:size"), image.len().to_string());
        assert_eq!(value(&text, "ovf:capacity"), (3 << 20).to_string());
        assert_eq!(value(&text, "vmw:osType"), "&lt;{name}&gt; &amp; &quot;more&quot;");
        assert_eq!(value(&text, "OSType"), "OtherLinux_64");
        assert!(text.contains(">vmx-21<"));
        let address = value(&text, "MACAddress");
        assert!(address.len() == 12 && address.starts_with("080027"), "{address}");
        let disk = value(&text, "vbox:uuid");
        assert_eq!(disk, value(&text, "<Image uuid"));
        let machine = value(&text, "version=\"1.16-linux\" uuid");
        for uuid in [disk, machine] {
            assert_eq!((uuid.len(), &uuid[14..15]), (36, "8"), "{uuid}");
        }
        assert_ne!(disk, machine);
        let lines = [("a.b.ovf", text.as_bytes()), ("a.b.vmdk", &image)]
            .map(|(name, bytes)| format!("SHA256({name})= {}\n", hex(&Sha256::digest(bytes))));
        assert_eq!(read(&fixture, "a.b.mf"), lines.concat());
        // Once more, it is the same.
        fixture.run::<Ovf>(options).expect("described");
        assert_eq!(read(&fixture, "a.b.ovf"), text);
        let other = self::fixture(4);
        other.run::<Ovf>(json!({"vmdk": "/out/a.b.vmdk"})).expect("described");
        assert_ne!(value(&read(&other, "a.b.ovf"), "vbox:uuid"), disk);
    }

    #[test]
    fn the_description_is_the_references() {
        let own = &json!({"os_type": "Fedora_64", "mac_address": "0800271122ff"});
        for options in [
            json!({"vmdk": "out/a.b.vmdk", "virtualbox": own}),
            json!({"vmdk": "out/a.b.vmdk", "virtualbox": own, "vmware": {"os_type": "x", "virtual_hardware_version": "vmx-9"}}),
        ] {
            let fixture = fixture(3);
            let Some((succeeded, said)) = fixture.run_reference(Ovf::NAME, options.clone()) else { return };
            assert!(succeeded, "{said}");
            // Space between elements has no meaning, and UUIDs are random there.
            let elements = || {
                let text = read(&fixture, "a.b.ovf");
                let (disk, machine) =
                    (value(&text, "vbox:uuid"), value(&text, "version=\"1.16-linux\" uuid"));
                let text = text.replace(disk, "DISK").replace(machine, "MACHINE");
                text.split_inclusive('>').map(|part| part.trim().to_owned()).collect::<Vec<_>>()
            };
            let names = || {
                let name = |line: &str| line.split_once('=').map(|(name, _)| name.to_owned());
                read(&fixture, "a.b.mf").lines().map(name).collect::<Vec<_>>()
            };
            let theirs = (elements(), names());
            fixture.run::<Ovf>(options).expect("described");
            assert_eq!((elements(), names()), theirs);
        }
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let fixture = Fixture::new();
        let error = fixture.run::<Ovf>(json!({"vmdk": "none.vmdk"})).expect_err("nothing there").to_string();
        assert!(error.contains("none.vmdk`: No such file"), "{error}");
        fs::create_dir(fixture.tree().join("d.vmdk")).expect("made");
        fixture.run::<Ovf>(json!({"vmdk": "d.vmdk"})).expect_err("a directory");
        assert_eq!(fs::read_dir(fixture.tree()).expect("the tree").count(), 1, "nothing is left");
    }
}
