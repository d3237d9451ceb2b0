//! Reading the blueprint part of a definition.
//!
//! Keys, types and meanings are those of the public blueprint reference of image-builder. The two lists of
//! refused keys are the rest of that format.

use super::disk::{self, Disk};
use super::node::{Data, Node, Placed};
use super::report::{Report, Source};
use super::table::Table;
use super::{Definition, RELEASES, Release, kiln, rules};

/// A package to be installed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Package {
    pub(crate) name: String,
    /// A version, or the beginning of one followed by `*`.
    pub(crate) version: Option<String>,
}

/// A user to be made, or an existing one to be changed.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) keys: Vec<String>,
    pub(crate) home: Option<String>,
    pub(crate) shell: Option<String>,
    pub(crate) groups: Vec<String>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    pub(crate) expire_date: Option<u64>,
    pub(crate) force_password_reset: bool,
    /// Only a key is added to a user that some package makes.
    pub(crate) existing: bool,
}

/// An owner or a group by name or by number.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Owner {
    Name(String),
    Number(u64),
}

/// A file or directory to be made.
#[derive(Clone, Debug)]
pub(crate) struct Inode {
    pub(crate) path: Placed<String>,
    pub(crate) mode: Option<u32>,
    pub(crate) user: Option<Owner>,
    pub(crate) group: Option<Owner>,
    /// A file's content; none for a directory.
    pub(crate) data: Option<String>,
    /// Whether a directory's parents are made too.
    pub(crate) ensure_parents: bool,
}

/// The `[customizations]` of a blueprint.
#[derive(Clone, Debug, Default)]
pub(crate) struct Customizations {
    pub(crate) hostname: Option<String>,
    pub(crate) kernel: Option<Placed<String>>,
    pub(crate) kernel_append: Option<String>,
    pub(crate) users: Vec<User>,
    pub(crate) groups: Vec<(String, Option<u64>)>,
    pub(crate) timezone: Option<String>,
    pub(crate) language: Option<Placed<String>>,
    pub(crate) enabled: Vec<String>,
    pub(crate) disabled: Vec<String>,
    pub(crate) masked: Vec<String>,
    pub(crate) directories: Vec<Inode>,
    pub(crate) files: Vec<Inode>,
    pub(crate) disk: Disk,
}

const REFUSED: [(&str, &str); 4] = [
    ("groups", "Debian has no package groups: list the packages under `[[packages]]`"),
    ("enabled_modules", "Debian has no modularity streams: ask for a version with `[[packages]]` instead"),
    ("containers", "remove it; fetch the container at first boot with a unit under `customizations.files`"),
    (
        "minimal",
        "remove it: an image has nothing but the essential packages, the boot chain, and what is listed",
    ),
];

const REFUSED_CUSTOMIZATIONS: [(&str, &str); 13] = [
    ("firewall", "install a firewall under `[[packages]]` and configure it with `[[customizations.files]]`"),
    ("installation_device", "Kiln makes disk images, not installers: remove it"),
    ("partitioning_mode", "say it with `[[customizations.disk.partitions]]`"),
    ("fdo", "Kiln makes disk images, not installers: remove it"),
    ("openscap", "remove it, or run the scanner in the booted image"),
    ("ignition", "use `customizations.user` and `customizations.files` instead"),
    ("repositories", "write the source list with `[[customizations.files]]` below /etc/apt/sources.list.d"),
    ("fips", "Debian has no FIPS mode: remove it"),
    ("installer", "Kiln makes disk images, not installers: remove it"),
    ("rpm", "it does not apply to Debian: remove it"),
    ("rhsm", "it does not apply to Debian: remove it"),
    (
        "cacerts",
        "install the certificates with `[[customizations.files]]` and run `update-ca-certificates` at first boot",
    ),
    ("containers-storage", "remove it"),
];

pub(super) fn read(root: &Node, source: Source, report: &mut Report) -> Option<Definition> {
    let mut root = Table::new("", root, report)?;
    let name = root.required("name", report);
    root.string("description", report);
    let version = root.string("version", report);
    let distro = root.string("distro", report).and_then(|distro| release(&distro, report));
    if let Some(architecture) = root.string("architecture", report) {
        rules::architecture(&architecture, report);
    }
    let mut packages = Vec::new();
    for key in ["packages", "modules"] {
        for table in root.tables(key, report) {
            packages.extend(package(table, report));
        }
    }
    let customizations = match root.table("customizations", report) {
        Some(table) => customizations(table, report),
        None => Customizations::default(),
    };
    let settings = kiln::read(root.table("kiln", report), &customizations, report);
    root.finish(&REFUSED, report);
    let partitions = match &settings {
        Some(settings) => disk::complete(&customizations.disk, settings, report),
        None => Vec::new(),
    };
    let definition = Definition {
        name: name?.value,
        version: version.map_or_else(|| "0.0.0".to_owned(), |version| version.value),
        distro,
        packages,
        customizations,
        partitions,
        kiln: settings?,
        source,
    };
    rules::locale(&definition, report);
    Some(definition)
}

fn release(distro: &Placed<String>, report: &mut Report) -> Option<Placed<&'static Release>> {
    let known = RELEASES.iter().find(|release| distro.value == format!("debian-{}", release.number));
    if known.is_none() {
        let names: Vec<_> = RELEASES.iter().map(|release| format!("debian-{}", release.number)).collect();
        let hint = format!("Kiln resolves {}", super::list(&names));
        report.add(distro.span.clone(), format!("unknown distribution `{}`", distro.value), Some(hint));
    }
    known.map(|release| Placed { value: release, span: distro.span.clone() })
}

fn package(mut table: Table<'_>, report: &mut Report) -> Option<Placed<Package>> {
    let name = table.required("name", report);
    let version =
        table.string("version", report).filter(|version| !matches!(version.value.as_str(), "" | "*"));
    table.finish(&[], report);
    let name = name?;
    rules::package_name(&name, report);
    if let Some(version) = &version {
        rules::package_version(version, report);
    }
    let package = Package { name: name.value, version: version.map(|version| version.value) };
    Some(Placed { value: package, span: name.span })
}

fn customizations(mut table: Table<'_>, report: &mut Report) -> Customizations {
    let hostname = table.string("hostname", report);
    if let Some(hostname) = &hostname {
        rules::hostname(hostname, report);
    }
    let mut read =
        Customizations { hostname: hostname.map(|hostname| hostname.value), ..Customizations::default() };
    if let Some(mut kernel) = table.table("kernel", report) {
        read.kernel = kernel.string("name", report);
        if let Some(name) = &read.kernel {
            rules::package_name(name, report);
        }
        read.kernel_append = kernel.string("append", report).map(|append| append.value);
        kernel.finish(&[], report);
    }
    for key in table.tables("sshkey", report) {
        read.users.extend(ssh_key(key, report));
    }
    for user in table.tables("user", report) {
        read.users.extend(self::user(user, report));
    }
    for mut group in table.tables("group", report) {
        let name = group.required("name", report);
        let gid = group.number("gid", report).map(|gid| gid.value);
        group.finish(&[], report);
        read.groups.extend(name.map(|name| {
            rules::account(&name, report);
            (name.value, gid)
        }));
    }
    if let Some(mut timezone) = table.table("timezone", report) {
        read.timezone = timezone.string("timezone", report).map(|zone| zone.value);
        let hint = "configure the time service with `[[customizations.files]]`";
        timezone.finish(&[("ntpservers", hint)], report);
    }
    if let Some(mut locale) = table.table("locale", report) {
        let languages = locale.strings("languages", report);
        if let Some(second) = languages.get(1) {
            let message = "more than one language is not supported yet";
            report.add(second.span.clone(), message, Some("keep the first".to_owned()));
        }
        read.language = languages.into_iter().next();
        let hint = "write /etc/default/keyboard with `[[customizations.files]]`";
        locale.finish(&[("keyboard", hint)], report);
    }
    if let Some(mut services) = table.table("services", report) {
        let mut units = |name| services.strings(name, report).into_iter().map(|unit| unit.value).collect();
        read.enabled = units("enabled");
        read.disabled = units("disabled");
        read.masked = units("masked");
        services.finish(&[], report);
    }
    for directory in table.tables("directories", report) {
        read.directories.extend(inode(directory, true, report));
    }
    for file in table.tables("files", report) {
        read.files.extend(inode(file, false, report));
    }
    let filesystems = table.tables("filesystem", report);
    if let Some(disk) = table.table("disk", report) {
        if !filesystems.is_empty() {
            let hint = "say it all in `customizations.disk`".to_owned();
            report.add(
                disk.span(),
                "`customizations.disk` and `customizations.filesystem` exclude each other",
                Some(hint),
            );
        }
        read.disk.read(disk, report);
    } else {
        for filesystem in filesystems {
            read.disk.read_filesystem(filesystem, report);
        }
    }
    table.finish(&REFUSED_CUSTOMIZATIONS, report);
    rules::unique_paths(read.files.iter().chain(&read.directories), report);
    read
}

fn ssh_key(mut table: Table<'_>, report: &mut Report) -> Option<User> {
    let name = table.required("user", report);
    let key = table.required("key", report);
    table.finish(&[], report);
    let (name, key) = (name?, key?);
    rules::account(&name, report);
    Some(User { existing: true, keys: vec![key.value], ..User::named(name.value) })
}

fn user(mut table: Table<'_>, report: &mut Report) -> Option<User> {
    let name = table.required("name", report);
    let mut text = |key| table.string(key, report).map(|text| text.value);
    let description = text("description");
    let password = text("password").filter(|password| !password.is_empty());
    let key = text("key");
    let home =
        text("home").map(|home| if home == "/" { home } else { home.trim_end_matches('/').to_owned() });
    let shell = text("shell");
    let user = User {
        description,
        password,
        keys: key.into_iter().collect(),
        home,
        shell,
        groups: table.strings("groups", report).into_iter().map(|group| group.value).collect(),
        uid: table.number("uid", report).map(|uid| uid.value),
        gid: table.number("gid", report).map(|gid| gid.value),
        expire_date: table.number("expiredate", report).map(|days| days.value),
        force_password_reset: table.boolean("force_password_reset", report).unwrap_or_default(),
        ..User::named(String::new())
    };
    table.finish(&[], report);
    let name = name?;
    rules::account(&name, report);
    Some(User { existing: name.value == "root", name: name.value, ..user })
}

impl User {
    fn named(name: String) -> Self {
        Self {
            name,
            description: None,
            password: None,
            keys: Vec::new(),
            home: None,
            shell: None,
            groups: Vec::new(),
            uid: None,
            gid: None,
            expire_date: None,
            force_password_reset: false,
            existing: false,
        }
    }
}

fn inode(mut table: Table<'_>, directory: bool, report: &mut Report) -> Option<Inode> {
    let path = table.required("path", report);
    let mode = table.string("mode", report).and_then(|mode| rules::mode(&mode, report));
    let user = owner(&mut table, "user", report);
    let group = owner(&mut table, "group", report);
    let (data, ensure_parents) = if directory {
        (None, table.boolean("ensure_parents", report).unwrap_or_default())
    } else {
        (Some(table.string("data", report).map(|data| data.value).unwrap_or_default()), true)
    };
    let refused = [("uri", "write the content into `data`: a definition stands alone")];
    table.finish(if directory { &[] } else { &refused }, report);
    let path = path?;
    rules::path(&path, report);
    Some(Inode { path, mode, user, group, data, ensure_parents })
}

fn owner(table: &mut Table<'_>, name: &'static str, report: &mut Report) -> Option<Owner> {
    let node = table.any(name)?;
    match &node.value {
        Data::String(text) => Some(Owner::Name(text.clone())),
        Data::Integer(number) if *number >= 0 => u64::try_from(*number).ok().map(Owner::Number),
        other => {
            let message = format!(
                "`{}` must be a name or a number, zero or more, not {}",
                table.path(name),
                other.kind()
            );
            report.add(node.span.clone(), message, None);
            None
        }
    }
}
