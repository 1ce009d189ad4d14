//! What the host tells the coordinator of a replicated pod, and how the coordinator asks PID 1's supervisor to act on the
//! containers beside it.
//!
//! The coordinator is a sidecar of each machine of a replicated StatefulSet. It has [`ReplicaConfig`] as JSON in the
//! environment variable [`CONFIG_VARIABLE`], the instance's own name in [`INSTANCE_VARIABLE`], a volume for its log at
//! [`LOG_MOUNT`], the group's key and certificate in [`IDENTITY_MOUNT`], and the supervisor's socket at [`POD_SOCKET`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::units::{Bytes, Millis};

/// The name of the coordinator's container, of its program and of its file in the guest bundle.
pub const COORDINATOR: &str = "i2kit-coordinator";

/// Environment variable with [`ReplicaConfig`] as JSON.
pub const CONFIG_VARIABLE: &str = "I2KIT_REPLICA";

/// Environment variable with the instance's name, such as `db-0`: the number after its last dash is its slot.
pub const INSTANCE_VARIABLE: &str = "I2KIT_INSTANCE";

/// Folder for the log and for snapshots: a disk that outlives the machine.
pub const LOG_MOUNT: &str = "/replica";

/// Folder with `tls.key` and `tls.crt`, PEM: the key pair that all replicas of one group have together.
pub const IDENTITY_MOUNT: &str = "/identity";

/// Folder below which the coordinator sees the volumes of the pod that it copies, by their names.
pub const STATE_MOUNT: &str = "/state";

/// Unix stream socket on which the supervisor takes [`PodRequest`].
pub const POD_SOCKET: &str = "/run/i2kit/pod.sock";

/// Where PID 1 makes the folder with that socket; it is mounted into the coordinator's container alone.
pub const POD_SOCKET_FOLDER: &str = "/run/i2kit-pod";

/// The longest [`PodRequest`] in bytes, its line feed among them.
pub const MAX_POD_REQUEST: usize = 64 * 1024;

/// Name of the volume at [`LOG_MOUNT`]: a claim that each machine has of its own.
pub const LOG_VOLUME: &str = "i2kit-log";

/// Name of the volume at [`IDENTITY_MOUNT`].
pub const IDENTITY_VOLUME: &str = "i2kit-identity";

/// Name of the volume that the socket lies in.
pub const SOCKET_VOLUME: &str = "i2kit-pod";

/// Key of the group's private key, PEM, in its Secret, and name of its file.
pub const IDENTITY_KEY: &str = "tls.key";

/// Key of the group's certificate, PEM, in its Secret, and name of its file.
pub const IDENTITY_CERTIFICATE: &str = "tls.crt";

/// Key of the group's identity Secret, and name of its file, that is there once the group has had a state: replicas that find no log
/// anywhere found no group then. Its value is the number of recoveries that the host knows of, in decimal digits: a log of before the last
/// one is out. Another value is no number, and says 0.
pub const IDENTITY_FOUNDED: &str = "founded";

/// TCP port of the replica for other replicas: mutual TLS 1.3.
pub const PEER_PORT: u16 = 7311;

/// TCP port of the coordinator's own HTTP server: `/readyz`, `/livez`, `/metrics`, `/replicas`.
pub const ADMIN_PORT: u16 = 7312;

/// TCP port of the coordinator for what changes the group itself: `POST /lead`, `GET` and `POST /recover`. Nothing but the computer that
/// runs the machine has to reach it: it asks nobody who they are.
pub const CONTROL_PORT: u16 = 7313;

/// The longest body of a request at [`CONTROL_PORT`], in bytes.
pub const MAX_CONTROL_BODY: usize = 4096;

/// TCP port on which the coordinator takes the requests of clients; a Service's target port is rewritten to it.
pub const FRONT_PORT: u16 = 7310;

/// The longest request that [`Limits::body_bytes`] may allow: two of them, encoded, fit into a frame between replicas.
pub const MAX_BODY: Bytes = Bytes::mib(8);

/// The longest reply that [`Limits::reply_bytes`] may allow: it is whole in the coordinator's memory.
pub const MAX_REPLY: Bytes = Bytes::mib(16);

/// The longest [`Limits::deadline`]: a coordinator that ended is forgotten later.
pub const MAX_DEADLINE: Millis = Millis(60_000);

/// What the coordinator of one group is told. The same in each machine of one revision of the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReplicaConfig {
    /// `NAMESPACE/NAME` of the StatefulSet: part of the hello of each connection between replicas.
    pub group: String,
    /// Host names of the slots in order, such as `db-0.db.shop.svc.cluster.local`: 1, 3, 5 or 7.
    pub members: Vec<String>,
    /// How requests and replies are framed.
    pub protocol: Framing,
    /// TCP port on 127.0.0.1 where the application listens.
    pub app_port: u16,
    /// What a read is.
    pub reads: Reads,
    /// Commands under way to the application; more than 1 where it executes the requests of a connection one by one.
    pub depth: u16,
    /// How the application's state is captured.
    pub state: State,
    /// Whether replies are compared.
    pub integrity: Integrity,
    /// Names of headers, in lower case, that are no part of the digest of a reply, beside those that always are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volatile: Vec<String>,
    /// Names of the containers that make up the application: they are started, stopped and frozen together.
    pub containers: Vec<String>,
    /// Bounds.
    pub limits: Limits,
    /// What the machine's image was made from, as a hash: machines of one revision execute alike, and the replies of others are
    /// not compared with theirs. Never 0 but where nothing was planned.
    #[serde(default, with = "hex")]
    pub revision: u64,
}

/// How requests and replies are framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Framing {
    /// HTTP/1.1, RFC 9112.
    Http,
    /// Redis' protocol, version 2.
    Resp,
    /// Lines that end with a line feed, one reply line a request line.
    Lines,
    /// A length of 32 bits, big-endian, and as many bytes, both ways.
    FramesU32be,
}

/// What happens to a request that changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reads {
    /// It sees every write that was acknowledged before it began.
    #[default]
    Linearizable,
    /// It is ordered as a write is, for applications whose reads change state.
    Ordered,
    /// The replica that has it answers by itself, and may be behind.
    Local,
}

/// How the application's state is captured for replicas that are new or come back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum State {
    /// Not at all: an application that starts empty is given the whole log again.
    Memory,
    /// A copy of a volume's folder while the application is frozen.
    Directory {
        /// The volume's name: it lies at `STATE_MOUNT/NAME`.
        volume: String,
    },
    /// Two commands that run in a container.
    Hooks {
        /// The container.
        container: String,
        /// Writes the state to its standard output.
        snapshot: Vec<String>,
        /// Reads it from its standard input.
        restore: Vec<String>,
    },
}

/// Whether the replicas' replies are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Integrity {
    /// All the time, beside the requests: a replica that differs is quarantined within about 100 ms.
    #[default]
    Compare,
    /// A reply leaves when a majority has the same.
    Quorum,
    /// Never.
    Off,
}

/// Bounds of one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// The longest request: 413 beyond it.
    pub body_bytes: Bytes,
    /// The longest reply: 502 beyond it, though the request was executed.
    pub reply_bytes: Bytes,
    /// Time after which a request that was not ordered never is: 503.
    pub deadline: Millis,
    /// Size of the log beyond which a snapshot is taken.
    pub log_bytes: Bytes,
}

impl Default for Limits {
    /// 1 MiB, 8 MiB, 5 s, 1 GiB.
    fn default() -> Self {
        Self {
            body_bytes: Bytes(1 << 20),
            reply_bytes: Bytes(8 << 20),
            deadline: Millis(5_000),
            log_bytes: Bytes(1 << 30),
        }
    }
}

impl Limits {
    /// Whether a coordinator takes these bounds; checker and coordinator ask here.
    ///
    /// # Errors
    /// A sentence that names the bound of `i2kit.dev/replicated-limits` which is out of its range, and the range.
    pub fn check(&self) -> Result<(), String> {
        let bounds = [
            ("body", self.body_bytes.0, MAX_BODY.0),
            ("reply", self.reply_bytes.0, MAX_REPLY.0),
            ("deadline in milliseconds", self.deadline.0, MAX_DEADLINE.0),
            ("log", self.log_bytes.0, u64::MAX),
        ];
        match bounds.into_iter().find(|(_, value, most)| !(1..=*most).contains(value)) {
            None => Ok(()),
            Some((name, value, most)) => Err(format!(
                "{name}= of the annotation i2kit.dev/replicated-limits is {value}: it is 1 to {most}"
            )),
        }
    }
}

/// Numbers of 64 bits as 16 hexadecimal digits: readers of JSON that keep numbers as floating point lose digits beyond 53 bits.
mod hex {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
    pub(super) fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{number:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = is_hex.then(|| u64::from_str_radix(&text, 16).ok()).flatten();
        number.ok_or_else(|| D::Error::custom(format!("{text:?} is not 16 hexadecimal digits")))
    }
}

/// One request to the supervisor: a line of JSON on a connection of its own. The answer is a line of [`PodAnswer`]; before
/// that line, [`PodRequest::Run`] has a stream each way of frames (a length of 32 bits, big-endian, and as many bytes; a
/// length of 0 is the end): standard input to the supervisor, standard output from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum PodRequest {
    /// Ends containers and keeps them ended: answered when none of their processes is left.
    Stop {
        /// Their names.
        containers: Vec<String>,
    },
    /// Starts containers that were stopped, at once and without a back-off.
    Start {
        /// Their names.
        containers: Vec<String>,
    },
    /// Stops the processes of containers where they are, by the cgroup freezer; answered when they stand.
    Freeze {
        /// Their names.
        containers: Vec<String>,
    },
    /// Lets frozen containers go on. Refused when one of them did not stand all the time since it was frozen: what was read
    /// meanwhile is of no use. They go on in either case.
    Thaw {
        /// Their names.
        containers: Vec<String>,
    },
    /// Runs a program in a container.
    Run {
        /// The container's name.
        container: String,
        /// Program and arguments.
        command: Vec<String>,
        /// More environment variables.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        env: BTreeMap<String, String>,
    },
    /// Keeps what the replica says of itself, for those who ask for the pod's status.
    Report {
        /// What it says.
        report: ReplicaReport,
    },
}

/// The answer to a [`PodRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum PodAnswer {
    /// It is done.
    Done,
    /// The program that was run ended with this exit code, 128 and the signal's number after a signal.
    Exit(i32),
    /// It was not done, and why.
    Refused(String),
}

/// The document of `GET /replicas` at [`ADMIN_PORT`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReplicaStatus {
    /// The replica's slot.
    pub slot: u32,
    /// Identity of its log: random, made with the log. In JSON 16 hexadecimal digits.
    #[serde(with = "hex")]
    pub id: u64,
    /// What it is.
    pub role: Role,
    /// Raft's term.
    pub term: u64,
    /// The slot of the leader, when one is known.
    pub leader: Option<u32>,
    /// Index of the last entry that is known to be committed.
    pub committed: u64,
    /// Index of the last entry that its application has executed.
    pub applied: u64,
    /// The members of the group as this replica knows them.
    pub members: Vec<MemberStatus>,
    /// Index of the first entry whose replies differed, when it is quarantined.
    pub diverged_at: Option<u64>,
    /// Replies that differed, since it started.
    pub divergences: u64,
    /// Bytes of its log.
    pub log_bytes: u64,
    /// Why it is not ready, in words.
    pub waits_for: Option<String>,
    /// How often the group was recovered from the loss of a majority, as its log says.
    #[serde(default)]
    pub recoveries: u64,
    /// Whether it is connected with a majority of the voters that it knows, itself counted.
    #[serde(default = "yes")]
    pub has_quorum: bool,
}

fn yes() -> bool {
    true
}

/// The body of `POST /lead` at [`CONTROL_PORT`] of the leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LeadRequest {
    /// `NAMESPACE/NAME` of the StatefulSet.
    pub group: String,
    /// The slot that is to lead.
    pub slot: u32,
}

/// The answer to `POST /lead`: who leads now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Led {
    /// The slot that was asked for.
    pub leader: u32,
    /// Raft's term.
    pub term: u64,
}

/// The answer at [`CONTROL_PORT`] when nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Refused {
    /// Why, and what to do.
    pub error: String,
    /// The slot of the leader, where that is the one to ask.
    pub leader: Option<u32>,
}

/// The answer to `GET /recover` at [`CONTROL_PORT`]: what the group would be after a recovery from this replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Recovery {
    /// `NAMESPACE/NAME` of the StatefulSet.
    pub group: String,
    /// The replica's slot.
    pub slot: u32,
    /// Identity of its log.
    #[serde(with = "hex")]
    pub id: u64,
    /// Why the group cannot be recovered from this replica; nothing when it can.
    pub refused: Option<String>,
    /// Whether it is connected with a majority of the voters: the group goes on by itself then, and from no other replica.
    pub has_quorum: bool,
    /// Term of the last entry of its log.
    pub term: u64,
    /// Index of that entry: all up to it becomes the state of the group.
    pub last: u64,
    /// Index of the last entry that it knows to be committed.
    pub committed: u64,
    /// The voters that answer, this one among them, the newest log first.
    pub survivors: Vec<Survivor>,
    /// The slots of the voters that do not.
    pub lost: Vec<u32>,
    /// How often the group was recovered already.
    pub recoveries: u64,
}

/// A voter that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Survivor {
    /// Its slot.
    pub slot: u32,
    /// Identity of its log.
    #[serde(with = "hex")]
    pub id: u64,
    /// Term of the last entry of its log.
    pub term: u64,
    /// Index of that entry.
    pub last: u64,
}

/// The body of `POST /recover` at [`CONTROL_PORT`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecoverRequest {
    /// `NAMESPACE/NAME` of the StatefulSet.
    pub group: String,
    /// Identity of the log that the caller saw: it goes on, and no other.
    #[serde(with = "hex")]
    pub id: u64,
}

/// The answer to `POST /recover`: the coordinator begins anew as the only member of its group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Recovered {
    /// How often the group was recovered, this time counted.
    pub recoveries: u64,
    /// Index of the last entry that is kept.
    pub last: u64,
}

/// A member of the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MemberStatus {
    /// Its slot.
    pub slot: u32,
    /// Identity of its log. In JSON 16 hexadecimal digits.
    #[serde(with = "hex")]
    pub id: u64,
    /// Whether its vote counts.
    pub voter: bool,
    /// Index up to which the leader knows it to have the log; only the leader knows.
    pub matched: Option<u64>,
}

/// What a replica says of itself in the pod's status: what decides something, so that a host which waits for another status hears of
/// each change at once, and how far it is, which changes without end. One of a later version may have more fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaReport {
    /// What it is.
    pub role: Role,
    /// Raft's term.
    pub term: u64,
    /// The slot of the leader, when one is known.
    pub leader: Option<u32>,
    /// Whether it has a connection to a majority of the voters, itself among them.
    pub has_quorum: bool,
    /// How often the group was recovered from the loss of a majority.
    pub recoveries: u64,
    /// Index of the first entry whose replies differed from the others', when it is quarantined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diverged_at: Option<u64>,
    /// Why it is not ready, in words; bounded by `status::cut_report`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// How far it is; nothing where only what decides something is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
}

/// How far a replica is: indexes of entries of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// The last entry that is known to be committed.
    pub committed: u64,
    /// The last entry that its application has executed.
    pub applied: u64,
}

impl ReplicaReport {
    /// What decides something, without how far it is.
    #[must_use]
    pub fn decisive(&self) -> Self {
        Self { progress: None, ..self.clone() }
    }
}

impl From<&ReplicaStatus> for ReplicaReport {
    fn from(status: &ReplicaStatus) -> Self {
        Self {
            role: status.role,
            term: status.term,
            leader: status.leader,
            has_quorum: status.has_quorum,
            recoveries: status.recoveries,
            diverged_at: status.diverged_at,
            waits_for: status.waits_for.clone(),
            progress: Some(Progress { committed: status.committed, applied: status.applied }),
        }
    }
}

/// What a replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It has no log yet, or looks for its group.
    Starting,
    /// It gets the state and the log, and has no vote yet.
    Learner,
    /// It follows a leader.
    Follower,
    /// It asks for votes.
    Candidate,
    /// It orders the requests.
    Leader,
    /// Its replies differed from the others': it serves nobody.
    Quarantined,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_texts_that_no_reader_rounds() {
        let member = MemberStatus { slot: 1, id: u64::MAX - 1, voter: true, matched: None };
        let text = serde_json::to_string(&member).unwrap();
        assert!(text.contains(r#""id":"fffffffffffffffe""#), "{text}");
        assert_eq!(serde_json::from_str::<MemberStatus>(&text).unwrap(), member);
        for wrong in ["7", "\"7\"", "\"+fffffffffffffff\"", "\"fffffffffffffffff\"", "null"] {
            let text = text.replace("\"fffffffffffffffe\"", wrong);
            assert!(serde_json::from_str::<MemberStatus>(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn bounds_are_checked_at_their_ends() {
        let most = Limits {
            body_bytes: MAX_BODY,
            reply_bytes: MAX_REPLY,
            deadline: MAX_DEADLINE,
            ..Limits::default()
        };
        assert_eq!((most.check(), Limits::default().check()), (Ok(()), Ok(())));
        let wrong = [
            ("body=", Limits { body_bytes: Bytes(MAX_BODY.0 + 1), ..most.clone() }),
            ("body=", Limits { body_bytes: Bytes(0), ..most.clone() }),
            ("reply=", Limits { reply_bytes: Bytes(MAX_REPLY.0 + 1), ..most.clone() }),
            ("deadline", Limits { deadline: Millis(MAX_DEADLINE.0 + 1), ..most.clone() }),
            ("log=", Limits { log_bytes: Bytes(0), ..most }),
        ];
        for (word, limits) in wrong {
            assert!(limits.check().unwrap_err().starts_with(word), "{limits:?}");
        }
    }

    #[test]
    fn a_report_is_made_of_a_status() {
        let json = r#"{"slot":1,"id":"0000000000000007","role":"quarantined","term":3,"leader":0,"committed":9,"applied":8,"members":[],
            "divergedAt":5,"divergences":1,"logBytes":4096,"waitsFor":"more"}"#;
        let status: ReplicaStatus = serde_json::from_str(json).unwrap();
        let report = ReplicaReport::from(&status);
        assert_eq!((report.role, report.term, report.leader), (Role::Quarantined, 3, Some(0)));
        assert_eq!((report.diverged_at, report.has_quorum, report.recoveries), (Some(5), true, 0));
        assert_eq!(report.progress, Some(Progress { committed: 9, applied: 8 }));
        assert_eq!(ReplicaReport { progress: None, ..report.clone() }, report.decisive());
        assert_ne!(ReplicaReport { term: 4, ..report.clone() }.decisive(), report.decisive());
    }
}
