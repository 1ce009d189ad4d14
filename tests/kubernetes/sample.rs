//! A deserialiser that has no input: it gives whatever it is asked for, and writes it down as JSON.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::Resource;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value, json};

/// The fields of objects, by the objects' names.
pub(super) type Fields = BTreeMap<&'static str, &'static [&'static str]>;

/// A document of kind `T` with every field that it has, lists and maps with one item each.
pub(super) fn sample<T: Resource + DeserializeOwned>(fields: &mut Fields) -> Value {
    let mut out = Value::Null;
    let source = Source {
        out: &mut out,
        fields,
        identity: [("apiVersion", T::API_VERSION), ("kind", T::KIND)],
        owner: "",
        text: "x",
    };
    if let Err(error) = T::deserialize(source) {
        panic!("{} cannot be sampled: {error}", T::KIND);
    }
    out
}

#[derive(Debug)]
struct Fault(String);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// One value that is asked for.
struct Source<'s> {
    /// Where the value is written down.
    out: &'s mut Value,
    fields: &'s mut Fields,
    /// What a document says of itself.
    identity: [(&'static str, &'static str); 2],
    /// The object that the value is a field of.
    owner: &'static str,
    /// What a text says.
    text: &'static str,
}

impl Source<'_> {
    /// A part of this value.
    fn part<'p>(&'p mut self, out: &'p mut Value) -> Source<'p> {
        Source { out, fields: self.fields, identity: self.identity, owner: self.owner, text: "x" }
    }
}

impl<'de> Deserializer<'de> for Source<'_> {
    type Error = Fault;

    /// Only quantities, integers that may be texts, and values of any form ask so.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        if self.out.is_null() {
            *self.out = json!(1);
        }
        visitor.visit_i64(1)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        *self.out = json!(true);
        visitor.visit_bool(true)
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        *self.out = json!(1.5);
        visitor.visit_f64(1.5)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        *self.out = self.text.into();
        visitor.visit_str(self.text)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Fault> {
        // Bytes in base64 ask for an option and then for a text; `x` alone is not base64.
        if std::any::type_name::<V::Value>().ends_with("ByteString") {
            self.text = "eA==";
        }
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match name {
            "Time" | "MicroTime" => self.text = "2026-01-02T03:04:05.000000Z",
            "FieldsV1" | "RawExtension" => *self.out = json!({}),
            _ => {}
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Fault> {
        let mut item = Value::Null;
        let value = visitor.visit_seq(Once { source: self.part(&mut item), left: true })?;
        *self.out = Value::Array(vec![item]);
        Ok(value)
    }

    fn deserialize_map<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Fault> {
        // Which resources there are is not part of the types.
        let key = match self.owner {
            "ResourceRequirements" => "cpu",
            "VolumeResourceRequirements" => "storage",
            _ => "x",
        };
        let mut item = Value::Null;
        let keys = [key];
        let value = visitor.visit_map(Entries {
            source: self.part(&mut item),
            keys: keys.iter(),
            key,
            object: None,
        })?;
        *self.out = Value::Object(Map::from_iter([(key.to_owned(), item)]));
        Ok(value)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        mut self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.fields.insert(name, fields);
        self.owner = name;
        let mut object = Map::new();
        let mut item = Value::Null;
        let value = visitor.visit_map(Entries {
            source: self.part(&mut item),
            keys: fields.iter(),
            key: "",
            object: Some(&mut object),
        })?;
        *self.out = Value::Object(object);
        Ok(value)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_str(self.text)
    }

    forward_to_deserialize_any! {
        i8 i16 u8 u16 u32 u64 f32 char bytes byte_buf unit unit_struct tuple tuple_struct enum ignored_any
    }
}

/// A list of one item.
struct Once<'s> {
    source: Source<'s>,
    left: bool,
}

impl<'de> SeqAccess<'de> for Once<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        if !std::mem::take(&mut self.left) {
            return Ok(None);
        }
        let mut item = Value::Null;
        let value = seed.deserialize(self.source.part(&mut item));
        *self.source.out = item;
        value.map(Some)
    }
}

/// The fields of an object, or the one entry of a map.
struct Entries<'s, 'k> {
    source: Source<'s>,
    keys: std::slice::Iter<'k, &'static str>,
    /// The key whose value comes next.
    key: &'static str,
    /// Where fields are written down; the entry of a map goes to the source.
    object: Option<&'s mut Map<String, Value>>,
}

impl<'de> MapAccess<'de> for Entries<'_, '_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some(key) = self.keys.next() else { return Ok(None) };
        self.key = key;
        let mut unused = Value::Null;
        let mut source = self.source.part(&mut unused);
        source.text = key;
        seed.deserialize(source).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Fault> {
        let mut item = Value::Null;
        // Whole documents say what they are, also the claims inside of a StatefulSet.
        let [(_, version), (_, kind)] = self.source.identity;
        let said = match (self.source.owner, self.key) {
            (owner, "apiVersion") if owner == kind => version,
            (owner, "kind") if owner == kind => kind,
            ("PersistentVolumeClaim", "apiVersion") => "v1",
            ("PersistentVolumeClaim", "kind") => "PersistentVolumeClaim",
            _ => "x",
        };
        let mut source = self.source.part(&mut item);
        source.text = said;
        let value = seed.deserialize(source);
        match &mut self.object {
            Some(object) => {
                object.insert(self.key.to_owned(), item);
            }
            None => *self.source.out = item,
        }
        value
    }
}
