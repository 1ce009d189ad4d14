"""Routes of the bed itself, below /moto-api/i2kit: what the world outside the APIs tells the emulator.

health   GET: target health; POST {"TargetGroupArn", "Id", "State"}: what a health check found
machine  POST {"Id", "Console", "Dead"}: what the reconciler knows of a VM
broken   POST [IMAGE-ID or "GROUP VERSION", ...]: without machines, instances of these images, or of these versions of a group's
         template, never become healthy
left     GET: what is in the account, a line each; nothing when all was deleted
untagged GET: what has no tag of an environment although the API could give it one
served   GET: "NAME PORT COUNT" for each name of the zones: how many healthy machines answer there, and to all clients;
         "application PORT COUNT" for the rules of an Ingress: how many are behind the one that leads to fewest
encrypted POST true: from now on the account encrypts snapshots by default
catalogue POST {"offers", "free"}: see catalogue.py
lag      POST SECONDS: from now on filters show what was made so long ago
policy   POST {"Key", "Documents"}: the policies of an access key; one without is the account's administrator
denied   POST [ACTION, ...]: what the simulation of policies says no to, whatever the policies say
certificate POST {"Region", "Domain", "Status"}: makes a certificate, which is issued by default, and answers its ARN
frame    GET: what listeners, rules, scaling policies and groups there are, a line each
stack    POST {"name", "operation", "reason", "final"}: the next such CloudFormation operation fails
older    POST {"name", "output"}: the stack has no such output, as one that an earlier version of the program made
changed  POST {"name", "parameter", "value"}: the stacks whose names begin so and that have such a parameter have another value of it;
         answers the one before
settle   POST SECONDS: how long stacks stay in progress from now on; those that are in progress, at most so long
network  POST: makes a network that no environment made, see networks.py
clock    POST SECONDS: the clock of schedules and of machines on paper is so far ahead from now on
job      POST {"NAMESPACE/NAME": ...}: how the pods of Jobs end on paper, see paper.py
scheduled GET: the scheduled actions of groups, a line each
records  GET: the log streams with records of Jobs
refused  POST REASON: from now on launches fail for that reason; with "" they do not
protected POST [NAME, ...]: the Auto Scaling groups whose deletion is protected
"""
import json

from moto.logs.models import logs_backends
from moto.moto_api._internal import urls

from .. import authority, engine
from . import balancers, catalogue, groups, images, lag, networks, permissions, schedules, stacks


def close():
    for name, act in {"health": health, "machine": machine, "broken": broken, "stack": stack, "older": older, "changed": changed, "left": left, "denied": denied, "untagged": untagged,
                      "certificate": certificate, "frame": frame, "settle": settle, "refused": refused, "clock": clock, "job": job, "scheduled": scheduled, "records": records, "protected": protected, "policy": policy, "network": networks.make, "served": served, "lag": set_lag, "catalogue": set_catalogue, "encrypted": encrypted}.items():
        urls.url_paths["{0}/moto-api/i2kit/" + name] = answering(act)


def answering(act):
    def route(request, url, headers):
        told = request.get_json(force=True) if request.method == "POST" else None
        return 200, {"content-type": "application/json"}, json.dumps(act(told))

    return route


def health(told):
    if told:
        balancers.HEALTH[f"{told['TargetGroupArn']} {told['Id']}"] = told["State"]
    return balancers.HEALTH


def machine(told):
    if "Console" in told:
        images.CONSOLE[told["Id"]] = told["Console"]
    if told.get("Dead"):
        engine.DEAD.add(told["Id"])
    return {}


def broken(told):
    engine.BROKEN.clear()
    engine.BROKEN.update(told)
    return {}


def stack(told):
    stacks.PLANNED.append(told)
    return {}


def older(told):
    from moto.cloudformation.models import cloudformation_backends

    for region, backend in engine.backends(cloudformation_backends):
        for stack in [s for s in backend.stacks.values() if s.name == told["name"]]:
            stack.template_dict["Outputs"].pop(told["output"])
            # JSON is YAML, too.
            stack.template = json.dumps(stack.template_dict)
            stack.output_map = stack._create_output_map()
    return {}


def changed(told):
    from moto.cloudformation.models import cloudformation_backends

    was = None
    for region, backend in engine.backends(cloudformation_backends):
        for stack in [s for s in backend.stacks.values() if s.name.startswith(told["name"])]:
            held = stack.resource_map.resolved_parameters
            if told["parameter"] in held:
                was, held[told["parameter"]] = held[told["parameter"]], told["value"]
                stack.parameters = {**stack.parameters, told["parameter"]: told["value"]}
    return was


def settle(told):
    stacks.settle(float(told))
    return {}


def refused(told):
    groups.REFUSED[:] = [told] if told else []
    return {}


def clock(told):
    schedules.CLOCK["ahead"] = float(told)
    return {}


def job(told):
    from .. import paper

    paper.BEHAVIOURS.update(told)
    return {}


def scheduled(told):
    return [f"{group} {name} {action['recurrence'] or int(action['at'])} {action['sizes']['DesiredCapacity']}"
            for (group, name), action in schedules.ACTIONS.items()]


def records(told):
    return sorted(name for _, backend in engine.backends(logs_backends) for key, group in backend.groups.items()
                  if key.endswith("/jobs") for name in group.streams)


def protected(told):
    groups.PROTECTED.clear()
    groups.PROTECTED.update(told)
    return {}


def encrypted(told):
    from moto.ec2.models import ec2_backends

    ec2_backends[engine.ACCOUNT]["us-east-1"].enable_ebs_encryption_by_default()
    return {}


def set_catalogue(told):
    catalogue.CATALOGUE.update(told)
    return {}


def set_lag(told):
    lag.LAG["seconds"] = float(told)
    return {}


def served(told):
    """What a client reaches: from a name's record to the load balancer, its listeners, and their healthy targets."""
    from moto.elbv2.models import elbv2_backends
    from moto.route53.models import route53_backends

    found = []
    for region, backend in engine.backends(elbv2_backends):
        for zone in route53_backends[engine.ACCOUNT]["aws"].zones.values():
            for record in [r for r in zone.rrsets if r.alias_target]:
                named = record.alias_target["DNSName"].rstrip(".").lower()
                for balancer in [b for b in backend.load_balancers.values() if b.dns_name.lower() == named]:
                    found += [f"{record.name.rstrip('.')} {line}" for line in answering_at(backend, balancer)]
        for balancer in [b for b in backend.load_balancers.values() if b.type == "application"]:
            found += [f"application {line}" for line in routed_at(backend, balancer)]
    return found


def answering_at(backend, balancer):
    for listener in balancer.listeners.values():
        yield f"{listener.port} {healthy_behind(backend, listener.default_actions)}"


def routed_at(backend, balancer):
    """The rules that forward, but for those that no request fits."""
    for listener in balancer.listeners.values():
        rules = [r for r in listener.rules.values() if "warm.invalid" not in json.dumps(r.conditions)]
        counts = [healthy_behind(backend, r.actions) for r in rules if any(a.type == "forward" for a in r.actions)]
        if counts:
            yield f"{listener.port} {min(counts)}"


def healthy_behind(backend, actions):
    arns = [arn for action in actions for arn in backend._get_target_group_arns_from(action_data=action.data)]
    return sum(balancers.HEALTH.get(f"{arn} {t}") == "healthy" for arn in arns for t in backend.target_groups[arn].targets)


def policy(told):
    authority.POLICIES[told["Key"]] = told["Documents"]
    return {}


def denied(told):
    permissions.DENIED.clear()
    permissions.DENIED.update(told)
    return {}


def certificate(told):
    from moto.acm.models import acm_backends

    backend = acm_backends[engine.ACCOUNT][told["Region"]]
    arn = backend.request_certificate(told["Domain"], None, [], [])
    backend.get_certificate(arn).status = told.get("Status", "ISSUED")
    return arn


def frame(told):
    from moto.autoscaling.models import autoscaling_backends
    from moto.route53.models import route53_backends
    from moto.ec2.models import ec2_backends
    from moto.elbv2.models import elbv2_backends

    found = []
    for region, backend in engine.backends(elbv2_backends):
        for group in backend.target_groups.values():
            sticky = [group.attributes.get(f"stickiness.{key}", "-") for key in ("enabled", "type")]
            found.append(f"targets {group.protocol} {group.port} stickiness {' '.join(sticky)}")
        for balancer in backend.load_balancers.values():
            found.append(f"balancer {balancer.type} {balancer.scheme} {' '.join(sorted(s.id for s in balancer.subnets))}")
            for listener in balancer.listeners.values():
                where = f"{balancer.type} {balancer.scheme}"
                found.append(f"listener {where} {listener.protocol} {listener.port} {listener.certificate or '-'}")
                found += [f"certificate {listener.port} {arn}" for arn in sorted(getattr(listener, "further", []))]
                for rule in listener.rules.values():
                    actions = [a.type for a in rule.actions]
                    found.append(f"rule {listener.port} {rule.priority} {json.dumps(rule.conditions)} {actions}")
    for region, backend in engine.backends(autoscaling_backends):
        for policy in backend.policies.values():
            found.append(f"policy {policy.name} {vars(policy.target_tracking_configuration) if policy.target_tracking_configuration else None}")
        for group in backend.autoscaling_groups.values():
            size = f"{group.min_size} {group.max_size} {group.desired_capacity}"
            found.append(f"group {group.name} {size} {sorted(set(group.availability_zones))}")
            kinds = sorted(f"{s.instance.instance_type} {s.instance.market}" for s in group.instance_states)
            found.append(f"kinds {group.name} {', '.join(kinds)}")
    for zone in route53_backends[engine.ACCOUNT]["aws"].zones.values():
        for record in zone.rrsets:
            # Through the API a value is in a map, through CloudFormation it is bare.
            values = [v["Value"] if isinstance(v, dict) else v for v in record.records or []]
            found.append(f"record {record.name} {record.type} {','.join(values)}")
    for region, ec2 in engine.backends(ec2_backends):
        for template in ec2.launch_templates.values():
            data = template.versions[-1].data
            market = data.get("InstanceMarketOptions", {}).get("MarketType", "on-demand")
            found.append(f"template {template.name} {data.get('InstanceType')} {market}")
            for interface in data.get("NetworkInterfaces") or []:
                found.append(f"interface {template.name} {interface.get('AssociatePublicIpAddress')}")
        for groups in ec2.groups.values():
            for group in groups.values():
                for rule in group.ingress_rules:
                    found.append(f"ingress {rule.from_port} {(rule.ip_range or {}).get('CidrIp', '-')}")
    return found


def left(told):
    """Everything in the account that a user pays for or trips over: what i2kit made and did not delete."""
    from moto.autoscaling.models import autoscaling_backends
    from moto.cloudformation.models import cloudformation_backends
    from moto.ec2.models import ec2_backends
    from moto.elbv2.models import elbv2_backends
    from moto.logs.models import logs_backends
    from moto.secretsmanager.models import secretsmanager_backends

    found = []
    for region, backend in engine.backends(secretsmanager_backends):
        found += [f"secret {name}" for name in backend.secrets]
    for region, ec2 in engine.backends(ec2_backends):
        found += [f"launch template {t.name}" for t in ec2.launch_templates.values()]
        found += [f"image {a.id}" for a in ec2.amis.values()]
        found += [f"snapshot {s.id}" for s in ec2.snapshots.values()]
        found += [f"instance {i.id}" for i in ec2.all_instances() if i.state not in ("shutting-down", "terminated")]
        groups = [g for groups in ec2.groups.values() for g in groups.values()]
        found += [f"security group {g.name}" for g in groups if g.name != "default"]
        found += [f"vpc {v.id}" for v in ec2.vpcs.values() if not v.is_default and v.id not in networks.MADE]
    for region, backend in engine.backends(autoscaling_backends):
        found += [f"group {g}" for g in backend.autoscaling_groups]
    for region, backend in engine.backends(cloudformation_backends):
        found += [f"stack {s.name}" for s in backend.stacks.values()]
    for region, backend in engine.backends(elbv2_backends):
        found += [f"balancer {a}" for a in backend.load_balancers] + [f"targets {a}" for a in backend.target_groups]
    for region, backend in engine.backends(logs_backends):
        found += [f"log group {g}" for g in backend.groups]
    return found


KEY = "i2kit:environment"


def untagged(told):
    """What has no tag of an environment. Types whose tags moto does not take from CloudFormation are not looked at."""
    from moto.autoscaling.models import autoscaling_backends
    from moto.cloudformation.models import cloudformation_backends
    from moto.ec2.models import ec2_backends
    from moto.elbv2.models import elbv2_backends
    from moto.secretsmanager.models import secretsmanager_backends

    found = []

    def look(kind, name, tags):
        keys = tags if isinstance(tags, dict) else [t.get("Key", t.get("key")) for t in tags]
        if KEY not in keys:
            found.append(f"{kind} {name}")

    for region, ec2 in engine.backends(ec2_backends):
        for template in ec2.launch_templates.values():
            look("launch template", template.name, template.get_tags())
        for image in ec2.amis.values():
            look("image", image.id, image.get_tags())
        for snapshot in ec2.snapshots.values():
            look("snapshot", snapshot.id, snapshot.get_tags())
        for instance in ec2.all_instances():
            look("instance", instance.id, instance.get_tags())
        for groups in ec2.groups.values():
            for group in groups.values():
                if group.name != "default":
                    look("security group", group.name, group.get_tags())
        for vpc in ec2.vpcs.values():
            if not vpc.is_default:
                look("vpc", vpc.id, vpc.get_tags())
                for subnet in ec2.describe_subnets(filters={"vpc-id": vpc.id}):
                    look("subnet", subnet.id, subnet.get_tags())
    for region, backend in engine.backends(secretsmanager_backends):
        for secret in backend.secrets.values():
            look("secret", secret.name, secret.tags or [])
    for region, backend in engine.backends(autoscaling_backends):
        for group in backend.autoscaling_groups.values():
            look("group", group.name, group.tags)
    for region, backend in engine.backends(cloudformation_backends):
        for stack in backend.stacks.values():
            look("stack", stack.name, stack.tags)
    for region, backend in engine.backends(elbv2_backends):
        for arn in backend.target_groups:
            look("targets", arn, backend.tagging_service.get_tag_dict_for_resource(arn))
    return found
