//! The form of the tables that the language is written in. The checker, the JSON Schema and the docs page are made
//! from them; fields are listed nowhere else.

/// What becomes of a field or a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::manifest) enum Class {
    /// Means what it means in Kubernetes.
    Works,
    /// Accepted, with the meaning for a virtual machine that the doc column gives.
    Mapped,
    /// An error; the help column has the way out.
    Refused,
    /// Accepted with a warning: it has no meaning here.
    NoMeaning,
    /// Accepted without a finding: what clusters write into the objects that they print.
    Silent,
}

impl Class {
    /// The word by which the docs page names the class.
    pub(in crate::manifest) const fn word(self) -> &'static str {
        match self {
            Self::Works => "works",
            Self::Mapped => "adapted",
            Self::Refused => "refused",
            Self::NoMeaning => "no meaning",
            Self::Silent => "ignored",
        }
    }
}

/// A command-line switch that turns a refusal off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::manifest) enum Switch {
    /// `--allow-privileged`
    Privileged,
    /// `--host-is-vm`
    HostIsVm,
}

/// An object of the language: a kind, or a part that several kinds share.
#[derive(Debug)]
pub(in crate::manifest) struct Table {
    /// Its name in the Kubernetes API reference.
    pub(in crate::manifest) name: &'static str,
    pub(in crate::manifest) doc: &'static str,
    pub(in crate::manifest) fields: &'static [Field],
    /// Fields of which at most one may be given.
    pub(in crate::manifest) one_of: &'static [OneOf],
}

/// Fields that exclude each other.
#[derive(Debug)]
pub(in crate::manifest) struct OneOf {
    pub(in crate::manifest) fields: &'static [&'static str],
    /// Whether one of them must be given.
    pub(in crate::manifest) required: bool,
}

impl Table {
    pub(in crate::manifest) const fn new(
        name: &'static str,
        doc: &'static str,
        fields: &'static [Field],
    ) -> Self {
        Self { name, doc, fields, one_of: &[] }
    }

    pub(in crate::manifest) const fn one_of(mut self, one_of: &'static [OneOf]) -> Self {
        self.one_of = one_of;
        self
    }

    pub(in crate::manifest) fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

/// One line of a table.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent marks of a field")]
pub(in crate::manifest) struct Field {
    pub(in crate::manifest) name: &'static str,
    pub(in crate::manifest) ty: Type,
    pub(in crate::manifest) class: Class,
    /// What it means for a virtual machine; for what is refused or has no meaning, why.
    pub(in crate::manifest) doc: &'static str,
    pub(in crate::manifest) required: bool,
    /// The default as one would write it.
    pub(in crate::manifest) default: Option<&'static str>,
    /// What i2kit cannot deploy yet although the language has it.
    pub(in crate::manifest) not_yet: bool,
    /// Values that class, note and deployability do not apply to.
    pub(in crate::manifest) harmless: &'static [&'static str],
    /// Whether an empty map means something, as in `emptyDir: {}`.
    pub(in crate::manifest) presence: bool,
    /// Whether its zero (`0` or `""`) means that it is not given: in Kubernetes such a field is no pointer, so that
    /// nobody can tell the two apart.
    pub(in crate::manifest) zero: bool,
    /// The way out of a refusal.
    pub(in crate::manifest) help: Option<&'static str>,
    pub(in crate::manifest) switch: Option<Switch>,
}

impl Field {
    const fn new(name: &'static str, ty: Type, class: Class, doc: &'static str) -> Self {
        Self {
            name,
            ty,
            class,
            doc,
            required: false,
            default: None,
            not_yet: false,
            harmless: &[],
            presence: false,
            zero: false,
            help: None,
            switch: None,
        }
    }

    pub(in crate::manifest) const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    pub(in crate::manifest) const fn default(mut self, text: &'static str) -> Self {
        self.default = Some(text);
        self
    }

    pub(in crate::manifest) const fn not_yet(mut self) -> Self {
        self.not_yet = true;
        self
    }

    pub(in crate::manifest) const fn unless(mut self, values: &'static [&'static str]) -> Self {
        self.harmless = values;
        self
    }

    pub(in crate::manifest) const fn presence(mut self) -> Self {
        self.presence = true;
        self
    }

    /// Its zero means that it is not given.
    pub(in crate::manifest) const fn zero(mut self) -> Self {
        self.zero = true;
        self
    }

    pub(in crate::manifest) const fn help(mut self, help: &'static str) -> Self {
        self.help = Some(help);
        self
    }

    pub(in crate::manifest) const fn switch(mut self, switch: Switch) -> Self {
        self.switch = Some(switch);
        self
    }
}

/// A field that means what it means in Kubernetes.
pub(super) const fn works(name: &'static str, ty: Type, doc: &'static str) -> Field {
    Field::new(name, ty, Class::Works, doc)
}

/// A field with a meaning of its own for virtual machines.
pub(super) const fn mapped(name: &'static str, ty: Type, doc: &'static str) -> Field {
    Field::new(name, ty, Class::Mapped, doc)
}

/// A field that is an error.
pub(super) const fn refused(name: &'static str, ty: Type, why: &'static str, help: &'static str) -> Field {
    Field::new(name, ty, Class::Refused, why).help(help)
}

/// A field that is accepted with a warning.
pub(super) const fn no_meaning(name: &'static str, ty: Type, why: &'static str) -> Field {
    Field::new(name, ty, Class::NoMeaning, why)
}

/// A field that is accepted without a finding.
pub(super) const fn silent(name: &'static str, why: &'static str) -> Field {
    Field::new(name, Type::Any, Class::Silent, why)
}

/// What a value must be.
#[derive(Debug, Clone, Copy)]
pub(in crate::manifest) enum Type {
    /// Anything; only for fields that nobody reads.
    Any,
    Bool,
    /// An integer from, to.
    Int(i64, i64),
    Text(Text),
    /// One of a few words.
    Choice(&'static [Choice]),
    /// Like `500m`, `0.5`.
    Cpu,
    /// Like `64Mi`.
    Bytes,
    /// The unit of a resource: a quantity that is not 0.
    Divisor,
    /// An integer or a percentage such as `25%`.
    IntOrPercent,
    /// A port number or the name of a port.
    PortRef,
    /// File permissions: `0644`.
    Mode,
    List(&'static Type),
    /// A list with at least one item.
    Filled(&'static Type),
    /// A list of objects that a field tells apart.
    Keyed(&'static Table, &'static str),
    Map(Text, &'static Type),
    Object(&'static Table),
    /// The name of another object of the set.
    Name(Target),
}

/// Kinds that fields name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::manifest) enum Target {
    ConfigMap,
    Secret,
    Claim,
    ServiceAccount,
    StorageClass,
    Service,
}

impl Target {
    pub(in crate::manifest) const fn kind(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
            Self::Claim => "PersistentVolumeClaim",
            Self::ServiceAccount => "ServiceAccount",
            Self::StorageClass => "StorageClass",
            Self::Service => "Service",
        }
    }
}

/// Forms of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::manifest) enum Text {
    Any,
    Filled,
    /// RFC 1123 label, at most 63 characters.
    Label,
    /// RFC 1123 subdomain, at most 253 characters.
    Subdomain,
    /// Name of a port: at most 15 lower-case letters, digits and `-`, with a letter.
    PortName,
    /// Name of an environment variable.
    EnvName,
    /// Key of a label or annotation: `prefix/name`.
    LabelKey,
    LabelValue,
    Image,
    /// Below a volume: relative, without `..`.
    SubPath,
    /// Key of a ConfigMap or Secret.
    DataKey,
    /// DNS name, first label `*` allowed.
    Host,
    Base64,
    /// A schedule of five fields, or a word for one.
    Cron,
    /// The IANA name of a time zone.
    TimeZone,
    /// Indexes of an Indexed Job: `0,3-5`.
    Indexes,
    Cidr,
    Ip,
    /// Path of a field of the pod for `fieldRef`.
    FieldPath,
    /// Name of a signal, `SIGTERM`.
    Signal,
    /// The paper's `https:443:http:80`.
    PortMapping,
    /// The paper's `NAME=VALUE`.
    Assignment,
}

/// One word of a [`Type::Choice`].
#[derive(Debug)]
pub(in crate::manifest) struct Choice {
    pub(in crate::manifest) word: &'static str,
    pub(in crate::manifest) class: Class,
    /// What it means, or why it is refused.
    pub(in crate::manifest) doc: &'static str,
    pub(in crate::manifest) help: Option<&'static str>,
}

/// A word that means what it means in Kubernetes.
pub(super) const fn word(word: &'static str, doc: &'static str) -> Choice {
    Choice { word, class: Class::Works, doc, help: None }
}

/// A word that is accepted with a note.
pub(super) const fn mapped_word(word: &'static str, doc: &'static str) -> Choice {
    Choice { word, class: Class::Mapped, doc, help: None }
}

/// A word that is an error.
pub(super) const fn refused_word(word: &'static str, why: &'static str, help: &'static str) -> Choice {
    Choice { word, class: Class::Refused, doc: why, help: Some(help) }
}

/// The usual text.
pub(super) const TEXT: Type = Type::Text(Text::Any);
/// A DNS label.
pub(super) const LABEL: Type = Type::Text(Text::Label);
/// Any text in a list.
pub(super) const TEXTS: Type = Type::List(&TEXT);
/// Labels.
pub(super) const LABELS: Type = Type::Map(Text::LabelKey, &Type::Text(Text::LabelValue));
/// Annotations.
pub(super) const ANNOTATIONS: Type = Type::Map(Text::LabelKey, &TEXT);
/// A port number.
pub(super) const PORT: Type = Type::Int(1, 65535);
/// A count or a time: Kubernetes' 32-bit integers, not negative.
pub(super) const COUNT: Type = Type::Int(0, i32::MAX as i64);
/// The same, at least 1.
pub(super) const COUNT_1: Type = Type::Int(1, i32::MAX as i64);
/// Seconds. Kubernetes takes 64 bits for some of them; the largest number of 32 bits is 68 years, and no sum of a few of
/// them overflows where they are added to times.
pub(super) const SECONDS: Type = Type::Int(0, i32::MAX as i64);
/// A number of a user or a group. Kubernetes takes 64 bits for them, and container engines have this bound: the kernel
/// means "none" by the last number of 32 bits, and programs see the upper half as negative.
pub(super) const ID: Type = Type::Int(0, i32::MAX as i64);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::check::{Check, Findings};
    use crate::manifest::{Options, docs, schema, tree};

    static WITHOUT: Table = Table::new("Lamp", "Light.", &[works("name", LABEL, "its name").required()]);

    /// The same with one more line.
    static WITH: Table = Table::new(
        "Lamp",
        "Light.",
        &[
            works("name", LABEL, "its name").required(),
            mapped("brightness", Type::Int(0, 100), "in percent of the sun").default("50").not_yet(),
        ],
    );

    /// `code path: message` of each finding.
    fn check(table: &'static Table, text: &str) -> Vec<String> {
        let (mut findings, mut references, options) = (Findings::default(), Vec::new(), Options::default());
        let parsed = tree::parse(text, 0);
        let mut check = Check::new(&options, &mut findings, &mut references);
        check.object(&parsed.documents[0], table);
        findings.all.iter().map(|found| format!("{} {}: {}", found.code, found.path, found.message)).collect()
    }

    #[test]
    fn a_line_reaches_the_page_the_schema_and_the_checker() {
        let page = |table| {
            let mut page = String::new();
            docs::section(&mut page, table, &[]);
            page
        };
        let row = "| brightness | integer 0-100 | adapted, *not yet* | `50` | in percent of the sun |";
        assert!(!page(&WITHOUT).contains("brightness"));
        assert!(page(&WITH).contains(row), "{}", page(&WITH));

        assert!(schema::object(&WITHOUT, &[])["properties"].get("brightness").is_none());
        let property = &schema::object(&WITH, &[])["properties"]["brightness"];
        assert_eq!((&property["maximum"], &property["default"]), (&100.into(), &50.into()));

        let unknown = "unknown-field brightness: unknown field `brightness` in Lamp";
        let not_yet = "not-deployable-yet brightness: not deployable yet: `brightness`";
        let range = "invalid-value brightness: `brightness` must be 0-100, got 101";
        assert_eq!(check(&WITHOUT, "name: a\nbrightness: 5\n"), [unknown]);
        assert_eq!(check(&WITH, "name: a\nbrightness: 5\n"), [not_yet]);
        assert_eq!(check(&WITH, "name: a\nbrightness: 101\n"), [not_yet, range]);
    }
}
