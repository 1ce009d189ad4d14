//! The version of the guest's program, of PID 1 as of the supervisor.

/// The version, as one text in the program's file: tests put another one in its place.
pub fn program() -> &'static str {
    std::hint::black_box(env!("CARGO_PKG_VERSION"))
}
