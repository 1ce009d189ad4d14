//! Health checks: asks a VM's `/readyz` over and over and judges what it hears.
//!
//! qemu accepts a forwarded connection before the guest listens, so only an answer counts, and each question has a
//! time limit of its own.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::cloud::environment::InstanceRecord;
use crate::plan::fleet::{ContainerStatus, Health};

/// Time for one question: a guest that is emulated on a busy machine may need more than a second.
const PATIENCE: Duration = Duration::from_secs(2);

/// The same for a VM that has just been started. A question that comes before the guest listens gets no answer until
/// qemu tries again seconds later, so that asking anew is sooner there.
const PATIENCE_BOOTING: Duration = Duration::from_millis(400);

/// For how long a VM has just been started: one that boots on a busier machine gets the usual time.
const BOOTING_MS: u64 = 10_000;

/// Between two questions to a VM that is not healthy yet, so that a new VM serves soon.
pub(super) const PERIOD_STARTING: Duration = Duration::from_millis(200);

/// Between two questions to a healthy VM, as balancers do it.
pub(super) const PERIOD: Duration = Duration::from_secs(1);

/// So many bad answers in a row make a healthy VM unhealthy: Kubernetes' default of `failureThreshold`.
const FALL: u32 = 3;

/// How long a VM that is ready may go on to open the ports that balancers lead to. Then it counts as healthy without
/// them: a Service may name a port that nobody listens on.
pub(super) const PORTS_GRACE_MS: u64 = 15_000;

/// A forwarded connection that lives for so long has reached a listener in the guest; one that did not is closed as
/// soon as the guest has refused it.
const ACCEPTED: Duration = Duration::from_millis(150);

/// The longest answer that is read.
const ANSWER_BYTES: u64 = 256 * 1024;

/// What a VM said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Checked {
    /// Whether it is ready, or why not.
    pub(super) ready: Result<(), String>,
    /// The kernel's boot id.
    pub(super) boot_id: Option<String>,
    /// Its containers, when they were asked for.
    pub(super) containers: Option<Vec<ContainerStatus>>,
}

/// Time for one question to a VM with this record.
pub(super) fn patience(record: Option<&InstanceRecord>, now: u64) -> Duration {
    let is_booting =
        record.is_some_and(|record| record.boot_id.is_none() && now < record.started + BOOTING_MS);
    if is_booting { PATIENCE_BOOTING } else { PATIENCE }
}

/// Asks once.
pub(super) async fn check(address: SocketAddr, patience: Duration) -> Checked {
    let answer = match get(address, "/readyz", patience).await {
        Ok(answer) => answer,
        Err(error) => {
            let reason = match error.kind() {
                io::ErrorKind::TimedOut => {
                    format!("/readyz did not answer within {} s", patience.as_secs_f32())
                }
                _ => format!("/readyz does not answer: {error}"),
            };
            return Checked { ready: Err(reason), boot_id: None, containers: None };
        }
    };
    let ready = match answer.status {
        200 => Ok(()),
        status => Err(match answer.body.trim() {
            "" => format!("/readyz answers {status}"),
            body => body.lines().collect::<Vec<_>>().join("; "),
        }),
    };
    let containers = get(address, "/metrics", PATIENCE).await.ok().map(|metrics| containers(&metrics.body));
    Checked { ready, boot_id: answer.boot_id, containers }
}

/// Whether somebody in the guest accepts connections to the port that is forwarded from `address`.
pub(super) async fn accepts(address: SocketAddr) -> bool {
    let Ok(Ok(mut stream)) = tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await else {
        return false;
    };
    // An end or a reset without a word is the guest's refusal; silence and words are a listener's.
    !matches!(tokio::time::timeout(ACCEPTED, stream.read(&mut [0; 1])).await, Ok(Ok(0) | Err(_)))
}

/// Takes over what was heard. `misses` counts the bad answers in a row.
pub(super) fn judge(
    record: &mut InstanceRecord,
    misses: &mut u32,
    checked: Checked,
    health_grace_ms: u64,
    now: u64,
) {
    record.boot_id = checked.boot_id.or(record.boot_id.take());
    record.containers = checked.containers.unwrap_or_else(|| std::mem::take(&mut record.containers));
    let reason = match checked.ready {
        Ok(()) => {
            *misses = 0;
            record.feel(Health::Healthy, now);
            return;
        }
        Err(reason) => reason,
    };
    *misses = misses.saturating_add(1);
    match record.health {
        Health::Healthy if *misses < FALL => {}
        Health::Starting { .. } if now < record.started + health_grace_ms => {
            record.feel(Health::Starting { waiting: Some(reason) }, now);
        }
        _ => record.feel(Health::Unhealthy { reason }, now),
    }
}

/// An HTTP answer, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    boot_id: Option<String>,
    body: String,
}

async fn get(address: SocketAddr, path: &str, patience: Duration) -> io::Result<Answer> {
    let conversation = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut text = Vec::new();
        stream.take(ANSWER_BYTES).read_to_end(&mut text).await?;
        parse(&String::from_utf8_lossy(&text)).ok_or_else(|| io::Error::other("that is no HTTP answer"))
    };
    tokio::time::timeout(patience, conversation).await.map_err(|_| io::ErrorKind::TimedOut)?
}

fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let boot_id = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("x-i2kit-boot-id"))
        .map(|(_, value)| value.trim().to_owned());
    Some(Answer { status, boot_id, body: body.to_owned() })
}

/// Reads the containers' states from the guest's metrics.
fn containers(metrics: &str) -> Vec<ContainerStatus> {
    let mut found: Vec<ContainerStatus> = Vec::new();
    for line in metrics.lines() {
        let Some((name, labels, value)) = sample(line) else { continue };
        let label =
            |name: &str| labels.iter().find(|(n, _)| *n == name).map_or("", |(_, value)| value.as_str());
        let known = matches!(
            name,
            "i2kit_container_info"
                | "kube_pod_container_status_ready"
                | "kube_pod_container_status_restarts_total"
        );
        if !known {
            continue;
        }
        let index = found.iter().position(|status| status.name == label("container")).unwrap_or_else(|| {
            let (name, state) = (label("container").to_owned(), String::new());
            found.push(ContainerStatus { name, ready: false, restarts: 0, state });
            found.len() - 1
        });
        let container = &mut found[index];
        match name {
            "kube_pod_container_status_ready" => container.ready = value == "1",
            "i2kit_container_info" => container.state = state(label("state"), label("last"), label("probe")),
            _ => container.restarts = value.parse().unwrap_or(0),
        }
    }
    found
}

/// A container's state in one line: what it does, what its probes complain of, how it ended the last time.
fn state(state: &str, last: &str, probe: &str) -> String {
    let mut text = state.to_owned();
    if !probe.is_empty() {
        text.extend([", probe: ", probe]);
    }
    // A container that has ended for good shows that already.
    if !last.is_empty() && last != state {
        text.extend([", last: ", last]);
    }
    text
}

/// Name, labels and value of a line.
type Sample<'l> = (&'l str, Vec<(&'l str, String)>, &'l str);

/// `NAME{LABEL="TEXT",…} VALUE` of the text format.
fn sample(line: &str) -> Option<Sample<'_>> {
    let (name, mut rest) = line.split_once('{')?;
    let mut labels = Vec::new();
    while !rest.starts_with('}') {
        let (label, quoted) = rest.split_once("=\"")?;
        let mut text = String::new();
        let mut characters = quoted.char_indices();
        let end = loop {
            match characters.next()? {
                (at, '"') => break at,
                (_, '\\') => match characters.next()? {
                    (_, 'n') => text.push('\n'),
                    (_, other) => text.push(other),
                },
                (_, other) => text.push(other),
            }
        };
        labels.push((label.trim_start_matches(','), text));
        rest = &quoted[end + 1..];
    }
    Some((name, labels, rest.strip_prefix("} ")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(health: Health) -> InstanceRecord {
        let mut record = InstanceRecord::new("web-1-a".into(), 1, 0);
        record.feel(health, 0);
        record
    }

    fn heard(ready: Result<(), String>) -> Checked {
        Checked { ready, boot_id: None, containers: None }
    }

    #[test]
    fn a_healthy_vm_falls_at_the_third_bad_answer_and_rises_at_the_first_good_one() {
        let mut record = record(Health::Healthy);
        let mut misses = 0;
        for now in 1..=2 {
            judge(&mut record, &mut misses, heard(Err("no".into())), 10_000, now);
            assert_eq!(record.health, Health::Healthy);
        }
        judge(&mut record, &mut misses, heard(Err("no".into())), 10_000, 3);
        assert_eq!((record.health.to_string().as_str(), record.health_since), ("unhealthy: no", 3));
        judge(&mut record, &mut misses, heard(Ok(())), 10_000, 4);
        assert_eq!(record.health, Health::Healthy);
    }

    #[test]
    fn a_starting_vm_is_unhealthy_only_when_it_is_late() {
        let mut record = record(Health::STARTING);
        judge(&mut record, &mut 0, heard(Err("web: waiting".into())), 10_000, 9_999);
        assert_eq!(record.health, Health::Starting { waiting: Some("web: waiting".into()) });
        judge(&mut record, &mut 0, heard(Err("web: waiting".into())), 10_000, 10_000);
        assert_eq!(record.health, Health::Unhealthy { reason: "web: waiting".into() });
    }

    #[tokio::test]
    async fn an_answer_is_read_and_silence_is_not_one() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = async {
            for answer in [
                "HTTP/1.1 503 Service Unavailable\r\nX-I2kit-Boot-Id: b-1\r\n\r\nweb: exited\ndb: waiting\n",
                "HTTP/1.1 200 OK\r\n\r\nkube_pod_container_status_ready{container=\"web\"} 0\n\
                 i2kit_container_info{container=\"web\",state=\"CrashLoopBackOff\",last=\"Error, exit code 1 (no \
                 \\\"db\\\")\",probe=\"\"} 1\nkube_pod_container_status_restarts_total{container=\"web\"} 3\n",
            ] {
                let (mut stream, _) = listener.accept().await.unwrap();
                // The whole request: closing with some of it unread would reset the connection.
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        };
        let (checked, ()) = tokio::join!(check(address, PATIENCE), server);
        assert_eq!(checked.ready, Err("web: exited; db: waiting".into()));
        assert_eq!(checked.boot_id.as_deref(), Some("b-1"));
        let container = &checked.containers.unwrap()[0];
        assert_eq!(container.state, "CrashLoopBackOff, last: Error, exit code 1 (no \"db\")");
        assert_eq!((container.ready, container.restarts), (false, 3));
        // The listener still accepts, as qemu's does, and nobody answers.
        assert!(accepts(address).await);
        let refusing = async {
            drop(listener.accept().await.unwrap());
            drop(listener.accept().await.unwrap());
        };
        assert!(!tokio::join!(accepts(address), refusing).0);
        let mut record = InstanceRecord::new("a".into(), 1, 0);
        assert_eq!(patience(Some(&record), BOOTING_MS - 1), PATIENCE_BOOTING);
        assert_eq!(patience(Some(&record), BOOTING_MS), PATIENCE);
        record.boot_id = checked.boot_id;
        assert_eq!(patience(Some(&record), 0), PATIENCE);
        let silent = check(address, PATIENCE_BOOTING).await.ready.unwrap_err();
        assert!(silent.contains("did not answer"), "{silent}");
    }
}
