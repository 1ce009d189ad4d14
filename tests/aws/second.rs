//! Second deployments of what runs: whatever moves, replaces or comes, the old machines answer until the new ones do. The bed
//! makes what is new first and deletes last, as CloudFormation does.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::frame::{certificate, held, routed, rules, rules_at};
use crate::harness::Bed;
use crate::rollout::{assert_calls_are_known, assert_nothing_left, nginx, world};
use crate::support::{Ending, World, eventually, kill, tools};

/// Healthy machines that a client reaches at a port of a Service's name.
pub(crate) fn serving(bed: &Bed, name: &str, port: u16) -> usize {
    reached(bed, &format!("{name}.default.svc.cluster.local {port} "))
}

/// Healthy machines behind the rule of an Ingress' port that leads to fewest.
fn routed_to(bed: &Bed, port: u16) -> usize {
    reached(bed, &format!("application {port} "))
}

/// The number in the line that starts so, of those that say what clients reach.
fn reached(bed: &Bed, start: &str) -> usize {
    let served: Vec<String> = serde_json::from_str(&bed.call("GET", "/moto-api/i2kit/served", "")).unwrap();
    served.iter().find_map(|line| line.strip_prefix(start)).map_or(0, |count| count.parse().unwrap())
}

/// Deploys, and asserts that the Service answered on that port all the time.
fn deploy_while_it_serves(bed: &Bed, world: &World, port: u16) {
    deploy_while(world, || serving(bed, "web", port));
}

/// Deploys, and asserts that clients reached somebody all the time.
fn deploy_while(world: &World, serving: impl Fn() -> usize + Sync) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut looks = 0_usize;
            while !done.load(Ordering::Relaxed) {
                assert!(serving() > 0, "nobody answers");
                looks += 1;
                std::thread::sleep(Duration::from_millis(50));
            }
            looks
        });
        {
            let _done = Ending(&done);
            world.i2kit(&["deploy", "web.yaml"]).run();
        }
        assert!(watcher.join().unwrap() > 0);
    });
}

/// Deploys; once the run says that it waits, `end` ends what for, and the run goes well.
fn deploy_that_waits(world: &World, wanted: &str, end: impl FnOnce()) {
    let mut deploy = world.command(&["deploy", "web.yaml"]);
    let mut deploy =
        deploy.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(deploy.stderr.take().unwrap()).lines().map(Result::unwrap);
    let waits = said.any(|line| line.contains(wanted));
    end();
    assert!(waits, "the run does not say what it waits for");
    let rest: Vec<String> = said.collect();
    assert!(deploy.wait().unwrap().success(), "{rest:?}");
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
fn a_path_that_comes_or_goes_moves_no_other_rule() {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    certificate(&bed, "*.example.com");
    let path = |path: &str, kind: &str, name: &str| {
        format!(
            "          - {{path: {path}, pathType: {kind}, backend: {{service: {{name: {name}, port: {{number: 80}}}}}}}}\n"
        )
    };
    let world = world(&bed).file("web.yaml", &routed());
    world.i2kit(&["deploy", "web.yaml"]).run();
    let first = rules(&bed);
    assert_eq!(first.len(), 3, "{first:#?}");

    // In front of the others in the manifest, and between them in their order.
    let paths = "        paths:\n";
    let more = [paths, &path("/about", "Exact", "web"), &path("/api/next", "Prefix", "api")].concat();
    world.write("web.yaml", &routed().replace(paths, &more));
    world.i2kit(&["deploy", "web.yaml"]).run();
    let second = rules(&bed);
    assert!(second.len() == 5 && first.iter().all(|rule| second.contains(rule)), "{first:#?} {second:#?}");
    let at = |path: &str| second.iter().position(|(_, rule)| rule.contains(path)).unwrap();
    let order = [r#""/api/version""#, r#""/api/next""#, r#""/about""#, r#""/api""#, r#""/*""#].map(at);
    assert!(order.is_sorted(), "{second:#?}");

    // One goes, and another one of the same length comes in its place.
    world.write("web.yaml", &routed().replace(paths, &more).replace("/about", "/other"));
    world.i2kit(&["deploy", "web.yaml"]).run();
    let third = rules(&bed);
    let others = second.iter().filter(|(_, rule)| !rule.contains("/about"));
    assert!(third.len() == 5 && others.clone().all(|rule| third.contains(rule)), "{second:#?} {third:#?}");

    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
}

#[test]
fn a_path_that_comes_while_the_stack_of_a_killed_run_is_changing_moves_no_other_rule() {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    certificate(&bed, "*.example.com");
    let world = world(&bed).file("web.yaml", &routed());
    world.i2kit(&["deploy", "web.yaml"]).run();
    let first = rules(&bed);
    let with = |path: &str| {
        let paths = "        paths:\n";
        let more = format!(
            "{paths}          - {{path: {path}, pathType: Exact, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}\n"
        );
        routed().replace(paths, &more)
    };
    // A stack in progress shows no outputs; it stays so until the second run has seen it.
    let settle = |seconds: &str| drop(bed.call("POST", "/moto-api/i2kit/settle", seconds));
    settle("100000");
    world.write("web.yaml", &with("/about"));
    let mut deploy = world.i2kit(&["deploy", "web.yaml"]).start();
    eventually("the rule of the first run", || (rules(&bed).len() == 4).then_some(()));
    kill(deploy.id());
    deploy.wait().unwrap();
    world.write("web.yaml", &with("/other"));
    deploy_that_waits(&world, "waiting for stack i2kit-service-", || settle("0.6"));
    let second = rules(&bed);
    assert!(second.len() == 4 && first.iter().all(|rule| second.contains(rule)), "{first:#?} {second:#?}");
    assert!(second.iter().any(|(_, rule)| rule.contains(r#""/other""#)), "{second:#?}");
    world.i2kit(&["deploy", "web.yaml"]).prints("unchanged").run();
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
}

#[test]
fn more_rules_than_a_load_balancer_takes_together_are_exchanged() {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    let ingress = |numbers: std::ops::Range<u32>, port: u16| {
        let path = |number: u32| {
            format!(
                "          - {{path: /p{number}, pathType: Prefix, backend: {{service: {{name: web, port: {{number: 80}}}}}}}}\n"
            )
        };
        nginx("1.27", 1)
            .replace("type: LoadBalancer", "type: ClusterIP")
            .replace("ports: [{port: 80}]", &format!("ports: [{{port: 80, targetPort: {port}}}]"))
            + "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: web}\nspec:\n  rules:\n    - http:\n        paths:\n"
            + &numbers.map(path).collect::<String>()
    };
    let world = world(&bed).file("web.yaml", &ingress(0..100, 80));
    world.i2kit(&["deploy", "web.yaml"]).run();
    let first = rules_at(&bed, 80);
    assert_eq!(first.len(), 100, "{first:#?}");
    eventually("machines behind all rules", || (routed_to(&bed, 80) > 0).then_some(()));
    // 130 with those that go, and a load balancer takes 100: there is no room for one more. Those that stay lead to another
    // port of the pods, and to healthy machines all the time.
    world.write("web.yaml", &ingress(50..130, 8080));
    deploy_while(&world, || routed_to(&bed, 80));
    assert!(held(&bed).iter().any(|line| line.starts_with("targets HTTP 8080")), "{:#?}", held(&bed));
    let second = rules_at(&bed, 80);
    let stay = first.iter().filter(|rule| second.contains(rule)).count();
    assert!(second.len() == 80 && stay == 50, "{stay} {second:#?}");
    assert!(second.iter().any(|(_, rule)| rule.contains(r#""/p119""#)), "{second:#?}");
    world.i2kit(&["deploy", "web.yaml"]).prints("unchanged").run();
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
}

#[test]
fn as_many_ranges_as_aws_takes_are_put_and_exchanged() {
    if !tools() {
        return;
    }
    let bed = Bed::start();
    // A security group has no more rules than these: all others at once take another load balancer.
    let ranges = |network: &str| {
        let all: Vec<String> = (0..60).map(|number| format!("{network}.{number}/32")).collect();
        let field = format!("type: LoadBalancer\n  loadBalancerSourceRanges: [{}]", all.join(", "));
        nginx("1.27", 1).replace("type: LoadBalancer", &field)
    };
    let world = world(&bed).file("web.yaml", &ranges("192.0.2"));
    world.i2kit(&["deploy", "web.yaml"]).run();
    world.write("web.yaml", &ranges("198.51.100"));
    deploy_while_it_serves(&bed, &world, 80);
    let rules: Vec<String> = held(&bed).into_iter().filter(|line| line.starts_with("ingress 80 ")).collect();
    let is_new = |line: &String| line.contains("198.51.100.");
    assert!(rules.len() == 60 && rules.iter().all(is_new), "{rules:#?}");
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
}

#[test]
fn a_service_moves_once_the_refresh_of_its_machines_has_ended() {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    let world = world(&bed).file("web.yaml", &nginx("1.27", 2));
    world.i2kit(&["deploy", "web.yaml"]).run();
    // The refresh stands still until the second run has seen it.
    let refused =
        |reason: &str| drop(bed.call("POST", "/moto-api/i2kit/refused", &json!(reason).to_string()));
    refused("We currently do not have sufficient t3a.nano capacity.");
    world.write("web.yaml", &nginx("1.28", 2));
    world.i2kit(&["deploy", "--wait=false", "web.yaml"]).run();
    // Another scheme is another load balancer, and nothing of the machines.
    world.write("web.yaml", &nginx("1.28", 2).replace("type: LoadBalancer", "type: ClusterIP"));
    let wanted = "waiting for the instance refresh of i2kit-test_default_web to end";
    deploy_that_waits(&world, wanted, || refused(""));
    assert!(world.group("web").is_settled_at(2) && serving(&bed, "web", 80) == 2);
    assert!(held(&bed).contains(&"listener network internal TCP 80 -".to_owned()), "{:#?}", held(&bed));
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
