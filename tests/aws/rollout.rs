//! The whole life of a pod: deployed as a group behind a balancer, updated, updated in vain, rolled back, scaled, gone.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use i2kit::cloud::aws::plan::calls;
use serde_json::Value;

use crate::harness::Bed;
use crate::support::{Ending, World, eventually, get, machines, tools};

/// A world whose environment is in the bed, with credentials as a user has them: those of somebody who may do what
/// `iam-policy` prints, and nothing else.
pub(crate) fn world(bed: &Bed) -> World {
    world_of(bed, "test")
}

/// The same of an environment of that name.
pub(crate) fn world_of(bed: &Bed, environment: &str) -> World {
    let mirror = crate::support::mirror(crate::support::Images::Common);
    let world = World::new();
    let key = format!("deployer-of-{environment}");
    fs::create_dir_all(world.path().join(".aws")).unwrap();
    let world = world
        .file(".aws/credentials", &format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = example\n"))
        .file(
            "environment.yml",
            &format!(
                "name: {environment}\nprovider:\n  type: aws\n  region: us-east-1\n  endpoint: {}\nregistries:\n  docker.io:\n    \
                 mirrors: [\"{mirror}\"]\n    plainHttp: true\n",
                bed.endpoint
            ),
        );
    grant(bed, &world, &key);
    world
}

/// Gives an access key the policy that the world's environment prints.
pub(crate) fn grant(bed: &Bed, world: &World, key: &str) {
    let policy = world.i2kit(&["iam-policy"]).run().stdout;
    let policy: Value = serde_json::from_str(&policy).unwrap();
    let told = serde_json::json!({"Key": key, "Documents": [policy]});
    bed.call("POST", "/moto-api/i2kit/policy", &told.to_string());
}

/// Some nginx behind a Service. Progress may take as long as Kubernetes lets it by default.
pub(crate) fn nginx(tag: &str, replicas: u32) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: {replicas}
  progressDeadlineSeconds: 600
  strategy: {{rollingUpdate: {{maxSurge: 1, maxUnavailable: 0}}}}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
        - name: nginx
          image: nginx:{tag}
          ports: [{{containerPort: 80}}]
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  type: LoadBalancer
  selector: {{app: web}}
  ports: [{{port: 80}}]
"
    )
}

/// The addresses on this machine that reach port 80 of the VMs that run.
fn reachable(bed: &Bed) -> Vec<String> {
    let state = fs::read(bed.folder.path().join("state.json")).unwrap_or_default();
    let state: Value = serde_json::from_slice(&state).unwrap_or_default();
    let machines = state.as_object().into_iter().flat_map(|machines| machines.values());
    machines.filter_map(|vm| Some(format!("127.0.0.1:{}", vm["ports"]["80"].as_u64()?))).collect()
}

/// Waits until so many VMs serve nginx' page; their addresses.
fn wait_for_pages(bed: &Bed, count: usize, text: &str) -> Vec<String> {
    eventually(&format!("{count} VMs that serve `{text}`"), || {
        let pages = reachable(bed).into_iter().filter(|address| {
            get(address, "/").is_ok_and(|page| page.status == 200 && page.text.contains(text))
        });
        let pages: Vec<String> = pages.collect();
        (pages.len() == count).then_some(pages)
    })
}

#[test]
fn a_pod_lives_its_whole_life_on_paper() {
    if !tools() {
        return;
    }
    let bed = Bed::start();
    let world = world(&bed).file("web.yaml", &nginx("1.27", 3));
    world.i2kit(&["deploy", "web.yaml"]).prints("elb.amazonaws.com/").run();
    let first = world.group("web");
    assert_eq!((first.healthy(), first.current), (3, Some(1)));
    world.i2kit(&["deploy", "web.yaml"]).prints("unchanged").run();

    world.write("web.yaml", &nginx("1.28", 3));
    world.i2kit(&["deploy", "web.yaml"]).run();
    assert!(world.group("web").is_settled_at(2));
    world.i2kit(&["history", "web"]).prints("i2kit deploy web.yaml (current)").run();

    world.i2kit(&["rollback", "web"]).run();
    assert!(world.group("web").is_settled_at(1), "{:#?}", world.group("web"));
    world.i2kit(&["restart", "web"]).run();
    assert!(world.group("web").is_settled_at(3), "{:#?}", world.group("web"));
    world.write("web.yaml", &nginx("1.27", 3));
    world.i2kit(&["deploy", "web.yaml"]).prints("unchanged").run();
    world.i2kit(&["scale", "web", "--replicas", "1"]).run();
    assert_eq!(world.group("web").instances.len(), 1);
    world.i2kit(&["destroy", "--all"]).run();
    assert!(world.fleet().is_empty());
    assert_nothing_left(&bed);
}

/// Fails when the account holds anything that i2kit made.
pub(crate) fn assert_nothing_left(bed: &Bed) {
    let left = bed.call("GET", "/moto-api/i2kit/left", "");
    assert_eq!(serde_json::from_str::<Vec<String>>(&left).unwrap(), Vec::<String>::new());
}

/// Every call of the program since the last time, each of them one that the policy allows.
pub(crate) fn assert_calls_are_known(bed: &Bed) -> Vec<String> {
    let calls = bed.journal();
    let known = |call: &&String| call.contains("/moto-api/") || calls::action(call).is_some();
    let unknown: Vec<_> = calls.iter().filter(|call| !known(call)).collect();
    assert!(unknown.is_empty(), "cloud::aws::plan::calls lacks {unknown:?}");
    calls
}

#[test]
fn machines_that_boot_from_uploaded_blocks_serve_through_a_change_and_a_failure() {
    if !tools() || !machines() {
        return;
    }
    // Target groups probe as often as their template says: a server that ends at once counts as ready while it starts, which
    // takes a busy host longer than two probes that come one after the other at once.
    let bed = Bed::start_with(&["--boot"]);
    let world = world(&bed).file("web.yaml", &nginx("1.27", 3));
    let started = Instant::now();
    world.i2kit(&["deploy", "web.yaml"]).run();
    wait_for_pages(&bed, 3, "nginx 1.27");
    // Time for a machine to boot, on this host as busy as it is.
    let deadline = format!("progressDeadlineSeconds: {}", (4 * started.elapsed().as_secs()).max(60));

    world.write("web.yaml", &nginx("1.28", 3));
    world.i2kit(&["deploy", "web.yaml"]).run();
    let targets = wait_for_pages(&bed, 3, "nginx 1.28");
    // A machine of the revision before may still be on its way out when the deployment is done.
    let serving = eventually("group of three machines of revision 2", || {
        Some(world.group("web")).filter(|group| group.is_settled_at(2) && group.instances.len() == 3)
    });

    // A revision whose nginx never starts: the old machines stay, all of them healthy, all the time.
    // The reason is what the container of a machine that has booted says.
    // Without a probe a container that ends at once is ready while it starts, which may take a busy host two looks of a balancer.
    let ports = "ports: [{containerPort: 80}]";
    let probe = "\n          readinessProbe: {tcpSocket: {port: 80}}";
    let broken = nginx("broken", 3)
        .replace("progressDeadlineSeconds: 600", &deadline)
        .replace(ports, &(ports.to_owned() + probe));
    world.write("web.yaml", &broken);
    let old: Vec<_> = serving.instances.iter().map(|instance| instance.id.clone()).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for address in &targets {
                    let page = get(address, "/").unwrap_or_else(|error| panic!("{address} failed: {error}"));
                    assert_eq!(page.status, 200);
                }
                let healths = bed.call("GET", "/moto-api/i2kit/health", "");
                for id in &old {
                    assert!(healths.contains(&format!("{id}\": \"healthy\"")), "{id}: {healths}");
                }
                std::thread::sleep(Duration::from_millis(500));
            }
        });
        {
            let _done = Ending(&done);
            world
                .i2kit(&["deploy", "web.yaml"])
                .code(8)
                .says("was rolled back to revision 2")
                .says("eighty")
                .run();
        }
        watcher.join().unwrap();
    });
    let after = world.group("web");
    assert!(after.is_settled_at(2), "{after:#?}");
    assert!(after.instances.iter().all(|instance| old.contains(&instance.id)), "{after:#?}");

    world.i2kit(&["rollback", "web", "--to-revision", "1"]).run();
    wait_for_pages(&bed, 3, "nginx 1.27");
    world.i2kit(&["scale", "web", "--replicas", "1"]).run();
    wait_for_pages(&bed, 1, "nginx 1.27");
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
}
