//! Pods: one pod is one machine.

use super::container::{CONTAINER, INIT_CONTAINER, SECCOMP};
use super::field::{
    COUNT_1, Field, ID, LABELS, SECONDS, Switch, TEXT, TEXTS, Table, Target, Text, Type, mapped, no_meaning,
    refused, refused_word, word, works,
};
use super::meta::{SELECTOR, TEMPLATE_META};
use super::volume::VOLUME;

/// `template` of a workload.
pub(super) static TEMPLATE: Table = Table::new(
    "PodTemplateSpec",
    "The pod that a workload runs: one immutable machine image, and a group of machines made from it.",
    &[
        works("metadata", Type::Object(&TEMPLATE_META), "labels and annotations of the pods"),
        works("spec", Type::Object(&POD_SPEC), "the pod").required(),
    ],
);

const GRACE: Field = mapped(
    "terminationGracePeriodSeconds",
    SECONDS,
    "the balancer stops sending first, then SIGTERM, then SIGKILL after this time",
)
.default("30");

/// `spec` of a pod.
pub(super) static POD_SPEC: Table = Table::new(
    "PodSpec",
    "One pod is one machine: all containers run in it and share its network, volumes and life.",
    &[
        works("containers", Type::Filled(&Type::Object(&CONTAINER)), "run side by side").required(),
        works(
            "initContainers",
            Type::List(&Type::Object(&INIT_CONTAINER)),
            "run one by one, in order, before the containers",
        ),
        works("volumes", Type::Keyed(&VOLUME, "name"), "what containers can mount"),
        mapped(
            "restartPolicy",
            Type::Choice(&[
                word("Always", "a container that ends is started again, with a growing pause"),
                word("OnFailure", "the same after a failure only; for Jobs and Pods"),
                word("Never", "never; for Jobs and Pods"),
            ]),
            "containers are restarted inside the machine",
        )
        .zero()
        .default("Always"),
        GRACE,
        mapped("serviceAccountName", Type::Name(Target::ServiceAccount), "the machine's role in the cloud")
            .zero(),
        mapped("serviceAccount", Type::Name(Target::ServiceAccount), "old name of serviceAccountName").zero(),
        no_meaning("automountServiceAccountToken", Type::Bool, "there is no Kubernetes API to talk to")
            .unless(&["false"]),
        works(
            "imagePullSecrets",
            Type::List(&Type::Object(&PULL_SECRET)),
            "credentials for registries while images are built, asked before docker's own; no machine ever sees them",
        ),
        works("securityContext", Type::Object(&POD_SECURITY), "defaults for all containers"),
        mapped(
            "nodeSelector",
            LABELS,
            "kubernetes.io/os: linux, architecture, zone, region and instance type choose the machine; other labels, a node's name among them, are refused",
        ),
        mapped("affinity", Type::Object(&AFFINITY), "where machines run"),
        mapped(
            "topologySpreadConstraints",
            Type::List(&Type::Object(&SPREAD)),
            "over zones: the group is spread over all of them; over nodes: always so",
        ),
        no_meaning("tolerations", Type::Any, "a machine of its own has no taints"),
        no_meaning("priorityClassName", TEXT, "machines do not compete for nodes").zero(),
        no_meaning("priority", Type::Any, "machines do not compete for nodes"),
        no_meaning("preemptionPolicy", TEXT, "machines do not compete for nodes"),
        no_meaning("schedulerName", TEXT, "there is nothing to schedule")
            .zero()
            .unless(&["default-scheduler"]),
        no_meaning("runtimeClassName", TEXT, "each pod has a kernel of its own already"),
        no_meaning(
            "enableServiceLinks",
            Type::Bool,
            "variables with the addresses of Services are never set; use their DNS names",
        )
        .unless(&["false"]),
        no_meaning("overhead", Type::Any, "the system's own need is known"),
        no_meaning("setHostnameAsFQDN", Type::Bool, "the host name is the instance's name")
            .unless(&["false"]),
        works(
            "hostUsers",
            Type::Bool,
            "`false` gives the containers a user namespace of their own inside the machine",
        ),
        no_meaning("os", Type::Any, "machines run Linux"),
        no_meaning("readinessGates", Type::Any, "conditions are set by controllers of a cluster"),
        refused(
            "hostNetwork",
            Type::Bool,
            "there is no host to share a network with",
            "remove it; the pod owns the VM's network already, or pass --host-is-vm",
        )
        .unless(&["false"])
        .switch(Switch::HostIsVm),
        refused(
            "hostPID",
            Type::Bool,
            "there is no host to share processes with",
            "remove it; use shareProcessNamespace to share them between containers, or pass --host-is-vm",
        )
        .unless(&["false"])
        .switch(Switch::HostIsVm),
        refused(
            "hostIPC",
            Type::Bool,
            "there is no host to share memory with",
            "remove it; the containers of a pod share the VM's IPC already, or pass --host-is-vm",
        )
        .unless(&["false"])
        .switch(Switch::HostIsVm),
        refused("hostnameOverride", TEXT, "the host name is also the DNS name", "use `hostname`"),
        no_meaning("schedulingGroup", Type::Any, "there is nothing to schedule"),
        no_meaning("evictionResponders", Type::Any, "nobody evicts a machine of its own"),
        refused("nodeName", TEXT, "there are no nodes", "remove it").zero(),
        refused("schedulingGates", Type::Any, "there is no scheduler", "remove it"),
        refused(
            "resourceClaims",
            Type::Any,
            "dynamic resource allocation needs a cluster",
            "ask for a device in `limits`",
        ),
        refused("ephemeralContainers", Type::Any, "they belong to running pods only", "remove it"),
        refused(
            "resources",
            Type::Any,
            "resources of whole pods are not divided between containers here",
            "set `resources` of each container",
        ),
        works("hostAliases", Type::List(&Type::Object(&HOST_ALIAS)), "lines of /etc/hosts"),
        works("hostname", Type::Text(Text::Label), "the machine's host name").zero(),
        works(
            "subdomain",
            Type::Text(Text::Label),
            "names the headless Service below which the pod has a DNS name",
        )
        .zero(),
        works("dnsConfig", Type::Object(&DNS_CONFIG), "lines of /etc/resolv.conf"),
        mapped(
            "dnsPolicy",
            Type::Choice(&[
                word("ClusterFirst", "the environment's private zone first"),
                word("ClusterFirstWithHostNet", "as ClusterFirst"),
                word("Default", "only what the cloud's network offers"),
                word("None", "only `dnsConfig`"),
            ]),
            "who answers DNS questions",
        )
        .zero()
        .default("ClusterFirst"),
        works("shareProcessNamespace", Type::Bool, "containers see each other's processes"),
        works(
            "activeDeadlineSeconds",
            COUNT_1,
            "the pod is stopped after this time and has failed; for Jobs and Pods that end",
        ),
    ],
);

/// `imagePullSecrets[]`.
pub(super) static PULL_SECRET: Table = Table::new(
    "LocalObjectReference",
    "A Secret with registry credentials.",
    &[works("name", Type::Name(Target::Secret), "its name").required()],
);

static HOST_ALIAS: Table = Table::new(
    "HostAlias",
    "A line of /etc/hosts.",
    &[
        works("ip", Type::Text(Text::Ip), "the address").required(),
        works("hostnames", Type::Filled(&Type::Text(Text::Host)), "its names").required(),
    ],
);

static DNS_CONFIG: Table = Table::new(
    "PodDNSConfig",
    "Lines of /etc/resolv.conf.",
    &[
        works("nameservers", Type::List(&Type::Text(Text::Ip)), "servers to ask, at most 3"),
        works("searches", TEXTS, "domains to search"),
        works("options", Type::List(&Type::Object(&DNS_OPTION)), "options of the resolver"),
    ],
);

static DNS_OPTION: Table = Table::new(
    "PodDNSConfigOption",
    "An option of the resolver.",
    &[
        works("name", Type::Text(Text::Filled), "such as `ndots`").required(),
        works("value", TEXT, "its value"),
    ],
);

static POD_SECURITY: Table = Table::new(
    "PodSecurityContext",
    "Defaults for all containers of the pod.",
    &[
        works("runAsUser", ID, "user id of the containers' processes"),
        works("runAsGroup", ID, "group id of the containers' processes"),
        works("runAsNonRoot", Type::Bool, "refuse to start as root"),
        works("fsGroup", ID, "volumes belong to this group, and processes have it too"),
        works(
            "fsGroupChangePolicy",
            Type::Choice(&[
                word("OnRootMismatch", "only when the top folder differs"),
                word("Always", "at each start"),
            ]),
            "when volumes change their group",
        )
        .default("Always"),
        works("supplementalGroups", Type::List(&ID), "more groups of the processes"),
        no_meaning("supplementalGroupsPolicy", TEXT, "groups of the image are always merged")
            .unless(&["Merge"]),
        works("seccompProfile", Type::Object(&SECCOMP), "filter of system calls"),
        works(
            "sysctls",
            Type::List(&Type::Object(&SYSCTL)),
            "kernel parameters; the kernel is the pod's own",
        ),
        no_meaning("seLinuxOptions", Type::Any, "the machine has no SELinux"),
        no_meaning("seLinuxChangePolicy", Type::Any, "the machine has no SELinux"),
        no_meaning("appArmorProfile", Type::Any, "the machine has no AppArmor"),
        refused("windowsOptions", Type::Any, "machines run Linux", "remove it"),
    ],
);

static SYSCTL: Table = Table::new(
    "Sysctl",
    "A kernel parameter.",
    &[
        works("name", Type::Text(Text::Filled), "such as `net.core.somaxconn`").required(),
        works("value", TEXT, "its value").required(),
    ],
);

static AFFINITY: Table = Table::new(
    "Affinity",
    "Where machines run.",
    &[
        mapped("nodeAffinity", Type::Object(&NODE_AFFINITY), "the keys of nodeSelector"),
        mapped(
            "podAntiAffinity",
            Type::Object(&ANTI_AFFINITY),
            "not on the same node: always so; not in the same zone: spread over zones",
        ),
        mapped("podAffinity", Type::Object(&POD_AFFINITY), "machines cannot be put together"),
    ],
);

static NODE_AFFINITY: Table = Table::new(
    "NodeAffinity",
    "Which machines will do.",
    &[
        mapped(
            "requiredDuringSchedulingIgnoredDuringExecution",
            Type::Object(&NODE_TERMS),
            "as nodeSelector",
        ),
        no_meaning("preferredDuringSchedulingIgnoredDuringExecution", Type::Any, "preferences are not kept"),
    ],
);

static NODE_TERMS: Table = Table::new(
    "NodeSelector",
    "Alternatives of which one must hold.",
    &[works("nodeSelectorTerms", Type::Filled(&Type::Object(&NODE_TERM)), "the alternatives").required()],
);

static NODE_TERM: Table = Table::new(
    "NodeSelectorTerm",
    "Conditions that must all hold.",
    &[
        mapped(
            "matchExpressions",
            Type::List(&Type::Object(&NODE_CONDITION)),
            "conditions on the keys of nodeSelector; of other labels machines have none, so that `NotIn` and `DoesNotExist` hold for these",
        ),
        refused("matchFields", Type::Any, "there are no node objects", "use the labels of nodeSelector"),
    ],
);

static NODE_CONDITION: Table = Table::new(
    "NodeSelectorRequirement",
    "One condition.",
    &[
        works("key", Type::Text(Text::LabelKey), "the label").required(),
        works(
            "operator",
            Type::Choice(&[
                word("In", "one of `values`"),
                word("NotIn", "none of `values`"),
                word("Exists", "the label is there"),
                word("DoesNotExist", "the label is not there"),
                refused_word("Gt", "the labels of machines are not numbers", "use In"),
                refused_word("Lt", "the labels of machines are not numbers", "use In"),
            ]),
            "how it is compared",
        )
        .required(),
        works("values", TEXTS, "what it is compared with"),
    ],
);

static ANTI_AFFINITY: Table = Table::new(
    "PodAntiAffinity",
    "What must not be near.",
    &[
        mapped(
            "requiredDuringSchedulingIgnoredDuringExecution",
            Type::List(&Type::Object(&POD_TERM)),
            "by host: always so; by zone: spread over zones",
        ),
        mapped(
            "preferredDuringSchedulingIgnoredDuringExecution",
            Type::List(&Type::Object(&WEIGHTED)),
            "by host: always so; by zone: spread over zones",
        ),
    ],
);

static POD_AFFINITY: Table = Table::new(
    "PodAffinity",
    "What should be near.",
    &[
        refused(
            "requiredDuringSchedulingIgnoredDuringExecution",
            Type::Any,
            "machines cannot be put together",
            "make them containers of one pod, or drop the rule",
        ),
        no_meaning(
            "preferredDuringSchedulingIgnoredDuringExecution",
            Type::Any,
            "machines cannot be put together",
        ),
    ],
);

static WEIGHTED: Table = Table::new(
    "WeightedPodAffinityTerm",
    "A preference.",
    &[
        works("weight", Type::Int(1, 100), "how much it counts").required(),
        works("podAffinityTerm", Type::Object(&PREFERRED_TERM), "the preference").required(),
    ],
);

static POD_TERM: Table = Table::new("PodAffinityTerm", "Which pods, and how near.", TERM_FIELDS);

static PREFERRED_TERM: Table =
    Table::new("PodAffinityTerm (preferred)", "Which pods, and how near.", TERM_FIELDS);

const TERM_FIELDS: &[Field] = &[
    works("topologyKey", Type::Text(Text::LabelKey), "`kubernetes.io/hostname` or a zone").required(),
    works("labelSelector", Type::Object(&SELECTOR), "which pods"),
    works("namespaces", TEXTS, "whose pods"),
    works("namespaceSelector", Type::Object(&SELECTOR), "whose pods"),
    works("matchLabelKeys", TEXTS, "labels that must be equal"),
    works("mismatchLabelKeys", TEXTS, "labels that must differ"),
];

static SPREAD: Table = Table::new(
    "TopologySpreadConstraint",
    "How the group is spread.",
    &[
        works("maxSkew", COUNT_1, "largest difference between two zones").required(),
        works("topologyKey", Type::Text(Text::LabelKey), "a zone; by host it is always so").required(),
        works(
            "whenUnsatisfiable",
            Type::Choice(&[
                word("DoNotSchedule", "balanced zones"),
                word("ScheduleAnyway", "spread as the cloud can"),
            ]),
            "how strict",
        )
        .required(),
        works("labelSelector", Type::Object(&SELECTOR), "which pods count"),
        no_meaning("minDomains", Type::Any, "the environment has the number of zones"),
        no_meaning("nodeAffinityPolicy", Type::Any, "there are no nodes"),
        no_meaning("nodeTaintsPolicy", Type::Any, "there are no nodes"),
        no_meaning("matchLabelKeys", Type::Any, "a group counts its own machines only"),
    ],
);
