//! What GRUB reads: its configuration, the one that leads to it, and the settings for tools that make new ones.

use std::fmt::Write;

use kiln_api::ModuleError;

use super::Options;
use crate::support::grub::{FileSystem, SELECTION, terminal};

/// What it ends with, but for what entries are made of.
const VIDEO: &str = "set boot=${root}
function load_video {
  insmod all_video
}
";

/// Counts starts down that were not told to have succeeded, and goes back to the entry before when there are no more.
/// `greenboot` sets the variables.
const GREENBOOT: &str = r#"
# Starts are counted.
insmod increment
if [ -n "${boot_counter}" -a "${boot_success}" = "0" ]; then
  # The second entry is the system before the update.
  if  [ "${boot_counter}" = "0" -o "${boot_counter}" = "-1" ]; then
    set default=1
    set boot_counter=-1
  else
    decrement boot_counter
  fi
  save_env boot_counter
fi

# Until the system says otherwise, this start fails.
set boot_success=0
save_env boot_success
"#;

/// Names of the places in the configuration whose values may be missing.
const PLACES: [&str; 3] = ["serial", "terminal_input", "terminal_output"];

/// The lines of GRUB's environment.
pub(super) fn variables(options: &Options, root: &FileSystem) -> String {
    let mut text = String::new();
    // Writing to a text does not fail; here and below.
    if options.write_cmdline {
        let _ = writeln!(text, "kernelopts=root={} {}", root.root(), options.kernel_opts);
    }
    if let Some(entry) = filled(options.saved_entry.as_ref()) {
        let _ = writeln!(text, "saved_entry={entry}");
    }
    text
}

/// The content of `/etc/default/grub`.
pub(super) fn defaults(options: &Options) -> String {
    let config = &options.config;
    let mut text = format!(
        "GRUB_CMDLINE_LINUX=\"{}\"\nGRUB_TIMEOUT={}\nGRUB_ENABLE_BLSCFG=true\n",
        options.kernel_opts, config.timeout
    );
    let quoted = |value: Option<&String>| filled(value).map(|value| format!("\"{value}\""));
    let list = |value: Option<&Vec<String>>| {
        value.filter(|words| !words.is_empty()).map(|words| format!("\"{}\"", words.join(" ")))
    };
    let settings = [
        ("DISABLE_RECOVERY", config.disable_recovery.map(|value| value.to_string())),
        ("DISABLE_SUBMENU", config.disable_submenu.map(|value| value.to_string())),
        ("DISTRIBUTOR", quoted(config.distributor.as_ref())),
        ("SERIAL_COMMAND", quoted(config.serial.as_ref())),
        ("TERMINAL", list(config.terminal.as_ref())),
        ("TERMINAL_INPUT", list(config.terminal_input.as_ref())),
        ("TERMINAL_OUTPUT", list(config.terminal_output.as_ref())),
        ("TIMEOUT_STYLE", config.timeout_style.map(|style| style.name().to_owned())),
        ("DEFAULT", config.default.clone()),
    ];
    for (name, value) in settings {
        if let Some(value) = value {
            let _ = writeln!(text, "GRUB_{name}={value}");
        }
    }
    text
}

/// The configuration that entries of the boot menu are started with.
pub(super) fn main(
    options: &Options,
    file_system: &FileSystem,
    has_boot: bool,
) -> Result<String, ModuleError> {
    let config = &options.config;
    let mut text = format!("\nset timeout={}\n{SELECTION}\n", config.timeout);
    let _ = write!(text, "search --no-floppy --set=root {}\n{VIDEO}", file_system.search());
    let ignition = options.ignition.then(|| ignition(home(has_boot)));
    let greenboot = options.greenboot.then(|| GREENBOOT.to_owned());
    text.push_str(&[ignition, greenboot].into_iter().flatten().collect::<Vec<_>>().join("\n"));
    let version = options.compat_version.as_ref().map_or(Ok(1), |version| version.whole("compat_version"))?;
    let list = |name: &str, words: Option<&Vec<String>>| words.and_then(|words| terminal(name, words));
    let values = [
        filled(config.serial.as_ref()).map(|serial| format!("\n{serial}")),
        list(PLACES[1], config.terminal_input.as_ref()),
        list(PLACES[2], config.terminal_output.as_ref()),
    ];
    for (place, value) in PLACES.into_iter().zip(values) {
        // The first version leaves a variable there, which GRUB does not know.
        text.push_str(
            &value.unwrap_or_else(|| if version < 2 { format!("${{{place}}}") } else { String::new() }),
        );
    }
    text.push_str("\nblscfg\n");
    Ok(text)
}

/// The configuration on the EFI system partition that leads to the one in `/boot/grub2`.
pub(super) fn redirection(has_boot: bool) -> String {
    let home = home(has_boot);
    format!(
        "\nsearch --no-floppy --set prefix --file {home}grub2/grub.cfg\nset prefix=($prefix){home}grub2\n\
         configfile $prefix/grub.cfg\n"
    )
}

/// Ignition puts its file there, which may tell how the network is set up for the first start.
fn ignition(home: &str) -> String {
    format!(
        r#"
# At the first start, Ignition sets the system up.
set ignition_firstboot=""
if [ -f "{home}ignition.firstboot" ]; then
    # The file may have another value.
    set ignition_network_kcmdline=''

    source "{home}ignition.firstboot"

    set ignition_firstboot="ignition.firstboot ${{ignition_network_kcmdline}}"
fi
"#
    )
}

/// What `/boot` is on the file system that it is on.
const fn home(has_boot: bool) -> &'static str {
    if has_boot { "/" } else { "/boot/" }
}

fn filled(text: Option<&String>) -> Option<&String> {
    text.filter(|text| !text.is_empty())
}
