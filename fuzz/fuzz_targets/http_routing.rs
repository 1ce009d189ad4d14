//! The target of `tests/parsers/http_routing.rs`.

#![no_main]

#[path = "../../tests/parsers/http_routing.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
