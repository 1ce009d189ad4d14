//! What replicas say of their groups, and what they are told to do: the coordinator in a machine is asked over the machine's
//! network. No other machine reaches the port of what changes a group; this host does.

use std::time::Duration;

use i2kit_spec::replica::{ADMIN_PORT, CONTROL_PORT, Refused, ReplicaStatus};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::AsyncWriteExt as _;

use crate::cloud::local::keeper::Keeper;
use crate::cloud::local::link::status_check::{StatusAnswer, read_answer};
use crate::cloud::local::network::Reach;
use crate::cloud::local::wire::{OrderReplica, Replica};
use crate::cloud::{CloudError, ReplicaAnswer, ReplicaOrder};
use crate::manifest::api::Protocol;

/// How long a coordinator may take: one that is emulated on a busy host takes seconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long it may take to do something: it asks others, and tries for up to 5 s.
const WORK: Duration = Duration::from_secs(15);

/// Asks one replica.
pub(super) async fn ask(keeper: &Keeper, asked: Replica) -> Result<ReplicaStatus, CloudError> {
    let Replica { environment, instance } = asked;
    let coordinator = Coordinator::find(keeper, &environment, instance, ADMIN_PORT)?;
    let answer = coordinator.exchange("GET", "/replicas", None, PATIENCE).await?;
    coordinator.read(&answer, "status of a replica")
}

/// Has one replica do something for its group.
pub(super) async fn order(keeper: &Keeper, wanted: OrderReplica) -> Result<ReplicaAnswer, CloudError> {
    let OrderReplica { environment, instance, order } = wanted;
    Coordinator::find(keeper, &environment, instance, CONTROL_PORT)?.order(&order).await
}

/// A port of the coordinator in a machine.
#[derive(Debug)]
struct Coordinator {
    instance: String,
    reach: Reach,
}

impl Coordinator {
    fn find(keeper: &Keeper, environment: &str, instance: String, port: u16) -> Result<Self, CloudError> {
        let state = keeper.state();
        if !state.knows(environment, &instance) {
            return Err(CloudError::not_found("VM", &instance));
        }
        let machine = state.machines.get(&instance);
        match machine.and_then(|machine| machine.network.reach(port, Protocol::Tcp)) {
            Some(reach) => Ok(Self { instance, reach }),
            None => Err(CloudError::Guest { instance, message: "it does not run".into() }),
        }
    }

    async fn order(&self, order: &ReplicaOrder) -> Result<ReplicaAnswer, CloudError> {
        match order {
            ReplicaOrder::Lead(lead) => {
                let answer = self.exchange("POST", "/lead", Some(self.body(lead)?), WORK).await?;
                self.read(&answer, "word about the lead").map(ReplicaAnswer::Led)
            }
            ReplicaOrder::Examine => {
                let answer = self.exchange("GET", "/recover", None, WORK).await?;
                self.read(&answer, "word about a recovery").map(ReplicaAnswer::Examined)
            }
            ReplicaOrder::Recover(recover) => {
                let answer = self.exchange("POST", "/recover", Some(self.body(recover)?), WORK).await?;
                self.read(&answer, "word about a recovery").map(ReplicaAnswer::Recovered)
            }
        }
    }

    fn body(&self, value: &impl Serialize) -> Result<String, CloudError> {
        serde_json::to_string(value).map_err(|error| self.wrong(format!("it cannot be asked: {error}")))
    }

    /// Sends a request, of which there is one a connection, and reads the answer.
    async fn exchange(
        &self,
        method: &str,
        path: &str,
        body: Option<String>,
        patience: Duration,
    ) -> Result<StatusAnswer, CloudError> {
        let request = request(&self.reach, method, path, body.as_deref());
        let talk = async {
            let mut stream = self.reach.connect().await?;
            stream.write_all(request.as_bytes()).await?;
            read_answer(stream).await
        };
        match tokio::time::timeout(patience, talk).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.wrong(format!("its coordinator does not answer: {error}"))),
            Err(_) => Err(self.wrong(format!("its coordinator did not answer in {} s", patience.as_secs()))),
        }
    }

    /// What an answer has in it, or why it was refused.
    fn read<T: DeserializeOwned>(&self, answer: &StatusAnswer, what: &str) -> Result<T, CloudError> {
        if answer.code != 200 {
            let mut why = match serde_json::from_slice::<Refused>(&answer.body) {
                Ok(refused) => refused.error,
                Err(_) => format!("its coordinator answers {}", answer.code),
            };
            i2kit_spec::status::cut(&mut why);
            return Err(self.wrong(why));
        }
        serde_json::from_slice(&answer.body)
            .map_err(|error| self.wrong(format!("its coordinator answers what is no {what}: {error}")))
    }

    fn wrong(&self, message: String) -> CloudError {
        CloudError::Guest { instance: self.instance.clone(), message }
    }
}

fn request(reach: &Reach, method: &str, path: &str, body: Option<&str>) -> String {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {reach}\r\nConnection: close\r\n");
    match body {
        None => format!("{head}\r\n"),
        Some(body) => {
            let length = body.len();
            format!("{head}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
        }
    }
}

#[cfg(test)]
mod tests {
    use i2kit_spec::replica::{LeadRequest, Led, RecoverRequest, Recovered, Role};
    use tokio::io::AsyncReadExt as _;

    use super::*;

    /// Asks a coordinator that answers with this code and body. Returns the request, and what came of it.
    async fn asked<T>(
        (code, body): (u16, &str),
        ask: impl AsyncFnOnce(Coordinator) -> Result<T, CloudError>,
    ) -> (String, Result<T, CloudError>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let reach = Reach::Host(listener.local_addr().unwrap());
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(request.clone()).unwrap();
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
            for _ in 0..length.map_or(0, |length| length.parse::<usize>().unwrap()) {
                request.push(stream.read_u8().await.unwrap());
            }
            let length = body.len();
            let answer = format!("HTTP/1.1 {code} X\r\nContent-Length: {length}\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(request).unwrap()
        };
        tokio::join!(serve, ask(Coordinator { instance: "db-0-x".into(), reach }))
    }

    #[tokio::test]
    async fn a_replica_is_asked_and_what_it_answers_is_read() {
        let status = r#"{"slot":1,"id":"0000000000000007","role":"follower","term":3,"leader":0,"committed":9,"applied":8,"members":[],
            "divergedAt":null,"divergences":0,"logBytes":4096,"waitsFor":null}"#;
        let ask = async |coordinator: Coordinator| {
            let answer = coordinator.exchange("GET", "/replicas", None, PATIENCE * 12).await?;
            coordinator.read::<ReplicaStatus>(&answer, "status of a replica")
        };
        let (request, read) = asked((200, status), ask).await;
        assert!(request.starts_with("GET /replicas HTTP/1.1\r\n"), "{request}");
        let read = read.unwrap();
        assert_eq!((read.slot, read.role, read.leader, read.has_quorum), (1, Role::Follower, Some(0), true));
        let (_, none) = asked((200, "{}"), ask).await;
        assert!(none.unwrap_err().to_string().contains("db-0-x: its coordinator answers what is no status"));
    }

    #[tokio::test]
    async fn a_replica_is_told_what_to_do_and_its_refusal_is_shown() {
        let group = || "default/db".to_owned();
        let lead = ReplicaOrder::Lead(LeadRequest { group: group(), slot: 2 });
        let recover = ReplicaOrder::Recover(RecoverRequest { group: group(), id: 7 });
        let order = async |order: &ReplicaOrder, answer| {
            asked(answer, async |coordinator: Coordinator| coordinator.order(order).await).await
        };
        let (request, done) = order(&lead, (200, r#"{"leader":2,"term":8}"#)).await;
        assert!(request.starts_with("POST /lead HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("\r\nContent-Type: application/json\r\n"), "{request}");
        assert!(request.ends_with(r#"{"group":"default/db","slot":2}"#), "{request}");
        assert_eq!(done, Ok(ReplicaAnswer::Led(Led { leader: 2, term: 8 })));
        let (request, recovered) = order(&recover, (200, r#"{"recoveries":1,"last":9}"#)).await;
        assert!(request.ends_with(r#"{"group":"default/db","id":"0000000000000007"}"#), "{request}");
        assert_eq!(recovered, Ok(ReplicaAnswer::Recovered(Recovered { recoveries: 1, last: 9 })));
        let (request, refused) =
            order(&ReplicaOrder::Examine, (409, r#"{"error":"it has no log","leader":null}"#)).await;
        assert!(request.starts_with("GET /recover HTTP/1.1\r\n"), "{request}");
        assert_eq!(refused.unwrap_err().to_string(), "db-0-x: it has no log");
        let (_, refused) = order(&lead, (404, "nothing")).await;
        assert_eq!(refused.unwrap_err().to_string(), "db-0-x: its coordinator answers 404");
    }
}
