//! Values of Auto Scaling and of launch templates in our words, and ours in theirs.

use aws_sdk_autoscaling::types::{
    AutoScalingGroup, InstanceRefresh, InstanceRefreshStatus, LaunchTemplateSpecification,
    MixedInstancesPolicy,
};
use i2kit_spec::Seconds;

use super::tags::{self, GROUP, SETTINGS};
use crate::cloud::CloudError;
use crate::manifest::api::Name;
use crate::plan::fleet::{GroupSettings, RefreshStatus};

/// Seconds after its start within which Auto Scaling does not end a VM whose load balancers call it unhealthy. A boot
/// takes about 3 s, one of a larger image from a cold volume much longer.
pub(super) const HEALTH_GRACE_SECONDS: u32 = 120;

/// A number as the SDK takes it.
pub(super) fn size(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// A span of time in AWS' form.
pub(super) fn seconds(span: Seconds) -> i32 {
    i32::try_from(span.0).unwrap_or(i32::MAX)
}

/// A numbered version of a launch template.
pub(super) fn template_version(name: &str, number: u32) -> LaunchTemplateSpecification {
    LaunchTemplateSpecification::builder().launch_template_name(name).version(number.to_string()).build()
}

/// How many machines a group is to have just now; none where AWS does not say.
pub(super) fn capacity(group: &AutoScalingGroup) -> u32 {
    group.desired_capacity().and_then(|n| u32::try_from(n).ok()).unwrap_or_default()
}

/// The group in the tags of an Auto Scaling group.
pub(super) fn group_name(group: &AutoScalingGroup) -> Option<Name> {
    let tag = group.tags().iter().find(|tag| tag.key() == Some(GROUP))?;
    let (namespace, name) = tag.value()?.split_once('/')?;
    Some(Name { namespace: namespace.into(), name: name.into() })
}

/// Settings in the tags of a launch template; none where it has no such tags.
///
/// # Errors
/// They cannot be read. A group that is left out would be one that nobody destroys.
pub(super) fn settings_in(tags: &[aws_sdk_ec2::types::Tag]) -> Result<Option<GroupSettings>, CloudError> {
    let Some(text) = tags::read_long(tags, SETTINGS) else { return Ok(None) };
    let unreadable = |error: serde_json::Error| {
        let name = tags::named(tags).map_or_else(|| "a group".to_owned(), |name| format!("group {name}"));
        CloudError::Refused {
            message: format!(
                "the settings of {name}, in the tags of its launch template, are not those of this version of i2kit: {error}; \
                 use the version that deployed it, or delete the tags that begin with `{SETTINGS}`"
            ),
        }
    };
    serde_json::from_str(&text).map(Some).map_err(unreadable)
}

/// The revision that a group runs or returns to.
pub(super) fn current(group: &AutoScalingGroup) -> Option<u32> {
    version(group.launch_template(), group.mixed_instances_policy())
}

/// The revision of a VM.
pub(super) fn version_of(instance: &aws_sdk_autoscaling::types::Instance) -> Option<u32> {
    instance.launch_template()?.version()?.parse().ok()
}

/// The revision that a refresh brings.
pub(super) fn wanted(refresh: &InstanceRefresh) -> Option<u32> {
    let desired = refresh.desired_configuration()?;
    version(desired.launch_template(), desired.mixed_instances_policy())
}

/// The version of a launch template that is named by itself or in a policy for several types.
fn version(
    plain: Option<&LaunchTemplateSpecification>,
    policy: Option<&MixedInstancesPolicy>,
) -> Option<u32> {
    let mixed = policy.and_then(|policy| policy.launch_template()?.launch_template_specification());
    mixed.or(plain)?.version()?.parse().ok()
}

/// How far a refresh is, in our words.
pub(super) fn status(refresh: &InstanceRefresh) -> RefreshStatus {
    match refresh.status() {
        Some(InstanceRefreshStatus::Successful) => RefreshStatus::Successful,
        Some(InstanceRefreshStatus::RollbackInProgress) => RefreshStatus::RollingBack,
        Some(InstanceRefreshStatus::RollbackSuccessful) => RefreshStatus::RolledBack,
        Some(InstanceRefreshStatus::Failed | InstanceRefreshStatus::RollbackFailed) => RefreshStatus::Failed,
        Some(InstanceRefreshStatus::Cancelled) => RefreshStatus::Cancelled,
        // Pending, in progress, baking, cancelling, and what AWS may add: it still works on it.
        _ => RefreshStatus::InProgress,
    }
}

/// Healthy percentages that give AWS exactly the bounds of the strategy: it rounds the least up and the most down.
pub(super) fn percentages(settings: &GroupSettings, replicas: u32) -> (i32, i32) {
    let bounds = settings.bounds(replicas);
    if replicas == 0 {
        return (0, 100);
    }
    let (least, most, all) =
        (u64::from(bounds.min_available), u64::from(bounds.max_total), u64::from(replicas));
    let least = i32::try_from(least * 100 / all).unwrap_or(100).min(100);
    // AWS' own limits: at most double, and at most 100 apart.
    let most = i32::try_from((most * 100).div_ceil(all)).unwrap_or(200).clamp(100, 200).min(least + 100);
    (least, most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::api::IntOrPercent::{Int, Percent};
    use crate::manifest::api::Strategy;

    #[test]
    fn settings_of_an_earlier_version_are_read_and_others_are_an_error() {
        let tags = |text: &str| -> Vec<aws_sdk_ec2::types::Tag> {
            let pairs = tags::long(SETTINGS, text);
            pairs.iter().map(|(key, value)| tags::tag(key, value)).collect()
        };
        let earlier = r#"{"strategy":"Recreate","minReadySeconds":0,"progressDeadlineSeconds":600,"revisionHistoryLimit":10,
            "labels":{},"scaling":{"min":2,"max":7,"cpuPercent":80,"cpuRequestMillis":250,"warmupSeconds":60}}"#;
        let scaling = settings_in(&tags(earlier)).unwrap().unwrap().scaling.unwrap();
        assert_eq!((scaling.min, scaling.max, scaling.metrics.len()), (2, 7, 0));
        assert_eq!(settings_in(&[]).unwrap(), None);
        let error = settings_in(&tags(r#"{"strategy":"Wave"}"#)).unwrap_err().to_string();
        assert!(error.contains("version") && error.contains(SETTINGS), "{error}");
    }

    #[test]
    fn aws_rounds_the_percentages_to_the_bounds() {
        let quarter = Strategy::RollingUpdate { max_unavailable: Percent(25), max_surge: Percent(25) };
        let settings = crate::plan::example::settings;
        for strategy in [quarter, Strategy::RollingUpdate { max_unavailable: Int(1), max_surge: Int(0) }] {
            let settings = settings(strategy);
            for replicas in 1..60 {
                let (least, most) = percentages(&settings, replicas);
                let bounds = settings.bounds(replicas);
                let all = i64::from(replicas);
                assert_eq!(
                    (all * i64::from(least) + 99) / 100,
                    i64::from(bounds.min_available),
                    "{replicas}"
                );
                assert_eq!(all * i64::from(most) / 100, i64::from(bounds.max_total), "{replicas}");
                assert!(most - least <= 100);
            }
        }
        assert_eq!(percentages(&settings(Strategy::Recreate), 3), (0, 100));
        assert_eq!(percentages(&settings(quarter), 0), (0, 100));
    }
}
