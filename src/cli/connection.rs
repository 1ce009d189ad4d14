//! The cloud of the environment: how it is connected to, and what it warns of.

use anyhow::Context as _;

use super::context::{self, Context};
use super::exit::{Exit, Failure, OrExit as _};
use crate::cloud::Cloud;
use crate::cloud::provider::{Client, Provider};
use crate::plan::fleet::{Fleet, LoadBalancer};

/// Ports below this one need a privilege on most hosts.
const FIRST_UNPRIVILEGED: u16 = 1024;

/// The cloud of the environment, once this program can connect to it.
pub(super) fn provider(context: &Context) -> Result<&dyn Provider, Failure> {
    let provider = context.environment.provider.as_ref();
    match provider.missing() {
        None => Ok(provider),
        Some(advice) => Err(Failure::new(
            Exit::Environment,
            anyhow::anyhow!(
                "this i2kit was built without {} support, which the environment {} needs: {advice}",
                provider.support().name,
                context.environment.name
            ),
        )),
    }
}

/// What the cloud gets from this command.
pub(super) fn client(context: &Context) -> Result<Client, Failure> {
    Ok(Client {
        environment: context.environment.name.clone(),
        state: context.dirs.state.clone(),
        cache: context.dirs.cache.clone(),
        program: std::env::current_exe().context("cannot find this program's own file")?,
        variables: context.kept_variables.clone(),
        holder: context::holder(),
        events: context.events.clone(),
        starts: true,
    })
}

/// Connects to the environment.
pub(super) async fn cloud(context: &Context) -> Result<Box<dyn Cloud>, Failure> {
    provider(context)?.connect(&client(context)?).await.or_exit(Exit::Cloud)
}

/// Prints the warnings of the cloud, and which ports of Services are served on others.
pub(super) fn warn(context: &Context, fleet: &Fleet) {
    for warning in fleet.warnings.iter().cloned().chain(moved_ports(fleet)) {
        context.events.warn(warning);
    }
}

/// A sentence for each port of a Service that could not be bound and is served on another one.
fn moved_ports(fleet: &Fleet) -> Vec<String> {
    let of = |balancer: &LoadBalancer| -> Vec<String> {
        let (name, host) = (&balancer.spec.name, &balancer.host);
        let sentence = |(wanted, bound): (u16, u16)| {
            let why = if wanted < FIRST_UNPRIVILEGED {
                "is taken by another program or not allowed to this user"
            } else {
                "is taken by another program"
            };
            format!("port {wanted} of Service {name} {why}: it is served at {host}:{bound}")
        };
        balancer.moved_ports().map(sentence).collect()
    };
    fleet.balancers.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_port_that_is_served_on_another_is_named_with_both() {
        let balancer: LoadBalancer = serde_json::from_value(json!({
            "spec": {"name": {"namespace": "default", "name": "web"}, "kind": "ClusterIP", "listeners": [
                {"port": 80, "protocol": "TCP", "targets": []}, {"port": 8081, "protocol": "TCP", "targets": []},
                {"port": 9000, "protocol": "TCP", "targets": []}, {"port": 9001, "protocol": "TCP", "targets": []}]},
            "host": "127.77.1.2", "bound": [8080, 42885, 9000, null], "targets": [],
        }))
        .unwrap();
        let fleet = Fleet { balancers: vec![balancer], ..Fleet::default() };
        assert_eq!(
            moved_ports(&fleet),
            [
                "port 80 of Service web is taken by another program or not allowed to this user: it is served at \
                 127.77.1.2:8080",
                "port 8081 of Service web is taken by another program: it is served at 127.77.1.2:42885",
            ]
        );
        assert!(moved_ports(&Fleet::default()).is_empty());
    }
}
