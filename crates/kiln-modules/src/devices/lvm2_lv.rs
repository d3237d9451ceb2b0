//! `org.osbuild.lvm2.lv`
//!
//! The volume's extents are read from the physical volume itself and mapped by Kiln, not by LVM's tools: these go
//! by the ids of groups and volumes, and take a volume of a copy of the image, open elsewhere on the machine, for this
//! one. They also go by the host's settings (filters, lists of devices), and would leave a mapping that only LVM removes.

use std::fs::File;
use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::device::{Device, DeviceReply, DeviceRequest, OpenDevice};
use kiln_api::module::ModuleSchema;
use kiln_sys::device_mapper::{LONGEST_NAME, Target};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, json};

use super::luks2::OpenMapping;
use super::mapping::{self, Host, Make, Mapping, Plan, Table};
use crate::host;
use crate::lvm2::{Extent, PhysicalVolume, Volume};
use crate::support::number::Number;
use crate::support::random;

const NAME: &str = "org.osbuild.lvm2.lv";

/// Opens a logical volume of the volume group on the parent device.
///
/// Needs a kernel with the device mapper. The volume must be linear or striped, and lie on the parent device alone, as those that
/// `org.osbuild.lvm2.create` makes do. The device lasts as long as the stage, and the kernel removes it
/// by itself if Kiln is killed. If the machine has a volume of that name or id in use already, the kernel
/// knows this one by a random name; in the build root it has its own.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// Name of the logical volume.
    volume: String,
    /// Number of the parent device's partition that has the volume group; without it, the device itself has it.
    vg_partnum: Option<Number>,
}

pub(crate) struct Lvm2Lv;

impl Device for Lvm2Lv {
    fn name(&self) -> &'static str {
        NAME
    }

    fn schema(&self) -> ModuleSchema {
        ModuleSchema::of::<Options>()
    }

    fn open(&self, request: &DeviceRequest<'_>) -> Result<Box<dyn OpenDevice>, ModuleError> {
        open(request, Host::new)
    }
}

fn open(request: &DeviceRequest<'_>, host: impl Fn() -> Host) -> Result<Box<dyn OpenDevice>, ModuleError> {
    let options: Options = host::options(request.options)?;
    let mut parent = mapping::parent(request.dev, request.parent, NAME)?;
    if let Some(number) = &options.vg_partnum {
        match number.whole("vg_partnum")? {
            // As in the reference, where it is as if it were not there.
            0 => {}
            number => parent.as_mut_os_string().push(format!("p{number}")),
        }
    }
    let (number, read_only) = mapping::device(&parent)?;
    let mut device = File::open(&parent).map_err(ModuleError::io("open", &parent))?;
    let failed = |error| ModuleError::invalid(format!("`{}`: {}", parent.display(), host::invalid(&error)));
    let physical = PhysicalVolume::read(&mut device).map_err(failed)?;
    drop(device);
    let group = physical.metadata().name();
    let volume = physical.volume(&options.volume).map_err(failed)?;
    let read_only = read_only || !volume.writable;
    let targets = targets(&volume, number);
    let place = Place { dev: request.dev, below: &parent };
    let name = mapper_name(group, &options.volume);
    let id = format!("LVM-{}", volume.id);
    let mut mapping = place.make(host, &name, Table { id: Some(&id), targets, read_only })?;
    let path = format!("{group}/{}", options.volume);
    mapping.add_node(request.dev, &path)?;
    mapping.add_node(request.dev, &format!("mapper/{name}"))?;
    let (major, minor) = mapping.number();
    let data = Map::from_iter([
        ("node".to_owned(), json!({"major": major, "minor": minor})),
        ("lvm".to_owned(), json!({"vg_name": group, "lv_name": options.volume})),
    ]);
    Ok(Box::new(OpenMapping { reply: DeviceReply { path, data }, mapping }))
}

/// Where a mapping is made.
struct Place<'a> {
    dev: &'a Path,
    below: &'a Path,
}

impl Place<'_> {
    /// Maps a volume by LVM's name and id, by which tools know it, or by others if the machine has these in use.
    fn make(&self, host: impl Fn() -> Host, name: &str, table: Table<'_>) -> Result<Mapping, ModuleError> {
        let taken = || host().is_taken(name, table.id.unwrap_or_default());
        if name.len() <= LONGEST_NAME && !taken() {
            match Mapping::make(host(), self.plan(name, &table)) {
                // Another program was faster.
                Err(_) if taken() => {}
                result => return result,
            }
        }
        let name = format!("osbuild-lvm-{}", random::uuid()?);
        Mapping::make(host(), self.plan(&name, &Table { id: None, ..table }))
    }

    fn plan<'b>(&'b self, name: &'b str, table: &'b Table<'b>) -> Plan<'b> {
        Plan { name, dev: self.dev, below: self.below, make: Make::Table(table) }
    }
}

/// What the kernel is told of a volume: its sectors, and where they are on the device of this number.
fn targets(volume: &Volume, (major, minor): (u32, u32)) -> Vec<Target> {
    let on = |offset: &u64| format!("{major}:{minor} {offset}");
    let target = |extent: &Extent| {
        let (start, length) = (extent.start, extent.length);
        let stripes: Vec<_> = extent.stripes.iter().map(on).collect();
        match stripes.as_slice() {
            [only] => Target { start, length, kind: "linear", parameters: only.clone() },
            all => {
                let parameters = format!("{} {} {}", all.len(), extent.stripe_size, all.join(" "));
                Target { start, length, kind: "striped", parameters }
            }
        }
    };
    volume.extents.iter().map(target).collect()
}

/// How LVM calls the mapping of a volume.
fn mapper_name(group: &str, volume: &str) -> String {
    format!("{}-{}", group.replace('-', "--"), volume.replace('-', "--"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use kiln_api::module::Kind;
    use kiln_testkit::host as needs;
    use kiln_testkit::lvm2::{TEXT, disk, usual};
    use serde_json::Value;

    use super::*;
    use crate::devices::fixture::{Fixture, guest};
    use crate::devices::loopback::Loopback;
    use crate::devices::luks2::Luks2;
    use crate::schema_agreement::Agreement;
    use crate::stage_test;
    use crate::stages::testing::{Luks2Format, Lvm2Create, Lvm2Metadata, MkfsExt4, Sfdisk};

    #[test]
    fn schema() {
        Agreement::of(Kind::Device, NAME, Lvm2Lv.schema())
            .accepts([json!({"volume": "root"}), json!({"volume": "root", "vg_partnum": 2})])
            .refuses([json!({}), json!({"volume": 1}), json!({"volume": "x", "vg_partnum": "1"})]);
    }

    #[test]
    fn names_are_those_of_lvm() {
        assert_eq!(mapper_name("vg", "lv"), "vg-lv");
        assert_eq!(mapper_name("a-b", "c--d"), "a--b-c----d");
    }

    fn root() -> Value {
        json!({"volume": "root"})
    }

    fn fixture() -> Fixture {
        Fixture::of(&disk(&[usual(TEXT)]), false)
    }

    const ID: &str = "LVM-GGGGGG00001111222233334444555555RRRRRR00001111222233334444555555";

    #[test]
    fn root_a_volume_is_mapped() {
        let fixture = fixture();
        let opened = open(&fixture.request(&root()), || fixture.host()).expect("opened");
        let reply = opened.reply().clone();
        assert_eq!(reply.path, "group/root");
        assert_eq!(reply.data["lvm"], json!({"vg_name": "group", "lv_name": "root"}));
        assert_eq!(reply.data["node"], fixture.number());
        let number = fixture.parent_number();
        let expected = [
            format!("make group-root id {ID}; 0 4096 linear {number} 2048; 4096 6144 linear {number} 10240"),
            "remove group-root".to_owned(),
        ];
        assert_eq!(fixture.called(), expected);
        for node in ["group/root", "mapper/group-root"] {
            assert!(fixture.dev.join(node).exists(), "{node}");
        }
        assert!(fixture.locked("group-root"));
        opened.close().expect("closed");
        for node in ["group/root", "mapper/group-root"] {
            assert!(!fixture.dev.join(node).exists(), "{node}");
        }
        fixture.end();
    }

    #[test]
    fn root_a_volume_that_may_not_be_written_is_not() {
        let fixture = fixture();
        let swap = json!({"volume": "swap", "vg_partnum": 0});
        open(&fixture.request(&swap), || fixture.host()).expect("opened").close().expect("closed");
        assert!(fixture.called()[0].contains(" read-only; "));
        fixture.end();
        let fixture = Fixture::of(&disk(&[usual(TEXT)]), true);
        open(&fixture.request(&root()), || fixture.host()).expect("opened").close().expect("closed");
        assert!(fixture.called()[0].contains(" read-only; "));
        fixture.end();
    }

    /// Of the machine itself, or of a copy of the image: by name, and by id.
    #[test]
    fn root_a_volume_in_use_is_left_alone() {
        for (name, id) in [("group-root", "LVM-another"), ("renamed-root", ID)] {
            let fixture = fixture();
            fixture.leave_with_id("dm-90", name, id);
            let opened = open(&fixture.request(&root()), || fixture.host()).expect("opened");
            assert_eq!(opened.reply().path, "group/root");
            let called = fixture.called();
            assert_eq!(called.len(), 2, "{called:?}");
            assert!(called[0].starts_with("make osbuild-lvm-") && !called[0].contains(" id "), "{called:?}");
            assert!(called[1].starts_with("remove osbuild-lvm-"), "{called:?}");
            assert!(
                fixture.dev.join("mapper/group-root").exists(),
                "the build root knows it by its own name"
            );
            opened.close().expect("closed");
            fixture.end();
        }
    }

    #[test]
    fn root_errors_say_what_is_wrong() {
        let fixture = fixture();
        let message = |options: Value| {
            open(&fixture.request(&options), || fixture.host()).err().expect("an error").to_string()
        };
        let node = fixture.dev.join(fixture.parent());
        let node = node.display();
        assert_eq!(
            message(json!({"volume": "home"})),
            format!("`{node}`: the volume group `group` has no volume `home`, only `root`, `swap`")
        );
        assert_eq!(
            message(json!({"volume": "root", "vg_partnum": 1.5})),
            "invalid option `vg_partnum`: `1.5` must be a whole number"
        );
        assert!(
            message(json!({"volume": "root", "vg_partnum": 2}))
                .starts_with(&format!("cannot look at `{node}p2`"))
        );
        fs::write(fixture.dev.join(fixture.parent()), vec![0; 4096]).expect("written");
        assert_eq!(
            message(root()),
            format!(
                "`{node}`: the device is no physical volume: its first four sectors hold no label of LVM2"
            )
        );
        assert_eq!(fixture.called(), Vec::<String>::new());
        fixture.end();
    }

    #[test]
    #[ignore = "runs in the guest: cargo xtask guest-test"]
    fn guest_volumes_are_opened() {
        if !needs::provided("LVM2", &[needs::LVM]) {
            return;
        }
        let fixture = Fixture::new(96 << 20);
        let volumes =
            json!({"volumes": [{"name": "root-fs", "size": "32M"}, {"name": "swap", "extents": "100%FREE"}]});
        stage_test::run_on::<Lvm2Create>(&Path::new("/dev").join(fixture.parent()), &volumes)
            .expect("created");
        let root = json!({"volume": "root-fs"});
        let swap = json!({"volume": "swap"});
        for round in 0..2 {
            let one = Lvm2Lv.open(&fixture.request(&root)).expect("opened");
            let other = Lvm2Lv.open(&fixture.request(&swap)).expect("opened");
            let group = one.reply().data["lvm"]["vg_name"].as_str().expect("a name").to_owned();
            assert_eq!(one.reply().path, format!("{group}/root-fs"));
            let name = mapper_name(&group, "root-fs");
            assert!(guest::mapped(&name));
            let (node, second) = (fixture.dev.join(&one.reply().path), fixture.dev.join(&other.reply().path));
            if round == 0 {
                let id = stage_test::unique_uuid();
                stage_test::run_on::<MkfsExt4>(&node, &json!({"uuid": id, "label": "root"})).expect("mkfs");
                guest::write(&second, 0, b"swap");
            } else {
                assert_eq!(stage_test::attribute(&node, "LABEL"), "root");
                assert_eq!(guest::read(&second, 0, 4), b"swap");
            }
            // LVM says the same of it, active and of this size.
            let words = ["--noheadings", "--units", "b", "-o", "lv_size,lv_active", &group];
            let shown = kiln_sys::command::Run::new("lvs").args(words).output().expect("lvs");
            let shown = String::from_utf8_lossy(&shown).into_owned();
            assert!(shown.contains("33554432B active"), "{shown}");
            // The same image once more: the kernel knows the copy by another name.
            let copy = Fixture::of(&fs::read(fixture.image()).expect("the image"), false);
            let third = Lvm2Lv.open(&copy.request(&root)).expect("opened");
            assert_ne!(third.reply().data["node"], one.reply().data["node"]);
            assert_eq!(third.reply().path, one.reply().path);
            third.close().expect("closed");
            copy.end();
            other.close().expect("closed");
            one.close().expect("closed");
            assert!(!guest::mapped(&name));
        }
        fixture.end();
    }

    /// Runs one of LVM's tools, which sees these devices and nothing of the host's settings.
    fn lvm(words: &[&str], devices: &[&Fixture]) {
        let accepted: String =
            devices.iter().map(|device| format!("\"a|^/dev/{}$|\", ", device.parent())).collect();
        let settings = format!(
            "devices {{ filter = [ {accepted}\"r|.*|\" ] use_devicesfile = 0 hints = \"none\" }} \
             backup {{ archive = 0 backup = 0 }} activation {{ udev_sync = 0 udev_rules = 0 monitoring = 0 }}"
        );
        let run = kiln_sys::command::Run::new("lvm").arg(words[0]).args(["--config", &settings]);
        run.args(&words[1..]).env("LVM_SUPPRESS_FD_WARNINGS", "1").output().expect(words[0]);
    }

    /// Parts and stripes are where LVM has them: it writes, and Kiln reads.
    #[test]
    #[ignore = "runs in the guest: cargo xtask guest-test"]
    fn guest_volumes_of_several_parts_are_read_as_lvm_wrote_them() {
        if !needs::provided("LVM2", &[needs::LVM]) {
            return;
        }
        let fixture = Fixture::new(64 << 20);
        let node = format!("/dev/{}", fixture.parent());
        let lvm = |words: &[&str]| lvm(words, &[&fixture]);
        lvm(&["pvcreate", &node]);
        lvm(&["vgcreate", "--physicalextentsize", "1m", "parts", &node]);
        let create = |name: &str, extents: &str, place: &str| {
            let place = format!("{node}:{place}");
            lvm(&["lvcreate", "-an", "--zero", "n", "-n", name, "--extents", extents, "parts", &place]);
        };
        create("parts", "2", "10-11");
        create("between", "2", "12-13");
        let more = |place: &str| {
            lvm(&["lvextend", "--extents", "+2", "parts/parts", &format!("{node}:{place}")]);
        };
        more("14-15");
        more("4-5");
        // LVM itself only has stripes on several physical volumes.
        let mut device = File::options().read(true).write(true).open(&node).expect("the device");
        let physical = PhysicalVolume::read(&mut device).expect("a physical volume");
        let starts = |name: &str| -> Vec<u64> {
            let volume = physical.volume(name).expect("a volume");
            volume.extents.iter().map(|extent| extent.stripes[0]).collect()
        };
        assert_eq!(starts("parts"), [12, 16, 6].map(|start| (start - 1) * 2048));
        drop(device);
        lvm(&["lvchange", "-ay", "parts/parts"]);
        let content: Vec<u8> = (0..6 << 20).map(|index: u32| (index / 65_536) as u8).collect();
        // Without udev, nobody makes the node but LVM itself.
        let active = ["/dev/mapper/parts-parts", "/dev/parts/parts"];
        let active = active.into_iter().map(Path::new).find(|path| path.exists()).expect("a node");
        guest::write(active, 0, &content);
        lvm(&["lvchange", "-an", "parts/parts"]);
        let opened = Lvm2Lv.open(&fixture.request(&json!({"volume": "parts"}))).expect("opened");
        let read = guest::read(&fixture.dev.join(&opened.reply().path), 0, content.len());
        assert!(read == content, "another order");
        opened.close().expect("closed");
        fixture.end();
    }

    /// Two areas of one device, as the kernel stripes them.
    #[test]
    #[ignore = "runs in the guest: cargo xtask guest-test"]
    fn guest_a_striped_volume_is_read_stripe_by_stripe() {
        let striped = TEXT.replacen("stripe_count = 1", "stripe_count = 2\nstripe_size = 128", 1);
        let striped = striped.replacen("\"pv0\", 0", "\"pv0\", 0, \"pv0\", 3", 1);
        let mut image = disk(&[usual(&striped)]);
        for (index, chunk) in image[1 << 20..].chunks_mut(65_536).enumerate() {
            chunk.fill(index as u8);
        }
        let fixture = Fixture::of(&image, false);
        let opened = Lvm2Lv.open(&fixture.request(&root())).expect("opened");
        let read = guest::read(&fixture.dev.join(&opened.reply().path), 0, 5 << 20);
        let found: Vec<u8> = read.chunks(65_536).map(|chunk| chunk[0]).collect();
        let stripes = (0..16).flat_map(|index| [index, 48 + index]);
        assert_eq!(found, stripes.chain(64..64 + 48).collect::<Vec<u8>>());
        opened.close().expect("closed");
        fixture.end();
    }

    /// What only LVM can open is told by its type, and what is missing by its name.
    #[test]
    #[ignore = "runs in the guest: cargo xtask guest-test"]
    fn guest_volumes_that_only_lvm_can_open_are_refused() {
        if !needs::provided("LVM2", &[needs::LVM]) {
            return;
        }
        let (one, two) = (Fixture::new(48 << 20), Fixture::new(48 << 20));
        let nodes = [&one, &two].map(|fixture| format!("/dev/{}", fixture.parent()));
        let lvm = |words: &[&str]| lvm(words, &[&one, &two]);
        lvm(&["pvcreate", &nodes[0], &nodes[1]]);
        lvm(&["vgcreate", "--physicalextentsize", "1m", "both", &nodes[0], &nodes[1]]);
        let create = |words: &[&str]| {
            lvm(&[&["lvcreate", "-an", "--zero", "n", "--wipesignatures", "n"], words, &["both"]].concat());
        };
        create(&["-n", "striped", "--type", "striped", "--stripes", "2", "--extents", "4"]);
        // The guest's own loader of modules is asked by the kernel only, and LVM asks another one.
        let load =
            kiln_sys::command::Run::new("dmsetup").args(["create", "--table", "0 8 raid", "kiln-none"]);
        assert!(!load.status().expect("dmsetup").success(), "it was told nothing");
        create(&["-n", "raid", "--type", "raid1", "--mirrors", "1", "--nosync", "--extents", "4"]);
        create(&["-n", "linear", "--extents", "60"]);
        let message = |volume: &str| {
            let options = json!({"volume": volume});
            let error = Lvm2Lv.open(&one.request(&options)).err().expect("refused").to_string();
            let prefix = format!("`{}`: the volume `{volume}`: ", one.dev.join(one.parent()).display());
            error.strip_prefix(&prefix).expect(&error).to_owned()
        };
        let id = PhysicalVolume::read(&mut File::open(&nodes[1]).expect("the device")).expect("read").id();
        let elsewhere = format!(
            "it is not on the parent device (`pv0`) alone: parts are on `pv1` (id `{id}`, last seen as `{}`); have all of it \
             on one physical volume (`pvmove`, or `lvcreate` with that one only)",
            nodes[1]
        );
        assert_eq!(message("striped"), elsewhere);
        assert_eq!(message("linear"), elsewhere);
        assert_eq!(
            message("raid"),
            "its type is `raid1`; only linear and striped volumes can be opened without LVM: make it linear \
             (`lvconvert --mirrors 0`)"
        );
        one.end();
        two.end();
    }

    /// As an image has it: a partition with a volume group, a volume of it with a container, and in that a file system.
    #[test]
    #[ignore = "runs in the guest: cargo xtask guest-test"]
    fn guest_devices_stand_on_each_other() {
        if !needs::provided("LVM2 and LUKS", &[needs::LVM, needs::CRYPTSETUP]) {
            return;
        }
        let fixture = Fixture::new(1 << 20);
        let tree = tempfile::tempdir().expect("a tree");
        let image = tree.path().join("disk.img");
        File::create(&image).and_then(|file| file.set_len(128 << 20)).expect("an image");
        let table = json!({"uuid": stage_test::UUID, "label": "gpt", "partitions": [
            {"start": 2048, "size": 2048}, {"start": 4096, "size": 245_760},
        ]});
        stage_test::run_on::<Sfdisk>(&image, &table).expect("a table");
        let open = |device: &dyn Device, parent: Option<&str>, options: Value| {
            let request = DeviceRequest { dev: &fixture.dev, parent, tree: tree.path(), options: &options };
            device.open(&request).expect("opened")
        };
        let id = stage_test::unique_uuid();
        for round in 0..2 {
            let disk = open(&Loopback, None, json!({"filename": "disk.img", "partscan": true, "lock": true}));
            let name = disk.reply().path.clone();
            for part in ["p1", "p2"] {
                assert!(fixture.dev.join(format!("{name}{part}")).exists(), "{part}");
            }
            if round == 0 {
                let volumes = json!({"volumes": [{"name": "root", "extents": "100%FREE"}]});
                stage_test::run_on::<Lvm2Create>(Path::new(&format!("/dev/{name}p2")), &volumes)
                    .expect("created");
            } else {
                let options = json!({"vg_name": "rootvg"});
                stage_test::run_on::<Lvm2Metadata>(&fixture.dev.join(format!("{name}p2")), &options)
                    .expect("renamed");
            }
            let volume = open(&Lvm2Lv, Some(&name), json!({"volume": "root", "vg_partnum": 2}));
            let path = volume.reply().path.clone();
            if round == 0 {
                let options = json!({"passphrase": "x", "uuid": stage_test::UUID,
                                     "pbkdf": {"method": "pbkdf2", "iterations": 1000}});
                stage_test::run_on::<Luks2Format>(&fixture.dev.join(&path), &options).expect("formatted");
            } else {
                assert_eq!(path, "rootvg/root");
            }
            let inner = open(&Luks2, Some(&path), json!({"passphrase": "x"}));
            let node = fixture.dev.join(&inner.reply().path);
            if round == 0 {
                stage_test::run_on::<MkfsExt4>(&node, &json!({"uuid": id, "label": "root"})).expect("mkfs");
            }
            assert_eq!(stage_test::attribute(&node, "UUID"), id);
            inner.close().expect("closed");
            volume.close().expect("closed");
            disk.close().expect("closed");
            assert_eq!(stage_test::attached(&image), Vec::<String>::new());
        }
        fixture.end();
    }
}
