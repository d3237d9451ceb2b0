//! One test's world: a directory with cache, output and manifests, a server, and the program itself.
//!
//! Nothing of it is shared with other tests or with the host. What the program leaves behind is found by the
//! world's directory, whose name is unique: a process that belongs to it has it in its command line or in its
//! list of mounts, a loop device in the name of its file.

use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use kiln_testkit::http::Server;
use rustix::process::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// The program under test.
pub(crate) const KILN: &str = env!("CARGO_BIN_EXE_kiln");

/// How long the kernel and other processes get for what they do by themselves; only failing tests wait so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A test's world.
pub(crate) struct World {
    directory: TempDir,
    pub(crate) server: Server,
}

/// A run that has ended.
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl World {
    pub(crate) fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("kiln-cli-").tempdir().expect("a directory");
        Self { directory, server: Server::start() }
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.path("cache")
    }

    /// Writes a file into the world's directory.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("written");
        path
    }

    /// The program with arguments, in the world's directory, with nothing of the caller's environment but the path.
    pub(crate) fn program(&self, program: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.directory.path()).env_clear().stdin(Stdio::null());
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        // The file system that the tests share is not flushed for each build of each test.
        command.env("KILN_CACHE_SYNC", "off");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn kiln(&self, arguments: &[&str]) -> Command {
        self.program(KILN, arguments)
    }

    /// Runs `kiln` to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Finished {
        finish(self.kiln(arguments).spawn().expect("started"))
    }

    /// `kiln build` of a manifest with this world's cache, exporting to its `output`.
    pub(crate) fn build_command(&self, manifest: &Value, arguments: &[&str]) -> Command {
        self.write("manifest.json", serde_json::to_string_pretty(manifest).expect("JSON"));
        let mut command = self.kiln(&["build", "manifest.json", "--cache"]);
        // An absolute name, so that the world can be seen in the command line.
        command.arg(self.cache()).args(arguments);
        command
    }

    pub(crate) fn build(&self, manifest: &Value, arguments: &[&str]) -> Finished {
        finish(self.build_command(manifest, arguments).spawn().expect("started"))
    }

    /// Processes of this world's build roots whose command line contains a text.
    pub(crate) fn processes(&self, text: &str) -> Vec<Pid> {
        let name = self.name();
        let pids = names(Path::new("/proc")).into_iter().filter_map(|name| Pid::from_raw(name.parse().ok()?));
        pids.filter(|pid| {
            // A process may end while it is looked at; then it is none of them.
            let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let command = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
            command.contains(text) && String::from_utf8_lossy(&read("mountinfo")).contains(&name)
        })
        .collect()
    }

    /// Waits for a process of this world's build roots.
    #[track_caller]
    pub(crate) fn wait_for_process(&self, text: &str) -> Pid {
        wait_for(|| self.processes(text).first().copied()).expect("the process runs")
    }

    fn name(&self) -> String {
        self.directory.path().file_name().expect("a name").to_string_lossy().into_owned()
    }

    /// Everything that still belongs to this world outside its directory.
    fn left_behind(&self) -> Vec<String> {
        let name = self.name();
        let mut left = Vec::new();
        for line in fs::read_to_string("/proc/self/mountinfo").expect("mountinfo").lines() {
            if line.contains(&name) {
                left.push(format!("mount: {line}"));
            }
        }
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let pid = entry.file_name().to_string_lossy().into_owned();
            if !pid.bytes().all(|byte| byte.is_ascii_digit()) || pid == std::process::id().to_string() {
                continue;
            }
            // A process may end while it is looked at; then it is not left.
            let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
            for file in ["cmdline", "mountinfo"] {
                if String::from_utf8_lossy(&read(file)).contains(&name) {
                    let command = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
                    left.push(format!("process {pid} ({file}): {command}"));
                    break;
                }
            }
        }
        for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
            let file = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
            if file.contains(&name) {
                left.push(format!("loop device {}: {file}", entry.path().display()));
            }
        }
        left
    }

    /// Nothing of this world is left outside its directory, as soon as the kernel has had time for it.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        let left = self.left_in_time();
        assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    }

    /// What is left of this world when the kernel has had time.
    pub(crate) fn left_in_time(&self) -> Vec<String> {
        let nothing = wait_for(|| Some(self.left_behind()).filter(Vec::is_empty));
        nothing.unwrap_or_else(|| self.left_behind())
    }

    /// The cache holds nothing but whole objects and downloads, and accounts for them.
    #[track_caller]
    pub(crate) fn assert_sound(&self) {
        let cache = self.cache();
        assert_eq!(names(&cache.join("stage")), [""; 0], "`stage` of the cache");
        // Lock files of single flight stay.
        let temporary: Vec<_> =
            names(&cache.join("tmp")).into_iter().filter(|name| name != "locks").collect();
        assert_eq!(temporary, [""; 0], "`tmp` of the cache");
        let mut sum = 0;
        for name in names(&cache.join("objects")) {
            assert!(name.len() == 64, "`objects/{name}` is not an object");
            let info = cache.join("objects").join(&name).join("object.info");
            let info = fs::read_to_string(&info).expect("a committed object");
            let info: Value = serde_json::from_str(&info).expect("JSON");
            sum += info["size"].as_u64().expect("a size");
        }
        let size = fs::read_to_string(cache.join("cache.size")).unwrap_or_else(|_| "0".to_owned());
        assert_eq!(size.trim().parse::<u64>().expect("a number"), sum, "accounted bytes");
        for source in names(&cache.join("sources")) {
            for item in names(&cache.join("sources").join(&source)) {
                assert!(item.contains(':') && item.len() > 32, "`sources/{source}/{item}` is not a download");
            }
        }
    }

    /// After a failure: nothing is left, the cache is sound, and a good build in it succeeds.
    #[track_caller]
    pub(crate) fn assert_recovers(&self, good: &Value, export: &str) {
        self.assert_nothing_left();
        if self.cache().exists() {
            self.assert_sound();
        }
        let finished = self.build(good, &["--export", export, "--output-directory", "recovered"]);
        assert_eq!(finished.code(), Some(0), "{}", finished.shown());
        self.assert_nothing_left();
        self.assert_sound();
    }

    /// Text with everything that differs from run to run replaced.
    pub(crate) fn settings(&self) -> insta::Settings {
        let mut settings = insta::Settings::new();
        let directory = self.directory.path().display().to_string();
        settings.add_filter(&directory.replace('.', r"\."), "[DIR]");
        settings.add_filter(&format!(r"127\.0\.0\.1:{}\b", self.server.port()), "[SERVER]");
        settings.add_filter(r"\b[0-9a-f]{64}\b", "[ID]");
        settings.add_filter(r"`(\S+)` [0-9a-f]{12}\b", "`$1` [ID]");
        settings.add_filter(r" +(\d+ min \d+ s|\d+\.\d s)\b", " [TIME]");
        settings.add_filter(r"\b\d+ min \d+ s\b|\b\d+\.\d s\b", "[TIME]");
        settings.add_filter(r"\.unverified-kiln-\w+", ".unverified-kiln-[RANDOM]");
        settings
    }
}

impl Finished {
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// All that is visible.
    pub(crate) fn shown(&self) -> String {
        let mut text = match self.status.code() {
            Some(code) => format!("exit code {code}\n"),
            None => format!("signal {}\n", self.status.signal().unwrap_or_default()),
        };
        for (name, stream) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !stream.is_empty() {
                text.push_str(&format!("--- {name}\n{stream}"));
            }
        }
        text
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}:\n{}", self.shown()))
    }

    #[track_caller]
    pub(crate) fn succeeded(self) -> Self {
        assert_eq!(self.code(), Some(0), "{}", self.shown());
        self
    }
}

/// Kills a program some time after it was started, and waits for its end.
#[track_caller]
pub(crate) fn kill_after(mut child: Child, time: Duration) {
    let moment = Instant::now() + time;
    while let Some(left) = moment.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
    child.kill().expect("killed, or at its end");
    finish(child);
}

/// Waits for the end of a program, reading what it says.
pub(crate) fn finish(mut child: Child) -> Finished {
    let (mut out, mut err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(|| err.read_to_end(&mut stderr).expect("read"));
        out.read_to_end(&mut stdout).expect("read");
    });
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Finished { status: child.wait().expect("waited for"), stdout: text(stdout), stderr: text(stderr) }
}

/// Asks again and again until there is an answer or patience has an end.
pub(crate) fn wait_for<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// The names in a directory, sorted; none if there is no such directory.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Takes a snapshot of all that is visible of a run.
macro_rules! assert_shown {
    ($world:expr, $finished:expr, @$expected:literal) => {
        $world.settings().bind(|| insta::assert_snapshot!($finished.shown(), @$expected))
    };
}
pub(crate) use assert_shown;
