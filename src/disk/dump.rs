//! A disk's partition table as text, for goldens and for people.

use std::fmt::Write as _;
use std::io::{Read, Seek, SeekFrom};

use super::error::DiskError;
use super::gpt;

/// Renders the table that a disk starts with, after checking that its backup at the end is equal.
pub fn dump(mut disk: impl Read + Seek) -> Result<String, DiskError> {
    let head = read_at(&mut disk, 0, gpt::HEAD_SIZE)?;
    let layout = gpt::parse(&head)?;
    let tail = read_at(&mut disk, layout.size.saturating_sub(gpt::TAIL_SIZE), gpt::TAIL_SIZE)?;
    if tail != gpt::tail(&layout) {
        return Err(DiskError::Table("its backup differs".to_owned()));
    }
    let mut text = format!("disk {} {} bytes\n", layout.guid, layout.size);
    for (number, partition) in (1..).zip(&layout.partitions) {
        let (name, guid, offset, length) =
            (&partition.name, partition.guid, partition.offset, partition.length);
        let _ = writeln!(text, "{number:3} {guid} {offset:>12} {length:>12} {name}");
    }
    Ok(text)
}

fn read_at(disk: &mut (impl Read + Seek), offset: u64, length: u64) -> Result<Vec<u8>, DiskError> {
    let mut bytes = vec![0; usize::try_from(length).expect("head and tail fit into memory")];
    let read = disk.seek(SeekFrom::Start(offset)).and_then(|_| disk.read_exact(&mut bytes));
    read.map(|()| bytes).map_err(DiskError::Input)
}
