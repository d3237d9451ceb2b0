//! `/etc/os-release` of systems whose packages make it when they are installed, so that a build tree's `/usr` lacks it.

use std::fs;
use std::path::Path;

use kiln_api::ModuleError;

use super::tools::remove;

/// What Red Hat Enterprise Linux 8.1 says of itself.
const RHEL81: &[(&str, &str)] = &[
    ("NAME", "Red Hat Enterprise Linux"),
    ("VERSION", "8.1 (Ootpa)"),
    ("ID", "rhel"),
    ("ID_LIKE", "fedora"),
    ("VERSION_ID", "8.1"),
    ("PLATFORM_ID", "platform:el8"),
    ("PRETTY_NAME", "Red Hat Enterprise Linux 8.1 (Ootpa)"),
    ("ANSI_COLOR", "0;31"),
    ("CPE_NAME", "cpe:/o:redhat:enterprise_linux:8.1:GA"),
    ("HOME_URL", "https://www.redhat.com/"),
    ("BUG_REPORT_URL", "https://bugzilla.redhat.com/"),
];

/// Writes the one of Red Hat Enterprise Linux 8.1.
pub(super) fn rhel81(root: &Path) -> Result<(), ModuleError> {
    let path = root.join("etc/os-release");
    // Most likely a link of `systemd-tmpfiles` to a file that is not there.
    remove(&path)?;
    let text: String = RHEL81.iter().map(|(name, value)| format!("{name}=\"{value}\"\n")).collect();
    fs::write(&path, text).map_err(ModuleError::io("write", &path))
}
