//! Services and Ingresses: stable names and balancers in front of pods.

use super::field::{
    LABELS, OneOf, PORT, TEXT, TEXTS, Table, Target, Text, Type, mapped, mapped_word, no_meaning, refused,
    refused_word, silent, word, works,
};
use super::meta::{LABEL_META, SUBDOMAIN_META};
use super::workload::{API_VERSION, KIND, STATUS};

/// `v1` Service.
pub(super) static SERVICE: Table = Table::new(
    "Service",
    "A stable name and a balancer in front of pods.",
    &[
        API_VERSION,
        KIND,
        works(
            "metadata",
            Type::Object(&LABEL_META),
            "its name is a DNS name: `svc`, `svc.ns`, `svc.ns.svc.cluster.local`",
        )
        .required(),
        works("spec", Type::Object(&SERVICE_SPEC), "what it does").required(),
        STATUS,
    ],
);

static SERVICE_SPEC: Table = Table::new(
    "ServiceSpec",
    "Who gets the traffic, and on which ports.",
    &[
        works(
            "type",
            Type::Choice(&[
                word("ClusterIP", "reachable inside the environment"),
                mapped_word("NodePort", "as ClusterIP: there are no nodes; clients use `port`"),
                word("LoadBalancer", "reachable from outside; inside only with an annotation for internal balancers"),
                word("ExternalName", "an alias for another DNS name"),
            ]),
            "how far it is seen",
        ).zero()
        .default("ClusterIP"),
        works("selector", LABELS, "labels that a pod template must have to be a target"),
        works("ports", Type::List(&Type::Object(&SERVICE_PORT)), "what it listens on"),
        mapped("clusterIP", TEXT, "`None` makes it headless: its name gives the addresses of the healthy machines; other addresses are chosen by the cloud").zero(),
        silent("clusterIPs", "chosen by the cloud"),
        works("externalName", Type::Text(Text::Host), "the name that it is an alias for").zero(),
        works("sessionAffinity", Type::Choice(&[word("None", "any machine"), word("ClientIP", "the same machine for the same client address, as long as it is healthy")]), "whether a client stays with a machine").zero()
            .default("None"),
        works("sessionAffinityConfig", Type::Object(&AFFINITY_CONFIG), "how long a client stays that does not come again; between pods of the local cloud as long as its machine is healthy"),
        works("loadBalancerSourceRanges", Type::List(&Type::Text(Text::Cidr)), "addresses that may connect; everybody by default"),
        refused("loadBalancerIP", TEXT, "the cloud chooses the address", "use the DNS name that `status` shows").zero(),
        refused("externalIPs", TEXTS, "there are no nodes that could own the address", "use type LoadBalancer"),
        no_meaning("loadBalancerClass", TEXT, "each cloud has one kind of balancer for Services"),
        mapped("publishNotReadyAddresses", Type::Bool, "a headless Service names all machines, healthy or not").unless(&["false"]),
        mapped(
            "externalTrafficPolicy",
            Type::Choice(&[word("Cluster", "the usual way"), mapped_word("Local", "the balancer keeps the client's address")]),
            "whether pods see the client's address",
        ).zero()
        .default("Cluster"),
        no_meaning("internalTrafficPolicy", TEXT, "there are no nodes").unless(&["Cluster"]),
        no_meaning("trafficDistribution", TEXT, "the cloud's balancer decides"),
        no_meaning("healthCheckNodePort", Type::Any, "there are no nodes"),
        no_meaning("allocateLoadBalancerNodePorts", Type::Bool, "there are no nodes"),
        works(
            "ipFamilies",
            Type::List(&Type::Choice(&[word("IPv4", "addresses of IPv4"), word("IPv6", "addresses of IPv6")])),
            "the families of its addresses, the first one first; IPv4 by default, and two without a policy are both required",
        ),
        works(
            "ipFamilyPolicy",
            Type::Choice(&[
                word("SingleStack", "the first family alone"),
                word("PreferDualStack", "both families where machines have both, else the one that there is"),
                word("RequireDualStack", "both families"),
            ]),
            "how many families it has; one by default",
        ),
    ],
);

static SERVICE_PORT: Table = Table::new(
    "ServicePort",
    "A port that clients connect to.",
    &[
        works("port", PORT, "the port's number").required(),
        works(
            "targetPort",
            Type::PortRef,
            "number or name of a port of the pods; by default the same number",
        )
        .zero(),
        works("name", Type::Text(Text::Label), "required when there are several ports").zero(),
        works(
            "protocol",
            Type::Choice(&[
                word("TCP", "the usual one"),
                word("UDP", "datagrams"),
                refused_word("SCTP", "the clouds' balancers do not speak SCTP", "use TCP or UDP"),
            ]),
            "transport",
        )
        .zero()
        .default("TCP"),
        no_meaning("nodePort", Type::Int(0, 65535), "there are no nodes; clients use `port`")
            .zero()
            .unless(&["0"]),
        mapped(
            "appProtocol",
            TEXT,
            "`kubernetes.io/h2c` and `grpc`: the balancer of an Ingress speaks HTTP/2 without TLS to the pods; balancers of \
             Services pass bytes on unread",
        ),
    ],
);

static AFFINITY_CONFIG: Table = Table::new(
    "SessionAffinityConfig",
    "How long a client stays with a machine.",
    &[works("clientIP", Type::Object(&CLIENT_IP), "by client address")],
);

static CLIENT_IP: Table = Table::new(
    "ClientIPConfig",
    "By client address.",
    &[works("timeoutSeconds", Type::Int(1, 86400), "how long").default("10800")],
);

/// `networking.k8s.io/v1` Ingress.
pub(super) static INGRESS: Table = Table::new(
    "Ingress",
    "HTTP routing: one application balancer.",
    &[
        API_VERSION,
        KIND,
        works("metadata", Type::Object(&SUBDOMAIN_META), "its name, and annotations of ingress controllers")
            .required(),
        works("spec", Type::Object(&INGRESS_SPEC), "its rules").required(),
        STATUS,
    ],
);

static INGRESS_SPEC: Table = Table::new(
    "IngressSpec",
    "Rules that choose a Service by host and path.",
    &[
        works("rules", Type::List(&Type::Object(&INGRESS_RULE)), "one a host"),
        works("defaultBackend", Type::Object(&BACKEND), "for what no rule matches"),
        works("tls", Type::List(&Type::Object(&INGRESS_TLS)), "hosts that are served over TLS"),
        no_meaning("ingressClassName", TEXT, "each cloud has one kind of application balancer"),
    ],
);

static INGRESS_RULE: Table = Table::new(
    "IngressRule",
    "Rules of a host.",
    &[
        works("host", Type::Text(Text::Host), "the host; all hosts by default").zero(),
        works("http", Type::Object(&INGRESS_HTTP), "its paths"),
    ],
);

static INGRESS_HTTP: Table = Table::new(
    "HTTPIngressRuleValue",
    "Paths of a host.",
    &[works("paths", Type::Filled(&Type::Object(&INGRESS_PATH)), "the paths").required()],
);

static INGRESS_PATH: Table = Table::new(
    "HTTPIngressPath",
    "A path and where it leads.",
    &[
        works("path", TEXT, "begins with `/`").zero().default("/"),
        works(
            "pathType",
            Type::Choice(&[
                word("Exact", "this path only"),
                word(
                    "Prefix",
                    "this path and what lies below it, element by element: `/foo` does not take `/foobar`",
                ),
                mapped_word("ImplementationSpecific", "read as Prefix"),
            ]),
            "how the path is compared",
        )
        .required(),
        works("backend", Type::Object(&BACKEND), "where it leads").required(),
    ],
);

static BACKEND: Table = Table::new(
    "IngressBackend",
    "A Service.",
    &[
        works("service", Type::Object(&BACKEND_SERVICE), "the Service"),
        refused("resource", Type::Any, "custom resources need a cluster", "name a Service"),
    ],
)
.one_of(&[OneOf { fields: &["service"], required: true }]);

static BACKEND_SERVICE: Table = Table::new(
    "IngressServiceBackend",
    "A port of a Service.",
    &[
        works("name", Type::Name(Target::Service), "the Service").required(),
        works("port", Type::Object(&BACKEND_PORT), "its port").required(),
    ],
);

static BACKEND_PORT: Table = Table::new(
    "ServiceBackendPort",
    "A port of a Service by number or by name.",
    &[works("number", PORT, "by number").zero(), works("name", Type::Text(Text::Label), "by name").zero()],
)
.one_of(&[OneOf { fields: &["number", "name"], required: true }]);

static INGRESS_TLS: Table = Table::new(
    "IngressTLS",
    "Hosts that are served over TLS.",
    &[
        works(
            "hosts",
            Type::List(&Type::Text(Text::Host)),
            "the hosts of the certificate; those of all rules by default",
        ),
        mapped(
            "secretName",
            TEXT,
            "a Secret with `tls.crt` and `tls.key`; where it is not among the manifests, the cloud finds or signs a \
             certificate by the hosts",
        )
        .zero(),
    ],
);
