//! Requests and choices: recorded, and beside the reference where `KILN_REFERENCE` names a checkout of it.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::*;

/// The reference's runners, as far as names tell.
const RUNNERS: [&str; 20] = [
    "org.osbuild.AutoSD9",
    "org.osbuild.almalinux8",
    "org.osbuild.almalinux9",
    "org.osbuild.arch",
    "org.osbuild.asahi-fedora-remix",
    "org.osbuild.autosd",
    "org.osbuild.centos8",
    "org.osbuild.centos9",
    "org.osbuild.debian",
    "org.osbuild.eln11",
    "org.osbuild.fedora-asahi-remix",
    "org.osbuild.fedora30",
    "org.osbuild.fedora38",
    "org.osbuild.linux",
    "org.osbuild.ol9",
    "org.osbuild.rhel7",
    "org.osbuild.rhel81",
    "org.osbuild.rhel82",
    "org.osbuild.rhivos",
    "org.osbuild.ubuntu1804",
];

/// What is asked for, and which runner is chosen (without `org.osbuild.`).
const CHOICES: &[(&str, Option<&str>)] = &[
    ("fedora30", Some("fedora30")),
    ("fedora37", Some("fedora30")),
    ("fedora38", Some("fedora38")),
    ("fedora43", Some("fedora38")),
    ("fedora043", Some("fedora38")),
    ("fedora029", None),
    ("fedora29", None),
    ("fedora", None),
    ("Fedora43", None),
    ("debian12", Some("debian")),
    ("debian", Some("debian")),
    ("debian0", Some("debian")),
    ("rhel7", Some("rhel7")),
    ("rhel71", Some("rhel7")),
    ("rhel81", Some("rhel81")),
    ("rhel810", Some("rhel82")),
    ("rhel99999999999999999999999999999999999999999999", Some("rhel82")),
    ("fedora18446744073709551616", Some("fedora38")),
    ("fedora-38", None),
    ("fedora-asahi-remix42", Some("fedora-asahi-remix")),
    ("centos8", Some("centos8")),
    ("centos10", Some("centos9")),
    ("AutoSD10", Some("AutoSD9")),
    ("ubuntu2404", Some("ubuntu1804")),
    ("ubuntu1604", None),
    ("eln", None),
    ("suse15", None),
    ("8", None),
    ("", None),
    ("linux12x", None),
];

/// What a system says of itself, and the request that is made of it.
const REQUESTS: &[(&str, &str)] = &[
    // As distributions write it.
    ("", "linux"),
    ("NAME=\"Arch Linux\"\nID=arch\nBUILD_ID=rolling\nANSI_COLOR=\"0;36\"\n", "arch"),
    (
        "NAME=Fedora\nVERSION=\"30 (Workstation Edition)\"\nID=fedora\nVERSION_ID=30\nVERSION_CODENAME=\"\"\n",
        "fedora30",
    ),
    ("ID=fedora\nVERSION_ID=33\nVARIANT_ID=workstation\n", "fedora33"),
    ("NAME=\"Fedora Linux\"\nID=fedora\nVERSION_ID=40\nOSTREE_VERSION='40.20241106.dev.0'\n", "fedora40"),
    (
        "ID=\"rhel\"\nID_LIKE=\"fedora\"\nVERSION_ID=\"8.1\"\n\nREDHAT_SUPPORT_PRODUCT_VERSION=\"8.1\"\n",
        "rhel81",
    ),
    ("ID=\"rhel\"\nVERSION_ID=\"8.2\"\nREDHAT_SUPPORT_PRODUCT_VERSION=\"8.2 Beta\"\n", "rhel82"),
    ("NAME=\"Ubuntu\"\nID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"18.04\"\n", "ubuntu1804"),
    ("ID=debian\nVERSION_ID=\"12\"\n", "debian12"),
    // Quotes, escapes, lines.
    ("ID='ubuntu'\nVERSION_ID=18.04", "ubuntu1804"),
    ("ID=de\"bi\"'an'\nVERSION_ID=1'2'.\"3\"", "debian123"),
    ("ID=\"fed\\\"ora\"", "fed\"ora"),
    ("ID=\"fed\\$o\\`ra\"", "fed\\$o\\`ra"),
    ("ID=\"fed\\\\ora\"", "fed\\ora"),
    ("ID=fed\\ora", "fedora"),
    ("ID='fed\\ora'", "fed\\ora"),
    ("ID=fed\\ ora", "fed ora"),
    ("ID=\"two words\"", "two words"),
    ("# ID=no\n  ID=debian\t \n   # VERSION_ID=1", "debian"),
    ("ID=debian#12", "debian#12"),
    ("ID=#12", "#12"),
    ("ID=a\nID=b\nVERSION_ID=1\nVERSION_ID=2", "b2"),
    ("ID=debian\r\nVERSION_ID=12\r\n", "debian12"),
    ("ID=a=b", "a=b"),
    ("ID =no\nVERSION_ID=1", "linux1"),
    ("export ID=no", "linux"),
    ("ID=\"\"\nVERSION_ID=''", ""),
    ("ID=1.2\nVERSION_ID=3.4", "1.234"),
];

/// What the reference refuses. Other lines do not matter here; these values are taken as they stand.
const REFUSED: &[(&str, &str)] = &[
    ("ID=debian # comment", "debian # comment"),
    ("ID=two words\nVERSION_ID=12", "two words12"),
    ("ID=\"debian", "\"debian"),
    ("ID='debian", "'debian"),
    ("ID=debian\\", "debian\\"),
    ("ID=\"debian\\\"", "\"debian\\\""),
    ("ID=debian\nVERSION_ID=", "debian"),
    ("ID=debian\nnonsense", "debian"),
    ("ID=debian\nNAME=Debian GNU/Linux", "debian"),
];

fn chosen(request: &str) -> Option<&'static str> {
    choose(request, RUNNERS.into_iter()).ok()
}

#[test]
fn the_highest_version_not_above_the_request_wins() {
    for (request, expected) in CHOICES {
        let expected = expected.map(|name| format!("org.osbuild.{name}"));
        assert_eq!(chosen(&format!("org.osbuild.{request}")), expected.as_deref(), "{request}");
    }
}

#[test]
fn names_are_split_before_their_last_digits() {
    for (name, distribution, version) in [
        ("org.osbuild.fedora38", "org.osbuild.fedora", "38"),
        ("fedora38x", "fedora38x", ""),
        ("123", "1", "23"),
        ("7", "7", ""),
        ("é7", "é", "7"),
        ("x007", "x", "7"),
        ("x000", "x", ""),
        ("", "", ""),
    ] {
        assert_eq!(split(name), (distribution, Version::of(version)), "{name}");
    }
    let ordered =
        ["", "1", "9", "10", "18446744073709551615", "18446744073709551616", "99999999999999999999"];
    assert!(ordered.map(Version::of).is_sorted_by(|one, other| one < other));
}

#[test]
fn a_request_follows_os_release() {
    for (text, expected) in REQUESTS.iter().chain(REFUSED) {
        assert_eq!(describe(text), format!("org.osbuild.{expected}"), "{text}");
    }
    // What is no single word fits no runner, unless it is empty.
    for (text, _) in REFUSED.iter().take(6) {
        assert_eq!(chosen(&describe(text)), None, "{text}");
    }
}

#[test]
fn the_first_os_release_counts() {
    let root = tempfile::tempdir().expect("tempdir");
    let request = || request_of(root.path());
    assert_eq!(request(), "org.osbuild.linux");
    for name in ["usr/lib", "etc"] {
        std::fs::create_dir_all(root.path().join(name)).expect(name);
    }
    std::fs::write(root.path().join("usr/lib/os-release"), "ID=usr").expect("written");
    assert_eq!(request(), "org.osbuild.usr");
    // A link that leads nowhere is not there.
    std::os::unix::fs::symlink("nowhere", root.path().join("etc/os-release")).expect("a link");
    assert_eq!(request(), "org.osbuild.usr");
    std::fs::remove_file(root.path().join("etc/os-release")).expect("removed");
    std::fs::write(root.path().join("etc/os-release"), b"NAME=\xff\nID=etc").expect("written");
    assert_eq!(request(), "org.osbuild.etc");
}

/// Answers each of a list of names or texts, or null where it refuses.
const REFERENCE: &str = "\
import json, sys, tempfile
import osbuild.meta
from osbuild.util import osrelease

index = osbuild.meta.Index(sys.argv[1])

def choose(name):
    return index.detect_runner(name).path.name

def describe(text):
    with tempfile.NamedTemporaryFile('w', newline='') as file:
        file.write(text)
        file.flush()
        return 'org.osbuild.' + osrelease.describe_os(file.name)

def answer(function, argument):
    try:
        return function(argument)
    except ValueError:
        return None

asked = json.load(sys.stdin)
json.dump({
    'choices': [answer(choose, name) for name in asked['choices']],
    'requests': [answer(describe, text) for text in asked['requests']],
}, sys.stdout)
";

fn ask_reference(checkout: &PathBuf, asked: &Value) -> Value {
    let mut child = Command::new("python3")
        .args(["-c", REFERENCE])
        .arg(checkout)
        .env("PYTHONPATH", checkout)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 is installed where the reference is");
    child.stdin.take().expect("piped").write_all(asked.to_string().as_bytes()).expect("written");
    let output = child.wait_with_output().expect("it ends");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
#[expect(clippy::print_stderr, reason = "a test says what it leaves out")]
fn requests_and_choices_are_the_references() {
    let Some(checkout) = std::env::var_os("KILN_REFERENCE").map(PathBuf::from) else {
        eprintln!("SKIPPED: KILN_REFERENCE is not set; no choice was compared with the reference");
        return;
    };
    // Every distribution with every version around those that there are, and names of other shapes.
    let mut names: Vec<String> = CHOICES.iter().map(|(name, _)| format!("org.osbuild.{name}")).collect();
    for runner in RUNNERS {
        let distribution = split(runner).0;
        let versions = (0..100).chain([810, 1803, 1804, 1805, 2404, 100_000]);
        names.extend(versions.map(|version| format!("{distribution}{version}")));
        names
            .extend(["", "x", "-1", "1.2", "007", " 9", "\u{e9}9"].map(|end| format!("{distribution}{end}")));
    }
    names.extend(["7", "123", "fedora40", "org.osbuild.", "org.osbuild"].map(str::to_owned));
    let mut texts: Vec<String> = REQUESTS.iter().chain(REFUSED).map(|(text, _)| (*text).to_owned()).collect();
    let accepted = REQUESTS.len();
    // The systems that the reference's own tests know.
    let samples = checkout.join("test/data/os-release");
    for entry in std::fs::read_dir(&samples).expect("its samples") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("text");
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        assert_eq!(describe(&text), format!("org.osbuild.{name}"));
        texts.push(text);
    }
    let answer = ask_reference(&checkout, &json!({"choices": names, "requests": texts}));
    for (name, there) in names.iter().zip(answer["choices"].as_array().expect("a list")) {
        assert_eq!(chosen(name), there.as_str(), "{name}");
    }
    for (index, (text, there)) in texts.iter().zip(answer["requests"].as_array().expect("a list")).enumerate()
    {
        let refused = (accepted..accepted + REFUSED.len()).contains(&index);
        let expected = (!refused).then(|| describe(text));
        assert_eq!(there.as_str(), expected.as_deref(), "{text}");
    }
}
