//! A registry that does whatever it likes: each seed is one behaviour, the same each time. It speaks HTTP by hand, since
//! no server library says what it says.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use i2kit::oci::{Digest, media};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::image::{TestImage, TestLayer, descriptor};

/// What stands for "without end": many times more than any bound of a document.
const ENDLESS: usize = 48 << 20;

/// Numbers that a seed leads to (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// How one answer goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Status,
    Challenge,
    Redirect,
    HeaderJunk,
    Length,
    Chunks,
    Endless,
    Slow,
    Silent,
    Cut,
    Flip,
    Empty,
    Noise,
    Json,
    Range,
    DigestHeader,
    Encoding,
}

const FAULTS: [Fault; 17] = [
    Fault::Status,
    Fault::Challenge,
    Fault::Redirect,
    Fault::HeaderJunk,
    Fault::Length,
    Fault::Chunks,
    Fault::Endless,
    Fault::Slow,
    Fault::Silent,
    Fault::Cut,
    Fault::Flip,
    Fault::Empty,
    Fault::Noise,
    Fault::Json,
    Fault::Range,
    Fault::DigestHeader,
    Fault::Encoding,
];

/// A running registry of one seed.
pub(crate) struct HostileRegistry {
    pub(crate) host: String,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

struct State {
    seed: u64,
    host: String,
    documents: HashMap<String, Vec<u8>>,
    tag: Digest,
    wants_token: bool,
    /// Of a hundred answers so many go wrong.
    faults: usize,
    requests: AtomicU32,
    sent: AtomicU64,
}

impl HostileRegistry {
    /// Starts the registry of `seed`, which has `app:1`, more or less.
    pub(crate) async fn start(seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let mut random = Random(seed);
        let (documents, tag) = image(&mut random);
        let state = Arc::new(State {
            seed,
            host: host.clone(),
            documents,
            tag,
            wants_token: random.below(2) == 0,
            faults: random.one(&[0, 20, 50, 100]),
            requests: AtomicU32::new(0),
            sent: AtomicU64::new(0),
        });
        let serving = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&serving);
                tokio::spawn(async move {
                    // Whoever hangs up does so.
                    let _ = serve(&state, stream).await;
                });
            }
        });
        Self { host, state, task }
    }

    /// Requests that it was asked.
    pub(crate) fn requests(&self) -> u32 {
        self.state.requests.load(Ordering::Relaxed)
    }

    /// Bytes that were taken from it.
    pub(crate) fn sent(&self) -> u64 {
        self.state.sent.load(Ordering::Relaxed)
    }
}

impl Drop for HostileRegistry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The documents of a seed by digest, and what the tag points at.
fn image(random: &mut Random) -> (HashMap<String, Vec<u8>>, Digest) {
    let layers = vec![TestLayer::new("base", 150_000, true), TestLayer::new("top", 3000, false)];
    let good = TestImage::new("amd64", layers);
    let mut documents: HashMap<String, Vec<u8>> =
        good.blobs().map(|blob| (Digest::of(blob).to_string(), blob.to_vec())).collect();
    let mut manifest: Value = serde_json::from_slice(&good.manifest).unwrap();
    let mut config: Value = serde_json::from_slice(&good.config).unwrap();
    let odd =
        [json!(null), json!(-1), json!(1u64 << 62), json!(1.5), json!("x\n\u{1b}[2J"), json!([]), json!({})];
    match random.below(16) {
        0 => manifest["layers"][0]["size"] = odd[random.below(odd.len())].clone(),
        1 => manifest["layers"][1]["size"] = json!(random.one(&[0_u64, 1, 4999, u64::MAX, 100 << 30])),
        2 => manifest["config"]["size"] = json!(random.one(&[0_u64, 9 << 20, 1 << 40])),
        3 => manifest["layers"] = Value::from(vec![manifest["layers"][0].clone(); 20_000]),
        4 => manifest["layers"][0]["mediaType"] = odd[random.below(odd.len())].clone(),
        5 => manifest["layers"][0]["digest"] = odd[random.below(odd.len())].clone(),
        6 => config["rootfs"]["diff_ids"] = odd[random.below(odd.len())].clone(),
        7 => config["config"] = odd[random.below(odd.len())].clone(),
        8 => config = odd[random.below(odd.len())].clone(),
        _ => {}
    }
    let config = config.to_string().into_bytes();
    let size = manifest["config"]["size"].clone();
    manifest["config"] = descriptor(media::OCI_CONFIG, &config);
    if size != json!(good.config.len()) {
        manifest["config"]["size"] = size;
    }
    let mut top = manifest.to_string().into_bytes();
    if random.below(16) == 0 {
        top = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
    }
    for _ in 0..random.one(&[0, 0, 1, 3, 9]) {
        documents.insert(Digest::of(&top).to_string(), top.clone());
        let mut entry = descriptor(media::OCI_MANIFEST, &top);
        entry["platform"] = json!({ "os": "linux", "architecture": "amd64" });
        top = json!({ "schemaVersion": 2, "manifests": [entry] }).to_string().into_bytes();
    }
    let tag = Digest::of(&top);
    documents.insert(tag.to_string(), top);
    documents.insert(Digest::of(&config).to_string(), config);
    (documents, tag)
}

/// One request, one answer.
async fn serve(state: &State, mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let count = stream.read(&mut buffer).await?;
        if count == 0 || head.len() > 1 << 16 {
            return Ok(());
        }
        head.extend_from_slice(&buffer[..count]);
    }
    let number = state.requests.fetch_add(1, Ordering::Relaxed);
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    let mut random = Random(state.seed.wrapping_mul(1000).wrapping_add(number.into()));
    let fault = (random.below(100) < state.faults).then(|| random.one(&FAULTS));

    let is_token = path == "/token";
    let authorized = !state.wants_token || head.contains("authorization: bearer ");
    let name = path.rsplit('/').next().unwrap_or_default();
    let digest = if name == "1" { state.tag.to_string() } else { name.to_owned() };
    let mut answer = Answer { status: "200 OK", ..Answer::default() };
    answer.body = if is_token {
        br#"{"token":"good"}"#.to_vec()
    } else if !authorized {
        answer.status = "401 Unauthorized";
        let realm = format!("Bearer realm=\"http://{}/token\",service=\"s\"", state.host);
        answer.headers.push(("www-authenticate".to_owned(), realm.into_bytes()));
        b"{}".to_vec()
    } else if let Some(document) = state.documents.get(&digest) {
        answer.headers.push(("docker-content-digest".to_owned(), digest.clone().into_bytes()));
        let start = head.split("range: bytes=").nth(1).and_then(|rest| rest.split('-').next()?.parse().ok());
        match start {
            Some(start) if start < document.len() => {
                answer.status = "206 Partial Content";
                let range = format!("bytes {start}-{}/{}", document.len() - 1, document.len());
                answer.headers.push(("content-range".to_owned(), range.into_bytes()));
                document[start..].to_vec()
            }
            _ => document.clone(),
        }
    } else {
        answer.status = "404 Not Found";
        b"{}".to_vec()
    };
    answer.length = Some(answer.body.len().to_string());
    match fault {
        Some(Fault::Silent) => return Ok(()),
        Some(fault) if !spoil_head(fault, &mut answer, &mut random, (&state.host, path)) => {
            spoil_body(fault, &mut answer, &mut random);
        }
        _ => {}
    }
    let mut sent = format!("HTTP/1.1 {}\r\nconnection: close\r\n", answer.status).into_bytes();
    if let Some(length) = answer.length.take() {
        answer.headers.push(("content-length".to_owned(), length.into_bytes()));
    }
    for (name, value) in answer.headers {
        sent.extend([name.as_bytes(), b": ", &*value, b"\r\n"].concat());
    }
    sent.extend_from_slice(b"\r\n");
    stream.write_all(&sent).await?;
    if method == "head" {
        return Ok(());
    }
    match answer.then {
        Then::Close => send(state, &mut stream, &answer.body).await?,
        Then::Endless => {
            let piece = vec![b' '; 1 << 16];
            for _ in 0..ENDLESS / piece.len() {
                send(state, &mut stream, &piece).await?;
            }
        }
        Then::Slow => {
            for byte in answer.body {
                send(state, &mut stream, &[byte]).await?;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    stream.shutdown().await
}

/// An answer before it is sent.
#[derive(Default)]
struct Answer {
    status: &'static str,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    length: Option<String>,
    then: Then,
}

/// Lets the head of an answer go wrong; whether the fault is one of heads.
fn spoil_head(fault: Fault, answer: &mut Answer, random: &mut Random, (host, path): (&str, &str)) -> bool {
    match fault {
        Fault::Status => {
            answer.status = random.one(&[
                "500 \u{1b}[2J",
                "429 Slow",
                "404 Gone",
                "403 No",
                "204 None",
                "304 Same",
                "418 Pot",
                "999 Odd",
            ]);
            answer.body = format!(
                r#"{{"errors":[{{"code":{},"message":"\u001b]0;x\u0007{}"}}]}}"#,
                random.one(&["\"DENIED\"", "null", "7", "\"MANIFEST_UNKNOWN\"", "\"x\""]),
                "y".repeat(random.one(&[0, 10, 200_000]))
            )
            .into_bytes();
            answer.length = Some(answer.body.len().to_string());
        }
        Fault::Challenge => {
            answer.status = "401 Unauthorized";
            answer.headers.retain(|(name, _)| name != "www-authenticate");
            for _ in 0..random.below(3) {
                let challenge = random.one(&[
                    "Basic realm=\"x\"",
                    "Bearer realm=\"file:///etc/passwd\"",
                    "Bearer realm=\"http://127.0.0.1:1/token\"",
                    "Bearer realm=\"gopher://x\", service=\"\u{e9}\"",
                    "Bearer",
                    "Bearer realm=",
                    ",,,=\"\"\\",
                    "Bearer realm=\"relative\"",
                ]);
                answer.headers.push(("www-authenticate".to_owned(), challenge.as_bytes().to_vec()));
            }
        }
        Fault::Redirect => {
            answer.status = random.one(&["301 Moved", "302 Found", "307 Again", "308 Forever"]);
            let here = format!("http://{host}{path}");
            let to = random
                .one(&["file:///etc/passwd", "http://127.0.0.1:1/", "//", "http://[::1", "x\u{1}", "", &here])
                .to_owned();
            answer.headers.push(("location".to_owned(), to.into_bytes()));
        }
        Fault::HeaderJunk => match random.below(5) {
            0 => answer.headers.push(("x".to_owned(), vec![b'y'; 300_000])),
            1 => answer.headers.extend((0..500).map(|n| (format!("x-{n}"), b"y".to_vec()))),
            2 => answer.headers.push(("x".to_owned(), b"a\n b\n\rc: d".to_vec())),
            3 => answer.headers.push(("\u{0}x y".to_owned(), vec![0, 1, 0xff])),
            _ => answer.status = "20\u{0} ?",
        },
        Fault::Length => {
            let wrong =
                ["0", "-1", "99999999999999999999999", "1e3", "5", &(answer.body.len() + 1000).to_string()]
                    [random.below(6)]
                .to_owned();
            if random.below(3) == 0 {
                answer.headers.push(("content-length".to_owned(), wrong.into_bytes()));
            } else {
                answer.length = Some(wrong);
            }
        }
        Fault::Range => {
            answer.status = "206 Partial Content";
            answer.headers.retain(|(name, _)| name != "content-range");
            let range = random.one(&["bytes 7-9/10", "bytes 18446744073709551615-1/2", "x", "bytes 0-0/1"]);
            answer.headers.push(("content-range".to_owned(), range.as_bytes().to_vec()));
        }
        Fault::DigestHeader => {
            answer.headers.retain(|(name, _)| name != "docker-content-digest");
            let long = "9".repeat(50_000);
            let odd = ["sha256:zz", "md5:d41d8cd98f00b204e9800998ecf8427e", "", &long, "sha512:00"];
            answer
                .headers
                .push(("docker-content-digest".to_owned(), odd[random.below(odd.len())].as_bytes().to_vec()));
        }
        Fault::Encoding => {
            let kind = random.one(&["gzip", "br", "identity", "\u{7f}"]);
            answer.headers.push(("content-encoding".to_owned(), kind.as_bytes().to_vec()));
        }
        _ => return false,
    }
    true
}

/// Lets the body of an answer go wrong.
fn spoil_body(fault: Fault, answer: &mut Answer, random: &mut Random) {
    match fault {
        Fault::Chunks => {
            answer.length = None;
            answer.headers.push(("transfer-encoding".to_owned(), b"chunked".to_vec()));
            answer.body =
                random.one(&[&b"ffffffffffffffff\r\nx"[..], b"zz\r\n", b"5\r\nab", b"0\r\n\r\n"]).to_vec();
        }
        Fault::Endless => {
            answer.length = random.one(&[None, Some(ENDLESS)]).as_ref().map(ToString::to_string);
            answer.then = Then::Endless;
        }
        Fault::Slow => answer.then = Then::Slow,
        Fault::Cut => {
            let at = random.below(answer.body.len() + 1);
            answer.body.truncate(at);
        }
        Fault::Flip => {
            let at = random.below(answer.body.len().max(1));
            if let Some(byte) = answer.body.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        Fault::Empty => {
            answer.body.clear();
            answer.length = Some("0".to_owned());
        }
        Fault::Noise => {
            answer.body = (0..random.below(3000)).map(|_| u8::try_from(random.below(256)).unwrap()).collect();
            answer.length = Some(answer.body.len().to_string());
        }
        Fault::Json => {
            answer.body = random
                .one(&[
                    "null",
                    "[]",
                    "{\"token\":\"abc\\ndef\"}",
                    "{\"token\":\"\\u0000\\u00e9\"}",
                    "{\"token\":null}",
                    "{\"token\":[]}",
                    "{\"schemaVersion\":2,\"manifests\":[{}]}",
                    "{\"schemaVersion\":2,\"layers\":null,\"config\":null}",
                    "{\"schemaVersion\":1}",
                    "\u{feff}{}",
                ])
                .as_bytes()
                .to_vec();
            if random.below(4) == 0 {
                answer.body = format!("{{\"token\":\"{}\"}}", "t".repeat(3 << 20)).into_bytes();
            }
            answer.length = Some(answer.body.len().to_string());
        }
        _ => {}
    }
}

/// What comes behind the head of an answer.
#[derive(Default)]
enum Then {
    #[default]
    Close,
    Endless,
    Slow,
}

async fn send(state: &State, stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes).await?;
    state.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    Ok(())
}
