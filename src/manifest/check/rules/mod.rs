//! What cannot be said field by field. Each rule is named in the table of the object that it is about.

mod config;
mod container;
mod ingress;
mod machine;
mod pod;
mod service;
mod workload;

pub(in crate::manifest) use config::{
    ROLE_ANNOTATIONS, data_keys, disk_parameters, role, scaler_bounds, secret_keys,
};
pub(in crate::manifest) use container::{
    capabilities, env_source, host_port, mount_path, privileged_sysctl, probe_ports, repeated_env,
    requests_within_limits, seccomp_profile, unique_mounts, unique_ports, unrendered,
};
pub(in crate::manifest) use ingress::{
    INGRESS_CERTIFICATE, INGRESS_SCHEME, INGRESS_SOURCE_RANGES, ingress_annotations, ingress_has_backend,
    ingress_path,
};
pub(in crate::manifest) use machine::{
    grace_period, name_servers, no_live_update, root_user, scratch_in_memory, security, shown_containers,
};
pub(in crate::manifest) use pod::{
    MACHINE_TYPE_LABELS, MACHINE_TYPES, ON_DEMAND_BASE, SPOT, ZONE_LABELS, expression_values,
    injected_sidecars, injecting_namespace, machine_types, mounts_exist, node_condition, node_selector,
    one_term, pod_term, preferred_term, same_service_account, spot, spot_percent, spread_key, sysctl,
    unique_containers,
};
pub(in crate::manifest) use service::{
    BACKEND_PROTOCOL, SOURCE_RANGES, TLS_CERTIFICATE, TLS_POLICY, TLS_PORTS, is_internal, service,
    service_annotations, short_form,
};
pub(in crate::manifest) use workload::{
    always_restarts, claim_annotations, claim_templates, claims_of_group, deadline, holds, job_restarts,
    pod_alone, rolling_update, selector_matches, strategy,
};

use super::Check;

/// Runs `inner` with all keys added to the path.
fn below(check: &mut Check<'_>, keys: &[&str], inner: impl FnOnce(&mut Check<'_>)) {
    match keys {
        [] => inner(check),
        [first, rest @ ..] => check.key(first, |check| below(check, rest, inner)),
    }
}
