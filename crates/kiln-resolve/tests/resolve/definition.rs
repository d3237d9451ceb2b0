//! Every mistake that a definition can have, as the user sees it.

use std::path::Path;

use insta::assert_snapshot;
use kiln_resolve::{Definition, Format, Output};

fn findings(text: &str, format: Format) -> String {
    let name = match format {
        Format::Toml => "image.toml",
        Format::Json => "image.json",
    };
    match Definition::parse(text, Path::new(name), format) {
        Ok(_) => "accepted".to_owned(),
        Err(findings) => {
            let findings: Vec<_> = findings.iter().map(ToString::to_string).collect();
            findings.join("\n\n")
        }
    }
}

fn toml(text: &str) -> String {
    findings(text, Format::Toml)
}

pub(crate) fn customized(text: &str) -> String {
    toml(&format!("name = \"x\"\n{text}"))
}

#[test]
fn a_syntax_error_of_toml_has_its_place() {
    let text = r#"name = "x"
[[packages]
name = "y"
"#;
    assert_snapshot!(toml(text), @r#"
    this is not valid TOML: unclosed array table, expected `]`
     --> image.toml:2:12
    2 | [[packages]
      |            ^
    "#);
}

#[test]
fn a_definition_without_a_name_is_refused() {
    let text = r#"description = "x"
"#;
    assert_snapshot!(toml(text), @r#"
    `name` is missing
     --> image.toml:1:1
    1 | description = "x"
      | ^
    "#);
}

#[test]
fn an_empty_name_is_refused() {
    let text = r#"name = ""
"#;
    assert_snapshot!(toml(text), @r#"
    `name` is empty
     --> image.toml:1:8
    1 | name = ""
      |        ^^
    "#);
}

#[test]
fn an_unknown_key_gets_the_nearest_one() {
    let text = r#"name = "x"

[[pakages]]
name = "y"
"#;
    assert_snapshot!(toml(text), @r#"
    unknown key `pakages`
     --> image.toml:3:3
    3 | [[pakages]]
      |   ^^^^^^^
    hint: did you mean `packages`?
    "#);
}

#[test]
fn an_unknown_key_that_is_near_nothing_gets_them_all() {
    let text = r#"[customizations.kernel]
colour = "red"
"#;
    assert_snapshot!(customized(text), @r#"
    unknown key `colour` in `customizations.kernel`
     --> image.toml:3:1
    3 | colour = "red"
      | ^^^^^^
    hint: the keys here are `append`, `name`
    "#);
}

#[test]
fn an_unknown_customization_names_its_table() {
    let text = r#"[customizations]
hostnam = "y"
"#;
    assert_snapshot!(customized(text), @r#"
    unknown key `hostnam` in `customizations`
     --> image.toml:3:1
    3 | hostnam = "y"
      | ^^^^^^^
    hint: did you mean `hostname`?
    "#);
}

#[test]
fn a_wrong_type_names_both_types() {
    let text = r#"distro = 12
[customizations]
hostname = ["a"]
user = { name = "u" }
[customizations.services]
enabled = "ssh"
masked = [1]
"#;
    assert_snapshot!(customized(text), @r#"
    `distro` must be a string, not an integer
     --> image.toml:2:10
    2 | distro = 12
      |          ^^

    `customizations.hostname` must be a string, not an array
     --> image.toml:4:12
    4 | hostname = ["a"]
      |            ^^^^^

    `customizations.user` must be an array of tables (`[[customizations.user]]`), not a table
     --> image.toml:5:8
    5 | user = { name = "u" }
      |        ^^^^^^^^^^^^^^

    `customizations.services.enabled` must be an array of strings, not a string
     --> image.toml:7:11
    7 | enabled = "ssh"
      |           ^^^^^

    `customizations.services.masked[]` must be a string, not an integer
     --> image.toml:8:11
    8 | masked = [1]
      |           ^
    "#);
}

#[test]
fn other_kinds_of_values_are_named_too() {
    let text = r#"description = 1.5
version = 2026-01-01
"#;
    assert_snapshot!(customized(text), @r#"
    `description` must be a string, not a float
     --> image.toml:2:15
    2 | description = 1.5
      |               ^^^

    `version` must be a string, not a date
     --> image.toml:3:11
    3 | version = 2026-01-01
      |           ^^^^^^^^^^
    "#);
}

#[test]
fn parts_of_the_format_that_are_not_supported_are_refused_by_name() {
    let text = r#"minimal = true
[[groups]]
name = "core"
[[enabled_modules]]
name = "nodejs"
[[containers]]
source = "example.invalid/x"
[customizations]
fips = true
[customizations.openscap]
profile_id = "x"
[customizations.firewall]
ports = ["22:tcp"]
"#;
    assert_snapshot!(customized(text), @r#"
    `minimal` is not supported yet
     --> image.toml:2:1
    2 | minimal = true
      | ^^^^^^^
    hint: remove it: an image has nothing but the essential packages, the boot chain, and what is listed

    `groups` is not supported yet
     --> image.toml:3:3
    3 | [[groups]]
      |   ^^^^^^
    hint: Debian has no package groups: list the packages under `[[packages]]`

    `enabled_modules` is not supported yet
     --> image.toml:5:3
    5 | [[enabled_modules]]
      |   ^^^^^^^^^^^^^^^
    hint: Debian has no modularity streams: ask for a version with `[[packages]]` instead

    `containers` is not supported yet
     --> image.toml:7:3
    7 | [[containers]]
      |   ^^^^^^^^^^
    hint: remove it; fetch the container at first boot with a unit under `customizations.files`

    `customizations.fips` is not supported yet
     --> image.toml:10:1
    10 | fips = true
       | ^^^^
    hint: Debian has no FIPS mode: remove it

    `customizations.openscap` is not supported yet
     --> image.toml:11:17
    11 | [customizations.openscap]
       |                 ^^^^^^^^
    hint: remove it, or run the scanner in the booted image

    `customizations.firewall` is not supported yet
     --> image.toml:13:17
    13 | [customizations.firewall]
       |                 ^^^^^^^^
    hint: install a firewall under `[[packages]]` and configure it with `[[customizations.files]]`
    "#);
}

#[test]
fn customizations_that_do_not_apply_are_refused_by_name() {
    let text = r#"[customizations]
installation_device = "/dev/sda"
partitioning_mode = "lvm"
fdo = {}
ignition = {}
repositories = [{}]
installer = {}
rpm = {}
rhsm = {}
cacerts = {}
containers-storage = {}
"#;
    assert_snapshot!(customized(text), @r#"
    `customizations.installation_device` is not supported yet
     --> image.toml:3:1
    3 | installation_device = "/dev/sda"
      | ^^^^^^^^^^^^^^^^^^^
    hint: Kiln makes disk images, not installers: remove it

    `customizations.partitioning_mode` is not supported yet
     --> image.toml:4:1
    4 | partitioning_mode = "lvm"
      | ^^^^^^^^^^^^^^^^^
    hint: say it with `[[customizations.disk.partitions]]`

    `customizations.fdo` is not supported yet
     --> image.toml:5:1
    5 | fdo = {}
      | ^^^
    hint: Kiln makes disk images, not installers: remove it

    `customizations.ignition` is not supported yet
     --> image.toml:6:1
    6 | ignition = {}
      | ^^^^^^^^
    hint: use `customizations.user` and `customizations.files` instead

    `customizations.repositories` is not supported yet
     --> image.toml:7:1
    7 | repositories = [{}]
      | ^^^^^^^^^^^^
    hint: write the source list with `[[customizations.files]]` below /etc/apt/sources.list.d

    `customizations.installer` is not supported yet
     --> image.toml:8:1
    8 | installer = {}
      | ^^^^^^^^^
    hint: Kiln makes disk images, not installers: remove it

    `customizations.rpm` is not supported yet
     --> image.toml:9:1
    9 | rpm = {}
      | ^^^
    hint: it does not apply to Debian: remove it

    `customizations.rhsm` is not supported yet
     --> image.toml:10:1
    10 | rhsm = {}
       | ^^^^
    hint: it does not apply to Debian: remove it

    `customizations.cacerts` is not supported yet
     --> image.toml:11:1
    11 | cacerts = {}
       | ^^^^^^^
    hint: install the certificates with `[[customizations.files]]` and run `update-ca-certificates` at first boot

    `customizations.containers-storage` is not supported yet
     --> image.toml:12:1
    12 | containers-storage = {}
       | ^^^^^^^^^^^^^^^^^^
    hint: remove it
    "#);
}

#[test]
fn refused_keys_inside_supported_tables() {
    let text = r#"[customizations.timezone]
ntpservers = ["example.invalid"]
[customizations.locale]
languages = ["C.UTF-8", "C"]
keyboard = "de"
[[customizations.files]]
path = "/etc/x"
uri = "file:///x"
"#;
    assert_snapshot!(customized(text), @r#"
    `customizations.timezone.ntpservers` is not supported yet
     --> image.toml:3:1
    3 | ntpservers = ["example.invalid"]
      | ^^^^^^^^^^
    hint: configure the time service with `[[customizations.files]]`

    more than one language is not supported yet
     --> image.toml:5:25
    5 | languages = ["C.UTF-8", "C"]
      |                         ^^^
    hint: keep the first

    `customizations.locale.keyboard` is not supported yet
     --> image.toml:6:1
    6 | keyboard = "de"
      | ^^^^^^^^
    hint: write /etc/default/keyboard with `[[customizations.files]]`

    `customizations.files.uri` is not supported yet
     --> image.toml:9:1
    9 | uri = "file:///x"
      | ^^^
    hint: write the content into `data`: a definition stands alone
    "#);
}

#[test]
fn what_is_said_twice_is_refused() {
    let text = r#"[customizations.disk]
minsize = "3 GiB"
partitions = [{ mountpoint = "/", fs_type = "xfs" }]
[kiln]
disk-size = "2 GiB"
root-filesystem = "ext4"
"#;
    assert_snapshot!(customized(text), @r#"
    `kiln.disk-size` repeats `customizations.disk.minsize`
     --> image.toml:6:13
    6 | disk-size = "2 GiB"
      |             ^^^^^^^
    hint: keep one of the two

    `kiln.root-filesystem` repeats `customizations.disk.partitions.fs_type`
     --> image.toml:7:19
    7 | root-filesystem = "ext4"
      |                   ^^^^^^
    hint: keep one of the two
    "#);
}

#[test]
fn tabs_and_wide_characters_do_not_move_the_caret() {
    let text = r#"name = "größe"
	"ключ" = 1
"#;
    assert_snapshot!(toml(text), @r#"
    unknown key `ключ`
     --> image.toml:2:2
    2 | 	"ключ" = 1
      | 	^^^^^^
    hint: the keys here are `architecture`, `customizations`, `description`, `distro`, `kiln`, `modules`, `name`, `packages`, `version`
    "#);
}

#[test]
fn a_syntax_error_of_json_has_its_place() {
    let text = r#"{
  "name": "x",
  "packages": [}
"#;
    assert_snapshot!(findings(text, Format::Json), @r#"
    this is not valid JSON: expected value
     --> image.json:3:16
    3 |   "packages": [}
      |                ^
    "#);
}

#[test]
fn mistakes_in_json_have_their_places() {
    let text = r#"{
  "name": "x",
  "packages": [{"name": "a\"b"}, {"nam": "é"}],
  "customizations": {"hostname": null, "openscap": {}, "user": [{"name": "u", "uid": 1.5}]}
}
"#;
    assert_snapshot!(findings(text, Format::Json), @r#"
    `a"b` is not a package name
     --> image.json:3:25
    3 |   "packages": [{"name": "a\"b"}, {"nam": "é"}],
      |                         ^^^^^^
    hint: a name has lower-case letters, digits, `+`, `-` and `.`; the version has a key of its own

    `packages` has no `name`
     --> image.json:3:34
    3 |   "packages": [{"name": "a\"b"}, {"nam": "é"}],
      |                                  ^^^^^^^^^^^^

    unknown key `nam` in `packages`
     --> image.json:3:35
    3 |   "packages": [{"name": "a\"b"}, {"nam": "é"}],
      |                                   ^^^^^
    hint: did you mean `name`?

    `customizations.hostname` must be a string, not a null
     --> image.json:4:34
    4 |   "customizations": {"hostname": null, "openscap": {}, "user": [{"name": "u", "uid": 1.5}]}
      |                                  ^^^^

    `customizations.openscap` is not supported yet
     --> image.json:4:40
    4 |   "customizations": {"hostname": null, "openscap": {}, "user": [{"name": "u", "uid": 1.5}]}
      |                                        ^^^^^^^^^^
    hint: remove it, or run the scanner in the booted image

    `customizations.user.uid` must be an integer, zero or more, not a float
     --> image.json:4:86
    4 |   "customizations": {"hostname": null, "openscap": {}, "user": [{"name": "u", "uid": 1.5}]}
      |                                                                                      ^^^
    "#);
}

#[test]
fn a_json_definition_is_an_object() {
    let text = r#"[1, true]
"#;
    assert_snapshot!(findings(text, Format::Json), @r#"
    a definition is a table, not an array
     --> image.json:1:1
    1 | [1, true]
      | ^^^^^^^^^
    "#);
}

#[test]
fn a_key_of_json_is_given_once() {
    let text = r#"{"name": "x", "name": "y"}"#;
    assert_snapshot!(findings(text, Format::Json), @r#"
    `name` is given twice
     --> image.json:1:15
    1 | {"name": "x", "name": "y"}
      |               ^^^^^^
    "#);
}

#[test]
fn keys_that_say_nothing_are_accepted() {
    let text = r#"{"name": "x", "groups": [], "containers": [], "minimal": false, "customizations":
        {"fips": false, "installation_device": "", "repositories": []}}"#;
    assert_eq!(findings(text, Format::Json), "accepted");
}

#[test]
fn toml_and_json_are_the_same_definition() {
    let toml =
        "name = \"x y\"\n[[packages]]\nname = \"less\"\n[kiln]\noutputs = [\"tar\", \"raw\", \"raw\"]\n";
    let json = r#"{"name": "x\u0020y", "packages": [{"name": "less"}], "kiln": {"outputs": ["tar", "raw"]}}"#;
    for (text, format) in [(toml, Format::Toml), (json, Format::Json)] {
        let definition = Definition::parse(text, Path::new("x"), format).expect("a definition");
        assert_eq!(definition.name(), "x y");
        assert_eq!(definition.outputs(), [Output::Raw, Output::Tar]);
    }
}
