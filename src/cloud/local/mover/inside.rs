//! The life of a process that carries in an environment's own network: it accepts from listeners of the host, and
//! connects where it is. The guardian starts it again; it starts nobody, since a copy of it would be in that network.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::carrier::{Carrier, Left};
use super::host::{Parked, park, wait_for_older};
use super::member::{Family, Next, POLL, become_member, reap};
use super::places::{GUARDIAN, HOST, has_ended, is_alive, watch};
use super::poll::Token;
use super::suspects::Suspects;
use super::table::{Fd, Network, Opened, Owner, Phase};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// Looks in a row that find neither the guardian nor the process of the host, after which this one ends: nobody would
/// ever reach it.
const MISSED: u32 = 4;

/// Carries until its network is taken away, all is to end, or another process has taken over.
pub(super) fn run(family: &Family, index: usize, before: u32) -> Next {
    let (table, log) = (family.shared.table, family.shared.log);
    if !become_member(&table, index, before, c"i2kit-door-net") {
        return Next::End;
    }
    let look_again = |before: Option<Fd>| {
        if let Some(ended) = before {
            table.close(ended);
        }
        let guardian = watch(table.member(GUARDIAN).pid());
        // Without a mark it would be taken for a descriptor that nobody has.
        guardian.inspect(|fd| table.own(*fd, Owner::Member(index)))
    };
    let mut guardian = look_again(None);
    wait_for_older(family, index, before, guardian);
    let network = table.network(index);
    // Without one it was taken away again before this process began.
    let Some(namespace) = network.opened(Opened::Net).map(Fd::inode) else { return Next::End };
    if let Err(error) = enter(network) {
        log.write(format_args!("its process cannot enter a network: {error}"));
        return Next::End;
    }
    let Ok(mut carrier) = Carrier::new(family.shared, index) else { return Next::End };
    let mut suspects = Suspects::find(&table, index);
    carrier.recover_inside();
    suspects.offer(|fd| carrier.adopt(fd));
    if let Some(news) = table.member(index).news() {
        carrier.attend(news, Token::News);
    }
    let mut missed = 0;
    loop {
        let left = carrier.run(Instant::now() + LOOK);
        if left == Left::Replaced {
            return Next::End;
        }
        suspects.close(&table);
        reap();
        if table.phase() == Phase::Stop || network.opened(Opened::Net).map(Fd::inode) != Some(namespace) {
            carrier.follow();
            carrier.leave_all();
            return Next::End;
        }
        match left {
            Left::News => carrier.follow(),
            Left::Phase if table.phase() == Phase::Park => {
                if guardian.is_none_or(has_ended) {
                    guardian = look_again(guardian);
                }
                if guardian.is_none() && is_alive(table.member(HOST).pid()) {
                    // The host's process is about to start another guardian, and that one replaces the program.
                    std::thread::sleep(POLL);
                    continue;
                }
                if let Parked::Replaced = park(family, index, guardian) {
                    return Next::End;
                }
            }
            Left::Look | Left::Phase | Left::Guardian | Left::Signal | Left::Replaced => {}
        }
        if guardian.is_none_or(has_ended) {
            guardian = look_again(guardian);
            missed = if guardian.is_some() || is_alive(table.member(HOST).pid()) { 0 } else { missed + 1 };
            if missed > MISSED {
                return Next::End;
            }
        }
    }
}

/// Moves this process into the network's namespaces. One that it is in already is refused by the kernel.
fn enter(network: Network) -> rustix::io::Result<()> {
    let kinds = [
        (Opened::User, LinkNameSpaceType::User, "/proc/self/ns/user"),
        (Opened::Net, LinkNameSpaceType::Network, "/proc/self/ns/net"),
    ];
    for (opened, kind, own) in kinds {
        let Some(fd) = network.opened(opened) else { continue };
        let is_own = rustix::fs::stat(own).is_ok_and(|stat| stat.st_ino == fd.inode());
        if !is_own {
            move_into_link_name_space(fd.as_fd(), Some(kind))?;
        }
    }
    Ok(())
}
