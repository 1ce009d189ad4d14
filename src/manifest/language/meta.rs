//! `metadata`, selectors, and what dumps of clusters carry.

use super::field::{
    ANNOTATIONS, Field, LABEL, LABELS, TEXT, TEXTS, Table, Text, Type, mapped, refused, silent, word, works,
};

/// Why fields of dumps are accepted.
const DUMPED: &str = "written by clusters into the objects that they print";

const GENERATE_NAME: Field = refused(
    "generateName",
    TEXT,
    "a name made up at each deploy would be a new group each time",
    "write `name`",
)
.zero();

/// A table of metadata: its own fields, and those that only clusters write. A macro, because a static table cannot be
/// made by adding two others.
macro_rules! metadata {
    ($name:ident, $title:literal, $doc:literal, [$($own:expr),* $(,)?]) => {
        pub(super) static $name: Table = Table::new($title, $doc, &[
            $($own,)*
            silent("creationTimestamp", DUMPED),
            silent("deletionTimestamp", DUMPED),
            silent("deletionGracePeriodSeconds", DUMPED),
            silent("finalizers", DUMPED),
            silent("generation", DUMPED),
            silent("managedFields", DUMPED),
            silent("ownerReferences", DUMPED),
            silent("resourceVersion", DUMPED),
            silent("selfLink", DUMPED),
            silent("uid", DUMPED),
        ]);
    };
}

const NAMESPACE: Field =
    works("namespace", LABEL, "part of names and of DNS names").zero().default("default");
const LABELS_AND_TAGS: Field = works("labels", LABELS, "what selectors match; also tags of the machines");
const KEPT: Field = works("annotations", ANNOTATIONS, "kept; only those that i2kit documents have an effect");

const fn name(form: Type) -> Field {
    works("name", form, "name; with the kind and namespace it identifies the object").required()
}

metadata!(
    LABEL_META,
    "ObjectMeta",
    "Metadata of objects whose names become DNS labels or machine names.",
    [name(LABEL), NAMESPACE, LABELS_AND_TAGS, KEPT, GENERATE_NAME]
);
metadata!(
    JOB_META,
    "Job metadata",
    "Metadata of Jobs, which may leave the name to i2kit.",
    [
        name(LABEL),
        NAMESPACE,
        LABELS_AND_TAGS,
        KEPT,
        mapped(
            "generateName",
            TEXT,
            "in place of `name`: the name is this and a digest of the job, so that a changed job is another one and runs again",
        ).zero(),
    ]
);
metadata!(
    SUBDOMAIN_META,
    "ObjectMeta (dotted names)",
    "Metadata of objects whose names may have dots.",
    [name(Type::Text(Text::Subdomain)), NAMESPACE, LABELS_AND_TAGS, KEPT, GENERATE_NAME]
);
metadata!(
    TEMPLATE_META,
    "PodTemplate metadata",
    "Metadata of the pods that a workload makes.",
    [
        works("labels", LABELS, "what Services and the workload select; also tags of the machines"),
        KEPT,
        silent("name", "pods are named after their workload"),
        silent("namespace", "pods live in their workload's namespace"),
        silent("generateName", DUMPED),
    ]
);
metadata!(
    CLAIM_META,
    "Claim template metadata",
    "Metadata of the claims that a StatefulSet makes.",
    [
        works("name", LABEL, "the volume's name in the pod").required(),
        works("labels", LABELS, "tags of the disk"),
        works("annotations", ANNOTATIONS, "kept"),
        silent("namespace", "claims live in their workload's namespace"),
        silent("generateName", DUMPED),
    ]
);

/// Annotations of any pod template about its machines, with their meanings.
pub(in crate::manifest) static MACHINE_ANNOTATIONS: &[(&str, &str)] = &[
    (
        "i2kit.dev/snapshot",
        "`before-containers` (default) or `never`: whether machines of the local cloud start from a snapshot of one that was stopped \
         before its containers",
    ),
    (
        "i2kit.dev/spot",
        "`true` or a percentage: all machines, or that share, are Spot instances; without effect on the local cloud",
    ),
    (
        "i2kit.dev/on-demand-base",
        "the number of machines on demand before the share of Spot counts; without effect on the local cloud",
    ),
    ("i2kit.dev/instance-types", "types of instance, separated by commas; without effect on the local cloud"),
];

/// Annotations of a StatefulSet's pod template that make its pods replicas of each other, with their meanings.
pub(in crate::manifest) static POD_ANNOTATIONS: &[(&str, &str)] = &[
    (
        "i2kit.dev/replicated",
        "`http`, `resp`, `lines` or `frames-u32be`: all machines execute the requests of the one Service port in one order",
    ),
    (
        "i2kit.dev/replicated-reads",
        "`linearizable` (default), `ordered` or `local`: what happens to requests that change nothing",
    ),
    (
        "i2kit.dev/replicated-depth",
        "1 (default) to 256: commands under way to the application; more than 1 where it executes the requests of a \
         connection one by one",
    ),
    (
        "i2kit.dev/replicated-state",
        "`memory` (default), `directory:VOLUME` or `hooks`: how the application's state is captured",
    ),
    (
        "i2kit.dev/replicated-snapshot",
        "of `hooks`: a command, for a shell or as a list in JSON, that writes the state to its standard output",
    ),
    ("i2kit.dev/replicated-restore", "of `hooks`: a command that reads the state from its standard input"),
    (
        "i2kit.dev/replicated-integrity",
        "`compare` (default), `quorum` or `off`: whether the replicas' replies are compared",
    ),
    (
        "i2kit.dev/replicated-volatile",
        "names of headers of replies, separated by commas, that may differ between replicas",
    ),
    (
        "i2kit.dev/replicated-limits",
        "such as `body=1Mi,reply=8Mi,deadline=5s,log=256Mi`: the longest request and reply, the time after which a request \
         is not ordered any more, and the size of the log beyond which a snapshot is taken",
    ),
    ("i2kit.dev/replicated-log", "size of the disk for log and snapshots, `1Gi` by default"),
];

/// `selector` of a workload.
pub(super) static SELECTOR: Table = Table::new(
    "LabelSelector",
    "Which pods belong to a workload.",
    &[
        works("matchLabels", LABELS, "labels that a pod must have"),
        works(
            "matchExpressions",
            Type::List(&Type::Object(&EXPRESSION)),
            "conditions that a pod's labels must meet",
        ),
    ],
);

static EXPRESSION: Table = Table::new(
    "LabelSelectorRequirement",
    "One condition on labels.",
    &[
        works("key", Type::Text(Text::LabelKey), "the label").required(),
        works(
            "operator",
            Type::Choice(&[
                word("In", "the value is one of `values`"),
                word("NotIn", "the value is none of `values`"),
                word("Exists", "the label is there"),
                word("DoesNotExist", "the label is not there"),
            ]),
            "how the label is compared",
        )
        .required(),
        works("values", TEXTS, "what it is compared with"),
    ],
);
