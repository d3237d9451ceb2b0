//! Files of sections with keys and values, as Python's `configparser` writes and reads them.
//!
//! What reads such files takes `%(KEY)s` for a reference to another value and `%%` for one `%`; any other `%` makes it
//! fail, so none is written.

use indexmap::IndexMap;
use kiln_api::ModuleError;

/// The name that stands for the defaults of all sections.
const DEFAULTS: &str = "DEFAULT";

/// Sections in the order of their first mention, with their keys in that of theirs.
#[derive(Default)]
pub(crate) struct Ini {
    sections: IndexMap<String, IndexMap<String, String>>,
}

impl Ini {
    /// Adds a section, unless there is one of that name. `option` names the option that it comes from.
    pub(crate) fn add(&mut self, section: &str, option: &str) -> Result<(), ModuleError> {
        if section == DEFAULTS {
            return Err(ModuleError::option(option, format!("a section cannot be named `{section}`")));
        }
        self.sections.entry(section.to_owned()).or_default();
        Ok(())
    }

    /// Sets a value in a section, which is added if there is none.
    pub(crate) fn set(
        &mut self,
        section: &str,
        key: &str,
        value: String,
        option: &str,
    ) -> Result<(), ModuleError> {
        if !readable(&value) {
            let reason = format!("`{value}` has a `%` that is neither `%%` nor begins `%(KEY)s`");
            return Err(ModuleError::option(option, reason));
        }
        self.add(section, option)?;
        self.sections.entry(section.to_owned()).or_default().insert(key.to_owned(), value);
        Ok(())
    }

    /// The content of the file, with this text between keys and values.
    pub(crate) fn text(&self, separator: &str) -> String {
        let mut text = String::new();
        for (section, values) in &self.sections {
            text += &format!("[{section}]\n");
            for (key, value) in values {
                // What is indented goes on with the value.
                text += &format!("{key}{separator}{}\n", value.replace('\n', "\n\t"));
            }
            text.push('\n');
        }
        text
    }
}

fn readable(value: &str) -> bool {
    let mut rest = value;
    while let Some((_, after)) = rest.split_once('%') {
        let reference = || {
            let (key, after) = after.strip_prefix('(')?.split_once(')')?;
            after.strip_prefix('s').filter(|_| !key.is_empty())
        };
        match after.strip_prefix('%').or_else(reference) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_and_keys_keep_their_order_and_are_there_once() {
        let mut ini = Ini::default();
        for (section, key, value) in [("b", "z", "1"), ("a", "y", "2\n3"), ("b", "x", "4"), ("b", "z", "5")] {
            ini.set(section, key, value.to_owned(), "o").expect("set");
        }
        ini.add("empty", "o").expect("added");
        ini.add("a", "o").expect("there");
        assert_eq!(ini.text("="), "[b]\nz=5\nx=4\n\n[a]\ny=2\n\t3\n\n[empty]\n\n");
        assert_eq!(ini.text(" = ").lines().nth(1), Some("z = 5"));
    }

    #[test]
    fn what_nobody_can_read_is_refused() {
        for value in ["", "100%%", "%(key)s", "%%%(a)s%%", "(a)s"] {
            Ini::default().set("a", "b", value.to_owned(), "o").expect(value);
        }
        for value in ["%", "100%", "%%%", "%(key)", "%()s", "%(key", "%s", "%% %x"] {
            let error = Ini::default().set("a", "b", value.to_owned(), "here").expect_err(value).to_string();
            assert!(error.starts_with("invalid option `here`: `"), "{error}");
        }
        Ini::default().add("DEFAULT", "o").expect_err("the defaults");
    }
}
