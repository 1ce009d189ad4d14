//! VHD with a fixed size, as Hyper-V and Azure take it: the raw disk, and a sector that describes it.

use std::io::{Read, Seek, SeekFrom, Write};

use super::error::DiskError;
use super::sector::SECTOR;
use super::sparse;

/// Writes `disk`, of `size` bytes and with that identity, to an empty `out`. Zeros are left out of it, as holes.
pub fn write(disk: impl Read, size: u64, id: [u8; 16], mut out: impl Write + Seek) -> Result<(), DiskError> {
    let mut at = 0;
    sparse::units(disk, size, |unit| {
        if unit.iter().any(|byte| *byte != 0) {
            out.seek(SeekFrom::Start(at))?;
            out.write_all(unit)?;
        }
        at += unit.len() as u64;
        Ok(())
    })?;
    let end = out.seek(SeekFrom::Start(size)).and_then(|_| out.write_all(&footer(size, id)));
    end.and_then(|()| out.flush()).map_err(DiskError::Write)
}

/// The last sector. Its numbers are big endian.
fn footer(size: u64, id: [u8; 16]) -> [u8; 512] {
    let mut out = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"conectix");
    // Features: a bit that is always set. The format's version. There is nothing but the disk: an offset of all ones.
    put(8, &2_u32.to_be_bytes());
    put(12, &0x0001_0000_u32.to_be_bytes());
    put(16, &[0xff; 8]);
    // No time, since equal disks have equal bytes. The writer: "win " is what makes readers trust the size instead of the
    // geometry, which cannot express every size.
    put(28, b"win ");
    put(32, &0x000a_0000_u32.to_be_bytes());
    put(36, b"Wi2k");
    put(40, &size.to_be_bytes());
    put(48, &size.to_be_bytes());
    put(56, &geometry(size / SECTOR));
    // A fixed disk.
    put(60, &2_u32.to_be_bytes());
    put(68, &id);
    let sum: u32 = out.iter().map(|byte| u32::from(*byte)).sum();
    out[64..68].copy_from_slice(&(!sum).to_be_bytes());
    out
}

/// Cylinders, heads and sectors a track, by the rule that the specification gives.
fn geometry(sectors: u64) -> [u8; 4] {
    let total = u32::try_from(sectors).unwrap_or(u32::MAX).min(65_535 * 16 * 255);
    let (heads, track) = if total >= 65_535 * 16 * 63 {
        (16, 255)
    } else {
        let fits = |heads: u32, track: u32| total / track < heads * 1024;
        let heads = (total / 17).div_ceil(1024).max(4);
        if heads <= 16 && fits(heads, 17) {
            (heads, 17)
        } else if fits(16, 31) {
            (16, 31)
        } else {
            (16, 63)
        }
    };
    let cylinders = u16::try_from(total / track / heads).unwrap_or(u16::MAX).to_be_bytes();
    let byte = |number: u32| u8::try_from(number).unwrap_or(u8::MAX);
    [cylinders[0], cylinders[1], byte(heads), byte(track)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_footer_is_what_the_specification_says() {
        let footer = footer(1 << 30, [7; 16]);
        let sum: u32 = footer.iter().map(|byte| u32::from(*byte)).sum();
        let own: u32 = footer[64..68].iter().map(|byte| u32::from(*byte)).sum();
        assert_eq!(!(sum - own), u32::from_be_bytes([footer[64], footer[65], footer[66], footer[67]]));
        assert_eq!(&footer[..8], b"conectix");
        // 2097152 sectors: 16 heads of 63 sectors, 2080 cylinders and a rest.
        assert_eq!(footer[56..60], [0x08, 0x20, 16, 63]);
    }
}
