//! A whole computer with systemd that has the local cloud started at boot: it is shut down and started again, and then cut off
//! while a client writes. Its pods' machines are stand-ins (`benches/standin`), of which one writes to its disk what clients ask
//! for: the computer is emulated itself, and theirs would be emulated twice.

mod host;
#[path = "../../benches/standin/mod.rs"]
#[expect(
    clippy::disallowed_methods,
    dead_code,
    reason = "a stand-in has a clock; here the program is always one"
)]
mod standin;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use i2kit::manifest::api::Name;
use i2kit::plan::fleet::{Fleet, Health, Instance};
use tempfile::TempDir;

use crate::support::{eventually, guest, machines, root, tools};
use host::Host;

/// What serves, by a Service and an Ingress, and what keeps something on a disk.
const APP: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: web, image: 'busybox:1.35', command: [sleep, infinity]}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  rules:
    - http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}
---
apiVersion: v1
kind: Service
metadata: {name: disk}
spec: {type: LoadBalancer, selector: {app: disk}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: disk}
spec:
  selector: {matchLabels: {app: disk}}
  template:
    metadata: {labels: {app: disk}}
    spec:
      containers:
        - {name: disk, image: 'busybox:1.35', command: [sleep, infinity], volumeMounts: [{name: data, mountPath: /data}]}
  volumeClaimTemplates:
    - metadata: {name: data}
      spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 64Mi}}}
";

/// What is deployed right before the computer is cut off: another image than that of [`APP`].
const LATE: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: late}
spec:
  selector: {matchLabels: {app: late}}
  template:
    metadata: {labels: {app: late}}
    spec:
      containers: [{name: late, image: 'busybox:1.35', command: [sleep, '1000000']}]
";

/// Where images of test registries come from in the computer.
const ENVIRONMENT: &str = "name: reboot\nimages:\n  busybox:1.35: {layout: /usr/local/share/busybox}\n";

/// Has the kernel write no contents of files by itself any more: of those that nobody flushes, nothing is on the disk when the
/// computer goes off. Names get there with the file system's journal.
const WRITE_NOTHING: &str = "cd /proc/sys/vm && echo 0 >dirty_writeback_centisecs && echo 80 >dirty_ratio && \
                             echo 70 >dirty_background_ratio";

/// What an earlier boot left in the local cloud's folder and in that of temporary files: sockets from before this boot, and
/// what was half made. The folders of machines are looked at apart.
const LEFT: &str = r#"cd .local/state/i2kit/local
find . -maxdepth 1 -type s ! -newermt "@$(sed -n 's/^btime //p' /proc/stat)"
find . images volumes secrets -name 'new-*' -o -name '.new-*' -o -name '*.new' 2>/dev/null
find /tmp -mindepth 1 ! -path '/tmp/.*' ! -path '/tmp/systemd-*'"#;

/// Processes of the local cloud, and its machines.
const PROCESSES: &str =
    "for process in /proc/[0-9]*; do readlink $process/exe; done | grep -E '/(i2kit|stand-in)( |$)'; true";

/// How many records a client of the disk has been told of, at least, when the computer is cut off.
const RECORDS: u64 = 20;

/// A machine of the computer that [`the_host_is_rebooted_and_cut_off`] boots, whose qemu is this program.
#[test]
#[ignore = "the computer that another test boots calls it as its qemu"]
fn a_machine_of_the_host() {
    standin::run();
}

/// What the computer finds in `/usr/local`: the program, what is qemu to it, an image, and manifests.
fn programs(folder: &Path) {
    let qemu = fs::read_to_string(root().join("tests/e2e/reboot/bin/qemu-system-x86_64")).unwrap();
    assert!(
        qemu.contains(module_path!().trim_start_matches("e2e::")) && qemu.contains("a_machine_of_the_host"),
        "{qemu}"
    );
    let share = folder.join("share");
    for made in ["bin", "lib", "share/guest"] {
        fs::create_dir_all(folder.join(made)).unwrap();
    }
    let run = |command: &mut Command| assert!(command.status().unwrap().success(), "{command:?}");
    run(Command::new("cp").arg("-rT").arg(root().join("tests/e2e/reboot/bin")).arg(folder.join("bin")));
    let this = std::env::current_exe().unwrap();
    for (from, to) in
        [(Path::new(env!("CARGO_BIN_EXE_i2kit")), "bin/i2kit"), (this.as_path(), "lib/stand-in")]
    {
        run(Command::new("strip").arg("-o").arg(folder.join(to)).arg(from));
    }
    for file in ["guest.json", "kernel", "initrd", "initrd.cloud", "stub.efi", "coordinator.tar"] {
        fs::copy(guest().join(file), share.join("guest").join(file)).unwrap();
    }
    let images = root().join("target/test-images/layout");
    let [from, to] =
        [&images, &share.join("busybox")].map(|path| format!("oci:{}:busybox-1.35", path.display()));
    run(Command::new("skopeo").args(["copy", "-q", &from, &to]));
    for (name, text) in [("app.yaml", APP), ("late.yaml", LATE), ("environment.yml", ENVIRONMENT)] {
        fs::write(share.join(name), text).unwrap();
    }
}

impl Host {
    /// What the program prints.
    fn i2kit(&mut self, arguments: &str) -> String {
        let environment = "cd /usr/local/share && export I2KIT_GUEST=/usr/local/share/guest";
        self.run(&format!(
            "{environment} && {{ i2kit {arguments} 2>/run/said || {{ cat /run/said; exit 1; }}; }}"
        ))
    }

    fn fleet(&mut self) -> Fleet {
        serde_json::from_str(&self.i2kit("status --output json")).unwrap()
    }

    /// What a server of the computer answers; nothing where none does.
    fn ask(&mut self, address: &str, path: &str) -> Option<String> {
        let (code, answer) = self.attempt(&format!("ask {address} {path}"));
        Some(answer.trim_end().to_owned()).filter(|answer| code == 0 && !answer.is_empty())
    }

    /// The number that the stand-in with a disk answers.
    fn records(&mut self, seen: &Seen, path: &str) -> u64 {
        let answer = eventually("answer about records", || self.ask(&seen.addresses[2], path));
        answer.parse().unwrap_or_else(|_| panic!("{path}: {answer}"))
    }
}

/// What clients go by, which stays over every boot.
#[derive(Debug, PartialEq)]
struct Seen {
    /// Of the Service, of the Ingress and of the disk's Service.
    addresses: [String; 3],
    /// What the Service's name stands for between machines.
    name: Vec<u8>,
}

impl Seen {
    fn now(host: &mut Host) -> Self {
        let fleet = host.fleet();
        let addresses = ["web", "ingress/web", "disk"].map(|name| {
            let name = Name { namespace: "default".into(), name: name.into() };
            fleet.balancer(&name).and_then(|balancer| balancer.addresses().first().cloned())
        });
        let pid = instances(&fleet).find_map(|instance| instance.pid).unwrap();
        let answer = eventually("answer of the name server", || {
            let (code, answer) = host.attempt(&format!("resolve {pid}"));
            (code == 0 && !answer.trim().is_empty()).then_some(answer)
        });
        let bytes: Vec<u8> = answer.split_whitespace().map(|byte| byte.parse().unwrap()).collect();
        // A header of 12 bytes, with the number of addresses in its eighth; the last one ends the answer.
        assert!(bytes.len() > 12 && bytes[7] == 1, "{answer}");
        let name = bytes[bytes.len() - 4..].to_vec();
        Self { addresses: addresses.map(|address| address.expect("an address")), name }
    }
}

fn instances(fleet: &Fleet) -> impl Iterator<Item = &Instance> {
    fleet.groups.iter().flat_map(|group| &group.instances)
}

/// Waits until all of it is there again, without a command that would start the local cloud, and looks that clients find what
/// they knew and that nothing is left of the boot before.
fn comes_up(host: &mut Host, seen: &Seen, groups: &[(&str, u32)]) {
    // A stand-in answers with the name of its machine; what a proxy without one answers is nobody's.
    for (address, name) in seen.addresses.iter().zip(["web-", "web-", "disk-"]) {
        eventually("answer at the address of before", || {
            host.ask(address, "/").filter(|answer| answer.starts_with(name))
        });
    }
    host.run("systemctl is-active i2kit-local-cloud");
    let main = host.run("systemctl show --property MainPID --value i2kit-local-cloud");
    let status = host.i2kit("local-cloud status");
    assert!(status.contains(&format!("process {}\n", main.trim())), "{status}, and the unit has {main}");
    let fleet = eventually("health after a boot", || {
        let fleet = host.fleet();
        let healthy = |(name, count): &(&str, u32)| {
            let name = Name { namespace: "default".into(), name: (*name).into() };
            fleet.group(&name).is_some_and(|group| group.healthy() == *count)
        };
        groups.iter().all(healthy).then_some(fleet)
    });
    assert_eq!(Seen::now(host), *seen);
    for pid in instances(&fleet).filter(|found| found.health == Health::Healthy).filter_map(|found| found.pid)
    {
        host.run(&format!("grep -q i2kit-local-cloud.service /proc/{pid}/cgroup"));
    }
    eventually("end of what nobody knows", || {
        let known: BTreeSet<String> = instances(&host.fleet()).map(|found| found.id.to_string()).collect();
        let folders = host.run("ls .local/state/i2kit/local/instances");
        folders.lines().all(|folder| known.contains(folder)).then_some(())
    });
    assert_eq!(host.run(LEFT), "", "left of the boot before");
}

#[test]
fn the_host_is_rebooted_and_cut_off() {
    if !machines() || !tools() {
        return;
    }
    let folder = TempDir::with_prefix_in("host-", env!("CARGO_TARGET_TMPDIR")).unwrap();
    let files = folder.path().join("files");
    programs(&files);
    let mut host = Host::new(folder.path(), &files);
    let first = host.start();
    host.i2kit("deploy app.yaml");
    host.i2kit("local-cloud enable");
    let seen = eventually("addresses", || {
        let bound = host.fleet().balancers.iter().all(|balancer| !balancer.addresses().is_empty());
        bound.then(|| Seen::now(&mut host))
    });
    for number in 1..=3 {
        assert_eq!(host.records(&seen, "/append"), number);
    }
    // In order.
    let second = host.reboot();
    assert_ne!(first, second);
    comes_up(&mut host, &seen, &[("web", 2), ("disk", 1)]);
    assert_eq!(host.records(&seen, "/count"), 3);
    // At once.
    host.run(WRITE_NOTHING);
    // The unit is written anew: it is on the disk when the verb returns.
    host.i2kit("local-cloud disable");
    host.i2kit("local-cloud enable");
    host.i2kit("deploy late.yaml");
    host.run(&format!("writer {} >/dev/null 2>&1 &", seen.addresses[2]));
    let mut acknowledged = 3;
    while acknowledged < RECORDS {
        acknowledged = host.told().parse().unwrap();
    }
    let rest = host.cut();
    // A line that has no end may be cut in its middle.
    let whole = rest.rsplit_once('\n').map_or("", |(whole, _)| whole);
    if let Some(last) = whole.lines().last() {
        acknowledged = last.parse().unwrap();
    }
    let third = host.start();
    assert_ne!(second, third);
    comes_up(&mut host, &seen, &[("web", 2), ("disk", 1), ("late", 1)]);
    let count = host.records(&seen, "/count");
    assert!(count >= acknowledged, "{acknowledged} records were acknowledged, and {count} are there");
    // The end: nothing of it is there after another boot either.
    host.i2kit("destroy --all --volumes");
    host.i2kit("local-cloud disable");
    eventually("end of all processes", || host.run(PROCESSES).is_empty().then_some(()));
    assert_eq!(host.run("find .local/state/i2kit/local -mindepth 1 2>/dev/null; true"), "");
    assert_eq!(host.run("find /etc/systemd/system -name 'i2kit*'"), "");
}
