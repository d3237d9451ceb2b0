//! The installation from beginning to end.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::Instant;

use kiln_api::ModuleError;
use kiln_api::stage::StageContext;

use super::archive::Deb;
use super::commit::{Commit, Owners};
use super::database::Database;
use super::environment::Environment;
use super::plan::Plan;
use super::staging::Queue;
use super::tidy::Before;
use super::tree::Tree;
use super::{architectures, configure, join, native_architecture, staging_directory, workers};

/// Top-level directories that are links into `usr` from the start; others follow as packages need them.
const MERGED: [&str; 3] = ["bin", "lib", "sbin"];

/// Installs packages, sorted by name and architecture, into the tree.
pub(super) fn install(debs: &[Deb], answers: &str, context: &mut StageContext) -> Result<(), ModuleError> {
    let root = context.tree().to_owned();
    let before = Before::look(&root);
    let tree_has_dpkg = configure::has_dpkg(&root);
    // Opened now, so that it stays blind to the mounts that the installing thread will make.
    let tree = Tree::open(&root)?;
    let database = Database::open(&root)?;
    let mut owners = Owners::default();
    let wanted = missing(debs, &database, &tree, &mut owners, context)?;
    if wanted.is_empty() {
        context.say("All packages are installed already.");
        return Ok(());
    }
    let plan = Plan::new(debs);
    let base: BTreeSet<_> = match tree_has_dpkg {
        true => BTreeSet::new(),
        false => plan.base(),
    };
    if !tree_has_dpkg
        && !base.iter().any(|index| debs.get(*index).is_some_and(|deb| deb.package.name == "dpkg"))
    {
        return Err(ModuleError::invalid(
            "the tree has no dpkg, and there is no essential package `dpkg` among those to be installed",
        ));
    }
    let staging = Staging::create(&root)?;
    let queue = Queue::new(debs, unpacking_order(debs, &wanted, &base), &staging.path);
    context.say(format_args!("Installing {} packages.", wanted.len()));
    let mut installation = Installation {
        debs,
        plan: &plan,
        queue: &queue,
        database: &database,
        tree,
        owners,
        kernels: BTreeSet::new(),
        started: Instant::now(),
    };
    let result = std::thread::scope(|scope| {
        for _ in 0..workers() {
            scope.spawn(|| queue.work());
        }
        // A thread of its own: the mounts that it makes are seen by its children only, and go with it.
        let installing = scope.spawn(|| {
            let result = installation.run(&base, &wanted, answers, &staging.path, context);
            // After a failure nobody waits for the rest.
            queue.stop();
            result
        });
        join(installing)
    });
    result.and_then(|()| before.tidy(&root))?;
    staging.remove()
}

/// What an installation works with.
struct Installation<'a> {
    debs: &'a [Deb],
    plan: &'a Plan<'a>,
    queue: &'a Queue<'a>,
    database: &'a Database,
    tree: Tree,
    owners: Owners,
    /// Packages that contain a kernel.
    kernels: BTreeSet<usize>,
    started: Instant,
}

impl Installation<'_> {
    fn run(
        &mut self,
        base: &BTreeSet<usize>,
        wanted: &BTreeSet<usize>,
        answers: &str,
        staging: &Path,
        context: &mut StageContext,
    ) -> Result<(), ModuleError> {
        if let Some(native) = native_architecture(self.debs) {
            self.database.register_architectures(native, &architectures(self.debs))?;
        }
        if !base.is_empty() {
            for name in MERGED {
                if std::fs::symlink_metadata(self.tree.path().join(name)).is_err() {
                    self.tree.make_merged(name)?;
                }
            }
            self.commit(&self.plan.sorted(base), true)?;
            self.report(context, "base unpacked");
        }
        kiln_sys::chroot::private_mounts()
            .map_err(ModuleError::io("make private mounts for", self.tree.path()))?;
        let mut environment = Environment::enter(context, staging)?;
        environment.forbid_services()?;
        let mut configured = BTreeSet::new();
        if !base.is_empty() {
            self.configure_base(&mut environment, base)?;
            configured.clone_from(base);
            self.report(environment.context(), "base configured");
        }
        if !answers.is_empty() {
            configure::answer(&mut environment, answers)?;
        }
        let rest: BTreeSet<_> = wanted.difference(base).copied().collect();
        self.rounds(&mut environment, rest, configured)?;
        self.configure_before_kernels(&mut environment, wanted)?;
        configure::configure(&mut environment, &[])?;
        self.report(environment.context(), "configured");
        self.check()?;
        environment.leave()
    }

    /// Makes sure that dpkg has left nothing half done.
    fn check(&self) -> Result<(), ModuleError> {
        let unfinished: Vec<_> = self
            .database
            .installed()?
            .into_iter()
            .filter(|known| known.state != "installed" && known.state != "config-files")
            .map(|known| format!("`{}` is {}", known.package.id(), known.state))
            .collect();
        match unfinished.as_slice() {
            [] => Ok(()),
            packages => {
                Err(ModuleError::invalid(format!("packages are not installed: {}", packages.join(", "))))
            }
        }
    }

    /// The base's scripts, in the order in which they can work.
    fn configure_base(
        &self,
        environment: &mut Environment<'_>,
        base: &BTreeSet<usize>,
    ) -> Result<(), ModuleError> {
        for index in self.plan.sorted(base) {
            if let Some(deb) = self.debs.get(index) {
                configure::preinst(environment, deb)?;
            }
        }
        // Nearly every script expects the accounts that this package makes, and no dependency says so.
        if base.iter().any(|index| self.is_named(*index, "base-passwd")) {
            configure::configure_first(environment, "base-passwd")?;
        }
        configure::configure(environment, &["--pending".to_owned()])
    }

    /// Configures everything but the kernels, with its triggers, so that kernels come last.
    ///
    /// Configuring a kernel makes its initial RAM disk, and so do the triggers of what goes into it. In the order
    /// that dpkg would choose that is done twice, and it is the longest part of the installation.
    fn configure_before_kernels(
        &self,
        environment: &mut Environment<'_>,
        wanted: &BTreeSet<usize>,
    ) -> Result<(), ModuleError> {
        let later = self.plan.needing(&self.kernels);
        if later.is_empty() {
            return Ok(());
        }
        let now: BTreeSet<_> = wanted.difference(&later).copied().collect();
        // Naming a package that is configured already is an error.
        let unpacked = self.database.installed()?.into_iter().filter(|known| known.state == "unpacked");
        let unpacked: BTreeSet<_> = unpacked.map(|known| known.package.id()).collect();
        let ids: Vec<_> = self.ids(&now).into_iter().filter(|id| unpacked.contains(id)).collect();
        if !ids.is_empty() {
            configure::configure(environment, &ids)?;
        }
        configure::run_triggers(environment)?;
        self.report(environment.context(), "all but kernels configured");
        Ok(())
    }

    /// Unpacks the rest in as many rounds as `Pre-Depends` demand.
    fn rounds(
        &mut self,
        environment: &mut Environment<'_>,
        mut rest: BTreeSet<usize>,
        mut configured: BTreeSet<usize>,
    ) -> Result<(), ModuleError> {
        let mut unpacked = BTreeSet::new();
        while !rest.is_empty() {
            let missing = |index: &usize| self.plan.missing_pre_depends(*index, &configured);
            let mut ready: BTreeSet<_> =
                rest.iter().copied().filter(|index| missing(index).is_empty()).collect();
            let needed = rest.iter().flat_map(missing);
            let needed: BTreeSet<_> = needed.filter(|index| unpacked.contains(index)).collect();
            if ready.is_empty() && needed.is_empty() {
                // A cycle of Pre-Depends: nobody can do better than to begin somewhere.
                ready.clone_from(&rest);
            }
            if ready.is_empty() {
                let closure = self.plan.closure(needed);
                let closure: BTreeSet<_> = closure.difference(&configured).copied().collect();
                configure::configure(environment, &self.ids(&closure))?;
                configured.extend(closure);
                self.report(environment.context(), "configured for others");
                continue;
            }
            let order = self.plan.sorted(&ready);
            for deb in order.iter().filter_map(|index| self.debs.get(*index)) {
                configure::preinst(environment, deb)?;
            }
            self.report(environment.context(), "preinst scripts ran");
            self.commit(&order, false)?;
            self.report(environment.context(), "unpacked");
            rest.retain(|index| !ready.contains(index));
            unpacked.extend(ready);
        }
        Ok(())
    }

    /// Moves packages to their places and registers them.
    fn commit(&mut self, order: &[usize], first_round: bool) -> Result<(), ModuleError> {
        let mut commit = Commit::start(&self.tree, self.database, &mut self.owners, first_round)?;
        let mut registered = Vec::new();
        let mut taken: BTreeMap<String, BTreeSet<PathBuf>> = BTreeMap::new();
        let mut lists: HashMap<String, Vec<PathBuf>> = HashMap::new();
        for index in order {
            let Some(deb) = self.debs.get(*index) else { continue };
            let outcome = commit.package(deb, self.queue.take(*index)?)?;
            self.database.write_members(deb)?;
            if outcome.paths.iter().any(|path| is_kernel(path)) {
                self.kernels.insert(*index);
            }
            let id = deb.package.id();
            self.database.write_list(&id, &outcome.paths)?;
            if !deb.members.contains_key("md5sums") {
                self.database.write_sums(&id, &outcome.sums)?;
            }
            for (other, paths) in outcome.taken {
                taken.entry(other).or_default().extend(paths);
            }
            lists.insert(id, outcome.paths);
            registered.push((deb, outcome.conffile_sums));
        }
        commit.finish()?;
        for (other, paths) in &taken {
            self.database.unlist(other, paths)?;
        }
        let debs: Vec<_> = registered.iter().map(|(deb, _)| *deb).collect();
        // Whoever registers now is configured later anyway: only those who are configured are told.
        let interests = self.database.file_interests()?;
        let mut activations: BTreeMap<PathBuf, BTreeSet<String>> = BTreeMap::new();
        for (id, paths) in &lists {
            for trigger in paths.iter().flat_map(|path| path.ancestors()) {
                if let Some(interested) = interests.get(trigger) {
                    let awaiting = activations.entry(trigger.to_owned()).or_default();
                    if interested.iter().any(|package| !package.ends_with("/noawait")) {
                        awaiting.insert(id.clone());
                    }
                }
            }
        }
        self.database.register_interests(&debs)?;
        let registered: Vec<_> = registered.iter().map(|(deb, sums)| (*deb, sums.as_slice())).collect();
        self.database.register(&registered)?;
        self.database.activate(&activations)
    }

    fn ids(&self, packages: &BTreeSet<usize>) -> Vec<String> {
        packages.iter().filter_map(|index| Some(self.debs.get(*index)?.package.id())).collect()
    }

    fn is_named(&self, index: usize, name: &str) -> bool {
        self.debs.get(index).is_some_and(|deb| deb.package.name == name)
    }

    fn report(&self, context: &mut StageContext, what: &str) {
        context.say(format_args!("[{:.1} s] {what}", self.started.elapsed().as_secs_f64()));
    }
}

/// Whether a path is a kernel's, as `boot/vmlinuz-6.1.0-amd64`.
fn is_kernel(path: &Path) -> bool {
    let name = path.strip_prefix("boot").ok().and_then(Path::to_str);
    name.is_some_and(|name| name.starts_with("vmlinuz-") || name.starts_with("vmlinux-"))
}

/// Finds the packages that the tree does not have.
fn missing(
    debs: &[Deb],
    database: &Database,
    tree: &Tree,
    owners: &mut Owners,
    context: &mut StageContext,
) -> Result<BTreeSet<usize>, ModuleError> {
    let mut wanted: BTreeSet<_> = (0..debs.len()).collect();
    for installed in database.installed()? {
        let package = installed.package;
        let same =
            |deb: &Deb| deb.package.name == package.name && deb.package.architecture == package.architecture;
        if let Some(index) = debs.iter().position(same) {
            let new = debs.get(index).map(|deb| deb.package.version.clone());
            if installed.state != "installed" || new.as_ref() != Some(&package.version) {
                return Err(ModuleError::invalid(format!(
                    "package `{}`: the tree has version {} ({}), which this stage cannot replace",
                    package.name, package.version, installed.state
                )));
            }
            context.say(format_args!("Package {} {} is installed already.", package.name, package.version));
            wanted.remove(&index);
        }
        let paths = database.list(&package.id())?;
        owners.add(tree, package, &paths);
    }
    Ok(wanted)
}

/// The base first, in it and after it the largest first: no worker is left alone with a large one at the end.
fn unpacking_order(debs: &[Deb], wanted: &BTreeSet<usize>, base: &BTreeSet<usize>) -> Vec<usize> {
    let mut order: Vec<_> = wanted.iter().copied().collect();
    let size = |index: &usize| debs.get(*index).map_or(0, |deb| deb.data_size);
    order.sort_by_key(|index| (!base.contains(index), std::cmp::Reverse(size(index))));
    order
}

/// The staging directory, removed when it is no longer needed.
struct Staging {
    path: PathBuf,
}

impl Staging {
    fn create(tree: &Path) -> Result<Self, ModuleError> {
        let path = staging_directory(tree);
        std::fs::create_dir(&path).map_err(ModuleError::io("create directory", &path))?;
        Ok(Self { path })
    }

    fn remove(self) -> Result<(), ModuleError> {
        std::fs::remove_dir_all(&self.path).map_err(ModuleError::io("remove directory", &self.path))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After a failure, as well as it can be done; after `remove` there is nothing left.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
