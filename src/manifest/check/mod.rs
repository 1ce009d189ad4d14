//! The tree against the tables: every finding of an object in one walk. It knows the form of the tables, not what is
//! in them; what cannot be said in a table is a rule beside it.

mod quantity;
pub(in crate::manifest) mod rules;
mod suggest;
mod text;
mod value;

pub(super) use quantity::{Divided, bytes, cpu_millis, divided};
pub(super) use rules::{
    BACKEND_PROTOCOL, INGRESS_CERTIFICATE, INGRESS_SCHEME, INGRESS_SOURCE_RANGES, MACHINE_TYPE_LABELS,
    MACHINE_TYPES, ON_DEMAND_BASE, ROLE_ANNOTATIONS, SOURCE_RANGES, SPOT, TLS_CERTIFICATE, TLS_POLICY,
    TLS_PORTS, ZONE_LABELS, holds, is_internal, machine_types, spot_percent,
};
pub(super) use suggest::nearest;
pub(super) use text::{PortMapping, port_mapping, subscript, variable_references};
pub(super) use value::int_or_percent;

use std::collections::BTreeSet;

use super::code::Code;
use super::diagnostic::{Diagnostic, Place, Severity};
use super::language::{Class, Field, Locally, Switch, Table, Target, Type};
use super::tree::{Entry, Node, Resolved, Span, Value, push_index, push_key, resolve};
use super::{Options, Provider};

/// What cannot be said field by field; runs after the fields of the object were checked.
pub(in crate::manifest) type Rule = fn(&mut Check<'_>, &Node<'_>);

/// Findings of one file after which the rest is counted only: a file of garbage must not become a report of gigabytes.
const MAX_FINDINGS: usize = 1000;

/// The walk over one object.
#[derive(Debug)]
pub(in crate::manifest) struct Check<'o> {
    pub(in crate::manifest) options: &'o Options,
    pub(in crate::manifest) findings: &'o mut Findings,
    pub(in crate::manifest) references: &'o mut Vec<Reference>,
    pub(in crate::manifest) file: usize,
    /// Such as `Deployment/web`.
    pub(in crate::manifest) object: String,
    pub(in crate::manifest) namespace: String,
    /// Whether values must not appear in messages.
    pub(in crate::manifest) secret: bool,
    pub(in crate::manifest) path: String,
    /// Volumes that the StatefulSet at hand makes for its pods.
    pub(in crate::manifest) claim_templates: Vec<String>,
    /// The objects around the one at hand, for hints about fields at the wrong level.
    pub(in crate::manifest) around: Vec<&'static Table>,
}

/// All findings of a reading, with a bound for each file.
#[derive(Debug, Default)]
pub(in crate::manifest) struct Findings {
    pub(in crate::manifest) all: Vec<Diagnostic>,
    counts: Vec<usize>,
    /// Whether a file has an error in the list.
    failed: Vec<bool>,
    /// What is said once a set.
    told: BTreeSet<&'static str>,
}

impl Findings {
    /// Adds one, unless its file has too many already.
    pub(in crate::manifest) fn push(&mut self, diagnostic: Diagnostic) {
        let file = diagnostic.place.file;
        if self.counts.len() <= file {
            self.counts.resize(file + 1, 0);
            self.failed.resize(file + 1, false);
        }
        self.counts[file] += 1;
        // The first error must be listed, whatever the count.
        let is_error = diagnostic.severity == Severity::Error;
        if self.counts[file] <= MAX_FINDINGS || is_error && !self.failed[file] {
            self.failed[file] |= is_error;
            self.all.push(diagnostic);
        }
    }

    /// Whether `what`, which is said once a set, is said for the first time.
    pub(in crate::manifest) fn first(&mut self, what: &'static str) -> bool {
        self.told.insert(what)
    }

    /// Whether more findings of the file are counted only, so that nobody needs their hints.
    pub(in crate::manifest) fn is_full(&self, file: usize) -> bool {
        self.counts.get(file).is_some_and(|count| *count >= MAX_FINDINGS)
    }

    /// Says something better than the help of the finding of that rule at that path, when it is the last one there.
    pub(in crate::manifest) fn advise(&mut self, code: Code, path: &str, help: String) {
        let found = self.all.iter_mut().rev().find(|found| found.code == code && found.path == path);
        if let Some(found) = found {
            found.help = Some(help);
        }
    }

    /// Number of errors so far.
    pub(in crate::manifest) fn errors(&self) -> usize {
        self.all.iter().filter(|d| d.severity == Severity::Error).count()
    }

    /// How many were left out of a file's list.
    pub(in crate::manifest) fn left_out(&self, file: usize) -> usize {
        self.counts.get(file).map_or(0, |count| count.saturating_sub(MAX_FINDINGS))
    }
}

/// A name that must be found in the set.
#[derive(Debug)]
pub(in crate::manifest) struct Reference {
    pub(in crate::manifest) target: Target,
    pub(in crate::manifest) namespace: String,
    pub(in crate::manifest) name: String,
    /// A key of the target that must be there, with its place and path.
    pub(in crate::manifest) keys: Vec<(String, Place, String)>,
    pub(in crate::manifest) optional: bool,
    pub(in crate::manifest) place: Place,
    pub(in crate::manifest) path: String,
    /// Who refers.
    pub(in crate::manifest) object: String,
}

impl<'o> Check<'o> {
    /// A walk over one object of the first file, which has no name yet.
    pub(in crate::manifest) fn new(
        options: &'o Options,
        findings: &'o mut Findings,
        references: &'o mut Vec<Reference>,
    ) -> Self {
        Self {
            options,
            findings,
            references,
            file: 0,
            object: String::new(),
            namespace: String::new(),
            secret: false,
            path: String::new(),
            claim_templates: Vec::new(),
            around: Vec::new(),
        }
    }
}

impl Check<'_> {
    /// A finding at `span`, under the current path. Completed by what is chained to it.
    pub(in crate::manifest) fn report(
        &mut self,
        code: Code,
        span: Span,
        message: impl Into<String>,
    ) -> Report<'_> {
        let diagnostic = Diagnostic {
            severity: self.severity(code),
            code,
            place: self.place(span),
            object: self.object.clone(),
            path: self.path.clone(),
            message: message.into(),
            help: None,
            related: Vec::new(),
        };
        Report { findings: &mut *self.findings, diagnostic: Some(diagnostic) }
    }

    fn severity(&self, code: Code) -> Severity {
        match code {
            Code::NotDeployableYet if self.options.language_only => Severity::Note,
            code => code.severity(),
        }
    }

    pub(in crate::manifest) fn place(&self, span: Span) -> Place {
        Place { file: self.file, span: span.range() }
    }

    /// Runs `inner` with `.key` added to the path.
    pub(in crate::manifest) fn key<R>(&mut self, key: &str, inner: impl FnOnce(&mut Self) -> R) -> R {
        let length = self.path.len();
        push_key(&mut self.path, key);
        let result = inner(self);
        self.path.truncate(length);
        result
    }

    /// Runs `inner` with `[index]` added to the path.
    pub(in crate::manifest) fn index<R>(&mut self, index: usize, inner: impl FnOnce(&mut Self) -> R) -> R {
        let length = self.path.len();
        push_index(&mut self.path, index);
        let result = inner(self);
        self.path.truncate(length);
        result
    }

    /// Runs `inner` for each item of the list under `key`.
    pub(in crate::manifest) fn each(
        &mut self,
        node: &Node<'_>,
        key: &str,
        mut inner: impl FnMut(&mut Self, &Node<'_>),
    ) {
        let Some(list) = node.get(key) else { return };
        self.key(key, |check| {
            for (i, item) in list.items().iter().enumerate() {
                check.index(i, |check| inner(check, item));
            }
        });
    }

    /// A value as messages show it.
    pub(in crate::manifest) fn shown(&self, text: &str) -> String {
        if self.secret {
            return "the value (not shown)".into();
        }
        let short: String = text.chars().take(60).collect();
        if short.len() < text.len() { format!("`{short}…`") } else { format!("`{short}`") }
    }

    /// Checks an object and all that lies below it.
    pub(in crate::manifest) fn object(&mut self, node: &Node<'_>, table: &'static Table) {
        let Value::Map(entries) = &node.value else {
            let message = format!("expected a map ({}), got {}", table.name, node.kind());
            let first = table.fields.iter().find(|field| field.required);
            let help = first.zip(node.scalar()).filter(|(field, text)| {
                let fits = !matches!(field.ty, Type::Int(..)) || matches!(resolve(text), Resolved::Int(_));
                fits && !self.secret
            });
            let help = help.map(|(field, text)| format!("write `{}: {text}`", field.name));
            self.report(Code::WrongType, node.span, message).maybe_help(help);
            return;
        };
        for entry in entries {
            match table.field(&entry.key) {
                Some(field) => self.key(field.name, |check| check.field(entry, field, table)),
                None => self.unknown(entry, table),
            }
        }
        for field in table.fields.iter().filter(|field| field.required) {
            // What a generated name means for the kind is said there.
            let generated = field.name == "name" && node.entry("generateName").is_some();
            if node.entry(field.name).is_none() && !generated {
                self.missing(node, field);
            }
        }
        self.one_of(node, table);
        self.refer(node, table);
        for rule in table.rules {
            rule(self, node);
        }
    }

    fn missing(&mut self, node: &Node<'_>, field: &Field) {
        let empty = node.entries().iter().find(|entry| entry.key == field.name);
        let span = empty.map_or(node.span, |entry| entry.key_span);
        let owner = node.str("name").map(|name| format!(" of {}", self.shown(name))).unwrap_or_default();
        let message = match empty {
            Some(_) => format!("required field `{}`{owner} is empty", field.name),
            None => format!("required field `{}`{owner} is missing", field.name),
        };
        self.key(field.name, |check| {
            check.report(Code::MissingField, span, message);
        });
    }

    fn field(&mut self, entry: &Entry<'_>, field: &'static Field, table: &'static Table) {
        let value = &entry.value;
        if value.is_null() {
            if matches!(field.class, Class::Works | Class::Mapped) && !field.required {
                let default =
                    field.default.map_or(String::new(), |text| format!("; its default is `{text}`"));
                self.report(
                    Code::EmptyValue,
                    entry.key_span,
                    format!("`{}` is given without a value{default}", field.name),
                );
            }
            return;
        }
        let harmless = value.scalar().is_some_and(|text| field.harmless.contains(&text))
            || (!field.presence && value.scalar().is_none() && value.is_empty());
        if !harmless && !self.class(entry, field) {
            return;
        }
        if !matches!(field.class, Class::Silent) {
            self.around.push(table);
            self.value(value, &field.ty);
            self.around.pop();
        }
    }

    /// Says what the class of a field asks for; whether to go on below it.
    fn class(&mut self, entry: &Entry<'_>, field: &'static Field) -> bool {
        let allowed = match field.switch {
            Some(Switch::Privileged) => self.options.allow_privileged,
            Some(Switch::HostIsVm) => self.options.host_is_vm,
            None => false,
        };
        match field.class {
            Class::Refused if !allowed => {
                let message = format!("`{}` is refused: {}", field.name, field.doc);
                self.report(Code::RefusedField, entry.key_span, message).maybe_help(field.help);
                return false;
            }
            Class::NoMeaning => {
                let message = format!("`{}` has no meaning here: {}", field.name, field.doc);
                self.report(Code::NoMeaning, entry.key_span, message);
            }
            _ => {}
        }
        if field.not_yet {
            self.not_yet(entry.key_span, &format!("`{}`", field.name));
        }
        self.locally(entry.key_span, &format!("`{}`", field.name), field.locally);
        if let Some(note) = field.note {
            self.report(Code::Adapted, entry.key_span, note);
        }
        true
    }

    /// Says that `what` cannot be deployed yet.
    pub(in crate::manifest) fn not_yet(&mut self, span: Span, what: &str) {
        self.report(Code::NotDeployableYet, span, format!("not deployable yet: {what}"));
    }

    /// Says what the cloud that the set is for does not make of `what`.
    pub(in crate::manifest) fn locally(&mut self, span: Span, what: &str, locally: Locally) {
        if self.options.language_only {
            return;
        }
        match (locally, self.options.provider) {
            (Locally::Only, Provider::Aws) => {
                let message = format!("not deployable on AWS yet: {what}");
                let help = "deploy it to the local cloud: name an environment file whose provider is `local` with `-e`";
                self.report(Code::NotDeployableYet, span, message).help(help);
            }
            (Locally::Refused, Provider::Local) => {
                let message = format!("not deployable on the local cloud: {what}");
                let help = "name an environment file whose provider is `aws` with `-e`";
                self.report(Code::NotDeployableYet, span, message).help(help);
            }
            (Locally::Noted(note), Provider::Local) => {
                self.report(Code::Adapted, span, format!("{what} on the local cloud: {note}"));
            }
            (Locally::Same | Locally::Only, Provider::Local) | (_, Provider::Aws) => {}
        }
    }

    fn one_of(&mut self, node: &Node<'_>, table: &'static Table) {
        for group in table.one_of {
            let given: Vec<&Entry<'_>> = group.fields.iter().filter_map(|name| node.entry(name)).collect();
            match given.as_slice() {
                [] if group.required => {
                    let refused = node.entries().iter().any(|entry| {
                        table.field(&entry.key).is_none_or(|field| field.class == Class::Refused)
                    });
                    if !refused {
                        let message = format!("one of {} is needed", list(group.fields, "or"));
                        self.report(Code::Exclusive, node.span, message);
                    }
                }
                [first, second, ..] => {
                    let names: Vec<&str> = given.iter().map(|entry| entry.key.as_ref()).collect();
                    let message = format!("{} exclude each other", list(&names, "and"));
                    let other = self.place(first.key_span);
                    let span = second.key_span;
                    self.report(Code::Exclusive, span, message)
                        .also(other, "the other one")
                        .help("keep one of them");
                }
                _ => {}
            }
        }
    }

    /// Notes the names of other objects that this one refers to.
    fn refer(&mut self, node: &Node<'_>, table: &'static Table) {
        for field in table.fields {
            let Type::Name(target) = field.ty else { continue };
            let Some(entry) = node.entry(field.name) else { continue };
            let Some(name) = entry.value.scalar() else { continue };
            let mut keys = Vec::new();
            if let (Some(_), Some(key)) = (table.field("key"), node.get("key")) {
                let path = self.key("key", |check| check.path.clone());
                keys.extend(key.scalar().map(|text| (text.to_owned(), self.place(key.span), path)));
            }
            if table.field("items").is_some() {
                self.each(node, "items", |check, item| {
                    if let Some(key) = item.get("key") {
                        let path = check.key("key", |check| check.path.clone());
                        keys.extend(key.scalar().map(|text| (text.to_owned(), check.place(key.span), path)));
                    }
                });
            }
            let reference = Reference {
                target,
                namespace: self.namespace.clone(),
                name: name.to_owned(),
                keys,
                optional: node.str("optional") == Some("true"),
                place: self.place(entry.value.span),
                path: self.key(field.name, |check| check.path.clone()),
                object: self.object.clone(),
            };
            self.references.push(reference);
        }
    }

    fn unknown(&mut self, entry: &Entry<'_>, table: &'static Table) {
        let key = entry.key.as_ref();
        let message = format!("unknown field `{key}` in {}", table.name);
        let is_full = self.findings.is_full(self.file);
        let help = if is_full { None } else { suggest::for_field(key, table, &self.around) };
        self.key(key, |check| {
            check.report(Code::UnknownField, entry.key_span, message).maybe_help(help);
        });
    }
}

/// `a`, `b` and `c`
pub(super) fn list(names: &[&str], last: &str) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        None => String::new(),
        Some((only, [])) => only.clone(),
        Some((end, rest)) => format!("{} {last} {end}", rest.join(", ")),
    }
}

/// A finding that is being completed; it is listed when this ends.
#[derive(Debug)]
pub(in crate::manifest) struct Report<'f> {
    findings: &'f mut Findings,
    diagnostic: Option<Diagnostic>,
}

impl Report<'_> {
    /// Says what to do next.
    pub(in crate::manifest) fn help(mut self, help: impl Into<String>) -> Self {
        if let Some(diagnostic) = &mut self.diagnostic {
            diagnostic.help(help);
        }
        self
    }

    /// The same, when there is something to say.
    pub(in crate::manifest) fn maybe_help(self, help: Option<impl Into<String>>) -> Self {
        match help {
            Some(help) => self.help(help),
            None => self,
        }
    }

    /// As a note, whatever the rule.
    pub(in crate::manifest) fn quietly(mut self) -> Self {
        if let Some(diagnostic) = &mut self.diagnostic {
            diagnostic.severity = Severity::Note;
        }
        self
    }

    /// Shows another place.
    pub(in crate::manifest) fn also(mut self, place: Place, words: impl Into<String>) -> Self {
        if let Some(diagnostic) = &mut self.diagnostic {
            diagnostic.also(place, words);
        }
        self
    }
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        if let Some(diagnostic) = self.diagnostic.take() {
            self.findings.push(diagnostic);
        }
    }
}
