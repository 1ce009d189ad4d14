//! The guest as an instance of EC2: a stand-in for the metadata service, the time service and AWS's JSON services, all
//! on loopback, and what the guest makes of them.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use i2kit_spec::job::{JobEvent, Record, Rules, Verdict, What, Work};
use i2kit_spec::user_data::{
    JobTarget, LogTarget, SecretReference, SecretSource, USER_DATA_VERSION, UserData,
};
use i2kit_spec::{EnvValue, EnvVar, LateEnvironment, RestartPolicy, SecretKey};
use serde_json::{Value, json};

use crate::disk::Disk;
use crate::pod::Pod;
use crate::vm::{PATIENCE, Vm, wanted};

const INSTANCE: &str = "i-0123456789abcdef0";
const TOKEN: &str = "token-of-the-test";

/// The stream of a Job's record.
const RECORD: &str = "default/web/1";

/// The services, and what they were asked.
#[derive(Debug, Clone)]
struct Cloud {
    port: u16,
    user_data: Arc<Mutex<String>>,
    calls: Arc<Mutex<Vec<(String, Value)>>>,
    /// How many calls of `PutLogEvents` are still to be refused.
    throttled: Arc<Mutex<u32>>,
    /// Lines of a Job's record that others wrote.
    record: Arc<Mutex<Vec<String>>>,
}

impl Cloud {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let this = Self {
            port: listener.local_addr().unwrap().port(),
            user_data: Arc::default(),
            calls: Arc::default(),
            throttled: Arc::new(Mutex::new(2)),
            record: Arc::default(),
        };
        let cloud = this.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let cloud = cloud.clone();
                // A connection that breaks off is the other side's affair.
                std::thread::spawn(move || cloud.serve(&stream.unwrap()).ok());
            }
        });
        this
    }

    fn serve(&self, stream: &TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut first = String::new();
        reader.read_line(&mut first)?;
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim().split_once(": ") else { break };
            headers.push((name.to_lowercase(), value.to_owned()));
        }
        let header =
            |name: &str| headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let length = header("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let path = first.split(' ').nth(1).unwrap_or_default();
        let signed = header("authorization").is_some_and(|text| {
            text.starts_with("AWS4-HMAC-SHA256 Credential=ASIATEST/") && text.contains("/eu-west-1/")
        }) && header("x-amz-security-token") == Some("session");
        let (status, answer) = match header("x-amz-target") {
            Some(target) if signed => self.service(target, &body),
            Some(_) => (403, "{}".into()),
            None if first.starts_with("POST / ") && signed => self.query(&body),
            None if first.starts_with("PUT /latest/api/token ") => (200, TOKEN.into()),
            None if header("x-aws-ec2-metadata-token") != Some(TOKEN) => (401, String::new()),
            None => self.metadata(path),
        };
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n", answer.len());
        let mut stream = stream;
        stream.write_all(format!("{head}{answer}").as_bytes())
    }

    /// A call of Auto Scaling.
    fn query(&self, body: &[u8]) -> (u16, String) {
        let text = String::from_utf8_lossy(body).into_owned();
        self.calls.lock().unwrap().push(("query".into(), Value::from(text)));
        (200, "<Response/>".into())
    }

    /// The calls of Auto Scaling.
    fn queries(&self) -> Vec<String> {
        let calls = self.calls.lock().unwrap();
        let queries = calls.iter().filter(|(name, _)| name == "query");
        queries.map(|(_, body)| body.as_str().unwrap().to_owned()).collect()
    }

    /// The lines of the Job's record.
    fn lines(&self, calls: &[(String, Value)]) -> Vec<String> {
        let puts = calls
            .iter()
            .filter(|(name, call)| name == "Logs_20140328.PutLogEvents" && call["logStreamName"] == RECORD)
            .filter(|(_, call)| call["logGroupName"] == "/i2kit/test/jobs");
        let written = puts.flat_map(|(_, call)| call["logEvents"].as_array().unwrap());
        let written = written.map(|event| event["message"].as_str().unwrap().to_owned());
        self.record.lock().unwrap().iter().cloned().chain(written).collect()
    }

    fn metadata(&self, path: &str) -> (u16, String) {
        let role = "/latest/meta-data/iam/security-credentials/";
        match path.strip_prefix(role) {
            Some("") => return (200, "web-role".into()),
            Some("web-role") => {
                let text = json!({"Code": "Success", "AccessKeyId": "ASIATEST", "SecretAccessKey": "secret",
                    "Token": "session", "Expiration": "2099-01-01T00:00:00Z"});
                return (200, text.to_string());
            }
            _ => {}
        }
        match path {
            "/latest/meta-data/instance-id" => (200, INSTANCE.into()),
            "/latest/meta-data/placement/region" => (200, "eu-west-1".into()),
            "/latest/meta-data/tags/instance/i2kit:lane" => (200, "1".into()),
            "/latest/meta-data/tags/instance/i2kit:record" => (200, RECORD.into()),
            "/latest/user-data" => (200, self.user_data.lock().unwrap().clone()),
            _ => (404, String::new()),
        }
    }

    fn service(&self, target: &str, body: &[u8]) -> (u16, String) {
        let body: Value = serde_json::from_slice(body).unwrap();
        let refused = |kind: &str| (400, json!({"__type": kind, "message": "no"}).to_string());
        let made = |calls: &[(String, Value)]| {
            let stream = |call: &Value| call["logStreamName"] == body["logStreamName"];
            calls.iter().any(|(name, call)| name.ends_with("CreateLogStream") && stream(call))
        };
        let mut calls = self.calls.lock().unwrap();
        let answer = match target {
            "secretsmanager.GetSecretValue" if body["SecretId"] == "test/database" => {
                (200, json!({"SecretString": r#"{"password": "geheim"}"#}).to_string())
            }
            "AmazonSSM.GetParametersByPath" if body["Path"] == "/test/mail" => {
                let first = body.get("NextToken").is_none();
                let name = if first { "/test/mail/user" } else { "/test/mail/token" };
                let next = if first { json!("more") } else { Value::Null };
                (200, json!({"Parameters": [{"Name": name, "Value": "m"}], "NextToken": next}).to_string())
            }
            "Logs_20140328.CreateLogStream" => (200, String::new()),
            "Logs_20140328.GetLogEvents" if body["logStreamName"] == RECORD => {
                // A token is the number of lines in front of it.
                let lines = self.lines(&calls);
                let first = body["nextToken"].as_str().map_or(0, |token| token.parse().unwrap());
                let events: Vec<Value> = lines[first..].iter().map(|line| json!({"message": line})).collect();
                (200, json!({"events": events, "nextForwardToken": lines.len().to_string()}).to_string())
            }
            "Logs_20140328.PutLogEvents" if !made(&calls) => refused("ResourceNotFoundException"),
            "Logs_20140328.PutLogEvents" if *self.throttled.lock().unwrap() > 0 => {
                *self.throttled.lock().unwrap() -= 1;
                refused("ThrottlingException")
            }
            "Logs_20140328.PutLogEvents" => (200, "{}".into()),
            _ => refused("AccessDeniedException"),
        };
        if answer.0 == 200 {
            calls.push((target.to_owned(), body));
        }
        answer
    }

    /// The messages that arrived in the stream of a container.
    fn messages(&self, container: &str) -> Vec<String> {
        let stream = format!("default/web/{INSTANCE}/{container}");
        let calls = self.calls.lock().unwrap();
        let puts = calls.iter().filter(|(name, call)| {
            name == "Logs_20140328.PutLogEvents"
                && call["logGroupName"] == "/i2kit/test"
                && call["logStreamName"] == stream.as_str()
        });
        puts.flat_map(|(_, call)| call["logEvents"].as_array().unwrap())
            .map(|event| event["message"].as_str().unwrap().to_owned())
            .collect()
    }
}

fn spec(cloud: &Cloud) -> UserData {
    let secret = |name: &str, source| SecretReference { name: name.into(), source };
    UserData {
        version: USER_DATA_VERSION,
        environment: "test".into(),
        namespace: "default".into(),
        group: "web".into(),
        revision: 1,
        host: None,
        job: None,
        region: None,
        logs: Some(LogTarget { group: "/i2kit/test".into() }),
        secrets: vec![
            secret("database", SecretSource::SecretsManager { secret_id: "test/database".into() }),
            secret("mail", SecretSource::Parameters { path: "/test/mail".into() }),
        ],
        endpoint: Some(format!("http://169.254.169.123:{}", cloud.port)),
    }
}

/// Serves the first of January of 2040; tells whether it could.
fn time_service() -> bool {
    let Ok(socket) = UdpSocket::bind("127.0.0.1:123") else { return false };
    std::thread::spawn(move || {
        let mut request = [0; 48];
        while let Ok((48, from)) = socket.recv_from(&mut request) {
            // In NTP's second era, that begins in 2036.
            let seconds: u32 = 123_010_304;
            let mut answer = [0; 48];
            // Version 4, server, stratum 3.
            (answer[0], answer[1]) = (0x24, 3);
            answer[24..32].copy_from_slice(&request[40..48]);
            answer[32..36].copy_from_slice(&seconds.to_be_bytes());
            answer[40..44].copy_from_slice(&seconds.to_be_bytes());
            socket.send_to(&answer, from).unwrap();
        }
    });
    true
}

#[test]
fn an_instance_gets_its_name_its_secrets_and_the_time_and_sends_its_logs() {
    if !wanted() {
        return;
    }
    let cloud = Cloud::start();
    *cloud.user_data.lock().unwrap() = serde_json::to_string(&spec(&cloud)).unwrap();
    let time = time_service();
    let variable = |name: &str, secret: &str, key: &str| EnvVar {
        name: name.into(),
        value: EnvValue::Secret(SecretKey { secret: secret.into(), key: key.into(), optional: false }),
    };
    let mut pod = Pod::new().service("talker", "echo first; echo second; exec sleep 1000").shell();
    pod.boot.services[1].late = Some(LateEnvironment {
        env: vec![variable("PASSWORD", "database", "password"), variable("TOKEN", "mail", "token")],
        ..LateEnvironment::default()
    });
    let mut vm = Vm::boot_on_ec2(&Disk::new(&pod), cloud.port);
    vm.ready();
    assert_eq!(vm.shell("hostname; echo $PASSWORD $TOKEN"), format!("{INSTANCE}\ngeheim m\n"));
    assert_eq!(
        vm.shell("ls /secrets /i2kit-aws"),
        "ls: /secrets: No such file or directory\nls: /i2kit-aws: No such file or directory\n"
    );
    let start = Instant::now();
    while cloud.messages("talker") != ["first", "second"] {
        assert!(start.elapsed() < PATIENCE, "{:?}\n{}", cloud.calls.lock().unwrap(), vm.console());
        std::thread::sleep(Duration::from_millis(100));
    }
    let console = vm.console();
    assert!(console.contains("talker | first\n"), "{console}");
    assert!(
        console.contains("i2kit: logs are not sent for now: PutLogEvents: status 400: Throttling"),
        "{console}"
    );
    assert!(!console.contains("geheim"), "{console}");
    if time {
        assert!(console.contains("i2kit: the clock was set by "), "{console}");
        let now = vm.shell("stat -c %y /proc/self");
        assert!(now.starts_with("2040-01-01 "), "{now}");
    } else {
        #[expect(clippy::print_stderr, reason = "a test that does less must say so")]
        {
            eprintln!("skipped: the time service, whose port 123 only root can serve");
        }
    }
    vm.qmp("system_powerdown");
    assert!(vm.ended().success());
    assert!(cloud.messages("_guest").iter().any(|line| line.contains("services, ")));
}

#[test]
fn an_instance_that_does_not_get_its_secrets_starts_nothing() {
    if !wanted() {
        return;
    }
    let cloud = Cloud::start();
    let mut spec = spec(&cloud);
    spec.secrets[0].source = SecretSource::SecretsManager { secret_id: "someone/else".into() };
    *cloud.user_data.lock().unwrap() = serde_json::to_string(&spec).unwrap();
    let mut vm = Vm::boot_on_ec2(&Disk::new(&Pod::new().shell()), cloud.port);
    vm.ended();
    let console = vm.console();
    assert!(console.contains("GetSecretValue: status 400: AccessDeniedException"), "{console}");
    assert!(console.contains("i2kit: fatal: ") && !console.contains("services, "), "{console}");
}

/// What a Job's record says at first: two lanes, of which the machine is the second, and an Indexed Job of four.
fn job_record(backoff_limit: u32) -> Vec<String> {
    let rules: Rules = serde_json::from_value(
        json!({"completions": 4, "lanes": 2, "backoffLimit": backoff_limit, "indexed": true}),
    )
    .unwrap();
    let run = What::Run { number: 1, revision: 1, scheduled: false };
    let events = [JobEvent { at: 1, what: What::Rules { rules } }, JobEvent { at: 2, what: run }];
    events.iter().map(|event| serde_json::to_string(event).unwrap()).collect()
}

/// Boots a machine of that Job, whose container ends with exit code 3, and waits for its end.
fn run_job(backoff_limit: u32) -> (Cloud, Record) {
    let cloud = Cloud::start();
    *cloud.record.lock().unwrap() = job_record(backoff_limit);
    let job = Some(JobTarget { group: "i2kit-test_default_web".into() });
    let spec = UserData { secrets: vec![], job, ..spec(&cloud) };
    *cloud.user_data.lock().unwrap() = serde_json::to_string(&spec).unwrap();
    let mut pod = Pod::new().service("worker", "exit 3");
    pod.boot.restart_policy = RestartPolicy::Never;
    let mut vm = Vm::boot_on_ec2(&Disk::new(&pod), cloud.port);
    vm.ended();
    let lines = cloud.lines(&cloud.calls.lock().unwrap());
    (cloud, Record::read(lines.iter().map(String::as_str)))
}

#[test]
fn a_machine_of_a_job_learns_its_slot_and_has_itself_replaced_when_it_failed() {
    if !wanted() {
        return;
    }
    let (cloud, record) = run_job(6);
    let run = &record.runs[0];
    assert_eq!((run.failures, run.succeeded), (1, 0), "{record:?}");
    let reason = run.last_failure.as_deref().unwrap_or_default();
    assert_eq!(reason, format!("{INSTANCE}: worker: Error, exit code 3"));
    assert_eq!(record.work(1, 0), Work::Slot(Some(1)), "it is tried again");
    let queries = cloud.queries();
    // What ends a lane of which no machine begins goes with the beginning, and comes back with the end.
    let [begun, guard, ended] = &queries[..] else { panic!("{queries:?}") };
    let group = "AutoScalingGroupName=i2kit-test_default_web_1&ScheduledActionName=i2kit-deadline";
    assert!(begun.contains("Action=DeleteScheduledAction&") && begun.ends_with(group), "{begun}");
    assert!(guard.contains("Action=PutScheduledUpdateGroupAction&") && guard.contains(group), "{guard}");
    assert!(guard.ends_with("&MinSize=0&MaxSize=0&DesiredCapacity=0"), "{guard}");
    assert!(ended.starts_with("Action=TerminateInstanceInAutoScalingGroup&Version=2011-01-01&"), "{ended}");
    assert!(
        ended.ends_with(&format!("InstanceId={INSTANCE}&ShouldDecrementDesiredCapacity=false")),
        "{ended}"
    );
}

#[test]
fn a_machine_that_fails_its_job_ends_the_others_and_is_not_replaced() {
    if !wanted() {
        return;
    }
    let (cloud, record) = run_job(0);
    assert!(matches!(record.verdict(&record.runs[0], 0), Verdict::Failed(_)), "{record:?}");
    let queries = cloud.queries();
    let [_, others, unlimited, ended] = &queries[..] else { panic!("{queries:?}") };
    assert!(unlimited.contains("Action=DeleteScheduledAction&"), "{unlimited}");
    assert!(others.contains("SetDesiredCapacity") && others.contains("i2kit-test_default_web&"), "{others}");
    assert!(ended.ends_with("ShouldDecrementDesiredCapacity=true"), "{ended}");
}
