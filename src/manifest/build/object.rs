//! Reading fields by name. Defaults come from the tables, so that no default is written twice.

use std::collections::BTreeMap;
use std::fmt;

use i2kit_spec::{Bytes, Seconds};

use crate::manifest::check::bytes;
use crate::manifest::language::{Field, Table, Type};
use crate::manifest::tree::{Node, Notation, Resolved, Scalar, Value, resolve};

/// An object, or one that is absent and consists of defaults.
#[derive(Debug, Clone, Copy)]
pub(super) struct Object<'n> {
    node: Option<&'n Node<'n>>,
    table: &'static Table,
}

/// A field that is not there, or not what it must be.
#[derive(Debug)]
pub(super) struct Missing {
    table: &'static str,
    field: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "field `{}` of {}", self.field, self.table)
    }
}

/// The outcome of reading a field.
pub(super) type Read<T> = Result<T, Missing>;

impl<'n> Object<'n> {
    pub(super) fn new(node: &'n Node<'n>, table: &'static Table) -> Self {
        Self { node: Some(node), table }
    }

    /// The fault that `field` is not what it must be.
    pub(super) fn missing(&self, field: &str) -> Missing {
        Missing { table: self.table.name, field: field.to_owned() }
    }

    fn row(&self, field: &str) -> Read<&'static Field> {
        self.table.field(field).ok_or_else(|| self.missing(field))
    }

    fn node(&self, field: &str) -> Option<&'n Node<'n>> {
        self.node.and_then(|node| node.get(field))
    }

    /// Whether the field is given.
    pub(super) fn has(&self, field: &str) -> bool {
        self.node(field).is_some()
    }

    /// Whether objects of this kind have the field.
    pub(super) fn knows(&self, field: &str) -> bool {
        self.table.field(field).is_some()
    }

    /// The scalar, or its default.
    fn scalar(&self, field: &str) -> Read<Option<(&'n str, Resolved)>> {
        let row = self.row(field)?;
        match self.node(field).map(|node| &node.value) {
            Some(Value::Scalar(scalar)) => Ok(Some((scalar.text.as_ref(), scalar.resolved()))),
            Some(_) => Err(self.missing(field)),
            None => Ok(row.default.map(|text| (text, resolve(text)))),
        }
    }

    /// Text that may be absent.
    pub(super) fn text_if(&self, field: &str) -> Read<Option<String>> {
        Ok(self.scalar(field)?.map(|(text, _)| text.to_owned()))
    }

    /// Text that is required or has a default.
    pub(super) fn text(&self, field: &str) -> Read<String> {
        self.text_if(field)?.ok_or_else(|| self.missing(field))
    }

    /// A number that may be absent.
    pub(super) fn number_if<T: TryFrom<i128>>(&self, field: &str) -> Read<Option<T>> {
        match self.scalar(field)? {
            None => Ok(None),
            Some((_, Resolved::Int(value))) => T::try_from(value).map(Some).map_err(|_| self.missing(field)),
            Some(_) => Err(self.missing(field)),
        }
    }

    /// A number that is required or has a default.
    pub(super) fn number<T: TryFrom<i128>>(&self, field: &str) -> Read<T> {
        self.number_if(field)?.ok_or_else(|| self.missing(field))
    }

    /// A span of time that may be absent.
    pub(super) fn seconds_if(&self, field: &str) -> Read<Option<Seconds>> {
        Ok(self.number_if(field)?.map(Seconds))
    }

    /// A span of time that is required or has a default.
    pub(super) fn seconds(&self, field: &str) -> Read<Seconds> {
        self.number(field).map(Seconds)
    }

    /// A size that may be absent.
    pub(super) fn size_if(&self, field: &str) -> Read<Option<Bytes>> {
        self.value_if(field, |text, _| bytes(text).ok().map(|(size, _)| Bytes(size)))
    }

    /// A truth value that may be absent.
    pub(super) fn flag_if(&self, field: &str) -> Read<Option<bool>> {
        self.value_if(field, |_, resolved| match resolved {
            Resolved::Bool(value) => Some(value),
            _ => None,
        })
    }

    /// A truth value that has a default.
    pub(super) fn flag(&self, field: &str) -> Read<bool> {
        self.flag_if(field)?.ok_or_else(|| self.missing(field))
    }

    /// A list of numbers; an absent one is empty.
    pub(super) fn numbers<T: TryFrom<i128>>(&self, field: &str) -> Read<Vec<T>> {
        self.row(field)?;
        let number = |item: &Node<'_>| match &item.value {
            Value::Scalar(scalar) => match scalar.resolved() {
                Resolved::Int(value) => T::try_from(value).ok(),
                _ => None,
            },
            _ => None,
        };
        let items = self.node(field).map_or(&[][..], Node::items);
        items.iter().map(number).collect::<Option<_>>().ok_or_else(|| self.missing(field))
    }

    /// A value that `convert` makes of the scalar or of its default.
    pub(super) fn value_if<T>(
        &self,
        field: &str,
        convert: impl FnOnce(&str, Resolved) -> Option<T>,
    ) -> Read<Option<T>> {
        match self.scalar(field)? {
            None => Ok(None),
            Some((text, resolved)) => convert(text, resolved).map(Some).ok_or_else(|| self.missing(field)),
        }
    }

    /// The same for a field that is required or has a default.
    pub(super) fn value<T>(&self, field: &str, convert: impl FnOnce(&str, Resolved) -> Option<T>) -> Read<T> {
        self.value_if(field, convert)?.ok_or_else(|| self.missing(field))
    }

    /// An object; an absent one consists of defaults.
    pub(super) fn object(&self, field: &str) -> Read<Self> {
        let Type::Object(table) = self.row(field)?.ty else { return Err(self.missing(field)) };
        Ok(Self { node: self.node(field), table })
    }

    /// The objects of a list.
    pub(super) fn objects(&self, field: &str) -> Read<Vec<Self>> {
        let table = match self.row(field)?.ty {
            Type::List(Type::Object(table)) | Type::Filled(Type::Object(table)) => *table,
            Type::Keyed(table, _) => table,
            _ => return Err(self.missing(field)),
        };
        let items = self.node(field).map_or(&[][..], Node::items);
        Ok(items.iter().map(|item| Self { node: Some(item), table }).collect())
    }

    /// A list of texts that may be absent.
    pub(super) fn texts_if(&self, field: &str) -> Read<Option<Vec<String>>> {
        self.row(field)?;
        let Some(node) = self.node(field) else { return Ok(None) };
        let texts: Option<Vec<String>> =
            node.items().iter().map(|item| item.scalar().map(str::to_owned)).collect();
        texts.map(Some).ok_or_else(|| self.missing(field))
    }

    /// A map of texts; a null is an empty text.
    pub(super) fn map(&self, field: &str) -> Read<BTreeMap<String, String>> {
        self.row(field)?;
        let Some(node) = self.node(field) else { return Ok(BTreeMap::new()) };
        node.entries()
            .iter()
            .map(|entry| {
                let text = match &entry.value.value {
                    Value::Scalar(Scalar { text, notation: Notation::Plain })
                        if resolve(text) == Resolved::Null =>
                    {
                        ""
                    }
                    Value::Scalar(scalar) => &scalar.text,
                    _ => return Err(self.missing(field)),
                };
                Ok((entry.key.to_string(), text.to_owned()))
            })
            .collect()
    }
}
