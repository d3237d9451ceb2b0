//! Shell patterns with the rules of Python's `fnmatch`: any text is a pattern, and `*` also matches `/`.
//!
//! `*` any characters, `?` one, `[…]` one of a set with ranges, `[!…]` one of no set; `]` at the beginning of a set is in it. A
//! `[` without its `]` is itself, and so is everything else.

/// What a part of a pattern matches.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    /// Any number of characters.
    Any,
    /// One character.
    One,
    /// That character.
    Exactly(char),
    /// A character that is in one of the ranges, or, negated, in none.
    Set { negated: bool, ranges: Vec<(char, char)> },
}

/// A pattern, ready to be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Part>);

impl Pattern {
    pub(super) fn new(text: &str) -> Self {
        let text: Vec<char> = text.chars().collect();
        let (mut parts, mut rest) = (Vec::new(), text.as_slice());
        while let Some((first, after)) = rest.split_first() {
            rest = after;
            parts.push(match first {
                '*' => Part::Any,
                '?' => Part::One,
                '[' => match split_set(after) {
                    Some((set, after)) => {
                        rest = after;
                        parse_set(set)
                    }
                    None => Part::Exactly('['),
                },
                other => Part::Exactly(*other),
            });
        }
        Self(parts)
    }

    /// Whether the whole text is as the pattern says.
    pub(super) fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let (mut part, mut at) = (0, 0);
        // Where to go on when what follows the last `*` does not fit: that `*` takes one more character.
        let mut retry: Option<(usize, usize)> = None;
        loop {
            match (self.0.get(part), text.get(at)) {
                (None, None) => return true,
                (Some(Part::Any), _) => {
                    part += 1;
                    retry = Some((part, at));
                }
                (Some(wanted), Some(character)) if wanted.matches(*character) => {
                    (part, at) = (part + 1, at + 1);
                }
                _ => match &mut retry {
                    Some((after, taken)) if *taken < text.len() => {
                        *taken += 1;
                        (part, at) = (*after, *taken);
                    }
                    _ => return false,
                },
            }
        }
    }
}

impl Part {
    fn matches(&self, character: char) -> bool {
        match self {
            Self::Any | Self::One => true,
            Self::Exactly(own) => *own == character,
            Self::Set { negated, ranges } => {
                ranges.iter().any(|(first, last)| (*first..=*last).contains(&character)) != *negated
            }
        }
    }
}

/// Splits what follows a `[` at the `]` that ends the set.
fn split_set(text: &[char]) -> Option<(&[char], &[char])> {
    // These may stand first without meaning the end.
    let skipped = text.iter().take(1).filter(|first| **first == '!').count();
    let skipped = skipped + text.iter().skip(skipped).take(1).filter(|first| **first == ']').count();
    let end = skipped + text.iter().skip(skipped).position(|character| *character == ']')?;
    Some((text.get(..end)?, text.get(end + 1..)?))
}

fn parse_set(set: &[char]) -> Part {
    let (negated, mut rest) = match set {
        ['!', rest @ ..] => (true, rest),
        _ => (false, set),
    };
    let mut ranges = Vec::new();
    loop {
        rest = match rest {
            // A range that ends before it begins is empty.
            [first, '-', last, after @ ..] => {
                ranges.push((*first, *last));
                after
            }
            [only, after @ ..] => {
                ranges.push((*only, *only));
                after
            }
            [] => return Part::Set { negated, ranges },
        };
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use serde_json::json;

    use super::*;

    const TEXTS: [&str; 16] = [
        "",
        "a",
        "b",
        "tree",
        "tree/x",
        "org.osbuild.noop",
        "[",
        "[a",
        "a]",
        "-",
        "!",
        "^",
        "]",
        "\u{e9}",
        "a\nb",
        "aXbXc",
    ];

    /// Patterns and which of the texts they match.
    const CASES: [(&str, &[&str]); 24] = [
        ("", &[""]),
        ("*", &TEXTS),
        ("**", &TEXTS),
        ("tree", &["tree"]),
        ("TREE", &[]),
        ("tree**", &["tree", "tree/x"]),
        ("**oop", &["org.osbuild.noop"]),
        ("a*b*c", &["aXbXc"]),
        ("a*b", &["a\nb"]),
        ("tr?e", &["tree"]),
        ("?", &["a", "b", "[", "-", "!", "^", "]", "\u{e9}"]),
        ("[", &["["]),
        ("[a", &["[a"]),
        ("[a]", &["a"]),
        ("[!a]", &["b", "[", "-", "!", "^", "]", "\u{e9}"]),
        ("[^a]", &["a", "^"]),
        ("[]]", &["]"]),
        ("[!]]", &["a", "b", "[", "-", "!", "^", "\u{e9}"]),
        ("[!]", &[]),
        ("[a-b]", &["a", "b"]),
        ("[b-a]", &[]),
        ("[a-]", &["a", "-"]),
        ("[-a]", &["a", "-"]),
        ("t[]r]ee", &["tree"]),
    ];

    #[test]
    fn patterns_match_as_in_python() {
        for (pattern, expected) in CASES {
            let matched: Vec<_> =
                TEXTS.into_iter().filter(|text| Pattern::new(pattern).matches(text)).collect();
            assert_eq!(matched, expected, "{pattern}");
        }
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "a test says what it leaves out")]
    fn python_says_the_same() {
        if std::env::var_os("KILN_REFERENCE").is_none() {
            eprintln!("SKIPPED: KILN_REFERENCE is not set; no pattern was compared with Python's");
            return;
        }
        let mut patterns: Vec<String> = CASES.iter().map(|(pattern, _)| (*pattern).to_owned()).collect();
        // All short texts of the characters that mean something, and two that do not.
        let characters = ['*', '?', '[', ']', '!', '-', 'a', 'b'];
        let mut shorter = vec![String::new()];
        for _ in 0..5 {
            shorter = shorter
                .iter()
                .flat_map(|text| characters.iter().map(move |character| format!("{text}{character}")))
                .collect();
            patterns.extend(shorter.iter().cloned());
        }
        let script = "import fnmatch, json, sys\nasked = json.load(open(sys.argv[1]))\n\
                      json.dump([[fnmatch.fnmatch(t, p) for t in asked[1]] for p in asked[0]], sys.stdout)";
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), json!([patterns, TEXTS]).to_string()).expect("written");
        let output = Command::new("python3").args(["-c", script]).arg(file.path()).output().expect("python3");
        let answers: Vec<Vec<bool>> = serde_json::from_slice(&output.stdout).expect("JSON");
        for (pattern, there) in patterns.iter().zip(answers) {
            let compiled = Pattern::new(pattern);
            let here: Vec<bool> = TEXTS.iter().map(|text| compiled.matches(text)).collect();
            assert_eq!(here, there, "{pattern}");
        }
    }
}
