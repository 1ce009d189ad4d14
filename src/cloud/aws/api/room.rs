//! Room on load balancers for machines: a network load balancer takes a number of targets, and a group that grows takes more of
//! them. Services that have no room any more move before their group grows.

use futures::future::try_join;

use super::auto_scaling::{capacity, group_name, settings_in};
use super::balancer::{Service, placed_beside};
use super::environment::Aws;
use super::tags;
use crate::cloud::CloudError;
use crate::cloud::aws::plan::name;
use crate::cloud::aws::plan::packing::{self, Sizes};
use crate::manifest::api::Name;

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
            let Some((spec, slot)) = found.and_then(|found| Some((found.spec.clone(), found.placement?)))
            else {
                continue;
            };
            let others = placed_beside(&services, &name);
            if packing::place(&spec, Some((slot, &spec)), &others, &sizes) == slot {
                continue;
            }
            self.events
                .note(format!("{name} has no room for {most} machines of {group} on {slot}, and moves"));
            // Another run may be deploying it: what that makes of it is kept.
            let stack = name::service_stack(&self.settings.environment, &name);
            let there = Box::pin(self.at_rest(&stack)).await?;
            let Some(there) = there.as_ref().and_then(Service::of) else { continue };
            Box::pin(self.put_service(&there.spec, &coming)).await?;
            // One that moved leaves room to the next.
            services = self.readable_services().await?;
        }
        Ok(())
    }

    /// The Services but those whose records are damaged. Who scales what others lead to is not kept from it by one of them; a
    /// Service that has to move is refused when it is put.
    async fn readable_services(&self) -> Result<Vec<Service>, CloudError> {
        Ok(self.stacks().await?.iter().filter_map(Service::of).collect())
    }
}
