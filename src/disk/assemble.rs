//! Putting a raw disk together from its parts.

use std::io::{Read, Seek, SeekFrom, Write};

use super::error::DiskError;
use super::gpt;
use super::sector::read_full;
use crate::plan::layout::DiskLayout;

/// What is read at once, and the unit in which zeros become holes: large enough for few calls, a multiple of every
/// file system's block.
const BLOCK: usize = 64 << 10;

/// Writes the whole disk; `parts` are in the order of the layout's partitions. `out` must be empty: zeros are left
/// out of it, as holes.
pub fn assemble<R: Read>(
    layout: &DiskLayout,
    parts: &mut [R],
    mut out: impl Write + Seek,
) -> Result<(), DiskError> {
    if parts.len() != layout.partitions.len() {
        return Err(DiskError::Parts { partitions: layout.partitions.len(), parts: parts.len() });
    }
    let mut block = vec![0; BLOCK];
    for (partition, part) in layout.partitions.iter().zip(parts) {
        let read_error = |source| DiskError::Read { name: partition.name.clone(), source };
        let mut done = 0;
        loop {
            let length = read_full(part, &mut block).map_err(read_error)?;
            if done + length as u64 > partition.length || length == 0 && done < partition.length {
                let found = done + length as u64;
                let (name, expected) = (partition.name.clone(), partition.length);
                return Err(DiskError::Length { name, expected, found });
            }
            if length == 0 {
                break;
            }
            if block[..length].iter().any(|byte| *byte != 0) {
                write_at(&mut out, partition.offset + done, &block[..length])?;
            }
            done += length as u64;
        }
    }
    let tail = gpt::tail(layout);
    write_at(&mut out, layout.size - tail.len() as u64, &tail)?;
    // The head comes last: a disk without it is seen by nobody as whole.
    write_at(&mut out, 0, &gpt::head(layout))?;
    out.flush().map_err(DiskError::Write)
}

fn write_at(out: &mut (impl Write + Seek), offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
    out.seek(SeekFrom::Start(offset)).and_then(|_| out.write_all(bytes)).map_err(DiskError::Write)
}
