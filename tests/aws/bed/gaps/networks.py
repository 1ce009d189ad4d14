"""Networks that exist before an environment does, and private zones, of which a network takes one of a name.

POST /moto-api/i2kit/network {"subnets": [{"zone", "route", "free"}], "support": BOOL, "hostnames": BOOL, "servers": [ADDRESS]}
makes a network and answers {"vpc", "subnets"}. The route of a subnet is `gateway` (to the internet), `nat`, or none; `free`
are its free addresses, which {"subnet": ID, "free": COUNT} sets later on. `servers` are the name servers of its DHCP options, Amazon's by default; with null it has no options.
"""
from moto.ec2.models import ec2_backends
from moto.route53.models import FakeZone, route53_backends

from ..authority import ACCOUNT

REGION = "us-east-1"
# What no environment made, and none deletes.
MADE = set()


def close():
    FakeZone.create_from_cloudformation_json = classmethod(create_zone)
    FakeZone.delete = delete_zone


def create_zone(cls, name, template, account, region, **more):
    backend = route53_backends[account]["aws"]
    vpc = template["Properties"]["VPCs"][0]["VPCId"]
    for zone in backend.zones.values():
        if zone.name.rstrip(".") == name.rstrip(".") and any(v.get("vpc_id") == vpc for v in zone.vpcs):
            raise RuntimeError(f"ConflictingDomainExists: the VPC {vpc} is associated with hosted zone {zone.resource_id} of the same name")
    return backend.create_hosted_zone(name, private_zone=True, vpcid=vpc, vpcregion=region)


def delete_zone(self, account, region):
    route53_backends[account]["aws"].zones.pop(self.resource_id, None)


def leave(subnet, free):
    subnet._available_ip_addresses += free - subnet.available_ip_address_count


def make(told):
    ec2 = ec2_backends[ACCOUNT][REGION]
    if "subnet" in told:
        leave(ec2.get_subnet(told["subnet"]), told["free"])
        return {}
    vpc = ec2.create_vpc("10.9.0.0/16")
    MADE.add(vpc.id)
    vpc.enable_dns_support, vpc.enable_dns_hostnames = told.get("support", True), told.get("hostnames", True)
    servers = told.get("servers", ["AmazonProvidedDNS"])
    if servers is not None:
        ec2.associate_dhcp_options(ec2.create_dhcp_options(domain_name_servers=servers), vpc)
    gateway = ec2.create_internet_gateway()
    ec2.attach_internet_gateway(gateway.id, vpc.id)
    subnets = []
    for number, asked in enumerate(told["subnets"]):
        subnet = ec2.create_subnet(vpc.id, f"10.9.{number}.0/24", availability_zone=asked["zone"])
        table = ec2.create_route_table(vpc.id)
        ec2.associate_route_table(table.id, subnet_id=subnet.id)
        if asked.get("route") == "gateway":
            ec2.create_route(table.id, "0.0.0.0/0", gateway_id=gateway.id)
        if asked.get("route") == "nat":
            nat = ec2.create_nat_gateway(subnet.id, None, connectivity_type="private")
            ec2.create_route(table.id, "0.0.0.0/0", nat_gateway_id=nat.id)
        if "free" in asked:
            leave(subnet, asked["free"])
        subnets.append(subnet.id)
    return {"vpc": vpc.id, "subnets": subnets}
