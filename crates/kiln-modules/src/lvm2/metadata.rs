//! What a text says of its volume group.

use super::Lvm2Error;
use super::text::{self, Section, Value};

/// The longest name that LVM gives a volume group.
const LONGEST_NAME: usize = 127;

/// The description of a volume group: the text as it is on the disk, without the zero at its end.
///
/// What is changed is changed in the text; the rest of it stays as it was, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// With the zero.
    text: Vec<u8>,
    name: String,
}

impl Metadata {
    /// Reads a text. It ends at the first zero, or with the bytes.
    pub fn parse(text: &[u8]) -> Result<Self, Lvm2Error> {
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        text::check(text)?;
        let group = group(text)?;
        let mut text = text.to_vec();
        let name = String::from_utf8_lossy(&text[group]).into_owned();
        if !is_name(&name) {
            return Err(Lvm2Error::Name { name });
        }
        text.push(0);
        Ok(Self { text, name })
    }

    /// The text.
    pub fn text(&self) -> &[u8] {
        self.text.split_last().map_or(&[], |(_, text)| text)
    }

    /// The text with the zero that ends it.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.text
    }

    /// The name of the volume group.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The id of the volume group, as LVM shows it.
    pub fn id(&self) -> Option<String> {
        self.group().string("id")
    }

    /// How often LVM has changed the group.
    pub fn sequence_number(&self) -> u64 {
        self.group().number("seqno").unwrap_or(0)
    }

    /// The names of all volumes, in the order of the text.
    pub fn volumes(&self) -> Vec<String> {
        let volumes = self.group().section("logical_volumes");
        volumes.map(|volumes| volumes.sections().map(|(name, _)| name).collect()).unwrap_or_default()
    }

    pub(super) fn group(&self) -> Section<'_> {
        let whole = Section::whole(self.text());
        whole.section(&self.name).unwrap_or(Section::whole(&[]))
    }

    /// A member beside the group: `description`, `creation_host`, `creation_time` or another one, without quotation marks.
    pub fn value(&self, name: &str) -> Option<String> {
        let whole = Section::whole(self.text());
        whole.string(name).or_else(|| whole.number(name).map(|number| number.to_string()))
    }

    /// Renames the volume group.
    pub fn rename(&mut self, name: &str) -> Result<(), Lvm2Error> {
        if !is_name(name) {
            return Err(Lvm2Error::Name { name: name.to_owned() });
        }
        let place = group(self.text())?;
        self.text.splice(place, name.bytes());
        name.clone_into(&mut self.name);
        Ok(())
    }

    /// Sets the description of the text, which LVM fills with the command that wrote it.
    pub fn set_description(&mut self, description: &str) {
        self.set("description", &text::quoted(&without_zero(description)));
    }

    /// Sets the name of the host that made the text.
    pub fn set_creation_host(&mut self, host: &str) {
        self.set("creation_host", &text::quoted(&without_zero(host)));
    }

    /// Sets when the text was made, in seconds since 1970.
    pub fn set_creation_time(&mut self, time: u64) {
        self.set("creation_time", &time.to_string());
    }

    fn set(&mut self, name: &str, value: &str) {
        let found = {
            let text = self.text();
            let mut members = Section::whole(text).members();
            members.find(|member| text.get(member.name.clone()) == Some(name.as_bytes()))
        };
        match found.map(|member| member.value) {
            Some(Value::Scalar(place)) => {
                drop(self.text.splice(place, value.bytes()));
            }
            Some(Value::Array(inner)) => {
                // With its brackets.
                drop(self.text.splice(inner.start - 1..inner.end + 1, value.bytes()));
            }
            // A section of that name is the group, which may be called anything.
            Some(Value::Section(_)) | None => {
                let end = self.text.len() - 1;
                drop(self.text.splice(end..end, format!("\n{name} = {value}\n").bytes()));
            }
        }
    }

    /// Takes out the comments, in which LVM tells of itself, the time and the kernel.
    pub fn remove_comments(&mut self) {
        self.text = text::without_comments(self.text());
        self.text.push(0);
    }
}

/// Where the name of the group is: it is the only section.
fn group(text: &[u8]) -> Result<std::ops::Range<usize>, Lvm2Error> {
    let mut groups =
        Section::whole(text).members().filter(|member| matches!(member.value, Value::Section(_)));
    let wrong = |offset, found: &str| {
        Err(Lvm2Error::Text {
            offset,
            found: found.to_owned(),
            expected: "one section, that of the volume group",
        })
    };
    match (groups.next(), groups.next()) {
        (Some(group), None) => Ok(group.name),
        (Some(_), Some(second)) => wrong(second.name.start, "a second section"),
        (None, _) => wrong(text.len(), "the end"),
    }
}

/// The text would end there.
fn without_zero(text: &str) -> String {
    text.replace('\0', "")
}

/// Whether LVM accepts a name for a volume group.
pub fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+_.-".contains(&byte);
    !name.is_empty()
        && name.len() <= LONGEST_NAME
        && !name.starts_with('-')
        && name != "."
        && name != ".."
        && name.bytes().all(allowed)
}
