//! The same plan carried out by bubblewrap, as osbuild would have it, and what a stage sees of both.

use std::process::Command;

use kiln_sandbox::{Access, BuildRoot, Operation, Presence, Root};
use kiln_testkit::host;
use serde_json::Value;

use crate::fixture::{Fixture, Test, facts};

pub(crate) const TESTS: &[Test] = &[("root_bubblewrap_shows_the_same", bubblewrap_shows_the_same)];

/// What is not compared: inodes of namespaces; and what differs on purpose, each with its own test or comment.
fn comparable(mut facts: Value) -> Value {
    let object = facts.as_object_mut().expect("object");
    object.remove("namespaces");
    // Bubblewrap leaks what it inherits and has its own.
    object.remove("descriptors");
    let status = object["status"].as_object_mut().expect("object");
    // The bounding set is reduced, nothing inheritable or ambient is needed, and bubblewrap keeps every
    // capability if the host lacks one of the wanted ones. Ignored signals it passes on as it got them.
    for name in ["CapBnd", "CapInh", "CapAmb", "CapEff", "CapPrm", "SigIgn"] {
        status.remove(name);
    }
    // A file of another file system.
    object["mounts"].as_object_mut().expect("object").remove("/proc/cmdline");
    facts
}

fn bubblewrap_shows_the_same() {
    if !host::provided("the comparison with bubblewrap", &[host::BWRAP]) {
        return;
    }
    let fixture = Fixture::new();
    let plan = fixture.plan(&["facts"]);
    let ours = comparable(facts(&plan));
    let fixture = Fixture::new();
    let output = bubblewrap(&fixture.plan(&["facts"]), &fixture).output().expect("bwrap");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    let theirs = comparable(serde_json::from_str(&text).expect(&text));
    for (name, theirs) in theirs.as_object().expect("object") {
        assert_eq!(&ours[name], theirs, "{name}");
    }
}

fn bubblewrap(plan: &BuildRoot, fixture: &Fixture) -> Command {
    let mut command = Command::new("bwrap");
    command.env_clear().envs(plan.environment.iter().cloned());
    command.args(["--chdir", "/", "--die-with-parent", "--new-session"]);
    command.args(["--unshare-ipc", "--unshare-pid", "--unshare-net", "--cap-drop", "ALL"]);
    for name in &plan.capabilities {
        command.args(["--cap-add", name]);
    }
    assert_eq!(plan.root, Root::Tmpfs);
    for operation in &plan.operations {
        match operation {
            Operation::Bind(bind) => {
                let source = match &bind.within {
                    Some(root) => root.join(bind.source.strip_prefix("/").expect("absolute")),
                    None => bind.source.clone(),
                };
                let option = match (bind.access, bind.presence) {
                    (Access::ReadOnly, Presence::Required) => "--ro-bind",
                    (Access::ReadOnly, _) => "--ro-bind-try",
                    (Access::ReadWrite, _) => "--bind",
                    (Access::Devices, _) => "--dev-bind",
                };
                command.arg(option).arg(source).arg(&bind.target);
            }
            Operation::Tmpfs { target } => drop(command.arg("--tmpfs").arg(target)),
            Operation::Directory { target, mode } => {
                command.arg("--perms").arg(format!("{mode:04o}")).arg("--dir").arg(target);
                if target.is_dir() && target.ends_with("var/tmp") {
                    command.arg("--chmod").arg(format!("{mode:04o}")).arg(target);
                }
            }
            Operation::Symlink { target, content } => drop(command.arg("--symlink").arg(content).arg(target)),
            Operation::Proc { target } => drop(command.arg("--proc").arg(target)),
            Operation::File { target, content } => {
                let path = fixture.path("content");
                std::fs::write(&path, content).expect("content");
                command.arg("--ro-bind").arg(path).arg(target);
            }
            Operation::Prepared { .. } => panic!("not in this test"),
        }
    }
    command.arg("--").args(&plan.arguments);
    command
}
