//! Opens the page in the desktop's browser.

use std::io::Write as _;
use std::process::{Command, Stdio};

use tempfile::NamedTempFile;

use crate::report::Events;

/// Opens the URL by a file that only this user reads, since all users read the arguments of a process. Dropping the returned
/// file deletes it.
pub(super) fn open(url: &str, events: &Events) -> Option<NamedTempFile> {
    let redirect = match redirect(url) {
        Ok(redirect) => redirect,
        Err(error) => {
            events.warn(format!("cannot write a file for the browser: {error}; open the URL yourself"));
            return None;
        }
    };
    let started = Command::new("xdg-open")
        .arg(redirect.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    match started {
        Ok(mut child) => {
            // It ends when the browser has the file, or with the browser.
            std::thread::spawn(move || child.wait());
            Some(redirect)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            events.note("there is no xdg-open here (the package xdg-utils has it): open the URL yourself");
            None
        }
        Err(error) => {
            events.warn(format!("cannot start xdg-open: {error}; open the URL yourself"));
            None
        }
    }
}

/// A page that leads to the URL.
fn redirect(url: &str) -> std::io::Result<NamedTempFile> {
    let mut file = tempfile::Builder::new().prefix("i2kit-dashboard-").suffix(".html").tempfile()?;
    writeln!(
        file,
        "<!doctype html><meta charset=utf-8><meta name=referrer content=no-referrer>\
         <meta http-equiv=refresh content=\"0;url={url}\"><title>i2kit</title>"
    )?;
    file.flush()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_way_to_the_page_is_the_users_alone_and_goes() {
        let redirect = redirect("http://127.0.0.1:1/?token=abc").unwrap();
        let path = redirect.path().to_owned();
        assert!(std::fs::read_to_string(&path).unwrap().contains("url=http://127.0.0.1:1/?token=abc\""));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        drop(redirect);
        assert!(!path.exists());
    }
}
