//! One value against its type.

use super::quantity::{QuantityFault, bytes, cpu_millis};
use super::report::Check;
use crate::manifest::api::IntOrPercent;
use crate::manifest::code::Code;
use crate::manifest::language::{Choice, Class, Table, Text, Type};
use crate::manifest::tree::{Entry, Node, Notation, Resolved, Scalar, Value, resolve};
use crate::manifest::words::{list, nearest};

/// Less memory than any process can start with; such a limit was meant with a suffix.
const ODD_BYTES: u64 = 64 << 10;

/// More processor time than the largest machine has, in thousandths.
const ODD_CPU: u64 = 10_000_000;

/// Decimal numbers that look like the octal permissions that were meant.
const MODE_LOOKALIKES: [i128; 20] =
    [400, 440, 444, 500, 550, 555, 600, 640, 644, 660, 664, 666, 700, 711, 750, 755, 764, 770, 775, 777];

impl Check<'_> {
    /// Checks `node` against `ty`.
    pub(super) fn value(&mut self, node: &Node<'_>, ty: &Type) {
        match ty {
            Type::Any => {}
            Type::Object(table) => self.object(node, table),
            Type::List(item) => self.items(node, item),
            Type::Filled(item) => {
                self.items(node, item);
                if matches!(&node.value, Value::List(items) if items.is_empty()) {
                    self.report(Code::InvalidValue, node.span, "the list must have at least one item");
                }
            }
            Type::Keyed(table, key) => self.keyed(node, table, key),
            Type::Map(key, value) => self.map(node, *key, value),
            _ => {
                if let Value::Scalar(scalar) = &node.value {
                    self.scalar(node, scalar, ty);
                } else {
                    let message = format!("expected {}, got {}", expected(ty), node.kind());
                    self.report(Code::WrongType, node.span, message);
                }
            }
        }
    }

    fn items(&mut self, node: &Node<'_>, ty: &Type) {
        let Value::List(items) = &node.value else {
            let message = format!("expected a list, got {}", node.kind());
            let has = |table: &Table, name| table.field(name).is_some();
            let help = match (&node.value, ty) {
                (Value::Map(entries), Type::Object(table)) if has(table, "name") && has(table, "value") => {
                    let key = entries.first().map_or("NAME", |entry| entry.key.as_ref());
                    format!("write `- name: {key}`, and `value:` below it")
                }
                (Value::Scalar(_), Type::Text(_)) => "write one word an item: `[a, b]`".to_owned(),
                _ => "begin each item with `- `".to_owned(),
            };
            self.report(Code::WrongType, node.span, message).help(help);
            return;
        };
        for (i, item) in items.iter().enumerate() {
            self.index(i, |check| {
                if item.is_null() {
                    check.report(
                        Code::WrongType,
                        item.span,
                        format!("expected {}, got an empty item", expected(ty)),
                    );
                } else {
                    check.value(item, ty);
                }
            });
        }
    }

    fn keyed(&mut self, node: &Node<'_>, table: &'static Table, key: &str) {
        self.items(node, &Type::Object(table));
        self.unique(node, key, key);
    }

    /// Reports items of a list with the same value under `key`.
    pub(in crate::manifest) fn unique(&mut self, list: &Node<'_>, key: &str, word: &str) {
        let mut seen = std::collections::HashMap::new();
        for (i, item) in list.items().iter().enumerate() {
            let Some(value) = item.get(key) else { continue };
            let Some(text) = value.scalar() else { continue };
            if let Some(first) = seen.insert(text, value.span) {
                let other = self.place(first);
                let message = format!("two items have the {word} {}", self.shown(text));
                self.index(i, |check| {
                    check.key(key, |check| {
                        check.report(Code::RepeatedItem, value.span, message).also(other, "first given here");
                    });
                });
            }
        }
    }

    fn map(&mut self, node: &Node<'_>, key: Text, ty: &Type) {
        let Value::Map(entries) = &node.value else {
            let message = format!("expected a map, got {}", node.kind());
            self.report(Code::WrongType, node.span, message).help("write one `key: value` a line");
            return;
        };
        for entry in entries {
            self.key(&entry.key, |check| {
                check.map_key(entry, key);
                if entry.value.is_null() {
                    check.null_in_map(entry, ty);
                } else {
                    check.value(&entry.value, ty);
                }
            });
        }
    }

    fn null_in_map(&mut self, entry: &Entry<'_>, ty: &Type) {
        if matches!(ty, Type::Object(_)) {
            self.report(Code::MissingField, entry.key_span, format!("`{}` is empty", entry.key));
        } else {
            let message = format!("`{}` is given without a value; it is read as an empty text", entry.key);
            self.report(Code::EmptyValue, entry.key_span, message).help("write \"\"");
        }
    }

    fn map_key(&mut self, entry: &Entry<'_>, form: Text) {
        let read_as = match entry.key_notation {
            Notation::Text => Resolved::Text,
            Notation::Plain => resolve(&entry.key),
        };
        match read_as {
            Resolved::Bool(_) | Resolved::Float(_) | Resolved::Null => {
                let message =
                    format!("kubectl reads the key `{}` as {}, not as text", entry.key, read_as.kind());
                self.report(Code::YamlTrap, entry.key_span, message)
                    .help(format!("quote it: {:?}", entry.key));
            }
            Resolved::Int(_) | Resolved::Text => self.text(&entry.key, entry.key_span, form),
        }
    }

    fn scalar(&mut self, node: &Node<'_>, scalar: &Scalar<'_>, ty: &Type) {
        let text = scalar.text.as_ref();
        let resolved = scalar.resolved();
        match ty {
            Type::Bool => self.boolean(node, text, resolved),
            Type::Int(low, high) => self.integer(node, text, resolved, *low, *high),
            Type::Text(Text::PortMapping) if matches!(resolved, Resolved::Int(_)) => {
                self.text(text, node.span, Text::PortMapping);
            }
            Type::Text(form) => {
                if self.is_text(node, text, resolved) {
                    self.text(text, node.span, *form);
                }
            }
            Type::Name(_) => {
                if self.is_text(node, text, resolved) {
                    self.text(text, node.span, Text::Subdomain);
                }
            }
            Type::Choice(words) => {
                if self.is_text(node, text, resolved) {
                    self.choice(node, text, words);
                }
            }
            Type::Cpu | Type::Bytes => self.quantity(node, text, resolved, ty),
            Type::Divisor => {
                if matches!(resolved, Resolved::Bool(_)) {
                    self.wrong(node, ty, text, resolved, None);
                } else if let Err(fault) = bytes(text) {
                    self.quantity_fault(node, text, ty, fault);
                }
            }
            Type::IntOrPercent => self.share(node, text, resolved),
            Type::PortRef => self.port_ref(node, text, resolved),
            Type::Mode => self.mode(node, text, resolved),
            Type::Any
            | Type::List(_)
            | Type::Filled(_)
            | Type::Keyed(..)
            | Type::Map(..)
            | Type::Object(_) => {}
        }
    }

    fn wrong(&mut self, node: &Node<'_>, ty: &Type, text: &str, resolved: Resolved, help: Option<String>) {
        let got = if self.secret {
            resolved.kind().to_owned()
        } else {
            let kind = resolved.kind().trim_start_matches("an ").trim_start_matches("a ");
            match resolved {
                Resolved::Text => format!("the {kind} {text:?}"),
                _ => format!("the {kind} `{text}`"),
            }
        };
        let message = format!("expected {}, got {got}", expected(ty));
        self.report(Code::WrongType, node.span, message).maybe_help(help);
    }

    /// Whether the scalar is a string for kubectl too; reports it otherwise.
    fn is_text(&mut self, node: &Node<'_>, text: &str, resolved: Resolved) -> bool {
        let quoted = (!self.secret).then(|| format!("quote it: {text:?}"));
        match resolved {
            Resolved::Text => return true,
            Resolved::Bool(_)
                if !text.eq_ignore_ascii_case("true") && !text.eq_ignore_ascii_case("false") =>
            {
                let message = format!(
                    "YAML 1.1, which kubectl reads, makes {} a boolean; expected a string",
                    self.shown(text)
                );
                self.report(Code::YamlTrap, node.span, message).maybe_help(quoted);
            }
            _ => self.wrong(node, &Type::Text(Text::Any), text, resolved, quoted),
        }
        false
    }

    fn boolean(&mut self, node: &Node<'_>, text: &str, resolved: Resolved) {
        let Resolved::Bool(value) = resolved else {
            let help = matches!(resolve(text), Resolved::Bool(_)).then(|| "remove the quotes".to_owned());
            self.wrong(node, &Type::Bool, text, resolved, help);
            return;
        };
        if !text.eq_ignore_ascii_case("true") && !text.eq_ignore_ascii_case("false") {
            let message = format!("`{text}` is a boolean only for YAML 1.1");
            self.report(Code::OldBoolean, node.span, message).help(format!("write `{value}`"));
        }
    }

    /// The field at hand, without those above it.
    fn own_name(&self) -> String {
        let path = self.path.as_str();
        let name = match path.rfind("[\"").filter(|_| path.ends_with("\"]")) {
            Some(bracket) => path[bracket + 2..].trim_end_matches("\"]"),
            None => path.rsplit('.').next().unwrap_or(path),
        };
        format!("`{name}`")
    }

    fn integer(&mut self, node: &Node<'_>, text: &str, resolved: Resolved, low: i64, high: i64) {
        match resolved {
            Resolved::Int(value) if value < i128::from(low) || value > i128::from(high) => {
                let range = match (low, high) {
                    (0, h) if h >= i64::from(i32::MAX) => "must not be negative".to_owned(),
                    (l, h) if h >= i64::from(i32::MAX) => format!("must be at least {l}"),
                    (l, h) => format!("must be {l}-{h}"),
                };
                let too_large = value > i128::from(high) && high >= i64::from(i32::MAX);
                let range = if too_large { format!("must be at most {high}") } else { range };
                let name = self.own_name();
                self.report(Code::InvalidValue, node.span, format!("{name} {range}, got {value}"));
            }
            Resolved::Int(_) => {}
            _ => {
                let help = matches!(resolve(text), Resolved::Int(_)).then(|| "remove the quotes".to_owned());
                self.wrong(node, &Type::Int(low, high), text, resolved, help);
            }
        }
    }

    fn choice(&mut self, node: &Node<'_>, text: &str, words: &'static [Choice]) {
        let Some(choice) = words.iter().find(|choice| choice.word == text) else {
            let accepted: Vec<&str> = words
                .iter()
                .filter(|choice| choice.class != Class::Refused && !choice.word.is_empty())
                .map(|choice| choice.word)
                .collect();
            let message =
                format!("{} must be {}, got {}", self.own_name(), list(&accepted, "or"), self.shown(text));
            let help = nearest(text, accepted).map(|word| format!("did you mean `{word}`?"));
            self.report(Code::InvalidValue, node.span, message).maybe_help(help);
            return;
        };
        match choice.class {
            Class::Refused => {
                let message = format!("`{text}` is refused: {}", choice.doc);
                self.report(Code::RefusedValue, node.span, message).maybe_help(choice.help);
            }
            Class::Mapped => {
                self.report(Code::Adapted, node.span, format!("`{text}`: {}", choice.doc));
            }
            Class::Works | Class::NoMeaning | Class::Silent => {}
        }
    }

    fn quantity(&mut self, node: &Node<'_>, text: &str, resolved: Resolved, ty: &Type) {
        if matches!(resolved, Resolved::Bool(_) | Resolved::Null) {
            return self.wrong(node, ty, text, resolved, None);
        }
        let odd = match ty {
            Type::Cpu => cpu_millis(text).map(|millis| {
                (millis > ODD_CPU).then(|| format!("{} is {} cores", self.shown(text), millis / 1000))
            }),
            _ => bytes(text).map(|(size, thousandths)| {
                if thousandths {
                    Some(format!("{} is in thousandths of a byte", self.shown(text)))
                } else {
                    (size < ODD_BYTES && size > 0)
                        .then(|| format!("{} is only {size} bytes", self.shown(text)))
                }
            }),
        };
        match odd {
            Ok(None) => {}
            Ok(Some(message)) => {
                let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
                let help = match ty {
                    Type::Cpu => format!("did you mean `{digits}m`?"),
                    _ => format!("did you mean `{digits}Mi`?"),
                };
                self.report(Code::OddQuantity, node.span, message).help(help);
            }
            Err(fault) => self.quantity_fault(node, text, ty, fault),
        }
    }

    fn quantity_fault(&mut self, node: &Node<'_>, text: &str, ty: &Type, fault: QuantityFault) {
        let shown = self.shown(text);
        let (message, help) = match fault {
            QuantityFault::Form => {
                let example = if matches!(ty, Type::Cpu) { "`500m` or `0.5`" } else { "`64Mi` or `1Gi`" };
                (
                    format!("invalid quantity {shown}"),
                    Some(format!("write a number and a suffix, such as {example}")),
                )
            }
            QuantityFault::Near(meant) => {
                (format!("invalid quantity {shown}"), Some(format!("did you mean `{meant}`?")))
            }
            QuantityFault::Negative => (format!("must not be negative, got {shown}"), None),
            QuantityFault::TooLarge => (format!("quantity {shown} is too large"), None),
        };
        self.report(Code::InvalidQuantity, node.span, message).maybe_help(help);
    }

    fn share(&mut self, node: &Node<'_>, text: &str, resolved: Resolved) {
        if matches!(resolved, Resolved::Text | Resolved::Int(_)) && int_or_percent(text, resolved).is_some() {
            return;
        }
        let help = match resolve(text) {
            Resolved::Int(_) if resolved == Resolved::Text => Some("remove the quotes".to_owned()),
            _ => {
                let near = text.replace(' ', "");
                int_or_percent(&near, Resolved::Text).is_some().then(|| format!("did you mean `{near}`?"))
            }
        };
        let shown = if resolved == Resolved::Text { format!("{text:?}") } else { format!("`{text}`") };
        let message = format!("expected an integer or a percentage such as \"25%\", got {shown}");
        self.report(Code::WrongType, node.span, message).maybe_help(help);
    }

    fn port_ref(&mut self, node: &Node<'_>, text: &str, resolved: Resolved) {
        match resolved {
            Resolved::Int(_) => self.integer(node, text, resolved, 1, 65535),
            Resolved::Text if matches!(resolve(text), Resolved::Int(_)) => {
                let message = format!("a quoted number is a port name, and names need a letter: {text:?}");
                self.report(Code::WrongType, node.span, message).help("remove the quotes");
            }
            Resolved::Text => self.text(text, node.span, Text::PortName),
            _ => self.wrong(node, &Type::PortRef, text, resolved, None),
        }
    }

    fn mode(&mut self, node: &Node<'_>, text: &str, resolved: Resolved) {
        let Resolved::Int(value) = resolved else {
            let help = matches!(resolve(text), Resolved::Int(_)).then(|| "remove the quotes".to_owned());
            self.wrong(node, &Type::Mode, text, resolved, help);
            return;
        };
        let octal = text.starts_with('0') && text.len() > 1;
        let meant = (!octal && MODE_LOOKALIKES.contains(&value)).then(|| format!("write `0{value}`"));
        if !(0..=0o777).contains(&value) {
            let message = format!("must be 0 to 0777 (octal), got `{text}`");
            self.report(Code::InvalidValue, node.span, message).maybe_help(meant);
        } else if let Some(meant) = meant {
            let message = format!("decimal {value} is octal {value:04o}");
            self.report(Code::DecimalMode, node.span, message).help(meant);
        }
    }
}

/// The words for a type in messages.
fn expected(ty: &Type) -> &'static str {
    match ty {
        Type::Any => "a value",
        Type::Bool => "true or false",
        Type::Int(..) => "an integer",
        Type::Text(_) | Type::Choice(_) | Type::Name(_) => "a string",
        Type::Cpu | Type::Bytes | Type::Divisor => "a quantity",
        Type::IntOrPercent => "an integer or a percentage",
        Type::PortRef => "a port number or name",
        Type::Mode => "file permissions such as 0644",
        Type::List(_) | Type::Filled(_) | Type::Keyed(..) => "a list",
        Type::Map(..) | Type::Object(_) => "a map",
    }
}

/// An integer or a percentage without a sign or a blank.
pub(in crate::manifest) fn int_or_percent(text: &str, resolved: Resolved) -> Option<IntOrPercent> {
    match resolved {
        Resolved::Int(value) => u32::try_from(value).ok().map(IntOrPercent::Int),
        Resolved::Text => {
            let digits = text.strip_suffix('%')?;
            digits
                .bytes()
                .all(|b| b.is_ascii_digit())
                .then(|| digits.parse().ok())
                .flatten()
                .map(IntOrPercent::Percent)
        }
        _ => None,
    }
}
