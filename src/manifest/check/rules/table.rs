//! Which rules hold for which object. A rule runs after the fields of the object were checked.

use super::batch::{cron_job_name, failure_policy, job_indexes, job_name, job_restarts, success_policy};
use super::config::{data_keys, disk_parameters, role, scaler_bounds, secret_keys};
use super::container::{
    capabilities, env_source, host_port, mount_path, privileged_sysctl, probe_ports, repeated_env,
    requests_within_limits, seccomp_profile, unique_mounts, unique_ports, unrendered,
};
use super::ingress::{ingress_annotations, ingress_has_backend, ingress_path};
use super::isolation::{ids_in_user_namespace, tracing_others};
use super::machine::{
    grace_period, name_servers, no_live_update, root_user, scratch_in_memory, security, shown_containers,
};
use super::pod::{
    expression_values, injected_sidecars, injecting_namespace, mounts_exist, node_condition, node_selector,
    one_term, pod_term, preferred_term, same_service_account, spot, spread_key, sysctl, unique_containers,
};
use super::policy::{policy_peer, policy_port};
use super::replicated::replicated;
use super::service::{service, service_annotations, short_form};
use super::workload::{
    always_restarts, claim_annotations, claim_templates, claims_of_group, claims_of_members, deadline,
    pod_alone, rolling_update, selector_matches, strategy,
};
use crate::manifest::check::report::Check;
use crate::manifest::language::Table;
use crate::manifest::tree::Node;

/// A condition that no table of fields can hold.
pub(in crate::manifest) type Rule = fn(&mut Check<'_>, &Node<'_>);

/// The rules of an object.
pub(in crate::manifest) fn of(table: &Table) -> &'static [Rule] {
    match table.name {
        "DeploymentSpec" => &[selector_matches, always_restarts, claims_of_group, deadline],
        "DeploymentStrategy" => &[strategy],
        "RollingUpdateDeployment" => &[rolling_update],
        "ReplicaSetSpec" => &[selector_matches, always_restarts, claims_of_group],
        "StatefulSetSpec" => &[selector_matches, always_restarts, claim_templates, claims_of_members],
        "PersistentVolumeClaim template" | "PersistentVolumeClaim" => &[claim_annotations],
        "Pod" => &[pod_alone],
        "NetworkPolicyPeer" => &[policy_peer],
        "NetworkPolicyPort" => &[policy_port],
        "JobSpec" => &[job_restarts, job_indexes, failure_policy, success_policy],
        "Job" => &[job_name],
        "CronJob" => &[cron_job_name],
        "PodTemplateSpec" => &[spot, replicated],
        "PodSpec" => &[
            unique_containers,
            mounts_exist,
            same_service_account,
            node_selector,
            grace_period,
            name_servers,
            shown_containers,
            root_user,
            tracing_others,
            ids_in_user_namespace,
        ],
        "Sysctl" => &[sysctl],
        "NodeSelector" => &[one_term],
        "NodeSelectorRequirement" => &[expression_values, node_condition],
        "PodAffinityTerm" => &[pod_term],
        "PodAffinityTerm (preferred)" => &[preferred_term],
        "TopologySpreadConstraint" => &[spread_key],
        "Container" | "Init container" => {
            &[unique_ports, repeated_env, unique_mounts, probe_ports, unrendered, privileged_sysctl]
        }
        "EnvVarSource" => &[env_source],
        "ContainerPort" => &[host_port],
        "ResourceRequirements" => &[requests_within_limits],
        "VolumeMount" => &[mount_path],
        "SecurityContext" => &[security],
        "Capabilities" => &[capabilities],
        "SeccompProfile" => &[seccomp_profile],
        "Volume" => &[no_live_update, scratch_in_memory],
        "ConfigMap" => &[data_keys],
        "Secret" => &[secret_keys],
        "ServiceAccount" => &[role],
        "Namespace" => &[injecting_namespace],
        "StorageClass" => &[disk_parameters],
        "HorizontalPodAutoscalerSpec" | "HorizontalPodAutoscalerSpec (autoscaling/v1)" => &[scaler_bounds],
        "LabelSelectorRequirement" => &[expression_values],
        "Service" => &[service_annotations],
        "ServiceSpec" => &[service],
        "Ingress" => &[ingress_annotations],
        "IngressSpec" => &[ingress_has_backend],
        "HTTPIngressPath" => &[ingress_path],
        "Short form" => &[short_form],
        "PodTemplate metadata" => &[injected_sidecars],
        _ => &[],
    }
}
