//! The state of an application, with a supervisor that the test is: folders as streams and back, hooks, and the order of what is
//! asked of the supervisor.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use i2kit_spec::replica::{Framing, Integrity, Limits, PodAnswer, PodRequest, Reads, ReplicaConfig, State};
use tempfile::TempDir;

use super::Application;
use super::application::StateError;

/// A pod with a supervisor that notes what it is asked for.
struct World {
    folder: TempDir,
    asked: Arc<Mutex<Vec<String>>>,
    /// Is the application that listens.
    _listener: TcpListener,
    port: u16,
}

/// What a program in the container does with its input; its output and its exit code.
type Program = fn(&[String], &[u8]) -> (Vec<u8>, i32);

impl World {
    fn new(program: Program) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["data", "log"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let socket = UnixListener::bind(folder.path().join("pod.sock")).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&asked);
        let data = folder.path().join("data");
        std::thread::spawn(move || {
            for stream in socket.incoming() {
                serve(&stream.unwrap(), &notes, &data, program);
            }
        });
        Self { folder, asked, _listener: listener, port }
    }

    /// The volume is the coordinator's.
    fn own(&self) {
        fs::write(self.folder.path().join("log/state-volume"), "data").unwrap();
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn application(&self, state: State) -> Application {
        let config = ReplicaConfig {
            group: "default/a".to_owned(),
            members: vec!["a-0".to_owned()],
            protocol: Framing::Http,
            app_port: self.port,
            reads: Reads::Linearizable,
            depth: 1,
            state,
            integrity: Integrity::Compare,
            volatile: Vec::new(),
            containers: vec!["app".to_owned()],
            limits: Limits::default(),
            revision: 1,
        };
        let folder = self.folder.path();
        Application::new(&config, &folder.join("pod.sock"), folder, &folder.join("log"))
    }

    /// A snapshot with something before the state, as it has in a coordinator's file.
    fn snapshot(&self) -> File {
        let path = self.folder.path().join("snapshot");
        let mut file = File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap();
        file.write_all(b"before").unwrap();
        file
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

/// Serves one connection. The container `none` does not exist; whether the folder was as it is while frozen is not looked at here.
fn serve(stream: &UnixStream, notes: &Mutex<Vec<String>>, data: &Path, program: Program) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let (mut writer, request) = (stream, serde_json::from_str(&line).unwrap());
    let (note, answer) = match request {
        PodRequest::Stop { containers } => (format!("stop {containers:?}"), PodAnswer::Done),
        PodRequest::Start { containers } => {
            let files = fs::read_dir(data).unwrap().count();
            (format!("start {containers:?} with {files} files"), PodAnswer::Done)
        }
        PodRequest::Freeze { containers } => (format!("freeze {containers:?}"), PodAnswer::Done),
        PodRequest::Thaw { containers } if data.join("went-on").exists() => {
            (format!("thaw {containers:?}"), PodAnswer::Refused("app did not stand all the time".to_owned()))
        }
        PodRequest::Thaw { containers } => (format!("thaw {containers:?}"), PodAnswer::Done),
        PodRequest::Report { .. } => ("report".to_owned(), PodAnswer::Done),
        PodRequest::Run { container, .. } if container == "none" => {
            ("run none".to_owned(), PodAnswer::Refused("there is no container `none`".to_owned()))
        }
        PodRequest::Run { container, command, .. } => {
            let mut input = Vec::new();
            // A program that is named `deaf` ends without reading.
            let mut reads = command[0] != "deaf";
            while reads {
                let mut length = [0; 4];
                reader.read_exact(&mut length).unwrap();
                let mut frame = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
                reader.read_exact(&mut frame).unwrap();
                reads = !frame.is_empty();
                input.extend(frame);
            }
            let (output, code) = program(&command, &input);
            for frame in output.chunks(1000).chain([&[][..]]) {
                writer.write_all(&u32::try_from(frame.len()).unwrap().to_be_bytes()).unwrap();
                writer.write_all(frame).unwrap();
            }
            (format!("run {command:?} in {container}"), PodAnswer::Exit(code))
        }
    };
    notes.lock().unwrap().push(note);
    writer.write_all(format!("{}\n", serde_json::to_string(&answer).unwrap()).as_bytes()).unwrap();
}

fn nothing(_: &[String], _: &[u8]) -> (Vec<u8>, i32) {
    (Vec::new(), 0)
}

fn directory() -> State {
    State::Directory { volume: "data".to_owned() }
}

/// All that a folder holds: path, kind and mode, owner, time, bytes or target, and number of names.
fn listing(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let entry = entry.unwrap();
            let (path, metadata) = (entry.path(), entry.metadata().unwrap());
            let content = if metadata.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else if metadata.is_file() {
                xxhash_rust::xxh3::xxh3_64(&fs::read(&path).unwrap()).to_string()
            } else {
                String::new()
            };
            if metadata.is_dir() {
                folders.push(path.clone());
            }
            let names = if metadata.is_dir() { 0 } else { metadata.nlink() };
            let (mode, uid, gid) = (metadata.mode(), metadata.uid(), metadata.gid());
            let time = if metadata.is_dir() { 0 } else { metadata.mtime() };
            let path = path.strip_prefix(folder).unwrap().display().to_string();
            found.push(format!("{path} {mode:o} {uid}:{gid} {time} {names} {content}"));
        }
    }
    found.sort();
    found
}

/// Writes a state with all that a folder may have.
fn fill(folder: &Path) {
    let long = "d".repeat(200);
    fs::create_dir_all(folder.join("z/inner").join(&long)).unwrap();
    fs::write(folder.join("z/inner").join(&long).join("f".repeat(120)), "deep").unwrap();
    fs::write(folder.join("a"), vec![7; 3_000_000]).unwrap();
    fs::hard_link(folder.join("a"), folder.join("z/again")).unwrap();
    fs::write(folder.join("z/empty"), "").unwrap();
    fs::write(folder.join("secret"), "x").unwrap();
    fs::set_permissions(folder.join("secret"), fs::Permissions::from_mode(0o4600)).unwrap();
    symlink("/nowhere/at/all", folder.join("link")).unwrap();
    symlink("z", folder.join("folder-link")).unwrap();
    let sparse = File::create(folder.join("sparse")).unwrap();
    sparse.set_len(5_000_000).unwrap();
    drop(UnixListener::bind(folder.join("socket")).unwrap());
    // Times in the past, so that an equal one was restored.
    for name in ["a", "secret", "z/empty"] {
        let file = File::options().write(true).open(folder.join(name)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000)).unwrap();
    }
}

#[tokio::test]
async fn a_folder_comes_back_as_it_was() {
    let world = World::new(nothing);
    let application = world.application(directory());
    world.own();
    fill(&world.data());
    let mut wanted = listing(&world.data());
    wanted.retain(|line| !line.starts_with("socket "));
    let mut snapshot = world.snapshot();
    application.capture(&mut snapshot).await.unwrap();
    assert_eq!(world.asked(), ["freeze [\"app\"]", "thaw [\"app\"]"]);
    // What is there before a restoration goes, leftovers of one that a crash ended among it.
    fs::write(world.data().join("newer"), "newer").unwrap();
    fs::remove_file(world.data().join("a")).unwrap();
    fs::create_dir(world.data().join(".i2kit-restore")).unwrap();
    fs::write(world.data().join(".i2kit-restore/half"), "half").unwrap();
    for _ in 0..2 {
        snapshot.seek(SeekFrom::Start(6)).unwrap();
        application.restart_from(&mut snapshot).await.unwrap();
        assert_eq!(listing(&world.data()), wanted);
        assert_eq!(world.asked(), ["stop [\"app\"]", "start [\"app\"] with 6 files"]);
    }
    application.restart_empty().await.unwrap();
    assert_eq!(listing(&world.data()), [""; 0]);
    assert_eq!(world.asked(), ["stop [\"app\"]", "start [\"app\"] with 0 files"]);
}

#[tokio::test]
async fn a_damaged_stream_leaves_the_old_state_and_the_application_stopped() {
    let world = World::new(nothing);
    let application = world.application(directory());
    world.own();
    fill(&world.data());
    let mut snapshot = world.snapshot();
    application.capture(&mut snapshot).await.unwrap();
    let before = listing(&world.data());
    world.asked();
    snapshot.set_len(1_000_000).unwrap();
    snapshot.seek(SeekFrom::Start(6)).unwrap();
    let error = application.restart_from(&mut snapshot).await.unwrap_err();
    assert!(matches!(error, StateError::Folder(..)), "{error}");
    let mut after = listing(&world.data());
    after.retain(|line| !line.starts_with(".i2kit-restore"));
    assert_eq!(after, before);
    assert_eq!(world.asked(), ["stop [\"app\"]"]);
}

#[tokio::test]
async fn files_that_were_there_before_the_group_are_not_erased() {
    let world = World::new(nothing);
    let application = world.application(directory());
    fs::write(world.data().join("accounts"), "of years").unwrap();
    let mut snapshot = world.snapshot();
    for _ in 0..2 {
        let error = application.restart_empty().await.unwrap_err();
        assert!(matches!(error, StateError::NotOurs(_)), "{error}");
        let error = application.restart_from(&mut snapshot).await.unwrap_err();
        assert!(matches!(error, StateError::NotOurs(_)), "{error}");
    }
    assert_eq!(fs::read(world.data().join("accounts")).unwrap(), b"of years");
    assert!(world.asked().iter().all(|what| what.starts_with("stop")), "it is not started");
    fs::remove_file(world.data().join("accounts")).unwrap();
    application.restart_empty().await.unwrap();
    // From now on it is the coordinator's.
    fs::write(world.data().join("accounts"), "of the group").unwrap();
    application.restart_empty().await.unwrap();
    assert!(listing(&world.data()).is_empty());
}

#[tokio::test]
async fn a_copy_of_an_application_that_went_on_is_thrown_away() {
    let world = World::new(nothing);
    let application = world.application(directory());
    world.own();
    fs::write(world.data().join("went-on"), "").unwrap();
    let error = application.capture(&mut world.snapshot()).await.unwrap_err();
    assert!(error.to_string().contains("did not stand all the time"), "{error}");
    assert!(!world.data().join(".i2kit-capture").exists());
    fs::remove_file(world.data().join("went-on")).unwrap();
    application.capture(&mut world.snapshot()).await.unwrap();
}

#[tokio::test]
async fn hooks_write_and_read_the_state() {
    let world = World::new(|command, input| match command[0].as_str() {
        "dump" => ((0..200_000_u32).flat_map(u32::to_le_bytes).collect(), 0),
        "load" => {
            let wanted: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
            (b"words of the program".to_vec(), i32::from(input != wanted))
        }
        "deaf" => (Vec::new(), 3),
        _ => (b"half".to_vec(), 1),
    });
    let hooks = |container: &str, snapshot: &str, restore: &str| State::Hooks {
        container: container.to_owned(),
        snapshot: vec![snapshot.to_owned()],
        restore: vec![restore.to_owned(), "all".to_owned()],
    };
    let application = world.application(hooks("app", "dump", "load"));
    let mut snapshot = world.snapshot();
    application.capture(&mut snapshot).await.unwrap();
    assert_eq!(snapshot.metadata().unwrap().len(), 6 + 800_000);
    snapshot.seek(SeekFrom::Start(6)).unwrap();
    application.restart_from(&mut snapshot).await.unwrap();
    let asked = [
        "run [\"dump\"] in app",
        "stop [\"app\"]",
        "start [\"app\"] with 0 files",
        "run [\"load\", \"all\"] in app",
    ];
    assert_eq!(world.asked(), asked);
    let failing = world.application(hooks("app", "fail", "deaf"));
    let error = failing.capture(&mut world.snapshot()).await.unwrap_err();
    assert!(matches!(error, StateError::Hook(_, "snapshot", 1)), "{error}");
    // The program does not read what it is given, which is more than a socket holds.
    snapshot.seek(SeekFrom::Start(6)).unwrap();
    let error = failing.restart_from(&mut snapshot).await.unwrap_err();
    assert!(matches!(error, StateError::Hook(_, "restore", 3)), "{error}");
    let missing = world.application(hooks("none", "dump", "load"));
    let error = missing.capture(&mut world.snapshot()).await.unwrap_err();
    assert_eq!(error.to_string(), "the supervisor refuses: there is no container `none`");
}

#[tokio::test]
async fn a_state_in_memory_has_no_snapshot() {
    let world = World::new(nothing);
    let application = world.application(State::Memory);
    assert!(matches!(application.capture(&mut world.snapshot()).await, Err(StateError::NoSnapshot)));
    assert!(matches!(application.restart_from(&mut world.snapshot()).await, Err(StateError::NoSnapshot)));
    application.restart_empty().await.unwrap();
    assert_eq!(world.asked(), ["stop [\"app\"]", "start [\"app\"] with 0 files"]);
}

#[tokio::test]
async fn a_supervisor_that_is_away_or_talks_nonsense_is_an_error() {
    let world = World::new(nothing);
    let application = world.application(State::Memory);
    fs::remove_file(world.folder.path().join("pod.sock")).unwrap();
    assert!(matches!(application.restart_empty().await, Err(StateError::Pod(_))));
    let socket = UnixListener::bind(world.folder.path().join("pod.sock")).unwrap();
    let answers: [&[u8]; 4] = [b"", b"nonsense\n", b"\"done", b"{\"exit\":0}\n"];
    let server = std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = socket.accept().unwrap();
            BufReader::new(&stream).read_line(&mut String::new()).unwrap();
            stream.write_all(answer).unwrap();
        }
    });
    for _ in answers {
        assert!(matches!(application.restart_empty().await, Err(StateError::Pod(_))));
    }
    server.join().unwrap();
}
