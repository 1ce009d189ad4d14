//! As much as AWS takes is deployed, read back and deleted; what it does not take is refused before anything is made. The bed has
//! CloudFormation's quotas: bytes of a template and of a parameter, parameters, resources and outputs of a template.

use std::collections::BTreeSet;

use serde_json::json;

use crate::frame::{held, rules_at};
use crate::harness::Bed;
use crate::rollout::{assert_calls_are_known, assert_nothing_left, nginx, world};
use crate::second::serving;
use crate::support::{World, tools};

/// The web server behind a Service of so many ports, and an Ingress of so many rules, each for a host of its own.
fn shop(rules: usize, ports: u16, (host, path): (&str, &str)) -> String {
    let port = |port: u16| format!("{{name: p{port}, port: {port}, targetPort: 80}}");
    let ports: Vec<String> = (8000..8000 + ports).map(port).collect();
    let rule = |number: usize| {
        format!(
            "    - host: h{number:03}{host}\n      http:\n        paths:\n          - {{path: {path}, pathType: Prefix, backend: \
             {{service: {{name: web, port: {{number: 8000}}}}}}}}\n"
        )
    };
    let rules: String = (0..rules).map(rule).collect();
    nginx("1.27", 1).replace("ports: [{port: 80}]", &format!("ports: [{}]", ports.join(", ")))
        + "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: web}\nspec:\n  rules:\n"
        + &rules
}

const USUAL: (&str, &str) = (".customers.shop.example.com", "/api/v1/orders");

/// Ports of the Service's load balancer, and rules of the Ingress'.
fn counts(bed: &Bed) -> (usize, usize) {
    let ports: BTreeSet<String> =
        held(bed).into_iter().filter(|line| line.starts_with("listener network ")).collect();
    (ports.len(), rules_at(bed, 80).len())
}

#[test]
fn a_hundred_rules_and_forty_ports_are_deployed_read_back_and_deleted() {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    let world = world(&bed).file("web.yaml", &shop(100, 40, USUAL));
    world.i2kit(&["deploy", "web.yaml"]).run();
    assert_eq!(counts(&bed), (40, 100));
    // What they ask for is read back whole.
    let fleet = world.fleet();
    let specs: Vec<_> = fleet.balancers.iter().map(|balancer| &balancer.spec).collect();
    assert!(specs.iter().any(|spec| spec.listeners.len() == 40), "{specs:#?}");
    let rules = specs.iter().filter_map(|spec| spec.http.as_ref()).map(|http| http.rules.len());
    assert_eq!(rules.collect::<Vec<_>>(), [100]);
    bed.journal();
    world.i2kit(&["deploy", "web.yaml"]).prints("unchanged").run();
    let calls = assert_calls_are_known(&bed);
    assert!(!calls.iter().any(|call| call == "CreateStack" || call == "UpdateStack"), "{calls:?}");
    // A record that becomes shorter leaves no part of the longer one.
    world.write("web.yaml", &shop(2, 3, USUAL));
    world.i2kit(&["deploy", "web.yaml"]).run();
    assert_eq!(counts(&bed), (3, 2));
    world.i2kit(&["deploy", "web.yaml"]).prints("unchanged").run();
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
}

#[test]
fn what_no_template_holds_is_refused_before_anything_is_made() {
    if !tools() {
        return;
    }
    let bed = Bed::start();
    let host = format!("{}.{}.example", "x".repeat(56), "y".repeat(55));
    let path = format!("/{}", "p".repeat(119));
    let world = world(&bed).file("web.yaml", &shop(100, 1, (&host, &path)));
    let told = world
        .i2kit(&["preflight", "web.yaml"])
        .code(7)
        .prints("FAILED  Ingress: ingress/web takes a template of ")
        .prints("CloudFormation takes 51200 with a call; split it")
        .run();
    assert_eq!(told.stdout.matches("FAILED").count(), 1, "{}", told.stdout);
    for verb in ["plan", "deploy"] {
        world.i2kit(&[verb, "web.yaml"]).code(3).says("ingress/web takes a template of ").run();
    }
    world.write("web.yaml", &shop(1, 50, USUAL));
    for verb in ["plan", "deploy"] {
        world.i2kit(&[verb, "web.yaml"]).code(3).says("web takes a template of ").run();
    }
    assert_nothing_left(&bed);
}

/// What is said of a damaged record.
const DAMAGED: &str = "does not say any more what its Service asks for";

/// Two web servers, each behind a Service, and in a file of its own.
fn web_and_api(bed: &Bed) -> World {
    let api = nginx("1.27", 1).replace("web", "api").replace("port: 80}]\n", "port: 81, targetPort: 80}]\n");
    world(bed).file("web.yaml", &nginx("1.27", 1)).file("api.yaml", &api)
}

/// Gives the records of all Services this start; the one before.
fn change(bed: &Bed, value: &str) -> String {
    let asked = json!({"name": "i2kit-service-", "parameter": "Spec0", "value": value});
    serde_json::from_str(&bed.call("POST", "/moto-api/i2kit/changed", &asked.to_string())).unwrap()
}

#[test]
fn a_record_that_somebody_has_changed_is_written_again_and_keeps_nothing_from_deletion() {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    let world = web_and_api(&bed);
    world.i2kit(&["deploy", "web.yaml"]).run();
    let change = |value: &str| change(&bed, value);
    let was = change("{}");
    let before = held(&bed);
    let told = DAMAGED;
    for arguments in [&["status"][..], &["plan", "web.yaml"], &["gc"]] {
        world.i2kit(arguments).says(told).says("Deploy the manifest of the Service").run();
    }
    // Its load balancer and its target groups are in use all the same.
    assert_eq!(held(&bed), before);
    world.i2kit(&["scale", "web", "--replicas", "2"]).says(told).run();
    assert_eq!(world.group("web").replicas, 2);
    // What it takes of its load balancer is not known, so that no other Service is put beside it.
    world.i2kit(&["deploy", "api.yaml"]).code(7).says(told).run();
    world.i2kit(&["deploy", "web.yaml"]).says(told).run();
    assert_eq!(change(&was), was, "it was written again");
    let again = world.i2kit(&["deploy", "web.yaml"]).prints("unchanged").run();
    assert!(!again.stderr.contains(told), "{}", again.stderr);
    change("{}");
    world.i2kit(&["destroy", "--all"]).says(told).run();
    assert_nothing_left(&bed);
}

#[test]
fn records_that_somebody_has_changed_are_written_again_one_after_the_other() {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    let world = web_and_api(&bed);
    for file in ["web.yaml", "api.yaml"] {
        world.i2kit(&["deploy", file]).run();
    }
    let before = held(&bed);
    change(&bed, "{}");
    for file in ["web.yaml", "api.yaml"] {
        world.i2kit(&["deploy", file]).says(DAMAGED).run();
        assert_eq!((serving(&bed, "web", 80), serving(&bed, "api", 81)), (1, 1), "{file}");
    }
    assert_eq!(held(&bed), before);
    for file in ["web.yaml", "api.yaml"] {
        let again = world.i2kit(&["deploy", file]).prints("unchanged").run();
        assert!(!again.stderr.contains(DAMAGED), "{}", again.stderr);
    }
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
    assert_calls_are_known(&bed);
}
