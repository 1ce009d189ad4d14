//! A machine that is told who it is, and machines that start from one snapshot of it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use i2kit_spec::cmdline::{IDENTITY, IDENTITY_AWAITED};
use i2kit_spec::identity::{
    IDENTITY_PORT, IDENTITY_TAKEN, IDENTITY_VERSION, IDENTITY_WANTED, Identity, SEED_BYTES, encode_identity,
};

use crate::control::connect;
use crate::pod::Pod;
use crate::vm::{PATIENCE, Vm, wanted};

/// Seconds since the Unix epoch, far from now.
const TIME: u64 = 2_000_000_000;

/// What a machine is, a line each.
const OWN: &str = "hostname; cat /sys/class/net/eth0/address /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | base64";

/// Boots a machine that waits to be told who it is at the socket in this folder.
fn boot(folder: &Path, pod: &Pod, more: &[&str]) -> Vm {
    let chardev = format!("socket,id=identity,path={},server=on,wait=off", folder.join("identity").display());
    let port = format!("virtserialport,chardev=identity,name={IDENTITY_PORT}");
    let own = ["-device", "virtio-serial-pci", "-chardev", &chardev, "-device", &port];
    let parameters = format!("{IDENTITY}={IDENTITY_VERSION} {IDENTITY}={IDENTITY_AWAITED}");
    Vm::boot_with(pod, &parameters, &[&own, more].concat())
}

fn message(number: u8) -> Vec<u8> {
    let identity = Identity {
        parameters: format!("i2kit.instance=test-{number} i2kit.net=10.0.2.15/24,10.0.2.2,10.0.2.3"),
        hardware: Some([2, 0, 10, 78, 1, number]),
        time: TIME * 1_000_000_000,
        seed: [number; SEED_BYTES],
    };
    encode_identity(&identity).unwrap()
}

/// Reads until the guest has said this.
fn hear(stream: &mut UnixStream, word: &[u8]) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut heard, mut byte) = (Vec::new(), [0]);
    while !heard.ends_with(word) {
        stream.read_exact(&mut byte).unwrap();
        heard.push(byte[0]);
    }
}

/// Tells the guest who it is, and sees that it is that.
fn tell(vm: &mut Vm, stream: &mut UnixStream, number: u8) -> Vec<String> {
    stream.write_all(&message(number)).unwrap();
    hear(stream, IDENTITY_TAKEN);
    vm.ready();
    let answer: Vec<String> = vm.shell(OWN).lines().map(str::to_owned).collect();
    assert_eq!(answer[..2], [format!("test-{number}"), format!("02:00:0a:4e:01:0{number}")]);
    let date: u64 = vm.shell("date +%s").trim().parse().unwrap();
    assert!((TIME..TIME + 100_000).contains(&date), "{date}");
    assert_eq!(vm.get("/bootid").body.trim(), answer[2]);
    answer
}

#[test]
fn a_guest_asks_until_it_is_told_who_it_is() {
    if !wanted() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut vm = boot(folder.path(), &Pod::new().shell(), &[]);
    let path = folder.path().join("identity");
    let mut host = connect(&path);
    hear(&mut host, IDENTITY_WANTED);
    // A host that ends amid its answer, and one that has none.
    host.write_all(&message(1)[..40]).unwrap();
    drop(host);
    let mut host = connect(&path);
    hear(&mut host, IDENTITY_WANTED);
    drop(host);
    assert!(!vm.console().contains("network, "), "{}", vm.console());
    let mut host = connect(&path);
    hear(&mut host, IDENTITY_WANTED);
    tell(&mut vm, &mut host, 2);
    let console = vm.console();
    assert!(console.find("identity, ") < console.find("network, "), "{console}");
}

#[test]
fn machines_of_one_snapshot_are_told_apart() {
    if !wanted() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let pod = Pod::new().shell();
    let memory = folder.path().join("ram").display().to_string();
    let of = |how: &str| format!("memory-backend-file,id=ram,size=128M,mem-path={memory},{how}");
    let machine = ["-machine", "memory-backend=ram,suppress-vmdesc=on"];
    let plain = ["-global", "migration.send-configuration=off"];
    let first = folder.path().join("first");
    fs::create_dir(&first).unwrap();
    let template = of("share=on");
    let vm = boot(&first, &pod, &[&machine[..], &plain, &["-object", &template]].concat());
    let mut host = connect(&first.join("identity"));
    hear(&mut host, IDENTITY_WANTED);
    vm.qmp("stop");
    let devices = folder.path().join("devices");
    vm.execute(&format!(
        r#"{{"execute": "xen-save-devices-state", "arguments": {{"filename": "{}", "live": false}}}}"#,
        devices.display()
    ));
    drop((host, vm));
    let devices = fs::read(devices).unwrap();
    let before = fs::read(&memory).unwrap();

    let copy = of("share=off");
    let start = |number: u8| {
        let own = folder.path().join(number.to_string());
        fs::create_dir(&own).unwrap();
        let incoming = own.join("incoming");
        let uri = format!("unix:{}", incoming.display());
        let more = [&machine[..], &plain, &["-object", &copy, "-incoming", &uri]].concat();
        let vm = boot(&own, &pod, &more);
        let mut state = connect(&incoming);
        state.write_all(&devices).unwrap();
        drop(state);
        // It is told once it runs, as the local cloud does.
        while vm.execute(r#"{"execute": "query-status"}"#).contains("inmigrate") {
            std::thread::sleep(Duration::from_millis(5));
        }
        (vm, connect(&own.join("identity")))
    };
    let mut machines: Vec<(Vm, Vec<String>)> = (1..=2)
        .map(|number| {
            let (mut vm, mut host) = start(number);
            let answer = tell(&mut vm, &mut host, number);
            (vm, answer)
        })
        .collect();
    let [(_, one), (_, two)] = &machines[..] else { panic!("two machines") };
    for (at, what) in ["name", "address", "boot id", "random numbers"].iter().enumerate() {
        assert_ne!(one[at], two[at], "{what}");
    }
    // Both run, and neither has written where the other one reads.
    for (vm, answer) in &mut machines {
        assert_eq!(vm.shell("hostname").trim(), answer[0]);
    }
    drop(machines);
    // Told as soon as anybody is at the host's end of the port, each says that it has taken it.
    for number in 3..13 {
        let (vm, mut host) = start(number);
        host.write_all(&message(number)).unwrap();
        hear(&mut host, IDENTITY_TAKEN);
        drop(vm);
    }
    assert!(fs::read(&memory).unwrap() == before, "the snapshot is as it was");
}
