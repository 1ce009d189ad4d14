//! Network policies.

use super::container::protocol;
use super::object::{Object, Read};
use super::scope::Scope;
use crate::manifest::api::{
    LabelCondition, LabelOperator, LabelSelector, NetworkPolicy, PolicyPeer, PolicyPort, PolicyRule,
    TargetPort,
};
use crate::manifest::tree::Resolved;

/// `networking.k8s.io/v1` NetworkPolicy.
pub(super) fn network_policy(object: Object<'_>, scope: &Scope<'_>) -> Read<NetworkPolicy> {
    let spec = object.object("spec")?;
    let types = spec.texts_if("policyTypes")?.filter(|types| !types.is_empty());
    // Without the list a policy restricts what comes in, and what goes out where it has rules for that.
    let is_about = |word: &str, otherwise: bool| {
        types.as_ref().map_or(otherwise, |types| types.iter().any(|listed| listed == word))
    };
    let rules = |list: &str, peers: &str| {
        let rules = spec.objects(list)?.into_iter();
        rules.map(|rule| self::rule(rule, peers)).collect::<Read<Vec<_>>>()
    };
    let egress = rules("egress", "to")?;
    Ok(NetworkPolicy {
        meta: scope.meta(object)?,
        pods: selector(spec.object("podSelector")?)?,
        ingress: is_about("Ingress", true).then(|| rules("ingress", "from")).transpose()?,
        egress: is_about("Egress", !egress.is_empty()).then_some(egress),
    })
}

fn rule(object: Object<'_>, peers: &str) -> Read<PolicyRule> {
    Ok(PolicyRule {
        peers: object.objects(peers)?.into_iter().map(peer).collect::<Read<_>>()?,
        ports: object.objects("ports")?.into_iter().map(port).collect::<Read<_>>()?,
    })
}

fn peer(object: Object<'_>) -> Read<PolicyPeer> {
    if object.has("ipBlock") {
        let block = object.object("ipBlock")?;
        return Ok(PolicyPeer::Block {
            cidr: block.text("cidr")?,
            except: block.texts_if("except")?.unwrap_or_default(),
        });
    }
    let of = |field| object.has(field).then(|| selector(object.object(field)?)).transpose();
    Ok(PolicyPeer::Pods { pods: of("podSelector")?, namespaces: of("namespaceSelector")? })
}

fn port(object: Object<'_>) -> Read<PolicyPort> {
    let port = object.value_if("port", |text, resolved| match resolved {
        Resolved::Int(number) => u16::try_from(number).ok().map(TargetPort::Number),
        _ => Some(TargetPort::Name(text.to_owned())),
    })?;
    let protocol = object.value("protocol", |text, _| protocol(text))?;
    Ok(PolicyPort { protocol, port, end: object.number_if("endPort")? })
}

/// A selector by labels.
fn selector(object: Object<'_>) -> Read<LabelSelector> {
    let condition = |object: Object<'_>| {
        Ok(LabelCondition {
            key: object.text("key")?,
            operator: object.value("operator", |text, _| match text {
                "In" => Some(LabelOperator::In),
                "NotIn" => Some(LabelOperator::NotIn),
                "Exists" => Some(LabelOperator::Exists),
                "DoesNotExist" => Some(LabelOperator::DoesNotExist),
                _ => None,
            })?,
            values: object.texts_if("values")?.unwrap_or_default(),
        })
    };
    Ok(LabelSelector {
        labels: object.map("matchLabels")?,
        conditions: object.objects("matchExpressions")?.into_iter().map(condition).collect::<Read<_>>()?,
    })
}
