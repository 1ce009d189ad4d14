//! Disks with a flipped bit: what was read while booting ends the boot, what is read later gives the reader an error.

use crate::disk::Disk;
use crate::pod::Pod;
use crate::vm::{Firmware, Vm, wanted};

const DEVICE: &str = "virtio-blk-pci";

fn pod() -> Pod {
    Pod::new().service("web", "exec httpd -f -p 80 -h /www").shell()
}

#[test]
fn partitions_are_mounted_through_what_checks_them() {
    if !wanted() {
        return;
    }
    let mut vm = Vm::boot_disk(&Disk::new(&pod()), DEVICE, Firmware::Plain);
    vm.ready();
    let sources = vm.shell("cat /sys/block/dm-*/dm/name");
    assert_eq!(sources, "pod\nbase\ntop\n");
    assert!(!vm.console().contains("corrupted"), "{}", vm.console());
}

#[test]
fn a_flipped_bit_that_the_boot_reads_ends_the_boot() {
    if !wanted() {
        return;
    }
    // In the pod file system: what the guest boots from. In a layer: its superblock, at 1024.
    for (partition, text) in [("pod", &b"healthPort"[..]), ("base", &[0xe2, 0xe1, 0xf5, 0xe0])] {
        let disk = Disk::new(&pod());
        disk.flip(partition, text);
        let mut vm = Vm::boot_disk(&disk, DEVICE, Firmware::Plain);
        vm.ended();
        let console = vm.console();
        assert!(console.contains("is corrupted"), "{console}");
        assert!(console.contains("i2kit: fatal: "), "{console}");
        assert!(!console.contains("services, "), "no container started: {console}");
    }
}

#[test]
fn a_flipped_bit_that_a_container_reads_gives_it_an_error() {
    if !wanted() {
        return;
    }
    let secret = "a file that is read after the boot: 0123456789\n".repeat(400);
    let pod = pod().base_file("srv/later", secret.as_bytes());
    let disk = Disk::new(&pod);
    disk.flip("base", &secret.as_bytes()[..2000]);
    let mut vm = Vm::boot_disk(&disk, DEVICE, Firmware::Plain);
    vm.ready();
    assert_eq!(vm.shell("cat /srv/later"), "cat: read error: Input/output error\n");
    // What the bit does not touch is served.
    assert_eq!(vm.shell("wget -qO- http://127.0.0.1/"), "from the top\n");
    assert!(vm.console().contains("is corrupted"), "{}", vm.console());
}

#[test]
fn a_flipped_bit_of_the_hashes_gives_an_error_too() {
    if !wanted() {
        return;
    }
    let disk = Disk::new(&pod());
    let partition = disk.partition("base");
    let tree = disk.flip("base", b"verity\0\0");
    // The block that describes the tree is for other tools; the block behind it is the topmost of the tree.
    disk.flip_at("base", tree + 4096);
    assert!(tree + 4096 < partition.length);
    let mut vm = Vm::boot_disk(&disk, DEVICE, Firmware::Plain);
    vm.ended();
    assert!(vm.console().contains("i2kit: fatal: "), "{}", vm.console());
}
