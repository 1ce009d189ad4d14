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
            "credentials for registries while images of its pods are built",
        ),
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
    "Scaling by load. `replicas` is then only the first size.",
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
        works("behavior", Type::Object(&BEHAVIOR), "how fast it follows"),
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
                word("ContainerResource", "the same of one container of each pod"),
                refused_word("Pods", "needs a metrics server", "use Resource cpu"),
                refused_word("Object", "needs a metrics server", "use Resource cpu"),
                refused_word("External", "needs a metrics server", "use Resource cpu"),
            ]),
            "the kind of measure",
        )
        .required(),
        works("resource", Type::Object(&RESOURCE_METRIC), "which resource"),
        works("containerResource", Type::Object(&CONTAINER_METRIC), "which resource of which container"),
        silent("pods", "its type is refused"),
        silent("object", "its type is refused"),
        silent("external", "its type is refused"),
    ],
);

/// The resources that are measured.
const MEASURED: Field = works(
    "name",
    Type::Choice(&[
        word("cpu", "processor use"),
        word("memory", "memory that cannot be reclaimed easily, as the kubelet counts it"),
    ]),
    "which resource",
)
.required();

const KEPT: Field = works("target", Type::Object(&METRIC_TARGET), "the value to keep").required();

static RESOURCE_METRIC: Table =
    Table::new("ResourceMetricSource", "Processor or memory use.", &[MEASURED, KEPT]);

static CONTAINER_METRIC: Table = Table::new(
    "ContainerResourceMetricSource",
    "Processor or memory use of one container.",
    &[works("container", Type::Text(Text::Label), "its name").required(), MEASURED, KEPT],
);

static METRIC_TARGET: Table = Table::new(
    "MetricTarget",
    "The value to keep.",
    &[
        works(
            "type",
            Type::Choice(&[
                word("Utilization", "percent of the request"),
                word("AverageValue", "an amount a pod"),
                refused_word("Value", "it is for objects outside of pods", "use AverageValue"),
            ]),
            "how it is given",
        )
        .required(),
        works("averageUtilization", COUNT_1, "percent of the request"),
        works("averageValue", Type::Divisor, "an amount a pod, such as `500m` or `64Mi`"),
        silent("value", "its type is refused"),
    ],
);

static BEHAVIOR: Table = Table::new(
    "HorizontalPodAutoscalerBehavior",
    "How fast it follows.",
    &[
        works(
            "scaleUp",
            Type::Object(&SCALING_RULES),
            "when load grows; by default at once, 4 machines or 100 % in 15 seconds",
        ),
        works(
            "scaleDown",
            Type::Object(&SCALING_RULES),
            "when load falls; by default after 300 seconds, 100 % in 15 seconds",
        ),
    ],
);

static SCALING_RULES: Table = Table::new(
    "HPAScalingRules",
    "How fast it follows a load that grows, or one that falls.",
    &[
        works(
            "stabilizationWindowSeconds",
            Type::Int(0, 3600),
            "how long the most careful recommendation holds; by default 0 up and 300 down",
        ),
        works("policies", Type::List(&Type::Object(&SCALING_POLICY)), "how much may change in which time"),
        works(
            "selectPolicy",
            Type::Choice(&[
                word("Max", "the policy that allows the largest change; the default"),
                word("Min", "the policy that allows the smallest change"),
                word("Disabled", "no change in this direction"),
            ]),
            "which of the policies counts",
        ),
        works("tolerance", Type::Cpu, "how far the use may be from its target; by default 0.1"),
    ],
);

static SCALING_POLICY: Table = Table::new(
    "HPAScalingPolicy",
    "How much may change in which time.",
    &[
        works(
            "type",
            Type::Choice(&[word("Pods", "a number of machines"), word("Percent", "percent of the machines")]),
            "how it is given",
        )
        .required(),
        works("value", COUNT_1, "how much").required(),
        works("periodSeconds", Type::Int(1, 1800), "in which time").required(),
    ],
);
