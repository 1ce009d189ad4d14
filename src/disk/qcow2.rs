//! qcow2, the format of qemu (`docs/interop/qcow2.txt` of its sources), version 3.
//!
//! ```text
//! header | level 1 table | table of reference counts | blocks of reference counts | level 2 tables | data
//! ```
//! Everything begins at whole clusters of 64 KiB, and all tables are there whether or not they are needed: a disk's size
//! alone tells where data begins.

use std::io::{Read, Seek, SeekFrom, Write};

use super::error::DiskError;
use super::sector::SECTOR;
use super::sparse::{self, UNIT as CLUSTER};

const CLUSTER_BITS: u32 = 16;
/// Entries of a table of 8 bytes each in a cluster.
const TABLE_ENTRIES: u64 = CLUSTER / 8;
/// Reference counts of 2 bytes each in a cluster.
const COUNTS: u64 = CLUSTER / 2;
/// Set where a cluster has one reference.
const COPIED: u64 = 1 << 63;

/// Where the tables lie, in clusters.
struct Plan {
    level1: u64,
    level1_size: u64,
    counts_table: u64,
    counts_table_size: u64,
    counts: u64,
    counts_size: u64,
    level2: u64,
    level2_size: u64,
    data: u64,
}

impl Plan {
    fn new(size: u64) -> Self {
        let clusters = size.div_ceil(CLUSTER);
        let level2_size = clusters.div_ceil(TABLE_ENTRIES);
        let level1_size = level2_size.div_ceil(TABLE_ENTRIES).max(1);
        // Enough for the data, the tables and the counts themselves, which are a small part of both.
        let counts_size = (clusters + level2_size + level1_size).div_ceil(COUNTS - 2) + 1;
        let counts_table_size = counts_size.div_ceil(TABLE_ENTRIES);
        let counts_table = 1 + level1_size;
        let counts = counts_table + counts_table_size;
        let level2 = counts + counts_size;
        let data = level2 + level2_size;
        Self {
            level1: 1,
            level1_size,
            counts_table,
            counts_table_size,
            counts,
            counts_size,
            level2,
            level2_size,
            data,
        }
    }
}

/// Writes `disk`, of `size` bytes, to an empty `out`.
pub fn write(disk: impl Read, size: u64, mut out: impl Write + Seek) -> Result<(), DiskError> {
    let plan = Plan::new(size);
    let map = sparse::packed(disk, size, plan.data * CLUSTER, &mut out)?;
    let stored = map.iter().flatten().count() as u64;
    let mut head = header(size, &plan);
    let mut put = |first: u64, entries: &mut dyn Iterator<Item = u64>| {
        head.resize(usize::try_from(first * CLUSTER).expect("tables fit into memory"), 0);
        head.extend(entries.flat_map(u64::to_be_bytes));
    };
    let clusters = |first: u64, count: u64, flag: u64| {
        (first..first + count).map(move |cluster| (cluster * CLUSTER) | flag)
    };
    put(plan.level1, &mut clusters(plan.level2, plan.level2_size, COPIED));
    put(plan.counts_table, &mut clusters(plan.counts, plan.counts_size, 0));
    head.resize(usize::try_from(plan.counts * CLUSTER).expect("tables fit into memory"), 0);
    for _ in 0..plan.data + stored {
        head.extend_from_slice(&1_u16.to_be_bytes());
    }
    let mut entries = map.iter().map(|unit| match unit {
        Some(unit) => ((plan.data + u64::from(*unit)) * CLUSTER) | COPIED,
        None => 0,
    });
    let mut put = |first: u64, entries: &mut dyn Iterator<Item = u64>| {
        head.resize(usize::try_from(first * CLUSTER).expect("tables fit into memory"), 0);
        head.extend(entries.flat_map(u64::to_be_bytes));
    };
    put(plan.level2, &mut entries);
    out.seek(SeekFrom::Start(0)).and_then(|_| out.write_all(&head)).map_err(DiskError::Write)?;
    out.flush().map_err(DiskError::Write)
}

fn header(size: u64, plan: &Plan) -> Vec<u8> {
    let mut out = b"QFI\xfb".to_vec();
    let put32 = |out: &mut Vec<u8>, value: u64| {
        out.extend_from_slice(&u32::try_from(value).expect("a table's size is small").to_be_bytes());
    };
    put32(&mut out, 3);
    // No backing file: its name's offset and length.
    out.extend_from_slice(&[0; 12]);
    put32(&mut out, CLUSTER_BITS.into());
    out.extend_from_slice(&size.next_multiple_of(SECTOR).to_be_bytes());
    // No encryption.
    put32(&mut out, 0);
    put32(&mut out, plan.level2_size);
    out.extend_from_slice(&(plan.level1 * CLUSTER).to_be_bytes());
    out.extend_from_slice(&(plan.counts_table * CLUSTER).to_be_bytes());
    put32(&mut out, plan.counts_table_size);
    // No snapshots, and no features that a reader must know, may know, or that a writer must clear.
    out.extend_from_slice(&[0; 12 + 24]);
    // Reference counts of 2 to the power of 4 bits; the header's length.
    put32(&mut out, 4);
    put32(&mut out, 104);
    debug_assert_eq!(out.len(), 104);
    debug_assert!(plan.level1_size >= 1);
    // No extensions of the header.
    out.extend_from_slice(&[0; 8]);
    out
}
