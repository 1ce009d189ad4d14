//! Descriptors by their numbers, alone and in words of the table.

use std::os::fd::{AsFd, BorrowedFd, IntoRawFd as _, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::cloud::local::network::sys;

/// What stands for no descriptor.
pub(super) const NONE: u64 = u64::MAX;

/// A descriptor by its number. It is closed by [`Table::close`](super::Table::close) or [`Fd::close`] alone, never by being dropped: a copy of
/// this process must not close what both have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Fd(RawFd);

impl Fd {
    /// Takes a descriptor out of the care of Rust's types.
    pub(crate) fn from_owned(owned: OwnedFd) -> Self {
        Self(owned.into_raw_fd())
    }

    /// The descriptor of that number.
    pub(crate) fn from_number(number: i32) -> Option<Self> {
        (number >= 0).then_some(Self(number))
    }

    /// Its number.
    pub(crate) fn number(self) -> i32 {
        self.0
    }

    /// Closes it. It has no mark in the table.
    pub(crate) fn close(self) {
        sys::close(self.0);
    }

    /// The inode of what it is open on.
    pub(crate) fn inode(self) -> u64 {
        rustix::fs::fstat(self).map_or(0, |stat| stat.st_ino)
    }
}

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        sys::borrow(self.0)
    }
}

/// The descriptor in a word.
pub(super) fn load_fd(word: &AtomicU64) -> Option<Fd> {
    let number = word.load(Ordering::Acquire);
    if number == NONE { None } else { i32::try_from(number).ok().and_then(Fd::from_number) }
}

/// See [`load_fd`].
pub(super) fn store_fd(word: &AtomicU64, fd: Option<Fd>) {
    let number = fd.and_then(|fd| u64::try_from(fd.0).ok()).unwrap_or(NONE);
    word.store(number, Ordering::Release);
}
