//! Configuration, accounts, storage classes, scaling: objects that others refer to.

use super::field::{
    COUNT_1, Field, OneOf, TEXT, TEXTS, Table, Text, Type, mapped, no_meaning, refused_word, silent, word,
    works,
};
use super::meta::{SELECTOR, SUBDOMAIN_META};
use super::pod::PULL_SECRET;
use super::workload::{API_VERSION, KIND, STATUS};

pub(super) const META: Field = works("metadata", Type::Object(&SUBDOMAIN_META), "its name").required();
const IMMUTABLE: Field =
    works("immutable", Type::Bool, "a changed value is a rollout in any case").default("false");

/// `v1` ConfigMap.
pub(super) static CONFIG_MAP: Table = Table::new(
    "ConfigMap",
    "Values and files for pods. A changed value is a new image and a rollout.",
    &[
        API_VERSION,
        KIND,
        META,
        works("data", Type::Map(Text::DataKey, &TEXT), "texts by key"),
        works("binaryData", Type::Map(Text::DataKey, &Type::Text(Text::Base64)), "bytes by key, in base64"),
        IMMUTABLE,
    ],
);

/// `v1` Secret.
pub(super) static SECRET: Table = Table::new(
    "Secret",
    "Values and files that reach machines at boot only, never in an image.",
    &[
        API_VERSION,
        KIND,
        META,
        works("data", Type::Map(Text::DataKey, &Type::Text(Text::Base64)), "values by key, in base64"),
        works("stringData", Type::Map(Text::DataKey, &TEXT), "values by key, as text; they win over `data`"),
        works("type", TEXT, "such as `kubernetes.io/tls`").zero().default("Opaque"),
        IMMUTABLE,
    ],
);

/// `v1` ServiceAccount.
pub(super) static SERVICE_ACCOUNT: Table = Table::new(
    "ServiceAccount",
    "The role of machines in the cloud, which an [annotation](#annotations) names.",
    &[
        API_VERSION,
        KIND,
        META,
        no_meaning("automountServiceAccountToken", Type::Bool, "there is no Kubernetes API to talk to")
            .unless(&["false"]),
        silent("secrets", "tokens of a cluster"),
        works(
            "imagePullSecrets",
            Type::List(&Type::Object(&PULL_SECRET)),
            "registry credentials for the build",
        )
        .not_yet(),
    ],
);

/// `v1` Namespace.
pub(super) static NAMESPACE: Table = Table::new(
    "Namespace",
    "Part of names and of DNS names; nothing is created for it.",
    &[API_VERSION, KIND, META, silent("spec", "finalizers of clusters"), STATUS],
);

/// `storage.k8s.io/v1` StorageClass.
pub(super) static STORAGE_CLASS: Table = Table::new(
    "StorageClass",
    "A type of disk.",
    &[
        API_VERSION,
        KIND,
        META,
        mapped(
            "provisioner",
            Type::Text(Text::Filled),
            "a driver of the cloud's disks, by its name of today or by its in-tree name",
        )
        .required(),
        mapped("parameters", Type::Map(Text::Any, &TEXT), "type, iops and throughput of the disk"),
        works("allowVolumeExpansion", Type::Bool, "whether disks may grow").default("false"),
        works(
            "reclaimPolicy",
            Type::Choice(&[
                word("Delete", "`destroy --volumes` deletes the disks"),
                word("Retain", "`volume rm` alone deletes the disks"),
            ]),
            "what happens to disks",
        )
        .default("Delete"),
        no_meaning("volumeBindingMode", TEXT, "a disk is made where its machine is")
            .unless(&["WaitForFirstConsumer", "Immediate"]),
        no_meaning("mountOptions", TEXTS, "the guest chooses them"),
        no_meaning("allowedTopologies", Type::Any, "a disk is made where its machine is"),
    ],
);

/// `policy/v1` PodDisruptionBudget.
pub(super) static BUDGET: Table = Table::new(
    "PodDisruptionBudget",
    "A floor under the number of healthy machines during rollouts and scaling.",
    &[API_VERSION, KIND, META, works("spec", Type::Object(&BUDGET_SPEC), "the floor").required(), STATUS],
);

static BUDGET_SPEC: Table = Table::new(
    "PodDisruptionBudgetSpec",
    "The floor.",
    &[
        works("selector", Type::Object(&SELECTOR), "whose machines").required(),
        mapped("minAvailable", Type::IntOrPercent, "how many must be healthy"),
        mapped("maxUnavailable", Type::IntOrPercent, "how many may be missing"),
        no_meaning("unhealthyPodEvictionPolicy", TEXT, "no machine is evicted"),
    ],
)
.one_of(&[OneOf { fields: &["minAvailable", "maxUnavailable"], required: true }]);

/// `autoscaling/v2` HorizontalPodAutoscaler.
pub(super) static SCALER_V2: Table = Table::new(
    "HorizontalPodAutoscaler",
    "Scaling by load: a target-tracking policy. `replicas` is then only the first size.",
    &[
        API_VERSION,
        KIND,
        META,
        works("spec", Type::Object(&SCALER_V2_SPEC), "the bounds and the measure").required(),
        STATUS,
    ],
);

static SCALER_V2_SPEC: Table = Table::new(
    "HorizontalPodAutoscalerSpec",
    "The bounds and the measure.",
    &[
        works("scaleTargetRef", Type::Object(&SCALE_TARGET), "the workload").required(),
        works("minReplicas", COUNT_1, "fewest machines").default("1"),
        works("maxReplicas", COUNT_1, "most machines").required(),
        works(
            "metrics",
            Type::List(&Type::Object(&METRIC)),
            "what is measured; by default processor use of 80 %",
        ),
        mapped("behavior", Type::Object(&BEHAVIOR), "how fast it follows"),
    ],
);

/// `autoscaling/v1` HorizontalPodAutoscaler.
pub(super) static SCALER_V1: Table = Table::new(
    "HorizontalPodAutoscaler (autoscaling/v1)",
    "Scaling by processor use.",
    &[
        API_VERSION,
        KIND,
        META,
        works("spec", Type::Object(&SCALER_V1_SPEC), "the bounds and the measure").required(),
        STATUS,
    ],
);

static SCALER_V1_SPEC: Table = Table::new(
    "HorizontalPodAutoscalerSpec (autoscaling/v1)",
    "The bounds and the measure.",
    &[
        works("scaleTargetRef", Type::Object(&SCALE_TARGET), "the workload").required(),
        works("minReplicas", COUNT_1, "fewest machines").default("1"),
        works("maxReplicas", COUNT_1, "most machines").required(),
        works("targetCPUUtilizationPercentage", COUNT_1, "processor use in percent of the request")
            .default("80"),
    ],
);

static SCALE_TARGET: Table = Table::new(
    "CrossVersionObjectReference",
    "The workload that is scaled.",
    &[
        works("apiVersion", TEXT, "its version").zero(),
        works(
            "kind",
            Type::Choice(&[
                word("Deployment", "a group"),
                word("StatefulSet", "a stateful group"),
                word("ReplicaSet", "a group"),
            ]),
            "its kind",
        )
        .required(),
        works("name", Type::Text(Text::Label), "its name").required(),
    ],
);

static METRIC: Table = Table::new(
    "MetricSpec",
    "What is measured.",
    &[
        works(
            "type",
            Type::Choice(&[
                word("Resource", "processor or memory use of the pods"),
                refused_word("ContainerResource", "only whole pods are measured", "use Resource"),
                refused_word("Pods", "needs a metrics server", "use Resource cpu"),
                refused_word("Object", "needs a metrics server", "use Resource cpu"),
                refused_word("External", "needs a metrics server", "use Resource cpu"),
            ]),
            "the kind of measure",
        )
        .required(),
        works("resource", Type::Object(&RESOURCE_METRIC), "which resource"),
        silent("containerResource", "its type is refused"),
        silent("pods", "its type is refused"),
        silent("object", "its type is refused"),
        silent("external", "its type is refused"),
    ],
);

static RESOURCE_METRIC: Table = Table::new(
    "ResourceMetricSource",
    "Processor or memory use.",
    &[
        works(
            "name",
            Type::Choice(&[
                word("cpu", "processor use; the request's share of the machine is folded in"),
                word("memory", "no cloud measures it from outside, so that it scales nothing"),
            ]),
            "which resource",
        )
        .required(),
        works("target", Type::Object(&METRIC_TARGET), "the value to keep").required(),
    ],
);

static METRIC_TARGET: Table = Table::new(
    "MetricTarget",
    "The value to keep.",
    &[
        works(
            "type",
            Type::Choice(&[
                word("Utilization", "percent of the request"),
                refused_word("AverageValue", "clouds track shares of a machine", "use Utilization"),
                refused_word("Value", "clouds track shares of a machine", "use Utilization"),
            ]),
            "how it is given",
        )
        .required(),
        works("averageUtilization", COUNT_1, "percent of the request"),
        silent("averageValue", "its type is refused"),
        silent("value", "its type is refused"),
    ],
);

static BEHAVIOR: Table = Table::new(
    "HorizontalPodAutoscalerBehavior",
    "How fast it follows.",
    &[
        mapped("scaleUp", Type::Object(&SCALE_UP), "when load grows"),
        no_meaning(
            "scaleDown",
            Type::Any,
            "target tracking takes machines away after 15 minutes of less load",
        ),
    ],
);

static SCALE_UP: Table = Table::new(
    "HPAScalingRules",
    "How fast it follows a load that grows.",
    &[
        mapped(
            "stabilizationWindowSeconds",
            Type::Int(0, 3600),
            "seconds after a machine's start in which its use does not count",
        ),
        no_meaning("policies", Type::Any, "target tracking chooses its own steps"),
        no_meaning("selectPolicy", TEXT, "target tracking chooses its own steps"),
        no_meaning("tolerance", Type::Any, "target tracking chooses its own steps"),
    ],
);
