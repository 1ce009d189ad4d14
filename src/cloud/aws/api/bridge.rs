//! A second deployment of a Service that runs: what it is to have is there, and its machines are healthy behind it, before
//! anything that clients use goes. CloudFormation makes what is new first, but an empty target group answers nobody for
//! minutes.

use std::time::Duration;

use super::auto_scaling::group_name;
use super::balancer::{Service, balancer_in, priorities_in, refused};
use super::environment::Aws;
use super::stack::Stack;
use super::wait::{FIRST_PAUSE, eventually};
use crate::cloud::CloudError;
use crate::cloud::aws::plan::ingress::{self, Standing};
use crate::cloud::aws::plan::stack_templates::{Frame, Placed};
use crate::cloud::aws::plan::{name, stack_templates};
use crate::plan::fleet::{BalancerSpec, Health};

/// How long machines that serve may take to be healthy behind another target group: load balancers take two or three minutes.
const WARMING: Duration = Duration::from_mins(10);

/// How long names of load balancers are remembered by those who asked for them.
const NAME_KEPT: Duration = Duration::from_mins(1);

impl Aws {
    /// Brings a Service, whose stack was found at rest, to where `new` can be put without an interruption; its stack as it is then.
    /// `None` when somebody else changes it meanwhile: it has to be looked at again.
    pub(super) async fn move_service(
        &self,
        found: &Service,
        new: Placed<'_>,
        frame: &Frame,
    ) -> Result<Option<Stack>, CloudError> {
        let environment = &self.settings.environment;
        let as_it_was = Some(found.stack.clone());
        // One that never came to be, or was an alias, has nothing that serves.
        let Some(placement) = found.placement.filter(|_| found.stack.is_complete()) else {
            return Ok(as_it_was);
        };
        let there = self.at_rest(&name::balancer_stack(environment, placement)).await?;
        let Some(balancer) = there.as_ref().and_then(|stack| balancer_in(stack).ok()) else {
            return Ok(as_it_was);
        };
        let ways = (Placed { spec: &found.spec, placement, balancer: &balancer }, new);
        let Some(plan) = stack_templates::bridge(environment, ways, false, frame) else {
            return Ok(as_it_was);
        };
        if !plan.fits() {
            self.tell_interruption(new.spec);
            return Ok(as_it_was);
        }
        let Some(stack) = self.put_over(Some(&found.stack), &plan).await? else { return Ok(None) };
        let next = Service { stack, spec: new.spec.clone(), placement: Some(new.placement) };
        self.warm(found, &next).await?;
        let both = stack_templates::bridge(environment, ways, true, frame);
        let Some(plan) = both.filter(|_| placement != new.placement) else { return Ok(Some(next.stack)) };
        // Its machines took minutes to be healthy.
        let Some(there) = self.unchanged(&next.stack).await? else { return Ok(None) };
        let Some(moved) = self.put_over(Some(&there), &plan).await? else { return Ok(None) };
        // Both answer until nobody remembers the old name's addresses.
        let kept = if self.settings.endpoint.is_some() { FIRST_PAUSE } else { NAME_KEPT };
        tokio::time::sleep(kept).await;
        Ok(Some(moved))
    }

    /// The same of an Ingress. `None`, too, when it was put without the rules that go.
    pub(super) async fn move_ingress(
        &self,
        found: &Service,
        (new, coming): (&BalancerSpec, &[String]),
        frame: &Frame,
    ) -> Result<Option<Stack>, CloudError> {
        let Some(http) = found.spec.http.as_ref().filter(|_| found.stack.is_complete()) else {
            return Ok(Some(found.stack.clone()));
        };
        let certificates = match self.certificates_for(&found.spec, http).await {
            Ok(certificates) => certificates,
            // Where a certificate of it is gone, there is nothing to keep as it is.
            Err(CloudError::Refused { .. }) => return Ok(Some(found.stack.clone())),
            Err(error) => return Err(error),
        };
        let environment = &self.settings.environment;
        let priorities = priorities_in(&found.stack);
        let standing = Standing { certificates: &certificates, priorities: &priorities };
        // Before the bridge: its own rules need room, too.
        let first = ingress::detour(environment, (&found.spec, http), (standing, new, coming), frame);
        if let Some(plan) = first.map_err(refused)? {
            self.put_over(Some(&found.stack), &plan).await?;
            return Ok(None);
        }
        let plan = ingress::bridge(environment, (&found.spec, http), (standing, new), frame);
        let Some(plan) = plan.map_err(refused)? else { return Ok(Some(found.stack.clone())) };
        if !plan.fits() {
            self.tell_interruption(new);
            return Ok(Some(found.stack.clone()));
        }
        let Some(stack) = self.put_over(Some(&found.stack), &plan).await? else { return Ok(None) };
        let next = Service { stack, spec: new.clone(), placement: None };
        self.warm(found, &next).await?;
        Ok(Some(next.stack))
    }

    /// Says that what a Service has and what it will have are together more than CloudFormation takes.
    fn tell_interruption(&self, new: &BalancerSpec) {
        self.events.warn(format!(
            "{} cannot have what it will have beside what it has: both together are more than CloudFormation takes in a template. \
             Its clients wait two to three minutes, until its machines are healthy behind new target groups",
            new.name
        ));
    }

    /// Puts groups into the target groups that come, and waits until as many machines are healthy there as serve now.
    async fn warm(&self, now: &Service, next: &Service) -> Result<(), CloudError> {
        let mut pairs: Vec<(Vec<String>, Vec<String>)> = Vec::new();
        for found in self.scaling_groups(None).await? {
            let (Some(own), Some(group)) = (found.auto_scaling_group_name(), group_name(&found)) else {
                continue;
            };
            let wanted: Vec<String> = next.targets_of(&group).cloned().collect();
            let has = found.target_group_arns();
            let missing: Vec<String> = wanted.iter().filter(|arn| !has.contains(arn)).cloned().collect();
            self.attach_to(own, &missing).await?;
            pairs.push((now.targets_of(&group).cloned().collect(), wanted));
        }
        let what = format!(
            "the machines of {} to be healthy behind its new target groups; those that it has go on serving",
            next.spec.name
        );
        eventually(&what, WARMING, || async {
            for (serving, coming) in &pairs {
                let mut most = 0;
                for arn in serving {
                    most = self.healthy_behind(arn).await?.max(most);
                }
                for arn in coming {
                    if self.healthy_behind(arn).await? < most {
                        return Ok(None);
                    }
                }
            }
            Ok(Some(()))
        })
        .await
    }

    /// How many machines are healthy behind a target group.
    async fn healthy_behind(&self, arn: &str) -> Result<usize, CloudError> {
        let (_, targets) = self.health(arn.to_owned()).await?;
        Ok(targets.values().filter(|health| **health == Health::Healthy).count())
    }
}
