//! Changes of what is deployed: rolling updates, failing ones, rollback, scale.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use i2kit::plan::fleet::InstanceState;

use crate::support::{World, eventually, get, machines, wait_for_page};

/// One nginx. Progress may take as long as Kubernetes lets it by default.
fn one_nginx(tag: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  progressDeadlineSeconds: 600
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

/// The boot of the one machine of the group `web`; another one may be on its way out.
fn boot_id(world: &World) -> Option<String> {
    let group = world.group("web");
    let mut members = group.members();
    let (Some(machine), None) = (members.next(), members.next()) else {
        panic!("not one machine: {group:#?}")
    };
    machine.boot_id.clone()
}

#[test]
fn a_change_is_rolled_out_without_a_gap_and_rolled_back() {
    if !machines() {
        return;
    }
    let world = World::new().file("web.yaml", &one_nginx("1.27"));
    world.i2kit(&["deploy", "web.yaml"]).run();
    let address = world.address("web");
    wait_for_page(&address, "nginx 1.27");

    // While the machine is replaced, every question gets an answer, from one version or the other.
    world.write("web.yaml", &one_nginx("1.28"));
    let mut deploy = world.i2kit(&["deploy", "web.yaml"]).start();
    while deploy.try_wait().unwrap().is_none() {
        let response = get(&address, "/").unwrap_or_else(|error| panic!("a gap in the rollout: {error}"));
        assert_eq!(response.status, 200, "{}", response.text);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(deploy.wait().unwrap().success());
    wait_for_page(&address, "nginx 1.28");

    world.i2kit(&["history", "web"]).prints("i2kit deploy web.yaml (current)").run();
    world
        .i2kit(&["events", "web"])
        .prints("RevisionMade")
        .prints("refresh from revision 1 to revision 2")
        .run();
    world.i2kit(&["diff", "web.yaml"]).stdout("").run();
    world.i2kit(&["rollback", "web"]).run();
    wait_for_page(&address, "nginx 1.27");

    let before = boot_id(&world);
    world.i2kit(&["restart", "deployment/web"]).run();
    let after = world.group("web");
    assert!(after.is_settled_at(3) && after.members().all(|vm| vm.boot_id != before), "{after:#?}");
    wait_for_page(&address, "nginx 1.27");
    world.i2kit(&["history", "web"]).prints("i2kit restart web (current)").run();
    world.write("web.yaml", &one_nginx("1.27"));
    world.i2kit(&["deploy", "web.yaml"]).prints("unchanged").run();

    world.i2kit(&["scale", "web", "--replicas", "2"]).run();
    assert_eq!(world.group("web").healthy(), 2);
    world.i2kit(&["scale", "web", "--replicas", "0"]).run();
    eventually("end of both machines", || world.group("web").instances.is_empty().then_some(()));
}

#[test]
fn a_revision_that_never_becomes_healthy_leaves_the_old_one_serving() {
    if !machines() {
        return;
    }
    let world = World::new().file("web.yaml", &one_nginx("1.27"));
    let started = Instant::now();
    world.i2kit(&["deploy", "web.yaml"]).run();
    let before = boot_id(&world);
    // Time for a machine to boot, on this host as busy as it is: the reason is what its container says.
    let deadline = format!("progressDeadlineSeconds: {}", (4 * started.elapsed().as_secs()).max(60));
    let broken = one_nginx("broken").replace("progressDeadlineSeconds: 600", &deadline);
    world.write("web.yaml", &broken);
    // The reason is what the container itself said.
    world.i2kit(&["deploy", "web.yaml"]).code(8).says("host not found in \"eighty\"").run();
    wait_for_page(&world.address("web"), "nginx 1.27");
    assert_eq!(boot_id(&world), before, "the old machine was replaced");
    world.write("web.yaml", &one_nginx("1.27"));
    world.i2kit(&["deploy", "web.yaml"]).run();
    assert_eq!(boot_id(&world), before, "the old machine was replaced");
}

#[test]
fn a_download_under_way_is_finished_before_its_machine_goes() {
    // Longer than the balancer waits for connections: the rest is up to nginx, which its image's STOPSIGNAL asks to finish
    // what it does. SIGTERM would cut the connection.
    const SECONDS: usize = 45;
    const RATE: usize = 16 << 10;
    if !machines() {
        return;
    }
    let page = "0123456789abcde".repeat(SECONDS * RATE / 15);
    let length = page.len();
    let settings = format!("server {{ listen 80; root /site; location /slow {{ limit_rate {RATE}; }} }}");
    let config = format!(
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: site}}\ndata:\n  default.conf: '{settings}'\n  index.html: small\n  \
         slow: {page}\n"
    );
    let volumes = "      volumes:\n        - {name: site, configMap: {name: site}}\n      containers:\n";
    let mounts = "          ports: [{containerPort: 80}]\n          volumeMounts:\n            - {name: site, mountPath: /site}\n            \
                  - {name: site, mountPath: /etc/nginx/conf.d}\n";
    let web = one_nginx("1.27")
        .replace("terminationGracePeriodSeconds: 2", "terminationGracePeriodSeconds: 90")
        .replace("      containers:\n", volumes)
        .replace("          ports: [{containerPort: 80}]\n", mounts);
    let world = World::new().file("web.yaml", &(web + &config));
    world.i2kit(&["deploy", "web.yaml"]).run();
    let address = world.address("web");
    wait_for_page(&address, "small");
    let mut stream = TcpStream::connect(&address).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    write!(stream, "GET /slow HTTP/1.0\r\n\r\n").unwrap();
    let mut text = vec![0; 1000];
    stream.read_exact(&mut text).unwrap();
    let rest = std::thread::spawn(move || {
        let outcome = stream.read_to_end(&mut text);
        (outcome, text)
    });
    let mut scale = world.i2kit(&["scale", "web", "--replicas", "0"]).start();
    eventually("request to power off", || {
        world.group("web").instances.iter().any(|i| i.state == InstanceState::Stopping).then_some(())
    });
    assert!(!rest.is_finished(), "the download was over before the machine was asked to go");
    let (outcome, text) = rest.join().unwrap();
    outcome.unwrap();
    let text = String::from_utf8(text).unwrap();
    let body = text.split_once("\r\n\r\n").unwrap().1;
    assert!(body == page, "{} bytes of {length}", body.len());
    eventually("end of the machine", || world.group("web").instances.is_empty().then_some(()));
    assert!(scale.wait().unwrap().success());
}
