//! Arguments of the verb about the local authority.

use clap::Subcommand;

/// `ca`.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(in crate::cli) enum CaVerb {
    /// Create the authority, if there is none; the local cloud does so too when an Ingress needs it
    Create,
    /// Show where its certificate is, and whether this system trusts it
    Show,
    /// Print its certificate as PEM
    Print,
    /// Have this system trust it: print the commands that it takes, and run them as root
    Install,
    /// Have this system trust it no more; the authority stays
    Uninstall,
    /// Have this system trust it no more, and remove it with its key
    Rm,
}
