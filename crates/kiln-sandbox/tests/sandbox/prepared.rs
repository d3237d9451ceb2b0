//! A prepared build root is the same as one that the runner prepares for each stage.

use kiln_sandbox::{PrepareRoot, Program, StageRoot, finish_prepared};

use crate::fixture::{self, Fixture, Test, output};

pub(crate) const TESTS: &[Test] =
    &[("root_prepared_is_the_same_as_preparing", prepared_is_the_same_as_preparing)];

fn prepared_is_the_same_as_preparing() {
    let fixture = Fixture::new();
    let executable = std::env::current_exe().expect("own path");
    let (into, root, dev) = (fixture.path("prepared"), fixture.path("root"), fixture.path("dev"));
    std::fs::create_dir(&into).expect("directory");
    let preparing = PrepareRoot {
        root: &root,
        boot: true,
        dev: &dev,
        runner: Program { path: &executable, name: "org.osbuild.runner" },
        terminal: "dumb",
        into: &into,
    };
    assert_eq!(output(&preparing.plan()), "");
    finish_prepared(&into).expect("finishes");

    let fresh = output(&fixture.plan(&["prepare-and-facts"]));
    let other = Fixture::new();
    let plan = fixture::plan(&StageRoot { prepared: Some(&into), ..other.facts() }, &["tree"]);
    assert_eq!(plan.arguments, ["/run/osbuild/bin/org.osbuild.module", "tree"]);
    let prepared = output(&plan);
    assert_eq!(prepared, fresh);
    insta::assert_snapshot!(prepared, @r#"
    / 40000 0755 0:0 ""
    /bin -> usr/bin ""
    /etc 40000 0755 0:0 ""
    /etc/ld.so.cache 100000 0644 0:0 "cache"
    /etc/mke2fs.conf 100000 0644 0:0 "[defaults]\n"
    /etc/mtab -> ../proc/self/mounts ""
    /etc/selinux 40000 0755 0:0 ""
    /etc/selinux/config 100000 0644 0:0 "SELINUX=disabled\n"
    /etc/shadow 100000 0640 0:42 "root:*:"
    /lib -> usr/lib ""
    /lib64 -> usr/lib64 ""
    /run 40000 0755 0:0 ""
    /run/lock 40000 1777 1:2 ""
    /sbin -> usr/sbin ""
    /srv 40000 2750 0:0 ""
    /srv/file 100000 0600 0:0 "x"
    /tmp 40000 1777 0:0 ""
    /var 40000 0755 0:0 ""
    /var/lib 40000 0755 0:0 ""
    /var/lib/thing 40000 0755 0:0 ""
    /var/lib/thing/state 100000 4711 0:0 ""
    /var/tmp 40000 1777 0:0 ""
    "#);
    // And once more: the first stage did not change it.
    let third = Fixture::new();
    let plan = fixture::plan(&StageRoot { prepared: Some(&into), ..third.facts() }, &["tree"]);
    assert_eq!(output(&plan), fresh);
}
