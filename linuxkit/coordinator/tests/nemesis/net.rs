//! The network between the replicas: each reaches another through a forwarder of the test's own, which passes bytes on, late, or not
//! at all for a while. As in a network that loses packets, nothing of a connection is lost or changes its place.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::cluster::SLOTS;

/// What passes in no time.
const OPEN: u64 = 0;

/// What does not pass.
const CUT: u64 = u64::MAX;

/// What is said to those that wait whether the way is open again.
const LOOKS: Duration = Duration::from_millis(2);

/// For each pair of slots, from and to: how many milliseconds bytes take, or that they do not pass.
static WAYS: [[AtomicU64; SLOTS]; SLOTS] = [const { [const { AtomicU64::new(OPEN) }; SLOTS] }; SLOTS];

/// Opens a way from one slot to another, which listens on `port`; the port at which it begins.
pub(crate) fn way(from: usize, to: usize, port: u16) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let begins = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let Ok(client) = client else { continue };
            // Nobody is there: the connection ends.
            let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { continue };
            let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone()) else { continue };
            std::thread::spawn(move || pass(&client, &server, &WAYS[from][to]));
            std::thread::spawn(move || pass(&server_too, &client_too, &WAYS[to][from]));
        }
    });
    begins
}

/// Passes bytes on until the connection ends.
fn pass(mut from: &TcpStream, mut to: &TcpStream, way: &AtomicU64) {
    let _ = to.set_nodelay(true);
    let mut bytes = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut bytes).unwrap_or(0);
        loop {
            match way.load(Ordering::Relaxed) {
                OPEN => break,
                CUT => std::thread::sleep(LOOKS),
                millis => {
                    std::thread::sleep(Duration::from_millis(millis));
                    break;
                }
            }
        }
        if read == 0 || to.write_all(&bytes[..read]).is_err() {
            let _ = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
            return;
        }
    }
}

fn set(from: usize, to: usize, value: u64) {
    WAYS[from][to].store(value, Ordering::Relaxed);
}

fn others(slot: usize) -> impl Iterator<Item = usize> {
    (0..SLOTS).filter(move |other| *other != slot)
}

/// Nothing passes from one slot to any other.
pub(crate) fn mute(slot: usize) {
    others(slot).for_each(|other| set(slot, other, CUT));
}

/// Nothing passes to a slot from any other.
pub(crate) fn deafen(slot: usize) {
    others(slot).for_each(|other| set(other, slot, CUT));
}

/// Neither the one nor the other.
pub(crate) fn cut_off(slot: usize) {
    mute(slot);
    deafen(slot);
}

/// All that passes to and from a slot takes so long.
pub(crate) fn slow(slot: usize, millis: u64) {
    for other in others(slot) {
        set(slot, other, millis);
        set(other, slot, millis);
    }
}

/// All passes again.
pub(crate) fn heal() {
    (0..SLOTS).for_each(|from| (0..SLOTS).for_each(|to| set(from, to, OPEN)));
}

/// All ways are open, now and when this is dropped.
pub(crate) struct Healed;

impl Healed {
    pub(crate) fn new() -> Self {
        heal();
        Self
    }
}

impl Drop for Healed {
    fn drop(&mut self) {
        heal();
    }
}
