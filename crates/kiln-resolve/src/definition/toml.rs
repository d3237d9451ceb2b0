//! TOML text to nodes.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::node::{Data, Node, Placed};
use super::report::Report;

/// Parses TOML; a syntax error is reported, and then there is no node.
pub(super) fn parse(text: &str, report: &mut Report) -> Option<Node> {
    match DeTable::parse(text) {
        Ok(root) => Some(Placed { span: root.span(), value: table(root.get_ref()) }),
        Err(error) => {
            let message = format!("this is not valid TOML: {}", error.message().replace('\n', ", "));
            report.add(error.span().unwrap_or(0..0), message, None);
            None
        }
    }
}

fn table(table: &DeTable<'_>) -> Data {
    let mut entries: Vec<_> = table
        .iter()
        .map(|(key, value)| {
            let key = Placed { value: key.get_ref().clone().into_owned(), span: key.span() };
            (key, node(value))
        })
        .collect();
    // The parser's map is sorted by name; findings and users want the order of the text.
    entries.sort_by_key(|(key, _)| key.span.start);
    Data::Table(entries)
}

fn node(value: &Spanned<DeValue<'_>>) -> Node {
    let data = match value.get_ref() {
        DeValue::String(text) => Data::String(text.clone().into_owned()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Data::Integer(number),
            Err(_) => Data::Other("number that is too large"),
        },
        DeValue::Float(_) => Data::Other("float"),
        DeValue::Boolean(flag) => Data::Boolean(*flag),
        DeValue::Datetime(_) => Data::Other("date"),
        DeValue::Array(items) => Data::Array(items.iter().map(node).collect()),
        DeValue::Table(entries) => table(entries),
    };
    Placed { value: data, span: value.span() }
}
