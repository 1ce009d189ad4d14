//! Disks: partition tools accept them, and qemu's view of the parts is the raw disk.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use i2kit::disk::{assemble, dump, gpt, verity, vmdk};
use i2kit::oci::Digest;
use i2kit::plan::layout::{DiskLayout, Part};
use serde_json::{Value, json};

use super::{run, tools};

/// Layers of a few megabytes without pattern, so that a misplaced byte shows.
fn parts(folder: &Path, layers: usize) -> (DiskLayout, Vec<PathBuf>) {
    let mut state = 1_u64;
    let mut files = Vec::new();
    let mut parts = Vec::new();
    for number in 0..layers {
        let name = if number == 0 { "pod".to_owned() } else { format!("{number:032x}") };
        let size = if number == 0 { 8192 } else { 4096 * (37 * number % 300 + 1) };
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        })
        .take(size)
        .collect();
        let file = folder.join(format!("part {number}"));
        fs::write(&file, &bytes).unwrap();
        parts.push(Part { name, content: Digest::of(&bytes), size: size as u64 });
        files.push(file);
    }
    (DiskLayout::new(Digest::of(b"disk"), parts).unwrap(), files)
}

fn raw(layout: &DiskLayout, files: &[PathBuf], path: &Path) {
    let mut readers: Vec<File> = files.iter().map(|file| File::open(file).unwrap()).collect();
    assemble(layout, &mut readers, File::create(path).unwrap()).unwrap();
    assert!(dump(File::open(path).unwrap()).unwrap().starts_with("disk "));
}

#[test]
fn partition_tools_accept_the_table() {
    if !tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for layers in [1, 4, 130] {
        let (layout, files) = parts(folder.path(), layers);
        let disk = folder.path().join("disk");
        raw(&layout, &files, &disk);
        let verdict = run("sgdisk", &["-v".as_ref(), disk.as_os_str()]);
        assert!(verdict.contains("No problems found"), "{verdict}");
        let table: Value =
            serde_json::from_str(&run("sfdisk", &["--json".as_ref(), disk.as_os_str()])).unwrap();
        let table = &table["partitiontable"];
        assert_eq!(table["id"], layout.guid.to_string());
        let found: Vec<_> = table["partitions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|partition| {
                let number = |key: &str| partition[key].as_u64().unwrap() * 512;
                (number("start"), number("size"), partition["uuid"].clone(), partition["name"].clone())
            })
            .collect();
        let expected: Vec<_> = layout
            .partitions
            .iter()
            .map(|partition| {
                (partition.offset, partition.length, json!(partition.guid.to_string()), json!(partition.name))
            })
            .collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn qemu_sees_the_parts_as_the_raw_disk() {
    if !tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (layout, files) = parts(folder.path(), 4);
    raw(&layout, &files, &path("raw"));
    fs::write(path("head"), gpt::head(&layout)).unwrap();
    fs::write(path("tail"), gpt::tail(&layout)).unwrap();

    let mut extents = vec![vmdk::Extent { file: Some("head"), length: gpt::HEAD_SIZE }];
    let mut end = gpt::HEAD_SIZE;
    let names: Vec<_> = files.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
    for (partition, name) in layout.partitions.iter().zip(names) {
        extents.push(vmdk::Extent { file: None, length: partition.offset - end });
        extents.push(vmdk::Extent { file: Some(name), length: partition.length });
        end = partition.offset + partition.length;
    }
    extents.push(vmdk::Extent { file: None, length: layout.size - gpt::TAIL_SIZE - end });
    extents.push(vmdk::Extent { file: Some("tail"), length: gpt::TAIL_SIZE });
    File::create(path("zeros")).unwrap().set_len(vmdk::zeros_length(&extents)).unwrap();
    fs::write(path("disk.vmdk"), vmdk::descriptor(&extents, "zeros").unwrap()).unwrap();

    File::create(path("copy")).unwrap().set_len(layout.size).unwrap();
    copy_by_qemu(&path("disk.vmdk"), &path("copy"));
    assert!(fs::read(path("copy")).unwrap() == fs::read(path("raw")).unwrap(), "the disks differ");
}

/// Lets qemu's block layer read the disk behind a descriptor, as a virtual machine would, into a raw file.
fn copy_by_qemu(descriptor: &Path, to: &Path) {
    let node = |value: Value| ["--blockdev".to_owned(), value.to_string()];
    let mut child = Command::new("qemu-storage-daemon")
        .args(node(json!({
            "driver": "vmdk", "node-name": "source", "read-only": true,
            "file": {"driver": "file", "filename": descriptor, "read-only": true},
        })))
        .args(node(json!({"driver": "file", "node-name": "target", "filename": to})))
        .args(["--chardev", "stdio,id=monitor", "--monitor", "chardev=monitor"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let output = std::io::BufReader::new(child.stdout.take().unwrap());
    let backup = json!({"job-id": "copy", "device": "source", "target": "target", "sync": "full"});
    for command in
        [json!({"execute": "qmp_capabilities"}), json!({"execute": "blockdev-backup", "arguments": backup})]
    {
        writeln!(input, "{command}").unwrap();
    }
    let mut said = String::new();
    let mut ended = false;
    for line in std::io::BufRead::lines(output) {
        let line = line.unwrap();
        let event: Value = serde_json::from_str(&line).unwrap();
        said.push_str(&line);
        if event["event"] == "BLOCK_JOB_COMPLETED" || event.get("error").is_some() {
            ended = event["data"].get("error").is_none() && event.get("error").is_none();
            writeln!(input, "{}", json!({"execute": "quit"})).unwrap();
            break;
        }
    }
    drop(input);
    child.wait().unwrap();
    assert!(ended, "{said}");
}

#[test]
fn veritysetup_accepts_the_trees_of_hashes_and_finds_a_flipped_bit() {
    if !tools() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("partition");
    // One block; one level; two levels, of which the lower one has a block that is not full.
    for blocks in [1_usize, 2, 128, 129, 20_000] {
        let mut bytes: Vec<u8> = (0..blocks * 4096).map(|at| u8::try_from(at / 7 % 251).unwrap()).collect();
        let tree = verity::tree("x", bytes.as_slice(), [9; 16]).unwrap();
        let root = hex::encode(tree.root);
        let offset = format!("--hash-offset={}", bytes.len());
        bytes.extend(&tree.bytes);
        let verify = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            let mut command = Command::new("veritysetup");
            command.arg("verify").args([&path, &path]).args([&root, &offset]);
            command.output().expect("cryptsetup-bin is installed").status.success()
        };
        assert!(verify(&bytes), "{blocks} blocks");
        bytes[blocks * 4096 - 1] ^= 1;
        assert!(!verify(&bytes), "{blocks} blocks with a flipped bit");
    }
}
