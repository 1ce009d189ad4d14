//! From the objects of a set to what the cloud should hold: a group for each Deployment, Job and CronJob, a balancer for each Service.

use std::collections::BTreeMap;

use i2kit_spec::{DEFAULT_GRACE_PERIOD, Seconds};

use super::fleet::{
    BalancerSpec, DiskSpec, DiskTemplate, GroupSettings, LaunchPort, LaunchSpec, MachineMix, MachineRole,
    Requests, Scaling, ScalingMetric, StatefulSettings,
};
use super::image::LaunchImage;
use super::pod::HEALTH_PORT;
use super::rollout::GroupSpec;
use super::service::selects;
use super::{ingress, policy, replicated, secret, service, size, volume};
use crate::manifest::api::{
    self, CronJob, Deployment, Floor, Job, JobSpec, Metric, Name, ObjectMeta, ObjectSet, PodTemplate,
    StatefulSet, StorageClass, Strategy,
};

/// Runs of a job that can be looked back at.
const JOB_HISTORY: u32 = 10;

/// Time without progress after which the refresh of a StatefulSet is rolled back, beside its `minReadySeconds`: the default
/// of Deployments, since it has no field for it.
const STATEFUL_DEADLINE: Seconds = Seconds(600);

/// A deadline that never comes: a job makes progress only at its end, and its own deadline is among its settings.
const UNBOUNDED: Seconds = Seconds(u32::MAX as u64);

/// The group that `deployment` asks for, started from `image`.
pub fn group(deployment: &Deployment, image: LaunchImage) -> GroupSpec {
    GroupSpec {
        name: deployment.meta.name.clone(),
        replicas: deployment.replicas,
        launch: launch(&deployment.template, image),
        settings: GroupSettings {
            min_ready_seconds: deployment.min_ready_seconds,
            labels: deployment.meta.labels.clone(),
            ..GroupSettings::new(
                deployment.strategy,
                deployment.progress_deadline_seconds,
                deployment.revision_history_limit,
            )
        },
    }
}

/// The group that a StatefulSet asks for.
fn stateful(each: &StatefulSet, image: LaunchImage, classes: &[StorageClass]) -> GroupSpec {
    let disk = |claim: &api::ClaimTemplate| {
        let Class { name, expandable, retain } = class(&claim.disk, classes);
        DiskTemplate { name: claim.name.clone(), size: claim.disk.size, class: name, expandable, retain }
    };
    let deadline = Seconds(STATEFUL_DEADLINE.0.saturating_add(each.min_ready_seconds.0));
    // One writer a disk: a member ends before its successor starts.
    let strategy = Strategy::RollingUpdate {
        max_unavailable: each.max_unavailable,
        max_surge: api::IntOrPercent::Int(0),
    };
    GroupSpec {
        name: each.meta.name.clone(),
        replicas: each.replicas,
        launch: LaunchSpec {
            replicas: each.replicated.as_ref().map(|_| each.replicas),
            ..launch(&each.template, image)
        },
        settings: GroupSettings {
            min_ready_seconds: each.min_ready_seconds,
            labels: each.meta.labels.clone(),
            stateful: Some(StatefulSettings {
                first: each.first_ordinal,
                parallel: each.parallel,
                partition: each.partition,
                max_unavailable: each.max_unavailable,
                delete_with_group: each.delete_disks_with_set,
                delete_when_scaled: each.delete_disks_when_scaled,
                disks: each.claim_templates.iter().map(disk).collect(),
            }),
            ..GroupSettings::new(strategy, deadline, each.revision_history_limit)
        },
    }
}

/// What a disk has of its storage class.
struct Class {
    name: Option<String>,
    expandable: bool,
    retain: bool,
}

/// The class that a claim names, or the default one. Without either a disk may grow, and goes when it is deleted.
fn class(disk: &api::ClaimSpec, classes: &[StorageClass]) -> Class {
    let named = |class: &&StorageClass| match &disk.storage_class {
        Some(name) => class.meta.name.name == *name,
        None => class.is_default,
    };
    let found = classes.iter().find(named);
    Class {
        name: found.map(|class| class.meta.name.name.clone()).or_else(|| disk.storage_class.clone()),
        expandable: found.is_none_or(|class| class.allow_expansion),
        retain: found.is_some_and(|class| class.retain),
    }
}

/// The disks of the set's claims.
pub fn disks(set: &ObjectSet) -> Vec<DiskSpec> {
    let disk = |claim: &api::PersistentVolumeClaim| {
        let Class { name, expandable, retain } = class(&claim.disk, &set.storage_classes);
        DiskSpec {
            name: claim.meta.name.clone(),
            size: claim.disk.size,
            class: name,
            expandable,
            retain,
            owner: None,
        }
    };
    set.claims.iter().map(disk).collect()
}

/// The group that a Job asks for: its VMs run to an end. A changed job is another one: the old one is stopped first.
fn job(meta: &ObjectMeta, spec: &JobSpec, image: LaunchImage) -> GroupSpec {
    let rules = &spec.rules;
    GroupSpec {
        name: meta.name.clone(),
        replicas: rules
            .completions
            .map_or(rules.parallelism, |completions| rules.parallelism.min(completions)),
        launch: launch(&spec.template, image),
        settings: GroupSettings {
            labels: meta.labels.clone(),
            job: Some(rules.clone()),
            ..GroupSettings::new(Strategy::Recreate, UNBOUNDED, JOB_HISTORY)
        },
    }
}

/// The group that a CronJob asks for: its Job, which is run by a schedule. A run goes on with the revision that it was
/// started with.
fn cron_job(cron: &CronJob, image: LaunchImage) -> GroupSpec {
    let mut group = job(&cron.meta, &cron.job, image);
    group.settings.schedule = Some(cron.rules.clone());
    group
}

fn launch(template: &PodTemplate, image: LaunchImage) -> LaunchSpec {
    let pod = &template.spec;
    let size = size::of(pod);
    let mut ports: Vec<LaunchPort> = Vec::new();
    for port in pod.long_running().flat_map(|container| &container.ports) {
        let port = LaunchPort { port: port.container_port, protocol: port.protocol };
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    LaunchSpec {
        image: image.id,
        architecture: image.architecture,
        memory_mib: size.memory_mib,
        vcpus: size.vcpus,
        ports,
        health_port: HEALTH_PORT,
        grace_period_seconds: image.grace_period_seconds,
        containers: pod.init_containers.iter().chain(&pod.containers).map(|one| one.name.clone()).collect(),
        requests: requests(template),
        secrets: BTreeMap::new(),
        scratch_bytes: volume::scratch_sizes(pod),
        disks: volume::disks(pod),
        hostname: pod.hostname.clone(),
        subdomain: pod.subdomain.clone(),
        replicas: None,
        role: None,
        machine_type: None,
        spot: false,
        no_snapshot: template.spec.placement.no_snapshot,
        mix: None,
    }
}

/// What each container requests that runs as long as the pod; nothing where none of them requests anything.
fn requests(template: &PodTemplate) -> BTreeMap<String, Requests> {
    let requests = template.spec.long_running().map(|container| {
        let resources = &container.resources;
        let memory = resources.request_memory_bytes.or(resources.limit_memory_bytes);
        let requests = Requests {
            cpu_millis: resources.request_cpu_millis.or(resources.limit_cpu_millis),
            memory_bytes: memory.map(|bytes| bytes.0),
        };
        (container.name.clone(), requests)
    });
    let requests: BTreeMap<String, Requests> = requests.collect();
    if requests.values().all(|one| *one == Requests::default()) { BTreeMap::new() } else { requests }
}

/// The groups and balancers of the whole set; `images` holds the image of each of [`ObjectSet::pods`], in their order,
/// and `secrets` the versions of the Secrets' values as the cloud reports them.
///
/// A port that a Service targets is opened on the VMs even where no container declares it: in Kubernetes a container
/// port's declaration is for information only.
pub fn desired(
    set: &ObjectSet,
    images: &[LaunchImage],
    secrets: &BTreeMap<Name, String>,
) -> (Vec<GroupSpec>, Vec<BalancerSpec>) {
    let mut images = images.iter().copied();
    let deployments = set.deployments.iter().zip(images.by_ref()).map(|(each, image)| group(each, image));
    let mut groups: Vec<GroupSpec> = deployments.collect();
    let sets = set.stateful_sets.iter().zip(images.by_ref());
    groups.extend(sets.map(|(each, image)| stateful(each, image, &set.storage_classes)));
    let job = |(each, image): (&Job, _)| job(&each.meta, &each.spec, image);
    groups.extend(set.jobs.iter().zip(images.by_ref()).map(job));
    groups.extend(set.cron_jobs.iter().zip(images).map(|(each, image)| cron_job(each, image)));
    for (group, (_, template)) in groups.iter_mut().zip(set.pods()) {
        let namespace = &group.name.namespace;
        let version = |name: String| {
            let full = Name { namespace: namespace.clone(), name: name.clone() };
            (name, secrets.get(&full).cloned())
        };
        group.launch.secrets = secret::named(&template.spec).into_keys().map(version).collect();
        group.launch.role = role(set, namespace, template);
        let placement = &template.spec.placement;
        let types = &placement.machine_types;
        group.launch.mix = MachineMix::of(types, placement.spot_percent, placement.on_demand_base);
        group.launch.machine_type = types.first().cloned();
        group.launch.spot = group.launch.mix.is_none() && placement.spot_percent == 100;
        let policy = policy::of_group(set, &group.name, template);
        group.settings.policy = replicated::policy(set, &group.name, policy).map(Box::new);
        group.settings.zones.clone_from(&placement.zones);
        group.settings.balanced_zones = placement.balanced;
        if group.settings.job.is_none() {
            group.settings.scaling = scaling(set, &group.name, template);
            group.settings.floors = floors(set, namespace, template);
        }
    }
    let services = set.services.iter().map(|each| service::balancer(each, set));
    let ingresses = set.ingresses.iter().map(|each| ingress::balancer(each, set, secrets));
    let mut balancers: Vec<BalancerSpec> = services.chain(ingresses).collect();
    for balancer in &mut balancers {
        balancer.drain_seconds = drain(balancer, &groups);
    }
    for (target, protocol) in balancers.iter().flat_map(BalancerSpec::ports) {
        let port = LaunchPort { port: target.port, protocol };
        for group in groups.iter_mut().filter(|group| group.name == target.group) {
            if !group.launch.ports.contains(&port) {
                group.launch.ports.push(port);
            }
        }
    }
    (groups, balancers)
}

/// Open connections get as long as the pods that they lead to, which are asked to end at the same time.
fn drain(balancer: &BalancerSpec, groups: &[GroupSpec]) -> Seconds {
    let behind = groups.iter().filter(|group| balancer.targets().any(|target| target.group == group.name));
    behind.map(|group| group.launch.grace_period_seconds).max().unwrap_or(DEFAULT_GRACE_PERIOD)
}

/// The cloud identity of the pod's VMs.
fn role(set: &ObjectSet, namespace: &str, template: &PodTemplate) -> Option<MachineRole> {
    let name = template.spec.service_account.as_ref()?;
    let account = Name { namespace: namespace.to_owned(), name: name.clone() };
    let found = set.service_accounts.iter().find(|found| found.meta.name == account);
    Some(MachineRole { role: found.and_then(|found| found.role.clone()), account })
}

/// How the group follows its load, when a scaler names it.
fn scaling(set: &ObjectSet, group: &Name, template: &PodTemplate) -> Option<Scaling> {
    let stateful = set.stateful_sets.iter().any(|each| each.meta.name == *group);
    let scaler = set
        .scalers
        .iter()
        .find(|scaler| scaler.target == *group && (scaler.target_kind == "StatefulSet") == stateful)?;
    let requests = requests(template);
    let metric =
        |metric: &Metric| ScalingMetric { metric: metric.clone(), request: Requests::of(&requests, metric) };
    Some(Scaling {
        min: scaler.min_replicas,
        max: scaler.max_replicas,
        metrics: scaler.metrics.iter().map(metric).collect(),
        up: scaler.scale_up.clone(),
        down: scaler.scale_down.clone(),
    })
}

/// Floors of the budgets that select the pod.
fn floors(set: &ObjectSet, namespace: &str, template: &PodTemplate) -> Vec<Floor> {
    let budgets = set.budgets.iter().filter(|budget| budget.meta.name.namespace == namespace);
    budgets.filter(|budget| selects(&budget.selector, &template.labels)).map(|budget| budget.floor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::api::Protocol;
    use crate::manifest::{Options, SourceFile, read};
    use crate::plan::fleet::TargetGroup;

    fn groups_and_balancers(text: &str) -> (Vec<GroupSpec>, Vec<BalancerSpec>) {
        let file = SourceFile { name: "pods.yaml".into(), bytes: text.as_bytes().to_vec() };
        let reading = read(&[file], &Options::default());
        assert!(!reading.has_errors(), "{:?}", reading.diagnostics);
        let images = vec![LaunchImage::unplanned(); reading.set.pods().count()];
        desired(&reading.set, &images, &BTreeMap::new())
    }

    #[test]
    fn a_service_leads_to_the_port_that_a_sidecar_names() {
        let (groups, balancers) = groups_and_balancers(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: behind}\nspec:\n  selector: {matchLabels: {app: behind}}\n  template:\n    metadata: {labels: {app: behind}}\n    spec:\n      initContainers:\n      - {name: once, image: \"tool:1\", ports: [{containerPort: 1}]}\n      - {name: proxy, image: \"tool:1\", restartPolicy: Always, ports: [{name: inbound, containerPort: 15001}]}\n      containers: [{name: app, image: \"tool:1\"}]\n---\napiVersion: v1\nkind: Service\nmetadata: {name: behind}\nspec:\n  selector: {app: behind}\n  ports: [{port: 80, targetPort: inbound}]\n",
        );
        let [listener] = &balancers[0].listeners[..] else { panic!("one listener") };
        let target = TargetGroup { group: groups[0].name.clone(), port: 15001 };
        assert_eq!((listener.port, &listener.targets[..]), (80, &[target][..]));
        assert_eq!(groups[0].launch.ports, [LaunchPort { port: 15001, protocol: Protocol::Tcp }]);
    }

    #[test]
    fn a_share_is_of_the_requests_of_all_containers_or_of_the_machine() {
        let request = |side: &str| {
            let (groups, _) = groups_and_balancers(&format!(
                "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec:\n  selector: {{matchLabels: {{app: web}}}}\n  template:\n    metadata: {{labels: {{app: web}}}}\n    spec:\n      containers:\n      - {{name: web, image: \"tool:1\", resources: {{requests: {{cpu: 100m}}}}}}\n      - {{name: side, image: \"tool:1\", resources: {side}}}\n---\napiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {{name: web}}\nspec:\n  scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: web}}\n  maxReplicas: 4\n",
            ));
            let metric = groups[0].settings.scaling.as_ref().unwrap().metrics[0].clone();
            let of_web = Metric { container: Some("web".into()), ..metric.metric.clone() };
            let launch = &groups[0].launch;
            assert_eq!(Requests::of(&launch.requests, &of_web), Some(100));
            assert_eq!(Requests::of(&launch.requests, &metric.metric), metric.request);
            metric.request
        };
        assert_eq!(request("{requests: {cpu: 50m}}"), Some(150));
        assert_eq!(request("{limits: {cpu: 200m}}"), Some(300), "a limit is a request");
        assert_eq!(request("{}"), None, "the use of `side` would be measured against the request of `web`");
    }

    #[test]
    fn a_port_is_found_by_its_name_and_protocol() {
        let (_, balancers) = groups_and_balancers(
            "apiVersion: v1\nkind: Pod\nmetadata: {name: dns, labels: {app: dns}}\nspec:\n  containers:\n  - {name: a, image: \"tool:1\", ports: [{name: dns, containerPort: 5353, protocol: UDP}]}\n  - {name: b, image: \"tool:1\", ports: [{name: dns, containerPort: 5300}]}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: dns}\nspec:\n  selector: {app: dns}\n  ports:\n  - {name: tcp, port: 53, targetPort: dns}\n  - {name: udp, port: 53, targetPort: dns, protocol: UDP}\n",
        );
        let found: Vec<(Protocol, u16)> = balancers[0]
            .listeners
            .iter()
            .map(|listener| (listener.protocol, listener.targets[0].port))
            .collect();
        assert_eq!(found, [(Protocol::Tcp, 5300), (Protocol::Udp, 5353)]);
    }
}
