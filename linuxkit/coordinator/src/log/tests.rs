//! The log is read back after any end, and damage is never taken for an end.

use std::path::PathBuf;
use std::sync::mpsc;

use bytes::Bytes;

use super::*;
use crate::log::record::Payload;

fn options() -> Options {
    Options { segment_bytes: 16 << 10, direct: false }
}

fn open(folder: &tempfile::TempDir, id: u64, options: Options) -> Result<Log, Damage> {
    Log::open(folder.path(), id, options, Arc::new(Metrics::new()))
}

fn entry(term: u64, index: u64, text: &str) -> Entry {
    let payload = Payload::Batch(Bytes::copy_from_slice(text.as_bytes()));
    Entry { id: EntryId { term, leader: 9, index }, payload }
}

/// Appends, and returns when it is durable.
fn append(log: &Log, entries: Vec<Entry>) {
    let (sender, receiver) = mpsc::channel();
    log.append(entries, Box::new(move || sender.send(()).unwrap())).unwrap();
    receiver.recv().unwrap();
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// All entries, read in small parts.
fn all(log: &Log) -> Vec<Entry> {
    let end = log.last().map_or(0, |last| last.index + 1);
    let mut entries = Vec::new();
    let mut next = log.purged().map_or(0, |purged| purged.index + 1);
    while next < end {
        let part = wait(log.fetch(next, end, 100)).unwrap();
        assert!(!part.is_empty(), "entry {next} of {end} is not read");
        next += part.len() as u64;
        entries.extend(part);
    }
    entries
}

fn segments(folder: &Path) -> Vec<PathBuf> {
    segment::list(folder).unwrap().into_iter().map(|number| segment::path(folder, number)).collect()
}

#[test]
fn what_was_written_is_there_again_with_its_votes_and_truncations() {
    let folder = tempfile::tempdir().unwrap();
    let vote = Vote { term: 3, node: 9, committed: true };
    let expected: Vec<Entry> = (0..4)
        .map(|index| entry(1, index, "old"))
        .chain((4..60).map(|index| entry(2, index, "new")))
        .collect();
    {
        let log = open(&folder, 77, options()).unwrap();
        assert!(log.is_empty());
        wait(log.save_vote(vote)).unwrap();
        append(&log, (0..8).map(|index| entry(1, index, "old")).collect());
        wait(log.truncate(4)).unwrap();
        assert_eq!(log.last(), Some(entry(1, 3, "").id));
        for index in 4..60 {
            log.save_committed(Some(entry(2, index - 1, "").id));
            append(&log, vec![entry(2, index, "new")]);
        }
        assert_eq!(all(&log), expected);
    }
    let log = open(&folder, 1, options()).unwrap();
    assert_eq!((log.id(), log.vote(), log.is_empty()), (77, Some(vote), false));
    assert_eq!(log.committed(), Some(entry(2, 58, "").id));
    assert_eq!(log.last(), Some(entry(2, 59, "").id));
    assert_eq!(all(&log), expected);
    assert!(segments(folder.path()).len() > 5);
}

#[test]
fn a_direct_log_is_the_same() {
    let folder = tempfile::tempdir_in(".").unwrap();
    let direct = Options { segment_bytes: 64 << 10, direct: true };
    {
        let log = open(&folder, 5, direct).unwrap();
        for index in 0..40 {
            append(&log, vec![entry(1, index, &"x".repeat(usize::try_from(index).unwrap() * 300))]);
        }
    }
    let log = open(&folder, 6, direct).unwrap();
    assert_eq!(all(&log).len(), 40);
    assert_eq!(log.id(), 5);
}

#[test]
fn purged_segments_go_and_what_they_said_stays() {
    let folder = tempfile::tempdir().unwrap();
    let vote = Vote { term: 8, node: 2, committed: false };
    {
        let log = open(&folder, 4, options()).unwrap();
        wait(log.save_vote(vote)).unwrap();
        for index in 0..40 {
            append(&log, vec![entry(1, index, "x")]);
        }
        let before = segments(folder.path()).len();
        wait(log.purge(entry(1, 30, "").id)).unwrap();
        assert!(segments(folder.path()).len() < before);
        assert_eq!(all(&log).len(), 9);
    }
    let log = open(&folder, 4, options()).unwrap();
    assert_eq!((log.vote(), log.purged()), (Some(vote), Some(entry(1, 30, "").id)));
    assert_eq!(all(&log).first(), Some(&entry(1, 31, "x")));
    // A snapshot beyond the end takes the place of all entries.
    wait(log.purge(entry(2, 100, "").id)).unwrap();
    assert_eq!(log.last(), Some(entry(2, 100, "").id));
    append(&log, vec![entry(2, 101, "y")]);
    drop(log);
    let log = open(&folder, 4, options()).unwrap();
    assert_eq!(all(&log), [entry(2, 101, "y")]);
}

/// A segment repeats at its start what was purged when it began, and the entries behind that may have gone since.
#[test]
fn a_log_that_was_purged_again_and_again_opens() {
    let folder = tempfile::tempdir().unwrap();
    let mut end = 0;
    for (purged, more) in [(5, 17), (11, 10), (30, 13), (38, 1), (40, 9)] {
        let log = open(&folder, 4, options()).unwrap();
        for index in end..end + more {
            append(&log, vec![entry(1, index, "x")]);
        }
        end += more;
        wait(log.purge(entry(1, purged, "").id)).unwrap();
        assert_eq!(log.purged(), Some(entry(1, purged, "").id));
        drop(log);
        let log = open(&folder, 4, options()).unwrap();
        assert_eq!(log.last(), Some(entry(1, end - 1, "").id));
        let found = all(&log);
        assert_eq!(found.first().map(|entry| entry.id.index), Some(purged + 1));
        assert_eq!(found.len() as u64, end - purged - 1);
    }
    // The same with a segment missing that no purge took.
    fs::remove_file(&segments(folder.path())[0]).unwrap();
    let refused = open(&folder, 4, options()).map(|_| ());
    assert!(matches!(refused, Err(Damage::Hole { .. })), "{refused:?}");
}

#[test]
fn a_log_that_nobody_purged_and_that_lost_its_beginning_does_not_open() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&folder, 4, options()).unwrap();
    for index in 0..20 {
        append(&log, vec![entry(1, index, &"x".repeat(4 << 10))]);
    }
    drop(log);
    assert_eq!(all(&open(&folder, 4, options()).unwrap()).len(), 20);
    fs::remove_file(&segments(folder.path())[0]).unwrap();
    let refused = open(&folder, 4, options()).map(|_| ());
    assert!(matches!(refused, Err(Damage::Hole { wanted: 0, .. })), "{refused:?}");
}

#[test]
fn memory_is_bounded_and_the_disk_has_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&folder, 4, Options { segment_bytes: 4 << 20, direct: false }).unwrap();
    let text = "z".repeat(500_000);
    for index in 0..40 {
        append(&log, vec![entry(1, index, &text)]);
    }
    assert!(lock(&log.state).cache_bytes <= CACHE_BYTES);
    assert!(lock(&log.state).cache.len() < 20);
    assert_eq!(all(&log).len(), 40);
    assert_eq!(wait(log.fetch(0, 40, 1)).unwrap().len(), 1);
}

#[test]
fn a_hole_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&folder, 4, options()).unwrap();
    append(&log, vec![entry(1, 0, "a")]);
    let refused = log.append(vec![entry(1, 2, "c")], Box::new(|| {}));
    assert!(matches!(refused, Err(Damage::Hole { wanted: 1, found: 2 })));
}

/// A segment of four groups, and the groups.
fn small() -> (Vec<u8>, Vec<Vec<Record>>) {
    let groups: Vec<Vec<Record>> = (0..4)
        .map(|index| {
            vec![Record::Entry(entry(1, index, "some text")), Record::Committed(entry(1, index, "").id)]
        })
        .collect();
    let mut segment = Vec::new();
    for (number, records) in (1..).zip(&groups) {
        let mut body = bytes::BytesMut::new();
        for record in records {
            record.encode(&mut body);
        }
        let mut group = vec![0xff; group::size(body.len())];
        group::write(&mut group, 4, number, 2, [b"", &body]);
        segment.extend(group);
    }
    (segment, groups)
}

/// Bytes of a group of `segment` that are not there to fill it up.
fn used(segment: &[u8], group: usize) -> usize {
    let len = &segment[group * group::BLOCK + 16..][..4];
    group::HEAD + usize::try_from(u32::from_le_bytes(len.try_into().unwrap())).unwrap()
}

/// What a scan of `segment` gives.
fn scanned(segment: &[u8]) -> Result<Vec<Vec<Record>>, Damage> {
    let mut found = Vec::new();
    group::scan(segment, 4, segment.len() as u64, 1, |_, group| {
        found.push(group.records()?);
        Ok(())
    })?;
    Ok(found)
}

#[test]
fn a_log_that_is_cut_anywhere_has_the_whole_groups_before() {
    let (segment, groups) = small();
    let end = |group: usize| group * group::BLOCK + used(&segment, group);
    for len in 0..=segment.len() {
        let whole = (0..4).filter(|group| end(*group) <= len).count();
        assert_eq!(scanned(&segment[..len]).unwrap(), groups[..whole], "cut at {len}");
    }
}

#[test]
fn a_flipped_byte_is_cut_off_at_the_end_and_refused_before_it() {
    let (segment, groups) = small();
    for at in 0..segment.len() {
        let mut changed = segment.clone();
        changed[at] ^= 0x41;
        let (group, place) = (at / group::BLOCK, at % group::BLOCK);
        let padding = place >= used(&segment, group);
        match scanned(&changed) {
            // Zeros that fill a group up are no part of what was acknowledged.
            Ok(found) if padding => assert_eq!(found, groups, "byte {at}"),
            Ok(found) => {
                assert_eq!(group, 3, "byte {at} of an earlier group was flipped, and nobody noticed");
                assert_eq!(found, groups[..3], "byte {at}");
            }
            Err(Damage::Middle { number, .. }) => {
                assert!(
                    group < 3 && number == group as u64 + 1,
                    "byte {at}: group {number} is said to be damaged"
                );
            }
            Err(other) => panic!("byte {at}: {other}"),
        }
    }
}

#[test]
fn a_torn_end_is_cut_and_a_damaged_middle_refuses_to_open() {
    let folder = tempfile::tempdir().unwrap();
    {
        let log = open(&folder, 4, options()).unwrap();
        (0..3).for_each(|index| append(&log, vec![entry(1, index, "text")]));
    }
    let [path] = &segments(folder.path())[..] else { panic!("it has one segment") };
    let whole = fs::read(path).unwrap();
    let mut torn = whole.clone();
    torn[2 * group::BLOCK + 30] ^= 1;
    fs::write(path, torn).unwrap();
    {
        let log = open(&folder, 4, options()).unwrap();
        assert_eq!(log.last(), Some(entry(1, 1, "").id));
        append(&log, vec![entry(2, 2, "other")]);
    }
    assert_eq!(all(&open(&folder, 4, options()).unwrap())[2], entry(2, 2, "other"));
    let mut damaged = whole;
    damaged[group::BLOCK + 30] ^= 1;
    fs::write(path, damaged).unwrap();
    assert!(matches!(open(&folder, 4, options()), Err(Damage::Middle { number: 2, good: 3, .. })));
    fs::remove_file(folder.path().join(IDENTITY)).unwrap();
    assert!(matches!(open(&folder, 4, options()), Err(Damage::Disk(_))));
}

#[test]
fn bytes_of_a_client_pass_for_no_group() {
    let mut forged = vec![0; group::BLOCK];
    group::write(&mut forged, 1234, 2, 0, [b"", b""]);
    let (mut segment, groups) = small();
    segment.truncate(group::BLOCK);
    segment.extend(vec![7; group::BLOCK]);
    segment.extend(forged);
    assert_eq!(scanned(&segment).unwrap(), groups[..1]);
}

#[test]
fn an_identity_whose_segments_are_gone_is_refused_and_a_start_that_was_broken_off_is_not() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(&folder, 7, options()).unwrap());
    assert_eq!(segments(folder.path()).len(), 1, "the first segment is there with the identity");
    // Power went between the two.
    fs::remove_file(folder.path().join(IDENTITY)).unwrap();
    let log = open(&folder, 8, options()).unwrap();
    assert_eq!((log.id(), log.is_empty()), (8, true));
    append(&log, vec![entry(1, 0, "a")]);
    drop(log);
    let identity = fs::read(folder.path().join(IDENTITY)).unwrap();
    fs::remove_file(folder.path().join(IDENTITY)).unwrap();
    let error = open(&folder, 9, options()).unwrap_err().to_string();
    assert!(error.contains("`identity` is gone"), "{error}");
    fs::write(folder.path().join(IDENTITY), identity).unwrap();
    for segment in segments(folder.path()) {
        fs::remove_file(segment).unwrap();
    }
    let error = open(&folder, 9, options()).unwrap_err().to_string();
    assert!(error.contains("its segments are gone"), "{error}");
}

#[test]
fn what_gathered_becomes_several_groups_and_is_read_in_parts() {
    const LONG: usize = 3 << 20;
    let folder = tempfile::tempdir().unwrap();
    let text = "x".repeat(LONG);
    {
        let log = open(&folder, 7, options()).unwrap();
        append(&log, (0..12).map(|index| entry(1, index, &text)).collect());
        assert_eq!(log.pending(), 0);
        assert!(log.bytes_after(11) < log.bytes() / 2, "its group is the last of several");
    }
    let id = 7;
    let mut records = Vec::new();
    for path in segments(folder.path()) {
        let file = File::open(&path).unwrap();
        let number = u64::from_str_radix(&path.file_stem().unwrap().to_string_lossy(), 16).unwrap();
        let len = file.metadata().unwrap().len();
        group::scan(&file, id, len, number, |_, group| {
            assert!(group.body.len() < (8 << 20) + LONG, "{} bytes", group.body.len());
            records.push(group.records);
            Ok(())
        })
        .unwrap();
    }
    assert!(records.len() >= 5 && records.iter().sum::<u32>() >= 12, "{records:?}");
    // From the disk: never more than was asked for, and one at least.
    let log = open(&folder, 7, options()).unwrap();
    for (max, count) in [(1, 1), (LONG, 1), (2 * LONG + 200, 2)] {
        assert_eq!(wait(log.fetch(0, 12, max)).unwrap().len(), count, "{max}");
    }
    assert_eq!(all(&log).len(), 12);
}

#[test]
fn what_may_go_is_told_in_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&folder, 7, options()).unwrap();
    assert_eq!((log.beyond(0), log.bytes_after(0)), (0, 0));
    for index in 0..40 {
        append(&log, vec![entry(1, index, &"x".repeat(3000))]);
    }
    let bytes = log.bytes();
    assert_eq!(log.beyond(bytes), 0, "nothing has to go");
    let half = log.beyond(bytes / 2);
    assert!((15..=25).contains(&half), "{half}");
    assert!(log.beyond(0) > 30 && log.beyond(0) < 39, "the last segment stays");
    assert_eq!(log.bytes_after(0), bytes);
    assert!(log.bytes_after(half) < bytes * 3 / 4 && log.bytes_after(half) > bytes / 4);
    wait(log.purge(entry(1, half, "").id)).unwrap();
    assert!(log.bytes() <= bytes / 2 + (16 << 10), "{} of {bytes}", log.bytes());
}
