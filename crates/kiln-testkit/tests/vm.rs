//! The virtual machine on the smallest system there is: a boot sector that writes a text to the serial port, then
//! waits for the power button and powers off. It needs nothing but QEMU.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_testkit::host;
use kiln_testkit::vm::{BootError, Expectation, Medium, check_boot};

/// What the guest does when its power button is pressed.
#[derive(Clone, Copy)]
enum Button {
    PowerOff,
    Reset,
    Nothing,
}

/// A boot sector: real-mode code, then its text. Port 0x3f8 is the serial port; 0x600 (status), 0x602 (enable) and
/// 0x604 (control) are the power-management registers as the firmware places them.
fn boot_sector(text: &str, button: Button) -> Vec<u8> {
    let mut code = vec![
        0xfa, 0xfc, 0x31, 0xc0, 0x8e, 0xd8, // cli; cld; xor ax, ax; mov ds, ax
        0xba, 0x02, 0x06, 0xb8, 0x00, 0x01, 0xef, // enable the power button's event
        0xbe, 0x40, 0x7c, // mov si, text (at 0x7c40)
        0xac, 0x84, 0xc0, 0x74, 0x12, // next: lodsb; test al, al; jz wait
        0x88, 0xc4, 0xba, 0xfd, 0x03, // mov ah, al; mov dx, 0x3fd
        0xec, 0xa8, 0x20, 0x74, 0xfb, // ready: in al, dx; test al, 0x20; jz ready
        0x88, 0xe0, 0xba, 0xf8, 0x03, 0xee, // mov al, ah; out 0x3f8, al
    ];
    code.extend([0xeb, 0xe9]); // jmp next
    code.extend([0xba, 0x00, 0x06, 0xed, 0xf6, 0xc4, 0x01, 0x74, 0xfa]); // wait: until the button is pressed
    code.extend(match button {
        Button::PowerOff => &[0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef][..], // S5 and go
        Button::Reset => &[0xb0, 0xfe, 0xe6, 0x64], // pulse the reset line by the keyboard controller
        Button::Nothing => &[],
    });
    code.extend([0xeb, 0xfe]); // stay here
    assert!(code.len() <= 0x40, "the text starts behind the code: {}", code.len());
    code.resize(0x40, 0);
    code.extend(text.as_bytes());
    assert!(code.len() < 510, "the text fits into the sector");
    code.resize(510, 0);
    code.extend([0x55, 0xaa]);
    code.resize(SIZE, 0);
    code
}

struct Disk {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

/// A disk in a file whose name has a comma, which the emulator's option syntax treats specially.
fn disk(text: &str, button: Button) -> Disk {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("disk,1.raw");
    fs::write(&path, boot_sector(text, button)).expect("a disk");
    Disk { _directory: directory, path }
}

/// The size of a disk in bytes: below a megabyte the firmware finds no whole cylinder and reads nothing.
const SIZE: usize = 2 << 20;

const GOOD: &str = "Booting\r\nx login: KILN-REPORT state=running\r\nKILN-REPORT failed-units=0\r\n\
    KILN-REPORT hostname=demo\r\nKILN-REPORT users=root alice\r\nKILN-REPORT extra=a=b\r\nKILN-REPORT end=1\r\n";

fn expectation() -> Expectation {
    Expectation { deadline: Duration::from_secs(60), ..Expectation::new("demo", "alice") }
}

fn there_is_an_emulator() -> bool {
    host::provided("a virtual machine", &[host::QEMU])
}

fn failure(path: &Path, expectation: &Expectation) -> BootError {
    check_boot(path, expectation).expect_err("this boot fails")
}

#[test]
fn a_raw_disk_boots_reports_and_powers_off_unchanged() {
    if !there_is_an_emulator() {
        return;
    }
    let disk = disk(GOOD, Button::PowerOff);
    let before = fs::read(&disk.path).expect("the disk");
    let report = check_boot(&disk.path, &expectation()).expect("a good boot");
    assert_eq!(report.get("extra"), Some("a=b"));
    assert_eq!(report.get("end"), None);
    assert!(report.boot_time > Duration::ZERO && report.shutdown_time > Duration::ZERO);
    assert!(fs::read(&disk.path).expect("the disk") == before, "the image was changed");
}

#[test]
fn a_qcow2_disk_is_recognised() {
    if !there_is_an_emulator() || !host::provided("a qcow2 image", &[host::QEMU_IMG]) {
        return;
    }
    let disk = disk(GOOD, Button::PowerOff);
    let image = disk.path.with_extension("qcow2");
    kiln_sys::command::Run::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", "qcow2"])
        .args([&disk.path, &image])
        .output()
        .expect("a qcow2 image");
    check_boot(&image, &expectation()).expect("a good boot");
}

#[test]
fn sticks_and_discs_boot() {
    if !there_is_an_emulator() || !host::provided("a disc", &[host::XORRISO]) {
        return;
    }
    let disk = disk(GOOD, Button::PowerOff);
    check_boot(&disk.path, &expectation().on(Medium::Stick)).expect("a good boot");
    let directory = disk.path.parent().expect("a directory");
    let disc = directory.join("disc.iso");
    // The firmware loads a boot image of a disc to where it loads boot sectors.
    let boot = ["-quiet", "-b", "disk,1.raw", "-c", "catalog", "-no-emul-boot", "-boot-load-size", "1", "-o"];
    let run = kiln_sys::command::Run::new("xorrisofs").args(boot);
    run.args([disc.as_path(), directory]).output().expect("a disc");
    check_boot(&disc, &expectation().on(Medium::Disc)).expect("a good boot");
}

#[test]
fn a_wrong_report_is_explained_with_the_console() {
    if !there_is_an_emulator() {
        return;
    }
    let text = GOOD.replace("=running", "=degraded").replace("users=root alice", "users=root");
    let disk = disk(&text, Button::PowerOff);
    let error = failure(&disk.path, &expectation());
    let BootError::Report { faults, console } = &error else { panic!("{error}") };
    assert_eq!(faults, "`state` is `degraded` instead of `running`, `users` is `root`, without `alice`");
    assert!(console.ends_with("KILN-REPORT end=1"), "{console}");
}

#[test]
fn a_panic_ends_the_wait_at_once() {
    if !there_is_an_emulator() {
        return;
    }
    let disk = disk("\r\nKernel panic - not syncing: no init\r\n", Button::Nothing);
    let error = failure(&disk.path, &expectation());
    let BootError::Fatal { line, .. } = &error else { panic!("{error}") };
    assert_eq!(line, "Kernel panic - not syncing: no init");
}

#[test]
fn a_system_that_never_reports_meets_the_deadline() {
    if !there_is_an_emulator() {
        return;
    }
    let disk = disk("grub rescue> ", Button::Nothing);
    let error = failure(&disk.path, &Expectation { deadline: Duration::from_secs(4), ..expectation() });
    let BootError::Deadline { missing: "did not report", console, .. } = &error else { panic!("{error}") };
    assert!(console.ends_with("grub rescue>"), "{console}");
}

#[test]
fn a_system_that_ignores_its_button_did_not_power_off() {
    if !there_is_an_emulator() {
        return;
    }
    let disk = disk(GOOD, Button::Nothing);
    let error = failure(&disk.path, &Expectation { deadline: Duration::from_secs(4), ..expectation() });
    assert!(matches!(error, BootError::Deadline { missing: "did not power off", .. }), "{error}");
}

#[test]
fn a_reset_is_not_a_power_off() {
    if !there_is_an_emulator() {
        return;
    }
    let disk = disk(GOOD, Button::Reset);
    let error = failure(&disk.path, &expectation());
    let BootError::Shutdown { reason, .. } = &error else { panic!("{error}") };
    assert_eq!(reason, "guest-reset");
}

#[test]
fn an_empty_disk_is_reported_by_the_firmware() {
    if !there_is_an_emulator() {
        return;
    }
    let disk = disk(GOOD, Button::PowerOff);
    fs::write(&disk.path, vec![0; SIZE]).expect("an empty disk");
    let error = failure(&disk.path, &expectation());
    let BootError::Fatal { line, .. } = &error else { panic!("{error}") };
    assert!(line.contains("No bootable device"), "{line}");
}

#[test]
fn a_missing_image_is_named() {
    let error = failure(Path::new("/nonexistent/disk.raw"), &expectation());
    assert_eq!(error.to_string(), "cannot read the disk image `/nonexistent/disk.raw`");
}

#[test]
fn a_broken_image_is_reported_in_the_emulator_s_words() {
    if !there_is_an_emulator() {
        return;
    }
    let disk = disk(GOOD, Button::PowerOff);
    fs::write(&disk.path, b"QFI\xfb broken").expect("a broken image");
    let error = failure(&disk.path, &expectation());
    let BootError::Ended { status, .. } = &error else { panic!("{error}") };
    assert!(
        status.starts_with("exit status 1: ") && status.contains("Unsupported qcow2 version"),
        "{status}"
    );
}
