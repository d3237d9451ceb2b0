//! Reading a table key by key, and reporting the keys that nobody asked for.

use super::node::{Data, Key, Node, Placed, Span};
use super::report::Report;
use crate::near::near;

/// A table of the document being read.
pub(super) struct Table<'a> {
    /// Where the table is in the document, as users write it: `customizations.user`; empty for the root.
    path: String,
    span: Span,
    entries: &'a [(Key, Node)],
    known: Vec<&'static str>,
}

impl<'a> Table<'a> {
    /// Starts to read a node that must be a table.
    pub(super) fn new(path: &str, node: &'a Node, report: &mut Report) -> Option<Self> {
        let Data::Table(entries) = &node.value else {
            wrong_kind(path, "a table", node, report);
            return None;
        };
        Some(Self { path: path.to_owned(), span: node.span.clone(), entries, known: Vec::new() })
    }

    /// The path of one of the table's keys.
    pub(super) fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Where the table stands.
    pub(super) fn span(&self) -> Span {
        self.span.clone()
    }

    /// Whether there is a key of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|(key, _)| key.value == name)
    }

    /// The value of a key, of any kind.
    pub(super) fn any(&mut self, name: &'static str) -> Option<&'a Node> {
        self.known.push(name);
        self.entries.iter().find(|(key, _)| key.value == name).map(|(_, node)| node)
    }

    fn typed<T>(
        &mut self,
        name: &'static str,
        kind: &str,
        report: &mut Report,
        get: impl FnOnce(&'a Data) -> Option<T>,
    ) -> Option<Placed<T>> {
        let node = self.any(name)?;
        let value = get(&node.value);
        if value.is_none() {
            wrong_kind(&self.path(name), kind, node, report);
        }
        value.map(|value| Placed { value, span: node.span.clone() })
    }

    /// The value of a key that is a string.
    pub(super) fn string(&mut self, name: &'static str, report: &mut Report) -> Option<Placed<String>> {
        self.typed(name, "a string", report, |data| match data {
            Data::String(text) => Some(text.clone()),
            _ => None,
        })
    }

    /// The value of a key that must be there and is a string that is not empty.
    pub(super) fn required(&mut self, name: &'static str, report: &mut Report) -> Option<Placed<String>> {
        let there = self.has(name);
        let value = self.string(name, report);
        if !there {
            let message = match self.path.as_str() {
                "" => format!("`{name}` is missing"),
                path => format!("`{path}` has no `{name}`"),
            };
            report.add(self.span(), message, None);
        }
        if let Some(text) = &value
            && text.value.is_empty()
        {
            report.add(text.span.clone(), format!("`{}` is empty", self.path(name)), None);
        }
        value.filter(|text| !text.value.is_empty())
    }

    /// The value of a key that is a boolean.
    pub(super) fn boolean(&mut self, name: &'static str, report: &mut Report) -> Option<bool> {
        let value = self.typed(name, "`true` or `false`", report, |data| match data {
            Data::Boolean(flag) => Some(*flag),
            _ => None,
        });
        value.map(|flag| flag.value)
    }

    /// The value of a key that is an integer that is not negative.
    pub(super) fn number(&mut self, name: &'static str, report: &mut Report) -> Option<Placed<u64>> {
        self.typed(name, "an integer, zero or more", report, |data| match data {
            Data::Integer(number) => u64::try_from(*number).ok(),
            _ => None,
        })
    }

    /// The strings of a key that is an array of strings.
    pub(super) fn strings(&mut self, name: &'static str, report: &mut Report) -> Vec<Placed<String>> {
        let path = self.path(name);
        let items = self.array(name, "an array of strings", report);
        let mut strings = Vec::new();
        for node in items {
            match &node.value {
                Data::String(text) => {
                    strings.push(Placed { value: text.clone(), span: node.span.clone() });
                }
                _ => wrong_kind(&format!("{path}[]"), "a string", node, report),
            }
        }
        strings
    }

    /// The tables of a key that is an array of tables.
    pub(super) fn tables(&mut self, name: &'static str, report: &mut Report) -> Vec<Table<'a>> {
        let path = self.path(name);
        let kind = format!("an array of tables (`[[{path}]]`)");
        let items = self.array(name, &kind, report);
        items.iter().filter_map(|node| Table::new(&path, node, report)).collect()
    }

    /// The table of a key.
    pub(super) fn table(&mut self, name: &'static str, report: &mut Report) -> Option<Table<'a>> {
        let path = self.path(name);
        self.any(name).and_then(|node| Table::new(&path, node, report))
    }

    fn array(&mut self, name: &'static str, kind: &str, report: &mut Report) -> &'a [Node] {
        let Some(node) = self.any(name) else { return &[] };
        match &node.value {
            Data::Array(items) => items,
            _ => {
                wrong_kind(&self.path(name), kind, node, report);
                &[]
            }
        }
    }

    /// Refuses keys that the blueprint format has and Kiln does not carry out yet, each with what to do.
    pub(super) fn refuse(&self, keys: &[(&str, &str)], report: &mut Report) -> &Self {
        for (key, _) in self.entries.iter().filter(|(_, node)| !node.value.is_void()) {
            if let Some((name, hint)) = keys.iter().find(|(name, _)| *name == key.value) {
                let message = format!("`{}` is not supported yet", self.path(name));
                report.add(key.span.clone(), message, Some((*hint).to_owned()));
            }
        }
        self
    }

    /// Reports every key that is neither read nor refused.
    pub(super) fn finish(self, refused: &[(&str, &str)], report: &mut Report) {
        self.refuse(refused, report);
        for (at, (key, _)) in self.entries.iter().enumerate() {
            let name = key.value.as_str();
            if self.entries.iter().take(at).any(|(before, _)| before.value == name) {
                report.add(key.span.clone(), format!("`{}` is given twice", self.path(name)), None);
                continue;
            }
            if self.known.contains(&name) || refused.iter().any(|(refused, _)| *refused == name) {
                continue;
            }
            let message = match self.path.as_str() {
                "" => format!("unknown key `{name}`"),
                path => format!("unknown key `{name}` in `{path}`"),
            };
            let hint = match near(name, self.known.iter().copied()).first() {
                Some(near) => format!("did you mean `{near}`?"),
                None => {
                    let mut known = self.known.clone();
                    known.sort_unstable();
                    format!("the keys here are {}", list(&known))
                }
            };
            report.add(key.span.clone(), message, Some(hint));
        }
    }
}

/// Names in backticks, with commas between them.
pub(crate) fn list<T: AsRef<str>>(names: &[T]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("`{}`", name.as_ref())).collect();
    quoted.join(", ")
}

fn wrong_kind(path: &str, wanted: &str, node: &Node, report: &mut Report) {
    let message = match path {
        "" => format!("a definition is {wanted}, not {}", node.value.kind()),
        path => format!("`{path}` must be {wanted}, not {}", node.value.kind()),
    };
    report.add(node.span.clone(), message, None);
}
