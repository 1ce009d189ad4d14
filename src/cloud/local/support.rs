//! What the local cloud supports.

use crate::manifest::support::{Answer, INGRESS_RANGES, NAMED_CLASS, PLACEMENT, ROLE, Support, TLS};

/// Why nobody else needs to be kept out.
const LOOPBACK: &str =
    "its balancers listen on this machine's loopback addresses, which no other machine reaches";

/// What the local cloud supports.
pub static SUPPORT: Support = Support {
    provider: "local",
    name: "the local cloud",
    answers: &[
        ("ServiceSpec.type=ExternalName", Answer::No),
        ("ServiceSpec.externalName", Answer::No),
        (
            "ServiceSpec.sessionAffinity=ClientIP",
            Answer::Note(
                "clients on this computer count as one, and with the user network any machine answers",
            ),
        ),
        ("ServiceSpec.loadBalancerSourceRanges", Answer::Note(LOOPBACK)),
        (
            INGRESS_RANGES,
            Answer::Note(
                "its proxy listens on loopback addresses of this computer, which every user of it and the pods of every \
                 environment reach, and no other machine does",
            ),
        ),
        (
            "ServiceSpec.externalTrafficPolicy=Local",
            Answer::Note(
                "clients on this computer have one address for pods, the network's own; other pods have theirs",
            ),
        ),
        (TLS, Answer::No),
        (NAMED_CLASS, Answer::Note("disks are of one kind, whichever class is named")),
        ("StorageClass.parameters", Answer::Note("a disk is a file of this computer, of one kind and speed")),
        (ROLE, Answer::Note("machines of this computer have no roles")),
        (PLACEMENT, Answer::Note("there is one place and one kind of machine, this computer")),
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
};
