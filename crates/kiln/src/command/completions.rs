//! `kiln completions`: a script that completes the command line in a shell.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use clap_complete::Shell as Generator;

use super::man::Program;
use crate::error::CliResult;
use crate::present::print;

/// The arguments of `kiln completions`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kiln completions bash > /etc/bash_completion.d/kiln\n  kiln completions zsh > \"${fpath[1]}/_kiln\"\n  kiln completions fish > ~/.config/fish/completions/kiln.fish\n  kiln completions bash --name osbuild > /etc/bash_completion.d/osbuild"
)]
pub(crate) struct Arguments {
    /// The shell
    shell: Shell,
    /// The name that the program is called by
    #[arg(long, value_name = "NAME", default_value = "kiln")]
    name: Program,
}

/// The shells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shell {
    Bash,
    Fish,
    Zsh,
}

pub(crate) fn run(arguments: &Arguments) -> CliResult<ExitCode> {
    let generator = match arguments.shell {
        Shell::Bash => Generator::Bash,
        Shell::Fish => Generator::Fish,
        Shell::Zsh => Generator::Zsh,
    };
    let mut command = arguments.name.command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(generator, &mut command, name, &mut script);
    let script = String::from_utf8_lossy(&script);
    print(if arguments.shell == Shell::Bash { without_placeholders(&script) } else { script.into_owned() });
    Ok(ExitCode::SUCCESS)
}

/// Takes names of arguments out of what is offered: `<MANIFEST>` is nothing to type. Files are offered by bash itself.
fn without_placeholders(script: &str) -> String {
    let mut out = String::with_capacity(script.len());
    for line in script.lines() {
        match line.trim_start().strip_prefix("opts=\"").and_then(|rest| rest.strip_suffix('"')) {
            Some(words) => {
                let words: Vec<&str> =
                    words.split(' ').filter(|word| !word.starts_with(['<', '['])).collect();
                let indent = &line[..line.len() - line.trim_start().len()];
                out.push_str(&format!("{indent}opts=\"{}\"", words.join(" ")));
            }
            None => out.push_str(line),
        }
        out.push('\n');
    }
    out
}
