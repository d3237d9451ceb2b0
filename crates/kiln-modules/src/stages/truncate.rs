//! `org.osbuild.truncate`
//!
//! Sizes are written as for truncate(1): an optional sign that relates the size to the present one, a decimal number, and an
//! optional unit.

use std::fs::OpenOptions;

use kiln_api::ModuleError;
use kiln_api::stage::{Stage, StageContext};
use schemars::JsonSchema;
use serde::Deserialize;

/// Makes a file exactly as large as asked.
///
/// A file that does not exist is created. What lies beyond the new size is discarded; new space reads as zeros and takes no
/// room on the disk (the file is sparse).
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Options {
    /// Path of the file in the tree.
    filename: String,
    /// New size in bytes, as for truncate(1): `1073741824`, `1G`, `500MB`; `+1M` and `-1M` relate to the present size, `<` and
    /// `>` mean at most and at least, `/` and `%` round down and up to a multiple.
    size: String,
}

/// A size, related to the present one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Exactly(u64),
    Grow(u64),
    Shrink(u64),
    AtMost(u64),
    AtLeast(u64),
    RoundDown(u64),
    RoundUp(u64),
}

impl Size {
    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim_start();
        let mut rest = text.chars();
        let relate: fn(u64) -> Self = match rest.next() {
            Some('+') => Self::Grow,
            Some('-') => Self::Shrink,
            Some('<') => Self::AtMost,
            Some('>') => Self::AtLeast,
            Some('/') => Self::RoundDown,
            Some('%') => Self::RoundUp,
            _ => Self::Exactly,
        };
        let number = match relate(0) {
            Self::Exactly(_) => text,
            Self::Grow(_) | Self::Shrink(_) => rest.as_str(),
            // The sign of a number stands at the number, these may stand apart.
            _ => rest.as_str().trim_start(),
        };
        let size = relate(bytes(number)?);
        match size {
            Self::RoundDown(0) | Self::RoundUp(0) => Err("cannot round to a multiple of zero".to_owned()),
            size => Ok(size),
        }
    }

    /// The new size, if it can be expressed.
    fn apply(self, present: u64) -> Option<u64> {
        match self {
            Self::Exactly(size) => Some(size),
            Self::Grow(by) => present.checked_add(by),
            Self::Shrink(by) => Some(present.saturating_sub(by)),
            Self::AtMost(size) => Some(present.min(size)),
            Self::AtLeast(size) => Some(present.max(size)),
            Self::RoundDown(unit) => Some(present - present % unit),
            Self::RoundUp(unit) => present.checked_next_multiple_of(unit),
        }
    }
}

/// Parses a decimal number with an optional unit: `K` and `KiB` are 1024, `KB` is 1000, and so on.
fn bytes(text: &str) -> Result<u64, String> {
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let mut letters = unit.chars();
    let power = match letters.next() {
        None => 0,
        Some('k' | 'K') => 1,
        Some('m' | 'M') => 2,
        Some('g' | 'G') => 3,
        Some('t' | 'T') => 4,
        Some('P') => 5,
        Some('E') => 6,
        Some(_) => {
            return Err(format!(
                "unknown unit `{unit}`: use K, M, G, T, P or E, or KB, MB, … for powers of 1000"
            ));
        }
    };
    let base: u64 = match letters.as_str() {
        "" | "iB" => 1024,
        "B" => 1000,
        _ => {
            return Err(format!(
                "unknown unit `{unit}`: use K, M, G, T, P or E, or KB, MB, … for powers of 1000"
            ));
        }
    };
    let number: u64 = match digits {
        // A unit alone is one of it.
        "" if power > 0 => 1,
        "" => return Err("it has no number".to_owned()),
        digits => digits.parse().map_err(|_| "it is too large".to_owned())?,
    };
    base.checked_pow(power)
        .and_then(|unit| number.checked_mul(unit))
        .filter(|size| i64::try_from(*size).is_ok())
        .ok_or_else(|| "it is too large".to_owned())
}

pub(crate) struct Truncate;

impl Stage for Truncate {
    const NAME: &'static str = "org.osbuild.truncate";
    type Options = Options;

    fn run(options: Options, context: &mut StageContext) -> Result<(), ModuleError> {
        let refuse = |reason| ModuleError::option("size", format!("`{}`: {reason}", options.size));
        let size = Size::parse(&options.size).map_err(refuse)?;
        let path = context.tree().join(options.filename.trim_start_matches('/'));
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(ModuleError::io("open", &path))?;
        let present = file.metadata().map_err(ModuleError::io("look at", &path))?.len();
        let size = size.apply(present).ok_or_else(|| refuse("it is too large".to_owned()))?;
        file.set_len(size).map_err(ModuleError::io("set the size of", &path))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use kiln_sys::command::Run;
    use serde_json::json;

    use super::*;
    use crate::schema_agreement::Agreement;
    use crate::stage_test;

    fn truncate(tree: &std::path::Path, filename: &str, size: &str) -> Result<(), ModuleError> {
        let mut context = stage_test::context(&json!({"tree": tree}));
        let options = json!({"filename": filename, "size": size});
        Truncate::run(serde_json::from_value(options).expect("valid"), &mut context)
    }

    #[test]
    fn schema() {
        Agreement::stage::<Truncate>()
            .accepts([json!({"filename": "disk.img", "size": "1G"})])
            .refuses([json!({"filename": "disk.img"}), json!({"filename": "disk.img", "size": 1024})]);
    }

    #[test]
    fn sizes_mean_what_they_mean_to_the_program() {
        let directory = tempfile::tempdir().expect("tempdir");
        let sizes = [
            "0",
            "1",
            "1000",
            "010",
            "1K",
            "1k",
            "2KB",
            "2KiB",
            "1M",
            "1m",
            "1g",
            "3MB",
            "1MiB",
            "1G",
            "1GB",
            "1t",
            "K",
            "+5",
            "-5",
            "-100000",
            "<10",
            ">10",
            "<1M",
            ">1M",
            "/512",
            "%512",
            "/4K",
            "%4K",
            " 7",
            "+ 5",
            "1X",
            "",
            "x",
            "1KX",
            "1KiBB",
            "1iB",
            "/0",
            "%0",
            "99999999999999999999",
            "9E",
            "1P1",
            "-",
            "1.5K",
            "1b",
        ];
        for size in sizes {
            for present in [0, 700, 5000] {
                let (ours, theirs) = (directory.path().join("ours"), directory.path().join("theirs"));
                for path in [&ours, &theirs] {
                    std::fs::File::create(path).and_then(|file| file.set_len(present)).expect("create");
                }
                let one = truncate(directory.path(), "/ours", size).is_ok();
                let program = Run::new("truncate").arg("--size").arg(size).arg(&theirs);
                let other = program.output().is_ok();
                assert_eq!(one, other, "`{size}` of {present}");
                let length = |path| std::fs::metadata(path).expect("there").len();
                assert_eq!(length(&ours), length(&theirs), "`{size}` of {present}");
            }
        }
    }

    #[test]
    fn new_files_are_sparse_and_kept_content_stays() {
        let tree = tempfile::tempdir().expect("tempdir");
        truncate(tree.path(), "disk.img", "1G").expect("truncate");
        let info = std::fs::metadata(tree.path().join("disk.img")).expect("there");
        assert_eq!((info.len(), info.blocks()), (1 << 30, 0));
        std::fs::write(tree.path().join("text"), "content").expect("write");
        truncate(tree.path(), "text", "-3").expect("truncate");
        assert_eq!(std::fs::read_to_string(tree.path().join("text")).expect("read"), "cont");
    }

    #[test]
    fn mistakes_are_explained() {
        let tree = tempfile::tempdir().expect("tempdir");
        let message = |filename, size| truncate(tree.path(), filename, size).expect_err(size).to_string();
        assert_eq!(
            message("x", "1X"),
            "invalid option `size`: `1X`: unknown unit `X`: use K, M, G, T, P or E, or KB, MB, … for powers of 1000"
        );
        assert_eq!(message("x", "16E"), "invalid option `size`: `16E`: it is too large");
        assert!(
            message("no/such/file", "1").starts_with("cannot open `"),
            "{}",
            message("no/such/file", "1")
        );
    }
}
