//! The disk of an image as firmware boots it: an EFI system partition in front of the same parts, and a partition table
//! for both. What clouds take; qemu on this machine starts the kernel itself.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::disk_image::{self, DiskImage, Segment};
use super::error::ImageError;
use super::sign::Signer;
use super::verity;
use crate::disk::{self, esp, gpt};
use crate::oci::Digest;
use crate::registry::sum::{self, FileState};

/// The disk's first bytes, in the image's folder; behind it stands which EFI system partition it describes.
const HEAD: &str = "efi-head";

/// The disk's last bytes, likewise.
const TAIL: &str = "efi-tail";

/// What a signature may add to a program, so that a signed one gets a partition of the same length.
const SIGNATURE_ROOM: u64 = 64 << 10;

/// The bootable disk of `image` from its first byte to its last, whole GiB long. What is made for it is kept below
/// `cache`: each part's tree of hashes, and the EFI system partition.
pub fn bootable(image: &DiskImage, cache: &Path) -> Result<Vec<Segment>, ImageError> {
    bootable_signed(image, cache, None)
}

/// The same, signed for firmware with Secure Boot.
///
/// Every part is read and compared with its sum first: what is hashed here, signed and given away for good must be what
/// was written.
pub fn bootable_signed(
    image: &DiskImage,
    cache: &Path,
    signer: Option<&Signer>,
) -> Result<Vec<Segment>, ImageError> {
    let head_file = match image.segments.first() {
        Some(Segment { file: Some(file), length }) if *length == gpt::HEAD_SIZE => file,
        _ => return Err(disk::DiskError::Table("the image does not start with one".into()).into()),
    };
    for file in image.segments.iter().filter_map(|segment| segment.file.as_deref()) {
        disk_image::check(file)?;
    }
    let first = fs::read(head_file).map_err(|e| ImageError::io(head_file, e))?;
    let plain = gpt::parse(&first)?;
    let trees = verity::trees(&plain, &image.segments[1..image.segments.len() - 1], cache)?;
    let partition = system_partition(image, &verity::archive(&trees), cache, signer)?;
    let lengths: Vec<u64> = trees.iter().map(|tree| tree.tree.length).collect();
    let layout = plain.bootable(partition.content, partition.length, &lengths);
    let folder = head_file.parent().unwrap_or(cache);
    // By what they belong to: the same image may be built with and without a signature at once.
    let name = |part: &str| folder.join(format!("{part}-{}.gpt", &partition.content.hex()[..16]));
    let (head, tail) = (name(HEAD), name(TAIL));
    sum::write(&head, &gpt::head(&layout))?;
    sum::write(&tail, &gpt::tail(&layout))?;

    let mut segments = vec![
        Segment { file: Some(head), length: gpt::HEAD_SIZE },
        Segment { file: Some(partition.file), length: partition.stored },
    ];
    let mut end = gpt::HEAD_SIZE + partition.stored;
    for (place, tree) in layout.partitions[1..].iter().zip(trees) {
        segments.extend(zeroes(place.offset - end));
        segments.extend([tree.data, tree.tree]);
        end = place.offset + place.length;
    }
    segments.extend(zeroes(layout.size - gpt::TAIL_SIZE - end));
    segments.push(Segment { file: Some(tail), length: gpt::TAIL_SIZE });
    Ok(segments)
}

fn zeroes(length: u64) -> Option<Segment> {
    (length > 0).then_some(Segment { file: None, length })
}

/// The EFI system partition in the cache.
struct SystemPartition {
    file: PathBuf,
    /// What its bytes are a function of.
    content: Digest,
    /// Bytes of the file; zeroes follow.
    stored: u64,
    length: u64,
}

/// `roots` is unpacked before the initial RAM file system. It comes first because it alone differs between images with
/// the same guest: all else stays where it is.
fn system_partition(
    image: &DiskImage,
    roots: &[u8],
    cache: &Path,
    signer: Option<&Signer>,
) -> Result<SystemPartition, ImageError> {
    let stub = image.stub.as_ref().ok_or(ImageError::NoStub)?;
    let read = |path: &PathBuf| fs::read(path).map_err(|e| ImageError::io(path, e));
    let (stub, linux) = (read(stub)?, read(&image.kernel)?);
    let mut initrd = roots.to_vec();
    for part in std::iter::once(&image.initrd).chain(&image.cloud) {
        // The kernel takes an archive behind another one at a multiple of 4.
        initrd.resize(initrd.len().next_multiple_of(4), 0);
        initrd.extend(read(part)?);
    }
    let cmdline = format!("{} {}", image.cmdline, i2kit_spec::cmdline::DISK);
    let mut hash = Sha256::new().chain_update(format!("efi system partition 2 {cmdline}\n"));
    for content in [&stub, &linux, &initrd] {
        hash.update(Digest::of(content).as_bytes());
    }
    if let Some(signer) = signer {
        hash.update(signer.identity()?.as_bytes());
    }
    let content = Digest::of(&hash.finalize());
    let kernel = disk::Kernel { linux: &linux, initrd: &initrd, cmdline: &cmdline };
    let mut program = disk::uki(&stub, &kernel)?;
    let length = esp::size(program.len() as u64 + SIGNATURE_ROOM);
    let folder = cache.join("efi");
    let file = folder.join(format!("{}.img", content.hex()));
    fs::create_dir_all(&folder).map_err(|e| ImageError::io(&folder, e))?;
    // One build at a time makes it: a signature has a time in it, so that a file of one and the record of another differ.
    let lock = File::open(&folder).map_err(|e| ImageError::io(&folder, e))?;
    lock.lock().map_err(|e| ImageError::io(&folder, e))?;
    if matches!(sum::verify(&file)?, FileState::Good(_)) {
        sum::touch(&file);
    } else {
        if let Some(signer) = signer {
            program = signer.sign(&program, &folder)?;
        }
        let mut new = tempfile::NamedTempFile::new_in(&folder).map_err(|e| ImageError::io(&folder, e))?;
        esp::write(&program, image.architecture, new.as_file())?;
        pad_to_sector(new.as_file()).map_err(|e| ImageError::io(&file, e))?;
        sum::record(new.as_file_mut(), &file, &[])?;
        new.persist(&file).map_err(|e| ImageError::io(&file, e.error))?;
    }
    let stored = fs::metadata(&file).map_err(|e| ImageError::io(&file, e))?.len();
    Ok(SystemPartition { file, content, stored, length })
}

/// Parts of a disk are whole sectors.
fn pad_to_sector(file: &File) -> std::io::Result<()> {
    let length = file.metadata()?.len();
    file.set_len(length.next_multiple_of(disk::SECTOR))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::image::ImageId;
    use crate::plan::layout::{DiskLayout, Part};

    fn image(folder: &Path, stub: Option<PathBuf>) -> DiskImage {
        let part = Part { name: "pod".into(), content: Digest::of(b"pod"), size: 4096 };
        let layout = DiskLayout::new(Digest::of(b"plan"), [part]).unwrap();
        let file = |name: &str, bytes: &[u8]| {
            sum::write(&folder.join(name), bytes).unwrap();
            folder.join(name)
        };
        DiskImage {
            id: ImageId(Digest::of(b"plan")),
            architecture: i2kit_spec::Architecture::Amd64,
            kernel: file("kernel", &[1; 100]),
            initrd: file("initrd", &[2; 100]),
            cloud: None,
            stub,
            cmdline: "quiet".into(),
            segments: vec![
                Segment { file: Some(file("head", &gpt::head(&layout))), length: gpt::HEAD_SIZE },
                Segment { file: Some(file("pod", &[3; 4096])), length: 4096 },
                Segment { file: None, length: (1 << 20) - 4096 },
                Segment { file: Some(file("tail", &gpt::tail(&layout))), length: gpt::TAIL_SIZE },
            ],
        }
    }

    #[test]
    fn without_a_stub_nothing_boots() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(bootable(&image(folder.path(), None), folder.path()), Err(ImageError::NoStub)));
    }

    #[test]
    fn nothing_is_made_of_a_spoiled_part() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("stub"), crate::disk::example::stub()).unwrap();
        let image = image(folder.path(), Some(folder.path().join("stub")));
        let spoil = |path: &Path| {
            let mut bytes = fs::read(path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            let modified = fs::metadata(path).unwrap().modified().unwrap();
            fs::write(path, bytes).unwrap();
            let times = fs::FileTimes::new().set_modified(modified);
            File::options().write(true).open(path).unwrap().set_times(times).unwrap();
        };
        let good = bootable(&image, folder.path()).unwrap();
        let read = |segments: &[Segment]| -> Vec<Option<Vec<u8>>> {
            segments.iter().map(|segment| segment.file.as_ref().map(|file| fs::read(file).unwrap())).collect()
        };
        let bytes = read(&good);
        // What is made here is made again.
        for segment in &good {
            let Some(file) = segment
                .file
                .as_ref()
                .filter(|file| !image.segments.iter().any(|s| s.file.as_ref() == Some(file)))
            else {
                continue;
            };
            spoil(file);
            assert!(read(&bootable(&image, folder.path()).unwrap()) == bytes, "{}", file.display());
        }
        // What it is made of is refused.
        spoil(&folder.path().join("pod"));
        let refused = bootable(&image, folder.path()).unwrap_err();
        assert!(matches!(refused, ImageError::Spoiled { .. }), "{refused}");
        assert!(!folder.path().join("pod").exists());
    }

    #[test]
    fn the_parts_lie_where_the_table_says() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("stub"), crate::disk::example::stub()).unwrap();
        let image = image(folder.path(), Some(folder.path().join("stub")));
        let segments = bootable(&image, folder.path()).unwrap();
        assert_eq!(segments.iter().map(|segment| segment.length).sum::<u64>(), 1 << 30);
        assert!(segments.iter().all(|segment| segment.length % disk::SECTOR == 0));
        let head = fs::read(segments[0].file.as_ref().unwrap()).unwrap();
        let layout = gpt::parse(&head).unwrap();
        let names: Vec<&str> = layout.partitions.iter().map(|partition| &*partition.name).collect();
        assert_eq!(names, ["esp", "pod"]);
        let mut at = 0;
        for segment in &segments {
            if segment.file == image.segments[1].file {
                assert_eq!(at, layout.partitions[1].offset);
            }
            at += segment.length;
        }
        // One block of data: its tree is a block that describes it.
        assert_eq!(layout.partitions[1].length, 8192);
        assert_eq!(segments, bootable(&image, folder.path()).unwrap(), "a second time, the same files");
        let disk = folder.path().join("disk.raw");
        crate::image::raw::write(&DiskImage { segments, ..image }, &disk).unwrap();
        let mut raw = fs::read(&disk).unwrap();
        raw.truncate(usize::try_from(at).unwrap());
        let pod = usize::try_from(layout.partitions[1].offset).unwrap();
        assert_eq!(raw[pod..pod + 4096], [3; 4096]);
        assert_eq!(raw[pod + 4096..pod + 4102], *b"verity");
    }
}
