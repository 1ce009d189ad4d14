//! The paper's own short form: one pod and its Service on half a page.

use super::field::{COUNT, LABEL, TEXT, TEXTS, Table, Text, Type, mapped, refused, works};

/// A document without `apiVersion`.
pub(in crate::manifest) static SHORT_FORM: Table = Table::new(
    "Short form",
    "A Deployment and a Service in one; recognised by having no `apiVersion`. `i2kit convert` prints the long form.",
    &[
        works("name", LABEL, "name of the Deployment and of the Service").required(),
        works("replicas", COUNT, "machines in the group").default("1"),
        refused(
            "stateful",
            Type::Bool,
            "the short form does not say where a disk is mounted",
            "write a StatefulSet, whose `volumeClaimTemplates` and `volumeMounts` do",
        )
        .unless(&["false"]),
        works("public", Type::Bool, "whether the Service is reachable from outside").default("false"),
        mapped(
            "instance_type",
            TEXT,
            "the exact type of machine, as `node.kubernetes.io/instance-type` of a nodeSelector",
        ),
        works("containers", Type::Map(Text::Label, &Type::Object(&SHORT_CONTAINER)), "containers by name")
            .required(),
    ],
);

static SHORT_CONTAINER: Table = Table::new(
    "Short form container",
    "A container of the short form.",
    &[
        works("image", Type::Text(Text::Image), "as in a Deployment").required(),
        works("command", TEXTS, "replaces the image's entrypoint"),
        works("environment", Type::List(&Type::Text(Text::Assignment)), "`NAME=VALUE` each"),
        works(
            "ports",
            Type::List(&Type::Text(Text::PortMapping)),
            "a number, or `https:443:http:80`: listener protocol and port, container protocol and port",
        ),
    ],
);
