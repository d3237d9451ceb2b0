//! The form of LVM's configuration: sections in braces, and values.
//!
//! ```text
//! member  = name "{" member* "}" | name "=" value
//! value   = scalar | "[" [ scalar ("," scalar)* [","] ] "]"
//! scalar  = '"' … '"' (with `\"` and `\\`) | "'" … "'" | word
//! comment = "#" … end of line
//! ```
//!
//! A text is looked at where it stands: nothing is kept of it but places in it. [`check`] holds that a whole text has this
//! form; what reads parts of it afterwards relies on that, and finds nothing where it is not so.

use std::ops::Range;

use super::Lvm2Error;

/// Sections may be in sections so many times; LVM's own are four deep.
const DEEPEST: usize = 16;

/// A part of a text that holds members.
#[derive(Clone, Copy, Debug)]
pub(super) struct Section<'a> {
    text: &'a [u8],
    place: usize,
    end: usize,
}

/// A name and what belongs to it, as places in the text.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) name: Range<usize>,
    pub(super) value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    /// What is between the braces.
    Section(Range<usize>),
    /// What is between the brackets.
    Array(Range<usize>),
    /// A scalar, with its quotation marks.
    Scalar(Range<usize>),
}

/// Holds that a text has the form.
pub(super) fn check(text: &[u8]) -> Result<(), Lvm2Error> {
    let mut scanner = Scanner { text, place: 0, end: text.len() };
    while scanner.member(0)?.is_some() {}
    match scanner.peek() {
        None => Ok(()),
        Some(_) => Err(scanner.wrong("a name or the end")),
    }
}

impl<'a> Section<'a> {
    /// A whole text.
    pub(super) fn whole(text: &'a [u8]) -> Self {
        Self { text, place: 0, end: text.len() }
    }

    /// The members in their order.
    pub(super) fn members(self) -> impl Iterator<Item = Member> + 'a {
        let mut scanner = Scanner { text: self.text, place: self.place, end: self.end };
        std::iter::from_fn(move || scanner.member(0).ok().flatten())
    }

    fn member(self, name: &str) -> Option<Value> {
        let found = self.members().find(|member| self.text.get(member.name.clone()) == Some(name.as_bytes()));
        found.map(|member| member.value)
    }

    /// The part that a member is.
    fn inner(self, range: Range<usize>) -> Self {
        Self { text: self.text, place: range.start, end: range.end }
    }

    /// A member that is a section.
    pub(super) fn section(self, name: &str) -> Option<Self> {
        match self.member(name)? {
            Value::Section(range) => Some(self.inner(range)),
            _ => None,
        }
    }

    /// Members that are sections, by name.
    pub(super) fn sections(self) -> impl Iterator<Item = (String, Self)> + 'a {
        self.members().filter_map(move |member| match member.value {
            Value::Section(range) => {
                let name = self.text.get(member.name)?;
                Some((name.escape_ascii().to_string(), self.inner(range)))
            }
            _ => None,
        })
    }

    /// A member that is a whole number from zero.
    pub(super) fn number(self, name: &str) -> Option<u64> {
        match self.member(name)? {
            Value::Scalar(range) => number(self.text.get(range)?),
            _ => None,
        }
    }

    /// A member that is a text.
    pub(super) fn string(self, name: &str) -> Option<String> {
        match self.member(name)? {
            Value::Scalar(range) => string(self.text.get(range)?),
            _ => None,
        }
    }

    /// A member that is a list; one scalar is a list of one, as for LVM.
    pub(super) fn list(self, name: &str) -> Option<impl Iterator<Item = &'a [u8]>> {
        let (Value::Array(range) | Value::Scalar(range)) = self.member(name)? else { return None };
        let mut scanner = Scanner { text: self.text, place: range.start, end: range.end };
        Some(std::iter::from_fn(move || scanner.element().ok().flatten()))
    }
}

/// The value of a scalar that is a whole number from zero.
pub(super) fn number(scalar: &[u8]) -> Option<u64> {
    std::str::from_utf8(scalar).ok()?.parse().ok()
}

/// The value of a scalar that is a text in quotation marks. What is not UTF-8 in it is replaced.
pub(super) fn string(scalar: &[u8]) -> Option<String> {
    let plain = match scalar {
        [b'\'', inner @ .., b'\''] => inner.to_vec(),
        [b'"', inner @ .., b'"'] => {
            let mut plain = Vec::with_capacity(inner.len());
            let mut escaped = false;
            for byte in inner {
                if *byte == b'\\' && !escaped {
                    escaped = true;
                } else {
                    escaped = false;
                    plain.push(*byte);
                }
            }
            plain
        }
        _ => return None,
    };
    Some(String::from_utf8_lossy(&plain).into_owned())
}

/// A text as a scalar in quotation marks.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A text without its comments and the blanks before them; the ends of lines stay.
pub(super) fn without_comments(text: &[u8]) -> Vec<u8> {
    let mut scanner = Scanner { text, place: 0, end: text.len() };
    let mut rest = Vec::with_capacity(text.len());
    while let Some(byte) = scanner.peek() {
        let start = scanner.place;
        match byte {
            b'#' => {
                scanner.comment();
                while matches!(rest.last(), Some(b' ' | b'\t')) {
                    rest.pop();
                }
                continue;
            }
            // In quotation marks there are no comments. A text that has no end there has been refused.
            b'"' | b'\'' if scanner.scalar().is_ok() => {}
            _ => scanner.place = start + 1,
        }
        rest.extend_from_slice(text.get(start..scanner.place).unwrap_or_default());
    }
    rest
}

struct Scanner<'a> {
    text: &'a [u8],
    place: usize,
    end: usize,
}

impl Scanner<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.place).copied().filter(|_| self.place < self.end)
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.place += usize::from(found);
        found
    }

    fn wrong(&self, expected: &'static str) -> Lvm2Error {
        let found = match self.peek() {
            Some(byte) => format!("`{}`", byte.escape_ascii()),
            None => "the end".to_owned(),
        };
        Lvm2Error::Text { offset: self.place, found, expected }
    }

    fn comment(&mut self) {
        while self.peek().is_some_and(|byte| byte != b'\n') {
            self.place += 1;
        }
    }

    fn blank(&mut self) {
        while let Some(byte) = self.peek() {
            match byte {
                b'#' => self.comment(),
                byte if byte.is_ascii_whitespace() => self.place += 1,
                _ => break,
            }
        }
    }

    fn word(&mut self) -> Range<usize> {
        let start = self.place;
        let ends = |byte: u8| byte.is_ascii_whitespace() || b"{}[]=,\"'#\0".contains(&byte);
        while self.peek().is_some_and(|byte| !ends(byte)) {
            self.place += 1;
        }
        start..self.place
    }

    /// The next member; none if there is no name.
    fn member(&mut self, depth: usize) -> Result<Option<Member>, Lvm2Error> {
        self.blank();
        let name = self.word();
        if name.is_empty() {
            return Ok(None);
        }
        self.blank();
        let value = if self.take(b'{') {
            if depth == DEEPEST {
                return Err(self.wrong("fewer sections in sections"));
            }
            let start = self.place;
            while self.member(depth + 1)?.is_some() {}
            let end = self.place;
            if !self.take(b'}') {
                return Err(self.wrong("a name or `}`"));
            }
            Value::Section(start..end)
        } else if self.take(b'=') {
            self.blank();
            if self.take(b'[') {
                let start = self.place;
                while self.element()?.is_some() {}
                let end = self.place;
                if !self.take(b']') {
                    return Err(self.wrong("a value or `]`"));
                }
                Value::Array(start..end)
            } else {
                Value::Scalar(self.scalar()?)
            }
        } else {
            return Err(self.wrong("`{` or `=`"));
        };
        Ok(Some(Member { name, value }))
    }

    fn scalar(&mut self) -> Result<Range<usize>, Lvm2Error> {
        let start = self.place;
        match self.peek() {
            Some(mark @ (b'"' | b'\'')) => {
                self.place += 1;
                loop {
                    match self.peek() {
                        None => return Err(self.wrong("the end of a text in quotation marks")),
                        Some(b'\\') if mark == b'"' => {
                            // Whatever is escaped, unless the text ends here.
                            self.place = (self.place + 2).min(self.end);
                        }
                        Some(byte) => {
                            self.place += 1;
                            if byte == mark {
                                return Ok(start..self.place);
                            }
                        }
                    }
                }
            }
            _ => {
                let word = self.word();
                if word.is_empty() { Err(self.wrong("a value")) } else { Ok(word) }
            }
        }
    }
}

impl<'a> Scanner<'a> {
    /// The next element of a list, with the comma after it; none at its end.
    fn element(&mut self) -> Result<Option<&'a [u8]>, Lvm2Error> {
        self.blank();
        if matches!(self.peek(), None | Some(b']')) {
            return Ok(None);
        }
        let range = self.scalar()?;
        self.blank();
        if !self.take(b',') && !matches!(self.peek(), None | Some(b']')) {
            return Err(self.wrong("`,` or `]`"));
        }
        Ok(self.text.get(range))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"vg {\n\tid = \"a\\\"b\\\\\" # it's \"one\"\nflags=[]\nlist = [\"a\", 1 , 'b#',]\n\
        s1 { s2 { number = 12 } }\nstatus = \"x\"}\n# end\ntext = \"# none\" #\t\n#";

    #[test]
    fn members_are_found() {
        check(TEXT).expect("valid");
        let group = Section::whole(TEXT).section("vg").expect("a section");
        assert_eq!(group.string("id").as_deref(), Some("a\"b\\"));
        assert_eq!(group.list("flags").expect("a list").count(), 0);
        assert_eq!(group.list("list").expect("a list").collect::<Vec<_>>(), [&b"\"a\""[..], b"1", b"'b#'"]);
        assert_eq!(group.list("status").expect("a list").collect::<Vec<_>>(), [b"\"x\""]);
        let inner = group.section("s1").and_then(|section| section.section("s2")).expect("sections");
        assert_eq!(inner.number("number"), Some(12));
        assert_eq!((inner.number("none"), inner.string("number"), group.number("s1")), (None, None, None));
        assert_eq!(group.sections().map(|(name, _)| name).collect::<Vec<_>>(), ["s1"]);
        assert_eq!(Section::whole(TEXT).string("text").as_deref(), Some("# none"));
    }

    #[test]
    fn comments_are_taken_out() {
        let expected = b"vg {\n\tid = \"a\\\"b\\\\\"\nflags=[]\nlist = [\"a\", 1 , 'b#',]\n\
            s1 { s2 { number = 12 } }\nstatus = \"x\"}\n\ntext = \"# none\"\n";
        assert_eq!(without_comments(TEXT).escape_ascii().to_string(), expected.escape_ascii().to_string());
    }

    #[test]
    fn what_is_wrong_is_said() {
        let deep = "a{".repeat(DEEPEST + 1);
        for (text, expected) in [
            ("a", "byte 1: the end; expected `{` or `=`"),
            ("a =", "byte 3: the end; expected a value"),
            ("a = }", "byte 4: `}`; expected a value"),
            ("a {", "byte 3: the end; expected a name or `}`"),
            ("a { } }", "byte 6: `}`; expected a name or the end"),
            ("a = [1", "byte 6: the end; expected a value or `]`"),
            ("a = [1 2]", "byte 7: `2`; expected `,` or `]`"),
            ("a = [[1]]", "byte 5: `[`; expected a value"),
            ("a = \"b\\\"", "byte 8: the end; expected the end of a text in quotation marks"),
            ("a = \"b\\", "byte 7: the end; expected the end of a text in quotation marks"),
            ("a = 1\0", "byte 5: `\\x00`; expected a name or the end"),
            (deep.as_str(), "byte 34: the end; expected fewer sections in sections"),
        ] {
            let error = check(text.as_bytes()).expect_err(text).to_string();
            assert_eq!(error, format!("the metadata's text, {expected}"), "{text}");
        }
    }

    #[test]
    fn texts_are_quoted() {
        for text in ["", "a b", "\"", "\\", "\\\"x"] {
            assert_eq!(string(quoted(text).as_bytes()).as_deref(), Some(text));
        }
        assert_eq!((string(b"x"), string(b"\""), number(b"-1"), number(b"1.5")), (None, None, None, None));
    }
}
