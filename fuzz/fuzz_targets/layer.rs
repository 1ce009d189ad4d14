//! The target of `tests/parsers/layer.rs`.

#![no_main]

#[path = "../../tests/parsers/checksums.rs"]
mod checksums;
#[path = "../../tests/parsers/layer.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
