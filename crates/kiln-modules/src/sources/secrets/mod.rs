//! Secrets: what proves to a server that content may be had.
//!
//! An item or a remote names a provider:
//!
//! - `org.osbuild.mtls`: files that the environment names, `OSBUILD_SOURCES_FAMILY_SSL_CLIENT_CERT`, `…_SSL_CLIENT_KEY` and
//!   `…_SSL_CA_CERT` (optional), where the family is the source's: `CURL` or `OSTREE`.
//! - `org.osbuild.rhsm` ([`rhsm`]): the entitlements of a subscribed system.
//! - `org.osbuild.rhsm.consumer` ([`consumer`]): the identity of a subscribed system.
//!
//! Only paths are handled here, and messages name only paths and variables.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use self::rhsm::Subscriptions;

mod consumer;
mod rhsm;

/// The files that prove who a client is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    /// Trusted instead of the system's certificates.
    pub(super) authority: Option<PathBuf>,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// The secrets that one source can have.
pub(super) struct Secrets<'a> {
    environment: &'a BTreeMap<String, String>,
    family: &'static str,
    root: PathBuf,
    /// Read once for all items, and only if one needs them.
    subscriptions: OnceLock<Result<Subscriptions, String>>,
}

impl<'a> Secrets<'a> {
    /// The secrets of this system for the source whose variables have that name in the middle.
    pub(super) fn new(environment: &'a BTreeMap<String, String>, family: &'static str) -> Self {
        Self { environment, family, root: PathBuf::from("/"), subscriptions: OnceLock::new() }
    }

    /// The secrets of a system that has another root directory.
    #[cfg(test)]
    pub(super) fn below(self, root: &Path) -> Self {
        Self { root: root.to_owned(), ..self }
    }

    /// Finds what a provider has for a URL.
    pub(super) fn identity(&self, provider: &str, url: &str) -> Result<Identity, String> {
        match provider {
            "org.osbuild.mtls" => self.mtls(),
            "org.osbuild.rhsm" => {
                let read = || Subscriptions::of_system(&self.root);
                self.subscriptions.get_or_init(read).as_ref().map_err(Clone::clone)?.identity(url)
            }
            "org.osbuild.rhsm.consumer" => consumer::identity(&self.root),
            other => Err(format!(
                "unknown secrets provider `{other}`: expected `org.osbuild.mtls` or `org.osbuild.rhsm`"
            )),
        }
    }

    fn mtls(&self) -> Result<Identity, String> {
        let files = self.mtls_files();
        match files.client()? {
            Some((certificate, key)) => Ok(Identity {
                certificate: certificate.to_owned(),
                key: key.to_owned(),
                authority: files.authority.clone(),
            }),
            None => Err(files.missing()),
        }
    }

    /// The files that the environment names, all of which may be missing.
    pub(super) fn mtls_files(&self) -> MtlsFiles {
        let name = |what: &str| format!("OSBUILD_SOURCES_{}_SSL_{what}", self.family);
        let path = |name: &str| self.environment.get(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        let variables = ["CLIENT_CERT", "CLIENT_KEY"].map(name);
        MtlsFiles {
            authority: path(&name("CA_CERT")),
            client: [path(&variables[0]), path(&variables[1])],
            variables,
        }
    }
}

/// The files that the environment names for `org.osbuild.mtls`.
pub(super) struct MtlsFiles {
    /// Trusted instead of the system's certificates.
    pub(super) authority: Option<PathBuf>,
    /// Certificate and key, and what names them.
    client: [Option<PathBuf>; 2],
    variables: [String; 2],
}

impl MtlsFiles {
    /// The certificate and its key, if there are any; one without the other is an error.
    pub(super) fn client(&self) -> Result<Option<(&Path, &Path)>, String> {
        match &self.client {
            [Some(certificate), Some(key)] => Ok(Some((certificate, key))),
            [None, None] => Ok(None),
            _ => Err(self.missing()),
        }
    }

    fn missing(&self) -> String {
        let missing = self.variables.iter().zip(&self.client).filter(|(_, path)| path.is_none());
        let missing: Vec<_> = missing.map(|(name, _)| name.as_str()).collect();
        format!(
            "the secrets `org.osbuild.mtls` need {} in the environment: set to the path of a PEM file",
            missing.join(" and ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CERTIFICATE: &str = "OSBUILD_SOURCES_CURL_SSL_CLIENT_CERT";
    const KEY: &str = "OSBUILD_SOURCES_CURL_SSL_CLIENT_KEY";

    #[test]
    fn missing_secrets_are_named() {
        let find = |variables: &[&str], provider: &str| {
            let environment =
                variables.iter().map(|name| (name.to_string(), format!("/{}", name.len()))).collect();
            Secrets::new(&environment, "CURL").identity(provider, "")
        };
        let error = find(&[], "org.osbuild.mtls").expect_err("nothing is set");
        assert!(error.contains(CERTIFICATE) && error.contains(KEY), "{error}");
        let error = find(&[KEY], "org.osbuild.mtls").expect_err("one is not set");
        assert!(error.contains(CERTIFICATE) && !error.contains(KEY), "{error}");
        let found = find(&[KEY, CERTIFICATE], "org.osbuild.mtls").expect("both are set");
        assert_eq!(found, Identity { authority: None, certificate: "/36".into(), key: "/35".into() });
        let error = find(&[KEY, CERTIFICATE], "org.example.x").expect_err("unknown");
        assert!(error.contains("org.example.x"), "{error}");
    }
}
