//! What acts do to the disks of an environment, and whose they are. A disk has one writer: the instance
//! whose process runs and that was started with it.

use std::collections::BTreeSet;

use i2kit_spec::Bytes;

use super::{Environment, GroupRecord, InstanceRecord, MachineFacts};
use crate::cloud::CloudError;
use crate::cloud::engine::disk_record::DiskRecord;
use crate::cloud::engine::moment::Moment;
use crate::manifest::api::Name;
use crate::plan::fleet::{
    Disk, DiskSpec, GroupSettings, InstanceId, InstanceState, LaunchSpec, Snapshot, StatefulSettings,
    member_name,
};
use crate::plan::rollout::refusal;

/// Disks of claims that a VM is started with.
fn claims<'l>(group: &'l Name, launch: &'l LaunchSpec) -> impl Iterator<Item = Name> + 'l {
    launch.disks.iter().filter(|disk| disk.claim().is_some()).map(|disk| disk.name(group, None))
}

/// The refusal of a disk that another group has.
fn not_free(disk: &Name, other: &Name) -> CloudError {
    let message = format!(
        "disk {disk} is of group {other}, and one instance at a time can have it; `i2kit destroy {other}` gives it up and keeps \
         what is on it"
    );
    CloudError::Refused { message }
}

impl GroupRecord {
    /// Revisions whose VMs have the disk of a claim, which one of them at a time can have.
    pub(in crate::cloud::engine) fn with_claims(&self) -> BTreeSet<u32> {
        let has = |launch: &LaunchSpec| launch.disks.iter().any(|disk| disk.claim().is_some());
        let revisions = self.revisions.iter().filter(|revision| has(&revision.launch));
        revisions.map(|revision| revision.number).collect()
    }

    /// Whether the disk is that of a claim of one of its revisions, or of a member.
    fn names(&self, group: &Name, disk: &Name) -> bool {
        let mut claims = self.revisions.iter().flat_map(|revision| claims(group, &revision.launch));
        let is_members = |stateful: &StatefulSettings| stateful.has(group, disk);
        claims.any(|claim| claim == *disk) || self.settings.stateful.as_ref().is_some_and(is_members)
    }

    /// The disks of an instance.
    pub fn disks_of<'g>(
        &'g self,
        group: &'g Name,
        record: &'g InstanceRecord,
    ) -> impl Iterator<Item = Name> + 'g {
        let launch = self.revision(record.revision).map(|revision| &revision.launch);
        let disks = launch.into_iter().flat_map(|launch| &launch.disks);
        disks.map(|disk| disk.name(group, record.ordinal))
    }
}

impl Environment {
    /// The disk, or an error that names it.
    fn disk_mut(&mut self, name: &Name) -> Result<&mut DiskRecord, CloudError> {
        match self.disks.get_mut(name) {
            Some(disk) if !disk.deleting => Ok(disk),
            Some(_) => Err(CloudError::Conflict { message: format!("disk {name} is being deleted") }),
            None => Err(CloudError::not_found("disk", name)),
        }
    }

    /// The group and the record of the instance that has the disk: it has not ended.
    pub fn holder(&self, disk: &Name) -> Option<(&Name, &InstanceRecord)> {
        self.groups.iter().find_map(|(group, found)| {
            let mut records = found.instances.values();
            let has = |record: &&InstanceRecord| {
                record.state != InstanceState::Ended
                    && found.disks_of(group, record).any(|name| name == *disk)
            };
            records.find(has).map(|record| (group, record))
        })
    }

    /// No instance has the disk.
    fn unused(&self, disk: &Name) -> Result<(), CloudError> {
        match self.holder(disk) {
            None => Ok(()),
            Some((_, record)) => {
                Err(CloudError::InUse { what: format!("disk {disk}"), user: record.id.to_string() })
            }
        }
    }

    /// Makes the disk be what the spec says; a new one is made when it is first needed, unless it was before.
    pub(in crate::cloud::engine) fn put_disk(
        &mut self,
        spec: &DiskSpec,
        now: Moment,
    ) -> Result<(), CloudError> {
        if !self.disks.contains_key(&spec.name) {
            self.disks
                .insert(spec.name.clone(), DiskRecord { made: true, ..DiskRecord::new(spec.clone(), now) });
            return Ok(());
        }
        let disk = self.disk_mut(&spec.name)?;
        if let Some(why) = refusal(spec, &disk.spec) {
            return Err(CloudError::Refused { message: format!("disk {}: {why}", spec.name) });
        }
        disk.spec = spec.clone();
        disk.made = true;
        Ok(())
    }

    /// Marks disks for deletion.
    pub(in crate::cloud::engine) fn delete_disks(&mut self, disks: &[Name]) -> Result<(), CloudError> {
        for disk in disks {
            self.unused(disk)?;
        }
        for disk in disks {
            if let Some(record) = self.disks.get_mut(disk) {
                record.deleting = true;
            }
        }
        Ok(())
    }

    /// Notes a copy of the disk's content.
    pub(in crate::cloud::engine) fn add_snapshot(
        &mut self,
        disk: &Name,
        name: &str,
        now: Moment,
    ) -> Result<(), CloudError> {
        let record = self.disk_mut(disk)?;
        if record.snapshots.iter().any(|snapshot| snapshot.name == name) {
            return Err(CloudError::Conflict {
                message: format!("disk {disk} has a snapshot {name}; choose another name"),
            });
        }
        let size = record.spec.size;
        record.snapshots.push(Snapshot { name: name.to_owned(), created: now.wall / 1000, size });
        Ok(())
    }

    /// Looks whether a disk can be made what its snapshot is. Its content is no record.
    pub(in crate::cloud::engine) fn restored(
        &mut self,
        disk: &Name,
        snapshot: &str,
    ) -> Result<(), CloudError> {
        self.unused(disk)?;
        let record = self.disk_mut(disk)?;
        if record.snapshots.iter().any(|known| known.name == snapshot) {
            return Ok(());
        }
        Err(CloudError::not_found(format!("snapshot of disk {disk} called"), &snapshot))
    }

    /// Takes up a disk that no record names: whoever made it was killed before it was noted, or the record was lost.
    pub fn adopt_disk(&mut self, name: &Name, size: Bytes, now: Moment) {
        let found = || DiskRecord { made: true, ..DiskRecord::new(DiskSpec::found(name.clone(), size), now) };
        self.disks.entry(name.clone()).or_insert_with(found);
    }

    /// Takes up copies of a disk that no record names: whoever made one was killed before it was noted, or the record was
    /// lost.
    pub fn adopt_snapshots(&mut self, disk: &Name, found: Vec<Snapshot>) {
        let Some(record) = self.disks.get_mut(disk).filter(|record| !record.deleting) else { return };
        for snapshot in found {
            if !record.snapshots.iter().any(|known| known.name == snapshot.name) {
                record.snapshots.push(snapshot);
            }
        }
    }

    /// Forgets snapshots.
    pub(in crate::cloud::engine) fn delete_snapshots(
        &mut self,
        disk: &Name,
        names: &[String],
    ) -> Result<(), CloudError> {
        self.disk_mut(disk)?.snapshots.retain(|snapshot| !names.contains(&snapshot.name));
        Ok(())
    }

    /// Notes the disks of a member that is about to be started; whether all of them may be used.
    pub fn claim_for_member(
        &mut self,
        group: &Name,
        ordinal: Option<u32>,
        launch: &LaunchSpec,
        now: Moment,
    ) -> bool {
        let names: Vec<Name> = launch.disks.iter().map(|disk| disk.name(group, ordinal)).collect();
        let stateful = self.groups.get(group).and_then(|found| found.settings.stateful.as_ref());
        let specs: Vec<DiskSpec> = match (stateful, ordinal) {
            (Some(stateful), Some(ordinal)) => {
                stateful.disks.iter().map(|disk| disk.of(group, ordinal)).collect()
            }
            _ => Vec::new(),
        };
        for spec in specs.into_iter().filter(|spec| names.contains(&spec.name)) {
            self.disks.entry(spec.name.clone()).or_insert_with(|| DiskRecord::new(spec, now));
        }
        names.iter().all(|name| self.disks.get(name).is_none_or(|disk| !disk.deleting))
    }

    /// Marks the disks of a member for deletion that is gone since its group shrank, where the group says so.
    pub fn scaled_away(&mut self, group: &Name, ordinal: Option<u32>) {
        let Some(found) = self.groups.get(group) else { return };
        let (Some(stateful), Some(ordinal)) = (&found.settings.stateful, ordinal) else { return };
        let stays = stateful.ordinals(found.replicas).contains(&ordinal);
        if stays || !stateful.delete_when_scaled || found.memory.deleting {
            return;
        }
        let names: Vec<Name> = stateful.disks.iter().map(|disk| disk.of(group, ordinal).name).collect();
        for name in names {
            if self.unused(&name).is_ok()
                && let Some(disk) = self.disks.get_mut(&name)
                && !disk.spec.retain
            {
                disk.deleting = true;
            }
        }
    }

    /// Forgets a group that is deleted and has no instance left, and marks its members' disks for deletion where it says so.
    pub fn remove_group(&mut self, name: &Name) {
        let Some(group) = self.groups.remove(name) else { return };
        if !group.settings.stateful.is_some_and(|stateful| stateful.delete_with_group) {
            return;
        }
        for disk in self.disks.values_mut() {
            let is_its = disk.spec.owner.as_ref().is_some_and(|owner| owner.group == *name);
            disk.deleting |= is_its && !disk.spec.retain;
        }
    }

    /// No other group has a disk of a claim that this one is to have.
    pub(in crate::cloud::engine) fn claims_are_free(
        &self,
        group: &Name,
        launch: &LaunchSpec,
    ) -> Result<(), CloudError> {
        for disk in claims(group, launch) {
            if let Some((other, _)) = self.others(group).find(|(name, found)| found.names(name, &disk)) {
                return Err(not_free(&disk, other));
            }
        }
        Ok(())
    }

    /// No other group has a disk that a member of this one has, or is to have.
    pub(in crate::cloud::engine) fn members_are_free(
        &self,
        group: &Name,
        settings: &GroupSettings,
    ) -> Result<(), CloudError> {
        let Some(stateful) = &settings.stateful else { return Ok(()) };
        for (other, found) in self.others(group) {
            let mut claims = found.revisions.iter().flat_map(|revision| claims(other, &revision.launch));
            // Names of members' disks run together: template `a-b` of `c` and template `a` of `b-c`.
            let first = stateful.disks.iter().map(|disk| disk.of(group, stateful.first).name);
            let mut shared = first.filter(|disk| found.names(other, disk));
            if let Some(disk) = claims.find(|claim| stateful.has(group, claim)).or_else(|| shared.next()) {
                return Err(not_free(&disk, other));
            }
        }
        Ok(())
    }

    /// The groups beside this one that stay.
    fn others<'e>(&'e self, group: &'e Name) -> impl Iterator<Item = (&'e Name, &'e GroupRecord)> {
        self.groups.iter().filter(move |(name, found)| *name != group && !found.memory.deleting)
    }

    /// Disks, as the fleet shows them.
    pub(in crate::cloud::engine) fn show_disks(&self, facts: &impl Fn(&str) -> MachineFacts) -> Vec<Disk> {
        let shown = self.disks.values().filter(|disk| !disk.deleting).map(|disk| {
            let holder = self.holder(&disk.spec.name).filter(|(_, record)| facts(&record.id).alive);
            Disk {
                spec: disk.spec.clone(),
                created: disk.created,
                instance: holder.map(|(group, record)| {
                    InstanceId(
                        record
                            .ordinal
                            .map_or_else(|| record.id.to_string(), |ordinal| member_name(group, ordinal)),
                    )
                }),
                used: None,
                snapshots: disk.snapshots.clone(),
            }
        });
        shown.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::api::Strategy;
    use crate::oci::Digest;
    use crate::plan::act::NewRevision;
    use crate::plan::example;
    use crate::plan::fleet::{DiskTemplate, LaunchDisk, StatefulSettings};
    use crate::plan::image::ImageId;

    fn name(name: &str) -> Name {
        Name { namespace: "default".into(), name: name.into() }
    }

    /// The group `app` with the disk of the claim `data-db-0`.
    fn put_claim(environment: &mut Environment) -> Result<(), CloudError> {
        let image = ImageId(Digest::of(b"1"));
        environment.images.insert(image);
        environment.put_group(&name("app"), &example::settings(Strategy::Recreate))?;
        let launch =
            LaunchSpec { disks: vec![LaunchDisk::Claim("data-db-0".into())], ..example::launch(image) };
        let revision = NewRevision { number: 1, launch, cause: String::new() };
        environment.put_revision(&name("app"), &revision, Moment::default())
    }

    /// A StatefulSet with the template of that name.
    fn put_members(environment: &mut Environment, group: &str, template: &str) -> Result<(), CloudError> {
        let stateful = StatefulSettings {
            first: 3,
            ..example::stateful(vec![DiskTemplate { name: template.into(), ..example::disk() }])
        };
        let settings = GroupSettings { stateful: Some(stateful), ..example::settings(Strategy::Recreate) };
        environment.put_group(&name(group), &settings)
    }

    #[test]
    fn a_disk_is_of_one_group_whichever_is_deployed_first() {
        let error = |done: Result<(), CloudError>| done.unwrap_err().to_string();
        let mut claim_first = Environment::default();
        put_claim(&mut claim_first).unwrap();
        let refused = error(put_members(&mut claim_first, "db", "data"));
        assert!(refused.contains("disk data-db-0 is of group app"), "{refused}");
        assert!(!claim_first.groups.contains_key(&name("db")));
        put_members(&mut claim_first, "db", "logs").unwrap();

        let mut members_first = Environment::default();
        put_members(&mut members_first, "db", "data").unwrap();
        let refused = error(put_claim(&mut members_first));
        assert!(refused.contains("disk data-db-0 is of group db"), "{refused}");
        // One of its own is no other's, and one that goes has none.
        put_members(&mut members_first, "db", "data").unwrap();
        members_first.delete_group(&name("db"));
        put_claim(&mut members_first).unwrap();

        let mut both = Environment::default();
        put_members(&mut both, "b-c", "a").unwrap();
        let refused = error(put_members(&mut both, "c", "a-b"));
        assert!(refused.contains("disk a-b-c-3 is of group b-c"), "{refused}");
    }

    #[test]
    fn a_set_takes_its_members_disks_along_where_it_says_so() {
        let template = |name: &str, retain| DiskTemplate { name: name.into(), retain, ..example::disk() };
        for delete_with_group in [true, false] {
            let mut environment = Environment::default();
            for group in ["db", "other"] {
                let disks = vec![template("data", false), template("kept", true)];
                let stateful = StatefulSettings { delete_with_group, ..example::stateful(disks.clone()) };
                let settings =
                    GroupSettings { stateful: Some(stateful), ..example::settings(Strategy::Recreate) };
                environment.put_group(&name(group), &settings).unwrap();
                let disks = disks.iter().map(|disk| LaunchDisk::Member(disk.name.clone())).collect();
                let launch = LaunchSpec { disks, ..example::launch(ImageId(Digest::of(b"1"))) };
                for ordinal in [0, 1] {
                    let now = Moment::default();
                    assert!(environment.claim_for_member(&name(group), Some(ordinal), &launch, now));
                }
            }
            environment.remove_group(&name("db"));
            let doomed: Vec<&str> = environment
                .disks
                .iter()
                .filter(|(_, disk)| disk.deleting)
                .map(|(found, _)| &*found.name)
                .collect();
            let expected: &[&str] = if delete_with_group { &["data-db-0", "data-db-1"] } else { &[] };
            assert_eq!(doomed, expected);
            assert_eq!(environment.disks.len(), 8, "each goes when its file is gone");
        }
    }
}
