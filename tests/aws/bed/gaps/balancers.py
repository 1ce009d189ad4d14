"""Network Load Balancers: through CloudFormation, and with targets whose health is told from outside."""
from moto.elbv2 import models

# "TARGET-GROUP-ARN TARGET-ID" -> initial, healthy, unhealthy; fed by the reconciler or by the paper engine.
HEALTH = {}


def close():
    models.FakeLoadBalancer.create_from_cloudformation_json = classmethod(create_load_balancer)
    original_group = models.FakeTargetGroup.create_from_cloudformation_json.__func__
    models.FakeTargetGroup.create_from_cloudformation_json = classmethod(create_target_group(original_group))
    models.FakeTargetGroup.update_from_cloudformation_json = classmethod(update_target_group)
    models.FakeTargetGroup.health_for = health_for(models.FakeTargetGroup.health_for)
    for model in (models.FakeTargetGroup, models.FakeListener, models.FakeListenerRule):
        model.delete = delete
    models.ELBv2Backend.modify_listener = modify_listener(models.ELBv2Backend.modify_listener)
    models.FakeLoadBalancer.has_cfn_attr = classmethod(lambda cls, name: name in ATTRIBUTES)
    original_attribute = models.FakeLoadBalancer.get_cfn_attribute

    def get_cfn_attribute(self, name):
        return "Z26RNL4JYFTOTI" if name == "CanonicalHostedZoneID" else original_attribute(self, name)

    models.FakeLoadBalancer.get_cfn_attribute = get_cfn_attribute


ATTRIBUTES = ("DNSName", "CanonicalHostedZoneID", "LoadBalancerFullName", "LoadBalancerName", "SecurityGroups")


def delete(self, account, region):
    backend = models.elbv2_backends[account][region]
    if isinstance(self, models.FakeListener):
        # A balancer that went first took its listeners with it.
        for balancer in backend.load_balancers.values():
            balancer.listeners.pop(self.arn, None)
    elif isinstance(self, models.FakeListenerRule):
        for balancer in backend.load_balancers.values():
            for listener in balancer.listeners.values():
                listener._non_default_rules.pop(self.arn, None)
    elif self.arn in backend.target_groups:
        backend.delete_target_group(self.arn)


def modify_listener(original):
    """moto knows no change to TLS or UDP."""

    def act(self, arn, port=None, protocol=None, ssl_policy=None, certificates=None, actions=None):
        own = protocol if protocol in ("TLS", "UDP") else None
        listener = original(self, arn, port, None if own else protocol, ssl_policy, [] if own else certificates, actions)
        if own:
            listener.protocol, arns = own, [c["CertificateArn"] for c in certificates or []]
            listener.certificate, listener.certificates = (arns or [None])[0], arns
        return listener

    return act


def create_load_balancer(cls, name, template, account, region, **more):
    asked = template["Properties"]
    return models.elbv2_backends[account][region].create_load_balancer(
        name, asked.get("SecurityGroups"), asked.get("Subnets"), scheme=asked.get("Scheme", "internet-facing"),
        loadbalancer_type=asked.get("Type"))


def create_target_group(original):
    def act(cls, name, template, account, region, **more):
        group = original(cls, name, template, account, region, **more)
        tags = template["Properties"].get("Tags", [])
        models.elbv2_backends[account][region].add_tags([group.arn], tags)
        group.attributes.update(attributes(template))
        return group

    return act


def attributes(template):
    return {a["Key"]: a["Value"] for a in template["Properties"].get("TargetGroupAttributes", [])}


def update_target_group(cls, original_resource, new_resource_name, cloudformation_json, account_id, region_name):
    """What a template leaves out keeps its value."""
    original_resource.attributes.update(attributes(cloudformation_json))
    return original_resource


def is_used(region, arn):
    from .changes import balancers_of
    from ..authority import ACCOUNT

    return arn in balancers_of(models.elbv2_backends[ACCOUNT][region])


def health_for(original):
    def act(self, target, ec2):
        reply = original(self, target, ec2)
        if reply.status == "healthy":
            reply.status = HEALTH.get(f"{self.arn} {target['Id']}", "initial")
            if reply.status == "initial":
                reply.reason = "Elb.RegistrationInProgress"
            if not is_used(ec2.region_name, self.arn):
                # Load balancers check what a listener or a rule leads to.
                reply.status, reply.reason = "unused", "Target.NotInUse"
            if reply.status == "unhealthy":
                reply.reason, reply.description = "Target.FailedHealthChecks", "Health checks failed"
        return reply

    return act
