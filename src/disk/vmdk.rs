//! A disk descriptor (VMDK, flat extents) that shows qemu files one after the other as one disk, without a copy.

use std::fmt::Write as _;

use super::error::DiskError;
use super::sector::SECTOR;

/// A run of bytes of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent<'a> {
    /// The file whose first bytes they are, relative to the descriptor's folder or absolute; `None` for zeros.
    pub file: Option<&'a str>,
    /// Number of bytes, a multiple of 512.
    pub length: u64,
}

/// The descriptor's text. qemu's driver knows no extents of zeros (it skips their lines, which would move everything
/// behind them), so zeros come from `zeros`, a file of at least [`zeros_length`] zero bytes, best a hole.
pub fn descriptor(extents: &[Extent<'_>], zeros: &str) -> Result<String, DiskError> {
    // The content id only matters to a disk with a parent, and this one has none and is never written. No empty line
    // may precede an extent: qemu's parser skips it as white space and then takes that extent twice.
    let mut text = String::from(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"twoGbMaxExtentFlat\"\n# Extents\n",
    );
    for extent in extents.iter().filter(|extent| extent.length > 0) {
        let file = extent.file.unwrap_or(zeros);
        if file.contains(['"', '\n', '\r']) {
            return Err(DiskError::FileName(file.to_owned()));
        }
        let _ = writeln!(text, "RW {} FLAT \"{file}\" 0", extent.length / SECTOR);
    }
    Ok(text)
}

/// How long the file of zeros must be for some extents.
pub fn zeros_length(extents: &[Extent<'_>]) -> u64 {
    extents.iter().filter(|extent| extent.file.is_none()).map(|extent| extent.length).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_lists_its_extents() {
        let extents = [
            Extent { file: Some("head"), length: 1 << 20 },
            Extent { file: Some("/cache/pod layer.erofs"), length: 4096 },
            Extent { file: None, length: (1 << 20) - 4096 },
            Extent { file: Some("tail"), length: 1 << 20 },
        ];
        insta::assert_snapshot!(descriptor(&extents, "zeros").expect("plain names"), @r#"
        # Disk DescriptorFile
        version=1
        CID=fffffffe
        parentCID=ffffffff
        createType="twoGbMaxExtentFlat"
        # Extents
        RW 2048 FLAT "head" 0
        RW 8 FLAT "/cache/pod layer.erofs" 0
        RW 2040 FLAT "zeros" 0
        RW 2048 FLAT "tail" 0
        "#);
        assert_eq!(zeros_length(&extents), (1 << 20) - 4096);
    }

    #[test]
    fn names_that_would_end_the_line_are_refused() {
        let extents = [Extent { file: Some("a\" 0\nRW 1 FLAT \"/etc/shadow"), length: 512 }];
        assert!(matches!(descriptor(&extents, "zeros"), Err(DiskError::FileName(_))));
    }
}
