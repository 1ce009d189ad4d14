//! The target of `tests/parsers/manifest.rs`.

#![no_main]

#[path = "../../tests/parsers/manifest.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
