//! What a person or a program is told while work goes on. Every act of an edge room emits an [`Event`]; only the
//! renderers of this room print.
//!
//! [`Events`] is handed to every edge room and takes an [`Event`] from wherever work is done; [`events`] makes one that
//! prints. Results go to standard output by [`result`] and [`document`], all else to standard error.
//!
//! ```
//! use i2kit::report::{Event, Events};
//!
//! let (sender, receiver) = std::sync::mpsc::channel();
//! let events = Events::new(move |event| drop(sender.send(event)));
//! events.note("one layer is converted");
//! assert!(matches!(receiver.recv(), Ok(Event::Note { message }) if message == "one layer is converted"));
//! ```

mod event;
mod render;

pub use event::{Event, Events};
pub use render::{Format, bytes, colour, document, events, failure, findings, message, result, said};
