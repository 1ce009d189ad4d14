//! One stream of a control channel, between the tool and the guest: remembers what may have to be said again.

use std::collections::VecDeque;

use i2kit_spec::control::{End, Message, Open};
use tokio::sync::mpsc;

/// A stream under way.
#[derive(Debug)]
pub(super) struct Stream {
    open: Open,
    /// The tool.
    to: mpsc::UnboundedSender<Message>,
    /// Input that the guest has not taken.
    input: VecDeque<u8>,
    /// How many bytes of input the guest has taken.
    taken: u64,
    ended: bool,
    /// Output and errors.
    outputs: [Output; 2],
    size: Option<(u16, u16)>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Output {
    /// How many bytes the tool was given.
    given: u64,
    /// How many of them it has taken.
    taken: u64,
}

fn index(end: End) -> usize {
    usize::from(end == End::Error)
}

impl Stream {
    /// A stream that was just begun.
    pub(super) fn new(open: Open, to: mpsc::UnboundedSender<Message>) -> Self {
        let outputs = [Output::default(); 2];
        Self { open, to, input: VecDeque::new(), taken: 0, ended: false, outputs, size: None }
    }

    /// Gives the tool a message.
    pub(super) fn tell(&self, message: Message) {
        // A tool that is gone has its stream closed by that.
        let _ = self.to.send(message);
    }

    /// The tool says something. Returns what the guest must hear.
    pub(super) fn say(&mut self, stream: u32, message: Message) -> Option<Message> {
        Some(match message {
            Message::Data { bytes, .. } => {
                let offset = self.taken + self.input.len() as u64;
                self.input.extend(&bytes);
                Message::Data { stream, end: End::Input, offset, bytes }
            }
            Message::Eof { .. } => {
                self.ended = true;
                Message::Eof { stream, end: End::Input }
            }
            Message::Resize { rows, columns, .. } => {
                self.size = Some((rows, columns));
                Message::Resize { stream, rows, columns }
            }
            Message::Credit { end, taken, .. } => {
                let output = &mut self.outputs[index(end)];
                output.taken = output.taken.max(taken);
                Message::Credit { stream, end, taken: output.taken }
            }
            _ => return None,
        })
    }

    /// The guest sent bytes. Those that came before are not passed on; then the guest hears again what is taken.
    pub(super) fn data(&mut self, stream: u32, end: End, offset: u64, bytes: Vec<u8>) -> Option<Message> {
        let output = &mut self.outputs[index(end)];
        let known = usize::try_from(output.given.checked_sub(offset)?).unwrap_or(usize::MAX);
        let new = bytes.get(known..).unwrap_or_default();
        if new.is_empty() {
            return Some(Message::Credit { stream, end, taken: output.taken });
        }
        let offset = output.given;
        output.given += new.len() as u64;
        let bytes = if known == 0 { bytes } else { new.to_vec() };
        self.tell(Message::Data { stream: 0, end, offset, bytes });
        None
    }

    /// The guest took input before this place.
    pub(super) fn credit(&mut self, end: End, taken: u64) {
        let bytes = usize::try_from(taken.saturating_sub(self.taken)).unwrap_or(usize::MAX);
        let bytes = bytes.min(self.input.len());
        self.input.drain(..bytes);
        self.taken += bytes as u64;
        self.tell(Message::Credit { stream: 0, end, taken: self.taken });
    }

    /// What must be said again to a guest that has taken input up to this place, or does not know the stream.
    pub(super) fn again(&self, stream: u32, known: Option<u64>) -> Vec<Message> {
        let mut messages = vec![];
        if known.is_none() {
            messages.push(Message::Open { stream, open: self.open.clone() });
        }
        messages.extend(self.size.map(|(rows, columns)| Message::Resize { stream, rows, columns }));
        let skip = usize::try_from(known.unwrap_or(0).saturating_sub(self.taken)).unwrap_or(usize::MAX);
        let bytes: Vec<u8> = self.input.iter().skip(skip).copied().collect();
        let start = self.taken + (self.input.len() - bytes.len()) as u64;
        for (number, part) in bytes.chunks(Message::DATA).enumerate() {
            let offset = start + (number * Message::DATA) as u64;
            messages.push(Message::Data { stream, end: End::Input, offset, bytes: part.to_vec() });
        }
        if self.ended {
            messages.push(Message::Eof { stream, end: End::Input });
        }
        for (end, output) in [End::Output, End::Error].into_iter().zip(&self.outputs) {
            messages.push(Message::Credit { stream, end, taken: output.taken });
        }
        messages
    }
}
