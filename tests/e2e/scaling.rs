//! Scaling by load: machines that work are joined by others, and leave when they rest.

use std::time::Duration;

use crate::support::{World, eventually, machines};

/// A machine that works for as long as a file is there, and may have one more beside it.
const MANIFEST: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: worker}
spec:
  replicas: 1
  selector: {matchLabels: {app: worker}}
  template:
    metadata: {labels: {app: worker}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: main
          image: busybox:1.35
          command: [/bin/sh, -c, 'while :; do while test -e /tmp/work; do :; done; sleep 1; done']
          resources: {requests: {cpu: 400m, memory: 32Mi}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: worker}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: worker}
  maxReplicas: 2
  metrics:
    - type: Resource
      resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}
    - type: ContainerResource
      containerResource: {container: main, name: memory, target: {type: AverageValue, averageValue: 1Gi}}
  behavior:
    scaleDown: {stabilizationWindowSeconds: 0}
";

#[test]
fn a_group_follows_its_load_and_top_shows_it() {
    if !machines() {
        return;
    }
    let world = World::new().file("worker.yaml", MANIFEST);
    world.i2kit(&["check", "worker.yaml"]).run();
    world.i2kit(&["deploy", "worker.yaml"]).run();
    let first = world.group("worker").instances[0].id.to_string();
    world.i2kit(&["exec", &first, "--", "touch", "/tmp/work"]).run();
    let size = |wanted: u32| {
        eventually(&format!("size of {wanted}"), || {
            std::thread::sleep(Duration::from_millis(500));
            let group = world.group("worker");
            (group.replicas == wanted).then_some(group)
        })
    };
    let group = size(2);
    let used = group.instances[0].usage.as_ref().unwrap();
    assert!(used.pod().cpu_millis > 200 && used.pod().memory_bytes > 0, "{used:?}");
    assert!(used.machine.is_some_and(|machine| machine.memory_bytes > used.pod().memory_bytes), "{used:?}");
    world.i2kit(&["top", "worker", "--containers"]).prints("POD").prints(&first).prints(" main ").run();
    world.i2kit(&["top", &first, "--output", "json"]).prints("\"cpuMillis\"").prints(&first).run();
    world.i2kit(&["status"]).prints("AUTOSCALED").prints("/50%, memory of main: ").prints("Mi/1024Mi").run();
    // What the load made of the size is left as it is.
    world.i2kit(&["deploy", "worker.yaml"]).run();
    assert_eq!(world.group("worker").replicas, 2);
    world.i2kit(&["exec", &first, "--", "rm", "/tmp/work"]).run();
    size(1);
    world
        .i2kit(&["events", "worker"])
        .prints("SuccessfulRescale")
        .prints("scaled up from 1 to 2: cpu ")
        .prints("scaled down from 2 to 1: cpu ")
        .run();
    world.i2kit(&["scale", "worker", "--replicas", "0"]).run();
    world.i2kit(&["destroy", "worker.yaml"]).run();
    world.assert_nothing_left();
}
