//! Plans against empty and running fleets.
