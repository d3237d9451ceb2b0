//! An input of a library directory.

use std::path::PathBuf;
use std::sync::Mutex;

use kiln_api::ModuleError;
use kiln_api::input::{Input, InputReply, InputRequest, Store};
use kiln_api::module::ModuleSchema;
use serde_json::{Value, json};

use super::External;
use super::service::Service;
use super::store::StoreServer;

/// An input that is a program. What it made stays until it is dropped.
pub(crate) struct ExternalInput<'a> {
    external: External<'a>,
    /// Where the endpoint of the store may be.
    directory: PathBuf,
    running: Mutex<Option<Service>>,
}

impl<'a> ExternalInput<'a> {
    /// `directory` is one of its own on the host, for the store's endpoint.
    pub(crate) fn new(external: External<'a>, directory: PathBuf) -> Self {
        Self { external, directory, running: Mutex::default() }
    }

    /// Lets it undo what it did.
    pub(crate) fn stop(self) -> Result<(), ModuleError> {
        let running = self.running.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        running.map_or(Ok(()), Service::stop)
    }
}

impl Input for ExternalInput<'_> {
    fn name(&self) -> &'static str {
        "external"
    }

    /// Nothing: what an external module says of itself is in the index.
    fn schema(&self) -> ModuleSchema {
        ModuleSchema::default()
    }

    fn map(&self, request: &InputRequest<'_>, store: &dyn Store) -> Result<InputReply, ModuleError> {
        let (mut server, path) = StoreServer::listen(&self.directory, store)?;
        let arguments = json!({
            "origin": request.origin,
            "refs": request.references,
            "target": request.target,
            "options": request.options,
            "api": {"store": path},
        });
        let mut service = Service::start(&self.external)?;
        let reply = service.call("map", &arguments, &self.external, Some(&mut server))?;
        *self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(service);
        let Value::Object(mut members) = reply else {
            return Err(ModuleError::invalid("the module's answer is not an object"));
        };
        let Some(Value::String(path)) = members.shift_remove("path") else {
            return Err(ModuleError::invalid("the module's answer has no `path`"));
        };
        Ok(InputReply { path: path.into(), members })
    }
}
