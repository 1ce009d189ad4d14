//! The target of `tests/parsers/secrets.rs`.

#![no_main]

#[path = "../../tests/parsers/secrets.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
