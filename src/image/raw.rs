//! The raw disk of an image as one file, for clouds and tools that want no parts.
//!
//! A disk file from an earlier build is brought up to date in place: a partition of the same GUID at the same place
//! already has the right bytes, so only the others are copied. The partition table is removed first and written last;
//! a run that was killed in between leaves a file that the next run trusts in nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

use super::disk_image::{self, DiskImage};
use super::error::ImageError;
use crate::disk::{DiskError, gpt};
use crate::plan::layout::{DiskLayout, Partition};

/// What writing a disk took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawDisk {
    /// Size of the disk in bytes.
    pub size: u64,
    /// Bytes of partitions that had to be copied; 0 when nothing changed.
    pub copied: u64,
}

/// Makes `path` the raw disk of `image`. The same image gives the same bytes, whatever the file held before.
pub fn write(image: &DiskImage, path: &Path) -> Result<RawDisk, ImageError> {
    let mut at = 0;
    let mut files = image.segments.iter().filter_map(|segment| {
        at += segment.length;
        Some(StoredPart { file: segment.file.as_deref()?, at: at - segment.length, length: segment.length })
    });
    let head = files.next().map_or(Path::new(""), |head| head.file);
    disk_image::check(head)?;
    let layout = gpt::parse(&fs::read(head).map_err(|e| ImageError::io(head, e))?)?;
    let parts: Vec<StoredPart> = files.collect();
    write_parts(path, &layout, &parts)
}

/// Bytes of a partition that are stored; between them and behind them it has zeros.
#[derive(Debug, Clone, Copy)]
struct StoredPart<'a> {
    file: &'a Path,
    /// Where they lie on the disk.
    at: u64,
    length: u64,
}

/// Makes `path` the raw disk of a layout, from the files of its partitions.
fn write_parts(path: &Path, layout: &DiskLayout, parts: &[StoredPart<'_>]) -> Result<RawDisk, ImageError> {
    let at_disk = |e| ImageError::io(path, e);
    let disk =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(at_disk)?;
    // Two builds into one file would each undo the other's work.
    disk.lock().map_err(at_disk)?;
    let old = read_layout(&disk).map_err(at_disk)?;
    if old.as_ref() == Some(layout) {
        return Ok(RawDisk { size: layout.size, copied: 0 });
    }
    let old = old.map(|old| old.partitions).unwrap_or_default();
    let kept: Vec<&Partition> = layout.partitions.iter().filter(|new| old.contains(new)).collect();
    clear(&disk, &kept).map_err(at_disk)?;
    disk.set_len(layout.size).map_err(at_disk)?;
    let mut copied = 0;
    for partition in layout.partitions.iter().filter(|partition| !kept.contains(partition)) {
        let place = partition.offset..partition.offset + partition.length;
        let stored: Vec<&StoredPart> = parts.iter().filter(|part| place.contains(&part.at)).collect();
        if stored.is_empty() {
            let (partitions, parts) = (layout.partitions.len(), parts.len());
            return Err(DiskError::Parts { partitions, parts }.into());
        }
        for part in stored {
            copy(&disk, partition, *part, path)?;
        }
        copied += partition.length;
    }
    let tail = gpt::tail(layout);
    disk.write_all_at(&tail, layout.size - tail.len() as u64).map_err(at_disk)?;
    disk.write_all_at(&gpt::head(layout), 0).map_err(at_disk)?;
    Ok(RawDisk { size: layout.size, copied })
}

/// The layout of a disk that was written to its end; `None` for anything else.
fn read_layout(disk: &File) -> io::Result<Option<DiskLayout>> {
    let length = disk.metadata()?.len();
    let layout = gpt::parse(&read_range(disk, 0, gpt::HEAD_SIZE)?).ok();
    let Some(layout) = layout.filter(|layout| layout.size == length) else { return Ok(None) };
    let tail = read_range(disk, length - gpt::TAIL_SIZE, gpt::TAIL_SIZE)?;
    Ok((tail == gpt::tail(&layout)).then_some(layout))
}

/// Bytes of the disk, as far as it has them.
fn read_range(mut disk: &File, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    disk.seek(SeekFrom::Start(offset))?;
    disk.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Makes everything but the kept partitions a hole, the partition table before all else.
fn clear(disk: &File, kept: &[&Partition]) -> io::Result<()> {
    let length = disk.metadata()?.len();
    let mut start = 0;
    let gaps = kept.iter().map(|partition| (partition.offset, partition.offset + partition.length));
    for (end, next) in gaps.chain([(length, length)]) {
        if end > start {
            punch(disk, start, end - start)?;
        }
        start = next;
    }
    Ok(())
}

/// Makes a range read as zeros; by writing them where the file system has no holes.
fn punch(disk: &File, start: u64, length: u64) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match fallocate(disk, flags, start, length) {
        Err(rustix::io::Errno::OPNOTSUPP) => {
            let mut disk = disk;
            disk.seek(SeekFrom::Start(start))?;
            io::copy(&mut io::repeat(0).take(length), &mut disk).map(drop)
        }
        done => Ok(done?),
    }
}

/// Copies a part to its partition, inside of the kernel where it can, sharing blocks where the file system can.
fn copy(mut disk: &File, partition: &Partition, part: StoredPart<'_>, path: &Path) -> Result<(), ImageError> {
    disk_image::check(part.file)?;
    let mut input = File::open(part.file).map_err(|e| ImageError::io(part.file, e))?;
    let found = input.metadata().map_err(|e| ImageError::io(part.file, e))?.len();
    if found == part.length && part.at + found <= partition.offset + partition.length {
        disk.seek(SeekFrom::Start(part.at)).map_err(|e| ImageError::io(path, e))?;
        let copied = io::copy(&mut input, &mut disk).map_err(|e| ImageError::io(path, e))?;
        disk.flush().map_err(|e| ImageError::io(path, e))?;
        if copied == found {
            return Ok(());
        }
    }
    Err(DiskError::Length { name: partition.name.clone(), expected: part.length, found }.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Segment;
    use crate::oci::Digest;
    use crate::plan::image::ImageId;
    use crate::plan::layout::Part;
    use crate::registry::sum;

    /// Writes the parts that belong to contents, each a few blocks of one byte, and returns their image.
    fn image(folder: &Path, contents: &[(&str, u8, usize)]) -> DiskImage {
        let id = Digest::of(format!("{contents:?}").as_bytes());
        let parts = contents.iter().map(|(name, fill, blocks)| Part {
            name: (*name).to_owned(),
            content: Digest::of(&[*fill]),
            size: *blocks as u64 * 4096,
        });
        let layout = DiskLayout::new(id, parts).expect("good parts");
        let mut segments = Vec::new();
        let mut end = 0;
        let mut add = |name: String, offset: u64, bytes: Vec<u8>| {
            let file = folder.join(name);
            segments.push(Segment { file: None, length: offset - end });
            segments.push(Segment { length: bytes.len() as u64, file: Some(file.clone()) });
            end = offset + bytes.len() as u64;
            sum::write(&file, &bytes).expect("a file in the test's folder");
        };
        add("head".to_owned(), 0, gpt::head(&layout));
        for (partition, (name, fill, blocks)) in layout.partitions.iter().zip(contents) {
            add(format!("{name}-{fill}"), partition.offset, vec![*fill; *blocks * 4096]);
        }
        add("tail".to_owned(), layout.size - gpt::TAIL_SIZE, gpt::tail(&layout));
        let none = folder.join("none");
        DiskImage {
            id: ImageId(id),
            architecture: i2kit_spec::Architecture::Amd64,
            kernel: none.clone(),
            initrd: none,
            cloud: None,
            stub: None,
            cmdline: String::new(),
            segments,
        }
    }

    /// Writes an image over whatever `path` holds and checks that a fresh file gets the same bytes.
    fn check(folder: &Path, path: &Path, contents: &[(&str, u8, usize)], copied_blocks: u64) {
        let image = image(folder, contents);
        let written = write(&image, path).expect("a good image");
        assert_eq!(written.copied, copied_blocks * 4096, "{contents:?}");
        let fresh = folder.join("fresh");
        write(&image, &fresh).expect("a good image");
        assert!(fs::read(path).expect("it exists") == fs::read(&fresh).expect("it exists"), "{contents:?}");
        fs::remove_file(fresh).expect("it exists");
    }

    #[test]
    fn only_what_changed_is_copied() {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = folder.path().join("disk");
        let check = |contents: &[_], copied| check(folder.path(), &disk, contents, copied);
        check(&[("pod", 1, 2), ("base", 2, 600), ("top", 3, 300)], 902);
        check(&[("pod", 1, 2), ("base", 2, 600), ("top", 3, 300)], 0);
        check(&[("pod", 4, 9), ("base", 2, 600), ("top", 3, 300)], 9);
        check(&[("pod", 4, 9), ("base", 2, 600), ("top", 5, 700)], 700);
        check(&[("pod", 4, 9), ("base", 2, 600)], 0);
        check(&[("pod", 4, 9), ("base", 2, 600), ("other", 6, 1), ("top", 5, 700)], 701);
        check(&[("pod", 4, 9)], 0);
    }

    #[test]
    fn a_file_without_a_whole_table_is_trusted_in_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = folder.path().join("disk");
        let contents = [("pod", 1, 2), ("base", 2, 600)];
        fs::write(&disk, vec![0xff; 30 << 20]).expect("a file in the test's folder");
        check(folder.path(), &disk, &contents, 602);
        let file = OpenOptions::new().write(true).open(&disk).expect("it exists");
        file.write_all_at(&[0; 512], 512).expect("it is writable");
        check(folder.path(), &disk, &contents, 602);
        let length = file.metadata().expect("it exists").len();
        file.write_all_at(&[0; 512], length - 512).expect("it is writable");
        check(folder.path(), &disk, &contents, 602);
    }

    #[test]
    fn a_part_of_another_length_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let image = image(folder.path(), &[("pod", 1, 2)]);
        sum::write(&folder.path().join("pod-1"), b"short").expect("a file in the test's folder");
        let refused = write(&image, &folder.path().join("disk")).expect_err("the part is too short");
        assert!(matches!(refused, ImageError::Disk(DiskError::Length { found: 5, .. })), "{refused}");
    }

    #[test]
    fn a_part_that_is_not_what_was_written_is_refused_and_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let image = image(folder.path(), &[("pod", 1, 2)]);
        let part = folder.path().join("pod-1");
        let file = OpenOptions::new().write(true).open(&part).expect("it exists");
        let modified = file.metadata().and_then(|data| data.modified()).expect("it exists");
        file.write_all_at(&[0], 5000).expect("it is writable");
        // As a block that rots: nobody has written.
        file.set_times(fs::FileTimes::new().set_modified(modified)).expect("it is ours");
        let refused = write(&image, &folder.path().join("disk")).expect_err("one byte is another");
        assert!(matches!(refused, ImageError::Spoiled { .. }), "{refused}");
        assert!(refused.to_string().contains("cache verify") && !part.exists(), "{refused}");
    }
}
