//! The target of `tests/parsers/seccomp.rs`.

#![no_main]

#[path = "../../tests/parsers/seccomp.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
