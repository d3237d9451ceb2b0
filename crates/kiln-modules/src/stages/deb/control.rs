//! Control data: stanzas of fields (deb822) and what Kiln needs to know of a package.

use kiln_api::ModuleError;

use super::version::Version;

/// The fields of one stanza in their order; a value keeps its continuation lines as they are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stanza(Vec<(String, String)>);

impl Stanza {
    /// The value of a field, found without regard to case.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// All fields in their order.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Parses stanzas separated by blank lines.
pub(super) fn parse_stanzas(text: &str) -> Result<Vec<Stanza>, ModuleError> {
    let mut stanzas = Vec::new();
    let mut stanza = Stanza::default();
    for line in text.lines() {
        if line.trim().is_empty() {
            if !stanza.0.is_empty() {
                stanzas.push(std::mem::take(&mut stanza));
            }
        } else if line.starts_with([' ', '\t']) {
            let Some((_, value)) = stanza.0.last_mut() else {
                return Err(ModuleError::invalid(format!("control data: `{line}` continues no field")));
            };
            value.push('\n');
            value.push_str(line);
        } else if let Some((name, value)) = line.split_once(':') {
            stanza.0.push((name.to_owned(), value.trim().to_owned()));
        } else {
            return Err(ModuleError::invalid(format!("control data: `{line}` is no field")));
        }
    }
    if !stanza.0.is_empty() {
        stanzas.push(stanza);
    }
    Ok(stanzas)
}

/// One alternative of a relationship, as `libc6 (>= 2.36)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Relation {
    /// The package's name.
    pub(super) name: String,
    constraint: Option<(Operator, Version)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Earlier,
    EarlierOrEqual,
    Equal,
    LaterOrEqual,
    Later,
}

impl Relation {
    /// Whether a version is one that the relation means.
    pub(super) fn allows(&self, version: &Version) -> bool {
        match &self.constraint {
            None => true,
            Some((Operator::Earlier, bound)) => version < bound,
            Some((Operator::EarlierOrEqual, bound)) => version <= bound,
            Some((Operator::Equal, bound)) => version == bound,
            Some((Operator::LaterOrEqual, bound)) => version >= bound,
            Some((Operator::Later, bound)) => version > bound,
        }
    }

    /// The version in the relation, if it has one.
    fn version(&self) -> Option<&Version> {
        self.constraint.as_ref().map(|(_, version)| version)
    }

    fn parse(text: &str) -> Option<Self> {
        let (name, constraint) = match text.split_once('(') {
            Some((name, rest)) => {
                let inner = rest.split_once(')')?.0.trim();
                let end = inner.find(|letter| !matches!(letter, '<' | '=' | '>'))?;
                let (operator, version) = inner.split_at(end);
                let operator = match operator {
                    "<<" => Operator::Earlier,
                    "<" | "<=" => Operator::EarlierOrEqual,
                    "=" => Operator::Equal,
                    ">" | ">=" => Operator::LaterOrEqual,
                    ">>" => Operator::Later,
                    _ => return None,
                };
                (name, Some((operator, Version::new(version))))
            }
            None => (text, None),
        };
        // `name:any` and `name:amd64` qualify the architecture; the solver has seen to that.
        let name = name.trim().split(':').next().unwrap_or_default();
        (!name.is_empty()).then(|| Self { name: name.to_owned(), constraint })
    }
}

/// Relationships that must all hold, each by one of its alternatives.
pub(super) type Relations = Vec<Vec<Relation>>;

/// What Kiln knows of a package.
#[derive(Clone, Debug)]
pub(super) struct Package {
    /// Its name, as `libc6`.
    pub(super) name: String,
    /// Its architecture, as `amd64` or `all`.
    pub(super) architecture: String,
    /// Its version.
    pub(super) version: Version,
    /// Whether it can be installed for several architectures side by side.
    pub(super) multi_arch_same: bool,
    /// Whether the distribution calls it essential.
    pub(super) essential: bool,
    /// What must be configured before it is unpacked.
    pub(super) pre_depends: Relations,
    /// What must be configured before it is configured.
    pub(super) depends: Relations,
    replaces: Vec<Relation>,
    provides: Vec<Relation>,
    /// All its fields.
    pub(super) stanza: Stanza,
}

impl Package {
    /// Reads a package's stanza.
    pub(super) fn new(stanza: Stanza) -> Result<Self, ModuleError> {
        let name = required(&stanza, "Package", None)?;
        if !is_name(&name) {
            return Err(ModuleError::invalid(format!("`{name}` is no package name")));
        }
        let architecture = required(&stanza, "Architecture", Some(&name))?;
        if !is_name(&architecture) {
            return Err(ModuleError::invalid(format!(
                "package `{name}`: `{architecture}` is no architecture"
            )));
        }
        Ok(Self {
            version: Version::new(&required(&stanza, "Version", Some(&name))?),
            multi_arch_same: stanza.get("Multi-Arch") == Some("same"),
            essential: stanza.get("Essential") == Some("yes"),
            pre_depends: relations(&stanza, "Pre-Depends", &name)?,
            depends: relations(&stanza, "Depends", &name)?,
            replaces: relations(&stanza, "Replaces", &name)?.into_iter().flatten().collect(),
            provides: relations(&stanza, "Provides", &name)?.into_iter().flatten().collect(),
            name,
            architecture,
            stanza,
        })
    }

    /// The name that dpkg's database uses: with the architecture where several may be installed.
    pub(super) fn id(&self) -> String {
        if self.multi_arch_same { format!("{}:{}", self.name, self.architecture) } else { self.name.clone() }
    }

    /// Whether the package may take over files of the other.
    pub(super) fn replaces(&self, other: &Self) -> bool {
        // As dpkg: a virtual package cannot be replaced file by file.
        self.replaces.iter().any(|relation| relation.name == other.name && relation.allows(&other.version))
    }

    /// Whether the package is what the relation asks for, by its name or by what it provides.
    pub(super) fn satisfies(&self, relation: &Relation) -> bool {
        if self.name == relation.name {
            return relation.allows(&self.version);
        }
        self.provides.iter().any(|provided| {
            provided.name == relation.name
                && match (&relation.constraint, provided.version()) {
                    (None, _) => true,
                    (Some(_), Some(version)) => relation.allows(version),
                    (Some(_), None) => false,
                }
        })
    }

    /// The names by which relations can find the package.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.provides.iter().map(|provided| provided.name.as_str()))
    }
}

/// Names become file names and words of dpkg's files: nothing but the letters that policy allows.
fn is_name(text: &str) -> bool {
    text.starts_with(|letter: char| letter.is_ascii_alphanumeric())
        && text.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '+' | '-' | '.'))
}

fn required(stanza: &Stanza, field: &str, package: Option<&str>) -> Result<String, ModuleError> {
    stanza.get(field).filter(|value| !value.is_empty()).map(str::to_owned).ok_or_else(|| {
        let owner = package.map_or_else(|| "the control data".to_owned(), |name| format!("package `{name}`"));
        ModuleError::invalid(format!("{owner} has no field `{field}`"))
    })
}

fn relations(stanza: &Stanza, field: &str, package: &str) -> Result<Relations, ModuleError> {
    let value = stanza.get(field).unwrap_or_default();
    value
        .split(',')
        .filter(|group| !group.trim().is_empty())
        .map(|group| {
            group.split('|').map(Relation::parse).collect::<Option<Vec<_>>>().ok_or_else(|| {
                ModuleError::invalid(format!(
                    "package `{package}`: cannot read `{}` of {field}",
                    group.trim()
                ))
            })
        })
        .collect()
}

#[cfg(test)]
pub(super) fn package(text: &str) -> Package {
    let stanza = parse_stanzas(text).expect("valid stanza").remove(0);
    Package::new(stanza).expect("valid package")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stanzas_keep_order_and_continuation_lines() {
        let stanzas =
            parse_stanzas("Package: a\nDescription: one\n two\n .\n three\n\n\nPackage: b\n").expect("valid");
        assert_eq!(stanzas.len(), 2);
        let first: Vec<_> = stanzas.first().expect("two").fields().collect();
        assert_eq!(first, [("Package", "a"), ("Description", "one\n two\n .\n three")]);
        assert!(parse_stanzas(" continued\n").is_err());
        assert!(parse_stanzas("no field\n").is_err());
    }

    #[test]
    fn relations_are_satisfied_by_names_versions_and_provides() {
        let awk =
            package("Package: mawk\nVersion: 1.3\nArchitecture: amd64\nProvides: awk, posix-awk (= 2)\n");
        let cases = [
            ("mawk", true),
            ("mawk:any (>= 1.3)", true),
            ("mawk (>> 1.3)", false),
            ("awk", true),
            ("awk (>= 1)", false),
            ("posix-awk (>= 2)", true),
            ("posix-awk (<< 2)", false),
            ("gawk", false),
        ];
        for (text, expected) in cases {
            let relation = Relation::parse(text).expect(text);
            assert_eq!(awk.satisfies(&relation), expected, "{text}");
        }
    }

    #[test]
    fn replaces_looks_at_the_version_of_the_other() {
        let new = package("Package: new\nVersion: 1\nArchitecture: all\nReplaces: old (<< 2), other\n");
        let old = |version| package(&format!("Package: old\nVersion: {version}\nArchitecture: all\n"));
        assert!(new.replaces(&old("1.9")));
        assert!(!new.replaces(&old("2")));
        assert!(!old("1").replaces(&new));
    }

    #[test]
    fn hostile_names_are_refused() {
        for name in ["../../etc/passwd", "a/b", "a b", "-a", ".a"] {
            let text = format!("Package: {name}\nVersion: 1\nArchitecture: all\n");
            let stanza = parse_stanzas(&text).expect("valid stanza").remove(0);
            assert!(Package::new(stanza).is_err(), "{name}");
        }
    }

    #[test]
    fn only_co_installable_packages_carry_their_architecture() {
        let text = "Package: libc6\nVersion: 1\nArchitecture: amd64\nMulti-Arch: same\n";
        assert_eq!(package(text).id(), "libc6:amd64");
        assert_eq!(package(&text.replace("same", "foreign")).id(), "libc6");
    }
}
