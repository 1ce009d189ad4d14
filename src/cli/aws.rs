//! The cloud of an environment file with `provider.type: aws`.

#[cfg(feature = "aws")]
use std::collections::BTreeMap;

use super::context::Context;
use super::environment::AwsProvider;
use super::exit::{Exit, Failure};
use crate::cloud::Cloud;
use crate::manifest::api::ObjectSet;

/// The environment in AWS.
#[cfg(feature = "aws")]
pub(super) async fn cloud(context: &Context, provider: &AwsProvider) -> Result<Box<dyn Cloud>, Failure> {
    Ok(Box::new(connected(context, provider).await?))
}

/// The environment in AWS, for verbs that only AWS has.
#[cfg(feature = "aws")]
pub(super) async fn connected(
    context: &Context,
    provider: &AwsProvider,
) -> Result<crate::cloud::aws::Aws, Failure> {
    use super::exit::OrExit as _;
    use crate::cloud::aws::{Aws, Settings};
    use crate::plan::aws::frame::Network;

    let network = provider.vpc.clone().map(|vpc| Network { vpc, subnets: provider.subnets.clone() });
    let settings = Settings {
        environment: context.environment.name.clone(),
        region: provider.region.clone(),
        profile: provider.profile.clone(),
        network,
        endpoint: provider.endpoint.clone(),
        guest_endpoint: provider.machines_endpoint.clone(),
        cache: context.dirs.cache.clone(),
        holder: super::context::holder(),
    };
    Aws::new(settings, context.events.clone()).await.or_exit(Exit::Cloud)
}

/// Says that this program cannot.
#[cfg(not(feature = "aws"))]
#[expect(clippy::unused_async, reason = "with the feature `aws` it asks for credentials")]
pub(super) async fn cloud(context: &Context, _: &AwsProvider) -> Result<Box<dyn Cloud>, Failure> {
    Err(Failure::new(
        Exit::Environment,
        anyhow::anyhow!(
            "this i2kit was built without AWS support, which the environment {} needs: build it with \
             `cargo build --release --features aws`",
            context.environment.name
        ),
    ))
}

/// Makes every check and tells all of them.
#[cfg(feature = "aws")]
pub(super) async fn preflight(
    context: &Context,
    provider: &AwsProvider,
    set: &ObjectSet,
) -> Result<Exit, Failure> {
    use crate::cloud::aws::Wanted;
    use crate::oci::Digest;
    use crate::plan::image::ImageId;
    use crate::plan::workload;
    use crate::report::{self, Format};

    let aws = connected(context, provider).await?;
    // Nothing is built: which images these will be is not known, and no check asks.
    let images = vec![ImageId(Digest::of(b"")); set.pods().count()];
    let (groups, balancers) = workload::desired(set, &images, &BTreeMap::new());
    let wanted = Wanted::new(&aws.observe().await.unwrap_or_default(), groups, balancers);
    let checks = aws.preflight(&wanted).await;
    match context.format {
        Format::Json => super::pipeline::json(&checks),
        Format::Text => {
            for check in &checks {
                let word = match check.ok {
                    Some(true) => "ok     ",
                    Some(false) => "FAILED ",
                    None => "unknown",
                };
                let finding = format!("{}: {}", check.name, check.finding);
                report::result(&format!("{word} {}\n", crate::text::line(&finding)));
            }
        }
    }
    Ok(if checks.iter().any(|check| check.ok == Some(false)) { Exit::Cloud } else { Exit::Success })
}

/// Says that this program cannot.
#[cfg(not(feature = "aws"))]
pub(super) async fn preflight(
    context: &Context,
    provider: &AwsProvider,
    _: &ObjectSet,
) -> Result<Exit, Failure> {
    cloud(context, provider).await.map(|_| Exit::Success)
}
