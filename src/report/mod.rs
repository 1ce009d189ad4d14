//! What a person or a program is told while work goes on. Every act of an edge room emits an [`Event`]; only the
//! renderers of this room print.

mod event;
mod render;

pub use event::{Event, Events};
pub use render::{Format, bytes, colour, document, events, failure, findings, message, result, said};
