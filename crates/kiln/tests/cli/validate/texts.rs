//! Texts that are no JSON, modules that nobody knows, and options they do not take.

use crate::world::World;

#[test]
fn unknown_modules() {
    assert_faults!(r#"{
  "version": "2",
  "pipelines": [{"name": "tree", "stages": [
    {"type": "org.osbuild.hostnam", "options": {"anything": true}},
    {"type": "com.example.paint"},
    {
      "type": "org.osbuild.copy",
      "options": {"paths": [{"from": "input://a/", "to": "mount://c/"}]},
      "inputs": {"a": {"type": "org.osbuild.trees", "origin": "org.osbuild.pipeline", "references": []}},
      "devices": {"b": {"type": "org.osbuild.lopback"}},
      "mounts": [{"name": "c", "type": "org.osbuild.ext3", "source": "b", "target": "/"}]
    }
  ]}],
  "sources": {"org.osbuild.crul": {"items": {}}, "com.example.git": {"items": {}}}
}"#, @r#"
exit code 2
--- stderr
error: the manifest has 8 errors
  unknown stage `org.osbuild.hostnam`
  --> manifest.json:4:14 (.pipelines[0].stages[0].type)
      {"type": "org.osbuild.hostnam", "options": {"anything": true}},
               ^^^^^^^^^^^^^^^^^^^^^
  hint: did you mean `org.osbuild.hostname`?
  unknown stage `com.example.paint`
  --> manifest.json:5:14 (.pipelines[0].stages[1].type)
      {"type": "com.example.paint"},
               ^^^^^^^^^^^^^^^^^^^
  hint: `kiln modules` lists every stage there is
  unknown input `org.osbuild.trees`
  --> manifest.json:9:32 (.pipelines[0].stages[2].inputs.a.type)
        "inputs": {"a": {"type": "org.osbuild.trees", "origin": "org.osbuild.pipeline", "references": 
                                 ^^^^^^^^^^^^^^^^^^^
  hint: did you mean `org.osbuild.tree`?
  expected at least 1 item
  --> manifest.json:9:87 (.pipelines[0].stages[2].inputs.a.references)
  sbuild.trees", "origin": "org.osbuild.pipeline", "references": []}},
                                                   ^^^^^^^^^^^^
  unknown device `org.osbuild.lopback`
  --> manifest.json:10:33 (.pipelines[0].stages[2].devices.b.type)
        "devices": {"b": {"type": "org.osbuild.lopback"}},
                                  ^^^^^^^^^^^^^^^^^^^^^
  hint: did you mean `org.osbuild.loopback`?
  unknown mount `org.osbuild.ext3`
  --> manifest.json:11:40 (.pipelines[0].stages[2].mounts[0].type)
        "mounts": [{"name": "c", "type": "org.osbuild.ext3", "source": "b", "target": "/"}]
                                         ^^^^^^^^^^^^^^^^^^
  hint: did you mean `org.osbuild.ext4`?
  unknown source `org.osbuild.crul`
  --> manifest.json:14:15 (.sources.org.osbuild.crul)
    "sources": {"org.osbuild.crul": {"items": {}}, "com.example.git": {"items": {}}}
                ^^^^^^^^^^^^^^^^^^
  hint: did you mean `org.osbuild.curl`?
  unknown source `com.example.git`
  --> manifest.json:14:50 (.sources.com.example.git)
    "sources": {"org.osbuild.crul": {"items": {}}, "com.example.git": {"items": {}}}
                                                   ^^^^^^^^^^^^^^^^^
  hint: `kiln modules` lists every source there is
"#);
}

/// The rules that options break, those that one schema or another of a native module has.
#[test]
fn options() {
    let source = |items: &str| format!(r#""sources": {{"org.osbuild.curl": {{"items": {items}}}}}"#);
    let text = format!(
        r#"{{
  "version": "2",
  "pipelines": [{{"name": "tree", "stages": [
    {{"type": "org.osbuild.mkdir", "options": {{"paths": [{{"path": "/a", "parent": true}}, {{"mode": "0755"}}, "/b"]}}}},
    {{"type": "org.osbuild.ln", "options": {{"paths": []}}}},
    {{"type": "org.osbuild.hostname", "options": {{"hostname": 1}}}},
    {{"type": "org.osbuild.hostname"}},
    {{"type": "org.osbuild.systemd", "options": {{"enabled_services": "sshd"}}}},
    {{"type": "org.osbuild.machine-id", "options": {{"first-boot": "ys"}}}},
    {{"type": "org.osbuild.users", "options": {{"users": {{"a": {{"uid": "1000", "goups": ["b"]}}}}}}}},
    {{"type": "org.osbuild.chown", "options": {{"items": {{"/a": {{"user": -1}}}}}}}},
    {{"type": "org.osbuild.gzip", "options": {{"filename": "a", "level": 100}}}},
    {{"type": "org.osbuild.mkfs.ext4", "options": {{"uuid": "0a9f5c2e-3d0b-4f0c-8a53-6f2d6f0f7a11", "label": "much too long a label"}}}},
    {{"type": "org.osbuild.fstab", "options": {{"filesystems": [{{"path": "/", "uuid": "a", "label": "b"}}, {{"path": "/b"}}]}}}},
    {{"type": "org.osbuild.noop", "inputs": {{"tree": {{"type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": []}}}}}},
    {{
      "type": "org.osbuild.qemu",
      "options": {{"filename": "a", "format": {{"type": "qcow3"}}}},
      "devices": {{"d": {{"type": "org.osbuild.loopback", "options": {{"filename": "a", "sectorsize": 512}}}}}},
      "mounts": [{{"name": "m", "type": "org.osbuild.ext4", "source": "d", "options": {{"readonly": "true"}}}}]
    }}
  ]}}],
  {}
}}"#,
        source(r#"{"sha256:1": "https://example.invalid/a"}"#)
    );
    assert_faults!(text, @r#"
    exit code 2
    --- stderr
    error: the manifest has 24 errors
      unknown option `parent`
      --> manifest.json:4:72 (.pipelines[0].stages[0].options.paths[0].parent)
          {"type": "org.osbuild.mkdir", "options": {"paths": [{"path": "/a", "parent": true}, {"mode": "07
                                                                             ^^^^^^^^
      hint: did you mean `parents`?
      `path` is missing
      --> manifest.json:4:89 (.pipelines[0].stages[0].options.paths[1])
      ons": {"paths": [{"path": "/a", "parent": true}, {"mode": "0755"}, "/b"]}},
                                                       ^
      hint: `kiln modules show org.osbuild.mkdir` documents what it takes
      expected a number, found a string
      --> manifest.json:4:98 (.pipelines[0].stages[0].options.paths[1].mode)
      aths": [{"path": "/a", "parent": true}, {"mode": "0755"}, "/b"]}},
                                                       ^^^^^^
      hint: numbers are decimal: `493` is octal 0755
      expected an object, found a string
      --> manifest.json:4:107 (.pipelines[0].stages[0].options.paths[2])
      "path": "/a", "parent": true}, {"mode": "0755"}, "/b"]}},
                                                       ^^^^
      hint: `kiln modules show org.osbuild.mkdir` documents what it takes
      expected at least 1 item
      --> manifest.json:5:44 (.pipelines[0].stages[1].options.paths)
          {"type": "org.osbuild.ln", "options": {"paths": []}},
                                                 ^^^^^^^
      hint: `kiln modules show org.osbuild.ln` documents what it takes
      expected a string, found an integer
      --> manifest.json:6:62 (.pipelines[0].stages[2].options.hostname)
          {"type": "org.osbuild.hostname", "options": {"hostname": 1}},
                                                                   ^
      hint: write it in quotes: `"1"`
      `hostname` is missing
      --> manifest.json:7:5 (.pipelines[0].stages[3].options)
          {"type": "org.osbuild.hostname"},
          ^
      hint: `kiln modules show org.osbuild.hostname` documents what it takes
      expected an array, found a string
      --> manifest.json:8:69 (.pipelines[0].stages[4].options.enabled_services)
          {"type": "org.osbuild.systemd", "options": {"enabled_services": "sshd"}},
                                                                          ^^^^^^
      hint: write it as a list: `["sshd"]`
      expected one of `yes`, `no`, `preserve`, found `ys`
      --> manifest.json:9:66 (.pipelines[0].stages[5].options.first-boot)
          {"type": "org.osbuild.machine-id", "options": {"first-boot": "ys"}},
                                                                       ^^^^
      hint: did you mean `yes`?
      expected a number, found a string
      --> manifest.json:10:70 (.pipelines[0].stages[6].options.users.a.uid)
          {"type": "org.osbuild.users", "options": {"users": {"a": {"uid": "1000", "goups": ["b"]}}}},
                                                                           ^^^^^^
      hint: write it without quotes: `1000`
      expected at least 0, found -1
      --> manifest.json:11:72 (.pipelines[0].stages[7].options.items./a.user)
          {"type": "org.osbuild.chown", "options": {"items": {"/a": {"user": -1}}}},
                                                                             ^^
      hint: `kiln modules show org.osbuild.chown` documents what it takes
      `file` is missing
      --> manifest.json:12:5 (.pipelines[0].stages[8].inputs)
          {"type": "org.osbuild.gzip", "options": {"filename": "a", "level": 100}},
          ^
      hint: `kiln modules show org.osbuild.gzip` documents what it takes
      expected at most 9, found 100
      --> manifest.json:12:72 (.pipelines[0].stages[8].options.level)
          {"type": "org.osbuild.gzip", "options": {"filename": "a", "level": 100}},
                                                                             ^^^
      hint: `kiln modules show org.osbuild.gzip` documents what it takes
      `device` is missing
      --> manifest.json:13:5 (.pipelines[0].stages[9].devices)
          {"type": "org.osbuild.mkfs.ext4", "options": {"uuid": "0a9f5c2e-3d0b-4f0c-8a53-6f2d6f0f7a11", "l
          ^
      hint: `kiln modules show org.osbuild.mkfs.ext4` documents what it takes
      expected at most 16 characters, found 21
      --> manifest.json:13:108 (.pipelines[0].stages[9].options.label)
      "0a9f5c2e-3d0b-4f0c-8a53-6f2d6f0f7a11", "label": "much too long a label"}},
                                                       ^^^^^^^^^^^^^^^^^^^^^^^
      hint: `kiln modules show org.osbuild.mkfs.ext4` documents what it takes
      `uuid`, `label` exclude each other
      --> manifest.json:14:63 (.pipelines[0].stages[10].options.filesystems[0])
          {"type": "org.osbuild.fstab", "options": {"filesystems": [{"path": "/", "uuid": "a", "label": "b
                                                                    ^
      hint: `kiln modules show org.osbuild.fstab` documents what it takes
      one of `device`, `uuid`, `label`, `partlabel` is missing
      --> manifest.json:14:105 (.pipelines[0].stages[10].options.filesystems[1])
      ems": [{"path": "/", "uuid": "a", "label": "b"}, {"path": "/b"}]}},
                                                       ^
      hint: `kiln modules show org.osbuild.fstab` documents what it takes
      expected at least 1 item
      --> manifest.json:15:116 (.pipelines[0].stages[11].inputs.tree.references)
      osbuild.tree", "origin": "org.osbuild.pipeline", "references": []}}},
                                                       ^^^^^^^^^^^^
      `image` is missing
      --> manifest.json:16:5 (.pipelines[0].stages[12].inputs)
          {
          ^
      hint: `kiln modules show org.osbuild.qemu` documents what it takes
      expected one of `qcow2`, `vdi`, `vmdk`, `vpc`, `vhdx`, found `qcow3`
      --> manifest.json:18:55 (.pipelines[0].stages[12].options.format.type)
            "options": {"filename": "a", "format": {"type": "qcow3"}},
                                                            ^^^^^^^
      hint: did you mean `qcow2`?
      unknown option `sectorsize`
      --> manifest.json:19:86 (.pipelines[0].stages[12].devices.d.options.sectorsize)
      .osbuild.loopback", "options": {"filename": "a", "sectorsize": 512}}},
                                                       ^^^^^^^^^^^^
      hint: did you mean `sector-size`?
      `target` is missing
      --> manifest.json:20:18 (.pipelines[0].stages[12].mounts[0])
            "mounts": [{"name": "m", "type": "org.osbuild.ext4", "source": "d", "options": {"readonly": "t
                       ^
      hint: `kiln modules show org.osbuild.ext4` documents what it takes
      expected a boolean, found a string
      --> manifest.json:20:99 (.pipelines[0].stages[12].mounts[0].options.readonly)
      ld.ext4", "source": "d", "options": {"readonly": "true"}}]
                                                       ^^^^^^
      hint: write it without quotes: `true`
      unknown key `sha256:1`
      --> manifest.json:23:46 (.sources.org.osbuild.curl.items.sha256:1)
        "sources": {"org.osbuild.curl": {"items": {"sha256:1": "https://example.invalid/a"}}}
                                                   ^^^^^^^^^^
      hint: keys match the pattern `(md5|sha1|sha256|sha384|sha512):[0-9a-f]{32,128}`
    "#);
}

#[test]
fn texts_that_are_no_json() {
    let world = World::new();
    let mut shown = String::new();
    for text in [
        "",
        "{",
        "{\"a\"",
        "{\"a\": ",
        "{\"a\": 1",
        "{\"a\": 1,}",
        "{a: 1}",
        "{'a': 1}",
        "{\"a\" 1}",
        "{\"a\": 1 \"b\": 2}",
        "[1",
        "[1 2]",
        "[1,]",
        "{\"a\": tru}",
        "{\"a\": 01}",
        "{\"a\": 1.}",
        "{\"a\": 1e}",
        "{\"a\": -}",
        "{\"a\": \"b}",
        "{\"a\": \"b\nc\"}",
        "{\"a\": \"\\x\"}",
        "{\"a\": \"\\u12\"}",
        "{\"a\": \"\\ud800\"} ",
        "{} {}",
        "// a manifest\n{}",
        "{\n  \"version\": \"2\",\n  \"pipelines\": [,]\n}\n",
    ] {
        world.write("manifest.json", text);
        let finished = world.run(&["validate", "manifest.json"]);
        assert_eq!(finished.code(), Some(2), "{text}: {}", finished.shown());
        let hint = "hint: a manifest is one JSON object, without comments and trailing commas\n";
        let said = finished.stderr.replace("error: the manifest is not valid JSON: ", "").replace(hint, "");
        shown += &said;
    }
    world.write("manifest.json", "[".repeat(100_000));
    let finished = world.run(&["validate", "manifest.json"]);
    shown += finished.stderr.lines().next().expect("a line");
    world.settings().bind(|| {
        insta::assert_snapshot!(shown, @r#"
        unexpected end: expected a value
          --> manifest.json:1:1

          ^
        expected a key in double quotes
          --> manifest.json:1:2
          {
           ^
        expected `:` after the key
          --> manifest.json:1:5
          {"a"
              ^
        unexpected end: expected a value
          --> manifest.json:1:7
          {"a": 
                ^
        expected `,` or `}`
          --> manifest.json:1:8
          {"a": 1
                 ^
        expected a key in double quotes
          --> manifest.json:1:9
          {"a": 1,}
                  ^
        expected a key in double quotes
          --> manifest.json:1:2
          {a: 1}
           ^
        expected a key in double quotes
          --> manifest.json:1:2
          {'a': 1}
           ^
        expected `:` after the key
          --> manifest.json:1:6
          {"a" 1}
               ^
        expected `,` or `}`
          --> manifest.json:1:9
          {"a": 1 "b": 2}
                  ^
        expected `,` or `]`
          --> manifest.json:1:3
          [1
            ^
        expected `,` or `]`
          --> manifest.json:1:4
          [1 2]
             ^
        expected a value
          --> manifest.json:1:4
          [1,]
             ^
        expected a value
          --> manifest.json:1:7
          {"a": tru}
                ^
        expected `,` or `}`
          --> manifest.json:1:8
          {"a": 01}
                 ^
        expected a digit after the point
          --> manifest.json:1:9
          {"a": 1.}
                  ^
        expected a digit in the exponent
          --> manifest.json:1:9
          {"a": 1e}
                  ^
        expected a digit
          --> manifest.json:1:8
          {"a": -}
                 ^
        the string does not end
          --> manifest.json:1:10
          {"a": "b}
                   ^
        a control character in a string must be escaped
          --> manifest.json:1:9
          {"a": "b
                  ^
        unknown escape
          --> manifest.json:1:9
          {"a": "\x"}
                  ^
        expected four hexadecimal digits
          --> manifest.json:1:10
          {"a": "\u12"}
                   ^
        half of a surrogate pair
          --> manifest.json:1:8
          {"a": "\ud800"} 
                 ^
        unexpected text after the end of the value
          --> manifest.json:1:4
          {} {}
             ^
        expected a value
          --> manifest.json:1:1
          // a manifest
          ^
        expected a value
          --> manifest.json:3:17
            "pipelines": [,]
                          ^
        error: the manifest is not valid JSON: nested too deeply
        "#);
    });
}
