//! The objects of all files against each other.

mod document;
mod index;
mod lengths;
mod replicated;
mod replicated_pod;
mod services;
mod targets;
mod variables;

use std::collections::BTreeMap;

use super::check::{Findings, Reference};
use super::code::Code;
use super::diagnostic::{Diagnostic, Place};
use super::language::Target;
use super::support::{Answer, NAMED_CLASS};
use super::tree::{Node, Span, push_key};
use super::words::{list, nearest};
use super::{Options, OutsideSecret};

pub(super) use document::Document;
use document::template;
pub(super) use index::Index;

/// Most keys of a ConfigMap or Secret that a message names.
const MAX_KEYS: usize = 5;

/// An object that is in the files and is not read: its kind is refused, or its version is none. That is reported of the
/// object itself, so nothing that refers to it is reported too.
#[derive(Debug)]
pub(super) struct Unread<'a> {
    pub(super) root: Node<'a>,
    pub(super) namespace: String,
}

impl Unread<'_> {
    fn is(&self, kind: &str, namespace: &str, name: &str) -> bool {
        let own = self.root.at(&["metadata", "name"]).and_then(Node::scalar);
        self.root.str("kind") == Some(kind) && self.namespace == namespace && own == Some(name)
    }

    fn template(&self) -> Option<&Node<'_>> {
        self.root.str("kind").and_then(|kind| template(kind, &self.root))
    }
}

/// What is in the files.
#[derive(Debug)]
pub(super) struct Given<'s, 'a> {
    pub(super) documents: &'s [Document<'a>],
    pub(super) unread: &'s [Unread<'a>],
    /// Whether a document could not be read, so that what is missing is unknown.
    pub(super) broken: bool,
}

/// All that the checks of the set need.
#[derive(Debug)]
pub(super) struct Set<'s, 'a> {
    pub(super) documents: &'s [Document<'a>],
    pub(super) unread: &'s [Unread<'a>],
    pub(super) index: &'s Index<'s, 'a>,
    pub(super) options: &'s Options,
    /// Whether a document could not be read, so that what is missing is unknown.
    pub(super) broken: bool,
    pub(super) findings: &'s mut Findings,
}

/// A finding about `document`.
fn finding(code: Code, document: &Document<'_>, path: &str, span: Span, message: String) -> Diagnostic {
    let mut full = document.prefix.clone();
    if !full.is_empty() && !path.is_empty() {
        full.push('.');
    }
    full.push_str(path);
    Diagnostic {
        severity: code.severity(),
        code,
        place: document.place(span),
        object: document.title(),
        path: full,
        message,
        help: None,
        related: Vec::new(),
    }
}
/// Checks names, references, selectors and ports.
pub(super) fn check(
    given: &Given<'_, '_>,
    references: &[Reference],
    options: &Options,
    findings: &mut Findings,
) {
    let Given { documents, unread, broken } = *given;
    let index = Index::new(documents);
    let mut set = Set { documents, unread, index: &index, options, broken, findings };
    set.unique_names();
    set.references(references);
    set.storage_classes(references);
    set.shared_claims(references);
    set.services();
    set.targets();
    set.replicated();
    set.variables();
    set.sizes();
}

impl<'s> Set<'s, '_> {
    /// Whether the object is in the files all the same.
    fn is_unread(&self, kind: &str, namespace: &str, name: &str) -> bool {
        self.unread.iter().any(|unread| unread.is(kind, namespace, name))
    }

    /// Whether `selects` is true of a pod template that is in the files all the same.
    fn selects_unread(&self, namespace: &str, selects: impl Fn(&Node<'_>) -> bool) -> bool {
        let of_namespace = self.unread.iter().filter(|unread| unread.namespace == namespace);
        of_namespace.filter_map(Unread::template).any(selects)
    }

    fn unique_names(&mut self) {
        let documents = self.documents;
        let mut seen: BTreeMap<(&str, &str, &str), &Document<'_>> = BTreeMap::new();
        let mut groups: BTreeMap<(&str, &str), &Document<'_>> = BTreeMap::new();
        for document in documents.iter().filter(|document| !document.name.is_empty()) {
            let key = (document.kind.name, document.namespace.as_str(), document.name.as_str());
            if let Some(first) = seen.insert(key, document) {
                let message = format!("{} is defined twice", document.title());
                let mut found =
                    finding(Code::DuplicateObject, document, "metadata.name", identity(document), message);
                found
                    .also(first.place(first.root.span), "first defined here")
                    .help("rename or remove one of them");
                self.findings.push(found);
            }
            let becomes_group =
                matches!(document.kind.name, "Deployment" | "ReplicaSet" | "Pod" | "StatefulSet");
            let group = (document.namespace.as_str(), document.name.as_str());
            match becomes_group.then(|| groups.insert(group, document)).flatten() {
                Some(first) if first.kind.name != document.kind.name => {
                    let message =
                        format!("{} and {} would be one group of machines", first.title(), document.title());
                    let mut found = finding(
                        Code::DuplicateObject,
                        document,
                        "metadata.name",
                        identity(document),
                        message,
                    );
                    found.also(first.place(first.root.span), "the other one").help("rename one of them");
                    self.findings.push(found);
                }
                _ => {}
            }
        }
    }

    /// Notes pods without requests and limits, in a set without errors.
    fn sizes(&mut self) {
        let says = |container: &Node<'_>| {
            ["requests", "limits"].iter().any(|group| {
                ["cpu", "memory"].iter().any(|amount| container.at(&["resources", group, amount]).is_some())
            })
        };
        let is_silent = |document: &&Document<'_>| {
            let Some(template) = document.template().filter(|_| !document.short) else { return false };
            !template.at(&["spec", "containers"]).map_or(&[][..], Node::items).iter().any(says)
        };
        if self.broken || self.findings.errors() > 0 {
            return;
        }
        let silent: Vec<&Document<'_>> = self.documents.iter().filter(is_silent).collect();
        let Some(first) = silent.first() else { return };
        let more = match silent.len() - 1 {
            0 => String::new(),
            more => format!(" (nor of {more} more)"),
        };
        let message = format!(
            "no container of {}{more} says what it needs: the machine gets the default size",
            first.title()
        );
        let mut found = finding(Code::DefaultSize, first, "", identity(first), message);
        found.help("write `resources.requests` of cpu and memory");
        self.findings.push(found);
    }

    fn references(&mut self, references: &[Reference]) {
        for reference in references {
            let kind = reference.target.kind();
            let external =
                reference.target != Target::ConfigMap
                    && self.options.external.iter().any(|external| {
                        external.kind == kind.to_lowercase() && external.name == reference.name
                    });
            let always = reference.target == Target::ServiceAccount && reference.name == "default";
            if external || always {
                continue;
            }
            // Storage classes belong to no namespace.
            let found = match reference.target {
                Target::StorageClass => self.index.anywhere(kind, &reference.name),
                _ => self.index.find(kind, &reference.namespace, &reference.name),
            };
            match (found, self.outside(reference)) {
                (Some(document), _) => self.keys(reference, document),
                (None, Some(secret)) => self.outside_keys(reference, secret),
                (None, None) if self.has_any_class(reference) => {}
                (None, None) => self.missing(reference),
            }
        }
    }

    /// The Secret beside the manifests that is meant, if there is one.
    fn outside(&self, reference: &Reference) -> Option<&'s OutsideSecret> {
        let known = &self.options.outside;
        let full = format!("{}/{}", reference.namespace, reference.name);
        let found = known.get(&full).or_else(|| known.get(&reference.name));
        found.filter(|_| reference.target == Target::Secret)
    }

    /// What a Secret beside the manifests lacks. A file that cannot be read stops a deployment even where the Secret is
    /// optional.
    fn outside_keys(&mut self, reference: &Reference, secret: &OutsideSecret) {
        let known = match secret {
            OutsideSecret::Keys(known) => known,
            OutsideSecret::Unreadable(why) => {
                let message = format!("Secret `{}` has no values here: {why}", reference.name);
                let found = of_reference(reference, &reference.place, &reference.path, message, None);
                self.findings.push(found);
                return;
            }
        };
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let keys =
            reference.keys.iter().filter(|(key, ..)| !reference.optional && !known.contains(&key.as_str()));
        for (key, place, path) in keys {
            let near = nearest(key, known.iter().copied()).map(|near| format!("did you mean `{near}`?"));
            let message = format!(
                "Secret {} of the environment file has no key `{key}`; {}",
                reference.name,
                owned(&known)
            );
            self.findings.push(of_reference(reference, place, path, message, near));
        }
    }

    /// Whether the name is that of a StorageClass and the target cloud takes any: then it is noted.
    fn has_any_class(&mut self, reference: &Reference) -> bool {
        let Answer::Note(note) = self.options.clouds.target.answer(NAMED_CLASS) else { return false };
        if reference.target != Target::StorageClass || self.options.language_only {
            return false;
        }
        let message = format!("StorageClass `{}` is not in the given files: {note}", reference.name);
        let found = of_reference(reference, &reference.place, &reference.path, message, None);
        self.findings.push(Diagnostic { severity: Code::Adapted.severity(), code: Code::Adapted, ..found });
        true
    }

    /// A claim's disk is attached to one machine at a time, so that two workloads cannot have it.
    fn shared_claims(&mut self, references: &[Reference]) {
        let mut users: BTreeMap<(&str, &str), &Reference> = BTreeMap::new();
        for reference in references.iter().filter(|reference| reference.target == Target::Claim) {
            let first = users.entry((&reference.namespace, &reference.name)).or_insert(reference);
            if first.object == reference.object {
                continue;
            }
            let message = format!(
                "{} has the disk of claim `{}` too, and a disk is attached to one machine at a time",
                first.object, reference.name
            );
            let help = "give each a claim of its own, or make both containers of one pod".to_owned();
            let mut found = of_reference(reference, &reference.place, &reference.path, message, Some(help));
            (found.severity, found.code) = (Code::Conflict.severity(), Code::Conflict);
            found.related.push((first.place.clone(), "the other one".into()));
            self.findings.push(found);
        }
    }

    fn missing(&mut self, reference: &Reference) {
        let kind = reference.target.kind();
        if reference.optional || self.broken || self.is_unread(kind, &reference.namespace, &reference.name) {
            return;
        }
        if self.findings.is_full(reference.place.file) {
            let message = format!("{kind} `{}` is not in the given files", reference.name);
            self.findings.push(of_reference(reference, &reference.place, &reference.path, message, None));
            return;
        }
        let names = self
            .index
            .some(kind)
            .filter(|document| document.namespace == reference.namespace)
            .map(|document| document.name.as_str());
        let elsewhere = self.index.anywhere(kind, &reference.name);
        let help = match (nearest(&reference.name, names), elsewhere) {
            (Some(near), _) => format!("did you mean `{near}`?"),
            (None, Some(other)) => {
                format!(
                    "there is one in namespace `{}`, but this is in `{}`",
                    other.namespace, reference.namespace
                )
            }
            (None, None) if reference.target == Target::ConfigMap => "give its file too".to_owned(),
            (None, None) if reference.target == Target::ServiceAccount => {
                "machines of the pod have no role in their cloud; give its file too if they need one"
                    .to_owned()
            }
            (None, None) => {
                format!("give its file too, or pass --external {}/{}", kind.to_lowercase(), reference.name)
            }
        };
        let message = format!("{kind} `{}` is not in the given files", reference.name);
        self.findings.push(of_reference(reference, &reference.place, &reference.path, message, Some(help)));
    }

    fn keys(&mut self, reference: &Reference, document: &Document<'_>) {
        if reference.optional || !matches!(reference.target, Target::ConfigMap | Target::Secret) {
            return;
        }
        let maps = ["data", "binaryData", "stringData"];
        for (key, place, path) in &reference.keys {
            if self.index.held(document.kind.name, &document.namespace, &document.name, key).is_some() {
                continue;
            }
            let known = maps.iter().filter_map(|map| document.root.get(map)).flat_map(Node::entries);
            let known: Vec<&str> = known.map(|entry| entry.key.as_ref()).collect();
            let near = nearest(key, known.iter().copied());
            let message = format!("{} has no key `{key}`; {}", document.title(), owned(&known));
            let mut found = of_reference(
                reference,
                place,
                path,
                message,
                near.map(|near| format!("did you mean `{near}`?")),
            );
            found.also(
                document.place(document.root.get("data").map_or(document.root.span, |data| data.span)),
                "its keys",
            );
            self.findings.push(found);
        }
    }
}

/// From the kind to the name of an object. The kind of an item may be that of its list, above it.
fn identity(document: &Document<'_>) -> Span {
    let root = &document.root;
    let name = root.at(&["metadata", "name"]).map_or(root.span, |name| name.span);
    let kind = root.get("kind").map(|kind| kind.span).filter(|kind| kind.start >= root.span.start);
    let kind = kind.unwrap_or(name);
    Span { start: kind.start.min(name.start), end: kind.end.max(name.end) }
}

/// The keys that an object has, in words.
fn owned(known: &[&str]) -> String {
    match known {
        [] => "it has none".to_owned(),
        few if few.len() <= MAX_KEYS => format!("it has {}", list(few, "and")),
        many => format!("it has {} and {} more", list(&many[..MAX_KEYS], "and"), many.len() - MAX_KEYS),
    }
}

fn of_reference(
    reference: &Reference,
    place: &Place,
    path: &str,
    message: String,
    help: Option<String>,
) -> Diagnostic {
    let code = match reference.target {
        Target::ServiceAccount => Code::MissingAccount,
        _ => Code::MissingReference,
    };
    Diagnostic {
        severity: code.severity(),
        code,
        place: place.clone(),
        object: reference.object.clone(),
        path: path.to_owned(),
        message,
        help,
        related: Vec::new(),
    }
}

/// The path of an item of a list.
fn item(list: &str, index: usize, key: &str) -> String {
    let mut path = format!("{list}[{index}]");
    push_key(&mut path, key);
    path
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::manifest::{Options, OutsideSecret, SourceFile, read};

    const POD: &str = "apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
    - name: web
      image: nginx
      env:
        - {name: A, valueFrom: {secretKeyRef: {name: db, key: password}}}
        - {name: B, valueFrom: {secretKeyRef: {name: db, key: mail, optional: true}}}
";

    fn errors(outside: &[(&str, OutsideSecret)]) -> Vec<String> {
        let file = SourceFile { name: "pod.yaml".into(), bytes: POD.into() };
        let outside: BTreeMap<String, OutsideSecret> =
            outside.iter().map(|(name, secret)| ((*name).to_owned(), secret.clone())).collect();
        let reading = read(&[file], &Options { outside, ..Options::default() });
        let of_secrets = reading.diagnostics.iter().filter(|finding| finding.message.starts_with("Secret"));
        of_secrets.map(|finding| finding.message.clone()).collect()
    }

    #[test]
    fn a_secret_of_the_environment_file_is_checked_as_one_of_a_manifest() {
        let keys = |keys: &[&str]| OutsideSecret::Keys(keys.iter().map(|key| (*key).to_owned()).collect());
        assert_eq!(errors(&[("db", keys(&["password"]))]), Vec::<String>::new());
        assert_eq!(
            errors(&[("default/db", keys(&["passwort"]))]),
            ["Secret db of the environment file has no key `password`; it has `passwort`"]
        );
        assert_eq!(errors(&[("other/db", keys(&["password"]))]), ["Secret `db` is not in the given files"]);
        let missing =
            OutsideSecret::Unreadable("e.yml: `secrets.db`: cannot read db.env: no such file".into());
        let found = errors(&[("db", missing)]);
        assert!(
            found.iter().all(|message| message.ends_with("cannot read db.env: no such file")),
            "{found:?}"
        );
        assert!(!found.is_empty());
    }
}
