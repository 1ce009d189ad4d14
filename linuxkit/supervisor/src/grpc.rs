//! The client's half of one call of the gRPC health protocol (`grpc.health.v1.Health/Check`) over HTTP/2 without TLS.
//!
//! It knows no sockets: bytes of the server come in, bytes for it and the answer go out. Headers that the server sends
//! are skipped and not decoded: whether a service is healthy stands in the message, and a server that has none to send
//! says so by sending none.

/// What every HTTP/2 connection of a client begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const PATH: &str = "/grpc.health.v1.Health/Check";

/// Types of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

/// Flags of frames.
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// Length, type, flags, stream.
const FRAME_HEADER: usize = 9;

/// The largest frame that a server may send to a client that has not asked for larger ones.
const MAX_FRAME: usize = 16_384;

/// The largest answer; a real one has two bytes.
const MAX_MESSAGE: usize = 4096;

/// The stream of the call: a client's first.
const STREAM: u32 = 1;

/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: u64 = 1;

/// A call under way.
#[derive(Debug, Default)]
pub(crate) struct Check {
    /// What came in and is not a whole frame yet.
    input: Vec<u8>,
    /// The message as far as it came.
    message: Vec<u8>,
    /// What must be sent.
    output: Vec<u8>,
}

impl Check {
    /// A call that asks for a service of the server at `authority`.
    pub(crate) fn new(authority: &str, service: &str) -> Self {
        let mut check = Self { output: PREFACE.to_vec(), ..Self::default() };
        check.send(SETTINGS, 0, 0, &[]);
        let headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", PATH),
            (":authority", authority),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("user-agent", "kube-probe/i2kit"),
        ];
        let mut block = Vec::new();
        for (name, value) in headers {
            // A literal that is not to be remembered, and its name as a literal too.
            block.push(0);
            literal(&mut block, name);
            literal(&mut block, value);
        }
        check.send(HEADERS, END_HEADERS, STREAM, &block);
        let mut request = Vec::new();
        if !service.is_empty() {
            // Field 1, a string.
            request.push(0x0a);
            varint(&mut request, service.len());
            request.extend_from_slice(service.as_bytes());
        }
        let length = u32::try_from(request.len()).unwrap_or(u32::MAX);
        let message = [&[0], &length.to_be_bytes()[..], &request].concat();
        check.send(DATA, END_STREAM, STREAM, &message);
        check
    }

    /// What is to be sent now.
    pub(crate) fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Takes what the server sent. The answer, once there is one: nothing wrong, or what is.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Option<Result<(), String>> {
        self.input.extend_from_slice(bytes);
        loop {
            let header: [u8; FRAME_HEADER] = *self.input.first_chunk()?;
            let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
            if length > MAX_FRAME {
                return Some(Err("the answer is no HTTP/2".into()));
            }
            if self.input.len() < FRAME_HEADER + length {
                return None;
            }
            let rest = self.input.split_off(FRAME_HEADER + length);
            let frame = std::mem::replace(&mut self.input, rest);
            let stream = u32::from_be_bytes([header[5] & 0x7f, header[6], header[7], header[8]]);
            if let Some(answer) = self.frame(header[3], header[4], stream, &frame[FRAME_HEADER..]) {
                return Some(answer);
            }
        }
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Option<Result<(), String>> {
        let code = |at: usize| {
            payload.get(at..at + 4).map_or(0, |code| u32::from_be_bytes([code[0], code[1], code[2], code[3]]))
        };
        match (kind, stream) {
            (SETTINGS, 0) if flags & ACK == 0 => self.send(SETTINGS, ACK, 0, &[]),
            (PING, 0) if flags & ACK == 0 && payload.len() == 8 => self.send(PING, ACK, 0, payload),
            (DATA, STREAM) => {
                let Some(data) = unpadded(flags, payload) else {
                    return Some(Err("the answer is no HTTP/2".into()));
                };
                self.message.extend_from_slice(data);
                let answer = verdict(&self.message);
                if answer.is_some() {
                    return answer;
                }
            }
            (RST_STREAM, STREAM) => {
                return Some(Err(format!("the server refused the call, error {}", code(0))));
            }
            (GOAWAY, 0) => return Some(Err(format!("the server closed the connection, error {}", code(4)))),
            _ => {}
        }
        let over = matches!(kind, DATA | HEADERS) && stream == STREAM && flags & END_STREAM != 0;
        over.then(|| Err("the server has no health to tell of this service".into()))
    }

    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("frames of a client have a few bytes").to_be_bytes();
        self.output.extend_from_slice(&length[1..]);
        self.output.extend([kind, flags]);
        self.output.extend(stream.to_be_bytes());
        self.output.extend_from_slice(payload);
    }
}

/// A frame's data without its padding.
fn unpadded(flags: u8, payload: &[u8]) -> Option<&[u8]> {
    if flags & PADDED == 0 {
        return Some(payload);
    }
    let (padding, rest) = payload.split_first()?;
    rest.get(..rest.len().checked_sub(usize::from(*padding))?)
}

/// The content of a message, once it is whole.
fn verdict(message: &[u8]) -> Option<Result<(), String>> {
    let (head, rest) = message.split_first_chunk::<5>()?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if head[0] != 0 || length > MAX_MESSAGE {
        return Some(Err("the answer is compressed or too long".into()));
    }
    let body = rest.get(..length)?;
    Some(match status(body) {
        Some(SERVING) => Ok(()),
        Some(0) => Err("the service's health is unknown".into()),
        Some(2) => Err("the service is not serving".into()),
        Some(3) => Err("the service is unknown".into()),
        Some(other) => Err(format!("the service's status is {other}")),
        None => Err("the answer is no HealthCheckResponse".into()),
    })
}

/// Field 1 of a `HealthCheckResponse`; 0 when it is left out, nothing when the message makes no sense.
fn status(mut body: &[u8]) -> Option<u64> {
    let mut status = 0;
    while !body.is_empty() {
        let key = read_varint(&mut body)?;
        match (key >> 3, key & 7) {
            (1, 0) => status = read_varint(&mut body)?,
            (_, 0) => drop(read_varint(&mut body)?),
            (_, 1) => body = body.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(read_varint(&mut body)?).ok()?;
                body = body.get(length..)?;
            }
            (_, 5) => body = body.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn read_varint(body: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = body.split_first()?;
        *body = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn varint(out: &mut Vec<u8>, mut value: usize) {
    loop {
        let [byte, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            return out.push(byte & 0x7f);
        }
        out.push(byte | 0x80);
    }
}

/// A string of HPACK without compression: its length with a prefix of seven bits, then its bytes.
fn literal(out: &mut Vec<u8>, text: &str) {
    let head = u8::try_from(text.len()).map_or(0x7f, |length| length.min(0x7f));
    out.push(head);
    if head == 0x7f {
        varint(out, text.len() - 0x7f);
    }
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut check = Check::default();
        check.send(kind, flags, stream, payload);
        check.take_output()
    }

    fn answer(status: &[u8]) -> Vec<u8> {
        let length = u32::try_from(status.len()).unwrap().to_be_bytes();
        frame(DATA, 0, STREAM, &[&[0], &length[..], status].concat())
    }

    fn after(parts: &[Vec<u8>]) -> Option<Result<(), String>> {
        Check::new("10.0.2.15:50051", "").receive(&parts.concat())
    }

    #[test]
    fn the_request_is_what_a_server_expects() {
        let output = Check::new("h:1", "db").take_output();
        let rest = output.strip_prefix(PREFACE).unwrap();
        assert_eq!(rest[..9], [0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]);
        let headers = &rest[9..];
        assert_eq!((headers[3], headers[4], headers[8]), (HEADERS, END_HEADERS, 1));
        let block = usize::from(headers[1]) << 8 | usize::from(headers[2]);
        assert_eq!(headers[9..18], [&[0, 7][..], b":method"].concat());
        assert_eq!(
            headers[9 + block..],
            [&[0, 0, 9, DATA, END_STREAM, 0, 0, 0, 1, 0, 0, 0, 0, 4, 0x0a, 2][..], b"db"].concat()
        );
    }

    #[test]
    fn a_status_is_the_answer() {
        let hello = frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]);
        let head = frame(HEADERS, END_HEADERS, STREAM, &[0x88]);
        assert_eq!(after(&[hello.clone(), head.clone(), answer(&[8, 1])]), Some(Ok(())));
        let failure = |parts: &[Vec<u8>]| after(parts).unwrap().unwrap_err();
        assert_eq!(failure(&[hello.clone(), answer(&[8, 2])]), "the service is not serving");
        assert_eq!(failure(&[answer(&[])]), "the service's health is unknown");
        let trailers = frame(HEADERS, END_HEADERS | END_STREAM, STREAM, &[0x88]);
        assert_eq!(failure(&[trailers]), "the server has no health to tell of this service");
        assert_eq!(
            failure(&[frame(RST_STREAM, 0, STREAM, &[0, 0, 0, 7])]),
            "the server refused the call, error 7"
        );
        assert_eq!(failure(&[b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()]), "the answer is no HTTP/2");
        assert_eq!(after(&[hello, head]), None);
    }

    #[test]
    fn settings_and_pings_are_acknowledged() {
        let mut check = Check::new("h:1", "");
        check.take_output();
        assert_eq!(check.receive(&frame(SETTINGS, 0, 0, &[])), None);
        assert_eq!(check.receive(&frame(PING, 0, 0, b"12345678")), None);
        let expected = [frame(SETTINGS, ACK, 0, &[]), frame(PING, ACK, 0, b"12345678")].concat();
        assert_eq!(check.take_output(), expected);
    }

    proptest! {
        #[test]
        fn however_the_bytes_arrive_the_answer_is_the_same(cut in 0_usize..60, padding in 0_u8..20) {
            let message = [&[padding][..], &[0, 0, 0, 0, 2, 8, 1], &vec![0; usize::from(padding)]].concat();
            let bytes = [frame(SETTINGS, 0, 0, &[]), frame(DATA, PADDED, STREAM, &message)].concat();
            let (first, second) = bytes.split_at(cut.min(bytes.len()));
            let mut check = Check::new("h:1", "");
            let answer = check.receive(first).or_else(|| check.receive(second));
            prop_assert_eq!(answer, Some(Ok(())));
        }

        #[test]
        fn no_bytes_of_a_server_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Check::new("h:1", "x").receive(&bytes);
        }
    }
}
