//! Files of disks: made, extended, copied, and taken by one writer at a time.

use std::io::Write as _;

use super::*;
use crate::plan::fleet::LEAST_DISK;

const LEAST: u64 = LEAST_DISK.0;

fn path_variable() -> Vec<(OsString, OsString)> {
    vec![("PATH".into(), "/usr/sbin:/usr/bin:/sbin:/bin".into())]
}

fn made(folder: &Path, size: u64) -> PathBuf {
    let path = folder.join("volumes/test/default/data.raw");
    make(&Wanted { path: &path, size: Bytes(size), environment: &path_variable() }).unwrap();
    path
}

#[test]
fn a_disk_is_made_once_takes_little_room_and_only_grows() {
    let folder = tempfile::tempdir().unwrap();
    let path = made(folder.path(), 1 << 30);
    assert_eq!(fs::metadata(&path).unwrap().len(), 1 << 30);
    assert!(used(&path).unwrap().0 < 8 << 20, "{:?}", used(&path));
    let mut magic = [0; 2];
    let mut file = File::open(&path).unwrap();
    file.seek(SeekFrom::Start(1024 + 56)).unwrap();
    file.read_exact(&mut magic).unwrap();
    assert_eq!(magic, [0x53, 0xef], "an ext4 superblock");

    // What is there stays, whatever size it is asked for.
    let mut file = File::options().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(512 << 20)).unwrap();
    file.write_all(b"kept").unwrap();
    drop(file);
    made(folder.path(), 2 << 30);
    assert_eq!(fs::metadata(&path).unwrap().len(), 1 << 30);
    assert_eq!(grow(&path, Bytes(2 << 30)).unwrap(), None);
    drop(attach(&path, Bytes(1 << 20)).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().len(), 2 << 30);
    let mut bytes = [0; 4];
    let mut file = File::open(&path).unwrap();
    file.seek(SeekFrom::Start(512 << 20)).unwrap();
    file.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"kept");
    remove(&path).unwrap();
    remove(&path).unwrap();
    assert!(!folder.path().join("volumes").exists());
    let gone = attach(&path, Bytes(1)).unwrap_err().to_string();
    assert!(gone.contains("is gone") && gone.contains("volume rm"), "{gone}");
}

#[test]
fn a_disk_of_the_longest_name_has_files() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: String| folder.path().join(format!("{}.raw", file_name(&name)));
    let long = |end: &str| "n".repeat(253 - end.len()) + end;
    let path = at(long("-1"));
    make(&Wanted { path: &path, size: Bytes(LEAST), environment: &path_variable() }).unwrap();
    copy_to_snapshot(&path, &"s".repeat(63), Writer::Absent).unwrap();
    restore(&path, &"s".repeat(63)).unwrap();
    assert!(!path.with_extension("raw.new").exists());
    assert_ne!(path, at(long("-2")), "each has its own");
    assert_eq!(file_name("my.data-db-0"), "my.data-db-0");
}

#[test]
fn a_disk_has_one_holder_and_a_process_that_inherits_it_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = made(folder.path(), LEAST);
    let held = attach(&path, Bytes(LEAST)).unwrap();
    let mut child = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::from(held.try_clone().unwrap()))
        .spawn()
        .unwrap();
    drop(held);
    assert_eq!(grow(&path, Bytes(LEAST * 2)).unwrap(), Some(LEAST * 2), "the child has it");
    assert_eq!(grow(&path, Bytes(1)).unwrap(), None, "it would be cut");
    let torn = copy_to_snapshot(&path, "torn", Writer::Absent).unwrap_err().to_string();
    assert!(torn.contains("in use") && snapshots_of(&path).is_empty(), "{torn}");
    copy_to_snapshot(&path, "still", Writer::Stopped).unwrap();
    assert!(matches!(take(&path).unwrap(), Taken::Busy));
    let refused = restore(&path, "none").unwrap_err().to_string();
    assert!(refused.contains("in use"), "{refused}");
    child.kill().unwrap();
    child.wait().unwrap();
    drop(attach(&path, Bytes(LEAST)).unwrap());
}

#[test]
fn a_snapshot_is_the_content_of_then_without_its_holes() {
    let folder = tempfile::tempdir().unwrap();
    let path = made(folder.path(), 256 << 20);
    let write = |bytes: &[u8]| {
        let mut file = File::options().write(true).open(&path).unwrap();
        file.seek(SeekFrom::Start(200 << 20)).unwrap();
        file.write_all(bytes).unwrap();
    };
    let then = fs::read(&path).map(|bytes| bytes.len()).unwrap();
    write(b"then");
    copy_to_snapshot(&path, "first", Writer::Absent).unwrap();
    write(b"now!");
    let copy = snapshot(&path, "first");
    assert!(used(&copy).unwrap().0 < 16 << 20);
    assert_eq!(fs::metadata(&copy).unwrap().len(), then as u64);
    grow(&path, Bytes(512 << 20)).unwrap();
    restore(&path, "first").unwrap();
    assert_eq!(&fs::read(&path).unwrap()[200 << 20..][..4], b"then");
    assert_eq!(fs::metadata(&path).unwrap().len(), 512 << 20, "it does not shrink");
    assert!(restore(&path, "second").is_err());
    assert_eq!(&fs::read(&path).unwrap()[200 << 20..][..4], b"then", "a restore that failed changed nothing");
    remove_snapshot(&path, "first").unwrap();
    remove_snapshot(&path, "first").unwrap();
    assert!(!snapshots(&path).exists());
}

#[test]
fn a_copy_has_every_byte_and_no_block_more_whether_blocks_are_shared_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let [path, shared, copied] = ["disk", "shared", "copied"].map(|name| folder.path().join(name));
    let mut file = File::create_new(&path).unwrap();
    // Data at the start, across the edges of blocks, and up to an end that is no edge of one; holes between.
    for (at, length) in [(0, 3), ((8 << 20) - 5, 9_000), ((40 << 20) + 1, 4_096), ((64 << 20) - 1_000, 1_017)]
    {
        file.seek(SeekFrom::Start(at)).unwrap();
        let bytes: Vec<u8> = (1..=251_u8).cycle().take(length).collect();
        file.write_all(&bytes).unwrap();
    }
    let then = fs::read(&path).unwrap();
    assert_eq!(then.len(), (64 << 20) + 17);
    // Sharing, where the file system of this folder can do that; and what is done where it cannot.
    drop(copy(&path, &shared).unwrap());
    drop(copy_data(&path, &copied).unwrap());
    file.set_len(70 << 20).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(&vec![255; 20_000]).unwrap();
    for copy in [&shared, &copied] {
        assert!(fs::read(copy).unwrap() == then, "{}", copy.display());
        assert!(used(copy).unwrap() < Bytes(4 << 20), "{} takes {:?}", copy.display(), used(copy));
    }
    // A hole at the end is part of a file as well.
    drop(copy(&path, &shared).unwrap());
    fs::remove_file(&copied).unwrap();
    drop(copy_data(&path, &copied).unwrap());
    let now = fs::read(&path).unwrap();
    assert!(fs::read(&shared).unwrap() == now && fs::read(&copied).unwrap() == now);
    assert!(copy_data(&path, &copied).is_err(), "it is there");
    shares_blocks(&path);
    assert!(!path.with_extension("raw.probe").exists());
}

#[test]
fn what_a_killed_process_left_half_made_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("volumes/test/default/data.raw");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path.with_extension("raw.new"), "half").unwrap();
    made(folder.path(), LEAST);
    copy_to_snapshot(&path, "whole", Writer::Absent).unwrap();
    let half = snapshots(&path).join("half.raw.new");
    fs::write(&half, "half").unwrap();
    fs::write(path.with_extension("raw.probe"), "").unwrap();
    sweep(&path).unwrap();
    assert!(!half.exists() && !path.with_extension("raw.probe").exists());
    let names: Vec<String> = snapshots_of(&path).into_iter().map(|snapshot| snapshot.name).collect();
    assert_eq!(names, ["whole"]);
    assert!(!path.with_extension("raw.new").exists());
    let none =
        make(&Wanted { path: &folder.path().join("x/y.raw"), size: Bytes(u64::MAX), environment: &[] });
    assert!(none.is_err());
    assert!(!folder.path().join("x/y.raw.new").exists());
}
