//! Replicated pods: an application that keeps its state in memory loses no write that was acknowledged, and executes none
//! twice, whichever machine ends and whoever leads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Images, World, ask, eventually, get, kill, machines};

/// Clients that write at the same time, each to a counter of its own.
const CLIENTS: usize = 2;

/// The pause of a client between two writes. Emulated machines execute some ten a second: without it a machine that comes back
/// would catch up no faster than the others go on.
const PAUSE: Duration = Duration::from_millis(200);

/// The words of a group's replicas about themselves, by name.
pub(crate) fn replicas(world: &World, group: &str) -> BTreeMap<String, Value> {
    let output = world.i2kit(&["replicas", group, "--output", "json"]).run().stdout;
    let found: Vec<Value> = serde_json::from_str(&output).unwrap();
    found.into_iter().map(|one| (one["name"].as_str().unwrap().to_owned(), one["status"].clone())).collect()
}

/// The name of a group's leader, once all three replicas agree on one and vote.
pub(crate) fn leader(world: &World, group: &str) -> String {
    eventually("a leader that three replicas know", || {
        let found = replicas(world, group);
        let leader = found.iter().find(|(_, status)| status["role"] == "leader")?;
        let follows = |status: &&Value| status["leader"] == leader.1["slot"] && status["waitsFor"].is_null();
        (found.values().filter(follows).count() == 3).then(|| leader.0.clone())
    })
}

/// The process of the machine of that name.
pub(crate) fn machine(world: &World, group: &str, name: &str) -> u32 {
    let group = world.group(group);
    let found = group.members().find(|instance| instance.called() == name);
    found.and_then(|instance| instance.pid).unwrap_or_else(|| panic!("no machine {name}"))
}

/// Moves the lead of the counters, and looks at what the verb refuses.
fn move_the_lead(world: &World, from: &str) {
    let to = if from == "counters-1" { 2 } else { 1 };
    let (slot, leads) = (to.to_string(), format!("counters-{to} leads"));
    eventually("the lead moved", || {
        let output = world.command(&["replicas", "counters", "--lead", &slot]).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        // A slot on a busy host may take longer to take over than anybody waits.
        assert!(matches!(output.status.code(), Some(0 | 7)), "{said} {:?}", output.stderr);
        (output.status.success() && said.starts_with(&leads)).then_some(())
    });
    assert_eq!(leader(world, "counters"), format!("counters-{to}"));
    world
        .i2kit(&["replicas", "counters", "--lead", &slot])
        .prints(&format!("{leads} already, in term "))
        .run();
    world.i2kit(&["replicas", "counters", "--lead", "3"]).code(2).says("its slots are 0 to 2").run();
    // Nothing is lost, and nobody is made to lose anything.
    let refused = world.i2kit(&["replicas", "counters", "--recover", "--yes"]).code(7);
    refused.says("is connected with a majority of counters: the group needs no recovery").run();
}

/// What the environment's own pages say of the replicas, without a question to them.
fn is_told(world: &World, leader: &str) {
    eventually("a status with three replicas", || {
        let status = world.i2kit(&["status"]).prints("REPLICA").run().stdout;
        let lines = || status.lines().filter(|line| line.starts_with("counters-"));
        let leads = lines().filter(|line| line.contains(" leader ")).collect::<Vec<_>>();
        let is_it = matches!(leads[..], [line] if line.starts_with(leader));
        (is_it && lines().filter(|line| line.contains(" follower ")).count() == 2).then_some(())
    });
    let text = world.i2kit(&["status", "--metrics"]).run().stdout;
    let leads = format!("instance=\"{leader}\"}} 1");
    assert!(
        text.lines().any(|line| line.starts_with("i2kit_replica_leader{") && line.ends_with(&leads)),
        "{text}"
    );
    world.i2kit(&["events", "counters"]).prints("LeaderElected").prints("Joined").run();
}

fn body(text: &str) -> &str {
    text.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

/// Clients that count up, one request after the other, and ask again with the same key until they are answered.
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    wrong: Arc<Mutex<Vec<String>>>,
    threads: Vec<JoinHandle<u64>>,
}

impl Load {
    fn start(address: &str) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let acknowledged = Arc::<AtomicUsize>::default();
        let wrong = Arc::<Mutex<Vec<String>>>::default();
        let client = |number: usize| {
            let (address, stop) = (address.to_owned(), Arc::clone(&stop));
            let (acknowledged, wrong) = (Arc::clone(&acknowledged), Arc::clone(&wrong));
            std::thread::spawn(move || {
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    let request = format!(
                        "POST /client-{number} HTTP/1.1\r\nHost: {address}\r\nIdempotency-Key: {number}-{count}\r\n\
                         Content-Length: 0\r\nConnection: close\r\n\r\n"
                    );
                    match ask(&address, &request) {
                        Ok(response) if matches!(response.status, 200 | 201) => {
                            count += 1;
                            acknowledged.fetch_add(1, Ordering::Relaxed);
                            // What was executed twice, or lost, makes the next number another one.
                            let told = body(&response.text).trim().to_owned();
                            if told != count.to_string() {
                                wrong
                                    .lock()
                                    .unwrap()
                                    .push(format!("client {number}: {told} instead of {count}"));
                                return count;
                            }
                            std::thread::sleep(PAUSE);
                        }
                        _ => std::thread::sleep(Duration::from_millis(50)),
                    }
                }
                count
            })
        };
        let threads = (0..CLIENTS).map(client).collect();
        Self { stop, acknowledged, wrong, threads }
    }

    /// Waits until so many more writes are acknowledged.
    fn more(&self, count: usize) {
        let before = self.acknowledged.load(Ordering::Relaxed);
        eventually(&format!("{count} more writes"), || {
            let wrong = self.wrong.lock().unwrap();
            assert!(wrong.is_empty(), "{wrong:?}");
            (self.acknowledged.load(Ordering::Relaxed) >= before + count).then_some(())
        });
    }

    /// Ends the clients. Returns what each counter must be.
    fn end(self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let counts = self.threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        let wrong = self.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{wrong:?}");
        counts
    }
}

#[test]
fn acknowledged_writes_are_there_once_whichever_machine_ends_and_through_an_update() {
    if !machines() {
        return;
    }
    let world = World::with(Images::Software);
    world.write_example("manifests/replicated.yaml", "replicated.yaml", &[]);
    world.i2kit(&["deploy", "replicated.yaml"]).run();
    let address = world.address("counters");
    let first = leader(&world, "counters");
    is_told(&world, &first);
    world.i2kit(&["replicas", "counters"]).prints("leader").prints("follower").run();
    world.i2kit(&["status", "counters"]).prints("REPLICA").prints("leader").run();
    world
        .i2kit(&["scale", "counters", "--replicas", "2"])
        .code(2)
        .says("change `replicas` in its manifest")
        .run();
    let load = Load::start(&address);
    load.more(20);
    move_the_lead(&world, &first);
    load.more(20);

    // The leader's machine ends under load: another one leads, and its successor joins.
    let first = leader(&world, "counters");
    kill(machine(&world, "counters", &first));
    load.more(20);
    let next = leader(&world, "counters");
    assert_ne!(next, first, "it has a new machine, and another one leads since");
    is_told(&world, &next);
    load.more(20);

    // An update replaces one after the other, and replies otherwise: nobody is the odd one for that.
    let (before, after) = ("self.answer(200, counters[name])", "self.answer(201, counters[name])");
    world.write_example("manifests/replicated.yaml", "replicated.yaml", &[(before, after)]);
    world.i2kit(&["deploy", "replicated.yaml"]).run();
    load.more(20);
    let counts = load.end();
    leader(&world, "counters");
    assert!(
        world.group("counters").members().all(|member| !member.from_snapshot),
        "each has a log of its own"
    );

    // Each replica has the same, by its own application.
    for (number, count) in counts.iter().enumerate() {
        let answer = get(&address, &format!("/client-{number}")).unwrap();
        assert_eq!((answer.status, body(&answer.text).trim()), (200, count.to_string().as_str()));
    }
    let states = eventually("three replicas that have executed the same", || {
        let states = replicas(&world, "counters");
        let applied: Vec<u64> = states.values().filter_map(|status| status["applied"].as_u64()).collect();
        (applied.len() == 3 && applied.iter().all(|one| *one == applied[0])).then_some(states)
    });
    assert!(states.values().all(|status| status["divergedAt"].is_null()), "{states:?}");
    let own = |slot: usize| {
        let program =
            "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000/').read().decode())";
        world
            .i2kit(&["exec", &format!("counters-{slot}"), "-c", "counters", "--", "python3", "-c", program])
            .run()
            .stdout
    };
    let all: Vec<String> = (0..3).map(own).collect();
    assert!(all.iter().all(|one| *one == all[0]), "{all:?}");

    // The application is reached through the coordinator alone, also by other pods.
    let member = "counters-1.counters-machines.default.svc.cluster.local";
    let direct = format!("import urllib.request as u; u.urlopen('http://{member}:8000/', timeout=20)");
    world
        .i2kit(&["exec", "counters-0", "-c", "counters", "--", "python3", "-c", &direct])
        .code(1)
        .says("refused")
        .run();
    world.i2kit(&["destroy", "replicated.yaml", "--volumes"]).run();
    world.assert_nothing_left();
}
