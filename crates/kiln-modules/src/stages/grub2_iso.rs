//! `org.osbuild.grub2.iso`
//!
//! ```text
//! /EFI/BOOT/BOOTARCH.EFI    shim, which firmware starts
//! /EFI/BOOT/mmARCH.efi      where shim asks for keys
//! /EFI/BOOT/grubARCH.efi    GRUB, made for discs
//! /EFI/BOOT/grub.cfg        the menu
//! /EFI/BOOT/fonts           the font of the menu
//! ```

use std::fmt::Write;
use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::support::grub;
use crate::support::root::Root;
use crate::support::template::substitute;

/// Where everything goes.
const TARGET: &str = "EFI/BOOT";
/// What entries of the menu are for: themes have pictures for these.
const CLASSES: &str = "--class fedora --class gnu-linux --class gnu --class os";
/// How long the menu waits if nothing is said.
const TIMEOUT: u64 = 60;

/// Puts GRUB and its menu on a disc that starts an installer on machines with UEFI.
///
/// The programs are taken from `/boot/efi/EFI/VENDOR` of the build root, the font from `/usr/share/grub`. The tree is that
/// of the disc, or of an EFI system partition for it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// What the disc installs.
    product: Product,
    /// The kernel of the installer.
    kernel: Kernel,
    /// The label of the disc.
    isolabel: String,
    /// The architectures as names of programs have them, as `X64`; needed.
    architectures: Option<Vec<String>>,
    /// The vendor of the programs, after whom their directory is named; needed.
    vendor: Option<String>,
    /// Whether there is an entry to install in FIPS mode.
    #[serde(default)]
    fips: bool,
    /// Whether there is a menu with entries for trouble.
    #[serde(default = "yes")]
    troubleshooting: bool,
    /// Whether there is an entry to check the disc first.
    #[serde(default = "yes")]
    test: bool,
    /// Whether there is an entry to install at once.
    #[serde(default = "yes")]
    install: bool,
    /// More entries, which are before the others.
    #[serde(default)]
    custom: Vec<Custom>,
    /// Settings of GRUB itself.
    #[serde(default)]
    config: Config,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Product {
    /// Its name.
    pub(super) name: String,
    /// Its version.
    pub(super) version: String,
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct Kernel {
    /// The directory on the disc with `vmlinuz` and `initrd.img`.
    pub(super) dir: String,
    /// The words of its command line.
    #[serde(default)]
    pub(super) opts: Vec<String>,
}

/// An entry; `${product}`, `${version}`, `${isolabel}`, `${kernelpath}`, `${initrdpath}`, `${root}` (the words of the
/// command line) and `${timeout}` stand for what they name, in all of it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Custom {
    /// What the menu shows.
    name: String,
    /// The path of the kernel, and its command line.
    linux: String,
    /// The path of the first file system.
    initrd: String,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// How long the menu waits, in seconds; a minute if nothing is said.
    timeout: Option<u64>,
    /// The number of the entry that is started, from zero.
    default: Option<i64>,
}

const fn yes() -> bool {
    true
}

pub(crate) struct Grub2Iso;

impl Stage for Grub2Iso {
    const NAME: &'static str = "org.osbuild.grub2.iso";
    type Options = Options;

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let missing = |name| move || ModuleError::option(name, "is missing");
        let architectures = options.architectures.as_deref().ok_or_else(missing("architectures"))?;
        let vendor = options.vendor.as_deref().ok_or_else(missing("vendor"))?;
        let tree = Root::open(context.tree())?;
        tree.make_directories("EFI")?;
        // Two boot loaders for a disc are one too many.
        tree.make_directory(TARGET, 0o777)?;
        let (source, target) = (Path::new(grub::EFI_PROGRAMS).join(vendor), Path::new(TARGET));
        for architecture in architectures {
            let architecture = architecture.to_lowercase();
            for (from, to) in [
                (format!("shim{architecture}.efi"), format!("BOOT{architecture}.EFI").to_uppercase()),
                (format!("mm{architecture}.efi"), format!("mm{architecture}.efi")),
                (format!("gcd{architecture}.efi"), format!("grub{architecture}.efi")),
            ] {
                grub::copy(&source.join(from), &tree, &target.join(to))?;
            }
        }
        grub::copy_font(&tree, &target.join("fonts"))?;
        context.say(format_args!("kernel dir at {}", options.kernel.dir));
        let menu = options.menu();
        grub::write(&tree, target.join("grub.cfg"), &menu)?;
        if architectures.iter().any(|architecture| architecture == "IA32") {
            // The firmware of some machines looks for it by this name.
            grub::write(&tree, target.join("BOOT.cfg"), &menu)?;
        }
        Ok(())
    }
}

impl Options {
    fn menu(&self) -> String {
        let Self { product: Product { name, version }, kernel, isolabel, config, .. } = self;
        let path = |file: &str| Path::new(&kernel.dir).join(file).display().to_string();
        let (linux, initrd, words) = (path("vmlinuz"), path("initrd.img"), kernel.opts.join(" "));
        let timeout = config.timeout.unwrap_or(TIMEOUT).to_string();
        let entry = |indent: &str, title: &str, words: &str| {
            format!(
                "\n{indent}menuentry '{title}' {CLASSES} {{\n{indent}\tlinux {linux} {words}\n{indent}\tinitrd {initrd}\n\
                 {indent}}}"
            )
        };
        let default = config.default.map(|number| format!("set default=\"{number}\"\n")).unwrap_or_default();
        let values = [
            ("product", name.as_str()),
            ("version", version),
            ("isolabel", isolabel),
            ("kernelpath", &linux),
            ("initrdpath", &initrd),
            ("root", &words),
            ("timeout", &timeout),
            ("defaultentry", &default),
        ];
        let mut custom = String::new();
        for Custom { name, linux, initrd } in &self.custom {
            let entry = format!("\nmenuentry '{name}' {CLASSES} {{\n\tlinux {linux}\n\tinitrd {initrd}\n}}");
            custom.push_str(&substitute(&entry, &values));
        }
        let when =
            |is_wanted: bool, text: &dyn Fn() -> String| if is_wanted { text() } else { String::new() };
        let install = when(self.install, &|| {
            entry("", &format!("Install {name} {version}"), &format!("{words} quiet"))
        });
        let test = when(self.test, &|| {
            let title = format!("Test this media & install {name} {version}");
            entry("", &title, &format!("{words} rd.live.check quiet"))
        });
        let fips = when(self.fips, &|| {
            let title = format!("Install {name} {version} in FIPS mode");
            entry("", &title, &format!("{words} quiet fips=1")) + "\n"
        });
        let trouble = when(self.troubleshooting, &|| {
            let basic = format!("Install {name} {version} in basic graphics mode");
            let basic = entry("\t", &basic, &format!("{words} nomodeset quiet"));
            let rescue =
                entry("\t", &format!("Rescue a {name} system"), &format!("{words} inst.rescue quiet"));
            format!("\nsubmenu 'Troubleshooting -->' {{{basic}{rescue}\n}}")
        });
        let mut text = format!("{default}\nfunction load_video {{\n");
        for module in ["efi_gop", "efi_uga", "video_bochs", "video_cirrus", "all_video"] {
            // Writing to a text does not fail.
            let _ = writeln!(text, "  insmod {module}");
        }
        text.push_str("}\n\nload_video\nset gfxpayload=keep\ninsmod gzio\ninsmod part_gpt\ninsmod ext2\n\n");
        let _ = write!(
            text,
            "set timeout={timeout}\n### END /etc/grub.d/00_header ###\n\n\
             search --no-floppy --set=root -l '{isolabel}'\n\n{custom}\n{install}\n{test}\n{fips}\n{trouble}\n"
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
    use serde_json::{Value, json};

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::{Fixture, side_by_side};
    use crate::stage_test::output;

    fn everything() -> Value {
        json!({
            "product": {"name": "Kiln OS", "version": "9"}, "isolabel": "KILN-9", "vendor": "kiln",
            "kernel": {"dir": "/images/pxeboot/", "opts": ["inst.stage2=hd:LABEL=KILN-9", "ro"], "more": 1},
            "architectures": ["X64", "IA32"], "fips": true, "troubleshooting": true, "test": true, "install": true,
            "custom": [
                {"name": "Start $product", "linux": "${kernelpath} ${root} $$x $unknown", "initrd": "${initrdpath}"},
                {"name": "Other", "linux": "/a", "initrd": "/b"},
            ],
            "config": {"timeout": 5, "default": 1},
        })
    }

    fn with(name: &str, value: &Value) -> Value {
        let mut options = json!({
            "product": {"name": "Kiln OS", "version": "9"}, "isolabel": "KILN-9", "vendor": "kiln",
            "architectures": ["X64"], "kernel": {"dir": "/images", "opts": []},
        });
        options[name] = value.clone();
        options
    }

    #[test]
    fn schema_agrees() {
        Agreement::stage::<Grub2Iso>()
            .accepts([
                json!({"product": {"name": "a", "version": "1"}, "kernel": {"dir": "/"}, "isolabel": "x"}),
                everything(),
            ])
            .refuses([
                json!({}),
                with("kernel", &json!({})),
                with("product", &json!({"name": "a"})),
                with("custom", &json!([{"name": "a"}])),
                with("config", &json!({"timeout": -1})),
                with("config", &json!({"default": "a"})),
                with("efi", &json!(true)),
            ]);
    }

    /// Puts programs where packages have them, as nobody else sees.
    fn programs() {
        kiln_sys::chroot::private_mounts().expect("root");
        mount("none", "/boot", "tmpfs", MountFlags::empty(), None).expect("root");
        let directory = Path::new(grub::EFI_PROGRAMS).join("kiln");
        fs::create_dir_all(&directory).expect("made");
        for name in ["shimx64", "mmx64", "gcdx64", "shimia32", "mmia32", "gcdia32"] {
            fs::write(directory.join(format!("{name}.efi")), name).expect("written");
        }
    }

    #[test]
    fn root_trees_are_the_references() {
        programs();
        let none = ["fips", "troubleshooting", "test", "install"];
        let mut small = with("config", &json!({}));
        none.iter().for_each(|name| small[*name] = json!(false));
        for options in
            [everything(), small, with("fips", &json!(true)), with("config", &json!({"default": 0}))]
        {
            side_by_side::<Grub2Iso>(|_| {}, &options);
        }
        unmount("/boot", UnmountFlags::DETACH).expect("unmounted");
    }

    #[test]
    fn root_the_disc_has_its_programs() {
        programs();
        let fixture = Fixture::new();
        let done = fixture.run::<Grub2Iso>(everything());
        let again = fixture.run::<Grub2Iso>(everything());
        let none = Fixture::new().run::<Grub2Iso>(with("architectures", &json!(["AA64"])));
        unmount("/boot", UnmountFlags::DETACH).expect("unmounted");
        done.expect("made");
        let read = |name: &str| fs::read_to_string(fixture.tree().join(TARGET).join(name)).expect(name);
        let expected = [
            ("BOOTX64.EFI", "shimx64"),
            ("mmx64.efi", "mmx64"),
            ("grubx64.efi", "gcdx64"),
            ("BOOTIA32.EFI", "shimia32"),
            ("grubia32.efi", "gcdia32"),
        ];
        for (name, text) in expected {
            assert_eq!(read(name), text);
        }
        assert_eq!(read("BOOT.cfg"), read("grub.cfg"));
        output("grub-script-check", &[], &fixture.tree().join(TARGET).join("grub.cfg"));
        assert!(read("grub.cfg").contains("menuentry 'Start Kiln OS'"));
        assert!(again.expect_err("it is there").to_string().contains("EFI/BOOT`: File exists"));
        assert!(
            none.expect_err("no programs")
                .to_string()
                .contains("/boot/efi/EFI/kiln/shimaa64.efi`: No such file")
        );
    }

    #[test]
    fn without_words_there_are_none() {
        // The reference ends with an error of its own.
        let options: Options =
            serde_json::from_value(with("kernel", &json!({"dir": "/images"}))).expect("valid");
        assert!(options.menu().contains("\tlinux /images/vmlinuz  quiet\n"));
        for name in ["vendor", "architectures"] {
            let mut options = with("isolabel", &json!("x"));
            options.as_object_mut().expect("an object").shift_remove(name);
            let error = Fixture::new().run::<Grub2Iso>(options).expect_err(name).to_string();
            assert_eq!(error, format!("invalid option `{name}`: is missing"));
        }
    }
}
