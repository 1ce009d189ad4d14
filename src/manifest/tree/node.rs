//! The tree: scalars, lists and maps, each with the place that it was read from.

use std::borrow::Cow;
use std::ops::Range;

use super::scalar::{Resolved, resolve};

/// A byte range; half the size of `Range<usize>`, since there is one in every node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::manifest) struct Span {
    pub(in crate::manifest) start: u32,
    pub(in crate::manifest) end: u32,
}

impl Span {
    pub(in crate::manifest) fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(in crate::manifest) struct Node<'a> {
    pub(in crate::manifest) span: Span,
    pub(in crate::manifest) value: Value<'a>,
}

/// What a node is.
#[derive(Debug, Clone)]
pub(in crate::manifest) enum Value<'a> {
    Scalar(Scalar<'a>),
    List(Vec<Node<'a>>),
    /// In the order written; keys are unique.
    Map(Vec<Entry<'a>>),
}

/// A scalar as written: `2` and `"2"` stay different.
#[derive(Debug, Clone)]
pub(in crate::manifest) struct Scalar<'a> {
    /// The text after escapes and folding.
    pub(in crate::manifest) text: Cow<'a, str>,
    pub(in crate::manifest) notation: Notation,
}

/// How a scalar's type is to be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::manifest) enum Notation {
    /// Without quotes: the text decides.
    Plain,
    /// Quoted, a block, or tagged `!!str`: a string.
    Text,
}

impl Scalar<'_> {
    /// The type and value that kubectl reads.
    pub(in crate::manifest) fn resolved(&self) -> Resolved {
        match self.notation {
            Notation::Plain => resolve(&self.text),
            Notation::Text => Resolved::Text,
        }
    }
}

/// One key of a map and what it holds.
#[derive(Debug, Clone)]
pub(in crate::manifest) struct Entry<'a> {
    pub(in crate::manifest) key: Cow<'a, str>,
    pub(in crate::manifest) key_span: Span,
    pub(in crate::manifest) key_notation: Notation,
    pub(in crate::manifest) value: Node<'a>,
}

impl<'a> Node<'a> {
    /// A quoted text that is not in the file, at the place that it comes from.
    pub(in crate::manifest) fn text(text: impl Into<Cow<'a, str>>, span: Span) -> Self {
        Self { span, value: Value::Scalar(Scalar { text: text.into(), notation: Notation::Text }) }
    }

    /// A plain scalar that is not in the file, at the place that it comes from.
    pub(in crate::manifest) fn plain(text: impl Into<Cow<'a, str>>, span: Span) -> Self {
        Self { span, value: Value::Scalar(Scalar { text: text.into(), notation: Notation::Plain }) }
    }

    /// A map that is not in the file.
    pub(in crate::manifest) fn map(
        entries: impl IntoIterator<Item = (&'static str, Node<'a>)>,
        span: Span,
    ) -> Self {
        let entry = |(key, value): (&'static str, Node<'a>)| Entry {
            key: key.into(),
            key_span: value.span,
            key_notation: Notation::Text,
            value,
        };
        Self { span, value: Value::Map(entries.into_iter().map(entry).collect()) }
    }

    /// The same node, of a text that is not kept.
    pub(in crate::manifest) fn into_owned(self) -> Node<'static> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        let value = match self.value {
            Value::Scalar(Scalar { text, notation }) => Value::Scalar(Scalar { text: owned(text), notation }),
            Value::List(items) => Value::List(items.into_iter().map(Node::into_owned).collect()),
            Value::Map(entries) => {
                let entry = |entry: Entry<'_>| Entry {
                    key: owned(entry.key),
                    key_span: entry.key_span,
                    key_notation: entry.key_notation,
                    value: entry.value.into_owned(),
                };
                Value::Map(entries.into_iter().map(entry).collect())
            }
        };
        Node { span: self.span, value }
    }

    /// The map's entries; none for anything else.
    pub(in crate::manifest) fn entries(&self) -> &[Entry<'a>] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The list's items; none for anything else.
    pub(in crate::manifest) fn items(&self) -> &[Node<'a>] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// What the map holds under `key`; a null counts as absent, as everywhere in Kubernetes.
    pub(in crate::manifest) fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The entry under `key`, unless it is null.
    pub(in crate::manifest) fn entry(&self, key: &str) -> Option<&Entry<'a>> {
        self.entries().iter().find(|entry| entry.key == key && !entry.value.is_null())
    }

    /// What lies below the keys, one after the other.
    pub(in crate::manifest) fn at(&self, keys: &[&str]) -> Option<&Self> {
        keys.iter().try_fold(self, |node, key| node.get(key))
    }

    /// The scalar's text, whatever its type.
    pub(in crate::manifest) fn scalar(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(scalar) => Some(&scalar.text),
            _ => None,
        }
    }

    /// The text below `key`.
    pub(in crate::manifest) fn str(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Node::scalar)
    }

    pub(in crate::manifest) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(scalar) if scalar.resolved() == Resolved::Null)
    }

    /// Whether it holds nothing: null, `{}` or `[]`.
    pub(in crate::manifest) fn is_empty(&self) -> bool {
        match &self.value {
            Value::Scalar(_) => self.is_null(),
            Value::List(items) => items.is_empty(),
            Value::Map(entries) => entries.is_empty(),
        }
    }

    /// The word for its type in messages.
    pub(in crate::manifest) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Scalar(scalar) => scalar.resolved().kind(),
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}
