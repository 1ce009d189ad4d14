//! The page that describes the language, made from its tables.

use std::fmt::Write as _;

use super::language::{Choice, Class, Field, KINDS, LIST, Locally, Table, Text, Type};

const HEAD: &str = "<!-- Made from the tables in src/manifest/language by `i2kit schema --format markdown`. -->
# Manifests: what i2kit reads, and what it means for machines

One pod is one machine; a pod template is one immutable machine image; a workload is a group of machines. All files
given in one call are one set: selectors and references are resolved inside it. An unknown field is always an error.
Every known field is in one of these classes:

| class | meaning |
|---|---|
| works | as in Kubernetes |
| adapted | accepted, with the meaning given here |
| refused | an error that names the way out |
| no meaning | accepted with a warning |
| ignored | accepted without a word: what clusters write into the objects that they print |

Some fields cannot be told from absent ones when they are `0` or `\"\"`, as in Kubernetes; the column of defaults says so.

*Not yet* marks what the language has and this version cannot deploy, *AWS only* what the local cloud does not have:
`check` says so, for the cloud of the environment file.
";

/// The whole page.
pub fn markdown() -> String {
    let mut page = HEAD.to_owned();
    page.push_str("\n## Kinds\n\n| kind | version | class | meaning |\n|---|---|---|---|\n");
    for kind in KINDS {
        let name = match kind.table {
            Some(table) => format!("[{}](#{})", kind.name, anchor(table.name)),
            None => kind.name.to_owned(),
        };
        let class = class(kind.class, kind.not_yet, kind.locally);
        let help = kind.help.map(|help| format!("; {help}")).unwrap_or_default();
        put(
            &mut page,
            format_args!("| {name} | {} | {class} | {}{help} |\n", kind.api_version, cell(kind.doc)),
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
    for table in tables() {
        section(&mut page, table);
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
pub(super) fn section(page: &mut String, table: &'static Table) {
    put(page, format_args!("\n## {}\n\n{}\n\n", table.name, cell(table.doc)));
    page.push_str("| field | type | class | default | meaning |\n|---|---|---|---|---|\n");
    for field in table.fields {
        row(page, field);
    }
    for group in table.one_of {
        let names: Vec<String> = group.fields.iter().map(|name| format!("`{name}`")).collect();
        let how = if group.required { "Exactly one" } else { "At most one" };
        put(page, format_args!("\n{how} of {}.\n", names.join(", ")));
    }
}

fn row(page: &mut String, field: &Field) {
    let name = if field.required { format!("**{}**", field.name) } else { field.name.to_owned() };
    let mut meaning = cell(field.doc);
    if let Some(help) = field.help {
        put(&mut meaning, format_args!("; {}", cell(help)));
    }
    if !field.harmless.is_empty() {
        let values: Vec<String> = field.harmless.iter().map(|value| format!("`{value}`")).collect();
        put(&mut meaning, format_args!(" ({} is fine)", values.join(", ")));
    }
    if let Locally::Noted(note) = field.locally {
        put(&mut meaning, format_args!("; locally: {}", cell(note)));
    }
    for word in words(&field.ty) {
        let class = match (word.class, word.not_yet, word.locally) {
            (Class::Works, false, Locally::Same) => String::new(),
            (given, not_yet, locally) => format!(" *({})*", class(given, not_yet, locally)),
        };
        let shown = if word.word.is_empty() { "\"\"" } else { word.word };
        put(&mut meaning, format_args!("<br>`{shown}`{class}: {}", cell(word.doc)));
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
            class(field.class, field.not_yet, field.locally)
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

fn class(class: Class, not_yet: bool, locally: Locally) -> String {
    let word = class.word();
    match locally {
        _ if not_yet => format!("{word}, *not yet*"),
        Locally::Refused => format!("{word}, *AWS only*"),
        Locally::Only => format!("{word}, *local cloud only*"),
        Locally::Same | Locally::Noted(_) => word.to_owned(),
    }
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

    #[test]
    fn the_page_in_docs_is_the_one_made_from_the_tables() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/manifests.md");
        let page = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            page == markdown(),
            "docs/manifests.md is out of date: run `i2kit schema --format markdown > docs/manifests.md`"
        );
    }

    /// One line of a table is all that a field needs: whatever is in a table is in the page and in the schema, and the
    /// checker, which walks the same table, knows it.
    #[test]
    fn every_line_of_a_table_is_in_the_page_and_in_the_schema() {
        let (page, schema) = (markdown(), crate::manifest::json_schema());
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
