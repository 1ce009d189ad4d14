//! A JSON Schema of what is accepted, made from the tables; editors complete and check with it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::docs::tables;
use super::language::{Class, Field, KINDS, Kind, LIST, SHORT_FORM, Table, Text, Type};
use super::support::{Support, notes, only_on};

/// The schema of one document, with what these clouds make of each field.
pub fn json_schema(clouds: &[&'static Support]) -> Value {
    let definitions: BTreeMap<String, Value> =
        tables().into_iter().map(|table| (name(table), object(table, clouds))).collect();
    let mut cases: Vec<Value> = KINDS.iter().filter_map(case).collect();
    cases.push(json!({
        "if": { "not": { "required": ["apiVersion"] } },
        "then": { "$ref": reference(&SHORT_FORM) },
    }));
    let read = || KINDS.iter().filter(|kind| kind.class != Class::Refused).map(|kind| kind.name);
    let lists = read().chain([""]).map(|kind| format!("{kind}{}", LIST.name));
    let kinds: BTreeSet<String> = read().map(str::to_owned).chain(lists).collect();
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "i2kit manifest",
        "type": "object",
        "properties": { "kind": { "enum": kinds } },
        "allOf": cases,
        "definitions": definitions,
    })
}

/// What holds when a document has a kind's name and version.
fn case(kind: &Kind) -> Option<Value> {
    let table = kind.table?;
    Some(json!({
        "if": {
            "properties": { "apiVersion": { "const": kind.api_version }, "kind": { "const": kind.name } },
            "required": ["apiVersion", "kind"],
        },
        "then": { "$ref": reference(table) },
    }))
}

fn name(table: &Table) -> String {
    table.name.chars().filter(char::is_ascii_alphanumeric).collect()
}

fn reference(table: &Table) -> String {
    format!("#/definitions/{}", name(table))
}

/// The schema of one table.
pub(super) fn object(table: &'static Table, clouds: &[&'static Support]) -> Value {
    let properties: Map<String, Value> =
        table.fields.iter().map(|field| (field.name.to_owned(), property(table, field, clouds))).collect();
    let required: Vec<&str> =
        table.fields.iter().filter(|field| field.required).map(|field| field.name).collect();
    let mut schema = json!({
        "type": "object",
        "description": table.doc,
        "properties": properties,
        "additionalProperties": false,
    });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    let groups: Vec<Value> = table
        .one_of
        .iter()
        .map(|group| {
            let mut choices: Vec<Value> =
                group.fields.iter().map(|field| json!({ "required": [field] })).collect();
            if !group.required {
                choices.push(json!({ "not": { "anyOf": choices.clone() } }));
            }
            json!({ "oneOf": choices })
        })
        .collect();
    if !groups.is_empty() {
        schema["allOf"] = json!(groups);
    }
    schema
}

fn property(table: &Table, field: &'static Field, clouds: &[&'static Support]) -> Value {
    let mut schema = match field.class {
        Class::Refused if field.harmless.is_empty() => json!({ "not": {} }),
        Class::Refused => {
            json!({ "enum": field.harmless.iter().map(|text| literal(text)).collect::<Vec<_>>() })
        }
        _ => type_of(&field.ty),
    };
    if field.zero {
        allow_zero(&mut schema);
    }
    // In this version of JSON Schema nothing may stand beside a reference.
    if let Some(reference) = schema.get("$ref").cloned() {
        schema = json!({ "allOf": [{ "$ref": reference }] });
    }
    let mut description = match field.class {
        Class::Works => field.doc.to_owned(),
        class => format!("{}: {}", class.word(), field.doc),
    };
    if let Some(help) = field.help {
        description.push_str("; ");
        description.push_str(help);
    }
    if field.not_yet {
        description.push_str(" (not deployable yet)");
    }
    let answer = |cloud: &Support| cloud.field(table.name, field.name);
    if let Some(only) = only_on(clouds, answer) {
        description = format!("{description} ({only})");
    }
    for note in notes(clouds, answer) {
        description.push_str("; ");
        description.push_str(&note);
    }
    schema["description"] = description.into();
    if let Some(default) = field.default {
        schema["default"] = literal(default);
    }
    schema
}

/// Lets the schema take `0` or `""` too.
fn allow_zero(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else { return };
    schema.remove("minLength");
    if let Some(minimum) = schema.get_mut("minimum") {
        *minimum = 0.into();
    }
    if let Some(Value::String(pattern)) = schema.get_mut("pattern") {
        *pattern = format!("^({})?$", pattern.trim_start_matches('^').trim_end_matches('$'));
    }
    if let Some(Value::Array(words)) = schema.get_mut("enum")
        && !words.contains(&Value::from(""))
    {
        words.push("".into());
    }
}

/// A default as JSON: a number or truth value when it reads as one.
fn literal(text: &str) -> Value {
    match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ => text
            .parse::<i64>()
            .ok()
            .filter(|n| n.to_string() == text)
            .map_or_else(|| text.into(), Value::from),
    }
}

fn type_of(ty: &Type) -> Value {
    match ty {
        Type::Any => json!({}),
        Type::Bool => json!({ "type": "boolean" }),
        Type::Int(low, high) if *high == i64::MAX => json!({ "type": "integer", "minimum": low }),
        Type::Int(low, high) => json!({ "type": "integer", "minimum": low, "maximum": high }),
        Type::Text(form) => text(*form),
        Type::Choice(words) => {
            let accepted = words.iter().filter(|choice| choice.class != Class::Refused);
            json!({ "enum": accepted.map(|choice| choice.word).collect::<Vec<_>>() })
        }
        Type::Cpu | Type::Bytes | Type::Divisor => {
            json!({ "type": ["string", "number"], "pattern": r"^\+?[0-9]*\.?[0-9]*([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]+)?$" })
        }
        Type::IntOrPercent => json!({ "type": ["string", "integer"], "pattern": "^[0-9]+%$", "minimum": 0 }),
        Type::PortRef => {
            json!({ "type": ["string", "integer"], "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", "minimum": 1, "maximum": 65535 })
        }
        // Editors read YAML 1.2, where 0644 is decimal, so no bound fits both readings.
        Type::Mode => json!({ "type": "integer", "minimum": 0 }),
        Type::List(item) => json!({ "type": "array", "items": type_of(item) }),
        Type::Filled(item) => json!({ "type": "array", "items": type_of(item), "minItems": 1 }),
        Type::Keyed(table, _) => json!({ "type": "array", "items": { "$ref": reference(table) } }),
        Type::Map(_, value) => json!({ "type": "object", "additionalProperties": type_of(value) }),
        Type::Object(table) => json!({ "$ref": reference(table) }),
        Type::Name(_) => json!({ "type": "string", "minLength": 1 }),
    }
}

fn text(form: Text) -> Value {
    const LABEL: &str = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";
    match form {
        Text::Label => json!({ "type": "string", "pattern": LABEL }),
        Text::Subdomain => json!({ "type": "string", "pattern": "^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$" }),
        Text::Filled | Text::Image | Text::EnvName | Text::DataKey | Text::SubPath | Text::FieldPath => {
            json!({ "type": "string", "minLength": 1 })
        }
        Text::PortMapping => json!({ "type": ["string", "integer"] }),
        Text::Assignment => json!({ "type": "string", "pattern": "^[^= ]+=" }),
        _ => json!({ "type": "string" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every `$ref` of a schema.
    fn references(schema: &Value, found: &mut Vec<String>) {
        match schema {
            Value::Object(map) => {
                for (key, value) in map {
                    match value {
                        Value::String(target) if key == "$ref" => found.push(target.clone()),
                        value => references(value, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let schema = json_schema(&[]);
        let mut found = Vec::new();
        references(&schema, &mut found);
        assert!(found.len() > 100);
        for target in found {
            assert!(schema.pointer(&target[1..]).is_some(), "{target}");
        }
    }

    #[test]
    fn a_field_has_type_default_and_meaning() {
        let schema = json_schema(&[]);
        let replicas = &schema["definitions"]["DeploymentSpec"]["properties"]["replicas"];
        assert_eq!(replicas["type"], "integer");
        assert_eq!(replicas["default"], 1);
        assert!(replicas["description"].as_str().unwrap().starts_with("machines in the group"));
        let privileged = &schema["definitions"]["SecurityContext"]["properties"]["privileged"];
        assert_eq!(privileged["enum"], json!([false]));
    }
}
