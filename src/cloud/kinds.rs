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
            fields.insert(key, value);
        }
        let name = fields.remove("type").ok_or_else(|| A::Error::missing_field("type"))?;
        let name = name.as_str().unwrap_or_default();
        let kind = KINDS.iter().find(|kind| kind.support.provider == name).ok_or_else(|| {
            let known: Vec<String> = supports().iter().map(|known| format!("`{}`", known.provider)).collect();
            A::Error::custom(format!("unknown variant `{name}`, expected one of {}", known.join(", ")))
        })?;
        (kind.read)(fields).map_err(A::Error::custom)
    }
}
