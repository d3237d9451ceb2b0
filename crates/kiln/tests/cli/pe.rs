//! `kiln pe`: images shown, as text and as JSON, and sections taken out of them.

use std::fs;

use kiln_testkit::host;
use kiln_testkit::pe::{Part, image, put_u32};
use serde_json::json;

use crate::world::{World, assert_shown};

const PARTS: [Part<'_>; 6] = [
    Part { name: *b".text\0\0\0", address: 0x1000, content: b"code", flags: 0x6000_0020 },
    Part {
        name: *b".osrel\0\0",
        address: 0x2000,
        content: b"ID=kiln\nNAME=\"\x1b[31mred\"\n",
        flags: 0x4000_0040,
    },
    Part { name: *b".cmdline", address: 0x3000, content: b"root=LABEL=x quiet", flags: 0x4000_0040 },
    Part { name: *b".linux\0\0", address: 0x4000, content: &[0xff; 0x1234], flags: 0x4000_0040 },
    Part { name: *b".profile", address: 0x6000, content: b"ID=rescue\n\0", flags: 0x4000_0040 },
    Part { name: *b".cmdline", address: 0x7000, content: b"rescue", flags: 0x4000_0040 },
];

#[test]
fn an_image_is_shown() {
    let world = World::new();
    world.write("uki.efi", image(true, &PARTS));
    assert_shown!(world, world.run(&["pe", "uki.efi"]), @r#"
    exit code 0
    --- stdout
    uki.efi: PE32+ EFI application for x86-64, a unified kernel image
      image base           0x140000000
      entry point          0x4444
      size                 0x9000 in memory, 0x400 of headers
      alignment            0x1000 in memory, 0x200 in the file
      characteristics      0x22 (executable, large-address-aware)
      DLL characteristics  0x160 (high-entropy-addresses, dynamic-base, nx-compatible)
      checksum             0xc0ffee00
      certificates         none

      directory         address  size
      base relocations   0x3000   0xc

      #  section   address    size  offset  in file  flags              holds
      1  .text      0x1000     0x4   0x400    0x200  code,execute,read
      2  .osrel     0x2000    0x18   0x600    0x200  data,read          os-release of the system
      3  .cmdline   0x3000    0x12   0x800    0x200  data,read          kernel command line
      4  .linux     0x4000  0x1234   0xa00   0x1400  data,read          kernel
      5  .profile   0x6000     0xb  0x1e00    0x200  data,read          beginning of a profile
      6  .cmdline   0x7000     0x6  0x2000    0x200  data,read          kernel command line

    .osrel
      ID=kiln
      NAME="\u{1b}[31mred"

    .cmdline
      root=LABEL=x quiet

    .profile
      ID=rescue

    .cmdline
      rescue
    "#);
    let shown = world.run(&["pe", "--json", "uki.efi"]).succeeded().json();
    let shown = &shown[0];
    assert_eq!(shown["file"], "uki.efi");
    assert_eq!((&shown["format"], &shown["uki"]), (&json!("PE32+"), &json!(true)));
    assert_eq!(shown["machine"], json!({"number": 0x8664, "name": "x86-64"}));
    assert_eq!(shown["entry_point"], 0x4444);
    assert_eq!(shown["next_address"], 0x8000);
    assert_eq!(shown["directories"], json!([{"name": "base relocations", "address": 0x3000, "size": 12}]));
    assert_eq!(shown["sections"].as_array().map(Vec::len), Some(6));
    assert_eq!(
        shown["sections"][2],
        json!({
            "name": ".cmdline", "address": 0x3000, "size": 18, "offset": 0x800, "file_size": 0x200,
            "content": {"offset": 0x800, "size": 18},
            "flags": {"number": 0x4000_0040, "names": ["data", "read"]}, "text": "root=LABEL=x quiet",
        })
    );
}

#[test]
fn sections_are_taken_by_name_or_number() {
    let world = World::new();
    world.write("uki.efi", image(false, &PARTS));
    let out = |name: &str| world.run(&["pe", "uki.efi", "--section", name]).succeeded().stdout;
    assert_eq!(out(".osrel"), "ID=kiln\nNAME=\"\u{1b}[31mred\"\n", "as it is");
    assert_eq!(out("3"), "root=LABEL=x quiet");
    assert_eq!(out("6"), "rescue");
    let output = world.kiln(&["pe", "uki.efi", "--section", ".linux"]).output().expect("started");
    assert_eq!(output.stdout, [0xff; 0x1234]);
    assert_shown!(world, world.run(&["pe", "uki.efi", "--section", ".cmdline"]), @r#"
    exit code 2
    --- stderr
    error: 2 sections of `uki.efi` are called `.cmdline`
    hint: take one by its number: 3, 6
    "#);
    assert_shown!(world, world.run(&["pe", "uki.efi", "--section", ".linus"]), @r#"
    exit code 1
    --- stderr
    error: `uki.efi` has no section `.linus`
    hint: did you mean `.linux`?
    "#);
    assert_shown!(world, world.run(&["pe", "uki.efi", "--section", "7"]), @r#"
    exit code 1
    --- stderr
    error: `uki.efi` has no section `7`
    hint: its sections are `.text`, `.osrel`, `.cmdline`, `.linux`, `.profile`, `.cmdline`
    "#);
    assert_shown!(world, world.run(&["pe", "uki.efi", "uki.efi", "--section", "1"]), @r#"
    exit code 2
    --- stderr
    error: `--section` takes one file
    "#);
}

#[test]
fn what_is_no_image_is_said_and_hides_nothing() {
    let world = World::new();
    world.write("good.efi", image(true, &[]));
    world.write("text", "this is a text that is long enough to have a DOS header, which it has not");
    let mut hostile = image(true, &PARTS);
    put_u32(&mut hostile, 0x98 + 240 + 16, u32::MAX);
    world.write("hostile.efi", hostile);
    fs::create_dir(world.path("directory")).expect("made");
    let run = world.run(&["pe", "text", "hostile.efi", "absent", "directory", "good.efi", "--json"]);
    assert_eq!(run.code(), Some(2), "{}", run.shown());
    assert_eq!(run.json()[0]["file"], "good.efi");
    assert_eq!(run.json().as_array().map(Vec::len), Some(1));
    insta::assert_snapshot!(run.stderr, @r#"
    error: `text` is not a PE image: the magic of the DOS header at offset 0x0: `th`; expected `MZ`
    error: `hostile.efi` is not a PE image: the content of section 1 (`.text`, described at offset 0x188): 4294967295 bytes at offset 0x400 are not in the file, which ends at 0x2200
    error: cannot read `absent`: No such file or directory (os error 2)
    error: cannot read `directory`: is a directory
    "#);
    assert_eq!(world.run(&["pe", "text", "good.efi"]).code(), Some(1));
}

#[test]
fn the_stub_of_systemd_is_shown() {
    if !host::provided("showing an EFI stub", &[host::EFI_STUB]) {
        return;
    }
    let world = World::new();
    let shown = world.run(&["pe", host::EFI_STUB.program]).succeeded().stdout;
    let first = shown.lines().next().expect("a line");
    assert!(first.ends_with(": PE32+ EFI application for x86-64"), "{first}");
    assert!(shown.contains("sbat,1,"), "the text of `.sbat`: {shown}");
    let sbat = world.run(&["pe", host::EFI_STUB.program, "--section", ".sbat"]).succeeded().stdout;
    assert!(sbat.starts_with("sbat,1,"), "{sbat}");
}
