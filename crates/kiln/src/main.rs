//! Kiln: builds operating-system images from manifests and definitions.
//!
//! One executable with many names: see [`personality`].

mod command;
mod downloads;
mod error;
mod guest;
mod monitor;
mod personality;
mod present;
mod settings;
mod signals;
mod stage;
mod vm;

use std::process::ExitCode;

use personality::Personality;

fn main() -> ExitCode {
    match Personality::of(std::env::args_os()) {
        Personality::SandboxInit(arguments) => {
            u8::try_from(kiln_sandbox::init_main(&arguments)).map_or(ExitCode::FAILURE, ExitCode::from)
        }
        Personality::GuestBoot => guest::boot(),
        Personality::GuestTask => guest::task(),
        Personality::GuestModprobe(arguments) => guest::load(&arguments),
        Personality::GuestRun(arguments) => guest::run(&arguments),
        Personality::Runner { name, arguments } => stage::run_runner(&name, &arguments),
        Personality::Stage { name, assembler } => stage::run_stage(&name, assembler),
        Personality::Osbuild(arguments) => command::osbuild::main(arguments),
        Personality::Kiln(arguments) => command::main(arguments),
    }
}
