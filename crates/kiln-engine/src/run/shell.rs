//! Shells for people who want to see what a stage sees: before it runs, after it failed, or instead of it.
//!
//! The shell runs in a build root that is set up as the stage's is, with the stage's tree, inputs, devices and
//! mounts, and what the runner prepares. What it writes to the tree, to `/var` and to devices and mounts stays; `/etc`, `/run` and
//! `/tmp` are the shell's own.

use std::path::Path;

use indexmap::IndexMap;
use kiln_sandbox::{Ended, Streams, start_with};

use super::directories::Directories;
use super::exception::Exceptions;
use super::stage::StageRun;
use super::{BuildTree, RunError};
use crate::event::{Event, ShellMoment};
use crate::manifest::json::Object;
use crate::manifest::place::JsonPath;
use crate::manifest::{Id, Manifest, Pipeline, Stage};

/// The shells that are looked for, in this order.
const SHELLS: [&str; 2] = ["bash", "sh"];

/// The name of the stage that a shell in a finished tree stands for.
const NO_STAGE: &str = "org.kiln.shell";

/// When shells are opened, and where they read and write.
#[derive(Clone, Debug)]
pub struct Shells<'a> {
    /// Before which stages; the run goes on when the shell ends well.
    pub before: Option<Break>,
    /// Whether one is opened after a stage has failed.
    pub after_failure: bool,
    /// Instead of this stage, which is the last of its pipeline; the run ends with the shell.
    pub instead: Option<Id>,
    /// The standard streams of the shells.
    pub streams: Streams<'a>,
}

/// Stages before which a shell is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Break {
    /// All.
    All,
    /// Those with this name or id.
    Stage(String),
}

impl Break {
    /// Reads a name, an id or `*`.
    pub fn of(text: &str) -> Self {
        if text == "*" { Self::All } else { Self::Stage(text.to_owned()) }
    }

    fn is_before(&self, stage: &Stage) -> bool {
        match self {
            Self::All => true,
            Self::Stage(wanted) => *wanted == stage.name || wanted == stage.id.as_str(),
        }
    }
}

/// Where a shell is wanted instead of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShellPlace {
    /// The pipeline's name.
    pub pipeline: String,
    /// The stage's position in the pipeline, from 0; none for the finished tree.
    pub stage: Option<usize>,
}

impl ShellPlace {
    /// Leaves of a manifest what is needed for the shell, and returns the id of the stage that it replaces: the last
    /// one of the last pipeline.
    ///
    /// For a finished tree that is a stage of no kind, which has a build root as any other. Recipes have to be given
    /// afterwards. `None` if there is no such place.
    pub fn cut(&self, manifest: &mut Manifest) -> Option<Id> {
        let index = manifest.pipelines.get_index_of(&self.pipeline)?;
        manifest.pipelines.truncate(index + 1);
        let pipeline = manifest.pipelines.get_mut(&self.pipeline)?;
        match self.stage {
            Some(stage) => {
                pipeline.stages.get(stage)?;
                pipeline.stages.truncate(stage + 1);
            }
            None => {
                let stage = no_stage(pipeline);
                pipeline.stages.push(stage);
            }
        }
        pipeline.id().cloned()
    }
}

/// A stage that takes nothing and does nothing, after the last one of a pipeline.
fn no_stage(pipeline: &Pipeline) -> Stage {
    let base = pipeline.id().cloned();
    Stage {
        name: NO_STAGE.to_owned(),
        assembler: false,
        id: Id::from_text(&format!("shell-{}", base.as_ref().map_or("", Id::as_str))),
        recipe: String::new(),
        build: pipeline.build.clone(),
        base,
        options: Object::new(),
        inputs: IndexMap::new(),
        devices: IndexMap::new(),
        mounts: Vec::new(),
        path: JsonPath::default(),
    }
}

impl Shells<'_> {
    /// Whether the pipeline is only carried out for a shell.
    pub(super) fn replace_last_of(&self, pipeline: &Pipeline) -> bool {
        self.instead.is_some() && self.instead.as_ref() == pipeline.id()
    }

    /// Which shell is opened before a stage.
    fn before(&self, stage: &Stage) -> Option<ShellMoment> {
        if self.instead.as_ref() == Some(&stage.id) {
            return Some(ShellMoment::Instead);
        }
        self.before.as_ref().filter(|wanted| wanted.is_before(stage)).map(|_| ShellMoment::Before)
    }
}

impl StageRun<'_> {
    /// Opens the shell that is wanted before a stage, if any, and says whether there was one.
    pub(super) fn shell_before(
        &self,
        stage: &Stage,
        directories: &Directories,
        exceptions: &Exceptions,
    ) -> Result<bool, RunError> {
        let Some(shells) = self.workplace.shells else { return Ok(false) };
        let Some(moment) = shells.before(stage) else { return Ok(false) };
        let ended = self.shell(shells, stage, moment, directories, exceptions)?;
        match (ended, moment) {
            (Ended::Exited(0), ShellMoment::Before) => Ok(true),
            (_, ShellMoment::Instead) => Err(RunError::ShellEnded(ended)),
            _ => Err(RunError::Shell { stage: stage.name.clone(), status: status(ended) }),
        }
    }

    /// Opens the shell that is wanted after a stage has failed, if any. How it ends does not matter.
    pub(super) fn shell_after_failure(
        &self,
        stage: &Stage,
        directories: &Directories,
        exceptions: &Exceptions,
    ) -> Result<(), RunError> {
        let Some(shells) = self.workplace.shells.filter(|shells| shells.after_failure) else { return Ok(()) };
        match self.shell(shells, stage, ShellMoment::AfterFailure, directories, exceptions) {
            Err(RunError::Interrupted) => Err(RunError::Interrupted),
            // The stage's failure is what has to be told.
            Err(error) => {
                (self.events)(Event::Warning { message: &crate::chain(&error) });
                Ok(())
            }
            Ok(_) => Ok(()),
        }
    }

    fn shell(
        &self,
        shells: &Shells<'_>,
        stage: &Stage,
        moment: ShellMoment,
        directories: &Directories,
        exceptions: &Exceptions,
    ) -> Result<Ended, RunError> {
        let program =
            find_shell(self.build).ok_or_else(|| RunError::NoShell { stage: stage.name.clone() })?;
        let mut plan = self.plan(stage, directories, exceptions);
        plan.arguments = vec![program];
        plan.terminal = shells.streams.have_terminal();
        (self.events)(Event::ShellStarted {
            pipeline: &self.pipeline.name,
            stage: &stage.name,
            id: &stage.id,
            moment,
        });
        let running = start_with(&plan, self.workplace.program, shells.streams)?;
        match running.wait(None, self.workplace.interrupted)? {
            Ended::Interrupted => Err(RunError::Interrupted),
            ended => Ok(ended),
        }
    }
}

fn find_shell(build: &BuildTree) -> Option<String> {
    SHELLS
        .iter()
        // A link may be absolute, and then means the build root.
        .find(|name| build.path().join("usr/bin").join(name).symlink_metadata().is_ok())
        .map(|name| Path::new("/usr/bin").join(name).display().to_string())
}

fn status(ended: Ended) -> String {
    match ended {
        Ended::Exited(code) => format!("exit status {code}"),
        Ended::Signalled(signal) => format!("signal {signal}"),
        Ended::TimedOut | Ended::Interrupted => "an interruption".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::manifest::load;

    fn manifest() -> Manifest {
        let stages = json!([{"type": "a"}, {"type": "b"}, {"type": "a"}]);
        let manifest = json!({"version": "2", "pipelines": [
            {"name": "build", "stages": stages}, {"name": "tree", "build": "name:build", "stages": stages},
            {"name": "last", "build": "name:tree", "stages": stages}, {"name": "empty", "stages": []},
        ]});
        load(&manifest.to_string()).expect("valid")
    }

    #[test]
    fn a_manifest_is_cut_at_the_place_of_the_shell() {
        let whole = manifest();
        let ids: Vec<Id> = whole.pipelines["tree"].stages.iter().map(|stage| stage.id.clone()).collect();
        for (stage, length, id) in [(Some(0), 1, Some(&ids[0])), (Some(2), 3, Some(&ids[2])), (None, 4, None)]
        {
            let mut cut = manifest();
            let found = ShellPlace { pipeline: "tree".to_owned(), stage }.cut(&mut cut).expect("a place");
            assert_eq!(cut.pipelines.keys().collect::<Vec<_>>(), ["build", "tree"]);
            let tree = &cut.pipelines["tree"];
            assert_eq!((tree.stages.len(), tree.id()), (length, Some(&found)));
            match id {
                Some(id) => assert_eq!(found, *id),
                None => {
                    assert!(!ids.contains(&found));
                    assert_eq!(
                        (&tree.stages[3].base, &tree.stages[3].build),
                        (&Some(ids[2].clone()), &tree.build)
                    );
                }
            }
        }
        for (pipeline, stage) in [("tree", Some(3)), ("other", None), ("empty", Some(0))] {
            assert_eq!(ShellPlace { pipeline: pipeline.to_owned(), stage }.cut(&mut manifest()), None);
        }
        let empty = ShellPlace { pipeline: "empty".to_owned(), stage: None }.cut(&mut manifest());
        assert_eq!(empty.expect("an empty tree").as_str(), "shell-");
    }

    #[test]
    fn stages_break_by_name_or_id() {
        let manifest = manifest();
        let stages = &manifest.pipelines["tree"].stages;
        let id = stages[1].id.as_str();
        for (text, expected) in [
            ("*", [true, true, true]),
            ("a", [true, false, true]),
            (id, [false, true, false]),
            ("tree", [false; 3]),
        ] {
            let found: Vec<bool> = stages.iter().map(|stage| Break::of(text).is_before(stage)).collect();
            assert_eq!(found, expected, "{text}");
        }
    }
}
