//! Where the parts of a machine image lie on its disk.
//!
//! Positions are chosen so that a change moves as little as possible: a cloud sends only the 512 KiB blocks that
//! differ from the last image, and a disk file in place is only rewritten where it differs.
//! - Parts keep their order: the pod file system, then layers with the bases first.
//! - The pod file system has room to grow before it would push the layers along.
//! - A layer's slot is rounded up by its size, so that one that grows a little leaves what follows in place. Slots
//!   are mostly holes at their ends, which cost nothing.

use std::fmt;

use i2kit_spec::POD_PARTITION;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::erofs::FORMAT_VERSION;
use crate::oci::Digest;

/// Partitions start at multiples of this: two blocks of EBS, and what every partitioning tool uses.
pub const ALIGNMENT: u64 = 1 << 20;
/// Room kept for the pod file system, so that the first layer starts at 8 MiB. Its `ConfigMap`s have at most 1 MiB each.
const POD_SLOT: u64 = 7 << 20;
/// Slots are rounded up to this part of the next power of two, which costs at most an eighth.
const SLOT_PARTS: u64 = 16;
/// Linux numbers no more partitions of one disk.
const MAX_PARTITIONS: usize = 255;
/// Volumes of clouds are whole GiB.
const VOLUME_UNIT: u64 = 1 << 30;
/// Name of the EFI system partition.
pub const ESP_PARTITION: &str = "esp";
/// Longest name of a partition.
const MAX_NAME: usize = 36;

/// A part of the disk to be laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Name of its partition, by which the guest finds it.
    pub name: String,
    /// What its bytes are a function of: a layer's diff id, an image's plan.
    pub content: Digest,
    /// Number of bytes.
    pub size: u64,
}

/// A disk's partitions and its size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskLayout {
    /// The disk's own identity.
    pub guid: Guid,
    /// Partitions in the order of their offsets.
    pub partitions: Vec<Partition>,
    /// Size of the disk in bytes, a multiple of [`ALIGNMENT`].
    pub size: u64,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its name.
    pub name: String,
    /// Its identity: equal ones have equal bytes.
    pub guid: Guid,
    /// Where it starts, in bytes.
    pub offset: u64,
    /// How long it is, a multiple of 512.
    pub length: u64,
}

/// Why parts cannot be laid out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PartitionError {
    /// More parts than a disk can have.
    #[error(
        "{0} partitions, but Linux finds at most {MAX_PARTITIONS}; squash the images of the pod to have fewer layers"
    )]
    TooMany(usize),
    /// A name that a partition cannot have.
    #[error("partition name `{0}` is not 1 to {MAX_NAME} printable ASCII characters")]
    Name(String),
    /// Two parts of one name.
    #[error("two partitions are named `{0}`")]
    Twice(String),
    /// A part that does not end at a sector.
    #[error("partition `{name}` has {size} bytes, which are not whole sectors of 512")]
    Size {
        /// Name of the part.
        name: String,
        /// Its size.
        size: u64,
    },
}

impl DiskLayout {
    /// Lays parts out in their order. `content` is what the whole disk is a function of.
    pub fn new(content: Digest, parts: impl IntoIterator<Item = Part>) -> Result<Self, PartitionError> {
        let mut layout =
            Self { guid: Guid::derive("disk", content), partitions: Vec::new(), size: ALIGNMENT };
        for part in parts {
            let Part { name, content, size } = part;
            if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(PartitionError::Name(name));
            }
            if layout.partitions.iter().any(|partition| partition.name == name) {
                return Err(PartitionError::Twice(name));
            }
            if size == 0 || size % 512 != 0 {
                return Err(PartitionError::Size { name, size });
            }
            let offset = layout.size;
            layout.size += slot(&name, size);
            layout.partitions.push(Partition {
                guid: Guid::derive(&name, content),
                name,
                offset,
                length: size,
            });
        }
        if layout.partitions.len() > MAX_PARTITIONS {
            return Err(PartitionError::TooMany(layout.partitions.len()));
        }
        // The last one is not kept from growing; behind it is the backup of the partition table.
        layout.size = match layout.partitions.last() {
            Some(last) => (last.offset + last.length).next_multiple_of(ALIGNMENT),
            None => layout.size,
        } + ALIGNMENT;
        Ok(layout)
    }
}

impl DiskLayout {
    /// The layout of the same disk as firmware boots it: an EFI system partition of `length` bytes (a multiple of
    /// [`ALIGNMENT`]) with that content in front, everything else behind it in its order with `trees` bytes of hashes at
    /// its end, and the size of a volume.
    ///
    /// The backup of the partition table must lie at the end of the volume: firmware that misses it there "repairs"
    /// the disk before it boots.
    #[must_use]
    pub fn bootable(mut self, content: Digest, length: u64, trees: &[u64]) -> Self {
        let mut offset = ALIGNMENT + length;
        let mut end = offset;
        for (partition, tree) in self.partitions.iter_mut().zip(trees) {
            partition.length += tree;
            partition.guid = Guid::derive("verity", Digest::of(partition.guid.as_bytes()));
            partition.offset = offset;
            offset += slot(&partition.name, partition.length);
            end = partition.offset + partition.length;
        }
        let esp = Partition {
            name: ESP_PARTITION.to_owned(),
            guid: Guid::derive(ESP_PARTITION, content),
            offset: ALIGNMENT,
            length,
        };
        self.partitions.insert(0, esp);
        self.size = (end.next_multiple_of(ALIGNMENT) + ALIGNMENT).next_multiple_of(VOLUME_UNIT);
        self
    }
}

/// How much room a part has.
fn slot(name: &str, size: u64) -> u64 {
    let granule = (size.next_power_of_two() / SLOT_PARTS).max(ALIGNMENT);
    let least = if name == POD_PARTITION { POD_SLOT } else { 0 };
    size.next_multiple_of(granule).max(least)
}

/// A globally unique identifier.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Guid([u8; 16]);

impl Guid {
    /// A GUID of version 8 that is a function of its arguments and of the version of the bytes that the erofs writer
    /// makes: partitions of equal GUID have equal bytes.
    fn derive(kind: &str, content: Digest) -> Self {
        let hash = Sha256::new()
            .chain_update(format!("i2kit {FORMAT_VERSION} {kind} "))
            .chain_update(content.as_bytes())
            .finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash[..16]);
        bytes[6] = bytes[6] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }

    /// The GUID with these bytes, in the order in which it is written.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes, in the order in which it is written.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = hex::encode_upper(self.0);
        let fields = [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]];
        f.write_str(&fields.join("-"))
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, content: &str, mib: u64) -> Part {
        Part { name: name.to_owned(), content: Digest::of(content.as_bytes()), size: mib << 20 }
    }

    fn offsets(parts: &[Part]) -> Vec<u64> {
        let layout = DiskLayout::new(Digest::of(b"plan"), parts.iter().cloned()).expect("good parts");
        layout.partitions.iter().map(|partition| partition.offset >> 20).collect()
    }

    #[test]
    fn identities_are_functions_of_content_and_never_change() {
        let layout = DiskLayout::new(Digest::of(b"plan"), [part("pod", "pod", 1)]).expect("good parts");
        assert_eq!(layout.guid.to_string(), "5D9AC80A-34BC-8480-9766-5DBDFD1C7EE5");
        assert_eq!(layout.partitions[0].guid.to_string(), "4A3948FD-D870-880C-82A0-BA9FD74C1A34");
    }

    #[test]
    fn a_larger_pod_file_system_moves_no_layer() {
        let layers = |pod| [part("pod", "pod", pod), part("base", "base", 40), part("top", "top", 3)];
        assert_eq!(offsets(&layers(1)), [1, 8, 48]);
        assert_eq!(offsets(&layers(7)), [1, 8, 48]);
    }

    #[test]
    fn a_layer_that_grows_a_little_moves_nothing() {
        let layers =
            |middle| [part("pod", "pod", 1), part("middle", "middle", middle), part("top", "top", 3)];
        assert_eq!(offsets(&layers(97)), offsets(&layers(103)));
    }

    #[test]
    fn slots_waste_at_most_an_eighth() {
        for mib in 1..2000 {
            let size = mib << 20;
            assert!(slot("layer", size) >= size && slot("layer", size) - size <= size / 8, "{mib} MiB");
        }
    }

    #[test]
    fn a_bootable_disk_has_the_same_parts_behind_the_esp() {
        let plain = DiskLayout::new(Digest::of(b"plan"), [part("pod", "pod", 1), part("base", "base", 40)]);
        let plain = plain.expect("good parts");
        let bootable = plain.clone().bootable(Digest::of(b"uki"), 64 << 20, &[8192, 4096]);
        assert_eq!(bootable.size, 1 << 30);
        assert_eq!((bootable.partitions[0].offset, bootable.partitions[0].length), (ALIGNMENT, 64 << 20));
        for (before, after) in plain.partitions.iter().zip(&bootable.partitions[1..]) {
            assert_eq!((&after.name, after.offset), (&before.name, before.offset + (64 << 20)));
            assert_ne!(after.guid, before.guid, "the bytes differ by the tree of hashes");
        }
        assert_eq!(bootable.partitions[2].length, plain.partitions[1].length + 4096);
    }

    #[test]
    fn impossible_parts_are_refused() {
        let layout =
            |parts: Vec<Part>| DiskLayout::new(Digest::of(b"plan"), parts).expect_err("impossible parts");
        assert_eq!(layout(vec![part("", "x", 1)]), PartitionError::Name(String::new()));
        assert_eq!(layout(vec![part("a", "x", 1), part("a", "y", 1)]), PartitionError::Twice("a".to_owned()));
        assert_eq!(layout(vec![part("a", "x", 0)]), PartitionError::Size { name: "a".to_owned(), size: 0 });
        let many: Vec<Part> = (0..256).map(|i| part(&format!("{i:032x}"), "x", 1)).collect();
        assert_eq!(layout(many), PartitionError::TooMany(256));
    }
}
