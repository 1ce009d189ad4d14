//! Routes of a network that exists: a load balancer that everybody is to reach needs one to an internet gateway, perhaps through a
//! firewall. AWS makes it without one too, and nobody reaches it. Machines that have such a route need a public address, others
//! another way out.

use aws_sdk_ec2::types::{Filter, Route, RouteState, RouteTable, RouteTableAssociation};

use super::environment::Aws;
use super::error::failed;
use crate::cloud::CloudError;

/// All IPv4, and its halves: of several routes the narrowest one counts.
const ALL: &str = "0.0.0.0/0";
const HALVES: [&str; 2] = ["0.0.0.0/1", "128.0.0.0/1"];

impl Aws {
    /// The route tables of a network that exists.
    pub(super) async fn route_tables(&self, vpc: &str) -> Result<Vec<RouteTable>, CloudError> {
        let filter = Filter::builder().name("vpc-id").values(vpc).build();
        let asked = self.clients.ec2.describe_route_tables().filters(filter).into_paginator().items().send();
        asked.try_collect().await.map_err(failed("DescribeRouteTables"))
    }

    /// Whether machines get public addresses, whatever their subnets' setting is: behind an internet gateway they reach nothing
    /// outside without one, behind a NAT gateway they need none. `None` when it is not known what their subnets' routes lead to: then
    /// each subnet's own setting says it.
    pub(super) async fn gives_public_addresses(&self) -> Result<Option<bool>, CloudError> {
        // A network of the environment's own has an internet gateway.
        let Some(network) = &self.settings.network else { return Ok(Some(true)) };
        let tables = self.route_tables(&network.vpc).await?;
        Ok(any_leads_out(&tables, &network.subnets))
    }
}

/// The routes of the subnet's table that lead anywhere: those whose target was deleted stay as black holes. A subnet without a
/// table has the network's main one.
fn routes_of<'t>(tables: &'t [RouteTable], subnet: &str) -> Option<Vec<&'t Route>> {
    let with = |is_it: &dyn Fn(&RouteTableAssociation) -> bool| {
        tables.iter().find(|table| table.associations().iter().any(is_it))
    };
    let own = with(&|association| association.subnet_id() == Some(subnet));
    let table = own.or_else(|| with(&|association| association.main() == Some(true)))?;
    let leads = |route: &&Route| route.state() != Some(&RouteState::Blackhole);
    Some(table.routes().iter().filter(leads).collect())
}

/// Whether machines of the subnet have a route to what is outside, by a gateway of any kind. Where no table is shown, nobody
/// says that they have none.
pub(super) fn has_way_out(tables: &[RouteTable], subnet: &str) -> bool {
    let Some(routes) = routes_of(tables, subnet) else { return true };
    let wide = [ALL, HALVES[0], HALVES[1]];
    routes.iter().filter_map(|route| route.destination_cidr_block()).any(|cidr| wide.contains(&cidr))
}

/// Whether the subnet's table leads all IPv4 to an internet gateway; `None` when what it leads to is not known to do so.
pub(super) fn leads_out(tables: &[RouteTable], subnet: &str) -> Option<bool> {
    let routes = routes_of(tables, subnet)?;
    let to = |cidr: &str| routes.iter().find(|route| route.destination_cidr_block() == Some(cidr));
    let [Some(low), Some(high)] = HALVES.map(|half| to(half).or_else(|| to(ALL))) else {
        // Some clients may have a route all the same: their ranges may be named, or be in a list of prefixes.
        let is_some =
            |route: &Route| is_way_out(route) == Some(true) || route.destination_prefix_list_id().is_some();
        return if routes.iter().copied().any(is_some) { None } else { Some(false) };
    };
    let (low, high) = (is_way_out(low), is_way_out(high));
    if low == high { low } else { None }
}

/// Whether one of the subnets surely leads out; `None` when none does, and of one it is not known.
fn any_leads_out(tables: &[RouteTable], subnets: &[String]) -> Option<bool> {
    let found: Vec<Option<bool>> = subnets.iter().map(|subnet| leads_out(tables, subnet)).collect();
    if found.contains(&Some(true)) {
        return Some(true);
    }
    if found.contains(&None) { None } else { Some(false) }
}

/// Whether a route leads to an internet gateway, or to the endpoint of a firewall in front of one. A NAT gateway lets nobody in;
/// of other things, such as a transit gateway or a machine, nobody knows here.
fn is_way_out(route: &Route) -> Option<bool> {
    let is_gateway = |id: &str| id.starts_with("igw-") || id.starts_with("vpce-");
    if route.gateway_id().is_some_and(is_gateway) {
        return Some(true);
    }
    route.nat_gateway_id().is_some().then_some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(cidr: &str, to: &str) -> Route {
        let route = Route::builder().destination_cidr_block(cidr);
        let kind = to.split('-').next().unwrap_or_default();
        match kind {
            "nat" => route.nat_gateway_id(to),
            "tgw" => route.transit_gateway_id(to),
            _ => route.gateway_id(to),
        }
        .build()
    }

    fn table(association: RouteTableAssociation, routes: &[(&str, &str)]) -> RouteTable {
        let routes = routes.iter().map(|(cidr, to)| route(cidr, to)).collect();
        RouteTable::builder().associations(association).set_routes(Some(routes)).build()
    }

    fn main_table(routes: &[(&str, &str)]) -> [RouteTable; 1] {
        [table(RouteTableAssociation::builder().main(true).build(), routes)]
    }

    #[test]
    fn a_subnet_leads_out_by_its_own_table_or_by_the_main_one() {
        let of = |subnet: &str, to| {
            table(RouteTableAssociation::builder().subnet_id(subnet).build(), &[(ALL, to)])
        };
        let [main] = main_table(&[(ALL, "nat-1")]);
        let tables = [main, of("subnet-1", "igw-1"), of("subnet-2", "nat-2")];
        assert_eq!(
            ["subnet-1", "subnet-2", "subnet-3"].map(|id| leads_out(&tables, id)),
            [Some(true), Some(false), Some(false)]
        );
        assert_eq!(leads_out(&main_table(&[(ALL, "igw-1")]), "subnet-3"), Some(true));
        assert_eq!(leads_out(&[], "subnet-3"), None);
    }

    #[test]
    fn machines_have_public_addresses_where_a_subnet_surely_leads_out_and_none_where_none_may() {
        let of = |subnet: &str, to| {
            table(RouteTableAssociation::builder().subnet_id(subnet).build(), &[(ALL, to)])
        };
        let tables = [of("gateway", "igw-1"), of("nat", "nat-1"), of("transit", "tgw-1")];
        let any = |subnets: &[&str]| {
            let subnets: Vec<String> = subnets.iter().map(ToString::to_string).collect();
            any_leads_out(&tables, &subnets)
        };
        assert_eq!(any(&["transit", "gateway"]), Some(true));
        assert_eq!(any(&["nat", "nat"]), Some(false));
        assert_eq!([any(&["transit", "nat"]), any(&["nat", "untold"])], [None, None]);
    }

    #[test]
    fn only_what_surely_leads_nowhere_is_closed() {
        let leads = |routes: &[(&str, &str)]| leads_out(&main_table(routes), "subnet-1");
        let local = ("10.0.0.0/16", "local");
        // Behind the endpoint of a firewall, and in halves, which count before the whole.
        assert_eq!(leads(&[local, (ALL, "vpce-1")]), Some(true));
        assert_eq!(leads(&[(HALVES[0], "igw-1"), (HALVES[1], "vpce-1")]), Some(true));
        assert_eq!(leads(&[(HALVES[0], "igw-1"), (HALVES[1], "igw-1"), (ALL, "nat-1")]), Some(true));
        assert_eq!(leads(&[local]), Some(false));
        assert_eq!(leads(&[local, (HALVES[0], "nat-1"), (HALVES[1], "nat-1")]), Some(false));
        // Some clients, or something that is not known here.
        assert_eq!(leads(&[local, ("192.0.2.0/24", "igw-1")]), None);
        assert_eq!(leads(&[(HALVES[0], "igw-1"), (ALL, "nat-1")]), None);
        assert_eq!(leads(&[local, (ALL, "tgw-1")]), None);
    }

    #[test]
    fn a_way_out_is_a_route_of_any_kind_that_still_leads_somewhere() {
        let has = |routes: &[(&str, &str)]| has_way_out(&main_table(routes), "subnet-1");
        let local = ("10.0.0.0/16", "local");
        assert!(
            has(&[local, (ALL, "nat-1")]) && has(&[local, (ALL, "tgw-1")]) && has(&[(HALVES[1], "igw-1")])
        );
        assert!(!has(&[local]) && !has(&[local, ("192.0.2.0/24", "tgw-1")]));
        // Of a subnet whose table is not shown nothing is known.
        assert!(has_way_out(&[], "subnet-1"));
        let main = RouteTableAssociation::builder().main(true).build();
        let deleted = Route::builder().destination_cidr_block(ALL).gateway_id("igw-1");
        let deleted = deleted.state(RouteState::Blackhole).build();
        let table = [RouteTable::builder().associations(main).routes(deleted).build()];
        assert!(!has_way_out(&table, "subnet-1"));
        assert_eq!(leads_out(&table, "subnet-1"), Some(false));
    }
}
