//! `i2kit replicas`: what the machines of a replicated group say of themselves, the lead, and the way out of a lost majority.

mod lead;
mod recover;
mod shown;

pub(super) use self::shown::{Progress, complaint, detail, is_replicated, known, newest_of, word};
use self::shown::{ask, shown};
use super::args::ReplicasArgs;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::tables::lines;
use super::{connection, named, output};
use crate::cloud::CloudError;
use crate::manifest::support::Answer;
use crate::report::{self, Format};

/// Prints what each replica of the group says, or does something for the group.
pub(super) async fn run(context: &Context, args: &ReplicasArgs) -> Result<Exit, Failure> {
    let support = connection::provider(context)?.support();
    if matches!(support.answer("i2kit replicas"), Answer::NotYet | Answer::No) {
        let unsupported = CloudError::Unsupported {
            what: format!("`i2kit replicas` on {}", support.name),
            advice: "deploy replicated pods to the local cloud".into(),
        };
        return Err(unsupported).or_exit(Exit::Cloud);
    }
    let cloud = connection::cloud(context).await?;
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    let group = named::group(&fleet, &args.name)?;
    if !is_replicated(group) {
        let error = anyhow::anyhow!(
            "{} is not replicated: the pod of a StatefulSet is, with the annotation `i2kit.dev/replicated`",
            group.name
        );
        return Err(Failure::new(Exit::Usage, error));
    }
    if let Some(slot) = args.lead {
        return lead::run(context, cloud.as_ref(), group, slot).await;
    }
    if args.recover {
        return recover::run(context, cloud.as_ref(), (&fleet, group), args.yes).await;
    }
    let replicas = ask(cloud.as_ref(), group).await;
    match context.format {
        Format::Json => output::json(&replicas),
        Format::Text if replicas.is_empty() => report::result("No instance runs.\n"),
        Format::Text => report::result(&lines(&[shown(&replicas)])),
    }
    Ok(Exit::Success)
}
