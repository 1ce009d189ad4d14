//! The target of `tests/parsers/oci_documents.rs`.

#![no_main]

#[path = "../../tests/parsers/oci_documents.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
