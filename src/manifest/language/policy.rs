//! Network policies: who may talk to whom.

use super::config::META;
use super::field::{OneOf, PORT, Table, Text, Type, refused_word, word, works};
use super::meta::SELECTOR;
use super::workload::{API_VERSION, KIND};

/// `networking.k8s.io/v1` NetworkPolicy.
pub(super) static POLICY: Table = Table::new(
    "NetworkPolicy",
    "What pods may be reached by, and what they may reach. It is about pods of the files that are given with it.",
    &[API_VERSION, KIND, META, works("spec", Type::Object(&POLICY_SPEC), "what it allows").required()],
);

static POLICY_SPEC: Table = Table::new(
    "NetworkPolicySpec",
    "Pods that at least one policy selects are reached by, and reach, what some policy of theirs allows, and nothing else.",
    &[
        works(
            "podSelector",
            Type::Object(&SELECTOR),
            "the pods that it is about; `{}` is all of its namespace",
        )
        .required(),
        works(
            "policyTypes",
            Type::List(&Type::Choice(&[
                word("Ingress", "what reaches the pods is restricted"),
                word("Egress", "what the pods reach is restricted"),
            ])),
            "what it restricts; by default Ingress, and Egress when `egress` is given",
        ),
        works(
            "ingress",
            Type::List(&Type::Object(&INGRESS_RULE)),
            "what may reach the pods; nothing by default",
        ),
        works(
            "egress",
            Type::List(&Type::Object(&EGRESS_RULE)),
            "what the pods may reach; nothing by default",
        ),
    ],
);

static INGRESS_RULE: Table = Table::new(
    "NetworkPolicyIngressRule",
    "Connections that may come in.",
    &[
        works("from", Type::List(&Type::Object(&PEER)), "from whom; from everybody by default"),
        works(
            "ports",
            Type::List(&Type::Object(&POLICY_PORT)),
            "to which ports of the pods; to all by default",
        ),
    ],
);

static EGRESS_RULE: Table = Table::new(
    "NetworkPolicyEgressRule",
    "Connections that may go out.",
    &[
        works("to", Type::List(&Type::Object(&PEER)), "to whom; to everybody by default"),
        works(
            "ports",
            Type::List(&Type::Object(&POLICY_PORT)),
            "to which ports of theirs; to all by default",
        ),
    ],
);

static PEER: Table = Table::new(
    "NetworkPolicyPeer",
    "The other side of connections: pods, or addresses.",
    &[
        works(
            "podSelector",
            Type::Object(&SELECTOR),
            "pods of the policy's namespace, or of those of `namespaceSelector`",
        ),
        works(
            "namespaceSelector",
            Type::Object(&SELECTOR),
            "namespaces, by labels of their objects in the given files and by `kubernetes.io/metadata.name`",
        ),
        works("ipBlock", Type::Object(&IP_BLOCK), "a range of addresses"),
    ],
)
.one_of(&[
    OneOf { fields: &["ipBlock", "podSelector"], required: false },
    OneOf { fields: &["ipBlock", "namespaceSelector"], required: false },
]);

static IP_BLOCK: Table = Table::new(
    "IPBlock",
    "A range of addresses. It is compared with the pod's own address, or that outside; never with a Service's.",
    &[
        works("cidr", Type::Text(Text::Cidr), "the range").required(),
        works("except", Type::List(&Type::Text(Text::Cidr)), "ranges in it that are not meant"),
    ],
);

static POLICY_PORT: Table = Table::new(
    "NetworkPolicyPort",
    "A port of a pod, or a range of them.",
    &[
        works("port", Type::PortRef, "number or name of a port of the pods; all by default"),
        works("endPort", PORT, "the last port of a range that begins with `port`"),
        works(
            "protocol",
            Type::Choice(&[
                word("TCP", "the usual one"),
                word("UDP", "datagrams"),
                refused_word("SCTP", "machines' networks carry TCP and UDP", "use TCP or UDP"),
            ]),
            "transport",
        )
        .zero()
        .default("TCP"),
    ],
);
