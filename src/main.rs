//! The command: arguments in, exit code out. The only place that ends the process.

fn main() {}
