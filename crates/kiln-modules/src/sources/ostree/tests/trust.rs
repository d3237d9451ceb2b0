//! Who is trusted: keys that sign commits, certificates of servers and clients.

use super::*;

/// A key pair, and its public key as a text.
struct Key {
    home: TempDir,
    public: String,
}

impl Key {
    fn new(name: &str) -> Self {
        // The agent's socket has a short path.
        let home = tempfile::Builder::new().prefix("kg").tempdir_in("/tmp").expect("tempdir");
        let mut key = Self { home, public: String::new() };
        key.gpg(&["--quick-generate-key", name, "ed25519", "sign", "never"]);
        key.public = key.gpg(&["--armor", "--export", name]);
        key
    }

    fn gpg(&self, arguments: &[&str]) -> String {
        let mut gpg = Command::new("gpg");
        let gpg =
            gpg.env("GNUPGHOME", self.home.path()).args(["--batch", "--passphrase", ""]).args(arguments);
        let output = gpg.output().expect("run");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    fn home(&self) -> String {
        format!("--gpg-homedir={}", self.home.path().display())
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        // The agent lives on otherwise.
        let _ = Command::new("gpgconf")
            .args(["--homedir"])
            .arg(self.home.path())
            .args(["--kill", "all"])
            .status();
    }
}

#[test]
fn with_keys_only_what_they_have_signed_is_taken() {
    let Some(world) = World::new("with_keys_only_what_they_have_signed_is_taken") else { return };
    let (good, bad) = (Key::new("good@example.invalid"), Key::new("bad@example.invalid"));
    let signed = world.commit(&[("a", "a")], &["--gpg-sign=good@example.invalid", &good.home()]);
    let unsigned = world.commit(&[("b", "b")], &[]);
    let remote = |keys: &[&str]| json!({"url": world.url(), "gpgkeys": keys});

    let error = world.pull(&signed, remote(&[&bad.public])).expect_err("another key");
    assert!(error.contains("public key not found") || error.contains("NO_PUBKEY"), "{error}");
    let error = world.pull(&unsigned, remote(&[&good.public])).expect_err("no signature");
    assert!(error.to_lowercase().contains("signature"), "{error}");
    let error = world.pull(&signed, remote(&["no key"])).expect_err("no key at all");
    assert!(error.contains("a key of `gpgkeys` cannot be read"), "{error}");
    assert!(!world.has(&signed) && !world.has(&unsigned));

    world.pull(&signed, remote(&[&bad.public, &good.public])).expect("one of them");
    world.pull(&unsigned, json!({"url": world.url()})).expect("nobody asks for signatures");
    world.is_sound();
    // The signature came with the commit.
    let shown = world.ostree(&format!("sources/{CONTENT_TYPE}/repo"), &["show", &signed]);
    assert!(shown.contains("signature"), "{shown}");
}
