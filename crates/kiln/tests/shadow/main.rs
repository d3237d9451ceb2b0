//! Every module of the reference that can run on this machine, run by Kiln and by the reference: ids, trees, results,
//! records and exit codes are the same.
//!
//! `manifests/*.json` have the manifests and what they need; `case.rs` tells their form. `KILN_REFERENCE` names a
//! checkout of the reference; without it nothing is compared, and that is said. docs/compatibility.md has a line for
//! each module.

mod archive;
mod case;
mod image;
mod served;
mod table;

use std::fs;
use std::path::Path;
use std::process::Command;

use kiln_testkit::host::{provided, reference};
use serde_json::Value;

use crate::case::Case;
use crate::served::Served;

const KILN: &str = env!("CARGO_BIN_EXE_kiln");

/// The kinds of module on the host that are the library's in one pass, and native in another, with the same stages.
const NATIVE: [&str; 2] = ["--prefer-native=sources", "--prefer-native=inputs"];

fn shadow(name: &str, native: &[&str]) {
    let Some(checkout) = reference(name) else { return };
    let case = Case::read(name);
    if !native.is_empty() && !case.has_content() {
        return;
    }
    if !provided(name, &case.needs()) {
        return;
    }
    let served = Served::new(case.served());
    let world = tempfile::Builder::new().prefix("kiln-shadow-").tempdir_in("/var/tmp").expect("a directory");
    let manifest = world.path().join("manifest.json");
    fs::write(&manifest, case.manifest(&served.urls(), &served.names)).expect("written");
    let mut command = in_own_mounts(served.storage.as_deref());
    command.arg(KILN).arg("shadow").arg(&manifest).args(["--json", "--every-stage"]);
    command.arg("--libdir").arg(&checkout).args(native).arg("--reference").arg(&checkout);
    command.args(case.exports().iter().flat_map(|name| ["--export", name]));
    command.envs(case.variables(&served.urls(), &served.names));
    // The reference builds pipelines that a stage depends on in the order of a set, which is another one each time.
    command.env("PYTHONHASHSEED", "0");
    // The modules of the reference are written for the system's Python, whatever else is on the search path.
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("PYTHONDONTWRITEBYTECODE", "1");
    let output = command.output().expect("run");
    let text = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    let compared: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}\n{said}"));
    let expected = case.differs(!native.is_empty());
    let differences = compared["differences"].as_array().expect("differences");
    let is_result = |found: &Value| found["what"] == "result" || found["what"] == "records";
    let reordered = is_reordered(differences);
    let unexpected: Vec<_> = differences
        .iter()
        .filter(|found| !(is_expected(found, &expected) || case.crashes() && is_result(found)))
        .filter(|found| !(reordered && is_checksum(found)))
        .collect();
    assert!(unexpected.is_empty(), "{unexpected:#?}\n{said}");
    assert!(!case.crashes() || differences.iter().any(is_result), "the reference has a result now");
    let codes = said.matches(&format!(": exit code {} ", case.code())).count();
    assert_eq!(codes, 2, "not both ended as told:\n{said}");
}

/// A command in a mount namespace of its own, in which a file is the host's configuration of container storages.
fn in_own_mounts(storage: Option<&Path>) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec"]);
    command.arg(r#"if [ -n "$0" ]; then mount -t tmpfs none /etc/containers; cp "$0" /etc/containers/storage.conf;
        printf '{"default": [{"type": "insecureAcceptAnything"}]}' >/etc/containers/policy.json; fi; exec "$@""#);
    command.arg(storage.unwrap_or(Path::new("")));
    command
}

/// Whether a difference is in the name of an item of a source, as a result lists them.
fn is_checksum(found: &Value) -> bool {
    let place = found["where"].as_str().unwrap_or_default();
    found["what"] == "result" && place.starts_with(".sources.") && place.ends_with("].checksum")
}

/// Whether the items of sources are the same, in another order: the reference lists them as their downloads end.
fn is_reordered(differences: &[Value]) -> bool {
    let items = |side: &str| {
        let differences = differences.iter().filter(|found| is_checksum(found));
        let mut items: Vec<_> = differences.map(|found| found[side].to_string()).collect();
        items.sort();
        items
    };
    items("kiln") == items("reference")
}

/// Whether a difference is that of a file that no two builds make alike.
fn is_expected(found: &Value, paths: &[String]) -> bool {
    let place = found["where"].as_str().unwrap_or_default();
    // Below the tree of an export, or of what a stage left.
    let is = |path: &String| {
        let path = path.trim_start_matches('/');
        [": ", ": tree/"].iter().any(|before| place.contains(&format!("{before}{path} (")))
    };
    found["what"] == "tree" && paths.iter().any(is)
}

macro_rules! shadows {
    ($($name:ident),* $(,)?) => {
        const SHADOWED: &[&str] = &[$(stringify!($name)),*];
        mod root_shadow {
            $(#[test]
            fn $name() {
                super::shadow(stringify!($name), &[]);
            })*
        }
        mod root_shadow_native {
            $(#[test]
            fn $name() {
                super::shadow(stringify!($name), &super::NATIVE);
            })*
        }
    };
}

shadows!(
    accounts,
    archives,
    archives_random,
    bfb,
    bind,
    bootctl,
    bootupd_mounted,
    build_root,
    chroot,
    chroot_dev,
    config_packages,
    config_services,
    config_system,
    container_deploy,
    containers,
    containers_storage,
    content,
    disks,
    dissect,
    encapsulate,
    error,
    fat,
    files,
    filesystem_btrfs,
    filesystem_ext4,
    filesystem_xfs,
    flatpak,
    format1_error,
    format1_noop,
    format1_oci,
    format1_ostree,
    format1_qemu,
    format1_rawfs,
    format1_tar,
    images,
    install_container,
    installer,
    key,
    labels,
    live_artifacts,
    local_storage,
    luks2,
    lvm2,
    mirrors,
    mounts,
    ostree,
    packages,
    packages_mark,
    partitions,
    repart,
    runners,
    time,
    unified_kernel,
    vagrant_virtualbox,
    verity,
);

#[test]
fn every_manifest_is_shadowed() {
    assert_eq!(case::names(), SHADOWED);
}

/// What can be said of a manifest without the reference: all that is wrong with it is that its modules are not native.
#[test]
fn every_manifest_is_valid_as_far_as_native_modules_go() {
    let world = tempfile::tempdir().expect("a directory");
    for name in case::names() {
        let manifest = world.path().join(format!("{name}.json"));
        fs::write(&manifest, Case::read(&name).sketch()).expect("written");
        let output = Command::new(KILN).args(["validate", "--json"]).arg(&manifest).output().expect("run");
        let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let errors = found["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
        for error in errors {
            let message = error["message"].as_str().expect("a message");
            assert!(message.starts_with("unknown ") && message.contains(" `org.osbuild."), "{name}: {error}");
        }
    }
}
