//! What the program says of itself: lines on standard error, which the machine forwards with the logs of its containers.

/// Writes a line. That nobody reads it is no reason to end.
macro_rules! report {
    ($($arguments:tt)*) => {{
        use std::io::Write as _;
        drop(writeln!(std::io::stderr().lock(), $($arguments)*));
    }};
}

pub(crate) use report;
