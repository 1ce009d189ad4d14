//! Status checks: requests to a guest for its status, and what came of each. [`health`](crate::cloud::engine::health) decides
//! what follows.
//!
//! qemu accepts a forwarded connection before the guest listens, so only an answer counts, and each request has a time
//! limit of its own. A connection serves for the next request too, where the guest agrees: with hundreds of machines most
//! of the work would be connecting.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use i2kit_spec::status::{self, PodStatus};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

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

/// The period of requests to a machine that is not healthy yet, so that a new one serves soon.
pub(crate) const PERIOD_STARTING: Duration = Duration::from_millis(200);

/// The period of requests to a healthy machine, as balancers have it.
pub(crate) const PERIOD: Duration = Duration::from_secs(1);

/// How long a machine that is ready may take to open the ports behind balancers, in milliseconds. Then it counts as
/// healthy without them: a Service may name a port on which nothing listens.
pub(crate) const PORTS_GRACE_MS: u64 = 15_000;

/// How long a connection that qemu has closed takes to be seen closed on this side.
const CLOSING: Duration = Duration::from_millis(50);

/// The longest answer that is read: the guest cuts its texts, and this leaves room for some eighty containers.
const ANSWER_BYTES: u64 = 256 * 1024;

/// The time limit of a request to a machine with this record.
pub(crate) fn patience(record: Option<&InstanceRecord>, now: u64) -> Duration {
    let is_booting =
        record.is_some_and(|record| !record.answered && now < record.started.saturating_add(BOOTING_MS));
    if is_booting { PATIENCE_BOOTING } else { PATIENCE }
}

/// Requests statuses of one guest.
#[derive(Debug, Default)]
pub(crate) struct StatusClient {
    /// The connection of the last request, if the guest keeps it, and the address that it is to.
    kept: Option<(SocketAddr, TcpStream)>,
}

/// An answer of HTTP.
#[derive(Debug)]
struct Answer {
    code: u16,
    body: Vec<u8>,
    /// Whether the connection serves for another request.
    is_kept: bool,
}

impl StatusClient {
    /// Requests the status once.
    pub(crate) async fn check(&mut self, address: &Reach, patience: Duration) -> CheckOutcome {
        let path = status::PATH;
        let Answer { code, body, .. } = match self.get(address, patience).await {
            Ok(answer) => answer,
            Err(error) if is_our_fault(&error) => {
                return CheckOutcome::Unasked(format!("the guest cannot be asked for its status: {error}"));
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                let seconds = patience.as_secs_f32();
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
            Ok(status) if status.version == status::VERSION => CheckOutcome::Status(Box::new(status)),
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
        if self.get(guest, PATIENCE).await.is_err() {
            return false;
        }
        // An end or a reset without any bytes is the guest's refusal; silence and bytes are a listener's.
        !matches!(tokio::time::timeout(CLOSING, stream.read(&mut [0; 1])).await, Ok(Ok(0) | Err(_)))
    }

    /// Sends the request, over the connection of the last one where there is one, and reads the answer. A guest ends such a
    /// connection when it likes: then another one is made. One that is lost without a word costs one request.
    async fn get(&mut self, address: &Reach, patience: Duration) -> io::Result<Answer> {
        let conversation = async {
            // Whoever gives up in the middle leaves no connection with half of an answer.
            let kept = self.kept.take().filter(|(to, stream)| *to == address.address() && is_silent(stream));
            if let Some((_, mut stream)) = kept {
                match ask(&mut stream, address).await {
                    Ok(answer) => return Ok((stream, answer)),
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(error),
                    Err(_) => {}
                }
            }
            let mut stream = address.connect().await?;
            let answer = ask(&mut stream, address).await?;
            io::Result::Ok((stream, answer))
        };
        let (stream, answer) =
            tokio::time::timeout(patience, conversation).await.map_err(|_| io::ErrorKind::TimedOut)??;
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

/// Sends the request for the status, and reads the answer.
async fn ask(stream: &mut TcpStream, address: &Reach) -> io::Result<Answer> {
    let path = status::PATH;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: keep-alive\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "that is no HTTP answer");
    let mut answer = BufReader::new(stream).take(ANSWER_BYTES);
    let mut line = String::new();
    if answer.read_line(&mut line).await? == 0 {
        // qemu accepted, and the guest does not listen yet.
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let code = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.trim().parse().ok());
    let code = code.ok_or_else(invalid)?;
    let (mut length, mut is_kept) = (None, false);
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
    Ok(Answer { code, body, is_kept })
}

#[cfg(test)]
mod tests {
    use i2kit_spec::status::PodPhase;

    use super::*;
    use crate::cloud::engine::moment::Moment;

    async fn read_request(stream: &mut TcpStream) {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        assert!(request.starts_with(b"GET /status HTTP/1.1\r\n"));
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
        tokio::join!(client.check(&address, PATIENCE * 30), answer(listener, bytes)).0
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
        let CheckOutcome::Silence(silent) = StatusClient::default().check(&address, PATIENCE_BOOTING).await
        else {
            panic!()
        };
        assert!(silent.contains("did not answer"), "{silent}");
        drop(listener);
        let refused = StatusClient::default().check(&address, PATIENCE).await;
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
        let asking = async {
            for round in 0..6 {
                let outcome = client.check(&address, PATIENCE * 30).await;
                assert!(matches!(outcome, CheckOutcome::Status(_)), "{round}: {outcome:?}");
            }
            let outcome = client.check(&address, PATIENCE * 30).await;
            assert!(matches!(outcome, CheckOutcome::Unclear(_)), "{outcome:?}");
            for round in 0..3 {
                let outcome = client.check(&address, PATIENCE * 30).await;
                assert!(matches!(outcome, CheckOutcome::Status(_)), "{round}: {outcome:?}");
                // What the guest sends behind it is there.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let outcome = client.check(&address, PATIENCE_BOOTING).await;
            assert!(matches!(outcome, CheckOutcome::Silence(_)), "{outcome:?}");
            let outcome = client.check(&address, PATIENCE * 30).await;
            assert!(matches!(outcome, CheckOutcome::Status(_)), "{outcome:?}");
        };
        tokio::join!(guest, asking);
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
