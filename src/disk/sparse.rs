//! Disks in one file for other programs, in which runs of zeros take no room: what qcow2, VMDK and VHD have in common.

use std::io::{Read, Seek, SeekFrom, Write};

use super::error::DiskError;
use super::sector::read_full;

/// What is stored or left out as a whole.
pub(super) const UNIT: u64 = 64 << 10;
const UNIT_SIZE: usize = 64 << 10;

/// Writes the units of `disk` that are not all zeros, one after the other from `start` on; tells for each unit where it
/// lies, in units from `start`. `size` is the disk's.
pub(super) fn packed(
    disk: impl Read,
    size: u64,
    start: u64,
    out: &mut (impl Write + Seek),
) -> Result<Vec<Option<u32>>, DiskError> {
    let mut stored = 0;
    let mut map = Vec::new();
    let padding = vec![0; UNIT_SIZE];
    out.seek(SeekFrom::Start(start)).map_err(DiskError::Write)?;
    units(disk, size, |bytes| {
        let zeros = bytes.iter().all(|byte| *byte == 0);
        map.push((!zeros).then_some(stored));
        if zeros {
            return Ok(());
        }
        stored += 1;
        out.write_all(bytes)?;
        // The last unit may be cut off.
        out.write_all(&padding[bytes.len()..])
    })?;
    Ok(map)
}

/// Hands every unit of `disk` on, and checks that it is as long as it should be.
pub(super) fn units(
    mut disk: impl Read,
    size: u64,
    mut each: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> Result<(), DiskError> {
    let mut unit = vec![0; UNIT_SIZE];
    let mut done = 0;
    loop {
        let length = read_full(&mut disk, &mut unit).map_err(DiskError::Input)?;
        if length == 0 {
            break;
        }
        done += length as u64;
        each(&unit[..length]).map_err(DiskError::Write)?;
    }
    if done == size {
        Ok(())
    } else {
        Err(DiskError::Length { name: "disk".into(), expected: size, found: done })
    }
}
