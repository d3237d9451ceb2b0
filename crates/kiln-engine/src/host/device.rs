//! A device of a library directory.

use kiln_api::ModuleError;
use kiln_api::device::{Device, DeviceReply, DeviceRequest, OpenDevice};
use kiln_api::module::ModuleSchema;
use serde_json::{Value, json};

use super::External;
use super::service::Service;

/// A device that is a program.
pub(crate) struct ExternalDevice<'a>(pub(crate) External<'a>);

/// One that is open for as long as the program runs.
struct Open {
    reply: DeviceReply,
    service: Service,
}

impl Device for ExternalDevice<'_> {
    fn name(&self) -> &'static str {
        "external"
    }

    /// Nothing: what an external module says of itself is in the index.
    fn schema(&self) -> ModuleSchema {
        ModuleSchema::default()
    }

    fn open(&self, request: &DeviceRequest<'_>) -> Result<Box<dyn OpenDevice>, ModuleError> {
        let arguments = json!({
            "dev": request.dev,
            "tree": request.tree,
            "parent": request.parent,
            "options": request.options,
        });
        let mut service = Service::start(&self.0)?;
        let reply = service.call("open", &arguments, &self.0, None)?;
        let Value::Object(mut data) = reply else {
            return Err(ModuleError::invalid("the module's answer is not an object"));
        };
        let Some(Value::String(path)) = data.shift_remove("path") else {
            return Err(ModuleError::invalid("the module's answer has no `path`"));
        };
        Ok(Box::new(Open { reply: DeviceReply { path, data }, service }))
    }
}

impl OpenDevice for Open {
    fn reply(&self) -> &DeviceReply {
        &self.reply
    }

    fn close(self: Box<Self>) -> Result<(), ModuleError> {
        self.service.stop()
    }
}
