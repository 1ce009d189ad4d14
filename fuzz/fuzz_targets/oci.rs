//! Any bytes as what registries, layouts and archives say: image configurations, and references, which survive being
//! printed.
#![no_main]

use i2kit::oci::{ImageConfig, Reference};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = serde_json::from_slice::<ImageConfig>(bytes);
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(reference) = text.parse::<Reference>()
    {
        let again: Reference = reference.to_string().parse().expect("a printed reference is a reference");
        assert_eq!(again.to_string(), reference.to_string());
    }
});
