//! Checksums of tar headers, which no change of bytes would make right.

/// What follows the first byte, as a tar: the bits of that byte say which of eight blocks get a right checksum.
pub(crate) fn repaired(data: &[u8]) -> Option<Vec<u8>> {
    let (repair, tar) = data.split_first()?;
    let mut tar = tar.to_vec();
    for (number, block) in tar.chunks_exact_mut(512).enumerate() {
        if repair & (1 << (number % 8)) != 0 {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    Some(tar)
}
