//! Lists of mirrors, as repositories publish them.
//!
//! - A *mirrorlist* has one URL in each line; what begins with `#` is a comment.
//! - A *metalink* (version 3, or RFC 5854) names the URLs of a file, `repodata/repomd.xml`, by preference.

use std::cmp::Reverse;

use roxmltree::{Document, Node};

/// The file that metalinks of repositories are of, and where it is below the URL of a mirror.
const FILE: &str = "repomd.xml";
const PATH: &str = "repodata/repomd.xml";

/// The URLs of a mirrorlist, in its order.
pub(super) fn mirrorlist(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

/// The URLs of a metalink's mirrors, the preferred one first.
pub(super) fn metalink(text: &str) -> Result<Vec<String>, String> {
    let document = Document::parse(text).map_err(|error| error.to_string())?;
    let file = document.descendants().find(|node| {
        is(node, "file") && node.attribute("name").is_some_and(|name| name.rsplit('/').next() == Some(FILE))
    });
    let file = file.ok_or_else(|| format!("it has no file `{FILE}`"))?;
    let mut found = Vec::new();
    for node in file.descendants().filter(|node| is(node, "url")) {
        let url = node.text().unwrap_or_default().trim();
        let number = |name| node.attribute(name).and_then(|value| value.trim().parse::<i64>().ok());
        // Of preferences the highest is the best, of priorities the lowest.
        let rank = number("preference").or_else(|| number("priority").map(|priority| -priority));
        let base = url.strip_suffix(PATH).unwrap_or(url);
        if !base.is_empty() {
            found.push((Reverse(rank.unwrap_or(i64::MIN)), base.to_owned()));
        }
    }
    // Equal ones stay in their order.
    found.sort_by_key(|(rank, _)| *rank);
    Ok(found.into_iter().map(|(_, url)| url).collect())
}

fn is(node: &Node<'_, '_>, name: &str) -> bool {
    node.is_element() && node.tag_name().name() == name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrorlists() {
        let text = "# repo = x\n\nhttp://a.invalid/x/\r\n  https://b.invalid/y  \n#http://c.invalid/\n";
        assert_eq!(mirrorlist(text), ["http://a.invalid/x/", "https://b.invalid/y"]);
        assert_eq!(mirrorlist(""), [""; 0]);
    }

    #[test]
    fn metalinks_are_sorted_by_preference() {
        let text = r#"<?xml version="1.0" encoding="utf-8"?>
            <metalink version="3.0" xmlns="http://www.metalinker.org/" xmlns:mm0="http://h.invalid/mm0">
             <files>
              <file name="other"><resources><url preference="1">http://o.invalid/</url></resources></file>
              <file name="repomd.xml">
               <mm0:timestamp>1</mm0:timestamp><size>2</size>
               <verification><hash type="sha256">00</hash></verification>
               <resources maxconnections="1">
                <url protocol="rsync" type="rsync" preference="98">rsync://a.invalid/x/repodata/repomd.xml</url>
                <url protocol="http" preference="97">http://b.invalid/x/repodata/repomd.xml</url>
                <url protocol="https" preference="99">
                  https://c.invalid/x&amp;y/repodata/repomd.xml
                </url>
                <url>http://d.invalid/x</url>
                <url preference="97">http://e.invalid/</url>
                <url preference="100"/>
               </resources>
              </file>
             </files>
            </metalink>"#;
        let expected = [
            "https://c.invalid/x&y/",
            "rsync://a.invalid/x/",
            "http://b.invalid/x/",
            "http://e.invalid/",
            "http://d.invalid/x",
        ];
        assert_eq!(metalink(text).expect("a metalink"), expected);
        let text = r#"<metalink xmlns="urn:ietf:params:xml:ns:metalink"><file name="repodata/repomd.xml">
            <url priority="2">http://b.invalid/repodata/repomd.xml</url>
            <url priority="1">http://a.invalid/repodata/repomd.xml</url></file></metalink>"#;
        assert_eq!(metalink(text).expect("a metalink"), ["http://a.invalid/", "http://b.invalid/"]);
    }

    #[test]
    fn what_is_no_metalink_is_refused() {
        for (text, expected) in [
            ("", "root"),
            ("<html><body>Log in</body></html>", "no file `repomd.xml`"),
            ("<metalink><file name=\"repomd.xml\">", ""),
            ("<!DOCTYPE x [<!ENTITY a \"b\">]><metalink/>", "DTD"),
        ] {
            let error = metalink(text).expect_err(text);
            assert!(error.contains(expected), "{error}");
        }
    }
}
