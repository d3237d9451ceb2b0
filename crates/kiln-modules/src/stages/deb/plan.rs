//! What is unpacked and configured when.
//!
//! A fresh tree has no program to run a maintainer script with. So the *base*, the essential packages and all
//! that they depend on, is unpacked without asking its scripts, then its scripts run. The rest follows in
//! rounds: in each, the `preinst` scripts of all packages run whose `Pre-Depends` are configured, and then their
//! files are put in place; packages without a `preinst` need not wait for anybody. Nearly always there are two
//! such rounds.
//!
//! Invariant: every choice is made by names and dependencies alone, so the same packages give the same plan.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::archive::Deb;
use super::control::{Package, Relation};

/// Packages by their index, and what they need of each other.
pub(super) struct Plan<'a> {
    debs: &'a [Deb],
    by_name: HashMap<&'a str, Vec<usize>>,
}

impl<'a> Plan<'a> {
    /// Prepares a plan for packages sorted by name and architecture.
    pub(super) fn new(debs: &'a [Deb]) -> Self {
        let mut by_name: HashMap<_, Vec<_>> = HashMap::new();
        for (index, deb) in debs.iter().enumerate() {
            for name in deb.package.names() {
                by_name.entry(name).or_default().push(index);
            }
        }
        Self { debs, by_name }
    }

    /// The base: essential packages and all that they depend on.
    pub(super) fn base(&self) -> BTreeSet<usize> {
        let essential = self.debs.iter().enumerate().filter(|(_, deb)| deb.package.essential);
        self.closure(essential.map(|(index, _)| index))
    }

    /// The packages given and all that they depend on.
    pub(super) fn closure(&self, start: impl IntoIterator<Item = usize>) -> BTreeSet<usize> {
        let mut closure = BTreeSet::new();
        let mut waiting: Vec<_> = start.into_iter().collect();
        while let Some(index) = waiting.pop() {
            if closure.insert(index) {
                waiting.extend(self.needs(index));
            }
        }
        closure
    }

    /// The packages given and all that depend on them.
    pub(super) fn needing(&self, start: &BTreeSet<usize>) -> BTreeSet<usize> {
        let mut all = start.clone();
        loop {
            let before = all.len();
            let more =
                (0..self.debs.len()).filter(|index| self.needs(*index).iter().any(|need| all.contains(need)));
            let more: Vec<_> = more.collect();
            all.extend(more);
            if all.len() == before {
                return all;
            }
        }
    }

    /// Sorts packages so that each comes after those it depends on; cycles are cut at the name that comes last.
    pub(super) fn sorted(&self, packages: &BTreeSet<usize>) -> Vec<usize> {
        let mut sorted = Vec::with_capacity(packages.len());
        let mut seen = HashSet::new();
        // The directories of the others are in these two: what they say of modes must come first.
        let first = ["base-files", "base-passwd"].iter().filter_map(|name| self.by_name.get(name)).flatten();
        for index in first.filter(|index| packages.contains(index)) {
            if seen.insert(*index) {
                sorted.push(*index);
            }
        }
        for index in packages {
            self.visit(*index, packages, &mut seen, &mut sorted);
        }
        sorted
    }

    /// What must be configured before the package's `preinst` may run, unless it is configured already.
    pub(super) fn missing_pre_depends(&self, index: usize, configured: &BTreeSet<usize>) -> BTreeSet<usize> {
        let Some(deb) = self.debs.get(index).filter(|deb| deb.members.contains_key("preinst")) else {
            return BTreeSet::new();
        };
        let groups = deb.package.pre_depends.iter();
        groups
            .filter(|group| {
                !group.iter().any(|one| self.providers(one).any(|found| configured.contains(&found)))
            })
            .filter_map(|group| group.iter().find_map(|relation| self.providers(relation).next()))
            .filter(|needed| *needed != index)
            .collect()
    }

    fn visit(
        &self,
        index: usize,
        among: &BTreeSet<usize>,
        seen: &mut HashSet<usize>,
        sorted: &mut Vec<usize>,
    ) {
        // Not recursive: chains of dependencies are as long as distributions like.
        let mut path = vec![(index, None)];
        while let Some((current, needs)) = path.pop() {
            let mut needs: std::vec::IntoIter<usize> = match needs {
                Some(needs) => needs,
                None if !among.contains(&current) || !seen.insert(current) => continue,
                None => self.needs(current).into_iter(),
            };
            match needs.next() {
                Some(next) => {
                    path.push((current, Some(needs)));
                    path.push((next, None));
                }
                None => sorted.push(current),
            }
        }
    }

    fn needs(&self, index: usize) -> Vec<usize> {
        let Some(package) = self.debs.get(index).map(|deb| &deb.package) else { return Vec::new() };
        let groups = package.pre_depends.iter().chain(&package.depends);
        groups.filter_map(|group| group.iter().find_map(|relation| self.providers(relation).next())).collect()
    }

    fn providers<'b>(&'b self, relation: &'b Relation) -> impl Iterator<Item = usize> + 'b {
        let candidates = self.by_name.get(relation.name.as_str()).into_iter().flatten().copied();
        candidates.filter(|index| self.package(*index).is_some_and(|package| package.satisfies(relation)))
    }

    fn package(&self, index: usize) -> Option<&Package> {
        self.debs.get(index).map(|deb| &deb.package)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use super::super::control::package;
    use super::*;

    fn debs(stanzas: &[(&str, &str)]) -> Vec<Deb> {
        let deb = |(name, rest): &(&str, &str)| {
            let script = rest.contains("Pre-Depends").then(|| ("preinst".to_owned(), Vec::new()));
            Deb {
                path: PathBuf::new(),
                package: package(&format!("Package: {name}\nVersion: 1\nArchitecture: all\n{rest}")),
                members: script.into_iter().collect::<BTreeMap<_, _>>(),
                data_size: 0,
            }
        };
        stanzas.iter().map(deb).collect()
    }

    fn names(debs: &[Deb], indices: impl IntoIterator<Item = usize>) -> String {
        let names: Vec<_> = indices.into_iter().map(|index| debs[index].package.name.as_str()).collect();
        names.join(" ")
    }

    #[test]
    fn the_base_is_what_essential_packages_need() {
        let debs = debs(&[
            ("awk", "Provides: interpreter\n"),
            ("base-files", "Essential: yes\nPre-Depends: interpreter\n"),
            ("libc", ""),
            ("server", "Depends: libc\n"),
            ("shell", "Essential: yes\nDepends: other | libc (>= 1)\n"),
        ]);
        let plan = Plan::new(&debs);
        assert_eq!(names(&debs, plan.base()), "awk base-files libc shell");
        assert_eq!(names(&debs, plan.sorted(&plan.base())), "base-files awk libc shell");
    }

    #[test]
    fn dependencies_come_first_and_cycles_end() {
        let debs = debs(&[("a", "Depends: b\n"), ("b", "Depends: c\n"), ("c", "Depends: a, d\n"), ("d", "")]);
        let plan = Plan::new(&debs);
        assert_eq!(names(&debs, plan.sorted(&(0..4).collect())), "d c b a");
    }

    #[test]
    fn a_preinst_waits_for_what_it_needs() {
        let debs = debs(&[("daemon", "Pre-Depends: library\n"), ("library", "")]);
        let plan = Plan::new(&debs);
        assert_eq!(plan.missing_pre_depends(0, &BTreeSet::new()), BTreeSet::from([1]));
        assert_eq!(plan.missing_pre_depends(0, &BTreeSet::from([1])), BTreeSet::new());
        assert_eq!(plan.missing_pre_depends(1, &BTreeSet::new()), BTreeSet::new());
    }
}
