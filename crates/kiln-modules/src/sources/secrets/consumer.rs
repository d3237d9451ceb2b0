//! The secrets `org.osbuild.rhsm.consumer`: the certificate by which a subscribed Red Hat system is known.
//!
//! There is one for each system, whatever the URL. Containers have none: they are not given it with the host's secrets.

use std::path::Path;

use super::Identity;

/// The identity of the system whose root directory is given.
pub(super) fn identity(root: &Path) -> Result<Identity, String> {
    let [certificate, key] =
        ["etc/pki/consumer/cert.pem", "etc/pki/consumer/key.pem"].map(|path| root.join(path));
    if certificate.exists() && key.exists() {
        return Ok(Identity { authority: None, certificate, key });
    }
    Err(format!(
        "no `org.osbuild.rhsm.consumer` secrets: looked for `{}` and `{}`, which a system has once it is registered",
        certificate.display(),
        key.display()
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn both_files_have_to_be_there() {
        let root = tempfile::tempdir().expect("tempdir");
        let directory = root.path().join("etc/pki/consumer");
        fs::create_dir_all(&directory).expect("made");
        for file in ["cert.pem", "key.pem"] {
            let error = identity(root.path()).expect_err("not all is there");
            for file in ["cert.pem", "key.pem"] {
                assert!(error.contains(&directory.join(file).display().to_string()), "{error}");
            }
            fs::write(directory.join(file), "").expect("written");
        }
        let found = identity(root.path()).expect("all is there");
        assert_eq!(
            found,
            Identity {
                authority: None,
                certificate: directory.join("cert.pem"),
                key: directory.join("key.pem"),
            }
        );
    }
}
