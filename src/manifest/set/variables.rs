//! Variables that texts name as `$(NAME)`: those that the container does not have stay as they are written.

use std::collections::BTreeMap;

use i2kit_spec::InstanceField;

use super::document::Document;
use super::index::Held;
use super::{Set, finding};
use crate::manifest::check::variable_references;
use crate::manifest::code::Code;
use crate::manifest::tree::{Node, push_index, push_key};
use crate::manifest::words::nearest;

/// Most variables that a hint compares a name with.
const MAX_CANDIDATES: usize = 500;

/// Most characters of a name that a message shows.
const MAX_NAME: usize = 60;

/// The variables of one container.
pub(super) struct Variables<'s> {
    /// Its own, with the place of each in `env`; of several with one name the first.
    own: BTreeMap<&'s str, usize>,
    /// Sources of `envFrom`: prefix, kind and name.
    sources: Vec<(&'s str, &'static str, &'s str)>,
    /// Whether a source is outside the set, so that what is missing is unknown.
    open: bool,
}

/// How a text finds a variable.
enum Sight {
    Seen,
    /// The text is its own value.
    Itself,
    /// It is set further down.
    Below,
    Missing,
}

/// A text of a container that may refer to variables.
pub(super) struct Text<'s, 'a> {
    pub(super) node: &'s Node<'a>,
    pub(super) path: String,
    /// How many of the container's own variables it sees; all when `None`.
    pub(super) sees: Option<usize>,
    /// Whether a variable that is missing keeps the container from starting.
    must: bool,
}

impl<'s> Set<'s, '_> {
    /// Looks at all texts of all containers in which variables are expanded.
    pub(super) fn variables(&mut self) {
        if self.broken {
            return;
        }
        let documents = self.documents;
        for document in documents {
            let Some(spec) = document.template().and_then(|template| template.get("spec")) else { continue };
            for list in ["initContainers", "containers"] {
                for (i, container) in spec.get(list).map_or(&[][..], Node::items).iter().enumerate() {
                    let texts = texts(container, || base(document, list, i, container), document.short);
                    if texts.is_empty() {
                        continue;
                    }
                    let variables = self.variables_of(document, container);
                    for text in &texts {
                        self.text(document, &variables, text);
                    }
                    self.lengths(document, container, &variables, &texts);
                }
            }
        }
    }

    fn variables_of(&self, document: &Document<'_>, container: &'s Node<'_>) -> Variables<'s> {
        let mut variables = Variables { own: BTreeMap::new(), sources: Vec::new(), open: false };
        for (i, variable) in container.get("env").map_or(&[][..], Node::items).iter().enumerate() {
            if let Some(name) = variable.str("name") {
                variables.own.entry(name).or_insert(i);
            }
        }
        if document.indexed() {
            // Behind all that are written.
            variables.own.entry(InstanceField::INDEX_VARIABLE).or_insert(usize::MAX);
        }
        for source in container.get("envFrom").map_or(&[][..], Node::items) {
            let prefix = source.str("prefix").unwrap_or_default();
            for (field, kind) in [("configMapRef", "ConfigMap"), ("secretRef", "Secret")] {
                let Some(name) = source.at(&[field, "name"]).and_then(Node::scalar) else { continue };
                variables.open |= self.index.find(kind, &document.namespace, name).is_none();
                variables.sources.push((prefix, kind, name));
            }
        }
        variables
    }

    fn sight(
        &self,
        document: &Document<'_>,
        variables: &Variables<'_>,
        text: &Text<'_, '_>,
        name: &str,
    ) -> Sight {
        let from_sources = || self.of_sources(document, variables, name).is_some();
        match (variables.own.get(name), text.sees) {
            (Some(_), None) => Sight::Seen,
            (Some(at), Some(sees)) if *at < sees => Sight::Seen,
            _ if variables.open || from_sources() => Sight::Seen,
            (Some(at), Some(sees)) if *at == sees => Sight::Itself,
            (Some(_), Some(_)) => Sight::Below,
            (None, _) => Sight::Missing,
        }
    }

    /// The value that the container's sources of variables have for a name; of several the last.
    pub(super) fn of_sources(
        &self,
        document: &Document<'_>,
        variables: &Variables<'_>,
        name: &str,
    ) -> Option<Held<'s, '_>> {
        variables.sources.iter().rev().find_map(|(prefix, kind, source)| {
            self.index.held(kind, &document.namespace, source, name.strip_prefix(prefix)?)
        })
    }

    fn text(&mut self, document: &Document<'_>, variables: &Variables<'_>, text: &Text<'_, '_>) {
        for name in variable_references(text.node.scalar().unwrap_or_default()) {
            let sight = self.sight(document, variables, text, name);
            let shown = shortened(name);
            let why = match sight {
                Sight::Seen => continue,
                Sight::Itself => "a value does not see itself, nor what the image sets".to_owned(),
                Sight::Below => {
                    format!("`{shown}` is set further down, and a value sees only what is above it")
                }
                // What is no name of a variable by custom is probably meant for a shell: `$(date)`.
                Sight::Missing if !text.must && !is_customary(name) => continue,
                Sight::Missing => format!("the container has no variable `{shown}`"),
            };
            let (code, fate) = if text.must {
                (Code::MissingReference, "cannot be expanded")
            } else {
                (Code::UnknownVariable, "stays as it is written")
            };
            let message = format!("`$({shown})` {fate}: {why}");
            let mut found = finding(code, document, &text.path, text.node.span, message);
            if !self.findings.is_full(document.file) {
                found.help(self.hint(document, variables, &sight, name));
            }
            self.findings.push(found);
        }
    }

    fn hint(&self, document: &Document<'_>, variables: &Variables<'_>, sight: &Sight, name: &str) -> String {
        match sight {
            Sight::Itself => return "write the whole value".to_owned(),
            Sight::Below => return format!("move `{}` up", shortened(name)),
            Sight::Seen | Sight::Missing => {}
        }
        let mut known: Vec<String> =
            variables.own.keys().take(MAX_CANDIDATES).map(ToString::to_string).collect();
        for (prefix, kind, source) in &variables.sources {
            let held = self.index.find(kind, &document.namespace, source);
            let keys = ["data", "stringData"].iter().filter_map(|field| held?.root.get(field));
            let keys = keys.flat_map(Node::entries).take(MAX_CANDIDATES);
            known.extend(keys.map(|entry| format!("{prefix}{}", entry.key)));
        }
        known.sort_unstable();
        if let Some(near) = nearest(name, known.iter().map(String::as_str)) {
            return format!("did you mean `$({near})`?");
        }
        if name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT") {
            return "no variables are made of Services: write the name and the port of the Service"
                .to_owned();
        }
        let list = if document.short { "environment" } else { "env" };
        format!("set it in `{list}`, or write `$$({})` if the text is meant", shortened(name))
    }
}

/// The texts of a container in which variables are expanded and that refer to some. Most refer to none, so that paths
/// are made only for those that do.
fn texts<'s, 'a>(container: &'s Node<'a>, base: impl Fn() -> String, short: bool) -> Vec<Text<'s, 'a>> {
    let item = |list: &str, i: usize, field: &str| {
        let mut path = base();
        push_key(&mut path, list);
        push_index(&mut path, i);
        path + field
    };
    let items = |list: &str| container.get(list).map_or(&[][..], Node::items).iter().enumerate();
    let refers = |node: &Node<'_>| node.scalar().is_some_and(|text| text.contains("$("));
    let mut texts = Vec::new();
    for (i, variable) in items("env") {
        if let Some(node) = variable.get("value").filter(|node| refers(node)) {
            let path = if short { item("environment", i, "") } else { item("env", i, ".value") };
            texts.push(Text { node, path, sees: Some(i), must: false });
        }
    }
    for list in ["command", "args"] {
        for (i, node) in items(list).filter(|(_, node)| refers(node)) {
            texts.push(Text { node, path: item(list, i, ""), sees: None, must: false });
        }
    }
    for (i, mount) in items("volumeMounts") {
        if let Some(node) = mount.get("subPathExpr").filter(|node| refers(node)) {
            let path = item("volumeMounts", i, ".subPathExpr");
            texts.push(Text { node, path, sees: None, must: true });
        }
    }
    texts
}

/// The path of a container.
fn base(document: &Document<'_>, list: &str, index: usize, container: &Node<'_>) -> String {
    if document.short {
        let mut path = "containers".to_owned();
        push_key(&mut path, container.str("name").unwrap_or_default());
        return path;
    }
    let pod = match document.kind.name {
        "Pod" => "spec",
        "CronJob" => "spec.jobTemplate.spec.template.spec",
        _ => "spec.template.spec",
    };
    let mut path = pod.to_owned();
    push_key(&mut path, list);
    push_index(&mut path, index);
    path
}

/// A name as messages show it: one as long as the file would make a report of gigabytes.
fn shortened(name: &str) -> String {
    let short: String = name.chars().take(MAX_NAME).collect();
    if short.len() < name.len() { short + "…" } else { short }
}

/// Whether variables are named so: with capitals, digits and `_`.
fn is_customary(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
        && name.bytes().any(|b| b.is_ascii_uppercase())
}
