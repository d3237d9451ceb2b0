//! Runs stages on files that stand in for block devices, and asks the usual tools what came out.

use std::path::Path;
use std::time::SystemTime;

use kiln_api::ModuleError;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use serde_json::{Map, Value, json};

/// Some UUID.
pub(crate) const UUID: &str = "6a1c5b7c-2b3c-4bd2-8f70-6d2c7cbd3b1f";

/// A UUID for a file system on a device: `mkfs.btrfs` and the kernel refuse one that another device has, be it that of
/// another test.
pub(crate) fn unique_uuid() -> String {
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let low = time.as_nanos() & 0xffff_ffff_ffff;
    format!("{:08x}-2b3c-4bd2-8f70-{low:012x}", std::process::id())
}

/// A context with these members of the arguments; what is missing is empty.
pub(crate) fn context(members: &Value) -> StageContext {
    let mut arguments = json!({
        "tree": "/nonexistent",
        "paths": {"devices": "/dev", "inputs": "/nonexistent", "mounts": "/nonexistent"},
        "meta": {"id": "0"},
    });
    for (name, member) in members.as_object().unwrap_or(&Map::new()) {
        arguments[name.as_str()] = member.clone();
    }
    let arguments = serde_json::from_value(arguments).expect("valid arguments");
    StageContext::new(arguments, "/dev/null".into(), Box::new(std::io::sink()))
}

/// Runs a stage with `device` being this file or device.
pub(crate) fn run_on<S: Stage>(device: &Path, options: &Value) -> Result<(), ModuleError> {
    let mut context = context(&json!({"devices": {"device": {"path": device}}}));
    S::run(serde_json::from_value(options.clone()).expect("valid options"), &mut context)
}

/// Runs a stage with `device` being a new file of this size.
pub(crate) fn run_on_file<S: Stage>(
    size: u64,
    options: &Value,
) -> Result<tempfile::NamedTempFile, ModuleError> {
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    file.as_file().set_len(size).expect("set size");
    run_on::<S>(file.path(), options)?;
    Ok(file)
}

/// What `blkid` finds in a file or device, as `UUID`; empty if it finds nothing.
pub(crate) fn attribute(path: &Path, name: &str) -> String {
    output("blkid", &["-c", "/dev/null", "-o", "value", "-s", name], path).trim().to_owned()
}

/// The output of a program that is expected to succeed.
pub(crate) fn output(program: &str, arguments: &[&str], path: &Path) -> String {
    let output = Run::new(program).args(arguments).arg(path).output().expect(program);
    String::from_utf8(output).expect("UTF-8")
}

/// The loop devices that are attached to a file, as `losetup -j` shows them.
pub(crate) fn attached(backing: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/sys/block").expect("sysfs").flatten() {
        let file = std::fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        if file.trim_end().trim_end_matches(" (deleted)") == backing.to_str().expect("UTF-8") {
            found.push(entry.file_name().into_string().expect("UTF-8"));
        }
    }
    found
}
