//! `org.osbuild.zip`
//!
//! `zip` would find the files itself, in the order of the directories, and not come to an end where links lead back to a
//! directory or, depending on its version, at a device. It is therefore told what to pack.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::stage::{Stage, StageContext};
use kiln_sys::command::Run;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::support::root::Root;

/// Packs the input `tree` into a zip archive.
///
/// The build root's `zip` packs it. Entries are sorted by name. Links are followed: what they lead to is packed by their
/// names. What is neither a file nor a directory is left out, and said, and so are links that lead nowhere or back to
/// a directory that they are in.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// The name of the archive; `zip` adds `.zip` to one without a dot.
    #[schemars(length(min = 1))]
    filename: String,
    /// Packs only what these patterns of `zip` match; `*` matches slashes too.
    #[serde(default)]
    include: Vec<String>,
    /// How hard to try: 0 does not compress, 9 is small.
    #[serde(default = "default_level")]
    #[schemars(range(min = 0, max = 9))]
    level: u32,
}

pub(crate) struct Zip;

impl Stage for Zip {
    const NAME: &'static str = "org.osbuild.zip";
    type Options = Options;

    fn schema() -> ModuleSchema {
        let inputs = json!({
            "type": "object",
            "additionalProperties": false,
            "required": ["tree"],
            "properties": {"tree": {"type": "object"}},
        });
        ModuleSchema { inputs: Some(inputs), ..ModuleSchema::of::<Options>() }
    }

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let input = context.arguments.inputs.get("tree");
        let input = input.ok_or_else(|| ModuleError::invalid("the stage has no input `tree`"))?.path.clone();
        let archive = Root::open(context.tree())?.resolve_parent(&options.filename)?;
        let mut found = Found::default();
        let status = input.metadata().map_err(ModuleError::io("examine", &input))?;
        found.list(&input, b".", &mut BTreeSet::from([(status.dev(), status.ino())]))?;
        for (name, reason) in &found.left_out {
            context.say(format_args!("leaving out `{}`: {reason}", name.display()));
        }
        let mut run = Run::new("zip").arg("-q").arg(format!("-{}", options.level)).arg(archive).arg("-@");
        run = run.args(&found.with_line_ends);
        if !options.include.is_empty() {
            run = run.arg("-i").args(&options.include);
        }
        Ok(run.current_dir(&input).input(found.lines).run()?)
    }
}

/// What is to be packed, and what is not.
#[derive(Default)]
struct Found {
    /// Names, a line each: each begins with `./`, so that none is taken for something else.
    lines: Vec<u8>,
    /// Names that no line can have.
    with_line_ends: Vec<OsString>,
    left_out: Vec<(OsString, &'static str)>,
}

impl Found {
    /// Adds everything below a directory, whose name `prefix` is. `above` has the directories that it is in, and itself.
    fn list(
        &mut self,
        directory: &Path,
        prefix: &[u8],
        above: &mut BTreeSet<(u64, u64)>,
    ) -> Result<(), ModuleError> {
        let failed = || ModuleError::io("read directory", directory);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(failed())? {
            names.push(entry.map_err(failed())?.file_name());
        }
        names.sort();
        for name in names {
            let path = directory.join(&name);
            let name = [prefix, b"/", name.as_bytes()].concat();
            let status = match path.metadata() {
                Ok(status) => status,
                // Nothing else makes what a directory lists unknown, but for what is wrong with the disk.
                Err(_) if path.is_symlink() => {
                    self.leave_out(name, "the link leads nowhere");
                    continue;
                }
                Err(error) => return Err(ModuleError::io("examine", &path)(error)),
            };
            if status.is_file() {
                self.add(name);
            } else if status.is_dir() {
                let identity = (status.dev(), status.ino());
                if above.insert(identity) {
                    self.add(name.clone());
                    self.list(&path, &name, above)?;
                    above.remove(&identity);
                } else {
                    self.leave_out(name, "the link leads to a directory that it is in");
                }
            } else {
                self.leave_out(name, "it is neither a file nor a directory");
            }
        }
        Ok(())
    }

    fn add(&mut self, name: Vec<u8>) {
        if name.contains(&b'\n') || name.contains(&b'\r') {
            self.with_line_ends.push(OsString::from_vec(name));
        } else {
            self.lines.extend(name);
            self.lines.push(b'\n');
        }
    }

    fn leave_out(&mut self, name: Vec<u8>, reason: &'static str) {
        let plain = name.strip_prefix(b"./").map(<[u8]>::to_vec).unwrap_or(name);
        self.left_out.push((OsString::from_vec(plain), reason));
    }
}

fn default_level() -> u32 {
    6
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;
    use std::process::Command;

    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_fixture::Fixture;

    #[test]
    fn schema_agrees() {
        Agreement::stage::<Zip>()
            .accepts([
                json!({"filename": "a.zip"}),
                json!({"filename": "a", "level": 0, "include": []}),
                json!({"filename": "/a", "level": 9, "include": ["etc/*", ""]}),
            ])
            .refuses([
                json!({}),
                json!({"filename": ""}),
                json!({"filename": "a", "level": 10}),
                json!({"filename": "a", "level": -1}),
                json!({"filename": "a", "include": "etc"}),
            ]);
        Agreement::stage::<Zip>().member("inputs").accepts([json!({"tree": {"type": "x"}})]).refuses([
            json!({}),
            json!({"file": {}}),
            json!({"tree": {}, "other": {}}),
        ]);
    }

    fn prepare() -> (Fixture, PathBuf) {
        let mut fixture = Fixture::new();
        let long = "a line that is compressed\n".repeat(1000);
        let input = fixture.input(
            "tree",
            &[
                ("readme.txt", "one"),
                ("etc/b", &long),
                ("etc/a", "three"),
                ("-x", "four"),
                (" \"quoted\" ", "five"),
                ("@", "six"),
                ("*[a]?", "seven"),
                ("line\nend", "eight"),
            ],
        );
        std::fs::create_dir(input.join("empty")).expect("a directory");
        symlink("readme.txt", input.join("link")).expect("a link");
        symlink("etc", input.join("directory")).expect("a link");
        (fixture, input)
    }

    /// Names, sizes and checksums in the archive, sorted unless the order matters.
    fn listed(fixture: &Fixture, name: &str) -> Vec<String> {
        let archive = fixture.tree().join(name);
        let output = Command::new("python3")
            .args(["-c", "import sys, zipfile\nfor i in zipfile.ZipFile(sys.argv[1]).infolist(): print(ascii(i.filename), i.file_size, i.CRC, oct(i.external_attr >> 16), i.compress_type)"])
            .arg(archive)
            .output()
            .expect("python3");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").lines().map(str::to_owned).collect()
    }

    #[test]
    fn archives_hold_what_the_reference_packs() {
        for options in [
            json!({"filename": "a.zip"}),
            json!({"filename": "/a.zip", "level": 0}),
            json!({"filename": "a.zip", "include": ["etc/*", "readme.txt"]}),
            json!({"filename": "a.zip", "include": ["*a*"], "level": 9}),
            json!({"filename": "a.zip", "include": ["nothing"]}),
            json!({"filename": "no/such/directory.zip"}),
        ] {
            let ((one, _), (other, _)) = (prepare(), prepare());
            let result = one.run::<Zip>(options.clone());
            let Some((succeeded, said)) = other.run_reference(Zip::NAME, options.clone()) else { continue };
            assert_eq!(result.is_ok(), succeeded, "{options}: {result:?}, the reference: {said}");
            if let Ok(said) = result {
                assert_eq!(said, "", "nothing is left out");
                let sorted = |fixture: &Fixture| {
                    let mut lines = listed(fixture, "a.zip");
                    lines.sort();
                    lines
                };
                assert_eq!(sorted(&one), sorted(&other), "{options}");
            }
        }
    }

    #[test]
    fn an_archive_without_a_suffix_gets_one_and_an_old_one_is_added_to() {
        let (fixture, input) = prepare();
        fixture.run::<Zip>(json!({"filename": "a", "include": ["readme.txt"]})).expect("packed");
        std::fs::remove_file(input.join("readme.txt")).expect("removed");
        fixture.run::<Zip>(json!({"filename": "a", "include": ["etc/a"]})).expect("packed");
        let names: Vec<_> = listed(&fixture, "a.zip")
            .iter()
            .filter_map(|line| line.split(' ').next().map(str::to_owned))
            .collect();
        assert_eq!(names, ["'readme.txt'", "'etc/a'"]);
    }

    #[test]
    fn entries_are_sorted() {
        let mut fixture = Fixture::new();
        let names: Vec<_> = (0..50).map(|number| format!("d{}/f{}", number % 7, number * 37 % 50)).collect();
        let files: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
        fixture.input("tree", &files);
        fixture.run::<Zip>(json!({"filename": "a.zip"})).expect("packed");
        let lines = listed(&fixture, "a.zip");
        assert_eq!(lines.len(), 57);
        assert!(lines.is_sorted(), "{lines:?}");
    }

    #[test]
    fn root_what_has_no_end_is_left_out_and_said() {
        let mut fixture = Fixture::new();
        let input = fixture.input("tree", &[("sub/file", "x")]);
        let mode = Mode::RUSR | Mode::WUSR;
        mknodat(CWD, input.join("zero"), FileType::CharacterDevice, mode, makedev(1, 5)).expect("root");
        mknodat(CWD, input.join("disk"), FileType::BlockDevice, mode, makedev(7, 200)).expect("root");
        mknodat(CWD, input.join("pipe"), FileType::Fifo, mode, 0).expect("a pipe");
        let socket = std::os::unix::net::UnixListener::bind(input.join("socket")).expect("a socket");
        drop(socket);
        symlink("../zero", input.join("sub/zero")).expect("a link");
        symlink("..", input.join("sub/up")).expect("a link");
        symlink("round", input.join("sub/round")).expect("a link");
        symlink("nowhere", input.join("sub/nowhere")).expect("a link");
        let said = fixture.run::<Zip>(json!({"filename": "a.zip"})).expect("packed");
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(
            lines,
            [
                "leaving out `disk`: it is neither a file nor a directory",
                "leaving out `pipe`: it is neither a file nor a directory",
                "leaving out `socket`: it is neither a file nor a directory",
                "leaving out `sub/nowhere`: the link leads nowhere",
                "leaving out `sub/round`: the link leads nowhere",
                "leaving out `sub/up`: the link leads to a directory that it is in",
                "leaving out `sub/zero`: it is neither a file nor a directory",
                "leaving out `zero`: it is neither a file nor a directory",
            ]
        );
        assert_eq!(listed(&fixture, "a.zip").len(), 2);
    }
}
