//! A cpio archive of a few files (the form `newc`), as the kernel unpacks it into its initial RAM file system.

use std::fmt::Write as _;

/// Kinds and modes of the entries.
const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_644;

/// The archive with one file; the folders of its path come before it. Padded with zeros, which the kernel skips, to a
/// multiple of `unit` (itself a multiple of 4): what follows an archive stays in place when the file changes a little.
pub fn archive(path: &str, content: &[u8], unit: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for (end, _) in path.match_indices('/') {
        entry(&mut out, &path[..end], FOLDER, &[]);
    }
    entry(&mut out, path, FILE, content);
    entry(&mut out, "TRAILER!!!", 0, &[]);
    out.resize(out.len().next_multiple_of(unit), 0);
    out
}

fn entry(out: &mut Vec<u8>, path: &str, mode: u32, content: &[u8]) {
    let size = u32::try_from(content.len()).expect("files of an initrd that we write are small");
    let name = u32::try_from(path.len() + 1).expect("paths that we write are short");
    let mut header = String::from("070701");
    // Inode, mode, owner, group, links, time, size, device (two numbers), special device (two), name's length, checksum.
    for field in [0, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name, 0] {
        let _ = write!(header, "{field:08x}");
    }
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_folders_file_and_end_and_is_padded() {
        let bytes = archive("etc/i2kit/x", b"hello", 1024);
        assert_eq!(bytes.len(), 1024);
        let text = String::from_utf8_lossy(&bytes);
        let names = ["\0etc\0", "etc/i2kit\0", "etc/i2kit/x\0", "hello\0\0\0", "TRAILER!!!\0"];
        let mut at = 0;
        for name in names.iter().map(|name| name.trim_start_matches('\0')) {
            at += text[at..].find(name).unwrap_or_else(|| panic!("{name:?} after {at}"));
        }
        assert_eq!(text.matches("070701").count(), 4);
    }
}
