//! The type of instance that a pod needs.

use crate::plan::fleet::LaunchSpec;

/// A type of EC2 instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Its name.
    pub name: &'static str,
    /// Processors.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Price of one hour on demand in us-east-1, in millionths of a US dollar, as listed in [`PRICED`].
    pub hourly_micros: u64,
}

/// The year of AWS' public list that the prices are of.
pub const PRICED: &str = "2025";

/// The region that the prices are of.
pub const PRICED_REGION: &str = "us-east-1";

/// Types in the order of their price. All are of the Nitro system, which boots by UEFI from its disks; the small ones are
/// burstable, which fits most pods, and the larger ones are not. Of each size there are two makes of processor, since not every
/// zone has both.
pub const MACHINES: &[Machine] = &[
    Machine { name: "t3a.nano", vcpus: 2, memory_mib: 512, hourly_micros: 4_700 },
    Machine { name: "t3.nano", vcpus: 2, memory_mib: 512, hourly_micros: 5_200 },
    Machine { name: "t3a.micro", vcpus: 2, memory_mib: 1024, hourly_micros: 9_400 },
    Machine { name: "t3.micro", vcpus: 2, memory_mib: 1024, hourly_micros: 10_400 },
    Machine { name: "t3a.small", vcpus: 2, memory_mib: 2048, hourly_micros: 18_800 },
    Machine { name: "t3.small", vcpus: 2, memory_mib: 2048, hourly_micros: 20_800 },
    Machine { name: "t3a.medium", vcpus: 2, memory_mib: 4096, hourly_micros: 37_600 },
    Machine { name: "t3.medium", vcpus: 2, memory_mib: 4096, hourly_micros: 41_600 },
    Machine { name: "t3a.large", vcpus: 2, memory_mib: 8192, hourly_micros: 75_200 },
    Machine { name: "t3.large", vcpus: 2, memory_mib: 8192, hourly_micros: 83_200 },
    Machine { name: "c7i-flex.large", vcpus: 2, memory_mib: 4096, hourly_micros: 84_790 },
    Machine { name: "m7i-flex.large", vcpus: 2, memory_mib: 8192, hourly_micros: 95_760 },
    Machine { name: "c6a.xlarge", vcpus: 4, memory_mib: 8192, hourly_micros: 153_000 },
    Machine { name: "c6i.xlarge", vcpus: 4, memory_mib: 8192, hourly_micros: 170_000 },
    Machine { name: "m6a.xlarge", vcpus: 4, memory_mib: 16384, hourly_micros: 172_800 },
    Machine { name: "m6i.xlarge", vcpus: 4, memory_mib: 16384, hourly_micros: 192_000 },
    Machine { name: "r6a.xlarge", vcpus: 4, memory_mib: 32768, hourly_micros: 226_800 },
    Machine { name: "r6i.xlarge", vcpus: 4, memory_mib: 32768, hourly_micros: 252_000 },
    Machine { name: "c6a.2xlarge", vcpus: 8, memory_mib: 16384, hourly_micros: 306_000 },
    Machine { name: "c6i.2xlarge", vcpus: 8, memory_mib: 16384, hourly_micros: 340_000 },
    Machine { name: "m6a.2xlarge", vcpus: 8, memory_mib: 32768, hourly_micros: 345_600 },
    Machine { name: "m6i.2xlarge", vcpus: 8, memory_mib: 32768, hourly_micros: 384_000 },
    Machine { name: "r6a.2xlarge", vcpus: 8, memory_mib: 65536, hourly_micros: 453_600 },
    Machine { name: "r6i.2xlarge", vcpus: 8, memory_mib: 65536, hourly_micros: 504_000 },
    Machine { name: "c6a.4xlarge", vcpus: 16, memory_mib: 32768, hourly_micros: 612_000 },
    Machine { name: "c6i.4xlarge", vcpus: 16, memory_mib: 32768, hourly_micros: 680_000 },
    Machine { name: "m6a.4xlarge", vcpus: 16, memory_mib: 65536, hourly_micros: 691_200 },
    Machine { name: "m6i.4xlarge", vcpus: 16, memory_mib: 65536, hourly_micros: 768_000 },
    Machine { name: "r6a.4xlarge", vcpus: 16, memory_mib: 131_072, hourly_micros: 907_200 },
    Machine { name: "r6i.4xlarge", vcpus: 16, memory_mib: 131_072, hourly_micros: 1_008_000 },
    Machine { name: "c6a.8xlarge", vcpus: 32, memory_mib: 65536, hourly_micros: 1_224_000 },
    Machine { name: "c6i.8xlarge", vcpus: 32, memory_mib: 65536, hourly_micros: 1_360_000 },
    Machine { name: "m6a.8xlarge", vcpus: 32, memory_mib: 131_072, hourly_micros: 1_382_400 },
    Machine { name: "m6i.8xlarge", vcpus: 32, memory_mib: 131_072, hourly_micros: 1_536_000 },
    Machine { name: "r6a.8xlarge", vcpus: 32, memory_mib: 262_144, hourly_micros: 1_814_400 },
    Machine { name: "r6i.8xlarge", vcpus: 32, memory_mib: 262_144, hourly_micros: 2_016_000 },
];

/// Of these the types that an account of the free plan may start.
const FREE_PLAN: &[&str] = &["t3.micro", "t3.small", "c7i-flex.large", "m7i-flex.large"];

/// Whether an account may start a type of that name: one of the free plan may start few.
pub fn is_allowed(kind: &str, free_plan: bool) -> bool {
    !free_plan || FREE_PLAN.contains(&kind)
}

/// The types that have so many processors and so much memory in MiB, the cheapest first.
pub fn large_enough(vcpus: u32, memory_mib: u32) -> impl Iterator<Item = &'static Machine> {
    MACHINES.iter().filter(move |machine| machine.vcpus >= vcpus && machine.memory_mib >= memory_mib)
}

/// The cheapest type that is large enough for a pod and that `is_offered`.
pub fn offered(launch: &LaunchSpec, is_offered: impl Fn(&str) -> bool) -> Option<&'static Machine> {
    large_enough(launch.vcpus, launch.memory_mib).find(|machine| is_offered(machine.name))
}

/// The cheapest type that has so many processors and so much memory; none of the table may be large enough.
pub fn smallest(vcpus: u32, memory_mib: u32) -> Option<&'static Machine> {
    large_enough(vcpus, memory_mib).next()
}

/// The name of the type of a revision's machines: what its manifest names, or the smallest that is large enough.
pub fn type_of(launch: &LaunchSpec) -> Option<&str> {
    let smallest = || smallest(launch.vcpus, launch.memory_mib).map(|machine| machine.name);
    launch.machine_type.as_deref().or_else(smallest)
}

/// The names of all types that a revision's machines may be of, the preferred one first.
pub fn types_of(launch: &LaunchSpec) -> Vec<&str> {
    let several = launch.mix.iter().flat_map(|mix| mix.types.iter().map(String::as_str));
    let several: Vec<&str> = several.collect();
    if several.is_empty() { type_of(launch).into_iter().collect() } else { several }
}

/// Processors on demand and of Spot instances that so many machines of a revision have, and one machine more: a refresh adds
/// one. Types whose size is not known count as what the pod needs.
pub fn vcpus(launch: &LaunchSpec, replicas: u32) -> (u32, u32) {
    let each = type_of(launch).and_then(known).map_or(launch.vcpus, |machine| machine.vcpus);
    let all = replicas.saturating_add(1);
    let demanded = match &launch.mix {
        Some(mix) => {
            let above = all.saturating_sub(mix.on_demand_base);
            all - above + above.saturating_mul(u32::from(mix.on_demand_percent)).div_ceil(100)
        }
        None if launch.spot => 0,
        None => all,
    };
    (demanded.saturating_mul(each), (all - demanded).saturating_mul(each))
}

/// The type of that name, if its price is known.
pub fn known(name: &str) -> Option<&'static Machine> {
    MACHINES.iter().find(|machine| machine.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_count_by_their_terms() {
        let mut launch = crate::cloud::aws::plan::cost::tests::launch();
        assert_eq!(vcpus(&launch, 3), (8, 0));
        launch.machine_type = Some("m6a.2xlarge".into());
        launch.spot = true;
        assert_eq!(vcpus(&launch, 3), (0, 32));
        launch.spot = false;
        launch.mix = crate::plan::fleet::MachineMix::of(&["m6a.2xlarge".into()], 75, 1);
        assert_eq!(vcpus(&launch, 4), (16, 24));
    }

    #[test]
    fn the_cheapest_that_is_large_enough_is_taken() {
        let name = |vcpus, memory| smallest(vcpus, memory).map(|machine| machine.name);
        assert_eq!(name(1, 128), Some("t3a.nano"));
        assert_eq!(name(2, 513), Some("t3a.micro"));
        assert_eq!(name(3, 128), Some("c6a.xlarge"));
        assert_eq!(name(4, 20_000), Some("r6a.xlarge"));
        assert_eq!(name(33, 128), None);
        assert!(MACHINES.is_sorted_by_key(|machine| machine.hourly_micros));
        assert!(FREE_PLAN.iter().all(|free| known(free).is_some()));
    }

    #[test]
    fn what_is_not_offered_gives_way_to_the_next_in_price() {
        let launch = crate::cloud::aws::plan::cost::tests::launch();
        let name =
            |is_offered: &dyn Fn(&str) -> bool| offered(&launch, is_offered).map(|machine| machine.name);
        assert_eq!(name(&|_| true), smallest(launch.vcpus, launch.memory_mib).map(|machine| machine.name));
        assert_eq!(name(&|kind| kind != "t3a.nano"), Some("t3.nano"));
        assert_eq!(name(&|kind| is_allowed(kind, true)), Some("t3.micro"));
        assert_eq!(name(&|kind| is_allowed(kind, false)), Some("t3a.nano"));
        assert_eq!(name(&|_| false), None);
    }
}
