//! The target of `tests/parsers/identity.rs`.

#![no_main]

#[path = "../../tests/parsers/identity.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
