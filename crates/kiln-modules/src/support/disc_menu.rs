//! GRUB's menu on a disc that starts an installer, and what it is about.

use std::fmt::Write;
use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;

use super::template::substitute;

/// What entries of the menu are for: themes have pictures for these.
const CLASSES: &str = "--class fedora --class gnu-linux --class gnu --class os";
/// How long the menu waits if nothing is said.
const TIMEOUT: u64 = 60;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Product {
    /// Its name.
    pub(crate) name: String,
    /// Its version.
    pub(crate) version: String,
}

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Kernel {
    /// The directory on the disc with `vmlinuz` and `initrd.img`.
    pub(crate) dir: String,
    /// The words of its command line.
    #[serde(default)]
    pub(crate) opts: Vec<String>,
}

/// An entry; `${product}`, `${version}`, `${isolabel}`, `${kernelpath}`, `${initrdpath}`, `${root}` (the words of the
/// command line) and `${timeout}` stand for what they name, in all of it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Custom {
    /// What the menu shows.
    name: String,
    /// The path of the kernel, and its command line.
    linux: String,
    /// The path of the first file system.
    initrd: String,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// How long the menu waits, in seconds; a minute if nothing is said.
    timeout: Option<u64>,
    /// The number of the entry that is started, from zero.
    default: Option<i64>,
}

/// The menu.
pub(crate) struct Menu<'a> {
    pub(crate) product: &'a Product,
    pub(crate) kernel: &'a Kernel,
    pub(crate) isolabel: &'a str,
    pub(crate) fips: bool,
    pub(crate) troubleshooting: bool,
    pub(crate) test: bool,
    pub(crate) install: bool,
    pub(crate) custom: &'a [Custom],
    pub(crate) config: &'a Config,
    pub(crate) firmware: Firmware,
}

/// What starts the machine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Firmware {
    /// BIOS, or Open Firmware.
    Legacy,
    Uefi,
}

impl Firmware {
    /// GRUB's modules for its screens.
    fn video(self) -> &'static [&'static str] {
        match self {
            Self::Legacy => &["all_video"],
            Self::Uefi => &["efi_gop", "efi_uga", "video_bochs", "video_cirrus", "all_video"],
        }
    }

    /// The modules for what the menu does.
    fn modules(self) -> &'static [&'static str] {
        match self {
            Self::Legacy => &["gzio", "part_gpt", "ext2", "chain"],
            Self::Uefi => &["gzio", "part_gpt", "ext2"],
        }
    }
}

impl Menu<'_> {
    /// The configuration.
    pub(crate) fn text(&self) -> String {
        let Self { product: Product { name, version }, kernel, isolabel, config, firmware, .. } = self;
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
        for Custom { name, linux, initrd } in self.custom {
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
            let drive = match firmware {
                Firmware::Legacy => {
                    format!("\n\tmenuentry 'Boot first drive' {CLASSES} {{\n\t\tchainloader (hd0)+1\n\t}}")
                }
                Firmware::Uefi => String::new(),
            };
            format!("\nsubmenu 'Troubleshooting -->' {{{basic}{rescue}{drive}\n}}")
        });
        let mut text = format!("{default}\nfunction load_video {{\n");
        // Writing to a text does not fail.
        for module in firmware.video() {
            let _ = writeln!(text, "  insmod {module}");
        }
        text.push_str("}\n\nload_video\nset gfxpayload=keep\n");
        for module in firmware.modules() {
            let _ = writeln!(text, "insmod {module}");
        }
        let _ = write!(
            text,
            "\nset timeout={timeout}\n### END /etc/grub.d/00_header ###\n\n\
             search --no-floppy --set=root -l '{isolabel}'\n\n{custom}\n{install}\n{test}\n{fips}\n{trouble}\n"
        );
        text
    }
}
