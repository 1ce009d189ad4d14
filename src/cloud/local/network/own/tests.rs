//! Who waits for whom: holders here are programs that do not answer.

use std::fs::File;
use std::sync::mpsc;
use std::thread;

use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

use super::*;

/// A wait that ends a test which would not end otherwise.
const FOR_EVER: Duration = Duration::from_mins(10);

/// Is silent for as long as the folder `silent` is there, which it makes; where it is there already, it ends at once.
const SILENT: &str = r#"mkdir "$FOLDER/silent" 2>/dev/null || exit 1; while test -e "$FOLDER/silent"; do sleep 0.02; done; exit 1"#;

/// Holders that run the script in the folder.
fn start(folder: &Path, script: &str) -> Start {
    let path = std::env::var_os("PATH").unwrap();
    Start {
        program: "/bin/sh".into(),
        arguments: vec!["-c".into(), script.into()],
        environment: vec![("PATH".into(), path), ("FOLDER".into(), folder.into())],
        patience: FOR_EVER,
    }
}

fn networks(folder: &Path, script: &str) -> Arc<Networks> {
    let log = Arc::new(Log::open(&folder.join("log")).unwrap());
    Arc::new(Networks { start: start(folder, script), ..Networks::new(Vec::new(), log) })
}

/// A network with a holder that never answers, and the holder's end of its socket.
fn silent(start: Start) -> (Arc<Network>, OwnedFd) {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .unwrap();
    let holder = Arc::new(Holder::new(ours, Command::new("sleep").arg("600").spawn().unwrap()));
    let nothing = || OwnedFd::from(File::open("/dev/null").unwrap());
    let handles = Handles::from_descriptors((0..6).map(|_| nothing()).collect(), false).unwrap();
    let network = Network {
        start,
        has_ipv6: false,
        open: Mutex::new(Open { holder, handles }),
        replacing: Mutex::default(),
        outside: Mutex::default(),
        written: Mutex::default(),
        spare: Mutex::default(),
    };
    (Arc::new(network), theirs)
}

/// What is done on a thread of its own; it is done at some time, or the test fails.
fn done<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || tell.send(work()));
    told.recv_timeout(Duration::from_mins(1)).expect(what)
}

#[test]
fn a_network_may_take_longer_to_make_than_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let slow = start(folder.path(), "sleep 0.1; exit 1");
    let failure = Start { patience: Duration::from_millis(1), ..slow }.holder(&Join::default()).unwrap_err();
    // Its end was waited for.
    assert_eq!(failure.error.kind(), io::ErrorKind::UnexpectedEof, "{}", failure.error);
}

#[test]
fn no_environment_waits_for_the_holder_of_another_one() {
    let folder = tempfile::tempdir().unwrap();
    let networks = networks(folder.path(), SILENT);
    let silent = {
        let networks = Arc::clone(&networks);
        thread::spawn(move || networks.get("a", &[]).is_ok())
    };
    while !folder.path().join("silent").exists() {
        assert!(!silent.is_finished(), "its holder is silent");
        thread::sleep(POLL);
    }
    let other = Arc::clone(&networks);
    let refused = done("others wait for the network of a", move || {
        other.keep(&BTreeSet::from(["a".to_owned()]));
        assert!(other.find("a").is_none() && other.all().is_empty());
        other.get("b", &[]).unwrap_err()
    });
    assert!(refused.contains("the holder of the network ended"), "{refused}");
    assert!(!silent.is_finished());
    fs::remove_dir(folder.path().join("silent")).unwrap();
    assert!(!silent.join().unwrap(), "its holder ended");
}

#[test]
fn of_two_callers_one_makes_the_network_of_an_environment() {
    let folder = tempfile::tempdir().unwrap();
    let networks = networks(folder.path(), SILENT);
    let (made, _theirs) = silent(start(folder.path(), SILENT));
    let making = networks.making("a");
    let first = locked(&making);
    let second = {
        let networks = Arc::clone(&networks);
        thread::spawn(move || networks.get("a", &[]))
    };
    // The map has the lock, the first caller, and the second one once it has looked and found no network.
    while Arc::strong_count(&making) < 3 {
        assert!(!second.is_finished(), "it waits for the first one");
        thread::sleep(POLL);
    }
    // A round that knows nothing of the environment yet does not give it another lock.
    networks.keep(&BTreeSet::new());
    assert!(Arc::ptr_eq(&networks.making("a"), &making));
    locked(&networks.known).insert("a".to_owned(), Arc::clone(&made));
    drop(first);
    assert!(Arc::ptr_eq(&second.join().unwrap().unwrap(), &made));
    assert!(!folder.path().join("silent").exists(), "no holder was started");
    drop(making);
    networks.keep(&BTreeSet::new());
    assert!(locked(&networks.making).is_empty() && networks.find("a").is_none());
}

#[test]
fn who_asks_no_holder_does_not_wait_for_one_that_is_silent() {
    let folder = tempfile::tempdir().unwrap();
    let (network, theirs) = silent(start(folder.path(), "exit 1"));
    let asking = {
        let network = Arc::clone(&network);
        thread::spawn(move || network.ask(Holder::sockets).is_ok())
    };
    let mut question = [0; 64];
    let (length, _) = rustix::net::recv(&theirs, &mut question[..], RecvFlags::empty()).unwrap();
    assert!(length > 0, "it is asked");
    let other = Arc::clone(&network);
    done("others wait for the holder's answer", move || {
        // The kernel's answer: the descriptor is no socket.
        assert!(other.connections().is_err());
        assert!(!other.keep_holder().unwrap());
        assert!(other.to_give().unwrap().is_none());
    });
    assert!(!asking.is_finished());
    drop(theirs);
    assert!(!asking.join().unwrap(), "there is no other holder");
}
