//! Files in, a reading out: the order of the steps.

use super::api::Ingress;
use super::check::{Check, Findings, Reference};
use super::code::Code;
use super::diagnostic::{Diagnostic, Place, SourceFile};
use super::document::{Found, find, items_kind};
use super::language::{Class, Kind, SHORT_FORM};
use super::set::{self, Document, Unread};
use super::tree::{self, Fault, Node, Span, Value};
use super::{Options, Reading, build, generate_name, redact, short, text, zero};

/// Namespace of objects that name none.
const DEFAULT_NAMESPACE: &str = "default";

/// Most objects of a set, lists of them included: a large cluster has fewer, and each becomes typed objects in memory.
const MAX_OBJECTS: usize = 20_000;

/// Objects that are not read and yet compared with what refers to them. With more of them nothing counts as missing.
const MAX_UNREAD: usize = 200;

/// Reads all files as one set and reports everything that is wrong with them.
pub fn read(files: &[SourceFile], options: &Options) -> Reading {
    let mut reader = Reader {
        options,
        findings: Findings::default(),
        references: Vec::new(),
        documents: Vec::new(),
        redacted: Vec::new(),
        broken: false,
        objects: 0,
        unread: Vec::new(),
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
    /// Whether some document could not be read, so that nothing can be reported as missing.
    broken: bool,
    objects: usize,
    /// Objects of kinds that are refused or not known.
    unread: Vec<Unread<'a>>,
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
        let is_template = text.contains("{{") && text.contains("}}");
        for mut fault in parsed.faults {
            if is_template {
                fault.help = Some("if this is a Helm template, check what `helm template` prints".into());
            }
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
        self.objects += 1;
        if self.objects > MAX_OBJECTS {
            self.broken = true;
            if self.objects == MAX_OBJECTS + 1 {
                let place = Place { file, span: root.span.range() };
                let message = format!("more than {MAX_OBJECTS} objects in one set; the rest is not read");
                let mut found = plain(Code::TooLarge, place, message);
                found.help = Some("deploy parts that do not refer to each other one by one".into());
                self.findings.push(found);
            }
            return;
        }
        if root.str("kind") == Some("Job") {
            generate_name::name_job(&mut root);
        }
        let namespace = root.at(&["metadata", "namespace"]).and_then(Node::scalar);
        let namespace = namespace.filter(|name| !name.is_empty()).unwrap_or(DEFAULT_NAMESPACE).to_owned();
        let errors = self.findings.errors();
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
            Found::Nothing => {
                if self.findings.errors() > errors {
                    self.unread(root, namespace);
                }
            }
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
                if let Some(table) = kind.table {
                    zero::forget(&mut root, table);
                }
                known(&mut check, &root, kind);
                let name =
                    root.at(&["metadata", "name"]).and_then(Node::scalar).unwrap_or_default().to_owned();
                if kind.table.is_some() {
                    self.documents.push(Document { file, root, kind, name, namespace, prefix, short: false });
                } else if kind.class == Class::Refused {
                    self.unread(root, namespace);
                }
            }
        }
    }

    /// Keeps an object that an error was reported of instead of reading it: what refers to it is not missing.
    fn unread(&mut self, root: Node<'a>, namespace: String) {
        if self.unread.len() < MAX_UNREAD {
            self.unread.push(Unread { root, namespace });
        } else {
            self.broken = true;
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
        let given = set::Given { documents: &self.documents, unread: &self.unread, broken: self.broken };
        set::check(&given, &self.references, self.options, &mut self.findings);
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
            build::set(&self.documents, &self.options.clouds).unwrap_or_else(|fault| {
                diagnostics.push(fault.diagnostic());
                super::api::ObjectSet::default()
            })
        };
        // The environment's certificate stands in for those that no annotation names.
        let ports = set.services.iter_mut().flat_map(|service| &mut service.ports);
        for tls in ports.filter_map(|port| port.tls.as_mut()).filter(|tls| tls.certificates.is_empty()) {
            tls.certificates.extend(self.options.certificate.clone());
        }
        let is_encrypted = |ingress: &&mut Ingress| ingress.tls_for_all || !ingress.tls_hosts.is_empty();
        let encrypted = set.ingresses.iter_mut().filter(is_encrypted);
        for ingress in encrypted.filter(|ingress| ingress.certificates.is_empty()) {
            ingress.certificates.extend(self.options.certificate.clone());
        }
        for ingress in set.ingresses.iter_mut().filter(|ingress| !ingress.tls_hosts.is_empty()) {
            if !self.options.clouds.declines_acme(&ingress.meta.annotations) {
                ingress.acme.clone_from(&self.options.acme);
            }
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
    check.supported(span, kind.name, kind.name);
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
