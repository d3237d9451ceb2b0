//! Loop devices to stand on, and a tool and a device mapper that stand in for those of the host: not every machine that runs
//! the tests has these. Names and nodes of mappings are those of a second loop device.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_api::ModuleError;
use kiln_api::device::DeviceRequest;
use kiln_sys::device_mapper::{Guard, Target};
use kiln_sys::loop_device::{LOOP_MAJOR, LoopDevice, LoopError, LoopOptions};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use serde_json::{Value, json};

use super::mapping::{self, Host, Mapper, Table};

/// What stands in for `cryptsetup`: writes down how it was called, and does with the list of block devices
/// what the kernel would do.
const TOOL: &str = r#"#!/bin/sh
input=$(cat; echo .)
printf '%s\n' "${0##*/} $* <$(printf %s "${input%.}" | tr '\n' ';')" >>DIRECTORY/called
for name; do :; done
if [ -e DIRECTORY/fail ]; then cat DIRECTORY/fail >&2; exit 2; fi
mkdir -p DIRECTORY/block/dm-7/dm
echo "$name" >DIRECTORY/block/dm-7/dm/name
cp DIRECTORY/number DIRECTORY/block/dm-7/dev
"#;

/// What stands in for the device mapper: writes down what it was told, and does it to the list of block devices.
struct Recorder {
    directory: PathBuf,
    absent: bool,
}

impl Recorder {
    fn note(&self, line: &str) {
        let called = OpenOptions::new().append(true).open(self.directory.join("called"));
        writeln!(called.expect("a list"), "{line}").expect("written");
    }
}

impl Mapper for Recorder {
    fn guard(&self, _: &Path, _: &Path, _: &str) -> Result<Option<Guard>, ModuleError> {
        if self.absent { Err(mapping::no_device_mapper()) } else { Ok(None) }
    }

    fn make(&self, _: &Path, name: &str, table: &Table<'_>) -> Result<(), ModuleError> {
        let mut line = format!("make {name}");
        if let Some(id) = table.id {
            line += &format!(" id {id}");
        }
        if table.read_only {
            line += " read-only";
        }
        for Target { start, length, kind, parameters } in &table.targets {
            line += &format!("; {start} {length} {kind} {parameters}");
        }
        self.note(&line);
        let mapping = self.directory.join("block/dm-7");
        fs::create_dir_all(mapping.join("dm")).expect("a directory");
        fs::write(mapping.join("dm/name"), format!("{name}\n")).expect("written");
        fs::copy(self.directory.join("number"), mapping.join("dev")).expect("copied");
        Ok(())
    }

    fn remove(&self, _: &Path, names: &[&str]) -> Result<(), ModuleError> {
        self.note(&format!("remove {}", names.join(" ")));
        if self.directory.join("busy").exists() {
            return Ok(());
        }
        for mapping in fs::read_dir(self.directory.join("block")).expect("a directory").flatten() {
            let name = fs::read_to_string(mapping.path().join("dm/name")).unwrap_or_default();
            if names.contains(&name.trim_end()) {
                fs::remove_dir_all(mapping.path()).expect("removed");
            }
        }
        Ok(())
    }
}

pub(super) struct Fixture {
    directory: tempfile::TempDir,
    /// The build root's `/dev`.
    pub(super) dev: PathBuf,
    parent: LoopDevice,
    name: String,
    second: LoopDevice,
}

impl Fixture {
    pub(super) fn new(size: usize) -> Self {
        Self::of(&vec![0; size], false)
    }

    pub(super) fn read_only(size: usize) -> Self {
        Self::of(&vec![0; size], true)
    }

    pub(super) fn of(content: &[u8], read_only: bool) -> Self {
        kiln_sys::chroot::private_mounts().expect("root");
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        for name in ["dev", "bin", "block", "locks"] {
            fs::create_dir(at(name)).expect("a directory");
        }
        for (name, minor) in [("null", 3), ("zero", 5), ("random", 8), ("urandom", 9)] {
            let mode = Mode::RUSR | Mode::WUSR;
            mknodat(CWD, at("dev").join(name), FileType::CharacterDevice, mode, makedev(1, minor))
                .expect("root");
        }
        fs::write(at("image"), content).expect("an image");
        fs::write(at("second"), vec![0; 4096]).expect("an image");
        let attach = |name: &str, read_only: bool| {
            let path = at(name);
            let open = || OpenOptions::new().read(true).write(!read_only).open(&path);
            let options = LoopOptions { read_only, ..LoopOptions::default() };
            let attached: Result<_, LoopError> =
                LoopDevice::attach(&path, open, &options, &at("dev"), |_| Ok(()));
            attached.expect("a loop device").0
        };
        let (parent, second) = (attach("image", read_only), attach("second", false));
        let name = parent.name();
        let node = at("dev").join(&name);
        if !node.exists() {
            let number = makedev(LOOP_MAJOR, parent.number());
            mknodat(CWD, &node, FileType::BlockDevice, Mode::RUSR | Mode::WUSR, number).expect("root");
        }
        let number = format!("{LOOP_MAJOR}:{}", second.number());
        fs::write(at("number"), number).expect("a number");
        let tool = TOOL.replace("DIRECTORY", directory.path().to_str().expect("UTF-8"));
        fs::write(at("bin/cryptsetup"), &tool).expect("a script");
        fs::set_permissions(at("bin/cryptsetup"), fs::Permissions::from_mode(0o755)).expect("a mode");
        fs::write(at("called"), "").expect("a list");
        Self { dev: at("dev"), directory, parent, name, second }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The stand-ins.
    pub(super) fn host(&self) -> Host {
        Host {
            cryptsetup: self.at("bin/cryptsetup"),
            mapper: Box::new(Recorder { directory: self.directory.path().to_owned(), absent: false }),
            block: self.at("block"),
            locks: self.at("locks"),
            limit: Duration::ZERO,
        }
    }

    /// The stand-ins on a machine whose kernel has no device mapper.
    pub(super) fn without_mapper(&self) -> Host {
        let mapper = Recorder { directory: self.directory.path().to_owned(), absent: true };
        Host { mapper: Box::new(mapper), ..self.host() }
    }

    pub(super) fn request<'a>(&'a self, options: &'a Value) -> DeviceRequest<'a> {
        DeviceRequest { dev: &self.dev, parent: Some(&self.name), tree: Path::new("/none"), options }
    }

    /// The name of the device to stand on.
    pub(super) fn parent(&self) -> String {
        self.name.clone()
    }

    /// Its number, as the kernel's tables have it.
    pub(super) fn parent_number(&self) -> String {
        format!("{LOOP_MAJOR}:{}", self.parent.number())
    }

    /// What it is.
    pub(super) fn image(&self) -> PathBuf {
        self.at("image")
    }

    /// The number of the mapping, as stages are told it.
    pub(super) fn number(&self) -> Value {
        json!({"major": LOOP_MAJOR, "minor": self.second.number()})
    }

    /// How the tool was called, words and input, and what the kernel was told.
    pub(super) fn called(&self) -> Vec<String> {
        fs::read_to_string(self.at("called")).expect("a list").lines().map(str::to_owned).collect()
    }

    /// Has the tool fail.
    pub(super) fn fail(&self, message: &str) {
        fs::write(self.at("fail"), message).expect("written");
    }

    /// Has mappings be this device.
    pub(super) fn give_number(&self, number: &str) {
        fs::write(self.at("number"), number).expect("written");
    }

    /// Has the kernel keep mappings that it was told to remove.
    pub(super) fn keep_busy(&self) {
        fs::write(self.at("busy"), "").expect("written");
    }

    pub(super) fn locks(&self) -> Vec<String> {
        let entries = fs::read_dir(self.at("locks")).expect("a directory");
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    pub(super) fn locked(&self, name: &str) -> bool {
        self.locks().contains(&format!("dm-{name}"))
    }

    /// A file that a killed Kiln has left.
    pub(super) fn stale_lock(&self, name: &str) {
        fs::write(self.at("locks").join(format!("dm-{name}")), "kiln\n").expect("written");
    }

    /// A mapping that is there already, on a loop device that goes away by itself or not.
    pub(super) fn leave(&self, device: &str, name: &str, autoclear: bool) {
        self.leave_with_id(device, name, "");
        let slave = format!("loop-of-{device}");
        let slaves = self.at("block").join(device).join("slaves");
        fs::create_dir_all(slaves.join(&slave)).expect("a directory");
        let slave = self.at("block").join(slave).join("loop");
        fs::create_dir_all(&slave).expect("a directory");
        fs::write(slave.join("autoclear"), if autoclear { "1\n" } else { "0\n" }).expect("written");
    }

    pub(super) fn leave_with_id(&self, device: &str, name: &str, id: &str) {
        let mapping = self.at("block").join(device).join("dm");
        fs::create_dir_all(&mapping).expect("a directory");
        fs::write(mapping.join("name"), format!("{name}\n")).expect("written");
        fs::write(mapping.join("uuid"), format!("{id}\n")).expect("written");
    }

    /// Detaches the loop devices, which nobody may have open.
    pub(super) fn end(self) {
        self.second.close().expect("detached");
        self.parent.close().expect("detached");
    }
}

/// With a kernel that has the device mapper.
pub(super) mod guest {
    use std::os::unix::fs::FileExt;
    use std::time::Instant;

    use super::*;

    /// Whether the kernel has a mapping of this name.
    pub(in crate::devices) fn mapped(name: &str) -> bool {
        let entries = fs::read_dir("/sys/block").expect("sysfs");
        entries.flatten().any(|entry| {
            fs::read_to_string(entry.path().join("dm/name")).is_ok_and(|found| found.trim_end() == name)
        })
    }

    pub(in crate::devices) fn write(node: &Path, offset: u64, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(node).expect("the device");
        file.write_all_at(bytes, offset).expect("written");
        file.sync_all().expect("synced");
    }

    pub(in crate::devices) fn read(node: &Path, offset: u64, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        File::open(node).expect("the device").read_exact_at(&mut bytes, offset).expect("read");
        bytes
    }

    pub(in crate::devices) fn wait_until(what: &str, holds: impl Fn() -> bool) {
        let begin = Instant::now();
        while !holds() {
            assert!(begin.elapsed() < Duration::from_secs(20), "{what}: not yet");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
