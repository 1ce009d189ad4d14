//! Network policies, and selectors by labels.

use std::collections::BTreeMap;

use super::Protocol;
use super::meta::ObjectMeta;
use super::service::TargetPort;

/// `networking.k8s.io/v1` NetworkPolicy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// Name and so on.
    pub meta: ObjectMeta,
    /// The pods of its namespace that it is about.
    pub pods: LabelSelector,
    /// What reaches them; not restricted when `None`.
    pub ingress: Option<Vec<PolicyRule>>,
    /// What they reach; not restricted when `None`.
    pub egress: Option<Vec<PolicyRule>>,
}

/// Connections that a policy allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRule {
    /// The other side; everybody when empty.
    pub peers: Vec<PolicyPeer>,
    /// The ports; all when empty.
    pub ports: Vec<PolicyPort>,
}

/// The other side of connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyPeer {
    /// Pods.
    Pods {
        /// Which; all when `None`.
        pods: Option<LabelSelector>,
        /// Of which namespaces; of the policy's own when `None`.
        namespaces: Option<LabelSelector>,
    },
    /// A range of addresses.
    Block {
        /// The range.
        cidr: String,
        /// Ranges in it that are not meant.
        except: Vec<String>,
    },
}

/// Ports of a transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyPort {
    /// The transport.
    pub protocol: Protocol,
    /// The port; all when `None`.
    pub port: Option<TargetPort>,
    /// The last port of a range that begins with `port`.
    pub end: Option<u16>,
}

/// A selector of objects by their labels: all of it must hold. Without conditions it selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    /// Labels with their values.
    pub labels: BTreeMap<String, String>,
    /// `matchExpressions`.
    pub conditions: Vec<LabelCondition>,
}

/// A condition on a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelCondition {
    /// The label.
    pub key: String,
    /// How it is compared.
    pub operator: LabelOperator,
    /// With what.
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelOperator {
    /// The value is one of those.
    In,
    /// There is none, or another value.
    NotIn,
    /// There is one.
    Exists,
    /// There is none.
    DoesNotExist,
}

impl LabelSelector {
    /// Whether an object with these labels is selected.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.conditions.iter().all(|condition| condition.holds(labels))
    }
}

impl LabelCondition {
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let is_listed = value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            LabelOperator::In => is_listed,
            LabelOperator::NotIn => !is_listed,
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_conditions_must_all_hold() {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let condition = |key: &str, operator, values: &[&str]| LabelCondition {
            key: key.into(),
            operator,
            values: values.iter().map(|&value| value.to_owned()).collect(),
        };
        let selects = |conditions| LabelSelector { labels: labels.clone(), conditions }.selects(&labels);
        assert!(LabelSelector::default().selects(&labels) && selects(vec![]));
        assert!(selects(vec![condition("app", LabelOperator::In, &["db", "web"])]));
        assert!(!selects(vec![condition("app", LabelOperator::NotIn, &["web"])]));
        assert!(selects(vec![condition("tier", LabelOperator::NotIn, &["web"])]));
        assert!(selects(vec![condition("app", LabelOperator::Exists, &[])]));
        assert!(!selects(vec![condition("app", LabelOperator::DoesNotExist, &[])]));
        let other =
            LabelSelector { labels: BTreeMap::from([("app".into(), "db".into())]), conditions: vec![] };
        assert!(!other.selects(&labels));
    }
}
