//! The tables of the language against the types that Kubernetes publishes: every field of every kind that i2kit reads is
//! in a table, with a type that takes what Kubernetes would take, and no table has a field that Kubernetes does not.
//!
//! The published types are asked by deserialising from a source that gives every field that they ask for, and writes
//! down what it gave. That sample then goes through the checker like any manifest.

mod sample;

use std::collections::{BTreeMap, BTreeSet};

use i2kit::manifest::{Code, Options, SourceFile, json_schema, read};
use k8s_openapi::api::{apps, autoscaling, batch, core, networking, policy, storage};
use serde_json::Value;

use sample::{Fields, sample};

/// A document with every field of each kind, and the fields of every object in them.
fn samples() -> (BTreeMap<String, Value>, Fields) {
    let mut fields = Fields::new();
    let all = [
        sample::<apps::v1::Deployment>(&mut fields),
        sample::<apps::v1::ReplicaSet>(&mut fields),
        sample::<apps::v1::StatefulSet>(&mut fields),
        sample::<batch::v1::CronJob>(&mut fields),
        sample::<batch::v1::Job>(&mut fields),
        sample::<core::v1::ConfigMap>(&mut fields),
        sample::<core::v1::Namespace>(&mut fields),
        sample::<core::v1::PersistentVolumeClaim>(&mut fields),
        sample::<core::v1::Pod>(&mut fields),
        sample::<core::v1::Secret>(&mut fields),
        sample::<core::v1::Service>(&mut fields),
        sample::<core::v1::ServiceAccount>(&mut fields),
        sample::<networking::v1::Ingress>(&mut fields),
        sample::<networking::v1::NetworkPolicy>(&mut fields),
        sample::<policy::v1::PodDisruptionBudget>(&mut fields),
        sample::<storage::v1::StorageClass>(&mut fields),
    ];
    let named = |value: Value| (format!("{} {}", value["apiVersion"], value["kind"]), value);
    let mut documents: BTreeMap<String, Value> = all.into_iter().map(named).collect();
    // Two versions have objects of the same names, so they must not share the table of fields.
    for scaler in [
        sample::<autoscaling::v1::HorizontalPodAutoscaler>(&mut Fields::new()),
        sample::<autoscaling::v2::HorizontalPodAutoscaler>(&mut Fields::new()),
    ] {
        documents.extend([named(scaler)]);
    }
    (documents, fields)
}

#[test]
fn every_field_of_kubernetes_is_known_with_its_type() {
    let (documents, fields) = samples();
    assert!(fields.len() > 100, "only {} objects", fields.len());
    let options = Options { language_only: true, ..Options::default() };
    let mut wrong = Vec::new();
    for (name, document) in &documents {
        let files = [SourceFile { name: name.clone(), bytes: document.to_string().into_bytes() }];
        for found in read(&files, &options).diagnostics {
            assert_ne!(found.code, Code::TooLarge, "{name} has more findings than are listed");
            if matches!(found.code, Code::UnknownField | Code::WrongType | Code::UnknownKind) {
                wrong.push(format!("{name}: {} {}: {}", found.code, found.path, found.message));
            }
        }
    }
    assert!(wrong.is_empty(), "{} fields:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn no_table_has_a_field_that_kubernetes_has_not() {
    let (_, fields) = samples();
    let schema = json_schema(&[]);
    let mut compared = 0;
    let mut wrong = Vec::new();
    for (name, definition) in schema["definitions"].as_object().into_iter().flatten() {
        // Tables that stand for a part of a Kubernetes object have names of their own.
        let Some(known) = fields.get(name.as_str()) else { continue };
        compared += 1;
        let known: BTreeSet<&str> = known.iter().copied().collect();
        let ours = definition["properties"].as_object().into_iter().flatten();
        wrong.extend(
            ours.map(|(field, _)| field)
                .filter(|field| !known.contains(field.as_str()))
                .map(|field| format!("{name}.{field}")),
        );
    }
    assert!(compared > 60, "only {compared} tables have the name of a Kubernetes object");
    assert!(wrong.is_empty(), "Kubernetes does not know {wrong:?}");
}
