//! Images of Debian's packages, read as binutils and the reference read them, and one put together by `objcopy`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kiln_modules::pe::{Format, Image};
use kiln_testkit::host::{self, Need};
use serde_json::Value;

/// The images, by path, and the tools that read them.
pub(super) const NEEDS: [Need; 6] = host::PE_IMAGES;

/// All images.
pub(super) fn files() -> Vec<(PathBuf, Vec<u8>)> {
    let paths = NEEDS.iter().map(|need| PathBuf::from(need.program)).filter(|path| path.is_absolute());
    paths
        .map(|path| {
            let bytes = fs::read(&path).expect("an image");
            (path, bytes)
        })
        .collect()
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).env("LC_ALL", "C").output().expect(program);
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// What `objdump -p` says: words and the number after them.
fn private_headers(path: &Path) -> BTreeMap<String, u64> {
    let text = output("objdump", &["-p", &path.display().to_string()]);
    let mut headers = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(value)) = (words.next(), words.next())
            && let Ok(value) = u64::from_str_radix(value, 16)
        {
            headers.entry(name.to_owned()).or_insert(value);
        }
    }
    headers
}

#[test]
fn headers_are_as_binutils_reads_them() {
    if !host::provided("comparing with binutils", &NEEDS) {
        return;
    }
    for (path, bytes) in files() {
        let image = Image::parse(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let theirs = private_headers(&path);
        let optional = &image.optional;
        for (name, value) in [
            ("Magic", if optional.format == Format::Pe32Plus { 0x20b } else { 0x10b }),
            ("SizeOfCode", optional.size_of_code.into()),
            ("SizeOfInitializedData", optional.size_of_initialized_data.into()),
            ("SizeOfUninitializedData", optional.size_of_uninitialized_data.into()),
            ("AddressOfEntryPoint", optional.address_of_entry_point.into()),
            ("BaseOfCode", optional.base_of_code.into()),
            ("ImageBase", optional.image_base),
            ("SectionAlignment", optional.section_alignment.into()),
            ("FileAlignment", optional.file_alignment.into()),
            ("SizeOfImage", optional.size_of_image.into()),
            ("SizeOfHeaders", optional.size_of_headers.into()),
            ("CheckSum", optional.checksum.into()),
            ("Subsystem", optional.subsystem.into()),
            ("DllCharacteristics", optional.dll_characteristics.into()),
            ("SizeOfStackReserve", optional.stack.0),
            ("SizeOfHeapCommit", optional.heap.1),
            ("NumberOfRvaAndSizes", optional.directories.len() as u64),
        ] {
            assert_eq!(theirs.get(name), Some(&value), "{name} of {}", path.display());
        }
        assert_eq!(optional.subsystem_name(), Some("EFI application"));
        let signed = path.extension().is_some_and(|extension| extension == "signed");
        assert_eq!(image.certificates.len(), usize::from(signed), "{}", path.display());
        assert!(image.certificates.iter().all(|found| (found.revision, found.kind) == (0x200, 2)));
        assert_eq!(image.overlaps(), [], "{}", path.display());
    }
}

/// Name, address, and the digest-free truth: the content itself, as `objcopy` takes it out.
#[test]
fn sections_are_as_binutils_reads_them() {
    if !host::provided("comparing with binutils", &NEEDS) {
        return;
    }
    let mut compared = 0;
    for (path, bytes) in files() {
        let image = Image::parse(&bytes).expect("an image");
        // `  0 .text  0000b0a0  0000000000401000  0000000000401000  00000400  2**4`
        let text = output("objdump", &["-h", "-w", &path.display().to_string()]);
        let rows: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|row| row.len() >= 7 && row[0].parse::<usize>().is_ok())
            .collect();
        assert_eq!(rows.len(), image.sections.len(), "{text}");
        let hex = |word: &str| u64::from_str_radix(word, 16).expect("a number");
        for (row, section) in rows.iter().zip(&image.sections) {
            let what = format!("{} of {}", section.name, path.display());
            assert_eq!(row[1], section.name, "{what}");
            assert_eq!(hex(row[3]), image.optional.image_base + u64::from(section.virtual_address), "{what}");
            let content = section.content();
            if content.is_empty() {
                continue;
            }
            assert_eq!(hex(row[5]), content.start, "{what}");
            assert_eq!(hex(row[2]), content.end - content.start, "{what}");
            let flags: Vec<_> = section.flag_names().collect();
            assert_eq!(row.iter().any(|word| word.starts_with("CODE")), flags.contains(&"code"), "{what}");
            compared += 1;
        }
    }
    assert!(compared >= 20, "{compared} sections");
}

/// The reader of the reference prints named tuples; a line of Python makes JSON of them.
const REFERENCE_READER: &str = "\
import json, sys
from osbuild.util import pe32p
with open(sys.argv[1], 'rb') as file:
    coff = pe32p.read_coff_header(file)
    optional = pe32p.read_optional_header(file, coff)
    sections = pe32p.read_sections(file, coff)
plain = lambda found: {name: str(value) if isinstance(value, bytes) else value for name, value in found._asdict().items()}
print(json.dumps({'coff': plain(coff), 'optional': plain(optional), 'sections': [plain(one) for one in sections]}))
";

#[test]
fn images_are_as_the_reference_reads_them() {
    let needs = [&NEEDS[..], &[host::PYTHON]].concat();
    if !host::provided("comparing with the reference", &needs) {
        return;
    }
    let Some(reference) = host::reference("reading PE images") else { return };
    for (path, bytes) in files() {
        let image = Image::parse(&bytes).expect("an image");
        let run = Command::new("/usr/bin/python3")
            .args(["-c", REFERENCE_READER])
            .arg(&path)
            .env("PYTHONPATH", &reference)
            .stderr(Stdio::inherit())
            .output()
            .expect("python3");
        let theirs: Value = serde_json::from_slice(&run.stdout).expect("JSON");
        let (coff, optional) = (&image.coff, &image.optional);
        for (part, name, value) in [
            ("coff", "Machine", u64::from(coff.machine)),
            ("coff", "NumberOfSections", coff.number_of_sections.into()),
            ("coff", "TimeDateStamp", coff.time_date_stamp.into()),
            ("coff", "PointerToSymbolTable", coff.pointer_to_symbol_table.into()),
            ("coff", "NumberOfSymbols", coff.number_of_symbols.into()),
            ("coff", "SizeOfOptionalHeader", coff.size_of_optional_header.into()),
            ("coff", "Characteristics", coff.characteristics.into()),
            ("optional", "AddressOfEntryPoint", optional.address_of_entry_point.into()),
            ("optional", "ImageBase", optional.image_base),
            ("optional", "SectionAlignment", optional.section_alignment.into()),
            ("optional", "FileAlignment", optional.file_alignment.into()),
            ("optional", "MajorSubsystemVersion", optional.subsystem_version.0.into()),
            ("optional", "SizeOfImage", optional.size_of_image.into()),
            ("optional", "SizeOfHeaders", optional.size_of_headers.into()),
            ("optional", "CheckSum", optional.checksum.into()),
            ("optional", "Subsystem", optional.subsystem.into()),
            ("optional", "DllCharacteristics", optional.dll_characteristics.into()),
            ("optional", "SizeOfHeapReserve", optional.heap.0),
            ("optional", "NumberOfRvaAndSizes", optional.directories.len() as u64),
        ] {
            assert_eq!(theirs[part][name], value, "{name} of {}", path.display());
        }
        let sections = theirs["sections"].as_array().expect("sections");
        assert_eq!(sections.len(), image.sections.len());
        for (theirs, section) in sections.iter().zip(&image.sections) {
            for (name, value) in [
                ("VirtualSize", section.virtual_size),
                ("VirtualAddress", section.virtual_address),
                ("SizeOfRawData", section.size_of_raw_data),
                ("PointerToRawData", section.pointer_to_raw_data),
                ("Characteristics", section.characteristics),
            ] {
                assert_eq!(theirs[name], value, "{name} of {} of {}", section.name, path.display());
            }
        }
    }
}

#[test]
fn a_unified_kernel_image_gives_back_what_was_put_in() {
    if !host::provided("unified kernel images", &NEEDS) {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let stub = fs::read(host::EFI_STUB.program).expect("the stub");
    let stub = Image::parse(&stub).expect("the stub");
    let (mut address, alignment) = (stub.next_address(), u64::from(stub.optional.section_alignment));
    let base = stub.optional.image_base;
    let kernel: Vec<u8> = (0..3_000_001_u32).map(|number| (number % 251) as u8).collect();
    let parts: [(&str, &[u8]); 5] = [
        (".osrel", b"ID=kiln\nVERSION_ID=1\n"),
        (".cmdline", b"root=LABEL=root ro"),
        (".uname", b"6.1.0-kiln"),
        (".initrd", &[7; 100_000]),
        (".linux", &kernel),
    ];
    let mut command = Command::new("objcopy");
    for (name, content) in parts {
        let file = directory.path().join(&name[1..]);
        fs::write(&file, content).expect("written");
        command.arg("--add-section").arg(format!("{name}={}", file.display()));
        command.arg("--change-section-vma").arg(format!("{name}={:#x}", base + address));
        address = (address + content.len() as u64).next_multiple_of(alignment);
    }
    let path = directory.path().join("uki.efi");
    assert!(command.arg(host::EFI_STUB.program).arg(&path).status().expect("objcopy").success());

    let mut file = fs::File::open(&path).expect("an image");
    let bytes = fs::read(&path).expect("an image");
    let image = Image::read(&mut file).expect("an image");
    assert_eq!(image, Image::parse(&bytes).expect("an image"), "of a file and of bytes alike");
    assert!(image.is_uki());
    assert_eq!(image.overlaps(), []);
    assert_eq!(image.next_address(), address);
    for (name, content) in parts {
        let [section] = image.sections_named(name).collect::<Vec<_>>()[..] else { panic!("one {name}") };
        // Not all versions of binutils write how large a section without padding is.
        let found = section.bytes(&bytes).expect("within the file");
        assert_eq!(&found[..content.len()], content, "{name}");
        assert!(found[content.len()..].iter().all(|byte| *byte == 0), "{name}");
    }
}
