//! `i2kit preflight`: what would stop a deployment, before anything is built. `i2kit iam-policy`: the smallest policy.

use super::args::{Manifests, PreflightArgs};
use super::check;
use super::context::Context;
use super::environment::Provider;
use super::exit::{Exit, Failure};
use super::pipeline;
use crate::manifest::api::ObjectSet;
use crate::plan::aws::calls;
use crate::report;

/// Checks the environment's cloud, for what it holds and what the manifests say.
pub(super) async fn run(context: &Context, args: PreflightArgs) -> Result<Exit, Failure> {
    let PreflightArgs { manifests, kustomize, reading } = args;
    let set = if manifests.is_empty() && kustomize.kustomize.is_empty() {
        ObjectSet::default()
    } else {
        check::read(&Manifests { manifests, kustomize, reading }, context)?
    };
    match &context.environment.provider {
        Provider::Local => {
            report::result("ok  the local cloud needs no account; `scripts/deps` lists its programs\n");
            Ok(Exit::Success)
        }
        Provider::Aws(provider) => super::aws::preflight(context, provider, &set).await,
    }
}

/// Prints the policy of an environment on AWS.
pub(super) fn policy(context: &Context) -> Result<Exit, Failure> {
    let name = &context.environment.name;
    if matches!(context.environment.provider, Provider::Local) {
        let error = anyhow::anyhow!(
            "the environment {name} is on this machine and needs no policy; name an environment file whose provider is `aws` with -e"
        );
        return Err(Failure::new(Exit::Environment, error));
    }
    pipeline::json(&calls::policy(name));
    Ok(Exit::Success)
}
