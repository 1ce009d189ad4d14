//! The unit of disks, and reading in whole buffers.

use std::io::Read;

/// The sector that partition tables and descriptors count in, in bytes.
pub const SECTOR: u64 = 512;

/// Fills the buffer as far as the input goes, and returns the number of bytes.
pub(super) fn read_full(input: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
