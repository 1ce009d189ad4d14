//! Checked trees as typed objects, all defaults applied. What could not be read here although the checker let it
//! pass is a fault of i2kit, and is reported as one rather than guessed.

mod object;
mod pod;
mod service;
mod workload;

use super::Options;
use super::api::ObjectSet;
use super::code::Code;
use super::diagnostic::{Diagnostic, Place};
use super::set::Document;
use object::Object;

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
pub(super) fn set(documents: &[Document<'_>], _options: &Options) -> Result<ObjectSet, BuildFault> {
    let mut set = ObjectSet::default();
    for document in documents {
        let fault = |what: object::Missing| BuildFault {
            what: format!("{}: {what}", document.title()),
            place: document.place(document.root.span),
        };
        let Some(table) = document.kind.table else { continue };
        let object = Object::new(&document.root, table);
        match document.kind.name {
            "Deployment" => set.deployments.push(workload::deployment(object, document).map_err(fault)?),
            "Service" => set.services.push(service::service(object, document).map_err(fault)?),
            _ => {}
        }
    }
    Ok(set)
}
