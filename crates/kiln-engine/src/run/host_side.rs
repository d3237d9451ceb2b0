//! The host's side of a stage: inputs mapped, devices opened, file systems mounted; undone in reverse order.
//!
//! Everything is mounted in Kiln's own mount namespace. What a stage is told of an input, device or mount is
//! its path inside the build root.

use std::cell::RefCell;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use kiln_api::ModuleError;
use kiln_api::device::{Device, DeviceRequest, OpenDevice};
use kiln_api::input::{Input, InputRequest, Store};
use kiln_api::module::Kind;
use kiln_api::mount::{Mount, MountRequest, Mounted};
use rustix::mount::{MountFlags, UnmountFlags, mount_bind_recursive, mount_remount, unmount};
use serde_json::{Map, Value};

use super::directories::Directories;
use super::workplace::{HeldTree, Temporary, Trees};
use crate::host::{External, ExternalDevice, ExternalInput, ExternalMount, Log};
use crate::index::{Index, Origin};
use crate::manifest::Stage;
use crate::manifest::json::{Json, Object, to_map};

/// Where a build root shows inputs.
const INPUTS: &str = "/run/osbuild/inputs";
/// Where a build root shows mounts.
const MOUNTS: &str = "/run/osbuild/mounts";
/// Where a build root shows devices.
const DEVICES: &str = "/dev";

/// A module on the host's side failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{name}` (`{module}`)")]
pub(super) struct HostSideError {
    action: &'static str,
    name: String,
    module: String,
    // Boxed, because most results have none.
    source: Box<ModuleError>,
}

/// What is open for a stage. [`close`](Self::close) undoes it and says what failed; dropping it undoes it as
/// well as it can.
#[derive(Default)]
pub(super) struct HostSide<'a> {
    // Fields are dropped in this order, which is the right one.
    mounts: Vec<(String, String, Box<dyn Mounted>)>,
    devices: Vec<(String, String, Box<dyn OpenDevice>)>,
    programs: Vec<(String, String, ExternalInput<'a>)>,
    inputs: InputStoreState,
}

/// Which modules there are, and what those of a library directory are started with.
#[derive(Clone, Copy)]
pub(super) struct Host<'a> {
    pub(super) index: &'a Index,
    pub(super) log: &'a Log,
    pub(super) interrupted: &'a AtomicBool,
}

impl<'a> Host<'a> {
    /// The program of a module, if the one that is used is of the library directory. `id` names what it is started
    /// for.
    fn program(self, kind: Kind, module: &str, id: &str) -> Option<External<'a>> {
        let Some(Origin::Library(program)) = self.index.origin(kind, module) else { return None };
        Some(External {
            id: format!("{}/{id}", kind.noun()),
            program,
            library: self.index.library()?,
            log: self.log.clone(),
            interrupted: self.interrupted,
        })
    }
}

/// Whether a stage uses any program on the host.
pub(super) fn uses_programs(stage: &Stage, index: &Index) -> bool {
    let external = |kind, name: &str| matches!(index.origin(kind, name), Some(Origin::Library(_)));
    stage.inputs.values().any(|input| external(Kind::Input, &input.kind))
        || stage.devices.values().any(|device| external(Kind::Device, &device.kind))
        || stage.mounts.iter().any(|mount| external(Kind::Mount, &mount.kind))
}

impl<'a> HostSide<'a> {
    /// Opens everything that a stage wants and returns what it is told, by kind.
    pub(super) fn open(
        &mut self,
        stage: &Stage,
        host: Host<'a>,
        trees: Trees<'_>,
        tree: &Path,
        directories: &Directories,
    ) -> Result<Object, HostSideError> {
        let mut told = Object::new();
        told.insert("devices".to_owned(), Json::Object(Object::new()));
        let inputs = self.map_inputs(stage, host, trees, directories)?;
        let devices = self.open_devices(stage, host, tree, directories)?;
        let mounts = self.mount(stage, host, tree, directories)?;
        told.insert("devices".to_owned(), Json::Object(devices));
        told.insert("inputs".to_owned(), Json::Object(inputs));
        told.insert("mounts".to_owned(), Json::Object(mounts));
        Ok(told)
    }

    fn map_inputs(
        &mut self,
        stage: &Stage,
        host: Host<'a>,
        trees: Trees<'_>,
        directories: &Directories,
    ) -> Result<Object, HostSideError> {
        let mut told = Object::new();
        for (name, input) in &stage.inputs {
            let fail = failed("map input", name, &input.kind);
            let target = directories.inputs.join(name);
            std::fs::create_dir(&target)
                .map_err(ModuleError::io("create directory", &target))
                .map_err(&fail)?;
            let request = InputRequest {
                origin: &input.origin,
                references: &to_map(&input.references),
                target: &target,
                options: &Value::Object(to_map(&input.options)),
            };
            let access = InputStore { trees, state: &self.inputs };
            let reply = match host.program(Kind::Input, &input.kind, name) {
                Some(external) => {
                    let endpoint = directories.endpoint(name).map_err(&fail)?;
                    let module = ExternalInput::new(external, endpoint);
                    let reply = module.map(&request, &access);
                    // Kept in any case: it may have made something before it failed.
                    self.programs.push((name.clone(), input.kind.clone(), module));
                    reply
                }
                None => match host.index.modules().input(&input.kind) {
                    Some(module) => module.map(&request, &access),
                    None => Err(unknown("input", &input.kind)),
                },
            }
            .map_err(&fail)?;
            let path = inside(&reply.path, &directories.inputs, INPUTS).map_err(&fail)?;
            told.insert(name.clone(), with_members(Json::from(path), &reply.members));
        }
        Ok(told)
    }

    fn open_devices(
        &mut self,
        stage: &Stage,
        host: Host<'a>,
        tree: &Path,
        directories: &Directories,
    ) -> Result<Object, HostSideError> {
        let mut told = Object::new();
        for (name, device) in &stage.devices {
            let fail = failed("open device", name, &device.kind);
            let parent =
                device.parent.as_deref().and_then(|parent| self.device_path(parent)).map(str::to_owned);
            let request = DeviceRequest {
                dev: &directories.dev,
                parent: parent.as_deref(),
                tree,
                options: &Value::Object(to_map(&device.options)),
            };
            let opened = match host.program(Kind::Device, &device.kind, name) {
                Some(external) => ExternalDevice(external).open(&request),
                None => match host.index.modules().device(&device.kind) {
                    Some(module) => module.open(&request),
                    None => Err(unknown("device", &device.kind)),
                },
            }
            .map_err(&fail)?;
            let reply = opened.reply();
            let path = Json::from(format!("{DEVICES}/{}", reply.path));
            told.insert(name.clone(), with_members(path, &reply.data));
            self.devices.push((name.clone(), device.kind.clone(), opened));
        }
        Ok(told)
    }

    fn device_path(&self, name: &str) -> Option<&str> {
        let (.., device) = self.devices.iter().find(|(own, ..)| own == name)?;
        Some(&device.reply().path)
    }

    fn mount(
        &mut self,
        stage: &Stage,
        host: Host<'a>,
        tree: &Path,
        directories: &Directories,
    ) -> Result<Object, HostSideError> {
        let mut told = Object::new();
        for mount in &stage.mounts {
            let fail = failed("mount", &mount.name, &mount.kind);
            let source = mount.device.as_deref().and_then(|device| self.device_path(device)).map(|device| {
                // The host's own node is preferred: some tools look for the path in the list of mounts, and
                // inside the build root the device is in `/dev` too.
                // The host may have another device of that name, as a volume of its own.
                let (own, made) = (Path::new(DEVICES).join(device), directories.dev.join(device));
                let node = if is_node_of(&own, &made) { own } else { made };
                match mount.partition.as_ref().filter(|partition| !partition.is_falsy()) {
                    Some(partition) => PathBuf::from(format!("{}p{partition}", node.display())),
                    None => node,
                }
            });
            let request = MountRequest {
                source: source.as_deref(),
                target: mount.target.as_deref(),
                root: &directories.mounts,
                tree,
                options: &Value::Object(to_map(&mount.options)),
            };
            let mounted = match host.program(Kind::Mount, &mount.kind, &mount.name) {
                Some(external) => ExternalMount(external).mount(&request),
                None => match host.index.modules().mount(&mount.kind) {
                    Some(module) => module.mount(&request),
                    None => Err(unknown("mount", &mount.kind)),
                },
            }
            .map_err(&fail)?;
            let mut members = Object::new();
            if let Some(path) = mounted.path() {
                let path = inside(path, &directories.mounts, MOUNTS).map_err(&fail)?;
                members.insert("path".to_owned(), Json::from(path));
            }
            told.insert(mount.name.clone(), Json::Object(members));
            self.mounts.push((mount.name.clone(), mount.kind.clone(), mounted));
        }
        Ok(told)
    }

    /// Undoes everything in reverse order. All of it is tried; the first failure is returned.
    pub(super) fn close(mut self) -> Result<(), HostSideError> {
        let mut result = Ok(());
        while let Some((name, module, mounted)) = self.mounts.pop() {
            let ended = mounted.unmount().map_err(failed("unmount", &name, &module));
            result = result.and(ended);
        }
        while let Some((name, module, device)) = self.devices.pop() {
            let ended = device.close().map_err(failed("close device", &name, &module));
            result = result.and(ended);
        }
        while let Some((name, module, input)) = self.programs.pop() {
            let ended = input.stop().map_err(failed("undo input", &name, &module));
            result = result.and(ended);
        }
        result
    }
}

impl Drop for HostSide<'_> {
    fn drop(&mut self) {
        while self.mounts.pop().is_some() {}
        while self.devices.pop().is_some() {}
        while self.programs.pop().is_some() {}
    }
}

fn failed(action: &'static str, name: &str, module: &str) -> impl Fn(ModuleError) -> HostSideError {
    let (name, module) = (name.to_owned(), module.to_owned());
    move |source| HostSideError {
        action,
        name: name.clone(),
        module: module.clone(),
        source: Box::new(source),
    }
}

/// The manifest was checked: it has vanished since.
fn unknown(kind: &str, name: &str) -> ModuleError {
    ModuleError::invalid(format!("unknown {kind} `{name}`"))
}

/// What a stage is told of an input or a device: its path, and whatever else the module answered.
fn with_members(path: Json, members: &Map<String, Value>) -> Json {
    let others = members.iter().map(|(key, value)| (key.clone(), Json::from_value(value)));
    Json::Object(std::iter::once(("path".to_owned(), path)).chain(others).collect())
}

/// A path below a directory of the host, as the build root shows it.
fn inside(path: &Path, root: &Path, shown: &str) -> Result<String, ModuleError> {
    let relative = path.strip_prefix(root).map_err(|_| {
        ModuleError::invalid(format!(
            "the module answered `{}`, which is not below its directory",
            path.display()
        ))
    })?;
    let shown = Path::new(shown).join(relative);
    shown
        .into_os_string()
        .into_string()
        .map_err(|path| ModuleError::invalid(format!("the path `{}` is not UTF-8", path.display())))
}

/// What inputs have mounted and made.
#[derive(Default)]
struct InputStoreState {
    trees: RefCell<Vec<(TreeMount, HeldTree)>>,
    binds: RefCell<Vec<TreeMount>>,
    directories: RefCell<Vec<Temporary>>,
    read: RefCell<Vec<HeldTree>>,
}

/// The object store as inputs see it.
struct InputStore<'a> {
    trees: Trees<'a>,
    state: &'a InputStoreState,
}

impl Store for InputStore<'_> {
    fn read_tree(&self, id: &str) -> Result<Option<PathBuf>, ModuleError> {
        let found = self.trees.get(id).map_err(|error| ModuleError::invalid(crate::chain(&error)))?;
        Ok(found.map(|tree| {
            let path = tree.path().to_owned();
            self.state.read.borrow_mut().push(tree);
            path
        }))
    }

    fn read_tree_at(&self, id: &str, target: &Path, subtree: Option<&str>) -> Result<bool, ModuleError> {
        let tree = match self.trees.get(id) {
            Ok(Some(tree)) => tree,
            Ok(None) => return Ok(false),
            Err(error) => return Err(ModuleError::invalid(error.to_string())),
        };
        let mut source = tree.path().to_owned();
        if let Some(subtree) = subtree {
            source.push(kiln_api::location::normalise(Path::new(subtree)));
        }
        let mount = TreeMount::new(&source, target)?;
        self.state.trees.borrow_mut().push((mount, tree));
        Ok(true)
    }

    fn bind(&self, source: &Path, target: &Path) -> Result<(), ModuleError> {
        self.state.binds.borrow_mut().push(TreeMount::new(source, target)?);
        Ok(())
    }

    fn mkdtemp(&self, prefix: &str) -> Result<PathBuf, ModuleError> {
        let directory =
            self.trees.tempdir(prefix).map_err(|error| ModuleError::invalid(error.to_string()))?;
        let path = directory.path().to_owned();
        self.state.directories.borrow_mut().push(directory);
        Ok(path)
    }

    fn source(&self, content_type: &str) -> PathBuf {
        self.trees.sources_dir().join(content_type)
    }
}

/// A tree that is shown read-only at another place. Dropping it takes it away.
struct TreeMount(PathBuf);

impl TreeMount {
    fn new(source: &Path, target: &Path) -> Result<Self, ModuleError> {
        mount_bind_recursive(source, target)
            .map_err(|error| ModuleError::io("bind", source)(error.into()))?;
        let mounted = Self(target.to_owned());
        let flags = MountFlags::BIND | MountFlags::RDONLY;
        mount_remount(target, flags, "")
            .map_err(|error| ModuleError::io("make read-only", target)(error.into()))?;
        Ok(mounted)
    }
}

impl Drop for TreeMount {
    fn drop(&mut self) {
        // Detached: it vanishes with the last process that uses it, and with Kiln's mount namespace at the latest.
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// Whether a node of the host is that of the device whose node a module has made, unless it has made none.
fn is_node_of(own: &Path, made: &Path) -> bool {
    let number = |path: &Path| path.metadata().ok().map(|info| info.rdev());
    match (number(own), number(made)) {
        (Some(own), Some(made)) => own == made,
        (own, _) => own.is_some(),
    }
}
