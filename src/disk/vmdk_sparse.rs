//! VMDK as one sparse file (`monolithicSparse`), as `VMware`'s programs take it.
//!
//! ```text
//! header | descriptor | directory and tables of grains, twice | grains of 64 KiB
//! ```

use std::fmt::Write as _;
use std::io::{Read, Seek, SeekFrom, Write};

use super::error::DiskError;
use super::sector::SECTOR;
use super::sparse::{self, UNIT as GRAIN};

const GRAIN_SECTORS: u64 = GRAIN / SECTOR;
/// Entries of a table of grains, of 4 bytes each.
const TABLE_ENTRIES: usize = 512;
const TABLE_SECTORS: u64 = TABLE_ENTRIES as u64 * 4 / SECTOR;
/// The descriptor follows the header.
const DESCRIPTOR_SECTORS: u64 = 20;
const DIRECTORY: u64 = 1 + DESCRIPTOR_SECTORS;

/// Writes `disk`, of `size` bytes, to an empty `out`.
pub fn write(disk: impl Read, size: u64, mut out: impl Write + Seek) -> Result<(), DiskError> {
    let tables = size.div_ceil(GRAIN).div_ceil(TABLE_ENTRIES as u64);
    let one_set = (tables * 4).div_ceil(SECTOR) + tables * TABLE_SECTORS;
    let data = (DIRECTORY + 2 * one_set).next_multiple_of(GRAIN_SECTORS);
    let map = sparse::packed(disk, size, data * SECTOR, &mut out)?;
    let mut head = header(size, one_set, data);
    let mut descriptor = descriptor(size);
    descriptor.resize(size_of_sectors(DESCRIPTOR_SECTORS), 0);
    head.extend_from_slice(&descriptor);
    for set in [DIRECTORY, DIRECTORY + one_set] {
        let first = set + (tables * 4).div_ceil(SECTOR);
        let places = (0..tables).map(|table| first + table * TABLE_SECTORS);
        head.extend(places.flat_map(|place| sector(place).to_le_bytes()));
        head.resize(size_of_sectors(first), 0);
        let grain = |unit: &Option<u32>| unit.map_or(0, |unit| data + u64::from(unit) * GRAIN_SECTORS);
        head.extend(map.iter().flat_map(|unit| sector(grain(unit)).to_le_bytes()));
        head.resize(size_of_sectors(set + one_set), 0);
    }
    let written = out.seek(SeekFrom::Start(0)).and_then(|_| out.write_all(&head));
    written.and_then(|()| out.flush()).map_err(DiskError::Write)
}

fn header(size: u64, one_set: u64, data: u64) -> Vec<u8> {
    let mut out = b"KDMV".to_vec();
    // Version 1; the test of line ends below is there, and so is a second set of tables.
    out.extend_from_slice(&1_u32.to_le_bytes());
    out.extend_from_slice(&3_u32.to_le_bytes());
    for value in [size / SECTOR, GRAIN_SECTORS, 1, DESCRIPTOR_SECTORS] {
        out.extend_from_slice(&value.to_le_bytes());
    }
    out.extend_from_slice(&512_u32.to_le_bytes());
    for value in [DIRECTORY, DIRECTORY + one_set, data] {
        out.extend_from_slice(&value.to_le_bytes());
    }
    // Closed cleanly; line ends that a transfer as text would spoil; no compression.
    out.extend_from_slice(b"\0\n \r\n\0\0");
    out.resize(512, 0);
    out
}

fn descriptor(size: u64) -> Vec<u8> {
    let sectors = size / SECTOR;
    let mut text = String::from(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\n\n# Extent description\n",
    );
    let _ = writeln!(text, "RW {sectors} SPARSE \"disk.vmdk\"\n\n# The Disk Data Base\n#DDB\n");
    let _ =
        writeln!(text, "ddb.virtualHWVersion = \"4\"\nddb.geometry.cylinders = \"{}\"", sectors / (16 * 63));
    text.push_str("ddb.geometry.heads = \"16\"\nddb.geometry.sectors = \"63\"\nddb.adapterType = \"ide\"\n");
    text.into_bytes()
}

/// A place in the file; disks that this cannot express have 2 TiB of data.
fn sector(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn size_of_sectors(sectors: u64) -> usize {
    usize::try_from(sectors * SECTOR).expect("tables fit into memory")
}
