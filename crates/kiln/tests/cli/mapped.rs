//! Interruption of builds with mappings: LVM in LUKS in a file. They need a device mapper, and so a guest.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kiln_testkit::host;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::manifests::{add_url, checksum, copy_tree_to_disk, libraries, manifest, mkdir, pipeline};
use crate::world::{World, finish, names, wait_for};

/// What the build root has.
const PROGRAMS: [&str; 4] = ["/usr/bin/cp", "/usr/sbin/cryptsetup", "/usr/sbin/lvm", "/usr/sbin/mke2fs"];
/// Under these names, too.
const LINKS: [(&str, &str); 4] = [
    ("/usr/sbin/lvcreate", "lvm"),
    ("/usr/sbin/mkfs.ext4", "mke2fs"),
    ("/usr/sbin/pvcreate", "lvm"),
    ("/usr/sbin/vgcreate", "lvm"),
];

/// An archive with the programs and their libraries: its checksum.
fn build_root(world: &World) -> String {
    let root = world.path("root");
    for directory in ["usr/bin", "usr/lib", "usr/lib64", "usr/sbin", "boot", "etc"] {
        fs::create_dir_all(root.join(directory)).expect("made");
    }
    let copy = |from: &Path, to: &Path| {
        let to = root.join(to.strip_prefix("/").expect("absolute"));
        fs::copy(from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    };
    for program in PROGRAMS {
        copy(Path::new(program), Path::new(program));
        for library in libraries(program) {
            let name = library.file_name().expect("a name").to_str().expect("UTF-8");
            // The loader is where programs say it is; it looks for libraries in `/usr/lib`.
            let place = if name.starts_with("ld-") { "lib64" } else { "lib" };
            copy(&library, &Path::new("/usr").join(place).join(name));
        }
    }
    for (name, target) in LINKS {
        std::os::unix::fs::symlink(target, root.join(name.trim_start_matches('/'))).expect("a link");
    }
    let archive = world.path("root.tar");
    let packed = Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&archive).arg(".").status();
    assert!(packed.expect("tar").success());
    fs::remove_dir_all(&root).expect("removed");
    checksum(&fs::read(&archive).expect("the archive"))
}

/// An image with a file system in a volume in a container, different for every name.
fn encrypted_disk(world: &World, root: &str, name: &str) -> Value {
    let disk = || json!({"type": "org.osbuild.loopback", "options": {"filename": "disk.img"}});
    let luks = || json!({"type": "org.osbuild.luks2", "parent": "disk", "options": {"passphrase": "secret"}});
    let volume = || json!({"type": "org.osbuild.lvm2.lv", "parent": "luks", "options": {"volume": "root"}});
    let whole = || json!({"disk": disk(), "luks": luks(), "device": volume()});
    let mut copy = copy_tree_to_disk("tree");
    copy["devices"] = whole();
    let mut result = manifest(&[]);
    let mut image = pipeline(
        "image",
        &[
            json!({"type": "org.osbuild.truncate", "options": {"filename": "disk.img", "size": "32M"}}),
            json!({
                "type": "org.osbuild.luks2.format",
                "options": {
                    "passphrase": "secret", "uuid": "0a9f5c2e-3d0b-4f0c-8a53-6f2d6f0f7a11", "label": name,
                    "pbkdf": {"method": "pbkdf2", "iterations": 1000},
                },
                "devices": {"device": disk()},
            }),
            json!({
                "type": "org.osbuild.lvm2.create",
                "options": {"volumes": [{"name": "root", "extents": "100%FREE"}]},
                "devices": {"disk": disk(), "device": luks()},
            }),
            json!({
                "type": "org.osbuild.mkfs.ext4",
                "options": {"uuid": "0a9f5c2e-3d0b-4f0c-8a53-6f2d6f0f7a12", "label": "root"},
                "devices": whole(),
            }),
            copy,
        ],
    );
    image["build"] = json!("name:build");
    let unpack = json!({
        "type": "org.osbuild.untar",
        "inputs": {"file": {"type": "org.osbuild.files", "origin": "org.osbuild.source", "references": [root]}},
    });
    let build = json!({"name": "build", "runner": "org.osbuild.linux", "stages": [unpack]});
    let mut tree = pipeline("tree", &[mkdir(&["/etc", "/usr", "/usr/bin"])]);
    tree["build"] = json!("name:build");
    result["pipelines"] = json!([build, tree, image]);
    add_url(&mut result, root, &format!("file://{}", world.path("root.tar").display()));
    result
}

/// Numbers that look random and depend on the seed only (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Up to a time.
    fn within(&mut self, limit: Duration) -> Duration {
        let limit = u64::try_from(limit.as_micros()).expect("a short time").max(1);
        Duration::from_micros(self.next() % limit)
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|number| number.parse().expect(variable))
}

/// The mappings that there are. Those that have no content yet are not in sysfs.
fn mappings() -> Vec<String> {
    let blocks = names(Path::new("/sys/block")).into_iter().filter(|name| name.starts_with("dm-"));
    let seen: Vec<String> =
        blocks.map(|name| fs::read_to_string(format!("/sys/block/{name}/dm/name")).unwrap_or(name)).collect();
    if !seen.is_empty() {
        return seen;
    }
    let listed = Command::new("dmsetup").arg("ls").output().expect("dmsetup").stdout;
    let listed = String::from_utf8(listed).expect("UTF-8");
    listed.lines().filter(|line| *line != "No devices found").map(str::to_owned).collect()
}

/// Each build goes on after the last stage that the one before has ended, so that the kills are spread over all
/// stages without each one being waited for from the start. `KILN_TEST_KILLS` says how many there are, and `KILN_TEST_SEED`
/// makes them come at the same times again.
#[test]
#[ignore = "runs in the guest: cargo xtask guest-test"]
fn guest_killed_at_any_moment_of_a_build_with_mappings() {
    if !host::provided("LVM in LUKS", &[host::CRYPTSETUP, host::LVM]) {
        return;
    }
    let kills = number("KILN_TEST_KILLS").unwrap_or(12);
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_nanos() as u64;
    let seed = number("KILN_TEST_SEED").unwrap_or_else(clock);
    let mut random = Random(seed);
    let world = World::new();
    let root = build_root(&world);
    let encrypted_disk = |name: &str| encrypted_disk(&world, &root, name);
    let words =
        ["--export", "image", "--output-directory", "output", "--checkpoint", "*", "--progress", "none"];
    let build = |name: &str| world.build(&encrypted_disk(name), &words).succeeded();
    // With the build root, and with what the kernel has to load: several times as long as those that follow.
    let start = Instant::now();
    build("first");
    let longest = start.elapsed() / 4;
    let (mut round, mut ended, mut killed) = (0, 0, [0; 3]);
    let begin = Instant::now();
    for kill in 0..kills {
        let by = match random.next() % 8 {
            0 => Signal::INT,
            1 => Signal::TERM,
            _ => Signal::KILL,
        };
        let moment = random.within(longest);
        let manifest = encrypted_disk(&format!("round-{round}"));
        let mut run = world.build_command(&manifest, &words).spawn().expect("started");
        let over = wait_for_end(&mut run, moment);
        let what = format!("kill {kill} with {by:?} after {moment:?}, seed {seed}");
        if !over {
            kill_process(Pid::from_child(&run), by).expect("it was not waited for");
        }
        let finished = finish(run);
        match finished.code() {
            Some(0) => {
                ended += 1;
                round += 1;
            }
            // In its first milliseconds it leaves signals to the kernel: there is nothing to take away yet.
            Some(130) | None if by != Signal::KILL => killed[usize::from(by == Signal::TERM)] += 1,
            None => killed[2] += 1,
            _ => panic!("{what}: {}", finished.shown()),
        }
        assert!(wait_for(|| mappings().is_empty().then_some(())).is_some(), "{what}: left {:?}", mappings());
        let left = world.left_in_time();
        assert!(left.is_empty(), "{what}: left behind:\n{}", left.join("\n"));
    }
    let spent = begin.elapsed() / u32::try_from(kills.max(1)).expect("a number");
    let [int, term, kill] = killed;
    let figures = format!(
        "seed {seed}: {kill} builds ended by SIGKILL, {int} by SIGINT, {term} by SIGTERM; {ended} were faster; {spent:.1?} each"
    );
    build(&format!("round-{round}"));
    world.assert_nothing_left();
    world.assert_sound();
    assert_eq!(mappings(), [""; 0]);
    // What the dead have marked for udev is taken away by those who come after them.
    assert_eq!(names(Path::new("/run/osbuild/locks/udev")), [""; 0]);
    let image = world.path("output/image/disk.img");
    assert_eq!(fs::read(image).expect("the image")[..6], *b"LUKS\xba\xbe");
    use std::io::Write as _;
    writeln!(std::io::stderr(), "{figures}").expect("written");
}

/// Waits for the end of a program for some time; whether it has ended.
fn wait_for_end(run: &mut std::process::Child, time: Duration) -> bool {
    let moment = Instant::now() + time;
    while let Some(left) = moment.checked_duration_since(Instant::now()) {
        if run.try_wait().expect("a child").is_some() {
            return true;
        }
        std::thread::park_timeout(left.min(Duration::from_millis(20)));
    }
    run.try_wait().expect("a child").is_some()
}
