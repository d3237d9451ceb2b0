//! `org.osbuild.vagrant`
//!
//! ```text
//! box.img         the image for libvirt; for VirtualBox box.vmdk, as it tells formats by names
//! Vagrantfile     settings of the machine
//! metadata.json   what the box is for
//! ```

use std::io::Write;
use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::support::root::Root;
use crate::support::single_file;

/// Puts the files of a Vagrant box into the tree: a disk image, and what describes it.
///
/// The input `image` is one file: a qcow2 image for libvirt, a vmdk image for VirtualBox. `org.osbuild.tar` makes the box of
/// the tree. The virtual size of an image for libvirt is asked for with `qemu-img` of the build root.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Options {
    /// A box for libvirt.
    Libvirt(Libvirt),
    /// A box for VirtualBox.
    VirtualBox(VirtualBox),
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Libvirt {
    /// What runs the machine.
    #[expect(dead_code, reason = "there is one value")]
    provider: LibvirtName,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum LibvirtName {
    Libvirt,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct VirtualBox {
    /// What runs the machine.
    #[expect(dead_code, reason = "there is one value")]
    provider: VirtualBoxName,
    /// Directories of the host that the guest sees.
    #[serde(default)]
    synced_folders: Folders,
    /// Settings of the machine.
    virtualbox: Settings,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum VirtualBoxName {
    VirtualBox,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Folders {
    /// The directory of the Vagrantfile.
    #[serde(rename = "/vagrant")]
    vagrant: Option<Folder>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Folder {
    /// How it gets into the guest; needed.
    r#type: Option<Synchronised>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Synchronised {
    VboxFs,
    Rsync,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The address of the first network card: twelve hexadecimal digits.
    #[schemars(regex(pattern = "^[a-fA-F0-9]{12}$"))]
    mac_address: String,
}

pub(crate) struct Vagrant;

impl Stage for Vagrant {
    const NAME: &'static str = "org.osbuild.vagrant";
    type Options = Options;

    fn schema() -> ModuleSchema {
        let inputs = json!({
            "type": "object",
            "additionalProperties": false,
            "required": ["image"],
            "properties": {"image": {"type": "object"}},
        });
        ModuleSchema { inputs: Some(inputs), ..ModuleSchema::of::<Options>() }
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let settings = options.settings()?;
        let source = single_file::only(context, "image")?;
        let tree = Root::open(context.tree())?;
        let name = match options {
            Options::Libvirt(_) => "box.img",
            Options::VirtualBox(_) => "box.vmdk",
        };
        let image = tree.resolve_parent(name)?;
        Run::new("cp").args(["-a", "--reflink=auto", "--"]).args([&source, &image]).run()?;
        let write = |name: &str, text: &str| {
            tree.create(name)?.write_all(text.as_bytes()).map_err(ModuleError::io("write", tree.shown(name)))
        };
        write("Vagrantfile", &format!("Vagrant.configure(\"2\") do |config|\n    {settings}\nend\n"))?;
        write("metadata.json", &options.metadata(&image)?)
    }
}

impl Options {
    /// The lines of the Vagrantfile that are about the machine.
    fn settings(&self) -> Result<String, ModuleError> {
        let Self::VirtualBox(VirtualBox { synced_folders, virtualbox, .. }) = self else {
            return Ok(
                "config.vm.provider :libvirt do |libvirt|\n  libvirt.driver = \"kvm\"\nend\n".to_owned()
            );
        };
        let mut lines = format!("config.vm.base_mac = \"{}\"\n", virtualbox.mac_address);
        if let Some(folder) = &synced_folders.vagrant {
            let kind = match folder.r#type {
                Some(Synchronised::VboxFs) => "vboxfs",
                Some(Synchronised::Rsync) => "rsync",
                None => return Err(ModuleError::option("synced_folders./vagrant.type", "is missing")),
            };
            lines.push_str(&format!("    config.vm.synced_folder \".\", \"/vagrant\", type: \"{kind}\"\n"));
        }
        Ok(lines)
    }

    /// What Vagrant reads before it unpacks the box.
    fn metadata(&self, image: &Path) -> Result<String, ModuleError> {
        if let Self::VirtualBox(_) = self {
            return Ok("{\"provider\": \"virtualbox\"}".to_owned());
        }
        let size = gigabytes(super::ovf::virtual_size(image)?);
        Ok(format!("{{\"provider\": \"libvirt\", \"format\": \"qcow2\", \"virtual_size\": {size}}}"))
    }
}

/// The size of the machine's disk, of which Vagrant wants a whole number of units. It takes them for 2^30 bytes, while
/// people give 10^9 bytes to a disk; and a disk smaller than the image would cut it.
fn gigabytes(size: u64) -> u64 {
    (size / 1_000_000_000).max(size.div_ceil(1 << 30))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use serde_json::Value;

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::{Fixture, side_by_side};

    fn virtualbox(folders: &Value) -> Value {
        json!({"provider": "virtualbox", "virtualbox": {"mac_address": "0800aabbCCDD"}, "synced_folders": folders})
    }

    #[test]
    fn schema_agrees() {
        let plain = json!({"provider": "virtualbox", "virtualbox": {"mac_address": "0800aabbCCDD"}});
        Agreement::stage::<Vagrant>()
            .accepts([
                json!({"provider": "libvirt"}),
                plain,
                virtualbox(&json!({})),
                virtualbox(&json!({"/vagrant": {}})),
                virtualbox(&json!({"/vagrant": {"type": "rsync"}})),
                virtualbox(&json!({"/vagrant": {"type": "vboxfs"}})),
            ])
            .refuses([
                json!({}),
                json!({"provider": "vmware"}),
                json!({"provider": "virtualbox"}),
                json!({"provider": "libvirt", "virtualbox": {"mac_address": "0800aabbCCDD"}}),
                virtualbox(&json!({"/home": {"type": "rsync"}})),
                virtualbox(&json!({"/vagrant": {"type": "nfs"}})),
            ]);
        Agreement::stage::<Vagrant>()
            .around(json!({"options": {"provider": "libvirt"}}))
            .member("inputs")
            .accepts([json!({"image": {"type": "org.osbuild.files"}})])
            .refuses([json!({}), json!({"image": {}, "other": {}})]);
    }

    fn prepare(fixture: &mut Fixture) {
        let input = fixture.input("image", &[("disk", "")]);
        let create = ["create", "-q", "-f", "qcow2"];
        let status = Command::new("qemu-img").args(create).arg(input.join("disk")).arg("2G").status();
        assert!(status.expect("qemu-img").success());
    }

    #[test]
    fn boxes_are_the_references() {
        side_by_side::<Vagrant>(prepare, &json!({"provider": "libvirt"}));
        for folders in
            [json!({}), json!({"/vagrant": {"type": "rsync"}}), json!({"/vagrant": {"type": "vboxfs"}})]
        {
            side_by_side::<Vagrant>(prepare, &virtualbox(&folders));
        }
    }

    #[test]
    fn a_box_has_its_files() {
        let mut fixture = Fixture::new();
        prepare(&mut fixture);
        fixture.run::<Vagrant>(json!({"provider": "libvirt"})).expect("made");
        fixture.run::<Vagrant>(virtualbox(&json!({"/vagrant": {"type": "rsync"}}))).expect("made");
        let read = |name: &str| fs::read_to_string(fixture.tree().join(name)).expect(name);
        assert_eq!(
            read("Vagrantfile"),
            "Vagrant.configure(\"2\") do |config|\n    config.vm.base_mac = \"0800aabbCCDD\"\n    \
             config.vm.synced_folder \".\", \"/vagrant\", type: \"rsync\"\n\nend\n"
        );
        assert_eq!(read("metadata.json"), "{\"provider\": \"virtualbox\"}");
        let [one, other] =
            ["box.img", "box.vmdk"].map(|name| fs::read(fixture.tree().join(name)).expect(name));
        assert!(one == other && one.starts_with(b"QFI\xfb"));
        fixture.run::<Vagrant>(json!({"provider": "libvirt"})).expect("made");
        let metadata: Value = serde_json::from_str(&read("metadata.json")).expect("JSON");
        assert_eq!(metadata, json!({"provider": "libvirt", "format": "qcow2", "virtual_size": 2}));
    }

    #[test]
    fn no_disk_is_smaller_than_its_image() {
        for (size, expected) in [
            (500 << 20, 1),
            (1 << 30, 1),
            (3 << 29, 2),
            (10 << 30, 10),
            (100 << 30, 107),
            (10_000_000_001, 10),
        ] {
            assert_eq!(gigabytes(size), expected, "{size}");
        }
    }

    #[test]
    fn what_is_missing_is_said() {
        let mut fixture = Fixture::new();
        prepare(&mut fixture);
        let error = fixture.run::<Vagrant>(virtualbox(&json!({"/vagrant": {}}))).expect_err("no type");
        assert_eq!(error.to_string(), "invalid option `synced_folders./vagrant.type`: is missing");
        let mut two = Fixture::new();
        two.input("image", &[("a", ""), ("b", "")]);
        let error = two.run::<Vagrant>(json!({"provider": "libvirt"})).expect_err("two files").to_string();
        assert_eq!(error, "invalid option `inputs.image`: must be one file, but has 2");
        let mut none = Fixture::new();
        none.input("image", &[("a", "no image")]);
        fs::remove_file(none.tree().parent().expect("a directory").join("inputs/image/a")).expect("removed");
        let error = none.run::<Vagrant>(json!({"provider": "libvirt"})).expect_err("no file").to_string();
        assert!(error.starts_with("`cp` failed with exit status 1"), "{error}");
    }
}
