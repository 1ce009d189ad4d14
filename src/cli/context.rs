//! What every verb works with: folders, environment, output. The only place that reads environment variables.

use std::path::PathBuf;

use anyhow::Context as _;
use etcetera::BaseStrategy as _;

use super::environment::{self, Environment};
use super::exit::{Exit, Failure, OrExit as _};
use crate::report::{self, Events, Format};

/// Folders of this program, each ending in `i2kit`, after the XDG base directory specification.
#[derive(Debug, Clone)]
pub struct Dirs {
    /// What can be made again: blobs, layers, images.
    pub cache: PathBuf,
    /// What cannot: the local cloud's state.
    pub state: PathBuf,
    /// What was installed: guest bundles.
    pub data: PathBuf,
    /// Sockets of running processes.
    pub runtime: PathBuf,
}

/// What every verb works with.
#[derive(Debug, Clone)]
pub struct Context {
    /// Folders.
    pub dirs: Dirs,
    /// The environment.
    pub environment: Environment,
    /// How results are written.
    pub format: Format,
    /// Where events go.
    pub events: Events,
    /// The guest bundle's folder when `I2KIT_GUEST` names one.
    pub guest: Option<PathBuf>,
    /// Docker's configuration file, which holds credentials.
    pub docker_config: PathBuf,
}

/// An environment variable, unless it is empty.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The context that the global arguments ask for.
pub fn context(file: Option<&std::path::Path>, format: Format, quiet: bool) -> Result<Context, Failure> {
    let environment = environment::read(file).or_exit(Exit::Environment)?;
    let base = etcetera::choose_base_strategy().context("no home folder: set HOME")?;
    let state = base.state_dir().unwrap_or_else(|| base.data_dir());
    // Without a session's runtime folder, sockets lie with the state: the folder is as private.
    let runtime = base.runtime_dir().unwrap_or_else(|| state.clone());
    let docker = variable("DOCKER_CONFIG").unwrap_or_else(|| base.home_dir().join(".docker"));
    Ok(Context {
        dirs: Dirs {
            cache: base.cache_dir().join("i2kit"),
            state: state.join("i2kit"),
            data: base.data_dir().join("i2kit"),
            runtime: runtime.join("i2kit"),
        },
        environment,
        format,
        events: report::events(format, quiet),
        guest: variable("I2KIT_GUEST"),
        docker_config: docker.join("config.json"),
    })
}
