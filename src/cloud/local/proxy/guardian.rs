//! The guardian, `i2kit local-proxy guard`: it holds a copy of what its carrier keeps, and starts another one when that
//! ends, or when another program is to take over.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::Child;
use std::time::{Duration, Instant};

use super::link::{self, Word};
use super::process::{CARRY, FIRST_PAUSE, detach, end, start};
use crate::cloud::CloudError;
use crate::cloud::local::home::Home;
use crate::cloud::local::mover::confine;

/// The time that a carrier of another program gets until it serves; the one before goes on meanwhile.
pub(super) const TAKING_OVER: Duration = Duration::from_secs(10);

/// A carrier that ends within this time was started in vain: the next one is started after a pause.
pub(super) const PROVEN: Duration = Duration::from_secs(1);

const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Is the guardian until a carrier ends the proxy.
pub fn guard(home: &Home) -> Result<(), CloudError> {
    confine::writes(&home.state);
    keep_watch(home).map_err(CloudError::file("guard the HTTP proxy in", &home.state))
}

fn keep_watch(home: &Home) -> io::Result<()> {
    let mut watch = Watch {
        home,
        link: detach()?,
        kept: BTreeMap::new(),
        state: State::Receiving,
        children: Vec::new(),
        started: None,
        pause: FIRST_PAUSE,
    };
    while watch.next()? {}
    Ok(())
}

/// The guardian.
struct Watch<'h> {
    home: &'h Home,
    link: OwnedFd,
    kept: BTreeMap<String, OwnedFd>,
    state: State,
    children: Vec<Child>,
    /// When a carrier was started last.
    started: Option<Instant>,
    pause: Duration,
}

/// What the guardian is about.
enum State {
    /// It is handed what is kept by whoever started it.
    Receiving,
    /// It has all of that, or a carrier of its own.
    Guarding,
    /// It has started a carrier that is to take over; the one `before` goes on until that serves.
    TakingOver {
        /// The link to the one before.
        before: OwnedFd,
    },
}

impl Watch<'_> {
    /// Waits for a message and does what it asks; whether to go on.
    fn next(&mut self) -> io::Result<bool> {
        let word = link::receive(self.link.as_fd());
        self.children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        let is_taking_over = matches!(self.state, State::TakingOver { .. });
        match word {
            Ok(Some(Word::Keep(name, descriptor))) => drop(self.kept.insert(name, descriptor)),
            Ok(Some(Word::Forget(name))) => drop(self.kept.remove(&name)),
            Ok(Some(Word::All)) if is_taking_over => {}
            Ok(Some(Word::All)) => self.state = State::Guarding,
            Ok(Some(Word::End)) => return Ok(false),
            Ok(Some(Word::Ready)) => {
                if let State::TakingOver { before } = std::mem::replace(&mut self.state, State::Guarding) {
                    link::wait_for(self.link.as_fd(), None)?;
                    drop(link::send(before.as_fd(), "ready", None));
                }
            }
            Ok(Some(Word::Unready)) if !is_taking_over => {}
            // It did not take over: the carrier before goes on, with its own guardian.
            Ok(Some(Word::Unready | Word::Leave) | None) | Err(_) if is_taking_over => {
                self.children.iter_mut().for_each(end);
                return Ok(false);
            }
            Ok(Some(Word::Leave)) => return self.start_carrier(true),
            // Whoever handed this over has ended half way, or has given up.
            Ok(None) | Err(_) if !self.kept.is_empty() && matches!(self.state, State::Receiving) => {
                return Ok(false);
            }
            Ok(Some(Word::Unready) | None) | Err(_) => return self.start_carrier(false),
        }
        Ok(true)
    }

    /// Starts a carrier, with a pause where the last one ended at once; `takes_over` from the one at the other end of the
    /// link. Whether to go on.
    fn start_carrier(&mut self, takes_over: bool) -> io::Result<bool> {
        // Without its folder there is nothing to serve.
        if !self.home.state.exists() {
            return Ok(false);
        }
        if self.started.is_none_or(|started| started.elapsed() > PROVEN) {
            self.pause = FIRST_PAUSE;
        } else {
            std::thread::sleep(self.pause);
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        self.started = Some(Instant::now());
        match start(self.home, &self.home.executable, CARRY, &self.kept) {
            Ok((child, next)) => {
                self.children.push(child);
                // From here on, what is kept comes from a carrier of its own.
                self.state = State::Guarding;
                let before = std::mem::replace(&mut self.link, next);
                if takes_over {
                    link::wait_for(self.link.as_fd(), Some(TAKING_OVER))?;
                    self.state = State::TakingOver { before };
                }
            }
            Err(error) if takes_over => return Err(error),
            // It is tried again: the link has ended still.
            Err(_) => {}
        }
        Ok(true)
    }
}
