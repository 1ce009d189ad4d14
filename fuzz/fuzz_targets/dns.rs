//! The target of `tests/parsers/dns.rs`.

#![no_main]

#[path = "../../tests/parsers/dns.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
