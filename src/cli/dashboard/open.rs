//! Opens the page in the desktop's browser.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::NamedTempFile;

use crate::report::Events;

/// The program that opens files as the desktop does.
const OPENER: &str = "xdg-open";

/// Opens the URL by a file that only this user reads, since all users read the arguments of a process. Dropping the returned
/// file deletes it. `variables` are the browser's whole environment.
pub(super) fn open(url: &str, variables: &[(OsString, OsString)], events: &Events) -> Option<NamedTempFile> {
    let redirect = match redirect(url, &folder(variables)) {
        Ok(redirect) => redirect,
        Err(error) => {
            events.warn(format!("cannot write a file for the browser: {error}; open the URL yourself"));
            return None;
        }
    };
    match opener(OPENER, redirect.path(), variables).spawn() {
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

/// What opens the file. It may become the browser, which outlives this command: it gets none of the terminal's signals, and
/// no variable but these.
fn opener(program: &str, file: &Path, variables: &[(OsString, OsString)]) -> Command {
    let mut command = Command::new(program);
    command
        .arg(file)
        .env_clear()
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// The folder for the file: the user's own, since a browser that is confined (a snap, a Flatpak) has another `/tmp` and reads
/// no hidden files.
fn folder(variables: &[(OsString, OsString)]) -> PathBuf {
    let home = variables.iter().find(|(name, _)| name == "HOME").map(|(_, home)| PathBuf::from(home));
    home.filter(|home| home.is_dir()).unwrap_or_else(std::env::temp_dir)
}

/// A page that leads to the URL.
fn redirect(url: &str, folder: &Path) -> std::io::Result<NamedTempFile> {
    let mut name = tempfile::Builder::new();
    let name = name.prefix("i2kit-dashboard-").suffix(".html");
    let mut file = name.tempfile_in(folder).or_else(|_| name.tempfile())?;
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
        let folder = tempfile::tempdir().unwrap();
        let redirect = redirect("http://127.0.0.1:1/?token=abc", folder.path()).unwrap();
        let path = redirect.path().to_owned();
        assert!(
            path.starts_with(folder.path())
                && path.file_name().unwrap().to_string_lossy().starts_with("i2kit")
        );
        assert!(std::fs::read_to_string(&path).unwrap().contains("url=http://127.0.0.1:1/?token=abc\""));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        drop(redirect);
        assert!(!path.exists());
    }
    #[test]
    fn a_home_that_is_not_there_is_no_place_for_it() {
        let home = tempfile::tempdir().unwrap();
        let variables = |home: &Path| vec![(OsString::from("HOME"), home.as_os_str().to_owned())];
        assert_eq!(folder(&variables(home.path())), home.path());
        assert_eq!(folder(&variables(Path::new("/nonexistent"))), std::env::temp_dir());
        let redirect = redirect("http://127.0.0.1:1/", Path::new("/nonexistent")).unwrap();
        assert!(redirect.path().exists());
    }

    #[test]
    fn the_browser_gets_no_signal_and_no_variable_of_the_command() {
        let folder = tempfile::tempdir().unwrap();
        // A script in place of the opener: its file says what it has.
        let script = folder.path().join("script");
        let said = folder.path().join("said");
        std::fs::write(&script, format!("env > {0}; cut -d' ' -f5 /proc/$$/stat >> {0}", said.display()))
            .unwrap();
        let variables = vec![(OsString::from("DISPLAY"), OsString::from(":7"))];
        let mut child = opener("/bin/sh", &script, &variables).spawn().unwrap();
        let group = child.id();
        assert!(child.wait().unwrap().success());
        let said = std::fs::read_to_string(said).unwrap();
        assert!(said.lines().any(|line| line == "DISPLAY=:7"), "{said}");
        // What a shell sets by itself.
        let own = |line: &&str| ["PWD=", "SHLVL=", "_=", "OLDPWD="].iter().any(|name| line.starts_with(name));
        let others: Vec<&str> = said.lines().filter(|line| line.contains('=') && !own(line)).collect();
        assert_eq!(others, ["DISPLAY=:7"]);
        assert_eq!(said.lines().last(), Some(&*group.to_string()), "a process group of its own");
    }
}
