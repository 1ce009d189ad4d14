//! One object of the set.

use crate::manifest::diagnostic::Place;
use crate::manifest::language::Kind;
use crate::manifest::tree::{Node, Span};

/// One object of the set.
#[derive(Debug)]
pub(in crate::manifest) struct Document<'a> {
    pub(in crate::manifest) file: usize,
    pub(in crate::manifest) root: Node<'a>,
    pub(in crate::manifest) kind: &'static Kind,
    pub(in crate::manifest) name: String,
    pub(in crate::manifest) namespace: String,
    /// Path of the object inside its document; empty outside Lists.
    pub(in crate::manifest) prefix: String,
    /// Whether it was written in the short form.
    pub(in crate::manifest) short: bool,
}

impl<'a> Document<'a> {
    /// Such as `Deployment/web`.
    pub(in crate::manifest) fn title(&self) -> String {
        format!("{}/{}", self.kind.name, self.name)
    }

    pub(in crate::manifest) fn place(&self, span: Span) -> Place {
        Place { file: self.file, span: span.range() }
    }

    /// Whether it is an Indexed Job, or a CronJob of one: its containers have a variable with their index.
    pub(in crate::manifest) fn indexed(&self) -> bool {
        let spec = match self.kind.name {
            "Job" => self.root.at(&["spec"]),
            "CronJob" => self.root.at(&["spec", "jobTemplate", "spec"]),
            _ => None,
        };
        spec.is_some_and(|spec| spec.str("completionMode") == Some("Indexed"))
    }

    /// The pod template of a workload.
    pub(in crate::manifest) fn template(&self) -> Option<&Node<'a>> {
        template(self.kind.name, &self.root)
    }
}

/// The pod template of a workload of the kind `kind`.
pub(super) fn template<'n, 'a>(kind: &str, root: &'n Node<'a>) -> Option<&'n Node<'a>> {
    match kind {
        "CronJob" => root.at(&["spec", "jobTemplate", "spec", "template"]),
        "Pod" => Some(root),
        "Deployment" | "StatefulSet" | "ReplicaSet" | "Job" | "DaemonSet" | "ReplicationController" => {
            root.at(&["spec", "template"])
        }
        _ => None,
    }
}
