//! Volumes: what a pod's containers can mount.

use super::container::{FIELD_REF, RESOURCE_REF};
use super::field::{
    Choice, Field, LABEL, OneOf, TEXT, Table, Target, Text, Type, mapped, no_meaning, refused, refused_word,
    silent, word, works,
};

const OTHER: &str = "kept by a driver that runs in a cluster";
const OTHER_WAY: &str = "use a persistentVolumeClaim, or mount the share from inside the container";

const fn other(name: &'static str) -> Field {
    refused(name, Type::Any, OTHER, OTHER_WAY).presence()
}

/// `volumes[]` of a pod.
pub(super) static VOLUME: Table = Table::new(
    "Volume",
    "Something that containers of the pod can mount. A volume without a source is an emptyDir.",
    &[
        works("name", LABEL, "unique in the pod").required(),
        mapped(
            "emptyDir",
            Type::Object(&EMPTY_DIR),
            "empty at boot, shared by the containers, gone with the machine",
        )
        .presence(),
        works(
            "configMap",
            Type::Object(&CONFIG_MAP_VOLUME),
            "files from a ConfigMap; a changed one is a rollout, never a live update",
        ),
        works("secret", Type::Object(&SECRET_VOLUME), "files from a Secret, fetched when the machine boots"),
        works("projected", Type::Object(&PROJECTED), "files from several sources"),
        works("downwardAPI", Type::Object(&DOWNWARD), "files from fields of the pod"),
        mapped("persistentVolumeClaim", Type::Object(&CLAIM), "a disk that outlives the machine"),
        mapped(
            "ephemeral",
            Type::Object(&EPHEMERAL),
            "scratch space of the size that its claim asks for, gone with the machine; classes make no difference",
        ),
        refused(
            "image",
            Type::Any,
            "files of a further image are not mounted",
            "copy them in an init container of that image into an emptyDir",
        ),
        refused(
            "hostPath",
            Type::Any,
            "there is no host whose files could be shared",
            "use emptyDir for scratch space, configMap for files, or persistentVolumeClaim for data",
        )
        .presence(),
        refused(
            "nfs",
            Type::Any,
            "network file systems are not mounted yet",
            "use a persistentVolumeClaim, or mount it from inside the container",
        ),
        refused("csi", Type::Any, OTHER, OTHER_WAY).presence(),
        other("awsElasticBlockStore"),
        other("azureDisk"),
        other("azureFile"),
        other("cephfs"),
        other("cinder"),
        other("fc"),
        other("flexVolume"),
        other("flocker"),
        other("gcePersistentDisk"),
        other("gitRepo"),
        other("glusterfs"),
        other("iscsi"),
        other("photonPersistentDisk"),
        other("portworxVolume"),
        other("quobyte"),
        other("rbd"),
        other("scaleIO"),
        other("storageos"),
        other("vsphereVolume"),
    ],
)
.one_of(&[OneOf {
    fields: &[
        "emptyDir",
        "configMap",
        "secret",
        "projected",
        "downwardAPI",
        "persistentVolumeClaim",
        "ephemeral",
        "image",
    ],
    required: false,
}]);

static MEDIA: &[Choice] = &[
    word("", "on a disk that is deleted with the machine"),
    word("Memory", "in the machine's memory; what a container writes there counts for its limit"),
    refused_word("HugePages", "machines have no huge pages set aside", "use Memory"),
];

static EMPTY_DIR: Table = Table::new(
    "EmptyDirVolumeSource",
    "Scratch space.",
    &[
        refused("mode", Type::Any, "everybody may write to scratch space", "use the pod's `fsGroup`"),
        works("medium", Type::Choice(MEDIA), "where it lies").zero().default(""),
        works(
            "sizeLimit",
            Type::Bytes,
            "its size at most; writing more fails. 16 GiB without it; in memory, half of the machine's is the bound in any case",
        ),
    ],
);

static EPHEMERAL: Table = Table::new(
    "EphemeralVolumeSource",
    "Scratch space that is written as a claim.",
    &[works("volumeClaimTemplate", Type::Object(&EPHEMERAL_CLAIM), "the claim").required()],
);

static EPHEMERAL_CLAIM: Table = Table::new(
    "PersistentVolumeClaimTemplate",
    "A claim that lives as long as its pod.",
    &[
        silent("metadata", "nobody else sees the claim"),
        works("spec", Type::Object(&CLAIM_SPEC), "its size").required(),
    ],
);

static KEYS: Type = Type::Object(&KEY_TO_PATH);
static DOWNWARD_FILES: Type = Type::Object(&DOWNWARD_FILE);
const ITEMS: Field =
    works("items", Type::List(&KEYS), "only these keys, under these names; all keys by default");
const DEFAULT_MODE: Field = works("defaultMode", Type::Mode, "permissions of the files").default("0644");
const OPTIONAL: Field =
    works("optional", Type::Bool, "whether it may be missing from the given files").default("false");

static CONFIG_MAP_VOLUME: Table = Table::new(
    "ConfigMapVolumeSource",
    "Files from a ConfigMap, one a key.",
    &[
        refused(
            "defaultUser",
            Type::Any,
            "files belong to root or to the pod's fsGroup",
            "use the pod's `fsGroup`",
        ),
        works("name", Type::Name(Target::ConfigMap), "the ConfigMap").required(),
        ITEMS,
        DEFAULT_MODE,
        OPTIONAL,
    ],
);

static SECRET_VOLUME: Table = Table::new(
    "SecretVolumeSource",
    "Files from a Secret, one a key.",
    &[
        refused(
            "defaultUser",
            Type::Any,
            "files belong to root or to the pod's fsGroup",
            "use the pod's `fsGroup`",
        ),
        works("secretName", Type::Name(Target::Secret), "the Secret").required(),
        ITEMS,
        DEFAULT_MODE,
        OPTIONAL,
    ],
);

static KEY_TO_PATH: Table = Table::new(
    "KeyToPath",
    "One key as a file.",
    &[
        refused("user", Type::Any, "files belong to root or to the pod's fsGroup", "use the pod's `fsGroup`"),
        works("key", Type::Text(Text::DataKey), "the key").required(),
        works("path", Type::Text(Text::SubPath), "the file's path inside the volume").required(),
        works("mode", Type::Mode, "its permissions; by default those of the volume"),
    ],
);

static PROJECTED: Table = Table::new(
    "ProjectedVolumeSource",
    "Files from several sources in one folder.",
    &[
        refused(
            "defaultUser",
            Type::Any,
            "files belong to root or to the pod's fsGroup",
            "use the pod's `fsGroup`",
        ),
        works("sources", Type::List(&Type::Object(&PROJECTION)), "the sources"),
        DEFAULT_MODE,
    ],
);

static PROJECTION: Table = Table::new(
    "VolumeProjection",
    "One source.",
    &[
        works("configMap", Type::Object(&CONFIG_MAP_PROJECTION), "keys of a ConfigMap"),
        works("secret", Type::Object(&SECRET_PROJECTION), "keys of a Secret"),
        works("downwardAPI", Type::Object(&DOWNWARD_PROJECTION), "fields of the pod"),
        refused(
            "serviceAccountToken",
            Type::Any,
            "there is no Kubernetes API to talk to",
            "give the ServiceAccount a cloud role; the cloud's SDKs find it by themselves",
        ),
        refused(
            "clusterTrustBundle",
            Type::Any,
            "there is no cluster",
            "put the certificates into a ConfigMap",
        ),
        refused("podCertificate", Type::Any, "there is no cluster", "put the certificate into a Secret"),
    ],
)
.one_of(&[OneOf { fields: &["configMap", "secret", "downwardAPI"], required: false }]);

static CONFIG_MAP_PROJECTION: Table = Table::new(
    "ConfigMapProjection",
    "Keys of a ConfigMap as files.",
    &[works("name", Type::Name(Target::ConfigMap), "the ConfigMap").required(), ITEMS, OPTIONAL],
);

static SECRET_PROJECTION: Table = Table::new(
    "SecretProjection",
    "Keys of a Secret as files.",
    &[works("name", Type::Name(Target::Secret), "the Secret").required(), ITEMS, OPTIONAL],
);

const DOWNWARD_ITEMS: Field = works("items", Type::List(&DOWNWARD_FILES), "the files");

static DOWNWARD: Table = Table::new(
    "DownwardAPIVolumeSource",
    "Files from fields of the pod.",
    &[
        refused(
            "defaultUser",
            Type::Any,
            "files belong to root or to the pod's fsGroup",
            "use the pod's `fsGroup`",
        ),
        DOWNWARD_ITEMS,
        DEFAULT_MODE,
    ],
);

static DOWNWARD_PROJECTION: Table =
    Table::new("DownwardAPIProjection", "Fields of the pod as files.", &[DOWNWARD_ITEMS]);

static DOWNWARD_FILE: Table = Table::new(
    "DownwardAPIVolumeFile",
    "One file.",
    &[
        refused("user", Type::Any, "files belong to root or to the pod's fsGroup", "use the pod's `fsGroup`"),
        works("path", Type::Text(Text::SubPath), "its path inside the volume").required(),
        works("fieldRef", Type::Object(&FIELD_REF), "a field of the pod"),
        works("resourceFieldRef", Type::Object(&RESOURCE_REF), "a limit or request of a container"),
        works("mode", Type::Mode, "its permissions; by default those of the volume"),
    ],
)
.one_of(&[OneOf { fields: &["fieldRef", "resourceFieldRef"], required: true }]);

static CLAIM: Table = Table::new(
    "PersistentVolumeClaimVolumeSource",
    "A disk that outlives the machine.",
    &[
        works("claimName", Type::Name(Target::Claim), "the claim").required(),
        works("readOnly", Type::Bool, "whether the pod may only read it").default("false"),
    ],
);

/// Access modes of claims.
static ACCESS_MODES: &[Choice] = &[
    word("ReadWriteOnce", "one machine at a time"),
    word("ReadWriteOncePod", "one machine at a time"),
    refused_word(
        "ReadWriteMany",
        "needs a shared file system, which disks are not",
        "use ReadWriteOnce with one replica, or an object store",
    ),
    refused_word(
        "ReadOnlyMany",
        "needs a shared file system, which disks are not",
        "put the files into the image or a ConfigMap",
    ),
];

/// `spec` of a claim.
pub(super) static CLAIM_SPEC: Table = Table::new(
    "PersistentVolumeClaimSpec",
    "A disk.",
    &[
        works("accessModes", Type::Filled(&Type::Choice(ACCESS_MODES)), "who may use it at a time")
            .required(),
        works("resources", Type::Object(&CLAIM_RESOURCES), "its size").required(),
        mapped(
            "storageClassName",
            Type::Name(Target::StorageClass),
            "the type of disk; the cloud's usual one by default",
        ),
        works(
            "volumeMode",
            Type::Choice(&[
                word("Filesystem", "with a file system"),
                refused_word("Block", "raw block devices are not handed to containers", "use Filesystem"),
            ]),
            "what is on it",
        )
        .default("Filesystem"),
        refused(
            "volumeName",
            TEXT,
            "there are no PersistentVolume objects",
            "remove it; a claim has the disk of its name, with what is on it",
        )
        .zero(),
        refused(
            "selector",
            Type::Any,
            "there are no PersistentVolume objects",
            "remove it; a claim has the disk of its name, with what is on it",
        ),
        refused("dataSource", Type::Any, "disks cannot be made from snapshots yet", "remove it"),
        refused("dataSourceRef", Type::Any, "disks cannot be made from snapshots yet", "remove it"),
        no_meaning("volumeAttributesClassName", TEXT, "the storage class has it"),
    ],
);

static CLAIM_RESOURCES: Table = Table::new(
    "VolumeResourceRequirements",
    "The size of a disk.",
    &[
        works("requests", Type::Object(&STORAGE), "the size").required(),
        no_meaning("limits", Type::Any, "a disk has one size"),
    ],
);

static STORAGE: Table = Table::new(
    "Storage request",
    "The size of a disk.",
    &[works("storage", Type::Bytes, "in bytes; `10Gi`").required()],
);
