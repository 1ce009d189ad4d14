//! Any bytes as a partition table: an error, or a layout whose table reads back as itself.

#![no_main]

use i2kit::disk::gpt;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(layout) = gpt::parse(data) {
        let _ = gpt::parse(&gpt::head(&layout));
    }
});
