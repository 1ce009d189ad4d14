//! What the front and the rest of the coordinator tell each other: requests, replies, and errors of both.

use bytes::Bytes;

/// Whether a request may change the application's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It changes nothing, as its protocol says.
    Read,
    /// Anything else: it is ordered.
    Write,
}

/// One whole request, as the application gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// Its bytes, without headers that are only for the connection to the client.
    pub(crate) bytes: Bytes,
    /// Bytes before the place where [`super::Framer::stamp`] adds headers.
    pub(crate) head: u32,
    /// Whether it is ordered.
    pub(crate) kind: Kind,
    /// The client's `Idempotency-Key`: one to 255 bytes. Only writes have one.
    pub(crate) key: Option<Bytes>,
    /// Whether the connection ends with its reply.
    pub(crate) close: bool,
}

/// What a client sent next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Inbound {
    /// A request for the application.
    Request(Request),
    /// A request that the connection itself answers, with these bytes.
    Answer(Bytes),
}

/// A request that is not taken: it was never executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// What the client gets; may be empty where the protocol has no form of an error.
    pub(crate) reply: Bytes,
    /// Whether the connection ends: what follows cannot be told from the request.
    pub(crate) close: bool,
    /// Why, in words.
    pub(crate) reason: &'static str,
}

/// How far a connection's next request has been looked at. One for each connection of a client.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Bytes of the buffer that need no second look.
    pub(super) seen: usize,
    /// Bytes of the request's head, when it is whole.
    pub(super) head: usize,
    /// Bytes of the body, as far as it has been read; for RESP the arguments that are still to come.
    pub(super) body: usize,
    /// Whether the body comes in chunks.
    pub(super) is_chunked: bool,
    /// Commands between MULTI and EXEC, as they came; the first is MULTI.
    pub(super) transaction: Vec<Bytes>,
    /// Bytes of `transaction`.
    pub(super) held: usize,
    /// Whether a command of the transaction was refused, so that EXEC does nothing.
    pub(super) is_broken: bool,
    /// Bytes that the whole request may take, as far as its head tells.
    pub(super) wanted: usize,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub(super) word: Word,
}

impl Progress {
    /// Bytes of memory that the request takes when it is whole, as far as is known.
    pub(super) fn needed(&self) -> usize {
        self.wanted.saturating_add(self.held)
    }

    /// Whether no transaction is open.
    pub(super) fn is_between(&self) -> bool {
        self.transaction.is_empty()
    }

    /// The next request begins.
    pub(super) fn restart(&mut self) {
        let (transaction, held, is_broken) =
            (std::mem::take(&mut self.transaction), self.held, self.is_broken);
        *self = Self { transaction, held, is_broken, ..Self::default() };
    }
}

/// What a client is told between a request's head and its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Word {
    /// Nothing, or it was told.
    #[default]
    None,
    /// It asked for `100 Continue`.
    Asked,
    /// It waits for it.
    Due,
}

/// What must be known of a request to find the end of its reply. [`super::Framer::shape`] tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The reply tells its own end.
    Plain,
    /// HTTP's HEAD: the reply has a head alone, whatever length it names.
    Head,
    /// MULTI to EXEC of RESP: so many replies, of which the client gets the last.
    Transaction(usize),
}

/// What has been found of a reply that is still on its way, so that each of its bytes is looked at a bounded number of times, however
/// it comes. It belongs to the buffer of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ReplyProgress {
    /// Bytes that were looked at and need not be looked at again; of HTTP, of the head, and then of the coded body.
    pub(super) seen: usize,
    /// Below so many bytes the reply is not whole.
    pub(super) wanted: usize,
    /// HTTP: bytes of the head, once that is whole.
    pub(super) head: usize,
    /// HTTP: how the body is coded, once the head is whole.
    pub(super) coding: Coding,
    /// HTTP: bytes of the body in the chunks that were seen.
    pub(super) body: usize,
    /// RESP: values of which the one that is looked at still consists.
    pub(super) left: usize,
    /// RESP: bytes of a line that were looked at.
    pub(super) line: usize,
    /// RESP: whole values.
    pub(super) values: usize,
    /// RESP: where the value begins that is looked at.
    pub(super) last: usize,
}

/// How the end of an HTTP reply's body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Coding {
    /// The head is not whole.
    #[default]
    Unknown,
    /// By its length.
    Length(usize),
    /// By its last chunk.
    Chunked,
}

/// One whole reply of the application, as the client gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    /// Its bytes, without headers that are only for the connection to the application.
    pub(crate) bytes: Bytes,
    /// xxh3 of what must be the same at all replicas.
    pub(crate) digest: u64,
    /// Whether the application ends the connection after it.
    pub(crate) close: bool,
}

/// Why the application's bytes are no reply. The request was executed, and its connection cannot be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReplyError {
    /// It is not in the protocol.
    #[error(
        "the application's reply is not in the group's protocol: {0}; see the annotation i2kit.dev/replicated"
    )]
    Malformed(&'static str),
    /// It is longer than the group's limit.
    #[error("the application's reply is longer than reply= of the annotation i2kit.dev/replicated-limits")]
    TooLong,
    /// It ends with the connection.
    #[error(
        "the application's reply has no length; let it send Content-Length or chunks, and keep the connection"
    )]
    Endless,
}

/// What became of a request that has no reply of the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It may have been executed before its deadline, and will not be later.
    Unknown,
    /// It never was executed and never will be.
    NotDone,
    /// It was executed, and its reply cannot be given.
    Executed,
    /// It never was executed: its `Idempotency-Key` is of another request.
    Another,
}

impl Outcome {
    /// The value of the header `I2kit-Outcome`.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::NotDone | Self::Another => "not-done",
            Self::Executed => "executed",
        }
    }
}

/// What all replicas agree on about one command. It is the same at each of them, and after each restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Agreed {
    /// Milliseconds of Unix time, never going back.
    pub(crate) time_ms: u64,
    /// Index of its entry in the log.
    pub(crate) index: u64,
    /// Its place in the entry, from 0.
    pub(crate) position: u32,
    /// A number that looks like chance: a hash of group, index and position.
    pub(crate) seed: u64,
}

/// Who has requests executed. Each call gives the client's whole reply; an empty one ends the connection without a word.
pub(crate) trait Entry: Send + Sync + 'static {
    /// Orders and executes a request that may change something.
    fn write(&self, request: Request) -> impl Future<Output = Bytes> + Send;

    /// Answers a request that changes nothing, as the group's setting of reads says.
    fn read(&self, request: Request) -> impl Future<Output = Bytes> + Send;

    /// Is told of a request that was not taken, and why.
    fn refused(&self, _reason: &'static str) {}
}
