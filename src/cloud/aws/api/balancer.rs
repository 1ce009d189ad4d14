//! Services: a stack each, with target groups and listeners on a load balancer that Services share.

use std::collections::BTreeSet;

use aws_smithy_types::error::metadata::ProvideErrorMetadata as _;

use super::auto_scaling::group_name;
use super::environment::Aws;
use super::error::failed;
use super::stack::Stack;
use crate::cloud::CloudError;
use crate::cloud::aws::plan::ingress;
use crate::cloud::aws::plan::packing::{self, Placement};
use crate::cloud::aws::plan::{name, stack_templates};
use crate::manifest::api::Name;
use crate::plan::fleet::{BalancerSpec, HttpSpec, TargetGroup};

/// A Service's stack, read.
#[derive(Debug, Clone)]
pub(super) struct Service {
    pub(super) stack: Stack,
    pub(super) spec: BalancerSpec,
    /// The load balancer that it shares; an Ingress has one of its own.
    pub(super) placement: Option<Placement>,
}

impl Service {
    /// Reads the stack of a Service; `None` when it is something else or was not written by i2kit.
    pub(super) fn of(stack: &Stack) -> Option<Self> {
        let spec = serde_json::from_str(stack.parameters.get("Spec")?).ok()?;
        let placement = stack.parameters.get("Placement").and_then(|text| text.parse().ok());
        Some(Self { stack: stack.clone(), spec, placement })
    }

    /// ARNs of the target groups that `group` should be in.
    pub(super) fn targets_of(&self, group: &Name) -> impl Iterator<Item = &String> {
        let has = |targets: &[TargetGroup]| targets.iter().any(|target| target.group == *group);
        let listeners = self.spec.listeners.iter().filter(move |listener| has(&listener.targets));
        let backends = self.spec.http.iter().flat_map(|http| &http.backends);
        let backends = backends.filter(move |backend| has(&backend.targets));
        let names = listeners.map(stack_templates::target_name).chain(backends.map(ingress::target_name));
        names.filter_map(|name| self.stack.outputs.get(&name))
    }

    /// ARNs of all its target groups.
    fn target_groups(&self) -> impl Iterator<Item = &String> {
        self.stack.outputs.iter().filter(|(key, _)| key.starts_with("Targets")).map(|(_, arn)| arn)
    }
}

impl Aws {
    /// The Services of the environment whose stacks came to be.
    pub(super) async fn services(&self) -> Result<Vec<Service>, CloudError> {
        Ok(self.stacks().await?.iter().filter_map(Service::of).collect())
    }

    /// Puts the Service's stack, on a load balancer that has room, and makes its groups targets.
    pub(super) async fn put_service(&self, spec: &BalancerSpec) -> Result<(), CloudError> {
        if let Some(http) = &spec.http {
            return self.put_ingress(spec, http).await;
        }
        let frame = self.frame().await?;
        if let Some(name) = &spec.external_name {
            let plan = stack_templates::alias(&self.settings.environment, spec, name, &frame);
            self.put_stack(&plan).await?;
            return self.drop_unused_balancers().await;
        }
        let services = self.services().await?;
        let now = services.iter().find(|service| service.spec.name == spec.name);
        let now = now.and_then(|service| service.placement);
        let others: Vec<(Placement, BalancerSpec)> = services
            .iter()
            .filter(|service| service.spec.name != spec.name)
            .filter_map(|service| Some((service.placement?, service.spec.clone())))
            .collect();
        let environment = &self.settings.environment;
        let placement = packing::place(spec, now, &others);
        let stack = self.put_stack(&stack_templates::balancer(environment, placement, &frame)).await?;
        let balancer = stack_templates::Balancer {
            arn: stack.output("Balancer")?,
            dns_name: stack.output("DnsName")?,
            dns_zone: stack.output("DnsZone")?,
            clients: stack.output("Clients")?,
        };
        let plan = stack_templates::service(environment, spec, placement, (&frame, &balancer));
        let plan = plan.map_err(|error| CloudError::Conflict { message: error.to_string() })?;
        self.put_stack(&plan).await?;
        self.attach().await?;
        self.drop_unused_balancers().await
    }

    /// Puts the Ingress' stack, with a load balancer of its own, and makes its groups targets.
    async fn put_ingress(&self, spec: &BalancerSpec, http: &HttpSpec) -> Result<(), CloudError> {
        let frame = self.frame().await?;
        let refused =
            |error: stack_templates::FrameError| CloudError::Conflict { message: error.to_string() };
        let certificates = if http.certificates.is_empty() && !http.hosts.is_empty() {
            let store = self.certificates().await?;
            ingress::certificates_of(&spec.name, &http.hosts, &store).map_err(refused)?
        } else {
            http.certificates.clone()
        };
        let plan = ingress::stack(&self.settings.environment, (spec, http), &certificates, &frame);
        self.put_stack(&plan.map_err(refused)?).await?;
        self.attach().await
    }

    /// Makes every group that exists a target of the Services that lead to it, and of no others. What is gone is detached
    /// first: Auto Scaling refuses to attach anything beside a target group that was deleted.
    async fn attach(&self) -> Result<(), CloudError> {
        let services = self.services().await?;
        for found in self.scaling_groups(None).await? {
            let (Some(own), Some(group)) = (found.auto_scaling_group_name(), group_name(&found)) else {
                continue;
            };
            let wanted: BTreeSet<&String> =
                services.iter().flat_map(|service| service.targets_of(&group)).collect();
            let has: BTreeSet<&String> = found.target_group_arns().iter().collect();
            self.detach(own, has.difference(&wanted).map(|arn| (*arn).clone()).collect()).await?;
            let missing: Vec<String> = wanted.difference(&has).map(|arn| (*arn).clone()).collect();
            if !missing.is_empty() {
                let attached = self.clients.autoscaling.attach_load_balancer_target_groups();
                let attached = attached.auto_scaling_group_name(own).set_target_group_arns(Some(missing));
                attached.send().await.map_err(failed("AttachLoadBalancerTargetGroups"))?;
            }
        }
        Ok(())
    }

    async fn detach(&self, own: &str, surplus: Vec<String>) -> Result<(), CloudError> {
        if surplus.is_empty() {
            return Ok(());
        }
        let detached = self.clients.autoscaling.detach_load_balancer_target_groups();
        let detached =
            detached.auto_scaling_group_name(own).set_target_group_arns(Some(surplus)).send().await;
        match detached {
            // It was not attached any more, or is gone.
            Err(error) if matches!(error.code(), Some("ValidationError" | "TargetGroupNotFound")) => Ok(()),
            other => other.map(drop).map_err(failed("DetachLoadBalancerTargetGroups")),
        }
    }

    /// ARNs of the target groups that a new group is put into.
    pub(super) async fn target_groups_of(&self, group: &Name) -> Result<BTreeSet<String>, CloudError> {
        let services = self.services().await?;
        Ok(services.iter().flat_map(|service| service.targets_of(group)).cloned().collect())
    }

    /// Deletes the Service's stack, and its load balancer when no other Service is on it.
    pub(super) async fn delete_service(&self, service: &Name) -> Result<(), CloudError> {
        let stack = name::service_stack(&self.settings.environment, service);
        if let Some(found) = self.stack(&stack).await?.as_ref().and_then(Service::of) {
            let gone: BTreeSet<&String> = found.target_groups().collect();
            for group in self.scaling_groups(None).await? {
                let surplus: Vec<String> =
                    group.target_group_arns().iter().filter(|arn| gone.contains(arn)).cloned().collect();
                self.detach(group.auto_scaling_group_name().unwrap_or_default(), surplus).await?;
            }
        }
        self.delete_stack(&stack).await?;
        self.drop_unused_balancers().await
    }

    /// Deletes load balancers that no Service is on.
    async fn drop_unused_balancers(&self) -> Result<(), CloudError> {
        let stacks = self.stacks().await?;
        let used: BTreeSet<String> = stacks
            .iter()
            .filter_map(Service::of)
            .filter_map(|service| service.placement)
            .map(|placement| name::balancer_stack(&self.settings.environment, placement))
            .collect();
        for stack in stacks.iter().filter(|stack| stack.part == "balancer" && !used.contains(&stack.name)) {
            self.delete_stack(&stack.name).await?;
        }
        Ok(())
    }
}
