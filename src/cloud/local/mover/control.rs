//! The control socket: who calls is this user or root, and says a request at a time.

use std::collections::HashMap;
use std::io;

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags, sockopt};

use super::poll::{EventFlags, Poll, Token, pause_without_descriptors};
use super::protocol::{DoorAnswer, Request, frame, unframe};
use super::table::{Fd, Owner, Table};

/// Callers at once; the local cloud is one. Further ones are closed.
const CALLERS: usize = 32;

/// Descriptors that come with a request at most; the kernel closes further ones.
const GIVEN: usize = 8;

/// A request, and the descriptors that came before its end.
pub(super) type Asked = (Request, Vec<Fd>);

/// A connection of the control socket.
#[derive(Debug)]
struct Caller {
    socket: Fd,
    input: Vec<u8>,
    output: Vec<u8>,
    given: Vec<Fd>,
}

/// All callers.
#[derive(Debug)]
pub(super) struct Control {
    table: Table,
    poll: Poll,
    member: usize,
    callers: HashMap<u32, Caller>,
    number: u32,
}

impl Control {
    /// Nobody has called yet.
    pub(super) fn new(table: Table, poll: Poll, member: usize) -> Self {
        Self { table, poll, member, callers: HashMap::new(), number: 0 }
    }

    /// Accepts a caller.
    pub(super) fn accept(&mut self, listener: Fd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match rustix::net::accept_with(listener, flags) {
            Ok(socket) => socket,
            Err(error) => return pause_without_descriptors(error),
        };
        let this = rustix::process::geteuid();
        let is_trusted =
            sockopt::socket_peercred(&socket).is_ok_and(|peer| peer.uid == this || peer.uid.is_root());
        let socket = Fd::from_owned(socket);
        if !is_trusted || self.callers.len() >= CALLERS {
            socket.close();
            return;
        }
        self.number = self.number.wrapping_add(1);
        self.table.own(socket, Owner::Member(self.member));
        let _ = self.poll.add(socket, Token::Caller(self.number), EventFlags::IN);
        self.callers
            .insert(self.number, Caller { socket, input: Vec::new(), output: Vec::new(), given: Vec::new() });
    }

    /// Something happened to a caller. Returns its requests.
    pub(super) fn event(&mut self, number: u32) -> Vec<Asked> {
        let Some(caller) = self.callers.get_mut(&number) else { return Vec::new() };
        let read = caller.read();
        for fd in &caller.given {
            self.table.own(*fd, Owner::Member(self.member));
        }
        if let Ok(requests) = read {
            self.send(number);
            return requests;
        }
        self.close(number);
        Vec::new()
    }

    /// Answers a caller.
    pub(super) fn answer(&mut self, number: u32, answer: &DoorAnswer) {
        if let Some(caller) = self.callers.get_mut(&number) {
            caller.output.extend(frame(answer));
            self.send(number);
        }
    }

    fn send(&mut self, number: u32) {
        let Some(caller) = self.callers.get_mut(&number) else { return };
        match caller.write() {
            Ok(is_all) => {
                let flags = if is_all { EventFlags::IN } else { EventFlags::OUT };
                let _ = self.poll.change(caller.socket, Token::Caller(number), flags);
            }
            Err(_) => self.close(number),
        }
    }

    fn close(&mut self, number: u32) {
        if let Some(caller) = self.callers.remove(&number) {
            self.table.close(caller.socket);
            self.table.close_all(&caller.given);
        }
    }
}

impl Caller {
    /// Reads what has come; an error when the caller has gone, or has said what is no request.
    fn read(&mut self) -> io::Result<Vec<Asked>> {
        let mut buffer = vec![0; 1 << 16];
        let mut has_ended = false;
        loop {
            match self.receive(&mut buffer) {
                Ok(0) => {
                    has_ended = true;
                    break;
                }
                Ok(length) => self.input.extend(&buffer[..length]),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if self.input.len() > super::protocol::MAX_MESSAGE {
                break;
            }
        }
        let mut requests = Vec::new();
        while let Some((body, length)) = unframe(&self.input).map_err(io::Error::other)? {
            requests.push((serde_json::from_slice(body)?, std::mem::take(&mut self.given)));
            self.input.drain(..length);
        }
        if has_ended && requests.is_empty() && self.output.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(requests)
    }

    fn receive(&mut self, buffer: &mut [u8]) -> rustix::io::Result<usize> {
        let mut space = [const { std::mem::MaybeUninit::uninit() }; rustix::cmsg_space!(ScmRights(GIVEN))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [std::io::IoSliceMut::new(buffer)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = rustix::net::recvmsg(self.socket, &mut parts, &mut ancillary, flags)?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.given.extend(descriptors.map(Fd::from_owned));
            }
        }
        if self.given.len() > GIVEN {
            return Err(Errno::TOOBIG);
        }
        Ok(received.bytes)
    }

    /// Sends what can be sent; whether that is all.
    fn write(&mut self) -> io::Result<bool> {
        while !self.output.is_empty() {
            match rustix::net::send(self.socket, &self.output, SendFlags::NOSIGNAL) {
                Ok(length) => drop(self.output.drain(..length)),
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }
}
