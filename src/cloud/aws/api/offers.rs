//! What EC2 offers where: types of instance differ by zone and by account, and a launch of one that is not there fails minutes
//! later.

use std::collections::BTreeMap;

use aws_sdk_ec2::types::{
    ArchitectureType, BootModeType, Filter, InstanceType, InstanceTypeInfo, LocationType, ProcessorInfo,
};

use super::environment::{Aws, Offers};
use super::error::failed;
use crate::cloud::CloudError;
use crate::cloud::aws::plan::machine::{self, MACHINES};
use crate::plan::fleet::LaunchSpec;

/// Zones of a network of an environment's own.
const ZONES: usize = 2;

impl Aws {
    /// Where the types of the table are offered.
    pub(super) async fn offers(&self) -> Result<&Offers, CloudError> {
        self.offers
            .get_or_try_init(async || {
                let names = MACHINES.iter().map(|machine| machine.name.to_owned()).collect();
                let types = Filter::builder().name("instance-type").set_values(Some(names)).build();
                let asked = self.clients.ec2.describe_instance_type_offerings().filters(types);
                let asked =
                    asked.location_type(LocationType::AvailabilityZone).into_paginator().items().send();
                let found: Vec<_> =
                    asked.try_collect().await.map_err(failed("DescribeInstanceTypeOfferings"))?;
                let mut offers = Offers::new();
                for one in found {
                    if let (Some(kind), Some(zone)) = (one.instance_type, one.location) {
                        offers.entry(kind.as_str().to_owned()).or_default().insert(zone);
                    }
                }
                Ok(offers)
            })
            .await
    }

    /// The zones for a network of its own: those that have most of the types.
    pub(super) async fn best_zones(&self) -> Result<Vec<String>, CloudError> {
        let zones = best(self.offers().await?, self.settings.free_plan);
        if zones.len() < ZONES {
            return Err(too_few_zones(&self.settings.region, self.settings.free_plan));
        }
        Ok(zones)
    }

    /// The type of a revision's machines: the one that its manifest names, if it can boot the image, or the cheapest that is
    /// large enough and offered in all of the environment's zones.
    pub(super) async fn machine_type(&self, launch: &LaunchSpec) -> Result<String, CloudError> {
        let mut named: Vec<&str> = launch.machine_type.iter().map(String::as_str).collect();
        named.extend(launch.mix.iter().flat_map(|mix| mix.types.iter().map(String::as_str)));
        named.dedup();
        if let Some(first) = named.first() {
            self.refuse_types(&named).await?;
            return Ok((*first).to_owned());
        }
        let zones = self.frame_zones().await?;
        let offers = self.offers().await?;
        let may = |kind: &str| machine::is_allowed(kind, self.settings.free_plan);
        let everywhere =
            |kind: &str| offers.get(kind).is_some_and(|there| zones.iter().all(|zone| there.contains(zone)));
        let found = machine::offered(launch, |kind| may(kind) && everywhere(kind));
        let found = found.ok_or_else(|| not_offered(launch, &zones, self.settings.free_plan))?;
        Ok(found.name.to_owned())
    }

    /// Refuses types that a manifest names and that cannot boot the image.
    async fn refuse_types(&self, named: &[&str]) -> Result<(), CloudError> {
        let types = named.iter().map(|kind| InstanceType::from(*kind)).collect();
        let asked = self.clients.ec2.describe_instance_types().set_instance_types(Some(types)).send().await;
        let found = asked.map_err(failed("DescribeInstanceTypes"))?.instance_types.unwrap_or_default();
        let wrong: Vec<String> = found.iter().filter_map(why_not).collect();
        if wrong.is_empty() { Ok(()) } else { Err(CloudError::Refused { message: wrong.join("; ") }) }
    }
}

/// The types among which there is none, and what bounds them.
fn which(free_plan: bool) -> &'static str {
    if free_plan { "that `provider.freePlan` of the environment file allows" } else { "that i2kit knows" }
}

/// That no network of an environment's own can be made.
fn too_few_zones(region: &str, free_plan: bool) -> CloudError {
    let types = which(free_plan);
    let message = format!("fewer than {ZONES} zones of {region} have types of instance {types}");
    CloudError::Refused { message }
}

/// That no type is large enough for a pod and there.
fn not_offered(launch: &LaunchSpec, zones: &[String], free_plan: bool) -> CloudError {
    let (types, zones) = (which(free_plan), zones.join(", "));
    let (vcpus, memory) = (launch.vcpus, launch.memory_mib);
    let message = format!(
        "no type of instance {types} has {vcpus} processors and {memory} MiB and is offered in {zones}"
    );
    CloudError::Refused { message }
}

/// Why a type cannot boot an image, if so: images boot by UEFI.
fn why_not(kind: &InstanceTypeInfo) -> Option<String> {
    let name = kind.instance_type().map_or("?", InstanceType::as_str);
    let processors = kind.processor_info().map(ProcessorInfo::supported_architectures).unwrap_or_default();
    if !processors.is_empty() && !processors.contains(&ArchitectureType::X8664) {
        return Some(format!("{name} has processors of another architecture than the image"));
    }
    let modes = kind.supported_boot_modes();
    (!modes.is_empty() && !modes.contains(&BootModeType::Uefi))
        .then(|| format!("{name} does not boot by UEFI, as images do; name a type of the Nitro system"))
}

/// Of all zones those that have most of the types, in the order of their names.
fn best(offers: &Offers, free_plan: bool) -> Vec<String> {
    let mut counts: BTreeMap<&String, usize> = BTreeMap::new();
    let counted = offers.iter().filter(|(kind, _)| machine::is_allowed(kind, free_plan));
    for zone in counted.flat_map(|(_, zones)| zones) {
        *counts.entry(zone).or_default() += 1;
    }
    let mut zones: Vec<(&String, usize)> = counts.into_iter().collect();
    zones.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
    let mut best: Vec<String> = zones.into_iter().take(ZONES).map(|(name, _)| name.clone()).collect();
    best.sort();
    best
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_zone_that_lacks_types_is_not_taken() {
        let zones = |names: &[&str]| names.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
        let offers: Offers = [
            ("t3.nano".to_owned(), zones(&["us-east-1a", "us-east-1b", "us-east-1c"])),
            ("t3a.nano".to_owned(), zones(&["us-east-1b", "us-east-1c"])),
            ("t3.micro".to_owned(), zones(&["us-east-1a"])),
        ]
        .into();
        assert_eq!(best(&offers, false), ["us-east-1a", "us-east-1b"]);
        let fewer: Offers = offers.clone().into_iter().filter(|(kind, _)| kind != "t3.micro").collect();
        assert_eq!(best(&fewer, false), ["us-east-1b", "us-east-1c"]);
        assert_eq!(best(&offers, true), ["us-east-1a"]);
    }

    #[test]
    fn where_the_free_plan_keeps_types_out_it_is_named() {
        use crate::oci::Digest;
        use crate::plan::example;
        use crate::plan::image::ImageId;
        let launch = example::launch(ImageId(Digest::of(b"image")));
        let zones = ["us-east-1a".to_owned()];
        let said = |free_plan| not_offered(&launch, &zones, free_plan).to_string();
        assert!(
            said(true).contains("provider.freePlan") && said(true).contains("us-east-1a"),
            "{}",
            said(true)
        );
        assert!(
            said(false).contains("that i2kit knows") && !said(false).contains("freePlan"),
            "{}",
            said(false)
        );
        assert!(too_few_zones("us-east-1", true).to_string().contains("provider.freePlan"));
    }

    #[test]
    fn a_type_that_cannot_boot_is_refused_with_the_reason() {
        let kind = |name: &str, mode| {
            let info = InstanceTypeInfo::builder().instance_type(InstanceType::from(name));
            info.supported_boot_modes(mode).build()
        };
        assert_eq!(why_not(&kind("t3.nano", BootModeType::Uefi)), None);
        assert!(
            why_not(&kind("t2.nano", BootModeType::LegacyBios))
                .unwrap()
                .contains("t2.nano does not boot by UEFI")
        );
    }
}
