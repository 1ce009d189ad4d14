//! An Ingress as an application load balancer: a target group for each backend, a rule for each host and path.
//!
//! A rule is named by its host and path and by its priority, which it keeps: what comes and goes beside it changes nothing of it.
//!
//! Paths of Kubernetes are compared element by element, patterns of AWS letter by letter: `/foo` with all below it is the
//! two patterns `/foo` and `/foo/*`, which leave `/foobar` alone.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::packing::{MOST_CERTIFICATES, Scheme, listed};
use super::priority::{self, Priorities};
use super::refusal::{FrameError, refuse_certificates};
use super::rules::{self, MOST_ROUTES};
use super::stack_templates::{
    Frame, MOST_DRAIN_SECONDS, StackPlan, TLS_POLICY, more_certificates, names_of, owner_tags, render, tags,
};
use super::{name, record};
use crate::manifest::api::Name;
use crate::plan::fleet::{BalancerSpec, HttpBackend, HttpRule, HttpSpec};
use crate::plan::pod::HEALTH_PORT;

const TEMPLATE: &str = include_str!("../../../../templates/aws/ingress.yml");

/// The parameter and the output of an Ingress' stack that hold the priorities of its rules: at most 100 of some 24 bytes, which are fewer
/// than a parameter takes.
pub const PRIORITIES: &str = "Priorities";

/// What an Ingress has beside what it asks for.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// Its certificates.
    pub certificates: &'a [String],
    /// The priorities of the rules that its stack has now.
    pub priorities: &'a Priorities,
}

/// The stack of an Ingress that is not refused.
///
/// # Errors
/// It ends TLS, and there is no certificate.
pub fn stack(
    environment: &str,
    (spec, http): (&BalancerSpec, &HttpSpec),
    standing: Standing<'_>,
    frame: &Frame,
) -> Result<StackPlan, FrameError> {
    let parts = (targets_of(spec, http), routes(spec, http));
    ingress_stack(environment, (spec, http), parts, standing, frame)
}

/// The stack that an Ingress has to have before it can become `new`, which has those certificates: as it is, without the rules that
/// go. `None` when a load balancer takes old and new rules together, or when `new` is on another load balancer.
///
/// # Errors
/// As those of [`stack`]; or the rules or the certificates cannot be changed beside each other, whichever come first.
pub fn detour(
    environment: &str,
    (spec, http): (&BalancerSpec, &HttpSpec),
    (standing, new, certificates): (Standing<'_>, &BalancerSpec, &[String]),
    frame: &Frame,
) -> Result<Option<StackPlan>, FrameError> {
    let Some(next) = new.http.as_ref().filter(|_| Scheme::of(spec.kind) == Scheme::of(new.kind)) else {
        return Ok(None);
    };
    let ingress = &new.name;
    let both: BTreeSet<&String> = listed(standing.certificates).iter().chain(listed(certificates)).collect();
    let (count, most) = (both.len(), MOST_CERTIFICATES);
    if count > most {
        return Err(FrameError::CrowdedCertificates { ingress: ingress.clone(), count, most });
    }
    let crowded = |count| FrameError::Crowded { ingress: ingress.clone(), count, most: MOST_ROUTES };
    let Some(fewer) = rules::detour(http, standing.priorities, next).map_err(crowded)? else {
        return Ok(None);
    };
    // It says of itself what it is, so that whoever finds it after a kill puts it again.
    let first = BalancerSpec { http: Some(fewer.clone()), ..spec.clone() };
    stack(environment, (&first, &fewer), standing, frame).map(Some)
}

/// The stack of an Ingress on its way from `old` to `new`: all that clients use stays, and beside it are the target groups that
/// it will have, each behind a rule that no request fits, since load balancers check no others. `None` when no target group
/// is new, or all are: a load balancer of another scheme is another one. `None`, too, where it has no room for such rules beside
/// those that it has, or beside those that come. It may be more than fits.
///
/// # Errors
/// As those of [`stack`].
pub fn bridge(
    environment: &str,
    (spec, http): (&BalancerSpec, &HttpSpec),
    (standing, new): (Standing<'_>, &BalancerSpec),
    frame: &Frame,
) -> Result<Option<StackPlan>, FrameError> {
    let Some(next) = &new.http else { return Ok(None) };
    let (mut targets, wanted) = (targets_of(spec, http), targets_of(new, next));
    let added: Vec<Value> = wanted.into_iter().filter(|target| !targets.contains(target)).collect();
    if added.is_empty() || Scheme::of(spec.kind) != Scheme::of(new.kind) {
        return Ok(None);
    }
    let mut routes = routes(spec, http);
    routes.extend(added.iter().map(|target| {
        let name = target["name"].as_str().unwrap_or_default();
        Route {
            key: rules::warm_key(name),
            conditions: json!([condition("host-header", "HostHeaderConfig", &["warm.invalid".to_owned()])]),
            action: json!({"Type": "forward", "TargetGroupArn": {"Ref": name}}),
        }
    }));
    targets.extend(added);
    let (held, given) = (standing.priorities, priority::assign(&keys_of(&routes), standing.priorities));
    let way = rules::names(http, &given);
    let ends = [rules::names(http, held), rules::names(next, &rules::assigned(next, &given))];
    if ends.iter().any(|end| rules::together(end, &way) > MOST_ROUTES) {
        return Ok(None);
    }
    ingress_stack(environment, (spec, http), (targets, routes), standing, frame).map(Some)
}

fn ingress_stack(
    environment: &str,
    (spec, http): (&BalancerSpec, &HttpSpec),
    (targets, routes): (Vec<Value>, Vec<Route>),
    Standing { certificates, priorities }: Standing<'_>,
    frame: &Frame,
) -> Result<StackPlan, FrameError> {
    let priorities = priority::assign(&keys_of(&routes), priorities);
    let listeners = listeners((spec, http), certificates, (&routes, &priorities))?;
    let scheme = Scheme::of(spec.kind);
    let clients = scheme.clients(spec);
    let ports = listeners.iter().map(|listener| listener["port"].clone());
    let sources = ports.flat_map(|port| {
        clients.iter().map(move |cidr| json!({"port": port, "cidr": cidr, "ipv6": cidr.contains(':')}))
    });
    let held = priority::write(&priorities);
    let mut parameters = record::write(spec);
    let values = json!({
        "record": names_of(&parameters),
        "description": format!("i2kit: {}/{} of environment {environment}", spec.name.namespace, spec.name.name),
        "clients": format!(
            "clients of {}/{} of the i2kit environment {environment}", spec.name.namespace, spec.name.name
        ),
        "vpc": frame.vpc,
        "subnets": frame.balancer_subnets,
        "machines": frame.machines,
        "scheme": if scheme == Scheme::Public { "internet-facing" } else { "internal" },
        "sources": sources.collect::<Vec<_>>(),
        "targets": targets,
        "healthPort": HEALTH_PORT.to_string(),
        "drainSeconds": spec.drain_seconds.0.min(MOST_DRAIN_SECONDS).to_string(),
        "listeners": listeners,
        "priorities": !held.is_empty(),
        "tags": tags(environment),
        "ownerTags": owner_tags(environment),
    });
    if !held.is_empty() {
        parameters.push((PRIORITIES.to_owned(), held));
    }
    Ok(StackPlan {
        name: name::service_stack(environment, &spec.name),
        part: "service",
        template: render(TEMPLATE, &values),
        parameters,
    })
}

/// The output of an Ingress' stack that holds the ARN of the backend's target group. It does not follow from the order of
/// backends, so that one more moves no other; what a target group keeps for as long as it exists is part of it.
pub fn target_name(backend: &HttpBackend, scheme: Scheme) -> String {
    let to = backend.targets.first().map_or(backend.port, |target| target.port);
    let hash = name::hash(&format!("{}:{}", backend.service, backend.port));
    format!("Targets{}{hash}To{to}", scheme.in_template())
}

/// A certificate of the store: its ARN, and the names that it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Its ARN.
    pub arn: String,
    /// Names, `*.` at most in front.
    pub names: Vec<String>,
}

/// The certificates that cover the hosts of an Ingress, each once, the first host's first.
///
/// # Errors
/// A host has none, or they are more than a load balancer takes.
pub fn certificates_of(
    ingress: &Name,
    hosts: &[String],
    store: &[Certificate],
) -> Result<Vec<String>, FrameError> {
    let mut found: Vec<String> = Vec::new();
    for host in hosts {
        let covering =
            store.iter().find(|certificate| certificate.names.iter().any(|name| covers(name, host)));
        let Some(covering) = covering else {
            return Err(FrameError::Host { ingress: ingress.clone(), host: host.clone() });
        };
        if !found.contains(&covering.arn) {
            found.push(covering.arn.clone());
        }
    }
    refuse_certificates(ingress, found.len())?;
    Ok(found)
}

/// Whether a name of a certificate is for the host: `*` stands for one label.
pub fn covers(name: &str, host: &str) -> bool {
    let below =
        |rest: &str| host.split_once('.').is_some_and(|(_, parent)| parent.eq_ignore_ascii_case(rest));
    name.eq_ignore_ascii_case(host) || name.strip_prefix("*.").is_some_and(below)
}

fn targets_of(spec: &BalancerSpec, http: &HttpSpec) -> Vec<Value> {
    let scheme = Scheme::of(spec.kind);
    let one = |backend: &HttpBackend| {
        let first = backend.targets.first()?;
        Some(json!({"name": target_name(backend, scheme), "port": first.port}))
    };
    http.backends.iter().filter_map(one).collect()
}

/// A rule as listeners have it.
#[derive(Debug)]
struct Route {
    /// What tells it from all others.
    key: String,
    conditions: Value,
    action: Value,
}

/// The rules in the order in which they are tried.
fn routes(spec: &BalancerSpec, http: &HttpSpec) -> Vec<Route> {
    let scheme = Scheme::of(spec.kind);
    let route = |rule: &HttpRule| Route {
        key: rules::key(rule),
        conditions: json!(conditions(rule)),
        action: action((http, scheme), Some(rule.backend)),
    };
    rules::ordered(http).into_iter().map(route).collect()
}

fn keys_of(routes: &[Route]) -> Vec<String> {
    routes.iter().map(|route| route.key.clone()).collect()
}

/// Port 80, and 443 when there are certificates: then 80 only sends clients there.
fn listeners(
    (spec, http): (&BalancerSpec, &HttpSpec),
    certificates: &[String],
    rules: (&[Route], &Priorities),
) -> Result<Vec<Value>, FrameError> {
    let plain = |name: &str| listener(name, (http, Scheme::of(spec.kind)), rules);
    let Some(first) = certificates.first() else {
        if http.has_tls() {
            return Err(FrameError::Tls { ingress: spec.name.clone() });
        }
        return Ok(vec![plain("Http")]);
    };
    let redirect = json!({
        "Type": "redirect", "RedirectConfig": {"Protocol": "HTTPS", "Port": "443", "StatusCode": "HTTP_301"},
    });
    let sending = json!({
        "name": "Http", "protocol": "HTTP", "port": 80, "certificate": false, "default": redirect, "more": [], "rules": [],
    });
    let mut encrypted = plain("Https");
    encrypted["more"] = json!(more_certificates("Https", certificates));
    encrypted["certificate"] = json!(first);
    encrypted["policy"] = json!(TLS_POLICY);
    encrypted["protocol"] = json!("HTTPS");
    encrypted["port"] = json!(443);
    Ok(vec![if http.plain { plain("Http") } else { sending }, encrypted])
}

fn listener(
    name: &str,
    (http, scheme): (&HttpSpec, Scheme),
    (routes, priorities): (&[Route], &Priorities),
) -> Value {
    let rule = |route: &Route| {
        let priority = priorities.get(&route.key);
        let number = priority.copied().unwrap_or_default();
        json!({
            "name": rules::logical_name(name, &route.key, number),
            "priority": priority,
            "conditions": route.conditions,
            "action": route.action,
        })
    };
    let own = routes.iter().filter(|route| rules::is_on(name, &route.key, http));
    json!({
        "name": name, "protocol": "HTTP", "port": 80, "certificate": false, "more": [],
        "default": action((http, scheme), http.default), "rules": own.map(rule).collect::<Vec<_>>(),
    })
}

/// At most three values, of the five that AWS takes.
fn conditions(rule: &HttpRule) -> Vec<Value> {
    let mut conditions = Vec::new();
    if let Some(host) = &rule.host {
        conditions.push(condition("host-header", "HostHeaderConfig", std::slice::from_ref(host)));
    }
    let prefix = rule.path.trim_end_matches('/');
    let patterns = match (rule.exact, prefix) {
        (true, _) => vec![rule.path.clone()],
        (false, "") => vec!["/*".to_owned()],
        (false, prefix) => vec![prefix.to_owned(), format!("{prefix}/*")],
    };
    conditions.push(condition("path-pattern", "PathPatternConfig", &patterns));
    conditions
}

/// A condition in the shortest form that AWS has for it: one value stands alone.
fn condition(field: &str, config: &str, values: &[String]) -> Value {
    if values.len() == 1 {
        return json!({"Field": field, "Values": values});
    }
    json!({"Field": field, config: {"Values": values}})
}

/// Forwards to the backend, or answers 404.
fn action((http, scheme): (&HttpSpec, Scheme), backend: Option<usize>) -> Value {
    let found =
        backend.and_then(|index| http.backends.get(index)).filter(|backend| !backend.targets.is_empty());
    if let Some(backend) = found {
        return json!({"Type": "forward", "TargetGroupArn": {"Ref": target_name(backend, scheme)}});
    }
    let code = if backend.is_some() { "503" } else { "404" };
    json!({"Type": "fixed-response", "FixedResponseConfig": {"StatusCode": code}})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::manifest::api::ServiceType;
    use crate::plan::fleet::TargetGroup;

    fn name(name: &str) -> Name {
        Name { namespace: "shop".into(), name: name.into() }
    }

    fn rule(host: Option<&str>, path: &str, exact: bool, backend: usize) -> HttpRule {
        HttpRule { host: host.map(str::to_owned), path: path.into(), exact, backend }
    }

    fn shop() -> HttpSpec {
        let backend = |service: &str, port| HttpBackend {
            service: service.into(),
            port: 80,
            http2: false,
            targets: vec![TargetGroup { group: name(service), port }],
        };
        HttpSpec {
            backends: vec![backend("web", 8080), backend("api", 9090)],
            rules: vec![
                rule(None, "/", false, 0),
                rule(Some("*.example.com"), "/", false, 0),
                rule(Some("shop.example.com"), "/api", false, 1),
                rule(Some("shop.example.com"), "/api/health", true, 0),
                rule(Some("shop.example.com"), "/", false, 0),
            ],
            ..HttpSpec::default()
        }
    }

    fn put(http: &HttpSpec) -> Result<StackPlan, FrameError> {
        let mut spec = BalancerSpec::new(name("ingress/shop"), ServiceType::LoadBalancer, vec![]);
        spec.http = Some(http.clone());
        put_spec(&spec, http)
    }

    fn put_spec(spec: &BalancerSpec, http: &HttpSpec) -> Result<StackPlan, FrameError> {
        let standing = Standing { certificates: &http.certificates, priorities: &Priorities::new() };
        stack("production", (spec, http), standing, &frame())
    }

    /// Priorities, logical names and paths of the rules, in the order of the template.
    fn rules(http: &HttpSpec, now: &Priorities) -> (Vec<(u16, String, String)>, Priorities) {
        let spec = BalancerSpec::new(name("ingress/shop"), ServiceType::LoadBalancer, vec![]);
        let routes = routes(&spec, http);
        let keys: Vec<String> = routes.iter().map(|route| route.key.clone()).collect();
        let given = priority::assign(&keys, now);
        let listeners = listeners((&spec, http), &[], (&routes, &given)).unwrap();
        let rules = listeners[0]["rules"].as_array().unwrap().iter().map(|rule| {
            let number = u16::try_from(rule["priority"].as_u64().unwrap()).unwrap();
            let path = rule["conditions"].as_array().unwrap().last().unwrap().to_string();
            (number, rule["name"].as_str().unwrap().to_owned(), path)
        });
        (rules.collect(), given)
    }

    fn frame() -> Frame {
        Frame {
            vpc: "vpc-1".into(),
            subnets: vec!["subnet-1".into(), "subnet-2".into()],
            balancer_subnets: vec!["subnet-3".into(), "subnet-4".into()],
            machines: "sg-1".into(),
            zone: "Z1".into(),
            profile: "profile".into(),
        }
    }

    #[test]
    fn only_the_named_ranges_may_connect() {
        let mut spec = BalancerSpec::new(name("ingress/shop"), ServiceType::LoadBalancer, vec![]);
        spec.source_ranges = vec!["192.0.2.0/24".into(), "2001:db8::/32".into()];
        let template = put_spec(&spec, &shop()).unwrap().template;
        assert!(template.contains(r#"CidrIp: "192.0.2.0/24""#), "{template}");
        assert!(template.contains(r#"CidrIpv6: "2001:db8::/32""#), "{template}");
        assert!(!template.contains("0.0.0.0/0"), "{template}");
    }

    #[test]
    fn an_ingress() {
        let mut http = shop();
        http.certificates = vec!["arn:aws:acm:eu-west-1:123456789012:certificate/a".into()];
        insta::assert_snapshot!("ingress", put(&http).unwrap().template);
    }

    #[test]
    fn an_ingress_on_its_way_has_what_requests_use_and_what_comes() {
        let (http, mut next) = (shop(), shop());
        next.backends[1].targets[0].port = 9091;
        let spec = |http: &HttpSpec, kind| {
            let mut spec = BalancerSpec::new(name("ingress/shop"), kind, vec![]);
            spec.http = Some(http.clone());
            spec
        };
        let (old, new) = (spec(&http, ServiceType::LoadBalancer), spec(&next, ServiceType::LoadBalancer));
        let nothing = Priorities::new();
        let standing = Standing { certificates: &[], priorities: &nothing };
        let way =
            |new: &BalancerSpec| bridge("production", (&old, &http), (standing, new), &frame()).unwrap();
        let plan = way(&new).unwrap();
        assert_eq!(plan.template.matches("::TargetGroup").count(), 3, "{}", plan.template);
        assert!(plan.template.contains("warm.invalid"), "{}", plan.template);
        assert_eq!(way(&old), None);
        // One rule on one listener, also where two have all others.
        let twice = HttpSpec { certificates: vec!["arn:a".into()], plain: true, ..http.clone() };
        let both = Standing { certificates: &twice.certificates, priorities: &nothing };
        let served = BalancerSpec { http: Some(twice.clone()), ..old.clone() };
        let found = bridge("production", (&served, &twice), (both, &new), &frame()).unwrap().unwrap();
        let rules = |plan: &StackPlan| plan.template.matches("::ListenerRule").count();
        assert_eq!((rules(&plan), rules(&found)), (6, 11));
        // Of another scheme it is another load balancer, whose target groups are its own.
        let internal = spec(&http, ServiceType::ClusterIP);
        assert_eq!(way(&internal), None);
        let named = |spec: &BalancerSpec| target_name(&http.backends[0], Scheme::of(spec.kind));
        assert_ne!(named(&old), named(&internal));
    }

    #[test]
    fn a_full_load_balancer_loses_the_rules_that_go_before_it_gets_others_besides() {
        let with = |numbers: std::ops::Range<u16>, port: u16| {
            let mut spec = BalancerSpec::new(name("ingress/shop"), ServiceType::LoadBalancer, vec![]);
            let mut http = shop();
            http.backends[1].targets[0].port = port;
            http.rules = numbers.map(|number| rule(None, &format!("/p{number}"), true, 1)).collect();
            spec.http = Some(http.clone());
            (spec, http)
        };
        let (old, http) = with(0..100, 9090);
        let (_, held) = rules(&http, &Priorities::new());
        let standing = Standing { certificates: &[], priorities: &held };
        let first = |new: &BalancerSpec| {
            let certificates = new.http.as_ref().unwrap().certificates.clone();
            detour("production", (&old, &http), (standing, new, &certificates), &frame())
        };
        let bridged = |old: &(BalancerSpec, HttpSpec), held: &Priorities, new: &BalancerSpec| {
            let standing = Standing { certificates: &[], priorities: held };
            bridge("production", (&old.0, &old.1), (standing, new), &frame()).unwrap()
        };
        let (new, _) = with(50..130, 9091);
        let full = (old.clone(), http.clone());
        assert_eq!(bridged(&full, &held, &new), None);
        // It is put as what it is, so that whoever finds it puts it again; its clients keep their target groups.
        let plan = first(&new).unwrap().unwrap();
        let fewer = with(50..100, 9090);
        let said: BTreeMap<String, String> = plan.parameters.iter().cloned().collect();
        assert_eq!(record::read(&said), Ok(fewer.0.clone()));
        assert_eq!(priority::read(&said[PRIORITIES]).len(), 50);
        assert_eq!(plan.template.matches("::ListenerRule").count(), 50);
        assert!(plan.template.contains(&target_name(&http.backends[1], Scheme::Public)));
        // Then there is room for what comes, unless that itself takes all.
        let (_, left) = rules(&fewer.1, &held);
        assert!(bridged(&fewer, &left, &new).is_some());
        assert_eq!(bridged(&fewer, &left, &with(50..150, 9091).0), None);
        // What fits beside what is there, or is another load balancer, takes no detour.
        assert_eq!(first(&with(0..100, 9091).0), Ok(None));
        assert_eq!(first(&BalancerSpec { kind: ServiceType::ClusterIP, ..new.clone() }), Ok(None));
        // All rules anew, on another listener, are too many at once.
        let (mut tls, mut secured) = with(10..110, 9091);
        secured.certificates = vec!["arn:a".into()];
        tls.http = Some(secured);
        let error = first(&tls).unwrap_err();
        assert!(error.to_string().contains("would be 200 together"), "{error}");
    }

    #[test]
    fn certificates_are_counted_while_they_change() {
        let arns = |numbers: std::ops::Range<u16>| -> Vec<String> {
            numbers.map(|number| format!("arn:{number}")).collect()
        };
        let nothing = Priorities::new();
        let changed = |now: &[String], next: Vec<String>, kind| {
            let http = HttpSpec { certificates: now.to_vec(), ..shop() };
            let old = BalancerSpec::new(name("ingress/shop"), ServiceType::LoadBalancer, vec![]);
            let mut new = BalancerSpec::new(name("ingress/shop"), kind, vec![]);
            new.http = Some(HttpSpec { certificates: next.clone(), ..shop() });
            let standing = Standing { certificates: now, priorities: &nothing };
            detour("production", (&old, &http), (standing, &new, &next), &frame())
        };
        let public = ServiceType::LoadBalancer;
        assert_eq!(changed(&arns(0..20), arns(5..25), public), Ok(None));
        let error = changed(&arns(0..20), arns(6..26), public).unwrap_err().to_string();
        assert!(error.contains("would be 26 together") && error.contains("in two deployments"), "{error}");
        // A port's only one is not counted; another load balancer has its own.
        assert_eq!(changed(&arns(0..1), arns(1..26), public), Ok(None));
        assert_eq!(changed(&arns(0..25), arns(25..50), ServiceType::ClusterIP), Ok(None));
    }

    #[test]
    fn prefixes_are_whole_elements() {
        let patterns = |path, exact| conditions(&rule(None, path, exact, 0))[0].clone();
        let both = json!({"Field": "path-pattern", "PathPatternConfig": {"Values": ["/foo", "/foo/*"]}});
        assert_eq!(patterns("/foo", false), both);
        assert_eq!(patterns("/foo/", false), both);
        assert_eq!(patterns("/foo/", true), json!({"Field": "path-pattern", "Values": ["/foo/"]}));
        assert_eq!(patterns("/", false), json!({"Field": "path-pattern", "Values": ["/*"]}));
    }

    #[test]
    fn a_rule_keeps_its_name_and_priority_whatever_comes_and_goes_beside_it() {
        let mut http = shop();
        let (first, now) = rules(&http, &Priorities::new());
        assert!(first.is_sorted() && first.len() == 5, "{first:?}");
        // In front of all, between others, at the end, and one that is there twice.
        let host = Some("shop.example.com");
        http.rules.insert(0, rule(host, "/api/health/deep", false, 0));
        http.rules.push(rule(host, "/ap", false, 1));
        http.rules.push(rule(None, "/", false, 1));
        http.rules.reverse();
        let (second, now) = rules(&http, &now);
        assert!(second.is_sorted() && second.len() == 7, "{second:?}");
        assert!(first.iter().all(|rule| second.contains(rule)), "{first:?} {second:?}");
        let paths: Vec<&str> = second.iter().map(|(.., path)| path.as_str()).collect();
        let at = |path: &str| paths.iter().position(|found| found.contains(path)).unwrap();
        assert!(at("\"/api/health/deep\"") < at("\"/api/health\"") && at("\"/api/health\"") < at("\"/api\""));
        assert!(at("\"/api\"") < at("\"/ap\"") && at("\"/ap\"") < at("\"/*\""), "{paths:?}");
        // One goes; none of the others is another one.
        http.rules.retain(|rule| rule.path != "/api");
        let (third, _) = rules(&http, &now);
        assert!(third.len() == 6 && third.iter().all(|rule| second.contains(rule)), "{third:?}");
    }

    #[test]
    fn certificates_are_found_by_the_hosts() {
        let certificate = |arn: &str, names: &[&str]| Certificate {
            arn: arn.into(),
            names: names.iter().map(ToString::to_string).collect(),
        };
        let store = [certificate("a", &["example.com", "*.example.com"]), certificate("b", &["other.org"])];
        let find = |hosts: &[&str]| {
            let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
            certificates_of(&name("i"), &hosts, &store)
        };
        assert_eq!(find(&["shop.example.com", "other.org", "example.com"]), Ok(vec!["a".into(), "b".into()]));
        let store: Vec<Certificate> =
            (0..26).map(|number| certificate(&number.to_string(), &[&format!("h{number}")])).collect();
        let all = |count| {
            let hosts: Vec<String> = (0..count).map(|number| format!("h{number}")).collect();
            certificates_of(&name("i"), &hosts, &store).map(|found| found.len())
        };
        assert_eq!(all(25), Ok(25));
        assert!(all(26).unwrap_err().to_string().contains("needs 26 certificates"));
        assert!(find(&["a.b.example.com"]).unwrap_err().to_string().contains("covers `a.b.example.com`"));
    }

    #[test]
    fn what_leads_nowhere_answers_so() {
        let mut http = shop();
        assert_eq!(action((&http, Scheme::Public), None)["FixedResponseConfig"]["StatusCode"], "404");
        http.backends[0].targets.clear();
        assert_eq!(action((&http, Scheme::Public), Some(0))["FixedResponseConfig"]["StatusCode"], "503");
        http.hosts = vec!["shop.example.com".into()];
        assert!(put(&http).unwrap_err().to_string().contains("certificate"));
        (http.hosts, http.all_hosts) = (vec![], true);
        assert!(put(&http).unwrap_err().to_string().contains("certificate"));
    }
}
