//! Tests with the real tools on small trees.

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::{Value, json};

use super::*;
use crate::schema_agreement::Agreement;
use crate::stage_fixture::{Fixture, side_by_side};

#[test]
fn schema_agrees() {
    Agreement::stage::<Users>()
        .accepts([
            json!({}),
            json!({"users": {}}),
            json!({"users": {"a": {}, ".b-c": {"ignored": 1}}}),
            json!({"users": {"a": {
                "uid": 1000,
                "gid": 1000.0,
                "groups": ["wheel"],
                "description": "",
                "home": "",
                "shell": "/bin/sh",
                "password": "x",
                "key": "ssh-ed25519 AAAA",
                "keys": ["ssh-rsa BBBB"],
                "expiredate": -1,
                "force_password_reset": true,
            }}}),
        ])
        .refuses([
            json!({"users": []}),
            json!({"users": {"-a": {}}}),
            json!({"users": {"a b": {}}}),
            json!({"users": {"a": {"uid": "1000"}}}),
            json!({"users": {"a": {"groups": "wheel"}}}),
            json!({"users": {"a": {"password": null}}}),
            json!({"users": {"a": {"expiredate": 1.5}}}),
            json!({"users": {"a": {"key": ["x"]}}}),
            json!({"other": {}}),
        ]);
    Agreement::stage::<Users>().member("inputs").refuses([json!({})]);
}

fn words(arguments: Result<Vec<String>, ModuleError>) -> String {
    arguments.expect("whole numbers").join(" ")
}

#[test]
fn arguments_are_those_of_the_tools() {
    let user = |value: Value| -> User { serde_json::from_value(value).expect("valid") };
    assert_eq!(words(additions(&user(json!({})))), "");
    assert_eq!(words(additions(&user(json!({"home": "", "shell": ""})))), "--no-create-home");
    let all = json!({
        "uid": 7, "gid": 8, "groups": ["a", "b"], "description": "D", "home": "/h", "shell": "/s", "password": "p",
        "expiredate": 9,
    });
    let common = "--shell /s --password p --expiredate 9";
    let expected =
        format!("--uid 7 -o --gid 8 --groups a,b --comment D --home-dir /h --create-home {common}");
    assert_eq!(words(additions(&user(all.clone()))), expected);
    let expected = format!("--gid 8 --groups a,b --comment D --home /h {common}");
    assert_eq!(words(changes(&user(all))), expected);
    assert_eq!(words(changes(&user(json!({"uid": 7, "home": ""})))), "");
}

/// A tree with two accounts and what the shadow tools look at. `SOURCE_DATE_EPOCH` is not theirs to know: days of
/// password changes are today's.
fn prepare(fixture: &mut Fixture) {
    fixture
        .file("etc/passwd", "root:x:0:0::/root:/bin/sh\nold:x:1500:1500:Old:/home/old:/bin/sh\n")
        .file("etc/shadow", "root:*:1::::::\nold:*:1::::::\n")
        .file("etc/group", "root:x:0:\nwheel:x:10:\nold:x:1500:\n")
        .file("etc/gshadow", "root:*::\nwheel:*::\nold:*::\n")
        .file("etc/login.defs", "UID_MIN 1000\nGID_MIN 1000\nUSERGROUPS_ENAB yes\nCREATE_MAIL_SPOOL no\n")
        .file("etc/skel/.profile", "# profile\n")
        .file("home/old/.keep", "")
        .file("root/.keep", "");
}

fn cases() -> Vec<(Value, bool)> {
    let users = |users: Value| json!({"users": users});
    vec![
        (json!({}), false),
        (users(json!({"b": {"uid": 4000, "home": "/home/b"}, "a": {"home": ""}})), true),
        (
            users(
                json!({"n": {"gid": 10, "groups": ["wheel", "old"], "description": "N", "shell": "/bin/zsh"}}),
            ),
            true,
        ),
        (
            users(json!({"n": {"home": "/home/n", "password": "$6$x$y", "expiredate": 20000, "key": "K1"}})),
            true,
        ),
        (users(json!({"n": {"home": "/home/n", "keys": ["K1", "K2"], "key": "K3"}})), true),
        (users(json!({"n": {"uid": 1500}})), true),
        (users(json!({"n": {"groups": ["missing"]}})), false),
        (users(json!({"old": {}})), true),
        (users(json!({"old": {"uid": 1500, "description": "New", "password": "p", "key": "K"}})), true),
        (users(json!({"old": {"uid": 1501}})), false),
        (users(json!({"root": {"password": "p", "key": "K"}})), true),
    ]
}

#[test]
fn root_users_are_added_and_changed() {
    for (options, succeeds) in cases() {
        let mut fixture = Fixture::new();
        prepare(&mut fixture);
        let result = fixture.run::<Users>(options.clone());
        assert_eq!(result.is_ok(), succeeds, "{options}: {result:?}");
    }
}

#[test]
fn root_a_new_user_has_all_that_was_asked_for() {
    let mut fixture = Fixture::new();
    prepare(&mut fixture);
    let user = json!({
        "uid": 4000, "groups": ["wheel"], "description": "Kiln", "home": "/home/kiln", "shell": "/bin/sh",
        "password": "$6$x$y", "keys": ["K1"], "key": "K2", "force_password_reset": true,
    });
    fixture.run::<Users>(json!({"users": {"kiln": user}})).expect("added");
    let text = |path: &str| fs::read_to_string(fixture.tree().join(path)).expect(path);
    assert!(text("etc/passwd").ends_with("\nkiln:x:4000:4000:Kiln:/home/kiln:/bin/sh\n"));
    assert!(text("etc/group").contains("\nwheel:x:10:kiln\n"));
    assert!(text("etc/shadow").contains("\nkiln:$6$x$y:0:"), "the password has expired");
    assert_eq!(text("home/kiln/.profile"), "# profile\n");
    assert_eq!(text("home/kiln/.ssh/authorized_keys"), "K1\nK2\n");
    for (path, mode) in [("home/kiln/.ssh", 0o700), ("home/kiln/.ssh/authorized_keys", 0o600)] {
        let status = fixture.tree().join(path).metadata().expect(path);
        assert_eq!((status.uid(), status.gid(), status.mode() & 0o7777), (4000, 4000, mode), "{path}");
    }
}

#[test]
fn root_a_missing_home_is_made_for_an_existing_user() {
    let mut fixture = Fixture::new();
    prepare(&mut fixture);
    fixture.programs(&["mkhomedir_helper"]);
    let said = fixture.run::<Users>(json!({"users": {"old": {"home": "/home/new"}}})).expect("changed");
    assert_eq!(
        said,
        "Making missing chroot directory: /proc\nMaking missing chroot directory: /dev\nMaking missing chroot directory: /sys\n"
    );
    let status = fixture.tree().join("home/new/.profile").metadata().expect("the skeleton was copied");
    assert_eq!((status.uid(), status.gid()), (1500, 1500));
    assert_eq!(fs::read_dir(fixture.tree().join("proc")).expect("it stays").count(), 0, "unmounted");
}

#[test]
fn root_trees_equal_the_reference() {
    for (options, _) in cases() {
        side_by_side::<Users>(prepare, &options);
    }
}
