//! Names of types: one that several rooms may name means one thing.

use std::collections::BTreeMap;

use crate::source::sources;

/// Names that two rooms have all the same, with the reason.
const SHARED: &[(&str, &str)] = &[("Error", "each room's errors, named with the room: `registry::Error`")];

/// What declares a type that others than its own module may name.
const DECLARES: &[&str] = &["struct ", "enum ", "trait ", "type ", "union "];

/// The name of the type that a line declares for all of its crate or for others.
fn declared(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("pub(crate) ").or_else(|| line.strip_prefix("pub "))?;
    let rest = DECLARES.iter().find_map(|word| rest.strip_prefix(word))?;
    rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().filter(|name| !name.is_empty())
}

#[test]
fn no_two_rooms_have_a_type_of_one_name() {
    assert_eq!(declared("pub(crate) struct Digest([u8; 32]);"), Some("Digest"));
    assert_eq!(declared("pub enum Act {"), Some("Act"));
    assert_eq!(declared("pub(super) struct Inner {"), None);
    let mut rooms: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
    for source in sources(&["src", "linuxkit/spec/src"]) {
        let room = source.room().unwrap_or("linuxkit/spec");
        for name in source.code.lines().filter_map(declared) {
            rooms.entry(name).or_default().insert(room, &source.path);
        }
    }
    assert!(rooms.len() > 300, "only {} types", rooms.len());
    let shared: Vec<String> = rooms
        .into_iter()
        .filter(|(name, places)| places.len() > 1 && !SHARED.iter().any(|(shared, _)| shared == name))
        .map(|(name, places)| format!("{name}: {}", places.into_values().collect::<Vec<_>>().join(", ")))
        .collect();
    assert!(shared.is_empty(), "rename one of each, or make it private:\n{}", shared.join("\n"));
}
