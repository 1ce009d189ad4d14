//! Services: a stack each, with target groups and listeners on a load balancer that Services share.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_smithy_types::error::metadata::ProvideErrorMetadata as _;

use super::auto_scaling::group_name;
use super::environment::Aws;
use super::error::{failed, is_not_found};
use super::stack::{Stack, TRIES, contested, is_target_group};
use super::wait::{eventually, now};
use crate::cloud::CloudError;
use crate::cloud::aws::plan::ingress::{self, Standing};
use crate::cloud::aws::plan::packing::{BalancerSlot, Scheme, Sizes};
use crate::cloud::aws::plan::priority::{self, Priorities};
use crate::cloud::aws::plan::refusal::FrameError;
use crate::cloud::aws::plan::stack_templates::{self, Frame};
use crate::cloud::aws::plan::{fit, name};
use crate::manifest::api::Name;
use crate::plan::fleet::{BalancerSpec, HttpSpec, TargetGroup};

/// How long a load balancer without a Service is spared: longer than a stack may take.
const SPARED_SECONDS: u64 = 3600;

/// How long an instance refresh is waited for that an earlier run, or another one, began.
const REFRESHED: Duration = Duration::from_hours(1);

/// How long stacks of Services are waited for that other runs change.
const RESTED: Duration = Duration::from_hours(1);

/// Target groups that one call attaches or detaches, a limit of AWS.
const TARGET_GROUPS_AT_ONCE: usize = 10;

/// A Service's stack, read.
#[derive(Debug, Clone)]
pub(super) struct Service {
    pub(super) stack: Stack,
    pub(super) spec: BalancerSpec,
    /// The load balancer that it shares; an Ingress has one of its own.
    pub(super) placement: Option<BalancerSlot>,
}

impl Service {
    /// Reads the stack of a Service; `None` when it is something else, or its record is damaged.
    pub(super) fn of(stack: &Stack) -> Option<Self> {
        Self::read(stack).ok().flatten()
    }

    /// Reads the stack of a Service; `None` when it is something else.
    ///
    /// # Errors
    /// Its record is damaged.
    fn read(stack: &Stack) -> Result<Option<Self>, CloudError> {
        Ok(stack.record()?.map(|spec| Self::new(stack.clone(), spec)))
    }

    fn new(stack: Stack, spec: BalancerSpec) -> Self {
        let placement = stack.placement();
        Self { stack, spec, placement }
    }

    /// ARNs of the target groups that `group` should be in.
    pub(super) fn targets_of(&self, group: &Name) -> impl Iterator<Item = &String> {
        let has = move |targets: &[TargetGroup]| targets.iter().any(|target| target.group == *group);
        self.outputs(has).filter_map(|name| self.stack.outputs.get(&name))
    }

    /// Outputs of the stack for the target groups of those ports whose targets are `wanted`.
    fn outputs(&self, wanted: impl Fn(&[TargetGroup]) -> bool + Copy) -> impl Iterator<Item = String> {
        let listeners = self.spec.listeners.iter().filter(move |listener| wanted(&listener.targets));
        let backends = self.spec.http.iter().flat_map(|http| &http.backends);
        let backends = backends.filter(move |backend| wanted(&backend.targets));
        let scheme = Scheme::of(self.spec.kind);
        let backends = backends.map(move |backend| ingress::target_name(backend, scheme));
        let placement = self.placement;
        let listeners =
            listeners.filter_map(move |listener| Some(stack_templates::target_name(listener, placement?)));
        listeners.chain(backends)
    }

    /// Whether it is on the way to another form, on another load balancer perhaps: it has target groups of that one too.
    fn is_bridged(&self) -> bool {
        let own: BTreeSet<String> = self.outputs(|_| true).collect();
        self.stack.outputs.keys().any(|key| is_target_group(key) && !own.contains(key))
    }
}

impl Service {
    /// Whether a run left it on the way to another form, so that it has to be put again. Runs are on the way for minutes.
    pub(super) fn is_abandoned(&self, now: u64) -> bool {
        self.is_bridged()
            && !self.stack.is_moving()
            && self.stack.changed.saturating_add(SPARED_SECONDS) < now
    }
}

impl Aws {
    /// Every stack of the environment once nobody changes any of a Service: one in progress shows no outputs, and its target groups
    /// would seem to be gone. Their records may be damaged.
    pub(super) async fn stacks_at_rest(&self) -> Result<Vec<Stack>, CloudError> {
        eventually("the stacks of Services, which others are changing", RESTED, || async {
            let stacks = self.stacks().await?;
            let moving = stacks.iter().find(|stack| stack.part == "service" && stack.is_moving());
            let Some(moving) = moving.map(|stack| stack.name.clone()) else {
                return Ok(Some(stacks));
            };
            Box::pin(self.at_rest(&moving)).await?;
            Ok(None)
        })
        .await
    }

    /// Puts a Service's stack and makes its groups targets. Of groups of `coming` there are to be so many machines.
    pub(super) async fn put_service(&self, spec: &BalancerSpec, coming: &Sizes) -> Result<(), CloudError> {
        // Before anything is made for it.
        fit::refuse(&self.settings.environment, spec).map_err(refused)?;
        if let Some(http) = &spec.http {
            return self.put_ingress(spec, http).await;
        }
        if let Some(aliased) = &spec.external_name {
            let frame = self.frame().await?;
            let plan = stack_templates::alias(&self.settings.environment, spec, aliased, &frame);
            let found = self.at_rest(&name::service_stack(&self.settings.environment, &spec.name)).await?;
            self.put_stack(&plan).await?;
            return self.drop_unused_balancers(found.as_ref().and_then(Stack::placement)).await;
        }
        self.place_service(&spec.name, Some(spec), coming).await
    }

    /// Puts the Ingress' stack, with a load balancer of its own, and makes its groups targets.
    async fn put_ingress(&self, spec: &BalancerSpec, http: &HttpSpec) -> Result<(), CloudError> {
        let certificates = self.certificates_for(spec, http).await?;
        fit::refuse_certified(&self.settings.environment, (spec, http), &certificates).map_err(refused)?;
        let frame = self.frame().await?;
        for _ in 0..TRIES {
            if Box::pin(self.step_ingress((spec, http), &certificates, &frame)).await? {
                // No earlier step takes or makes a target group that clients use.
                return self.attach(&spec.name).await;
            }
        }
        Err(contested(&name::service_stack(&self.settings.environment, &spec.name)))
    }

    /// Brings the Ingress' stack nearer to what it asks for; whether it is there. What is put is planned of the stack at rest: one
    /// in progress shows no outputs, and with them no priorities. Where somebody else changed it in between nothing is put.
    async fn step_ingress(
        &self,
        (spec, http): (&BalancerSpec, &HttpSpec),
        certificates: &[String],
        frame: &Frame,
    ) -> Result<bool, CloudError> {
        let environment = &self.settings.environment;
        let name = name::service_stack(environment, &spec.name);
        let mut there = self.at_rest(&name).await?;
        if let Some(found) = there.as_ref().and_then(Service::of) {
            self.detach_gone().await?;
            let Some(moved) = self.move_ingress(&found, (spec, certificates), frame).await? else {
                return Ok(false);
            };
            // Its machines took minutes to be healthy.
            there = self.unchanged(&moved).await?;
            if there.is_none() {
                return Ok(false);
            }
        }
        let priorities = there.as_ref().map(priorities_in).unwrap_or_default();
        let standing = Standing { certificates, priorities: &priorities };
        let plan = ingress::stack(environment, (spec, http), standing, frame).map_err(refused)?;
        Ok(self.put_over(there.as_ref(), &plan).await?.is_some())
    }

    /// The certificates of an Ingress: those that it names, else those of the store that its hosts need.
    pub(super) async fn certificates_for(
        &self,
        spec: &BalancerSpec,
        http: &HttpSpec,
    ) -> Result<Vec<String>, CloudError> {
        if !http.certificates.is_empty() || http.hosts.is_empty() {
            return Ok(http.certificates.clone());
        }
        let store = self.certificates().await?;
        ingress::certificates_of(&spec.name, &http.hosts, &store).map_err(refused)
    }

    /// Takes all groups out of target groups that no stack has any more, before a Service is put: Auto Scaling attaches nothing beside
    /// them.
    pub(super) async fn detach_gone(&self) -> Result<(), CloudError> {
        let stacks = self.stacks_at_rest().await?;
        let there: BTreeSet<&String> = stacks.iter().flat_map(Stack::target_groups).collect();
        for found in self.lasting_groups().await? {
            let (Some(own), Some(_)) = (found.auto_scaling_group_name(), group_name(&found)) else {
                continue;
            };
            let gone = found.target_group_arns().iter().filter(|arn| !there.contains(*arn));
            self.detach(own, gone.cloned().collect()).await?;
        }
        Ok(())
    }

    /// Makes every group that exists a target of the Service that was just put, if that leads to it. What is gone, and what
    /// the Service has no more, is detached first. Other Services are none of its matter: another run may be moving one, and
    /// their records may be damaged.
    pub(super) async fn attach(&self, put: &Name) -> Result<(), CloudError> {
        let stacks = self.stacks_at_rest().await?;
        let name = name::service_stack(&self.settings.environment, put);
        let own = stacks.iter().find(|stack| stack.name == name).map(Service::read).transpose()?.flatten();
        let others = stacks.iter().filter(|stack| stack.name != name);
        let of_others: BTreeSet<&String> = others.flat_map(Stack::target_groups).collect();
        for found in self.lasting_groups().await? {
            let (Some(id), Some(group)) = (found.auto_scaling_group_name(), group_name(&found)) else {
                continue;
            };
            let wanted: BTreeSet<&String> =
                own.iter().flat_map(|service| service.targets_of(&group)).collect();
            let has: BTreeSet<&String> = found.target_group_arns().iter().collect();
            let surplus = has.difference(&wanted).filter(|arn| !of_others.contains(*arn));
            self.detach(id, surplus.map(|arn| (*arn).clone()).collect()).await?;
            let missing: Vec<String> = wanted.difference(&has).map(|arn| (*arn).clone()).collect();
            self.attach_to(id, &missing).await?;
        }
        Ok(())
    }

    /// Puts an Auto Scaling group into target groups. Auto Scaling takes none while it refreshes the group's instances.
    pub(super) async fn attach_to(&self, own: &str, missing: &[String]) -> Result<(), CloudError> {
        let what = format!("the instance refresh of {own} to end");
        let is_told = AtomicBool::new(false);
        for some in missing.chunks(TARGET_GROUPS_AT_ONCE) {
            eventually(&what, REFRESHED, || async {
                let attached = self.clients.autoscaling.attach_load_balancer_target_groups();
                let attached =
                    attached.auto_scaling_group_name(own).set_target_group_arns(Some(some.to_vec()));
                match attached.send().await {
                    Err(error) if error.code() == Some("InstanceRefreshInProgress") => {
                        if !is_told.swap(true, Ordering::Relaxed) {
                            self.events.note(format!("waiting for {what}"));
                        }
                        Ok(None)
                    }
                    other => other.map(|_| Some(())).map_err(failed("AttachLoadBalancerTargetGroups")),
                }
            })
            .await?;
        }
        Ok(())
    }

    async fn detach(&self, own: &str, surplus: Vec<String>) -> Result<(), CloudError> {
        for some in surplus.chunks(TARGET_GROUPS_AT_ONCE) {
            if self.detach_all(own, some).await? {
                continue;
            }
            // One of them is gone, for which the others were refused.
            for one in some {
                self.detach_all(own, std::slice::from_ref(one)).await?;
            }
        }
        Ok(())
    }

    /// Takes a group out of these target groups, all or none: whether they were there to be left. One was not attached any
    /// more, or it or the Auto Scaling group is gone.
    async fn detach_all(&self, own: &str, surplus: &[String]) -> Result<bool, CloudError> {
        let detached = self.clients.autoscaling.detach_load_balancer_target_groups();
        let detached = detached.auto_scaling_group_name(own).set_target_group_arns(Some(surplus.to_vec()));
        match detached.send().await {
            Err(error) if is_not_found(&error) || error.code() == Some("TargetGroupNotFound") => Ok(false),
            other => other.map(|_| true).map_err(failed("DetachLoadBalancerTargetGroups")),
        }
    }

    /// ARNs of the target groups that a new group is put into.
    pub(super) async fn target_groups_of(&self, group: &Name) -> Result<BTreeSet<String>, CloudError> {
        let services = services_in(&self.settings.environment, &self.stacks_at_rest().await?, None)?;
        Ok(services.iter().flat_map(|service| service.targets_of(group)).cloned().collect())
    }

    /// Deletes the Service's stack, and its load balancer when no other Service is on it. Its record may be damaged.
    pub(super) async fn delete_service(&self, service: &Name) -> Result<(), CloudError> {
        let stack = name::service_stack(&self.settings.environment, service);
        let found = self.at_rest(&stack).await?;
        if let Some(found) = &found {
            let gone: BTreeSet<&String> = found.target_groups().collect();
            for group in self.lasting_groups().await? {
                let surplus: Vec<String> =
                    group.target_group_arns().iter().filter(|arn| gone.contains(arn)).cloned().collect();
                self.detach(group.auto_scaling_group_name().unwrap_or_default(), surplus).await?;
            }
        }
        self.delete_stack(&stack).await?;
        self.drop_unused_balancers(found.as_ref().and_then(Stack::placement)).await
    }

    /// Deletes the load balancer that a Service has just left, when no other Service is on it, and those that interrupted
    /// runs left.
    pub(super) async fn drop_unused_balancers(&self, left: Option<BalancerSlot>) -> Result<(), CloudError> {
        let left = left.map(|placement| name::balancer_stack(&self.settings.environment, placement));
        for stack in unused_balancers(&self.settings.environment, &self.stacks().await?, now()) {
            if stack.is_old || left.as_ref() == Some(&stack.name) {
                self.delete_stack(&stack.name).await?;
            }
        }
        Ok(())
    }
}

/// The Services among `stacks`. `own` is the Service that is about to be put: where its record is damaged it is read as `own`, and
/// other Services whose records are damaged are left out, so that all of them can be written again, one after the other.
///
/// # Errors
/// The record of another Service is damaged, and that of `own` is not: nobody knows what the other one takes of a load balancer,
/// and which machines belong behind it.
pub(super) fn services_in(
    environment: &str,
    stacks: &[Stack],
    own: Option<&BalancerSpec>,
) -> Result<Vec<Service>, CloudError> {
    let damaged = own.and_then(|own| {
        let name = name::service_stack(environment, &own.name);
        let stack = stacks.iter().find(|stack| stack.name == name && stack.record().is_err())?;
        Some(Service::new(stack.clone(), own.clone()))
    });
    match damaged {
        Some(own) => Ok(stacks.iter().filter_map(Service::of).chain([own]).collect()),
        None => stacks.iter().filter_map(|stack| Service::read(stack).transpose()).collect(),
    }
}

/// What the stack of a load balancer made.
pub(super) fn balancer_in(stack: &Stack) -> Result<stack_templates::Balancer, CloudError> {
    Ok(stack_templates::Balancer {
        arn: stack.output("Balancer")?,
        dns_name: stack.output("DnsName")?,
        dns_zone: stack.output("DnsZone")?,
        clients: stack.output("Clients")?,
    })
}

/// The priorities that the rules of an Ingress' stack have.
pub(super) fn priorities_in(stack: &Stack) -> Priorities {
    stack.outputs.get(ingress::PRIORITIES).map(|text| priority::read(text)).unwrap_or_default()
}

/// What a manifest asks for that AWS cannot do.
#[expect(clippy::needless_pass_by_value, reason = "the form that `map_err` takes")]
pub(super) fn refused(error: FrameError) -> CloudError {
    CloudError::Refused { message: error.to_string() }
}

/// A load balancer that no Service is on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unused {
    /// Its stack.
    pub(super) name: String,
    /// Whether nobody can be about to put a Service on it.
    pub(super) is_old: bool,
}

/// The load balancers among `stacks` that no Service is on, `now` in seconds. One exists for minutes before the stack of
/// the Service does that it is made for. None is unused while a Service is being moved, perhaps to it: its stack names the
/// one that it leaves. Nor is one while a record is damaged: nobody knows what that Service is on the way to.
pub(super) fn unused_balancers(environment: &str, stacks: &[Stack], now: u64) -> Vec<Unused> {
    if stacks.iter().any(|stack| stack.record().is_err()) {
        return Vec::new();
    }
    let services: Vec<Service> = stacks.iter().filter_map(Service::of).collect();
    if services.iter().any(|service| service.stack.is_moving() || service.is_bridged()) {
        return Vec::new();
    }
    let used: BTreeSet<String> = services
        .iter()
        .filter_map(|service| service.placement)
        .map(|placement| name::balancer_stack(environment, placement))
        .collect();
    let unused = stacks.iter().filter(|stack| stack.part == "balancer" && !used.contains(&stack.name));
    let is_old = |stack: &Stack| !stack.is_moving() && stack.changed.saturating_add(SPARED_SECONDS) < now;
    unused.map(|stack| Unused { name: stack.name.clone(), is_old: is_old(stack) }).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::cloud::aws::plan::{packing, record};
    use crate::manifest::api::{Protocol, ServiceType};
    use crate::plan::fleet::Listener;

    fn stack(name: String, part: &str, changed: u64) -> Stack {
        let (outputs, parameters) = (BTreeMap::new(), BTreeMap::new());
        Stack { name, status: "CREATE_COMPLETE".into(), part: part.into(), outputs, parameters, changed }
    }

    #[test]
    fn a_balancer_that_somebody_else_is_making_is_spared() {
        let listener = |port| vec![Listener::new(port, Protocol::Tcp, vec![])];
        let name = |name: &str| Name { namespace: "default".into(), name: name.into() };
        let spec =
            |service: &str, port| BalancerSpec::new(name(service), ServiceType::LoadBalancer, listener(port));
        let none = Sizes::new();
        let web = packing::place(&spec("web", 80), None, &[], &none);
        // On a load balancer of its own: the port is taken on the first.
        let db = packing::place(&spec("db", 80), None, &[(web, spec("web", 80))], &none);
        assert_ne!(web, db);
        let balancer =
            |placement, changed| stack(name::balancer_stack("test", placement), "balancer", changed);
        let mut service = stack("service".into(), "service", 0);
        service.parameters.extend(record::write(&spec("web", 80)));
        service.parameters.insert("Placement".into(), web.to_string());
        let unused = |made: u64, now| {
            unused_balancers("test", &[balancer(web, 0), balancer(db, made), service.clone()], now)
        };
        let db_is = |is_old| vec![Unused { name: name::balancer_stack("test", db), is_old }];
        // Another run has made it minutes ago, and its Service comes next.
        assert_eq!(unused(1000, 1600), db_is(false));
        assert_eq!(unused(1000, 1001 + SPARED_SECONDS), db_is(true));
        // A run that moves the Service has made it target groups for the next form, or changes its stack.
        let others = [balancer(web, 0), balancer(db, 0)];
        let unused_beside = |service: &Stack| {
            unused_balancers("test", &[&others[..], std::slice::from_ref(service)].concat(), 1 << 40).len()
        };
        assert_eq!(unused_beside(&service), 1);
        let own = stack_templates::target_name(&spec("web", 80).listeners[0], web);
        service.outputs.insert(own, "arn:old".into());
        assert_eq!(unused_beside(&service), 1);
        let bridged =
            Stack { outputs: [("TargetsNext".to_owned(), "arn:new".to_owned())].into(), ..service.clone() };
        assert_eq!(unused_beside(&bridged), 0);
        let mut damaged = service.clone();
        damaged.parameters.insert("Spec0".into(), "{}".into());
        assert_eq!(unused_beside(&damaged), 0);
        let changing = Stack { status: "UPDATE_IN_PROGRESS".into(), ..service };
        assert_eq!(unused_beside(&changing), 0);
        let mut moving = balancer(db, 0);
        moving.status = "CREATE_IN_PROGRESS".into();
        assert!(!unused_balancers("test", &[moving], 1 << 40)[0].is_old);
    }
}
