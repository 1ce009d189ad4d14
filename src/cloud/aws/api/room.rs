//! Room on load balancers that Services share: a Service is put where there is room for it, and for as many machines as there may be
//! behind it. A network load balancer takes a number of targets, and a group that grows takes more of them: Services that have no room
//! any more move before their group grows.

use futures::future::try_join;

use super::auto_scaling::{capacity, group_name, settings_in};
use super::balancer::{Service, balancer_in, refused, services_in};
use super::environment::Aws;
use super::stack::{Stack, TRIES, contested};
use super::tags;
use crate::cloud::CloudError;
use crate::cloud::aws::plan::packing::{self, BalancerSlot, Sizes};
use crate::cloud::aws::plan::stack_templates::{self, Frame, Placed};
use crate::cloud::aws::plan::{name, refusal};
use crate::manifest::api::Name;
use crate::plan::fleet::BalancerSpec;

impl Aws {
    /// The most machines that there may be at once of each group, and of those of `coming` no fewer than it says.
    pub(super) async fn sizes(&self, coming: &Sizes) -> Result<Sizes, CloudError> {
        let (templates, groups) = try_join(self.templates(None), self.scaling_groups(None)).await?;
        let mut sizes = coming.clone();
        for found in &groups {
            let Some(name) = group_name(found) else { continue };
            let own = templates.iter().find(|template| tags::named(template.tags()).as_ref() == Some(&name));
            let settings = own.map(|template| settings_in(template.tags())).transpose()?.flatten();
            let replicas = capacity(found);
            let now = settings.map_or(replicas, |settings| settings.most_machines(replicas));
            let most = sizes.entry(name).or_default();
            *most = now.max(*most);
        }
        Ok(sizes)
    }

    /// Makes room for a group that is to have `replicas` machines, and for what its scaler and a refresh make of that.
    pub(super) async fn make_room_for(&self, group: &Name, replicas: u32) -> Result<(), CloudError> {
        let settings = self.settings_of(group).await?;
        let most = settings.map_or(replicas, |settings| settings.most_machines(replicas));
        self.make_room(group, most).await
    }

    /// Moves the Services in front of a group whose load balancers have no room for `most` machines of it, where that is more than
    /// there may be already. All others stay: clients know their names.
    ///
    /// # Errors
    /// A Service that no load balancer has room for.
    pub(super) async fn make_room(&self, group: &Name, most: u32) -> Result<(), CloudError> {
        let mut services = self.readable_services().await?;
        let leads = |service: &&Service| service.spec.targets().any(|target| target.group == *group);
        let names: Vec<Name> =
            services.iter().filter(leads).map(|service| service.spec.name.clone()).collect();
        if names.is_empty() {
            return Ok(());
        }
        let now = self.sizes(&Sizes::new()).await?;
        // What is too much already is no more by this.
        if now.get(group).is_some_and(|now| *now >= most) {
            return Ok(());
        }
        let coming = Sizes::from([(group.clone(), most)]);
        let sizes: Sizes = now.into_iter().chain(coming.clone()).collect();
        for name in names {
            let found = services.iter().find(|service| service.spec.name == name);
            // An Ingress shares no load balancer.
            let Some((spec, slot)) = found.and_then(|found| Some((&found.spec, found.placement?))) else {
                continue;
            };
            let others = placed_beside(&services, &name);
            if packing::place(spec, Some((slot, spec)), &others, &sizes) == slot {
                continue;
            }
            // Another run may be deploying it: what that makes of it is kept.
            Box::pin(self.place_service(&name, None, &coming)).await?;
            // One that moved leaves room to the next.
            services = self.readable_services().await?;
        }
        Ok(())
    }

    /// Puts a Service on a load balancer that has room, and makes its groups targets: as `new`, or as it is where that is `None`. Of
    /// groups of `coming` there are to be so many machines.
    pub(super) async fn place_service(
        &self,
        service: &Name,
        new: Option<&BalancerSpec>,
        coming: &Sizes,
    ) -> Result<(), CloudError> {
        let frame = self.frame().await?;
        for _ in 0..TRIES {
            if Box::pin(self.step_service((service, new), coming, &frame)).await? {
                return Ok(());
            }
        }
        Err(contested(&name::service_stack(&self.settings.environment, service)))
    }

    /// Brings the Service's stack nearer to what it asks for; whether it is there. What is put is planned of the stack at rest. Where
    /// somebody else changed it in between, nothing is put over it.
    async fn step_service(
        &self,
        (service, new): (&Name, Option<&BalancerSpec>),
        coming: &Sizes,
        frame: &Frame,
    ) -> Result<bool, CloudError> {
        let environment = &self.settings.environment;
        let stacks = self.stacks_at_rest().await?;
        let services = services_in(environment, &stacks, new)?;
        let found = services.iter().find(|found| found.spec.name == *service);
        let as_it_is = found.map(|found| &found.spec).filter(|spec| spec.external_name.is_none());
        // Another run has deleted it meanwhile, or made it an alias.
        let Some(spec) = new.or(as_it_is) else { return Ok(true) };
        let sizes = self.sizes(coming).await?;
        refusal::refuse_targets(spec, &sizes).map_err(refused)?;
        let placement = place(environment, (&stacks, &services), spec, &sizes)?;
        let balancer = self.put_stack(&stack_templates::balancer(environment, placement, frame)).await?;
        let balancer = balancer_in(&balancer)?;
        let placed = Placed { spec, placement, balancer: &balancer };
        let left = found.and_then(|found| found.placement).filter(|left| *left != placement);
        let there = match found {
            Some(found) => {
                // The load balancer may have taken minutes.
                if self.unchanged(&found.stack).await?.is_none() {
                    return Ok(false);
                }
                if let (None, Some(left)) = (new, left) {
                    self.tell_move(service, coming, left);
                }
                self.detach_gone().await?;
                let Some(moved) = self.move_service(found, placed, frame).await? else { return Ok(false) };
                // And its machines, to be healthy.
                let there = self.unchanged(&moved).await?;
                if there.is_none() {
                    return Ok(false);
                }
                there
            }
            None => self.at_rest(&name::service_stack(environment, service)).await?,
        };
        let plan = stack_templates::service(environment, placed, frame);
        if self.put_over(there.as_ref(), &plan).await?.is_none() {
            return Ok(false);
        }
        self.attach(service).await?;
        self.drop_unused_balancers(left).await?;
        Ok(true)
    }

    /// Says that a Service moves for the machines that its groups are to have.
    fn tell_move(&self, service: &Name, coming: &Sizes, left: BalancerSlot) {
        for (group, most) in coming {
            self.events
                .note(format!("{service} has no room for {most} machines of {group} on {left}, and moves"));
        }
    }

    /// The Services but those whose records are damaged. Who scales what others lead to is not kept from it by one of them; a
    /// Service that has to move is refused when it is put, before anything is made for it.
    async fn readable_services(&self) -> Result<Vec<Service>, CloudError> {
        Ok(self.stacks().await?.iter().filter_map(Service::of).collect())
    }
}

/// All Services but one that share load balancers, and on which they are.
fn placed_beside(services: &[Service], name: &Name) -> Vec<(BalancerSlot, BalancerSpec)> {
    let others = services.iter().filter(|service| service.spec.name != *name);
    others.filter_map(|service| Some((service.placement?, service.spec.clone()))).collect()
}

/// Where a Service goes that is to be `spec`, beside those of `services` among all stacks of the environment.
///
/// # Errors
/// It comes, or has to move, and the record of another Service is damaged: nobody knows what that one takes of a load balancer.
fn place(
    environment: &str,
    (stacks, services): (&[Stack], &[Service]),
    spec: &BalancerSpec,
    sizes: &Sizes,
) -> Result<BalancerSlot, CloudError> {
    let found = services.iter().find(|service| service.spec.name == spec.name);
    let now = found.and_then(|found| Some((found.placement?, &found.spec)));
    let placement = packing::place(spec, now, &placed_beside(services, &spec.name), sizes);
    if now.map(|(slot, _)| slot) != Some(placement) {
        let own = name::service_stack(environment, &spec.name);
        for other in stacks.iter().filter(|stack| stack.name != own) {
            other.record()?;
        }
    }
    Ok(placement)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::cloud::aws::plan::packing::Scheme;
    use crate::cloud::aws::plan::record;
    use crate::manifest::api::{Protocol, ServiceType};
    use crate::plan::fleet::Listener;

    const SLOT: BalancerSlot = BalancerSlot { scheme: Scheme::Public, index: 0 };

    fn spec(service: &str, port: u16, kind: ServiceType) -> BalancerSpec {
        let name = Name { namespace: "default".into(), name: service.into() };
        BalancerSpec::new(name, kind, vec![Listener::new(port, Protocol::Tcp, vec![])])
    }

    /// The stack of a Service on the first public load balancer.
    fn stack(spec: &BalancerSpec, is_damaged: bool) -> Stack {
        let mut parameters: BTreeMap<String, String> = record::write(spec).into_iter().collect();
        parameters.insert("Placement".into(), SLOT.to_string());
        if is_damaged {
            parameters.insert("Spec0".into(), "{}".into());
        }
        Stack {
            name: name::service_stack("test", &spec.name),
            status: "UPDATE_COMPLETE".into(),
            part: "service".into(),
            outputs: BTreeMap::new(),
            parameters,
            changed: 0,
        }
    }

    /// Where `new` goes among these stacks.
    fn goes(stacks: &[Stack], new: &BalancerSpec) -> Result<BalancerSlot, CloudError> {
        let services = services_in("test", stacks, Some(new))?;
        place("test", (stacks, &services), new, &Sizes::new())
    }

    #[test]
    fn a_service_that_has_to_move_is_refused_beside_a_damaged_record() {
        let web = spec("web", 80, ServiceType::LoadBalancer);
        let api = spec("api", 81, ServiceType::LoadBalancer);
        let inside = spec("web", 80, ServiceType::ClusterIP);
        let internal = BalancerSlot { scheme: Scheme::Internal, index: 0 };
        let refused = |stacks: &[Stack], new: &BalancerSpec, named: &BalancerSpec| {
            let error = goes(stacks, new).unwrap_err().to_string();
            let named = format!("stack {} does not say", name::service_stack("test", &named.name));
            assert!(error.contains(&named), "{error}");
        };
        // It is written again where it is, whatever others say. Elsewhere the other one may have its port.
        let both = [stack(&web, true), stack(&api, true)];
        assert_eq!(goes(&both, &web), Ok(SLOT));
        assert_eq!(goes(&both, &api), Ok(SLOT));
        refused(&both, &inside, &api);
        // With the other one's record it moves.
        let own = [stack(&web, true), stack(&api, false)];
        assert_eq!(goes(&own, &web), Ok(SLOT));
        assert_eq!(goes(&own, &inside), Ok(internal));
        // One whose stack does not say where it is has to be given a place, too.
        let mut lost = both;
        lost[0].parameters.remove("Placement");
        refused(&lost, &web, &api);
        // Another Service is not put beside a damaged one, in its place or elsewhere.
        let other = [stack(&web, false), stack(&api, true)];
        refused(&other, &web, &api);
        refused(&[stack(&api, true)], &web, &api);
    }
}
