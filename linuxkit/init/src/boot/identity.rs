//! Takes from the host, over its port, what makes this machine the one that it is: its name and addresses, the time, random bytes.
//! A machine that starts from a snapshot of another one waits here when the snapshot is made, and comes to life here, so that
//! nothing before this phase may draw a random number that is kept, or tell what time it is.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use i2kit_spec::identity::{IDENTITY_PORT, IDENTITY_TAKEN, IDENTITY_WANTED, Identity, take_identity};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_settime};

use super::cmdline::{self, Parameters};
use super::port;
use crate::error::{Doing, Error};

/// How often the host is asked, for as long as it does not answer.
const ASKING: Duration = Duration::from_millis(250);

/// A pause where nobody is at the host's end of the port, of which poll(2) returns at once.
const ABSENT: Duration = Duration::from_millis(10);

/// How long the answer is waited for at a time, in nanoseconds.
const WAIT: i64 = 50_000_000;

/// How long the device may take to name the port, which the kernel's command line promises: a busy host's is late.
const PORT: Duration = Duration::from_mins(1);

/// For how long the host is told that its answer was taken, where nobody seems to be at its end of the port.
const TELLING: Duration = Duration::from_secs(5);

/// How much is read at once.
const CHUNK: usize = 4096;

/// Waits for the host, however long that takes, and becomes what it says. Returns the parameters that it gives.
pub(crate) fn receive() -> Result<Parameters, Error> {
    let wrong = |reason: String| Error::Identity { reason };
    let port = port::promised(IDENTITY_PORT, PORT)?.ok_or_else(|| {
        wrong(format!(
            "the port {IDENTITY_PORT}, at which the host tells it, was not there within {} s: the host is busy, or its qemu was started \
             without it; start another machine",
            PORT.as_secs()
        ))
    })?;
    let Identity { parameters, hardware, time, seed } = ask(&port)?;
    let mut parameters = cmdline::parse(&parameters)?;
    parameters.hardware = hardware;
    set_clock(time)?;
    // Before anything is drawn that is to be this machine's alone, the kernel's boot id above all.
    let random = "/dev/urandom";
    let device = File::open(random).doing(|| format!("open {random}"))?;
    i2kit_sys::reseed(&device, seed).doing(|| "reseed the kernel's random numbers".into())?;
    confirm(&port);
    Ok(parameters)
}

/// Tells the host that its answer was taken. One that does not hear it finds out by the guest's first answer, unless it waits for
/// this word, as that of a machine from a snapshot does.
fn confirm(port: &OwnedFd) {
    let begun = Instant::now();
    // In a snapshot nobody is at the host's end. The answer can be read before the kernel has noted that somebody is again: until
    // then nothing can be written.
    while let Err(Errno::AGAIN | Errno::INTR) = rustix::io::write(port, IDENTITY_TAKEN) {
        if begun.elapsed() > TELLING {
            return;
        }
        std::thread::sleep(ABSENT);
    }
}

/// Asks over the port until there is an answer.
fn ask(port: &OwnedFd) -> Result<Identity, Error> {
    let mut bytes = Vec::new();
    let mut chunk = [0; CHUNK];
    let mut asked: Option<Instant> = None;
    loop {
        if asked.is_none_or(|asked| asked.elapsed() >= ASKING) {
            match rustix::io::write(port, IDENTITY_WANTED) {
                Ok(_) => asked = Some(Instant::now()),
                // Nobody is there to be asked.
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(errno).doing(|| "ask for the identity".into()),
            }
        }
        match rustix::io::read(port, &mut chunk) {
            Ok(0) => std::thread::sleep(ABSENT),
            Ok(length) => {
                bytes.extend_from_slice(&chunk[..length]);
                let taken = take_identity(&mut bytes);
                if let Some(identity) =
                    taken.map_err(|error| Error::Identity { reason: error.to_string() })?
                {
                    return Ok(identity);
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => wait(port)?,
            Err(errno) => return Err(errno).doing(|| "read the identity".into()),
        }
    }
}

/// Waits until there is something to read, or for a moment.
fn wait(port: &OwnedFd) -> Result<(), Error> {
    let mut fds = [PollFd::new(port, PollFlags::IN)];
    match rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: WAIT })) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno).doing(|| "wait for the identity".into()),
    }
}

/// Sets the clock to so many nanoseconds since the Unix epoch.
fn set_clock(time: u64) -> Result<(), Error> {
    const SECOND: u64 = 1_000_000_000;
    let wrong = |_| Error::Identity { reason: format!("{time} is no time") };
    let time = Timespec {
        tv_sec: i64::try_from(time / SECOND).map_err(wrong)?,
        tv_nsec: i64::try_from(time % SECOND).map_err(wrong)?,
    };
    clock_settime(ClockId::Realtime, time).doing(|| "set the clock".into())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Far more than a busy host takes.
    const PATIENCE: Duration = Duration::from_mins(1);

    #[test]
    fn the_host_hears_that_its_answer_was_taken_although_nothing_could_be_written_at_first() {
        let (mut host, guest) = UnixStream::pair().unwrap();
        guest.set_nonblocking(true).unwrap();
        host.set_read_timeout(Some(PATIENCE)).unwrap();
        let port = OwnedFd::from(guest);
        let mut full = 0;
        while let Ok(length) = rustix::io::write(&port, &[0; 1]) {
            full += length;
        }
        let hears = std::thread::spawn(move || {
            // The guest has tried by now, as a rule; whether it has, it is heard once.
            std::thread::sleep(5 * ABSENT);
            let mut before = vec![0; full];
            host.read_exact(&mut before).unwrap();
            let mut heard = Vec::new();
            host.read_to_end(&mut heard).unwrap();
            heard
        });
        confirm(&port);
        drop(port);
        assert_eq!(hears.join().unwrap(), IDENTITY_TAKEN);
    }
}
