//! `i2kit preflight`: what would stop a deployment, before anything is built. `i2kit iam-policy`: the smallest policy.

use super::context::Context;
use super::environment::Provider;
use super::exit::{Exit, Failure};
use super::pipeline;
use crate::plan::aws::calls;
use crate::report;

/// Checks the environment's cloud.
pub(super) async fn run(context: &Context) -> Result<Exit, Failure> {
    match &context.environment.provider {
        Provider::Local => {
            report::result("ok  the local cloud needs no account; `scripts/deps` lists its programs\n");
            Ok(Exit::Success)
        }
        Provider::Aws(provider) => super::aws::preflight(context, provider).await,
    }
}

/// Prints the policy.
pub(super) fn policy(context: &Context) -> Exit {
    pipeline::json(&calls::policy(&context.environment.name));
    Exit::Success
}
