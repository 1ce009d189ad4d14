//! Clients that speak Redis' protocol, which has no keys: a write whose answer does not arrive was done once or never, and the history says
//! that nobody saw its end.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::Ordering;

use crate::client::Load;
use crate::eventually::PATIENCE;
use crate::history::{NEVER, Operation};

/// A connection.
pub(crate) struct Connection(BufReader<TcpStream>);

impl Connection {
    pub(crate) fn open(port: u16) -> Option<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.set_nodelay(true).ok()?;
        Some(Self(BufReader::new(stream)))
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        self.0.read_line(&mut line).ok().filter(|read| *read > 0 && line.ends_with('\n'))?;
        Some(line.trim_end().to_owned())
    }

    /// Asks; the answer's sign and its text, without elements of an array. None when the connection breaks.
    pub(crate) fn ask(&mut self, words: &[&str]) -> Option<String> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.extend([format!("${}\r\n", word.len()).as_str(), word, "\r\n"]);
        }
        self.0.get_mut().write_all(request.as_bytes()).ok()?;
        let line = self.line()?;
        match line.strip_prefix('$').map(str::parse::<i64>) {
            Some(Ok(length)) if length >= 0 => {
                let mut value = vec![0; usize::try_from(length).unwrap() + 2];
                self.0.read_exact(&mut value).ok()?;
                Some(format!("${}", String::from_utf8(value).unwrap().trim_end()))
            }
            _ => Some(line),
        }
    }
}

/// One client, which writes and reads until it is told to end.
pub(crate) fn client(load: &Load, number: usize, ports: &[u16]) -> Vec<Operation> {
    let (mut history, mut place, mut connection) = (Vec::new(), number, None);
    for count in 0.. {
        if load.ends.load(Ordering::Relaxed) {
            break;
        }
        let register = format!("r{}", (number + count) % 7);
        let value = format!("{number}.{count}");
        let is_write = count % 3 > 0;
        let begin = load.now();
        connection = connection.or_else(|| Connection::open(ports[place % ports.len()]));
        let words = if is_write { vec!["SET", &register, &value] } else { vec!["GET", &register] };
        let answer = connection.as_mut().and_then(|connection: &mut Connection| connection.ask(&words));
        let end = load.now();
        let operation =
            |value: String, end| Operation { register: register.clone(), is_write, value, begin, end };
        match answer.as_deref() {
            Some(text) if is_write && text.starts_with('+') => {
                load.acknowledged.fetch_max(begin, Ordering::Relaxed);
                history.push(operation(value, end));
            }
            Some("$-1") => history.push(operation(String::new(), end)),
            Some(text) if !is_write && text.starts_with('$') => {
                history.push(operation(text[1..].to_owned(), end));
            }
            failed => {
                // What the group says it never did is not in the history.
                let was_never_done = failed.is_some_and(|text| text.starts_with("-I2KIT not-done"));
                if is_write && !was_never_done {
                    history.push(operation(value, NEVER));
                }
                connection = None;
                place += 1;
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
    }
    history
}
