//! Workloads: groups of machines.

use super::field::{
    COUNT, COUNT_1, Field, LABEL, TEXT, Table, Type, mapped, refused, refused_word, silent, word, works,
};
use super::meta::{CLAIM_META, LABEL_META, SELECTOR, SUBDOMAIN_META};
use super::pod::{POD_SPEC, TEMPLATE};
use super::volume::CLAIM_SPEC;

/// Every object's `apiVersion`; the kinds' table checks its value.
pub(super) const API_VERSION: Field = works("apiVersion", TEXT, "version of the kind").required();
/// Every object's `kind`.
pub(super) const KIND: Field = works("kind", TEXT, "the kind").required();
/// What clusters report.
pub(super) const STATUS: Field = silent("status", "written by clusters into the objects that they print");

const REPLICAS: Field = works("replicas", COUNT, "machines in the group; 0 is an empty group").default("1");
const SELECT: Field =
    works("selector", Type::Object(&SELECTOR), "must match the template's labels").required();
/// The pod of a workload.
pub(super) const PODS: Field = works("template", Type::Object(&TEMPLATE), "the pod").required();
const MIN_READY: Field =
    mapped("minReadySeconds", COUNT, "how long a new machine must stay healthy before it counts")
        .default("0");
const HISTORY: Field =
    mapped("revisionHistoryLimit", COUNT, "images and launch-template versions kept for `rollback`")
        .default("10");

/// `apps/v1` Deployment.
pub(super) static DEPLOYMENT: Table = Table::new(
    "Deployment",
    "A group of equal machines behind a launch template; a rollout replaces them a few at a time.",
    &[
        API_VERSION,
        KIND,
        works("metadata", Type::Object(&LABEL_META), "its name is the group's name").required(),
        works("spec", Type::Object(&DEPLOYMENT_SPEC), "what it runs").required(),
        STATUS,
    ],
);

static DEPLOYMENT_SPEC: Table = Table::new(
    "DeploymentSpec",
    "A pod, how many of it, and how it is replaced.",
    &[
        REPLICAS,
        SELECT,
        PODS,
        works("strategy", Type::Object(&STRATEGY), "how a changed pod replaces the running ones"),
        MIN_READY,
        mapped(
            "progressDeadlineSeconds",
            COUNT_1,
            "a rollout that makes no progress for this long is rolled back; Kubernetes only reports it",
        )
        .default("600"),
        HISTORY,
        refused("paused", Type::Bool, "a rollout happens when you deploy", "remove it").unless(&["false"]),
    ],
);

static STRATEGY: Table = Table::new(
    "DeploymentStrategy",
    "How a changed pod replaces the running ones.",
    &[
        works(
            "type",
            Type::Choice(&[
                word("RollingUpdate", "a few at a time"),
                word("Recreate", "all old ones end before the first new one starts"),
            ]),
            "the way",
        )
        .zero()
        .default("RollingUpdate"),
        mapped("rollingUpdate", Type::Object(&ROLLING_UPDATE), "how many at a time"),
    ],
);

static ROLLING_UPDATE: Table = Table::new(
    "RollingUpdateDeployment",
    "How many machines at a time.",
    &[
        mapped("maxUnavailable", Type::IntOrPercent, "how many may be missing; percentages round down")
            .default("25%"),
        mapped("maxSurge", Type::IntOrPercent, "how many may be in excess; percentages round up")
            .default("25%"),
    ],
);

/// `apps/v1` ReplicaSet.
pub(super) static REPLICA_SET: Table = Table::new(
    "ReplicaSet",
    "As a Deployment with the default strategy.",
    &[
        API_VERSION,
        KIND,
        works("metadata", Type::Object(&LABEL_META), "its name is the group's name").required(),
        works("spec", Type::Object(&REPLICA_SET_SPEC), "what it runs").required(),
        STATUS,
    ],
);

static REPLICA_SET_SPEC: Table =
    Table::new("ReplicaSetSpec", "A pod, and how many of it.", &[REPLICAS, SELECT, PODS, MIN_READY]);

/// `apps/v1` StatefulSet.
pub(super) static STATEFUL_SET: Table = Table::new(
    "StatefulSet",
    "Machines with a stable index, name and disk each.",
    &[
        API_VERSION,
        KIND,
        works("metadata", Type::Object(&LABEL_META), "its name is the prefix of the machines' names")
            .required(),
        works("spec", Type::Object(&STATEFUL_SET_SPEC), "what it runs").required(),
        STATUS,
    ],
);

static STATEFUL_SET_SPEC: Table = Table::new(
    "StatefulSetSpec",
    "A pod with a name and disks of its own, and how many of it.",
    &[
        REPLICAS,
        SELECT,
        PODS,
        works("serviceName", LABEL, "the headless Service below which each machine has a DNS name").zero(),
        works(
            "volumeClaimTemplates",
            Type::List(&Type::Object(&CLAIM_TEMPLATE)),
            "a disk each for every machine",
        ),
        works(
            "podManagementPolicy",
            Type::Choice(&[
                word("OrderedReady", "one after the other, each healthy before the next"),
                word("Parallel", "all at once"),
            ]),
            "the order",
        )
        .zero()
        .default("OrderedReady"),
        works(
            "updateStrategy",
            Type::Object(&UPDATE_STRATEGY),
            "how a changed pod replaces the running ones",
        ),
        works(
            "persistentVolumeClaimRetentionPolicy",
            Type::Object(&RETENTION),
            "whether disks outlive their machines",
        ),
        works("ordinals", Type::Object(&ORDINALS), "where the index begins"),
        MIN_READY,
        HISTORY,
    ],
);

static UPDATE_STRATEGY: Table = Table::new(
    "StatefulSetUpdateStrategy",
    "How a changed pod replaces the running ones.",
    &[
        works(
            "type",
            Type::Choice(&[
                word("RollingUpdate", "one after the other, from the highest index"),
                refused_word(
                    "OnDelete",
                    "nobody deletes single machines",
                    "use RollingUpdate; `partition` holds machines back",
                ),
            ]),
            "the way",
        )
        .zero()
        .default("RollingUpdate"),
        mapped("rollingUpdate", Type::Object(&PARTITION), "which machines, and how many at a time"),
    ],
);

static PARTITION: Table = Table::new(
    "RollingUpdateStatefulSetStrategy",
    "Which machines, and how many at a time.",
    &[
        mapped("partition", COUNT, "machines with a lower index keep the old pod").default("0"),
        mapped("maxUnavailable", Type::IntOrPercent, "how many may be missing").default("1"),
    ],
);

const KEEP: Type = Type::Choice(&[word("Retain", "kept"), word("Delete", "deleted")]);

static RETENTION: Table = Table::new(
    "StatefulSetPersistentVolumeClaimRetentionPolicy",
    "Whether disks outlive their machines.",
    &[
        works("whenDeleted", KEEP, "when the StatefulSet is destroyed").zero().default("Retain"),
        works("whenScaled", KEEP, "when there are fewer replicas").zero().default("Retain"),
    ],
);

static ORDINALS: Table = Table::new(
    "StatefulSetOrdinals",
    "Where the index begins.",
    &[works("start", COUNT, "index of the first machine").default("0")],
);

static CLAIM_TEMPLATE: Table = Table::new(
    "PersistentVolumeClaim template",
    "A disk that every machine of a StatefulSet gets.",
    &[
        silent("apiVersion", "always `v1`"),
        silent("kind", "always `PersistentVolumeClaim`"),
        works("metadata", Type::Object(&CLAIM_META), "the volume's name").required(),
        works("spec", Type::Object(&CLAIM_SPEC), "the disk").required(),
        STATUS,
    ],
);

/// `v1` PersistentVolumeClaim.
pub(super) static CLAIM: Table = Table::new(
    "PersistentVolumeClaim",
    "A disk that outlives machines.",
    &[
        API_VERSION,
        KIND,
        works("metadata", Type::Object(&SUBDOMAIN_META), "its name").required(),
        works("spec", Type::Object(&CLAIM_SPEC), "the disk").required(),
        STATUS,
    ],
);

/// `v1` List, and the lists that clusters print: `ConfigMapList`.
pub(in crate::manifest) static LIST: Table = Table::new(
    "List",
    "Objects in one document; its items are read as if they stood alone.",
    &[
        API_VERSION,
        KIND,
        silent("metadata", "written by clusters into the objects that they print"),
        works("items", Type::List(&Type::Any), "the objects").required(),
    ],
);

/// `v1` Pod.
pub(super) static POD: Table = Table::new(
    "Pod",
    "A group of exactly one machine; with restartPolicy Never or OnFailure a Job of one.",
    &[
        API_VERSION,
        KIND,
        works("metadata", Type::Object(&LABEL_META), "its name is the machine's name").required(),
        works("spec", Type::Object(&POD_SPEC), "the pod").required(),
        STATUS,
    ],
);
