//! Status checks: requests to a guest for its status, and what came of each. [`health`](crate::cloud::engine::health) decides
//! what follows.
//!
//! qemu accepts a forwarded connection before the guest listens, so only an answer counts, and each request has a time
//! limit of its own. A connection serves for the next request too, where the guest agrees: with hundreds of machines most
//! of the work would be connecting.
//!
//! A guest whose status is known is asked for another one ([`wait`]): it answers at once when it has one, and else after
//! [`WAIT`], with what it uses. A guest of an older build answers at once, and is asked each [`PERIOD`].
//!
//! A guest that hangs gets no traffic twelve seconds after its last answer: the next one is due [`WAIT`] after it, the silence
//! begins then, and the third question that is given up, each after its [`PATIENCE`], is the first beyond `SILENT_UNREADY`.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use i2kit_spec::Seconds;
use i2kit_spec::status::{self, PodStatus, wait};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::cloud::engine::environment::InstanceRecord;
use crate::cloud::engine::health::CheckOutcome;
use crate::cloud::local::network::Reach;

/// The time limit of a request: a guest that is emulated on a busy host may need more than a second.
const PATIENCE: Duration = Duration::from_secs(2);

/// The same for a machine that has just been started. A request that comes before the guest listens gets no answer
/// until qemu tries again seconds later; a new request is answered sooner.
const PATIENCE_BOOTING: Duration = Duration::from_millis(400);

/// How long a machine counts as just started, in milliseconds; one that takes longer to boot gets the usual limit.
const BOOTING_MS: u64 = 10_000;

/// The period of requests to a machine that is not healthy yet, so that a new one serves soon. It counts from one request to
/// the next, whatever the guest answers: one whose status changes all the time is asked no more often.
pub(crate) const PERIOD_STARTING: Duration = Duration::from_millis(200);

/// The same of a healthy machine, as balancers have it.
pub(crate) const PERIOD: Duration = Duration::from_secs(1);

/// The longest time from a guest's last answer until the next one is due. Half of it would find a guest that hangs three
/// seconds sooner, for twice as many answers of guests at rest.
const WAIT: Duration = Duration::from_secs(6);

/// How long a machine that is ready may take to open the ports behind balancers, in milliseconds. Then it counts as
/// healthy without them: a Service may name a port on which nothing listens.
pub(crate) const PORTS_GRACE_MS: u64 = 15_000;

/// How long a connection that qemu has closed takes to be seen closed on this side.
const CLOSING: Duration = Duration::from_millis(50);

/// The longest answer that is read: the guest cuts its texts, and this leaves room for some eighty containers.
const ANSWER_BYTES: u64 = 256 * 1024;

/// The time limit of a request to a machine with this record, beyond the time that it may wait.
pub(crate) fn patience(record: Option<&InstanceRecord>, now: u64) -> Duration {
    let is_booting =
        record.is_some_and(|record| !record.answered && now < record.started.saturating_add(BOOTING_MS));
    if is_booting { PATIENCE_BOOTING } else { PATIENCE }
}

/// The pause before the next request, and how long that may wait for another status, when the last one `took` so long.
/// Requests begin a `period` apart, so that a guest which answers at once, whatever it was asked, is asked no more often; and
/// the next answer is due no later than [`WAIT`] after the last one.
pub(crate) fn next(period: Duration, took: Duration, may_wait: bool) -> (Duration, Duration) {
    let pause = period.saturating_sub(took);
    let wait = if pause.is_zero() { WAIT } else { WAIT.saturating_sub(PERIOD) };
    (pause, if may_wait { wait } else { Duration::ZERO })
}

/// Requests statuses of one guest.
#[derive(Debug, Default)]
pub(crate) struct StatusClient {
    /// The connection of the last request, if the guest keeps it, and the address that it is to.
    kept: Option<(SocketAddr, TcpStream)>,
    /// The tag of the status that [`Self::check`] gave last, of a guest that has tags.
    known: Option<String>,
}

/// How long a request may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimeLimits {
    /// How long the guest may wait until it has another status.
    pub(crate) wait: Duration,
    /// How long it may take beyond that.
    pub(crate) patience: Duration,
}

impl TimeLimits {
    /// Those of a request that is to be answered at once.
    fn at_once(patience: Duration) -> Self {
        Self { wait: Duration::ZERO, patience }
    }
}

/// An answer of HTTP to a request for a status.
#[derive(Debug)]
pub struct StatusAnswer {
    /// The status code of HTTP.
    pub code: u16,
    /// What follows the head.
    pub body: Vec<u8>,
    /// Whether the connection serves for another request.
    pub is_kept: bool,
    /// The tag of the status, as the guest sent it.
    pub tag: Option<String>,
}

impl StatusClient {
    /// Requests the status once: what came of it, and for how long the guest has owed the answer by then. The request waits
    /// where the last one was answered with a status that has a tag, over a connection that was kept.
    pub(crate) async fn check(&mut self, address: &Reach, limits: TimeLimits) -> (CheckOutcome, Duration) {
        let known = self.known.take().filter(|_| !limits.wait.is_zero());
        let wait = if known.is_some() && self.kept.is_some() { limits.wait } else { Duration::ZERO };
        let asked = Instant::now();
        let outcome = self.outcome(address, known.as_deref(), TimeLimits { wait, ..limits }).await;
        (outcome, asked.elapsed().saturating_sub(wait).min(limits.patience))
    }

    async fn outcome(&mut self, address: &Reach, known: Option<&str>, limits: TimeLimits) -> CheckOutcome {
        let path = status::PATH;
        let StatusAnswer { code, body, tag, .. } = match self.get(address, known, limits).await {
            Ok(answer) => answer,
            Err(error) if is_our_fault(&error) => {
                return CheckOutcome::Unasked(format!("the guest cannot be asked for its status: {error}"));
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                let seconds = limits.patience.as_secs_f32();
                return CheckOutcome::Silence(format!("{path} did not answer within {seconds} s"));
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return CheckOutcome::Unclear(format!("{path} answers what is no status: {error}"));
            }
            Err(error) => return CheckOutcome::Silence(format!("{path} does not answer: {error}")),
        };
        if code != 200 {
            let text = String::from_utf8_lossy(&body);
            let line = text.trim().lines().next().unwrap_or_default();
            return CheckOutcome::Unclear(format!("{path} answers {code}: {line}"));
        }
        match serde_json::from_slice::<PodStatus>(&body) {
            Ok(status) if status.version == status::VERSION => {
                self.known = tag.filter(|tag| wait::is_tag(tag));
                CheckOutcome::Status(Box::new(status))
            }
            Ok(status) => CheckOutcome::Unclear(format!(
                "{path} is of version {}, and this program reads version {}: make the guest anew with scripts/guest",
                status.version,
                status::VERSION
            )),
            Err(error) => CheckOutcome::Unclear(format!("{path} answers what is no status: {error}")),
        }
    }

    /// Whether something in the guest accepts connections to the port that is reached at `address`.
    ///
    /// qemu accepts them itself, and closes one when the guest has refused it. So the guest is asked for its status, at
    /// `guest`, behind the connection: packets to a guest and from it keep their order, so that its answer comes after a
    /// refusal, however slow the machine is.
    pub(crate) async fn accepts(&mut self, address: &Reach, guest: &Reach) -> bool {
        let Ok(Ok(mut stream)) = tokio::time::timeout(PATIENCE, address.connect()).await else {
            return false;
        };
        if self.get(guest, None, TimeLimits::at_once(PATIENCE)).await.is_err() {
            return false;
        }
        // An end or a reset without any bytes is the guest's refusal; silence and bytes are a listener's.
        !matches!(tokio::time::timeout(CLOSING, stream.read(&mut [0; 1])).await, Ok(Ok(0) | Err(_)))
    }

    /// Sends the request, over the connection of the last one where there is one, and reads the answer. A guest ends such a
    /// connection when it likes: then another one is made. One that is lost without a word costs one request. Only the first
    /// try waits while the status is the `known` one.
    async fn get(
        &mut self,
        address: &Reach,
        known: Option<&str>,
        limits: TimeLimits,
    ) -> io::Result<StatusAnswer> {
        let seconds = Seconds(limits.wait.as_secs());
        let waits = known.map(|known| wait::headers(known, seconds)).unwrap_or_default();
        let conversation = async {
            // Whoever gives up in the middle leaves no connection with half of an answer.
            let kept = self.kept.take().filter(|(to, stream)| *to == address.address() && is_silent(stream));
            if let Some((_, mut stream)) = kept {
                match ask(&mut stream, address, &waits).await {
                    Ok(answer) => return Ok((stream, answer)),
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(error),
                    Err(_) => {}
                }
            }
            let mut stream = address.connect().await?;
            let answer = ask(&mut stream, address, "").await?;
            io::Result::Ok((stream, answer))
        };
        let limit = limits.wait + limits.patience;
        let (stream, answer) =
            tokio::time::timeout(limit, conversation).await.map_err(|_| io::ErrorKind::TimedOut)??;
        self.kept = answer.is_kept.then_some((address.address(), stream));
        Ok(answer)
    }
}

/// Whether nothing came over a connection since the last answer: neither its end nor bytes, which would be taken for an
/// answer to the next request.
fn is_silent(stream: &TcpStream) -> bool {
    let came = rustix::net::recv(stream, &mut [0_u8; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    matches!(came, Err(Errno::AGAIN))
}

/// Whether a request failed for want of something on this host: descriptors, memory, buffers or ports.
fn is_our_fault(error: &io::Error) -> bool {
    let ours = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::ADDRNOTAVAIL, Errno::AGAIN];
    error.raw_os_error().is_some_and(|code| ours.iter().any(|errno| errno.raw_os_error() == code))
}

/// Sends the request for the status, with these further `headers`, and reads the answer.
async fn ask(stream: &mut TcpStream, address: &Reach, headers: &str) -> io::Result<StatusAnswer> {
    let path = status::PATH;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: keep-alive\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await?;
    read_answer(stream).await
}

/// Reads an answer of HTTP/1.x, of which no more than 256 KiB are taken.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] when nothing comes, [`io::ErrorKind::InvalidData`] when what comes is no such answer, and
/// the errors of the stream.
pub async fn read_answer(stream: impl AsyncRead + Unpin) -> io::Result<StatusAnswer> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "that is no HTTP answer");
    let mut answer = BufReader::new(stream).take(ANSWER_BYTES);
    let mut line = String::new();
    if answer.read_line(&mut line).await? == 0 {
        // qemu accepted, and the guest does not listen yet.
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let code = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.trim().parse().ok());
    let code = code.ok_or_else(invalid)?;
    let (mut length, mut is_kept, mut tag) = (None, false, None);
    loop {
        line.clear();
        if answer.read_line(&mut line).await? == 0 {
            return Err(invalid());
        }
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.parse::<u64>().map_err(|_| invalid())?);
        } else if name.eq_ignore_ascii_case("connection") {
            is_kept = value.eq_ignore_ascii_case("keep-alive");
        } else if name.eq_ignore_ascii_case(wait::TAG) {
            tag = Some(value.to_owned());
        }
    }
    let mut body = Vec::new();
    // Without a length it is what comes until the end.
    let limit = length.unwrap_or(ANSWER_BYTES);
    let mut rest = answer.take(limit);
    let read = rest.read_to_end(&mut body).await?;
    // With more behind it the guest is not in step.
    let is_all = rest.get_ref().get_ref().buffer().is_empty();
    is_kept &= is_all && length.is_some_and(|length| usize::try_from(length) == Ok(read));
    Ok(StatusAnswer { code, body, is_kept, tag })
}

#[cfg(test)]
mod tests {
    use i2kit_spec::Millis;
    use i2kit_spec::status::PodPhase;

    use super::*;
    use crate::cloud::engine::health::{Known, SILENT_LOST, judge, owes};
    use crate::cloud::engine::moment::Moment;
    use crate::plan::fleet::Health;

    async fn read_request(stream: &mut TcpStream) -> String {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        assert!(request.starts_with(b"GET /status HTTP/1.1\r\n"));
        String::from_utf8(request).unwrap()
    }

    /// Answers one request with these bytes.
    async fn answer(listener: &tokio::net::TcpListener, bytes: &[u8]) {
        let (mut stream, _) = listener.accept().await.unwrap();
        // The whole request: closing with some of it unread would reset the connection.
        read_request(&mut stream).await;
        // The asker may have had enough before it is through.
        drop(stream.write_all(bytes).await);
    }

    async fn outcome(listener: &tokio::net::TcpListener, bytes: &[u8]) -> CheckOutcome {
        let address = Reach::Host(listener.local_addr().unwrap());
        let mut client = StatusClient::default();
        tokio::join!(client.check(&address, TimeLimits::at_once(PATIENCE * 30)), answer(listener, bytes)).0.0
    }

    #[tokio::test]
    async fn a_status_is_read_and_all_else_is_told_apart() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Reach::Host(listener.local_addr().unwrap());
        let status = r#"{"version":1,"bootId":"b-1","phase":{"name":"notReady","reasons":["web: gone"]},"containers":[]}"#;
        let ok = |body: &str| format!("HTTP/1.1 200 OK\r\nContent-Type: x\r\n\r\n{body}").into_bytes();
        let CheckOutcome::Status(read) = outcome(&listener, &ok(status)).await else { panic!() };
        assert_eq!(read.phase, PodPhase::NotReady { reasons: vec!["web: gone".into()] });
        assert_eq!(read.boot_id, "b-1");

        let long = ok(&format!("{{\"pad\":\"{}\",{}", "x".repeat(10 << 20), &status[1..]));
        for (bytes, says) in [
            (
                b"HTTP/1.1 404 Not Found\r\n\r\nthere is /readyz\n".to_vec(),
                "/status answers 404: there is /readyz",
            ),
            (ok(&status.replace(r#""version":1"#, r#""version":2"#)), "version 2"),
            (ok("{}"), "no status"),
            (b"SSH-2.0-OpenSSH\r\n".to_vec(), "no HTTP answer"),
            // Longer than what is read of it.
            (long, "no status"),
        ] {
            let CheckOutcome::Unclear(reason) = outcome(&listener, &bytes).await else { panic!("{says}") };
            assert!(reason.contains(says), "{reason}");
        }

        // qemu accepts for a guest that does not listen, and closes.
        assert!(matches!(outcome(&listener, b"").await, CheckOutcome::Silence(_)));
        // The listener still accepts, as qemu's does, and nobody answers.
        let guest = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let asked = Reach::Host(guest.local_addr().unwrap());
        let status = ok(status);
        let mut client = StatusClient::default();
        assert!(tokio::join!(client.accepts(&address, &asked), answer(&guest, &status)).0);
        // A guest that takes its time refuses before it answers, and one that does not answer has not accepted.
        let refusing = async {
            drop(listener.accept().await.unwrap());
            let (asking, _) = listener.accept().await.unwrap();
            tokio::time::sleep(Duration::from_millis(500)).await;
            drop(asking);
            answer(&guest, &status).await;
        };
        assert!(!tokio::join!(client.accepts(&address, &asked), refusing).0);
        drop(guest);
        assert!(!client.accepts(&address, &asked).await);
        let booting = TimeLimits::at_once(PATIENCE_BOOTING);
        let (CheckOutcome::Silence(silent), owed) = StatusClient::default().check(&address, booting).await
        else {
            panic!()
        };
        assert_eq!(owed, PATIENCE_BOOTING);
        assert!(silent.contains("did not answer"), "{silent}");
        drop(listener);
        let (refused, _) = StatusClient::default().check(&address, TimeLimits::at_once(PATIENCE)).await;
        assert!(matches!(refused, CheckOutcome::Silence(_)), "refused");
    }

    #[tokio::test]
    async fn a_connection_is_kept_and_made_anew_once_the_guest_has_ended_it() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Reach::Host(listener.local_addr().unwrap());
        let status = r#"{"version":1,"bootId":"b-1","phase":{"name":"ready"},"containers":[]}"#;
        let kept = |body: &str, length: usize| {
            format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nConnection: keep-alive\r\n\r\n{body}")
        };
        let guest = async {
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().await.unwrap();
                for _ in 0..3 {
                    read_request(&mut stream).await;
                    stream.write_all(kept(status, status.len()).as_bytes()).await.unwrap();
                }
            }
            // One whose answer is shorter than it says is asked no more on this connection.
            answer(&listener, kept("{}", 3).as_bytes()).await;
            // Nor one that answers what was not asked, at once or later.
            let twice = kept(status, status.len()) + &kept("{}", 2);
            answer(&listener, twice.as_bytes()).await;
            let (mut stream, _) = listener.accept().await.unwrap();
            read_request(&mut stream).await;
            stream.write_all(kept(status, status.len()).as_bytes()).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
            // One that does not answer on it, and does on another one.
            let (mut silent, _) = listener.accept().await.unwrap();
            read_request(&mut silent).await;
            silent.write_all(kept(status, status.len()).as_bytes()).await.unwrap();
            read_request(&mut silent).await;
            answer(&listener, kept(status, status.len()).as_bytes()).await;
        };
        let mut client = StatusClient::default();
        let patient = TimeLimits::at_once(PATIENCE * 30);
        let asking = async {
            for round in 0..6 {
                let outcome = client.check(&address, patient).await.0;
                assert!(matches!(outcome, CheckOutcome::Status(_)), "{round}: {outcome:?}");
            }
            let outcome = client.check(&address, patient).await.0;
            assert!(matches!(outcome, CheckOutcome::Unclear(_)), "{outcome:?}");
            for round in 0..3 {
                let outcome = client.check(&address, patient).await.0;
                assert!(matches!(outcome, CheckOutcome::Status(_)), "{round}: {outcome:?}");
                // What the guest sends behind it is there.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let outcome = client.check(&address, TimeLimits::at_once(PATIENCE_BOOTING)).await.0;
            assert!(matches!(outcome, CheckOutcome::Silence(_)), "{outcome:?}");
            let outcome = client.check(&address, patient).await.0;
            assert!(matches!(outcome, CheckOutcome::Status(_)), "{outcome:?}");
        };
        tokio::join!(guest, asking);
    }

    /// The answer of a guest that keeps connections: a status, with these further headers.
    fn kept(headers: &str) -> String {
        let status = r#"{"version":1,"bootId":"b-1","phase":{"name":"ready"},"containers":[]}"#;
        let length = status.len();
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: keep-alive\r\n{headers}\r\n{status}"
        )
    }

    #[tokio::test]
    async fn a_guest_with_tags_is_asked_for_another_status_and_one_without_as_ever() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Reach::Host(listener.local_addr().unwrap());
        let guest = async {
            let mut granted = Vec::new();
            let (mut stream, _) = listener.accept().await.unwrap();
            // Of an older build, with a tag, with what is none, and with one again.
            for (known, headers) in [
                ("", ""),
                ("", "x-i2kit-status-tag: a1\r\n"),
                ("a1", "X-I2kit-Status-Tag: a2\r\n"),
                ("a2", "X-I2kit-Status-Tag: no tag\r\n"),
                ("", "X-I2kit-Status-Tag: a3\r\n"),
            ] {
                let request = read_request(&mut stream).await;
                assert_eq!(request.contains(wait::KNOWN), !known.is_empty(), "{request}");
                granted.push(wait::granted(&request, known).0);
                stream.write_all(kept(headers).as_bytes()).await.unwrap();
            }
            // The supervisor is another one: what waited is asked on a new connection, and answered at once.
            granted.push(wait::granted(&read_request(&mut stream).await, "a3").0);
            drop(stream);
            let (mut stream, _) = listener.accept().await.unwrap();
            granted.push(wait::granted(&read_request(&mut stream).await, "a3").0);
            stream.write_all(kept("X-I2kit-Status-Tag: a3\r\n").as_bytes()).await.unwrap();
            // Whoever asks for something else than the status that is judged knows no status by it.
            read_request(&mut stream).await;
            stream.write_all(kept("X-I2kit-Status-Tag: a4\r\n").as_bytes()).await.unwrap();
            granted.push(wait::granted(&read_request(&mut stream).await, "a3").0);
            stream.write_all(kept("").as_bytes()).await.unwrap();
            granted
        };
        let mut client = StatusClient::default();
        let waiting = TimeLimits { wait: WAIT, patience: PATIENCE * 30 };
        let asking = async {
            for round in 0..6 {
                let outcome = client.check(&address, waiting).await.0;
                assert!(matches!(outcome, CheckOutcome::Status(_)), "{round}: {outcome:?}");
            }
            client.get(&address, None, TimeLimits::at_once(PATIENCE * 30)).await.unwrap();
            let outcome = client.check(&address, waiting).await.0;
            assert!(matches!(outcome, CheckOutcome::Status(_)), "{outcome:?}");
        };
        let (granted, ()) = tokio::join!(guest, asking);
        let all = WAIT.as_secs();
        assert_eq!(granted, [0, 0, all, all, 0, all, 0, all]);
    }

    #[tokio::test]
    async fn a_guest_that_keeps_a_request_for_too_long_owes_its_answer_since_the_end_of_the_wait() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Reach::Host(listener.local_addr().unwrap());
        let guest = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_request(&mut stream).await;
            stream.write_all(kept("X-I2kit-Status-Tag: a1\r\n").as_bytes()).await.unwrap();
            read_request(&mut stream).await;
            // It ends the connection when it has had enough.
            drop(stream.read(&mut [0; 1]).await);
        };
        let mut client = StatusClient::default();
        let asking = async {
            client.check(&address, TimeLimits::at_once(PATIENCE * 30)).await;
            let patience = Duration::from_millis(50);
            let asked = Instant::now();
            let (outcome, owed) =
                client.check(&address, TimeLimits { wait: Duration::from_secs(1), patience }).await;
            let CheckOutcome::Silence(reason) = outcome else { panic!("{outcome:?}") };
            assert!(reason.contains("within 0.05 s"), "{reason}");
            assert!(asked.elapsed() >= Duration::from_millis(1050));
            assert_eq!(owed, patience);
        };
        tokio::join!(guest, asking);
    }

    #[test]
    fn a_guest_that_hangs_is_found_twelve_seconds_after_its_last_answer() {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap();
        // It hung right after its last answer, at 0, whether that was its last word at once or after a pause.
        for took in [WAIT, Duration::ZERO] {
            let (pause, mut wait) = next(PERIOD, took, true);
            let mut record = InstanceRecord::new("a".into(), 1, Moment::default());
            record.answered = true;
            record.set_health(Health::Healthy, 0);
            let (mut now, mut questions, mut unready) = (millis(pause), 0, None);
            while !matches!(record.health, Health::Lost { .. }) {
                let patience = patience(Some(&record), now);
                now += millis(wait + patience);
                owes(&mut record, Millis(millis(patience)), now);
                let known = Known { containers: &[], boot: Millis(600_000), closed_port: None };
                judge(&mut record, CheckOutcome::Silence("no answer".into()), &known, now);
                questions += 1;
                if record.health != Health::Healthy {
                    unready.get_or_insert((questions, now));
                }
                wait = Duration::ZERO;
            }
            assert_eq!(unready, Some((3, 12_000)), "{took:?}");
            // It is lost so long after its first question was given up, one more question at most.
            let first = millis(WAIT + PATIENCE) + SILENT_LOST.0;
            assert!(now <= first + millis(PERIOD_STARTING + PATIENCE), "{now}");
        }
    }

    #[test]
    fn a_guest_that_answers_at_once_is_asked_no_more_often_than_ever() {
        let at_once = Duration::ZERO;
        // Of an older build, or with another status each time.
        assert_eq!(next(PERIOD, at_once, true), (PERIOD, WAIT.saturating_sub(PERIOD)));
        assert_eq!(next(PERIOD_STARTING, at_once, true).0, PERIOD_STARTING);
        // One that has waited is asked again at once, and so is one that was silent, which is not to wait.
        assert_eq!(next(PERIOD, WAIT, true), (Duration::ZERO, WAIT));
        assert_eq!(next(PERIOD, PATIENCE, false), (Duration::ZERO, Duration::ZERO));
    }

    #[test]
    fn what_the_host_lacks_is_no_fault_of_a_vm() {
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::ADDRNOTAVAIL] {
            assert!(is_our_fault(&errno.into()), "{errno}");
        }
        for errno in [Errno::CONNREFUSED, Errno::CONNRESET, Errno::TIMEDOUT] {
            assert!(!is_our_fault(&errno.into()), "{errno}");
        }
    }

    #[test]
    fn a_vm_that_was_just_started_is_asked_anew_soon() {
        let mut record = InstanceRecord::new("a".into(), 1, Moment::default());
        assert_eq!(patience(Some(&record), BOOTING_MS - 1), PATIENCE_BOOTING);
        assert_eq!(patience(Some(&record), BOOTING_MS), PATIENCE);
        record.answered = true;
        assert_eq!(patience(Some(&record), 0), PATIENCE);
    }
}
