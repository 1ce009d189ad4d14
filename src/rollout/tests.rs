//! Rollouts on the fake cloud.
