//! The reference's own tests, with another program as the `osbuild` they start, and those of single stages with native
//! ones.
//!
//! They run as they are, in a copy of a whole checkout, in namespaces of their own: nothing is mounted on the host, and
//! there is no network but the loopback. A plugin of pytest (`reference_tests/started.py`) decides which program starts,
//! and reports each test as a line of JSON; another one (`reference_tests/native.py`) gives tests of stages the native
//! stages.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kiln_sys::command::{CommandError, Run};
use serde_json::Value;
use tempfile::TempDir;

use crate::host::{IP, Need, PYTEST};

/// What running them needs, beside the reference and what single tests look for.
pub const NEEDS: &[Need] = &[IP, PYTEST];

/// The plugins: their names as modules of Python, and their sources.
const PLUGINS: [(&str, &str); 2] = [
    ("started", include_str!("reference_tests/started.py")),
    ("native", include_str!("reference_tests/native.py")),
];
/// Takes Fedora's packages out of manifests.
const WITHOUT_PACKAGES: &str = include_str!("reference_tests/host_root.py");
/// Where the interpreter is that has pytest.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// Failed tests are no failure of pytest (its exit code 1): the report says what became of each.
const SCRIPT: &str = "ip link set up dev lo && { \"$@\" >&2 || test $? = 1; }";

/// Why they could not be run.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceTestsError {
    /// The checkout has no tests, as an installed reference has none.
    #[error("`{}` has no tests: a whole checkout is needed", checkout.display())]
    None {
        /// The checkout.
        checkout: PathBuf,
    },
    /// A file or directory of theirs cannot be made or read.
    #[error("cannot use `{}`", path.display())]
    File {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// pytest could not run them.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A line of the report is none.
    #[error("the report has a line that is none: {0}")]
    Report(String),
}

/// The program that the tests start.
#[derive(Clone, Copy, Debug)]
pub enum Started<'a> {
    /// The reference itself.
    Reference,
    /// Another one, and what its command line ends with.
    Other(&'a Path, &'a [&'a str]),
    /// None: tests of stages that are native in this program get the native ones; no others run.
    Stages(&'a Path),
}

/// Tests of stages that native ones do not pass, and why that is right; a name may go on.
const DIFFERENT: [(&str, &str); 15] = [
    (
        "test_container_deploy.py::test_container_deploy_integration",
        "looks at the calls of Python's functions",
    ),
    ("test_dmverity.py::test_dmverity_integration", "has files where a build has devices"),
    ("test_grub2.py::test_grub2_default_conf", "gives an option that the schema refuses"),
    ("test_grub2_iso.py::test_grub2_iso[", "takes the place of Python's copying of files"),
    (
        "test_grub2_iso_legacy.py::test_grub2_iso_legacy_smoke[",
        "takes the place of Python's copying of files",
    ),
    ("test_isolinux.py::test_isolinux[", "takes the place of Python's copying of files"),
    ("test_ln.py::test_schema_validation[test_data1-", "refused in other words"),
    ("test_machine-id.py::test_machine_id_first_boot_unknown", "refused in other words"),
    ("test_mkdir.py::test_mkdir_on_a_mount", "gives a number where the schema wants a boolean"),
    ("test_mkdir.py::test_mkdir_on_a_tree", "gives a number where the schema wants a boolean"),
    ("test_ovf.py::test_ovf_default_template[", "names a file by its path outside the tree"),
    ("test_tar.py::test_schema_validation_tar[test_data1-", "refused in other words"),
    ("test_tar.py::test_tar_disk_full[", "wants the exit code of `tar` itself in Python's exception"),
    ("test_write_device.py::test_write_device_integration", "gives an option that the schema refuses"),
    ("test_write_device.py::test_write_device_size_check", "gives an option that the schema refuses"),
];

/// Why a native stage does not pass a test and need not.
pub fn wanted_difference(test: &str) -> Option<&'static str> {
    let test = test.strip_prefix("stages/test/")?;
    DIFFERENT.iter().find(|(name, _)| test.starts_with(name)).map(|(_, why)| *why)
}

/// What became of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How it ended.
    pub outcome: Outcome,
    /// Why, if it did not pass.
    pub reason: String,
    /// The end of what it printed, if it failed.
    pub output: String,
    /// How often it started `osbuild`.
    pub starts: u64,
}

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// As it should.
    Passed,
    /// Not as it should.
    Failed,
    /// It did not want to run here.
    Skipped,
}

/// A copy of a checkout whose tests may be run.
#[derive(Debug)]
pub struct ReferenceTests {
    directory: TempDir,
}

impl ReferenceTests {
    /// Copies a checkout: its tests write beside themselves.
    pub fn of(checkout: &Path) -> Result<Self, ReferenceTestsError> {
        if !checkout.join("test/run").is_dir() {
            return Err(ReferenceTestsError::None { checkout: checkout.to_owned() });
        }
        let directory =
            tempfile::Builder::new().prefix("kiln-reference-").tempdir().map_err(file(Path::new("/tmp")))?;
        let tests = Self { directory };
        Run::new("cp").args(["-a", "--reflink=auto"]).arg(checkout).arg(tests.checkout()).run()?;
        for (name, source) in PLUGINS {
            let plugin = tests.directory.path().join(format!("{name}.py"));
            fs::write(&plugin, source).map_err(file(&plugin))?;
        }
        Ok(tests)
    }

    /// Takes Fedora's packages out of the tests' manifests, so that more of them run without a network: the host is the
    /// build root, and trees have directories in the packages' place. Tests and what they expect stay as they are.
    pub fn without_packages(self) -> Result<Self, ReferenceTestsError> {
        Run::new("/usr/bin/python3").args(["-c", WITHOUT_PACKAGES]).arg(self.checkout()).output()?;
        Ok(self)
    }

    fn checkout(&self) -> PathBuf {
        self.directory.path().join("checkout")
    }

    /// Some tests leave loop devices behind: those of their own files go with them.
    fn detach_loop_devices(&self) -> Result<(), ReferenceTestsError> {
        let blocks = Path::new("/sys/block");
        for device in fs::read_dir(blocks).map_err(file(blocks))?.filter_map(Result::ok) {
            let is_ours = || Path::new(&backing_file(&device.path())).starts_with(self.directory.path());
            if is_ours() {
                let node = Path::new("/dev").join(device.file_name());
                let detached = Run::new("losetup").arg("--detach").arg(node).output();
                // It may have gone by itself meanwhile.
                if is_ours() {
                    detached?;
                }
            }
        }
        Ok(())
    }

    /// Runs tests: directories, files, or single ones; what became of each, by its name.
    pub fn run(
        &self,
        started: Started<'_>,
        tests: &[&str],
    ) -> Result<BTreeMap<String, Verdict>, ReferenceTestsError> {
        let report = self.directory.path().join("report");
        let mut arguments: Vec<OsString> =
            ["--mount", "--net", "sh", "-c", SCRIPT, "sh", PYTEST.program].map(OsString::from).to_vec();
        let plugins = if matches!(started, Started::Stages(_)) { &PLUGINS[..] } else { &PLUGINS[..1] };
        for (name, _) in plugins {
            arguments.extend(["-p", name].map(OsString::from));
        }
        arguments.extend(["-p", "no:cacheprovider", "-q", "--tb=short"].map(OsString::from));
        arguments.extend(["--basetemp".into(), self.directory.path().join("base").into_os_string()]);
        arguments.extend(tests.iter().map(OsString::from));
        let mut run = Run::new("unshare").args(arguments).current_dir(self.checkout()).env_clear();
        // The tests' own directory is where `python -m pytest` would look.
        let python_path = [self.directory.path().to_owned(), self.checkout()];
        run = run.env("PATH", PATH).env("PYTHONPATH", std::env::join_paths(python_path).unwrap_or_default());
        run = run.env("KILN_REPORT", &report).env("KILN_CACHE_SYNC", "off").env("LC_ALL", "C.UTF-8");
        run = match started {
            Started::Reference => run,
            Started::Other(program, arguments) => {
                run.env("KILN_OSBUILD", program).env("KILN_OSBUILD_ARGUMENTS", arguments.join(" "))
            }
            Started::Stages(program) => run.env("KILN", program),
        };
        let result = run.output();
        self.detach_loop_devices()?;
        result?;
        let text = fs::read_to_string(&report).map_err(file(&report))?;
        text.lines()
            .map(|line| parse(line).ok_or_else(|| ReferenceTestsError::Report(line.to_owned())))
            .collect()
    }
}

/// The text of a file of the kernel that may go at any time.
fn backing_file(device: &Path) -> String {
    fs::read_to_string(device.join("loop/backing_file")).unwrap_or_default()
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> ReferenceTestsError {
    let path = path.to_owned();
    move |source| ReferenceTestsError::File { path, source }
}

/// A line of the plugin's report.
fn parse(line: &str) -> Option<(String, Verdict)> {
    let value: Value = serde_json::from_str(line).ok()?;
    let text = |name: &str| value[name].as_str().map(str::to_owned);
    let outcome = match value["outcome"].as_str()? {
        "passed" => Outcome::Passed,
        "failed" => Outcome::Failed,
        "skipped" => Outcome::Skipped,
        _ => return None,
    };
    let starts = value["starts"].as_u64()?;
    Some((text("test")?, Verdict { outcome, reason: text("reason")?, output: text("output")?, starts }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_report_is_read() {
        let line = r#"{"outcome": "failed", "output": "o", "reason": "r", "starts": 2, "test": "test/run/test_a.py::test_a"}"#;
        let verdict = Verdict { outcome: Outcome::Failed, reason: "r".into(), output: "o".into(), starts: 2 };
        assert_eq!(parse(line), Some(("test/run/test_a.py::test_a".into(), verdict)));
        for line in ["", "{}", r#"{"outcome": "lost", "output": "", "reason": "", "starts": 0, "test": "t"}"#]
        {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn wanted_differences_are_known_by_name() {
        for (test, wanted) in [
            ("stages/test/test_tar.py::test_tar_disk_full[5120]", true),
            ("stages/test/test_tar.py::test_tar_filename", false),
            ("test/run/test_tar.py::test_tar_disk_full[5120]", false),
        ] {
            assert_eq!(wanted_difference(test).is_some(), wanted, "{test}");
        }
    }

    #[test]
    fn what_has_no_tests_is_told() {
        let directory = tempfile::tempdir().expect("a directory");
        let error = ReferenceTests::of(directory.path()).expect_err("no tests");
        let expected = format!("`{}` has no tests: a whole checkout is needed", directory.path().display());
        assert_eq!(error.to_string(), expected);
    }
}
