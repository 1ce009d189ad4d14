//! The EFI system partition: a FAT file system with one file, the program that firmware starts from a disk without
//! boot entries of its own.
//!
//! Its size does not depend on the program's, within steps: what lies behind it stays where it is when a kernel grows.

use std::io::{Read, Seek, Write};

use fatfs::{Date, DateTime, FatType, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider};

use i2kit_spec::Architecture;

use super::error::DiskError;
use super::sector::SECTOR;

/// The folder that firmware searches on a disk without a boot entry.
const FOLDER: [&str; 2] = ["EFI", "BOOT"];

/// The program that firmware of this architecture starts from there (UEFI 2.10, table 3.2).
const fn program_name(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Amd64 => "BOOTX64.EFI",
        Architecture::Arm64 => "BOOTAA64.EFI",
    }
}

/// The partition's size is a multiple of this. Empty clusters cost nothing: zeroes are neither stored nor sent.
pub const STEP: u64 = 64 << 20;

/// What the file system itself takes of a step at most: two tables of 4 bytes a cluster, and reserved sectors.
const OVERHEAD: u64 = 2 << 20;

/// Some fixed number: mounting tools show it, nothing depends on it.
const VOLUME_ID: u32 = 0x1213_0b02;

/// Bytes of the partition of a program of that size.
pub fn size(program: u64) -> u64 {
    let steps = program.div_ceil(STEP - OVERHEAD).max(1);
    steps * STEP
}

/// Writes the partition; `out` must be empty, zeroes that follow the last byte written are left out of it.
pub fn write(
    program: &[u8],
    architecture: Architecture,
    mut out: impl Read + Write + Seek,
) -> Result<(), DiskError> {
    let sectors = u32::try_from(size(program.len() as u64) / SECTOR)
        .map_err(|_| DiskError::Stub("kernel and initrd are larger than 4 GiB".into()))?;
    // FAT32, since the UEFI specification asks for it on disks, and clusters of one sector, since it needs 65525.
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat32)
        .bytes_per_cluster(512)
        .total_sectors(sectors)
        .volume_id(VOLUME_ID)
        .volume_label(*b"I2KIT      ");
    fatfs::format_volume(&mut out, options).map_err(DiskError::Write)?;
    let options = FsOptions::new().time_provider(&Epoch).update_accessed_date(false);
    let system = FileSystem::new(&mut out, options).map_err(DiskError::Write)?;
    let [first, second] = FOLDER;
    let folder = system.root_dir().create_dir(first).and_then(|folder| folder.create_dir(second));
    let mut file =
        folder.and_then(|folder| folder.create_file(program_name(architecture))).map_err(DiskError::Write)?;
    file.write_all(program).and_then(|()| file.flush()).map_err(DiskError::Write)?;
    drop(file);
    system.unmount().map_err(DiskError::Write)
}

/// The first moment that FAT knows.
#[derive(Debug)]
struct Epoch;

impl TimeProvider for Epoch {
    fn get_current_date(&self) -> Date {
        Date { year: 1980, month: 1, day: 1 }
    }

    fn get_current_date_time(&self) -> DateTime {
        DateTime { date: self.get_current_date(), time: Time { hour: 0, min: 0, sec: 0, millis: 0 } }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::oci::Digest;

    #[test]
    fn the_program_reads_back_and_bytes_never_change() {
        let program: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut disk = Cursor::new(Vec::new());
        write(&program, Architecture::Amd64, &mut disk).expect("memory is large enough");
        let digest = Digest::of(disk.get_ref());
        assert_eq!(
            digest.to_string(),
            "sha256:60bdbbd9dbb66d2a296ae57e31c12b287029f79d32a13b53af03f6534d775374"
        );
        let system =
            FileSystem::new(Cursor::new(disk.into_inner()), FsOptions::new()).expect("our own file system");
        let mut found = Vec::new();
        let mut file = system.root_dir().open_file("EFI/BOOT/BOOTX64.EFI").expect("its only file");
        file.read_to_end(&mut found).expect("whole clusters");
        assert!(found == program);
    }

    #[test]
    fn sizes_go_in_steps() {
        assert_eq!(size(1), STEP);
        assert_eq!(size(STEP - OVERHEAD), STEP);
        assert_eq!(size(STEP - OVERHEAD + 1), 2 * STEP);
    }
}
