//! `i2kit preflight`: what would stop a deployment, before anything is built. `i2kit iam-policy`: the smallest policy.

use super::args::{IamPolicyArgs, Manifests, PreflightArgs};
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::trial::name as trial_name;
use super::{connection, output, prepare, reading};
use crate::cloud::kinds;
use crate::cloud::provider::Check;
use crate::image::guest;
use crate::manifest::api::ObjectSet;
use crate::plan::replicated;
use crate::report::{self, Format};
use crate::text;

/// Checks the environment's cloud, for what it holds and what the manifests name, and shows every check.
pub(super) async fn run(context: &Context, args: PreflightArgs) -> Result<Exit, Failure> {
    let PreflightArgs { manifests, options, reading } = args;
    let set = if manifests.is_empty() && options.is_empty() {
        ObjectSet::default()
    } else {
        replicated::expand(reading::read(&Manifests { manifests, options, reading }, context)?)
    };
    let checks = checks(context, &set).await?;
    match context.format {
        Format::Json => output::json(&checks),
        Format::Text => checks.iter().for_each(|check| report::result(&line(check))),
    }
    Ok(if checks.iter().any(|check| check.ok == Some(false)) { Exit::Cloud } else { Exit::Success })
}

/// Every check of the environment's cloud and of this computer, for the environment with the set beside what it holds.
pub(super) async fn checks(context: &Context, set: &ObjectSet) -> Result<Vec<Check>, Failure> {
    // Nothing is built: no check needs what is not known before that.
    let (groups, balancers) = prepare::unplanned(set);
    let provider = connection::provider(context)?;
    let checks = provider.preflight(&connection::client(context)?, groups, balancers).await;
    let mut checks = checks.or_exit(Exit::Cloud)?;
    checks.push(guest(context));
    Ok(checks)
}

/// The guest bundle, which every image boots from.
fn guest(context: &Context) -> Check {
    let found = guest::find(context.guest.as_deref(), &context.dirs.data);
    match found.and_then(|bundle| bundle.verify().map(|()| bundle)) {
        Ok(bundle) => Check::new("guest bundle", Some(true), format!("{}, whole", bundle.kernel.display())),
        Err(error) => Check::new("guest bundle", Some(false), error.to_string()),
    }
}

/// A check as a line.
pub(super) fn line(check: &Check) -> String {
    let word = match check.ok {
        Some(true) => "ok     ",
        Some(false) => "FAILED ",
        None => "unknown",
    };
    let finding = format!("{}: {}", check.name, check.finding);
    format!("{word} {}\n", text::line(&finding))
}

/// Prints the policy of an environment whose cloud has such, or the boundary of its machines' roles.
pub(super) fn policy(context: &Context, args: &IamPolicyArgs) -> Result<Exit, Failure> {
    let name = &context.environment.name;
    let provider = &context.environment.provider;
    let of = if args.trial { trial_name::of(name) } else { name.clone() };
    let found = if args.boundary { provider.permissions_boundary(&of) } else { provider.iam_policy(&of) };
    let Some(policy) = found else {
        let error = anyhow::anyhow!(
            "the environment {name} is on {} and needs no policy; name an environment file whose provider is `{}` with -e",
            provider.support().name,
            kinds::others(provider.support()).join("` or `")
        );
        return Err(Failure::new(Exit::Environment, error));
    };
    output::json(&policy);
    Ok(Exit::Success)
}
