//! The partition table (GPT, UEFI specification 2.10 chapter 5) of a layout, and the way back.
//!
//! ```text
//! sector 0      protective MBR
//! sector 1      header          (32-bit checksums of itself and of the entries)
//! sector 2..    128 entries, or 256 for more partitions
//! 1 MiB         first partition
//! last 1 MiB    zeros, the entries again, the header again in the last sector
//! ```
//! Our own instead of the `gpt` crate: a table is two hundred bytes that are a function of the layout, and the crate
//! wants a device to edit.

use super::error::DiskError;
use super::sector::SECTOR;
use crate::plan::layout::{ALIGNMENT, DiskLayout, ESP_PARTITION, Guid, Partition};

/// Bytes before the first partition.
pub const HEAD_SIZE: u64 = ALIGNMENT;
/// Bytes behind the room of the last partition.
pub const TAIL_SIZE: u64 = ALIGNMENT;

const SECTOR_SIZE: usize = 512;
const SIGNATURE: &[u8; 8] = b"EFI PART";
const REVISION: u32 = 0x0001_0000;
const HEADER_SIZE: usize = 92;
const ENTRY_SIZE: usize = 128;
const ENTRIES: usize = 128;
const MORE_ENTRIES: usize = 256;
const ENTRIES_SECTOR: u64 = 2;
const NAME_OFFSET: usize = 56;
/// Linux file system data: what a partition tool shows, and what no firmware or automounter acts upon.
const LINUX_DATA: Guid = Guid::from_bytes([
    0x0f, 0xc6, 0x3d, 0xaf, 0x84, 0x83, 0x47, 0x72, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4,
]);

/// The EFI system partition: what firmware boots from.
const EFI_SYSTEM: Guid = Guid::from_bytes([
    0xc1, 0x2a, 0x73, 0x28, 0xf8, 0x1f, 0x11, 0xd2, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b,
]);

/// The first [`HEAD_SIZE`] bytes of the disk.
pub fn head(layout: &DiskLayout) -> Vec<u8> {
    let last = layout.size / SECTOR - 1;
    let entries = entries(layout);
    let mut out = vec![0; size(HEAD_SIZE)];
    out[..SECTOR_SIZE].copy_from_slice(&protective_mbr(last));
    out[SECTOR_SIZE..2 * SECTOR_SIZE].copy_from_slice(&header(layout, &entries, 1, last, ENTRIES_SECTOR));
    out[2 * SECTOR_SIZE..][..entries.len()].copy_from_slice(&entries);
    out
}

/// The last [`TAIL_SIZE`] bytes of the disk.
pub fn tail(layout: &DiskLayout) -> Vec<u8> {
    let last = layout.size / SECTOR - 1;
    let entries = entries(layout);
    let entries_sector = last - entries.len() as u64 / SECTOR;
    let mut out = vec![0; size(TAIL_SIZE) - SECTOR_SIZE - entries.len()];
    out.extend_from_slice(&entries);
    out.extend_from_slice(&header(layout, &entries, last, 1, entries_sector));
    out
}

/// Reads the table from the first [`HEAD_SIZE`] bytes of a disk. Checksums must be right, partitions in order and inside of the
/// disk.
pub fn parse(head: &[u8]) -> Result<DiskLayout, DiskError> {
    let damaged = |reason: &str| DiskError::Table(reason.to_owned());
    let header = head.get(SECTOR_SIZE..2 * SECTOR_SIZE).ok_or_else(|| damaged("it is cut off"))?;
    if &header[..8] != SIGNATURE {
        return Err(damaged("it has no GPT signature"));
    }
    let mut unsummed = header[..HEADER_SIZE].to_vec();
    unsummed[16..20].fill(0);
    if crc32fast::hash(&unsummed) != get_u32(header, 16) {
        return Err(damaged("its header's checksum is wrong"));
    }
    let count = get_u32(header, 80) as usize;
    let known = (count == ENTRIES || count == MORE_ENTRIES) && get_u32(header, 84) as usize == ENTRY_SIZE;
    let entries = head.get(2 * SECTOR_SIZE..).and_then(|rest| rest.get(..count.checked_mul(ENTRY_SIZE)?));
    let (true, Some(entries)) = (known && get_u64(header, 72) == ENTRIES_SECTOR, entries) else {
        return Err(damaged("its entries are not where i2kit puts them"));
    };
    if crc32fast::hash(entries) != get_u32(header, 88) {
        return Err(damaged("its entries' checksum is wrong"));
    }
    let bytes =
        |sector: u64| sector.checked_mul(SECTOR).ok_or_else(|| damaged("a sector number is too large"));
    let size = bytes(get_u64(header, 32).saturating_add(1))?;
    if size < HEAD_SIZE + TAIL_SIZE {
        return Err(damaged("its disk is too small"));
    }
    let mut partitions: Vec<Partition> = Vec::new();
    for entry in entries.chunks_exact(ENTRY_SIZE).take_while(|entry| entry[..16] != [0; 16]) {
        let (offset, end) = (bytes(get_u64(entry, 32))?, bytes(get_u64(entry, 40).saturating_add(1))?);
        let free = partitions.last().map_or(HEAD_SIZE, |last| last.offset + last.length);
        if offset < free || end <= offset || end > size.saturating_sub(TAIL_SIZE) {
            return Err(damaged("a partition is out of place"));
        }
        let units = entry[NAME_OFFSET..].as_chunks::<2>().0.iter().map(|pair| u16::from_le_bytes(*pair));
        let name: String = char::decode_utf16(units.take_while(|unit| *unit != 0))
            .map(|character| character.unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect();
        partitions.push(Partition { name, guid: get_guid(entry, 16), offset, length: end - offset });
    }
    Ok(DiskLayout { guid: get_guid(header, 56), partitions, size })
}

/// One partition over the whole disk, so that tools which know no GPT keep off.
fn protective_mbr(last: u64) -> [u8; SECTOR_SIZE] {
    let mut out = [0; SECTOR_SIZE];
    let entry = &mut out[446..462];
    // Start and end in cylinders, heads and sectors: the second sector, and the largest number.
    entry[1..4].copy_from_slice(&[0x00, 0x02, 0x00]);
    entry[4] = 0xee;
    entry[5..8].copy_from_slice(&[0xff, 0xff, 0xff]);
    put_u32(entry, 8, 1);
    put_u32(entry, 12, u32::try_from(last).unwrap_or(u32::MAX));
    out[510..].copy_from_slice(&[0x55, 0xaa]);
    out
}

fn header(
    layout: &DiskLayout,
    entries: &[u8],
    own: u64,
    other: u64,
    entries_sector: u64,
) -> [u8; SECTOR_SIZE] {
    let mut out = [0; SECTOR_SIZE];
    let entry_sectors = entries.len() as u64 / SECTOR;
    let last = layout.size / SECTOR - 1;
    out[..8].copy_from_slice(SIGNATURE);
    put_u32(&mut out, 8, REVISION);
    put_u32(&mut out, 12, number(HEADER_SIZE));
    put_u64(&mut out, 24, own);
    put_u64(&mut out, 32, other);
    put_u64(&mut out, 40, ENTRIES_SECTOR + entry_sectors);
    put_u64(&mut out, 48, last - entry_sectors - 1);
    put_guid(&mut out, 56, layout.guid);
    put_u64(&mut out, 72, entries_sector);
    put_u32(&mut out, 80, number(entries.len() / ENTRY_SIZE));
    put_u32(&mut out, 84, number(ENTRY_SIZE));
    put_u32(&mut out, 88, crc32fast::hash(entries));
    let sum = crc32fast::hash(&out[..HEADER_SIZE]);
    put_u32(&mut out, 16, sum);
    out
}

fn entries(layout: &DiskLayout) -> Vec<u8> {
    let count = if layout.partitions.len() > ENTRIES { MORE_ENTRIES } else { ENTRIES };
    let mut out = vec![0; count * ENTRY_SIZE];
    for (partition, entry) in layout.partitions.iter().zip(out.chunks_exact_mut(ENTRY_SIZE)) {
        put_guid(entry, 0, if partition.name == ESP_PARTITION { EFI_SYSTEM } else { LINUX_DATA });
        put_guid(entry, 16, partition.guid);
        put_u64(entry, 32, partition.offset / SECTOR);
        put_u64(entry, 40, (partition.offset + partition.length) / SECTOR - 1);
        for (unit, place) in partition.name.encode_utf16().zip(entry[NAME_OFFSET..].chunks_exact_mut(2)) {
            place.copy_from_slice(&unit.to_le_bytes());
        }
    }
    out
}

fn number(count: usize) -> u32 {
    u32::try_from(count).expect("at most 256 entries of 128 bytes")
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).expect("head and tail fit into memory")
}

/// The first three fields are little-endian on disk.
fn swap(mut bytes: [u8; 16]) -> [u8; 16] {
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    bytes
}

fn put_guid(to: &mut [u8], at: usize, guid: Guid) {
    to[at..at + 16].copy_from_slice(&swap(*guid.as_bytes()));
}

fn get_guid(from: &[u8], at: usize) -> Guid {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&from[at..at + 16]);
    Guid::from_bytes(swap(bytes))
}

fn put_u32(to: &mut [u8], at: usize, value: u32) {
    to[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put_u64(to: &mut [u8], at: usize, value: u64) {
    to[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn get_u32(from: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([from[at], from[at + 1], from[at + 2], from[at + 3]])
}

fn get_u64(from: &[u8], at: usize) -> u64 {
    u64::from(get_u32(from, at)) | u64::from(get_u32(from, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::disk::{assemble, dump};
    use crate::oci::Digest;
    use crate::plan::layout::Part;

    fn layout(layers: usize) -> DiskLayout {
        let parts = (0..layers).map(|number| {
            let name = if number == 0 { "pod".to_owned() } else { format!("{number:032x}") };
            let content = Digest::of(name.as_bytes());
            Part { name, content, size: 4096 * (number as u64 + 1) }
        });
        DiskLayout::new(Digest::of(b"plan"), parts).expect("good parts")
    }

    fn parts(layout: &DiskLayout) -> Vec<Vec<u8>> {
        layout
            .partitions
            .iter()
            .zip(1..)
            .map(|(partition, fill)| vec![fill; size(partition.length)])
            .collect()
    }

    #[test]
    fn a_table_reads_back() {
        for layers in [0, 1, 3, 128, 129, 255] {
            let layout = layout(layers);
            assert_eq!(parse(&head(&layout)).expect("our own table"), layout);
        }
    }

    #[test]
    fn a_disk_holds_its_parts() {
        let layout = layout(3);
        let parts = parts(&layout);
        let mut readers: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let mut disk = Cursor::new(Vec::new());
        assemble(&layout, &mut readers, &mut disk).expect("parts of the right length");
        insta::assert_snapshot!(dump(&mut disk).expect("our own disk"), @r"
        disk 5D9AC80A-34BC-8480-9766-5DBDFD1C7EE5 11534336 bytes
          1 4A3948FD-D870-880C-82A0-BA9FD74C1A34      1048576         4096 pod
          2 695433D0-7569-8E98-B99E-5C0A479EC1F3      8388608         8192 00000000000000000000000000000001
          3 037F0164-E778-8985-8F58-F76848FB9ED4      9437184        12288 00000000000000000000000000000002
        ");
        let disk = disk.into_inner();
        assert_eq!(disk.len() as u64, layout.size);
        for (partition, part) in layout.partitions.iter().zip(&parts) {
            assert_eq!(&disk[size(partition.offset)..][..part.len()], part);
        }
    }

    #[test]
    fn parts_of_the_wrong_length_are_refused() {
        let layout = layout(2);
        for wrong in [4095, 4097] {
            let parts = [vec![1; wrong], vec![2; 8192]];
            let mut readers: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            let refused = assemble(&layout, &mut readers, Cursor::new(Vec::new()));
            assert!(matches!(refused, Err(DiskError::Length { found, .. }) if found == wrong as u64));
        }
    }

    #[test]
    fn every_damaged_byte_of_a_table_is_noticed() {
        let head = head(&layout(3));
        for at in SECTOR_SIZE..SECTOR_SIZE + HEADER_SIZE {
            let mut damaged = head.clone();
            damaged[at] ^= 1;
            assert!(parse(&damaged).is_err(), "byte {at}");
        }
        for at in 2 * SECTOR_SIZE..2 * SECTOR_SIZE + 4 * ENTRY_SIZE {
            let mut damaged = head.clone();
            damaged[at] ^= 1;
            assert!(parse(&damaged).is_err(), "byte {at}");
        }
    }
}
