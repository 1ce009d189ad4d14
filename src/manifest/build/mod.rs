//! Checked trees as typed objects, all defaults applied. What could not be read here although the checker let it
//! pass is a fault of i2kit, and is reported as one rather than guessed.

mod batch;
mod container;
mod env;
mod object;
mod placement;
mod pod;
mod policy;
mod probe;
mod replicated;
mod scaling;
mod scope;
mod service;
mod storage;
mod volume;
mod workload;

use super::api::ObjectSet;
use super::code::Code;
use super::diagnostic::{Diagnostic, Place};
use super::set::{Document, Index};
use super::support::Clouds;
use object::{Missing, Object};
use scope::Scope;

/// A field that the checker accepted and that cannot be read.
#[derive(Debug)]
pub(super) struct BuildFault {
    /// The object and the field.
    what: String,
    place: Place,
}

impl BuildFault {
    pub(super) fn diagnostic(self) -> Diagnostic {
        Diagnostic {
            severity: Code::Internal.severity(),
            code: Code::Internal,
            place: self.place,
            object: String::new(),
            path: String::new(),
            message: format!("{} passed the check and could not be read", self.what),
            help: Some("this is a fault of i2kit; please report it with the manifest".into()),
            related: Vec::new(),
        }
    }
}

/// The typed objects of a set without errors.
pub(super) fn set<'d>(documents: &'d [Document<'d>], clouds: &'d Clouds) -> Result<ObjectSet, BuildFault> {
    let mut set = ObjectSet::default();
    let index = Index::new(documents);
    for document in documents {
        one(document, (&index, clouds), &mut set).map_err(|missing| BuildFault {
            what: format!("{}: {missing}", document.title()),
            place: document.place(document.root.span),
        })?;
    }
    replicated::find_ports(&mut set);
    Ok(set)
}

fn one<'d>(
    document: &'d Document<'d>,
    (index, clouds): (&'d Index<'d, 'd>, &'d Clouds),
    set: &mut ObjectSet,
) -> Result<(), Missing> {
    let Some(table) = document.kind.table else { return Ok(()) };
    let scope = Scope::new(index, clouds, document);
    let object = Object::new(&document.root, table);
    match document.kind.name {
        "Deployment" | "ReplicaSet" => set.deployments.push(workload::deployment(object, &scope)?),
        "StatefulSet" => set.stateful_sets.push(workload::stateful_set(object, &scope)?),
        "Pod" => match workload::pod(object, &scope)? {
            workload::Alone::Keeps(deployment) => set.deployments.push(deployment),
            workload::Alone::Ends(job) => set.jobs.push(job),
        },
        "Job" => set.jobs.push(batch::job(object, &scope)?),
        "CronJob" => set.cron_jobs.push(batch::cron_job(object, &scope)?),
        "Service" => set.services.push(service::service(object, &scope)?),
        "Ingress" => set.ingresses.push(service::ingress(object, &scope)?),
        "HorizontalPodAutoscaler" => set.scalers.push(scaling::scaler(object, &scope)?),
        "PodDisruptionBudget" => set.budgets.push(scaling::budget(object, &scope)?),
        "NetworkPolicy" => set.policies.push(policy::network_policy(object, &scope)?),
        "Namespace" => set.namespaces.push(scope.meta(object)?),
        "Secret" => set.secrets.push(storage::secret(object, &scope)?),
        "PersistentVolumeClaim" => set.claims.push(storage::claim(object, &scope)?),
        "StorageClass" => set.storage_classes.push(storage::storage_class(object, &scope)?),
        "ServiceAccount" => set.service_accounts.push(storage::service_account(object, &scope)?),
        _ => {}
    }
    Ok(())
}
