//! Any bytes as the table of a disk's blocks: none, or one that is written again as it was; and what its header says of its
//! length leads to no place outside of the disk.

use i2kit::cloud::aws::plan::block_table::{BLOCK, length, places, read, write};
use i2kit::oci::Digest;

/// Fails when something does not hold, for the bytes as they are and with the right checksum.
pub(crate) fn run(data: &[u8]) {
    for table in [Some(data.to_vec()), summed(data)].into_iter().flatten() {
        if let Some((disk, map)) = read(&table) {
            assert!(map.keys().all(|index| *index < disk));
            let written = write(disk, &map).expect("it had no more entries than a table may have");
            assert!(table.starts_with(&written));
        }
        if let Some(length) = length(&table) {
            for disk in [0, 1, 2048] {
                lies_within(disk, length);
            }
        }
    }
}

/// Fails unless the parts of a table of that length follow each other, in blocks of the disk that they fit into.
fn lies_within(disk: u32, length: usize) {
    let Some(places) = places(disk, length) else { return };
    let mut end = 0;
    for (number, (index, part)) in (1_u32..).zip(places) {
        assert_eq!((index, part.start), (disk - number, end));
        assert!(part.end > part.start && (part.end - part.start) as u64 <= BLOCK);
        end = part.end;
    }
    assert_eq!(end, length);
}

/// The bytes with the right checksum, where they are long enough for the table that their header tells of.
fn summed(data: &[u8]) -> Option<Vec<u8>> {
    let mut table = data.get(..length(data)?)?.to_vec();
    let sum = Digest::of(&[&table[..20], &table[52..]].concat());
    table[20..52].copy_from_slice(sum.as_bytes());
    Some(table)
}
