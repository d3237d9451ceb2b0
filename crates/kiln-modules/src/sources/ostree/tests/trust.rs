//! Who is trusted: keys that sign commits, certificates of servers and clients.

use kiln_testkit::tls::Authority;

use super::*;

const CA: &str = "OSBUILD_SOURCES_OSTREE_SSL_CA_CERT";
const CERTIFICATE: &str = "OSBUILD_SOURCES_OSTREE_SSL_CLIENT_CERT";
const KEY: &str = "OSBUILD_SOURCES_OSTREE_SSL_CLIENT_KEY";

#[test]
fn servers_and_clients_show_their_certificates() {
    let name = "servers_and_clients_show_their_certificates";
    let authority = Authority::new();
    let Some(mut world) = World::with(name, || authority.server("127.0.0.1", true)) else { return };
    let files = authority.write(world.directory.path());
    let [ca, certificate, key] = [files.authority, files.certificate, files.key]
        .map(|path| path.into_os_string().into_string().expect("UTF-8"));
    let commit = world.commit(&[("a", "a")], &[]);
    let mtls = json!({"url": world.url(), "secrets": {"name": "org.osbuild.mtls"}});
    let plain = json!({"url": world.url()});
    let client = [(CERTIFICATE, certificate.as_str()), (KEY, key.as_str())];
    let mut pull = |remote: &Value, variables: &[(&str, &str)]| {
        let search = world.environment.remove_entry("PATH").expect("a path");
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        world.environment = variables.chain([search]).collect();
        world.pull(&commit, remote)
    };
    let insecure = ("OSBUILD_SOURCES_OSTREE_INSECURE", "true");

    // Not the server's, not the client's, and neither where a remote has no secrets.
    pull(&mtls, &client).expect_err("the server is not known");
    pull(&mtls, &[(CA, &ca)]).expect_err("the server wants to know who it is");
    pull(&mtls, &[insecure]).expect_err("the server still wants to know");
    pull(&plain, &[client[0], client[1], (CA, &ca), insecure])
        .expect_err("these are for remotes with secrets");
    let error = pull(&mtls, &client[..1]).expect_err("half of it");
    assert!(error.contains(KEY), "{error}");

    let proxy = Server::start();
    let through = ("OSBUILD_SOURCES_OSTREE_PROXY", proxy.url(""));
    pull(&mtls, &[client[0], client[1], (CA, &ca), (through.0, &through.1)]).expect("both are known");
    assert!(proxy.requests().iter().all(|request| request.method == "CONNECT"));
    assert!(!proxy.requests().is_empty(), "the proxy was not used");
    assert_eq!(pull(&mtls, &[]), Ok(true), "it is in the cache");

    fs::remove_dir_all(world.cache()).expect("removed");
    let variables = [client[0], client[1], insecure];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    world.environment.extend(variables);
    world.pull(&commit, &mtls).expect("any server will do");
    world.is_sound();
}

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

    let error = world.pull(&signed, &remote(&[&bad.public])).expect_err("another key");
    assert!(error.contains("public key not found") || error.contains("NO_PUBKEY"), "{error}");
    let error = world.pull(&unsigned, &remote(&[&good.public])).expect_err("no signature");
    assert!(error.to_lowercase().contains("signature"), "{error}");
    let error = world.pull(&signed, &remote(&["no key"])).expect_err("no key at all");
    assert!(error.contains("a key of `gpgkeys` cannot be read"), "{error}");
    assert!(!world.has(&signed) && !world.has(&unsigned));

    world.pull(&signed, &remote(&[&bad.public, &good.public])).expect("one of them");
    world.pull(&unsigned, &json!({"url": world.url()})).expect("nobody asks for signatures");
    world.is_sound();
    // The signature came with the commit.
    let shown = world.ostree(&format!("sources/{CONTENT_TYPE}/repo"), &["show", &signed]);
    assert!(shown.contains("signature"), "{shown}");
}
