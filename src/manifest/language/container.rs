//! Containers: what runs inside a pod's machine.

use super::field::{
    COUNT, COUNT_1, Choice, Field, ID, OneOf, PORT, SECONDS, Switch, TEXT, TEXTS, Table, Target, Text, Type,
    mapped, mapped_word, no_meaning, refused, refused_word, word, works,
};

/// The fields that containers and init containers share. A macro, because a static table cannot be made by adding
/// two others.
macro_rules! container {
    ($name:ident, $title:literal, $doc:literal, [$($own:expr),* $(,)?]) => {
        pub(super) static $name: Table = Table::new($title, $doc, &[
            works("name", Type::Text(Text::Label), "unique in the pod; names the container's logs").required(),
            works("image", Type::Text(Text::Image), "resolved to a digest when the machine image is built; the digest is recorded").required(),
            works("command", TEXTS, "replaces the image's entrypoint; `$(VAR)` is expanded, `$$` is a dollar sign"),
            works("args", TEXTS, "replaces the image's default arguments; `$(VAR)` is expanded"),
            works("workingDir", TEXT, "replaces the image's working directory").zero(),
            works("env", Type::List(&Type::Object(&ENV)), "environment variables, in order"),
            works("envFrom", Type::List(&Type::Object(&ENV_FROM)), "all keys of a ConfigMap or Secret as variables; `env` wins over them"),
            works("ports", Type::List(&Type::Object(&CONTAINER_PORT)), "ports that the container listens on; what is reachable is decided by Services, not here"),
            mapped("resources", Type::Object(&RESOURCES), "limits bind the container; the machine's size is the smallest that holds the sum of the requests"),
            works("volumeMounts", Type::List(&Type::Object(&VOLUME_MOUNT)), "where volumes appear in the container"),
            refused("volumeDevices", Type::List(&Type::Any), "raw block devices are not handed to containers", "use `volumeMounts` with a file system"),
            mapped("imagePullPolicy", Type::Choice(PULL_POLICIES), "images are pulled once, when the machine image is built").zero(),
            works("securityContext", Type::Object(&SECURITY_CONTEXT), "what the container may do inside its machine"),
            works("livenessProbe", Type::Object(&PROBE), "run inside the machine; a failure restarts the container, never the machine"),
            works("startupProbe", Type::Object(&PROBE), "run inside the machine; until it succeeds the other probes wait and the group's health check is patient"),
            works("lifecycle", Type::Object(&LIFECYCLE), "run by the supervisor in the machine"),
            no_meaning("stdin", Type::Bool, "nobody is attached to the container").unless(&["false"]),
            no_meaning("stdinOnce", Type::Bool, "nobody is attached to the container").unless(&["false"]),
            no_meaning("tty", Type::Bool, "nobody is attached to the container").unless(&["false"]),
            works("terminationMessagePath", TEXT, "a file that all programs may write to; its last 4096 bytes are shown with the container's end").zero().default("/dev/termination-log"),
            no_meaning("terminationMessagePolicy", TEXT, "the last words of a container are in its log; only the file is shown with its end").zero().unless(&["File"]),
            refused("restartPolicyRules", Type::Any, "restarts do not depend on exit codes", "use the pod's `restartPolicy`"),
            no_meaning("resizePolicy", Type::Any, "a changed size is a rollout"),
            $($own),*
        ]);
    };
}

const READINESS: Field = works(
    "readinessProbe",
    Type::Object(&PROBE),
    "decides whether the machine gets traffic: balancers ask the supervisor, which asks the container",
);

container!(
    CONTAINER,
    "Container",
    "A container; all containers of a pod share its machine, network and volumes.",
    [
        READINESS,
        refused(
            "restartPolicy",
            TEXT,
            "only init containers have a restart policy of their own",
            "set `restartPolicy` of the pod, or move the container to `initContainers`",
        ),
    ]
);

container!(
    INIT_CONTAINER,
    "Init container",
    "A container that runs to its end before the next one starts; with `restartPolicy: Always` one that keeps running beside them.",
    [
        READINESS,
        mapped(
            "restartPolicy",
            Type::Choice(&[word("Always", "a sidecar: started in order, then kept running")]),
            "`Always` makes it a sidecar",
        ),
    ]
);

static PULL_POLICIES: &[Choice] = &[
    word("IfNotPresent", "pulled once, at build"),
    mapped_word("Always", "the tag is resolved again at each build, never at a restart"),
    mapped_word("Never", "the image must be in the cache or in an `images` entry of the environment"),
];

pub(super) static ENV: Table = Table::new(
    "EnvVar",
    "One environment variable.",
    &[
        works("name", Type::Text(Text::EnvName), "the variable's name").required(),
        works(
            "value",
            TEXT,
            "its value; `$(VAR)` refers to variables written before it, `$$` is a dollar sign",
        )
        .zero(),
        works("valueFrom", Type::Object(&ENV_SOURCE), "where its value comes from"),
    ],
)
.one_of(&[OneOf { fields: &["value", "valueFrom"], required: false }]);

static ENV_SOURCE: Table = Table::new(
    "EnvVarSource",
    "Where the value of a variable comes from.",
    &[
        works(
            "configMapKeyRef",
            Type::Object(&CONFIG_KEY),
            "a key of a ConfigMap; a changed value is a rollout, unlike in Kubernetes",
        ),
        works(
            "secretKeyRef",
            Type::Object(&SECRET_KEY),
            "a key of a Secret, fetched when the machine boots; never part of the image",
        ),
        refused(
            "fileKeyRef",
            Type::Any,
            "files of volumes are not read before a container starts",
            "use a ConfigMap or a Secret",
        ),
        works("fieldRef", Type::Object(&FIELD_REF), "a field of the pod"),
        works("resourceFieldRef", Type::Object(&RESOURCE_REF), "a limit or request of a container"),
    ],
)
.one_of(&[OneOf {
    fields: &["configMapKeyRef", "secretKeyRef", "fieldRef", "resourceFieldRef"],
    required: true,
}]);

const OPTIONAL: Field =
    works("optional", Type::Bool, "whether it may be missing from the given files").default("false");

static CONFIG_KEY: Table = Table::new(
    "ConfigMapKeySelector",
    "A key of a ConfigMap.",
    &[
        works("name", Type::Name(Target::ConfigMap), "the ConfigMap").required(),
        works("key", Type::Text(Text::DataKey), "the key").required(),
        OPTIONAL,
    ],
);

static SECRET_KEY: Table = Table::new(
    "SecretKeySelector",
    "A key of a Secret.",
    &[
        works("name", Type::Name(Target::Secret), "the Secret").required(),
        works("key", Type::Text(Text::DataKey), "the key").required(),
        OPTIONAL,
    ],
);

pub(super) static FIELD_REF: Table = Table::new(
    "ObjectFieldSelector",
    "A field of the pod.",
    &[
        works(
            "fieldPath",
            Type::Text(Text::FieldPath),
            "`metadata.name` (the instance's name), `metadata.namespace`, `metadata.uid`, `metadata.labels['…']`, `metadata.annotations['…']`, `spec.serviceAccountName`, `spec.nodeName` and `status.hostIP` (the instance), `status.podIP`, `status.podIPs`",
        )
        .required(),
        works("apiVersion", TEXT, "`v1`").zero().default("v1"),
    ],
);

pub(super) static RESOURCE_REF: Table = Table::new(
    "ResourceFieldSelector",
    "A limit or request of a container; without a limit, the machine's own size.",
    &[
        works("resource", Type::Choice(RESOURCES_OF), "what is asked for").required(),
        works("containerName", Type::Text(Text::Label), "the container; by default the one at hand").zero(),
        works("divisor", Type::Divisor, "the unit, such as `1Mi` or `1m`").default("1"),
    ],
);

static RESOURCES_OF: &[Choice] = &[
    word("limits.cpu", "processor time that the container may use"),
    word("limits.memory", "memory that the container may use"),
    word("limits.ephemeral-storage", "disk that the container may use"),
    word("requests.cpu", "processor time that the container asks for"),
    word("requests.memory", "memory that the container asks for"),
    word("requests.ephemeral-storage", "disk that the container asks for"),
];

static ENV_FROM: Table = Table::new(
    "EnvFromSource",
    "All keys of a ConfigMap or Secret as variables.",
    &[
        works("prefix", TEXT, "put before each name").zero(),
        works(
            "configMapRef",
            Type::Object(&CONFIG_MAP_REF),
            "the ConfigMap; a changed value is a rollout, unlike in Kubernetes",
        ),
        works("secretRef", Type::Object(&SECRET_REF), "the Secret, fetched when the machine boots"),
    ],
)
.one_of(&[OneOf { fields: &["configMapRef", "secretRef"], required: true }]);

static CONFIG_MAP_REF: Table = Table::new(
    "ConfigMapEnvSource",
    "A ConfigMap.",
    &[works("name", Type::Name(Target::ConfigMap), "its name").required(), OPTIONAL],
);

static SECRET_REF: Table = Table::new(
    "SecretEnvSource",
    "A Secret.",
    &[works("name", Type::Name(Target::Secret), "its name").required(), OPTIONAL],
);

static CONTAINER_PORT: Table = Table::new(
    "ContainerPort",
    "A port that a container listens on.",
    &[
        works("containerPort", PORT, "the port's number").required(),
        works("name", Type::Text(Text::PortName), "for Services and probes to refer to").zero(),
        works(
            "protocol",
            Type::Choice(&[
                word("TCP", "the usual one"),
                word("UDP", "for Services of the same protocol"),
                refused_word("SCTP", "the clouds' balancers do not speak SCTP", "use TCP or UDP"),
            ]),
            "transport",
        )
        .zero()
        .default("TCP"),
        mapped(
            "hostPort",
            PORT,
            "the machine is the host, where the same number is reachable already; for another one write a Service",
        )
        .zero(),
        no_meaning("hostIP", TEXT, "a machine has one address").zero(),
    ],
);

static RESOURCES: Table = Table::new(
    "ResourceRequirements",
    "What a container needs and what it may use.",
    &[
        mapped(
            "requests",
            Type::Object(&REQUESTS),
            "added up over the containers they choose the machine's size",
        ),
        mapped(
            "limits",
            Type::Object(&LIMITS),
            "bind the container; where larger than the request they count for the machine's size",
        ),
        refused(
            "claims",
            Type::Any,
            "dynamic resource allocation needs a cluster",
            "ask for a device in `limits`",
        ),
    ],
);

macro_rules! amounts {
    ($name:ident, $title:literal, $doc:literal) => {
        static $name: Table = Table::new(
            $title,
            $doc,
            &[
                mapped("cpu", Type::Cpu, "processor time in cores; `500m` is half a core"),
                mapped("memory", Type::Bytes, "memory in bytes; `64Mi`"),
                mapped("ephemeral-storage", Type::Bytes, "as a limit: how much a container may write outside its volumes, which is kept in memory; a write beyond it fails"),
                mapped("nvidia.com/gpu", COUNT, "GPUs: chooses a family of machines that has them").not_yet(),
                refused("hugepages-2Mi", Type::Any, "machines have no huge pages set aside", "remove it"),
                refused("hugepages-1Gi", Type::Any, "machines have no huge pages set aside", "remove it"),
                mapped("amd.com/gpu", COUNT, "GPUs: chooses a family of machines that has them").not_yet(),
            ],
        );
    };
}

amounts!(REQUESTS, "Resource requests", "What a container needs.");
amounts!(LIMITS, "Resource limits", "What a container may use at most.");

static VOLUME_MOUNT: Table = Table::new(
    "VolumeMount",
    "Where a volume appears in a container.",
    &[
        refused("bindMountOptions", Type::Any, "volumes are mounted as they are", "remove it"),
        works("name", Type::Text(Text::Label), "a volume of the pod").required(),
        works("mountPath", Type::Text(Text::Filled), "where it appears").required(),
        works("readOnly", Type::Bool, "whether the container may only read it").default("false"),
        works(
            "subPath",
            Type::Text(Text::SubPath),
            "a file or folder inside the volume instead of the whole",
        )
        .zero(),
        works("subPathExpr", TEXT, "the same, with `$(VAR)` expanded").zero(),
        refused(
            "mountPropagation",
            TEXT,
            "mounts are not shared between containers",
            "remove it; containers see the same volume without it",
        )
        .unless(&["None"]),
        no_meaning("recursiveReadOnly", TEXT, "volumes have no mounts inside"),
    ],
)
.one_of(&[OneOf { fields: &["subPath", "subPathExpr"], required: false }]);

/// Probes of every kind.
pub(super) static PROBE: Table = Table::new(
    "Probe",
    "How the health of a container is asked for. Probes run inside the machine.",
    &[
        works("httpGet", Type::Object(&HTTP_GET), "a request; 200 to 399 is success"),
        works("tcpSocket", Type::Object(&TCP_SOCKET), "a connection"),
        works("exec", Type::Object(&EXEC), "a command in the container; exit code 0 is success").presence(),
        works("grpc", Type::Object(&GRPC), "the gRPC health protocol, without TLS"),
        works("initialDelaySeconds", COUNT, "wait after the start").zero().default("0"),
        works("periodSeconds", COUNT_1, "time between two questions").zero().default("10"),
        works("timeoutSeconds", COUNT_1, "how long an answer may take").zero().default("1"),
        works("successThreshold", COUNT_1, "answers in a row that make it healthy").zero().default("1"),
        works("failureThreshold", COUNT_1, "failures in a row that make it unhealthy").zero().default("3"),
        works(
            "terminationGracePeriodSeconds",
            COUNT_1,
            "replaces the pod's grace period when this probe fails",
        ),
    ],
)
.one_of(&[OneOf { fields: &["httpGet", "tcpSocket", "exec", "grpc"], required: true }]);

static HTTP_GET: Table = Table::new(
    "HTTPGetAction",
    "An HTTP request to the container.",
    &[
        refused("protocol", TEXT, "HTTP/1.1 is spoken", "remove it"),
        works("port", Type::PortRef, "number or name of a port of the container").required(),
        works("path", TEXT, "path of the request").zero().default("/"),
        works(
            "scheme",
            Type::Choice(&[word("HTTP", "plain"), word("HTTPS", "TLS; the certificate is not verified")]),
            "protocol",
        )
        .zero()
        .default("HTTP"),
        works("host", TEXT, "host name to connect to; by default the pod itself").zero(),
        works("httpHeaders", Type::List(&Type::Object(&HEADER)), "headers of the request"),
    ],
);

static HEADER: Table = Table::new(
    "HTTPHeader",
    "One header.",
    &[
        works("name", Type::Text(Text::Filled), "its name").required(),
        works("value", TEXT, "its value").required(),
    ],
);

static TCP_SOCKET: Table = Table::new(
    "TCPSocketAction",
    "A connection to the container.",
    &[
        works("port", Type::PortRef, "number or name of a port of the container").required(),
        works("host", TEXT, "host name to connect to; by default the pod itself").zero(),
    ],
);

static EXEC: Table = Table::new(
    "ExecAction",
    "A command in the container.",
    &[works("command", Type::Filled(&TEXT), "program and arguments, without a shell").required()],
);

static GRPC: Table = Table::new(
    "GRPCAction",
    "The gRPC health protocol.",
    &[
        refused("mode", TEXT, "the health protocol is spoken in plain text", "remove it"),
        works("port", PORT, "the port's number").required(),
        works("service", TEXT, "name of the service to ask for").zero().default(""),
    ],
);

static LIFECYCLE: Table = Table::new(
    "Lifecycle",
    "What runs at the start and before the end of a container.",
    &[
        works("postStart", Type::Object(&HANDLER), "run when the container has started"),
        works(
            "preStop",
            Type::Object(&HANDLER),
            "run before the container is asked to end; counts against the grace period",
        ),
        works("stopSignal", Type::Text(Text::Signal), "instead of the image's own, or SIGTERM"),
    ],
);

static HANDLER: Table = Table::new(
    "LifecycleHandler",
    "What to do.",
    &[
        works("exec", Type::Object(&EXEC), "a command in the container").presence(),
        works("httpGet", Type::Object(&HTTP_GET), "a request"),
        works("sleep", Type::Object(&SLEEP), "wait"),
        refused("tcpSocket", Type::Any, "never worked in Kubernetes either", "use `exec` or `httpGet`"),
    ],
)
.one_of(&[OneOf { fields: &["exec", "httpGet", "sleep"], required: true }]);

static SLEEP: Table =
    Table::new("SleepAction", "A pause.", &[works("seconds", SECONDS, "its length").required()]);

static SECURITY_CONTEXT: Table = Table::new(
    "SecurityContext",
    "What a container may do inside its machine.",
    &[
        works("runAsUser", ID, "user id of the container's processes"),
        works("runAsGroup", ID, "group id of the container's processes"),
        works("runAsNonRoot", Type::Bool, "refuse to start as root"),
        works("readOnlyRootFilesystem", Type::Bool, "the container cannot write outside its volumes"),
        works("allowPrivilegeEscalation", Type::Bool, "false sets no-new-privileges"),
        works("capabilities", Type::Object(&CAPABILITIES), "kernel capabilities to add and drop"),
        works("seccompProfile", Type::Object(&SECCOMP), "filter of system calls"),
        refused(
            "privileged",
            Type::Bool,
            "a privileged container could change the machine that is meant to be immutable",
            "remove it and add the capabilities that are needed, or pass --allow-privileged",
        )
        .unless(&["false"])
        .switch(Switch::Privileged),
        no_meaning("procMount", TEXT, "/proc is always masked").unless(&["Default"]),
        no_meaning("seLinuxOptions", Type::Any, "the machine has no SELinux"),
        no_meaning("appArmorProfile", Type::Any, "the machine has no AppArmor"),
        refused("windowsOptions", Type::Any, "machines run Linux", "remove it"),
    ],
);

static CAPABILITIES: Table = Table::new(
    "Capabilities",
    "Kernel capabilities of a container, with or without `CAP_`; the machine is the boundary.",
    &[
        mapped(
            "add",
            TEXTS,
            "added; SYS_ADMIN, SYS_MODULE, SYS_RAWIO and ALL are refused because they reach the machine's kernel",
        ),
        works("drop", TEXTS, "taken away; `ALL` takes all"),
    ],
);

/// `seccompProfile` of pods and containers.
pub(super) static SECCOMP: Table = Table::new(
    "SeccompProfile",
    "Filter of system calls.",
    &[
        works(
            "type",
            Type::Choice(&[
                word("RuntimeDefault", "the usual filter, which is the default"),
                mapped_word("Unconfined", "no filter; the machine is the boundary"),
                word("Localhost", "the one in `localhostProfile`"),
            ]),
            "which filter",
        )
        .required(),
        works(
            "localhostProfile",
            Type::Text(Text::Filled),
            "file of a profile (Docker's or the OCI runtime specification's JSON) in the folder that the environment file names as `seccompProfiles`",
        ),
    ],
);
