//! Snapshots: a disk's blocks sent to EBS, only those that differ from a snapshot that is there.
//!
//! Each step can be repeated: a snapshot is found by its tags, the client token gives the same one for the same request,
//! a block sent twice is the same block, and a journal beside the cache lists those that need not be sent again.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_sdk_ebs::primitives::ByteStream;
use aws_sdk_ebs::types::{ChecksumAggregationMethod, ChecksumAlgorithm, Tag};
use aws_sdk_ec2::types::{Snapshot, SnapshotState, StorageTier};
use aws_smithy_types::error::metadata::ProvideErrorMetadata as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::future;
use futures::stream::{self, StreamExt as _};
use sha2::{Digest as _, Sha256};

use super::block_maps::AT_ONCE;
use super::blocks::{BlockMap, Disk, delta, digest};
use super::environment::Aws;
use super::error::{failed, is_denied, no_id};
use super::tags::{self, ENVIRONMENT, IMAGE, NO_PARENT, PARENT};
use super::wait::eventually;
use crate::cloud::CloudError;
use crate::plan::image::ImageId;
use crate::report::Event;

/// Parents that are compared with the new disk, newest first; older ones differ more. For each whose block map is not kept
/// here that takes two calls, of which one reads a block.
const PARENTS: usize = 16;

/// How long EBS may take to complete a snapshot after its last block; it takes seconds.
const COMPLETION: Duration = Duration::from_mins(10);

/// How long EBS keeps a snapshot that nothing is sent to: a day, after which `gc` would delete it.
const KEPT_MINUTES: i32 = 1440;

/// How long a snapshot may count as its image's after that one was deregistered; it is seconds.
const RELEASED: Duration = Duration::from_mins(1);

impl Aws {
    /// The completed snapshot of the disk, made unless it exists.
    pub(super) async fn put_snapshot(&self, image: ImageId, disk: Disk) -> Result<String, CloudError> {
        let known = self.snapshots().await?;
        let mut ours =
            known.iter().filter(|snapshot| tags::value(snapshot.tags(), IMAGE) == Some(&*image.to_string()));
        let found = ours.clone().find(|snapshot| snapshot.state() == Some(&SnapshotState::Completed));
        if let Some(id) = found.and_then(|snapshot| snapshot.snapshot_id()) {
            return Ok(id.to_owned());
        }
        let reading = tokio::task::spawn_blocking(move || disk.with_table());
        let (disk, map) = reading.await.map_err(panicked)??;
        let disk = Arc::new(disk);
        let pending = ours.find(|snapshot| snapshot.state() == Some(&SnapshotState::Pending));
        let begun = match pending {
            Some(snapshot) => self.resumed(snapshot, &known).await?,
            None => None,
        };
        let (id, parent) = match begun {
            Some(begun) => begun,
            None => self.start(image, &disk, &map, &known).await?,
        };
        let parent = match &parent {
            Some(parent) => self.block_map(parent).await?,
            None => BlockMap::new(),
        };
        let blocks = delta(&parent, &map);
        self.send(&id, (&disk, &map), &blocks).await?;
        self.complete(&id, &blocks, &map).await?;
        self.keep_map(&id, i64::from(disk.gib()), &map);
        // The journal has done its work.
        let _ = fs::remove_file(self.journal(&id));
        Ok(id)
    }

    /// Every snapshot of the environment, newest first.
    pub(super) async fn snapshots(&self) -> Result<Vec<Snapshot>, CloudError> {
        let mut found: Vec<Snapshot> = self
            .clients
            .ec2
            .describe_snapshots()
            .owner_ids("self")
            .set_filters(Some(tags::of_image(&self.settings.environment, None)))
            .into_paginator()
            .items()
            .send()
            .try_collect()
            .await
            .map_err(failed("DescribeSnapshots"))?;
        found.sort_by_key(|snapshot| {
            std::cmp::Reverse(snapshot.start_time().map(aws_sdk_ec2::primitives::DateTime::secs))
        });
        Ok(found)
    }

    /// The images of snapshots whose deletion was begun.
    pub(super) async fn deleted_snapshots(&self) -> Result<Vec<ImageId>, CloudError> {
        let found: Vec<Snapshot> = self
            .clients
            .ec2
            .describe_snapshots()
            .owner_ids("self")
            .filters(tags::tagged(ENVIRONMENT, &self.settings.environment))
            .filters(tags::tagged(tags::DELETED, "true"))
            .into_paginator()
            .items()
            .send()
            .try_collect()
            .await
            .map_err(failed("DescribeSnapshots"))?;
        let ids = found
            .iter()
            .filter_map(|snapshot| tags::value(snapshot.tags(), IMAGE)?.parse().ok().map(ImageId));
        Ok(ids.collect())
    }

    /// A snapshot that an earlier run began, and its parent. One whose parent is gone cannot be gone on with: nobody
    /// knows any more which blocks it has. It is deleted.
    async fn resumed(
        &self,
        pending: &Snapshot,
        known: &[Snapshot],
    ) -> Result<Option<(String, Option<String>)>, CloudError> {
        let Some(id) = pending.snapshot_id() else { return Ok(None) };
        match tags::value(pending.tags(), PARENT) {
            Some(NO_PARENT) => Ok(Some((id.to_owned(), None))),
            Some(parent)
                if known
                    .iter()
                    .any(|snapshot| is_usable(snapshot) && snapshot.snapshot_id() == Some(parent)) =>
            {
                Ok(Some((id.to_owned(), Some(parent.to_owned()))))
            }
            _ => {
                self.delete_snapshot(id).await?;
                Ok(None)
            }
        }
    }

    /// Starts a snapshot over the parent that leaves the least to send.
    async fn start(
        &self,
        image: ImageId,
        disk: &Disk,
        map: &BlockMap,
        known: &[Snapshot],
    ) -> Result<(String, Option<String>), CloudError> {
        let parent = self.nearest(disk, map, known).await?;
        let environment = &self.settings.environment;
        let parent_tag = parent.clone().unwrap_or_else(|| NO_PARENT.to_owned());
        let tag = |key: &str, value: &str| Tag::builder().key(key).value(value).build();
        let token = self.token(&format!("{environment} {image} {parent_tag} {}", disk.gib()));
        let started = self
            .clients
            .ebs
            .start_snapshot()
            .volume_size(i64::from(disk.gib()))
            .set_parent_snapshot_id(parent.clone())
            .client_token(token)
            .timeout(KEPT_MINUTES)
            .description(format!("i2kit {environment} {image}"))
            .tags(tag(ENVIRONMENT, environment))
            .tags(tag(IMAGE, &image.to_string()))
            .tags(tag(PARENT, &parent_tag))
            .tags(tag("Name", &format!("i2kit-{environment}-{}", image.0.short())))
            .send()
            .await
            .map_err(failed("StartSnapshot"))?;
        let id = started.snapshot_id().ok_or_else(|| no_id("StartSnapshot"))?;
        Ok((id.to_owned(), parent))
    }

    /// The completed snapshot from which the fewest blocks differ. One that cannot be read is passed over. Where none
    /// of them has its block map here or in itself, that of the newest is read from EBS block by block.
    async fn nearest(
        &self,
        disk: &Disk,
        map: &BlockMap,
        known: &[Snapshot],
    ) -> Result<Option<String>, CloudError> {
        if known.is_empty() {
            return Ok(None);
        }
        let encryption = self.encryption().await?;
        let fits = |snapshot: &&Snapshot| {
            is_usable(snapshot)
                && snapshot.volume_size().unwrap_or(i32::MAX) <= disk.gib()
                && encryption.is_of(snapshot)
        };
        let candidates: Vec<String> = known
            .iter()
            .filter(fits)
            .filter_map(Snapshot::snapshot_id)
            .take(PARENTS)
            .map(str::to_owned)
            .collect();
        let newest = candidates.first().cloned();
        let maps: Vec<(String, Option<BlockMap>)> =
            stream::iter(candidates).map(|id| self.with_known_map(id)).buffered(AT_ONCE).collect().await;
        let known_maps = maps.into_iter().filter_map(|(id, parent)| Some((id, parent?)));
        let best = known_maps.min_by_key(|(_, parent)| delta(parent, map).len());
        let best = match (best, newest) {
            (None, Some(newest)) => {
                let parent = self.read_map(&newest).await?;
                Some((newest, parent))
            }
            (best, _) => best,
        };
        // Over a parent that has nothing in common more blocks would be zeroed than are saved.
        Ok(best.filter(|(_, parent)| delta(parent, map).len() < map.len()).map(|(id, _)| id))
    }

    /// How the account encrypts new snapshots by default.
    async fn encryption(&self) -> Result<Encryption, CloudError> {
        let asked = self.clients.ec2.get_ebs_encryption_by_default().send().await;
        let asked = asked.map_err(failed("GetEbsEncryptionByDefault"))?;
        if !asked.ebs_encryption_by_default().unwrap_or(false) {
            return Ok(Encryption::None);
        }
        let key = self.clients.ec2.get_ebs_default_kms_key_id().send().await;
        let key = key.map_err(failed("GetEbsDefaultKmsKeyId"))?.kms_key_id.unwrap_or_default();
        Ok(Encryption::By(key))
    }

    /// Sends blocks, except those that the journal knows.
    async fn send(
        &self,
        snapshot: &str,
        (disk, map): (&Arc<Disk>, &BlockMap),
        blocks: &[u32],
    ) -> Result<(), CloudError> {
        let path = self.journal(snapshot);
        let (mut journal, done) = open_journal(&path, map).map_err(CloudError::file("write", &path))?;
        let left: Vec<u32> = blocks.iter().copied().filter(|index| !done.contains(index)).collect();
        let task = format!("upload {snapshot}");
        let total = left.len() as u64 * super::blocks::BLOCK;
        let title = format!("upload {} of {} blocks to {snapshot}", left.len(), blocks.len());
        self.events.emit(Event::TaskStarted { id: task.clone(), title, total: Some(total) });
        // After the first failure none is begun any more; those under way are waited for, so that the journal has them.
        let failed = AtomicBool::new(false);
        let mut sent = stream::iter(left.iter().copied())
            .take_while(|_| future::ready(!failed.load(Ordering::Relaxed)))
            .map(|index| self.send_block(snapshot, disk, index))
            .buffer_unordered(AT_ONCE);
        let (mut count, mut failure) = (0, None);
        while let Some(outcome) = sent.next().await {
            match outcome {
                Ok(index) => {
                    writeln!(journal, "{index}").map_err(CloudError::file("write", &path))?;
                    count += 1;
                    let done = count * super::blocks::BLOCK;
                    self.events.emit(Event::TaskProgress { id: task.clone(), done });
                }
                Err(error) => {
                    failed.store(true, Ordering::Relaxed);
                    failure.get_or_insert(error);
                }
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        self.events.emit(Event::TaskFinished { id: task, outcome: format!("{count} blocks") });
        Ok(())
    }

    async fn send_block(&self, snapshot: &str, disk: &Arc<Disk>, index: u32) -> Result<u32, CloudError> {
        let reader = Arc::clone(disk);
        let bytes = tokio::task::spawn_blocking(move || reader.read(index)).await.map_err(panicked)??;
        self.clients
            .ebs
            .put_snapshot_block()
            .snapshot_id(snapshot)
            .block_index(i32::try_from(index).unwrap_or(i32::MAX))
            .data_length(i32::try_from(bytes.len()).unwrap_or(i32::MAX))
            .checksum_algorithm(ChecksumAlgorithm::ChecksumAlgorithmSha256)
            .checksum(STANDARD.encode(digest(&bytes)))
            .block_data(ByteStream::from(bytes))
            .send()
            .await
            .map_err(failed("PutSnapshotBlock"))?;
        Ok(index)
    }

    /// Completes the snapshot and waits until it can be used.
    async fn complete(&self, id: &str, blocks: &[u32], map: &BlockMap) -> Result<(), CloudError> {
        let zero = digest(&vec![0; usize::try_from(super::blocks::BLOCK).expect("a block fits into memory")]);
        let mut sums = Sha256::new();
        for index in blocks {
            sums.update(map.get(index).unwrap_or(&zero));
        }
        self.clients
            .ebs
            .complete_snapshot()
            .snapshot_id(id)
            .changed_blocks_count(i32::try_from(blocks.len()).unwrap_or(i32::MAX))
            .checksum(STANDARD.encode(sums.finalize()))
            .checksum_algorithm(ChecksumAlgorithm::ChecksumAlgorithmSha256)
            .checksum_aggregation_method(ChecksumAggregationMethod::ChecksumAggregationLinear)
            .send()
            .await
            .map_err(failed("CompleteSnapshot"))?;
        eventually(&format!("snapshot {id} to complete"), COMPLETION, || async {
            let described = self.clients.ec2.describe_snapshots().snapshot_ids(id).send().await;
            let described = described.map_err(failed("DescribeSnapshots"))?;
            match described.snapshots().first().and_then(Snapshot::state) {
                Some(SnapshotState::Completed) => Ok(Some(())),
                Some(SnapshotState::Error) => {
                    Err(CloudError::Conflict { message: format!("EBS gave snapshot {id} up") })
                }
                _ => Ok(None),
            }
        })
        .await
    }

    /// Deletes a snapshot; one that is gone is no error. One whose image was deregistered a moment ago counts as in use still.
    pub(super) async fn delete_snapshot(&self, id: &str) -> Result<(), CloudError> {
        let what = format!("snapshot {id}, which an image uses");
        eventually(&what, RELEASED, || async {
            let deleted = self.clients.ec2.delete_snapshot().snapshot_id(id).send().await;
            match deleted {
                Err(error) if super::error::code(&error) == "InvalidSnapshot.NotFound" => Ok(Some(())),
                Err(error) if super::error::code(&error) == "InvalidSnapshot.InUse" => Ok(None),
                Err(error) if is_denied(error.code()) => {
                    let there = self.clients.ec2.describe_snapshots().snapshot_ids(id).send().await;
                    match there {
                        Err(gone) if super::error::code(&gone) == "InvalidSnapshot.NotFound" => Ok(Some(())),
                        _ => Err(failed("DeleteSnapshot")(error)),
                    }
                }
                other => other.map(|_| Some(())).map_err(failed("DeleteSnapshot")),
            }
        })
        .await?;
        self.forget(id);
        Ok(())
    }

    fn journal(&self, snapshot: &str) -> PathBuf {
        self.folder().join(format!("{snapshot}.sent"))
    }
}

/// How an account encrypts new snapshots by default. EBS refuses a parent that is not encrypted as the new snapshot is.
#[derive(Debug, PartialEq, Eq)]
enum Encryption {
    None,
    /// With this key; AWS names its own by an alias.
    By(String),
}

impl Encryption {
    fn is_of(&self, snapshot: &Snapshot) -> bool {
        let is_encrypted = snapshot.encrypted().unwrap_or(false);
        match self {
            Self::None => !is_encrypted,
            Self::By(key) if key.starts_with("alias/") => is_encrypted,
            // One of the two may be the key's id, which ends its ARN.
            Self::By(key) => {
                is_encrypted
                    && snapshot.kms_key_id().is_some_and(|own| own.ends_with(key) || key.ends_with(own))
            }
        }
    }
}

/// Whether a snapshot can be a parent: it is complete, and was sent block by block. One that somebody took of a machine's volume
/// may have its tags, and other blocks than its table says. Of one in the archive EBS reads no block.
fn is_usable(snapshot: &Snapshot) -> bool {
    snapshot.state() == Some(&SnapshotState::Completed)
        && snapshot.storage_tier() != Some(&StorageTier::Archive)
        && tags::value(snapshot.tags(), PARENT).is_some()
}

/// The journal of an upload, to be gone on with, and the blocks that it names. Its first line is the digest of the disk's block map:
/// one of other blocks, such as another version of the program makes of the same image, is begun anew. A last line without an
/// end may have been cut off, and is not read.
fn open_journal(path: &Path, map: &BlockMap) -> io::Result<(File, BTreeSet<u32>)> {
    let mut sum = Sha256::new();
    for (index, digest) in map {
        sum.update(index.to_le_bytes());
        sum.update(digest);
    }
    let own = STANDARD.encode(sum.finalize());
    let text = fs::read_to_string(path).unwrap_or_default();
    let end = text.rfind('\n').map_or(0, |end| end + 1);
    if let Some(lines) = text[..end].strip_prefix(&own).filter(|rest| rest.starts_with('\n')) {
        let journal = OpenOptions::new().append(true).open(path)?;
        // What comes next is not to go on with a line that was cut off.
        journal.set_len(end as u64)?;
        return Ok((journal, lines.lines().filter_map(|line| line.parse().ok()).collect()));
    }
    let mut journal = File::create(path)?;
    writeln!(journal, "{own}")?;
    Ok((journal, BTreeSet::new()))
}

fn panicked(_: tokio::task::JoinError) -> CloudError {
    CloudError::Conflict { message: "internal error: a thread that reads the disk panicked".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_of_a_volume_is_no_parent() {
        let with = |state: SnapshotState, key: &str| {
            Snapshot::builder().state(state).tags(tags::tag(key, "snap-1")).build()
        };
        assert!(is_usable(&with(SnapshotState::Completed, PARENT)));
        assert!(!is_usable(&with(SnapshotState::Pending, PARENT)));
        assert!(!is_usable(&with(SnapshotState::Completed, ENVIRONMENT)));
    }

    #[test]
    fn a_snapshot_in_the_archive_is_no_parent() {
        let in_tier = |tier| {
            let snapshot = Snapshot::builder().state(SnapshotState::Completed).storage_tier(tier);
            snapshot.tags(tags::tag(PARENT, NO_PARENT)).build()
        };
        assert!(is_usable(&in_tier(StorageTier::Standard)));
        assert!(!is_usable(&in_tier(StorageTier::Archive)));
    }

    #[test]
    fn a_journal_of_another_disk_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("snap-1.sent");
        let done = |map: &BlockMap| open_journal(&path, map).unwrap().1;
        let map = BlockMap::from([(1, [1; 32]), (2, [2; 32])]);
        // That of a version of the program that wrote indexes alone.
        fs::write(&path, "1\n2\n").unwrap();
        assert_eq!(done(&map), BTreeSet::new());
        let (mut journal, _) = open_journal(&path, &map).unwrap();
        // The last line may have been cut off.
        write!(journal, "1\n2").unwrap();
        assert_eq!(done(&map), BTreeSet::from([1]));
        let other = BlockMap::from([(1, [1; 32]), (2, [3; 32])]);
        assert_eq!(done(&other), BTreeSet::new());
        assert_eq!(done(&map), BTreeSet::new(), "it is the other disk's now");
    }

    #[test]
    fn a_parent_is_encrypted_as_new_snapshots_are() {
        let plain = Snapshot::builder().encrypted(false).build();
        let key = "arn:aws:kms:eu-west-1:123456789012:key/0123";
        let by = |key: &str| Snapshot::builder().encrypted(true).kms_key_id(key).build();
        assert!(Encryption::None.is_of(&plain) && !Encryption::None.is_of(&by(key)));
        let own = Encryption::By("alias/aws/ebs".into());
        assert!(!own.is_of(&plain) && own.is_of(&by(key)));
        let named = Encryption::By(key.into());
        assert!(named.is_of(&by(key)) && !named.is_of(&plain));
        assert!(!named.is_of(&by("arn:aws:kms:eu-west-1:123456789012:key/4567")));
    }
}
