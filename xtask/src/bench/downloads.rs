//! Downloads from a web server on loopback: many small files beside the reference, a few large ones beside `curl` and a program
//! that hashes what it left, and nothing at all because everything is cached.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Map, json};
use sha2::{Digest as _, Sha256};

use super::measure::{Series, Side, in_turns};
use super::table::{Limit, Row, Value};
use super::{Context, write_json};
use crate::error::Error;

/// Many small files: how many, and how large.
const SMALL: (usize, usize) = (500, 20_000);
/// A few large files.
const LARGE: (usize, usize) = (4, 200_000_000);
/// How many times as fast as the reference the small ones are fetched.
const FACTOR: f64 = 5.0;
/// And how many times as fast it is found that there is nothing to fetch.
const FACTOR_CACHED: f64 = 25.0;
/// How long the server may take to start.
const START: Duration = Duration::from_secs(10);

/// Measures the case.
pub(super) fn measure(context: &Context<'_>) -> Result<Vec<Row>, Error> {
    let server = Server::start(context)?;
    let mut rows = small(context, &server)?;
    rows.push(large(context, &server)?);
    context.scratch.remove("served")?;
    Ok(rows)
}

fn small(context: &Context<'_>, server: &Server) -> Result<Vec<Row>, Error> {
    if !context.programs.has_reference() {
        eprintln!("without the reference, downloads of small files are not measured");
        return Ok(Vec::new());
    }
    let (count, size) = SMALL;
    eprintln!("fetching {count} files of {size} bytes");
    let manifest = server.manifest(context, "small", SMALL)?;
    let sides = |name: &'static str, fresh: bool| {
        let (manifest, cache) = (manifest.clone(), format!("downloads-{name}"));
        let directory = context.scratch.join(&cache);
        let clear = move || if fresh { context.scratch.remove(&cache) } else { Ok(()) };
        Side::new(name, move || fetch(context, name, &manifest, &directory)).after(clear)
    };
    let names = ["kiln", "reference"];
    let fetched = in_turns(context.runs, &mut names.map(|name| sides(name, true)))?;
    let cached = in_turns(context.runs, &mut names.map(|name| sides(name, false)))?;
    let row = |what: &str, series: &[Series], factor| {
        let best = |index: usize| Value::Time(series.get(index).map(Series::best).unwrap_or_default());
        Row {
            case: format!("{count} files of {} kB from a server on loopback{what}", size / 1000),
            limit: Some(Limit::TimesAsFast(factor)),
            kiln: best(0),
            other: Some(("reference", best(1))),
        }
    };
    Ok(vec![row("", &fetched, FACTOR), row(", all of them in the cache", &cached, FACTOR_CACHED)])
}

fn large(context: &Context<'_>, server: &Server) -> Result<Row, Error> {
    let (count, size) = LARGE;
    eprintln!("fetching {count} files of {size} bytes");
    let manifest = server.manifest(context, "large", LARGE)?;
    let cache = context.scratch.join("downloads-large");
    let clear = || {
        context.scratch.remove("downloads-large")?;
        context.scratch.remove("downloads-curl")
    };
    let curl = || {
        let directory = context.scratch.join("downloads-curl");
        let mut command = Command::new("sh");
        let script = "mkdir \"$0\" && cd \"$0\" && curl --silent --fail --parallel --remote-name-all \"$@\" && \
                      openssl dgst -sha256 * > digests";
        command.args(["-c", script]).arg(directory);
        command.args((0..count).map(|number| server.url(&format!("large-{number}"))));
        command
    };
    let kiln = || fetch(context, "kiln", &manifest, &cache);
    let mut sides = [Side::new("kiln", kiln).after(clear), Side::new("curl and openssl", curl).after(clear)];
    let series = in_turns(context.runs, &mut sides)?;
    drop(sides);
    clear()?;
    let best = |index: usize| Value::Time(series.get(index).map(Series::best).unwrap_or_default());
    Ok(Row {
        case: format!("{count} files of {} MB from a server on loopback", size / 1_000_000),
        limit: Some(Limit::TimesAsFast(1.0)),
        kiln: best(0),
        other: Some(("`curl --parallel`, then `openssl dgst -sha256`", best(1))),
    })
}

/// Fetching everything of a manifest, as callers of the command line do before they build.
fn fetch(context: &Context<'_>, name: &str, manifest: &Path, cache: &Path) -> Command {
    match context.programs.reference(manifest, cache) {
        Some(command) if name == "reference" => command,
        _ => {
            let mut command = context.programs.osbuild();
            command.arg("--cache").arg(cache).arg(manifest);
            command
        }
    }
}

/// A web server, stopped when dropped.
struct Server {
    process: Child,
    directory: PathBuf,
    port: u16,
}

impl Server {
    fn start(context: &Context<'_>) -> Result<Self, Error> {
        let directory = context.scratch.join("served");
        fs::create_dir_all(&directory).map_err(Error::file("make", &directory))?;
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = free.map_err(Error::file("find a free port for", &directory))?.port();
        let configuration = directory.join("nginx.conf");
        let shown = directory.display();
        let text = format!(
            "daemon off;\nuser root;\nworker_processes 1;\npid {shown}/pid;\nerror_log stderr;\n\
             events {{}}\n\
             http {{\n  access_log off;\n  sendfile on;\n  tcp_nopush on;\n  client_body_temp_path {shown}/body;\n  \
             server {{\n    listen 127.0.0.1:{port};\n    root {shown};\n  }}\n}}\n"
        );
        fs::write(&configuration, text).map_err(Error::file("write", &configuration))?;
        let process = Command::new("nginx")
            .arg("-c")
            .arg(&configuration)
            .args(["-e", "stderr"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(Error::file("start nginx with", &configuration))?;
        let mut server = Self { process, directory, port };
        server.wait()?;
        Ok(server)
    }

    /// Waits until it takes connections.
    fn wait(&mut self) -> Result<(), Error> {
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self.process.try_wait().ok().flatten().is_some();
            if ended || start.elapsed() > START {
                let what = "does not make nginx take connections".to_owned();
                return Err(Error::Content { path: self.directory.join("nginx.conf"), what });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn url(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}/{name}", self.port)
    }

    /// Makes files and a manifest that fetches them.
    fn manifest(
        &self,
        context: &Context<'_>,
        name: &str,
        (count, size): (usize, usize),
    ) -> Result<PathBuf, Error> {
        let mut items = Map::new();
        for number in 0..count {
            let file = format!("{name}-{number}");
            let digest = write_noise(&self.directory.join(&file), size, &file)?;
            items.insert(format!("sha256:{digest}"), json!({"url": self.url(&file)}));
        }
        let manifest =
            json!({"version": "2", "pipelines": [], "sources": {"org.osbuild.curl": {"items": items}}});
        let path = context.scratch.join(&format!("downloads-{name}.json"));
        write_json(&path, &manifest)?;
        Ok(path)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its worker ends with it: nginx hears of this signal and stops at once.
        let pid = i32::try_from(self.process.id()).ok().and_then(rustix::process::Pid::from_raw);
        let _ = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::TERM));
        let _ = self.process.wait();
    }
}

/// Writes a file that does not compress, different for every word, and says its digest.
fn write_noise(path: &Path, size: usize, word: &str) -> Result<String, Error> {
    let failed = |error| Error::file("write", path)(error);
    let mut file = BufWriter::new(File::create(path).map_err(failed)?);
    let mut whole = Sha256::new();
    let mut block = vec![0_u8; 1 << 16];
    let mut state =
        Sha256::digest(word).iter().fold(1_u64, |state, byte| state.rotate_left(8) ^ u64::from(*byte));
    let mut left = size;
    while left > 0 {
        for word in block.chunks_exact_mut(8) {
            // Marsaglia's xorshift64.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let part = block.get(..left.min(block.len())).unwrap_or_default();
        whole.update(part);
        file.write_all(part).map_err(failed)?;
        left -= part.len();
    }
    file.flush().map_err(failed)?;
    Ok(whole.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
