//! The record of a Service or an Ingress: what it asks for, in parameters of its stack. A parameter takes few bytes, so that the
//! record is split over as many as it needs: `Spec0`, `Spec1` and so on. Together they are a hash, a blank, and JSON that has the hash.
//! Whoever may change stacks may change them: they are read as any text of strangers.

use std::collections::BTreeMap;

use super::name;
use crate::plan::fleet::BalancerSpec;

/// The largest value of a parameter that CloudFormation takes, in bytes.
pub const PARAMETER_BYTES: usize = 4096;

/// Parameters that a record may have, of the 200 that CloudFormation takes in a template.
pub const MOST_PARTS: usize = 10;

/// The largest record, in bytes.
pub const MOST_BYTES: usize = MOST_PARTS * PARAMETER_BYTES;

/// Why the record of a stack cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// There is none.
    #[error("it has no parameter {}", name_of(0))]
    Missing,
    /// It is larger than i2kit writes one.
    #[error("its parameters from {} on have more than {} bytes", name_of(0), MOST_BYTES)]
    Large,
    /// It is something else.
    #[error("its parameters from {} on are not what i2kit has written", name_of(0))]
    Damaged,
}

/// The parameters that keep what a Service or an Ingress asks for, in their order: at least one.
pub fn write(spec: &BalancerSpec) -> Vec<(String, String)> {
    let json = serde_json::to_string(spec).expect("a balancer spec has only string keys");
    let text = whole(&json);
    let mut parts = Vec::new();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (part, after) = rest.split_at(rest.floor_char_boundary(PARAMETER_BYTES));
        parts.push((name_of(parts.len()), part.to_owned()));
        rest = after;
    }
    parts
}

/// Reads what [`write()`] has written, of all parameters of a stack.
///
/// # Errors
/// There is no record, it is too large, or it is damaged.
pub fn read(parameters: &BTreeMap<String, String>) -> Result<BalancerSpec, RecordFault> {
    let parts: Vec<&str> =
        (0..=MOST_PARTS).map_while(|number| parameters.get(&name_of(number)).map(String::as_str)).collect();
    if parts.is_empty() {
        return Err(RecordFault::Missing);
    }
    if parts.len() > MOST_PARTS || parts.iter().map(|part| part.len()).sum::<usize>() > MOST_BYTES {
        return Err(RecordFault::Large);
    }
    let text = parts.concat();
    let (_, json) =
        text.split_once(' ').filter(|(_, json)| whole(json) == text).ok_or(RecordFault::Damaged)?;
    serde_json::from_str(json).map_err(|_| RecordFault::Damaged)
}

/// The text of a record. A part that is lost, cut off or exchanged could leave JSON that is read; the hash tells.
fn whole(json: &str) -> String {
    format!("{} {json}", name::hash(json))
}

/// The name of a part, by its place.
fn name_of(number: usize) -> String {
    format!("Spec{number}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::api::{Name, ServiceType};
    use crate::plan::fleet::{HttpRule, HttpSpec};

    /// An Ingress with so many rules, each with that path.
    fn ingress(count: usize, path: &str) -> BalancerSpec {
        let rule = |number| HttpRule {
            host: Some(format!("h{number}.example.com")),
            path: path.into(),
            exact: false,
            backend: 0,
        };
        let name = Name { namespace: "shop".into(), name: "ingress/web".into() };
        let mut spec = BalancerSpec::new(name, ServiceType::LoadBalancer, vec![]);
        spec.http = Some(HttpSpec { rules: (0..count).map(rule).collect(), ..HttpSpec::default() });
        spec
    }

    fn parameters(spec: &BalancerSpec) -> BTreeMap<String, String> {
        write(spec).into_iter().collect()
    }

    #[test]
    fn a_record_of_any_length_is_read_as_it_was_written() {
        for (count, path, parts) in [(1, "/", 1), (100, "/", 2), (100, &*"/x".repeat(60), 5)] {
            let spec = ingress(count, path);
            let written = write(&spec);
            assert_eq!(written.len(), parts, "{count} {path}");
            assert!(written.iter().all(|(_, part)| part.len() <= PARAMETER_BYTES));
            assert_eq!(read(&parameters(&spec)), Ok(spec));
        }
        // No letter is cut in two, and other parameters are none of its matter.
        let spec = ingress(100, &"/é".repeat(50));
        let mut written = parameters(&spec);
        written.insert("Placement".into(), "public-0".into());
        assert_eq!(read(&written), Ok(spec));
    }

    #[test]
    fn a_damaged_record_is_refused_in_words() {
        let written = parameters(&ingress(100, "/api"));
        assert!(written.len() > 1, "{}", written.len());
        assert_eq!(read(&BTreeMap::new()).unwrap_err().to_string(), "it has no parameter Spec0");
        let assert_refused = |changed: &BTreeMap<String, String>| {
            let said = read(changed).unwrap_err().to_string();
            assert_eq!(said, "its parameters from Spec0 on are not what i2kit has written");
        };
        // A part that is cut off, comes twice or is something else.
        for (name, text) in &written {
            for other in ["", &text[..text.len() - 1], &text.repeat(2), "{}", "null", "\u{1b}[2J"] {
                assert_refused(&[(name_of(0), other.to_owned())].into());
                let mut changed = written.clone();
                changed.insert(name.clone(), other.to_owned());
                assert_refused(&changed);
            }
        }
        // The last one goes; two change their places.
        let mut fewer = written.clone();
        fewer.pop_last();
        assert_refused(&fewer);
        let swapped =
            [(name_of(0), written[&name_of(1)].clone()), (name_of(1), written[&name_of(0)].clone())];
        assert_refused(&swapped.into());
        // A hash that is right does not make a record of anything.
        for json in ["", "{}", "null", &"[".repeat(4000)] {
            assert_refused(&[(name_of(0), whole(json))].into());
        }
    }

    #[test]
    fn a_record_that_nobody_writes_is_not_read() {
        let many = |count: usize, bytes: usize| -> BTreeMap<String, String> {
            (0..count).map(|number| (name_of(number), " ".repeat(bytes))).collect()
        };
        assert_eq!(read(&many(MOST_PARTS + 1, 1)), Err(RecordFault::Large));
        assert_eq!(read(&many(1, MOST_BYTES + 1)), Err(RecordFault::Large));
        assert_eq!(read(&many(MOST_PARTS, PARAMETER_BYTES)), Err(RecordFault::Damaged));
    }
}
