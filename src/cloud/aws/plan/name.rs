//! Names of what belongs to an environment. Things are found by their tags; names make creating one twice impossible.
//!
//! `_` cannot be part of the name of an environment, a namespace or a workload, so that two things never share a name.

use sha2::{Digest as _, Sha256};

use super::packing::{BalancerSlot, Scheme};
use crate::manifest::api::Name;

/// The longest name of a launch template is 128 characters.
const LONGEST: usize = 120;

/// Digits of a hash that stands for a name: two of a million names collide with a chance of one in five hundred million.
const HASH: usize = 16;

/// The Auto Scaling group and the launch template of a group.
pub fn group(environment: &str, group: &Name) -> String {
    let whole = format!("i2kit-{environment}_{}_{}", group.namespace, group.name);
    if whole.len() <= LONGEST {
        return whole;
    }
    let start: String = whole.chars().take(LONGEST - HASH - 1).collect();
    format!("{start}_{}", hash(&whole))
}

/// The Auto Scaling group of a lane of a Job's group; that of lane 0 is called like the group.
pub fn lane(environment: &str, group: &Name, lane: u32) -> String {
    i2kit_spec::user_data::JobTarget { group: self::group(environment, group) }.lane(lane)
}

/// The log group of the records of Jobs, which keeps them for as long as the Jobs are there.
pub fn records(environment: &str) -> String {
    i2kit_spec::user_data::LogTarget { group: log_group(environment) }.records()
}

/// What the names of the log streams with a Job's records begin with.
pub fn records_of(group: &Name) -> String {
    format!("{}/{}/", group.namespace, group.name)
}

/// The log stream with the record of a Job that was started at that time, in milliseconds since the Unix epoch.
pub fn record(group: &Name, started: u64) -> String {
    format!("{}{started}", records_of(group))
}

/// The stack of what an environment has once: network, roles, log group, zone.
pub fn environment_stack(environment: &str) -> String {
    format!("i2kit-environment-{environment}")
}

/// The stack of a network load balancer. Its number has two digits, so that a pattern fits the names of one environment.
pub fn balancer_stack(environment: &str, placement: BalancerSlot) -> String {
    format!("i2kit-balancer-{}-{:02}-{environment}", placement.scheme, placement.index)
}

/// The network load balancer of the stack of that name; `None` where it is the stack of something else.
pub fn balancer_of(environment: &str, stack: &str) -> Option<BalancerSlot> {
    let slot = stack.strip_prefix("i2kit-balancer-")?.strip_suffix(environment)?.strip_suffix('-')?;
    slot.parse().ok()
}

/// The stack of a Service.
pub fn service_stack(environment: &str, service: &Name) -> String {
    format!("i2kit-service-{}-{environment}", hash(&format!("{}/{}", service.namespace, service.name)))
}

/// The stack of an instance profile that `whole` tells from all others.
pub fn role_stack(environment: &str, whole: &str) -> String {
    format!("i2kit-role-{}-{environment}", hash(whole))
}

/// Patterns of the names of an environment's stacks, and of no other's: what is in front of the environment's name is of one
/// length in each.
pub fn stack_patterns(environment: &str) -> [String; 5] {
    let digits = "?".repeat(HASH);
    [
        environment_stack(environment),
        format!("i2kit-balancer-{}-??-{environment}", Scheme::Internal),
        format!("i2kit-balancer-{}-??-{environment}", Scheme::Public),
        format!("i2kit-service-{digits}-{environment}"),
        format!("i2kit-role-{digits}-{environment}"),
    ]
}

/// The start of the names of an environment's Secrets in Secrets Manager.
pub fn secrets(environment: &str) -> String {
    format!("i2kit/{environment}/")
}

/// The name in Secrets Manager of a version of a Secret's values; without the version, what these begin with.
pub fn secret(environment: &str, secret: &Name, version: &str) -> String {
    format!("{}{}/{}/{version}", secrets(environment), secret.namespace, secret.name)
}

/// The name in Secrets Manager of the key that versions of Secrets' values are made with. It lies beside what machines may
/// read.
pub fn secrets_key(environment: &str) -> String {
    format!("i2kit-versions/{environment}")
}

/// The path of an environment's roles. CloudFormation shortens their names as it likes; a path is kept, for policies to name.
pub fn role_path(environment: &str) -> String {
    format!("/i2kit/{environment}/")
}

/// The log group of an environment.
pub fn log_group(environment: &str) -> String {
    format!("/i2kit/{environment}")
}

/// Hexadecimal digits that stand for `text`.
pub fn hash(text: &str) -> String {
    let mut digits = hex::encode(Sha256::digest(text.as_bytes()));
    digits.truncate(HASH);
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stack_of_a_load_balancer_says_which_it_is() {
        for (scheme, index) in [(Scheme::Internal, 0), (Scheme::Public, 12)] {
            let slot = BalancerSlot { scheme, index };
            let name = balancer_stack("test-2", slot);
            assert_eq!(balancer_of("test-2", &name), Some(slot), "{name}");
            assert_eq!(balancer_of("2", &name), None, "{name}");
        }
        assert_eq!(balancer_of("test", &environment_stack("test")), None);
    }

    #[test]
    fn two_groups_never_share_a_name() {
        let name = |namespace: &str, name: &str| Name { namespace: namespace.into(), name: name.into() };
        assert_eq!(group("e", &name("default", "web")), "i2kit-e_default_web");
        assert_ne!(group("e", &name("a-b", "c")), group("e", &name("a", "b-c")));
        let long = |end: &str| group("e", &name(&"n".repeat(63), &("x".repeat(62) + end)));
        assert_eq!(long("a").len(), LONGEST);
        assert_ne!(long("a"), long("b"));
    }
}
