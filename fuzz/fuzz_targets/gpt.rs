//! The target of `tests/parsers/gpt.rs`.

#![no_main]

#[path = "../../tests/parsers/gpt.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
