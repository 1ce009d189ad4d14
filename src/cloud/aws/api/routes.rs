//! Routes of a network that exists: a load balancer that everybody is to reach needs one to an internet gateway, perhaps through a
//! firewall. AWS makes it without one too, and nobody reaches it.

use aws_sdk_ec2::types::{Filter, Route, RouteTable, RouteTableAssociation};

use super::environment::Aws;
use super::error::failed;
use crate::cloud::CloudError;
use crate::cloud::aws::plan::stack_templates::Network;

/// All IPv4, and its halves: of several routes the narrowest one counts.
const ALL: &str = "0.0.0.0/0";
const HALVES: [&str; 2] = ["0.0.0.0/1", "128.0.0.0/1"];

impl Aws {
    /// The subnets of load balancers whose routes do not surely lead to an internet gateway, each with `false` where they surely
    /// do not, and `None` where that cannot be told from them.
    pub(super) async fn closed_subnets(
        &self,
        network: &Network,
    ) -> Result<Vec<(String, Option<bool>)>, CloudError> {
        let filter = Filter::builder().name("vpc-id").values(&network.vpc).build();
        let asked = self.clients.ec2.describe_route_tables().filters(filter).into_paginator().items().send();
        let tables: Vec<RouteTable> = asked.try_collect().await.map_err(failed("DescribeRouteTables"))?;
        let apart = &network.balancer_subnets;
        let subnets = if apart.is_empty() { &network.subnets } else { apart };
        let each = subnets.iter().map(|subnet| (subnet.clone(), leads_out(&tables, subnet)));
        Ok(each.filter(|(_, leads)| *leads != Some(true)).collect())
    }
}

/// Whether the subnet's table leads all IPv4 to an internet gateway; `None` when what it leads to is not known to do so. A
/// subnet without a table has the network's main one.
fn leads_out(tables: &[RouteTable], subnet: &str) -> Option<bool> {
    let with = |is_it: &dyn Fn(&RouteTableAssociation) -> bool| {
        tables.iter().find(|table| table.associations().iter().any(is_it))
    };
    let own = with(&|association| association.subnet_id() == Some(subnet));
    let routes = own.or_else(|| with(&|association| association.main() == Some(true)))?.routes();
    let to = |cidr: &str| routes.iter().find(|route| route.destination_cidr_block() == Some(cidr));
    let [Some(low), Some(high)] = HALVES.map(|half| to(half).or_else(|| to(ALL))) else {
        // Some clients may have a route all the same: their ranges may be named, or be in a list of prefixes.
        let is_some =
            |route: &Route| is_way_out(route) == Some(true) || route.destination_prefix_list_id().is_some();
        return if routes.iter().any(is_some) { None } else { Some(false) };
    };
    let (low, high) = (is_way_out(low), is_way_out(high));
    if low == high { low } else { None }
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
}
