//! Replicated pods with state on disks: Redis by its own protocol, and notes that are files of a folder. Neither knows of replicas.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::replicated::{leader, machine, replicas};
use crate::support::{Images, Response, World, ask, eventually, get, kill, machines};

/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_mins(1);

/// A client of Redis.
struct Redis(BufReader<TcpStream>);

impl Redis {
    fn connect(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_write_timeout(Some(ANSWER_LIMIT))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Sends a command. The reply is in words: those of an array stand between brackets, what is none is `nil`.
    fn ask(&mut self, words: &[&str]) -> io::Result<String> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.extend(["$", &word.len().to_string(), "\r\n", word, "\r\n"]);
        }
        self.0.get_mut().write_all(request.as_bytes())?;
        self.reply()
    }

    fn reply(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (kind, rest) = line.trim_end().split_at(1);
        let length = || rest.parse::<i64>().map_err(io::Error::other);
        match kind {
            "+" | ":" | "-" => Ok(rest.to_owned()),
            "$" | "*" if length()? < 0 => Ok("nil".to_owned()),
            "$" => {
                let mut bytes = vec![0; usize::try_from(length()?).unwrap() + 2];
                self.0.read_exact(&mut bytes)?;
                bytes.truncate(bytes.len() - 2);
                String::from_utf8(bytes).map_err(io::Error::other)
            }
            "*" => {
                let all: io::Result<Vec<String>> = (0..length()?).map(|_| self.reply()).collect();
                Ok(format!("[{}]", all?.join(" ")))
            }
            _ => Err(io::Error::other(format!("no reply of Redis: {line}"))),
        }
    }
}

#[test]
fn redis_is_replicated_as_it_is_and_a_machine_that_comes_back_gets_its_data() {
    if !machines() {
        return;
    }
    let world = World::new();
    world.write_example("tests/replicated/redis.yaml", "redis.yaml", &[]);
    world.i2kit(&["deploy", "redis.yaml"]).run();
    let first = leader(&world, "redis");
    let address = world.address("redis");
    let mut redis = eventually("Redis", || {
        let mut redis = Redis::connect(&address).ok()?;
        (redis.ask(&["PING"]).ok()? == "PONG").then_some(redis)
    });
    let mut is = |words: &[&str], reply: &str| assert_eq!(redis.ask(words).unwrap(), reply, "{words:?}");
    is(&["SET", "greeting", "grüße"], "OK");
    is(&["GET", "greeting"], "grüße");
    is(&["RPUSH", "list", "a", "b", "c"], "3");
    is(&["LRANGE", "list", "0", "-1"], "[a b c]");
    // A transaction is one command of the order.
    is(&["MULTI"], "OK");
    is(&["INCRBY", "sum", "40"], "QUEUED");
    is(&["INCRBY", "sum", "2"], "QUEUED");
    is(&["EXEC"], "[40 42]");
    let refused = redis.ask(&["WATCH", "sum"]).unwrap();
    assert!(refused.starts_with("ERR "), "{refused}");
    drop(redis);

    // A client counts while the leader's machine ends. Without keys a command whose reply does not come was executed once or never.
    let (mut acknowledged, mut unknown) = (0, 0);
    let mut count = |until: u64| {
        let mut client = None;
        eventually(&format!("count of {until}"), || {
            let redis: &mut Option<Redis> = &mut client;
            if redis.is_none() {
                *redis = Redis::connect(&address).ok();
            }
            match redis.as_mut()?.ask(&["INCR", "count"]) {
                Ok(reply) if reply.parse::<u64>().is_ok() => acknowledged += 1,
                Ok(_) | Err(_) => {
                    unknown += 1;
                    *redis = None;
                }
            }
            (acknowledged >= until).then_some(())
        });
        (acknowledged, unknown)
    };
    count(20);
    kill(machine(&world, "redis", &first));
    let (acknowledged, unknown) = count(60);
    assert_ne!(leader(&world, "redis"), first, "it has a new machine, and another one leads since");

    // Each server has the same, the one in the new machine too.
    eventually("three servers that have executed the same", || {
        let states = replicas(&world, "redis");
        let applied: Vec<u64> = states.values().filter_map(|status| status["applied"].as_u64()).collect();
        let agree = states.values().all(|status| status["divergedAt"].is_null());
        assert!(agree, "{states:?}");
        (applied.len() == 3 && applied.iter().all(|one| *one == applied[0])).then_some(())
    });
    let own = |slot: usize, words: &[&str]| {
        let instance = format!("redis-{slot}");
        let arguments = [&["exec", &instance, "-c", "redis", "--", "redis-cli"], words].concat();
        world.i2kit(&arguments).run().stdout
    };
    for slot in 0..3 {
        assert_eq!(own(slot, &["get", "greeting"]), "grüße\n");
        assert_eq!(own(slot, &["lrange", "list", "0", "-1"]), "a\nb\nc\n");
        assert_eq!(own(slot, &["get", "count"]), own(0, &["get", "count"]));
    }
    let counted: u64 = own(0, &["get", "count"]).trim().parse().unwrap();
    assert!(
        (acknowledged..=acknowledged + unknown).contains(&counted),
        "{acknowledged} acknowledged, {unknown} unknown, {counted} counted"
    );
    world.i2kit(&["destroy", "redis.yaml", "--volumes"]).run();
    world.assert_nothing_left();
}

/// Asks for a change with a key, again and again until it is answered with one of these codes.
fn change(address: &str, (method, path): (&str, &str), body: &str, codes: &[u16]) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let (key, length) = (NEXT.fetch_add(1, Ordering::Relaxed), body.len());
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nIdempotency-Key: {key}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    eventually(&format!("answer to {method} {path}"), || {
        let response = ask(address, &request).ok()?;
        let is_over = codes.contains(&response.status);
        assert!(is_over || response.status >= 500, "{} to {method} {path}", response.text);
        if !is_over {
            std::thread::sleep(Duration::from_millis(50));
        }
        is_over.then_some(())
    });
}

/// The answer to a read, once it is 200 or 404.
fn read(address: &str, path: &str) -> Response {
    eventually(&format!("answer of {path}"), || {
        get(address, path).ok().filter(|response| matches!(response.status, 200 | 404))
    })
}

fn body(response: &Response) -> &str {
    response.text.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

/// How many snapshots the replica of a slot took since it started.
fn snapshots(world: &World, slot: u32) -> u64 {
    let program =
        "import urllib.request as u; print(u.urlopen('http://127.0.0.1:7312/metrics').read().decode())";
    let instance = format!("notes-{slot}");
    let text = world.i2kit(&["exec", &instance, "-c", "notes", "--", "python3", "-c", program]).run().stdout;
    let count = text.lines().find_map(|line| line.strip_prefix("i2kit_replica_snapshot_seconds_count "));
    count.unwrap_or_else(|| panic!("no count of snapshots in {text}")).parse().unwrap()
}

/// A note of 900 KiB that fills the log, with its number in it.
fn large(number: u32) -> String {
    format!("{number:04}").repeat((900 << 10) / 4)
}

#[test]
fn notes_in_files_outlive_the_loss_of_a_majority_by_a_recovery() {
    if !machines() {
        return;
    }
    let world = World::with(Images::Software);
    world.write_example("tests/replicated/notes.yaml", "notes.yaml", &[]);
    world.i2kit(&["deploy", "notes.yaml"]).run();
    leader(&world, "notes");
    let address = world.address("notes");
    change(&address, ("PUT", "/notes/first"), "before the snapshot", &[201]);
    change(&address, ("PUT", "/notes/gone"), "x", &[201]);
    change(&address, ("DELETE", "/notes/gone"), "", &[204]);
    // The log reaches half of its limit, 32 MiB: the folder is copied.
    let mut written = 0;
    eventually("a snapshot of slot 0", || {
        written += 1;
        change(&address, ("PUT", "/notes/large"), &large(written), &[200, 201]);
        (written >= 36 && snapshots(&world, 0) > 0).then_some(())
    });
    change(&address, ("PUT", "/notes/last"), "after the snapshot", &[201]);
    eventually("three replicas that have executed the same", || {
        let states = replicas(&world, "notes");
        let applied: Vec<u64> = states.values().filter_map(|status| status["applied"].as_u64()).collect();
        (applied.len() == 3 && applied.iter().all(|one| *one == applied[0])).then_some(())
    });

    // Two of three logs are lost with their disks: nobody is a majority, and nothing begins anew by itself.
    world.i2kit(&["scale", "notes", "--replicas", "0"]).run();
    // A disk is its machine's until that has ended.
    eventually("end of all machines", || world.group("notes").instances.is_empty().then_some(()));
    world.i2kit(&["volume", "rm", "i2kit-log-notes-1", "i2kit-log-notes-2"]).run();
    world.i2kit(&["deploy", "notes.yaml", "--wait=false"]).run();
    let announced = eventually("replicas of which one can go on", || {
        let output = world.command(&["replicas", "notes", "--recover"]).output().unwrap();
        match output.status.code() {
            Some(2) => Some(output),
            Some(7) => None,
            code => panic!("{code:?}: {output:?}"),
        }
    });
    let (said, why) =
        (String::from_utf8(announced.stdout).unwrap(), String::from_utf8(announced.stderr).unwrap());
    assert!(said.starts_with("notes goes on from notes-0 alone, whose log ends at index "), "{said}");
    assert!(why.contains("nothing was done; with --yes the group goes on from notes-0 alone"), "{why}");
    assert!(replicas(&world, "notes").values().all(|status| status["role"] != "leader"), "nothing was done");
    world
        .i2kit(&["replicas", "notes", "--recover", "--yes"])
        .prints("notes-0 leads notes alone, from index ")
        .run();

    // The others have empty disks, and join; what was acknowledged is there.
    leader(&world, "notes");
    let address = world.address("notes");
    assert_eq!(body(&read(&address, "/notes")), "first\nlarge\nlast\n");
    assert_eq!(body(&read(&address, "/notes/first")), "before the snapshot");
    assert_eq!(body(&read(&address, "/notes/last")), "after the snapshot");
    assert_eq!(body(&read(&address, "/notes/large")), large(written));
    change(&address, ("PUT", "/notes/new"), "after the recovery", &[201]);
    world.i2kit(&["events", "notes"]).prints("Recovered").run();
    world.i2kit(&["wait", "notes"]).run();
    world.i2kit(&["destroy", "notes.yaml", "--volumes"]).run();
    world.assert_nothing_left();
}
