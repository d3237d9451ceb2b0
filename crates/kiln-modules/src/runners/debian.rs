//! `org.osbuild.debian`: build roots of Debian.

use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::stage::Runner;

use super::tools;

/// The runner.
pub(crate) const RUNNER: Runner = Runner {
    name: "org.osbuild.debian",
    documentation: "Runs stages in a build root of Debian. Makes the cache of the dynamic linker, the system users, \
                    and the directories that the build root's packages declare, with the build root's own \
                    `ldconfig`, `systemd-sysusers` and `systemd-tmpfiles`, as far as it has them.",
    prepare,
};

fn prepare(root: &Path) -> Result<(), ModuleError> {
    tools::ldconfig(root)?;
    tools::sysusers(root)?;
    tools::tmpfiles(root)?;
    tools::nsswitch(root)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A root whose tools write down how they are called, and end as told.
    fn root_with(tools: &[(&str, i32)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("tempdir");
        for name in ["etc", "usr/bin", "usr/sbin"] {
            fs::create_dir_all(root.path().join(name)).expect(name);
        }
        let log = root.path().join("log");
        for (tool, code) in tools {
            let path = root.path().join(tool);
            let text = format!(
                "#!/bin/sh\necho ${{0##*/}} \"$@\" >> {}\necho no luck >&2\nexit {code}\n",
                log.display()
            );
            fs::write(&path, text).expect(tool);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect(tool);
        }
        root
    }

    const ALL: [(&str, i32); 3] =
        [("usr/sbin/ldconfig", 0), ("usr/bin/systemd-sysusers", 0), ("usr/bin/systemd-tmpfiles", 0)];

    #[test]
    fn the_tools_run_in_order() {
        let root = root_with(&ALL);
        fs::write(root.path().join("etc/nsswitch.conf"), "hosts: resolve\n").expect("nsswitch");
        prepare(root.path()).expect("prepares");
        let path = root.path().display();
        assert_eq!(
            fs::read_to_string(root.path().join("log")).expect("log"),
            format!(
                "ldconfig -r {path}\nsystemd-sysusers --root={path}\nsystemd-tmpfiles --create --root={path}\n"
            )
        );
        assert!(!root.path().join("etc/nsswitch.conf").exists());
        assert_eq!(fs::read_to_string(root.path().join("etc/ld.so.conf")).expect("made"), "");
    }

    #[test]
    fn a_minimal_root_needs_no_tools() {
        let root = root_with(&[]);
        prepare(root.path()).expect("prepares");
        assert!(!root.path().join("etc/ld.so.conf").exists());
    }

    #[test]
    fn only_tmpfiles_may_fail() {
        for (failing, succeeds) in [(0, false), (1, false), (2, true)] {
            let mut tools = ALL;
            let (tool, code) = &mut tools[failing];
            *code = 3;
            let tool = tool.rsplit('/').next().expect("name").to_owned();
            let root = root_with(&tools);
            match prepare(root.path()) {
                Ok(()) => assert!(succeeds, "{tool}"),
                Err(error) => {
                    assert!(!succeeds, "{tool}");
                    let error = error.to_string();
                    assert!(
                        error.ends_with("failed with exit status 3: no luck") && error.contains(&tool),
                        "{error}"
                    );
                }
            }
        }
    }
}
