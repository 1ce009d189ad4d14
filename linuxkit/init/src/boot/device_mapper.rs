//! The kernel's device mapper: makes a device that shows others through a target. Knows no target in particular.

use std::fs::File;
use std::io;
use std::path::PathBuf;

/// Commands of the control device, by their names in the kernel's `dm-ioctl.h`.
const DM_DEV_CREATE: u8 = 3;
const DM_DEV_SUSPEND: u8 = 6;
const DM_TABLE_LOAD: u8 = 9;

const DM_READONLY_FLAG: u32 = 1;

/// The interface of Linux 2.6 and later; the kernel refuses other major versions.
const VERSION: [u32; 3] = [4, 0, 0];

/// Size of `struct dm_ioctl`, and where its fields lie.
const HEADER: usize = 312;
const DATA_SIZE: usize = 12;
const DATA_START: usize = 16;
const TARGET_COUNT: usize = 20;
const FLAGS: usize = 28;
const DEVICE: usize = 40;
const NAME: usize = 48;
const NAME_SIZE: usize = 128;

/// The control device.
#[derive(Debug)]
pub(crate) struct DeviceMapper {
    control: File,
}

impl DeviceMapper {
    pub(crate) fn open() -> io::Result<Self> {
        let control = File::options().read(true).write(true).open("/dev/mapper/control")?;
        Ok(Self { control })
    }

    /// Makes a read-only device with one target, its size in sectors, and returns its node.
    pub(crate) fn create(
        &self,
        name: &str,
        target: &str,
        sectors: u64,
        parameters: &str,
    ) -> io::Result<PathBuf> {
        let created = self.call(DM_DEV_CREATE, request(name, &[]))?;
        let mut load = request(name, &target_spec(target, sectors, parameters));
        put(&mut load, TARGET_COUNT, &1_u32.to_ne_bytes());
        put(&mut load, FLAGS, &DM_READONLY_FLAG.to_ne_bytes());
        self.call(DM_TABLE_LOAD, load)?;
        // To suspend without the flag that means suspending is to resume.
        self.call(DM_DEV_SUSPEND, request(name, &[]))?;
        let device = created[DEVICE..].first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
        Ok(PathBuf::from(format!("/dev/dm-{}", minor(device))))
    }

    fn call(&self, command: u8, mut buffer: Vec<u8>) -> io::Result<Vec<u8>> {
        i2kit_sys::device_mapper(&self.control, command, &mut buffer)?;
        Ok(buffer)
    }
}

/// `struct dm_ioctl` and what follows it.
fn request(name: &str, data: &[u8]) -> Vec<u8> {
    let mut out = vec![0; HEADER];
    for (index, number) in VERSION.iter().enumerate() {
        put(&mut out, index * 4, &number.to_ne_bytes());
    }
    let name = &name.as_bytes()[..name.len().min(NAME_SIZE - 1)];
    put(&mut out, NAME, name);
    out.extend_from_slice(data);
    let size = u32::try_from(out.len()).expect("a table of one target is short");
    put(&mut out, DATA_SIZE, &size.to_ne_bytes());
    put(&mut out, DATA_START, &312_u32.to_ne_bytes());
    out
}

/// `struct dm_target_spec` and the target's parameters: from sector 0, the size in sectors.
fn target_spec(target: &str, sectors: u64, parameters: &str) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&0_u64.to_ne_bytes());
    out.extend_from_slice(&sectors.to_ne_bytes());
    // Status, which is for answers, and where the next target lies: there is none.
    out.extend_from_slice(&[0; 8]);
    let mut kind = [0; 16];
    kind[..target.len()].copy_from_slice(target.as_bytes());
    out.extend_from_slice(&kind);
    out.extend_from_slice(parameters.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(8), 0);
    out
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}

/// The minor number in the kernel's encoding of a device.
fn minor(device: u64) -> u64 {
    device & 0xff | device >> 12 & 0xfff_ff00
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_the_kernels_layout() {
        let spec = target_spec("verity", 160, "1 a b");
        assert_eq!(spec.len(), 48);
        assert_eq!(&spec[24..46], b"verity\0\0\0\0\0\0\0\0\0\x001 a b\0");
        let bytes = request("pod", &spec);
        assert_eq!(bytes.len(), 360);
        assert_eq!(bytes[12..20], [104, 1, 0, 0, 56, 1, 0, 0]);
        assert_eq!(&bytes[48..52], b"pod\0");
    }

    #[test]
    fn minors_beyond_a_byte_are_read() {
        assert_eq!(minor(0xfe03), 3);
        assert_eq!(minor(0x10_fe2c), 0x12c);
    }
}
