//! dm-verity: partitions are read through a device that checks each block against the root hash that came with the
//! kernel. A block that is not what was built gives an input error, and its content reaches nobody.

use std::fs;
use std::path::{Path, PathBuf};

use i2kit_spec::verity::{VERITY_BLOCK, VERITY_PATH, VERITY_VERSION, Verity, VerityPartition};

use super::block;
use super::device_mapper::DeviceMapper;
use crate::error::{Doing, Error};

/// What the kernel counts a device's size in.
const SECTOR: u64 = 512;

/// Reads the root hashes of the partitions. A kernel that was started with no such file reads partitions as they are:
/// then whoever gave it the disk gave it the kernel too.
fn read() -> Result<Option<Verity>, Error> {
    let path = Path::new("/").join(VERITY_PATH);
    match fs::read(&path) {
        Ok(bytes) => parse(&bytes).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).doing(|| format!("read {}", path.display())),
    }
}

fn parse(bytes: &[u8]) -> Result<Verity, Error> {
    let verity: Verity = serde_json::from_slice(bytes)
        .map_err(|source| Error::Json { path: format!("/{VERITY_PATH}"), source })?;
    if verity.version != VERITY_VERSION {
        let found = u64::from(verity.version);
        return Err(Error::PodVersion { path: format!("/{VERITY_PATH}"), found, expected: VERITY_VERSION });
    }
    Ok(verity)
}

/// What to mount for the partitions of these names, in their order. Waits for partitions that are not there yet.
pub(crate) fn find(names: &[&str]) -> Result<Vec<PathBuf>, Error> {
    let verity = read()?;
    open(verity.as_ref(), names, block::find(names)?)
}

/// The partitions themselves without `verity`, else the devices that check them. A partition without a root hash is
/// refused.
fn open(verity: Option<&Verity>, names: &[&str], devices: Vec<PathBuf>) -> Result<Vec<PathBuf>, Error> {
    let Some(verity) = verity else { return Ok(devices) };
    let mapper = DeviceMapper::open().doing(|| "open the device mapper".into())?;
    let checked = names.iter().zip(devices).map(|(name, device)| {
        let partition = verity
            .partitions
            .get(*name)
            .ok_or_else(|| Error::Unverified { name: (*name).to_owned(), reason: "it has no root hash" })?;
        let table = table(partition, &device)
            .ok_or_else(|| Error::Unverified { name: (*name).to_owned(), reason: "its root hash is none" })?;
        let sectors = partition.data_blocks * (VERITY_BLOCK / SECTOR);
        mapper.create(name, "verity", sectors, &table).doing(|| format!("check {name} with dm-verity"))
    });
    checked.collect()
}

/// The words of the kernel's target: version, data and hashes (the same device), sizes of their blocks, blocks of data,
/// where the tree starts (behind the block that describes it), algorithm, root, and no salt.
fn table(partition: &VerityPartition, device: &Path) -> Option<String> {
    let VerityPartition { data_blocks, root } = partition;
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if root.len() != 64 || !root.bytes().all(hex) || *data_blocks > u64::MAX / VERITY_BLOCK {
        return None;
    }
    let (device, tree) = (device.display(), data_blocks.checked_add(1)?);
    Some(format!("1 {device} {device} {VERITY_BLOCK} {VERITY_BLOCK} {data_blocks} {tree} sha256 {root} -"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_the_kernels_words() {
        let partition = VerityPartition { data_blocks: 20, root: "0a".repeat(32) };
        assert_eq!(
            table(&partition, Path::new("/dev/vda2")).unwrap(),
            format!("1 /dev/vda2 /dev/vda2 4096 4096 20 21 sha256 {} -", "0a".repeat(32))
        );
        for root in ["", "0a", &"0A".repeat(32), &format!("{} 1", "0a".repeat(31))] {
            assert_eq!(table(&VerityPartition { data_blocks: 1, root: root.into() }, Path::new("/x")), None);
        }
    }

    #[test]
    fn a_partition_that_nobody_vouches_for_is_refused() {
        let bytes = br#"{"version":1,"partitions":{"pod":{"dataBlocks":1,"root":"x"}}}"#;
        let verity = parse(bytes).unwrap();
        assert_eq!(verity.partitions["pod"].data_blocks, 1);
        assert!(parse(&bytes[..20]).is_err());
        let newer = parse(br#"{"version":2,"partitions":{}}"#).unwrap_err().to_string();
        assert!(newer.contains("version 2"), "{newer}");
        let plain = vec![PathBuf::from("/dev/vda1")];
        assert_eq!(open(None, &["pod"], plain.clone()).unwrap(), plain);
    }
}
