//! The menu, in the language of `vesamenu.c32`.

use std::fmt::Write;

use crate::support::disc_menu::Product;

/// How the menu looks.
const LOOK: &str = "default vesamenu.c32
timeout 600
display boot.msg
menu clear
menu background splash.png
";

/// Where its parts are on the screen.
const PLACES: &str = "menu vshift 8
menu rows 18
menu margin 8
menu helpmsgrow 15
menu tabmsgrow 13
";

/// The colours of its parts: on a text screen, of the letters, and of what is behind them, as `#AARRGGBB`.
const COLOURS: [(&str, &str, &str, &str); 13] = [
    ("border", "*", CLEAR, CLEAR),
    ("sel", "0", WHITE, CLEAR),
    ("title", "0", "#ff7ba3d0", CLEAR),
    ("tabmsg", "0", "#ff3a6496", CLEAR),
    ("unsel", "0", PALE, CLEAR),
    ("hotsel", "0", PALE, CLEAR),
    ("hotkey", "0", WHITE, CLEAR),
    ("help", "0", WHITE, CLEAR),
    ("scrollbar", "0", WHITE, "#ff355594"),
    ("timeout", "0", WHITE, CLEAR),
    ("timeout_msg", "0", WHITE, CLEAR),
    ("cmdmark", "0", PALE, CLEAR),
    ("cmdline", "0", WHITE, CLEAR),
];
const CLEAR: &str = "#00000000";
const WHITE: &str = "#ffffffff";
const PALE: &str = "#84b8ffff";

/// An empty line of the menu.
const GAP: &str = "menu separator\n";

/// The whole menu; `words` are those of the kernel's command line.
pub(super) fn text(product: &Product, words: &str, fips: bool) -> String {
    let Product { name, version } = product;
    let mut text = format!("{LOOK}menu title {name} {version}\n{PLACES}");
    for (part, attribute, letters, behind) in COLOURS {
        // Writing to a text does not fail; here and below.
        let _ = writeln!(text, "menu color {part} {attribute} {letters} {behind} none");
    }
    text.push_str("menu tabmsg Press Tab for full configuration options on menu items.\n");
    text.push_str(&GAP.repeat(2));
    let start = |more: &str| format!("  kernel vmlinuz\n  append initrd=initrd.img {words} {more}\n");
    let _ = write!(text, "label linux\n  menu label ^Install {name} {version}\n{}", start("quiet"));
    let _ = write!(
        text,
        "label check\n  menu label Test this ^media & install {name} {version}\n  menu default\n{}",
        start("rd.live.check quiet")
    );
    if fips {
        let _ = write!(
            text,
            "label fips\n  menu label ^Install {name} {version} in FIPS mode\n{}",
            start("quiet fips=1")
        );
    }
    let _ = write!(text, "{GAP}menu begin ^Troubleshooting\n  menu title Troubleshooting {name} {version}\n");
    let product = format!("{name} {version}.");
    let rescue = format!("^Rescue a {name} system");
    let helped: [(&str, &str, &[&str], String); 3] = [
        (
            "basic",
            "Install using ^basic graphics mode",
            &["Try this option out if you're having trouble installing", &product],
            start("nomodeset quiet"),
        ),
        (
            "rescue",
            &rescue,
            &[
                "If the system will not boot, this lets you access files",
                "and edit config files to try to get it booting again.",
            ],
            start("inst.rescue quiet"),
        ),
        (
            "memtest",
            "Run a ^memory test",
            &[
                "If your system is having issues, a problem with your",
                "system's memory may be the cause. Use this utility to",
                "see if the memory is working correctly.",
            ],
            "  kernel memtest\n".to_owned(),
        ),
    ];
    for (label, title, help, does) in helped {
        let indent = if label == "memtest" { "" } else { "  menu indent count 5\n" };
        let _ = writeln!(text, "label {label}\n{indent}  menu label {title}\n  text help");
        help.iter().for_each(|line| {
            let _ = writeln!(text, "\t{line}");
        });
        let _ = write!(text, "  endtext\n{does}");
    }
    let _ = write!(text, "{GAP}label local\n  menu label Boot from ^local drive\n  localboot 0xffff\n");
    let _ = write!(text, "{GAP}{GAP}label returntomain\n  menu label Return to ^main menu\n  menu exit\n");
    text
}
