//! The target of `tests/parsers/console.rs`.

#![no_main]

#[path = "../../tests/parsers/console.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
