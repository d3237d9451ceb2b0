//! The virtual machines that pipelines are built in: what is said of them by options and by the environment.

use std::path::PathBuf;

use clap::{Args, Parser};
use kiln_engine::index::Index;
use kiln_engine::run::Guests;
use kiln_sandbox::guest::{Accelerator, Hardware};

use serde_json::{Value, json};

use crate::command::library::LibraryArguments;
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
pub(crate) struct VmArguments {
    /// Directory with `boot/vmlinuz-…` and `lib/modules/…` of virtual machines; that of the build root, or one of this machine, if left
    /// out; also by the variable `KILN_VM_KERNEL`
    #[arg(long, value_name = "DIRECTORY")]
    vm_kernel: Option<PathBuf>,
    /// Memory of a virtual machine: bytes, or with a unit as `4GiB`; also by the variable `KILN_VM_MEMORY` [default: 3GiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    vm_memory: Option<u64>,
    /// Processors of a virtual machine; also by the variable `KILN_VM_PROCESSORS` [default: as many as here, at most 8]
    #[arg(long, value_name = "N", value_parser = parse_processors)]
    vm_processors: Option<usize>,
}

/// What modules' programs in a machine see of the environment: where programs and packages are found.
const ENVIRONMENT: [&str; 2] = ["PATH", "PYTHONPATH"];

/// A machine, and where its kernel is looked for.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) hardware: Hardware,
    pub(crate) kernels: Option<PathBuf>,
}

impl VmArguments {
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

    /// The pipelines that are built in machines; none if none is.
    pub(crate) fn guests(
        &self,
        pipelines: &[String],
        library: &LibraryArguments,
    ) -> CliResult<Option<Guests>> {
        if pipelines.is_empty() {
            return Ok(None);
        }
        let Machine { hardware, kernels } = self.machine()?;
        let mut environment = settings::source_environment();
        environment.retain(|name, _| ENVIRONMENT.contains(&name.as_str()));
        let words: Vec<_> =
            library.words()?.into_iter().map(|word| word.to_string_lossy().into_owned()).collect();
        Ok(Some(Guests { pipelines: pipelines.to_vec(), hardware, kernels, environment, told: json!(words) }))
    }
}

/// The error where a shell is wanted in a machine, which has no terminal.
pub(crate) fn no_shells() -> CliError {
    CliError::new(Kind::Usage, "there are no shells in virtual machines")
        .hint("leave out either `--in-vm` or `--break` and `--break-on-failure`")
}

/// What is told in a machine.
#[derive(Debug, Parser)]
struct Told {
    #[command(flatten)]
    library: LibraryArguments,
}

/// The modules there are in a machine: the same as on the host, which has told where they are.
pub(crate) fn index(told: &Value) -> Result<Index, String> {
    let words: Vec<String> = serde_json::from_value(told.clone()).map_err(|error| error.to_string())?;
    let told = Told::try_parse_from(std::iter::once("kiln".to_owned()).chain(words))
        .map_err(|error| error.to_string())?;
    told.library.index().map_err(|error| error.message)
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
