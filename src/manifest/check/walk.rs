//! The walk over an object: each field against its row, then the conditions and rules over the whole.

use super::report::{Check, Reference};
use super::{rules, suggest};
use crate::manifest::code::Code;
use crate::manifest::language::{Class, Field, Switch, Table, Type};
use crate::manifest::support::Support;
use crate::manifest::tree::{Entry, Node, Resolved, Value, resolve};
use crate::manifest::words::list;

impl Check<'_> {
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
            // Generated names have findings of their own.
            let generated = field.name == "name" && node.entry("generateName").is_some();
            if node.entry(field.name).is_none() && !generated {
                self.missing(node, field);
            }
        }
        self.one_of(node, table);
        self.refer(node, table);
        for rule in rules::of(table) {
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
        if !harmless && !self.class(entry, field, table) {
            return;
        }
        if !matches!(field.class, Class::Silent) {
            self.around.push(table);
            self.value(value, &field.ty);
            self.around.pop();
            if let (Type::Choice(_), Some(word)) = (&field.ty, value.scalar()) {
                let answer = |cloud: &Support| cloud.word(table.name, field.name, word);
                self.supported_by(value.span, format_args!("`{word}`"), answer);
            }
        }
    }

    /// Reports what the class of a field asks for. Returns whether to go on below it.
    fn class(&mut self, entry: &Entry<'_>, field: &'static Field, table: &'static Table) -> bool {
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
            self.not_yet(entry.key_span, format_args!("`{}`", field.name));
        }
        let answer = |cloud: &Support| cloud.field(table.name, field.name);
        self.supported_by(entry.key_span, format_args!("`{}`", field.name), answer);
        true
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
