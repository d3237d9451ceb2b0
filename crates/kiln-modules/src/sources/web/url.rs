//! URLs as manifests write them: quoting, joining, showing.
//!
//! The path of a manifest's URL is plain text and is percent-quoted before use, as the reference does with
//! Python's `urllib.parse.quote`: what is no ASCII letter or digit and not one of `/_.-~` becomes `%XX`, a
//! percent sign included. Parameters (`;…` in the last segment) and the query are left as they are.

use std::path::PathBuf;

use ureq::http::Uri;

/// Where an item comes from.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::sources) enum Location {
    /// A file of this machine.
    File(PathBuf),
    /// A URL with scheme `http` or `https`.
    Web(Uri),
}

impl Location {
    /// The server; empty for files of this machine.
    pub(in crate::sources) fn host(&self) -> &str {
        match self {
            Self::Web(uri) => uri.authority().map_or("", |authority| authority.as_str()),
            Self::File(_) => "",
        }
    }
}

/// Parses the URL of an item.
pub(in crate::sources) fn parse(url: &str) -> Result<Location, String> {
    let (scheme, rest) = url.split_once(':').ok_or("it has no scheme: expected `http`, `https` or `file`")?;
    match scheme.to_ascii_lowercase().as_str() {
        "file" => {
            // Quoted by the reference and unquoted again by curl: the path is meant as it is written.
            let path = match rest.strip_prefix("//") {
                Some(rest) => rest.strip_prefix("localhost").unwrap_or(rest),
                None => rest,
            };
            if !path.starts_with('/') {
                return Err("a `file` URL needs an absolute path: `file:///path`".to_owned());
            }
            Ok(Location::File(PathBuf::from(path)))
        }
        "http" | "https" => {
            let uri: Uri = quote(url).parse().map_err(|error| format!("{error}"))?;
            if uri.host().is_none_or(str::is_empty) {
                return Err("it has no host".to_owned());
            }
            Ok(Location::Web(uri))
        }
        other => Err(format!("unknown scheme `{other}`: expected `http`, `https` or `file`")),
    }
}

/// Parses a URL that is quoted already, as [`below`] and lists of mirrors have it.
pub(in crate::sources) fn parse_quoted(url: &str) -> Result<Location, String> {
    if !url.to_ascii_lowercase().starts_with("http") {
        return parse(url);
    }
    let mut legal = String::new();
    push_legal(&mut legal, url);
    let uri: Uri = legal.parse().map_err(|error| format!("{error}"))?;
    if uri.host().is_none_or(str::is_empty) {
        return Err("it has no host".to_owned());
    }
    Ok(Location::Web(uri))
}

/// The URL of a path, which is plain text, below another URL, which is taken as it is written.
pub(in crate::sources) fn below(base: &str, path: &str) -> String {
    let mut url = base.trim_end_matches('/').to_owned();
    url.push('/');
    let path = path.trim_start_matches('/');
    if url.to_ascii_lowercase().starts_with("file:") {
        url.push_str(path);
        return url;
    }
    for byte in path.bytes() {
        push(&mut url, byte, byte.is_ascii_alphanumeric() || b"/_.-~".contains(&byte));
    }
    url
}

/// Percent-quotes the path of a URL.
pub(super) fn quote(url: &str) -> String {
    let without_fragment = url.split_once('#').map_or(url, |(url, _)| url);
    let (front, query) = match without_fragment.split_once('?') {
        Some((front, query)) => (front, Some(query)),
        None => (without_fragment, None),
    };
    let start = front.find("://").map_or(0, |at| at + 3);
    let start = front.get(start..).and_then(|rest| rest.find('/')).map_or(front.len(), |at| start + at);
    let (origin, path) = front.split_at(start);
    let last = path.rfind('/').unwrap_or(0);
    let parameters = path.get(last..).and_then(|name| name.find(';')).map_or(path.len(), |at| last + at);
    let (path, parameters) = path.split_at(parameters);

    let mut quoted = origin.to_owned();
    for byte in path.bytes() {
        push(&mut quoted, byte, byte.is_ascii_alphanumeric() || b"/_.-~".contains(&byte));
    }
    push_legal(&mut quoted, parameters);
    if let Some(query) = query {
        quoted.push('?');
        push_legal(&mut quoted, query);
    }
    quoted
}

/// Resolves the `Location` of a redirection.
pub(super) fn join(base: &Uri, location: &str) -> Result<Uri, String> {
    let location = location.trim();
    let location = location.split_once('#').map_or(location, |(location, _)| location);
    let scheme = base.scheme_str().unwrap_or("http");
    let authority = base.authority().map_or("", |authority| authority.as_str());
    // Credentials are for the host of the URL they stand in, and for no other.
    let absolute = if location.contains("://") {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.starts_with('?') {
        format!("{scheme}://{authority}{}{location}", base.path())
    } else {
        let directory = base.path().rsplit_once('/').map_or("", |(directory, _)| directory);
        format!("{scheme}://{authority}{}", remove_dots(&format!("{directory}/{location}")))
    };
    let mut legal = String::new();
    push_legal(&mut legal, &absolute);
    let lower = legal.to_ascii_lowercase();
    if !lower.starts_with("http://") && !lower.starts_with("https://") {
        return Err(format!("redirected to `{}`, which is no http or https URL", show(location)));
    }
    let uri: Uri = legal.parse().map_err(|error| format!("redirected to `{}`: {error}", show(location)))?;
    match uri.host() {
        Some(host) if !host.is_empty() => Ok(uri),
        _ => Err(format!("redirected to `{}`, which has no host", show(location))),
    }
}

/// A URL as messages may show it: without credentials.
pub(in crate::sources) fn show(url: &str) -> String {
    let start = url.find("://").map_or(0, |at| at + 3);
    let (scheme, rest) = url.split_at(start);
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}{host}{rest}")
}

fn remove_dots(path: &str) -> String {
    let (path, query) = path.find('?').map_or((path, ""), |at| path.split_at(at));
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => {
                segments.pop();
            }
            name => segments.push(name),
        }
    }
    if path.ends_with("/.") || path.ends_with("/..") {
        segments.push("");
    }
    format!("/{}{query}", segments.join("/"))
}

/// Adds text and quotes only what must not be in a URL at all.
fn push_legal(text: &mut String, more: &str) {
    for byte in more.bytes() {
        push(text, byte, byte.is_ascii_graphic() && !b"\"<>`{}|\\^".contains(&byte));
    }
}

fn push(text: &mut String, byte: u8, plain: bool) {
    if plain {
        text.push(byte.into());
    } else {
        text.push_str(&format!("%{byte:02X}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_as_the_reference_does() {
        let cases = [
            ("http://h.invalid/a/b.deb", "http://h.invalid/a/b.deb"),
            ("http://h.invalid", "http://h.invalid"),
            ("http://h.invalid:80/a b", "http://h.invalid:80/a%20b"),
            ("http://h.invalid/g++_1:2~rc1_x.deb", "http://h.invalid/g%2B%2B_1%3A2~rc1_x.deb"),
            ("http://h.invalid/a%20b", "http://h.invalid/a%2520b"),
            ("http://h.invalid/ä", "http://h.invalid/%C3%A4"),
            ("http://h.invalid/a+b?c=d+e&f=(g)", "http://h.invalid/a%2Bb?c=d+e&f=(g)"),
            ("http://h.invalid/a+b;v=+1?q", "http://h.invalid/a%2Bb;v=+1?q"),
            ("http://h.invalid/a;b/c", "http://h.invalid/a%3Bb/c"),
            ("http://h.invalid?a=b c", "http://h.invalid?a=b%20c"),
            ("http://h.invalid/a#b", "http://h.invalid/a"),
        ];
        for (url, expected) in cases {
            assert_eq!(quote(url), expected);
        }
    }

    #[test]
    fn paths_are_quoted_and_bases_are_not() {
        let cases = [
            ("http://h.invalid/a%20b/", "c d.rpm", "http://h.invalid/a%20b/c%20d.rpm"),
            ("https://h.invalid", "/g++;1/x", "https://h.invalid/g%2B%2B%3B1/x"),
            ("file:///srv/a b", "c%20d", "file:///srv/a b/c%20d"),
        ];
        for (base, path, expected) in cases {
            let url = below(base, path);
            assert_eq!(url, expected);
            match parse_quoted(&url).expect(&url) {
                Location::Web(uri) => assert_eq!(uri.to_string(), expected),
                Location::File(path) => assert_eq!(path, PathBuf::from("/srv/a b/c%20d")),
            }
        }
        parse_quoted("http:///x").expect_err("no host");
        parse_quoted("rsync://h.invalid/x").expect_err("another scheme");
    }

    #[test]
    fn files_are_meant_as_written() {
        for url in ["file:///srv/a%20b", "file://localhost/srv/a%20b", "FILE:/srv/a%20b"] {
            assert_eq!(parse(url), Ok(Location::File("/srv/a%20b".into())));
        }
    }

    #[test]
    fn other_urls_are_refused() {
        for url in ["", "/srv/x", "ftp://h.invalid/", "http:///x", "file://host.invalid/x", "http://a b/"] {
            parse(url).expect_err(url);
        }
    }

    #[test]
    fn redirections_are_resolved() {
        let base: Uri = "http://h.invalid:81/a/b/c?d".parse().expect("a URL");
        let cases = [
            ("https://i.invalid/x", "https://i.invalid/x"),
            ("//i.invalid/x", "http://i.invalid/x"),
            ("/x?y", "http://h.invalid:81/x?y"),
            ("x", "http://h.invalid:81/a/b/x"),
            ("./x/../y z", "http://h.invalid:81/a/b/y%20z"),
            ("../../../x#f", "http://h.invalid:81/x"),
            ("?q", "http://h.invalid:81/a/b/c?q"),
            ("..", "http://h.invalid:81/a/"),
        ];
        for (location, expected) in cases {
            assert_eq!(join(&base, location).expect(location).to_string(), expected);
        }
        for location in ["file:///etc/passwd", "ftp://h.invalid/x"] {
            join(&base, location).expect_err(location);
        }
    }

    #[test]
    fn credentials_are_not_shown() {
        let cases = [
            ("http://u:p@h.invalid/a@b", "http://h.invalid/a@b"),
            ("http://h.invalid?x=u@h", "http://h.invalid?x=u@h"),
            ("/no/url", "/no/url"),
        ];
        for (url, expected) in cases {
            assert_eq!(show(url), expected);
        }
    }
}
