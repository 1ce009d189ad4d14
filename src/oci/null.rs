//! `null` in documents of strangers. Tools that write every field write the empty ones as `null`, and the types of Go,
//! in which most tools are written, read `null` as empty: a field that is null is absent.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// A value whose `null` is its empty one.
pub(super) fn is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// A list of texts, in which a `null` is an empty one.
pub(super) fn in_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let texts: Vec<Option<String>> = is_empty(deserializer)?;
    Ok(texts.into_iter().map(Option::unwrap_or_default).collect())
}

/// Texts by name, in which a `null` is an empty one.
pub(super) fn in_map<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    let texts: BTreeMap<String, Option<String>> = is_empty(deserializer)?;
    Ok(texts.into_iter().map(|(name, text)| (name, text.unwrap_or_default())).collect())
}
