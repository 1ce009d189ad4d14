//! The sandbox of a pod: what its containers share, as the boot has made it.

use std::os::fd::OwnedFd;

use rustix::process::Pid;

use crate::instance::Instance;
use crate::secrets::Secrets;

/// What all containers of the pod share.
#[derive(Debug, Default)]
pub struct Sandbox {
    /// The host name.
    pub hostname: String,
    /// What variables and files can be made of.
    pub instance: Instance,
    /// The Secrets that came at boot.
    pub secrets: Secrets,
    /// The first process of the PID namespace that all containers share, when they do.
    pub pause: Option<Pid>,
    /// Whether the pod has one container only.
    pub alone: bool,
    /// The user namespace of the containers, when it is not the VM's.
    pub users: Option<OwnedFd>,
}
