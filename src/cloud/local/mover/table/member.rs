//! The record of a process: who it is, whether it works, waits or has parked, and how to wake it.

use std::sync::atomic::{AtomicU64, Ordering};

use super::fd::{Fd, load_fd, store_fd};

/// A process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member {
    pub(super) words: &'static [AtomicU64],
}

impl Member {
    const PID: usize = 0;
    const ROUNDS: usize = 1;
    const RESTS: usize = 2;
    const NEWS: usize = 3;
    const PARKED: usize = 4;
    const CARRIED: usize = 5;

    /// Its process id; 0 when there was none yet.
    pub(crate) fn pid(&self) -> u32 {
        u32::try_from(self.words[Self::PID].load(Ordering::Acquire)).unwrap_or(0)
    }

    /// Makes this process the member, unless another one became it since it was `before`.
    pub(crate) fn claim(&self, before: u32) -> bool {
        let (before, this) = (u64::from(before), u64::from(std::process::id()));
        let word = &self.words[Self::PID];
        word.compare_exchange(before, this, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Whether it is this process; a place that nobody ever had is taken for it.
    pub(crate) fn is_this_process(&self) -> bool {
        [0, std::process::id()].contains(&self.pid())
    }

    /// The descriptor by which it is woken.
    pub(crate) fn news(&self) -> Option<Fd> {
        // 0 is standard input: no place was used before it was set.
        load_fd(&self.words[Self::NEWS]).filter(|fd| fd.number() != 0)
    }

    /// See [`Member::news`].
    pub(crate) fn set_news(&self, fd: Fd) {
        store_fd(&self.words[Self::NEWS], Some(fd));
    }

    /// Makes it look at the table.
    pub(crate) fn wake(&self) {
        if let Some(news) = self.news() {
            // A counter that is full wakes it all the same.
            let _ = rustix::io::write(news, &1_u64.to_ne_bytes());
        }
    }

    /// It waits: every descriptor that it has is in the table. Returns at the call of [`Member::works`].
    pub(crate) fn rests(&self) {
        self.words[Self::RESTS].store(1, Ordering::Release);
    }

    /// It works: it may have descriptors that the table does not know yet.
    pub(crate) fn works(&self) {
        self.words[Self::ROUNDS].fetch_add(1, Ordering::AcqRel);
        self.words[Self::RESTS].store(0, Ordering::Release);
    }

    /// How often it has worked, and whether it waits now.
    pub(crate) fn rounds(&self) -> (u64, bool) {
        let rounds = self.words[Self::ROUNDS].load(Ordering::Acquire);
        (rounds, self.words[Self::RESTS].load(Ordering::Acquire) != 0)
    }

    /// Whether it has stopped to carry, so that a newer program can take over.
    pub(crate) fn is_parked(&self) -> bool {
        self.words[Self::PARKED].load(Ordering::Acquire) != 0
    }

    /// See [`Member::is_parked`].
    pub(crate) fn set_parked(&self, parked: bool) {
        self.words[Self::PARKED].store(u64::from(parked), Ordering::Release);
    }

    /// The connections and sessions that it has, as far as it has counted them.
    pub(crate) fn carried(&self) -> u64 {
        self.words[Self::CARRIED].load(Ordering::Acquire)
    }

    /// See [`Member::carried`].
    pub(crate) fn set_carried(&self, count: u32) {
        self.words[Self::CARRIED].store(u64::from(count), Ordering::Release);
    }
}
