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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where in the volume it begins.
    pub start: u64,
    /// How long it is.
    pub length: u64,
    /// Where its stripes begin on the physical volume; a linear part has one.
    pub stripes: Vec<u64>,
    /// How much of a stripe comes before the next one follows; 0 if there is one only.
    pub stripe_size: u64,
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
struct Physical<'a> {
    name: String,
    start: u64,
    count: u64,
    all: Section<'a>,
}

impl Physical<'_> {
    /// What is said of others that have parts of the volume: their names, ids, and the devices that they last were.
    fn describe_others(&self, names: &[String]) -> String {
        let described = names.iter().map(|name| {
            let told = |what| self.all.section(name).and_then(|section| section.string(what));
            match (told("id"), told("device")) {
                (Some(id), Some(device)) => format!("`{name}` (id `{id}`, last seen as `{device}`)"),
                (Some(id), None) => format!("`{name}` (id `{id}`)"),
                _ => format!("`{name}`"),
            }
        });
        described.collect::<Vec<_>>().join(", ")
    }
}

fn describe(group: Section<'_>, volume: Section<'_>, physical_id: &str) -> Result<Volume, String> {
    let lacks = |what: &str| format!("its description has no `{what}`");
    let size = group.number("extent_size").filter(|size| *size > 0).ok_or_else(|| lacks("extent_size"))?;
    let physical = group.section("physical_volumes").and_then(|all| {
        let mut sections = all.sections();
        sections
            .find(|(_, section)| section.string("id").as_deref() == Some(physical_id))
            .map(|(name, section)| (all, name, section))
    });
    let (all, name, section) = physical
        .ok_or_else(|| format!("its volume group does not name this physical volume, `{physical_id}`"))?;
    let number = |section: Section<'_>, name: &str| section.number(name).ok_or_else(|| lacks(name));
    let physical =
        Physical { name, start: number(section, "pe_start")?, count: number(section, "pe_count")?, all };
    let mut segments = volume
        .sections()
        .filter(|(name, _)| name.starts_with("segment"))
        .map(|(_, section)| Segment::read(section))
        .collect::<Result<Vec<_>, _>>()?;
    let mut others: Vec<String> = Vec::new();
    for (on, _) in segments.iter().flat_map(|segment| &segment.stripes) {
        if *on != physical.name && !others.contains(on) {
            others.push(on.clone());
        }
    }
    if !others.is_empty() {
        return Err(format!(
            "it is not on the parent device (`{}`) alone: parts are on {}; have all of it on one physical volume \
             (`pvmove`, or `lvcreate` with that one only)",
            physical.name,
            physical.describe_others(&others)
        ));
    }
    segments.sort_by_key(|segment| segment.range.start);
    let mut next = 0;
    let mut extents = Vec::with_capacity(segments.len());
    for segment in segments {
        if segment.range.start != next {
            return Err(format!(
                "extent {next} is described {}",
                if segment.range.start > next { "nowhere" } else { "twice" }
            ));
        }
        next = segment.range.end;
        extents.push(segment.in_sectors(size, &physical)?);
    }
    if extents.is_empty() {
        return Err("it has no segments".to_owned());
    }
    let id = |section: Section<'_>| section.string("id").map(|id| id.replace('-', "")).unwrap_or_default();
    let writable = volume.list("status").is_some_and(|mut list| list.any(|flag| flag == b"\"WRITE\""));
    Ok(Volume { id: id(group) + &id(volume), writable, extents })
}

/// A part of a volume as the text has it, in extents.
struct Segment {
    /// Which extents of the volume it is.
    range: Range<u64>,
    /// The physical volume that each of its stripes is on, and the first extent there.
    stripes: Vec<(String, u64)>,
    /// In sectors.
    stripe_size: u64,
}

impl Segment {
    fn read(segment: Section<'_>) -> Result<Self, String> {
        let lacks = |what: &str| format!("a segment's description has no `{what}`");
        let number = |name: &str| segment.number(name).ok_or_else(|| lacks(name));
        let (start, count) = (number("start_extent")?, number("extent_count")?);
        let kind = segment.string("type").ok_or_else(|| lacks("type"))?;
        // A linear segment is one with one stripe.
        if kind != "striped" && kind != "linear" {
            return Err(format!(
                "its type is `{kind}`; only linear and striped volumes can be opened without LVM: {}",
                instead_of(&kind)
            ));
        }
        let stripe_count = segment.number("stripe_count").unwrap_or(1);
        let mut list = segment.list("stripes").ok_or_else(|| lacks("stripes"))?;
        let mut stripes = Vec::new();
        for _ in 0..stripe_count {
            let stripe = (list.next().and_then(text::string), list.next().and_then(text::number));
            let (Some(on), Some(first)) = stripe else { return Err(lacks("stripes")) };
            stripes.push((on, first));
        }
        let stripe_size = if stripe_count > 1 { number("stripe_size")? } else { 0 };
        let end = start.checked_add(count).ok_or("it is larger than any device")?;
        Ok(Self { range: start..end, stripes, stripe_size })
    }

    /// With an extent of so many sectors.
    fn in_sectors(&self, size: u64, physical: &Physical<'_>) -> Result<Extent, String> {
        let count = self.range.end - self.range.start;
        let number = self.stripes.len() as u64;
        let too_large = || "it is larger than any device".to_owned();
        let sectors = |extents: u64| extents.checked_mul(size).ok_or_else(too_large);
        let (start, end) = (sectors(self.range.start)?, sectors(self.range.end)?);
        // What the kernel would refuse without saying why.
        if number != 1
            && (number == 0
                || !count.is_multiple_of(number)
                || self.stripe_size == 0
                || !size.is_multiple_of(self.stripe_size))
        {
            return Err(format!(
                "{count} extents of {size} sectors cannot be {number} stripes of {} sectors at a time",
                self.stripe_size
            ));
        }
        let each = count / number;
        let mut stripes = Vec::with_capacity(self.stripes.len());
        for (_, first) in &self.stripes {
            if count == 0 || first.checked_add(each).is_none_or(|end| end > physical.count) {
                return Err(format!(
                    "{each} extents at extent {first} are not on the physical volume, which has {}",
                    physical.count
                ));
            }
            stripes.push(sectors(*first)?.checked_add(physical.start).ok_or_else(too_large)?);
        }
        Ok(Extent { start, length: end - start, stripes, stripe_size: self.stripe_size })
    }
}

/// What to do about a volume of another type.
fn instead_of(kind: &str) -> &'static str {
    match kind {
        "cache" | "writecache" => "take the cache away from it (`lvconvert --uncache`)",
        "mirror" | "raid1" => "make it linear (`lvconvert --mirrors 0`)",
        kind if kind.starts_with("raid") => "make it linear or striped (`lvconvert --type striped`)",
        _ => "make one in its place, and copy what is on it",
    }
}
