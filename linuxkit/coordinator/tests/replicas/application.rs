//! A small application that knows nothing of replication: registers, a counter and a journal of all writes, by HTTP/1.1. It runs
//! in threads of the test, and ends as a process that is killed does: its connections break, and what it had in memory is gone.
//! With a folder it keeps the journal there.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::eventually::eventually;

/// An application that may run or not.
pub(crate) struct Application {
    pub(crate) port: u16,
    folder: Option<PathBuf>,
    run: Mutex<Option<Run>>,
    /// Whether it stands where it is.
    frozen: Mutex<bool>,
    thawed: std::sync::Condvar,
    /// Number of the write whose reply is another one than it should be; 0 for none.
    pub(crate) differs_at: AtomicU64,
    /// What all replies to writes have behind them, unless it is 0: another number in each replica makes an application that is not
    /// deterministic.
    pub(crate) salt: AtomicU64,
    /// Whether it speaks Redis' protocol.
    is_resp: bool,
}

/// One run of it.
struct Run {
    state: Arc<Mutex<State>>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    ends: Arc<AtomicBool>,
    acceptor: JoinHandle<()>,
}

/// What it has in memory.
#[derive(Default)]
struct State {
    registers: HashMap<String, String>,
    /// All writes in the order of their execution: register and value.
    journal: Vec<String>,
    file: Option<File>,
    /// The time of the last write, as the coordinator says it.
    time: u64,
    /// Writes whose time lay before that of the one before.
    went_back: u64,
    is_over: bool,
}

impl Application {
    pub(crate) fn new(port: u16, folder: Option<PathBuf>, is_resp: bool) -> Arc<Self> {
        Arc::new(Self {
            is_resp,
            salt: AtomicU64::new(0),
            port,
            folder,
            run: Mutex::new(None),
            frozen: Mutex::new(false),
            thawed: std::sync::Condvar::new(),
            differs_at: AtomicU64::new(0),
        })
    }

    /// Starts it with what its folder has; does nothing when it runs.
    pub(crate) fn start(self: &Arc<Self>) {
        let mut run = self.run.lock().unwrap();
        if run.is_some() {
            return;
        }
        let mut state = State::default();
        if let Some(folder) = &self.folder {
            let path = folder.join("journal");
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            for line in text.lines() {
                state.apply(line);
            }
            state.file = Some(File::options().append(true).create(true).open(path).unwrap());
        }
        let listener = eventually("free port of the application", || {
            TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).ok()
        });
        let state = Arc::new(Mutex::new(state));
        let connections: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let ends = Arc::new(AtomicBool::new(false));
        let (this, states, streams, over) =
            (Arc::clone(self), Arc::clone(&state), Arc::clone(&connections), Arc::clone(&ends));
        let acceptor = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                streams.lock().unwrap().push(stream.try_clone().unwrap());
                let (this, state) = (Arc::clone(&this), Arc::clone(&states));
                std::thread::spawn(move || this.serve(&stream, &state));
            }
        });
        *run = Some(Run { state, connections, ends, acceptor });
    }

    /// Ends it; does nothing when it does not run.
    pub(crate) fn kill(&self) {
        let Some(run) = self.run.lock().unwrap().take() else { return };
        run.state.lock().unwrap().is_over = true;
        run.ends.store(true, Ordering::SeqCst);
        // Wakes the acceptor, which sees that it is to end.
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
        run.acceptor.join().unwrap();
        for stream in run.connections.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.freeze(false);
    }

    /// Has it stand where it is, or go on.
    pub(crate) fn freeze(&self, is_frozen: bool) {
        *self.frozen.lock().unwrap() = is_frozen;
        self.thawed.notify_all();
    }

    /// All writes that it executed; none when it does not run.
    pub(crate) fn journal(&self) -> Vec<String> {
        let run = self.run.lock().unwrap();
        run.as_ref().map(|run| run.state.lock().unwrap().journal.clone()).unwrap_or_default()
    }

    /// How many writes it executed.
    pub(crate) fn writes(&self) -> usize {
        let run = self.run.lock().unwrap();
        run.as_ref().map(|run| run.state.lock().unwrap().journal.len()).unwrap_or_default()
    }

    /// Its whole state.
    pub(crate) fn dump(&self) -> String {
        self.journal().iter().flat_map(|line| [line.as_str(), "\n"]).collect()
    }

    /// Takes a state that [`Application::dump`] gave in place of its own.
    pub(crate) fn load(&self, dump: &str) {
        let run = self.run.lock().unwrap();
        let Some(run) = run.as_ref() else { return };
        let mut state = run.state.lock().unwrap();
        (state.registers, state.journal) = Default::default();
        dump.lines().for_each(|line| state.apply(line));
    }

    /// How often the time that it was told went back.
    pub(crate) fn went_back(&self) -> u64 {
        let run = self.run.lock().unwrap();
        run.as_ref().map(|run| run.state.lock().unwrap().went_back).unwrap_or_default()
    }

    fn serve(&self, stream: &TcpStream, state: &Mutex<State>) {
        let _ = stream.set_nodelay(true);
        let mut reader = BufReader::new(stream);
        let ask = if self.is_resp { resp::read } else { read };
        while let Some(request) = ask(&mut reader) {
            let frozen = self.frozen.lock().unwrap();
            drop(self.thawed.wait_while(frozen, |is_frozen| *is_frozen).unwrap());
            let Some((status, body)) = state.lock().unwrap().answer(&request, self) else { return };
            let reply = if self.is_resp {
                resp::reply(&request, status, &body)
            } else {
                format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len())
            };
            let mut writer = stream;
            if writer.write_all(reply.as_bytes()).is_err() {
                return;
            }
        }
    }
}

/// The same application by Redis' protocol: `SET` and `GET`, each as the request of HTTP that it stands for.
mod resp {
    use std::io::{BufRead as _, BufReader, Read as _};
    use std::net::TcpStream;

    use super::Request;

    /// A line without its end.
    fn line(reader: &mut BufReader<&TcpStream>) -> Option<String> {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        Some(line.trim_end().to_owned())
    }

    pub(super) fn read(reader: &mut BufReader<&TcpStream>) -> Option<Request> {
        let count: usize = line(reader)?.strip_prefix('*')?.parse().ok()?;
        let mut words = Vec::new();
        for _ in 0..count {
            let mut word = vec![0; line(reader)?.strip_prefix('$')?.parse::<usize>().ok()? + 2];
            reader.read_exact(&mut word).ok()?;
            words.push(String::from_utf8_lossy(&word).trim_end().to_owned());
        }
        let mut words = words.into_iter();
        let method = match words.next()?.to_ascii_uppercase().as_str() {
            "SET" => "PUT",
            "GET" => "GET",
            _ => "",
        };
        let path = format!("/kv/{}", words.next().unwrap_or_default());
        Some(Request { method: method.to_owned(), path, time: 0, body: words.next().unwrap_or_default() })
    }

    pub(super) fn reply(request: &Request, status: u16, body: &str) -> String {
        match (request.method.as_str(), status) {
            ("PUT", 200) => format!("+{body}\r\n"),
            ("GET", 200) => format!("${}\r\n{body}\r\n", body.len()),
            ("GET", _) => "$-1\r\n".to_owned(),
            _ => "-ERR there are SET and GET\r\n".to_owned(),
        }
    }
}

/// A request: method, path, time of the coordinator, body.
struct Request {
    method: String,
    path: String,
    time: u64,
    body: String,
}

fn read(reader: &mut BufReader<&TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut words = line.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut length, mut time) = (0, 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let line = line.trim_end().to_ascii_lowercase();
        match line.split_once(": ") {
            Some(("content-length", value)) => length = value.parse().ok()?,
            Some(("i2kit-time", value)) => time = value.parse().ok()?,
            _ if line.is_empty() => break,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, path, time, body: String::from_utf8_lossy(&body).trim_end().to_owned() })
}

impl State {
    fn apply(&mut self, line: &str) {
        let (register, value) = line.split_once(' ').unwrap_or((line, ""));
        self.registers.insert(register.to_owned(), value.to_owned());
        self.journal.push(line.to_owned());
    }

    /// Status and body; none when the application was killed.
    fn answer(&mut self, request: &Request, application: &Application) -> Option<(u16, String)> {
        if self.is_over {
            return None;
        }
        let register = request.path.strip_prefix("/kv/");
        Some(match (request.method.as_str(), register) {
            ("GET", Some(register)) => match self.registers.get(register) {
                Some(value) => (200, value.clone()),
                None => (404, String::new()),
            },
            ("PUT", Some(register)) => {
                let line = format!("{register} {}", request.body);
                if let Some(file) = &mut self.file {
                    file.write_all(format!("{line}\n").as_bytes()).unwrap();
                }
                self.apply(&line);
                self.went_back += u64::from(request.time < self.time);
                self.time = request.time;
                let number = self.journal.len() as u64;
                let differs = number == application.differs_at.load(Ordering::SeqCst);
                let salt = application.salt.load(Ordering::SeqCst);
                let salt = if salt > 0 { format!(" {salt}") } else { String::new() };
                (200, format!("{number}{}{salt}", if differs { "!" } else { "" }))
            }
            _ => (404, String::new()),
        })
    }
}
