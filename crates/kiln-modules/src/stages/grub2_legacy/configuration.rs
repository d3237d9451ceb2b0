//! What GRUB reads: its configuration with the entries of the menu, and the settings for tools that make new ones.

use std::fmt::Write;

use kiln_api::ModuleError;

use super::{Config, Entry, Options, Platform};
use crate::support::grub::{FileSystem, SELECTION, terminal};

/// What comes after the selection: the way back from an entry that was started once, and what entries note with.
const AFTER: &str = r#"
# After that one start, it is as before.
if [ "${prev_saved_entry}" ]; then
  set saved_entry="${prev_saved_entry}"
  save_env saved_entry
  set prev_saved_entry=
  save_env prev_saved_entry
  set boot_once=true
fi

function savedefault {
  if [ -z "${boot_once}" ]; then
    saved_entry="${chosen}"
    save_env saved_entry
  fi
}
"#;

impl Entry {
    /// What the menu shows.
    fn title(&self) -> String {
        let nick = self.product.nick.as_ref().filter(|nick| !nick.is_empty());
        let nick = nick.map(|nick| format!(" ({nick})")).unwrap_or_default();
        format!("{} ({}) {}{nick}", self.product.name, self.kernel, self.product.version)
    }

    /// What the environment names it by.
    fn name(&self) -> String {
        format!("gnulinux-{}-advanced-{}", self.kernel, self.id)
    }
}

/// The lines of GRUB's environment.
pub(super) fn variables(entries: &[Entry]) -> Result<String, ModuleError> {
    let default: Vec<_> = entries.iter().filter(|entry| entry.default).collect();
    match default.as_slice() {
        [] => Ok(String::new()),
        [entry] => Ok(format!("saved_entry={}\n", entry.name())),
        entries => {
            let reason = format!("at most one of them can be the default entry, not {}", entries.len());
            Err(ModuleError::option("entries", reason))
        }
    }
}

/// The content of `/etc/default/grub`.
pub(super) fn defaults(config: &Config) -> String {
    let mut text = format!(
        "GRUB_TIMEOUT={}\nGRUB_CMDLINE_LINUX=\"{}\"\nGRUB_DISABLE_SUBMENU={}\nGRUB_DISABLE_RECOVERY={}\n\
         GRUB_TIMEOUT_STYLE={}\nGRUB_DEFAULT={}\n",
        config.timeout,
        config.cmdline,
        config.disable_submenu.unwrap_or(true),
        config.disable_recovery.unwrap_or(true),
        config.timeout_style.map_or("countdown", super::super::grub2::TimeoutStyle::name),
        config.default.as_deref().unwrap_or("saved"),
    );
    let list = |words: Option<&Vec<String>>| words.map(|words| words.join(" "));
    let settings = [
        ("DISTRIBUTOR", config.distributor.clone()),
        ("SERIAL_COMMAND", config.serial.clone()),
        ("TERMINAL", list(config.terminal.as_ref())),
        ("TERMINAL_INPUT", list(config.terminal_input.as_ref())),
        ("TERMINAL_OUTPUT", list(config.terminal_output.as_ref())),
    ];
    for (name, value) in settings {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            // Writing to a text does not fail; here and below.
            let _ = writeln!(text, "GRUB_{name}=\"{value}\"");
        }
    }
    text
}

/// The configuration for machines with UEFI, or without.
pub(super) fn main(options: &Options, root: &FileSystem, boot: Option<&FileSystem>, is_uefi: bool) -> String {
    let config = &options.config;
    let mut text = format!("\n\nset timeout={}\n{SELECTION}{AFTER}", config.timeout);
    let list = |name: &str, words: Option<&Vec<String>>| words.and_then(|words| terminal(name, words));
    let serial = config.serial.as_ref().filter(|serial| !serial.is_empty());
    // What is not set is a variable that GRUB does not know.
    let unset = |name: &str| format!("${{{name}}}");
    text.push_str(&serial.map_or_else(|| unset("serial"), |serial| format!("\n{serial}")));
    for (name, words) in
        [("terminal_input", &config.terminal_input), ("terminal_output", &config.terminal_output)]
    {
        text.push_str(&list(name, words.as_ref()).unwrap_or_else(|| unset(name)));
    }
    text.push('\n');
    let platform = options.bios.as_ref().map(|bios| bios.platform);
    // Old kernels are to be started by what knows the firmware.
    let suffix = match (platform, is_uefi) {
        (Some(Platform::Pc), true) => "efi",
        (Some(Platform::Pc), false) => "16",
        _ => "",
    };
    let home = if boot.is_some() { "/" } else { "/boot/" };
    let search = boot.unwrap_or(root).search();
    for entry in &options.entries {
        let (title, name, kernel) = (entry.title(), entry.name(), &entry.kernel);
        let _ = write!(
            text,
            "\nmenuentry '{title}' --class red --class gnu-linux --class gnu --class os --unrestricted --id '{name}' {{\n\
             \tinsmod all_video\n\
             \tset gfxpayload=keep\n\
             \tsearch --no-floppy --set=root {search}\n\
             \tlinux{suffix} {home}vmlinuz-{kernel} root={} {}\n\
             \tinitrd{suffix} {home}initramfs-{kernel}.img\n}}\n",
            root.root(),
            config.cmdline,
        );
    }
    text.push('\n');
    text
}
