//! `i2kit plan`: what deploy would do.

use super::args::PlanArgs;
use super::context::Context;
use super::exit::{Exit, Failure};
use super::output;
use super::prepare::{self, PlannedDeployment};
use crate::report::{self, Format};

/// Prints the plan; changes nothing.
pub(super) async fn run(context: &Context, args: &PlanArgs) -> Result<Exit, Failure> {
    let PlannedDeployment { fleet, plan, .. } = prepare::plan(context, &args.set, args.prune).await?;
    let cost = context.environment.provider.cost(&plan, &fleet);
    match context.format {
        Format::Json => {
            let mut value = serde_json::to_value(&plan).expect("plans have only string keys");
            if let (Some(cost), Some(object)) = (&cost, value.as_object_mut()) {
                object.insert("cost".into(), serde_json::json!(cost));
            }
            output::json(&value);
        }
        Format::Text => {
            report::result(&plan.to_string());
            if let Some(cost) = &cost {
                report::result(&cost.to_string());
            }
        }
    }
    let changes = args.detailed_exitcode && !plan.is_unchanged();
    Ok(if changes { Exit::Changes } else { Exit::Success })
}
