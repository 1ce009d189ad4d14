//! Network policies as settings of groups: what each group may be reached by, and what it may reach.

use std::collections::BTreeMap;

use super::fleet::{GroupPolicy, Peer, PolicyPorts, Reachable};
use super::service::port_named;
use crate::manifest::api::{
    LabelSelector, Name, NetworkPolicy, ObjectSet, PodTemplate, PolicyPeer, PolicyPort, PolicyRule,
    TargetPort,
};

/// The label that every namespace has: its name.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// What the policies of `set` make of the group `name`; nothing where none is about its pods.
pub(super) fn of_group(set: &ObjectSet, name: &Name, template: &PodTemplate) -> Option<GroupPolicy> {
    let own = |policy: &&NetworkPolicy| {
        policy.meta.name.namespace == name.namespace && policy.pods.selects(&template.labels)
    };
    let mut found = None;
    for policy in set.policies.iter().filter(own) {
        let group = found.get_or_insert_with(GroupPolicy::default);
        if let Some(rules) = &policy.ingress {
            // Ports of the group itself: their names are its own.
            let allowed = rules.iter().map(|rule| Reachable {
                peers: peers(set, policy, rule).into_iter().map(|(peer, _)| peer).collect(),
                ports: ports(&rule.ports, Some(template)),
            });
            let allowed = allowed.filter(|rule| is_anything(rule.ports.as_deref()));
            group.ingress.get_or_insert_default().extend(allowed);
        }
        if let Some(rules) = &policy.egress {
            let allowed = group.egress.get_or_insert_default();
            allowed
                .extend(rules.iter().filter(|rule| rule.peers.is_empty()).flat_map(|rule| named(set, rule)));
            for (rule, (peer, template)) in rules
                .iter()
                .flat_map(|rule| peers(set, policy, rule).into_iter().map(move |peer| (rule, peer)))
            {
                let ports = ports(&rule.ports, template);
                if is_anything(ports.as_deref()) {
                    allowed.push(Reachable { peers: vec![peer], ports });
                }
            }
        }
    }
    found
}

/// The pods that call a port so, whoever they are: what a rule of egress for everybody means by a port's name.
fn named(set: &ObjectSet, rule: &PolicyRule) -> Vec<Reachable> {
    let by_name = |port: &&PolicyPort| matches!(port.port, Some(TargetPort::Name(_)));
    let names: Vec<PolicyPort> = rule.ports.iter().filter(by_name).cloned().collect();
    let reached = set.pods().map(|(name, template)| Reachable {
        peers: vec![Peer::Group(name.clone())],
        ports: Some(ports(&names, Some(template)).unwrap_or_default()),
    });
    reached.filter(|rule| is_anything(rule.ports.as_deref())).collect()
}

/// Whether some port is allowed: a rule whose ports have names that nobody has allows none.
fn is_anything(ports: Option<&[PolicyPorts]>) -> bool {
    ports.is_none_or(|ports| !ports.is_empty())
}

/// The other sides that a rule is about, with the pods' template where they are pods.
fn peers<'s>(
    set: &'s ObjectSet,
    policy: &NetworkPolicy,
    rule: &PolicyRule,
) -> Vec<(Peer, Option<&'s PodTemplate>)> {
    if rule.peers.is_empty() {
        return vec![(Peer::Everybody, None)];
    }
    let mut found = Vec::new();
    for peer in &rule.peers {
        match peer {
            PolicyPeer::Block { cidr, except } => {
                found.push((Peer::Block { cidr: cidr.clone(), except: except.clone() }, None));
            }
            PolicyPeer::Pods { pods, namespaces } => {
                let is_in = |namespace: &str| match namespaces {
                    None => namespace == policy.meta.name.namespace,
                    Some(selector) => selector.selects(&labels(set, namespace)),
                };
                let is_meant = |template: &PodTemplate| {
                    pods.as_ref().is_none_or(|selector: &LabelSelector| selector.selects(&template.labels))
                };
                let selected =
                    set.pods().filter(|(name, template)| is_in(&name.namespace) && is_meant(template));
                found.extend(selected.map(|(name, template)| (Peer::Group(name.clone()), Some(template))));
            }
        }
    }
    found
}

/// The labels of a namespace: those of its object, and its name.
fn labels(set: &ObjectSet, namespace: &str) -> BTreeMap<String, String> {
    let object = set.namespaces.iter().find(|object| object.name.name == namespace);
    let mut labels = object.map(|object| object.labels.clone()).unwrap_or_default();
    labels.insert(NAMESPACE_NAME.to_owned(), namespace.to_owned());
    labels
}

/// Ports by their numbers; all without a list. A name that the pods do not have is no port.
fn ports(ports: &[PolicyPort], template: Option<&PodTemplate>) -> Option<Vec<PolicyPorts>> {
    let range = |port: &PolicyPort| {
        let (first, last) = match &port.port {
            None => (0, u16::MAX),
            Some(TargetPort::Number(number)) => (*number, port.end.unwrap_or(*number)),
            Some(TargetPort::Name(name)) => {
                let number = port_named(template?, name, port.protocol)?;
                (number, number)
            }
        };
        Some(PolicyPorts { protocol: port.protocol, first, last })
    };
    (!ports.is_empty()).then(|| ports.iter().filter_map(range).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::manifest::{Options, SourceFile, read};

    /// Two workloads of one namespace, one of another, and the policy with this spec.
    fn set(spec: &str) -> ObjectSet {
        let workload = |namespace: &str, name: &str| {
            format!(
                "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  \
                 selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    \
                 spec: {{containers: [{{name: c, image: nginx, ports: [{{name: http, containerPort: 8080}}]}}]}}\n---\n"
            )
        };
        let text = workload("default", "web")
            + &workload("default", "db")
            + &workload("other", "spy")
            + "apiVersion: v1\nkind: Namespace\nmetadata: {name: other, labels: {team: red}}\n---\n"
            + "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: wall}\nspec:\n  "
            + spec;
        let files = [SourceFile { name: "x.yaml".into(), bytes: text.into_bytes() }];
        let reading = read(&files, &Options::default());
        assert!(!reading.has_errors(), "{:?}", reading.diagnostics);
        reading.set
    }

    /// What the policy makes of the workload `db`.
    fn policy(spec: &str) -> serde_json::Value {
        let set = set(spec);
        let found = set
            .pods()
            .find(|(name, _)| name.name == "db")
            .and_then(|(name, template)| of_group(&set, name, template));
        serde_json::to_value(found).unwrap()
    }

    #[test]
    fn a_policy_restricts_what_it_selects_in_the_directions_that_it_is_about() {
        let about_db = "podSelector: {matchLabels: {app: db}}\n  ";
        assert_eq!(policy("podSelector: {matchLabels: {app: web}}\n"), json!(null));
        assert_eq!(policy(about_db), json!({"ingress": []}));
        assert_eq!(policy(&format!("{about_db}policyTypes: [Egress]\n")), json!({"egress": []}));
        assert_eq!(
            policy(&format!("{about_db}egress: [{{}}]\n")),
            json!({
                "ingress": [],
                "egress": [{"peers": ["everybody"]}],
            })
        );
        let all = "podSelector: {}\n  ingress: [{}]\n";
        assert_eq!(policy(all), json!({"ingress": [{"peers": ["everybody"]}]}));
    }

    #[test]
    fn peers_are_groups_and_ports_have_numbers() {
        let group = |namespace: &str, name: &str| json!({"group": {"namespace": namespace, "name": name}});
        let peers = |rule: &str| {
            policy(&format!("podSelector: {{matchLabels: {{app: db}}}}\n  ingress: [{rule}]\n"))["ingress"][0]
                .clone()
        };
        assert_eq!(
            peers(
                "{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: http}, {port: 1, endPort: 9, protocol: UDP}]}"
            ),
            json!({
                "peers": [group("default", "web")],
                "ports": [
                    {"protocol": "TCP", "first": 8080, "last": 8080},
                    {"protocol": "UDP", "first": 1, "last": 9},
                ],
            })
        );
        for selector in ["{matchLabels: {team: red}}", "{matchLabels: {kubernetes.io/metadata.name: other}}"]
        {
            let found = peers(&format!("{{from: [{{namespaceSelector: {selector}}}]}}"));
            assert_eq!(found, json!({"peers": [group("other", "spy")]}), "{selector}");
        }
        let found = peers(
            "{from: [{namespaceSelector: {}, podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [db]}]}}]}",
        );
        assert_eq!(found, json!({"peers": [group("default", "web"), group("other", "spy")]}));
        let found =
            peers("{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}], ports: [{protocol: UDP}]}");
        assert_eq!(
            found,
            json!({
                "peers": [{"block": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}],
                "ports": [{"protocol": "UDP", "first": 0, "last": 65535}],
            })
        );
        // Without peers a port's name is that of whoever calls a port of theirs so; its number holds for everybody.
        let egress = "podSelector: {matchLabels: {app: db}}\n  policyTypes: [Egress]\n  egress: [{ports: [{port: http}, {port: 53, protocol: UDP}, {port: none}]}]\n";
        let port =
            |protocol: &str, number: u16| json!([{"protocol": protocol, "first": number, "last": number}]);
        let of_group =
            |namespace, name| json!({"peers": [group(namespace, name)], "ports": port("TCP", 8080)});
        assert_eq!(
            policy(egress)["egress"],
            json!([
                of_group("default", "web"),
                of_group("default", "db"),
                of_group("other", "spy"),
                {"peers": ["everybody"], "ports": port("UDP", 53)},
            ])
        );
        // A name that the pods do not have is no port, and a rule without ports allows nothing.
        assert_eq!(peers("{ports: [{port: https}]}"), json!(null));
    }
}
