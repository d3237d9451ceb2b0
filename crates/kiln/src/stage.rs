//! Native stages and runners as processes inside a build root.
//!
//! A stage's standard output and error are its output. When it fails it says so there, and reports the same
//! over the exception socket, so that the result has it as data.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use kiln_api::ModuleError;
use kiln_api::stage::{ARGUMENTS_PATH, EXCEPTION_PATH, METADATA_PATH, StageArguments, StageContext};
use kiln_modules::MODULES;
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, send, socket_with,
};
use serde_json::json;

/// Runs the stage or assembler of that name with the arguments of the build root.
pub(crate) fn run_stage(name: &str, assembler: bool) -> ExitCode {
    finish(name, stage(name, assembler))
}

fn finish(name: &str, result: Result<(), ModuleError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If nobody reads the output any more there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "{name}: {error}");
            report(&error);
            ExitCode::FAILURE
        }
    }
}

fn stage(name: &str, assembler: bool) -> Result<(), ModuleError> {
    let (kind, module) = match assembler {
        true => ("assembler", MODULES.assembler(name)),
        false => ("stage", MODULES.stage(name)),
    };
    let module = module.ok_or_else(|| ModuleError::invalid(format!("unknown {kind} `{name}`")))?;
    let text = std::fs::read(ARGUMENTS_PATH).map_err(ModuleError::io("read", ARGUMENTS_PATH))?;
    let arguments: StageArguments = serde_json::from_slice(&text)
        .map_err(|error| ModuleError::invalid(format!("`{ARGUMENTS_PATH}` is not as it must be: {error}")))?;
    let output = Box::new(std::io::stdout());
    (module.run)(&mut StageContext::new(arguments, METADATA_PATH.into(), output))
}

/// Best effort: the text is in the output already, and a build root without the socket is no reason to fail
/// differently.
fn report(error: &ModuleError) {
    let message = json!({
        "method": "exception",
        "exception": {"type": kind(error), "value": error.to_string(), "traceback": ""},
    });
    let sent = || -> rustix::io::Result<()> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        connect(&socket, &SocketAddrUnix::new(EXCEPTION_PATH)?)?;
        send(&socket, message.to_string().as_bytes(), SendFlags::NOSIGNAL)?;
        Ok(())
    };
    let _ = sent();
}

fn kind(error: &ModuleError) -> &'static str {
    match error {
        ModuleError::Io { .. } => "OSError",
        ModuleError::Option { .. } => "ValueError",
        ModuleError::Command { .. } => "CalledProcessError",
        ModuleError::Interrupted => "KeyboardInterrupt",
        _ => "RuntimeError",
    }
}

/// Prepares the build root; then becomes the module, unless preparing is all that was asked for.
pub(crate) fn run_runner(name: &str, arguments: &[OsString]) -> ExitCode {
    let result = match MODULES.runner(name) {
        Some(runner) => kiln_modules::runners::run(runner, arguments),
        None => Err(ModuleError::invalid(format!("unknown runner `{name}`"))),
    };
    finish(name, result)
}
