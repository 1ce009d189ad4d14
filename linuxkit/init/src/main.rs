//! PID 1 of an i2kit micro-VM.

fn main() {}
