//! The secrets `org.osbuild.rhsm`: entitlement certificates of a subscribed Red Hat system.
//!
//! A manifest names URLs, not repositories, so the repository of `redhat.repo` is used whose `baseurl` the URL
//! begins with; `$releasever`, `$basearch`, `$arch` and `$uuid` in it stand for any text without a slash. The first one
//! wins. If none does, any key of the entitlement directory that has a certificate beside it is used.
//!
//! Everything is below `/etc`, or below `/run/secrets` in a container that was given the host's secrets.

use std::fs;
use std::path::{Path, PathBuf};

use super::Identity;

const VARIABLES: [&str; 4] = ["$releasever", "$basearch", "$arch", "$uuid"];

/// What a system has subscribed to.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    repositories: Vec<(String, Identity)>,
    fallback: Option<Identity>,
    looked: Vec<PathBuf>,
}

impl Subscriptions {
    /// Reads the subscriptions of the system whose root directory is given.
    pub(super) fn of_system(root: &Path) -> Result<Self, String> {
        let container = root.join("run/.containerenv").exists() && root.join("run/secrets").exists();
        let [authority, entitlements, repositories] = if container {
            ["run/secrets/rhsm/ca", "run/secrets/etc-pki-entitlement", "run/secrets/redhat.repo"]
        } else {
            ["etc/rhsm/ca", "etc/pki/entitlement", "etc/yum.repos.d/redhat.repo"]
        }
        .map(|path| root.join(path));
        let katello = authority.join("katello-server-ca.pem");
        let authority = if katello.exists() { katello } else { authority.join("redhat-uep.pem") };

        let mut found = Self {
            repositories: Vec::new(),
            fallback: fallback(&entitlements, &authority),
            looked: vec![repositories.clone(), entitlements],
        };
        match fs::read_to_string(&repositories) {
            Ok(text) => found.repositories = parse(&text, &authority),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("cannot read `{}`: {error}", repositories.display())),
        }
        Ok(found)
    }

    /// The certificate and key for a URL.
    pub(super) fn identity(&self, url: &str) -> Result<Identity, String> {
        let own = self.repositories.iter().find(|(base, _)| begins_with(url, base)).map(|(_, own)| own);
        own.or(self.fallback.as_ref()).cloned().ok_or_else(|| {
            let looked: Vec<_> = self.looked.iter().map(|path| format!("`{}`", path.display())).collect();
            format!("no `org.osbuild.rhsm` secrets for this URL: looked in {}", looked.join(" and "))
        })
    }
}

fn fallback(entitlements: &Path, authority: &Path) -> Option<Identity> {
    let mut keys: Vec<_> = fs::read_dir(entitlements)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter_map(|key| Some((key.to_str()?.strip_suffix("-key.pem")?.to_owned(), key)))
        .map(|(stem, key)| (PathBuf::from(format!("{stem}.pem")), key))
        .filter(|(certificate, _)| certificate.exists())
        .collect();
    keys.sort();
    let (certificate, key) = keys.into_iter().next()?;
    Some(Identity { authority: Some(authority.to_owned()), certificate, key })
}

/// Reads the repositories of a `.repo` file that have a certificate. A repository may have several bases.
fn parse(text: &str, authority: &Path) -> Vec<(String, Identity)> {
    let sections = sections(text);
    let defaults = sections.iter().filter(|(name, _)| *name == DEFAULTS).flat_map(|(_, options)| options);
    let defaults: Vec<_> = defaults.collect();
    let mut found = Vec::new();
    for (_, options) in sections.iter().filter(|(name, _)| *name != DEFAULTS) {
        let all = || defaults.iter().copied().chain(options);
        let value = |wanted: &str| {
            let last = all().rfind(|(name, _)| name == wanted);
            last.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
        };
        let (Some(bases), Some(certificate), Some(key)) =
            (value("baseurl"), value("sslclientcert"), value("sslclientkey"))
        else {
            continue;
        };
        let identity = Identity {
            authority: Some(value("sslcacert").map_or(authority.to_owned(), PathBuf::from)),
            certificate: certificate.into(),
            key: key.into(),
        };
        let bases = bases.split([' ', '\t', '\n', ',']).filter(|base| !base.is_empty());
        found.extend(bases.map(|base| (base.to_owned(), identity.clone())));
    }
    found
}

/// The section whose options all others have unless they say otherwise.
const DEFAULTS: &str = "DEFAULT";

/// A section's name, and its options with names in lower case.
type Section<'a> = (&'a str, Vec<(String, String)>);

/// Reads a file of sections: comments are whole lines, values are as they stand (a `%` is a `%`), and lines that are
/// further to the right than an option belong to it. What is none of these is left out.
fn sections(text: &str) -> Vec<Section<'_>> {
    let mut sections: Vec<Section<'_>> = Vec::new();
    // How far to the right the option is that lines may belong to.
    let mut option: Option<usize> = None;
    for line in text.lines() {
        let content = line.trim();
        if content.is_empty() || content.starts_with(['#', ';']) {
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        let current = sections.last_mut().map(|(_, options)| options);
        if let (Some(at), Some((_, value))) = (option, current.and_then(|options| options.last_mut()))
            && indent > at
        {
            value.push('\n');
            value.push_str(content);
        } else if let Some(end) = content.rfind(']').filter(|_| content.starts_with('[')) {
            sections.push((content.get(1..end).unwrap_or_default(), Vec::new()));
            option = None;
        } else if let (Some((_, options)), Some((name, value))) =
            (sections.last_mut(), content.split_once(['=', ':']))
        {
            options.push((name.trim().to_lowercase(), value.trim().to_owned()));
            option = Some(indent);
        }
    }
    sections
}

/// Whether a URL begins with a base in which variables stand for any text without a slash.
fn begins_with(url: &str, base: &str) -> bool {
    let variable = VARIABLES.iter().filter_map(|name| Some((base.find(name)?, name))).min();
    let Some((at, name)) = variable else { return url.starts_with(base) };
    let (front, rest) = base.split_at(at);
    let rest = rest.strip_prefix(*name).unwrap_or(rest);
    let Some(url) = url.strip_prefix(front) else { return false };
    let end = url.find('/').unwrap_or(url.len());
    (0..=end).any(|length| url.get(length..).is_some_and(|url| begins_with(url, rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPO: &str = "\
# comment
[one]
name = One
baseurl = https://cdn.invalid/content/$releasever/$basearch/os
sslclientkey = /etc/pki/entitlement/1-key.pem
sslclientcert = /etc/pki/entitlement/1.pem
sslcacert = /etc/rhsm/ca/own.pem

[two]
baseurl=https://cdn.invalid/content
sslclientkey=/2-key.pem
sslclientcert=/2.pem
[without]
baseurl=https://cdn.invalid/
";

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
        fs::write(path, text).expect("write");
    }

    #[test]
    fn variables_stand_for_one_segment() {
        let cases = [
            ("https://h/9/x86_64/os/a.rpm", "https://h/$releasever/$basearch/os", true),
            ("https://h/el9-x/a.rpm", "https://h/el$releasever-x", true),
            ("https://h/9/10/os/a.rpm", "https://h/$releasever/os", false),
            ("https://h//os/a", "https://h/$releasever/os", true),
            ("https://hx/os", "https://h/", false),
            ("https://h/9/x86_64/u-1/os/a", "https://h/$releasever/$arch/$uuid/os", true),
            ("https://h/9/x86_64/os/a", "https://h/$releasever/$arch/$uuid/os", false),
            ("https://h/9x86_64/a", "https://h/$releasever$basearch/", true),
            ("https://h/9/a", "https://h/$other/", false),
            ("https://h/$releasever/a", "https://h/$releasever/", true),
            ("https://hXinvalid/a", "https://h.invalid/", false),
        ];
        for (url, base, expected) in cases {
            assert_eq!(begins_with(url, base), expected, "{url} {base}");
        }
    }

    #[test]
    fn the_first_repository_that_matches_wins() {
        let root = tempfile::tempdir().expect("tempdir");
        write(root.path(), "etc/yum.repos.d/redhat.repo", REPO);
        let system = Subscriptions::of_system(root.path()).expect("readable");
        let first = system.identity("https://cdn.invalid/content/9/x86_64/os/a.rpm").expect("one");
        assert_eq!(first.certificate, Path::new("/etc/pki/entitlement/1.pem"));
        assert_eq!(first.authority.as_deref(), Some(Path::new("/etc/rhsm/ca/own.pem")));
        let second = system.identity("https://cdn.invalid/content/a.rpm").expect("two");
        assert_eq!(second.key, Path::new("/2-key.pem"));
        assert_eq!(second.authority, Some(root.path().join("etc/rhsm/ca/redhat-uep.pem")));
        let error = system.identity("https://cdn.invalid/a.rpm").expect_err("none");
        assert!(error.contains("redhat.repo") && error.contains("entitlement"), "{error}");
    }

    #[test]
    fn entitlements_are_the_fallback_and_containers_have_their_own_place() {
        let root = tempfile::tempdir().expect("tempdir");
        write(root.path(), "run/.containerenv", "");
        for name in ["7-key.pem", "8-key.pem", "8.pem"] {
            write(root.path(), &format!("run/secrets/etc-pki-entitlement/{name}"), "");
        }
        write(root.path(), "run/secrets/rhsm/ca/katello-server-ca.pem", "");
        let system = Subscriptions::of_system(root.path()).expect("readable");
        let found = system.identity("https://cdn.invalid/a.rpm").expect("the fallback");
        assert_eq!(found.key, root.path().join("run/secrets/etc-pki-entitlement/8-key.pem"));
        assert_eq!(found.authority, Some(root.path().join("run/secrets/rhsm/ca/katello-server-ca.pem")));
    }

    #[test]
    fn files_are_read_as_they_are_written() {
        let text = "\
ignored = before any section
  [DEFAULT]
sslcacert = /ca-of-all
[one]
; a comment
BaseURL : https://h.invalid/a%20b/$basearch
  # a comment among the lines of a value
    https://h.invalid/second,https://h.invalid/third

    https://h.invalid/after-an-empty-line
SSLClientKey=/k = ; no comment
sslclientcert = /first
sslclientcert = /c%(home)s
[no key]
baseurl = https://h.invalid/no-key
sslclientcert = /c
[empty key]
baseurl = https://h.invalid/empty-key
sslclientcert = /c
sslclientkey =
[own]
junk
baseurl = https://h.invalid/own
sslclientcert = /c2
sslclientkey = /k2
sslcacert =
";
        let found = parse(text, Path::new("/default"));
        let bases: Vec<_> = found.iter().map(|(base, _)| base.as_str()).collect();
        let expected = ["a%20b/$basearch", "second", "third", "after-an-empty-line", "own"]
            .map(|path| format!("https://h.invalid/{path}"));
        assert_eq!(bases, expected);
        let identity = |authority: &str, certificate: &str, key: &str| Identity {
            authority: Some(authority.into()),
            certificate: certificate.into(),
            key: key.into(),
        };
        assert_eq!(found[0].1, identity("/ca-of-all", "/c%(home)s", "/k = ; no comment"));
        assert_eq!(found[4].1, identity("/default", "/c2", "/k2"));
        for text in ["", "[", "]", "[]", "[a", "=", "[a]\n=\n:\n  x", "\n \n[a]\n  x = 1\n y = 2"] {
            assert!(parse(text, Path::new("/")).is_empty(), "{text}");
        }
    }

    #[test]
    fn the_authority_is_that_of_the_satellite_server_if_there_is_one() {
        let root = tempfile::tempdir().expect("tempdir");
        write(root.path(), "etc/yum.repos.d/redhat.repo", REPO);
        write(root.path(), "etc/rhsm/ca/katello-server-ca.pem", "");
        let system = Subscriptions::of_system(root.path()).expect("readable");
        let found = system.identity("https://cdn.invalid/content/a.rpm").expect("two");
        assert_eq!(found.authority, Some(root.path().join("etc/rhsm/ca/katello-server-ca.pem")));
        let own = system.identity("https://cdn.invalid/content/9/x86_64/os/a.rpm").expect("one");
        assert_eq!(own.authority.as_deref(), Some(Path::new("/etc/rhsm/ca/own.pem")), "it names another one");
    }
}
