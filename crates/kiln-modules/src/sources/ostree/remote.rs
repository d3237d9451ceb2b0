//! Remotes: where a commit comes from, as the manifest says it and as `ostree` is told.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use crate::sources::secrets::Secrets;

/// What the remote is called in the repository that is made for it.
pub(super) const NAME: &str = "kiln";

/// Fetches commits of OSTree repositories.
///
/// Items are named by their commits and kept in one repository in the cache; `ostree` fetches them, and with `gpgkeys`
/// it takes only what one of the keys has signed.
///
/// Secrets: `org.osbuild.mtls` takes a client certificate from the environment variables
/// `OSBUILD_SOURCES_OSTREE_SSL_CLIENT_CERT`, `OSBUILD_SOURCES_OSTREE_SSL_CLIENT_KEY` and
/// `OSBUILD_SOURCES_OSTREE_SSL_CA_CERT`, each of them optional, a proxy from `OSBUILD_SOURCES_OSTREE_PROXY`, and
/// accepts any certificate of the server if `OSBUILD_SOURCES_OSTREE_INSECURE` is `true`. `org.osbuild.rhsm.consumer` is
/// the identity of a subscribed system. Other remotes are reached by the usual variables (`https_proxy`, …).
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [{"required": ["items"]}, {"required": ["commits"]}]))]
#[expect(dead_code, reason = "only the schema is used: items are read one by one")]
pub(super) struct Description {
    /// What to fetch, by commit.
    #[serde(default)]
    #[schemars(with = "BTreeMap<Key, Item>")]
    items: Option<BTreeMap<Key, Item>>,
    /// What to fetch, by commit, as format 1 and older manifests have it.
    #[serde(default)]
    #[schemars(with = "BTreeMap<Key, Item>")]
    commits: Option<BTreeMap<Key, Item>>,
}

/// A commit, with the reference's pattern.
#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Key(String);

impl JsonSchema for Key {
    fn schema_name() -> Cow<'static, str> {
        "Commit".into()
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "[0-9a-f]{5,64}"})
    }
}

/// A commit to fetch.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Item {
    /// Where it comes from.
    pub(super) remote: Remote,
}

/// A repository that others may fetch from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Remote {
    /// The repository's URL; after `metalink=`, that of a metalink.
    pub(super) url: String,
    /// The URL that objects come from, if it is another one; after `mirrorlist=`, that of a list of mirrors.
    #[serde(default)]
    #[schemars(with = "String")]
    pub(super) contenturl: Option<String>,
    /// Keys, one of which must have signed the commit; without any, signatures are not looked at.
    #[serde(default)]
    pub(super) gpgkeys: Vec<String>,
    /// What proves to the server that the commit may be had.
    #[serde(default)]
    #[schemars(with = "Provider")]
    pub(super) secrets: Option<Provider>,
}

/// What proves to the server that the commit may be had.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Provider {
    /// The provider: `org.osbuild.mtls` or `org.osbuild.rhsm.consumer`.
    name: String,
}

impl Remote {
    /// A repository of this machine.
    pub(super) fn local(repository: &Path) -> Self {
        let mut url = "file://".to_owned();
        for byte in repository.as_os_str().as_encoded_bytes() {
            if byte.is_ascii_alphanumeric() || b"/-._~".contains(byte) {
                url.push(char::from(*byte));
            } else {
                // Writing to a text cannot fail.
                let _ = write!(url, "%{byte:02X}");
            }
        }
        Self { url, contenturl: None, gpgkeys: Vec::new(), secrets: None }
    }

    /// The configuration of a repository that has this remote, and another repository to look for objects in.
    ///
    /// It may have passwords (in URLs), which is why it is a file that only its owner can read, and not a list of
    /// arguments, which everybody can.
    pub(super) fn config(
        &self,
        parent: &Path,
        environment: &BTreeMap<String, String>,
        secrets: &Secrets<'_>,
    ) -> Result<String, String> {
        // Not flushed object by object: that is done once, when all objects are there, before they are moved.
        let mut text = format!(
            "[core]\nrepo_version=1\nmode=archive-z2\nfsync=false\nparent={}\n\n[remote \"{NAME}\"]\n",
            escape(path(parent)?)?
        );
        let mut set = |name: &str, value: &str| -> Result<(), String> {
            text.push_str(&format!("{name}={}\n", escape(value)?));
            Ok(())
        };
        match self.url.strip_prefix("metalink=") {
            Some(url) => set("metalink", url)?,
            None => set("url", &self.url)?,
        }
        if let Some(url) = &self.contenturl {
            set("contenturl", url)?;
        }
        if self.gpgkeys.is_empty() {
            set("gpg-verify", "false")?;
        }
        match self.secrets.as_ref().map(|provider| provider.name.as_str()) {
            None => {}
            Some("org.osbuild.mtls") => {
                let files = secrets.mtls_files();
                if let Some(authority) = &files.authority {
                    set("tls-ca-path", path(authority)?)?;
                }
                if let Some((certificate, key)) = files.client()? {
                    set("tls-client-cert-path", path(certificate)?)?;
                    set("tls-client-key-path", path(key)?)?;
                }
                let variable = |name: &str| environment.get(name).filter(|value| !value.is_empty());
                if let Some(proxy) = variable("OSBUILD_SOURCES_OSTREE_PROXY") {
                    set("proxy", proxy)?;
                }
                let insecure = variable("OSBUILD_SOURCES_OSTREE_INSECURE").map(|value| value.to_lowercase());
                if matches!(insecure.as_deref(), Some("true" | "yes" | "1")) {
                    set("tls-permissive", "true")?;
                }
            }
            Some(provider @ "org.osbuild.rhsm.consumer") => {
                let identity = secrets.identity(provider, &self.url)?;
                set("tls-client-cert-path", path(&identity.certificate)?)?;
                set("tls-client-key-path", path(&identity.key)?)?;
            }
            Some(other) => {
                return Err(format!(
                    "unknown secrets provider `{other}`: expected `org.osbuild.mtls` or `org.osbuild.rhsm.consumer`"
                ));
            }
        }
        Ok(text)
    }
}

fn path(path: &Path) -> Result<&str, String> {
    path.to_str().ok_or_else(|| format!("the path `{}` is not UTF-8, as `ostree` wants it", path.display()))
}

/// A value as it is written to a file of keys: one that has a line of its own must not begin another one.
fn escape(value: &str) -> Result<String, String> {
    let mut text = String::with_capacity(value.len());
    for (index, character) in value.chars().enumerate() {
        match character {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            ' ' if index == 0 => text.push_str("\\s"),
            '\0' => return Err("a URL or a path has a NUL character".to_owned()),
            other => text.push(other),
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use kiln_api::module::{Kind, ModuleSchema};
    use serde_json::{Value, json};

    use super::*;
    use crate::schema_agreement::Agreement;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn remote(description: Value) -> Remote {
        Remote::deserialize(description).expect("a remote")
    }

    fn config(remote: &Remote, variables: &[(&str, &str)]) -> Result<String, String> {
        let environment: BTreeMap<String, String> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let text =
            remote.config(Path::new("/cache repo"), &environment, &Secrets::new(&environment, "OSTREE"))?;
        let start =
            "[core]\nrepo_version=1\nmode=archive-z2\nfsync=false\nparent=/cache repo\n\n[remote \"kiln\"]\n";
        Ok(text.strip_prefix(start).expect("the start").to_owned())
    }

    #[test]
    fn schema() {
        let of = |remote: Value| json!({COMMIT: {"remote": remote}});
        for member in ["items", "commits"] {
            Agreement::of(Kind::Source, "org.osbuild.ostree", ModuleSchema::of::<Description>())
                .member(member)
                .accepts([
                    json!({}),
                    of(json!({"url": "http://h"})),
                    of(json!({"url": "", "contenturl": "mirrorlist=http://h", "gpgkeys": []})),
                    of(json!({"url": "http://h", "gpgkeys": ["a", "b"], "secrets": {"name": "x"}})),
                    json!({"abcde": {"remote": {"url": "x"}}}),
                ])
                .refuses([
                    of(json!({})),
                    of(json!({"url": 1})),
                    of(json!({"url": "x", "other": 1})),
                    of(json!({"url": "x", "secrets": {}})),
                    of(json!({"url": "x", "secrets": {"name": "x", "more": 1}})),
                    of(json!({"url": "x", "gpgkeys": "a"})),
                    json!({"abcd": {"remote": {"url": "x"}}}),
                    json!({COMMIT: {}}),
                    json!({COMMIT: "x"}),
                    json!([]),
                ]);
        }
    }

    #[test]
    fn a_remote_is_told_as_the_tool_wants_it() {
        let plain = remote(json!({"url": "http://h/repo"}));
        assert_eq!(config(&plain, &[]).expect("told"), "url=http://h/repo\ngpg-verify=false\n");
        let all = remote(
            json!({"url": "metalink=http://h/m", "contenturl": "mirrorlist=http://h/l", "gpgkeys": ["k"]}),
        );
        let expected = "metalink=http://h/m\ncontenturl=mirrorlist=http://h/l\n";
        assert_eq!(config(&all, &[]).expect("told"), expected);
    }

    #[test]
    fn a_value_is_one_line_whatever_is_in_it() {
        let evil = remote(json!({"url": " http://h\n[remote \"kiln\"]\r\ttls-permissive=true\\"}));
        let expected = "url=\\shttp://h\\n[remote \"kiln\"]\\r\\ttls-permissive=true\\\\\ngpg-verify=false\n";
        assert_eq!(config(&evil, &[]).expect("told"), expected);
        config(&remote(json!({"url": "http://h\0"})), &[]).expect_err("no text of C");
    }

    #[test]
    fn mtls_takes_what_the_environment_has() {
        let [ca, certificate, key] = [
            "OSBUILD_SOURCES_OSTREE_SSL_CA_CERT",
            "OSBUILD_SOURCES_OSTREE_SSL_CLIENT_CERT",
            "OSBUILD_SOURCES_OSTREE_SSL_CLIENT_KEY",
        ];
        let (proxy, insecure) = ("OSBUILD_SOURCES_OSTREE_PROXY", "OSBUILD_SOURCES_OSTREE_INSECURE");
        let mtls = remote(json!({"url": "u", "secrets": {"name": "org.osbuild.mtls"}}));
        let told = |variables: &[(&str, &str)]| {
            config(&mtls, variables)
                .map(|text| text.strip_prefix("url=u\ngpg-verify=false\n").expect("it").to_owned())
        };
        assert_eq!(told(&[]).expect("nothing is needed"), "");
        assert_eq!(told(&[(ca, "/ca"), (insecure, "no")]).expect("told"), "tls-ca-path=/ca\n");
        let all = [(ca, "/ca"), (certificate, "/c"), (key, "/k"), (proxy, "http://p"), (insecure, "Yes")];
        let expected = "tls-ca-path=/ca\ntls-client-cert-path=/c\ntls-client-key-path=/k\nproxy=http://p\ntls-permissive=true\n";
        assert_eq!(told(&all).expect("told"), expected);
        let error = told(&[(certificate, "/c")]).expect_err("half of it");
        assert!(error.contains(key) && !error.contains(certificate), "{error}");

        let plain = remote(json!({"url": "u"}));
        assert_eq!(config(&plain, &all).expect("told"), "url=u\ngpg-verify=false\n", "only with the secrets");
        let other = remote(json!({"url": "u", "secrets": {"name": "org.example.x"}}));
        assert!(config(&other, &all).expect_err("unknown").contains("`org.example.x`"));
    }

    #[test]
    fn the_identity_of_the_system_is_told_by_its_files() {
        let root = tempfile::tempdir().expect("tempdir");
        let consumer = remote(json!({"url": "u", "secrets": {"name": "org.osbuild.rhsm.consumer"}}));
        let told = || {
            let environment = BTreeMap::new();
            let secrets = Secrets::new(&environment, "OSTREE").below(root.path());
            consumer.config(Path::new("/p"), &environment, &secrets)
        };
        let error = told().expect_err("there are none");
        assert!(
            error.contains("etc/pki/consumer/cert.pem") && error.contains("etc/pki/consumer/key.pem"),
            "{error}"
        );
        let directory = root.path().join("etc/pki/consumer");
        std::fs::create_dir_all(&directory).expect("made");
        for name in ["cert.pem", "key.pem"] {
            std::fs::write(directory.join(name), "").expect("written");
        }
        let directory = directory.display();
        let expected =
            format!("tls-client-cert-path={directory}/cert.pem\ntls-client-key-path={directory}/key.pem\n");
        assert!(told().expect("told").ends_with(&expected));
    }

    #[test]
    fn paths_are_quoted_in_urls() {
        assert_eq!(Remote::local(Path::new("/a b/ü-1/r_.~")).url, "file:///a%20b/%C3%BC-1/r_.~");
    }
}
