//! Kiln and the reference read what the other one wrote, alike.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::Command;

use kiln_modules::lvm2::PhysicalVolume;
use kiln_testkit::host;
use kiln_testkit::lvm2::{ID, SIZE, TEXT, disk, usual};
use serde_json::{Value, json};

/// Reads a disk with the reference's library, changes it if told to, and prints what it is.
const SCRIPT: &str = "\
import json, sys
from osbuild.util import lvm2
with lvm2.Disk.open(sys.argv[1]) as disk:
    if len(sys.argv) > 2:
        disk.rename_vg(sys.argv[2])
        disk.set_creation_host('theirs')
        disk.set_creation_time(5)
        disk.set_description('by the reference')
        disk.flush_metadata()
    print(json.dumps({'id': disk.pv_hdr.uuid.decode(), 'size': disk.pv_hdr.disk_size,
                      'name': disk.metadata.vg_name, 'data': disk.metadata.data}))
";

fn theirs(reference: &Path, disk: &Path, name: Option<&str>) -> Value {
    let output = Command::new("python3")
        .args(["-c", SCRIPT])
        .arg(disk)
        .args(name)
        .env("PYTHONPATH", reference)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("python3 is installed where the reference is");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn disks_are_read_alike() {
    let Some(reference) = host::reference("LVM2") else { return };
    let file = tempfile::NamedTempFile::new().expect("a file");
    // It does not know that a quotation mark can stand in quotation marks.
    let text = TEXT.replace("\\\"", "");
    std::fs::write(file.path(), disk(&[usual(&text)])).expect("a disk");
    let before = theirs(&reference, file.path(), None);
    assert_eq!((&before["id"], &before["size"]), (&json!(ID.replace('-', "")), &json!(SIZE)));

    let mut device = OpenOptions::new().read(true).write(true).open(file.path()).expect("the disk");
    let mut ours = PhysicalVolume::read(&mut device).expect("a physical volume");
    ours.metadata_mut().rename("ours").expect("a name");
    ours.metadata_mut().set_description("by Kiln");
    ours.metadata_mut().set_creation_time(4);
    ours.write(&mut device).expect("written");
    let after = theirs(&reference, file.path(), None);
    let mut expected = before["data"].clone();
    let group = expected.as_object_mut().expect("an object").shift_remove("group").expect("the group");
    expected["ours"] = group;
    expected["description"] = json!("by Kiln");
    expected["creation_time"] = json!(4);
    assert_eq!((&after["name"], &after["data"]), (&json!("ours"), &expected));

    theirs(&reference, file.path(), Some("theirs"));
    let again = PhysicalVolume::read(&mut device).expect("a physical volume");
    assert_eq!(again.metadata().name(), "theirs");
    for (name, value) in
        [("creation_host", "theirs"), ("creation_time", "5"), ("description", "by the reference")]
    {
        assert_eq!(again.metadata().value(name).as_deref(), Some(value));
    }
    for name in ["root", "swap"] {
        assert_eq!(again.volume(name).expect("a volume"), ours.volume(name).expect("a volume"));
    }
}
