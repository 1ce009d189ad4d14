//! Groups of records, which is what reaches the disk at once, and the pure recovery of a segment: cut a torn tail, refuse
//! damage.
//!
//! A group starts at a multiple of 4096: magic u32, CRC-32C u32, number u64, bytes u32, records u32, and the records; zeros fill it up. The
//! checksum begins with the log's own id, so that no bytes of a client can pass for a group.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::record::Record;

/// Groups start at multiples of this: the largest block of the disks that are about.
pub(super) const BLOCK: usize = 4096;

/// Bytes before the records.
pub(super) const HEAD: usize = 24;

/// `I2K` and the version of the format.
const MAGIC: u32 = u32::from_le_bytes(*b"I2K\x01");

/// Records of one group take at most this: an entry of the largest size, and what is beside it.
pub(super) const MAX_GROUP: usize = 64 << 20;

/// Bytes that can be read at any place.
pub(super) trait ReadAt {
    /// Reads up to `buffer.len()` bytes at `offset`; fewer only at the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl ReadAt for [u8] {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.len());
        let len = buffer.len().min(self.len() - from);
        buffer[..len].copy_from_slice(&self[from..from + len]);
        Ok(len)
    }
}

impl ReadAt for std::fs::File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match std::os::unix::fs::FileExt::read_at(self, &mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(len) => done += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

/// A group that was read.
#[derive(Debug)]
pub(super) struct Group {
    /// Its number: one more than that of the group before it.
    pub(super) number: u64,
    /// Bytes that it takes of the segment.
    pub(super) size: u64,
    /// Its records.
    pub(super) body: Bytes,
    /// How many.
    pub(super) records: u32,
}

/// Size of a group whose records take `bytes`.
pub(super) fn size(bytes: usize) -> usize {
    (HEAD + bytes).next_multiple_of(BLOCK)
}

/// The checksum of a group of the log `id`; `rest` is all behind it.
fn checksum(id: u64, rest: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&id.to_le_bytes()), rest)
}

/// Writes a group into `out`, which has [`size`] bytes.
pub(super) fn write(out: &mut [u8], id: u64, number: u64, records: u32, parts: [&[u8]; 2]) {
    let len = parts[0].len() + parts[1].len();
    let mut rest = &mut out[..];
    rest.put_u32_le(MAGIC);
    rest.put_u32_le(0);
    rest.put_u64_le(number);
    rest.put_u32_le(u32::try_from(len).expect("a group is below 4 GiB"));
    rest.put_u32_le(records);
    rest.put_slice(parts[0]);
    rest.put_slice(parts[1]);
    rest.fill(0);
    let crc = checksum(id, &out[8..HEAD + len]);
    out[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// The group at `offset`, or none when there is no whole one with the right checksum.
pub(super) fn read(source: &(impl ReadAt + ?Sized), id: u64, offset: u64) -> io::Result<Option<Group>> {
    let mut head = [0; HEAD];
    if source.read_at(&mut head, offset)? < HEAD {
        return Ok(None);
    }
    let mut fields = &head[..];
    let (magic, crc, number) = (fields.get_u32_le(), fields.get_u32_le(), fields.get_u64_le());
    let (len, records) = (fields.get_u32_le() as usize, fields.get_u32_le());
    if magic != MAGIC || len > MAX_GROUP {
        return Ok(None);
    }
    let mut body = BytesMut::zeroed(len);
    if source.read_at(&mut body, offset + HEAD as u64)? < len {
        return Ok(None);
    }
    let found = crc32c::crc32c_append(checksum(id, &head[8..]), &body);
    Ok((found == crc).then(|| Group { number, size: size(len) as u64, body: body.freeze(), records }))
}

impl Group {
    /// Its records, in order. A group with a right checksum that has none such is of another version.
    pub(super) fn records(&self) -> Result<Vec<Record>, Damage> {
        let mut bytes = self.body.clone();
        let wrong = |_| Damage::Records { number: self.number };
        // Each record has at least five bytes: of memory no more is asked for than there can be.
        let mut records = Vec::with_capacity((self.records as usize).min(bytes.len() / 5));
        for _ in 0..self.records {
            records.push(Record::decode(&mut bytes).map_err(wrong)?);
        }
        if bytes.is_empty() { Ok(records) } else { Err(Damage::Records { number: self.number }) }
    }
}

/// Why a log cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Damage {
    /// A group is bad and a later one is good: what was acknowledged is lost here.
    #[error(
        "group {number} of the log is damaged at byte {offset} of its segment, and group {good} behind it is not: replace this slot's disk, the replica joins anew"
    )]
    Middle {
        /// The bad group.
        number: u64,
        /// Where it should be.
        offset: u64,
        /// The good one.
        good: u64,
    },
    /// A segment does not begin where the one before it ends.
    #[error(
        "the log has a segment that begins with group {found}, and group {wanted} is missing: replace this slot's disk, the replica joins anew"
    )]
    Gap {
        /// The group that should be next.
        wanted: u64,
        /// The group that is.
        found: u64,
    },
    /// A group with a right checksum has records that are unknown.
    #[error(
        "group {number} of the log has records of another version: give the slot the image that wrote it, or a newer one"
    )]
    Records {
        /// The group.
        number: u64,
    },
    /// The entries do not follow each other.
    #[error(
        "entry {found} of the log stands where entry {wanted} should: replace this slot's disk, the replica joins anew"
    )]
    Hole {
        /// The entry that should be there.
        wanted: u64,
        /// The entry that is.
        found: u64,
    },
    /// The disk does not give it.
    #[error("the log cannot be read: {0}")]
    Disk(#[from] io::Error),
}

/// What was found in a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Scan {
    /// The number of the group that comes next.
    pub(super) next: u64,
    /// Where it goes.
    pub(super) end: u64,
    /// Whether there is something else than zeros from there on.
    pub(super) torn: bool,
}

/// Reads the segment of `len` bytes that begins with group `next`, and gives `visit` each group with its place.
pub(super) fn scan(
    source: &(impl ReadAt + ?Sized),
    id: u64,
    len: u64,
    mut next: u64,
    mut visit: impl FnMut(u64, &Group) -> Result<(), Damage>,
) -> Result<Scan, Damage> {
    let mut end = 0;
    while let Some(group) = read(source, id, end)?.filter(|group| group.number == next) {
        visit(end, &group)?;
        end += group.size;
        next += 1;
    }
    let mut torn = false;
    let mut block = [0; BLOCK];
    let mut offset = end;
    while offset < len {
        let read_len = source.read_at(&mut block, offset)?;
        if block[..read_len].iter().any(|byte| *byte != 0) {
            torn = true;
            let good = read(source, id, offset)?.filter(|group| group.number >= next);
            if let Some(good) = good {
                return Err(Damage::Middle { number: next, offset: end, good: good.number });
            }
        }
        offset += BLOCK as u64;
    }
    Ok(Scan { next, end, torn })
}
