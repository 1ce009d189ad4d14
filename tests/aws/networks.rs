//! Networks that exist before an environment does: where machines and load balancers lie in them, and what they lack. And room on
//! load balancers for as many machines as there may be.

use i2kit::cloud::aws::plan::name;
use i2kit::manifest::api::Name;
use serde_json::{Value, json};

use crate::frame::held;
use crate::harness::Bed;
use crate::rollout::{assert_calls_are_known, assert_nothing_left, nginx, world, world_of};
use crate::second::serving;
use crate::support::{World, tools};

/// A network of the bed's, with its subnets in the order in which they were asked for.
struct Given {
    vpc: String,
    subnets: Vec<String>,
}

impl Given {
    fn new(bed: &Bed, asked: &Value) -> Self {
        let made = bed.call("POST", "/moto-api/i2kit/network", &asked.to_string());
        let made: Value = serde_json::from_str(&made).unwrap();
        let subnets = made["subnets"].as_array().unwrap().iter();
        Self {
            vpc: made["vpc"].as_str().unwrap().to_owned(),
            subnets: subnets.map(|id| id.as_str().unwrap().to_owned()).collect(),
        }
    }

    /// One whose subnets have these zones and routes.
    fn of(bed: &Bed, subnets: &[(&str, Option<&str>)]) -> Self {
        let subnet = |(zone, route): &(&str, Option<&str>)| json!({"zone": zone, "route": route});
        Self::new(bed, &json!({"subnets": subnets.iter().map(subnet).collect::<Vec<_>>()}))
    }

    fn ids(&self, which: &[usize]) -> Vec<String> {
        which.iter().map(|index| self.subnets[*index].clone()).collect()
    }

    /// Has the world's environment lie in it, with machines and load balancers in these of its subnets.
    fn hold(&self, world: World, machines: &[usize], balancers: &[usize]) -> World {
        let file = std::fs::read_to_string(world.path().join("environment.yml")).unwrap();
        let list = |which: &[usize]| self.ids(which).join(", ");
        let mut lines = format!("  type: aws\n  vpc: {}\n  subnets: [{}]\n", self.vpc, list(machines));
        if !balancers.is_empty() {
            lines += &["  balancerSubnets: [", &list(balancers), "]\n"].concat();
        }
        world.file("environment.yml", &file.replace("  type: aws\n", &lines))
    }
}

const PRIVATE: Option<&str> = Some("nat");
const PUBLIC: Option<&str> = Some("gateway");

/// Load balancers that everybody reaches.
fn balancers(bed: &Bed) -> Vec<String> {
    let lines = held(bed).into_iter();
    lines.filter(|line| line.starts_with("balancer network internet-facing")).collect()
}

#[test]
fn machines_lie_in_private_subnets_and_public_load_balancers_in_public_ones() {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    let zones = ["us-east-1a", "us-east-1b"];
    let given =
        Given::of(&bed, &[(zones[0], PRIVATE), (zones[1], PRIVATE), (zones[0], PUBLIC), (zones[1], PUBLIC)]);
    let own = given.hold(world(&bed), &[0, 1], &[2, 3]).file("web.yaml", &nginx("1.27", 2));
    let told = format!("ok      subnets: 4 subnets of {}", given.vpc);
    own.i2kit(&["preflight", "web.yaml"]).prints(&told).run();
    own.i2kit(&["deploy", "web.yaml"]).run();
    let mut public = given.ids(&[2, 3]);
    public.sort();
    assert_eq!(balancers(&bed), [format!("balancer network internet-facing {}", public.join(" "))]);
    // What has its way out by a NAT gateway needs no public address, whatever the subnets' setting is.
    let has = |line: &str| held(&bed).contains(&line.to_owned());
    assert!(has("interface i2kit-test_default_web False"), "{:#?}", held(&bed));
    // Behind an internet gateway machines reach nothing without one; so it is in a network of the environment's own.
    let given = Given::of(&bed, &[(zones[0], PUBLIC), (zones[1], PUBLIC)]);
    let open = given.hold(world_of(&bed, "open"), &[0, 1], &[]).file("web.yaml", &nginx("1.27", 1));
    open.i2kit(&["deploy", "web.yaml"]).run();
    assert!(has("interface i2kit-open_default_web True"), "{:#?}", held(&bed));
    let other = world_of(&bed, "other").file("web.yaml", &nginx("1.27", 1));
    other.i2kit(&["deploy", "web.yaml"]).run();
    assert!(has("interface i2kit-other_default_web True"), "{:#?}", held(&bed));
    for world in [own, open, other] {
        world.i2kit(&["destroy", "--all"]).run();
    }
    assert_nothing_left(&bed);
    assert_calls_are_known(&bed);
}

#[test]
fn what_a_network_lacks_is_refused_before_anything_is_made() {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    let world = || world(&bed).file("web.yaml", &nginx("1.27", 1));
    let two = |first: Value, more: Value| {
        let second = json!({"zone": "us-east-1b", "route": "gateway"});
        let mut asked = json!({"subnets": [first, second]});
        asked.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        asked
    };
    let open = || json!({"zone": "us-east-1a", "route": "gateway"});
    let cases = [
        (
            two(json!({"zone": "us-east-1a", "route": "nat"}), json!({})),
            "has no route to an internet gateway",
        ),
        (two(json!({"zone": "us-east-1b", "route": "gateway"}), json!({})), "lie in one zone, us-east-1b"),
        (
            two(json!({"zone": "us-east-1a", "route": "gateway", "free": 7}), json!({})),
            "has 7 free addresses",
        ),
        (two(open(), json!({"support": false})), "has enableDnsSupport off"),
        (two(open(), json!({"hostnames": false})), "has enableDnsHostnames off"),
        (two(open(), json!({"servers": null})), "name no name server"),
    ];
    for (asked, wanted) in cases {
        let world = Given::new(&bed, &asked).hold(world(), &[0, 1], &[]);
        bed.journal();
        world.i2kit(&["preflight", "web.yaml"]).code(7).prints("FAILED  subnets: ").prints(wanted).run();
        world.i2kit(&["deploy", "web.yaml"]).code(7).says(wanted).run();
        let calls = assert_calls_are_known(&bed);
        let makes = |call: &&String| call.starts_with("Create") || call.starts_with("POST /snapshots");
        assert_eq!(calls.iter().find(makes), None, "{wanted}");
        assert_nothing_left(&bed);
    }
    // A network takes one private zone of a name, so that it holds one environment.
    let given = Given::of(&bed, &[("us-east-1a", PUBLIC), ("us-east-1b", PUBLIC)]);
    let other = given.hold(world_of(&bed, "other"), &[0, 1], &[]).file("web.yaml", &nginx("1.27", 1));
    other.i2kit(&["deploy", "web.yaml"]).run();
    other.i2kit(&["preflight", "web.yaml"]).prints("ok      subnets").run();
    let own = given.hold(world(), &[0, 1], &[]);
    let wanted = "has the private zone cluster.local already";
    own.i2kit(&["preflight", "web.yaml"]).code(7).prints(wanted).run();
    own.i2kit(&["deploy", "web.yaml"]).code(7).says(wanted).run();
    other.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
    own.i2kit(&["deploy", "web.yaml"]).run();
    own.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
}

#[test]
fn what_may_keep_machines_from_working_is_a_warning() {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    let subnets = json!([
        {"zone": "us-east-1a"}, {"zone": "us-east-1b"},
        {"zone": "us-east-1a", "route": "gateway"}, {"zone": "us-east-1b", "route": "gateway"},
    ]);
    let given = Given::new(&bed, &json!({"subnets": subnets, "servers": ["192.0.2.53"]}));
    let world = given.hold(world(&bed), &[0, 1], &[2, 3]).file("web.yaml", &nginx("1.27", 1));
    world
        .i2kit(&["preflight", "web.yaml"])
        .prints("unknown subnets: the DHCP options of ")
        .prints("name 192.0.2.53 first, and not Amazon's name server")
        .run();
    let shut = format!("machines in {} have no route to a gateway", given.ids(&[0, 1]).join(", "));
    world
        .i2kit(&["deploy", "web.yaml"])
        .says(&shut)
        .says("interface endpoints of com.amazonaws.us-east-1.secretsmanager")
        .says("names of Services resolve only if")
        .run();
    // It is said when something comes, and not with each change.
    world.write("web.yaml", &nginx("1.28", 1));
    let again = world.i2kit(&["deploy", "web.yaml"]).run();
    assert!(!again.stderr.contains("have no route"), "{}", again.stderr);
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
}

/// A group of one machine that may have `most` by its load, behind a Service.
fn scaled(name: &str, port: u16, most: u32) -> String {
    let text = nginx("1.27", 1).replace("{name: web}", &format!("{{name: {name}}}"));
    let text = text
        .replace("app: web", &format!("app: {name}"))
        .replace("ports: [{port: 80}]", &format!("ports: [{{port: {port}, targetPort: 80}}]"))
        .replace("          ports:", "          resources: {requests: {cpu: 500m}}\n          ports:");
    format!(
        "{text}---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {{name: {name}}}
spec:
  scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: {name}}}
  minReplicas: 1
  maxReplicas: {most}
"
    )
}

#[test]
fn a_service_that_may_share_a_load_balancer_needs_no_free_addresses() {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    let given = Given::of(&bed, &[("us-east-1a", PUBLIC), ("us-east-1b", PUBLIC)]);
    let world = given.hold(world(&bed), &[0, 1], &[]).file("web.yaml", &nginx("1.27", 1));
    world.i2kit(&["deploy", "web.yaml"]).run();
    let leave = |free: u32| {
        for subnet in &given.subnets {
            bed.call("POST", "/moto-api/i2kit/network", &json!({"subnet": subnet, "free": free}).to_string());
        }
    };
    leave(7);
    let maybe = "has 7 free addresses, and a load balancer needs 8 in each of its subnets";
    let unless = "unless there is room on the load balancers that are there";
    world.write("api.yaml", &scaled("api", 81, 2));
    world.i2kit(&["preflight", "api.yaml"]).prints("unknown subnets: ").prints(maybe).prints(unless).run();
    // An Ingress has a load balancer of its own.
    let rule =
        "{http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: api, port: {number: 81}}}}]}}";
    let ingress = format!(
        "{}---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: api}}\nspec: {{rules: [{rule}]}}\n",
        scaled("api", 81, 2)
    );
    world.write("own.yaml", &ingress);
    world.i2kit(&["preflight", "own.yaml"]).code(7).prints("FAILED  subnets: ").prints(maybe).run();
    world.i2kit(&["deploy", "own.yaml"]).code(7).says(maybe).run();
    world.i2kit(&["deploy", "api.yaml"]).says(maybe).says(unless).run();
    assert_eq!(balancers(&bed).len(), 1, "{:#?}", held(&bed));
    // What has its load balancer needs none, also where its record is damaged and it is not shown.
    leave(99);
    world.i2kit(&["deploy", "own.yaml"]).run();
    leave(7);
    let own = Name { namespace: "default".into(), name: "ingress/api".into() };
    let changed = json!({"name": name::service_stack("test", &own), "parameter": "Spec0", "value": "{}"});
    let was = bed.call("POST", "/moto-api/i2kit/changed", &changed.to_string());
    assert!(was.contains("ingress/api"), "{was}");
    world.i2kit(&["preflight", "own.yaml"]).prints("ok      subnets: ").run();
    let again =
        world.i2kit(&["deploy", "own.yaml"]).says("does not say any more what its Service asks for").run();
    assert!(!again.stderr.contains(maybe), "{}", again.stderr);
    world.i2kit(&["deploy", "own.yaml"]).prints("unchanged").run();
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
    assert_calls_are_known(&bed);
}

#[test]
fn services_share_a_load_balancer_while_it_has_room_for_all_their_machines() {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    let shop = |web: u32, api: u32| format!("{}---\n{}", scaled("web", 80, web), scaled("api", 81, api));
    let world = world(&bed).file("shop.yaml", &shop(200, 200));
    world.i2kit(&["deploy", "shop.yaml"]).run();
    assert_eq!(balancers(&bed).len(), 1, "{:#?}", held(&bed));
    // One machine more while they are replaced: 301 and 201 are more than 500.
    world.write("shop.yaml", &shop(300, 200));
    world.i2kit(&["deploy", "shop.yaml"]).says("has no room for 301 machines").run();
    assert_eq!(balancers(&bed).len(), 2, "{:#?}", held(&bed));
    assert_eq!((serving(&bed, "web", 80), serving(&bed, "api", 81)), (1, 1));
    world.i2kit(&["deploy", "shop.yaml"]).prints("unchanged").run();
    // What has its place stays there when there is room elsewhere.
    world.write("shop.yaml", &shop(200, 200));
    world.i2kit(&["deploy", "shop.yaml"]).run();
    assert_eq!(balancers(&bed).len(), 2, "{:#?}", held(&bed));
    // Two that are new are apart at once.
    world.i2kit(&["destroy", "--all"]).run();
    world.write("shop.yaml", &shop(300, 200));
    let first = world.i2kit(&["deploy", "shop.yaml"]).run();
    assert!(!first.stderr.contains("has no room"), "{}", first.stderr);
    assert_eq!(balancers(&bed).len(), 2, "{:#?}", held(&bed));
    // What no load balancer has room for is refused.
    world.write("shop.yaml", &shop(600, 200));
    let wanted = "leads to at most 601 machines at once by 1 ports, which are 601 targets";
    world.i2kit(&["preflight", "shop.yaml"]).code(7).prints(wanted).run();
    world.i2kit(&["deploy", "shop.yaml"]).code(3).says(wanted).run();
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
    assert_calls_are_known(&bed);
}
