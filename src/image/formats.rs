//! The disk of an image in the formats of other programs.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::{DiskImage, ImageError};
use crate::disk::{qcow2, vhd, vmdk_sparse};

/// A disk in one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFormat {
    /// The bytes of the disk.
    Raw,
    /// qemu's.
    Qcow2,
    /// Hyper-V's and Azure's, with a fixed size.
    Vhd,
    /// `VMware`'s, sparse.
    Vmdk,
}

impl FileFormat {
    /// What its files are named by.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vhd => "vhd",
            Self::Vmdk => "vmdk",
        }
    }
}

/// Writes the disk of `image` to `path`, whole or not at all. The same image gives the same bytes.
pub fn write(image: &DiskImage, format: FileFormat, path: &Path) -> Result<(), ImageError> {
    let folder = path.parent().unwrap_or(path);
    let new = tempfile::NamedTempFile::new_in(folder).map_err(|e| ImageError::io(folder, e))?;
    let (size, out) = (image.size(), new.as_file());
    let disk = DiskReader::new(image);
    match format {
        FileFormat::Raw => super::raw::write(image, new.path()).map(drop)?,
        FileFormat::Qcow2 => qcow2::write(disk, size, out)?,
        FileFormat::Vhd => {
            let mut id = [0; 16];
            id.copy_from_slice(&image.id.0.as_bytes()[..16]);
            vhd::write(disk, size, id, out)?;
        }
        FileFormat::Vmdk => vmdk_sparse::write(disk, size, out)?,
    }
    new.persist(path).map(drop).map_err(|e| ImageError::io(path, e.error))
}

/// Reads a disk from its first byte to its last.
#[derive(Debug)]
pub struct DiskReader<'a> {
    image: &'a DiskImage,
    /// The segment that is read, and how much of it is left.
    segment: usize,
    left: u64,
    file: Option<File>,
}

impl<'a> DiskReader<'a> {
    /// Reads the disk of `image`.
    pub fn new(image: &'a DiskImage) -> Self {
        let left = image.segments.first().map_or(0, |segment| segment.length);
        Self { image, segment: 0, left, file: None }
    }
}

impl Read for DiskReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            self.segment += 1;
            self.file = None;
            let Some(next) = self.image.segments.get(self.segment) else { return Ok(0) };
            self.left = next.length;
        }
        let Some(segment) = self.image.segments.get(self.segment) else { return Ok(0) };
        let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let length = match (&segment.file, &mut self.file) {
            (None, _) => {
                buffer[..length].fill(0);
                length
            }
            (Some(_), Some(file)) => file.read(&mut buffer[..length])?,
            (Some(path), none) => none.insert(File::open(path)?).read(&mut buffer[..length])?,
        };
        if length == 0 && !buffer.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "a part of the disk is shorter than it was",
            ));
        }
        self.left -= length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::image::Segment;
    use crate::oci::Digest;
    use crate::plan::image::ImageId;

    fn image(folder: &Path) -> DiskImage {
        let file = |name: &str, bytes: Vec<u8>| {
            let segment = Segment { length: bytes.len() as u64, file: Some(folder.join(name)) };
            fs::write(folder.join(name), bytes).unwrap();
            segment
        };
        let zeros = |length| Segment { file: None, length };
        let counted: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).chain([0; 112]).collect();
        let segments = vec![
            file("a", vec![1; 512]),
            zeros((1 << 20) - 512),
            file("b", counted),
            zeros((70 << 20) - (1 << 20) - 400_112 - 4096),
            file("c", vec![9; 4096]),
        ];
        DiskImage {
            id: ImageId(Digest::of(b"x")),
            architecture: i2kit_spec::Architecture::Amd64,
            kernel: folder.into(),
            initrd: folder.into(),
            cloud: None,
            stub: None,
            cmdline: String::new(),
            segments,
        }
    }

    #[test]
    fn a_disk_reads_as_its_segments() {
        let folder = tempfile::tempdir().unwrap();
        let image = image(folder.path());
        let mut bytes = Vec::new();
        DiskReader::new(&image).read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, image.size());
        assert_eq!((bytes[511], bytes[512], bytes[1 << 20], bytes[(1 << 20) + 4]), (1, 0, 0, 1));
        fs::write(folder.path().join("b"), "short").unwrap();
        assert!(DiskReader::new(&image).read_to_end(&mut bytes).is_err());
    }

    #[test]
    fn zeros_take_no_room_and_equal_disks_have_equal_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let image = image(folder.path());
        let digests = [FileFormat::Qcow2, FileFormat::Vmdk, FileFormat::Vhd].map(|format| {
            let path = folder.path().join(format.extension());
            write(&image, format, &path).unwrap();
            let bytes = fs::read(&path).unwrap();
            // A disk of fixed size has holes instead.
            let limit = if format == FileFormat::Vhd { image.size() + 512 } else { 2 << 20 };
            assert!(bytes.len() as u64 <= limit, "{format:?} has {} bytes", bytes.len());
            Digest::of(&bytes).short()
        });
        assert_eq!(digests, ["940f10aac46e", "d08790ac0d21", "86182407280c"]);
    }
}
