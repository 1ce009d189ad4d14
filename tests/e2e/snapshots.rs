//! Machines that start from a snapshot: they are their own, nothing of a Secret is in it, and whatever is wrong with it they boot.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use i2kit::plan::fleet::{Health, Instance};

use crate::support::{World, eventually, kill, machines};

/// What must not be in a snapshot.
const CANARY: &str = "canary-51c9d2e8";

/// A server with a Secret, which writes down once what it finds itself to be.
const MANIFEST: &str = "apiVersion: v1
kind: Secret
metadata: {name: login}
stringData: {password: canary-51c9d2e8}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata:
      labels: {app: web}
      annotations: {i2kit.dev/snapshot: before-containers}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: web
          image: busybox:1.35
          command:
            - /bin/sh
            - -c
            - |
              head -c 16 /dev/urandom | base64 > /tmp/random; date +%s > /tmp/date
              echo $POD_IP > /tmp/address; echo $PASSWORD > /tmp/password
              exec sleep 1000000
          env:
            - {name: PASSWORD, valueFrom: {secretKeyRef: {name: login, key: password}}}
            - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
          volumeMounts: [{name: scratch, mountPath: /scratch}]
      volumes:
        - {name: scratch, emptyDir: {sizeLimit: 16Mi}}
";

/// What is a machine's own, a line each: its name, boot id, random numbers, Ethernet address, address.
const OWN: &str =
    "hostname; cat /proc/sys/kernel/random/boot_id /tmp/random /sys/class/net/eth0/address /tmp/address";

/// The snapshots of a world with a cache of its own. One that is being made has another name until all of it is there.
fn templates(world: &World) -> Vec<PathBuf> {
    let folders = fs::read_dir(world.cache().join("i2kit/templates")).into_iter().flatten().flatten();
    let named = folders.filter(|entry| !entry.file_name().to_string_lossy().starts_with(".new-"));
    named.map(|entry| entry.path()).filter(|path| path.join("template.json").exists()).collect()
}

/// The one snapshot, once it is there and has another record than `before`.
fn template(world: &World, before: Option<&str>) -> PathBuf {
    eventually("snapshot", || {
        let found = templates(world).pop()?;
        let record = fs::read_to_string(found.join("template.json")).ok()?;
        (before != Some(record.as_str())).then_some(found)
    })
}

/// All machines of the group, once there are so many and all are healthy.
fn healthy(world: &World, count: usize) -> Vec<Instance> {
    eventually("healthy machines", || {
        let group = world.group("web");
        let members: Vec<Instance> = group.members().cloned().collect();
        let is_healthy = |member: &Instance| member.health == Health::Healthy;
        (members.len() == count && members.iter().all(is_healthy)).then_some(members)
    })
}

fn scale(world: &World, count: usize) -> Vec<Instance> {
    world.i2kit(&["scale", "web", "--replicas", &count.to_string()]).run();
    healthy(world, count)
}

/// Whether the file has the text anywhere, read in pieces: it may be large.
fn holds(file: &Path, text: &str) -> bool {
    let mut file = File::open(file).unwrap();
    let (mut piece, mut buffer) = (Vec::new(), vec![0; 1 << 20]);
    loop {
        let length = file.read(&mut buffer).unwrap();
        if length == 0 {
            return false;
        }
        piece.extend_from_slice(&buffer[..length]);
        if String::from_utf8_lossy(&piece).contains(text) {
            return true;
        }
        // A text may lie across the end of a piece.
        piece.drain(..piece.len().saturating_sub(text.len()));
    }
}

fn ask(world: &World, instance: &Instance, script: &str) -> String {
    world.i2kit(&["exec", &instance.id, "--", "sh", "-c", script]).run().stdout
}

#[expect(clippy::disallowed_methods, reason = "the host has a clock")]
fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// No two machines have anything in common that is to be one machine's alone, and each has what its pod is given.
fn are_their_own(world: &World, members: &[Instance]) {
    let answers: Vec<Vec<String>> =
        members.iter().map(|member| ask(world, member, OWN).lines().map(str::to_owned).collect()).collect();
    for (at, what) in ["name", "boot id", "random numbers", "Ethernet address", "address"].iter().enumerate()
    {
        // On qemu's user network machines have one address, each in a network of its own.
        if at >= 3 && members.iter().any(|member| member.address.is_none()) {
            continue;
        }
        let different: BTreeSet<&String> = answers.iter().map(|answer| &answer[at]).collect();
        assert_eq!(different.len(), members.len(), "{what}: {answers:?}");
    }
    for (member, answer) in members.iter().zip(&answers) {
        assert_eq!(*answer[0], *member.id);
        assert_eq!(Some(&answer[1]), member.boot_id.as_ref(), "the status is that of this machine");
        if let Some(address) = member.address {
            assert_eq!(answer[4], address.to_string());
        }
        assert_eq!(
            ask(world, member, "cat /tmp/password; touch /scratch/file && echo written"),
            format!("{CANARY}\nwritten\n")
        );
        // Its clock was set before its containers were started.
        let date: u64 = ask(world, member, "cat /tmp/date").trim().parse().unwrap();
        let now = seconds();
        assert!(date >= member.since.saturating_sub(60) && date <= now + 60, "{date}, {now}, {member:?}");
    }
}

#[test]
fn further_machines_start_from_a_snapshot_and_are_their_own() {
    if !machines() {
        return;
    }
    let world = World::new().with_own_cache().file("web.yaml", MANIFEST);
    world.i2kit(&["check", "web.yaml"]).run();
    world.i2kit(&["deploy", "web.yaml"]).run();
    assert!(!world.group("web").instances[0].from_snapshot, "there is none yet");
    let folder = template(&world, None);
    let members = scale(&world, 2);
    assert_eq!(members.iter().filter(|member| member.from_snapshot).count(), 1, "{members:#?}");
    world.i2kit(&["events", "web"]).prints(", from a snapshot").run();
    world.i2kit(&["status", "web"]).prints(", from a snapshot").run();
    world.i2kit(&["cache", "ls"]).prints("template").run();
    world.i2kit(&["cache", "verify"]).run();
    are_their_own(&world, &members);

    // All of its bytes, and of those beside it: nothing of the Secret. What must be there is found by the same search.
    let memory = folder.join("ram");
    assert!(holds(&memory, "i2kit.identity=port"));
    for entry in fs::read_dir(&folder).unwrap().flatten() {
        for text in [CANARY.to_owned(), STANDARD.encode(CANARY)] {
            assert!(!holds(&entry.path(), &text), "{}", entry.path().display());
        }
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} is others' too: {mode:o}", entry.path().display());
    }

    // The process that starts them is killed amid it; the next one goes on.
    let mut scaling = world.i2kit(&["scale", "web", "--replicas", "5"]).start();
    eventually("a third machine", || (world.group("web").members().count() > 2).then_some(()));
    kill(world.local_cloud());
    let _ = scaling.wait();
    let members = scale(&world, 5);
    are_their_own(&world, &members);
    assert!(!members.iter().all(|member| member.from_snapshot));

    // A machine that is replaced starts from it as well.
    let first = members.iter().find(|member| !member.from_snapshot).unwrap();
    kill(first.pid.unwrap());
    let replacement = eventually("replacement", || {
        let found = healthy(&world, 5);
        found.into_iter().find(|found| members.iter().all(|member| member.id != found.id))
    });
    assert!(replacement.from_snapshot, "{replacement:#?}");
    world.i2kit(&["destroy", "web.yaml"]).run();
    world.assert_nothing_left();
    assert_eq!(templates(&world), [folder], "it outlives its machines");
    world.i2kit(&["cache", "prune", "--all"]).run();
    assert!(templates(&world).is_empty());
}

#[test]
fn a_machine_boots_where_its_snapshot_is_damaged_and_another_one_is_made() {
    if !machines() {
        return;
    }
    let world = World::new().with_own_cache().file("web.yaml", MANIFEST);
    world.i2kit(&["deploy", "web.yaml"]).run();
    let folder = template(&world, None);
    let first = fs::read_to_string(folder.join("template.json")).unwrap();
    OpenOptions::new().write(true).open(folder.join("ram")).unwrap().write_all(b"damage").unwrap();
    let members = scale(&world, 2);
    assert!(members.iter().all(|member| !member.from_snapshot), "{members:#?}");
    let log = fs::read_to_string(world.state().join("i2kit/local/cloud.log")).unwrap();
    assert!(log.contains("ram is not the file that was written; it is removed"), "{log}");
    template(&world, Some(&first));
    let members = scale(&world, 3);
    assert_eq!(members.iter().filter(|member| member.from_snapshot).count(), 1, "{members:#?}");
    are_their_own(&world, &members);

    // One that is as it was written, and whose devices no qemu takes.
    let folder = template(&world, None);
    let devices = fs::read(folder.join("devices")).unwrap();
    let damaged = &devices[..devices.len() / 2];
    fs::write(folder.join("devices"), damaged).unwrap();
    let record = fs::read_to_string(folder.join("template.json")).unwrap();
    let digest = |bytes: &[u8]| i2kit::oci::Digest::of(bytes).to_string();
    assert!(record.contains(&digest(&devices)), "{record}");
    let record = record.replace(&digest(&devices), &digest(damaged));
    fs::write(folder.join("template.json"), record).unwrap();
    let members = scale(&world, 4);
    assert_eq!(members.iter().filter(|member| member.from_snapshot).count(), 1, "{members:#?}");
    let log = fs::read_to_string(world.state().join("i2kit/local/cloud.log")).unwrap();
    assert!(log.contains("does not start from its snapshot: "), "{log}");
    are_their_own(&world, &members);
    world.i2kit(&["destroy", "web.yaml"]).run();
    world.assert_nothing_left();
}

#[test]
fn a_pod_that_must_not_start_from_a_snapshot_boots_and_leaves_none() {
    if !machines() {
        return;
    }
    let manifest = MANIFEST.replace("before-containers", "never");
    let world = World::new().with_own_cache().file("web.yaml", &manifest);
    world.write("wrong.yaml", &MANIFEST.replace("before-containers", "sometimes"));
    world.i2kit(&["check", "wrong.yaml"]).code(3).run();
    world.i2kit(&["deploy", "web.yaml"]).run();
    let members = scale(&world, 2);
    assert!(members.iter().all(|member| !member.from_snapshot), "{members:#?}");
    are_their_own(&world, &members);
    assert!(templates(&world).is_empty());
    world.i2kit(&["destroy", "web.yaml"]).run();
    world.assert_nothing_left();
}

#[test]
fn a_machine_that_becomes_a_snapshot_ends_with_the_process_that_makes_it() {
    if !machines() {
        return;
    }
    let world = World::new().with_own_cache().file("web.yaml", MANIFEST);
    world.i2kit(&["deploy", "web.yaml"]).run();
    let making = || {
        let found = world.processes().into_iter().find(|(_, words)| words.contains("-name guest=template "));
        found.map(|(pid, _)| pid)
    };
    let pid = eventually("a machine that becomes a snapshot", making);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    kill(world.local_cloud());
    eventually("end of it", || making().is_none().then_some(()));
    assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
    // The pod serves on, and nothing waits for what is not there.
    assert!(scale(&world, 2).iter().all(|member| !member.from_snapshot));
    world.i2kit(&["destroy", "web.yaml"]).run();
    world.assert_nothing_left();
}
