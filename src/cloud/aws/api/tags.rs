//! The tags by which everything of ours is found again. Nothing without them is ever changed or deleted.
//!
//! Keys have a colon and no slash: EC2 refuses slashes in tags that a VM may read about itself.

use aws_sdk_ec2::types::{Filter, ResourceType, Tag, TagSpecification};

use crate::manifest::api::Name;
use crate::plan::image::ImageId;

/// The environment that a thing belongs to.
pub(super) const ENVIRONMENT: &str = crate::cloud::aws::plan::stack_templates::TAG_ENVIRONMENT;

/// The image that a snapshot or a machine image holds.
pub(super) const IMAGE: &str = "i2kit:image-id";

/// The snapshot that a snapshot was made from, or `none`.
pub(super) const PARENT: &str = "i2kit:parent";

/// The value of [`PARENT`] of a snapshot without one.
pub(super) const NO_PARENT: &str = "none";

/// Set before the machine image of a snapshot goes: the snapshot is to go as well.
pub(super) const DELETED: &str = "i2kit:deleted";

/// The group that a launch template, an Auto Scaling group or an instance belongs to: `NAMESPACE/NAME`.
pub(super) const GROUP: &str = crate::cloud::aws::plan::stack_templates::TAG_GROUP;

/// The number of a lane, on an Auto Scaling group of a Job and on its machines.
pub(super) const LANE: &str = i2kit_spec::job::LANE_TAG;

/// The log stream that machines of a Job write their record to, on the same.
pub(super) const RECORD: &str = i2kit_spec::job::RECORD_TAG;

/// What a Job was started with, on the Auto Scaling group of its first lane.
pub(super) const STARTED: &str = "i2kit:started";

/// Settings of a group, on its launch template; continued in tags with a number behind.
pub(super) const SETTINGS: &str = "i2kit:settings";

/// Why the newest refresh was given up, on the launch template; continued as well.
pub(super) const FAILURE: &str = "i2kit:failure";

/// The longest value of a tag, in characters.
const LONGEST: usize = 256;

/// Tags that a long text may take: EC2 allows 50 in all.
const MOST: usize = 20;

/// A filter for things with a tag of that value.
pub(super) fn tagged(key: &str, value: impl Into<String>) -> Filter {
    Filter::builder().name(format!("tag:{key}")).values(value).build()
}

/// The filters for what an environment has of an image, or of all.
pub(super) fn of_image(environment: &str, image: Option<ImageId>) -> Vec<Filter> {
    let mut filters = vec![tagged(ENVIRONMENT, environment)];
    filters.extend(image.map(|id| tagged(IMAGE, id.to_string())));
    filters
}

/// The filters for what an environment has of a group, or of all.
pub(super) fn of_group(environment: &str, group: Option<&Name>) -> Vec<Filter> {
    let mut filters = vec![tagged(ENVIRONMENT, environment)];
    filters.extend(group.map(|name| tagged(GROUP, self::group(name))));
    filters
}

/// The tags of a new thing.
pub(super) fn specification(kind: ResourceType, tags: &[(&str, String)]) -> TagSpecification {
    let tags = tags.iter().map(|(key, value)| tag(key, value)).collect();
    TagSpecification::builder().resource_type(kind).set_tags(Some(tags)).build()
}

/// One tag.
pub(super) fn tag(key: &str, value: &str) -> Tag {
    Tag::builder().key(key).value(value).build()
}

/// The value of a tag.
pub(super) fn value<'t>(tags: &'t [Tag], key: &str) -> Option<&'t str> {
    tags.iter().find(|tag| tag.key() == Some(key)).and_then(Tag::value)
}

/// A group's name as a tag has it.
pub(super) fn group(name: &Name) -> String {
    format!("{}/{}", name.namespace, name.name)
}

/// The name in the tag [`GROUP`].
pub(super) fn named(tags: &[Tag]) -> Option<Name> {
    let (namespace, name) = value(tags, GROUP)?.split_once('/')?;
    Some(Name { namespace: namespace.into(), name: name.into() })
}

/// Tags that hold a text of any length: the first begins with their number, so that one that a longer text left is not
/// taken for a part. A text beyond all limits is cut.
pub(super) fn long(key: &str, text: &str) -> Vec<(String, String)> {
    let characters: Vec<char> = text.chars().take(LONGEST * MOST - 4).collect();
    let count = (characters.len() + 3).div_ceil(LONGEST).max(1);
    let whole: Vec<char> = format!("{count:02}:").chars().chain(characters).collect();
    let key_of = |index: usize| if index == 0 { key.to_owned() } else { format!("{key}-{index}") };
    whole.chunks(LONGEST).enumerate().map(|(index, part)| (key_of(index), part.iter().collect())).collect()
}

/// What [`long`] wrote.
pub(super) fn read_long(tags: &[Tag], key: &str) -> Option<String> {
    let (count, first) = value(tags, key)?.split_once(':')?;
    let count: usize = count.parse().ok()?;
    let mut text = first.to_owned();
    for index in 1..count.min(MOST) {
        text += value(tags, &format!("{key}-{index}")).unwrap_or_default();
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_reads_back_whatever_was_there_before() {
        let write = |tags: &mut Vec<Tag>, text: &str| {
            for (key, value) in long("k", text) {
                assert!(value.chars().count() <= LONGEST);
                tags.retain(|tag| tag.key() != Some(&key));
                tags.push(tag(&key, &value));
            }
        };
        let mut tags = Vec::new();
        for length in [0, 1, 253, 254, 255, 256, 257, 1000, 511, 510, 3] {
            let text: String = "aé:".chars().cycle().take(length).collect();
            write(&mut tags, &text);
            assert_eq!(read_long(&tags, "k"), Some(text), "{length}");
        }
        write(&mut tags, &"x".repeat(100_000));
        assert_eq!(read_long(&tags, "k").map(|text| text.len()), Some(LONGEST * MOST - 4));
        assert!(tags.len() <= MOST);
    }
}
