//! Hints for fields that are not known.

use crate::manifest::language::{Class, Table, Type};
use crate::manifest::words::{list, nearest};

/// Fields that objects had in versions that are gone, or that a similar object has: object, field, what to write.
const OTHER_NAMES: &[(&str, &str, &str)] = &[
    ("IngressBackend", "serviceName", "service.name"),
    ("IngressBackend", "servicePort", "service.port.number"),
    ("SecretVolumeSource", "name", "secretName"),
    ("PersistentVolumeClaimVolumeSource", "name", "claimName"),
    ("ConfigMapVolumeSource", "configMapName", "name"),
    ("HorizontalPodAutoscalerSpec", "targetCPUUtilizationPercentage", "metrics"),
];

/// Tables up to this many fields are listed in whole when nothing is near.
const FEW: usize = 6;

/// A hint for the unknown field `key` of `table`: another spelling, or the level where it belongs.
pub(super) fn for_field(key: &str, table: &'static Table, around: &[&'static Table]) -> Option<String> {
    let same = |(object, field, _): &&(&str, &str, &str)| *object == table.name && *field == key;
    if let Some((_, _, meant)) = OTHER_NAMES.iter().find(same) {
        return Some(format!("write `{meant}`"));
    }
    if let Some(below) = below(key, table) {
        return Some(format!("it belongs to `{below}`"));
    }
    let accepted = table.fields.iter().filter(|field| field.class != Class::Refused).map(|field| field.name);
    if let Some(word) = nearest(key, accepted) {
        return Some(format!("did you mean `{word}`?"));
    }
    around
        .iter()
        .rev()
        .find(|outer| !std::ptr::eq(**outer, table) && outer.field(key).is_some())
        .map(|outer| format!("it belongs to {}, further out: check the indentation", outer.name))
        .or_else(|| only_map(table).map(|map| format!("write it below `{map}`")))
        .or_else(|| {
            let accepted = table.fields.iter().filter(|field| field.class != Class::Refused);
            let names: Vec<&str> = accepted.map(|field| field.name).collect();
            (names.len() <= FEW).then(|| format!("it can have {}", list(&names, "and")))
        })
}

/// The field of `table` that takes any key, when there is one alone, such as `matchLabels`.
fn only_map(table: &'static Table) -> Option<&'static str> {
    let mut maps = table.fields.iter().filter(|field| matches!(field.ty, Type::Map(..)));
    maps.next().filter(|_| maps.next().is_none()).map(|field| field.name)
}

/// The field of `table` that holds objects with the field `key`.
fn below(key: &str, table: &'static Table) -> Option<String> {
    table.fields.iter().filter(|field| field.class != Class::Refused).find_map(|field| {
        let (inner, mark) = match field.ty {
            Type::Object(inner) => (inner, ""),
            Type::List(Type::Object(inner)) | Type::Filled(Type::Object(inner)) => (*inner, "[]"),
            Type::Keyed(inner, _) => (inner, "[]"),
            _ => return None,
        };
        inner.field(key).map(|_| format!("{}{mark}.{key}", field.name))
    })
}
