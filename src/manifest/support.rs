//! What clouds make of the language, as data. Each cloud has a [`Support`] in its own folder; `check`, the JSON Schema,
//! the page of the language and the table in the README read it. The language itself knows no cloud.
//!
//! A thing is named by its path: a kind (`Job`), a field of a table (`ServiceSpec.externalName`), a word that a field
//! takes (`ServiceSpec.type=ExternalName`), a verb of the command line (`i2kit exec`), or one of the constants below,
//! for what is not a single field. What a table does not list works as in the language.

use std::collections::BTreeMap;
use std::fmt;

/// TLS that ends at a balancer.
pub const TLS: &str = "TLS that ends at the balancer";

/// The role of a pod's machines in the cloud.
pub const ROLE: &str = "a role";

/// A zone, a type of machine, the terms on which machines are had.
pub const PLACEMENT: &str = "a choice of place or machine";

/// A Service whose name gives the addresses of machines.
pub const HEADLESS: &str = "a headless Service";

/// A Pod that ends, as a Job of one.
pub const ENDING_POD: &str = "a Pod that ends";

/// An `emptyDir` on a disk, where its manifest does not ask for memory.
pub const SCRATCH_DISK: &str = "EmptyDirVolumeSource.medium=";

/// An annotation of an Ingress that limits who may connect.
pub const INGRESS_RANGES: &str = "ranges of addresses that may connect to an Ingress";

/// A certificate of a host of an Ingress from a CA that the environment names.
pub const ACME: &str = "certificates of Ingresses by ACME";

/// A StatefulSet whose machines execute the same requests in the same order.
pub const REPLICATED: &str = "replicated pods";

/// Machines that start from a snapshot which another one of their kind left before its containers.
pub const SNAPSHOTS: &str = "machines that start from a snapshot";

/// A StorageClass that a claim names and no file has.
pub const NAMED_CLASS: &str = "a StorageClass that is not in the given files";

/// What a cloud makes of one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It works as in the language.
    Yes,
    /// It works with less, or otherwise: how, and why that is sound.
    Note(&'static str),
    /// This version cannot deploy it there.
    NotYet,
    /// The cloud cannot have it.
    No,
}

/// What an annotation means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Annotation {
    /// Of a Service: certificates of a balancer that ends TLS.
    Certificates,
    /// Of a Service: the ports on which the balancer ends TLS; all of them without it.
    TlsPorts,
    /// Of a Service: the versions and ciphers of TLS.
    TlsPolicy,
    /// Of a Service: what the balancer speaks to pods.
    BackendProtocol,
    /// Of a Service: makes the balancer internal, unless the value turns that off.
    Internal,
    /// Of a Service: addresses that may connect, as `loadBalancerSourceRanges`.
    SourceRanges,
    /// Of a Service: keeps clients out in a way that is not applied.
    Closing,
    /// Of an Ingress: `internal` or `internet-facing`.
    IngressScheme,
    /// Of an Ingress: its certificates.
    IngressCertificates,
    /// Of an Ingress: who may connect.
    IngressSourceRanges,
    /// Of an Ingress with TLS: whether requests without it are sent to it.
    IngressRedirect,
    /// The same, and before that: `true` has them sent to it in any case.
    IngressForcedRedirect,
    /// Of an Ingress: what the balancer speaks to pods.
    IngressBackendProtocol,
    /// Of an Ingress: an issuer of cert-manager. The environment's CA stands for it.
    IngressIssuer,
    /// Of an Ingress: whether the environment's CA gives certificates to its hosts.
    IngressAcme,
    /// Of a ServiceAccount: the role of machines.
    Role,
}

/// The annotation by which the short form names ports on which the balancer ends TLS.
pub(super) const TLS_PORTS: &str = "i2kit.dev/tls-ports";

/// The annotation that names the role of machines.
pub(super) const ROLE_ANNOTATION: &str = "i2kit.dev/role";

/// Annotations that mean the same on every cloud.
const OWN: &[(&str, Annotation)] = &[(TLS_PORTS, Annotation::TlsPorts), (ROLE_ANNOTATION, Annotation::Role)];

/// Annotations that are understood although they are of no cloud in the table: those of Kubernetes and of its common
/// controllers, and those of clouds that i2kit does not deploy to.
const FOREIGN: &[(&str, Annotation)] = &[
    ("service.beta.kubernetes.io/load-balancer-source-ranges", Annotation::SourceRanges),
    ("service.beta.kubernetes.io/azure-load-balancer-internal", Annotation::Internal),
    ("networking.gke.io/load-balancer-type", Annotation::Internal),
    ("cloud.google.com/load-balancer-type", Annotation::Internal),
    ("service.beta.kubernetes.io/azure-allowed-ip-ranges", Annotation::Closing),
    ("service.beta.kubernetes.io/azure-allowed-service-tags", Annotation::Closing),
    ("nginx.ingress.kubernetes.io/whitelist-source-range", Annotation::IngressSourceRanges),
    ("nginx.ingress.kubernetes.io/allowlist-source-range", Annotation::IngressSourceRanges),
    ("nginx.ingress.kubernetes.io/force-ssl-redirect", Annotation::IngressForcedRedirect),
    ("nginx.ingress.kubernetes.io/ssl-redirect", Annotation::IngressRedirect),
    ("nginx.ingress.kubernetes.io/backend-protocol", Annotation::IngressBackendProtocol),
    ("kubernetes.io/tls-acme", Annotation::IngressAcme),
    ("cert-manager.io/cluster-issuer", Annotation::IngressIssuer),
    ("cert-manager.io/issuer", Annotation::IngressIssuer),
    ("iam.gke.io/gcp-service-account", Annotation::Role),
];

/// Drivers of disks of clouds that i2kit does not deploy to: their names of today, and their in-tree names.
const FOREIGN_PROVISIONERS: &[&[&str]] = &[
    &["pd.csi.storage.gke.io", "kubernetes.io/gce-pd"],
    &["disk.csi.azure.com", "kubernetes.io/azure-disk"],
];

impl Annotation {
    /// What it means, for the page of the language.
    pub(super) const fn doc(self) -> &'static str {
        match self {
            Self::Certificates => "Service: certificates of a balancer that ends TLS, separated by commas",
            Self::TlsPorts => "Service: ports on which the balancer ends TLS, by number or name; `*` is all",
            Self::TlsPolicy => "Service: the versions and ciphers of TLS",
            Self::BackendProtocol => "Service: what the balancer speaks to pods; `ssl` and `https` are TLS",
            Self::Internal => "Service: the balancer is reachable inside the environment only",
            Self::SourceRanges => "Service: as `loadBalancerSourceRanges`",
            Self::Closing => "Service: not applied; clients that it keeps out can connect (a warning)",
            Self::IngressScheme => "Ingress: `internal` or `internet-facing`",
            Self::IngressCertificates => "Ingress: its certificates, separated by commas",
            Self::IngressSourceRanges => "Ingress: ranges of addresses that may connect",
            Self::IngressRedirect => {
                "Ingress with TLS: requests without it are sent to it, as without the annotation; with `false` they are \
                 answered"
            }
            Self::IngressForcedRedirect => {
                "Ingress with TLS: with `true` requests without it are sent to it, whatever the other annotation has"
            }
            Self::IngressBackendProtocol => {
                "Ingress: `HTTP`, or `GRPC` where all pods speak HTTP/2 without TLS"
            }
            Self::IngressIssuer => {
                "Ingress with TLS: the CA of the environment file (`provider.acme`) gives it certificates, as without the \
                 annotation"
            }
            Self::IngressAcme => {
                "the same with `true`; with `false` the CA of the environment file is not asked"
            }
            Self::Role => "ServiceAccount: the role of machines",
        }
    }
}

/// How a cloud writes a name.
#[derive(Clone, Copy)]
pub struct Form {
    /// Whether a text has the form.
    pub fits: fn(&str) -> bool,
    /// The rule, such as `a certificate is named by its ARN`.
    pub rule: &'static str,
}

impl fmt::Debug for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.rule)
    }
}

/// What one cloud makes of the language.
#[derive(Debug)]
pub struct Support {
    /// Its name in an environment file: `provider: {type: NAME}`.
    pub provider: &'static str,
    /// Its name in a sentence, after "on".
    pub name: &'static str,
    /// What does not simply work, by path.
    pub answers: &'static [(&'static str, Answer)],
    /// Annotations of its own controllers, by key.
    pub annotations: &'static [(&'static str, Annotation)],
    /// How it names certificates, where it has any.
    pub certificate: Option<Form>,
    /// How it names roles, where it has any.
    pub role: Option<Form>,
    /// `provisioner` of a StorageClass: drivers of its disks.
    pub provisioners: &'static [&'static str],
    /// The range of addresses that all clients of its balancers have, where they are of one computer.
    pub clients: Option<&'static str>,
}

/// A cloud on which everything works, for those who read manifests for no cloud.
pub static ANY: Support = Support {
    provider: "any",
    name: "any cloud",
    answers: &[],
    annotations: &[],
    certificate: None,
    role: None,
    provisioners: &[],
    clients: None,
};

impl Support {
    /// What it makes of the thing with this path.
    pub fn answer(&self, path: &str) -> Answer {
        self.find(|known| known == path)
    }

    /// What it makes of a field of a table.
    pub(super) fn field(&self, table: &str, field: &str) -> Answer {
        self.find(|known| of_table(known, table) == Some(field))
    }

    /// The paths that it answers about.
    pub fn paths(&self) -> impl Iterator<Item = &'static str> {
        self.answers.iter().map(|(path, _)| *path)
    }

    /// What it makes of a word that the field takes.
    pub(super) fn word(&self, table: &str, field: &str, word: &str) -> Answer {
        self.find(|known| of_table(known, table).and_then(|rest| rest.split_once('=')) == Some((field, word)))
    }

    fn find(&self, is_it: impl Fn(&str) -> bool) -> Answer {
        self.answers.iter().find(|(known, _)| is_it(known)).map_or(Answer::Yes, |(_, answer)| *answer)
    }
}

fn of_table<'p>(path: &'p str, table: &str) -> Option<&'p str> {
    path.strip_prefix(table)?.strip_prefix('.')
}

/// All clouds, and the one that objects are to be deployed to.
#[derive(Debug, Clone, Copy)]
pub struct Clouds {
    /// The clouds that there are. Annotations of any of them are understood.
    pub all: &'static [&'static Support],
    /// The cloud of the environment.
    pub target: &'static Support,
}

impl Default for Clouds {
    fn default() -> Self {
        Self { all: &[], target: &ANY }
    }
}

impl Clouds {
    fn annotations(&self) -> impl Iterator<Item = &'static (&'static str, Annotation)> {
        let others = self.all.iter().filter(|cloud| cloud.provider != self.target.provider);
        let clouds = std::iter::once(&self.target).chain(others).flat_map(|cloud| cloud.annotations);
        OWN.iter().chain(clouds).chain(FOREIGN)
    }

    /// What the annotation means; `None` when it is of no cloud.
    pub(super) fn meaning(&self, key: &str) -> Option<Annotation> {
        self.annotations().find(|(known, _)| *known == key).map(|(_, meaning)| *meaning)
    }

    /// The keys of annotations with this meaning: those of every cloud first, then those of the target.
    pub(super) fn keys(&self, meaning: Annotation) -> impl Iterator<Item = &'static str> {
        self.annotations().filter(move |(_, known)| *known == meaning).map(|(key, _)| *key)
    }

    /// The value of an annotation with this meaning.
    pub(super) fn value<'m>(
        &self,
        annotations: &'m BTreeMap<String, String>,
        meaning: Annotation,
    ) -> Option<&'m str> {
        self.keys(meaning).find_map(|key| annotations.get(key)).map(String::as_str)
    }

    /// Whether the annotation asks for a balancer that is reachable inside the environment only.
    pub(super) fn is_internal(&self, key: &str, value: &str) -> bool {
        let off =
            matches!(value.to_ascii_lowercase().as_str(), "" | "false" | "external" | "internet-facing");
        !off && self.meaning(key) == Some(Annotation::Internal)
    }

    /// Whether an Ingress with these annotations is to have no certificate by ACME.
    pub(super) fn declines_acme(&self, annotations: &BTreeMap<String, String>) -> bool {
        self.value(annotations, Annotation::IngressAcme) == Some("false")
    }

    /// How certificates are named.
    pub(super) fn certificate_form(&self) -> Option<Form> {
        self.target.certificate.or_else(|| self.all.iter().find_map(|cloud| cloud.certificate))
    }

    /// The clouds on which a thing works, with or without a note.
    pub(super) fn able(&self, answer: impl Fn(&Support) -> Answer) -> Vec<&'static Support> {
        able(self.all, answer)
    }

    /// Drivers of disks: for each cloud its names, that of today first.
    pub(super) fn provisioners(&self) -> impl Iterator<Item = &'static [&'static str]> {
        let own = self.all.iter().map(|cloud| cloud.provisioners).filter(|names| !names.is_empty());
        own.chain(FOREIGN_PROVISIONERS.iter().copied())
    }
}

/// The clouds on which a thing works, with or without a note.
pub fn able(clouds: &[&'static Support], answer: impl Fn(&Support) -> Answer) -> Vec<&'static Support> {
    let able = |cloud: &&&'static Support| matches!(answer(cloud), Answer::Yes | Answer::Note(_));
    clouds.iter().filter(able).copied().collect()
}

/// The clouds that have a thing, as `only on …`, when some have it and others do not.
pub(super) fn only_on(clouds: &[&'static Support], answer: impl Fn(&Support) -> Answer) -> Option<String> {
    let able = able(clouds, answer);
    let names: Vec<&str> = able.iter().map(|cloud| cloud.name).collect();
    (able.len() < clouds.len()).then(|| format!("only on {}", names.join(" and ")))
}

/// What clouds do with less or otherwise, as `on the local cloud: …`.
pub(super) fn notes(clouds: &[&'static Support], answer: impl Fn(&Support) -> Answer) -> Vec<String> {
    let note = |cloud: &&'static Support| match answer(cloud) {
        Answer::Note(note) => Some(format!("on {}: {note}", cloud.name)),
        _ => None,
    };
    clouds.iter().filter_map(note).collect()
}

/// All annotations that are understood, with the name of the cloud whose they are, if that is in the table.
pub(super) fn annotations(
    clouds: &[&'static Support],
) -> Vec<(&'static str, Option<&'static str>, Annotation)> {
    let of = |cloud: &&'static Support| {
        let name = cloud.name;
        cloud.annotations.iter().map(move |(key, meaning)| (*key, Some(name), *meaning))
    };
    let plain = |list: &'static [(&'static str, Annotation)]| {
        list.iter().map(|(key, meaning)| (*key, None, *meaning))
    };
    plain(OWN).chain(clouds.iter().flat_map(of)).chain(plain(FOREIGN)).collect()
}
