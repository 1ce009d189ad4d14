//! The target of `tests/parsers/erofs.rs`.

#![no_main]

#[path = "../../tests/parsers/erofs.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
