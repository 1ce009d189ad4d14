//! What every verb works with: folders, environment, output. The only place that reads environment variables.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use anyhow::Context as _;
use etcetera::BaseStrategy as _;

use super::environment::{self, Environment};
use super::exit::{Exit, Failure, OrExit as _};
use crate::registry::{Proxies, Settings};
use crate::report::{self, Events, Format};

/// Folders of this program, each ending in `i2kit`, after the XDG base directory specification.
#[derive(Debug, Clone)]
pub(super) struct Dirs {
    /// What can be made again: blobs, layers, images.
    pub cache: PathBuf,
    /// What cannot: the local cloud's state.
    pub state: PathBuf,
    /// What was installed: guest bundles.
    pub data: PathBuf,
    /// The user's configuration, of all programs.
    pub configuration: PathBuf,
}

/// What every verb works with.
#[derive(Debug, Clone)]
pub(super) struct Context {
    /// Folders.
    pub dirs: Dirs,
    /// The environment.
    pub environment: Environment,
    /// How results are written.
    pub format: Format,
    /// Where events go.
    pub events: Events,
    /// Whether notes are left out.
    pub quiet: bool,
    /// The guest bundle's folder when `I2KIT_GUEST` names one.
    pub guest: Option<PathBuf>,
    /// How images are reached.
    pub images: Settings,
    /// The environment variables that processes have which outlive this one.
    pub kept_variables: Vec<(OsString, OsString)>,
    /// The page that a CI runner shows of this step (`GITHUB_STEP_SUMMARY`).
    pub summary: Option<PathBuf>,
}

/// An environment variable, unless it is empty.
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The environment file that `I2KIT_ENVIRONMENT` names.
pub(super) fn environment_file() -> Option<PathBuf> {
    variable("I2KIT_ENVIRONMENT")
}

/// Whether processes that outlive this one have that variable: where programs and folders are, and no more. Others may
/// hold secrets of who called.
fn is_kept(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    matches!(&*name, "PATH" | "HOME" | "TMPDIR" | "I2KIT_LOCAL_NETWORK") || name.starts_with("XDG_")
}

/// Variables that a program of the user's desktop needs, which belongs to no command of ours.
const DESKTOP: [&str; 18] = [
    "BROWSER",
    "DBUS_SESSION_BUS_ADDRESS",
    "DESKTOP_SESSION",
    "DISPLAY",
    "GDMSESSION",
    "GNOME_DESKTOP_SESSION_ID",
    "KDE_FULL_SESSION",
    "KDE_SESSION_VERSION",
    "LANG",
    "LANGUAGE",
    "LOGNAME",
    "SESSION_MANAGER",
    "SHELL",
    "USER",
    "WAYLAND_DISPLAY",
    "WSL_DISTRO_NAME",
    "WSL_INTEROP",
    "XAUTHORITY",
];

/// Whether a program of the user's desktop has that variable. Others may hold secrets of who called.
fn is_of_desktop(name: &OsStr) -> bool {
    let text = name.to_string_lossy();
    DESKTOP.contains(&&*text) || text.starts_with("LC_") || (is_kept(name) && !text.starts_with("I2KIT_"))
}

/// The environment variables that a program of the user's desktop gets.
pub(super) fn desktop_variables() -> Vec<(OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| is_of_desktop(name)).collect()
}

/// The Docker daemon's socket: `DOCKER_HOST` when it names one, else the usual place.
fn docker_socket() -> PathBuf {
    variable("DOCKER_HOST")
        .and_then(|host| host.to_string_lossy().strip_prefix("unix://").map(PathBuf::from))
        .unwrap_or_else(|| Settings::default().docker_socket)
}

/// The proxies of the process's environment; curl's lower-case names count too.
fn proxies() -> Proxies {
    let text = |upper: &str, lower: &str| {
        variable(upper).or_else(|| variable(lower)).map(|value| value.to_string_lossy().into_owned())
    };
    Proxies {
        https: text("HTTPS_PROXY", "https_proxy"),
        http: text("HTTP_PROXY", "http_proxy"),
        none_for: text("NO_PROXY", "no_proxy"),
    }
}

/// The name of the user who runs this, where the system's list of users has it.
fn user() -> Option<String> {
    let list = std::fs::read_to_string("/etc/passwd").ok()?;
    name_of(&list, rustix::process::getuid().as_raw()).map(str::to_owned)
}

/// The name of a user in a list in the form of `passwd(5)`.
fn name_of(list: &str, id: u32) -> Option<&str> {
    list.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then_some(name)
    })
}

/// The longest name that is taken into [`holder`].
const NAME_LENGTH: usize = 40;

/// Names that tell nothing of who runs this or where.
const NOBODY: [&str; 2] = ["root", "localhost"];

/// A name in letters, digits and hyphens.
fn plain(name: &str) -> String {
    let plain = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' });
    plain.take(NAME_LENGTH).collect()
}

/// The name of this computer.
fn host() -> Option<String> {
    std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|host| host.trim().to_owned())
}

/// What tells who runs this and where: the home folder and the names of the user and of the computer, the longest first.
pub(super) fn personal() -> Vec<String> {
    let text = |name: &str| variable(name).map(|value| value.to_string_lossy().into_owned());
    let variables = ["GITHUB_ACTOR", "GITLAB_USER_LOGIN", "USER", "LOGNAME"];
    let mut names: Vec<String> = variables.into_iter().filter_map(text).chain(user()).collect();
    if let Some(host) = host() {
        names.extend(host.split('.').next().map(str::to_owned));
        names.push(host);
    }
    names.retain(|name| !NOBODY.contains(&name.as_str()));
    let mut personal: Vec<String> = names.into_iter().flat_map(|name| [plain(&name), name]).collect();
    personal.push(holder());
    let home = etcetera::choose_base_strategy().ok().map(|base| base.home_dir().display().to_string());
    personal.extend(home.filter(|home| home != "/"));
    personal.retain(|word| !word.is_empty());
    personal.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    personal.dedup();
    personal
}

/// Who runs this, in letters, digits and hyphens: of a CI job its user and number, else user, host and process.
pub(super) fn holder() -> String {
    let text = |name: &str| variable(name).map(|value| value.to_string_lossy().into_owned());
    let user =
        text("GITHUB_ACTOR").or_else(|| text("GITLAB_USER_LOGIN")).or_else(|| text("USER")).or_else(user);
    let place = match text("GITHUB_RUN_ID").or_else(|| text("CI_JOB_ID")) {
        Some(job) => Some(format!("job-{job}")),
        None => host().map(|host| format!("{host}-{}", std::process::id())),
    };
    let words = [user.unwrap_or_else(|| "somebody".into()), place.unwrap_or_default()];
    words.map(|word| plain(&word)).join("-").trim_matches('-').to_owned()
}

/// The context that the global arguments ask for.
pub(super) fn context(
    file: Option<&std::path::Path>,
    format: Format,
    quiet: bool,
) -> Result<Context, Failure> {
    let environment = environment::read(file).or_exit(Exit::Environment)?;
    let base = etcetera::choose_base_strategy().context("no home folder: set HOME")?;
    let state = base.state_dir().unwrap_or_else(|| base.data_dir());
    let docker = variable("DOCKER_CONFIG").unwrap_or_else(|| base.home_dir().join(".docker"));
    let images = Settings {
        registries: environment.registries.clone(),
        images: environment.images.clone(),
        docker_config: Some(docker.join("config.json")),
        docker_socket: docker_socket(),
        proxies: proxies(),
        ..Settings::default()
    };
    Ok(Context {
        dirs: Dirs {
            cache: base.cache_dir().join("i2kit"),
            state: state.join("i2kit"),
            data: base.data_dir().join("i2kit"),
            configuration: base.config_dir(),
        },
        environment,
        format,
        events: report::events(format, quiet),
        quiet,
        guest: variable("I2KIT_GUEST"),
        images,
        kept_variables: std::env::vars_os().filter(|(name, _)| is_kept(name)).collect(),
        summary: variable("GITHUB_STEP_SUMMARY"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_without_a_variable_is_found_by_number() {
        let list = "root:x:0:0:root:/root:/bin/sh\nbroken\nann:x:1000:1000::/home/ann:/bin/sh\n";
        assert_eq!(name_of(list, 1000), Some("ann"));
        assert_eq!(name_of(list, 7), None);
    }

    #[test]
    fn who_runs_this_is_told_by_words_of_which_the_longest_is_first() {
        let personal = personal();
        assert!(personal.contains(&holder()), "{personal:?}");
        assert!(personal.is_sorted_by(|a, b| a.len() >= b.len()), "{personal:?}");
        assert!(
            !personal.iter().any(|word| word.is_empty() || word == "/" || NOBODY.contains(&word.as_str()))
        );
    }

    #[test]
    fn no_secret_outlives_the_command() {
        for name in ["PATH", "HOME", "TMPDIR", "XDG_STATE_HOME", "XDG_CACHE_HOME"] {
            assert!(is_kept(OsStr::new(name)), "{name}");
        }
        for name in ["CI_TOKEN", "CLOUD_SECRET_KEY", "DOCKER_AUTH_CONFIG", "MYPATH", "HTTPS_PROXY"] {
            assert!(!is_kept(OsStr::new(name)) && !is_of_desktop(OsStr::new(name)), "{name}");
        }
        for name in ["PATH", "HOME", "DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "LC_ALL"] {
            assert!(is_of_desktop(OsStr::new(name)), "{name}");
        }
        for name in ["I2KIT_LOCAL_NETWORK", "I2KIT_ENVIRONMENT", "I2KIT_GUEST"] {
            assert!(!is_of_desktop(OsStr::new(name)), "{name}");
        }
    }
}
