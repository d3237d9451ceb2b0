//! Small packages for tests, and trees to put them in.

use std::io::Write;
use std::path::{Path, PathBuf};

use kiln_api::ModuleError;
use tar::{EntryType, Header};

use super::archive::Deb;
use super::commit::{Commit, Outcome, Owners};
use super::database::Database;
use super::plan::Plan;
use super::read_packages;
use super::staging::Queue;
use super::tree::Tree;

/// A package that is being described.
pub(super) struct Builder {
    control: String,
    members: tar::Builder<Vec<u8>>,
    content: tar::Builder<Vec<u8>>,
    compression: &'static str,
}

impl Builder {
    pub(super) fn new(name: &str) -> Self {
        Self::with(name, "")
    }

    /// A package with more fields, each with its line end.
    pub(super) fn with(name: &str, fields: &str) -> Self {
        let control = format!(
            "Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: Nobody <nobody@example.invalid>\n\
             {fields}Description: test\n long text\n"
        );
        let mut content = tar::Builder::new(Vec::new());
        let mut root = header(EntryType::Directory, 0o755, 0);
        append(&mut content, &mut root, "./", b"");
        Self { control, members: tar::Builder::new(Vec::new()), content, compression: ".xz" }
    }

    pub(super) fn compression(mut self, extension: &'static str) -> Self {
        self.compression = extension;
        self
    }

    pub(super) fn architecture(mut self, architecture: &str) -> Self {
        self.control = self.control.replace("Architecture: all", &format!("Architecture: {architecture}"));
        self
    }

    pub(super) fn version(mut self, version: &str) -> Self {
        self.control = self.control.replace("Version: 1.0", &format!("Version: {version}"));
        self
    }

    pub(super) fn member(mut self, name: &str, text: &str) -> Self {
        let mut header = header(EntryType::Regular, 0o755, text.len());
        append(&mut self.members, &mut header, name, text.as_bytes());
        self
    }

    pub(super) fn directory(self, path: &str, mode: u32) -> Self {
        self.entry(EntryType::Directory, path, mode, "", b"")
    }

    pub(super) fn file(self, path: &str, mode: u32, text: &str) -> Self {
        self.entry(EntryType::Regular, path, mode, "", text.as_bytes())
    }

    pub(super) fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, path, 0o777, target, b"")
    }

    pub(super) fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Link, path, 0o644, target, b"")
    }

    fn entry(mut self, kind: EntryType, path: &str, mode: u32, target: &str, content: &[u8]) -> Self {
        let mut header = header(kind, mode, content.len());
        if !target.is_empty() {
            header.set_link_name_literal(target).expect("short target");
        }
        append(&mut self.content, &mut header, path, content);
        self
    }

    /// Writes the package into a directory.
    pub(super) fn build(mut self, directory: &Path, file: &str) -> PathBuf {
        let control = std::mem::take(&mut self.control);
        let this = self.member("./control", &control);
        let path = directory.join(file);
        let mut archive = ar::Builder::new(std::fs::File::create(&path).expect("file"));
        let mut add = |name: String, content: &[u8]| {
            archive
                .append(&ar::Header::new(name.into_bytes(), content.len() as u64), content)
                .expect("archive member");
        };
        let extension = this.compression;
        add("debian-binary".to_owned(), b"2.0\n");
        add(
            format!("control.tar{extension}"),
            &compress(&this.members.into_inner().expect("tar"), extension),
        );
        add(format!("data.tar{extension}"), &compress(&this.content.into_inner().expect("tar"), extension));
        path
    }
}

fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(1_600_000_000);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size as u64);
    header
}

/// Appends a member with a name that may be hostile or long, which the crate's own functions refuse or mend.
fn append(archive: &mut tar::Builder<Vec<u8>>, header: &mut Header, name: &str, content: &[u8]) {
    if name.len() < 100 {
        let field = &mut header.as_old_mut().name;
        field.fill(0);
        field[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        archive.append(header, content).expect("member");
    } else {
        archive.append_data(header, name, content).expect("member with a long name");
    }
}

fn compress(bytes: &[u8], extension: &str) -> Vec<u8> {
    match extension {
        ".gz" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).expect("gzip");
            encoder.finish().expect("gzip")
        }
        ".xz" => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
            encoder.write_all(bytes).expect("xz");
            encoder.finish().expect("xz")
        }
        ".zst" => zstd::encode_all(bytes, 1).expect("zstd"),
        _ => bytes.to_vec(),
    }
}

/// A scratch directory with packages and a tree.
pub(super) struct Scratch {
    directory: tempfile::TempDir,
    pub(super) tree: PathBuf,
}

impl Scratch {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().expect("scratch directory");
        let tree = directory.path().join("tree");
        std::fs::create_dir(&tree).expect("tree");
        Self { directory, tree }
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Unpacks packages into the tree without running anything.
    pub(super) fn unpack(&self, packages: Vec<Builder>) -> Result<Vec<Outcome>, ModuleError> {
        let files: Vec<_> = packages
            .into_iter()
            .enumerate()
            .map(|(number, package)| package.build(self.path(), &format!("{number}.deb")))
            .collect();
        unpack(&self.tree, &self.path().join("staging"), &read_packages(&files)?)
    }

    pub(super) fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.tree.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

fn unpack(root: &Path, staging: &Path, debs: &[Deb]) -> Result<Vec<Outcome>, ModuleError> {
    std::fs::create_dir(staging).expect("staging directory");
    let tree = Tree::open(root)?;
    let database = Database::open(root)?;
    let mut owners = Owners::default();
    let queue = Queue::new(debs, (0..debs.len()).rev().collect(), staging);
    queue.work();
    let mut commit = Commit::start(&tree, &database, &mut owners, false)?;
    let order = Plan::new(debs).sorted(&(0..debs.len()).collect());
    let outcomes = order
        .iter()
        .map(|index| commit.package(&debs[*index], queue.take(*index)?))
        .collect::<Result<_, _>>()?;
    commit.finish()?;
    Ok(outcomes)
}
