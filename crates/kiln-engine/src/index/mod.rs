//! Which modules there are: the native ones, and those of a library directory.
//!
//! A module is looked for in both by its kind and name. Which of the two wins is a matter of [`Preference`]: a
//! directory that was asked for wins, unless the native module is preferred; the system's own directory only
//! serves what is not native.

mod description;
mod digest;
mod library;
mod python;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use kiln_api::loops::Loops;
use kiln_api::module::{Kind, Modules};

pub use description::{Description, Draft};
pub use library::Library;

use digest::Digests;

use crate::runner::{self, NoRunner};

/// Which modules win over others of the same kind and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Preference {
    /// Native modules win.
    Native,
    /// The library directory's win, except for modules of these kinds.
    Library(Vec<Kind>),
}

/// Where a module comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It is part of Kiln.
    Native,
    /// It is a program of the library directory.
    Library(PathBuf),
}

/// Why a module cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// There is none of that name.
    Unknown,
    /// It is there, but what it says of itself cannot be understood.
    Broken(String),
}

/// The runner that serves a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenRunner {
    /// Its file name.
    pub name: String,
    /// Where it comes from.
    pub origin: Origin,
}

/// What was found for a kind and a name.
type Found = Result<Arc<Description>, Unusable>;

/// All modules there are.
pub struct Index {
    native: Modules,
    library: Option<Library>,
    preference: Preference,
    loops: Option<&'static dyn Loops>,
    descriptions: Mutex<HashMap<(Kind, String), Found>>,
    digests: Digests,
}

impl Index {
    /// The native modules alone.
    pub fn native(modules: Modules) -> Self {
        Self::new(modules, None, Preference::Native)
    }

    /// The native modules and those of a library directory.
    pub fn new(native: Modules, library: Option<Library>, preference: Preference) -> Self {
        Self {
            native,
            library,
            preference,
            loops: None,
            descriptions: Mutex::default(),
            digests: Digests::default(),
        }
    }

    /// Lets stages of the library have loop devices.
    #[must_use]
    pub fn with_loops(mut self, loops: &'static dyn Loops) -> Self {
        self.loops = Some(loops);
        self
    }

    /// What makes loop devices for stages of the library.
    pub fn loops(&self) -> Option<&'static dyn Loops> {
        self.loops
    }

    /// The native modules.
    pub const fn modules(&self) -> &Modules {
        &self.native
    }

    /// The library directory.
    pub fn library(&self) -> Option<&Library> {
        self.library.as_ref()
    }

    /// Where the module that is used under a name comes from; none if there is none.
    pub fn origin(&self, kind: Kind, name: &str) -> Option<Origin> {
        let native = || self.has_native(kind, name).then_some(Origin::Native);
        let external = || self.library.as_ref()?.program(kind, name).map(Origin::Library);
        if self.native_first(kind) { native().or_else(external) } else { external().or_else(native) }
    }

    /// What the module that is used under a name says of itself.
    pub fn describe(&self, kind: Kind, name: &str) -> Found {
        let mut known = self.descriptions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(&(kind, name.to_owned())) {
            return found.clone();
        }
        let found = self.find(kind, name).map(Arc::new);
        known.insert((kind, name.to_owned()), found.clone());
        found
    }

    /// The names of all modules of a kind, sorted, and where they come from.
    pub fn list(&self, kind: Kind) -> BTreeMap<String, Origin> {
        let native = native_names(&self.native, kind);
        let mut all: BTreeMap<String, Origin> =
            native.iter().map(|name| ((*name).to_owned(), Origin::Native)).collect();
        for (name, path) in self.library.iter().flat_map(|library| library.list(kind)) {
            if !(self.native_first(kind) && all.contains_key(&name)) {
                all.insert(name, Origin::Library(path));
            }
        }
        all
    }

    /// Chooses the runner for a request. What wins is asked first; the other is for what that does not serve.
    pub fn runner(&self, requested: &str) -> Result<ChosenRunner, NoRunner> {
        let (mut native, mut external) = (Vec::new(), Vec::new());
        for name in native_names(&self.native, Kind::Runner) {
            native.push((name.to_owned(), Origin::Native));
        }
        for (name, path) in self.library.iter().flat_map(|library| library.list(Kind::Runner)) {
            external.push((name, Origin::Library(path)));
        }
        let (first, second) =
            if self.native_first(Kind::Runner) { (native, external) } else { (external, native) };
        let choose = |among: &[(String, Origin)]| {
            let name = runner::choose(requested, among.iter().map(|(name, _)| name.as_str()))?.to_owned();
            let origin = among.iter().find(|(own, _)| *own == name).map(|(_, origin)| origin.clone());
            Ok(ChosenRunner { name, origin: origin.unwrap_or(Origin::Native) })
        };
        choose(&first).or_else(|_| choose(&second)).or_else(|_: NoRunner| choose(&[first, second].concat()))
    }

    /// What stands for the code of a module: `native`, or a digest of the program and of the package that it imports.
    pub fn code(&self, native: &str, kind: Kind, name: &str) -> String {
        let origin = if kind == Kind::Runner {
            // Named is what was asked for.
            self.runner(name).ok().map(|chosen| chosen.origin)
        } else {
            self.origin(kind, name)
        };
        match (origin, &self.library) {
            (Some(Origin::Library(path)), Some(library)) => self.digests.of(&path, &library.package()),
            _ => native.to_owned(),
        }
    }

    fn native_first(&self, kind: Kind) -> bool {
        match &self.preference {
            Preference::Native => true,
            Preference::Library(except) => except.contains(&kind),
        }
    }

    fn has_native(&self, kind: Kind, name: &str) -> bool {
        native_names(&self.native, kind).contains(&name)
    }

    fn find(&self, kind: Kind, name: &str) -> Result<Description, Unusable> {
        let native = || Description::native(&self.native, kind, name).ok_or(Unusable::Unknown);
        let external = || match &self.library {
            Some(library) => {
                let description = library.describe(kind, name)?;
                // What is only described cannot be run: better said now than when its turn comes.
                if library.program(kind, name).is_none() {
                    let reason = "the library describes it, but has no program of its name";
                    return Err(Unusable::Broken(reason.to_owned()));
                }
                Ok(description)
            }
            None => Err(Unusable::Unknown),
        };
        let unknown = |error: &Unusable| *error == Unusable::Unknown;
        if self.native_first(kind) {
            native().or_else(|_| external())
        } else {
            external().or_else(|error| if unknown(&error) { native() } else { Err(error) })
        }
    }
}

/// The names of the native modules of a kind.
fn native_names(modules: &Modules, kind: Kind) -> Vec<&'static str> {
    match kind {
        Kind::Stage => modules.stages.iter().map(|module| module.name).collect(),
        Kind::Assembler => modules.assemblers.iter().map(|module| module.name).collect(),
        Kind::Source => modules.sources.iter().map(|module| module.name()).collect(),
        Kind::Input => modules.inputs.iter().map(|module| module.name()).collect(),
        Kind::Device => modules.devices.iter().map(|module| module.name()).collect(),
        Kind::Mount => modules.mounts.iter().map(|module| module.name()).collect(),
        Kind::Runner => modules.runners.iter().map(|module| module.name).collect(),
    }
}
