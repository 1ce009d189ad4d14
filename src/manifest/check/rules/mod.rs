//! What cannot be said field by field. Each rule is named in the table of the object that it is about.

mod config;
mod container;
mod pod;
mod service;
mod workload;

pub(in crate::manifest) use config::{
    ROLE_ANNOTATIONS, data_keys, disk_parameters, role, scaler_bounds, secret_keys,
};
pub(in crate::manifest) use container::{
    capabilities, env_source, host_port, mount_path, probe_ports, repeated_env, requests_within_limits,
    unique_mounts, unique_ports, unrendered,
};
pub(in crate::manifest) use pod::{
    expression_values, injected_sidecars, mounts_exist, node_condition, node_selector, one_term, pod_term,
    same_service_account, spread_key, sysctl, unique_containers,
};
pub(in crate::manifest) use service::{
    TLS_PORTS, ingress_annotations, ingress_has_backend, ingress_path, is_internal, service,
    service_annotations, short_form,
};
pub(in crate::manifest) use workload::{
    always_restarts, claim_annotations, claim_templates, claims_of_group, holds, job_restarts,
    rolling_update, selector_matches, strategy,
};
