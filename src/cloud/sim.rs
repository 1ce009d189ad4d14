//! A deterministic cloud in memory, for tests of everything above the interface.
