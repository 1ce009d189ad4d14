//! Where machines run: labels of nodes, spread over zones, annotations of our own.

use std::collections::BTreeMap;

use super::object::{Object, Read};
use crate::manifest::api::Placement;
use crate::manifest::check::{
    MACHINE_TYPE_LABELS, MACHINE_TYPES, NEVER, ON_DEMAND_BASE, SNAPSHOT, SPOT, ZONE_LABELS, machine_types,
    spot_percent,
};

/// The placement that the spec of a pod and its annotations ask for.
pub(super) fn placement(pod: Object<'_>, annotations: &BTreeMap<String, String>) -> Read<Placement> {
    let of = |key: &str| annotations.get(key).map(String::as_str);
    let mut found = Placement {
        spot_percent: of(SPOT).and_then(spot_percent).unwrap_or_default(),
        no_snapshot: of(SNAPSHOT) == Some(NEVER),
        on_demand_base: of(ON_DEMAND_BASE).and_then(|text| text.parse().ok()).unwrap_or_default(),
        ..Placement::default()
    };
    for (key, value) in pod.map("nodeSelector")? {
        keep(&mut found, &key, vec![value]);
    }
    let affinity = pod.object("affinity")?.object("nodeAffinity")?;
    let required = affinity.object("requiredDuringSchedulingIgnoredDuringExecution")?;
    for term in required.objects("nodeSelectorTerms")? {
        for condition in term.objects("matchExpressions")? {
            // The other operators that are deployed hold for every machine.
            if condition.text("operator")? == "In" {
                let values = condition.texts_if("values")?.unwrap_or_default();
                keep(&mut found, &condition.text("key")?, values);
            }
        }
    }
    if let Some(types) = of(MACHINE_TYPES) {
        found.machine_types = machine_types(types).map(str::to_owned).collect();
    }
    for constraint in pod.objects("topologySpreadConstraints")? {
        let strict = constraint.text("whenUnsatisfiable")? == "DoNotSchedule";
        let zone = ZONE_LABELS.contains(&constraint.text("topologyKey")?.as_str());
        found.balanced |= strict && zone && constraint.number::<u32>("maxSkew")? == 1;
    }
    Ok(found)
}

fn keep(found: &mut Placement, key: &str, values: Vec<String>) {
    if ZONE_LABELS.contains(&key) {
        found.zones = values;
    } else if MACHINE_TYPE_LABELS.contains(&key) {
        found.machine_types = values;
    }
}
