//! The stand-in's guest, as its ports have it: it asks who it is, says hello, asks for the time, and its first container writes a
//! line now and then.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant, SystemTime};

use chrono::{DateTime, SecondsFormat, Utc};
use i2kit_spec::control::{Clock, Decoder, Ended, GuestHello, LogHead, Message, VERSION};
use i2kit_spec::identity::{IDENTITY_TAKEN, IDENTITY_WANTED, Identity, take_identity};

/// How often a guest asks for the time: as its supervisor does.
const CLOCK: Duration = Duration::from_secs(10);

/// How often the container writes a line: as a server that is asked for nothing.
const LINE: Duration = Duration::from_mins(1);

/// Asks over the port until there is an answer, whoever comes; returns the parameters of the machine.
pub(super) fn identity(listener: &UnixListener) -> io::Result<String> {
    loop {
        let (host, _) = listener.accept()?;
        // A host that was killed has a successor.
        if let Ok(identity) = ask(&host) {
            return Ok(identity.parameters);
        }
    }
}

/// Asks one host.
fn ask(mut host: &UnixStream) -> io::Result<Identity> {
    host.write_all(IDENTITY_WANTED)?;
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let length = host.read(&mut buffer)?;
        if length == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&buffer[..length]);
        if let Some(identity) = take_identity(&mut bytes).map_err(io::Error::other)? {
            host.write_all(IDENTITY_TAKEN)?;
            return Ok(identity);
        }
    }
}

/// Serves one host at a time, as qemu does; `container` is who writes lines.
pub(super) fn serve(listener: &UnixListener, container: &str) {
    let mut lines = 0;
    while let Ok((host, _)) = listener.accept() {
        // A host that was killed has a successor.
        drop(talk(&host, container, &mut lines));
    }
}

/// Talks until the host is gone. `lines` is the number of lines that the container wrote.
fn talk(mut host: &UnixStream, container: &str, lines: &mut u64) -> io::Result<()> {
    let (mut decoder, mut buffer) = (Decoder::default(), [0; 4096]);
    let (mut clock, mut line) = (Instant::now(), Instant::now());
    let mut is_greeted = false;
    loop {
        let pause = clock.min(line).saturating_duration_since(Instant::now());
        host.set_read_timeout(Some(pause.max(Duration::from_millis(1))))?;
        match host.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => decoder.push(&buffer[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        let mut out = Vec::new();
        for message in decoder.by_ref() {
            is_greeted |= matches!(message, Message::HostHello(_));
            answer(&message, &mut out);
        }
        let now = Instant::now();
        if clock <= now {
            clock = now + CLOCK;
            say(&Message::Clock(Clock { asked: nanoseconds(), now: 0 }), &mut out);
        }
        if line <= now && is_greeted {
            line = now + LINE;
            let time = DateTime::<Utc>::from(SystemTime::now()).to_rfc3339_opts(SecondsFormat::Nanos, true);
            let head = LogHead { container: container.to_owned(), first: *lines, ..LogHead::default() };
            let text = format!("{time} stdout F there is nothing to do\n");
            say(&Message::Log { head, lines: text.into_bytes() }, &mut out);
            *lines += 1;
        } else if line <= now {
            // The host says hello first.
            line = now + Duration::from_millis(100);
        }
        host.write_all(&out)?;
    }
}

/// What a guest without a shell answers.
fn answer(message: &Message, out: &mut Vec<u8>) {
    match message {
        Message::HostHello(host) if !host.answer => say(
            &Message::GuestHello(GuestHello {
                version: VERSION,
                epoch: 1,
                answer: true,
                answers: Some(host.epoch),
                program: env!("CARGO_PKG_VERSION").to_owned(),
                streams: Vec::new(),
                credits_open: true,
            }),
            out,
        ),
        Message::Open { stream, .. } => {
            let ended = Ended::failed(126, "a stand-in runs no commands");
            say(&Message::Ended { stream: *stream, ended }, out);
        }
        _ => {}
    }
}

fn say(message: &Message, out: &mut Vec<u8>) {
    message.encode(out).unwrap();
}

fn nanoseconds() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or_default()
}
