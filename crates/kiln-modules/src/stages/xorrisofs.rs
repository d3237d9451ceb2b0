//! `org.osbuild.xorrisofs`
//!
//! Discs start by three ways, which take other options each:
//!
//! ```text
//! grub2mbr     GRUB for BIOS and UEFI; the EFI system partition is appended, and found from a disc and from a stick
//! chrp_boot    GRUB for Open Firmware
//! neither      ISOLINUX for BIOS, and UEFI from an image on the disc; or not at all
//! ```

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::packing;
use crate::support::root::Root;

/// The program, whatever the search path is.
const PROGRAM: &str = "/usr/bin/xorrisofs";
/// The type of an EFI system partition.
const EFI_PARTITION: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
/// The type of a partition with data, which the file system of the disc is in.
const DATA_PARTITION: &str = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7";

/// Packs the input `tree` into the image of a disc (ISO 9660 with Rock Ridge).
///
/// Runs `xorrisofs` of the build root. With `boot` machines with BIOS start from it, with `efi` those with UEFI, with
/// `chrp_boot` those with Open Firmware; `grub2mbr` makes the image one that starts from a stick, too, with GRUB, and
/// `isohybridmbr` with ISOLINUX. A source epoch makes equal trees equal images.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The name of the image.
    filename: String,
    /// The label of the disc.
    #[schemars(regex(pattern = "[A-Z0-9_-]{1,32}"))]
    volid: String,
    /// The name of the system that is on it.
    #[schemars(regex(pattern = "[A-Z0-9_-]{1,32}"))]
    sysid: Option<String>,
    /// The publisher.
    #[schemars(regex(pattern = "^.{1,128}$"))]
    r#pub: Option<String>,
    /// What the disc is for.
    #[schemars(regex(pattern = "^.{1,128}$"))]
    appid: Option<String>,
    /// Who prepared it.
    #[schemars(regex(pattern = "^.{1,128}$"))]
    prep: Option<String>,
    /// How machines with BIOS start from it.
    boot: Option<Boot>,
    /// The path of an EFI system partition in the tree.
    efi: Option<String>,
    /// The file of the build root that machines with BIOS start from a stick, of GRUB's.
    grub2mbr: Option<String>,
    /// The same of ISOLINUX's.
    isohybridmbr: Option<String>,
    /// The level of the file system: files of 4 GiB and more need level 3.
    #[schemars(range(min = 1, max = 4))]
    isolevel: Option<i64>,
    /// Patterns for files that are left out.
    exclude: Option<Vec<String>>,
    /// Whether all files belong to root, and can be read by all; with `chrp_boot` only.
    #[serde(default)]
    rational_rock: bool,
    /// Whether names without Rock Ridge may have any letters; with `chrp_boot` only.
    #[serde(default)]
    untranslated_filenames: bool,
    /// Whether names without Rock Ridge may have 31 letters; with `chrp_boot` only.
    #[serde(default)]
    full_filenames: bool,
    /// The name of a set of discs, of which this is the only one; with `chrp_boot` only.
    #[schemars(regex(pattern = "^.{1,128}$"))]
    volset: Option<String>,
    /// Whether machines with Open Firmware start from it.
    chrp_boot: Option<bool>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Boot {
    /// The path of the boot loader on the disc.
    image: String,
    /// The path of the list of boot loaders on the disc; the file is made, and not shown.
    catalog: String,
    /// Whether the boot loader is not told where on the disc it is.
    #[serde(default)]
    nobootinfo: bool,
}

/// Words of a command line.
#[derive(Default)]
struct Words(Vec<OsString>);

impl Words {
    fn add<Word: Into<OsString>>(&mut self, words: impl IntoIterator<Item = Word>) -> &mut Self {
        self.0.extend(words.into_iter().map(Into::into));
        self
    }

    fn option(&mut self, option: &str, value: Option<&str>) -> &mut Self {
        match value.filter(|value| !value.is_empty()) {
            Some(value) => self.add([option, value]),
            None => self,
        }
    }

    fn when(&mut self, is_wanted: bool, option: &str) -> &mut Self {
        if is_wanted { self.add([option]) } else { self }
    }
}

impl Options {
    fn words(&self, tree: &Path, target: PathBuf) -> Result<Vec<OsString>, ModuleError> {
        let mut words = Words::default();
        words.add(["-verbose"]);
        // With `chrp_boot`, be it false, the options for Open Firmware count.
        match (self.chrp_boot, self.grub2mbr.as_deref()) {
            (Some(is_wanted), _) => self.open_firmware(&mut words, is_wanted)?,
            (None, Some(boot_image)) => self.grub(&mut words, Path::new(boot_image), tree)?,
            (None, None) => self.isolinux(&mut words),
        }
        for pattern in self.exclude.iter().flatten() {
            words.add(["-exclude", pattern]);
        }
        words.add(["-o"]).add([target, tree.to_owned()]);
        Ok(words.0)
    }

    /// What the disc is known by.
    fn names(&self, words: &mut Words) {
        let level = self.isolevel.map(|level| level.to_string());
        words
            .option("-iso-level", level.as_deref())
            .add(["-V", &self.volid])
            .option("-sysid", self.sysid.as_deref())
            .option("-publisher", self.r#pub.as_deref())
            .option("-appid", self.appid.as_deref())
            .option("-preparer", self.prep.as_deref());
    }

    fn efi(&self) -> Option<&str> {
        self.efi.as_deref().filter(|path| !path.is_empty())
    }

    fn grub(&self, words: &mut Words, boot_image: &Path, tree: &Path) -> Result<(), ModuleError> {
        words.add(["-rock", "-joliet"]);
        self.names(words);
        boot_image.metadata().map_err(ModuleError::io("find, in the build root,", boot_image))?;
        words.add(["--grub2-mbr"]).add([boot_image]);
        if let Some(efi) = self.efi() {
            let partition = Root::open(tree)?.resolve(efi)?;
            words
                .add([
                    "-partition_offset",
                    "16",
                    "-appended_part_as_gpt",
                    "-append_partition",
                    "2",
                    EFI_PARTITION,
                ])
                .add([partition]);
        }
        words.add(["-iso_mbr_part_type", DATA_PARTITION]);
        if let Some(boot) = &self.boot {
            words.add(["-b", &boot.image, "-c", &boot.catalog]);
            words.add(["--boot-catalog-hide", "-no-emul-boot", "-boot-load-size", "4"]);
            if !boot.nobootinfo {
                words.add(["-boot-info-table", "--grub2-boot-info"]);
            }
            if self.efi().is_some() {
                words.add(["-eltorito-alt-boot", "-e", "--interval:appended_partition_2:all::"]);
            }
        }
        words.add(["-no-emul-boot"]);
        Ok(())
    }

    fn open_firmware(&self, words: &mut Words, is_wanted: bool) -> Result<(), ModuleError> {
        if self.efi().is_some() {
            return Err(ModuleError::option(
                "efi",
                "there is no UEFI on machines with Open Firmware (`chrp_boot`)",
            ));
        }
        words.add(["-rock", "-joliet"]);
        self.names(words);
        words
            .when(self.rational_rock, "-rational-rock")
            .when(self.untranslated_filenames, "-untranslated-filenames")
            .when(self.full_filenames, "-full-iso9660-filenames");
        if let Some(name) = self.volset.as_deref().filter(|name| !name.is_empty()) {
            words.add(["-volset", name, "-volset-size", "1", "-volset-seqno", "1"]);
        }
        words.when(is_wanted, "-chrp-boot");
        Ok(())
    }

    fn isolinux(&self, words: &mut Words) {
        self.names(words);
        let hybrid = self.isohybridmbr.as_deref().filter(|path| !path.is_empty());
        words.option("-isohybrid-mbr", hybrid);
        if let Some(boot) = &self.boot {
            words
                .add(["-b", &boot.image, "-c", &boot.catalog, "--boot-catalog-hide", "-boot-load-size", "4"])
                .when(!boot.nobootinfo, "-boot-info-table")
                .add(["-no-emul-boot"]);
        }
        words.add(["-rock", "-joliet"]);
        if let Some(efi) = self.efi() {
            words.add(["-eltorito-alt-boot", "-e", efi, "-no-emul-boot"]);
            words.when(hybrid.is_some(), "-isohybrid-gpt-basdat");
        }
    }
}

pub(crate) struct Xorrisofs;

impl Stage for Xorrisofs {
    const NAME: &'static str = "org.osbuild.xorrisofs";
    type Options = Options;

    fn schema() -> ModuleSchema {
        ModuleSchema { inputs: Some(packing::inputs()), ..ModuleSchema::of::<Options>() }
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let tree = packing::source(context, None)?;
        let target = packing::target(context, &options.filename)?;
        Ok(Run::new(PROGRAM).args(options.words(&tree, target)?).run()?)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::Fixture;
    use crate::stage_test::output;

    /// GRUB's and ISOLINUX's boot images for sticks.
    const GRUB_IMAGE: &str = "/usr/lib/grub/i386-pc/boot_hybrid.img";
    const ISOLINUX_IMAGE: &str = "/usr/lib/ISOLINUX/isohdpfx.bin";

    fn with(members: &Value) -> Value {
        let mut options = json!({"filename": "disc.iso", "volid": "KILN-1"});
        options.as_object_mut().expect("an object").extend(members.as_object().expect("an object").clone());
        options
    }

    /// Options for each kind of disc.
    fn kinds() -> [Value; 6] {
        let boot = json!({"image": "isolinux/isolinux.bin", "catalog": "isolinux/boot.cat"});
        let grub = json!({"image": "grub/eltorito.img", "catalog": "boot.cat", "nobootinfo": false});
        let mut plain = grub.clone();
        plain["nobootinfo"] = json!(true);
        let names = json!({"sysid": "LINUX", "pub": "Some One", "appid": "Kiln", "prep": "Some One Else", "isolevel": 3});
        let mut named = with(&names);
        named["exclude"] = json!(["left", "*.out"]);
        let mut firmware =
            with(&json!({"chrp_boot": true, "rational_rock": true, "untranslated_filenames": true,
            "full_filenames": true, "volset": "KILN-SET"}));
        firmware.as_object_mut().expect("an object").extend(names.as_object().expect("an object").clone());
        [
            named,
            with(&json!({"boot": boot, "efi": "images/efiboot.img", "isohybridmbr": ISOLINUX_IMAGE})),
            with(&json!({"boot": grub, "efi": "/images/efiboot.img", "grub2mbr": GRUB_IMAGE})),
            with(&json!({"boot": plain, "grub2mbr": GRUB_IMAGE, "isolevel": 3})),
            firmware,
            with(&json!({"chrp_boot": false, "exclude": ["left"]})),
        ]
    }

    #[test]
    fn schema_agrees() {
        Agreement::stage::<Xorrisofs>().accepts(kinds()).refuses([
            json!({"filename": "a"}),
            with(&json!({"volid": "lower"})),
            with(&json!({"pub": ""})),
            with(&json!({"isolevel": 5})),
            with(&json!({"boot": {"image": "a"}})),
            with(&json!({"boot": {"image": "a", "catalog": "b", "more": 1}})),
            with(&json!({"exclude": "a"})),
        ]);
        Agreement::stage::<Xorrisofs>()
            .around(json!({"options": with(&json!({}))}))
            .member("inputs")
            .accepts([json!({"tree": {"type": "org.osbuild.tree"}})])
            .refuses([json!({}), json!({"tree": {}, "other": {}})]);
    }

    fn fixture() -> Fixture {
        let mut fixture = Fixture::new();
        let loader = "x".repeat(4096);
        let input = fixture.input(
            "tree",
            &[
                ("etc/a-rather-long-name.text", "content\n"),
                ("grub/eltorito.img", &loader),
                ("images/efiboot.img", &loader),
                ("left/file", "left out"),
                ("file.out", "left out"),
            ],
        );
        fs::create_dir(input.join("isolinux")).expect("made");
        fs::copy("/usr/lib/ISOLINUX/isolinux.bin", input.join("isolinux/isolinux.bin")).expect("copied");
        fixture
    }

    fn xorriso(image: &Path, commands: &str) -> String {
        let line = format!("exec xorriso -no_rc -report_about FATAL -indev \"$0\" {commands}");
        output("sh", &["-c", &line], image)
    }

    /// What `xorriso` finds on a disc: how machines start from it, without times and random numbers, and all files.
    fn disc(image: &Path) -> (String, Vec<String>) {
        let checked = xorriso(image, "-check_media use=indev --");
        assert!(checked.contains("+ good") && !checked.contains(" - "), "{checked}");
        let report = xorriso(image, "-pvd_info -report_el_torito plain -report_system_area plain");
        let differs = ["-indev", "Time", "GUID", "disk id"];
        let steady = |line: &&str| !differs.iter().any(|word| line.contains(word));
        let report = report.lines().filter(steady).collect::<Vec<_>>().join("\n");
        let file = |line: &str| {
            let words: Vec<_> = line.split_whitespace().collect();
            [words[0], words[4], words[words.len() - 1]].join(" ")
        };
        (report, xorriso(image, "-find / -exec lsdl --").lines().map(file).collect())
    }

    #[test]
    fn discs_have_what_was_asked_for() {
        for options in kinds() {
            let fixture = fixture();
            fixture.run::<Xorrisofs>(options.clone()).expect("packed");
            let image = fixture.tree().join("disc.iso");
            let (report, files) = disc(&image);
            assert!(report.contains("KILN-1"), "{report}");
            let has = |name: &str| files.iter().any(|line| line.ends_with(&format!("'{name}'")));
            assert!(has("/etc/a-rather-long-name.text"), "{files:?}");
            assert_eq!(has("/left/file") || has("/left"), options.get("exclude").is_none(), "{options}");
            for (option, expected) in [("boot", "BIOS"), ("efi", "UEFI")] {
                assert_eq!(report.contains(expected), options.get(option).is_some(), "{options}: {report}");
            }
            for option in ["grub2mbr", "isohybridmbr"] {
                let start = &fs::read(&image).expect("the image")[..432];
                let expected =
                    options.get(option).map(|path| fs::read(path.as_str().expect("a path")).expect("there"));
                // The image has numbers of its own in the code.
                assert!(expected.is_none_or(|expected| start[..64] == expected[..64]), "{option}");
            }
        }
    }

    #[test]
    fn commands_are_the_references() {
        for options in kinds() {
            let fixture = fixture();
            let Some((succeeded, said)) = fixture.run_reference(Xorrisofs::NAME, options.clone()) else {
                return;
            };
            assert!(succeeded, "{options}: {said}");
            let theirs = disc(&fixture.tree().join("disc.iso"));
            // It says which words it runs.
            let words = said.lines().find(|line| line.starts_with('[')).expect("words").replace('\'', "\"");
            let words: Vec<OsString> = serde_json::from_str::<Vec<String>>(&words)
                .expect("JSON")
                .into_iter()
                .map(Into::into)
                .collect();
            let tree = fixture.tree().parent().expect("a directory").join("inputs/tree");
            let parsed: Options = serde_json::from_value(options.clone()).expect("valid");
            let mut ours = parsed.words(&tree, fixture.tree().join("disc.iso")).expect("words");
            ours.insert(0, PROGRAM.into());
            assert_eq!(ours, words, "{options}");
            fs::remove_file(fixture.tree().join("disc.iso")).expect("removed");
            fixture.run::<Xorrisofs>(options.clone()).expect("packed");
            assert_eq!(disc(&fixture.tree().join("disc.iso")), theirs, "{options}");
        }
    }

    #[test]
    fn what_cannot_be_is_said() {
        let fixture = fixture();
        let cases = [
            (with(&json!({"grub2mbr": "/none.img"})), "cannot find, in the build root, `/none.img`"),
            (with(&json!({"grub2mbr": GRUB_IMAGE, "efi": "none.img"})), "none.img`: No such file"),
            (with(&json!({"chrp_boot": true, "efi": "a"})), "invalid option `efi`: there is no UEFI"),
            (with(&json!({"filename": "no/disc.iso"})), "No such file"),
            (with(&json!({"boot": {"image": "none", "catalog": "c"}})), "`/usr/bin/xorrisofs` failed with"),
        ];
        for (options, expected) in cases {
            let error = fixture.run::<Xorrisofs>(options).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
