//! Physical volumes that LVM's tools made, and what these tools say of what Kiln wrote.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use kiln_modules::lvm2::{Extent, PhysicalVolume};
use kiln_sys::command::Run;
use kiln_sys::loop_device::{LoopDevice, LoopError, LoopOptions};
use kiln_testkit::host;

/// Needed to make physical volumes.
const LVM: host::Need = host::LVM;

/// A physical volume on a loop device.
struct Real {
    directory: tempfile::TempDir,
    device: LoopDevice,
}

impl Real {
    fn new(words: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let image = directory.path().join("image");
        File::create(&image).and_then(|file| file.set_len(64 << 20)).expect("an image");
        let open = || OpenOptions::new().read(true).write(true).open(&image);
        let attached: Result<_, LoopError> =
            LoopDevice::attach(&image, open, &LoopOptions::default(), directory.path(), |_| Ok(()));
        let real = Self { device: attached.expect("a loop device").0, directory };
        real.lvm("pvcreate", words);
        real
    }

    fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    /// Runs a tool that sees this device only, and nothing of the host's settings.
    fn run<A: AsRef<OsStr>>(&self, tool: &str, words: &[A], device: bool) -> String {
        let node = self.device.path().display();
        let settings = format!(
            "devices {{ filter = [ \"a|^{node}$|\", \"r|.*|\" ] use_devicesfile = 0 hints = \"none\" }} \
             backup {{ archive = 0 backup = 0 }} activation {{ udev_sync = 0 udev_rules = 0 monitoring = 0 }}"
        );
        let run = Run::new("lvm").arg(tool).args(["--config", &settings]).args(words);
        let run = if device { run.arg(self.device.path()) } else { run };
        String::from_utf8(run.env("LVM_SUPPRESS_FD_WARNINGS", "1").output().expect(tool)).expect("UTF-8")
    }

    fn lvm(&self, tool: &str, words: &[&str]) -> String {
        self.run(tool, words, true)
    }

    fn text(&self) -> String {
        let mut volume = self.open();
        String::from_utf8(self.read(&mut volume).metadata().text().to_vec()).expect("UTF-8")
    }

    fn open(&self) -> File {
        OpenOptions::new().read(true).write(true).open(self.device.path()).expect("the device")
    }

    fn read(&self, file: &mut File) -> PhysicalVolume {
        PhysicalVolume::read(file).expect("a physical volume")
    }

    fn close(self) {
        self.device.close().expect("detached");
    }
}

/// `vgcfgrestore` writes volumes without the kernel's help, which `lvcreate` needs.
fn with_volumes(real: &Real) {
    let (group, physical) = {
        let volume = real.read(&mut real.open());
        (volume.metadata().id().expect("an id"), volume.id())
    };
    let segment = |number: u32, start: u32, count: u32, first: u32| {
        format!(
            "segment{number} {{ start_extent = {start} extent_count = {count} type = \"striped\" stripe_count = 1 \
             stripes = [ \"pv0\", {first} ] }}"
        )
    };
    let text = format!(
        "contents = \"Text Format Volume Group\"\nversion = 1\ndescription = \"\"\ncreation_host = \"\"\n\
         creation_time = 1\ngroup {{ id = \"{group}\" seqno = 7 format = \"lvm2\" \
         status = [\"RESIZEABLE\", \"READ\", \"WRITE\"] flags = [] extent_size = 8192 max_lv = 0 max_pv = 0 \
         metadata_copies = 0\nphysical_volumes {{ pv0 {{ id = \"{physical}\" device = \"/dev/none\" \
         status = [\"ALLOCATABLE\"] flags = [] dev_size = 131072 pe_start = 2048 pe_count = 15 }} }}\n\
         logical_volumes {{ root-fs {{ id = \"aaaaaa-bbbb-cccc-dddd-eeee-ffff-gggggg\" \
         status = [\"READ\", \"WRITE\", \"VISIBLE\"] flags = [] creation_time = 1 creation_host = \"\" \
         segment_count = 2 {} {} }} }} }}\n",
        segment(1, 0, 2, 0),
        segment(2, 2, 3, 4),
    );
    let backup = real.directory.path().join("backup");
    std::fs::write(&backup, text).expect("a backup");
    let words = [
        OsStr::new("--force"),
        OsStr::new("--yes"),
        OsStr::new("-f"),
        backup.as_os_str(),
        OsStr::new("group"),
    ];
    real.run("vgcfgrestore", &words, false);
}

#[test]
fn root_what_lvm_makes_is_read_and_renamed() {
    if !host::provided("LVM2", &[LVM]) {
        return;
    }
    // With the metadata at both ends of the device, too.
    for copies in ["1", "2"] {
        let real = Real::new(&["--pvmetadatacopies", copies]);
        let error = PhysicalVolume::read(&mut real.open()).expect_err("no group").to_string();
        assert_eq!(error, "the physical volume belongs to no volume group");
        real.lvm("vgcreate", &["group"]);
        with_volumes(&real);

        let mut device = real.open();
        let mut volume = real.read(&mut device);
        let report = real.lvm("pvs", &["--noheadings", "-o", "pv_uuid,dev_size,pe_start", "--units", "b"]);
        let shown = format!("{} {}B {}B", volume.id(), volume.size(), volume.data_areas()[0].offset);
        assert_eq!(report.split_whitespace().collect::<Vec<_>>().join(" "), shown);
        assert_eq!(volume.metadata_areas().len().to_string(), copies);
        assert_eq!(
            (volume.metadata().name(), volume.metadata().volumes()),
            ("group", vec!["root-fs".to_owned()])
        );
        let expected = [
            Extent { start: 0, length: 2 * 8192, stripes: vec![2048], stripe_size: 0 },
            Extent { start: 2 * 8192, length: 3 * 8192, stripes: vec![2048 + 4 * 8192], stripe_size: 0 },
        ];
        assert_eq!(volume.volume("root-fs").expect("a volume").extents, expected);

        let name = "6a1c5b7c-2b3c-4bd2-8f70-6d2c7cbd3b1f";
        volume.metadata_mut().rename(name).expect("a name");
        volume.metadata_mut().set_creation_host("host.example.invalid");
        volume.metadata_mut().set_creation_time(1_700_000_000);
        volume.metadata_mut().set_description("a \"description\" \\ of it");
        volume.write(&mut device).expect("written");
        drop(device);

        let words = [
            "--noheadings",
            "-o",
            "vg_name,vg_seqno,vg_mda_used_count,lv_name,lv_size",
            "--units",
            "b",
            name,
        ];
        let report = real.run("vgs", &words, false);
        let report: Vec<_> = report.split_whitespace().collect();
        assert_eq!(report, [name, "8", copies, "root-fs", "20971520B"]);
        for area in 1..=copies.parse::<usize>().expect("a number") {
            let area = area.to_string();
            let dumped = real.lvm("pvck", &["--dump", "metadata", "--pvmetadatacopies", &area]);
            let dumped = dumped.split_once("---\n").expect("a text").1;
            let dumped = dumped.trim_end().trim_end_matches("---").trim_end();
            assert_eq!(dumped, real.text().trim_end(), "area {area}");
        }
        // LVM goes on from what was written.
        real.run("vgrename", &[name, "again"], false);
        let volume = real.read(&mut real.open());
        assert_eq!((volume.metadata().name(), volume.metadata().sequence_number()), ("again", 9));
        assert_eq!(volume.metadata().volumes(), ["root-fs"]);
        real.close();
    }
}

/// Only the area for metadata is touched.
#[test]
fn root_data_is_left_alone() {
    if !host::provided("LVM2", &[LVM]) {
        return;
    }
    let real = Real::new(&[]);
    real.lvm("vgcreate", &["group"]);
    let rest = |path: &Path| {
        let mut rest = Vec::new();
        let mut file = File::open(path).expect("the image");
        file.seek(SeekFrom::Start(1 << 20)).expect("seek");
        file.read_to_end(&mut rest).expect("read");
        rest
    };
    let before = rest(&real.image());
    let mut device = real.open();
    let mut volume = real.read(&mut device);
    for round in 0..2000 {
        volume.metadata_mut().rename(&format!("group{round}")).expect("a name");
        volume.write(&mut device).expect("written");
    }
    device.sync_all().expect("synced");
    drop(device);
    assert_eq!(real.lvm("pvs", &["--noheadings", "-o", "vg_name"]).trim(), "group1999");
    assert!(rest(&real.image()) == before, "data was written to");
    real.close();
}
