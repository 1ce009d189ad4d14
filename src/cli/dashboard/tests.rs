//! The dashboard as a browser meets it: over a socket, in front of a stand-in for a cloud.

mod stage;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use self::stage::{HOSTILE, Stage};
use super::keys::Keys;
use super::listeners::Listeners;
use super::server;
use super::site::Site;
use crate::plan::fleet::Fleet;
use crate::report;

/// A dashboard that serves, and what a browser knows of it.
struct Served {
    port: u16,
    url: String,
    folder: String,
    cookie: String,
    stage: Stage,
    site: Arc<Site>,
}

async fn served() -> Served {
    with_head_time(Duration::from_secs(20)).await
}

async fn with_head_time(head_time: Duration) -> Served {
    let stage = Stage::busy().await;
    let listeners = Listeners::bind(None).await.unwrap();
    let port = listeners.port();
    let keys = Keys::random(port).unwrap();
    let (url, folder, cookie) = (keys.url(), keys.folder(), keys.cookie());
    let site = Arc::new(Site::new(stage::context(&stage), keys));
    tokio::spawn(server::with(listeners, Arc::clone(&site), head_time));
    let cookie = cookie.split(';').next().unwrap().to_owned();
    Served { port, url, folder, cookie, stage, site }
}

/// An answer: its status, its head in small letters, its body.
type Answered = (u16, String, String);

impl Served {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.unwrap()
    }

    /// Sends a request as it is, and reads what comes until the connection ends.
    async fn raw(&self, request: &str) -> Answered {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A server that closes before it has read everything resets the connection.
        drop(stream.read_to_end(&mut answer).await);
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        (status, head.to_lowercase(), body.to_owned())
    }

    fn head(&self, method: &str, path: &str, more: &str) -> String {
        format!(
            "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nconnection: close\r\n{more}\r\n",
            self.port
        )
    }

    async fn get(&self, path: &str) -> Answered {
        let cookie = format!("cookie: {}\r\n", self.cookie);
        self.raw(&self.head("GET", &format!("{}{path}", self.folder), &cookie)).await
    }

    async fn post(&self, path: &str, body: &str) -> Answered {
        let port = self.port;
        let more = format!(
            "cookie: {}\r\norigin: http://127.0.0.1:{port}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n",
            self.cookie,
            body.len()
        );
        self.raw(&(self.head("POST", &format!("{}{path}", self.folder), &more) + body)).await
    }

    /// The first lines of a stream.
    async fn lines(&self, path: &str, wanted: usize) -> Vec<Value> {
        let mut stream = self.connect().await;
        let cookie = format!("cookie: {}\r\n", self.cookie);
        let head = self.head("GET", &format!("{}{path}", self.folder), &cookie);
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        let mut found = Vec::new();
        while found.len() < wanted {
            let next = tokio::time::timeout(Duration::from_mins(1), lines.next_line()).await;
            let line = next.expect("a line comes").unwrap().expect("a stream goes on");
            // Between the lines are those of the transfer.
            found.extend(serde_json::from_str(&line).ok().filter(Value::is_object));
        }
        found
    }
}

fn on_runtime<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(future)
}

/// Headers that no answer lacks.
const GUARDS: [&str; 6] = [
    "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; ",
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "x-frame-options: deny",
    "x-content-type-options: nosniff",
    "referrer-policy: no-referrer",
    "cache-control: no-store",
];

#[test]
fn the_token_is_exchanged_for_a_cookie_and_every_answer_is_guarded() {
    on_runtime(async {
        let served = served().await;
        let token = served.url.split_once("/?token=").unwrap().1.to_owned();
        let (status, head, body) = served.raw(&served.head("GET", &format!("/?token={token}"), "")).await;
        assert_eq!(status, 303, "{head}");
        assert!(head.contains(&format!("location: {}", served.folder)), "{head}");
        assert!(head.contains(&format!("set-cookie: {}; path={}", served.cookie, served.folder)), "{head}");
        assert!(!head.contains(&token) && !body.contains(&token), "the token is kept nowhere: {head}");
        let mut answers = vec![(status, head, body)];
        for (path, kind) in [
            ("", "text/html"),
            ("dashboard.js", "text/javascript"),
            ("dashboard.css", "text/css"),
            ("dashboard.svg", "image/svg+xml"),
            ("environments", "application/json"),
        ] {
            let answer = served.get(path).await;
            assert!(
                answer.0 == 200 && answer.1.contains(&format!("content-type: {kind}")),
                "{path}: {answer:?}"
            );
            assert!(!answer.2.contains(&token), "{path}");
            answers.push(answer);
        }
        assert_eq!(
            answers.last().unwrap().2,
            r#"{"cloud":"the local cloud","current":"shop","environments":["shop","staging"]}"#
        );
        answers.push(served.get("watch?environment=nowhere").await);
        assert_eq!(answers.last().unwrap().0, 404);
        answers.push(served.get("../secrets").await);
        answers.push(served.raw(&served.head("GET", "/", "")).await);
        assert_eq!(answers.last().unwrap().0, 401);
        for (_, head, _) in &answers {
            for guard in GUARDS {
                assert!(head.contains(guard), "{guard} is not in\n{head}");
            }
        }
    });
}

#[test]
fn nothing_is_answered_without_the_key_to_another_host_or_to_another_page() {
    on_runtime(async {
        let served = served().await;
        let (folder, cookie, port) = (&served.folder, &served.cookie, served.port);
        for path in
            ["", "dashboard.js", "environments", "watch?environment=shop", "logs?environment=shop&name=front"]
        {
            let answer = served.raw(&served.head("GET", &format!("{folder}{path}"), "")).await;
            assert_eq!(answer.0, 401, "{path}");
            assert!(answer.1.contains("connection: close") && !answer.2.contains("front"), "{answer:?}");
            let wrong = "cookie: i2kit-dashboard=0000\r\n";
            assert_eq!(
                served.raw(&served.head("GET", &format!("{folder}{path}"), wrong)).await.0,
                401,
                "{path}"
            );
        }
        let rebound = format!(
            "GET {folder} HTTP/1.1\r\nhost: evil.example:{port}\r\ncookie: {cookie}\r\nconnection: close\r\n\r\n"
        );
        assert_eq!(served.raw(&rebound).await.0, 403);
        let body = json!({"environment": "shop", "group": {"namespace": "default", "name": "front"},
            "change": {"scale": 1}})
        .to_string();
        let length = body.len();
        for origin in ["http://evil.example", "http://127.0.0.1:1", "null"] {
            let more = format!(
                "cookie: {cookie}\r\norigin: {origin}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n"
            );
            let answer = served.raw(&(served.head("POST", &format!("{folder}plan"), &more) + &body)).await;
            assert_eq!(answer.0, 403, "{origin}");
        }
        assert_eq!(served.post("plan", &body).await.0, 200);
    });
}

#[test]
fn heads_bodies_times_and_clients_have_limits() {
    on_runtime(async {
        let served = with_head_time(Duration::from_millis(700)).await;
        let long = format!("x-long: {}\r\n", "x".repeat(20_000));
        let answer = served.raw(&served.head("GET", "/", &long)).await;
        // 0: it was closed before all of the head was read.
        assert!(matches!(answer.0, 431 | 0), "{answer:?}");
        assert_eq!(served.get("environments").await.0, 200);
        let many = "x-many: 1\r\n".repeat(200);
        assert_eq!(served.raw(&served.head("GET", "/", &many)).await.0, 431);
        assert_eq!(served.post("plan", &"x".repeat(5000)).await.0, 413);
        assert_eq!(served.post("plan", "{}").await.0, 400);
        // As many silent clients as there may be: the next one is served once their time is over.
        let mut silent = Vec::new();
        for _ in 0..64 {
            silent.push(served.connect().await);
        }
        let begun = tokio::time::Instant::now();
        let answer = tokio::time::timeout(Duration::from_secs(10), served.get("environments")).await.unwrap();
        assert_eq!(answer.0, 200);
        assert!(begun.elapsed() > Duration::from_millis(300), "nobody waited: {:?}", begun.elapsed());
        let ended = tokio::time::timeout(Duration::from_secs(5), silent[0].read(&mut [0; 512])).await;
        assert!(ended.is_ok(), "a client that says nothing is kept");
    });
}

#[test]
fn a_change_is_planned_confirmed_and_carried_out_as_the_verbs_do_it() {
    on_runtime(async {
        let served = served().await;
        let wish = |change: Value, confirmed: &Value| {
            // The digest of a plan.
            let confirmed = &confirmed["digest"];
            json!({"environment": "shop", "group": {"namespace": "default", "name": "front"}, "change": change,
                "confirmed": confirmed.as_str().unwrap_or_default()})
            .to_string()
        };
        let replicas = || {
            served
                .stage
                .sim
                .world()
                .environment
                .groups
                .values()
                .map(|group| group.replicas)
                .collect::<Vec<_>>()
        };
        let before = replicas();
        let answered = |answer: Answered| -> Value {
            assert_eq!(answer.0, 200, "{answer:?}");
            serde_json::from_str(&answer.2).unwrap()
        };
        let planned = answered(served.post("plan", &wish(json!({"scale": 5}), &json!([]))).await);
        assert_eq!(
            planned["steps"],
            json!(["~ scale front: 3 -> 5 VMs", ". wait for front: 5 VMs of revision 2 healthy"])
        );
        assert_eq!(replicas(), before, "a plan changes nothing");
        // What was confirmed is another plan.
        let stale = served.post("change", &wish(json!({"scale": 4}), &planned)).await;
        assert!(stale.0 == 409 && stale.2.contains("look at the new plan"), "{stale:?}");
        let unconfirmed = served.post("change", &wish(json!({"scale": 4}), &json!([]))).await;
        assert_eq!((unconfirmed.0, replicas()), (409, before.clone()));
        let done = answered(served.post("change", &wish(json!({"scale": 5}), &planned)).await);
        assert_eq!(done["steps"], json!([". wait for front: 5 VMs of revision 2 healthy"]));
        assert_ne!(replicas(), before);
        let back = answered(served.post("plan", &wish(json!({"rollback": 1}), &json!([]))).await);
        assert!(back["steps"][0].as_str().unwrap().contains("refresh front"), "{back}");
        answered(served.post("change", &wish(json!({"rollback": 1}), &back)).await);
        {
            let world = served.stage.sim.world();
            let front = world.environment.groups.values().find(|group| group.replicas == 5).unwrap();
            assert_eq!(front.memory.refresh.as_ref().map(|refresh| refresh.to), Some(1));
        }
        let again = answered(served.post("plan", &wish(json!("restart"), &json!([]))).await);
        assert_eq!(again["steps"][0], "+ revision 3 of front: the same as revision 1", "{again}");
        // As the verbs refuse it.
        let refused = served.post("plan", &wish(json!({"rollback": 9}), &json!([]))).await;
        assert!(refused.0 == 404 && refused.2.contains("revision 9"), "{refused:?}");
        assert_eq!(served.post("plan", &wish(json!({"scale": 100_000}), &json!([]))).await.0, 400);
        assert_eq!(served.post("plan", &wish(json!({"destroy": 1}), &json!([]))).await.0, 400);
    });
}

#[test]
fn an_end_waits_for_changes_under_way_and_begins_none() {
    on_runtime(async {
        let served = served().await;
        let body = |confirmed: &str| {
            json!({"environment": "shop", "group": {"namespace": "default", "name": "orders"}, "change": "restart",
                "confirmed": confirmed})
            .to_string()
        };
        let planned: Value = serde_json::from_str(&served.post("plan", &body("")).await.2).unwrap();
        let digest = planned["digest"].as_str().unwrap();
        // The cloud takes its time with each act.
        served.stage.slow(Duration::from_millis(300));
        let request = body(digest);
        let begun = tokio::time::Instant::now();
        let ((status, _, answer), ended) = tokio::join!(served.post("change", &request), async {
            while served.site.running.count() == 0 {
                assert!(begun.elapsed() < Duration::from_secs(20), "no change begins");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            served.site.running.close();
            served.site.running.ended().await;
            let world = served.stage.sim.world();
            let orders = world.environment.groups.iter().find(|(name, _)| name.name == "orders").unwrap().1;
            orders.memory.refresh.as_ref().map(|refresh| refresh.to)
        });
        assert_eq!(status, 200, "{answer}");
        assert_eq!(ended, Some(3), "the whole change was made before the end");
        let late = served.post("change", &request).await;
        assert!(late.0 == 500 && late.2.contains("is being ended, and nothing was done"), "{late:?}");
    });
}

#[test]
fn a_cloud_that_hangs_is_no_lost_connection_and_many_changes_are_few_looks() {
    on_runtime(async {
        let served = served().await;
        // Each look of the stand-in's watch has changes for as long as groups come and go.
        let first = served.lines("watch?environment=shop", 1).await;
        assert!(first[0]["fleet"].is_object(), "{first:?}");
        let looks = served.stage.looks();
        served.stage.busy_watch(true);
        let begun = tokio::time::Instant::now();
        drop(served.lines("watch?environment=shop", 4).await);
        let most = 3 + u64::try_from(begun.elapsed().as_millis() / 250).unwrap();
        let made = served.stage.looks() - looks;
        assert!(made <= most, "{made} looks in {:?}", begun.elapsed());
        served.stage.busy_watch(false);
        served.stage.hang(Duration::from_millis(2500));
        let lines = served.lines("watch?environment=shop", 2).await;
        let trouble = lines[0]["trouble"].as_str().unwrap_or_default();
        assert!(trouble.contains("has not answered") && lines[1]["fleet"].is_object(), "{lines:?}");
    });
}

#[test]
fn who_asks_while_it_connects_waits_for_the_same_and_a_failure_is_no_end() {
    on_runtime(async {
        let served = served().await;
        served.stage.connect_slowly(Duration::from_millis(400));
        let begun = tokio::time::Instant::now();
        let all = (0..5).map(|_| served.site.connect("shop"));
        let connected = futures::future::join_all(all).await;
        assert!(connected.iter().all(Result::is_ok) && begun.elapsed() < Duration::from_secs(2));
        // One for looks and one for changes.
        assert_eq!(served.stage.connections(), (1, 1));
        // Whoever began it may go: the others still get it.
        let gone = tokio::time::timeout(Duration::from_millis(50), served.site.connect("staging")).await;
        assert!(gone.is_err());
        served.site.connect("staging").await.unwrap();
        assert_eq!(served.stage.connections(), (2, 2));
    });
}

#[test]
fn the_fleet_and_the_lines_of_containers_are_followed() {
    on_runtime(async {
        let served = served().await;
        let found = served.lines("watch?environment=shop", 2).await;
        let fleet = &found[0]["fleet"];
        assert_eq!(fleet["groups"].as_array().map(Vec::len), Some(4), "{fleet}");
        let cart = fleet["groups"].as_array().unwrap().iter().find(|group| group["name"] == "cart").unwrap();
        assert_eq!((&cart["tone"], &cart["status"]), (&json!("warn"), &json!("rolled back")), "{cart}");
        assert_eq!(cart["rollouts"][0]["canRollBack"], true);
        let orders =
            fleet["groups"].as_array().unwrap().iter().find(|group| group["name"] == "orders").unwrap();
        let replica = |at: usize| orders["instances"][at]["replica"].clone();
        assert_eq!(
            (&replica(0)["role"], &replica(0)["behind"], &replica(0)["tone"]),
            (&json!("leader"), &json!(0), &json!("good"))
        );
        assert_eq!((&replica(1)["role"], &replica(1)["behind"]), (&json!("follower"), &json!(2)), "{orders}");
        assert!(cart["instances"][0]["replica"].is_null());
        // Revision 2 runs, and 3 never served.
        assert_eq!((&cart["current"], &cart["earlier"]), (&json!(2), &json!(1)), "{cart}");
        assert_eq!(fleet["services"][0]["addresses"][0]["url"], "http://127.77.1.2/");
        assert!(found[1]["fleet"].is_object(), "use and traffic change without end");
        let path = "logs?environment=shop&namespace=default&name=front&instance=&container=";
        let lines = served.lines(path, 6).await;
        let hostile = lines[3]["text"].as_str().unwrap();
        assert!(hostile.starts_with("<script>") && hostile.contains("␛[2J\\u{202e}txt"), "{hostile}");
        assert!(HOSTILE.contains('\u{1b}') && !hostile.contains('\u{1b}'));
        let nobody = served.get("logs?environment=shop&namespace=default&name=nobody").await;
        assert!(nobody.0 == 502 && nobody.2.contains("nobody"), "{nobody:?}");
    });
}

#[test]
fn the_page_shows_no_secret_and_nothing_hidden() {
    let stranger = "x\u{1b}[2J\u{202e}y";
    let fleet: Fleet = serde_json::from_value(json!({
        "environment": stranger, "groups": [{
            "name": {"namespace": "default", "name": stranger}, "replicas": 1,
            "settings": {"strategy": "Recreate", "minReadySeconds": 0, "progressDeadlineSeconds": 600,
                "revisionHistoryLimit": 10, "labels": {}},
            "current": 1, "nextRevision": 2,
            "revisions": [{"number": 1, "launch": {"image": stage::image("web"), "memoryMib": 128, "vcpus": 1,
                "ports": [], "healthPort": 10256, "gracePeriodSeconds": 30,
                "secrets": {"password": "version-of-a-secret"}}, "created": 10, "cause": stranger, "deployed": 20}],
            "instances": [{"id": "web-1", "revision": 1, "state": "running", "since": 30, "endpoints": [],
                "health": {"status": "unhealthy", "reason": stranger},
                "containers": [{"name": stranger, "ready": false, "restarts": 3, "state": stranger}]}],
            "refresh": {"status": "rolledBack", "from": 1, "to": 2, "updated": 0, "available": 0, "total": 1,
                "started": 40, "reason": "line\nof a console"}}],
        "balancers": [], "images": [], "warnings": [stranger],
    }))
    .unwrap();
    let shown = super::view::of(&fleet);
    let text = shown.to_string();
    assert!(!text.contains("version-of-a-secret") && !text.contains("password"), "{text}");
    assert!(
        text.contains("x␛[2J\\\\u{202e}y") && !text.contains('\u{202e}') && !text.contains("\\u001b"),
        "{text}"
    );
    insta::assert_json_snapshot!("dashboard", shown);
}

#[test]
fn the_script_makes_no_markup_of_text() {
    let script = include_str!("../../../templates/dashboard/dashboard.js");
    for way in [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
        "srcdoc",
        "DOMParser",
    ] {
        assert!(!script.contains(way), "{way}");
    }
    let page = include_str!("../../../templates/dashboard/dashboard.html");
    for way in ["http://", "https://", "style=", "onclick", "onload", "<style"] {
        assert!(!page.contains(way), "{way}");
    }
}

#[test]
#[ignore = "serves the stand-in until its input ends; scripts/dashboard-look runs it"]
fn a_stand_in_is_served() {
    on_runtime(async {
        let served = served().await;
        report::result(&format!("{}\n", served.url));
        // A line has it roll something out, for who looks at that.
        let (sender, mut orders) = tokio::sync::mpsc::channel(1);
        std::thread::spawn(move || {
            for line in std::io::stdin().lines() {
                sender.blocking_send(line.unwrap()).unwrap();
            }
        });
        while orders.recv().await.is_some() {
            served.stage.update().await;
        }
    });
}
