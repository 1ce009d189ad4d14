//! What a connection to AWS is made with.

use std::path::PathBuf;

use crate::cloud::aws::plan::stack_templates::Network;

/// An environment in an account and a region, and how it is reached.
#[derive(Debug, Clone)]
pub struct AwsSettings {
    /// The environment's name.
    pub environment: String,
    /// The region.
    pub region: String,
    /// The profile of AWS' configuration files, when it is not the default one.
    pub profile: Option<String>,
    /// A network that exists; the environment makes one of its own otherwise.
    pub network: Option<Network>,
    /// Where all services answer instead of at AWS: an emulator.
    pub endpoint: Option<String>,
    /// The same as the machines see it.
    pub guest_endpoint: Option<String>,
    /// The ARN of the managed policy that bounds the roles of machines.
    pub boundary: Option<String>,
    /// Whether the account is of the free plan, which starts few types of instance.
    pub free_plan: bool,
    /// The cache's root.
    pub cache: PathBuf,
    /// Who this is, in letters, digits and hyphens, for those who wait for what this run does.
    pub holder: String,
}
