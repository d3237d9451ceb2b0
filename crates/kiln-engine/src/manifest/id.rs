//! Ids: SHA-256 over the Python JSON text of each part, one after the other.
//!
//! | of | parts |
//! |---|---|
//! | stage | name, build id, base id, options; the source epoch if set; input ids by name if any; mount ids in order if any |
//! | input | type, origin, references with options, options |
//! | device | type, the parent's id if any, options |
//! | mount | type; the device's id, partition and target if set; options |
//! | source | type, items |
//!
//! Ids are a promise to users: they never change for a manifest.

use std::fmt::{self, Write};

use sha2::{Digest, Sha256};

use super::json::{Json, Object, write_string};
use super::{Device, Input, Mount, Stage};

/// The id of a stage, input, device, mount, source or pipeline: 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(String);

impl Id {
    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Takes a text for an id, as a manifest may name a pipeline by its id.
    pub fn from_text(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for Id {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A hash that is fed with JSON text. Writing to it cannot fail.
struct Parts(Sha256);

impl Write for Parts {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}

impl Parts {
    fn new() -> Self {
        Self(Sha256::new())
    }

    fn json(mut self, value: &Json) -> Self {
        let _ = value.write_sorted(&mut self);
        self
    }

    fn text(mut self, text: &str) -> Self {
        let _ = write_string(text, &mut self);
        self
    }

    fn optional(self, text: Option<&str>) -> Self {
        match text {
            Some(text) => self.text(text),
            None => self.json(&Json::Null),
        }
    }

    fn object(mut self, members: &Object) -> Self {
        let mut members: Vec<_> = members.iter().collect();
        members.sort_unstable_by_key(|(key, _)| key.as_str());
        let _ = self.write_char('{');
        for (index, (key, value)) in members.into_iter().enumerate() {
            let _ = self.write_str(if index > 0 { ", " } else { "" });
            let _ = write_string(key, &mut self);
            let _ = self.write_str(": ");
            let _ = value.write_sorted(&mut self);
        }
        let _ = self.write_char('}');
        self
    }

    fn finish(self) -> Id {
        let digest = self.0.finalize();
        let mut text = String::with_capacity(64);
        for byte in digest {
            let _ = write!(text, "{byte:02x}");
        }
        Id(text)
    }
}

pub(super) fn of_stage(stage: &Stage, source_epoch: Option<&Json>) -> Id {
    let mut parts = Parts::new()
        .text(&stage.name)
        .optional(stage.build.as_ref().map(Id::as_str))
        .optional(stage.base.as_ref().map(Id::as_str))
        .object(&stage.options);
    if let Some(epoch) = source_epoch {
        parts = parts.json(epoch);
    }
    if !stage.inputs.is_empty() {
        let ids =
            stage.inputs.iter().map(|(name, input)| (name.clone(), Json::from(input.id.as_str()))).collect();
        parts = parts.object(&ids);
    }
    if !stage.mounts.is_empty() {
        let ids = stage.mounts.iter().map(|mount| Json::from(mount.id.as_str())).collect();
        parts = parts.json(&Json::Array(ids));
    }
    parts.finish()
}

pub(super) fn of_input(input: &Input) -> Id {
    Parts::new()
        .text(&input.kind)
        .text(&input.origin)
        .object(&input.references)
        .object(&input.options)
        .finish()
}

pub(super) fn of_device(device: &Device, parent: Option<&Id>) -> Id {
    let mut parts = Parts::new().text(&device.kind);
    if let Some(parent) = parent {
        parts = parts.text(parent.as_str());
    }
    parts.object(&device.options).finish()
}

pub(super) fn of_mount(mount: &Mount, device: Option<&Id>) -> Id {
    let mut parts = Parts::new().text(&mount.kind);
    if let Some(device) = device {
        parts = parts.text(device.as_str());
    }
    if let Some(partition) = mount.partition.as_ref().filter(|partition| !partition.is_falsy()) {
        parts = parts.json(partition);
    }
    if let Some(target) = mount.target.as_ref().filter(|target| !target.is_empty()) {
        parts = parts.text(target);
    }
    parts.object(&mount.options).finish()
}

pub(super) fn of_source(kind: &str, items: &Json) -> Id {
    Parts::new().text(kind).json(items).finish()
}
