//! The page that describes the language, made from its tables and from what clouds support.

use std::fmt::Write as _;

use super::language::{
    Choice, Class, Field, KINDS, LIST, MACHINE_ANNOTATIONS, POD_ANNOTATIONS, Table, Text, Type,
};
use super::support::{
    ACME, ENDING_POD, HEADLESS, INGRESS_RANGES, NAMED_CLASS, PLACEMENT, REPLICATED, ROLE, SNAPSHOTS, Support,
    TLS, annotations, notes, only_on,
};

const HEAD: &str = "<!-- Made from the tables in src/manifest/language and src/cloud/*/support.rs by `i2kit schema --format markdown`. -->
# Manifests: what i2kit reads, and what it means for machines

One pod is one machine; a pod template is one immutable machine image; a workload is a group of machines. All files
given in one call are one set: selectors and references are resolved inside it. An unknown field is always an error.
Every known field is in one of these classes:

| class | meaning |
|---|---|
| works | as in Kubernetes |
| adapted | accepted, with the meaning given here |
| refused | an error that names the way out |
| no meaning | accepted with a warning, without effect |
| ignored | accepted without a finding: what clusters write into the objects that they print |

A field that is `0` or `\"\"` counts as absent where the column of defaults names that, as in Kubernetes.

*Not yet* marks what the language has and this version cannot deploy; *only on* names the clouds that have a thing, where
others do not. `check` reports both, for the cloud of the environment file.
";

/// The whole page.
pub fn markdown(clouds: &[&'static Support]) -> String {
    let mut page = HEAD.to_owned();
    page.push_str("\n## Kinds\n\n| kind | version | class | meaning |\n|---|---|---|---|\n");
    for kind in KINDS {
        let name = match kind.table {
            Some(table) => format!("[{}](#{})", kind.name, anchor(table.name)),
            None => kind.name.to_owned(),
        };
        let answer = |cloud: &Support| cloud.answer(kind.name);
        let class = class(kind.class, false, only_on(clouds, answer));
        let more = kind.help.map(str::to_owned).into_iter().chain(notes(clouds, answer));
        let more = more.fold(String::new(), |more, text| more + "; " + &cell(&text));
        put(
            &mut page,
            format_args!("| {name} | {} | {class} | {}{more} |\n", kind.api_version, cell(kind.doc)),
        );
    }
    put(
        &mut page,
        format_args!(
            "| [List](#{}), and lists of a kind such as ConfigMapList | v1 | works | its items are read as if they stood alone |\n",
            anchor(LIST.name)
        ),
    );
    page.push_str(
        "\nAny other kind is an error; `--ignore-kind KIND` leaves objects of a kind out, `--ignore-kind KIND.GROUP`\nthose of one API group.\n",
    );
    page.push_str("\n## Annotations\n\nOther annotations are kept and have no effect.\n\n| annotation | of | meaning |\n|---|---|---|\n");
    for (key, cloud, meaning) in annotations(clouds) {
        put(&mut page, format_args!("| `{key}` | {} | {} |\n", cloud.unwrap_or_default(), meaning.doc()));
    }
    for (key, doc) in MACHINE_ANNOTATIONS {
        put(&mut page, format_args!("| `{key}` |  | Pod: {doc} |\n"));
    }
    for (key, doc) in POD_ANNOTATIONS {
        put(&mut page, format_args!("| `{key}` |  | Pod of a StatefulSet: {doc} |\n"));
    }
    for table in tables() {
        section(&mut page, table, clouds);
    }
    page
}

/// All tables, each once, in the order in which the kinds lead to them.
pub(super) fn tables() -> Vec<&'static Table> {
    let mut found: Vec<&'static Table> = Vec::new();
    for table in KINDS.iter().filter_map(|kind| kind.table).chain([&LIST, &super::language::SHORT_FORM]) {
        visit(table, &mut found);
    }
    found
}

fn visit(table: &'static Table, found: &mut Vec<&'static Table>) {
    if found.iter().any(|known| std::ptr::eq(*known, table)) {
        return;
    }
    found.push(table);
    for field in table.fields {
        if let Some(inner) = table_of(&field.ty) {
            visit(inner, found);
        }
    }
}

/// The table of the objects that a type holds.
fn table_of(ty: &Type) -> Option<&'static Table> {
    match ty {
        Type::Object(table) | Type::Keyed(table, _) => Some(table),
        Type::List(inner) | Type::Filled(inner) | Type::Map(_, inner) => table_of(inner),
        _ => None,
    }
}

/// The section of one table.
pub(super) fn section(page: &mut String, table: &'static Table, clouds: &[&'static Support]) {
    put(page, format_args!("\n## {}\n\n{}\n\n", table.name, cell(table.doc)));
    page.push_str("| field | type | class | default | meaning |\n|---|---|---|---|---|\n");
    for field in table.fields {
        row(page, (table, field), clouds);
    }
    for group in table.one_of {
        let names: Vec<String> = group.fields.iter().map(|name| format!("`{name}`")).collect();
        let how = if group.required { "Exactly one" } else { "At most one" };
        put(page, format_args!("\n{how} of {}.\n", names.join(", ")));
    }
}

fn row(page: &mut String, (table, field): (&Table, &Field), clouds: &[&'static Support]) {
    let answer = |cloud: &Support| cloud.field(table.name, field.name);
    let name = if field.required { format!("**{}**", field.name) } else { field.name.to_owned() };
    let mut meaning = cell(field.doc);
    if let Some(help) = field.help {
        put(&mut meaning, format_args!("; {}", cell(help)));
    }
    if !field.harmless.is_empty() {
        let values: Vec<String> = field.harmless.iter().map(|value| format!("`{value}`")).collect();
        put(&mut meaning, format_args!(" ({} is fine)", values.join(", ")));
    }
    for note in notes(clouds, answer) {
        put(&mut meaning, format_args!("; {}", cell(&note)));
    }
    for word in words(&field.ty) {
        let answer = |cloud: &Support| cloud.word(table.name, field.name, word.word);
        let class = match (word.class, only_on(clouds, answer)) {
            (Class::Works, None) => String::new(),
            (given, only) => format!(" *({})*", class(given, false, only)),
        };
        let shown = if word.word.is_empty() { "\"\"" } else { word.word };
        let notes =
            notes(clouds, answer).iter().fold(String::new(), |notes, note| notes + "; " + &cell(note));
        put(&mut meaning, format_args!("<br>`{shown}`{class}: {}{notes}", cell(word.doc)));
    }
    let default = field
        .default
        .map(|text| format!("`{}`", if text.is_empty() { "\"\"" } else { text }))
        .unwrap_or_default();
    let default = match (field.zero, &field.ty) {
        (false, _) => default,
        _ if default.is_empty() => default,
        (true, Type::Int(..)) => default + " (also for `0`)",
        (true, Type::PortRef) => default + " (also for `0` and `\"\"`)",
        (true, _) => default + " (also for `\"\"`)",
    };
    put(
        page,
        format_args!(
            "| {name} | {} | {} | {default} | {meaning} |\n",
            type_of(&field.ty),
            class(field.class, field.not_yet, only_on(clouds, answer))
        ),
    );
}

/// The words that a value may be.
fn words(ty: &Type) -> &'static [Choice] {
    match ty {
        Type::Choice(words) => words,
        Type::List(inner) | Type::Filled(inner) => words(inner),
        _ => &[],
    }
}

fn class(class: Class, not_yet: bool, only: Option<String>) -> String {
    let word = class.word();
    match only {
        _ if not_yet => format!("{word}, *not yet*"),
        Some(only) => format!("{word}, *{only}*"),
        None => word.to_owned(),
    }
}

/// Paths of answers that name nothing in the language, and no verb: slips in a cloud's table.
pub fn unknown(cloud: &Support) -> Vec<&'static str> {
    let named = [
        TLS,
        ROLE,
        PLACEMENT,
        ENDING_POD,
        HEADLESS,
        NAMED_CLASS,
        INGRESS_RANGES,
        ACME,
        REPLICATED,
        SNAPSHOTS,
    ];
    let is_kind = |path: &str| KINDS.iter().any(|kind| kind.name == path);
    let is_field = |path: &str| {
        let (field, word) = path.split_once('=').map_or((path, None), |(field, word)| (field, Some(word)));
        let Some((table, field)) = field.split_once('.') else { return false };
        let table = tables().into_iter().find(|known| known.name == table);
        let field = table.and_then(|table| table.field(field));
        field.is_some_and(|field| {
            word.is_none_or(|word| words(&field.ty).iter().any(|known| known.word == word))
        })
    };
    let known =
        |path: &&str| named.contains(path) || path.starts_with("i2kit ") || is_kind(path) || is_field(path);
    cloud.paths().filter(|path| !known(path)).collect()
}

fn type_of(ty: &Type) -> String {
    match ty {
        Type::Any => "any".into(),
        Type::Bool => "boolean".into(),
        Type::Int(low, high) if *high >= i64::from(i32::MAX) => match low {
            0 => "integer".into(),
            low => format!("integer from {low}"),
        },
        Type::Int(low, high) => format!("integer {low}-{high}"),
        Type::Text(form) => text(*form).into(),
        Type::Choice(_) => "word".into(),
        Type::Cpu | Type::Bytes | Type::Divisor => "quantity".into(),
        Type::IntOrPercent => "integer or percentage".into(),
        Type::PortRef => "port number or name".into(),
        Type::Mode => "octal permissions".into(),
        Type::List(inner) | Type::Filled(inner) => format!("list of {}", type_of(inner)),
        Type::Keyed(table, _) => format!("list of {}", type_of(&Type::Object(table))),
        Type::Map(_, inner) => format!("map of {}", type_of(inner)),
        Type::Object(table) => format!("[{}](#{})", table.name, anchor(table.name)),
        Type::Name(target) => format!("name of a {}", target.kind()),
    }
}

fn text(form: Text) -> &'static str {
    match form {
        Text::Any | Text::Filled => "text",
        Text::Label => "DNS label",
        Text::Subdomain => "DNS name",
        Text::PortName => "port name",
        Text::EnvName => "variable name",
        Text::LabelKey => "label key",
        Text::LabelValue => "label value",
        Text::Image => "image reference",
        Text::SubPath => "relative path",
        Text::DataKey => "key",
        Text::Host => "host name",
        Text::Base64 => "base64",
        Text::Cron => "schedule",
        Text::TimeZone => "time zone",
        Text::Indexes => "indexes such as `0,3-5`",
        Text::Cidr => "address range",
        Text::Ip => "IP address",
        Text::FieldPath => "field of the pod",
        Text::Signal => "signal",
        Text::PortMapping => "port or mapping",
        Text::Assignment => "`NAME=VALUE`",
    }
}

fn put(page: &mut String, words: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = page.write_fmt(words);
}

/// GitHub's anchor of a heading.
fn anchor(heading: &str) -> String {
    heading
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, ' ' | '-'))
        .map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() })
        .collect()
}

/// Text that does not end a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::kinds;

    #[test]
    fn what_clouds_answer_about_is_in_the_language() {
        for cloud in kinds::supports() {
            assert_eq!(unknown(cloud), Vec::<&str>::new(), "{}", cloud.name);
        }
    }

    #[test]
    fn the_page_in_docs_is_the_one_made_from_the_tables() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/manifests.md");
        let page = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            page == markdown(kinds::supports()),
            "docs/manifests.md is out of date: run `i2kit schema --format markdown > docs/manifests.md`"
        );
    }

    /// One line of a table is all that a field needs: whatever is in a table is in the page and in the schema, and the
    /// checker, which walks the same table, knows it.
    #[test]
    fn every_line_of_a_table_is_in_the_page_and_in_the_schema() {
        let clouds = kinds::supports();
        let (page, schema) = (markdown(clouds), crate::manifest::json_schema(clouds));
        let mut fields = 0;
        for table in tables() {
            let section = page.split("\n## ").find(|section| section.lines().next() == Some(table.name));
            let section = section.unwrap_or_else(|| panic!("no section for {}", table.name));
            let name: String = table.name.chars().filter(char::is_ascii_alphanumeric).collect();
            let properties = &schema["definitions"][&name]["properties"];
            for field in table.fields {
                fields += 1;
                let rows = [format!("\n| {} |", field.name), format!("\n| **{}** |", field.name)];
                let is_in_page = rows.iter().any(|row| section.contains(row));
                assert!(is_in_page, "{}.{} is not in the page", table.name, field.name);
                assert!(
                    properties.get(field.name).is_some(),
                    "{}.{} is not in the schema",
                    table.name,
                    field.name
                );
            }
        }
        assert!(fields > 500, "only {fields} fields");
    }

    #[test]
    fn every_name_of_a_table_is_unique() {
        let mut names: Vec<&str> = tables().iter().map(|table| table.name).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
