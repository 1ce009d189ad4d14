//! The application as the coordinator handles it: started empty or from a captured state, captured, and waited for.
//!
//! [`Application::capture`] writes to a file from where it stands, and [`Application::restart_from`] reads one from where it
//! stands to its end: the state is the last part of a snapshot's file.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use i2kit_spec::replica::{PodRequest, ReplicaConfig, State};
use tokio::net::TcpStream;

use super::folder::{self, Listing};
use super::owner;
use super::pod::{Pod, PodError};

/// The shortest and the longest time between two looks whether the application listens.
const LOOKS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

/// How often the supervisor is asked to let the application go on, when its socket does not work.
const THAWS: usize = 50;

/// Why the application or its state could not be handled. The application may be stopped then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// The supervisor did not do it.
    #[error(transparent)]
    Pod(#[from] PodError),
    /// The volume's folder could not be read or written.
    #[error("the state in {0} cannot be {1}: {2}")]
    Folder(PathBuf, &'static str, io::Error),
    /// A hook did not end well.
    #[error(
        "the command {0:?} of the annotation i2kit.dev/replicated-{1} ended with {2}; its output says why"
    )]
    Hook(Vec<String>, &'static str, i32),
    /// There is no way to capture.
    #[error(
        "the state `memory` has no snapshot: choose another i2kit.dev/replicated-state, or raise log= of its limits"
    )]
    NoSnapshot,
    /// The folder's files are somebody else's.
    #[error(
        "the volume in {0} has files that are not of this group's state, and they stay as they are: copy them elsewhere, empty the \
         volume, and write what is in them through the group's Service; where only the disk of the log was replaced, replace \
         the disk of the state with it"
    )]
    NotOurs(PathBuf),
    /// The application stands, and cannot be let go on.
    #[error("the application stands for its snapshot, and does not go on: {0}")]
    Frozen(PodError),
    /// What was asked for was given up.
    #[error("the work on the application's state was broken off")]
    BrokenOff,
}

/// The containers of the application and how their state is captured.
#[derive(Debug, Clone)]
pub(crate) struct Application {
    pod: Pod,
    containers: Vec<String>,
    port: u16,
    state: State,
    /// The folder of the volume, for [`State::Directory`].
    folder: PathBuf,
    /// The folder of the log, which says whose the volume is.
    log: PathBuf,
}

impl Application {
    /// `socket` is the supervisor's, `mount` the folder that the pod's volumes lie in, and `log` that of the log.
    pub(crate) fn new(config: &ReplicaConfig, socket: &Path, mount: &Path, log: &Path) -> Self {
        let folder = match &config.state {
            State::Directory { volume } => mount.join(volume),
            State::Memory | State::Hooks { .. } => PathBuf::new(),
        };
        Self {
            pod: Pod::new(socket),
            containers: config.containers.clone(),
            port: config.app_port,
            state: config.state.clone(),
            folder,
            log: log.to_owned(),
        }
    }

    /// Makes sure that what the volume's folder holds is the group's own to replace.
    fn own(&self) -> Result<(), StateError> {
        let State::Directory { volume } = &self.state else { return Ok(()) };
        let taken = owner::take(&self.log, volume, &self.folder);
        let is_ours = taken.map_err(|error| self.failed("looked at", error))?;
        if is_ours { Ok(()) } else { Err(StateError::NotOurs(self.folder.clone())) }
    }

    /// Ends the application and starts it without a state, and waits until it listens. With hooks it is started as it was: its
    /// image or its restore command makes it empty.
    pub(crate) async fn restart_empty(&self) -> Result<(), StateError> {
        let this = self.clone();
        blocking(move || {
            this.stop()?;
            this.own()?;
            if matches!(this.state, State::Directory { .. }) {
                folder::clear(&this.folder).map_err(|error| this.failed("emptied", error))?;
            }
            this.start()
        })
        .await?;
        self.wait_until_listening().await;
        Ok(())
    }

    /// Ends the application, gives it the state that `snapshot` has from where it stands to its end, starts it, and waits until it
    /// listens. Safe to repeat after a crash at any moment.
    pub(crate) async fn restart_from(&self, snapshot: &mut File) -> Result<(), StateError> {
        let snapshot = snapshot.try_clone().map_err(|error| self.failed("read from its snapshot", error))?;
        let this = self.clone();
        match &self.state {
            State::Memory => Err(StateError::NoSnapshot),
            State::Directory { .. } => {
                blocking(move || {
                    this.stop()?;
                    this.own()?;
                    folder::replace(&this.folder, &snapshot)
                        .map_err(|error| this.failed("replaced by its snapshot", error))?;
                    this.start()
                })
                .await?;
                self.wait_until_listening().await;
                Ok(())
            }
            State::Hooks { container, restore, .. } => {
                let again = this.clone();
                blocking(move || again.stop().and_then(|()| again.start())).await?;
                self.wait_until_listening().await;
                let (container, command) = (container.clone(), restore.clone());
                blocking(move || this.run(container, command, "restore", Some(&snapshot), None)).await
            }
        }
    }

    /// Writes the application's state to `snapshot` from where it stands. No request may be under way meanwhile.
    pub(crate) async fn capture(&self, snapshot: &mut File) -> Result<(), StateError> {
        let snapshot = snapshot.try_clone().map_err(|error| self.failed("written to its snapshot", error))?;
        let this = self.clone();
        match &self.state {
            State::Memory => Err(StateError::NoSnapshot),
            State::Directory { .. } => blocking(move || this.capture_folder(&snapshot)).await,
            State::Hooks { container, snapshot: command, .. } => {
                let (container, command) = (container.clone(), command.clone());
                blocking(move || this.run(container, command, "snapshot", None, Some(&snapshot))).await
            }
        }
    }

    /// Waits until the application takes connections. How long it may take is for its probes to say.
    pub(crate) async fn wait_until_listening(&self) {
        let mut pause = LOOKS.0;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.is_err() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOKS.1);
        }
    }

    fn capture_folder(&self, snapshot: &File) -> Result<(), StateError> {
        self.pod.ask(&PodRequest::Freeze { containers: self.containers.clone() })?;
        let written = self.write_frozen(snapshot);
        // Whatever happened, the application goes on.
        if let Err(error) = self.thaw() {
            // It may not have stood all the time, too: the copy may be torn.
            if let Ok((listing, _)) = written {
                drop(listing.forget());
            }
            return Err(StateError::Frozen(error));
        }
        let failed = |error| self.failed("copied", error);
        let (listing, is_written) = written.map_err(failed)?;
        let written = if is_written { Ok(()) } else { listing.write(snapshot) };
        let forgotten = listing.forget();
        written.and(forgotten).map_err(failed)
    }

    /// Lets the application go on. A supervisor that ended meanwhile is back soon.
    fn thaw(&self) -> Result<(), PodError> {
        let request = PodRequest::Thaw { containers: self.containers.clone() };
        for _ in 1..THAWS {
            match self.pod.ask(&request) {
                Err(PodError::Socket(..)) => std::thread::sleep(LOOKS.1),
                answer => return answer,
            }
        }
        self.pod.ask(&request)
    }

    /// What must be done while the application stands; and whether the stream is written with it.
    fn write_frozen(&self, snapshot: &File) -> io::Result<(Listing, bool)> {
        let mut listing = Listing::new(&self.folder)?;
        if listing.copy()? {
            return Ok((listing, false));
        }
        // Copies of a part may have been made: the stream is made of the originals.
        listing.forget()?;
        let listing = Listing::new(&self.folder)?;
        listing.write(snapshot)?;
        Ok((listing, true))
    }

    fn stop(&self) -> Result<(), StateError> {
        Ok(self.pod.ask(&PodRequest::Stop { containers: self.containers.clone() })?)
    }

    fn start(&self) -> Result<(), StateError> {
        Ok(self.pod.ask(&PodRequest::Start { containers: self.containers.clone() })?)
    }

    fn run(
        &self,
        container: String,
        command: Vec<String>,
        which: &'static str,
        input: Option<&File>,
        output: Option<&File>,
    ) -> Result<(), StateError> {
        let request = PodRequest::Run { container, command: command.clone(), env: [].into() };
        match self.pod.run(&request, input, output)? {
            0 => Ok(()),
            code => Err(StateError::Hook(command, which, code)),
        }
    }

    fn failed(&self, what: &'static str, error: io::Error) -> StateError {
        StateError::Folder(self.folder.clone(), what, error)
    }
}

/// Does what blocks on a thread of its own.
async fn blocking(work: impl FnOnce() -> Result<(), StateError> + Send + 'static) -> Result<(), StateError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(StateError::BrokenOff))
}
