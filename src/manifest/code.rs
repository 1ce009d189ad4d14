//! The rules that findings name, with their severities. Names are stable: scripts and suppressions depend on them.

use std::fmt;

use super::words::nearest;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; nothing is lost.
    Note,
    /// Accepted, but probably not what was meant.
    Warning,
    /// Refused.
    Error,
}

impl Severity {
    /// The word that messages begin with.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

macro_rules! codes {
    ($($variant:ident, $name:literal, $severity:ident, $doc:literal, $example:literal;)*) => {
        /// A rule. `i2kit explain` prints its paragraph.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(
                #[doc = $doc]
                $variant,
            )*
        }

        impl Code {
            /// All rules.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The stable name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// The severity of its findings.
            pub const fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity),* }
            }

            /// A paragraph: the rule, its reason, and the remedy.
            pub const fn explanation(self) -> &'static str {
                match self { $(Self::$variant => $doc),* }
            }

            /// A manifest, or a part of one, that breaks the rule.
            pub const fn example(self) -> &'static str {
                match self { $(Self::$variant => $example),* }
            }
        }
    };
}

codes! {
    Encoding, "encoding", Error,
        "Manifests are UTF-8 text without control characters. Files in another encoding, such as UTF-16 from some Windows editors, must be converted, for instance with `iconv -f UTF-16 -t UTF-8`.",
        "";
    TooLarge, "too-large", Error,
        "A file has more bytes or more values than the limit, which bounds the time and memory of a check. Split the file.",
        "";
    Syntax, "syntax", Error,
        "The text is not YAML, or uses a part of YAML that has no meaning in a manifest. The rest of the document is not checked; other documents are. References to objects that may be in the unread part are not reported.",
        "spec:\n  replicas: [2\n";
    NestingLimit, "nesting-limit", Error,
        "Values are nested deeper than the limit, which keeps hostile files from exhausting memory.",
        "a: [[[[[[[[…\n";
    AliasLimit, "alias-limit", Error,
        "Aliases (`*name`) expand to more values than the limit, which stops attacks by expansion. Write the values out, or use fewer aliases.",
        "a: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: &c [*b, *b, *b]\n";
    DuplicateKey, "duplicate-key", Error,
        "A key is given twice in one map. YAML forbids it; kubectl keeps the last one silently, which is rarely what was meant. Both places are shown: keep one.",
        "labels:\n  app: web\n  app: api\n";
    NoObject, "no-object", Error,
        "A document is neither an object (`apiVersion`, `kind`) nor the short form (`name`, `containers`), or the files hold no document at all.",
        "- just\n- a list\n";
    UnknownKind, "unknown-kind", Error,
        "i2kit does not read this kind: it is misspelt, belongs to another API version, or is a custom resource of an operator. `--ignore-kind KIND` skips all objects of a kind, `--ignore-kind KIND.GROUP` those of one API group.",
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\n";
    RemovedVersion, "removed-version", Error,
        "The API version was removed from Kubernetes, and fields changed their meaning with it. Move the object to the version that the message names.",
        "apiVersion: extensions/v1beta1\nkind: Deployment\n";
    RefusedKind, "refused-kind", Error,
        "The kind has no sensible meaning for machines without a cluster, and skipping it silently would change what the manifests do. The message says what to write instead. `--ignore-kind KIND` skips all objects of a kind.",
        "apiVersion: apps/v1\nkind: DaemonSet\n";
    KindWithoutMeaning, "kind-without-meaning", Warning,
        "The kind configures a Kubernetes API server, and there is none. The object is skipped. Pods that call the Kubernetes API will fail. The first such object gets a warning, further ones with the same reason a note.",
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\n";
    AdaptedKind, "adapted-kind", Warning,
        "The kind is accepted with another meaning for machines, which the message gives.",
        "apiVersion: apps/v1\nkind: ReplicaSet\n";
    IgnoredKind, "ignored-kind", Note,
        "The object is skipped because `--ignore-kind` names its kind.",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n";
    UnknownField, "unknown-field", Error,
        "Kubernetes has no such field here. It is misspelt, at the wrong level, or newer than i2kit. An unknown field is always an error: dropping it would drop a setting.",
        "spec:\n  replica: 2\n";
    MissingField, "missing-field", Error,
        "A required field is missing.",
        "containers:\n- name: web\n";
    WrongType, "wrong-type", Error,
        "The value has another type than the field. Quotation marks matter: `2` is an integer and `\"2\"` is a string.",
        "spec:\n  replicas: \"2\"\n";
    YamlTrap, "yaml-trap", Error,
        "The field is a text, and without quotes YAML 1.1 (which kubectl reads) reads another type: `yes`, `no`, `on`, `off`, `y` and `n` are booleans, `1.10` is the number 1.1. Quote the value.",
        "env:\n- name: NORWAY\n  value: no\n";
    OldBoolean, "old-boolean", Warning,
        "`yes`, `no`, `on` and `off` are booleans for kubectl but texts for YAML 1.2 readers. Write `true` or `false`.",
        "readOnly: yes\n";
    DecimalMode, "decimal-mode", Warning,
        "File permissions are octal when written with a leading zero. `400` is decimal and means 0620, which is rarely meant.",
        "defaultMode: 400\n";
    EmptyValue, "empty-value", Warning,
        "The field is given without a value, so its default applies. Remove it, or give it a value.",
        "spec:\n  replicas:\n";
    InvalidValue, "invalid-value", Error,
        "The value has the right type and is outside what the field accepts.",
        "ports:\n- containerPort: 0\n";
    InvalidName, "invalid-name", Error,
        "Names become names of machines and DNS names. They are at most 63 lower-case letters, digits and `-`, beginning and ending with a letter or digit.",
        "metadata:\n  name: Web_App\n";
    InvalidQuantity, "invalid-quantity", Error,
        "Quantities are a number and a suffix: `m` (thousandth), `k` `M` `G` `T` `P` `E` (powers of 1000), `Ki` `Mi` `Gi` `Ti` `Pi` `Ei` (powers of 1024), or an exponent such as `e3`.",
        "limits:\n  memory: 1.5Gib\n";
    OddQuantity, "odd-quantity", Warning,
        "The quantity is valid and almost certainly a slip, such as memory in thousandths of a byte.",
        "limits:\n  memory: 128m\n";
    InvalidImage, "invalid-image", Error,
        "The image reference is malformed; its form is `[registry/]repository[:tag][@sha256:digest]`.",
        "image: Nginx:1.27\n";
    FloatingImage, "floating-image", Warning,
        "The image has no tag, or the tag `latest`: the next build may resolve to another image. Running machines never change, because a build resolves tags to digests. Pin the tag to make builds repeatable.",
        "image: nginx\n";
    TemplateLeftIn, "template-left-in", Warning,
        "The text has `{{ }}`, which looks like a template that was not rendered. Run `helm template` first, or check that the braces are meant.",
        "value: \"{{ .Values.a }}\"\n";
    Exclusive, "exclusive-fields", Error,
        "Two fields that exclude each other are both given, or none of several fields where one is required.",
        "env:\n- name: MODE\n  value: a\n  valueFrom: {fieldRef: {fieldPath: metadata.name}}\n";
    Conflict, "conflicting-values", Error,
        "Two values contradict each other.",
        "requests: {memory: 2Gi}\nlimits: {memory: 1Gi}\n";
    RepeatedItem, "repeated-item", Error,
        "Two items of a list have the same name, port or path, which must be unique.",
        "containers:\n- name: web\n- name: web\n";
    RepeatedEnv, "repeated-variable", Warning,
        "A variable is set twice; the last one wins, as in Kubernetes.",
        "env:\n- {name: A, value: x}\n- {name: A, value: y}\n";
    RefusedField, "refused-field", Error,
        "The field asks for something that a machine per pod cannot provide, and dropping it silently would change what the manifest does. The message says why and what to write instead.",
        "spec:\n  hostNetwork: true\n";
    RefusedValue, "refused-value", Error,
        "The field is accepted, but this value asks for something that a machine per pod cannot provide.",
        "protocol: SCTP\n";
    NotDeployableYet, "not-deployable-yet", Error,
        "The manifest is valid, but this version of i2kit cannot deploy it, or not to the cloud of the environment. `check --language-only` turns this rule into a note.",
        "apiVersion: apps/v1\nkind: StatefulSet\n";
    NoMeaning, "no-meaning", Warning,
        "The field has no effect, because the thing it configures does not exist here. The message says why.",
        "tolerations:\n- operator: Exists\n";
    Adapted, "adapted", Note,
        "The value is accepted with another meaning for machines, or with a limitation of the cloud. The message gives it.",
        "type: NodePort\n";
    Unlike, "unlike-kubernetes", Warning,
        "The value is accepted, and the behaviour differs from Kubernetes in the way that the message gives. Differences that concern the whole set, such as files of ConfigMaps that never change in running machines, are reported once.",
        "env:\n- name: NODE\n  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}\n";
    DefaultSize, "default-size", Note,
        "No container of a pod requests resources, so its machines get the default size. Reported once a set, and only when nothing else is wrong. Write `resources.requests`, and `limits` to bound a container.",
        "containers:\n- name: web\n  image: nginx:1.27\n";
    OpenAccess, "open-access", Warning,
        "An annotation of another controller restricts clients or requests, and i2kit does not apply it: they get through. Limit addresses with `loadBalancerSourceRanges` of a Service or an annotation of an Ingress that docs/manifests.md lists, make the balancer internal, or let the pods check the requests.",
        "kind: Ingress\nmetadata:\n  annotations:\n    nginx.ingress.kubernetes.io/auth-url: https://login.example/check\n";
    UnknownVariable, "unknown-variable", Warning,
        "A text refers to a variable, as `$(NAME)`, that is not defined at this place; the text stays as written, as in Kubernetes. A variable's value can refer to variables of `envFrom` and to those above it, never to variables of the image or addresses of Services (`NAME_SERVICE_HOST`). Define the variable, or write `$$(NAME)` for the literal text.",
        "args: [\"--url=$(URL)\"]\nenv:\n- name: ADDRESS\n  value: http://api\n";
    MissingSidecar, "missing-sidecar", Warning,
        "An annotation asks an injector (Istio, Linkerd, Dapr) to add a container to the pod. There is no injector, so the container will be missing.",
        "annotations:\n  sidecar.istio.io/inject: \"true\"\n";
    SelectorMismatch, "selector-mismatch", Error,
        "The workload's selector does not match the labels of its own pod template. Both places are shown.",
        "selector:\n  matchLabels: {app: webb}\ntemplate:\n  metadata:\n    labels: {app: web}\n";
    NoTarget, "no-target", Error,
        "The selector matches no pod template of the given files. All files of one command are one set: give the file with the workload too, or correct the selector.",
        "kind: Service\nspec:\n  selector: {app: api}\n";
    SharedTarget, "shared-target", Note,
        "A Service selects several workloads, as for a canary: each gets traffic in proportion to its number of machines.",
        "kind: Service\nspec:\n  selector: {tier: backend}\n";
    UnknownPort, "unknown-port", Error,
        "The container, or the pods behind the Service, have no port of this name.",
        "ports:\n- port: 80\n  targetPort: http\n";
    UnlistedPort, "unlisted-port", Warning,
        "A Service sends traffic to a port number that no container lists. Containers may listen on ports that they do not list, but usually one of the two numbers is wrong.",
        "ports:\n- port: 80\n  targetPort: 8081\n";
    UnknownVolume, "unknown-volume", Error,
        "A container mounts a volume that the pod does not have.",
        "volumeMounts:\n- {name: data, mountPath: /data}\n";
    UnusedVolume, "unused-volume", Note,
        "No container mounts the volume.",
        "volumes:\n- name: data\n";
    MissingReference, "missing-reference", Error,
        "An object or key that the manifest refers to is not in the given files. All files of one command are one set. `--external secret/NAME` declares a Secret that exists elsewhere; `optional: true` allows it to be missing.",
        "configMapKeyRef:\n  name: settings\n  key: mode\n";
    MissingAccount, "missing-account", Warning,
        "The ServiceAccount that a pod names is not in the given files, so its machines have no role in the cloud. Give the file too if the account has an annotation with a role.",
        "spec:\n  serviceAccountName: reader\n";
    NoRequest, "no-request", Warning,
        "A scaler keeps the use of a resource at a share of the request, but a container requests none. The share is then of the machine's own size.",
        "kind: HorizontalPodAutoscaler\nspec:\n  metrics:\n  - type: Resource\n    resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}\n";
    DuplicateObject, "duplicate-object", Error,
        "Two objects have the same kind, namespace and name. Both places are shown.",
        "kind: Deployment\nmetadata:\n  name: web\n---\nkind: Deployment\nmetadata:\n  name: web\n";
    ReplicatedKind, "replicated-kind", Error,
        "The annotation `i2kit.dev/replicated` is on the pod of a workload that cannot have it. Replicas are the machines of a StatefulSet: each has a name by which the others find it, and a disk for the log of requests that outlives it. Write a StatefulSet.",
        "kind: Deployment\nspec:\n  template:\n    metadata:\n      annotations: {i2kit.dev/replicated: http}\n";
    ReplicatedCount, "replicated-count", Error,
        "A group of replicas decides by majority: 3 machines bear the loss of one, 5 of two, 7 of three. An even number bears no more than the odd one below it, and more than 7 make each request slower. One machine orders and logs requests, and bears no loss.",
        "kind: StatefulSet\nspec:\n  replicas: 2\n  template:\n    metadata:\n      annotations: {i2kit.dev/replicated: http}\n";
    ReplicatedScaled, "replicated-scaled", Error,
        "A scaler names a group of replicas. Every replica executes every request, so that more of them do not do more, and those that a scaler takes away would be missed in votes. Remove the scaler. To spread load over machines that do not agree with each other, remove the annotation.",
        "kind: HorizontalPodAutoscaler\nspec:\n  scaleTargetRef: {apiVersion: apps/v1, kind: StatefulSet, name: db}\n";
    ReplicatedPorts, "replicated-ports", Error,
        "The requests of one TCP port are put in order, and the Services of the group lead to it. Another port, or UDP, would reach the application past that order. Leave one port of the pod behind Services, let none of them lead to other workloads as well, and keep ports 7310 to 7313 free for the coordinator.",
        "kind: Service\nspec:\n  ports:\n  - {name: api, port: 80, targetPort: 8080}\n  - {name: admin, port: 81, targetPort: 8081}\n";
    ReplicatedRollout, "replicated-rollout", Error,
        "Replicas start side by side (`podManagementPolicy: Parallel`), since none of them is ready before a majority is there, and are replaced one at a time (`maxUnavailable: 1`, the default), since two that are away at once may be the majority. Their disks stay when the group is scaled (`whenScaled: Retain`, the default): its number of replicas and a damaged disk are changed while it has no machine, and its logs hold what it has acknowledged.",
        "kind: StatefulSet\nspec:\n  podManagementPolicy: OrderedReady\n";
    ReplicatedNames, "replicated-names", Error,
        "Replicas find each other by DNS names, such as `db-0.db.default.svc.cluster.local`, which a headless Service gives them, and IPv4. Write `serviceName` in the StatefulSet, and a Service of that name with `clusterIP: None` and the pod's labels as its selector.",
        "kind: StatefulSet\nspec:\n  serviceName: db\n---\nkind: Service\nmetadata: {name: db}\nspec:\n  selector: {app: db}\n";
    ReplicatedState, "replicated-state", Error,
        "How the state of a replica is captured does not fit the pod: `directory:VOLUME` names no emptyDir and no claim of the StatefulSet's own, `hooks` lack one of the two commands, or a volume or container has a name that the coordinator has. Or an init container has that volume, which the coordinator erases and restores meanwhile. Or the disk of `i2kit.dev/replicated-log` has no room for two copies of the volume beside the log.",
        "annotations:\n  i2kit.dev/replicated: http\n  i2kit.dev/replicated-state: directory:data\n";
    ReplicatedBypass, "replicated-bypass", Warning,
        "A replicated pod has a second container. On localhost it reaches the application's port itself, where nothing puts requests in order: what it writes there is written in one machine and not in the others, and that replica is put in quarantine once its replies differ. Let it only read, or write through the Service.",
        "containers:\n- {name: db, image: \"db:1\"}\n- {name: writer, image: \"writer:1\"}\n";
    ReplicatedSize, "replicated-size", Warning,
        "The volume of `i2kit.dev/replicated-state: directory:VOLUME` is an emptyDir without `sizeLimit`. Copies of it lie on the disk of the log, `i2kit.dev/replicated-log`, which needs room for two of them beside the log. Where they do not fit there is no copy, and writes are refused (503) once the log has reached its limit.",
        "annotations: {i2kit.dev/replicated-state: \"directory:data\"}\nspec:\n  volumes:\n  - {name: data, emptyDir: {}}\n";
    ReplicatedIsolation, "replicated-isolation", Error,
        "A replicated pod shares the processes of its containers. The coordinator has the private key by which the machines of the group know each other, and a socket by which the application is stopped and started; a container that sees its process reaches both. Remove `shareProcessNamespace`.",
        "spec:\n  shareProcessNamespace: true\n";
    Internal, "internal", Error,
        "A fault of i2kit: the checker accepted a field that the next stage could not read. Please report it with the manifest.",
        "";
}

impl Code {
    /// The rule of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.name() == name)
    }

    /// The rule with the name nearest to `name`.
    pub fn like(name: &str) -> Option<Self> {
        nearest(name, Self::ALL.iter().map(|code| code.name())).and_then(Self::from_name)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
