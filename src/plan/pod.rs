//! Pod template and resolved images in, image plan out.

use std::collections::BTreeMap;

use i2kit_spec::runtime::{Capabilities, Config};
use i2kit_spec::seccomp::SeccompFilter;
use i2kit_spec::{
    ContainerBoot, LateEnvironment, Names, POD_BOOT_VERSION, PodBoot, PodMeta, TERMINATION_LOG, cmdline,
};

use super::environment::Environment;
use super::image::{ContainerPlan, GuestFacts, IMAGE_PLAN_VERSION, ImagePlan};
use super::qos::{self, OomScore};
use super::seccomp::Profile;
use super::volume::{self, VolumeError, Volumes};
use super::{container, replicated, security};
use crate::manifest::api::{self, Container, Name, PodSpec, PodTemplate};
use crate::oci::{DiffId, Reference, ResolvedImage, signal_number};

/// The supervisor's port in every VM: kube-proxy's health port, which no workload expects to be free.
pub const HEALTH_PORT: u16 = 10256;

/// The domain of Services, Kubernetes' default.
const SERVICE_DOMAIN: &str = "svc.cluster.local";

/// The domain of all names of an environment.
const CLUSTER_DOMAIN: &str = "cluster.local";

/// A name with fewer dots is searched for first, as kubelet has it.
const NDOTS: &str = "ndots:5";

/// Why a pod cannot become an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PodError {
    /// The caller did not resolve an image of the pod.
    #[error("image {image} of container `{container}` was not resolved")]
    Unresolved {
        /// The container.
        container: String,
        /// Its image.
        image: String,
    },
    /// Neither manifest nor image has a command.
    #[error(
        "container `{container}` has nothing to run: image {image} has no command; write `command` in the manifest"
    )]
    NoCommand {
        /// The container.
        container: String,
        /// Its image.
        image: String,
    },
    /// An image names a signal that does not exist.
    #[error(
        "container `{container}`: image {image} asks to be stopped with the signal `{signal}`, which does not exist; set \
         `lifecycle.stopSignal`"
    )]
    StopSignal {
        /// The container.
        container: String,
        /// Its image.
        image: String,
        /// The signal that the image names.
        signal: String,
    },
    /// The caller did not read a profile of the pod.
    #[error("seccomp profile `{profile}` of container `{container}` was not read")]
    NoProfile {
        /// The container.
        container: String,
        /// The profile's file.
        profile: String,
    },
    /// A container that must not run as root would.
    #[error(
        "container `{container}` must not run as root, but its image {image} does; set `securityContext.runAsUser` to \
         another number"
    )]
    Root {
        /// The container.
        container: String,
        /// Its image.
        image: String,
    },
    /// An image's user is no number that a user can have.
    #[error(
        "container `{container}`: image {image} runs as user {id}, and users have numbers up to {max}; set \
         `securityContext.runAsUser`", max = i2kit_spec::runtime::MAX_ID
    )]
    UserRange {
        /// The container.
        container: String,
        /// Its image.
        image: String,
        /// The number.
        id: String,
    },
    /// A mount that cannot be made.
    #[error("container `{container}`: {source}")]
    Mount {
        /// The container.
        container: String,
        /// Why.
        source: VolumeError,
    },
    /// A volume that cannot be made.
    #[error(transparent)]
    Volume(VolumeError),
    /// The container listens where the supervisor does.
    #[error(
        "container `{container}` uses port {port}, which the VM's health endpoint needs; choose another port"
    )]
    HealthPortTaken {
        /// The container.
        container: String,
        /// The port.
        port: u16,
    },
}

/// What must be known beside a pod's template.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The resolved form of every image reference that the template names.
    pub images: &'a BTreeMap<Reference, ResolvedImage>,
    /// The guest.
    pub guest: &'a GuestFacts,
    /// Every profile of system calls that the template names.
    pub profiles: &'a BTreeMap<String, Profile>,
}

/// The files of the profiles of system calls that a pod names.
pub fn profiles(spec: &PodSpec) -> impl Iterator<Item = &str> {
    spec.init_containers.iter().chain(&spec.containers).filter_map(|c| security::profile(&c.security))
}

/// The plan of the image of the pod that `template` describes.
///
/// # Errors
/// [`PodError`] says what is missing or cannot be.
pub fn image(name: &Name, template: &PodTemplate, facts: &Facts<'_>) -> Result<ImagePlan, PodError> {
    let plan = plain(name, template, facts)?;
    let replicated = replicated::with_revision(template, plan.id());
    replicated.map_or(Ok(plan), |template| plain(name, &template, facts))
}

fn plain(name: &Name, template: &PodTemplate, facts: &Facts<'_>) -> Result<ImagePlan, PodError> {
    let spec = &template.spec;
    let pod = Pod { spec, facts, volumes: Volumes::of(spec).map_err(PodError::Volume)? };
    let onboot = spec.init_containers.iter().enumerate().map(|(i, container)| {
        pod.container(container, format!("containers/onboot/{i:03}-{}", container.name), container.sidecar)
    });
    let onboot = onboot.collect::<Result<Vec<_>, _>>()?;
    let services = spec
        .containers
        .iter()
        .map(|container| pod.container(container, format!("containers/services/{}", container.name), false));
    let services = services.collect::<Result<Vec<_>, _>>()?;
    let stacks: Vec<&[DiffId]> = onboot.iter().chain(&services).map(|planned| &planned.stack[..]).collect();
    let layers = base_first(&stacks);
    let (onboot, mut containers): (Vec<_>, Vec<_>) = onboot.into_iter().map(|p| (p.boot, p.plan)).unzip();
    let (services, plans): (Vec<_>, Vec<_>) = services.into_iter().map(|p| (p.boot, p.plan)).unzip();
    containers.extend(plans);
    Ok(ImagePlan {
        version: IMAGE_PLAN_VERSION,
        guest: facts.guest.clone(),
        cmdline: match facts.guest.identity {
            Some(version) => format!("{} {}={version}", cmdline::BASE, cmdline::IDENTITY),
            None => cmdline::BASE.into(),
        },
        boot: PodBoot {
            version: POD_BOOT_VERSION,
            pod: PodMeta {
                name: name.name.clone(),
                namespace: name.namespace.clone(),
                labels: template.labels.clone(),
                annotations: template.annotations.clone(),
            },
            onboot,
            services,
            restart_policy: spec.restart_policy,
            grace_period_seconds: spec.termination_grace_period_seconds,
            health_port: HEALTH_PORT,
            fs_group: spec.fs_group,
            fs_group_on_mismatch: spec.fs_group_on_mismatch,
            user_namespace: !spec.host_users,
            sysctls: spec.sysctls.clone(),
            share_process_namespace: spec.share_process_namespace,
            active_deadline_seconds: spec.active_deadline_seconds,
            volumes: pod.volumes.boot,
            names: names(spec, &name.namespace),
        },
        containers,
        layers,
        files: pod.volumes.files,
    })
}

/// A pod on the way to its plan.
struct Pod<'a> {
    spec: &'a PodSpec,
    facts: &'a Facts<'a>,
    volumes: Volumes,
}

/// A container of the plan.
struct Planned {
    plan: ContainerPlan,
    boot: ContainerBoot,
    /// Its layers, base first.
    stack: Vec<DiffId>,
}

impl Pod<'_> {
    /// Plans one container, whose configuration lies in the folder `bundle`.
    fn container(&self, wanted: &Container, bundle: String, sidecar: bool) -> Result<Planned, PodError> {
        let image = self.facts.images.get(&wanted.image).ok_or_else(|| PodError::Unresolved {
            container: wanted.name.clone(),
            image: wanted.image.to_string(),
        })?;
        let (mut config, late) = self.config(wanted, image)?;
        let oom_request_bytes = match qos::oom_score(self.spec, wanted) {
            OomScore::Known(score) => {
                config.process.oom_score_adj = Some(score);
                None
            }
            OomScore::Request(size) => Some(size),
        };
        config.linux.seccomp = filter(wanted, self.facts, &config.process.capabilities)?;
        let stack = stack(image);
        let message_path = wanted.termination_message_path.as_deref().map(volume::destination);
        let boot = ContainerBoot {
            name: wanted.name.clone(),
            bundle: bundle.clone(),
            layers: stack.iter().map(DiffId::partition_name).collect(),
            user: user(wanted, image)?,
            run_as_group: wanted.security.run_as_group,
            run_as_non_root: wanted.security.run_as_non_root,
            seccomp: security::seccomp(&wanted.security),
            probes: wanted.probes.clone(),
            late,
            sidecar,
            post_start: wanted.post_start.clone(),
            pre_stop: wanted.pre_stop.clone(),
            stop_signal: stop_signal(wanted, image)?,
            termination_message_path: message_path.filter(|path| path != TERMINATION_LOG),
            writable_bytes: wanted.resources.limit_ephemeral_storage_bytes,
            oom_request_bytes,
        };
        let plan =
            ContainerPlan { name: wanted.name.clone(), image: image.reference.to_string(), bundle, config };
        Ok(Planned { plan, boot, stack })
    }

    /// The container's configuration, and the part of its environment that is left to the guest.
    fn config(
        &self,
        wanted: &Container,
        image: &ResolvedImage,
    ) -> Result<(Config, Option<LateEnvironment>), PodError> {
        if let Some(port) = wanted.ports.iter().find(|port| port.container_port == HEALTH_PORT) {
            return Err(PodError::HealthPortTaken {
                container: wanted.name.clone(),
                port: port.container_port,
            });
        }
        let environment = Environment::of(wanted);
        let (mounts, expand_mounts) = self
            .volumes
            .mounts(wanted, &environment)
            .map_err(|source| PodError::Mount { container: wanted.name.clone(), source })?;
        let config =
            container::config(wanted, &image.config.config, &environment, mounts, self.spec).ok_or_else(
                || PodError::NoCommand { container: wanted.name.clone(), image: image.reference.to_string() },
            )?;
        let late = match environment {
            Environment::Known(_) => None,
            Environment::Late(env) => {
                Some(LateEnvironment { env, expand_args: container::is_written(wanted), expand_mounts })
            }
        };
        Ok((config, late))
    }
}

/// Who the container runs as, unless that is root and must not be. A name that turns out to be root is refused by the
/// guest, which can look into the image.
fn user(wanted: &Container, image: &ResolvedImage) -> Result<String, PodError> {
    let user = security::user(&wanted.security, &image.config.config.user);
    if let Some(id) = security::beyond_ids(&user) {
        return Err(PodError::UserRange {
            container: wanted.name.clone(),
            image: image.reference.to_string(),
            id: id.to_owned(),
        });
    }
    if wanted.security.run_as_non_root && security::is_root(&user) {
        return Err(PodError::Root { container: wanted.name.clone(), image: image.reference.to_string() });
    }
    Ok(user)
}

/// The signal that asks the container to end, where that is not SIGTERM: the manifest's, else the image's.
fn stop_signal(wanted: &Container, image: &ResolvedImage) -> Result<Option<i32>, PodError> {
    const TERM: i32 = 15;
    let wrong = |signal: &str| PodError::StopSignal {
        container: wanted.name.clone(),
        image: image.reference.to_string(),
        signal: signal.to_owned(),
    };
    let number = match (wanted.stop_signal, image.config.config.stop_signal.as_str()) {
        (Some(number), _) => number,
        (None, "") => TERM,
        (None, signal) => signal_number(signal).ok_or_else(|| wrong(signal))?,
    };
    Ok(Some(number).filter(|number| *number != TERM))
}

/// The container's own filter of system calls, if it has one.
fn filter(
    wanted: &Container,
    facts: &Facts<'_>,
    capabilities: &Capabilities,
) -> Result<Option<SeccompFilter>, PodError> {
    let Some(file) = security::profile(&wanted.security) else { return Ok(None) };
    let profile = facts
        .profiles
        .get(file)
        .ok_or_else(|| PodError::NoProfile { container: wanted.name.clone(), profile: file.to_owned() })?;
    Ok(Some(profile.filter(&capabilities.bounding, facts.guest.architecture, &facts.guest.kernel_release)))
}

/// What the pod's containers call themselves and others. A pod that asks the environment first finds Services as in a
/// cluster: by the domains that kubelet searches, and with as many dots as a name may have there.
fn names(spec: &api::PodSpec, namespace: &str) -> Names {
    let cluster = spec.dns.policy == api::DnsPolicy::ClusterFirst;
    let domains = || [format!("{namespace}.{SERVICE_DOMAIN}"), SERVICE_DOMAIN.into(), CLUSTER_DOMAIN.into()];
    let mut searches: Vec<String> = if cluster { domains().into() } else { vec![] };
    searches.extend(spec.dns.searches.iter().cloned());
    let mut options = spec.dns.options.clone();
    if cluster && !options.iter().any(|option| option.starts_with("ndots:")) {
        options.insert(0, NDOTS.into());
    }
    Names {
        hostname: spec.hostname.clone(),
        domain: spec.subdomain.as_ref().map(|service| format!("{service}.{namespace}.{SERVICE_DOMAIN}")),
        host_aliases: spec.host_aliases.clone(),
        own_resolvers_only: spec.dns.policy == api::DnsPolicy::None,
        nameservers: spec.dns.nameservers.clone(),
        searches,
        options,
    }
}

/// The image's layers, base first, each once. Some builders repeat a layer (the empty one, mostly), which overlayfs
/// refuses; its topmost place alone gives the same tree, since it hides whatever the lower ones did.
fn stack(image: &ResolvedImage) -> Vec<DiffId> {
    let ids: Vec<DiffId> = image.layers.iter().map(|layer| layer.diff_id).collect();
    ids.iter().enumerate().filter(|(i, id)| !ids[i + 1..].contains(id)).map(|(_, id)| *id).collect()
}

/// All layers of all containers, each once, ordered by how far they lie above the base: what changes most lies last.
fn base_first(stacks: &[impl AsRef<[DiffId]>]) -> Vec<DiffId> {
    let depth = stacks.iter().map(|stack| stack.as_ref().len()).max().unwrap_or(0);
    let mut layers = Vec::new();
    for level in 0..depth {
        for id in stacks.iter().filter_map(|stack| stack.as_ref().get(level)) {
            if !layers.contains(id) {
                layers.push(*id);
            }
        }
    }
    layers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;

    fn id(text: &str) -> DiffId {
        DiffId(Digest::of(text.as_bytes()))
    }

    #[test]
    fn the_manifests_signal_wins_over_the_images() {
        let signal = |manifest: Option<i32>, image: &str| {
            let mut container = Container::new("web", "nginx".parse().unwrap());
            container.stop_signal = manifest;
            let image = ResolvedImage {
                reference: container.image.clone(),
                manifest: Digest::of(b"image"),
                config: crate::oci::ImageConfig {
                    architecture: "amd64".into(),
                    os: "linux".into(),
                    config: crate::oci::ContainerConfig { stop_signal: image.into(), ..Default::default() },
                    rootfs: crate::oci::RootFs { diff_ids: vec![] },
                },
                layers: vec![],
            };
            stop_signal(&container, &image)
        };
        assert_eq!(signal(None, ""), Ok(None));
        assert_eq!(signal(None, "SIGTERM"), Ok(None));
        assert_eq!(signal(None, "SIGQUIT"), Ok(Some(3)));
        assert_eq!(signal(Some(15), "SIGQUIT"), Ok(None));
        assert_eq!(signal(Some(10), "nonsense"), Ok(Some(10)));
        let error = signal(None, "nonsense").unwrap_err().to_string();
        assert!(error.contains("`nonsense`") && error.contains("lifecycle.stopSignal"), "{error}");
    }

    #[test]
    fn base_layers_come_first_and_once() {
        let stacks = [vec![id("base"), id("a1"), id("a2")], vec![id("base"), id("b1")]];
        assert_eq!(base_first(&stacks), [id("base"), id("a1"), id("b1"), id("a2")]);
    }

    #[test]
    fn an_image_cannot_choose_a_user_whose_number_becomes_roots() {
        let container = Container::new("web", "nginx".parse().unwrap());
        let mut image = super::super::example::image("nginx");
        image.config.config.user = "4294967295".into();
        let refused = user(&container, &image);
        assert!(matches!(&refused, Err(PodError::UserRange { id, .. }) if id == "4294967295"), "{refused:?}");
        image.config.config.user = "2147483647".into();
        assert_eq!(user(&container, &image).as_deref(), Ok("2147483647"));
    }
}
