//! Memory of replies on their way to clients. All of them share one account: a client that does not read its reply may not take
//! the memory of the others.
//!
//! What a reply takes is given back with its last byte: the place in the account is a part of its [`Bytes`].

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of all replies together, when one of the longest takes less.
const MAX_REPLIES: usize = 16 << 20;

/// Bytes of a reply that are not counted.
const OWN: usize = 4 << 10;

/// The account.
#[derive(Debug, Clone)]
pub(crate) struct Memory {
    /// In KiB.
    free: Arc<Semaphore>,
}

/// What one reply takes while it comes in.
#[derive(Debug)]
pub(crate) struct Taken {
    free: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
}

/// A reply with its place in the account.
struct Kept {
    bytes: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Memory {
    /// For a group whose longest reply has so many bytes: one of them has room.
    pub(crate) fn new(longest: u64) -> Self {
        let longest = usize::try_from(longest).unwrap_or(usize::MAX).saturating_add(64 << 10);
        Self { free: Arc::new(Semaphore::new((MAX_REPLIES.max(longest) >> 10).min(Semaphore::MAX_PERMITS))) }
    }

    /// For a reply that comes in.
    pub(crate) fn begin(&self) -> Taken {
        Taken { free: Arc::clone(&self.free), permit: None }
    }

    /// The same reply with its place in the account; none when there is no room.
    pub(crate) fn keep(&self, reply: &Bytes) -> Option<Bytes> {
        let mut taken = self.begin();
        taken.grow(reply.len()).then(|| taken.finish(reply))
    }
}

impl Taken {
    /// The reply has `len` bytes by now. False when there is no room.
    pub(crate) fn grow(&mut self, len: usize) -> bool {
        let has = self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let wants = if len > OWN { len.div_ceil(1 << 10) } else { 0 };
        let Some(more) = wants.checked_sub(has).filter(|more| *more > 0) else { return true };
        let Ok(more) = u32::try_from(more) else { return false };
        let Ok(more) = Arc::clone(&self.free).try_acquire_many_owned(more) else { return false };
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        true
    }

    /// The reply is whole. A short one is copied: it would hold the memory of the buffer that it came in.
    pub(crate) fn finish(self, reply: &Bytes) -> Bytes {
        match self.permit {
            Some(permit) => Bytes::from_owner(Kept { bytes: reply.clone(), _permit: permit }),
            None => Bytes::copy_from_slice(reply),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_have_room_until_there_is_none_and_give_it_back() {
        let memory = Memory::new(1 << 20);
        let reply = Bytes::from(vec![7; 1 << 20]);
        let mut kept: Vec<Bytes> = (0..16).map(|_| memory.keep(&reply).unwrap()).collect();
        assert_eq!(kept[0], reply);
        assert_eq!(memory.keep(&reply), None);
        assert!(memory.keep(&Bytes::from_static(b"short")).is_some(), "a short one is not counted");
        let part = kept.pop().unwrap().slice(..10);
        assert_eq!(memory.keep(&reply), None, "a part of it is held");
        drop(part);
        assert!(memory.keep(&reply).is_some());
    }

    #[test]
    fn a_reply_that_comes_in_takes_more_and_more_and_the_longest_has_room() {
        let memory = Memory::new(64 << 20);
        let mut taken = memory.begin();
        for part in 1..=64 {
            assert!(taken.grow(part << 20));
        }
        assert!(taken.grow(1));
        assert!(!memory.begin().grow(1 << 20));
        drop(taken);
        assert!(memory.begin().grow(64 << 20));
    }
}
