//! A server without anything around it: `/` says how the program was started, and any other path is that of a file, of
//! which it gives the content. As `server PATH` it prints the content of a file.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

fn main() {
    if let Some(path) = std::env::args().nth(1) {
        std::io::stdout().write_all(&fs::read(path).expect("the file can be read")).expect("there is an output");
        return;
    }
    let listener = TcpListener::bind("0.0.0.0:80").expect("port 80 is free");
    println!("listening");
    for stream in listener.incoming().flatten() {
        // A client that goes away early is no reason to end.
        let _ = answer(stream);
    }
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        request.push(byte[0]);
    }
    let line = String::from_utf8_lossy(&request);
    let path = line.split(' ').nth(1).unwrap_or("/");
    let found = if path == "/" { Ok(facts().into_bytes()) } else { fs::read(path) };
    let (status, body) = match found {
        Ok(body) => ("200 OK", body),
        Err(error) => ("404 Not Found", format!("{error}\n").into_bytes()),
    };
    write!(stream, "HTTP/1.0 {status}\r\nContent-Length: {}\r\n\r\n", body.len())?;
    stream.write_all(&body)
}

/// The environment, sorted, and where the program runs.
fn facts() -> String {
    let mut lines: Vec<String> = std::env::vars().map(|(name, value)| format!("{name}={value}")).collect();
    lines.sort();
    lines.push(format!("in {}", std::env::current_dir().expect("the folder is there").display()));
    lines.join("\n") + "\n"
}
