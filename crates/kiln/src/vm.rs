//! The virtual machines that pipelines are built in: what is said of them by options and by the environment.

use std::path::PathBuf;

use clap::Args;
use kiln_sandbox::guest::{Accelerator, Hardware};

use crate::command::size::parse_bytes;
use crate::error::{CliError, CliResult, Kind};
use crate::settings;

/// A mebibyte.
const MEBIBYTE: u64 = 1 << 20;
/// With less than this, in mebibytes, no kernel comes up.
const LEAST: u64 = 256;

/// Variables of the environment, for callers that cannot give options.
pub(crate) const MEMORY: &str = "KILN_VM_MEMORY";
pub(crate) const PROCESSORS: &str = "KILN_VM_PROCESSORS";
pub(crate) const KERNEL: &str = "KILN_VM_KERNEL";
pub(crate) const ACCELERATOR: &str = "KILN_VM_ACCEL";

/// What virtual machines have.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Arguments {
    /// Directory with the kernel of virtual machines, as `boot/vmlinuz-…` and `lib/modules/…`; by default that of the build root, or one
    /// of this machine; also by the variable `KILN_VM_KERNEL`
    #[arg(long, value_name = "DIRECTORY")]
    vm_kernel: Option<PathBuf>,
    /// Memory of a virtual machine: bytes, or with a unit as `4GiB`; also by the variable `KILN_VM_MEMORY` [default: 3GiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    vm_memory: Option<u64>,
    /// Processors of a virtual machine; also by the variable `KILN_VM_PROCESSORS` [default: as many as here, at most 8]
    #[arg(long, value_name = "N", value_parser = parse_processors)]
    vm_processors: Option<usize>,
}

/// A machine, and where its kernel is looked for.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) hardware: Hardware,
    pub(crate) kernels: Option<PathBuf>,
}

impl Arguments {
    /// What options and environment say together; options go before.
    pub(crate) fn machine(&self) -> CliResult<Machine> {
        let mut hardware = Hardware::usual();
        if let Some(memory) =
            self.vm_memory.map_or_else(|| variable(MEMORY, parse_memory), |set| Ok(Some(set)))?
        {
            hardware.memory = memory;
        }
        let processors = || variable(PROCESSORS, parse_processors);
        if let Some(processors) = self.vm_processors.map_or_else(processors, |set| Ok(Some(set)))? {
            hardware.processors = processors;
        }
        if settings::variable(ACCELERATOR).as_deref() == Some("kvm") {
            hardware.accelerator = Accelerator::Kvm;
        }
        let kernels = self.vm_kernel.clone().or_else(|| settings::variable(KERNEL).map(PathBuf::from));
        Ok(Machine { hardware, kernels })
    }
}

fn variable<T>(name: &str, parse: fn(&str) -> Result<T, String>) -> CliResult<Option<T>> {
    let Some(text) = settings::variable(name) else { return Ok(None) };
    parse(&text).map(Some).map_err(|reason| {
        CliError::new(Kind::Usage, format!("invalid value `{text}` of the variable `{name}`")).hint(reason)
    })
}

/// Parses an amount of memory, in mebibytes.
fn parse_memory(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? / MEBIBYTE {
        memory if memory >= LEAST => Ok(memory),
        _ => Err(format!("a virtual machine needs at least {LEAST}MiB")),
    }
}

fn parse_processors(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|number| (1..=255).contains(number))
        .ok_or_else(|| "expected a number from 1 to 255".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_described_by_words() {
        for (text, expected) in [
            ("4GiB", Ok(4096)),
            ("536870912", Ok(512)),
            ("1MiB", Err("a virtual machine needs at least 256MiB".to_owned())),
        ] {
            assert_eq!(parse_memory(text), expected, "{text}");
        }
        assert!(parse_memory("much").is_err());
        for (text, expected) in
            [("1", Some(1)), ("255", Some(255)), ("0", None), ("256", None), ("-1", None), ("x", None)]
        {
            assert_eq!(parse_processors(text).ok(), expected, "{text}");
        }
    }
}
