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

fn customized(text: &str) -> String {
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
    hint: an image has one root partition: remove it

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
fn a_language_without_its_data_is_refused() {
    let text = r#"[customizations.locale]
languages = ["de_DE.UTF-8"]
"#;
    assert_snapshot!(customized(text), @r#"
    nothing in the image knows the language `de_DE.UTF-8`
     --> image.toml:3:14
    3 | languages = ["de_DE.UTF-8"]
      |              ^^^^^^^^^^^^^
    hint: add the package `locales-all`, or use `C.UTF-8`
    "#);
}

#[test]
fn a_distribution_is_one_of_the_known() {
    let text = r#"distro = "fedora-42"
"#;
    assert_snapshot!(customized(text), @r#"
    unknown distribution `fedora-42`
     --> image.toml:2:10
    2 | distro = "fedora-42"
      |          ^^^^^^^^^^^
    hint: Kiln resolves `debian-11`, `debian-12`, `debian-13`, `debian-14`
    "#);
}

#[test]
fn a_foreign_architecture_is_refused() {
    let text = r#"architecture = "s390x"
"#;
    assert_snapshot!(customized(text), @r#"
    the architecture `s390x` is not the host's
     --> image.toml:2:16
    2 | architecture = "s390x"
      |                ^^^^^^^
    hint: build on such a host, or use `x86_64`
    "#);
}

#[test]
fn a_package_needs_a_name_that_can_be_one() {
    let text = r#"[[packages]]
version = "1"
[[packages]]
name = "Foo Bar"
[[modules]]
name = "-x"
[[packages]]
name = "a"
version = "1 2"
"#;
    assert_snapshot!(customized(text), @r#"
    `packages` has no `name`
     --> image.toml:2:1
    2 | [[packages]]
      | ^^^^^^^^^^^^

    `Foo Bar` is not a package name
     --> image.toml:5:8
    5 | name = "Foo Bar"
      |        ^^^^^^^^^
    hint: a name has lower-case letters, digits, `+`, `-` and `.`; the version has a key of its own

    `-x` is not a package name
     --> image.toml:7:8
    7 | name = "-x"
      |        ^^^^
    hint: a name has lower-case letters, digits, `+`, `-` and `.`; the version has a key of its own

    `1 2` is not a version
     --> image.toml:10:11
    10 | version = "1 2"
       |           ^^^^^
    hint: write a version, or the beginning of one and `*`
    "#);
}

#[test]
fn names_of_hosts_users_and_groups_are_checked() {
    let text = r#"[customizations]
hostname = "-a_b"
[[customizations.user]]
name = "a b"
uid = -1
[[customizations.group]]
name = "-g"
[[customizations.sshkey]]
user = "u"
"#;
    assert_snapshot!(customized(text), @r#"
    `-a_b` is not a host name
     --> image.toml:3:12
    3 | hostname = "-a_b"
      |            ^^^^^^
    hint: a host name has letters, digits and `-`, in parts between dots, and at most 64 characters

    `a b` is not a name of a user or group
     --> image.toml:5:8
    5 | name = "a b"
      |        ^^^^^
    hint: a name has letters, digits, `_`, `.` and `-`, and at most 32 characters

    `customizations.user.uid` must be an integer, zero or more, not a negative integer
     --> image.toml:6:7
    6 | uid = -1
      |       ^^

    `-g` is not a name of a user or group
     --> image.toml:8:8
    8 | name = "-g"
      |        ^^^^
    hint: a name has letters, digits, `_`, `.` and `-`, and at most 32 characters

    `customizations.sshkey` has no `key`
     --> image.toml:9:1
    9 | [[customizations.sshkey]]
      | ^^^^^^^^^^^^^^^^^^^^^^^^^
    "#);
}

#[test]
fn modes_paths_and_owners_are_checked() {
    let text = r#"[[customizations.files]]
path = "etc/x"
mode = "rw"
user = true
[[customizations.files]]
path = "/etc/../x"
[[customizations.directories]]
path = "/etc/"
group = -1
"#;
    assert_snapshot!(customized(text), @r#"
    `etc/x` is not an absolute path of the image
     --> image.toml:3:8
    3 | path = "etc/x"
      |        ^^^^^^^
    hint: begin with `/`, leave out `.`, `..` and double or trailing slashes

    `rw` is not a mode
     --> image.toml:4:8
    4 | mode = "rw"
      |        ^^^^
    hint: write three or four octal digits, as in "0644"

    `customizations.files.user` must be a name or a number, zero or more, not a boolean
     --> image.toml:5:8
    5 | user = true
      |        ^^^^

    `/etc/../x` is not an absolute path of the image
     --> image.toml:7:8
    7 | path = "/etc/../x"
      |        ^^^^^^^^^^^
    hint: begin with `/`, leave out `.`, `..` and double or trailing slashes

    `/etc/` is not an absolute path of the image
     --> image.toml:9:8
    9 | path = "/etc/"
      |        ^^^^^^^
    hint: begin with `/`, leave out `.`, `..` and double or trailing slashes

    `customizations.directories.group` must be a name or a number, zero or more, not a negative integer
     --> image.toml:10:9
    10 | group = -1
       |         ^^
    "#);
}

#[test]
fn a_path_is_given_once() {
    let text = r#"[[customizations.files]]
path = "/etc/x"
[[customizations.directories]]
path = "/etc/x"
"#;
    assert_snapshot!(customized(text), @r#"
    `/etc/x` is given twice
     --> image.toml:5:8
    5 | path = "/etc/x"
      |        ^^^^^^^^
    "#);
}

#[test]
fn only_the_root_has_a_file_system() {
    let text = r#"[[customizations.filesystem]]
mountpoint = "/home"
minsize = "1 GiB"
"#;
    assert_snapshot!(customized(text), @r#"
    a file system for `/home` is not supported yet
     --> image.toml:3:14
    3 | mountpoint = "/home"
      |              ^^^^^^^
    hint: an image has one file system, for `/`
    "#);
}

#[test]
fn a_disk_has_one_plain_partition() {
    let text = r#"[customizations.disk]
type = "dos"
sector_size = 4096
minsize = "many"
[[customizations.disk.partitions]]
type = "lvm"
mountpoint = "/"
logical_volumes = [{}]
[[customizations.disk.partitions]]
mountpoint = "/home"
"#;
    assert_snapshot!(customized(text), @r#"
    the partition table `dos` is not supported yet
     --> image.toml:3:8
    3 | type = "dos"
      |        ^^^^^
    hint: use `gpt`

    `customizations.disk.sector_size` is not supported yet
     --> image.toml:4:1
    4 | sector_size = 4096
      | ^^^^^^^^^^^
    hint: remove it: sectors have 512 bytes

    `customizations.disk.minsize` is not a size
     --> image.toml:5:11
    5 | minsize = "many"
      |           ^^^^^^
    hint: write bytes, or for example "4 GiB"

    the partition type `lvm` is not supported yet
     --> image.toml:7:8
    7 | type = "lvm"
      |        ^^^^^
    hint: use `plain`

    `customizations.disk.partitions.logical_volumes` is not supported yet
     --> image.toml:9:1
    9 | logical_volumes = [{}]
      | ^^^^^^^^^^^^^^^
    hint: volume groups are not supported yet: use a plain partition

    a second partition is not supported yet
     --> image.toml:10:1
    10 | [[customizations.disk.partitions]]
       | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: an image has one partition of its own, for /: remove the others

    a file system for `/home` is not supported yet
     --> image.toml:11:14
    11 | mountpoint = "/home"
       |              ^^^^^^^
    hint: an image has one file system, for `/`
    "#);
}

#[test]
fn outputs_and_file_systems_get_suggestions() {
    let text = r#"[kiln]
outputs = ["qcow", "iso", "tar"]
root-filesystem = "ext3"
"#;
    assert_snapshot!(customized(text), @r#"
    unknown output `qcow`
     --> image.toml:3:12
    3 | outputs = ["qcow", "iso", "tar"]
      |            ^^^^^^
    hint: did you mean `qcow2`?

    unknown output `iso`
     --> image.toml:3:20
    3 | outputs = ["qcow", "iso", "tar"]
      |                    ^^^^^
    hint: there are `raw`, `qcow2`, `tar`

    unknown file system `ext3`
     --> image.toml:4:19
    4 | root-filesystem = "ext3"
      |                   ^^^^^^
    hint: did you mean `ext4`?
    "#);
}

#[test]
fn outputs_cannot_be_empty() {
    let text = r#"[kiln]
outputs = []
"#;
    assert_snapshot!(customized(text), @r#"
    `kiln.outputs` is empty
     --> image.toml:3:11
    3 | outputs = []
      |           ^^
    hint: name some of `raw`, `qcow2`, `tar`
    "#);
}

#[test]
fn settings_are_checked() {
    let text = r#"[kiln]
source-epoch = "now"
disk-size = 0
recommends = "no"
repositories = ["https://example.invalid"]
output = "raw"
"#;
    assert_snapshot!(customized(text), @r#"
    `kiln.source-epoch` must be an integer, zero or more, not a string
     --> image.toml:3:16
    3 | source-epoch = "now"
      |                ^^^^^

    `kiln.disk-size` is not a size
     --> image.toml:4:13
    4 | disk-size = 0
      |             ^
    hint: write bytes, or for example "4 GiB"

    `kiln.recommends` must be `true` or `false`, not a string
     --> image.toml:5:14
    5 | recommends = "no"
      |              ^^^^

    `https://example.invalid` is not a package source
     --> image.toml:6:17
    6 | repositories = ["https://example.invalid"]
      |                 ^^^^^^^^^^^^^^^^^^^^^^^^^
    hint: write a line as in sources.list: deb [OPTIONS] URL SUITE COMPONENT...

    unknown key `output` in `kiln`
     --> image.toml:7:1
    7 | output = "raw"
      | ^^^^^^
    hint: did you mean `outputs`?
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
