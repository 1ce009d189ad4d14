//! Where machines run: labels of nodes, spread over zones, annotations of our own.

use std::collections::BTreeMap;

use super::object::{Object, Read};
use crate::manifest::api::Placement;
use crate::manifest::check::{MACHINE_TYPE_LABELS, SPOT, ZONE_LABELS};

/// What the spec of a pod and its annotations say.
pub(super) fn placement(pod: Object<'_>, annotations: &BTreeMap<String, String>) -> Read<Placement> {
    let mut found =
        Placement { spot: annotations.get(SPOT).is_some_and(|text| text == "true"), ..Placement::default() };
    for (key, value) in pod.map("nodeSelector")? {
        keep(&mut found, &key, vec![value]);
    }
    let affinity = pod.object("affinity")?.object("nodeAffinity")?;
    let required = affinity.object("requiredDuringSchedulingIgnoredDuringExecution")?;
    for term in required.objects("nodeSelectorTerms")? {
        for condition in term.objects("matchExpressions")? {
            keep(&mut found, &condition.text("key")?, condition.texts_if("values")?.unwrap_or_default());
        }
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
        found.machine_type = values.into_iter().next();
    }
}
