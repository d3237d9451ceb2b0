//! `kiln pe`: what PE images hold, as EFI programs and unified kernel images are, for people or as JSON; the content
//! of one section.

mod json;
mod text;

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use kiln_engine::manifest::{did_you_mean, list};
use kiln_modules::pe::{Image, PeError, Section, UKI_SECTIONS};

use crate::error::{CliError, CliResult, Kind, chain};
use crate::present::{print, say};

/// Longer texts of sections are not shown.
const LONGEST_TEXT: u64 = 64 * 1024;

/// The arguments of `kiln pe`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  kiln pe /usr/lib/systemd/boot/efi/linuxx64.efi.stub\n  kiln pe --section .cmdline /boot/efi/EFI/Linux/debian.efi\n  kiln pe --json /boot/efi/EFI/*/*.efi | jq -r '.[] | select(.uki) | .file'"
)]
pub(crate) struct Arguments {
    /// The images
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Print JSON: an array with an object for each image
    #[arg(long, conflicts_with = "section")]
    json: bool,
    /// Write the content of a section to standard output: by name, or by number where several have the name
    #[arg(long, value_name = "NAME")]
    section: Option<String>,
}

/// An image, where it is, and the texts that its sections hold.
struct Shown<'a> {
    path: &'a Path,
    image: Image,
    /// As many as there are sections.
    texts: Vec<Option<String>>,
}

pub(crate) fn run(arguments: &Arguments) -> CliResult<ExitCode> {
    if let Some(name) = &arguments.section {
        let [path] = &arguments.files[..] else {
            return Err(CliError::new(Kind::Usage, "`--section` takes one file"));
        };
        let (mut file, image) = open(path)?;
        write_section(path, &mut file, find(path, &image, name)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut failed = None;
    let mut described = Vec::new();
    for (index, path) in arguments.files.iter().enumerate() {
        // One file that is none does not hide the others.
        match read(path) {
            Ok(shown) if arguments.json => described.push(json::describe(&shown)),
            Ok(shown) => {
                let between = if index > 0 { "\n" } else { "" };
                print(format_args!("{between}{}", text::describe(&shown)));
            }
            Err(error) => {
                say(error.render());
                failed = failed.max(Some(error.kind as u8));
            }
        }
    }
    if arguments.json {
        print(format_args!("{}\n", serde_json::to_string_pretty(&described).unwrap_or_default()));
    }
    Ok(failed.map_or(ExitCode::SUCCESS, ExitCode::from))
}

fn open(path: &Path) -> CliResult<(File, Image)> {
    let cannot_read = |error: &dyn std::error::Error| {
        CliError::new(Kind::Usage, format!("cannot read `{}`: {}", path.display(), chain(error)))
    };
    let mut file = File::open(path).map_err(|error| cannot_read(&error))?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err(cannot_read(&std::io::Error::from(ErrorKind::IsADirectory)));
    }
    match Image::read(&mut file) {
        Ok(image) => Ok((file, image)),
        Err(error @ PeError::Read { .. }) => Err(cannot_read(&error)),
        Err(error) => Err(CliError::new(
            Kind::Build,
            format!("`{}` is not a PE image: {}", path.display(), chain(&error)),
        )),
    }
}

fn read(path: &Path) -> CliResult<Shown<'_>> {
    let (mut file, image) = open(path)?;
    let mut texts = Vec::with_capacity(image.sections.len());
    // All texts together have the limit: an image may have the same one in all its sections.
    let mut left = LONGEST_TEXT;
    for section in &image.sections {
        let known = UKI_SECTIONS.iter().find(|known| known.name == section.name);
        let mut text = None;
        if known.is_some_and(|known| known.text) {
            text =
                section.text(&mut file, left).map_err(|error| cannot_read_section(path, section, &error))?;
        }
        left -= text.as_ref().map_or(0, |text| text.len() as u64);
        texts.push(text);
    }
    Ok(Shown { path, image, texts })
}

/// The section of a name or number.
fn find<'a>(path: &Path, image: &'a Image, name: &'a str) -> CliResult<&'a Section> {
    let file = path.display();
    let named: Vec<&Section> = image.sections_named(name).collect();
    match named[..] {
        [section] => return Ok(section),
        [] => {}
        _ => {
            let numbers = image.sections.iter().zip(1..).filter(|(section, _)| section.name == name);
            let numbers: Vec<String> = numbers.map(|(_, number): (_, usize)| number.to_string()).collect();
            return Err(CliError::new(
                Kind::Usage,
                format!("{} sections of `{file}` are called `{name}`", named.len()),
            )
            .hint(format!("take one by its number: {}", numbers.join(", "))));
        }
    }
    let number = name.parse::<usize>().ok().and_then(|number| image.sections.get(number.checked_sub(1)?));
    number.ok_or_else(|| {
        let names = || image.sections.iter().map(|section| section.name.as_str());
        let hint =
            did_you_mean(name, names()).unwrap_or_else(|| format!("its sections are {}", list(names())));
        CliError::new(Kind::Build, format!("`{file}` has no section `{name}`")).hint(hint)
    })
}

fn write_section(path: &Path, file: &mut File, section: &Section) -> CliResult {
    let mut out = BufWriter::new(std::io::stdout());
    match section.copy(file, &mut out).and_then(|_| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(cannot_read_section(path, section, &error))
        }
        _ => Ok(()),
    }
}

fn cannot_read_section(path: &Path, section: &Section, error: &std::io::Error) -> CliError {
    let message = format!("cannot copy section `{}` of `{}`: {error}", section.name, path.display());
    CliError::new(Kind::Environment, message)
}
