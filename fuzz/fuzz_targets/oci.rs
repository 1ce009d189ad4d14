//! The target of `tests/parsers/oci.rs`.

#![no_main]

#[path = "../../tests/parsers/oci.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
