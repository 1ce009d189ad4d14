//! The target of `tests/parsers/unpack.rs`.

#![no_main]

#[path = "../../tests/parsers/checksums.rs"]
mod checksums;
#[path = "../../tests/parsers/unpack.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
