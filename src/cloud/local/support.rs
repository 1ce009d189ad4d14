//! What the local cloud supports.

use crate::manifest::support::{Answer, NAMED_CLASS, PLACEMENT, ROLE, Support, TLS};

/// Where machines have IPv6.
const IPV6: &str = "in an environment with a network of its own, on a host whose kernel has IPv6; clients on this computer \
    connect to its loopback address of IPv4";

/// What the local cloud supports.
pub static SUPPORT: Support = Support {
    provider: "local",
    name: "the local cloud",
    answers: &[
        (
            "ServiceSpec.externalTrafficPolicy=Local",
            Answer::Note(
                "clients on this computer have one address for pods, the network's own; other pods have theirs",
            ),
        ),
        ("ServiceSpec.ipFamilies=IPv6", Answer::Note(IPV6)),
        ("ServiceSpec.ipFamilyPolicy=RequireDualStack", Answer::Note(IPV6)),
        (
            TLS,
            Answer::Note(
                "it is TLS 1.2 or 1.3 with a certificate of the local authority (`i2kit ca`), whichever certificate and \
                 policy are named",
            ),
        ),
        (NAMED_CLASS, Answer::Note("disks are of one kind, whichever class is named")),
        ("StorageClass.parameters", Answer::Note("a disk is a file of this computer, of one kind and speed")),
        (ROLE, Answer::Note("machines of this computer have no roles")),
        (PLACEMENT, Answer::Note("there is one place and one kind of machine, this computer")),
        ("i2kit trial", Answer::No),
    ],
    annotations: &[],
    certificate: None,
    role: None,
    provisioners: &[
        "i2kit.dev/local",
        "rancher.io/local-path",
        "k8s.io/minikube-hostpath",
        "docker.io/hostpath",
        "hostpath.csi.k8s.io",
        "kubernetes.io/host-path",
    ],
    // Balancers listen on loopback.
    clients: Some("127.0.0.0/8"),
};
