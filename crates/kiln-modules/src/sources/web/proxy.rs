//! Which proxy a URL is fetched through, by the variables that curl knows.
//!
//! `OSBUILD_SOURCES_CURL_PROXY` is for all URLs; else `http_proxy` (lower case only: the other spelling is what a
//! web server sets from a request's `Proxy:` header), `https_proxy`, `HTTPS_PROXY`, then `all_proxy`,
//! `ALL_PROXY`. `no_proxy` or `NO_PROXY` lists the hosts that are reached directly: names with everything
//! below them, addresses, or `*`.

use std::collections::BTreeMap;

use ureq::http::Uri;

/// The proxies that the environment names.
#[derive(Clone, Debug, Default)]
pub(super) struct Proxies {
    http: Option<String>,
    https: Option<String>,
    none: Vec<String>,
}

impl Proxies {
    pub(super) fn from_environment(environment: &BTreeMap<String, String>) -> Self {
        let first = |names: &[&str]| {
            names.iter().find_map(|name| environment.get(*name)).filter(|value| !value.is_empty()).cloned()
        };
        let all = first(&["all_proxy", "ALL_PROXY"]);
        let own = first(&["OSBUILD_SOURCES_CURL_PROXY"]);
        let none = first(&["no_proxy", "NO_PROXY"]).unwrap_or_default();
        Self {
            http: own.clone().or_else(|| first(&["http_proxy"])).or_else(|| all.clone()),
            https: own.or_else(|| first(&["https_proxy", "HTTPS_PROXY"])).or(all),
            none: none
                .split([',', ' '])
                .map(|entry| entry.trim_start_matches("*.").trim_start_matches('.').to_ascii_lowercase())
                .filter(|entry| !entry.is_empty())
                .collect(),
        }
    }

    /// The proxy for a URL.
    pub(super) fn of(&self, uri: &Uri) -> Option<&str> {
        let proxy = if uri.scheme_str() == Some("https") { &self.https } else { &self.http };
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase();
        let direct = self.none.iter().any(|entry| {
            entry == "*"
                || host == entry.trim_matches(['[', ']'])
                || host.strip_suffix(entry.as_str()).is_some_and(|front| front.ends_with('.'))
        });
        proxy.as_deref().filter(|_| !direct)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_names_the_proxy() {
        type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, Option<&'a str>);
        let cases: &[Case<'_>] = &[
            (&[], "http://h.invalid/", None),
            (&[("http_proxy", "http://p:1")], "http://h.invalid/", Some("http://p:1")),
            (&[("http_proxy", "http://p:1")], "https://h.invalid/", None),
            (&[("HTTP_PROXY", "http://p:1")], "http://h.invalid/", None),
            (&[("HTTPS_PROXY", "http://p:1")], "https://h.invalid/", Some("http://p:1")),
            (&[("all_proxy", "socks5h://p:1")], "https://h.invalid/", Some("socks5h://p:1")),
            (
                &[("http_proxy", "http://p:1"), ("OSBUILD_SOURCES_CURL_PROXY", "http://q:1")],
                "http://h.invalid/",
                Some("http://q:1"),
            ),
            (&[("http_proxy", "p"), ("no_proxy", "a.invalid, h.invalid")], "http://h.invalid/", None),
            (&[("http_proxy", "p"), ("no_proxy", ".h.invalid")], "http://x.h.invalid:81/", None),
            (&[("http_proxy", "p"), ("no_proxy", "h.invalid")], "http://xh.invalid/", Some("p")),
            (&[("http_proxy", "p"), ("NO_PROXY", "*")], "http://h.invalid/", None),
            (&[("http_proxy", "p"), ("NO_PROXY", "::1")], "http://[::1]:80/", None),
        ];
        for (variables, url, expected) in cases {
            let environment =
                variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let proxies = Proxies::from_environment(&environment);
            assert_eq!(proxies.of(&url.parse().expect("a URL")), *expected, "{variables:?} {url}");
        }
    }
}
