//! The tags by which everything of ours is found again. Nothing without them is ever changed or deleted.
//!
//! Keys have a colon and no slash: EC2 refuses slashes in tags that a VM may read about itself.

use aws_sdk_ec2::types::{Filter, ResourceType, Tag, TagSpecification};

use crate::plan::image::ImageId;

/// The environment that a thing belongs to.
pub(super) const ENVIRONMENT: &str = "i2kit:environment";

/// The image that a snapshot or a machine image holds.
pub(super) const IMAGE: &str = "i2kit:image-id";

/// The snapshot that a snapshot was made from, or `none`.
pub(super) const PARENT: &str = "i2kit:parent";

/// What a snapshot without a parent says.
pub(super) const NO_PARENT: &str = "none";

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

/// The tags of a new thing.
pub(super) fn specification(kind: ResourceType, tags: &[(&str, String)]) -> TagSpecification {
    let tag = |(key, value): &(&str, String)| Tag::builder().key(*key).value(value).build();
    TagSpecification::builder().resource_type(kind).set_tags(Some(tags.iter().map(tag).collect())).build()
}

/// The value of a tag.
pub(super) fn value<'t>(tags: &'t [Tag], key: &str) -> Option<&'t str> {
    tags.iter().find(|tag| tag.key() == Some(key)).and_then(Tag::value)
}
