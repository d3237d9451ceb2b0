//! Logical volumes: where their extents are.

use std::ops::Range;

use super::text::{self, Section};
use super::{Lvm2Error, Metadata};

/// A logical volume that lies on one physical volume, in sectors of 512 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The ids of the group and of the volume, without what LVM shows between their letters.
    pub id: String,
    /// Whether it may be written.
    pub writable: bool,
    /// Its parts in their order, without a gap.
    pub extents: Vec<Extent>,
}

/// A part of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where in the volume it begins.
    pub start: u64,
    /// How long it is.
    pub length: u64,
    /// Where on the physical volume it begins.
    pub offset: u64,
}

/// Finds a volume whose parts are all on the physical volume of this id.
pub(super) fn find(metadata: &Metadata, physical_id: &str, name: &str) -> Result<Volume, Lvm2Error> {
    let group = metadata.group();
    let volumes = group.section("logical_volumes");
    let Some(volume) = volumes.and_then(|volumes| volumes.section(name)) else {
        let (group, known) = (metadata.name().to_owned(), metadata.volumes());
        return Err(Lvm2Error::NoVolume { group, name: name.to_owned(), known });
    };
    let found = describe(group, volume, physical_id);
    found.map_err(|reason| Lvm2Error::Volume { name: name.to_owned(), reason })
}

/// What is said of a physical volume: its name in the text, and where its extents are, in sectors.
struct Physical {
    name: String,
    start: u64,
    count: u64,
}

fn describe(group: Section<'_>, volume: Section<'_>, physical_id: &str) -> Result<Volume, String> {
    let lacks = |what: &str| format!("its description has no `{what}`");
    let size = group.number("extent_size").filter(|size| *size > 0).ok_or_else(|| lacks("extent_size"))?;
    let physical = group.section("physical_volumes").and_then(|all| {
        all.sections().find(|(_, section)| section.string("id").as_deref() == Some(physical_id))
    });
    let (name, section) = physical
        .ok_or_else(|| format!("its volume group does not name this physical volume, `{physical_id}`"))?;
    let number = |section: Section<'_>, name: &str| section.number(name).ok_or_else(|| lacks(name));
    let physical =
        Physical { name, start: number(section, "pe_start")?, count: number(section, "pe_count")? };
    let mut segments = volume
        .sections()
        .filter(|(name, _)| name.starts_with("segment"))
        .map(|(_, section)| segment(section, &physical))
        .collect::<Result<Vec<_>, _>>()?;
    segments.sort_by_key(|(range, _)| range.start);
    let mut next = 0;
    let mut extents = Vec::with_capacity(segments.len());
    for (range, first) in segments {
        if range.start != next {
            return Err(format!(
                "extent {next} is described {}",
                if range.start > next { "nowhere" } else { "twice" }
            ));
        }
        next = range.end;
        let sectors = |extents: u64| extents.checked_mul(size);
        let offset = sectors(first).and_then(|offset| offset.checked_add(physical.start));
        let end = sectors(range.end);
        let (Some(start), Some(offset), Some(end)) = (sectors(range.start), offset, end) else {
            return Err("it is larger than any device".to_owned());
        };
        extents.push(Extent { start, length: end - start, offset });
    }
    if extents.is_empty() {
        return Err("it has no segments".to_owned());
    }
    let id = |section: Section<'_>| section.string("id").map(|id| id.replace('-', "")).unwrap_or_default();
    let writable = volume.list("status").is_some_and(|mut list| list.any(|flag| flag == b"\"WRITE\""));
    Ok(Volume { id: id(group) + &id(volume), writable, extents })
}

/// The extents of the volume that a segment is, and the first extent of the physical volume that it has.
fn segment(segment: Section<'_>, physical: &Physical) -> Result<(Range<u64>, u64), String> {
    let lacks = |what: &str| format!("a segment's description has no `{what}`");
    let number = |name: &str| segment.number(name).ok_or_else(|| lacks(name));
    let (start, count) = (number("start_extent")?, number("extent_count")?);
    let kind = segment.string("type").ok_or_else(|| lacks("type"))?;
    let stripes = segment.number("stripe_count").unwrap_or(1);
    // A linear segment is one with one stripe.
    if kind != "striped" && kind != "linear" {
        return Err(format!("its type is `{kind}`; only linear volumes can be read without LVM"));
    }
    if stripes != 1 {
        return Err(format!("it has {stripes} stripes; only linear volumes can be read without LVM"));
    }
    let mut list = segment.list("stripes").ok_or_else(|| lacks("stripes"))?;
    let (Some(on), Some(first)) = (list.next().and_then(text::string), list.next().and_then(text::number))
    else {
        return Err(lacks("stripes"));
    };
    if on != physical.name {
        return Err(format!(
            "a part of it is on another physical volume, `{on}`, not on `{}`",
            physical.name
        ));
    }
    let within = first.checked_add(count).is_some_and(|end| end <= physical.count);
    match start.checked_add(count) {
        Some(end) if count > 0 && within => Ok((start..end, first)),
        _ => Err(format!(
            "{count} extents at extent {first} are not on the physical volume, which has {}",
            physical.count
        )),
    }
}
