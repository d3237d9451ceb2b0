//! Texts with variables, as manifests may have them: `$name`, `${name}`, and `$$` for a dollar sign.
//!
//! Names are letters, digits and `_`, and do not begin with a digit. A variable that nobody knows stays as it is, and so
//! does a dollar sign that none follows.

/// Puts the values in place of their variables, in one pass: variables in values are not looked at.
pub(crate) fn substitute(text: &str, values: &[(&str, &str)]) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        result.push_str(before);
        let (variable, length) = variable(after);
        let value = variable.and_then(|name| values.iter().find(|(own, _)| *own == name));
        let written = after.get(..length).unwrap_or_default();
        match value {
            Some((_, value)) => result.push_str(value),
            None if written == "$" => result.push('$'),
            None => {
                result.push('$');
                result.push_str(written);
            }
        }
        rest = after.get(length..).unwrap_or_default();
    }
    result + rest
}

/// The name that stands after a dollar sign, if one does, and how long it is as written.
fn variable(text: &str) -> (Option<&str>, usize) {
    if text.starts_with('$') {
        return (None, 1);
    }
    let is_braced = text.starts_with('{');
    let inner = text.get(usize::from(is_braced)..).unwrap_or_default();
    let end = inner.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let name = inner.get(..end.unwrap_or(inner.len())).unwrap_or_default();
    let is_name = name.starts_with(|letter: char| !letter.is_ascii_digit());
    match (is_name, is_braced) {
        (true, false) => (Some(name), name.len()),
        (true, true) if inner.get(name.len()..).is_some_and(|rest| rest.starts_with('}')) => {
            (Some(name), name.len() + 2)
        }
        _ => (None, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced_once() {
        let values = [("name", "Kiln"), ("a_1", "$name"), ("empty", "")];
        for (text, expected) in [
            ("", ""),
            ("$name", "Kiln"),
            ("${name}s, $names", "Kilns, $names"),
            ("$a_1-${empty}|", "$name-|"),
            ("$$name ${$$}", "$name ${$}"),
            ("$ $1 ${1} ${name $", "$ $1 ${1} ${name $"),
            ("${name\u{e9}} $\u{e9}$name", "${name\u{e9}} $\u{e9}Kiln"),
        ] {
            assert_eq!(substitute(text, &values), expected, "{text}");
        }
    }
}
