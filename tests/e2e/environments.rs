//! Two environments of one user, beside each other.

use std::fs;
use std::net::TcpStream;

use i2kit::manifest::api::Name;
use i2kit::plan::fleet::{Fleet, LoadBalancer};

use crate::support::{World, eventually, get, wait_for_page};

/// The file of the second environment.
const FILE: &str = "second.yml";

/// A Deployment of the same name as the first environment's.
const DEPLOYMENT: &str = r#"apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
        - name: web
          image: busybox:1.35
          command: [/bin/sh, -c, 'echo "second $POD_IP" > /tmp/index.html; exec httpd -f -p 8080 -h /tmp']
          ports: [{containerPort: 8080}]
          env: [{name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]
          resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 100m, memory: 32Mi}}
"#;

/// A Service of the same name as the first environment's.
const SERVICE: &str = "---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
";

/// Deploys a second environment of this user beside a world's, which has the group `web` of two machines behind the Service
/// `web`, and the headless Service `pods`; each is alone with its names, addresses and pods. Then destroys the second.
pub(crate) fn two_do_not_see_each_other(world: &World) {
    let file = fs::read_to_string(world.path().join("environment.yml")).unwrap();
    let (name, rest) = file.split_once('\n').unwrap();
    world.write(FILE, &format!("{name}-second\n{rest}"));
    // And a Service that only this one has.
    let beside = SERVICE.replace("{name: web}", "{name: beside}");
    world.write("second.yaml", &[DEPLOYMENT, SERVICE, &beside].concat());
    let second = |arguments: &[&str]| world.i2kit(&[&["-e", FILE][..], arguments].concat());
    second(&["deploy", "second.yaml"]).run();

    // Equal names, and even equal addresses of machines, are different things.
    let fleet: Fleet = serde_json::from_str(&second(&["status", "--output", "json"]).run().stdout).unwrap();
    let name = |name: &str| Name { namespace: "default".into(), name: name.into() };
    let front = fleet.balancer(&name("web")).map(LoadBalancer::addresses).unwrap_or_default();
    let (front, own) = (front.first().unwrap(), world.address("web"));
    assert_ne!(*front, own);
    let [machine] = &fleet.group(&name("web")).unwrap().instances[..] else { panic!("{fleet:#?}") };
    assert_eq!(machine.address.unwrap().to_string(), "10.78.1.1");
    let first = world.fleet();
    assert!(first.balancer(&name("beside")).is_none() && fleet.balancer(&name("pods")).is_none());
    assert!(first.group(&name("web")).unwrap().instances.iter().all(|found| found.id != machine.id));
    let first_answers = || {
        let page = get(&own, "/").unwrap();
        assert!(page.text.contains(" 10.78.1.") && !page.text.contains("second"), "{}", page.text);
    };
    wait_for_page(front, "second 10.78.1.1");
    first_answers();

    // Inside each, a name leads to what is there, and the other's names and addresses lead nowhere.
    let inside = |file: &str, script: &str| {
        world.i2kit(&["-e", file, "exec", "web/1", "-c", "web", "--", "sh", "-c", script])
    };
    let in_first = |script: &str| inside("environment.yml", script);
    let in_second = |script: &str| inside(FILE, script);
    let page = in_first("timeout 30 wget -qO- http://web/").prints(" 10.78.1.").run().stdout;
    assert!(!page.contains("second"), "{page}");
    in_second("timeout 30 wget -qO- http://web/").stdout("second 10.78.1.1\n").run();
    in_second("timeout 30 wget -qO- http://beside/").stdout("second 10.78.1.1\n").run();
    in_first("nslookup beside.default.svc.cluster.local").code(1).run();
    in_second("nslookup pods.default.svc.cluster.local").code(1).run();
    in_second("nc -w 30 10.78.1.2 8080 < /dev/null").code(1).says("refused").run();
    let inner = |address: &str| address.rsplit_once(':').unwrap().0.replacen("127.", "10.", 1);
    in_second(&format!("nc -w 20 {} 80 < /dev/null", inner(&own))).code(1).run();
    in_first(&format!("nc -w 20 {} 80 < /dev/null", inner(front))).code(1).run();
    in_second(&format!("nc -w 20 {} 80 < /dev/null", inner(front))).run();

    // One goes, the other one serves on.
    second(&["destroy", "--all"]).run();
    eventually("end of the second one's port", || TcpStream::connect(front).is_err().then_some(()));
    first_answers();
    in_first("timeout 30 wget -qO- http://web/").prints(" 10.78.1.").run();
    assert_eq!(world.group("web").healthy(), 2);
}
