//! Firmware with Secure Boot starts what is signed, and nothing that was changed after it was signed.

use std::path::Path;
use std::process::Command;

use i2kit::image::{FileFormat, Signer};

use crate::disk::Disk;
use crate::pod::Pod;
use crate::vm::{Firmware, Vm, wanted};

const DEVICE: &str = "virtio-blk-pci";
/// Debian's package ovmf has a key that everybody knows, for tests, and variables that enrol it.
const SNAKEOIL: &str = "/usr/share/ovmf/PkKek-1-snakeoil";

fn pod() -> Pod {
    Pod::new().service("web", "exec httpd -f -p 80 -h /www").shell()
}

fn signer(folder: &Path) -> Signer {
    let key = folder.join("key.pem");
    let status = Command::new("openssl")
        .args(["pkey", "-passin", "pass:snakeoil", "-in", &format!("{SNAKEOIL}.key"), "-out"])
        .arg(&key)
        .status()
        .expect("openssl is installed");
    assert!(status.success());
    Signer { key, certificate: format!("{SNAKEOIL}.pem").into() }
}

#[test]
fn what_is_signed_boots_and_what_is_not_does_not() {
    if !wanted() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let signed = Disk::with(&pod(), FileFormat::Raw, Some(&signer(folder.path())));
    let mut vm = Vm::boot_disk(&signed, DEVICE, Firmware::SecureBoot);
    vm.ready();
    assert_eq!(vm.shell("wget -qO- http://127.0.0.1/"), "from the top\n");
    drop(vm);

    // A bit of the command line, and one of the root hashes: both are below the signature.
    for text in [&b"console=ttyS0 quiet"[..], b"\"dataBlocks\":"] {
        let tampered = Disk::with(&pod(), FileFormat::Raw, Some(&signer(folder.path())));
        tampered.flip("esp", text);
        let mut vm = Vm::boot_disk(&tampered, DEVICE, Firmware::SecureBoot);
        vm.says("Access Denied");
        assert!(!vm.console().contains("i2kit: "), "{}", vm.console());
    }
    let mut vm = Vm::boot_disk(&Disk::new(&pod()), DEVICE, Firmware::SecureBoot);
    vm.says("Access Denied");
    assert!(!vm.console().contains("i2kit: "), "{}", vm.console());
}
