//! The disk that firmware boots, as `i2kit build --format raw-efi` makes it.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use i2kit::disk::gpt;
use i2kit::image::{DiskImage, FileFormat, Segment, Signer, formats, write_part};
use i2kit::oci::Digest;
use i2kit::plan::image::ImageId;
use i2kit::plan::layout::{DiskLayout, Partition};
use i2kit_spec::{GUEST_CLOUD, GUEST_INITRD, GUEST_KERNEL, GUEST_STUB, cmdline};

use crate::pod::Pod;
use crate::vm::bundle;

/// A bootable disk in a file.
#[derive(Debug)]
pub(crate) struct Disk {
    folder: tempfile::TempDir,
    format: FileFormat,
}

impl Disk {
    /// The disk of a pod.
    pub(crate) fn new(pod: &Pod) -> Self {
        Self::with(pod, FileFormat::Raw, None)
    }

    /// The disk of a pod in a format, signed.
    pub(crate) fn with(pod: &Pod, format: FileFormat, signer: Option<&Signer>) -> Self {
        let this = Self { folder: tempfile::tempdir().unwrap(), format };
        let image = this.image(pod);
        let segments = i2kit::image::bootable_signed(&image, this.folder.path(), signer).unwrap();
        let image = DiskImage { segments, ..image };
        formats::write(&image, format, &this.path()).unwrap();
        this
    }

    /// qemu's name of the format.
    pub(crate) fn driver(&self) -> &'static str {
        match self.format {
            FileFormat::Raw => "raw",
            FileFormat::Qcow2 => "qcow2",
            FileFormat::Vhd => "vpc",
            FileFormat::Vmdk => "vmdk",
        }
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("efi-disk")
    }

    /// The partition of this name.
    pub(crate) fn partition(&self, name: &str) -> Partition {
        let mut head = vec![0; 1 << 20];
        File::open(self.path()).unwrap().read_exact(&mut head).unwrap();
        let layout = gpt::parse(&head).unwrap();
        layout.partitions.into_iter().find(|partition| partition.name == name).expect("it is on the disk")
    }

    /// Flips a bit of the first place in a partition that has this text; returns its offset in the partition.
    pub(crate) fn flip(&self, name: &str, text: &[u8]) -> u64 {
        let partition = self.partition(name);
        let mut file = File::open(self.path()).unwrap();
        let mut bytes = vec![0; usize::try_from(partition.length).unwrap()];
        file.seek(SeekFrom::Start(partition.offset)).unwrap();
        file.read_exact(&mut bytes).unwrap();
        let at = bytes.windows(text.len()).position(|window| window == text).expect("the text is there");
        self.flip_at(name, at as u64);
        at as u64
    }

    /// Flips a bit at an offset in a partition.
    pub(crate) fn flip_at(&self, name: &str, at: u64) {
        let at = self.partition(name).offset + at;
        let file = File::options().read(true).write(true).open(self.path()).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    }

    /// The pod's disk as an image of the workshop's: its parts in files.
    fn image(&self, pod: &Pod) -> DiskImage {
        let folder = self.folder.path();
        let disk = folder.join("disk");
        pod.write_disk(&disk);
        let bytes = fs::read(&disk).unwrap();
        let layout: DiskLayout = gpt::parse(&bytes[..1 << 20]).unwrap();
        let mut segments = Vec::new();
        let mut end = 0;
        let tail = layout.size - gpt::TAIL_SIZE;
        let places = layout.partitions.iter().map(|part| (&*part.name, part.offset, part.length));
        let places = std::iter::once(("head", 0, gpt::HEAD_SIZE)).chain(places);
        for (name, offset, length) in places.chain([("tail", tail, gpt::TAIL_SIZE)]) {
            if offset > end {
                segments.push(Segment { file: None, length: offset - end });
            }
            end = offset + length;
            let range = usize::try_from(offset).unwrap()..usize::try_from(end).unwrap();
            write_part(&folder.join(name), &bytes[range]).unwrap();
            segments.push(Segment { file: Some(folder.join(name)), length });
        }
        let bundle = bundle();
        DiskImage {
            id: ImageId(Digest::of(&bytes[..1 << 20])),
            architecture: i2kit_spec::Architecture::Amd64,
            kernel: bundle.join(GUEST_KERNEL),
            initrd: bundle.join(GUEST_INITRD),
            cloud: Some(bundle.join(GUEST_CLOUD)),
            stub: Some(bundle.join(GUEST_STUB)),
            cmdline: cmdline::BASE.into(),
            segments,
        }
    }
}
