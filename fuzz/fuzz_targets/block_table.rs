//! The target of `tests/parsers/block_table.rs`.

#![no_main]

#[path = "../../tests/parsers/block_table.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|data: &[u8]| target::run(data));
