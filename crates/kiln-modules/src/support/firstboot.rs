//! Settings that `systemd-firstboot` writes into a tree: host name, locale, time zone.

use kiln_api::ModuleError;
use kiln_api::stage::StageContext;
use kiln_sys::command::Run;

use super::root::Root;

/// Lets the build root's `systemd-firstboot` write a setting, which it also checks.
///
/// It takes what is there for the administrator's choice and keeps it. In an image that is being built it is a
/// package's default, so the file goes first.
pub(crate) fn set(
    context: &mut StageContext,
    file: &str,
    setting: &str,
    value: &str,
) -> Result<(), ModuleError> {
    if Root::open(context.tree())?.remove(file)? {
        context.say(format_args!("{file} already exists. Replacing."));
    }
    let root = format!("--root={}", context.tree().display());
    Run::new("systemd-firstboot").arg(root).arg(format!("--{setting}={value}")).run()?;
    Ok(())
}
