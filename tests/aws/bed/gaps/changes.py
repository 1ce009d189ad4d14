"""CloudFormation's order: everything is created and updated first, and what is gone or was replaced is deleted last.

A resource is replaced when a property changes that cannot change in place (`createOnly` of handlers.json). A step that
fails undoes all of them. Every handler's calls are authorized as those of who asked for the stack.
"""
import copy, json, warnings

from moto.cloudformation import parsing
from moto.core.common_models import CloudFormationModel
from moto.ec2.exceptions import RulesPerSecurityGroupLimitExceededError
from moto.ec2.models.security_groups import SecurityGroup, SecurityGroupBackend, SecurityGroupIngress
from moto.elbv2 import models as elb

from .. import authority


class ListenerCertificate(CloudFormationModel):
    """A further certificate of a listener. Putting one that is there is no error; taking it away takes it from both."""

    def __init__(self, listener, arns):
        self.listener, self.arns = listener, arns

    @staticmethod
    def cloudformation_type():
        return "AWS::ElasticLoadBalancingV2::ListenerCertificate"

    @property
    def physical_resource_id(self):
        return f"{self.listener.arn} {self.arns}"

    @classmethod
    def create_from_cloudformation_json(cls, resource_name, cloudformation_json, account_id, region_name, **kwargs):
        asked = cloudformation_json["Properties"]
        backend = elb.elbv2_backends[account_id][region_name]
        listener = backend.describe_listeners(load_balancer_arn=None, listener_arns=[asked["ListenerArn"]])[0]
        arns = [c["CertificateArn"] for c in asked["Certificates"]]
        balancer = backend.load_balancers[listener.load_balancer_arn]
        held = set().union(arns, *(further(one) for one in balancer.listeners.values()))
        if len(held) > CERTIFICATES:
            raise elb.TooManyCertificatesError()
        further(listener).update(arns)
        return cls(listener, arns)

    def delete(self, account_id, region_name):
        further(self.listener).difference_update(self.arns)


def further(listener):
    listener.further = getattr(listener, "further", set())
    return listener.further


def close():
    parsing.parse_and_create_resource = created(parsing.parse_and_create_resource)
    parsing.ResourceMap.update = update
    parsing.ResourceMap._delete_resource = deleted(parsing.ResourceMap._delete_resource)
    SecurityGroup.update_from_cloudformation_json = classmethod(update_security_group)
    SecurityGroupIngress.delete = delete_rule
    SecurityGroupIngress.create_from_cloudformation_json = classmethod(
        both_families(SecurityGroupIngress.create_from_cloudformation_json.__func__))
    SecurityGroupBackend._verify_group_will_respect_rule_count_limit = within_quota
    backend = elb.ELBv2Backend
    for name in ("create_listener", "modify_listener", "create_rule", "modify_rule"):
        setattr(backend, name, of_one_balancer(getattr(backend, name)))
    backend.create_rule = within_rules(backend.create_rule)
    backend.create_listener = within_listeners(backend.create_listener)
    parsing.get_model_map.cache_clear() if hasattr(parsing.get_model_map, "cache_clear") else None
    parsing.get_model_list.cache_clear() if hasattr(parsing.get_model_list, "cache_clear") else None


def of_one_balancer(original):
    """A target group belongs to one load balancer: a listener of a second one is refused."""

    def act(self, *words, **more):
        before = balancers_of(self)
        made = original(self, *words, **more)
        for arn, balancers in balancers_of(self).items():
            if len(balancers) > 1 and balancers != before.get(arn):
                if original.__name__ == "create_listener":
                    self.delete_listener(made.arn)
                raise elb.RESTError("TargetGroupAssociationLimit", "The following target groups cannot be associated with more "
                                    f"than one load balancer: {arn}")
        return made

    return act


def balancers_of(backend):
    found = {}
    for balancer in backend.load_balancers.values():
        for listener in balancer.listeners.values():
            actions = [*listener.default_actions, *(a for rule in listener.rules.values() for a in rule.actions)]
            for action in actions:
                for arn in backend._get_target_group_arns_from(action_data=action.data) if action.type == "forward" else []:
                    found.setdefault(arn, set()).add(balancer.arn)
    return found


def update_security_group(cls, original_resource, new_resource_name, cloudformation_json, account_id, region_name):
    """Rules in the group itself change in place."""
    asked, group = cloudformation_json["Properties"], original_resource
    group.ingress_rules.clear()
    for rule in asked.get("SecurityGroupIngress", []):
        key = "CidrIpv6" if "CidrIpv6" in rule else "CidrIp"
        group.ec2_backend.authorize_security_group_ingress(
            group_name_or_id=group.id, ip_protocol=rule["IpProtocol"], from_port=rule["FromPort"], to_port=rule["ToPort"],
            ip_ranges=[{key: rule[key]}], vpc_id=group.vpc_id)
    return group


# Quotas of a security group, of a load balancer, and of the conditions of a rule.
RULES, ROUTES, CERTIFICATES, LISTENERS, VALUES = 60, 100, 25, 50, 5


def within_listeners(original):
    def act(self, load_balancer_arn, *words, **more):
        if len(self.load_balancers[load_balancer_arn].listeners) >= LISTENERS:
            raise elb.RESTError("TooManyListeners", "You've reached the limit on the number of listeners per load balancer")
        return original(self, load_balancer_arn, *words, **more)

    return act


def within_rules(original):
    """So many rules over all listeners of a load balancer, without their default ones; and values in the conditions of each."""

    def act(self, listener_arn, conditions, *words, **more):
        configs = [c if "Values" in c else next(v for v in c.values() if isinstance(v, dict)) for c in conditions]
        if sum(len(c["Values"]) for c in configs) > VALUES:
            raise elb.RESTError("ValidationError", f"A rule can only have '{VALUES}' condition values")
        listener = self.describe_listeners(None, [listener_arn])[0]
        balancer = self.load_balancers[listener.load_balancer_arn]
        if sum(len(one._non_default_rules) for one in balancer.listeners.values()) >= ROUTES:
            raise elb.RESTError("TooManyRules", "You've reached the limit on the number of rules per load balancer")
        return original(self, listener_arn, conditions, *words, **more)

    return act


def within_quota(self, group, count, ip_ranges, source_groups=None, egress=False):
    """So many rules for ranges of IPv4, and as many for those of IPv6; one for another group counts for both."""
    held = [rule.ip_range or {} for rule in (group.egress_rules if egress else group.ingress_rules)]
    asked = [r if isinstance(r, dict) else {"CidrIp": r} for r in ip_ranges or []]
    for family in ("CidrIp", "CidrIpv6"):
        used = sum(family in r or not r for r in held) + sum(family in r for r in asked) + len(source_groups or [])
        if used > RULES:
            raise RulesPerSecurityGroupLimitExceededError


def both_families(original):
    """moto leaves ranges of IPv6 out."""

    def act(cls, resource_name, cloudformation_json, account_id, region_name, **more):
        made = original(cls, resource_name, cloudformation_json, account_id, region_name, **more)
        asked = made.properties
        if asked.get("CidrIpv6"):
            made.security_group.ec2_backend.authorize_security_group_ingress(
                group_name_or_id=made.security_group.id, ip_protocol=asked["IpProtocol"], from_port=asked["FromPort"],
                to_port=asked["ToPort"], ip_ranges=[{"CidrIpv6": asked["CidrIpv6"]}])
        return made

    return act


def delete_rule(self, account_id, region_name):
    """moto leaves the rules of a stack in their group."""
    asked, group = self.properties, self.security_group
    source = asked.get("SourceSecurityGroupId")
    ranges = {asked.get("CidrIp"), asked.get("CidrIpv6")} - {None}

    def is_ours(rule):
        same = [str(getattr(rule, k)) == str(asked.get(n)) for k, n in (("ip_protocol", "IpProtocol"), ("from_port", "FromPort"), ("to_port", "ToPort"))]
        of_group = source and (rule.source_group or {}).get("GroupId") == source
        return all(same) and (of_group or bool(ranges & set((rule.ip_range or {}).values())))

    left = [rule for rule in group.ingress_rules if not is_ours(rule)]
    if len(left) == len(group.ingress_rules):
        raise RuntimeError("InvalidPermission.NotFound: The specified rule does not exist in this security group.")
    group.ingress_rules[:] = left


def resolved(kept, name):
    """Properties with everything that they refer to."""
    return parsing.clean_json(copy.deepcopy(kept._resource_json_map[name]), kept).get("Properties", {})


def physical_of(resource):
    return getattr(resource, "physical_resource_id", "*")


def created(original):
    def act(logical_id, resource_json, resources_map, account_id, region_name):
        properties = parsing.clean_json(copy.deepcopy(resource_json), resources_map).get("Properties", {})
        stack = resources_map["AWS::StackName"]
        authority.authorize_handler(resource_json["Type"], "create", properties, f"{stack}-{logical_id}-0")
        made = original(logical_id, resource_json, resources_map, account_id, region_name)
        if not hasattr(resources_map, "known"):
            resources_map.known = {}
        resources_map.known[logical_id] = properties
        return made

    return act


def deleted(original):
    def act(self, parsed_resource, resource_json):
        name = getattr(parsed_resource, "logical_resource_id", None)
        properties = getattr(self, "known", {}).get(name) or {}
        authority.authorize_handler(resource_json["Type"], "delete", properties, physical_of(parsed_resource))
        return original(self, parsed_resource, resource_json)

    return act


def in_order(resources):
    """Logical names, each behind what it refers to."""
    left, order = dict(resources), []

    def visit(name):
        if name not in left:
            return
        entry = left.pop(name)
        for word in words(entry):
            visit(word)
        order.append(name)

    while left:
        visit(next(iter(left)))
    return order


def words(entry):
    """Every name that a part of a template may refer to."""
    if isinstance(entry, dict):
        depends = entry.get("DependsOn", [])
        found = [depends] if isinstance(depends, str) else list(depends)
        for key, value in entry.items():
            if key in ("Ref", "Fn::GetAtt"):
                found.append(value if isinstance(value, str) else value[0])
            found += words(value)
        return found
    return [w for e in entry for w in words(e)] if isinstance(entry, list) else []


def update(self, template, parameters=None):
    before = (self._template, self.input_parameters, self._resource_json_map, dict(self._parsed_resources), dict(self.known))
    old = self._resource_json_map
    take(self, template, parameters)
    made, changed, replaced = [], [], {}
    try:
        for name in in_order(template["Resources"]):
            one_step(self, name, (old, before[3], before[4]), (made, changed, replaced))
    except Exception:
        roll_back(self, before, made, changed)
        raise
    gone = [n for n in reversed(in_order(old)) if n in replaced or n not in template["Resources"]]
    clean_up(self, [(n, replaced.get(n, before[3].get(n)), old[n], before[4].get(n)) for n in gone], replaced)


def take(self, template, parameters):
    self._template, self._resource_json_map = template, template["Resources"]
    if parameters:
        self.input_parameters = parameters
    self.load_mapping()
    reload_parameters(self)
    self.load_conditions()


def reload_parameters(self):
    """Those of the template that it has now; moto keeps what an earlier one declared."""
    self.resolved_parameters = {}
    self.load_parameters()


def one_step(self, name, was, done):
    (old, parsed, known), (made, changed, replaced) = was, done
    kind = self._resource_json_map[name]["Type"]
    if name not in parsed:
        self[name]
        return made.append(name)
    properties = resolved(self, name)
    differing = {k for k in properties.keys() | known.get(name, {}).keys() if properties.get(k) != known.get(name, {}).get(k)}
    if not differing:
        return None
    if differing & set(authority.HANDLERS["types"][kind]["createOnly"]) or old[name]["Type"] != kind:
        replaced[name] = self._parsed_resources.pop(name)
        self[name]
        return made.append(name)
    authority.authorize_handler(kind, "update", properties, physical_of(parsed[name]))
    changed.append(name)
    return apply(self, name, properties)


def apply(self, name, properties):
    after = parsing.parse_and_update_resource(name, self._resource_json_map[name], self, self._account_id, self._region_name)
    if after is not None:
        self._parsed_resources[name] = after
    self.known[name] = properties


def roll_back(self, before, made, changed):
    template, parameters, resources, parsed, known = before
    for name in reversed(made):
        resource = self._parsed_resources.get(name)
        if resource is not None and resource is not parsed.get(name):
            try:
                self._delete_resource(resource, self._resource_json_map[name])
            except Exception as error:
                warnings.warn(f"{name} stays: {error}", stacklevel=1)
    self._parsed_resources = dict(parsed)
    self._template, self.input_parameters, self._resource_json_map, self.known = template, parameters, resources, dict(known)
    reload_parameters(self)
    for name in changed:
        apply(self, name, known[name])


def clean_up(self, gone, replaced):
    """What cannot be deleted stays, and the stack is complete all the same."""
    for name, resource, entry, properties in gone:
        if resource is None:
            continue
        new = self.known.get(name)
        self.known[name] = properties
        try:
            self._delete_resource(resource, entry)
        except Exception as error:
            print(json.dumps({"stays": name, "why": str(error)}), flush=True)
        finally:
            if name in replaced:
                self.known[name] = new
            else:
                self.known.pop(name, None)
                self._parsed_resources.pop(name, None)
