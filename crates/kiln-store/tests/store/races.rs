//! Races, each forced: one handle of a cache is stopped between two steps, and another one acts there and then.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use kiln_store::cache::{
    Cache, CacheOptions, Commit, Entry, Hooks, LoadGuard, MaximumSize, Point, PruneOptions, PruneTarget,
    Refusal,
};
use kiln_testkit::fscache::content;
use kiln_testkit::fscache::shape::Shape;
use tempfile::TempDir;

use crate::common::scratch;

const SEED: u64 = 20;

/// A cache that two have open. What the first one does stops once at a point, where the second one acts.
struct Scene {
    first: Arc<Cache>,
    second: Arc<Cache>,
    armed: Arc<Mutex<Option<Trap>>>,
    sprung: Arc<AtomicBool>,
    directory: TempDir,
}

struct Trap {
    point: Point,
    /// So many times the point is passed before.
    skip: usize,
    act: Box<dyn FnOnce() + Send>,
}

impl Scene {
    /// Opens a cache with some entries, the first one used least recently.
    fn new(entries: &[&str]) -> Self {
        let directory = scratch();
        let armed: Arc<Mutex<Option<Trap>>> = Arc::default();
        let sprung = Arc::new(AtomicBool::new(false));
        let hooks = {
            let (armed, sprung) = (Arc::clone(&armed), Arc::clone(&sprung));
            Hooks::new(move |point| {
                let mut trap = armed.lock().expect("no panic before");
                match &mut *trap {
                    Some(set) if set.point == point && set.skip > 0 => set.skip -= 1,
                    Some(set) if set.point == point => {
                        let set = trap.take().expect("it is set");
                        drop(trap);
                        (set.act)();
                        sprung.store(true, Ordering::SeqCst);
                    }
                    _ => {}
                }
            })
        };
        let second = open(directory.path(), Hooks::default());
        second.set_maximum_size(MaximumSize::Unlimited).expect("maximum");
        for name in entries {
            keep(&second, name, None);
        }
        second.flush().expect("flush");
        let first = open(directory.path(), hooks);
        first.wait_for_reclaim();
        Self { first, second, armed, sprung, directory }
    }

    /// Has the second one act when the first one comes to a point.
    fn at(&self, point: Point, act: impl FnOnce(&Arc<Cache>) + Send + 'static) {
        self.at_later(point, 0, act);
    }

    /// The same, when the first one has passed the point some times.
    fn at_later(&self, point: Point, skip: usize, act: impl FnOnce(&Arc<Cache>) + Send + 'static) {
        let second = Arc::clone(&self.second);
        let trap = Trap { point, skip, act: Box::new(move || act(&second)) };
        *self.armed.lock().expect("no panic before") = Some(trap);
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The limit that just what is there now fits into, for both.
    fn fill_up(&self) {
        let size = self.second.size().expect("size");
        for cache in [&self.second, &self.first] {
            cache.set_maximum_size(MaximumSize::Bytes(size)).expect("maximum");
        }
    }

    /// Checks that the race took place, and that everything is exact, with these entries and no others.
    fn ends_with(self, entries: &[&str]) {
        assert!(self.sprung.load(Ordering::SeqCst), "the point was never passed");
        let shape = Shape::read(self.path()).expect("shape");
        assert_eq!(shape.wrong(), Vec::<String>::new());
        assert_eq!(shape.named.keys().collect::<Vec<_>>(), entries);
        for name in entries {
            let guard = self.second.load(name).expect("load").expect("a hit");
            content::check(&guard.data(), name).expect("whole");
        }
        // Nothing of the race is left, and nobody gives bytes back that were given back.
        self.second.reclaim().expect("reclaim");
        let shape = Shape::read(self.path()).expect("shape");
        assert_eq!(shape.wrong_at_rest(), Vec::<String>::new());
        assert_eq!(shape.named.keys().collect::<Vec<_>>(), entries);
    }
}

fn open(directory: &Path, hooks: Hooks) -> Arc<Cache> {
    Cache::open(directory, CacheOptions { hooks, ..CacheOptions::default() }).expect("open")
}

fn filled(cache: &Arc<Cache>, name: &str, recipe: Option<&str>) -> Entry {
    let mut entry = cache.store().expect("entry");
    if let Some(recipe) = recipe {
        entry.note_recipe(recipe);
    }
    content::fill_made_by(&entry.data(), name, SEED, recipe).expect("fill");
    entry
}

/// Commits an entry, which must be kept.
fn keep(cache: &Arc<Cache>, name: &str, recipe: Option<&str>) {
    let commit = filled(cache, name, recipe).commit(name).expect("commit");
    let Commit::Kept(guard) = commit else { panic!("{name}: {commit:?}") };
    content::check(&guard.data(), name).expect("whole");
}

/// Removes everything that is not in use, and says what went.
fn prune(cache: &Arc<Cache>) -> Vec<String> {
    let options = PruneOptions { target: PruneTarget::All, objects: true, downloads: true, dry_run: false };
    let report = cache.prune(&options).expect("prune");
    report.removed.into_iter().map(|pruned| pruned.name).collect()
}

fn recipe_of(guard: &LoadGuard) -> Option<String> {
    content::recipe(&guard.data())
}

#[test]
fn an_entry_goes_before_its_lock_is_taken() {
    let scene = Scene::new(&["a"]);
    scene.at(Point::Opened, |second| assert_eq!(prune(second), ["a"]));
    assert!(scene.first.load("a").expect("load").is_none());
    scene.ends_with(&[]);
}

#[test]
fn an_entry_is_made_anew_before_its_lock_is_taken() {
    let scene = Scene::new(&["a"]);
    scene.at(Point::Opened, |second| {
        assert_eq!(prune(second), ["a"]);
        keep(second, "a", Some("new"));
    });
    let guard = scene.first.load("a").expect("load").expect("the new one");
    assert_eq!(recipe_of(&guard).as_deref(), Some("new"));
    assert_eq!(prune(&scene.second), [""; 0], "the lock of the old one guards nothing");
    drop(guard);
    scene.ends_with(&["a"]);
}

#[test]
fn an_entry_whose_lock_is_taken_stays() {
    let scene = Scene::new(&["a"]);
    scene.at(Point::Locked, |second| assert_eq!(prune(second), [""; 0]));
    assert!(scene.first.load("a").expect("load").is_some());
    scene.ends_with(&["a"]);
}

#[test]
fn an_empty_directory_is_taken_for_left_behind() {
    let scene = Scene::new(&[]);
    scene.at(Point::DirectoryMade, |second| second.reclaim().expect("reclaim"));
    let entry = scene.first.stage().expect("it tries again");
    assert!(entry.data().is_dir());
    drop(entry);
    scene.ends_with(&[]);
}

#[test]
fn a_new_entry_is_not_taken_for_left_behind() {
    for point in [Point::LockLinked, Point::InfoWritten, Point::Accounted, Point::Named] {
        let scene = Scene::new(&["a"]);
        scene.at(point, |second| {
            second.reclaim().expect("reclaim");
            let third = open(second.directory(), Hooks::default());
            third.wait_for_reclaim();
        });
        keep(&scene.first, "b", None);
        scene.ends_with(&["a", "b"]);
    }
}

#[test]
fn a_name_is_taken_before_the_rename() {
    for point in [Point::LockLinked, Point::InfoWritten, Point::Accounted] {
        let scene = Scene::new(&["a"]);
        scene.at(point, |second| keep(second, "b", Some("theirs")));
        let commit = filled(&scene.first, "b", None).commit("b").expect("commit");
        let Commit::Exists(entry) = commit else { panic!("{point:?}: {commit:?}") };
        content::check(&entry.data(), "b").expect("it is what it was");
        let guard = scene.first.load("b").expect("load").expect("theirs");
        assert_eq!(recipe_of(&guard).as_deref(), Some("theirs"));
        drop((guard, entry));
        scene.ends_with(&["a", "b"]);
    }
}

#[test]
fn an_entry_that_lost_its_name_can_get_another_one() {
    let scene = Scene::new(&[]);
    scene.at(Point::Accounted, |second| keep(second, "b", None));
    let entry = scene.first.stage().expect("stage");
    content::fill(&entry.data(), "c", SEED).expect("fill");
    let Commit::Exists(entry) = entry.commit("b").expect("commit") else { panic!("the name is taken") };
    assert_eq!(Shape::read(scene.path()).expect("shape").wrong(), Vec::<String>::new());
    let commit = entry.commit("c").expect("commit");
    assert!(matches!(commit, Commit::Kept(_)), "{commit:?}");
    drop(commit);
    scene.ends_with(&["b", "c"]);
}

#[test]
fn everything_else_is_evicted_before_the_rename() {
    for point in [Point::InfoWritten, Point::Accounted] {
        let scene = Scene::new(&["a"]);
        scene.at(point, |second| assert_eq!(prune(second), ["a"]));
        keep(&scene.first, "b", None);
        scene.ends_with(&["b"]);
    }
}

#[test]
fn the_size_is_replaced_before_its_lock_is_taken() {
    // The first lock that a commit takes is the one of the size.
    for point in [Point::Opened, Point::InfoWritten] {
        let scene = Scene::new(&["a"]);
        let entry = filled(&scene.first, "b", None);
        scene.at(point, |second| keep(second, "c", None));
        drop(entry.commit("b").expect("commit"));
        scene.ends_with(&["a", "b", "c"]);
    }
}

#[test]
fn room_is_taken_by_somebody_else() {
    let scene = Scene::new(&["a", "b"]);
    scene.fill_up();
    assert_eq!(prune(&scene.second).len(), 2);
    keep(&scene.second, "a", None);
    // There is room for one more.
    scene.at(Point::InfoWritten, |second| keep(second, "c", None));
    keep(&scene.first, "d", None);
    let shape = Shape::read(scene.path()).expect("shape");
    assert!(Some(shape.size) <= shape.maximum, "{shape:?}");
    assert!(shape.named.contains_key("d"), "{shape:?}");
    let names: Vec<String> = shape.named.into_keys().collect();
    scene.ends_with(&names.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn a_new_entry_cannot_be_seen_before_it_is_let_go() {
    let scene = Scene::new(&[]);
    scene.at(Point::Named, |second| {
        assert!(second.load("b").expect("load").is_none(), "a contended entry is a miss");
        assert_eq!(prune(second), [""; 0]);
        let commit = filled(second, "b", None).commit("b").expect("commit");
        assert!(matches!(commit, Commit::Exists(_)), "{commit:?}");
    });
    keep(&scene.first, "b", None);
    scene.ends_with(&["b"]);
}

#[test]
fn the_least_recently_used_one_is_held_before_it_is_evicted() {
    let scene = Scene::new(&["old", "older", "young"]);
    scene.fill_up();
    let held: Arc<Mutex<Option<LoadGuard>>> = Arc::default();
    let guard = Arc::clone(&held);
    scene.at(Point::Chosen, move |second| {
        *guard.lock().expect("no panic") = second.load("old").expect("load");
    });
    keep(&scene.first, "x", None);
    let guard = held.lock().expect("no panic").take().expect("a hit");
    content::check(&guard.data(), "old").expect("nobody removes what is held");
    drop(guard);
    scene.ends_with(&["old", "x"]);
}

#[test]
fn the_least_recently_used_one_is_used_before_it_is_evicted() {
    let scene = Scene::new(&["old", "older", "young"]);
    scene.fill_up();
    scene.at(Point::Chosen, |second| drop(second.load("old").expect("load").expect("a hit")));
    keep(&scene.first, "x", None);
    scene.ends_with(&["old", "x"]);
}

#[test]
fn two_evict_the_same() {
    for point in [Point::Chosen, Point::Retired, Point::GivenBack] {
        let scene = Scene::new(&["a", "b", "c", "d"]);
        scene.fill_up();
        scene.at(point, |second| keep(second, "y", None));
        keep(&scene.first, "x", None);
        let shape = Shape::read(scene.path()).expect("shape");
        assert_eq!(shape.wrong(), Vec::<String>::new(), "{point:?}");
        assert!(Some(shape.size) <= shape.maximum, "{point:?}: {shape:?}");
        let names: Vec<String> = shape.named.into_keys().collect();
        assert!(names.contains(&"x".to_owned()), "{point:?}: {names:?}");
        scene.ends_with(&names.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

#[test]
fn an_evicted_name_is_given_again_before_the_rest_is_removed() {
    for point in [Point::Retired, Point::GivenBack] {
        let scene = Scene::new(&["a"]);
        scene.at(point, |second| {
            assert!(second.load("a").expect("load").is_none());
            second.reclaim().expect("the grave is in use");
            keep(second, "a", Some("new"));
        });
        assert_eq!(prune(&scene.first), ["a"], "{point:?}");
        let guard = scene.first.load("a").expect("load").expect("the new one");
        assert_eq!(recipe_of(&guard).as_deref(), Some("new"));
        drop(guard);
        scene.ends_with(&["a"]);
    }
}

#[test]
fn what_is_to_be_replaced_is_in_use() {
    let scene = Scene::new(&[]);
    keep(&scene.second, "r", Some("one"));
    let held: Arc<Mutex<Option<LoadGuard>>> = Arc::default();
    let guard = Arc::clone(&held);
    scene.at(Point::Accounted, move |second| {
        *guard.lock().expect("no panic") = second.load_made_by("r", "one").expect("load");
    });
    let commit = filled(&scene.first, "r", Some("two")).commit("r").expect("commit");
    let Commit::Refused(entry, Refusal::InUse) = commit else { panic!("{commit:?}") };
    let guard = held.lock().expect("no panic").take().expect("a hit");
    assert_eq!(recipe_of(&guard).as_deref(), Some("one"));
    drop(guard);
    // Now nobody uses it any more.
    let commit = entry.commit("r").expect("commit");
    let Commit::Kept(guard) = commit else { panic!("{commit:?}") };
    assert_eq!(recipe_of(&guard).as_deref(), Some("two"));
    drop(guard);
    scene.ends_with(&["r"]);
}

#[test]
fn what_is_to_be_replaced_goes_or_changes() {
    for recipe in [None, Some("one"), Some("two"), Some("three")] {
        let scene = Scene::new(&[]);
        keep(&scene.second, "r", Some("one"));
        scene.at(Point::Accounted, move |second| {
            assert_eq!(prune(second), ["r"]);
            if recipe.is_some() {
                keep(second, "r", recipe);
            }
        });
        let commit = filled(&scene.first, "r", Some("two")).commit("r").expect("commit");
        match &commit {
            Commit::Kept(guard) => assert_eq!(recipe_of(guard).as_deref(), Some("two")),
            Commit::Exists(_) => assert_eq!(recipe, Some("two"), "it is as good"),
            Commit::Refused(_, refusal) => panic!("{refusal}"),
        }
        drop(commit);
        scene.ends_with(&["r"]);
    }
}

#[test]
fn a_limit_is_set_twice() {
    let scene = Scene::new(&["a"]);
    scene.at(Point::Opened, |second| second.set_maximum_size(MaximumSize::Bytes(1 << 20)).expect("maximum"));
    scene.first.set_maximum_size(MaximumSize::Bytes(1 << 30)).expect("maximum");
    assert_eq!(Shape::read(scene.path()).expect("shape").maximum, Some(1 << 30), "the last one wins");
    scene.ends_with(&["a"]);
}

#[test]
fn a_build_lock_is_let_go_before_it_is_taken() {
    let scene = Scene::new(&[]);
    let held = Mutex::new(scene.second.try_build_lock("b").expect("try"));
    assert!(held.lock().expect("no panic").is_some());
    scene.at(Point::Opened, move |_| drop(held.into_inner().expect("no panic")));
    let lock = scene.first.try_build_lock("b").expect("try").expect("it is free");
    assert!(scene.second.try_build_lock("b").expect("try").is_none(), "there is one lock only");
    drop(lock);
    assert!(scene.second.try_build_lock("b").expect("try").is_some());
    scene.ends_with(&[]);
}

#[test]
fn whoever_opens_a_cache_never_has_it_alone_while_others_have_it_open() {
    let scene = Scene::new(&["a"]);
    let entry = filled(&scene.first, "b", None);
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    scene.at(Point::Accounted, move |second| {
        // Everything without a name would be left behind by somebody dead, if nobody else were there.
        let third = open(second.directory(), Hooks::default());
        third.wait_for_reclaim();
        count.fetch_add(1, Ordering::SeqCst);
    });
    drop(entry.commit("b").expect("commit"));
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    scene.ends_with(&["a", "b"]);
}
