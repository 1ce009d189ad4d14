//! Pod templates.

use std::collections::BTreeMap;

use i2kit_spec::{HostAlias, RestartPolicy};

use super::container::container;
use super::object::{Object, Read};
use super::placement::placement;
use super::scope::{PodScope, Scope};
use super::volume::volume;
use crate::manifest::api::{Dns, DnsPolicy, PodSpec, PodTemplate};

/// `template` of a workload, or a Pod itself: what has `metadata` and `spec`.
pub(super) fn template(object: Object<'_>, scope: &Scope<'_>) -> Read<PodTemplate> {
    let meta = object.object("metadata")?;
    let (labels, annotations) = (meta.map("labels")?, meta.map("annotations")?);
    let spec = spec(object.object("spec")?, scope, &labels, &annotations)?;
    Ok(PodTemplate { labels, annotations, spec })
}

fn spec(
    object: Object<'_>,
    scope: &Scope<'_>,
    labels: &BTreeMap<String, String>,
    annotations: &BTreeMap<String, String>,
) -> Read<PodSpec> {
    let service_account = object.text_if("serviceAccountName")?.or(object.text_if("serviceAccount")?);
    let pod = PodScope {
        scope: *scope,
        labels,
        annotations,
        service_account: service_account.as_deref(),
        pod: object,
    };
    let containers = |field, init| {
        object.objects(field)?.into_iter().map(|item| container(item, &pod, init)).collect::<Read<Vec<_>>>()
    };
    let security = object.object("securityContext")?;
    let pair = |item: Object<'_>| Ok((item.text("name")?, item.text("value")?));
    let alias = |item: Object<'_>| {
        Ok(HostAlias { ip: item.text("ip")?, names: item.texts_if("hostnames")?.unwrap_or_default() })
    };
    Ok(PodSpec {
        init_containers: containers("initContainers", true)?,
        containers: containers("containers", false)?,
        volumes: object
            .objects("volumes")?
            .into_iter()
            .map(|item| volume(item, &pod))
            .collect::<Read<_>>()?,
        restart_policy: object.value("restartPolicy", |text, _| restart_policy(text))?,
        termination_grace_period_seconds: object.seconds("terminationGracePeriodSeconds")?,
        image_pull_secrets: object
            .objects("imagePullSecrets")?
            .into_iter()
            .map(|item| item.text("name"))
            .collect::<Read<_>>()?,
        fs_group: security.number_if("fsGroup")?,
        fs_group_on_mismatch: security.text("fsGroupChangePolicy")? == "OnRootMismatch",
        supplemental_groups: security.numbers("supplementalGroups")?,
        sysctls: security.objects("sysctls")?.into_iter().map(pair).collect::<Read<_>>()?,
        host_aliases: object.objects("hostAliases")?.into_iter().map(alias).collect::<Read<_>>()?,
        hostname: object.text_if("hostname")?,
        subdomain: object.text_if("subdomain")?,
        dns: dns(object)?,
        host_users: object.flag_if("hostUsers")?.unwrap_or(true),
        share_process_namespace: object.flag_if("shareProcessNamespace")?.unwrap_or(false),
        active_deadline_seconds: object.seconds_if("activeDeadlineSeconds")?,
        placement: placement(object, annotations)?,
        service_account,
    })
}

fn restart_policy(text: &str) -> Option<RestartPolicy> {
    match text {
        "Always" => Some(RestartPolicy::Always),
        "OnFailure" => Some(RestartPolicy::OnFailure),
        "Never" => Some(RestartPolicy::Never),
        _ => None,
    }
}

fn dns(object: Object<'_>) -> Read<Dns> {
    let config = object.object("dnsConfig")?;
    let option = |item: Object<'_>| {
        let name = item.text("name")?;
        Ok(match item.text_if("value")? {
            Some(value) => format!("{name}:{value}"),
            None => name,
        })
    };
    Ok(Dns {
        policy: match object.text("dnsPolicy")?.as_str() {
            "Default" => DnsPolicy::Default,
            "None" => DnsPolicy::None,
            _ => DnsPolicy::ClusterFirst,
        },
        nameservers: config.texts_if("nameservers")?.unwrap_or_default(),
        searches: config.texts_if("searches")?.unwrap_or_default(),
        options: config.objects("options")?.into_iter().map(option).collect::<Read<_>>()?,
    })
}
