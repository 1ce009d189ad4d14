//! Small values for tests: a plan, a launch, a group's settings.

use std::collections::BTreeMap;

use i2kit_spec::{Architecture, Bytes, DEFAULT_GRACE_PERIOD, EnvValue, EnvVar, Seconds};

use super::fleet::{DiskTemplate, GroupSettings, LaunchSpec, StatefulSettings};
use super::image::{GuestFacts, ImageId, ImagePlan};
use super::pod;
use crate::manifest::api::{
    Container, IntOrPercent, Name, PodSpec, PodTemplate, ResourceRequirements, Strategy,
};
use crate::oci::{
    ContainerConfig, Descriptor, DiffId, Digest, ImageConfig, Layer, Reference, ResolvedImage, RootFs,
};

/// An image of two layers whose contents are named by `name`.
pub(crate) fn image(name: &str) -> ResolvedImage {
    let reference: Reference = name.parse().unwrap();
    let manifest = Digest::of(name.as_bytes());
    let diff_ids: Vec<DiffId> = ["base", name].map(|text| DiffId(Digest::of(text.as_bytes()))).into();
    let layers = diff_ids
        .iter()
        .map(|id| Layer {
            blob: Descriptor {
                media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
                digest: id.0,
                size: 1,
            },
            diff_id: *id,
        })
        .collect();
    ResolvedImage {
        reference: reference.with_digest(manifest),
        manifest,
        config: ImageConfig {
            architecture: "amd64".into(),
            os: "linux".into(),
            config: ContainerConfig {
                entrypoint: vec![format!("/{}", reference.repository)],
                user: "1000:1000".into(),
                ..ContainerConfig::default()
            },
            rootfs: RootFs { diff_ids },
        },
        layers,
    }
}

pub(crate) fn container(name: &str, image: &str) -> Container {
    Container {
        env: vec![EnvVar { name: "GREETING".into(), value: EnvValue::Written("hello \"you\"".into()) }],
        resources: ResourceRequirements {
            limit_memory_bytes: Some(Bytes::mib(64)),
            ..ResourceRequirements::default()
        },
        ..Container::new(name, image.parse().unwrap())
    }
}

pub(crate) fn plan() -> ImagePlan {
    let images: BTreeMap<_, _> =
        ["nginx:1.27", "busybox"].map(|name| (name.parse().unwrap(), image(name))).into();
    let template = PodTemplate {
        labels: [("app".to_owned(), "web".to_owned())].into(),
        annotations: BTreeMap::new(),
        spec: PodSpec {
            init_containers: vec![container("prepare", "busybox")],
            containers: vec![container("web", "nginx:1.27")],
            ..PodSpec::default()
        },
    };
    let guest = GuestFacts {
        version: "0.1.0".into(),
        architecture: Architecture::Amd64,
        kernel_release: "6.1.0-1-cloud-amd64".into(),
        kernel: Digest::of(b"kernel"),
        initrd: Digest::of(b"initrd"),
        identity: None,
        cloud: None,
        stub: None,
    };
    let name = Name { namespace: "default".into(), name: "web".into() };
    let facts = pod::Facts { images: &images, guest: &guest, profiles: &BTreeMap::new() };
    pod::image(&name, &template, &facts).unwrap()
}

/// A VM of one processor without ports.
pub(crate) fn launch(image: ImageId) -> LaunchSpec {
    LaunchSpec {
        image,
        architecture: Architecture::default(),
        memory_mib: 128,
        vcpus: 1,
        ports: vec![],
        health_port: 10256,
        grace_period_seconds: DEFAULT_GRACE_PERIOD,
        containers: vec!["web".into()],
        requests: BTreeMap::new(),
        secrets: BTreeMap::new(),
        scratch_bytes: Vec::new(),
        disks: Vec::new(),
        hostname: None,
        subdomain: None,
        replicas: None,
        role: None,
        machine_type: None,
        spot: false,
        no_snapshot: false,
        mix: None,
    }
}

/// A group that is no Job, with Kubernetes' defaults.
pub(crate) fn settings(strategy: Strategy) -> GroupSettings {
    GroupSettings::new(strategy, Seconds(600), 10)
}

/// The disk `data` of each member of a StatefulSet.
pub(crate) fn disk() -> DiskTemplate {
    DiskTemplate { name: "data".into(), size: Bytes(1 << 30), class: None, expandable: true, retain: false }
}

/// A StatefulSet whose members start one after the other and have these disks, which stay.
pub(crate) fn stateful(disks: Vec<DiskTemplate>) -> StatefulSettings {
    StatefulSettings {
        first: 0,
        parallel: false,
        partition: 0,
        max_unavailable: IntOrPercent::Int(1),
        delete_with_group: false,
        delete_when_scaled: false,
        disks,
    }
}
