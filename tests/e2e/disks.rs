//! Disks that outlive machines: what a client was told is written is there after every kind of end.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use i2kit::plan::fleet::{Instance, InstanceGroup, InstanceState};

use crate::support::{Call, World, eventually, get, kill, machines, soaks};

/// Appends what a request says to a file on the disk, and answers with its name once that is on the disk: `dd` calls fsync.
const SERVE: &str = r#"mkdir -p /www/cgi-bin
printf '#!/bin/sh\necho "$QUERY_STRING" | dd of=/data/log conv=fsync,notrunc oflag=append 2>/dev/null && printf "Content-Type: text/plain\\n\\nok $QUERY_STRING $(hostname) REVISION\\n"\n' > /www/cgi-bin/append
chmod +x /www/cgi-bin/append
touch /data/log && ln -s /data/log /www/log
exec httpd -f -p 80 -h /www
"#;

/// A StatefulSet of three with a disk each, and a Deployment of one with a claim.
fn manifest(revision: &str, size: &str) -> String {
    let serve = SERVE.replace("REVISION", revision).replace('\n', "\n            ");
    let pod = |volumes: &str| {
        format!(
            "  template:\n    metadata: {{labels: {{app: NAME}}}}\n    spec:\n      terminationGracePeriodSeconds: 1\n      \
             securityContext: {{fsGroup: 2000}}\n      containers:\n      - name: log\n        image: busybox:1.35\n        \
             ports: [{{containerPort: 80}}]\n        readinessProbe: {{httpGet: {{path: /log, port: 80}}, periodSeconds: 1}}\n        \
             env:\n        - name: INDEX\n          valueFrom: {{fieldRef: {{fieldPath: \"metadata.labels['apps.kubernetes.io/pod-index']\"}}}}\n        \
             command: [/bin/sh, -c]\n        args:\n        - |\n            {serve}\n        volumeMounts: [{{name: data, mountPath: /data}}]\n{volumes}"
        )
    };
    let claim = format!("{{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: {size}}}}}}}");
    let set = pod("").replace("NAME", "web");
    let deployment = pod("      volumes: [{name: data, persistentVolumeClaim: {claimName: shared}}]\n")
        .replace("NAME", "one");
    format!(
        "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: web}}\nspec:\n  replicas: 3\n  podManagementPolicy: Parallel\n  \
         selector: {{matchLabels: {{app: web}}}}\n  volumeClaimTemplates:\n  - metadata: {{name: data}}\n    spec: {claim}\n{set}\
         ---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: shared}}\nspec: {claim}\n\
         ---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: one}}\nspec:\n  strategy: {{type: Recreate}}\n  \
         selector: {{matchLabels: {{app: one}}}}\n{deployment}"
    )
}

/// The instance of a group that serves, with that index.
fn serving(group: &InstanceGroup, ordinal: Option<u32>) -> Option<&Instance> {
    let mut running = group.instances.iter().filter(|instance| instance.state == InstanceState::Running);
    running.find(|instance| instance.ordinal == ordinal)
}

fn address(instance: &Instance) -> Option<String> {
    instance.endpoints.iter().find(|endpoint| endpoint.port == 80).map(|endpoint| endpoint.address.clone())
}

/// A client that has numbers appended, one after the other, and remembers those that it was told are written. The port of a machine
/// that has ended may be another one's: what that one writes is on another disk.
struct Writer {
    told: Arc<Mutex<Vec<u32>>>,
    target: Arc<Mutex<Option<String>>>,
    end: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Writer {
    /// One of that group's, of the member with that index.
    fn start((group, ordinal): (&str, Option<u32>)) -> Self {
        let name = ordinal.map_or_else(|| format!("{group}-"), |ordinal| format!("{group}-{ordinal} "));
        let told = Arc::<Mutex<Vec<u32>>>::default();
        let target = Arc::<Mutex<Option<String>>>::default();
        let end = Arc::new(AtomicBool::new(false));
        let (all, place, stop) = (Arc::clone(&told), Arc::clone(&target), Arc::clone(&end));
        let thread = std::thread::spawn(move || {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                let Some(address) = place.lock().unwrap().clone() else {
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                };
                number += 1;
                match get(&address, &format!("/cgi-bin/append?{number}")) {
                    Ok(answer) if answer.text.contains(&format!("ok {number} {name}")) => {
                        all.lock().unwrap().push(number);
                    }
                    _ => std::thread::sleep(Duration::from_millis(50)),
                }
            }
        });
        Self { told, target, end, thread: Some(thread) }
    }

    /// Waits until it is told of more numbers by whoever has the disk now.
    fn more(&self, world: &World, group: &str, ordinal: Option<u32>) {
        let before = self.told.lock().unwrap().len();
        eventually(&format!("more of {group} {ordinal:?} written"), || {
            let found = world.group(group);
            *self.target.lock().unwrap() = serving(&found, ordinal).and_then(address);
            (self.told.lock().unwrap().len() > before + 2).then_some(())
        });
    }

    /// All that it was told of is there.
    fn check(mut self, world: &World, group: &str, ordinal: Option<u32>) {
        self.end.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        let name = ordinal.map_or(group.to_owned(), |ordinal| format!("{group}-{ordinal}"));
        let log = world.i2kit(&["exec", &name, "--", "cat", "/data/log"]).run().stdout;
        let kept: BTreeSet<u32> = log.lines().filter_map(|line| line.parse().ok()).collect();
        let told = self.told.lock().unwrap();
        let lost: Vec<&u32> = told.iter().filter(|number| !kept.contains(*number)).collect();
        assert!(told.len() > 10 && lost.is_empty(), "{name}: {} told, lost {lost:?}", told.len());
    }
}

#[test]
fn what_was_acknowledged_survives_every_kind_of_end() {
    if !machines() {
        return;
    }
    let world = World::new();
    world.write("disks.yaml", &manifest("first", "64Mi"));
    // Only with the user network has each machine's port an address of this host, by which a client reaches that machine
    // alone. An environment keeps its kind of network.
    let user = |call: Call| call.environment("I2KIT_LOCAL_NETWORK", "user");
    let plan = world.i2kit(&["plan", "disks.yaml"]);
    user(plan).prints("+ disk data-web-1: 64 MiB").prints("+ disk shared").run();
    user(world.i2kit(&["deploy", "disks.yaml"])).run();
    for (name, index) in [("web-0", "0"), ("web/1", "1"), ("web-2", "2")] {
        let said =
            world.i2kit(&["exec", name, "--", "sh", "-c", "echo $(hostname) $INDEX; stat -c %g /data"]).run();
        assert_eq!(said.stdout, format!("web-{index} {index}\n2000\n"));
    }
    world.i2kit(&["status"]).prints("web-1 ").prints("data-web-0").run();
    let all = [("web", Some(0)), ("web", Some(1)), ("web", Some(2)), ("one", None)];
    let writers = all.map(Writer::start);
    let more = || {
        for (writer, (group, ordinal)) in writers.iter().zip(all) {
            writer.more(&world, group, ordinal);
        }
    };
    let pids = || all.map(|(group, ordinal)| serving(&world.group(group), ordinal).unwrap().pid.unwrap());
    more();
    // Each machine, then the local cloud, then all of them.
    for pid in pids() {
        kill(pid);
    }
    more();
    kill(world.local_cloud());
    more();
    let machines = pids();
    kill(world.local_cloud());
    for pid in machines {
        kill(pid);
    }
    more();

    // An update that is stopped half way, with the local cloud, and run again. Disks grow with it.
    world.write("disks.yaml", &manifest("second", "96Mi"));
    world.i2kit(&["plan", "disks.yaml"]).prints("~ disk data-web-1: 64 MiB -> 96 MiB, kept").run();
    let mut deploy = world.i2kit(&["deploy", "disks.yaml"]).start();
    eventually("the first member of the second revision", || {
        world.group("web").instances.iter().any(|instance| instance.revision == 2).then_some(())
    });
    deploy.kill().unwrap();
    deploy.wait().unwrap();
    kill(world.local_cloud());
    world.i2kit(&["deploy", "disks.yaml"]).run();
    more();
    let room = world.i2kit(&["exec", "web-0", "--", "df", "-m", "/data"]).run().stdout;
    let size =
        |room: &str| room.lines().last().unwrap().split_whitespace().nth(1).unwrap().parse::<u32>().unwrap();
    assert!(size(&room) > 70, "{room}");

    // A disk grows under a machine that runs, and is copied under it.
    let machine = pids();
    world.write("disks.yaml", &manifest("second", "160Mi"));
    world.i2kit(&["deploy", "disks.yaml"]).run();
    eventually("a larger file system", || {
        let room = world.i2kit(&["exec", "one", "--", "df", "-m", "/data"]).run().stdout;
        (size(&room) > 120).then_some(())
    });
    assert_eq!(pids(), machine, "a machine was replaced");
    world.write("smaller.yaml", &manifest("second", "32Mi"));
    world.i2kit(&["deploy", "smaller.yaml"]).code(3).says("cannot shrink").run();
    world.i2kit(&["volume", "snapshot", "shared", "then"]).says("is paused for the copy").run();
    more();
    world.i2kit(&["volume", "rm", "shared"]).code(7).says("has it").run();
    world.i2kit(&["volume", "restore", "shared", "then"]).code(7).says("has it").run();
    world.i2kit(&["scale", "one", "--replicas", "2"]).code(2).says("one instance at a time").run();
    for (writer, (group, ordinal)) in writers.into_iter().zip(all) {
        writer.check(&world, group, ordinal);
    }

    a_full_disk_is_an_error_of_its_pod(&world);
    everything_goes_but_the_disks(&world);
}

/// A disk that is full fails the write and nothing else; its file is private and never larger than the disk.
fn a_full_disk_is_an_error_of_its_pod(world: &World) {
    let environments = world.path().join("state/i2kit/local/volumes");
    let environment = fs::read_dir(environments).unwrap().next().unwrap().unwrap().path();
    let disk = || fs::metadata(environment.join("default/shared.raw")).unwrap();
    let fill = "dd if=/dev/zero of=/data/fill bs=1M 2>&1; sync; echo end";
    let filled = world.i2kit(&["exec", "one", "--", "sh", "-c", fill]).run().stdout;
    assert!(filled.contains("No space left"), "{filled}");
    assert_eq!((disk().len(), disk().permissions().mode() & 0o777), (160 << 20, 0o600));
    assert!(disk().blocks() * 512 > 100 << 20);
    world.i2kit(&["exec", "one", "--", "sh", "-c", "rm /data/fill && sync && touch /data/after"]).run();
    eventually("the room of the file that was deleted", || {
        world.i2kit(&["exec", "one", "--", "sync"]).run();
        (disk().blocks() * 512 < 60 << 20).then_some(())
    });
}

/// Everything goes but the disks, until they are named.
fn everything_goes_but_the_disks(world: &World) {
    world.i2kit(&["destroy", "--all"]).says("disk data-web-0 (160 MiB) is kept").run();
    eventually("end of all processes", || world.processes().is_empty().then_some(()));
    world.i2kit(&["volume", "ls"]).prints("shared").prints("then").run();
    world.i2kit(&["volume", "restore", "shared", "then"]).run();
    world.i2kit(&["volume", "restore", "shared", "now"]).code(9).says("it has then").run();
    world.i2kit(&["volume", "rm", "shared", "--snapshot", "then"]).run();
    world.i2kit(&["volume", "rm", "data-web-1", "data-web-2"]).run();
    world.i2kit(&["destroy", "--all", "--volumes"]).run();
    world.assert_nothing_left();
}

/// Two members with a disk each, one after the other. Each writes to its disk with each start what the first member said to it
/// by its name then, and serves its name and revision.
const MEMBERS: &str = r#"apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  updateStrategy: {type: RollingUpdate, rollingUpdate: {partition: PARTITION}}
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: db
          image: busybox:1.35
          command:
            - /bin/sh
            - -c
            - |
              said=itself
              [ $(hostname) = db-0 ] || said=$(timeout 30 wget -qO- http://db-0.db/ || echo nobody)
              echo "REVISION: $said" >> /data/log && sync
              mkdir /www && echo "$(hostname) of REVISION" > /www/index.html
              exec httpd -f -p 80 -h /www
          readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1, timeoutSeconds: 60}
          volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
    - metadata: {name: data}
      spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 64Mi}}}
"#;

#[test]
fn members_start_in_order_find_each_other_by_name_and_keep_their_disks_behind_a_partition() {
    if !machines() {
        return;
    }
    let world = World::new();
    let deploy = |revision: &str, partition: &str| {
        world.write("db.yaml", &MEMBERS.replace("REVISION", revision).replace("PARTITION", partition));
        world.i2kit(&["deploy", "db.yaml"]).run();
    };
    let inside = |member: &str, script: &str| world.i2kit(&["exec", member, "--", "sh", "-c", script]);
    let pid = |ordinal| serving(&world.group("db"), Some(ordinal)).unwrap().pid.unwrap();
    // The second member found the first one ready: a name leads to nobody before that.
    deploy("one", "1");
    inside("db-1", "cat /data/log; echo kept >> /data/log; sync").stdout("one: db-0 of one\n").run();
    inside("db-0", "timeout 30 wget -qO- http://db-1.db/").stdout("db-1 of one\n").run();

    // An update leaves the member below the partition as it is; the name of the other one leads to its next machine.
    let before = [pid(0), pid(1)];
    deploy("two", "1");
    assert!(pid(0) == before[0] && pid(1) != before[1]);
    inside("db-1", "cat /data/log").stdout("one: db-0 of one\nkept\ntwo: db-0 of one\n").run();
    let until = "until timeout 30 wget -qO- http://db-1.db/ 2> /dev/null; do sleep 0.2; done";
    inside("db-0", until).stdout("db-1 of two\n").run();
    inside("db-0", "cat /data/log").stdout("one: itself\n").run();
    if soaks() {
        deploy("two", "0");
        inside("db-0", "cat /data/log").stdout("one: itself\ntwo: itself\n").run();
    }
    world.i2kit(&["destroy", "--all", "--volumes"]).run();
    world.assert_nothing_left();
}
