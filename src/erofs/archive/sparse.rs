//! Maps of sparse files, in the three forms that GNU tar writes.

use super::number::{decimal, number};

/// Most pieces of one file, so that a map takes at most 1 MiB of memory.
pub(super) const MAX_SEGMENTS: usize = 1 << 16;

const NOT_NUMBERS: &str = "it is not a list of numbers";

/// Bytes of the tar that belong at an offset of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::erofs) struct Segment {
    /// Offset in the file.
    pub(in crate::erofs) offset: u64,
    /// Number of bytes.
    pub(in crate::erofs) length: u64,
}

/// The `GNU.sparse.*` records.
#[derive(Debug, Default)]
pub(super) struct PaxSparse {
    /// Length of the file with its holes.
    pub(super) size: Option<u64>,
    /// Path of the file; the header's one is made up.
    pub(super) name: Option<Vec<u8>>,
    segments: Vec<Segment>,
    offset: Option<u64>,
    major: u32,
    present: bool,
}

/// Where the map is.
pub(super) enum Map {
    /// In the records.
    Listed(Vec<Segment>),
    /// At the start of the data.
    InData,
}

impl PaxSparse {
    /// Takes one record; `field` is what follows `GNU.sparse.`.
    pub(super) fn set(&mut self, field: &[u8], value: &[u8]) -> Result<(), String> {
        match field {
            b"size" | b"realsize" => self.size = Some(decimal(value)?),
            b"name" => self.name = Some(value.to_vec()),
            b"major" => {
                self.major = decimal(value)?;
                if self.major > 1 {
                    return Err(format!("sparse files of version {} are not supported", self.major));
                }
                self.present = true;
            }
            b"offset" => self.offset = Some(decimal(value)?),
            b"numbytes" => {
                let offset = self.offset.take().ok_or("a sparse length without an offset")?;
                self.segments.push(Segment { offset, length: decimal(value)? });
                self.present = true;
            }
            b"map" => {
                let numbers =
                    value.split(|byte| *byte == b',').map(decimal).collect::<Result<Vec<_>, _>>()?;
                self.segments = pairs(&numbers).ok_or("a sparse map with an odd number of values")?;
                self.present = true;
            }
            // `numblocks` repeats what the map says; `minor` changes nothing so far.
            _ => {}
        }
        Ok(())
    }

    /// The map; `None` when the file is not sparse.
    pub(super) fn map(&self) -> Option<Map> {
        match (self.present, self.major) {
            (false, _) => None,
            (true, 0) => Some(Map::Listed(self.segments.clone())),
            (true, _) => Some(Map::InData),
        }
    }
}

/// Adds the pieces in the slots of an old GNU header: pairs of 12-byte numbers, ended by an empty one.
pub(super) fn push_slots(segments: &mut Vec<Segment>, slots: &[u8]) -> Result<(), String> {
    for slot in slots.chunks_exact(24) {
        if slot[0] == 0 {
            break;
        }
        let [offset, length] = [number(&slot[..12])?, number(&slot[12..])?];
        let (Ok(offset), Ok(length)) = (u64::try_from(offset), u64::try_from(length)) else {
            return Err("a negative number in a sparse map".to_owned());
        };
        segments.push(Segment { offset, length });
    }
    Ok(())
}

/// The first line of the 1.0 form: how many pieces follow.
pub(super) fn count_line(text: &[u8]) -> Result<usize, &'static str> {
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let count = decimal(line).map_err(|_| NOT_NUMBERS)?;
    if count > MAX_SEGMENTS { Err("it has too many pieces") } else { Ok(count) }
}

/// Reads all lines of the 1.0 form: the count, then an offset and a length for each piece.
pub(super) fn parse_lines(text: &[u8]) -> Result<Vec<Segment>, &'static str> {
    let count = count_line(text)?;
    let numbers = text.split(|byte| *byte == b'\n').skip(1).take(2 * count).map(decimal);
    let numbers = numbers.collect::<Result<Vec<_>, _>>().map_err(|_| NOT_NUMBERS)?;
    pairs(&numbers).ok_or(NOT_NUMBERS)
}

/// Refuses maps that overlap, go backwards, leave the file, or disagree with the number of bytes in the tar.
pub(super) fn check(segments: &[Segment], size: u64, physical: u64) -> Result<(), &'static str> {
    let mut end = 0_u64;
    let mut sum = 0_u64;
    for segment in segments {
        if segment.offset < end {
            return Err("pieces overlap");
        }
        end = segment.offset.checked_add(segment.length).ok_or("a piece ends beyond any file")?;
        sum = sum.checked_add(segment.length).ok_or("a piece ends beyond any file")?;
    }
    if end > size {
        return Err("a piece ends behind the file");
    }
    if sum != physical {
        return Err("its pieces are not as long as the data");
    }
    Ok(())
}

fn pairs(numbers: &[u64]) -> Option<Vec<Segment>> {
    let (pairs, rest) = numbers.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|&[offset, length]| Segment { offset, length }).collect())
}
