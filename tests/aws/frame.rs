//! What a manifest asks of the frame and of groups beside the usual: TLS, limits on clients, roles, scaling, floors.

use crate::harness::Bed;
use crate::rollout::{assert_calls_are_known, assert_nothing_left, nginx, world};
use crate::support::{eventually, tools};

/// What the emulator holds: listeners, rules, policies, groups, a line each.
pub(crate) fn held(bed: &Bed) -> Vec<String> {
    serde_json::from_str(&bed.call("GET", "/moto-api/i2kit/frame", "")).unwrap()
}

/// A certificate in the emulator's store, in force.
pub(crate) fn certificate(bed: &Bed, domain: &str) -> String {
    certificate_that_is(bed, domain, "ISSUED")
}

/// A certificate in the emulator's store.
fn certificate_that_is(bed: &Bed, domain: &str, status: &str) -> String {
    let asked = serde_json::json!({"Region": "us-east-1", "Domain": domain, "Status": status});
    serde_json::from_str(&bed.call("POST", "/moto-api/i2kit/certificate", &asked.to_string())).unwrap()
}

/// The web server, scaled by load, with a role and a balancer that ends TLS.
fn shop(replicas: u32, certificate: &str) -> String {
    let web = nginx("1.27", replicas)
        .replace("      containers:\n", "      serviceAccountName: reader\n      nodeSelector: {topology.kubernetes.io/zone: us-east-1a, node.kubernetes.io/instance-type: t3a.small}\n      containers:\n")
        .replace("metadata: {labels: {app: web}}", "metadata: {labels: {app: web}, annotations: {i2kit.dev/spot: 'true'}}")
        .replace("          ports:", "          resources: {requests: {cpu: 500m}}\n          ports:")
        .replace(
            "metadata: {name: web}\nspec:\n  type: LoadBalancer",
            &format!(
                "metadata:\n  name: web\n  annotations:\n    service.beta.kubernetes.io/aws-load-balancer-ssl-cert: {certificate}\n    \
                 service.beta.kubernetes.io/aws-load-balancer-ssl-ports: https\nspec:\n  type: LoadBalancer\n  \
                 loadBalancerSourceRanges: [192.0.2.0/24]"
            ),
        )
        .replace("ports: [{port: 80}]", "ports: [{name: http, port: 80}, {name: https, port: 443, targetPort: 80}]");
    web + "---
apiVersion: v1
kind: Service
metadata: {name: database}
spec: {type: ExternalName, externalName: db.example.com}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  minReplicas: 2
  maxReplicas: 5
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec:
  minAvailable: 2
  selector: {matchLabels: {app: web}}
"
}

#[test]
fn roles_scaling_floors_and_tls_are_put_once_and_go_again() {
    if !tools() {
        return;
    }
    let bed = Bed::start();
    let certificate = certificate(&bed, "shop.example");
    let world = world(&bed).file("web.yaml", &shop(1, &certificate));
    world.i2kit(&["check", "web.yaml"]).run();
    world
        .i2kit(&["plan", "web.yaml"])
        .prints(
            "2 to 5 VMs by load (processors at 80 % of the request), zones us-east-1a, at least 2 healthy",
        )
        .prints("80/TCP -> web:80; 443/TLS -> web:80; from 192.0.2.0/24")
        .prints("balancer database: alias of db.example.com")
        .prints("+ IAM::InstanceProfile reader")
        .prints("+ AutoScaling::AutoScalingGroup web (t3a.small, Spot)")
        .run();
    world.i2kit(&["deploy", "web.yaml"]).run();
    world.i2kit(&["deploy", "web.yaml"]).prints("unchanged").run();
    let group = world.group("web");
    assert_eq!((group.replicas, group.healthy()), (2, 2));
    assert_eq!(group.settings.scaling.map(|scaling| (scaling.min, scaling.max)), Some((2, 5)));

    // What the load made of the size outlives a change.
    world.i2kit(&["scale", "web", "--replicas", "4"]).run();
    world.write("web.yaml", &shop(1, &certificate).replace("1.27", "1.28"));
    world.i2kit(&["deploy", "web.yaml"]).run();
    let group = world.group("web");
    assert!(group.is_settled_at(2) && group.replicas == 4, "{group:#?}");

    let held_now = held(&bed);
    let has = |what: &str| held_now.iter().any(|line| line.contains(what));
    assert!(has(&format!("listener network internet-facing TLS 443 {certificate}")), "{held_now:#?}");
    assert!(has("ingress 443 192.0.2.0/24") && !has("ingress 443 0.0.0.0/0"), "{held_now:#?}");
    // 80 % of half a processor of two.
    assert!(has("policy i2kit-cpu") && has("20.0"), "{held_now:#?}");
    assert!(has("group i2kit-test_default_web 2 5 4 ['us-east-1a']"), "{held_now:#?}");
    assert!(has("record database.default.svc.cluster.local") && has("CNAME db.example.com"), "{held_now:#?}");
    assert!(has("template i2kit-test_default_web t3a.small spot"), "{held_now:#?}");

    // Without its scaler the group has a fixed size again.
    let bare = shop(3, &certificate);
    let (bare, _) = bare.split_once("---\napiVersion: autoscaling").unwrap();
    world.write("web.yaml", &bare.replace("1.27", "1.28"));
    world.i2kit(&["deploy", "web.yaml"]).run();
    assert_eq!(world.group("web").replicas, 3);
    let held_now = held(&bed);
    assert!(!held_now.iter().any(|line| line.contains("policy")), "{held_now:#?}");
    assert!(
        held_now.contains(&"group i2kit-test_default_web 3 3 3 ['us-east-1a']".to_owned()),
        "{held_now:#?}"
    );

    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
    assert_calls_are_known(&bed);
}

/// Two groups behind one name: an Ingress with a certificate that is found by its host.
pub(crate) fn routed() -> String {
    let plain = |name: &str| {
        let text = nginx("1.27", 1).replace("{name: web}", &format!("{{name: {name}}}"));
        text.replace("app: web", &format!("app: {name}")).replace("type: LoadBalancer", "type: ClusterIP")
    };
    plain("web")
        + "---\n"
        + &plain("api")
        + "---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  tls: [{hosts: [shop.example.com]}]
  rules:
    - host: shop.example.com
      http:
        paths:
          - {path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}
          - {path: /api, pathType: Prefix, backend: {service: {name: api, port: {number: 80}}}}
          - {path: /api/version, pathType: Exact, backend: {service: {name: web, port: {number: 80}}}}
"
}

/// The rules of port 443, in the order in which they are tried, with their priorities.
pub(crate) fn rules(bed: &Bed) -> Vec<(u32, String)> {
    rules_at(bed, 443)
}

/// The same of another port.
pub(crate) fn rules_at(bed: &Bed, port: u16) -> Vec<(u32, String)> {
    let start = format!("rule {port} ");
    let rule = |line: String| {
        let priority = line.strip_prefix(&start)?.split(' ').next()?.parse().ok()?;
        Some((priority, line))
    };
    let mut rules: Vec<(u32, String)> = held(bed).into_iter().filter_map(rule).collect();
    rules.sort();
    rules
}

#[test]
fn an_ingress_routes_by_host_and_path_over_tls() {
    if !tools() {
        return;
    }
    let bed = Bed::start();
    let world = world(&bed).file("web.yaml", &routed());
    world.i2kit(&["plan", "web.yaml"]).prints("https://shop.example.com/api and below -> api:80").run();
    world
        .i2kit(&["deploy", "web.yaml"])
        .code(7)
        .says("no certificate of the region covers `shop.example.com`")
        .run();
    let certificate = certificate(&bed, "*.example.com");
    world.i2kit(&["deploy", "web.yaml"]).prints("ingress/web").run();
    world.i2kit(&["deploy", "web.yaml"]).prints("unchanged").run();
    let held_now = held(&bed);
    let paths = [r#"["/api/version"]"#, r#"["/api", "/api/*"]"#, r#"["/*"]"#];
    let rules = rules(&bed);
    assert_eq!(rules.len(), paths.len(), "{rules:#?}");
    for ((_, rule), path) in rules.iter().zip(paths) {
        assert!(rule.contains(path) && rule.contains("shop.example.com"), "{rules:#?}");
    }
    let listener = format!("listener application internet-facing HTTPS 443 {certificate}");
    assert!(held_now.contains(&listener), "{held_now:#?}");
    let fleet = world.fleet();
    let balancer = fleet.balancers.iter().find(|balancer| balancer.spec.name.name == "ingress/web").unwrap();
    assert!(balancer.targets.iter().filter(|target| target.healthy).count() >= 2, "{balancer:#?}");

    // A rule less, then the Ingress itself.
    let text = routed();
    let without = text.lines().filter(|line| !line.contains("/api/version")).collect::<Vec<_>>().join("\n");
    world.write("web.yaml", &without);
    world.i2kit(&["deploy", "web.yaml"]).run();
    assert_eq!(held(&bed).iter().filter(|line| line.starts_with("rule 443 ")).count(), 3);
    world.write("web.yaml", text.split("---\napiVersion: networking").next().unwrap());
    world.i2kit(&["deploy", "--prune", "web.yaml"]).run();
    assert!(!held(&bed).iter().any(|line| line.contains("application")));
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
    assert_calls_are_known(&bed);
}

#[test]
fn certificates_are_checked_before_anything_is_built() {
    if !tools() {
        return;
    }
    let bed = Bed::start();
    let world = world(&bed).file("web.yaml", &routed());
    let preflight = |wanted: &str, code: i32| {
        world.i2kit(&["preflight", "web.yaml"]).code(code).prints(wanted).run();
    };
    // An Ingress that names none: one of the store must be for its host.
    world.i2kit(&["preflight"]).run();
    preflight("FAILED  certificate of ingress/web: no certificate of the region covers `shop", 7);
    let pending = certificate_that_is(&bed, "shop.example.com", "PENDING_VALIDATION");
    preflight("no certificate of the region covers", 7);
    let issued = certificate(&bed, "*.example.com");
    preflight(&format!("ok      certificate of ingress/web: {issued}"), 0);

    // One that is named must be in force, and for the host.
    let naming = |arn: &str| {
        let annotated = format!(
            "kind: Ingress\nmetadata:\n  name: web\n  annotations: {{alb.ingress.kubernetes.io/certificate-arn: \"{arn}\"}}"
        );
        world.write("web.yaml", &routed().replace("kind: Ingress\nmetadata: {name: web}", &annotated));
    };
    naming(&pending);
    preflight(&format!("{pending} is PENDING_VALIDATION: make the DNS records that ACM asks for"), 7);
    naming(&certificate(&bed, "other.example"));
    preflight("none that is named is for shop.example.com", 7);
    naming("arn:aws:acm:us-east-1:123456789012:certificate/00000000-0000-0000-0000-000000000000");
    preflight("there is no arn:aws:acm:us-east-1:123456789012:certificate/00000000", 7);
    naming(&issued);
    preflight("ok      certificate of ingress/web: in force, for *.example.com", 0);

    // A Service's, whose hosts nobody knows.
    world.write("web.yaml", &shop(1, &pending));
    preflight(&format!("certificate of web: {pending} is PENDING_VALIDATION"), 7);
    world.write("web.yaml", &shop(1, &issued));
    preflight("ok      certificate of web: in force", 0);
    assert_nothing_left(&bed);
    assert_calls_are_known(&bed);
}

#[test]
fn what_no_load_balancer_can_have_is_refused_before_anything_is_made() {
    if !tools() {
        return;
    }
    let bed = Bed::start();
    // With TLS there are two ports, and a rule for each range at each; a security group takes 60.
    let ranges: Vec<String> = (0..31).map(|number| format!("192.0.2.{number}/32")).collect();
    let annotated = format!(
        "kind: Ingress\nmetadata:\n  name: web\n  annotations: {{alb.ingress.kubernetes.io/inbound-cidrs: \"{}\"}}",
        ranges.join(", ")
    );
    let text = routed().replace("kind: Ingress\nmetadata: {name: web}", &annotated);
    certificate(&bed, "*.example.com");
    let world = world(&bed).file("web.yaml", &text);
    let wanted =
        "Ingress ingress/web has 31 ranges of clients at 2 ports, which are 62 rules of a security group";
    let told =
        world.i2kit(&["preflight", "web.yaml"]).code(7).prints(&format!("FAILED  Ingress: {wanted}")).run();
    // It is said once: the certificate of what cannot be put is nobody's concern.
    assert_eq!(told.stdout.matches("FAILED").count(), 1, "{}", told.stdout);
    assert!(!told.stdout.contains("certificate of ingress/web"), "{}", told.stdout);
    for verb in ["plan", "deploy"] {
        world.i2kit(&[verb, "web.yaml"]).code(3).says(wanted).run();
    }
    assert_nothing_left(&bed);
}

#[test]
fn more_certificates_than_a_load_balancer_takes_are_refused_before_there_is_one() {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    // The Ingress names none: each of its hosts has one in the store.
    let hosts: Vec<String> = (0..26).map(|number| format!("h{number}.example")).collect();
    for host in &hosts {
        certificate(&bed, host);
    }
    let text = |hosts: &[String]| {
        let text = routed().replace("hosts: [shop.example.com]", &format!("hosts: [{}]", hosts.join(", ")));
        text.replace("host: shop.example.com", "host: h0.example")
    };
    let world = world(&bed).file("web.yaml", &text(&hosts));
    let wanted = "ingress/web needs 26 certificates, and a load balancer of AWS takes 25";
    world.i2kit(&["preflight", "web.yaml"]).code(7).prints(wanted).run();
    world.i2kit(&["deploy", "web.yaml"]).code(7).says(wanted).run();
    assert!(!held(&bed).iter().any(|line| line.contains("application")), "{:#?}", held(&bed));
    // One less is as many as it takes.
    world.write("web.yaml", &text(&hosts[..25]));
    world.i2kit(&["deploy", "web.yaml"]).run();
    assert_eq!(held(&bed).iter().filter(|line| line.starts_with("certificate 443 ")).count(), 25);
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
}

/// The web server on machines of these annotations.
fn annotated(annotations: &str, replicas: u32) -> String {
    let with = format!("metadata: {{labels: {{app: web}}, annotations: {{{annotations}}}}}");
    nginx("1.27", replicas).replace("metadata: {labels: {app: web}}", &with)
}

#[test]
fn machines_are_of_several_kinds_where_annotations_say_so() {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    let kinds = |expected: &str| {
        let line = format!("kinds i2kit-test_default_web {expected}");
        eventually(&line, || held(&bed).contains(&line).then_some(()));
    };
    let several = "i2kit.dev/instance-types: 't3a.small, t3.small', i2kit.dev/spot: '50%', i2kit.dev/on-demand-base: '1'";
    let world = world(&bed).file("web.yaml", &annotated(several, 3));
    world
        .i2kit(&["plan", "web.yaml"])
        .prints("+ AutoScaling::AutoScalingGroup web (t3a.small, t3.small; 1 and 50 % on demand, else Spot)")
        .prints("machine t3a.small or t3.small (1 and 50 % on demand, else Spot)")
        .run();
    world.i2kit(&["deploy", "web.yaml"]).run();
    world.i2kit(&["deploy", "web.yaml"]).prints("unchanged").run();
    assert!(world.group("web").is_settled_at(1));
    kinds("t3a.small on-demand, t3a.small on-demand, t3a.small spot");
    world.i2kit(&["scale", "web", "--replicas", "5"]).run();
    kinds("t3.small spot, t3a.small on-demand, t3a.small on-demand, t3a.small on-demand, t3a.small spot");

    // Another mix is a revision; so is one kind alone, and back again.
    let spot = "i2kit.dev/instance-types: 't3a.small, t3.small', i2kit.dev/spot: 'true'";
    world.write("web.yaml", &annotated(spot, 2));
    world.i2kit(&["deploy", "web.yaml"]).run();
    assert!(world.group("web").is_settled_at(2));
    kinds("t3.small spot, t3a.small spot");
    world.write("web.yaml", &nginx("1.27", 2));
    world.i2kit(&["deploy", "web.yaml"]).run();
    assert!(world.group("web").is_settled_at(3));
    kinds("t3a.nano on-demand, t3a.nano on-demand");
    world.i2kit(&["rollback", "web", "--to-revision", "1"]).run();
    assert!(world.group("web").is_settled_at(1));
    kinds("t3a.small on-demand, t3a.small on-demand");

    for wrong in
        ["i2kit.dev/spot: '120%'", "i2kit.dev/instance-types: large", "i2kit.dev/on-demand-base: some"]
    {
        world.write("web.yaml", &annotated(wrong, 2));
        world.i2kit(&["check", "web.yaml"]).code(3).prints("must be ").run();
    }
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
    assert_calls_are_known(&bed);
}

#[test]
fn a_client_stays_with_its_machine_and_a_region_is_the_environments() {
    if !tools() {
        return;
    }
    let bed = Bed::start_with(&["--boot-seconds", "0"]);
    let sticky = |text: &str| {
        text.replace("  type: LoadBalancer\n", "  type: LoadBalancer\n  sessionAffinity: ClientIP\n")
    };
    let world = world(&bed).file("web.yaml", &sticky(&nginx("1.27", 1)));
    world.i2kit(&["plan", "web.yaml"]).prints("80/TCP -> web:80; a client stays with its VM").run();
    world.i2kit(&["deploy", "web.yaml"]).run();
    world.i2kit(&["deploy", "web.yaml"]).prints("unchanged").run();
    let line = "targets TCP 80 stickiness true source_ip".to_owned();
    assert!(held(&bed).contains(&line), "{:#?}", held(&bed));
    world.write("web.yaml", &nginx("1.27", 1));
    world.i2kit(&["deploy", "web.yaml"]).run();
    assert!(!held(&bed).contains(&line), "{:#?}", held(&bed));

    let region = |name: &str| {
        let selector =
            format!("      nodeSelector: {{topology.kubernetes.io/region: {name}}}\n      containers:\n");
        world.write("web.yaml", &nginx("1.27", 1).replace("      containers:\n", &selector));
    };
    region("eu-west-1");
    world.i2kit(&["check", "web.yaml"]).code(3).prints("the environment lies in us-east-1").run();
    region("us-east-1");
    world.i2kit(&["deploy", "web.yaml"]).prints("unchanged").run();
    world.i2kit(&["destroy", "--all"]).run();
    assert_nothing_left(&bed);
}
