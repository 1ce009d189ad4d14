//! Second deployments of what runs: whatever moves, replaces or comes, the old machines answer until the new ones do. The bed
//! makes what is new first and deletes last, as CloudFormation does.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::frame::{certificate, held};
use crate::harness::Bed;
use crate::rollout::{Done, assert_calls_are_known, assert_nothing_left, nginx, world};
use crate::support::{World, eventually, tools};

/// Healthy machines that a client reaches at a port of a Service's name.
fn serving(bed: &Bed, name: &str, port: u16) -> usize {
    let served: Vec<String> = serde_json::from_str(&bed.call("GET", "/moto-api/i2kit/served", "")).unwrap();
    let start = format!("{name}.default.svc.cluster.local {port} ");
    served.iter().find_map(|line| line.strip_prefix(&start)).map_or(0, |count| count.parse().unwrap())
}

/// Deploys, and asserts that the Service answered on that port all the time.
fn deploy_while_it_serves(bed: &Bed, world: &World, port: u16) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut looks = 0_usize;
            while !done.load(Ordering::Relaxed) {
                assert!(serving(bed, "web", port) > 0, "nobody answers on port {port}");
                looks += 1;
                std::thread::sleep(Duration::from_millis(50));
            }
            looks
        });
        {
            let _done = Done(&done);
            world.i2kit(&["deploy", "web.yaml"]).run();
        }
        assert!(watcher.join().unwrap() > 0);
    });
}

#[test]
fn whatever_a_second_deployment_moves_the_old_machines_serve_until_the_new_ones_do() {
    if !tools() {
        return;
    }
    let bed = Bed::start();
    let public = nginx("1.27", 2);
    let world = world(&bed).file("web.yaml", &public);
    world.i2kit(&["deploy", "web.yaml"]).run();

    // Another port of the pods: a target group has one for as long as it exists.
    let moved = |text: &str| text.replace("ports: [{port: 80}]", "ports: [{port: 80, targetPort: 8080}]");
    world.write("web.yaml", &moved(&public));
    deploy_while_it_serves(&bed, &world, 80);
    assert!(held(&bed).iter().any(|line| line.starts_with("targets TCP 8080")), "{:#?}", held(&bed));

    // Another scheme, and back: a target group is of one load balancer.
    let internal = moved(&public).replace("type: LoadBalancer", "type: ClusterIP");
    for (text, scheme) in [(&internal, "internal"), (&moved(&public), "internet-facing")] {
        world.write("web.yaml", text);
        deploy_while_it_serves(&bed, &world, 80);
        let balancers: BTreeSet<String> =
            held(&bed).into_iter().filter(|line| line.starts_with("listener")).collect();
        assert_eq!(balancers, [format!("listener network {scheme} TCP 80 -")].into());
    }

    // Beside another Service that has its port on the load balancer, one that comes moves nobody.
    let second = public.replace("{name: web}", "{name: other}").replace("app: web", "app: other");
    world.write("other.yaml", &second);
    world.i2kit(&["deploy", "other.yaml"]).run();
    assert!(serving(&bed, "web", 80) == 2 && serving(&bed, "other", 80) == 2);

    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
    assert_calls_are_known(&bed);
}

#[test]
fn lists_in_another_order_take_nothing_away() {
    if !tools() {
        return;
    }
    let bed = Bed::start();
    let certificates =
        [certificate(&bed, "a.example"), certificate(&bed, "b.example"), certificate(&bed, "c.example")];
    let service = |ranges: &str, certificates: &[&String]| {
        let arns: Vec<&str> = certificates.iter().map(|arn| arn.as_str()).collect();
        nginx("1.27", 1)
            .replace(
                "metadata: {name: web}\nspec:\n  type: LoadBalancer",
                &format!(
                    "metadata:\n  name: web\n  annotations:\n    service.beta.kubernetes.io/aws-load-balancer-ssl-cert: \"{}\"\n    \
                     service.beta.kubernetes.io/aws-load-balancer-ssl-ports: https\nspec:\n  type: LoadBalancer\n  \
                     loadBalancerSourceRanges: [{ranges}]",
                    arns.join(",")
                ),
            )
            .replace("ports: [{port: 80}]", "ports: [{name: https, port: 443, targetPort: 80}]")
    };
    let [a, b, c] = &certificates;
    let world = world(&bed).file("web.yaml", &service("192.0.2.0/24, 198.51.100.0/24", &[a, b, c]));
    world.i2kit(&["deploy", "web.yaml"]).run();
    let lines = |start: &str| -> BTreeSet<String> {
        held(&bed).into_iter().filter(|line| line.starts_with(start)).collect()
    };
    let rule = |range: &str| format!("ingress 443 {range}");
    let listed =
        |arns: &[&String]| arns.iter().map(|arn| format!("certificate 443 {arn}")).collect::<BTreeSet<_>>();
    assert_eq!(lines("ingress 443"), [rule("192.0.2.0/24"), rule("198.51.100.0/24")].into());
    assert_eq!(lines("certificate"), listed(&[a, b, c]));

    // The first of each list goes; of what is left the last comes first.
    world.write("web.yaml", &service("198.51.100.0/24", &[c, b]));
    deploy_while_it_serves(&bed, &world, 443);
    assert_eq!(lines("ingress 443"), [rule("198.51.100.0/24")].into());
    assert_eq!(lines("certificate"), listed(&[b, c]));
    assert!(lines("listener").iter().all(|line| line.ends_with(c)), "{:#?}", lines("listener"));

    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
}

#[test]
fn what_aws_shows_late_is_waited_for_and_not_made_twice() {
    if !tools() {
        return;
    }
    let bed = Bed::start();
    let world = world(&bed).file("web.yaml", &nginx("1.27", 2));
    // What is found by its tags is some seconds old; and an instance profile is known to the group's service later still.
    bed.call("POST", "/moto-api/i2kit/lag", "4");
    let unknown = "<ErrorResponse><Error><Type>Sender</Type><Code>ValidationError</Code><Message>You must use a valid \
                   fully-formed launch template. Invalid IAM Instance Profile name</Message></Error></ErrorResponse>";
    let late = |call: &str| json!({"match": call, "status": 400, "body": unknown, "count": 2});
    bed.fault(&json!([late("^CreateAutoScalingGroup$")]));
    world.i2kit(&["deploy", "web.yaml"]).run();
    // Another run sees it as late as AWS shows it.
    let settled = |at| {
        eventually("a group that is shown", || {
            let fleet = world.fleet();
            fleet.groups.iter().any(|group| group.name.name == "web" && group.is_settled_at(at)).then_some(())
        });
    };
    settled(1);
    world.write("web.yaml", &nginx("1.28", 2));
    bed.fault(&json!([late("^StartInstanceRefresh$")]));
    world.i2kit(&["deploy", "web.yaml"]).run();
    settled(2);
    assert_eq!(world.group("web").revisions.len(), 2);
    bed.fault(&json!([]));
    bed.call("POST", "/moto-api/i2kit/lag", "0");
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
}

#[test]
fn an_account_that_begins_to_encrypt_takes_further_uploads() {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    let world = world(&bed).file("web.yaml", &nginx("1.27", 1));
    world.i2kit(&["deploy", "web.yaml"]).run();
    // No snapshot from before can be a parent any more; those from now on can.
    bed.call("POST", "/moto-api/i2kit/encrypted", "true");
    bed.journal();
    let sent = |tag: &str| {
        world.write("web.yaml", &nginx(tag, 1));
        world.i2kit(&["deploy", "web.yaml"]).run();
        let blocks =
            assert_calls_are_known(&bed).into_iter().filter(|call| call.starts_with("PUT /snapshots/"));
        blocks.count()
    };
    let (whole, delta) = (sent("1.28"), sent("broken"));
    assert!(delta * 4 < whole, "{delta} of {whole} blocks");
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
}
