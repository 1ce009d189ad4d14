//! Files in, a reading out: the order of the steps.

use super::check::{Check, Findings, Reference, nearest};
use super::code::Code;
use super::diagnostic::{Diagnostic, Place, SourceFile};
use super::language::{Class, KINDS, Kind, LIST, SHORT_FORM, removed_in};
use super::set::{self, Document};
use super::tree::{self, Entry, Fault, Node, Span, Value};
use super::{Options, Reading, build, generate_name, redact, short, text};

/// Namespace of objects that name none.
const DEFAULT_NAMESPACE: &str = "default";

/// Reads all files as one set and reports everything that is wrong with them.
pub fn read(files: &[SourceFile], options: &Options) -> Reading {
    let mut reader = Reader {
        options,
        findings: Findings::default(),
        references: Vec::new(),
        documents: Vec::new(),
        redacted: Vec::new(),
        broken: false,
    };
    for (index, file) in files.iter().enumerate() {
        reader.file(index, file);
    }
    reader.finish(files.len())
}

struct Reader<'o, 'a> {
    options: &'o Options,
    findings: Findings,
    references: Vec<Reference>,
    documents: Vec<Document<'a>>,
    redacted: Vec<Place>,
    /// Whether some document could not be read, so that nobody can say what is missing.
    broken: bool,
}

/// What a document turned out to be.
enum Found {
    Kind(&'static Kind),
    List,
    Short,
    /// Something that was reported, or asked to be left out.
    Nothing,
}

impl<'a> Reader<'_, 'a> {
    fn file(&mut self, index: usize, file: &'a SourceFile) {
        let (text, skipped) = match text::decode(&file.bytes) {
            Ok(text) => text,
            Err(fault) => {
                self.broken = true;
                let end = (fault.at + 1).min(file.bytes.len());
                let mut diagnostic =
                    plain(fault.code, Place { file: index, span: fault.at..end }, fault.message);
                diagnostic.help = fault.help.map(Into::into);
                self.findings.push(diagnostic);
                return;
            }
        };
        let parsed = tree::parse(text, skipped);
        self.broken |= parsed.broken;
        let mut looked_at = 0..0;
        for fault in parsed.faults {
            let at = (fault.span.start as usize).saturating_sub(skipped);
            if !looked_at.contains(&at) {
                let (document, hidden) = redact::lines_of_secret(text, at);
                let place = |span: std::ops::Range<usize>| Place {
                    file: index,
                    span: span.start + skipped..span.end + skipped,
                };
                self.redacted.extend(hidden.into_iter().map(place));
                looked_at = document;
            }
            self.fault(index, fault);
        }
        for root in parsed.documents {
            self.document(index, root, String::new());
        }
    }

    fn fault(&mut self, file: usize, fault: Fault) {
        let place = |span: Span| Place { file, span: span.range() };
        let mut diagnostic = plain(fault.code, place(fault.span), fault.message);
        diagnostic.path = fault.path;
        diagnostic.help = fault.help;
        diagnostic.related = fault.related.into_iter().map(|(span, words)| (place(span), words)).collect();
        self.findings.push(diagnostic);
    }

    fn document(&mut self, file: usize, mut root: Node<'a>, prefix: String) {
        if root.str("kind") == Some("Job") {
            generate_name::name_job(&mut root);
        }
        let namespace =
            root.at(&["metadata", "namespace"]).and_then(Node::scalar).unwrap_or(DEFAULT_NAMESPACE);
        let namespace = namespace.to_owned();
        let mut check = Check {
            file,
            namespace: namespace.clone(),
            path: prefix.clone(),
            ..Check::new(self.options, &mut self.findings, &mut self.references)
        };
        let found = find(&mut check, &root);
        if root.str("kind").is_some_and(|kind| kind.eq_ignore_ascii_case("Secret")) {
            check.secret = true;
            redact::values(&root, file, &mut self.redacted);
        }
        match found {
            Found::Nothing => {}
            Found::List => self.list(file, root, &prefix),
            Found::Short => {
                check.object = format!("short form/{}", root.str("name").unwrap_or("?"));
                let before = check.findings.errors();
                check.object(&root, &SHORT_FORM);
                if check.findings.errors() == before {
                    self.documents.extend(short::expand(&root).into_iter().map(|(kind, root)| {
                        Document {
                            file,
                            name: root
                                .at(&["metadata", "name"])
                                .and_then(Node::scalar)
                                .unwrap_or_default()
                                .to_owned(),
                            namespace: DEFAULT_NAMESPACE.into(),
                            root,
                            kind,
                            prefix: String::new(),
                            short: true,
                        }
                    }));
                }
            }
            Found::Kind(kind) => {
                known(&mut check, &root, kind);
                let name =
                    root.at(&["metadata", "name"]).and_then(Node::scalar).unwrap_or_default().to_owned();
                if kind.table.is_some() {
                    self.documents.push(Document { file, root, kind, name, namespace, prefix, short: false });
                }
            }
        }
    }

    fn list(&mut self, file: usize, root: Node<'a>, prefix: &str) {
        let of_items = items_kind(&root);
        let Value::Map(entries) = root.value else { return };
        for entry in entries {
            if entry.key != "items" {
                continue;
            }
            let Value::List(items) = entry.value.value else { continue };
            for (i, mut item) in items.into_iter().enumerate() {
                if let (Some(of_items), Value::Map(entries)) = (&of_items, &mut item.value)
                    && !entries.iter().any(|entry| entry.key == "kind")
                {
                    let version = entries.iter().any(|entry| entry.key == "apiVersion");
                    entries.extend(of_items.iter().skip(usize::from(version)).cloned());
                }
                let mut path = prefix.to_owned();
                tree::push_key(&mut path, "items");
                tree::push_index(&mut path, i);
                self.document(file, item, path);
            }
        }
    }

    fn finish(mut self, files: usize) -> Reading {
        if files > 0 && self.documents.is_empty() && self.findings.all.is_empty() {
            let message = "there is no object in the given files".to_owned();
            self.findings.push(plain(Code::NoObject, Place { file: 0, span: 0..0 }, message));
        }
        set::check(&self.documents, &self.references, self.options, self.broken, &mut self.findings);
        for file in 0..files {
            let left_out = self.findings.left_out(file);
            if left_out > 0 {
                let message = format!("{left_out} more findings in this file are not listed");
                self.findings.all.push(plain(Code::TooLarge, Place { file, span: 0..0 }, message));
            }
        }
        let mut diagnostics = self.findings.all;
        let failed = diagnostics.iter().any(|d| d.severity == super::Severity::Error);
        let mut set = if failed {
            super::api::ObjectSet::default()
        } else {
            build::set(&self.documents).unwrap_or_else(|fault| {
                diagnostics.push(fault.diagnostic());
                super::api::ObjectSet::default()
            })
        };
        // The environment's certificate stands in for those that no annotation names.
        let ports = set.services.iter_mut().flat_map(|service| &mut service.ports);
        for tls in ports.filter_map(|port| port.tls.as_mut()).filter(|tls| tls.certificates.is_empty()) {
            tls.certificates.extend(self.options.certificate.clone());
        }
        let hosts = set.ingresses.iter_mut().filter(|ingress| !ingress.tls_hosts.is_empty());
        for ingress in hosts.filter(|ingress| ingress.certificates.is_empty()) {
            ingress.certificates.extend(self.options.certificate.clone());
        }
        diagnostics.sort_by(|a, b| {
            let key =
                |d: &Diagnostic| (d.place.file, d.place.span.start, std::cmp::Reverse(d.severity), d.code);
            key(a).cmp(&key(b)).then_with(|| a.path.cmp(&b.path))
        });
        Reading { set, diagnostics, redacted: self.redacted }
    }
}

/// A finding about text, outside any object.
fn plain(code: Code, place: Place, message: String) -> Diagnostic {
    Diagnostic {
        severity: code.severity(),
        code,
        place,
        object: String::new(),
        path: String::new(),
        message,
        help: None,
        related: Vec::new(),
    }
}

/// What the document is; sets the object's name in messages on the way.
fn find(check: &mut Check<'_>, root: &Node<'_>) -> Found {
    if !matches!(root.value, Value::Map(_)) {
        let message = format!("expected an object, got {}", root.kind());
        check
            .report(Code::NoObject, root.span, message)
            .help("an object begins with `apiVersion` and `kind`");
        return Found::Nothing;
    }
    let (version, kind) = (root.entry("apiVersion"), root.entry("kind"));
    let (Some(version), Some(kind)) = (version, kind) else {
        return without_kind(check, root, version.is_some(), kind.is_some());
    };
    let (Some(version_text), Some(kind_text)) = (version.value.scalar(), kind.value.scalar()) else {
        check.report(Code::WrongType, root.span, "`apiVersion` and `kind` must be strings");
        return Found::Nothing;
    };
    let items = kind_text.strip_suffix(LIST.name);
    if items.is_some_and(|of| of.is_empty() || is_kind(of) || root.get("items").is_some()) {
        kind_text.clone_into(&mut check.object);
        check.object(root, &LIST);
        return Found::List;
    }
    let name = root.at(&["metadata", "name"]).and_then(Node::scalar).unwrap_or("?");
    check.object = format!("{kind_text}/{name}");
    if is_ignored(check.options, kind_text, group_of(version_text)) {
        let message = format!("{kind_text} is left out, as --ignore-kind asks");
        check.report(Code::IgnoredKind, kind.value.span, message);
        return Found::Nothing;
    }
    let known = KINDS.iter().find(|known| known.api_version == version_text && known.name == kind_text);
    known.map_or_else(
        || {
            unknown(check, version, kind, version_text, kind_text);
            Found::Nothing
        },
        Found::Kind,
    )
}

fn is_kind(name: &str) -> bool {
    KINDS.iter().any(|kind| kind.name == name)
}

/// `apiVersion` and `kind` of the items of a list such as `ConfigMapList`: the API server leaves them out there.
fn items_kind<'a>(list: &Node<'a>) -> Option<[Entry<'a>; 2]> {
    let (version, kind) = (list.entry("apiVersion")?, list.entry("kind")?);
    let name = kind.value.scalar()?.strip_suffix(LIST.name).filter(|name| !name.is_empty())?;
    let value = Node::text(name.to_owned(), kind.value.span);
    Some([version.clone(), Entry { value, ..kind.clone() }])
}

/// The API group of a version; empty for the first objects that Kubernetes had.
fn group_of(version: &str) -> &str {
    version.split_once('/').map_or("", |(group, _)| group)
}

/// Whether `--ignore-kind` names the kind, alone or with its group: `Service.serving.knative.dev`.
fn is_ignored(options: &Options, kind: &str, group: &str) -> bool {
    options.ignore_kinds.iter().any(|ignored| match ignored.split_once('.') {
        Some((name, of)) => name.eq_ignore_ascii_case(kind) && of.eq_ignore_ascii_case(group),
        None => ignored.eq_ignore_ascii_case(kind),
    })
}

/// Whether the group is one of Kubernetes' own, not of an operator.
fn is_own(group: &str) -> bool {
    !group.contains('.') || group.ends_with(".k8s.io")
}

/// Files of other tools, by keys that hold maps or lists, and what to do with them.
const OTHER_FORMATS: &[(&[&str], &str)] = &[
    (
        &["resources", "patches", "configMapGenerator", "bases"],
        "this looks like a kustomization: run `kustomize build` first and check what it prints",
    ),
    (&["services"], "this looks like a Compose file: run `kompose convert` first and check what it prints"),
    (
        &["image", "ingress", "service"],
        "this looks like the values of a chart: check what `helm template` prints",
    ),
];

fn without_kind(check: &mut Check<'_>, root: &Node<'_>, has_version: bool, has_kind: bool) -> Found {
    let keys = || root.entries().iter().map(|entry| entry.key.as_ref());
    if !has_version && !has_kind {
        let near = nearest("apiVersion", keys()).or_else(|| nearest("kind", keys()));
        let other = OTHER_FORMATS.iter().find(|(marks, _)| {
            marks.iter().any(|mark| root.get(mark).is_some_and(|node| node.scalar().is_none()))
        });
        if near.is_none() && (root.get("containers").is_some() || root.get("name").is_some()) {
            return Found::Short;
        }
        check
            .report(
                Code::NoObject,
                root.span,
                "neither an object (`apiVersion`, `kind`) nor the short form (`name`, `containers`)",
            )
            .maybe_help(
                near.map(|near| format!("`{near}` is misspelt"))
                    .or_else(|| other.map(|(_, help)| (*help).to_owned())),
            );
        return Found::Nothing;
    }
    let missing = if has_version { "kind" } else { "apiVersion" };
    let is_chart = matches!(root.str("apiVersion"), Some("v1" | "v2")) && root.get("version").is_some();
    let help = if is_chart {
        Some("this looks like the description of a chart: check what `helm template` prints".to_owned())
    } else {
        nearest(missing, keys()).map(|near| format!("`{near}` is probably meant to be `{missing}`"))
    };
    check.key(missing, |check| {
        let message = format!("required field `{missing}` is missing");
        check.report(Code::MissingField, root.span, message).maybe_help(help);
    });
    Found::Nothing
}

/// Says why a kind and version are not read.
fn unknown(
    check: &mut Check<'_>,
    version: &Entry<'_>,
    kind: &Entry<'_>,
    version_text: &str,
    kind_text: &str,
) {
    let group = group_of(version_text);
    let current = KINDS.iter().find(|known| known.name == kind_text).filter(|_| is_own(group));
    if let Some((release, successor)) = removed_in(version_text, kind_text) {
        let message = format!("{version_text} {kind_text} was removed in Kubernetes {release}");
        let help = if successor.starts_with("no ") {
            "it has no successor: remove the object".to_owned()
        } else {
            format!("use {successor}")
        };
        check.key("apiVersion", |check| {
            check.report(Code::RemovedVersion, version.value.span, message).help(help);
        });
    } else if let Some(current) = current {
        let message = format!("there is no {kind_text} in {}", check.shown(version_text));
        check.key("apiVersion", |check| {
            check
                .report(Code::UnknownKind, version.value.span, message)
                .help(format!("use {}", current.api_version));
        });
    } else {
        let message = format!(
            "kind {} of {} is not one that i2kit reads",
            check.shown(kind_text),
            check.shown(version_text)
        );
        let near = nearest(kind_text, KINDS.iter().map(|known| known.name)).filter(|_| is_own(group));
        let dot = if group.is_empty() { "" } else { "." };
        let help = near.map_or_else(
            || format!("pass --ignore-kind {kind_text}{dot}{group} if the rest can do without it"),
            |near| format!("did you mean `{near}`?"),
        );
        check.key("kind", |check| {
            check.report(Code::UnknownKind, kind.value.span, message).help(help);
        });
    }
}

/// Checks an object of a known kind.
fn known(check: &mut Check<'_>, root: &Node<'_>, kind: &'static Kind) {
    let span = root.get("kind").map_or(root.span, |kind| kind.span);
    match kind.class {
        Class::Refused => {
            let message = format!("{} is refused: {}", kind.name, kind.doc);
            check.report(Code::RefusedKind, span, message).maybe_help(kind.help);
            return;
        }
        Class::NoMeaning => {
            if check.findings.first(kind.doc) {
                let message = format!("{} has no meaning here: {}", kind.name, kind.doc);
                check.report(Code::KindWithoutMeaning, span, message);
            } else {
                let message = format!("{} has no meaning here either, and is left out", kind.name);
                check.report(Code::KindWithoutMeaning, span, message).quietly();
            }
            return;
        }
        Class::Works | Class::Mapped | Class::Silent => {}
    }
    if kind.not_yet {
        check.not_yet(span, kind.name);
    }
    check.locally(span, kind.name, kind.locally);
    if let Some(note) = kind.note {
        check.report(Code::AdaptedKind, span, note);
    }
    if let Some(templates) = root.at(&["spec", "volumeClaimTemplates"]) {
        let names = templates.items().iter().filter_map(|claim| claim.at(&["metadata", "name"])?.scalar());
        check.claim_templates = names.map(str::to_owned).collect();
    }
    if let Some(table) = kind.table {
        check.object(root, table);
    }
}
