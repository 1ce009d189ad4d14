//! Templates as files: one is found that is what was written, and no other.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::mutations::survive;
use crate::plan::example;
use crate::plan::fleet::LaunchDisk;

const CMDLINE: &str = "quiet i2kit.identity=1";

fn home(root: &Path) -> Home {
    Home::new(&root.join("state"), &root.join("cache"), PathBuf::new())
}

fn launch(image: u8) -> LaunchSpec {
    LaunchSpec { memory_mib: 1, ..example::launch(ImageId(Digest::of(&[image]))) }
}

fn facts(launch: &LaunchSpec) -> KindFacts<'_> {
    KindFacts { launch, cmdline: CMDLINE, own_network: true, accelerator: Accelerator::Tcg, qemu: "7.2" }
}

pub(in crate::cloud::local) fn kind(image: u8) -> Kind {
    Kind::of(&facts(&launch(image))).unwrap()
}

/// Makes a template as qemu does: with other files beside it.
pub(in crate::cloud::local) fn make(home: &Home, kind: &Kind) {
    let folder = begin(home).unwrap();
    let memory = OpenOptions::new().write(true).open(folder.path().join(MEMORY)).unwrap();
    memory.set_len(1 << 20).unwrap();
    fs::write(folder.path().join(DEVICES), "state of devices").unwrap();
    fs::write(folder.path().join("console.log"), "text").unwrap();
    keep(home, kind, 1, folder).unwrap();
}

#[test]
fn a_kind_is_all_that_a_machine_has_in_common_with_others() {
    let plain = launch(1);
    let mut kinds = BTreeSet::from([Kind::of(&facts(&plain)).unwrap().key()]);
    let others = [
        launch(2),
        LaunchSpec { memory_mib: 2, ..launch(1) },
        LaunchSpec { vcpus: 2, ..launch(1) },
        LaunchSpec { scratch_bytes: vec![Bytes(4096)], ..launch(1) },
        LaunchSpec { scratch_bytes: vec![Bytes(8192)], ..launch(1) },
        LaunchSpec { secrets: [("db".to_owned(), Some("1".to_owned()))].into(), ..launch(1) },
    ];
    for launch in &others {
        assert!(kinds.insert(Kind::of(&facts(launch)).unwrap().key()), "{launch:?}");
    }
    for other in [
        KindFacts { own_network: false, ..facts(&plain) },
        KindFacts { accelerator: Accelerator::Kvm, ..facts(&plain) },
        KindFacts { qemu: "7.3", ..facts(&plain) },
        KindFacts { cmdline: "i2kit.identity=1", ..facts(&plain) },
    ] {
        assert!(kinds.insert(Kind::of(&other).unwrap().key()), "{other:?}");
    }
    // What does not show in a machine that has no name yet makes no other kind.
    let same = LaunchSpec { containers: vec!["other".into()], health_port: 1, ..launch(1) };
    let values = LaunchSpec { secrets: [("db".to_owned(), Some("2".to_owned()))].into(), ..launch(1) };
    for launch in [same, values] {
        assert!(!kinds.insert(Kind::of(&facts(&launch)).unwrap().key()), "{launch:?}");
    }
}

#[test]
fn a_machine_with_a_disk_of_its_own_or_an_older_guest_is_of_no_kind() {
    let disks = vec![LaunchDisk::Claim("data".into())];
    assert_eq!(Kind::of(&facts(&LaunchSpec { disks, ..launch(1) })), None);
    for cmdline in ["quiet", "quiet i2kit.identity=2"] {
        assert_eq!(Kind::of(&KindFacts { cmdline, ..facts(&launch(1)) }), None);
    }
}

#[test]
fn a_template_is_found_as_it_was_written_and_is_its_users_alone() {
    let root = tempfile::tempdir().unwrap();
    let home = home(root.path());
    assert!(find(&home, &kind(1)).unwrap().is_none());
    make(&home, &kind(1));
    // Another process may have made it too.
    make(&home, &kind(1));
    let found = find(&home, &kind(1)).unwrap().unwrap();
    assert_eq!(found.devices, b"state of devices");
    assert_eq!(fs::metadata(&found.memory).unwrap().permissions().mode() & 0o777, 0o600);
    let folder = home.template(kind(1).key());
    let names: BTreeSet<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names, BTreeSet::from([MEMORY, DEVICES, RECORD].map(str::to_owned)));
    assert_eq!(fs::read_dir(home.templates()).unwrap().count(), 1, "nothing is left of the second one");
    assert!(find(&home, &kind(2)).unwrap().is_none());
    remove(&home, kind(1).key()).unwrap();
    assert!(find(&home, &kind(1)).unwrap().is_none());
    remove(&home, kind(1).key()).unwrap();
}

#[test]
fn what_is_not_as_it_was_written_is_no_template() {
    type Damage = fn(&Path);
    let damages: [Damage; 6] = [
        |folder| {
            let mut file = OpenOptions::new().write(true).open(folder.join(MEMORY)).unwrap();
            file.write_all(b"x").unwrap();
        },
        |folder| OpenOptions::new().write(true).open(folder.join(MEMORY)).unwrap().set_len(0).unwrap(),
        |folder| fs::remove_file(folder.join(MEMORY)).unwrap(),
        |folder| fs::write(folder.join(DEVICES), "state of Devices").unwrap(),
        |folder| fs::remove_file(folder.join(DEVICES)).unwrap(),
        |folder| fs::remove_file(folder.join(RECORD)).unwrap(),
    ];
    for damage in damages {
        let root = tempfile::tempdir().unwrap();
        let home = home(root.path());
        make(&home, &kind(1));
        // Times of files are those of the kernel's last tick.
        std::thread::sleep(Duration::from_millis(20));
        damage(&home.template(kind(1).key()));
        assert!(find(&home, &kind(1)).is_err());
        remove(&home, kind(1).key()).unwrap();
        make(&home, &kind(1));
        assert!(find(&home, &kind(1)).unwrap().is_some());
    }
}

#[test]
fn a_machine_that_left_too_little_is_no_template() {
    let root = tempfile::tempdir().unwrap();
    let home = home(root.path());
    let folder = begin(&home).unwrap();
    fs::write(folder.path().join(DEVICES), "state").unwrap();
    let refused = keep(&home, &kind(1), 1, folder).unwrap_err().to_string();
    assert!(refused.contains("0 bytes of memory"), "{refused}");
    assert_eq!(fs::read_dir(home.templates()).unwrap().count(), 0, "nothing is left of it");
}

#[test]
fn the_longest_unused_give_way_and_none_that_was_used_lately() {
    let root = tempfile::tempdir().unwrap();
    let home = home(root.path());
    let images: Vec<u8> = (0..8).collect();
    for image in &images {
        make(&home, &kind(*image));
    }
    let now = clock::of_files();
    let refused = make_room(&home, now).unwrap_err();
    assert!(refused.contains("8 templates"), "{refused}");
    let age = |image: u8, minutes| {
        let folder = File::open(home.template(kind(image).key())).unwrap();
        folder.set_modified(now - Duration::from_mins(minutes)).unwrap();
    };
    age(3, 60);
    age(5, 90);
    assert_eq!(make_room(&home, now), Ok(vec![kind(5).key()]));
    assert_eq!(make_room(&home, now), Ok(vec![]), "there is room");
    make(&home, &kind(5));
    // Its use counts.
    assert!(find(&home, &kind(3)).unwrap().is_some());
    assert!(make_room(&home, now).is_err());
}

#[test]
fn what_a_killed_process_left_goes_once_nobody_can_be_at_it() {
    let root = tempfile::tempdir().unwrap();
    let home = home(root.path());
    let folder = begin(&home).unwrap();
    make(&home, &kind(1));
    let now = clock::of_files();
    sweep(&home, now);
    assert!(folder.path().exists());
    // The cache spares it for as long.
    let listed = || crate::registry::cache::list(&home.cache).unwrap().len();
    assert_eq!(listed(), 1);
    File::open(folder.path()).unwrap().set_modified(now - ABANDONED - Duration::from_secs(1)).unwrap();
    assert_eq!(listed(), 2);
    sweep(&home, now + Duration::from_hours(1));
    assert!(!folder.path().exists());
    assert!(find(&home, &kind(1)).unwrap().is_some());
}

#[test]
fn memory_that_is_left_is_read() {
    let text = "MemTotal:       16000000 kB\nMemFree:  1 kB\nMemAvailable:    2048 kB\n";
    assert_eq!(available(text), Some(2 << 20));
    assert_eq!(available("MemAvailable: many kB"), None);
    assert_eq!(available(""), None);
    let root = tempfile::tempdir().unwrap();
    let refused = has_room(&home(root.path()), u32::MAX).unwrap_err();
    assert!(refused.ends_with("MiB left"), "{refused}");
    survive(&[Vec::from(text)], 1000, |bytes| {
        let _ = available(&String::from_utf8_lossy(bytes));
    });
}

#[test]
fn whatever_a_record_holds_is_read_or_refused() {
    let root = tempfile::tempdir().unwrap();
    let home = home(root.path());
    make(&home, &kind(1));
    let record = fs::read(home.template(kind(1).key()).join(RECORD)).unwrap();
    survive(&[record], 2000, |bytes| {
        if let Ok(read) = serde_json::from_slice::<Record>(bytes) {
            let written = serde_json::to_vec(&read).unwrap();
            assert_eq!(serde_json::from_slice::<Record>(&written).unwrap(), read);
        }
    });
}
