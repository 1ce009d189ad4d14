//! Block maps of snapshots that are there: kept on this machine, in the table that a snapshot has in itself, or read from EBS
//! block by block.
//!
//! What the table says is believed once it is whole and fits the snapshot. Only snapshots that this program sent are asked for
//! one (see `is_usable`), and whoever could put another table into such a snapshot could put other blocks into it as well.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use aws_sdk_ebs::operation::get_snapshot_block::GetSnapshotBlockOutput;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use super::blocks::{BLOCK, BlockMap, count, digest};
use super::environment::Aws;
use super::error::{failed, no_id};
use crate::cloud::CloudError;
use crate::cloud::aws::plan::block_table;

/// Blocks under way at once. One connection carries about 20 MB/s to EBS; sixteen fill most lines, hold 8 MiB of
/// memory, and stay far below the 1000 requests a second that an account may send.
pub(super) const AT_ONCE: usize = 16;

/// The blocks that a snapshot has; some may be all zero.
struct Listed {
    /// The size of its volume in GiB.
    gib: i64,
    /// What EBS wants to hear of who reads a block, by its index.
    tokens: BTreeMap<u32, Option<String>>,
}

impl Aws {
    /// The block map of a completed snapshot.
    pub(super) async fn block_map(&self, snapshot: &str) -> Result<BlockMap, CloudError> {
        match self.known_map(snapshot).await? {
            Some(map) => Ok(map),
            None => self.read_map(snapshot).await,
        }
    }

    /// A snapshot and its block map, where that takes no more than a few calls. None where it cannot be read, too: another run may
    /// have deleted the snapshot meanwhile, and there are others.
    pub(super) async fn with_known_map(&self, snapshot: String) -> (String, Option<BlockMap>) {
        let map = self.known_map(&snapshot).await.ok().flatten();
        (snapshot, map)
    }

    /// The block map that is kept here or that the snapshot has in itself.
    async fn known_map(&self, snapshot: &str) -> Result<Option<BlockMap>, CloudError> {
        if let Some(map) = self.kept_map(snapshot) {
            return Ok(Some(map));
        }
        let listed = self.listed(snapshot).await?;
        let map = self.own_map(snapshot, &listed).await?;
        if let Some(map) = &map {
            self.keep_map(snapshot, listed.gib, map);
        }
        Ok(map)
    }

    /// The block map by the table in the snapshot. None where it has none, or one that is damaged, of another version or of
    /// another disk.
    async fn own_map(&self, snapshot: &str, listed: &Listed) -> Result<Option<BlockMap>, CloudError> {
        let disk = count(listed.gib);
        let Some(last) = disk.checked_sub(1) else { return Ok(None) };
        let Some(first) = self.content(snapshot, listed, last).await? else { return Ok(None) };
        let places = block_table::length(&first).and_then(|length| block_table::places(disk, length));
        let (mut table, mut own) = (Vec::new(), BlockMap::new());
        for (index, part) in places.unwrap_or_default() {
            let block = if index == last {
                Some(first.clone())
            } else {
                self.content(snapshot, listed, index).await?
            };
            let Some(block) = block else { return Ok(None) };
            table.extend_from_slice(&block[..part.len()]);
            own.insert(index, digest(&block));
        }
        let fits = |(blocks, map): &(u32, BlockMap)| {
            let is_there = |index: &u32| listed.tokens.contains_key(index) && !own.contains_key(index);
            *blocks == disk && map.keys().all(is_there)
        };
        let Some((_, mut map)) = block_table::read(&table).filter(fits) else { return Ok(None) };
        map.append(&mut own);
        Ok(Some(map))
    }

    /// The block map as EBS has it: it knows the digest of each block.
    pub(super) async fn read_map(&self, snapshot: &str) -> Result<BlockMap, CloudError> {
        let listed = self.listed(snapshot).await?;
        let map: BlockMap = stream::iter(listed.tokens)
            .map(|block| self.block_digest(snapshot, block))
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        let zero = digest(&vec![0; usize::try_from(BLOCK).expect("a block fits into memory")]);
        let map: BlockMap = map.into_iter().filter(|(_, digest)| *digest != zero).collect();
        self.keep_map(snapshot, listed.gib, &map);
        Ok(map)
    }

    async fn listed(&self, snapshot: &str) -> Result<Listed, CloudError> {
        let pages: Vec<_> = self
            .clients
            .ebs
            .list_snapshot_blocks()
            .snapshot_id(snapshot)
            .into_paginator()
            .send()
            .try_collect()
            .await
            .map_err(failed("ListSnapshotBlocks"))?;
        let gib = pages.first().and_then(|page| page.volume_size).unwrap_or_default();
        let mut tokens = BTreeMap::new();
        for block in pages.into_iter().flat_map(|page| page.blocks.unwrap_or_default()) {
            let index = block.block_index.and_then(|index| u32::try_from(index).ok());
            tokens.insert(index.ok_or_else(|| no_id("ListSnapshotBlocks"))?, block.block_token);
        }
        Ok(Listed { gib, tokens })
    }

    /// The bytes of a block; none where the snapshot does not have it or its bytes do not arrive as a whole.
    async fn content(
        &self,
        snapshot: &str,
        listed: &Listed,
        index: u32,
    ) -> Result<Option<Vec<u8>>, CloudError> {
        let Some(token) = listed.tokens.get(&index) else { return Ok(None) };
        let read = self.get_block(snapshot, index, token.clone()).await?;
        let bytes = read.block_data.collect().await.ok().map(|data| data.into_bytes().to_vec());
        Ok(bytes.filter(|bytes| bytes.len() as u64 == BLOCK))
    }

    async fn block_digest(
        &self,
        snapshot: &str,
        (index, token): (u32, Option<String>),
    ) -> Result<(u32, [u8; 32]), CloudError> {
        let read = self.get_block(snapshot, index, token).await?;
        let digest = read
            .checksum()
            .and_then(|text| STANDARD.decode(text).ok())
            .and_then(|bytes| bytes.try_into().ok());
        Ok((index, digest.ok_or_else(|| no_id("GetSnapshotBlock"))?))
    }

    async fn get_block(
        &self,
        snapshot: &str,
        index: u32,
        token: Option<String>,
    ) -> Result<GetSnapshotBlockOutput, CloudError> {
        let asked = self.clients.ebs.get_snapshot_block().snapshot_id(snapshot);
        let asked = asked.block_index(i32::try_from(index).unwrap_or(i32::MAX)).set_block_token(token);
        asked.send().await.map_err(failed("GetSnapshotBlock"))
    }

    /// The block map that is kept here. A damaged file is not used.
    fn kept_map(&self, snapshot: &str) -> Option<BlockMap> {
        let (_, map) = block_table::read(&fs::read(self.map_file(snapshot)).ok()?)?;
        Some(map)
    }

    /// Keeps the block map of a snapshot of that many GiB; what is lost, cannot be written or is too large to be kept costs a
    /// later upload time, and nothing else.
    pub(super) fn keep_map(&self, snapshot: &str, gib: i64, map: &BlockMap) {
        let path = self.map_file(snapshot);
        let Some(bytes) = block_table::write(count(gib), map) else { return };
        // Another run may be keeping the same one. A file that does not come to its place removes itself.
        let new = tempfile::Builder::new().prefix(&format!("{snapshot}.")).tempfile_in(self.folder());
        let Ok(mut new) = new else { return };
        if new.write_all(&bytes).is_ok() {
            let _ = new.persist(path);
        }
    }

    /// Removes what is kept here of a snapshot that is gone, with what runs left that were killed while they kept it.
    pub(super) fn forget(&self, snapshot: &str) {
        let own = format!("{snapshot}.");
        let Ok(entries) = fs::read_dir(self.folder()) else { return };
        for entry in entries.flatten() {
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(&own)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Where the block map of a snapshot is kept.
    pub(super) fn map_file(&self, snapshot: &str) -> PathBuf {
        self.folder().join(format!("{snapshot}.map"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(aws: &Aws) -> Vec<String> {
        let entries = fs::read_dir(aws.folder()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn a_block_map_that_does_not_come_to_its_place_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let aws = Aws::unanswered(folder.path()).await;
        let map = BlockMap::from([(1, [1; 32]), (2, [2; 32])]);
        aws.keep_map("snap-1", 1, &map);
        assert_eq!((kept(&aws), aws.kept_map("snap-1")), (vec!["snap-1.map".to_owned()], Some(map.clone())));
        // It takes the place of an older one, and not that of a folder.
        let other = BlockMap::from([(1, [3; 32])]);
        aws.keep_map("snap-1", 1, &other);
        assert_eq!((kept(&aws).len(), aws.kept_map("snap-1")), (1, Some(other)));
        fs::create_dir(aws.map_file("snap-2")).unwrap();
        aws.keep_map("snap-2", 1, &map);
        assert_eq!(kept(&aws), ["snap-1.map", "snap-2.map"]);
        assert_eq!(aws.kept_map("snap-2"), None);
    }

    #[tokio::test]
    async fn what_killed_runs_left_of_a_snapshot_goes_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let aws = Aws::unanswered(folder.path()).await;
        for name in ["snap-1.map", "snap-1.sent", "snap-1.x7Yz01", "snap-1.new-4711", "snap-12.map"] {
            fs::write(aws.folder().join(name), "of an earlier run").unwrap();
        }
        aws.forget("snap-1");
        assert_eq!(kept(&aws), ["snap-12.map"]);
        aws.forget("snap-1");
    }
}
