//! Pages of `docs/` of which a part is generated: what stands between two marks.

use std::fs;
use std::path::Path;

use crate::error::Error;

/// Puts a text between the marks of a page.
pub(crate) fn write_between_marks(page: &Path, marks: (&str, &str), text: &str) -> Result<(), Error> {
    let old = fs::read_to_string(page).map_err(Error::file("read", page))?;
    let new = between_marks(&old, marks, text).ok_or_else(|| Error::Content {
        path: page.to_owned(),
        what: format!("lacks the marks `{}` and `{}`", marks.0, marks.1),
    })?;
    fs::write(page, new).map_err(Error::file("write", page))
}

fn between_marks(page: &str, (begin, end): (&str, &str), text: &str) -> Option<String> {
    let (before, rest) = page.split_once(begin)?;
    let (_, after) = rest.split_once(end)?;
    Some(format!("{before}{begin}\n\n{}\n\n{end}{after}", text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_keeps_what_stands_around_the_marks() {
        let directory = tempfile::tempdir().expect("a directory");
        let page = directory.path().join("page.md");
        let marks = ("<!-- begin -->", "<!-- end -->");
        for (old, new) in [
            ("# A\n<!-- begin -->\n<!-- end -->\nz\n", "# A\n<!-- begin -->\n\none\n\n<!-- end -->\nz\n"),
            ("<!-- begin -->old<!-- end -->", "<!-- begin -->\n\none\n\n<!-- end -->"),
        ] {
            fs::write(&page, old).expect("written");
            write_between_marks(&page, marks, "one\n").expect("marks");
            assert_eq!(fs::read_to_string(&page).expect("the page"), new);
        }
        fs::write(&page, "no marks").expect("written");
        assert!(write_between_marks(&page, marks, "one").is_err());
    }
}
