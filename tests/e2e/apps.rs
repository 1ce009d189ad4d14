//! The applications of `manifests/apps`, used through their pages and their API while they are updated and machines die.

use std::io;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use i2kit::plan::fleet::{InstanceState, LoadBalancer};
use serde_json::{Value, json};

use crate::support::{Call, Ending, Images, Response, World, ask, eventually, kill, machines};

/// Until it is dropped no other application runs: each is ten machines or more.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The proxy of the Ingress of that name, all of whose machines are healthy.
fn ingress(world: &World, name: &str) -> LoadBalancer {
    let name = format!("ingress/{name}");
    let balancer = world.fleet().balancers.into_iter().find(|found| found.spec.name.name == name).unwrap();
    assert!(balancer.targets.iter().all(|target| target.healthy), "{balancer:?}");
    balancer
}

/// Whether a container may connect to a port, by bash's own means.
fn connect(world: &World, from: &str, to: &str) -> Call {
    world.i2kit(&["exec", from, "--", "bash", "-c", &format!("</dev/tcp/{to}")])
}

/// Has `threads` call `ask` without end while `act` goes on, and none of them fail. Returns how often they did.
fn asked_while(threads: u32, ask: impl Fn() -> Result<(), String> + Sync, act: impl FnOnce()) -> u32 {
    let (stop, asked) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    ask().unwrap();
                    asked.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(300));
                }
            });
        }
        let _stop = Ending(&stop);
        act();
    });
    asked.into_inner()
}

/// The pages of the vote, without TLS.
struct Polls(String);

impl Polls {
    fn ask(&self, head: &str, body: &str) -> io::Result<Response> {
        let length = body.len();
        ask(&self.0, &format!("{head}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"))
    }

    /// Votes; the answer has thanked for it.
    fn vote(&self, choice: &str, cookie: &str) -> Result<Response, String> {
        let head = format!("POST / HTTP/1.1\r\nHost: vote.test\r\nCookie: {cookie}");
        let answer = self.ask(&head, &format!("vote={choice}")).map_err(|error| error.to_string())?;
        let thanks = answer.status == 200 && answer.text.contains("Thank you for your vote");
        if thanks { Ok(answer) } else { Err(answer.text) }
    }

    /// The votes for each of the two, once there is an answer.
    fn counts(&self) -> Option<[u64; 2]> {
        let answer = self.ask("GET /counts HTTP/1.1\r\nHost: result.test", "").unwrap();
        let (_, body) = answer.text.split_once("\r\n\r\n").filter(|_| answer.status == 200)?;
        let counts: Value = serde_json::from_str(body).unwrap();
        Some(["a", "b"].map(|option| counts[option].as_u64().unwrap()))
    }

    fn wait_for(&self, counts: [u64; 2]) {
        eventually(&format!("count of {counts:?}"), || (self.counts()? == counts).then_some(()));
    }
}

#[test]
fn every_acknowledged_vote_counts_through_an_update_and_the_end_of_the_database() {
    if !machines() {
        return;
    }
    let _alone = alone();
    let world = World::with(Images::Software);
    let write = |replace: &[(&str, &str)]| {
        world.write_example("manifests/apps/voting.yaml", "voting.yaml", replace);
    };
    write(&[]);
    world.i2kit(&["deploy", "voting.yaml"]).prints("http://vote.test").prints("http://result.test").run();
    let polls = Polls(ingress(&world, "voting").addresses()[0].clone());
    let page = || polls.ask("GET / HTTP/1.1\r\nHost: vote.test", "").unwrap().text;
    assert!(page().contains("<h1>Cats or Dogs?</h1>"), "{}", page());
    polls.wait_for([0, 0]);
    let first = polls.vote("a", "").unwrap().text;
    polls.wait_for([1, 0]);
    let (_, cookie) = first.split_once("voter=").unwrap();
    polls.vote("b", &format!("voter={}", &cookie[..32])).unwrap();
    polls.wait_for([0, 1]);
    assert!(polls.vote("c", "").unwrap_err().starts_with("HTTP/1.1 400 "));

    // Only those whose part it is reach the queue and the database.
    for (from, to, code) in [
        ("worker", "redis/6379", 0),
        ("vote", "redis/6379", 0),
        ("result", "db/5432", 0),
        ("result", "redis/6379", 1),
        ("vote", "db/5432", 1),
    ] {
        connect(&world, from, to).code(code).run();
    }

    // The page is changed and the database's machine is killed, while others vote.
    write(&[("OPTION_A: Cats", "OPTION_A: Otters")]);
    let vote = || polls.vote("a", "").map(drop);
    let votes = asked_while(3, vote, || {
        world.i2kit(&["deploy", "voting.yaml"]).run();
        assert!(page().contains("<h1>Otters or Dogs?</h1>"), "{}", page());
        let database = world.group("db").instances;
        let machine = database.iter().find(|found| found.state == InstanceState::Running).unwrap();
        assert_eq!(machine.ordinal, Some(0));
        kill(machine.pid.unwrap());
        eventually("another machine of the database", || {
            let group = world.group("db");
            (group.healthy() == 1 && group.members().all(|found| found.id != machine.id)).then_some(())
        });
    });
    assert!(votes > 20, "{votes} votes");
    polls.wait_for([votes.into(), 1]);
    world.i2kit(&["destroy", "voting.yaml", "--volumes"]).run();
    world.assert_nothing_left();
}

/// A customer of the shop: curl with a jar for cookies, which trusts the local authority.
struct Customer<'w> {
    world: &'w World,
    host: String,
    port: u16,
}

impl Customer<'_> {
    /// The status and the body of an answer; `body` is sent where there is one.
    fn ask(&self, path: &str, body: Option<&Value>) -> Result<(u16, String), String> {
        let Self { world, host, port } = self;
        let mut curl = Command::new("curl");
        curl.args([
            "-sS",
            "--max-time",
            "60",
            "-w",
            "%{stderr}%{http_code}",
            "--cacert",
            "state/i2kit/ca/ca.crt",
        ])
        .args(["--resolve", &format!("shop.test:{port}:{host}"), &format!("https://shop.test:{port}{path}")])
        .current_dir(world.path());
        if let Some(body) = body {
            curl.args(["-b", "jar", "-c", "jar", "--json", &body.to_string()]);
        } else {
            curl.args(["-b", "jar"]);
        }
        let output = curl.output().unwrap();
        let (said, text) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
        match said.parse() {
            Ok(status) if output.status.success() => Ok((status, text.into_owned())),
            _ => Err(format!("{path}: {said} {text}")),
        }
    }

    fn page(&self, path: &str) -> String {
        let (status, text) = self.ask(path, None).unwrap();
        assert_eq!(status, 200, "{path}: {text}");
        text
    }

    /// What is answered to this JSON, with the status.
    fn json(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, text) = self.ask(path, Some(body)).unwrap();
        (status, serde_json::from_str(&text).unwrap())
    }

    /// Orders what is in the cart, with a key.
    fn order(&self, card: &str) -> (u16, Value) {
        let order = json!({ "key": "first", "email": "me@mail.test", "country": "DE", "card": card });
        self.json("/api/orders", &order)
    }
}

#[test]
fn a_shop_sells_over_tls_and_reports_what_it_sold() {
    if !machines() {
        return;
    }
    let _alone = alone();
    let world = World::with(Images::Software);
    let write = |replace: &[(&str, &str)]| {
        world.write_example("manifests/apps/shop.yaml", "shop.yaml", replace);
    };
    write(&[]);
    world.i2kit(&["deploy", "shop.yaml"]).prints("https://shop.test").run();
    let balancer = ingress(&world, "shop");
    let customer = Customer { world: &world, host: balancer.host.clone(), port: balancer.bound[1].unwrap() };
    assert!(customer.page("/").contains("Iron kettle, 59.00 EUR"));
    assert!(customer.page("/api/products/kettle").contains("5900"));
    assert_eq!(customer.ask("/api/products/sofa", None).unwrap().0, 404);
    for (product, quantity) in [("kettle", 1), ("cup", 2)] {
        let (status, cart) = customer.json("/api/cart", &json!({ "product": product, "quantity": quantity }));
        assert_eq!((status, &cart[product]), (200, &json!(quantity)));
    }
    let cart = customer.page("/cart");
    assert!(cart.contains("<li>2 cup</li>") && cart.contains("Green tea"), "{cart}");

    // A card that is declined, another one, and the same order again.
    assert_eq!(customer.order("4000000000000002"), (402, json!({ "error": "the card is declined" })));
    let (status, order) = customer.order("4242424242424242");
    assert_eq!((status, &order["state"], &order["total"]), (200, &json!("paid"), &json!(9340)));
    assert_eq!(customer.order("4242424242424242"), (200, order.clone()));
    assert_eq!(customer.page("/api/cart"), "{}\n");
    let identity = order["id"].as_str().unwrap();
    let page = customer.page(&format!("/orders/{identity}"));
    assert!(page.contains(&format!("Order {identity} is paid: 93.40 EUR")), "{page}");
    world.i2kit(&["logs", "mail"]).prints(&format!("order {identity} is on its way")).run();
    world.i2kit(&["run", "cronjob/report"]).run();
    world.i2kit(&["logs", "report"]).prints("1 orders, 93.40 EUR").run();
    world.i2kit(&["logs", "mail"]).prints("1 orders, 93.40 EUR").run();
    connect(&world, "front", "orders/80").run();
    connect(&world, "front", "payment/80").code(1).run();
    world.i2kit(&["status"]).prints("AUTOSCALED").prints("/80%").run();

    // Another price, while customers look.
    write(&[("\"price\": 5900", "\"price\": 4900")]);
    let look = || match customer.ask("/", None)? {
        (200, text) if text.contains("Iron kettle") => Ok(()),
        answer => Err(format!("{answer:?}")),
    };
    let looks = asked_while(2, look, || {
        world.i2kit(&["deploy", "shop.yaml"]).run();
    });
    assert!(looks > 5, "{looks} looks");
    assert!(customer.page("/").contains("Iron kettle, 49.00 EUR"));
    world.i2kit(&["destroy", "shop.yaml", "--volumes"]).run();
    world.assert_nothing_left();
}
