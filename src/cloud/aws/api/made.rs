//! What this run has just made and deleted. AWS shows it some seconds late to those who look for a tag, and at once to those who
//! ask by id or name. And what it has seen that does not change any more.

use std::collections::{BTreeMap, BTreeSet};

use i2kit_spec::job::Record;

use crate::manifest::api::Name;
use crate::plan::image::ImageId;

/// The newest of what a run did.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// Ids of the machine images.
    images: BTreeMap<ImageId, String>,
    /// Images that are gone.
    deleted: BTreeSet<ImageId>,
    /// Groups that have a launch template.
    pub(super) templates: BTreeSet<Name>,
    /// Groups that were started.
    pub(super) groups: BTreeSet<Name>,
    /// Records of Jobs that are over, by their log streams.
    pub(super) over: BTreeMap<String, Record>,
}

impl Made {
    /// Takes note of a registered image.
    pub(super) fn registered(&mut self, image: ImageId, id: String) {
        self.deleted.remove(&image);
        self.images.insert(image, id);
    }

    /// Takes note of an image that was deleted.
    pub(super) fn deregistered(&mut self, image: ImageId) {
        self.images.remove(&image);
        self.deleted.insert(image);
    }

    /// The machine image that this run registered.
    pub(super) fn image(&self, image: ImageId) -> Option<String> {
        self.images.get(&image).cloned()
    }

    /// Images that were found, as they are after this run's acts.
    pub(super) fn images(&self, found: impl IntoIterator<Item = ImageId>) -> Vec<ImageId> {
        let mut images: Vec<ImageId> =
            found.into_iter().filter(|image| !self.deleted.contains(image)).collect();
        let late: Vec<ImageId> =
            self.images.keys().filter(|image| !images.contains(image)).copied().collect();
        images.extend(late);
        images
    }

    /// Forgets a group that was deleted.
    pub(super) fn forget(&mut self, group: &Name) {
        self.templates.remove(group);
        self.groups.remove(group);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;

    #[test]
    fn images_are_as_this_run_left_them() {
        let image = |name: &[u8]| ImageId(Digest::of(name));
        let (old, new) = (image(b"old"), image(b"new"));
        let mut made = Made::default();
        made.registered(new, "ami-1".into());
        assert_eq!(made.images([old]), [old, new]);
        assert_eq!(made.images([old, new]), [old, new], "once AWS shows it, too");
        made.deregistered(old);
        assert_eq!(made.images([old]), [new]);
        made.registered(old, "ami-2".into());
        assert_eq!((made.images([old]).len(), made.image(old).as_deref()), (2, Some("ami-2")));
    }
}
