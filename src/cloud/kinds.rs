//! The table of clouds: one line each. Everything else of a cloud is in its folder.

use std::fmt;
use std::sync::{Arc, LazyLock};

use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::provider::{Kind, Provider};
use super::{aws, local};
use crate::manifest::support::{Clouds, Support};

/// The clouds, the default one first.
const KINDS: &[Kind] = &[local::KIND, aws::KIND];

static SUPPORTS: LazyLock<Vec<&'static Support>> =
    LazyLock::new(|| KINDS.iter().map(|kind| kind.support).collect());

/// What all clouds support, in the order of the table.
pub fn supports() -> &'static [&'static Support] {
    &SUPPORTS
}

/// The names, in environment files, of the clouds beside this one.
pub fn others(support: &Support) -> Vec<&'static str> {
    let names = supports().iter().map(|known| known.provider);
    names.filter(|name| *name != support.provider).collect()
}

/// All clouds, for manifests that are to be deployed to `target`.
pub fn clouds(target: &'static Support) -> Clouds {
    Clouds { all: supports(), target }
}

/// The cloud of environments without a file.
pub fn default() -> Arc<dyn Provider> {
    (KINDS[0].read)(Map::new()).expect("the default cloud needs no settings")
}

/// Reads `provider` of an environment file: `type` names the cloud, the other fields are its settings.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<dyn Provider>, D::Error> {
    deserializer.deserialize_map(Fields)
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Arc<dyn Provider>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map with `type`")
    }

    // Errors that leave from here carry the place of `provider` in the file.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Map::new();
        while let Some((key, value)) = map.next_entry::<String, Value>()? {
            if fields.contains_key(&key) {
                return Err(A::Error::custom(format!("duplicate field `{key}`")));
            }
            fields.insert(key, value);
        }
        let name = fields.remove("type").ok_or_else(|| A::Error::missing_field("type"))?;
        let kind = KINDS.iter().find(|kind| name == kind.support.provider).ok_or_else(|| {
            let known: Vec<String> = supports().iter().map(|known| format!("`{}`", known.provider)).collect();
            let found = name.as_str().map_or_else(|| name.to_string(), str::to_owned);
            A::Error::custom(format!("unknown variant `{found}`, expected one of {}", known.join(", ")))
        })?;
        (kind.read)(fields).map_err(A::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_clouds_are_all_but_this_one() {
        assert_eq!(others(aws::KIND.support), ["local"]);
        assert_eq!(others(local::KIND.support), ["aws"]);
    }

    #[test]
    fn a_type_that_is_no_cloud_is_named_and_a_field_stands_once() {
        let error =
            |text: &str| deserialize(serde_yaml::Deserializer::from_str(text)).unwrap_err().to_string();
        let known = "expected one of `local`, `aws`";
        assert!(error("type: 5").contains(&format!("unknown variant `5`, {known}")), "{}", error("type: 5"));
        assert!(error("type: [local]").contains(r#"unknown variant `["local"]`"#));
        assert!(error("type: cluster").contains(&format!("unknown variant `cluster`, {known}")));
        assert!(error("region: here").contains("missing field `type`"));
        for (text, field) in
            [("type: aws\ntype: local", "type"), ("type: aws\nregion: a\nregion: b", "region")]
        {
            assert!(error(text).contains(&format!("duplicate field `{field}`")), "{}", error(text));
        }
        assert!(deserialize(serde_yaml::Deserializer::from_str("type: local")).is_ok());
    }
}
