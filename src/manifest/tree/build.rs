//! Parser events in, trees out. Whatever the text is, time and memory stay bounded: nodes are counted, aliases are
//! expanded from a budget of their own, nesting has a limit.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, Tag};

use super::fault::{Fault, fault};
use super::limits::{MAX_DEPTH, MAX_FAULTS, narrow, options};
use super::node::{Entry, Node, Notation, Scalar, Span, Value};
use super::{indent, stream, syntax};
use crate::manifest::code::Code;

/// Most nodes of one file; a million of them take about 100 MB, and no manifest of use comes near.
const MAX_NODES: usize = 1_000_000;

/// Most nodes that aliases of one file may stand for: ten times what the largest honest use seen needs, and spent in
/// milliseconds by a bomb.
const MAX_ALIASED: usize = 100_000;

/// Bytes of text that count as one more node when aliases stand for it.
const BYTES_PER_NODE: usize = 64;

/// Maps longer than this look keys up in a table to find repeated ones.
const SMALL_MAP: usize = 16;

/// All documents of a file.
#[derive(Debug, Default)]
pub(in crate::manifest) struct Parsed<'a> {
    /// The roots of the documents that could be read and are not empty.
    pub(in crate::manifest) documents: Vec<Node<'a>>,
    /// What is wrong with the text.
    pub(in crate::manifest) faults: Vec<Fault>,
    /// Whether a document could not be read to its end, so that what is missing is unknown.
    pub(in crate::manifest) broken: bool,
}

/// Reads all documents of `text`. A document that cannot be read costs only itself. `skipped` bytes of the file lie
/// before the text.
pub(in crate::manifest) fn parse(text: &str, skipped: usize) -> Parsed<'_> {
    let mut builder = Builder::default();
    let Some(values) = stream::values(text) else {
        builder.read(text, &|offset| offset + skipped);
        return builder.parsed;
    };
    for value in values {
        let before = skipped + value.start;
        builder.read(&text[value], &|offset| offset + before);
    }
    builder.parsed
}

#[derive(Default)]
struct Builder<'a> {
    parsed: Parsed<'a>,
    stack: Vec<Frame<'a>>,
    anchors: HashMap<usize, Anchored<'a>>,
    nodes: usize,
    aliased: usize,
}

/// A node that aliases may refer to.
struct Anchored<'a> {
    node: Node<'a>,
    size: usize,
    depth: usize,
}

/// A list or map whose end has not come yet.
struct Frame<'a> {
    start: Span,
    anchor: usize,
    open: Open<'a>,
}

enum Open<'a> {
    List(Vec<Node<'a>>),
    Map {
        entries: Vec<Entry<'a>>,
        keys: HashMap<Cow<'a, str>, Span>,
        key: Option<Key<'a>>,
        merges: Vec<Node<'a>>,
    },
}

/// A key whose value has not come yet.
struct Key<'a> {
    text: Cow<'a, str>,
    span: Span,
    notation: Notation,
    /// A second one of its name: its value is read and dropped.
    repeated: bool,
}

impl<'a> Builder<'a> {
    /// Reads all documents of `text`; `place` gives the offset in the file of an offset in the text.
    fn read(&mut self, text: &'a str, place: &dyn Fn(usize) -> usize) {
        let (documents, faults) = (self.parsed.documents.len(), self.parsed.faults.len());
        let (broken, nodes, aliased) = (self.parsed.broken, self.nodes, self.aliased);
        let mut parser = Parser::new_from_str_with_options(text, options());
        let mut is_template = None;
        let mut may_be_narrow = true;
        while let Some(next) = parser.next_event() {
            let stopped = match next {
                Ok((event, span)) => {
                    let range = span.byte_range().unwrap_or_default();
                    let span = Span { start: narrow(place(range.start)), end: narrow(place(range.end)) };
                    self.event(event, span).err()
                }
                Err(error) => {
                    let is_indent = matches!(error.kind(), ErrorKind::InvalidQuotedScalarIndent);
                    if is_indent
                        && std::mem::take(&mut may_be_narrow)
                        && let Some(wide) = indent::widened(text)
                    {
                        self.abandon();
                        self.parsed.documents.truncate(documents);
                        self.parsed.faults.truncate(faults);
                        let mut again = Builder { nodes, aliased, ..Builder::default() };
                        again.read(&wide.text, &|offset| place(wide.original(offset)));
                        self.nodes = again.nodes;
                        self.aliased = again.aliased;
                        self.parsed.broken = broken | again.parsed.broken;
                        self.parsed.faults.extend(again.parsed.faults);
                        for document in again.parsed.documents {
                            self.parsed.documents.push(document.into_owned());
                        }
                        return;
                    }
                    let is_template = *is_template.get_or_insert_with(|| syntax::looks_like_template(text));
                    Some(syntax::fault_of(text, place, &error, is_template))
                }
            };
            if let Some(fault) = stopped {
                self.parsed.faults.push(fault);
                self.parsed.broken = true;
                self.abandon();
                let enough = self.nodes >= MAX_NODES || self.parsed.faults.len() >= MAX_FAULTS;
                if enough || !parser.proceed_next_document().unwrap_or(false) {
                    break;
                }
            }
        }
    }

    fn event(&mut self, event: Event<'a>, span: Span) -> Result<(), Fault> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let notation = match style {
                    ScalarStyle::Plain => Notation::Plain,
                    _ => Notation::Text,
                };
                let notation = tagged(notation, tag.as_deref(), span)?;
                let node = Node { span, value: Value::Scalar(Scalar { text, notation }) };
                self.finish(node, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                collection(tag.as_deref(), "seq", span)?;
                self.open(Frame { start: span, anchor, open: Open::List(Vec::new()) })
            }
            Event::MappingStart(_, anchor, tag) => {
                collection(tag.as_deref(), "map", span)?;
                let open =
                    Open::Map { entries: Vec::new(), keys: HashMap::new(), key: None, merges: Vec::new() };
                self.open(Frame { start: span, anchor, open })
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Alias(id) => self.alias(id, span),
            Event::DocumentEnd => {
                self.abandon();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Forgets what belongs to the current document.
    fn abandon(&mut self) {
        self.stack.clear();
        self.anchors.clear();
    }

    fn open(&mut self, frame: Frame<'a>) -> Result<(), Fault> {
        if self.stack.len() >= MAX_DEPTH {
            return Err(too_deep(frame.start));
        }
        self.stack.push(frame);
        Ok(())
    }

    fn close(&mut self, end: Span) -> Result<(), Fault> {
        let Some(frame) = self.stack.pop() else { return Ok(()) };
        let span = Span { start: frame.start.start, end: end.end.max(frame.start.end) };
        let value = match frame.open {
            Open::List(items) => Value::List(items),
            Open::Map { mut entries, merges, .. } => {
                merge_into(&mut entries, merges)?;
                Value::Map(entries)
            }
        };
        self.finish(Node { span, value }, frame.anchor)
    }

    /// Puts a whole node where it belongs.
    fn finish(&mut self, node: Node<'a>, anchor: usize) -> Result<(), Fault> {
        self.nodes += 1;
        if self.nodes >= MAX_NODES {
            let message = format!("more than {MAX_NODES} values in one file");
            return Err(fault(Code::TooLarge, node.span, message));
        }
        if anchor != 0 {
            let (size, depth) = measure(&node);
            self.spend(size, node.span)?;
            self.anchors.insert(anchor, Anchored { node: node.clone(), size, depth });
        }
        self.place(node)
    }

    fn spend(&mut self, nodes: usize, span: Span) -> Result<(), Fault> {
        self.aliased += nodes;
        if self.aliased <= MAX_ALIASED {
            return Ok(());
        }
        let message =
            format!("alias expansion limit exceeded: the aliases stand for more than {MAX_ALIASED} values");
        Err(fault(Code::AliasLimit, span, message))
    }

    fn alias(&mut self, id: usize, span: Span) -> Result<(), Fault> {
        let Some((size, depth)) = self.anchors.get(&id).map(|anchored| (anchored.size, anchored.depth))
        else {
            return Err(fault(Code::Syntax, span, "an alias inside the very value that it stands for"));
        };
        self.spend(size, span)?;
        if self.stack.len() + depth > MAX_DEPTH {
            return Err(too_deep(span));
        }
        let mut node = self.anchors[&id].node.clone();
        node.span = span;
        self.nodes += size;
        self.finish(node, 0)
    }

    fn place(&mut self, node: Node<'a>) -> Result<(), Fault> {
        match self.stack.last_mut().map(|frame| &mut frame.open) {
            None => {
                if !node.is_null() {
                    self.parsed.documents.push(node);
                }
                Ok(())
            }
            Some(Open::List(items)) => {
                items.push(node);
                Ok(())
            }
            Some(Open::Map { key: key @ None, entries, keys, .. }) => {
                let (next, first) = new_key(node, entries, keys)?;
                *key = Some(next);
                if let Some(first) = first {
                    self.repeated(first);
                }
                Ok(())
            }
            Some(Open::Map { key, entries, merges, .. }) => {
                if let Some(Key { text, span, notation, repeated }) = key.take() {
                    if text == "<<" && notation == Notation::Plain {
                        merges.push(node);
                    } else if !repeated {
                        entries.push(Entry {
                            key: text,
                            key_span: span,
                            key_notation: notation,
                            value: node,
                        });
                    }
                }
                Ok(())
            }
        }
    }

    fn repeated(&mut self, first: Span) {
        if self.parsed.faults.len() > MAX_FAULTS {
            return;
        }
        let path = self.path();
        let Some(Frame { open: Open::Map { key: Some(key), .. }, .. }) = self.stack.last() else { return };
        let message = format!("key `{}` is given twice", key.text);
        let mut fault = fault(Code::DuplicateKey, key.span, message);
        fault.path = path;
        fault.related = Some((first, "first given here".into()));
        fault.help = Some("keep one of them; kubectl would keep the last without a word".into());
        self.parsed.faults.push(fault);
    }

    /// The path of the innermost open key.
    fn path(&self) -> String {
        let mut path = String::new();
        for frame in &self.stack {
            match &frame.open {
                Open::List(items) => push_index(&mut path, items.len()),
                Open::Map { key, .. } => push_key(&mut path, key.as_ref().map_or("", |key| &key.text)),
            }
        }
        path
    }
}

fn too_deep(span: Span) -> Fault {
    fault(Code::NestingLimit, span, format!("nested deeper than {MAX_DEPTH} levels"))
}

/// `<<`: adds the entries of maps, or of each map of lists, that are not there yet.
fn merge_into<'a>(entries: &mut Vec<Entry<'a>>, sources: Vec<Node<'a>>) -> Result<(), Fault> {
    if sources.is_empty() {
        return Ok(());
    }
    let maps = sources.into_iter().flat_map(|source| {
        let span = source.span;
        match source.value {
            Value::List(items) => items,
            value => vec![Node { span, value }],
        }
    });
    let mut known: HashSet<Cow<'a, str>> = entries.iter().map(|entry| entry.key.clone()).collect();
    for map in maps {
        let Value::Map(merged) = map.value else {
            return Err(fault(Code::Syntax, map.span, "`<<` merges maps only"));
        };
        for entry in merged {
            if known.insert(entry.key.clone()) {
                entries.push(entry);
            }
        }
    }
    Ok(())
}
/// Turns a node into a key; with the place of the first key of the same name, if there is one.
fn new_key<'a>(
    node: Node<'a>,
    entries: &[Entry<'a>],
    keys: &mut HashMap<Cow<'a, str>, Span>,
) -> Result<(Key<'a>, Option<Span>), Fault> {
    let span = node.span;
    let Value::Scalar(Scalar { text, notation }) = node.value else {
        return Err(fault(Code::Syntax, span, format!("a key must be a string, got {}", node.kind())));
    };
    if text == "<<" && notation == Notation::Plain {
        return Ok((Key { text, span, notation, repeated: false }, None));
    }
    if entries.len() == SMALL_MAP && keys.is_empty() {
        keys.extend(entries.iter().map(|entry| (entry.key.clone(), entry.key_span)));
    }
    let first = if entries.len() < SMALL_MAP {
        entries.iter().find(|entry| entry.key == text).map(|entry| entry.key_span)
    } else if let Some(first) = keys.get(&text) {
        Some(*first)
    } else {
        keys.insert(text.clone(), span);
        None
    };
    Ok((Key { text, span, notation, repeated: first.is_some() }, first))
}

/// What a tag makes of a scalar's notation.
fn tagged(notation: Notation, tag: Option<&Tag>, span: Span) -> Result<Notation, Fault> {
    let Some(tag) = tag else { return Ok(notation) };
    match tag.core_suffix() {
        Some("str" | "binary" | "timestamp") => Ok(Notation::Text),
        Some("int" | "float" | "bool" | "null") => Ok(Notation::Plain),
        // `! text` is the non-specific tag: a string.
        None if tag.original() == "!" => Ok(Notation::Text),
        _ => Err(unknown_tag(tag, span)),
    }
}

fn collection(tag: Option<&Tag>, suffix: &str, span: Span) -> Result<(), Fault> {
    match tag {
        Some(tag) if tag.core_suffix() != Some(suffix) && tag.original() != "!" => {
            Err(unknown_tag(tag, span))
        }
        _ => Ok(()),
    }
}

fn unknown_tag(tag: &Tag, span: Span) -> Fault {
    let mut fault =
        fault(Code::Syntax, span, format!("tag `{}` has no meaning in a manifest", tag.original()));
    fault.help = Some("remove the tag".into());
    fault
}

/// Adds `.key` to a path, or `["key"]` where the key has characters of its own.
pub(in crate::manifest) fn push_key(path: &mut String, key: &str) {
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if plain {
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(key);
    } else {
        // Writing to a String cannot fail.
        let _ = write!(path, "[{key:?}]");
    }
}

/// Adds `[index]` to a path.
pub(in crate::manifest) fn push_index(path: &mut String, index: usize) {
    let _ = write!(path, "[{index}]");
}

/// Number of nodes, long texts counting for several, and levels of nesting.
fn measure(node: &Node<'_>) -> (usize, usize) {
    let below = |children: &mut dyn Iterator<Item = &Node<'_>>| {
        children.map(measure).fold((1, 0), |(size, depth), (s, d)| (size + s, depth.max(d)))
    };
    let (size, depth) = match &node.value {
        Value::Scalar(scalar) => return (1 + scalar.text.len() / BYTES_PER_NODE, 0),
        Value::List(items) => below(&mut items.iter()),
        Value::Map(entries) => below(&mut entries.iter().map(|entry| &entry.value)),
    };
    (size, depth + 1)
}
