//! The protocols of a group behind one type: each finds requests, replies and their kinds in its own file.
//!
//! A new reply needs the [`Shape`] of its request; [`Framer::shape`] tells it from the request's bytes, so that a command of
//! the log is enough. An empty answer of [`Framer::error`] means that the protocol has no form of an error: the connection is
//! closed, as it is after an answer that says so.

use bytes::{Bytes, BytesMut};
use i2kit_spec::replica::{Framing, Limits};
use xxhash_rust::xxh3::xxh3_64;

use super::http::{self, Http};
use super::types::{Agreed, Inbound, Outcome, Progress, Refusal, Reply, ReplyError, ReplyProgress, Shape};
use super::{http_reply, plain, resp};

/// How the requests and replies of one group are framed.
#[derive(Debug, Clone)]
pub(crate) enum Framer {
    /// HTTP/1.1, RFC 9112.
    Http(Http),
    /// Redis' protocol, version 2.
    Resp,
    /// Lines that end with a line feed.
    Lines,
    /// A length of 32 bits, big-endian, and as many bytes.
    Frames,
}

impl Framer {
    /// `volatile` are names of headers that may differ between replicas, beside those that always may.
    pub(crate) fn new(framing: Framing, volatile: &[String]) -> Self {
        match framing {
            Framing::Http => Self::Http(Http::new(volatile)),
            Framing::Resp => Self::Resp,
            Framing::Lines => Self::Lines,
            Framing::FramesU32be => Self::Frames,
        }
    }

    /// Takes the next request of a client from the front of `buffer`; none while it is not whole.
    pub(crate) fn request(
        &self,
        progress: &mut Progress,
        buffer: &mut BytesMut,
        limits: &Limits,
    ) -> Result<Option<Inbound>, Refusal> {
        let most = usize::try_from(limits.body_bytes.0).unwrap_or(usize::MAX);
        match self {
            Self::Http(_) => http::request(progress, buffer, most),
            Self::Resp => resp::request(progress, buffer, most),
            Self::Lines => plain::line(progress, buffer, most),
            Self::Frames => plain::frame(progress, buffer, most),
        }
    }

    /// What the reply to a request looks like; `request` is one that [`Framer::request`] gave, with or without a stamp.
    pub(crate) fn shape(&self, request: &[u8]) -> Shape {
        match self {
            Self::Http(_) if request.starts_with(b"HEAD ") => Shape::Head,
            Self::Resp => resp::shape(request),
            _ => Shape::Plain,
        }
    }

    /// The request with what all replicas agree on, where the protocol has room for it.
    pub(crate) fn stamp(&self, bytes: &Bytes, head: u32, agreed: &Agreed) -> Bytes {
        match self {
            Self::Http(_) => http::stamp(bytes, head, agreed),
            Self::Resp | Self::Lines | Self::Frames => bytes.clone(),
        }
    }

    /// The same for requests that ask for the same, sent again with other headers of no meaning. Only protocols whose requests have
    /// keys need it.
    pub(crate) fn fingerprint(&self, request: &[u8]) -> u64 {
        match self {
            Self::Http(_) => http::fingerprint(request),
            Self::Resp | Self::Lines | Self::Frames => xxh3_64(request),
        }
    }

    /// Takes the next reply of the application from the front of `buffer`; none while it is not whole. `progress` is the buffer's own: it
    /// is set back with each reply and each error, and whoever empties the buffer sets it back too.
    pub(crate) fn reply(
        &self,
        progress: &mut ReplyProgress,
        buffer: &mut BytesMut,
        shape: Shape,
        limits: &Limits,
    ) -> Result<Option<Reply>, ReplyError> {
        let most = usize::try_from(limits.reply_bytes.0).unwrap_or(usize::MAX);
        let found = match self {
            Self::Http(http) => http_reply::reply(http, progress, buffer, shape, most),
            Self::Resp => resp::reply(progress, buffer, shape, most),
            Self::Lines => plain::line_reply(progress, buffer, most),
            Self::Frames => plain::frame_reply(buffer, most),
        };
        if !matches!(found, Ok(None)) {
            *progress = ReplyProgress::default();
        }
        found
    }

    /// What a client gets in place of a reply of the application.
    pub(crate) fn error(&self, outcome: Outcome, reason: &str) -> Bytes {
        match self {
            Self::Http(_) => http::error(outcome, reason),
            Self::Resp => resp::error(outcome, reason),
            Self::Lines | Self::Frames => Bytes::new(),
        }
    }
}
