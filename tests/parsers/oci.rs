//! Any bytes as what registries, layouts and archives say: image configurations, and references, which survive being
//! printed.

use i2kit::oci::{ImageConfig, Reference};

/// Fails when something does not hold.
pub(crate) fn run(data: &[u8]) {
    let _ = serde_json::from_slice::<ImageConfig>(data);
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(reference) = text.parse::<Reference>()
    {
        let again: Reference = reference.to_string().parse().expect("a printed reference is a reference");
        assert_eq!(again.to_string(), reference.to_string());
    }
}
