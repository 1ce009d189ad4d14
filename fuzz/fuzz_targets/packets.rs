//! The target of `tests/parsers/packets.rs`.

#![no_main]

#[path = "../../tests/parsers/packets.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
