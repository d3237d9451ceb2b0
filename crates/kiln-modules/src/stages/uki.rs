//! `org.osbuild.uki`
//!
//! The new sections follow those of the stub, each at an address that is aligned as the stub says:
//!
//! ```text
//! .osrel      what the system is: the file `os-release`
//! .cmdline    the command line of the kernel
//! .linux      the kernel
//! .initrd     the first file system
//! ```

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::pe::Image;
use crate::support::root::Root;
use crate::support::single_file;

/// Where systemd's package has the stubs.
const STUBS: &str = "/usr/lib/systemd/boot/efi";

/// The names of architectures as stubs have them, by the machine of PE images.
const ARCHITECTURES: [(u16, &str); 5] =
    [(0x14c, "ia32"), (0x1c2, "arm"), (0x5064, "riscv64"), (0x8664, "x64"), (0xaa64, "aa64")];

/// What is taken for a kernel that is no PE image.
const USUAL_ARCHITECTURE: &str = "x64";

/// Makes a unified kernel image: a program for UEFI that has a kernel, its first file system and its command line in it.
///
/// The inputs `kernel`, `initrd` and `osrel` (the file `os-release` of the system) are one file each. They are added, by
/// `objcopy` of the build root, to systemd's stub, which is that for the architecture of the kernel. The stub comes from
/// `/usr/lib/systemd/boot/efi` of the build root. With a source epoch, equal inputs give equal images.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// Path of the image in the tree.
    filename: String,
    /// How the kernel is started.
    kernel: Option<Kernel>,
}

#[derive(Deserialize, JsonSchema)]
struct Kernel {
    /// The words of its command line.
    opts: Vec<String>,
}

pub(crate) struct Uki;

impl Stage for Uki {
    const NAME: &'static str = "org.osbuild.uki";
    type Options = Options;

    fn schema() -> ModuleSchema {
        let inputs = json!({
            "type": "object",
            "additionalProperties": false,
            "required": ["kernel", "initrd", "osrel"],
            "properties": {
                "osrel": {"type": "object"},
                "kernel": {"type": "object"},
                "initrd": {"type": "object"},
            },
        });
        ModuleSchema { inputs: Some(inputs), ..ModuleSchema::of::<Options>() }
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let [release, kernel, initrd] =
            ["osrel", "kernel", "initrd"].map(|name| single_file::only(context, name));
        let kernel = kernel?;
        let stub = Path::new(STUBS).join(format!("linux{}.efi.stub", architecture(&kernel)?));
        let scratch = tempfile::tempdir();
        let scratch = scratch.map_err(ModuleError::io("make a directory in", std::env::temp_dir()))?;
        let command_line = scratch.path().join("cmdline");
        let words = options.kernel.map_or_else(String::new, |kernel| kernel.opts.join(" "));
        fs::write(&command_line, words).map_err(ModuleError::io("write", &command_line))?;
        let sections =
            [(".osrel", release?), (".cmdline", command_line), (".linux", kernel), (".initrd", initrd?)];
        let target = Root::open(context.tree())?.resolve_parent(&options.filename)?;
        let mut arguments = arguments(&read(&stub)?, &sections)?;
        if context.arguments.meta.source_epoch.is_some() {
            // Instead of the time of the build the image has that of the stub.
            arguments.push("--preserve-dates".to_owned());
        }
        context.say(format_args!("{} {}", stub.display(), arguments.join(" ")));
        Run::new("objcopy").args(arguments).args([&stub, &target]).run()?;
        check(&target)
    }
}

fn read(path: &Path) -> Result<Image, ModuleError> {
    let mut file = File::open(path).map_err(ModuleError::io("open", path))?;
    Image::read(&mut file).map_err(|error| ModuleError::invalid(format!("`{}`: {error}", path.display())))
}

/// The architecture of a kernel, as stubs name it. Kernels that are started otherwise are no PE images.
fn architecture(kernel: &Path) -> Result<&'static str, ModuleError> {
    let mut file = File::open(kernel).map_err(ModuleError::io("open", kernel))?;
    let Ok(Image { coff, .. }) = Image::read(&mut file) else { return Ok(USUAL_ARCHITECTURE) };
    let found = ARCHITECTURES.iter().find(|(machine, _)| *machine == coff.machine);
    found.map(|(_, name)| *name).ok_or_else(|| {
        let machine = coff.machine_name().map_or_else(|| format!("{:#x}", coff.machine), str::to_owned);
        ModuleError::option("inputs.kernel", format!("there are no stubs for the machine {machine}"))
    })
}

/// The options of `objcopy` that add sections.
fn arguments(stub: &Image, sections: &[(&str, PathBuf)]) -> Result<Vec<String>, ModuleError> {
    // An alignment is a power of two, or zero in images that were not meant to be aligned.
    let alignment = stub.optional.section_alignment.max(stub.optional.file_alignment).max(1).into();
    let mut address = stub.next_address();
    let mut arguments = Vec::new();
    for (name, path) in sections {
        let size = path.metadata().map_err(ModuleError::io("examine", path))?.len();
        // Names of files are text: they come from a manifest.
        arguments.extend(["--add-section".to_owned(), format!("{name}={}", path.display())]);
        // Addresses of images are relative to their base, those of `objcopy` are not.
        let absolute = stub.optional.image_base + address;
        arguments.extend(["--change-section-vma".to_owned(), format!("{name}={absolute}")]);
        address = (address + size).next_multiple_of(alignment);
    }
    Ok(arguments)
}

/// Whether the image has come out as one that can be loaded.
fn check(path: &Path) -> Result<(), ModuleError> {
    let image = read(path)?;
    let wrong = |reason: String| ModuleError::invalid(format!("`{}`: {reason}", path.display()));
    if !image.is_uki() {
        return Err(wrong("`objcopy` did not add the kernel".to_owned()));
    }
    if let Some((one, other)) = image.overlaps().first() {
        return Err(wrong(format!("the sections `{}` and `{}` overlap", one.name, other.name)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::Fixture;

    #[test]
    fn schema_agrees() {
        Agreement::stage::<Uki>()
            .accepts([
                json!({"filename": "a.efi"}),
                json!({"filename": "/EFI/Linux/a.efi", "kernel": {"opts": ["root=/dev/vda", "quiet"]}}),
                json!({"filename": "a.efi", "kernel": {"opts": [], "more": 1}}),
            ])
            .refuses([
                json!({}),
                json!({"filename": "a.efi", "kernel": {}}),
                json!({"filename": "a.efi", "kernel": {"opts": "quiet"}}),
                json!({"filename": "a.efi", "splash": "a.bmp"}),
            ]);
        Agreement::stage::<Uki>()
            .around(json!({"options": {"filename": "a"}}))
            .member("inputs")
            .accepts([json!({"kernel": {}, "initrd": {}, "osrel": {}})])
            .refuses([
                json!({}),
                json!({"kernel": {}, "initrd": {}}),
                json!({"kernel": {}, "initrd": {}, "osrel": {}, "splash": {}}),
            ]);
    }

    const KERNEL: usize = 70_001;

    fn fixture() -> Fixture {
        let mut fixture = Fixture::new();
        fixture.input("kernel", &[("vmlinuz", &"k".repeat(KERNEL))]);
        fixture.input("initrd", &[("initrd.img", &"i".repeat(5000))]);
        fixture.input("osrel", &[("os-release", "ID=kiln\n")]);
        fixture
    }

    fn options() -> Value {
        json!({"filename": "/a.efi", "kernel": {"opts": ["root=/dev/vda", "quiet"]}})
    }

    fn image(fixture: &Fixture) -> (Image, Vec<u8>) {
        let path = fixture.tree().join("a.efi");
        (read(&path).expect("an image"), fs::read(path).expect("read"))
    }

    #[test]
    fn the_image_has_its_sections_where_they_fit() {
        let fixture = fixture();
        fixture.run::<Uki>(options()).expect("made");
        let (image, bytes) = image(&fixture);
        let stub = read(&Path::new(STUBS).join("linuxx64.efi.stub")).expect("the stub");
        let content = |name: &str| {
            let section = image.sections_named(name).next().unwrap_or_else(|| panic!("no {name}"));
            let range = section.content();
            let bytes = &bytes[range.start as usize..range.end as usize];
            String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
        };
        assert_eq!(content(".osrel"), "ID=kiln\n");
        assert_eq!(content(".cmdline"), "root=/dev/vda quiet");
        assert_eq!(content(".linux"), "k".repeat(KERNEL));
        assert_eq!(content(".initrd"), "i".repeat(5000));
        assert_eq!(image.sections.len(), stub.sections.len() + 4);
        assert!(image.overlaps().is_empty());
        let addresses: Vec<u64> = image.sections[stub.sections.len()..]
            .iter()
            .map(|section| section.virtual_address.into())
            .collect();
        assert_eq!(addresses[0], stub.next_address());
        assert!(addresses.iter().all(|address| address % u64::from(stub.optional.section_alignment) == 0));
    }

    #[test]
    fn the_image_is_the_references() {
        for options in [options(), json!({"filename": "a.efi"})] {
            let there = fixture();
            let Some((succeeded, said)) = there.run_reference(Uki::NAME, options.clone()) else { return };
            assert!(succeeded, "{said}");
            let here = fixture();
            here.run::<Uki>(options).expect("made");
            let [(mut here, bytes), (mut there, its_bytes)] = [image(&here), image(&there)];
            assert_eq!(bytes.len(), its_bytes.len());
            for image in [&mut here, &mut there] {
                // When it was made, which the checksum is also of.
                image.coff.time_date_stamp = 0;
                image.optional.checksum = 0;
            }
            assert_eq!(here, there);
        }
    }

    /// The time of the build is in images that are made without.
    #[test]
    fn a_source_epoch_makes_equal_images() {
        let stub = read(&Path::new(STUBS).join("linuxx64.efi.stub")).expect("the stub");
        let fixture = fixture().at(7);
        fixture.run::<Uki>(options()).expect("made");
        assert_eq!(image(&fixture).0.coff.time_date_stamp, stub.coff.time_date_stamp);
    }

    #[test]
    fn addresses_are_after_the_base_of_the_image() {
        let mut stub = read(&Path::new(STUBS).join("linuxx64.efi.stub")).expect("the stub");
        stub.optional.image_base = 0x1_4000_0000;
        let address = stub.next_address();
        let sections = [(".linux", PathBuf::from("/dev/null"))];
        let arguments = arguments(&stub, &sections).expect("arguments");
        assert_eq!(arguments[3], format!(".linux={}", 0x1_4000_0000 + address));
    }

    #[test]
    fn stubs_are_for_the_kernels_architecture() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("kernel");
        fs::write(&path, "no image").expect("written");
        assert_eq!(architecture(&path).expect("the usual one"), "x64");
        let mut bytes = fs::read(Path::new(STUBS).join("linuxx64.efi.stub")).expect("the stub");
        let start = u32::from_le_bytes(bytes[0x3c..0x40].try_into().expect("four bytes")) as usize;
        for (machine, expected) in ARCHITECTURES {
            bytes[start + 4..start + 6].copy_from_slice(&machine.to_le_bytes());
            fs::write(&path, &bytes).expect("written");
            assert_eq!(architecture(&path).expect(expected), expected);
        }
        bytes[start + 4..start + 6].copy_from_slice(&0x200_u16.to_le_bytes());
        fs::write(&path, &bytes).expect("written");
        let error = architecture(&path).expect_err("none").to_string();
        assert!(error.contains("there are no stubs for the machine"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let error =
            fixture().run::<Uki>(json!({"filename": "no/a.efi"})).expect_err("no directory").to_string();
        assert!(error.contains("cannot find"), "{error}");
        let mut fixture = Fixture::new();
        fixture.input("kernel", &[("a", ""), ("b", "")]);
        let error = fixture.run::<Uki>(options()).expect_err("two").to_string();
        assert_eq!(error, "invalid option `inputs.kernel`: must be one file, but has 2");
    }
}
