//! A mount of a library directory.

use std::path::{Path, PathBuf};

use kiln_api::ModuleError;
use kiln_api::module::ModuleSchema;
use kiln_api::mount::{Mount, MountRequest, Mounted};
use serde_json::{Value, json};

use super::External;
use super::service::Service;

/// A mount that is a program.
pub(crate) struct ExternalMount<'a>(pub(crate) External<'a>);

/// What is mounted for as long as the program runs.
struct Running {
    path: Option<PathBuf>,
    service: Service,
}

impl Mount for ExternalMount<'_> {
    fn name(&self) -> &'static str {
        "external"
    }

    /// Nothing: what an external module says of itself is in the index.
    fn schema(&self) -> ModuleSchema {
        ModuleSchema::default()
    }

    fn mount(&self, request: &MountRequest<'_>) -> Result<Box<dyn Mounted>, ModuleError> {
        let arguments = json!({
            "source": request.source,
            "target": request.target,
            "root": request.root,
            "tree": request.tree,
            "options": request.options,
        });
        let mut service = Service::start(&self.0)?;
        let path = match service.call("mount", &arguments, &self.0, None)? {
            Value::Null => None,
            Value::String(path) => (!path.is_empty()).then(|| path.into()),
            _ => return Err(ModuleError::invalid("the module's answer is not a path")),
        };
        Ok(Box::new(Running { path, service }))
    }
}

impl Mounted for Running {
    fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    fn unmount(self: Box<Self>) -> Result<(), ModuleError> {
        self.service.stop()
    }
}
