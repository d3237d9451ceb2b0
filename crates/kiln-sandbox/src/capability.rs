//! Capabilities by name, and dropping them.
//!
//! As under bubblewrap, a process of the build root has exactly the capabilities it is given, and can gain
//! none by executing a set-user-id program or one with file capabilities. Beyond that the bounding set is
//! reduced too, so that no later `exec` as root brings any back, and nothing is inheritable or ambient: the
//! first process is root, which does not need them. A capability that the caller itself lacks is left out
//! (a container host may withhold some).

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::SandboxError;

/// What every stage keeps; a module's metadata may ask for more.
pub(crate) const DEFAULT: &[&str] = &[
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_IPC_LOCK",
    "CAP_LINUX_IMMUTABLE",
    "CAP_MAC_OVERRIDE",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_ADMIN",
    "CAP_SYS_CHROOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
];

/// Reads capability names, as `CAP_CHOWN`.
pub(crate) fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<CapabilitySet, SandboxError> {
    names.into_iter().try_fold(CapabilitySet::empty(), |set, name| {
        name.strip_prefix("CAP_")
            .and_then(CapabilitySet::from_name)
            .map(|capability| set | capability)
            .ok_or_else(|| SandboxError::UnknownCapability { name: name.to_owned() })
    })
}

/// Drops everything but the given capabilities, for this process and all that it starts.
pub(crate) fn keep_only(wanted: CapabilitySet) -> Result<(), Errno> {
    let permitted = rustix::thread::capabilities(None)?.permitted;
    let kept = wanted & permitted;
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if kept.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The first number that the kernel does not know: there are no more.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    rustix::thread::clear_ambient_capability_set()?;
    set(kept)?;
    rustix::thread::set_no_new_privs(true)
}

/// Drops all capabilities of this process; what it started keeps its own.
pub(crate) fn drop_all() -> Result<(), Errno> {
    set(CapabilitySet::empty())
}

fn set(capabilities: CapabilitySet) -> Result<(), Errno> {
    let inheritable = CapabilitySet::empty();
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: capabilities, permitted: capabilities, inheritable },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_names_are_known_sorted_and_distinct() {
        let set = parse(DEFAULT.iter().copied()).expect("all known");
        assert_eq!(set.bits().count_ones() as usize, DEFAULT.len());
        assert!(DEFAULT.is_sorted());
    }

    #[test]
    fn unknown_names_are_refused() {
        for name in ["CAP_NONE", "CHOWN", "cap_chown", "CAP_", ""] {
            let error = parse([name]).expect_err(name);
            assert_eq!(error.to_string(), format!("unknown capability `{name}`"));
        }
    }
}
