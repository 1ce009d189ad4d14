//! Any bytes as a manifest: findings whose places lie inside the text and whose renderings hold.
#![no_main]

use i2kit::manifest::{self, Options, SourceFile, render};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let files = [SourceFile { name: "fuzz.yaml".into(), bytes: bytes.to_vec() }];
    let reading = manifest::read(&files, &Options::default());
    let _ = render::text(&files, &reading, false);
    let _ = render::json(&files, &reading);
});
