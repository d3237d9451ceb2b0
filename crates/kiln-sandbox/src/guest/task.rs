//! Processes of a guest: its task, connected with the host, and what loads modules for its kernel.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::channel::{self, ALIVE, Message, READY, Received, Receiver};
use super::{CONFIGURATION, Configuration, ModuleTree, OWN, PORT, boot, kernel_module};

/// Where the kernel names the ports of the host.
const PORTS: &str = "/sys/class/virtio-ports";

/// The task of a guest, connected with the host.
pub struct Task {
    /// What the task is told.
    pub told: Value,
    sender: Arc<Mutex<File>>,
    receiver: Receiver<File>,
}

impl Task {
    /// Connects the calling process with the host, which then knows that the guest is ready.
    pub fn take() -> io::Result<Self> {
        let text = fs::read(Path::new(OWN).join(CONFIGURATION))?;
        let configuration: Configuration = serde_json::from_slice(&text)?;
        let port = port()?;
        let task = Self {
            told: configuration.task,
            receiver: Receiver::new(port.try_clone()?),
            sender: Arc::new(Mutex::new(port)),
        };
        // Waits for the host, and until then nothing could be read.
        task.send(&json!(READY))?;
        let alive = Arc::clone(&task.sender);
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(ALIVE);
                let port = alive.lock().unwrap_or_else(PoisonError::into_inner);
                if io::Write::write_all(&mut &*port, b"\n").is_err() {
                    break;
                }
            }
        });
        Ok(task)
    }

    /// Sends the host a message.
    pub fn send(&self, message: &Message) -> io::Result<()> {
        let port = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        channel::write(&*port, message)
    }

    /// Waits for a message of the host; none when there are no more.
    pub fn receive(&mut self) -> io::Result<Option<Message>> {
        loop {
            match self.receiver.receive()? {
                Received::Message(message) => return Ok(Some(message)),
                Received::Nothing => {}
                Received::End => return Ok(None),
            }
        }
    }
}

/// The port that leads to the host.
pub(super) fn port_path() -> io::Result<PathBuf> {
    for entry in fs::read_dir(PORTS)? {
        let entry = entry?;
        if fs::read_to_string(entry.path().join("name"))?.trim() == PORT {
            return Ok(Path::new("/dev").join(entry.file_name()));
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no port `{PORT}`")))
}

pub(super) fn port() -> io::Result<File> {
    File::options().read(true).write(true).open(port_path()?)
}

/// Loads modules that a guest has a use for, as far as its kernel has them.
pub(super) fn load(directory: &Path, names: &[&str]) -> io::Result<()> {
    let tree = ModuleTree::read(Path::new(OWN))?;
    for name in names {
        // One that the kernel has not is missed by whoever needs it.
        if let Ok(files) = tree.order(&[name]) {
            load_files(directory, &files)?;
        }
    }
    Ok(())
}

fn load_files(directory: &Path, files: &[PathBuf]) -> io::Result<()> {
    for file in files {
        let path = directory.join(file);
        kernel_module::read(&path)
            .and_then(|module| kernel_module::insert(&module))
            .map_err(|error| io::Error::new(error.kind(), format!("`{}`: {error}", path.display())))?;
    }
    Ok(())
}

/// Loads what the kernel of a guest asks for, with the arguments that it gives: options, and a name or an alias.
pub fn load_for_kernel(arguments: &[OsString]) -> io::Result<()> {
    let names = arguments.iter().filter_map(|word| word.to_str()).filter(|word| !word.starts_with('-'));
    let (tree, directory) = (ModuleTree::read(Path::new(OWN))?, boot::modules()?);
    let mut loaded = Err(io::Error::new(io::ErrorKind::NotFound, "there is no such module"));
    for name in names.flat_map(|name| tree.named(name)) {
        let files = tree.order(&[&name]).map_err(io::Error::other)?;
        // Of several that have the alias one is enough.
        loaded = loaded.or(load_files(&directory, &files));
    }
    loaded
}
