//! An Ingress as an application load balancer: a target group for each backend, a rule for each host and path.
//!
//! Paths of Kubernetes are compared element by element, patterns of AWS letter by letter: `/foo` with all below it is the
//! two patterns `/foo` and `/foo/*`, which leave `/foobar` alone.

use serde_json::{Value, json};

use super::name;
use super::packing::Scheme;
use super::stack_templates::{
    Frame, FrameError, LARGEST_PARAMETER, MOST_DRAIN_SECONDS, StackPlan, TLS_POLICY, more_certificates,
    render, tags,
};
use crate::manifest::api::Name;
use crate::plan::fleet::{BalancerSpec, HttpBackend, HttpRule, HttpSpec};
use crate::plan::pod::HEALTH_PORT;

const TEMPLATE: &str = include_str!("../../../../templates/aws/ingress.yml");

/// The longest pattern of a path.
const LONGEST_PATH: usize = 128;

/// Letters that a pattern takes as they are, beside letters and digits; `*` and `?` stand for others.
const LITERAL: &str = "_-.$/~\"'@:+&";

/// The stack of an Ingress.
pub fn stack(
    environment: &str,
    (spec, http): (&BalancerSpec, &HttpSpec),
    certificates: &[String],
    frame: &Frame,
) -> Result<StackPlan, FrameError> {
    let targets = targets_of(spec, http)?;
    let listeners = listeners(spec, http, certificates)?;
    ingress_stack(environment, spec, (targets, listeners), frame)
}

/// The stack of an Ingress on its way from `old` to `new`: all that clients use stays, and beside it are the target groups that
/// it will have, each behind a rule that no request fits, since load balancers check no others. `None` when no target group
/// is new, or all are: a load balancer of another scheme is another one.
pub fn bridge(
    environment: &str,
    (spec, http): (&BalancerSpec, &HttpSpec),
    (certificates, new): (&[String], &BalancerSpec),
    frame: &Frame,
) -> Result<Option<StackPlan>, FrameError> {
    let mut targets = targets_of(spec, http)?;
    let wanted = new.http.as_ref().map(|http| targets_of(new, http)).transpose()?.unwrap_or_default();
    let added: Vec<Value> = wanted.into_iter().filter(|target| !targets.contains(target)).collect();
    if added.is_empty() || Scheme::of(spec.kind) != Scheme::of(new.kind) {
        return Ok(None);
    }
    let mut listeners = listeners(spec, http, certificates)?;
    let Some(rules) = listeners.last_mut().and_then(|listener| listener["rules"].as_array_mut()) else {
        return Ok(None);
    };
    for (index, target) in added.iter().enumerate() {
        let name = target["name"].as_str().unwrap_or_default();
        rules.push(json!({
            "name": format!("Warm{name}"),
            "priority": WARM_PRIORITY + index,
            "conditions": [{"Field": "host-header", "HostHeaderConfig": {"Values": ["warm.invalid"]}}],
            "action": {"Type": "forward", "TargetGroupArn": {"Ref": name}},
        }));
    }
    targets.extend(added);
    ingress_stack(environment, spec, (targets, listeners), frame).map(Some)
}

/// Behind the priorities of all rules that requests fit.
const WARM_PRIORITY: usize = 40_000;

fn ingress_stack(
    environment: &str,
    spec: &BalancerSpec,
    (targets, listeners): (Vec<Value>, Vec<Value>),
    frame: &Frame,
) -> Result<StackPlan, FrameError> {
    let scheme = Scheme::of(spec.kind);
    let clients = scheme.clients(spec);
    let ports = listeners.iter().map(|listener| listener["port"].clone());
    let sources = ports.flat_map(|port| {
        clients.iter().map(move |cidr| json!({"port": port, "cidr": cidr, "ipv6": cidr.contains(':')}))
    });
    let values = json!({
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
        "tags": tags(environment),
    });
    let text = serde_json::to_string(spec).expect("a balancer spec has only string keys");
    if text.len() > LARGEST_PARAMETER {
        return Err(FrameError::TooLarge { service: spec.name.clone() });
    }
    Ok(StackPlan {
        name: name::service_stack(environment, &spec.name),
        part: "service",
        template: render(TEMPLATE, &values),
        parameters: vec![("Spec", text)],
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
    Ok(found)
}

/// Whether a name of a certificate is for the host: `*` stands for one label.
pub fn covers(name: &str, host: &str) -> bool {
    let below =
        |rest: &str| host.split_once('.').is_some_and(|(_, parent)| parent.eq_ignore_ascii_case(rest));
    name.eq_ignore_ascii_case(host) || name.strip_prefix("*.").is_some_and(below)
}

fn targets_of(spec: &BalancerSpec, http: &HttpSpec) -> Result<Vec<Value>, FrameError> {
    let one = |backend| targets(&spec.name, backend, Scheme::of(spec.kind)).transpose();
    http.backends.iter().filter_map(one).collect()
}

fn targets(ingress: &Name, backend: &HttpBackend, scheme: Scheme) -> Result<Option<Value>, FrameError> {
    let Some(first) = backend.targets.first() else { return Ok(None) };
    if backend.targets.iter().any(|target| target.port != first.port) {
        return Err(FrameError::Ports { service: ingress.clone(), port: backend.port });
    }
    Ok(Some(json!({"name": target_name(backend, scheme), "port": first.port})))
}

/// Port 80, and 443 when there are certificates: then 80 only sends clients there.
fn listeners(
    spec: &BalancerSpec,
    http: &HttpSpec,
    certificates: &[String],
) -> Result<Vec<Value>, FrameError> {
    let Some(first) = certificates.first() else {
        if http.all_hosts || !http.hosts.is_empty() {
            return Err(FrameError::Tls { ingress: spec.name.clone() });
        }
        return Ok(vec![listener("Http", spec, http)?]);
    };
    let redirect = json!({
        "Type": "redirect", "RedirectConfig": {"Protocol": "HTTPS", "Port": "443", "StatusCode": "HTTP_301"},
    });
    let plain = json!({
        "name": "Http", "protocol": "HTTP", "port": 80, "certificate": false, "default": redirect, "more": [], "rules": [],
    });
    let plain = if http.plain { listener("Http", spec, http)? } else { plain };
    let mut encrypted = listener("Https", spec, http)?;
    encrypted["more"] = json!(more_certificates("Https", certificates));
    encrypted["certificate"] = json!(first);
    encrypted["policy"] = json!(TLS_POLICY);
    encrypted["protocol"] = json!("HTTPS");
    encrypted["port"] = json!(443);
    Ok(vec![plain, encrypted])
}

fn listener(name: &str, spec: &BalancerSpec, http: &HttpSpec) -> Result<Value, FrameError> {
    let (ingress, scheme) = (&spec.name, Scheme::of(spec.kind));
    let mut rules: Vec<&HttpRule> = http.rules.iter().collect();
    rules.sort_by_key(|rule| rank(rule));
    let rules = rules.iter().enumerate().map(|(index, rule)| {
        Ok(json!({
            "name": format!("{name}Rule{}", index + 1),
            "priority": index + 1,
            "conditions": conditions(ingress, rule)?,
            "action": action((http, scheme), Some(rule.backend)),
        }))
    });
    Ok(json!({
        "name": name, "protocol": "HTTP", "port": 80, "certificate": false, "more": [],
        "default": action((http, scheme), http.default), "rules": rules.collect::<Result<Vec<_>, FrameError>>()?,
    }))
}

/// The order in which rules are tried: hosts before patterns of hosts before all hosts, long paths before short ones, and
/// a path alone before what begins with it.
fn rank(rule: &HttpRule) -> (u8, std::cmp::Reverse<usize>, std::cmp::Reverse<usize>, bool) {
    let host = rule.host.as_deref();
    let class = match host {
        Some(host) if host.starts_with("*.") => 1,
        Some(_) => 0,
        None => 2,
    };
    let width = if class == 1 { host.map_or(0, str::len) } else { 0 };
    (class, std::cmp::Reverse(width), std::cmp::Reverse(rule.path.trim_end_matches('/').len()), !rule.exact)
}

fn conditions(ingress: &Name, rule: &HttpRule) -> Result<Vec<Value>, FrameError> {
    let mut conditions = Vec::new();
    if let Some(host) = &rule.host {
        conditions.push(json!({"Field": "host-header", "HostHeaderConfig": {"Values": [host]}}));
    }
    let literal = |c: char| c.is_ascii_alphanumeric() || LITERAL.contains(c);
    if rule.path.len() + 2 > LONGEST_PATH || !rule.path.chars().all(literal) {
        return Err(FrameError::Path { ingress: ingress.clone(), path: rule.path.clone() });
    }
    let prefix = rule.path.trim_end_matches('/');
    let patterns = match (rule.exact, prefix) {
        (true, _) => vec![rule.path.clone()],
        (false, "") => vec!["/*".to_owned()],
        (false, prefix) => vec![prefix.to_owned(), format!("{prefix}/*")],
    };
    conditions.push(json!({"Field": "path-pattern", "PathPatternConfig": {"Values": patterns}}));
    Ok(conditions)
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
            certificates: vec![],
            hosts: vec![],
            all_hosts: false,
            secrets: vec![],
            acme: None,
            plain: false,
            backends: vec![backend("web", 8080), backend("api", 9090)],
            rules: vec![
                rule(None, "/", false, 0),
                rule(Some("*.example.com"), "/", false, 0),
                rule(Some("shop.example.com"), "/api", false, 1),
                rule(Some("shop.example.com"), "/api/health", true, 0),
                rule(Some("shop.example.com"), "/", false, 0),
            ],
            default: None,
        }
    }

    fn put(http: &HttpSpec) -> Result<StackPlan, FrameError> {
        let mut spec = BalancerSpec::new(name("ingress/shop"), ServiceType::LoadBalancer, vec![]);
        spec.http = Some(http.clone());
        put_spec(&spec, http)
    }

    fn put_spec(spec: &BalancerSpec, http: &HttpSpec) -> Result<StackPlan, FrameError> {
        stack("production", (spec, http), &http.certificates, &frame())
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
        let way = |new: &BalancerSpec| bridge("production", (&old, &http), (&[], new), &frame()).unwrap();
        let plan = way(&new).unwrap();
        assert_eq!(plan.template.matches("::TargetGroup").count(), 3, "{}", plan.template);
        assert!(plan.template.contains("warm.invalid"), "{}", plan.template);
        assert_eq!(way(&old), None);
        // Of another scheme it is another load balancer, whose target groups are its own.
        let internal = spec(&http, ServiceType::ClusterIP);
        assert_eq!(way(&internal), None);
        let named = |spec: &BalancerSpec| target_name(&http.backends[0], Scheme::of(spec.kind));
        assert_ne!(named(&old), named(&internal));
    }

    #[test]
    fn prefixes_are_whole_elements() {
        let patterns = |path, exact| {
            conditions(&name("i"), &rule(None, path, exact, 0))
                .map(|found| found[0]["PathPatternConfig"]["Values"].clone())
        };
        assert_eq!(patterns("/foo", false), Ok(json!(["/foo", "/foo/*"])));
        assert_eq!(patterns("/foo/", false), Ok(json!(["/foo", "/foo/*"])));
        assert_eq!(patterns("/foo/", true), Ok(json!(["/foo/"])));
        assert_eq!(patterns("/", false), Ok(json!(["/*"])));
        for bad in ["/a*", "/b?", &format!("/{}", "x".repeat(130))] {
            assert!(patterns(bad, false).unwrap_err().to_string().contains("path"), "{bad}");
        }
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
