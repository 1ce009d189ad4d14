//! Acts as records: whether one may be applied, and its record.

use std::time::Duration;

use crate::cloud::CloudError;
use crate::cloud::engine::environment::Environment;
use crate::cloud::local::keeper::Keeper;
use crate::cloud::local::network::addresses;
use crate::plan::act::{Act, PlannedAct};
use crate::plan::fleet::Generation;

/// How often an act that waits looks again.
pub(super) const POLL: Duration = Duration::from_millis(50);

/// The refusal of an act that waits while the process ends.
pub(super) const ENDING: &str = "the local cloud is ending; the deletion goes on when it runs again";

/// Whether the act is to be applied: it was not yet, and may be. What its record will refuse is refused before a file changes.
pub(super) fn admit(keeper: &Keeper, environment: &str, act: &PlannedAct) -> Result<bool, CloudError> {
    let empty = Environment::default();
    let state = keeper.state();
    let found = state.environments.get(environment).unwrap_or(&empty);
    if found.applied(act).is_some() {
        return Ok(false);
    }
    found.clone().apply(act, keeper.clock.now(), String::new).map(|_| true)
}

/// Records an act. The address of a new balancer is chosen in the same change, so that two that are put at once get two
/// addresses.
pub(super) fn record(keeper: &Keeper, environment: &str, act: &PlannedAct) -> Result<Generation, CloudError> {
    let now = keeper.clock.now();
    keeper.change_all(|environments| {
        let balancers = environments.values().flat_map(|found| found.balancers.values());
        let taken: Vec<String> = balancers.map(|balancer| balancer.host.clone()).collect();
        let host = || match &act.act {
            Act::PutBalancer { spec } => addresses::balancer(environment, &spec.name, &taken).to_string(),
            _ => String::new(),
        };
        environments.entry(environment.to_owned()).or_default().apply(act, now, host)
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::json;

    use super::*;
    use crate::cloud::engine::environment::BalancerRecord;
    use crate::cloud::local::home::Home;
    use crate::manifest::api::Name;
    use crate::plan::fleet::BalancerSpec;

    #[test]
    fn balancers_of_all_environments_have_addresses_of_their_own() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::new(&root.path().join("state"), root.path(), PathBuf::new());
        home.create().unwrap();
        let keeper = Keeper::open(home).unwrap();
        let web = Name { namespace: "default".into(), name: "web".into() };
        let spec: BalancerSpec =
            serde_json::from_value(json!({ "name": web, "kind": "ClusterIP", "listeners": [] })).unwrap();
        // Another environment's has the address that this one's would be given.
        let taken =
            BalancerRecord { spec: spec.clone(), host: addresses::balancer("local", &web, &[]).to_string() };
        let host = taken.host.clone();
        keeper
            .change_all(|environments| {
                environments.entry("other".into()).or_default().balancers.insert(web.clone(), taken);
                Ok(())
            })
            .unwrap();
        let generation = Environment::default().generation();
        let act = PlannedAct { act: Act::PutBalancer { spec }, generation, by: "ana".into() };
        record(&keeper, "local", &act).unwrap();
        let given = keeper.state().environments["local"].balancers[&web].host.clone();
        assert!(given != host && given.starts_with("127.77."), "{given}");
    }
}
