//! What replicas say of their groups: the coordinator in a machine is asked over the machine's network.

use std::io;
use std::time::Duration;

use i2kit_spec::replica::{ADMIN_PORT, ReplicaStatus};
use tokio::io::AsyncWriteExt as _;

use crate::cloud::CloudError;
use crate::cloud::local::keeper::Keeper;
use crate::cloud::local::link::status_check::{StatusAnswer, read_answer};
use crate::cloud::local::network::Reach;
use crate::cloud::local::wire::Replica;
use crate::manifest::api::Protocol;

/// How long a coordinator may take: one that is emulated on a busy host takes seconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks one replica.
pub(super) async fn ask(keeper: &Keeper, asked: Replica) -> Result<ReplicaStatus, CloudError> {
    let Replica { environment, instance } = asked;
    let reach = {
        let state = keeper.state();
        if !state.knows(&environment, &instance) {
            return Err(CloudError::not_found("VM", &instance));
        }
        state.machines.get(&instance).and_then(|machine| machine.network.reach(ADMIN_PORT, Protocol::Tcp))
    };
    let wrong = |message: String| CloudError::Guest { instance: instance.clone(), message };
    let reach = reach.ok_or_else(|| wrong("it does not run".into()))?;
    let answer = match tokio::time::timeout(PATIENCE, get(&reach)).await {
        Ok(answer) => answer.map_err(|error| wrong(format!("its coordinator does not answer: {error}")))?,
        Err(_) => return Err(wrong(format!("its coordinator did not answer in {} s", PATIENCE.as_secs()))),
    };
    if answer.code != 200 {
        return Err(wrong(format!("its coordinator answers {}", answer.code)));
    }
    serde_json::from_slice(&answer.body)
        .map_err(|error| wrong(format!("its coordinator answers what is no status of a replica: {error}")))
}

async fn get(reach: &Reach) -> io::Result<StatusAnswer> {
    let mut stream = reach.connect().await?;
    let request = format!("GET /replicas HTTP/1.1\r\nHost: {reach}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    read_answer(stream).await
}

#[cfg(test)]
mod tests {
    use i2kit_spec::replica::Role;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn a_replica_is_asked_and_what_it_answers_is_read() {
        let status = r#"{"slot":1,"id":"0000000000000007","role":"follower","term":3,"leader":0,"committed":9,"applied":8,"members":[],
            "divergedAt":null,"divergences":0,"logBytes":4096,"waitsFor":null}"#;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let reach = Reach::Host(listener.local_addr().unwrap());
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            let length = status.len();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{status}");
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(request).unwrap()
        };
        let (request, answer) = tokio::join!(serve, get(&reach));
        assert!(request.starts_with("GET /replicas HTTP/1.1\r\n"), "{request}");
        let read: ReplicaStatus = serde_json::from_slice(&answer.unwrap().body).unwrap();
        assert_eq!((read.slot, read.role, read.leader), (1, Role::Follower, Some(0)));
    }
}
