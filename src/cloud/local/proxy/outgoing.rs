//! A request as a machine is to see it, with its body as it is passed on; and why it has no answer.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};

use http_body_util::{Either, Empty};
use hyper::Request;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::http::request::Parts;

use super::tally::Counter;

/// The body of a request: what the client sends, or nothing when it is sent again.
pub(super) type RequestBody = Either<Sent, Empty<Bytes>>;

/// What a client sends, counted: a machine is waited for as long as it goes on.
#[derive(Debug)]
pub(super) struct Sent {
    inner: Incoming,
    parts: Arc<AtomicU32>,
    counter: Arc<Counter>,
}

impl Sent {
    /// The body, with the number of its parts that were passed on so far. Its bytes are counted.
    pub(super) fn new(inner: Incoming, counter: &Arc<Counter>) -> (Self, Arc<AtomicU32>) {
        let parts = Arc::<AtomicU32>::default();
        (Self { inner, parts: Arc::clone(&parts), counter: Arc::clone(counter) }, parts)
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        if polled.is_ready() {
            self.parts.fetch_add(1, Ordering::Relaxed);
        }
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.counter.received(frame.data_ref().map_or(0, Bytes::len));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A request as a machine is to see it.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) request: Request<RequestBody>,
    /// Its head, where it has no body and may be sent twice.
    pub(super) again: Option<Parts>,
    /// Parts of its body that were passed on.
    pub(super) parts: Arc<AtomicU32>,
}

/// Why a request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// No machine is healthy.
    NoServer,
    /// No machine took a connection.
    Unreached,
    /// A machine took too long.
    Late,
    /// A machine closed the connection.
    Broken,
    /// A machine answered with what is no HTTP, or with too long a head.
    Unreadable,
    /// There is no room for another connection to a machine.
    Full,
}
