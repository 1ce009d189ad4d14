//! How much of a recommendation is done at once: bounds, and policies over what was done in their periods.

use std::cmp::Ordering;

use i2kit_spec::Seconds;

use crate::cloud::engine::reconcile::Rescale;
use crate::manifest::api::{PolicyChange, ScalingPolicy, ScalingRules, SelectPolicy};
use crate::plan::fleet::Scaling;

/// Where no rules are given at all, a group grows to the double at one look, and at least to this size.
const LEAST_LIMIT: u32 = 4;

/// Policies of growing where rules are given and none of them is a policy of growing: the double, or four more.
const UP_POLICIES: &[ScalingPolicy] = &[
    ScalingPolicy { change: PolicyChange::Percent(100), period_seconds: Seconds(15) },
    ScalingPolicy { change: PolicyChange::Pods(4), period_seconds: Seconds(15) },
];

/// Policies of shrinking where none are given: as far as the recommendation goes.
const DOWN_POLICIES: &[ScalingPolicy] =
    &[ScalingPolicy { change: PolicyChange::Percent(100), period_seconds: Seconds(15) }];

/// The size that a group of `replicas` gets when `wanted` is recommended.
pub(super) fn limited(scaling: &Scaling, replicas: u32, wanted: u32, rescales: &[Rescale], now: u64) -> u32 {
    match wanted.cmp(&replicas) {
        Ordering::Greater => {
            let highest = if has_rules(scaling) {
                highest(&scaling.up, replicas, rescales, now).max(replicas)
            } else {
                replicas.saturating_mul(2).max(LEAST_LIMIT)
            };
            wanted.min(scaling.max).min(highest)
        }
        Ordering::Less => {
            wanted.max(scaling.min).max(lowest(&scaling.down, replicas, rescales, now).min(replicas))
        }
        Ordering::Equal => replicas,
    }
}

/// Whether the manifest has a `behavior`: the default policies are only filled in beside other rules, as in Kubernetes.
fn has_rules(scaling: &Scaling) -> bool {
    [&scaling.up, &scaling.down].into_iter().any(|rules| *rules != ScalingRules::default())
}

/// The highest size that policies allow now.
fn highest(rules: &ScalingRules, replicas: u32, rescales: &[Rescale], now: u64) -> u32 {
    let policies = rules.policies.as_deref().unwrap_or(UP_POLICIES);
    let allowed = policies.iter().map(|policy| {
        let start = at_start(policy, replicas, rescales, now);
        match policy.change {
            PolicyChange::Pods(count) => start.saturating_add(u64::from(count)),
            PolicyChange::Percent(percent) => {
                start.saturating_mul(u64::from(percent).saturating_add(100)).div_ceil(100)
            }
        }
    });
    let allowed = match rules.select_policy.unwrap_or(SelectPolicy::Max) {
        SelectPolicy::Max => allowed.max(),
        SelectPolicy::Min => allowed.min(),
        SelectPolicy::Disabled => None,
    };
    allowed.map_or(replicas, |allowed| u32::try_from(allowed).unwrap_or(u32::MAX))
}

/// The lowest size that policies allow now.
fn lowest(rules: &ScalingRules, replicas: u32, rescales: &[Rescale], now: u64) -> u32 {
    let policies = rules.policies.as_deref().unwrap_or(DOWN_POLICIES);
    let allowed = policies.iter().map(|policy| {
        let start = at_start(policy, replicas, rescales, now);
        match policy.change {
            PolicyChange::Pods(count) => start.saturating_sub(u64::from(count)),
            PolicyChange::Percent(percent) => {
                start.saturating_mul(100_u64.saturating_sub(u64::from(percent))) / 100
            }
        }
    });
    let allowed = match rules.select_policy.unwrap_or(SelectPolicy::Max) {
        SelectPolicy::Max => allowed.min(),
        SelectPolicy::Min => allowed.max(),
        SelectPolicy::Disabled => None,
    };
    allowed.map_or(replicas, |allowed| u32::try_from(allowed).unwrap_or(u32::MAX))
}

/// The size at the beginning of a policy's period.
fn at_start(policy: &ScalingPolicy, replicas: u32, rescales: &[Rescale], now: u64) -> u64 {
    let recent = || rescales.iter().filter(|rescale| policy.period_seconds.millis().after(rescale.at) > now);
    let added: u64 = recent().map(|rescale| u64::from(rescale.to.saturating_sub(rescale.from))).sum();
    let removed: u64 = recent().map(|rescale| u64::from(rescale.from.saturating_sub(rescale.to))).sum();
    u64::from(replicas).saturating_add(removed).saturating_sub(added)
}
