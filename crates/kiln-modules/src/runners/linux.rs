//! `org.osbuild.linux`: the least that any build root needs.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use kiln_api::ModuleError;
use kiln_api::stage::Runner;

/// The only user of a build root that has none.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n";

/// The runner.
pub(crate) const RUNNER: Runner = Runner {
    name: "org.osbuild.linux",
    documentation: "Runs stages in a build root of any distribution. Makes sure that there is a user database with \
                    `root` in it, which some container tools insist on.",
    prepare,
};

fn prepare(root: &Path) -> Result<(), ModuleError> {
    let path = root.join("etc/passwd");
    match File::create_new(&path) {
        Ok(mut file) => file.write_all(PASSWD.as_bytes()).map_err(ModuleError::io("write", &path)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(ModuleError::io("create", &path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_missing_user_database_is_made_and_an_existing_one_kept() {
        let root = tempfile::tempdir().expect("tempdir");
        let path = root.path().join("etc/passwd");
        fs::create_dir(root.path().join("etc")).expect("etc");
        prepare(root.path()).expect("prepares");
        assert_eq!(fs::read_to_string(&path).expect("passwd"), PASSWD);
        fs::write(&path, "root:x:0:0::/:/bin/sh\n").expect("passwd");
        prepare(root.path()).expect("prepares");
        assert_eq!(fs::read_to_string(&path).expect("passwd"), "root:x:0:0::/:/bin/sh\n");
    }

    #[test]
    fn a_root_without_etc_is_reported_by_path() {
        let root = tempfile::tempdir().expect("tempdir");
        let error = prepare(root.path()).expect_err("no etc").to_string();
        let expected = format!("cannot create `{}/etc/passwd`: ", root.path().display());
        assert!(error.starts_with(&expected), "{error}");
    }
}
