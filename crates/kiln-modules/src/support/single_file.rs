//! Stages that turn the one file of their input `file` into a file of the tree.

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::PathBuf;

use kiln_api::ModuleError;
use kiln_api::stage::StageContext;
use serde_json::{Map, Value, json};

use super::root::Root;

/// How much is read at a time: enough to keep several compressing threads busy.
const BUFFER: usize = 1 << 20;

/// The schema of `inputs`: exactly one, named `file`.
pub(crate) fn inputs() -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["file"],
        "properties": {"file": {"type": "object"}},
    })
}

/// The directory of the input `file`, and the name of the one file in it.
pub(crate) fn input(context: &StageContext) -> Result<(Root, String), ModuleError> {
    let input = context.arguments.inputs.get("file");
    let input = input.ok_or_else(|| ModuleError::invalid("the stage has no input `file`"))?;
    let files = input.data.get("files").and_then(Value::as_object).map(Map::keys);
    let names: Vec<_> = files.into_iter().flatten().collect();
    let [name] = names.as_slice() else {
        let reason = format!("the input `file` must hold one file, not {}", names.len());
        return Err(ModuleError::invalid(reason));
    };
    Ok((Root::open(&input.path)?, (*name).clone()))
}

/// The path of the only file of an input.
pub(crate) fn only(context: &StageContext, name: &str) -> Result<PathBuf, ModuleError> {
    let refuse = |reason: String| ModuleError::option(format!("inputs.{name}"), reason);
    let input = context.arguments.inputs.get(name).ok_or_else(|| refuse("is missing".to_owned()))?;
    let files = input.data.get("files").and_then(Value::as_object).map(Map::keys);
    match files.into_iter().flatten().collect::<Vec<_>>().as_slice() {
        [name] => Ok(input.path.join(name)),
        names => Err(refuse(format!("must be one file, but has {}", names.len()))),
    }
}

/// Writes the file's content to `filename` through what `encode` makes of the target: a writer, and what finishes it.
pub(crate) fn convert<W: Write>(
    context: &StageContext,
    filename: &str,
    encoder: impl FnOnce(File, u64) -> io::Result<W>,
    finish: impl FnOnce(W) -> io::Result<File>,
) -> Result<(), ModuleError> {
    let (directory, name) = input(context)?;
    let source = directory.read(&name)?;
    let size = source.metadata().map_err(ModuleError::io("examine", directory.shown(&name)))?.len();
    let tree = Root::open(context.tree())?;
    let target = tree.create(filename)?;
    let failed = || tree.shown(filename);
    let mut writer = encoder(target, size).map_err(ModuleError::io("compress to", failed()))?;
    let mut source = BufReader::with_capacity(BUFFER, source);
    io::copy(&mut source, &mut writer).map_err(ModuleError::io("compress to", failed()))?;
    finish(writer).map_err(ModuleError::io("compress to", failed()))?;
    Ok(())
}

/// How many threads compress: one for each processor.
pub(crate) fn threads() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(1))
}
