//! The target of `tests/parsers/control.rs`.

#![no_main]

#[path = "../../tests/parsers/control.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
