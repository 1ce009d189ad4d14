//! The stand-in's QMP: every command succeeds, and one presses the power button.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};

use serde_json::{Value, json};

/// Serves one client at a time, as qemu does, until the power button is pressed; `button` is closed then.
pub(super) fn serve(listener: &UnixListener, button: UnixStream) {
    // A client that breaks off is none of the others' matter.
    while listener.accept().and_then(|(client, _)| converse(&client)).map_or(true, |pressed| !pressed) {}
    drop(button);
}

/// Whether the client pressed the power button.
fn converse(mut client: &UnixStream) -> io::Result<bool> {
    writeln!(client, "{}", json!({ "QMP": { "version": {}, "capabilities": [] } }))?;
    let mut pressed = false;
    for line in BufReader::new(client).lines() {
        let command: Value = serde_json::from_str(&line?)?;
        pressed |= command["execute"] == "system_powerdown";
        writeln!(client, "{}", json!({ "return": {} }))?;
    }
    Ok(pressed)
}
