//! Processes that die by SIGKILL, wherever they are.
//!
//! The test program starts itself as the process that is going to die.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use kiln_store::cache::{Cache, CacheOptions, Commit, MaximumSize};

use crate::common::{GO_ON, scratch};

const VARIABLE: &str = "KILN_STORE_CRASH";

/// Starts a process that works in the cache, and waits until it says that it does.
pub(crate) fn start(directory: &Path, work: &str) -> Child {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "crash::the_process_that_dies", "--ignored", "--nocapture"])
        .env(VARIABLE, format!("{work}:{}", directory.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("start");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    // The line may follow words of the test program.
    assert!(lines.any(|line| line.is_ok_and(|line| line.ends_with("at work"))), "{work}");
    child
}

pub(crate) fn kill(mut child: Child) {
    child.kill().expect("kill");
    let status = child.wait().expect("wait");
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(9),
        "it did not fail before: {status}"
    );
}

#[test]
#[ignore = "started by the other tests of this file"]
fn the_process_that_dies() {
    let Ok(value) = std::env::var(VARIABLE) else { return };
    let (work, directory) = value.split_once(':').expect("WORK:DIRECTORY");
    let cache = Cache::open(Path::new(directory), CacheOptions::default()).expect("open");
    let say = || {
        use std::io::Write;
        std::io::stdout().write_all(b"at work\n").expect("write");
    };
    match work {
        "fill" => {
            let _building = cache.build_lock("name", &GO_ON).expect("build lock");
            let (staged, stored) = (cache.stage().expect("stage"), cache.store().expect("store"));
            let temporary = cache.temporary_directory("x").expect("temporary");
            for directory in [staged.data(), stored.data(), temporary.path().to_owned()] {
                fs::write(directory.join("file"), vec![1; 100_000]).expect("fill");
            }
            say();
            loop {
                std::thread::park();
            }
        }
        _ => {
            say();
            for round in 0_usize.. {
                let name = format!("n{}", round % 7);
                if cache.load(&name).expect("load").is_none() {
                    let entry = if round % 2 == 0 { cache.stage() } else { cache.store() }.expect("entry");
                    fs::write(entry.data().join("file"), vec![1; 40_000]).expect("fill");
                    drop(entry.commit(&name).expect("commit"));
                }
            }
        }
    }
}

fn unlimited(directory: &Path) -> std::sync::Arc<Cache> {
    let cache = Cache::open(directory, CacheOptions::default()).expect("open");
    cache.set_maximum_size(MaximumSize::Unlimited).expect("maximum");
    cache
}

fn count(directory: &Path) -> usize {
    fs::read_dir(directory).expect("list").count()
}

#[test]
fn a_killed_builder_leaves_nothing_and_blocks_nobody() {
    let scratch = scratch();
    let cache = unlimited(scratch.path());
    let child = start(scratch.path(), "fill");
    assert!(cache.try_build_lock("name").expect("try").is_none());
    cache.reclaim().expect("reclaim");
    assert_eq!(count(&scratch.path().join("stage")), 1, "it lives");
    kill(child);
    drop(cache.build_lock("name", &GO_ON).expect("a dead builder's lock is free"));
    cache.reclaim().expect("reclaim");
    assert_eq!(count(&scratch.path().join("stage")), 0);
    assert_eq!(count(&scratch.path().join("objects")), 0);
    assert_eq!(count(&scratch.path().join("tmp")), 1, "the directory of the build locks");
    assert_eq!(cache.size().expect("size"), 0);
}

#[test]
fn killed_at_any_point_no_entry_is_half_there_and_sizes_are_exact() {
    let scratch = scratch();
    let cache = unlimited(scratch.path());
    // Two entries fit: committing and evicting all the time.
    let entry = cache.store().expect("entry");
    fs::write(entry.data().join("file"), vec![1; 40_000]).expect("fill");
    let commit = entry.commit("n0").expect("commit");
    assert!(matches!(commit, Commit::Kept(_)), "{commit:?}");
    drop(commit);
    let maximum = cache.size().expect("size") * 5 / 2;
    cache.set_maximum_size(MaximumSize::Bytes(maximum)).expect("maximum");
    drop(cache);
    for round in 0..12_u64 {
        let child = start(scratch.path(), "churn");
        let other = start(scratch.path(), "churn");
        // Some system calls later, at a different point each time.
        std::thread::sleep(std::time::Duration::from_micros(300 + round * 1700));
        kill(child);
        kill(other);
        let cache = Cache::open(scratch.path(), CacheOptions::default()).expect("open");
        cache.wait_for_reclaim();
        let mut expected = 0;
        for found in fs::read_dir(scratch.path().join("objects")).expect("list") {
            let name = found.expect("entry").file_name().into_string().expect("a name");
            let guard = cache.load(&name).expect("load").expect("what has a name is whole");
            assert_eq!(fs::metadata(guard.data().join("file")).expect("file").len(), 40_000);
            expected += guard.info()["size"].as_u64().expect("size");
        }
        assert_eq!(cache.size().expect("size"), expected);
        assert!(expected <= maximum);
        assert_eq!(count(&scratch.path().join("stage")), 0);
    }
}
