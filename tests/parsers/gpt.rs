//! Any bytes as a partition table: an error, or a layout whose table reads back as itself.

use i2kit::disk::gpt;

/// Fails when something does not hold, for the bytes as they are and with right checksums.
pub(crate) fn run(data: &[u8]) {
    for table in [Some(data.to_vec()), summed(data)].into_iter().flatten() {
        if let Ok(layout) = gpt::parse(&table) {
            assert_eq!(gpt::parse(&gpt::head(&layout)).ok(), Some(layout));
        }
    }
}

/// A partition table with right checksums, where it is long enough to have some.
fn summed(data: &[u8]) -> Option<Vec<u8>> {
    let mut table = data.to_vec();
    let count = usize::try_from(u32::from_le_bytes(*table.get(592..)?.first_chunk()?)).ok()?;
    let sum = crc32(table.get(1024..)?.get(..count.min(256) * 128)?);
    table[600..604].copy_from_slice(&sum.to_le_bytes());
    table[528..532].fill(0);
    let sum = crc32(&table[512..604]);
    table[528..532].copy_from_slice(&sum.to_le_bytes());
    Some(table)
}

/// CRC-32 of IEEE 802.3.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg()))
    })
}
