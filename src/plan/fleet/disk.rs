//! Disks that outlive machines: what they should be, and what there is of them.

use i2kit_spec::Bytes;
use serde::{Deserialize, Serialize};

use super::instance::InstanceId;
use crate::manifest::api::{IntOrPercent, Name};

/// A disk as it should be: what a PersistentVolumeClaim asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskSpec {
    /// The claim's name.
    pub name: Name,
    /// Its size. It grows and never shrinks.
    pub size: Bytes,
    /// The storage class that the claim names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Whether its storage class lets it grow.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub expandable: bool,
    /// Whether `destroy --volumes` leaves it: the class says `reclaimPolicy: Retain`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retain: bool,
    /// The member of a StatefulSet whose disk it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<DiskOwner>,
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_yes(yes: &bool) -> bool {
    *yes
}

/// The least size of a disk: the tables of its file system need this much, with a journal.
pub const LEAST_DISK: Bytes = Bytes(16 << 20);

/// Sizes of disks are multiples of this.
const DISK_GRAIN: u64 = 1 << 20;

/// The size that a disk has of which `size` is asked for.
pub fn whole_size(size: Bytes) -> Bytes {
    Bytes(size.0.max(LEAST_DISK.0).div_ceil(DISK_GRAIN).saturating_mul(DISK_GRAIN))
}

impl DiskSpec {
    /// A disk that was found without a record. Nothing is known of what made it, so that nothing but a verb that names it
    /// deletes it until a deployment says what it is.
    pub fn found(name: Name, size: Bytes) -> Self {
        Self { name, size, class: None, expandable: true, retain: true, owner: None }
    }

    /// Whether it was found, and no deployment has said what it is.
    pub fn is_found(&self) -> bool {
        *self == Self::found(self.name.clone(), self.size)
    }
}

/// A member of a StatefulSet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskOwner {
    /// The group.
    pub group: Name,
    /// The member's index.
    pub ordinal: u32,
}

/// A disk as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    /// What it should be.
    #[serde(flatten)]
    pub spec: DiskSpec,
    /// When it was made, in seconds since the Unix epoch.
    pub created: u64,
    /// The instance that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// Room that it takes, where the cloud knows that: a disk takes room as it is written to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Bytes>,
    /// Copies of its content, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<Snapshot>,
}

/// A copy of a disk's content at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Its name, unique among those of the disk.
    pub name: String,
    /// When it was made, in seconds since the Unix epoch.
    pub created: u64,
    /// The disk's size at that time.
    pub size: Bytes,
}

/// What makes a group a StatefulSet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatefulSettings {
    /// Index of the first member.
    #[serde(default)]
    pub first: u32,
    /// Whether members start and end all at once instead of one after the other.
    #[serde(default)]
    pub parallel: bool,
    /// Members with a lower index keep the revision that they have.
    #[serde(default)]
    pub partition: u32,
    /// How many members may be missing during a refresh.
    pub max_unavailable: IntOrPercent,
    /// Whether the members' disks are deleted with the group.
    #[serde(default)]
    pub delete_with_group: bool,
    /// Whether the disks of members that are scaled away are deleted.
    #[serde(default)]
    pub delete_when_scaled: bool,
    /// The disks of each member.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskTemplate>,
}

/// A disk that each member of a StatefulSet has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskTemplate {
    /// The volume's name in the pod.
    pub name: String,
    /// Its size.
    pub size: Bytes,
    /// The storage class that it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Whether its storage class lets it grow.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub expandable: bool,
    /// Whether `destroy --volumes` leaves it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retain: bool,
}

impl DiskTemplate {
    /// The disk of one member.
    pub fn of(&self, group: &Name, ordinal: u32) -> DiskSpec {
        DiskSpec {
            name: LaunchDisk::Member(self.name.clone()).name(group, Some(ordinal)),
            size: self.size,
            class: self.class.clone(),
            expandable: self.expandable,
            retain: self.retain,
            owner: Some(DiskOwner { group: group.clone(), ordinal }),
        }
    }
}

impl StatefulSettings {
    /// The disks of the members with these indexes.
    pub fn disks_of<'s>(
        &'s self,
        group: &'s Name,
        ordinals: impl Iterator<Item = u32> + Clone + 's,
    ) -> impl Iterator<Item = DiskSpec> + 's {
        self.disks.iter().flat_map(move |disk| ordinals.clone().map(|ordinal| disk.of(group, ordinal)))
    }

    /// Whether a member of the group, whatever its index, has the disk of that name.
    pub fn has(&self, group: &Name, disk: &Name) -> bool {
        let is_index = |text: &str| text.parse::<u32>().is_ok_and(|index| index.to_string() == text);
        let of = |template: &DiskTemplate| {
            let head = format!("{}-{}-", template.name, group.name);
            disk.name.strip_prefix(&head).is_some_and(is_index)
        };
        disk.namespace == group.namespace && self.disks.iter().any(of)
    }

    /// Indexes of the members of a group of that size.
    pub fn ordinals(&self, replicas: u32) -> std::ops::Range<u32> {
        self.first..self.first.saturating_add(replicas)
    }
}

/// The name of a member: that of its pod and its host.
pub fn member_name(group: &Name, ordinal: u32) -> String {
    format!("{}-{ordinal}", group.name)
}

/// A disk that a machine is started with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LaunchDisk {
    /// That of a claim of the group's namespace.
    Claim(String),
    /// The member's own, by the volume's name.
    Member(String),
}

impl LaunchDisk {
    /// The claim, of the disk of one.
    pub fn claim(&self) -> Option<&str> {
        match self {
            Self::Claim(claim) => Some(claim),
            Self::Member(_) => None,
        }
    }

    /// The disk's name, for an instance of that group with this index.
    pub fn name(&self, group: &Name, ordinal: Option<u32>) -> Name {
        let name = match self {
            Self::Claim(claim) => claim.clone(),
            Self::Member(volume) => format!("{volume}-{}", member_name(group, ordinal.unwrap_or_default())),
        };
        Name { namespace: group.namespace.clone(), name }
    }
}

/// Sizes in the words of a manifest, such as `10 GiB`.
pub fn size(bytes: Bytes) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let Some((unit, one)) = UNITS.iter().find(|(_, one)| bytes.0 >= *one) else {
        return format!("{} B", bytes.0);
    };
    let tenths = u128::from(bytes.0) * 10 / u128::from(*one);
    match tenths % 10 {
        0 => format!("{} {unit}", tenths / 10),
        rest => format!("{}.{rest} {unit}", tenths / 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::example;

    #[test]
    fn disks_of_members_are_called_as_their_claims_are_in_kubernetes() {
        let group = Name { namespace: "data".into(), name: "db".into() };
        let name = |disk: LaunchDisk, ordinal| disk.name(&group, ordinal).to_string();
        assert_eq!(name(LaunchDisk::Member("pgdata".into()), Some(2)), "data/pgdata-db-2");
        assert_eq!(name(LaunchDisk::Claim("shared".into()), Some(2)), "data/shared");
    }

    #[test]
    fn disks_have_whole_sizes() {
        for (asked, whole) in [(0, 16 << 20), (1 << 30, 1 << 30), (1_000_000_000, 954 << 20)] {
            assert_eq!(whole_size(Bytes(asked)), Bytes(whole));
        }
        assert_eq!(whole_size(Bytes(u64::MAX)), Bytes(u64::MAX));
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [(0, "0 B"), (1 << 30, "1 GiB"), (3 << 29, "1.5 GiB"), (5 << 20, "5 MiB")] {
            assert_eq!(size(Bytes(bytes)), text);
        }
    }

    #[test]
    fn a_disk_of_a_member_is_known_by_its_name() {
        let name = |name: &str| Name { namespace: "default".into(), name: name.into() };
        let template = example::disk();
        let stateful = example::stateful(vec![template.clone()]);
        let group = name("db");
        assert!(stateful.has(&group, &template.of(&group, 11).name));
        for other in ["data-db", "data-db-x", "data-db-01", "logs-db-0", "data-web-0"] {
            assert!(!stateful.has(&group, &name(other)), "{other}");
        }
        assert!(!stateful.has(&group, &Name { namespace: "prod".into(), ..name("data-db-0") }));
    }
}
