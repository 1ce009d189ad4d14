//! The README's table: what works on which cloud, made from what the clouds support.

use crate::manifest::support::{
    ACME, Answer, ENDING_POD, HEADLESS, INGRESS_RANGES, PLACEMENT, REPLICATED, ROLE, SNAPSHOTS, Support, TLS,
};

/// A line of the table.
struct Feature {
    what: &'static str,
    /// The paths of what it is about, where not everything of it works everywhere.
    paths: &'static [&'static str],
    /// Whether no cloud has it in this version.
    not_yet: bool,
}

const fn works(what: &'static str) -> Feature {
    Feature { what, paths: &[], not_yet: false }
}

const fn depends(what: &'static str, paths: &'static [&'static str]) -> Feature {
    Feature { what, paths, not_yet: false }
}

const FEATURES: &[Feature] = &[
    works(
        "Deployments, ReplicaSets, Pods: rolling updates with automatic rollback, `rollback`, `restart`, `scale`, \
         replacement of dead machines",
    ),
    works("Services: balancers for TCP and UDP, names between pods"),
    works(
        "init containers, sidecars, hooks, probes of every kind, resources, security contexts, system call filters",
    ),
    works(
        "variables and files from ConfigMaps, Secrets and fields of the pod; emptyDir, projected volumes; the short form",
    ),
    depends("Jobs, CronJobs, and Pods that end", &["Job", "CronJob", ENDING_POD]),
    depends("Ingress: hosts and paths, TLS, HTTP/2, gRPC, WebSocket", &["Ingress"]),
    depends("certificates of Ingresses by ACME (Let's Encrypt and others)", &[ACME]),
    depends("Services that are aliases (`ExternalName`)", &["ServiceSpec.externalName"]),
    depends("TLS at balancers of Services", &[TLS]),
    depends(
        "sticky clients, limits on who may connect to Services and Ingresses",
        &["ServiceSpec.sessionAffinity=ClientIP", "ServiceSpec.loadBalancerSourceRanges", INGRESS_RANGES],
    ),
    depends("roles, zones, types of machine, Spot", &[ROLE, PLACEMENT]),
    depends(
        "machines that start from a snapshot: further ones of a pod start from that of one which was booted for it and stopped before its containers \
         (no Jobs, no pods with disks that outlive machines; `i2kit.dev/snapshot: never` for none)",
        &[SNAPSHOTS],
    ),
    depends("HorizontalPodAutoscalers on processor use", &["HorizontalPodAutoscaler"]),
    depends(
        "the same on memory, on one container, on an amount a pod, with `behavior`",
        &[
            "ResourceMetricSource.name=memory",
            "MetricSpec.type=ContainerResource",
            "MetricTarget.type=AverageValue",
            "HPAScalingRules.policies",
        ],
    ),
    depends("NetworkPolicies, enforced outside the pods", &["NetworkPolicy"]),
    works("PodDisruptionBudgets"),
    works("`logs`, `events`, `history`, `plan`, `diff`, `wait`, `dashboard`"),
    depends(
        "`exec`, `cp` (the container needs `tar`; links are left out), `console`, `top`",
        &["i2kit exec", "i2kit cp", "i2kit console", "i2kit top"],
    ),
    depends(
        "StatefulSets; disks that outlive machines, with `volume ls`, `snapshot`, `restore`, `rm`",
        &["StatefulSet", "PersistentVolumeClaim", "i2kit volume"],
    ),
    depends("headless Services, names of their machines", &[HEADLESS]),
    depends(
        "replicated pods: requests in one order in all machines, no acknowledged write lost; `replicas`, which moves the lead and recovers from a lost majority",
        &[REPLICATED, "i2kit replicas"],
    ),
    depends("`trial`: an account is tried in twelve steps, with a report", &["i2kit trial"]),
    Feature { what: "GPUs", paths: &[], not_yet: true },
];

/// What a cloud makes of all that a line is about, in a word.
fn word(cloud: &Support, feature: &Feature) -> &'static str {
    let answers = || feature.paths.iter().map(|path| cloud.answer(path));
    if feature.not_yet || answers().any(|answer| answer == Answer::NotYet) {
        "not yet"
    } else if answers().any(|answer| answer == Answer::No) {
        "refused"
    } else if answers().any(|answer| matches!(answer, Answer::Note(_))) {
        "with a note"
    } else {
        "works"
    }
}

/// The table in Markdown: a line each feature, a column each cloud.
pub(super) fn markdown(clouds: &[&Support]) -> String {
    let row = |first: &str, cells: &[&str]| format!("| {first} | {} |\n", cells.join(" | "));
    let names: Vec<&str> = clouds.iter().map(|cloud| cloud.name).collect();
    let mut table = row("", &names) + &"|---".repeat(clouds.len() + 1) + "|\n";
    for feature in FEATURES {
        let words: Vec<&str> = clouds.iter().map(|cloud| word(cloud, feature)).collect();
        table += &row(feature.what, &words);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::kinds;

    #[test]
    fn the_table_in_the_readme_is_the_one_made_from_the_clouds() {
        let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
        let table =
            readme.split("<!-- features -->\n").nth(1).expect("README.md has two marks `<!-- features -->`");
        let made = markdown(kinds::supports());
        assert!(
            table == made,
            "put `i2kit schema --format features` between the marks in README.md:\n{made}"
        );
    }
}
