//! The disk in the formats of other programs: qemu sees the bytes of the raw disk in each, and boots from it.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use i2kit::image::FileFormat;

use crate::disk::Disk;
use crate::pod::Pod;
use crate::vm::{Firmware, PATIENCE, Vm, wanted};

#[test]
fn every_format_shows_the_same_disk_and_boots() {
    if !wanted() {
        return;
    }
    let pod = Pod::new().service("web", "exec httpd -f -p 80 -h /www").shell();
    let raw = Disk::new(&pod);
    for format in [FileFormat::Qcow2, FileFormat::Vhd, FileFormat::Vmdk] {
        let disk = Disk::with(&pod, format, None);
        let folder = tempfile::tempdir().unwrap();
        let seen = folder.path().join("seen");
        convert(&disk, &seen, folder.path());
        assert_same(&seen, &raw.path(), format);
        let mut vm = Vm::boot_disk(&disk, "virtio-blk-pci", Firmware::Plain);
        vm.ready();
        assert_eq!(vm.shell("wget -qO- http://127.0.0.1/"), "from the top\n");
    }
}

/// Has qemu copy what it sees of a disk into a raw file.
fn convert(disk: &Disk, seen: &Path, folder: &Path) {
    File::create(seen).unwrap().set_len(1 << 30).unwrap();
    let socket = folder.join("qmp");
    let source = format!(
        "driver={},node-name=source,read-only=on,file.driver=file,file.filename={}",
        disk.driver(),
        disk.path().display()
    );
    let target = format!("driver=raw,node-name=target,file.driver=file,file.filename={}", seen.display());
    let mut daemon = Command::new("qemu-storage-daemon")
        .args(["--blockdev", &source, "--blockdev", &target])
        .args(["--chardev", &format!("socket,id=qmp,server=on,wait=off,path={}", socket.display())])
        .args(["--monitor", "chardev=qmp"])
        .stdin(Stdio::null())
        .spawn()
        .expect("qemu-storage-daemon is installed with qemu");
    let start = Instant::now();
    let stream = loop {
        match UnixStream::connect(&socket) {
            Ok(stream) => break stream,
            Err(error) => assert!(start.elapsed() < PATIENCE, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let copy = r#"{"execute": "blockdev-backup", "arguments":
        {"device": "source", "target": "target", "sync": "full", "job-id": "copy"}}"#;
    for command in [r#"{"execute": "qmp_capabilities"}"#, copy] {
        (&stream).write_all(command.as_bytes()).unwrap();
    }
    let lines = BufReader::new(&stream).lines().map(Result::unwrap);
    let end = lines.inspect(|line| assert!(!line.contains("\"error\""), "{line}"));
    let end =
        end.into_iter().find(|line| line.contains("BLOCK_JOB_COMPLETED") || line.contains("\"concluded\""));
    assert!(end.is_some());
    (&stream).write_all(br#"{"execute": "quit"}"#).unwrap();
    daemon.wait().unwrap();
}

fn assert_same(one: &Path, other: &Path, format: FileFormat) {
    assert_eq!(fs::metadata(one).unwrap().len(), fs::metadata(other).unwrap().len(), "{format:?}");
    let (mut one, mut other) = (File::open(one).unwrap(), File::open(other).unwrap());
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    for mib in 0..1024 {
        one.read_exact(&mut left).unwrap();
        other.read_exact(&mut right).unwrap();
        assert!(left == right, "{format:?} differs in MiB {mib}");
    }
}
