//! The guest's first process: from the RAM disk to a system in which the task runs.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use kiln_sys::command::describe;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change, mount_move};
use rustix::process::{Pid, WaitOptions};
use rustix::system::{RebootCommand, reboot};
use serde_json::json;

use super::channel::{self, FAILED};
use super::kernel_module;
use super::task::{load, port};
use super::{CONFIGURATION, Configuration, FILES, INIT, MODPROBE, OWN, PROGRAM, ROOT, TASK, USEFUL};

/// How long devices may take to appear.
const DEVICES: Duration = Duration::from_secs(60);
/// How often it is looked for a device: nothing else tells of it this early.
const LOOK: Duration = Duration::from_millis(2);

/// The host's root directory, before it is the guest's.
const LOWER: &str = "/lower";
/// What the guest changes in it.
const CHANGES: &str = "/changes";
/// Both together.
const NEW: &str = "/new";

/// What failed, as a phrase for `cannot …`, and why.
type Failure = (String, io::Error);

/// Runs as the first process of a guest, and powers the machine off.
pub fn boot() {
    let ended = match set_up() {
        Ok(task) => wait_for(&task),
        Err((action, error)) => {
            let reason = format!("cannot {action}: {error}");
            say(&reason);
            // The host may have no port to hear it by; then it sees the console.
            if let Ok(port) = port() {
                let _ = channel::write(port, &json!({ FAILED: reason }));
            }
            Ok(())
        }
    };
    if let Err(reason) = ended {
        say(&reason);
    }
    rustix::fs::sync();
    // Does not return, unless this is no machine of its own.
    let _ = reboot(RebootCommand::PowerOff);
}

/// Says something on the console.
fn say(text: &str) {
    // If there is no console nobody can be told.
    let _ = writeln!(io::stdout(), "kiln: {text}");
}

fn during(action: impl Into<String>) -> impl FnOnce(io::Error) -> Failure {
    let action = action.into();
    move |error| (action, error)
}

fn set_up() -> Result<Child, Failure> {
    for (kind, target) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")] {
        mount_new(kind, kind, Path::new(target), "")?;
    }
    let text = fs::read(Path::new(FILES).join(CONFIGURATION)).map_err(during("read the configuration"))?;
    let configuration: Configuration =
        serde_json::from_slice(&text).map_err(|error| during("read the configuration")(error.into()))?;
    for name in &configuration.early {
        let module = fs::read(Path::new(FILES).join(format!("{name}.ko")));
        module
            .and_then(|module| kernel_module::insert(&module))
            .map_err(during(format!("load the module `{name}`")))?;
    }
    wait_for_port()?;
    enter_root()?;
    own_directories()?;
    for share in &configuration.shares {
        mount_new("virtiofs", &share.tag, &share.path, "")?;
    }
    load(&configuration.modules, USEFUL).map_err(during("load modules"))?;
    fs::write("/proc/sys/kernel/modprobe", MODPROBE).map_err(during("name the loader of modules"))?;
    kiln_sys::namespace::loopback_up().map_err(during("bring up the loopback interface"))?;
    Command::new(TASK)
        .env_clear()
        .envs(&configuration.environment)
        .current_dir("/")
        .spawn()
        .map_err(during("start the task"))
}

fn mount_new(kind: &str, source: &str, target: &Path, options: &str) -> Result<(), Failure> {
    mount_with(kind, source, target, MountFlags::empty(), options)
}

fn mount_with(
    kind: &str,
    source: &str,
    target: &Path,
    flags: MountFlags,
    options: &str,
) -> Result<(), Failure> {
    let failed = || format!("mount `{source}` ({kind}) on `{}`", target.display());
    fs::create_dir_all(target).map_err(during(failed()))?;
    let options = std::ffi::CString::new(options).map_err(|error| during(failed())(error.into()))?;
    mount(source, target, kind, flags, &*options).map_err(|error| during(failed())(error.into()))
}

/// Ports come a moment after the module.
fn wait_for_port() -> Result<(), Failure> {
    let begin = Instant::now();
    while let Err(error) = super::task::port_path() {
        if begin.elapsed() > DEVICES {
            return Err(during("find the port to the host")(error));
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// Lets the host's root directory, below an overlay, be the guest's.
fn enter_root() -> Result<(), Failure> {
    mount_with("virtiofs", ROOT, Path::new(LOWER), MountFlags::RDONLY, "")?;
    mount_new("tmpfs", "changes", Path::new(CHANGES), "mode=0700")?;
    let (upper, work) = (Path::new(CHANGES).join("upper"), Path::new(CHANGES).join("work"));
    for path in [&upper, &work] {
        fs::create_dir(path).map_err(during("create directories for the overlay"))?;
    }
    let options = format!("lowerdir={LOWER},upperdir={},workdir={}", upper.display(), work.display());
    mount_new("overlay", "root", Path::new(NEW), &options)?;
    let new = Path::new(NEW);
    for kind in ["dev", "proc", "sys"] {
        let (from, to) = (Path::new("/").join(kind), new.join(kind));
        mount_move(&from, &to).map_err(|error| during(format!("move `{}`", from.display()))(error.into()))?;
    }
    mount_new("tmpfs", "run", &new.join("run"), "mode=0755")?;
    let own = new.join(OWN.trim_start_matches('/'));
    fs::create_dir(&own).map_err(during("create the guest's own directory"))?;
    for entry in fs::read_dir(FILES).map_err(during("read the RAM disk"))?.filter_map(Result::ok) {
        let name = entry.file_name();
        if entry.path().extension().is_none_or(|ending| ending != "ko") {
            fs::copy(entry.path(), own.join(name)).map_err(during("copy the configuration"))?;
        }
    }
    let program = new.join(PROGRAM.trim_start_matches('/'));
    File::create(&program).map_err(during("make a place for the program"))?;
    mount_bind(INIT, &program).map_err(|error| during("show the program")(error.into()))?;
    let enter = || {
        std::env::set_current_dir(NEW)?;
        mount_move(".", "/")?;
        rustix::process::chroot(".")?;
        std::env::set_current_dir("/")?;
        mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC)?;
        Ok(())
    };
    enter().map_err(during("enter the new root"))
}

/// Makes what a system has in its own directories.
fn own_directories() -> Result<(), Failure> {
    for name in [TASK, MODPROBE] {
        symlink(PROGRAM, name).map_err(during("make links to the program"))?;
    }
    for (target, content) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        if Path::new(target).symlink_metadata().is_err() {
            symlink(content, target).map_err(during(format!("make the link `{target}`")))?;
        }
    }
    mount_new("devpts", "devpts", Path::new("/dev/pts"), "mode=0620,ptmxmode=0666")?;
    mount_new("tmpfs", "shm", Path::new("/dev/shm"), "mode=1777")?;
    for (directory, mode) in [("/run/lock", 0o1777), ("/run/osbuild", 0o755)] {
        fs::create_dir_all(directory)
            .and_then(|()| fs::set_permissions(directory, std::os::unix::fs::PermissionsExt::from_mode(mode)))
            .map_err(during(format!("create `{directory}`")))?;
    }
    Ok(())
}

/// Reaps until the task has ended.
fn wait_for(task: &Child) -> Result<(), String> {
    let task = Pid::from_child(task);
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == task => {
                use std::os::unix::process::ExitStatusExt as _;
                let status = std::process::ExitStatus::from_raw(status.as_raw());
                return if status.success() {
                    Ok(())
                } else {
                    Err(format!("the task ended with {}", describe(status)))
                };
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(format!("cannot wait for the task: {error}")),
        }
    }
}

/// Where the kernel's modules are, as the guest was told.
pub(super) fn modules() -> io::Result<PathBuf> {
    let text = fs::read(Path::new(OWN).join(CONFIGURATION))?;
    let configuration: Configuration = serde_json::from_slice(&text)?;
    Ok(configuration.modules)
}
