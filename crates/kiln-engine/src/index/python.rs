//! What an old module states in its Python source: a documentation string, `SCHEMA`, `SCHEMA_2`, `CAPABILITIES`.
//!
//! Only statements at the beginning of a line are looked at, and of assignments only those of plain strings (also
//! several in a row, which Python joins) and of sets, lists and tuples of them; anything else states nothing.

use std::iter::Peekable;
use std::str::Chars;

/// What a source states.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// The documentation string, without the indentation of its lines.
    pub(super) documentation: String,
    pub(super) schema: Option<String>,
    pub(super) schema_2: Option<String>,
    pub(super) capabilities: Vec<String>,
}

/// Reads what a source states.
pub(super) fn facts(source: &str) -> Facts {
    let mut facts = Facts::default();
    for (index, statement) in Statements(Scanner { rest: source.chars().peekable() }, true).enumerate() {
        if index == 0
            && let Some(text) = one_string(&statement)
        {
            facts.documentation = clean(&text);
            continue;
        }
        let mut rest = statement.as_slice();
        let mut targets = Vec::new();
        while let [Token::Name(name), Token::Mark('='), after @ ..] = rest {
            targets.push(name.as_str());
            rest = after;
        }
        for target in targets {
            match target {
                "SCHEMA" => facts.schema = one_string(rest),
                "SCHEMA_2" => facts.schema_2 = one_string(rest),
                "CAPABILITIES" => facts.capabilities = strings(rest),
                _ => {}
            }
        }
    }
    facts
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Name(String),
    Text(String),
    Mark(char),
    /// A string of bytes or with expressions in it.
    Other,
}

/// The string that an expression is; several in a row are one.
fn one_string(expression: &[Token]) -> Option<String> {
    let inner = match expression {
        [Token::Mark('('), inner @ .., Token::Mark(')')] => inner,
        inner => inner,
    };
    let texts: Option<Vec<&str>> = inner
        .iter()
        .map(|token| match token {
            Token::Text(text) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    texts.filter(|texts| !texts.is_empty()).map(|texts| texts.concat())
}

/// The strings of a set, a list or a tuple.
fn strings(expression: &[Token]) -> Vec<String> {
    let inner = match expression {
        [Token::Mark('{'), inner @ .., Token::Mark('}')]
        | [Token::Mark('['), inner @ .., Token::Mark(']')]
        | [Token::Mark('('), inner @ .., Token::Mark(')')] => inner,
        inner => inner,
    };
    inner.split(|token| *token == Token::Mark(',')).filter_map(one_string).collect()
}

/// The statements that begin at the beginning of a line, one after the other.
///
/// The second member says whether the next one begins a line.
struct Statements<'a>(Scanner<'a>, bool);

impl Iterator for Statements<'_> {
    type Item = Vec<Token>;

    fn next(&mut self) -> Option<Vec<Token>> {
        loop {
            self.0.rest.peek()?;
            let begun = std::mem::replace(&mut self.1, true);
            let indented = begun && matches!(self.0.rest.peek(), Some(' ' | '\t'));
            let statement = self.0.statement(&mut self.1);
            if !indented && !statement.is_empty() {
                return Some(statement);
            }
        }
    }
}

struct Scanner<'a> {
    rest: Peekable<Chars<'a>>,
}

impl Scanner<'_> {
    /// The tokens up to the end of the statement: of the line, unless brackets are open or the line goes on.
    fn statement(&mut self, next_begins_line: &mut bool) -> Vec<Token> {
        let mut tokens = Vec::new();
        let mut depth = 0_usize;
        while let Some(character) = self.rest.next() {
            match character {
                '\n' | ';' if depth == 0 => {
                    *next_begins_line = character == '\n';
                    break;
                }
                '#' => while self.rest.next_if(|next| *next != '\n').is_some() {},
                '\\' => {
                    self.rest.next_if_eq(&'\r');
                    self.rest.next_if_eq(&'\n');
                }
                '"' | '\'' => tokens.push(self.string(character, "")),
                _ if character.is_whitespace() => {}
                _ if character == '_' || character.is_alphanumeric() => {
                    let mut word = character.to_string();
                    while let Some(next) = self.rest.next_if(|next| *next == '_' || next.is_alphanumeric()) {
                        word.push(next);
                    }
                    let prefix = word.len() <= 2 && word.chars().all(|letter| "rRbBuUfFtT".contains(letter));
                    match self.rest.next_if(|next| prefix && matches!(next, '"' | '\'')) {
                        Some(quote) => tokens.push(self.string(quote, &word.to_lowercase())),
                        None => tokens.push(Token::Name(word)),
                    }
                }
                mark => {
                    match mark {
                        '(' | '[' | '{' => depth += 1,
                        ')' | ']' | '}' => depth = depth.saturating_sub(1),
                        _ => {}
                    }
                    tokens.push(Token::Mark(mark));
                }
            }
        }
        tokens
    }

    /// The rest of a string whose first quote was read.
    fn string(&mut self, quote: char, prefix: &str) -> Token {
        let long = match self.rest.next_if_eq(&quote) {
            None => false,
            Some(_) if self.rest.next_if_eq(&quote).is_some() => true,
            Some(_) => return literal(String::new(), prefix),
        };
        let raw = prefix.contains('r');
        let mut text = String::new();
        let mut quotes = 0;
        while let Some(character) = self.rest.next() {
            if character == quote {
                quotes += 1;
                if !long || quotes == 3 {
                    // Those of the end that were taken for text.
                    text.truncate(text.len() - (quotes - 1));
                    break;
                }
                text.push(character);
                continue;
            }
            quotes = 0;
            match character {
                '\n' if !long => break,
                '\\' if raw => {
                    text.push('\\');
                    text.extend(self.rest.next());
                }
                '\\' => self.escape(&mut text),
                _ => text.push(character),
            }
        }
        literal(text, prefix)
    }

    fn escape(&mut self, text: &mut String) {
        let Some(character) = self.rest.next() else { return };
        let plain = match character {
            '\n' => return,
            '\\' | '\'' | '"' => character,
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'a' => '\x07',
            'b' => '\x08',
            'f' => '\x0c',
            'v' => '\x0b',
            'x' => return self.number(text, character, 16, 2, 2),
            'u' => return self.number(text, character, 16, 4, 4),
            'U' => return self.number(text, character, 16, 8, 8),
            '0'..='7' => {
                let mut value = character.to_digit(8).unwrap_or_default();
                for _ in 0..2 {
                    let Some(next) = self.rest.next_if(|next| next.is_digit(8)) else { break };
                    value = value * 8 + next.to_digit(8).unwrap_or_default();
                }
                text.extend(char::from_u32(value));
                return;
            }
            // What is no escape keeps its backslash.
            _ => {
                text.push('\\');
                character
            }
        };
        text.push(plain);
    }

    fn number(&mut self, text: &mut String, letter: char, radix: u32, least: usize, most: usize) {
        let mut digits = String::new();
        while digits.len() < most
            && let Some(next) = self.rest.next_if(|next| next.is_digit(radix))
        {
            digits.push(next);
        }
        let value = u32::from_str_radix(&digits, radix).ok().filter(|_| digits.len() >= least);
        match value.and_then(char::from_u32) {
            Some(character) => text.push(character),
            None => text.extend(['\\', letter].into_iter().chain(digits.chars())),
        }
    }
}

fn literal(text: String, prefix: &str) -> Token {
    if prefix.contains(['b', 'f', 't']) { Token::Other } else { Token::Text(text) }
}

/// Takes the indentation that all lines but the first have in common from them, and empty lines from both ends.
fn clean(text: &str) -> String {
    let lines: Vec<String> =
        text.replace('\t', "        ").lines().map(|line| line.trim_end().to_owned()).collect();
    let indentation = |line: &&String| line.len() - line.trim_start().len();
    let margin = lines
        .iter()
        .skip(1)
        .filter(|line| !line.is_empty())
        .map(|line| indentation(&line))
        .min()
        .unwrap_or(0);
    let cut = lines.iter().enumerate().map(|(index, line)| match index {
        0 => line.trim_start(),
        _ => line.get(margin..).unwrap_or_default(),
    });
    let cut: Vec<&str> = cut.collect();
    let first = cut.iter().position(|line| !line.is_empty()).unwrap_or(cut.len());
    let last = cut.iter().rposition(|line| !line.is_empty()).map_or(first, |last| last + 1);
    cut.get(first..last).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_states_is_read() {
        let source = r##"#!/usr/bin/python3
# SCHEMA = "no comment"
"""
Make a thing

  Indented, and "quoted" \"\"\".
"""
import os, sys; SCHEMA = None

SCHEMA = r"""
"pattern": "^a\.b$"
"""
SCHEMA_2 = OTHER = ('"a": ' # so far
    '"\u00e9\x41\101\n\q"')
CAPABILITIES = {"CAP_A",
    'CAP_B', }

def main():
    SCHEMA = "not at the beginning of a line"
    CAPABILITIES = {"CAP_NO"}
if True: SCHEMA = "neither"
"##;
        assert_eq!(
            facts(source),
            Facts {
                documentation: "Make a thing\n\n  Indented, and \"quoted\" \"\"\".".to_owned(),
                schema: Some("\n\"pattern\": \"^a\\.b$\"\n".to_owned()),
                schema_2: Some("\"a\": \"éAA\n\\q\"".to_owned()),
                capabilities: vec!["CAP_A".to_owned(), "CAP_B".to_owned()],
            }
        );
    }

    #[test]
    fn what_is_no_plain_string_states_nothing() {
        for source in [
            "SCHEMA = f\"{x}\"",
            "SCHEMA = b'a'",
            "SCHEMA = json.dumps({})",
            "SCHEMA = 'a' + 'b'",
            "SCHEMA: str = 'a'",
            "SCHEMA += 'a'",
            "x.SCHEMA = 'a'",
            "",
            "'''",
            "SCHEMA = (",
        ] {
            assert_eq!(facts(source), Facts::default(), "{source}");
        }
    }

    #[test]
    fn the_last_assignment_counts() {
        assert_eq!(facts("SCHEMA = 'a'\nSCHEMA = ''\n").schema.as_deref(), Some(""));
        assert_eq!(facts("CAPABILITIES = ['a']; CAPABILITIES = ('b', 'c')").capabilities, ["b", "c"]);
    }

    #[test]
    fn documentation_loses_its_indentation() {
        assert_eq!(facts("'''  One\n      two\n        three\n\n'''").documentation, "One\ntwo\n  three");
        assert_eq!(facts("\nimport os\n'no documentation'").documentation, "");
    }

    /// What Python sources are made of, whole and in halves.
    const PIECES: &[&str] = &[
        "SCHEMA",
        "SCHEMA_2 = ",
        "CAPABILITIES = {",
        "=",
        "\"",
        "'",
        "\"\"\"",
        "'''",
        "\\",
        "\\x4",
        "\\u00e9",
        "\\U0011",
        "\\777",
        "\\N{DASH}",
        "r\"",
        "b'",
        "f\"\"\"",
        "(",
        ")",
        "[",
        "}",
        ",",
        "#",
        ";",
        "\n",
        "\r\n",
        "\t",
        "  ",
        "é",
        "\u{10ffff}",
        "\0",
    ];

    proptest::proptest! {
        #[test]
        fn any_text_states_something_or_nothing(
            pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..24), text: String,
        ) {
            let source = pieces.concat() + &text;
            let found = facts(&source);
            // Nothing grows but tabs: an escape is never shorter than what it stands for.
            let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
            proptest::prop_assert!(length(&found.schema).max(length(&found.schema_2)) <= source.len());
            proptest::prop_assert!(found.documentation.len() <= source.len() * 8);
        }
    }
}
