//! The target of `tests/parsers/status.rs`.

#![no_main]

#[path = "../../tests/parsers/status.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
