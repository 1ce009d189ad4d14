//! Listeners that were bound to another port than the wanted one, which another program had.

use std::net::TcpStream as StdStream;
use std::sync::Mutex;

use super::secure::Signer;
use super::termination::{PORT, asks, client, echo, port, until};
use super::*;

/// The port of each listener that is kept.
#[derive(Debug, Default)]
struct Remembered(Mutex<BTreeMap<String, u16>>);

impl Sockets for Remembered {
    fn take(&self, _: &str) -> Option<StdListener> {
        None
    }
    fn keep(&self, name: &str, listener: &StdListener) {
        self.0.lock().unwrap().insert(name.to_owned(), listener.local_addr().unwrap().port());
    }
    fn forget(&self, name: &str) {
        self.0.lock().unwrap().remove(name);
    }
}

#[tokio::test]
async fn a_port_with_tls_comes_home_when_it_is_free_and_connections_go_on() {
    let signer = Signer::new();
    let front = port(&signer, &[echo().await]);
    let taken = StdListener::bind((front.host, PORT)).unwrap();
    let kept = Arc::new(Remembered::default());
    let server = Server::with(256, Arc::clone(&kept) as Arc<dyn Sockets>, SILENCES);
    let mut bed = Bed { server, wanted: Wanted::default() };
    bed.serve(front);
    let away = bed.address(true);
    assert_ne!(away.port(), PORT);
    let mut before = client(&bed, &signer).await;
    asks(&mut before, b"away").await;
    bed.server.move_home(&bed.wanted);
    assert_eq!(bed.address(true), away, "its port is taken still");
    drop(taken);
    bed.server.move_home(&bed.wanted);
    assert_eq!(bed.address(true).port(), PORT);
    let mut after = client(&bed, &signer).await;
    asks(&mut after, b"home").await;
    asks(&mut before, b"goes on").await;
    until("the other port is closed", || StdStream::connect(away).is_err()).await;
    // A process that takes over serves the same port.
    let wanted = BTreeMap::from([("https test/default/web".to_owned(), PORT)]);
    assert_eq!(*kept.0.lock().unwrap(), wanted);
}

#[tokio::test]
async fn clients_that_wait_at_the_port_that_is_left_are_served() {
    let signer = Signer::new();
    let front = port(&signer, &[echo().await]);
    let taken = StdListener::bind((front.host, PORT)).unwrap();
    // Room for one client.
    let server = Server::with(1, Arc::new(Remembered::default()), SILENCES);
    let mut bed = Bed { server, wanted: Wanted::default() };
    bed.serve(front);
    let first = client(&bed, &signer).await;
    drop(taken);
    let waits = async || {
        let mut stream = client(&bed, &signer).await;
        asks(&mut stream, b"served").await;
    };
    // The kernel has connected both before.
    let moves = async {
        bed.server.move_home(&bed.wanted);
        assert_eq!(bed.address(true).port(), PORT);
        drop(first);
    };
    tokio::join!(waits(), waits(), moves);
}

#[tokio::test]
async fn a_redirect_names_the_port_that_came_home() {
    let signer = Signer::new();
    let mut front = front(&[]);
    front.certificates = vec![signer.certificate(&["a.test"])];
    front.tls = vec![Some("a.test".into())];
    // A user who may not have the port never gets it.
    let taken = StdListener::bind((front.host, 443)).ok();
    let is_allowed = taken.is_some();
    let bed = Bed::new(front);
    let away = bed.address(true).port();
    assert_ne!(away, 443);
    let question = "GET /p HTTP/1.1\r\nHost: a.test:8080\r\nConnection: close\r\n\r\n";
    let answer = bed.raw(question).await;
    assert!(answer.contains(&format!("location: https://a.test:{away}/p\r\n")), "{answer}");
    drop(taken);
    bed.server.move_home(&bed.wanted);
    assert_eq!(bed.address(true).port(), if is_allowed { 443 } else { away });
    let port = if is_allowed { String::new() } else { format!(":{away}") };
    let answer = bed.raw(question).await;
    assert!(answer.contains(&format!("location: https://a.test{port}/p\r\n")), "{answer}");
}

#[tokio::test]
async fn a_listener_moves_out_of_the_way_of_the_one_that_wants_its_port() {
    let signer = Signer::new();
    let first = port(&signer, &[]);
    let _taken = StdListener::bind((first.host, PORT)).unwrap();
    let mut bed = Bed::new(first.clone());
    let away = bed.address(true).port();
    let mut second = first;
    second.tls_port.as_mut().unwrap().port = away;
    bed.wanted.0.insert("test/default/web:2".into(), second);
    bed.server.apply(&bed.wanted);
    let bound = |front: &str| bed.server.report().bound[front].https.unwrap();
    assert_ne!(bound("test/default/web:2"), away);
    until("the second one has the port that it wants", || {
        bed.server.move_home(&bed.wanted);
        bound("test/default/web:2") == away
    })
    .await;
    assert!(![PORT, away].contains(&bound("test/default/web")));
}
