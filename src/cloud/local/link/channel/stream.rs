//! One stream of a control channel, between the tool and the guest: keeps what may have to be sent again.

use std::collections::VecDeque;

use i2kit_spec::control::{End, Ended, Message, Open, WINDOW};
use tokio::sync::mpsc;

/// A stream under way. What waits in it is bounded by [`WINDOW`], for each of its channels.
#[derive(Debug)]
pub(super) struct Stream {
    open: Open,
    /// The tool.
    to: mpsc::UnboundedSender<Message>,
    /// Input that the guest has not acknowledged.
    input: VecDeque<u8>,
    /// How many bytes of input the guest has acknowledged.
    taken: u64,
    /// Whether the tool knows that the guest has begun the stream.
    begun: bool,
    ended: bool,
    /// Output and errors.
    outputs: [Output; 2],
    size: Option<(u16, u16)>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Output {
    /// How many bytes were sent to the tool.
    given: u64,
    /// How many of them it has acknowledged.
    taken: u64,
}

/// One side sent more than [`WINDOW`] bytes that the other has not acknowledged: the stream is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Overrun;

fn index(end: End) -> usize {
    usize::from(end == End::Error)
}

impl Stream {
    /// A stream that was just opened.
    pub(super) fn new(open: Open, to: mpsc::UnboundedSender<Message>) -> Self {
        let outputs = [Output::default(); 2];
        let (input, taken, begun, ended) = (VecDeque::new(), 0, false, false);
        Self { open, to, input, taken, begun, ended, outputs, size: None }
    }

    fn send(&self, message: Message) {
        // A tool that is gone has its stream closed by that.
        let _ = self.to.send(message);
    }

    /// Reports the end of the stream to the tool.
    pub(super) fn end(&self, ended: Ended) {
        self.send(Message::Ended { stream: 0, ended });
    }

    /// The guest knows the stream.
    pub(super) fn begin(&mut self) {
        if !self.begun {
            self.begun = true;
            self.send(Message::Credit { stream: 0, end: End::Input, taken: self.taken });
        }
    }

    /// Applies a message of the tool. Returns what is to be sent to the guest.
    pub(super) fn tool_message(&mut self, stream: u32, message: Message) -> Result<Option<Message>, Overrun> {
        Ok(Some(match message {
            Message::Data { bytes, .. } => {
                if self.input.len() + bytes.len() > WINDOW {
                    return Err(Overrun);
                }
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
                // What was not sent cannot be acknowledged: a window must not grow by that.
                output.taken = output.taken.max(taken.min(output.given));
                Message::Credit { stream, end, taken: output.taken }
            }
            _ => return Ok(None),
        }))
    }

    /// Applies bytes of the guest. Those that came before are not passed on; then the acknowledgement is sent again.
    pub(super) fn guest_data(
        &mut self,
        stream: u32,
        end: End,
        offset: u64,
        bytes: Vec<u8>,
    ) -> Result<Option<Message>, Overrun> {
        let output = &mut self.outputs[index(end)];
        // Bytes behind a gap are not taken: what is between comes again, and they do then.
        let Some(known) = output.given.checked_sub(offset) else { return Ok(None) };
        let known = usize::try_from(known).unwrap_or(usize::MAX);
        let new = bytes.get(known..).unwrap_or_default();
        if new.is_empty() {
            return Ok(Some(Message::Credit { stream, end, taken: output.taken }));
        }
        if output.given - output.taken + new.len() as u64 > WINDOW as u64 {
            return Err(Overrun);
        }
        let offset = output.given;
        output.given += new.len() as u64;
        let bytes = if known == 0 { bytes } else { new.to_vec() };
        self.begun = true;
        self.send(Message::Data { stream: 0, end, offset, bytes });
        Ok(None)
    }

    /// The guest acknowledged input before this offset.
    pub(super) fn credit(&mut self, taken: u64) {
        let bytes = usize::try_from(taken.saturating_sub(self.taken)).unwrap_or(usize::MAX);
        let bytes = bytes.min(self.input.len());
        self.input.drain(..bytes);
        self.taken += bytes as u64;
        // A repeated acknowledgement is not passed on: it would fill the tool's memory.
        if bytes > 0 || !self.begun {
            self.begun = true;
            self.send(Message::Credit { stream: 0, end: End::Input, taken: self.taken });
        }
    }

    /// What is to be sent again to a guest that has taken input up to this offset, or does not know the stream.
    pub(super) fn resend(&self, stream: u32, known: Option<u64>) -> Vec<Message> {
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

    /// Bytes of output that wait for the tool, and of input that wait for the guest.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        let outputs = self.outputs.iter().map(|output| output.given - output.taken);
        self.input.len() + usize::try_from(outputs.sum::<u64>()).unwrap_or(usize::MAX)
    }
}
