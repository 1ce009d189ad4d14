//! The local cloud at the start of the computer: a unit of systemd that runs its process, for the user, or for the whole
//! system where the user is root. What ran before the computer went down is in the database; the process starts it again.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Serialize;

use super::client;
use super::home::{Home, flush_gone, gone, write_whole};
use crate::cloud::CloudError;

/// The name of the unit.
const UNIT: &str = "i2kit-local-cloud.service";

/// There where systemd is what started the computer. Source: `sd_booted(3)`.
const BOOTED: &str = "/run/systemd/system";

/// A file here, named after a user, has that user's units started without a login. Source: logind.conf(5), loginctl(1).
const LINGER: &str = "/var/lib/systemd/linger";

/// Variables that the process has at the start of the computer: where programs and folders are. Those of a session end
/// with it.
const KEPT: [&str; 7] =
    ["PATH", "HOME", "TMPDIR", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"];

/// Where the unit is, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// The unit's file.
    pub path: PathBuf,
    /// The link that has it started.
    link: PathBuf,
    /// Whether it is of the whole system.
    system: bool,
}

/// How far the local cloud is from being there after the next start of the computer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The process that is the local cloud, when there is one.
    pub pid: Option<u32>,
    /// The version of its program.
    pub version: Option<String>,
    /// The unit's file.
    pub unit: PathBuf,
    /// Whether it is started with the computer.
    pub enabled: bool,
    /// What is in the way, and what to do about it.
    pub notes: Vec<String>,
}

impl Unit {
    /// The unit of who runs this: root's is of the system, others' are below their folder of `configuration`.
    pub fn new(configuration: &Path) -> Self {
        if rustix::process::geteuid().is_root() {
            let folder = Path::new("/etc/systemd/system");
            return Self::within(folder, "multi-user.target.wants", true);
        }
        Self::within(&configuration.join("systemd/user"), "default.target.wants", false)
    }

    fn within(folder: &Path, wants: &str, system: bool) -> Self {
        Self { path: folder.join(UNIT), link: folder.join(wants).join(UNIT), system }
    }

    /// Whether it is started with the computer.
    fn is_enabled(&self) -> bool {
        self.path.exists() && self.link.symlink_metadata().is_ok()
    }

    /// Asks systemd for something.
    fn systemctl(&self, arguments: &[&str]) -> Result<(), CloudError> {
        let failed = |message: String| CloudError::Program { program: "systemctl".into(), message };
        let scope = if self.system { "--system" } else { "--user" };
        let mut command = Command::new("systemctl");
        let output = command.arg(scope).args(arguments).stdin(Stdio::null()).output();
        let output = output.map_err(|error| failed(error.to_string()))?;
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(()) } else { Err(failed(said.trim().to_owned())) }
    }
}

/// Has the local cloud of `home` started with the computer.
///
/// # Errors
/// Where there is no systemd, with what to do instead; when the unit cannot be written, or systemd refuses it.
pub fn enable(home: &Home, unit: &Unit) -> Result<(), CloudError> {
    if !Path::new(BOOTED).exists() {
        return Err(CloudError::Program {
            program: "systemctl".into(),
            message: format!(
                "this computer has no systemd; have its init run, as this user: {}",
                command_line(home)
            ),
        });
    }
    let folder = unit.path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).map_err(CloudError::file("create", folder))?;
    // Cut off before it is on the disk, the computer would find an empty unit, which systemd does not start.
    write_whole(&unit.path, text(home, unit).as_bytes(), 0o644)?;
    unit.systemctl(&["daemon-reload"])?;
    unit.systemctl(&["enable", UNIT])?;
    flush_gone(unit.link.parent().unwrap_or(folder))
}

/// Has the local cloud not started with the computer any more. What runs goes on. Whether it was.
///
/// # Errors
/// When the unit cannot be removed, or systemd refuses.
pub fn disable(unit: &Unit) -> Result<bool, CloudError> {
    let was = unit.path.exists() || unit.link.symlink_metadata().is_ok();
    let booted = Path::new(BOOTED).exists();
    if was && booted {
        unit.systemctl(&["disable", UNIT])?;
    }
    for path in [&unit.link, &unit.path] {
        gone(path, fs::remove_file(path))?;
        flush_gone(path.parent().unwrap_or(path))?;
    }
    if was && booted {
        unit.systemctl(&["daemon-reload"])?;
    }
    Ok(was)
}

/// What runs now, and what will after the next start of the computer.
pub async fn status(home: &Home, unit: &Unit) -> Status {
    let running = client::running(home).await;
    let enabled = unit.is_enabled();
    let notes = if enabled { linger(unit) } else { Vec::new() };
    let (pid, version) = running.unzip();
    Status { pid, version, unit: unit.path.clone(), enabled, notes }
}

/// Whether units of the user are started without a login; what to do where they are not.
fn linger(unit: &Unit) -> Vec<String> {
    let user = user_name(rustix::process::geteuid().as_raw());
    let lingers = user.is_some_and(|user| Path::new(LINGER).join(user).exists());
    let note = "linger is off for this user: the local cloud starts at your first login and ends, with its machines, at your \
                last logout; `loginctl enable-linger` has it run from the start of the computer on";
    if unit.system || lingers { Vec::new() } else { vec![note.to_owned()] }
}

/// The name of a user.
fn user_name(id: u32) -> Option<String> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let of = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
    };
    users.lines().find_map(of)
}

/// The variables that the process has.
fn variables(home: &Home) -> impl Iterator<Item = (&OsStr, &OsStr)> {
    let kept = |(name, _): &(&OsStr, &OsStr)| name.to_str().is_some_and(|name| KEPT.contains(&name));
    home.environment.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str())).filter(kept)
}

/// The process as a line of a shell.
fn command_line(home: &Home) -> String {
    let quoted = |text: &OsStr| format!("'{}'", text.to_string_lossy().replace('\'', r"'\''"));
    let variables =
        variables(home).map(|(name, value)| format!("{}={} ", name.to_string_lossy(), quoted(value)));
    format!(
        "cd / && env -i {}{} local-cloud",
        variables.collect::<String>(),
        quoted(home.executable.as_os_str())
    )
}

/// The unit's file, as it is written for `unit`.
pub fn text(home: &Home, unit: &Unit) -> String {
    unit_text(home, unit.system)
}

fn unit_text(home: &Home, system: bool) -> String {
    let mut environment: Vec<String> = variables(home)
        .map(|(name, value)| {
            format!("Environment=\"{}={}\"\n", name.to_string_lossy(), escaped(value, false))
        })
        .collect();
    environment.sort_unstable();
    let target = if system { "multi-user.target" } else { "default.target" };
    format!(
        "# Written by `i2kit local-cloud enable`; `i2kit local-cloud disable` removes it.\n\
         [Unit]\n\
         Description=The local cloud of i2kit\n\
         RequiresMountsFor=\"{state}\"\n\
         # It is tried again for as long as it fails: a disk may be full at first.\n\
         StartLimitIntervalSec=0\n\
         \n\
         [Service]\n\
         Type=exec\n\
         ExecStart=\"{program}\" local-cloud\n\
         WorkingDirectory=/\n\
         {environment}\
         # Machines outlive the process, which another one may replace.\n\
         KillMode=process\n\
         # A machine that the kernel ends for its memory is the process's to replace.\n\
         OOMPolicy=continue\n\
         Restart=on-failure\n\
         RestartSec=5\n\
         \n\
         [Install]\n\
         WantedBy={target}\n",
        program = escaped(home.executable.as_os_str(), true),
        state = escaped(home.state.as_os_str(), false),
        environment = environment.concat(),
    )
}

/// A text within double quotes of a unit. Source: systemd.service(5), systemd.syntax(7).
fn escaped(text: &OsStr, is_command: bool) -> String {
    let one = |byte: &u8| match byte {
        b'%' => "%%".to_owned(),
        b'$' if is_command => "$$".to_owned(),
        b'"' | b'\\' => format!("\\{}", char::from(*byte)),
        b' '..=b'~' => char::from(*byte).to_string(),
        byte => format!("\\x{byte:02x}"),
    };
    text.as_bytes().iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> Home {
        let variables = [
            ("PATH", "/usr/bin:/bin"),
            ("HOME", "/home/ana maria"),
            ("XDG_RUNTIME_DIR", "/run/user/1000"),
            ("XDG_STATE_HOME", "/home/ana maria/100%/\"s\"\\$x\n"),
        ];
        Home::new(Path::new("/s"), Path::new("/c"), PathBuf::from("/opt/$v 1/i2kit"))
            .with_environment(variables.map(|(name, value)| (name.into(), value.into())).into())
    }

    #[test]
    fn the_unit_is_one_of_systemd() {
        let written = unit_text(&home(), false);
        insta::assert_snapshot!("unit", written);
        assert!(unit_text(&home(), true).ends_with("WantedBy=multi-user.target\n"));
    }

    #[test]
    fn what_runs_it_by_hand_is_a_line_of_a_shell() {
        let line = command_line(&home());
        assert!(
            line.starts_with("cd / && env -i PATH='/usr/bin:/bin' HOME='/home/ana maria' XDG_STATE_HOME="),
            "{line}"
        );
        assert!(line.ends_with(" '/opt/$v 1/i2kit' local-cloud") && !line.contains("RUNTIME"), "{line}");
    }

    #[test]
    fn a_unit_that_is_removed_is_no_more_enabled() {
        let folder = tempfile::tempdir().unwrap();
        let unit = Unit::within(folder.path(), "default.target.wants", false);
        assert!(!unit.is_enabled());
        assert!(Path::new(BOOTED).exists() || disable(&unit) == Ok(false));
        fs::create_dir_all(unit.link.parent().unwrap()).unwrap();
        fs::write(&unit.path, text(&home(), &unit)).unwrap();
        std::os::unix::fs::symlink(&unit.path, &unit.link).unwrap();
        assert!(unit.is_enabled());
        if !Path::new(BOOTED).exists() {
            assert_eq!(disable(&unit), Ok(true));
            assert!(!unit.is_enabled() && !unit.path.exists());
            let refused = enable(&home(), &unit).unwrap_err().to_string();
            assert!(refused.contains("has no systemd") && refused.contains("env -i"), "{refused}");
        }
    }

    #[test]
    fn users_are_found_by_their_number() {
        assert_eq!(user_name(0).as_deref(), Some("root"));
        assert_eq!(user_name(u32::MAX - 7), None);
    }
}
