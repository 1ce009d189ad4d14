"""Auto Scaling: instances know their template's version, and instance refreshes can be started, stopped, reversed.

This module only records what is asked for; `engine` does it.
"""
import itertools

from moto.autoscaling import models
from moto.autoscaling.exceptions import AutoscalingClientError
from moto.autoscaling.responses import AutoScalingResponse
from moto.core.responses import ActionResult
from moto.core.utils import utcnow

from . import catalogue

REFRESHES = {}
ACTIVE = ("Pending", "InProgress", "Cancelling", "RollbackInProgress", "Baking")
NUMBERS = itertools.count(1)
# What a refresh of AWS does not say through the API: since when it stands still.
INTERNAL = ("Steady",)
# Why launches fail at present, set by route.py, and what groups did by themselves, oldest first.
REFUSED, ACTIVITIES = [], []
# Names of groups whose deletion is protected, set by route.py.
PROTECTED = set()


def close():
    models.FakeAutoScalingGroup.replace_autoscaling_group_instances = launch
    models.InstanceState.launch_template = property(template_of)
    models.AutoScalingBackend.delete_auto_scaling_group = delete_group(models.AutoScalingBackend.delete_auto_scaling_group)
    models.FakeAutoScalingGroup.update = update_group(models.FakeAutoScalingGroup.update)
    models.AutoScalingBackend.create_auto_scaling_group = create_group(models.AutoScalingBackend.create_auto_scaling_group)
    models.AutoScalingBackend.attach_load_balancer_target_groups = attach(
        models.AutoScalingBackend.attach_load_balancer_target_groups)
    models.AutoScalingBackend.detach_load_balancer_target_groups = detach(
        models.AutoScalingBackend.detach_load_balancer_target_groups)
    models.AutoScalingBackend.put_scaling_policy = put_policy(models.AutoScalingBackend.put_scaling_policy)
    AutoScalingResponse.delete_policy = delete_policy
    AutoScalingResponse.start_instance_refresh = start
    AutoScalingResponse.describe_scaling_activities = activities
    AutoScalingResponse.describe_instance_refreshes = describe
    AutoScalingResponse.cancel_instance_refresh = cancel
    AutoScalingResponse.rollback_instance_refresh = roll_back


def template_of(state):
    template = state.auto_scaling_group.ec2_launch_template
    if template is None:
        return None
    return {"LaunchTemplateId": template.id, "LaunchTemplateName": template.name, "Version": str(version_of(state))}


def version_of(state):
    return getattr(state.instance, "template_version", None)


def launch(self, count, tags, version=None):
    """Launches instances, by default of the version that the group, or its active refresh, wants."""
    known = self.autoscaling_backend.elbv2_backend.target_groups
    lost = [f"The target group {arn} was not found. Validating load balancer configuration failed."
            for arn in self.target_group_arns if arn not in known]
    if REFUSED or lost:
        return note(self.name, "Launching a new EC2 instance", "Failed", [*REFUSED, *lost][0])
    refresh = active(self.name)
    forward = refresh and refresh["Status"] in ("Pending", "InProgress")
    if version is None:
        version = wanted(refresh) if forward else str(self.launch_template_version)
    mixed = refresh["DesiredConfiguration"].get("MixedInstancesPolicy") if forward else getattr(
        self, "kept_policy", self.mixed_instances_policy)
    template = self.ec2_launch_template.get_version(version)
    tags = dict(tags) | {models.ASG_NAME_TAG: self.name} | template.instance_tags
    subnets = self.vpc_zone_identifier.split(",") if self.vpc_zone_identifier else [None]
    for number in range(count):
        kind, market = choice(self, template, mixed)
        subnet = subnets[(len(self.instance_states) + number) % len(subnets)]
        ec2 = self.autoscaling_backend.ec2_backend
        zone = ec2.get_subnet(subnet).availability_zone if subnet else self.availability_zones[0]
        refused = catalogue.refusal(ec2, kind, zone)
        if refused:
            note(self.name, "Launching a new EC2 instance", "Failed", refused)
            continue
        reservation = self.autoscaling_backend.ec2_backend.run_instances(
            template.image_id, 1, template.user_data, template.security_groups, instance_type=kind,
            tags={"instance": tags}, placement=self.availability_zones[0], launch_config=None,
            launch_template={"LaunchTemplateId": self.ec2_launch_template.id, "Version": version},
            is_instance_type_default=False, associate_public_ip=False,
            subnet_id=subnet)
        for instance in reservation.instances:
            instance.autoscaling_group, instance.template_version = self, int(template.number)
            instance.market = market
            self.instance_states.append(models.InstanceState(instance))
            note(self.name, f"Launching a new EC2 instance: {instance.id}", "Successful")


def choice(group, template, mixed):
    """Type and market of the next instance. With a policy for several types, Spot takes them in turn."""
    if not mixed:
        return template.instance_type, template.data.get("InstanceMarketOptions", {}).get("MarketType", "on-demand")
    if "InstanceMarketOptions" in template.data:
        raise AutoscalingClientError("ValidationError", "the launch template asks for Spot, beside a mixed instances policy")
    kinds = [o["InstanceType"] for o in mixed["LaunchTemplate"].get("Overrides", [])] or [template.instance_type]
    distribution = mixed.get("InstancesDistribution", {})
    base, percent = (int(distribution.get(key, default)) for key, default in (
        ("OnDemandBaseCapacity", 0), ("OnDemandPercentageAboveBaseCapacity", 100)))
    of_version = [s.instance for s in group.instance_states if version_of(s) == int(template.number)]
    demanded = sum(getattr(i, "market", "") == "on-demand" for i in of_version)
    above = len(of_version) + 1 - base
    if demanded < base or (demanded - base) * 100 < above * percent:
        return kinds[0], "on-demand"
    return kinds[(len(of_version) - demanded) % len(kinds)], "spot"


def update_group(original):
    """moto forgets a policy for several types that an update does not repeat."""

    def act(self, *words, **more):
        policy = more.get("mixed_instances_policy") or (None if more.get("launch_template") else self.mixed_instances_policy)
        self.kept_policy = policy
        original(self, *words, **{**more, "mixed_instances_policy": None})
        self.mixed_instances_policy = policy

    return act


def note(group, description, status, message=None):
    """Remembers an activity; one that fails over and over is remembered once."""
    last = next((a for a in reversed(ACTIVITIES) if a["AutoScalingGroupName"] == group), {})
    if status == "Failed" and (last.get("StatusCode"), last.get("StatusMessage")) == (status, message):
        return
    ACTIVITIES.append({
        "ActivityId": f"activity-{len(ACTIVITIES)}", "AutoScalingGroupName": group, "Description": description,
        "Cause": "The group differs from its desired capacity.", "StartTime": utcnow(), "EndTime": utcnow(),
        "StatusCode": status, "Progress": 100, **({"StatusMessage": message} if message else {}),
    })


def group_of(self):
    """The group that a call names. One that there is not is refused with the code of every refusal; the words tell."""
    name = self._get_param("AutoScalingGroupName")
    group = self.autoscaling_backend.autoscaling_groups.get(name)
    if group is None:
        raise not_found(name)
    return group


def not_found(name):
    return AutoscalingClientError(
        "ValidationError", f"AutoScalingGroup name not found - AutoScalingGroup '{name}' not found")


def activities(self):
    name = group_of(self).name
    return ActionResult({"Activities": [a for a in reversed(ACTIVITIES) if a["AutoScalingGroupName"] == name]})


def create_group(original):
    """A name is taken once; moto would put a second group in the place of the first and lose its instances."""

    def act(self, *words, **more):
        name = more.get("name") or words[0]
        if name in self.autoscaling_groups:
            raise AutoscalingClientError("AlreadyExists", f"AutoScalingGroup by this name already exists - {name}")
        return original(self, *words, **more)

    return act


def attach(original):
    """No target group is attached while a refresh is under way."""

    def act(self, group_name, target_group_arns):
        if active(group_name):
            raise AutoscalingClientError("InstanceRefreshInProgress", "An Instance Refresh is in progress")
        return original(self, group_name, target_group_arns)

    return act


def detach(original):
    """A group is taken out of those target groups alone that it is in."""

    def act(self, group_name, target_group_arns):
        group = self.autoscaling_groups.get(group_name)
        if group is None:
            raise not_found(group_name)
        if not set(target_group_arns) <= set(group.target_group_arns):
            raise AutoscalingClientError(
                "ValidationError", "Trying to remove Target Groups that are not part of the group")
        return original(self, group_name, target_group_arns)

    return act


def delete_group(original):
    """Nothing of a group goes whose deletion is protected: AWS documents the code of the refusal, and no words."""

    def act(self, name):
        if name in PROTECTED:
            raise AutoscalingClientError(
                "ValidationError", f"AutoScalingGroup '{name}' cannot be deleted: its deletion protection is prevent-force-deletion")
        for key in [k for k, r in REFRESHES.items() if r["AutoScalingGroupName"] == name]:
            del REFRESHES[key]
        for key in [k for k in self.policies if k[0] == name]:
            del self.policies[key]
        return original(self, name)

    return act


def put_policy(original):
    """Policies of two groups may have one name; moto keeps the later one alone."""

    def act(self, name, *args, **kwargs):
        policy = original(self, name, *args, **kwargs)
        self.policies[policy.auto_scaling_group_name, name] = self.policies.pop(name)
        return policy

    return act


def delete_policy(self):
    self.autoscaling_backend.policies.pop((self._get_param("AutoScalingGroupName"), self._get_param("PolicyName")), None)
    return ActionResult({})


def of_group(name):
    return [r for r in reversed(REFRESHES.values()) if r["AutoScalingGroupName"] == name]


def active(name):
    return next((r for r in of_group(name) if r["Status"] in ACTIVE), None)


def wanted(refresh):
    """The version that a refresh brings."""
    return str(specification(refresh["DesiredConfiguration"])["Version"])


def specification(desired):
    """The launch template in a desired configuration, by itself or in a policy for several types."""
    mixed = (desired or {}).get("MixedInstancesPolicy")
    return mixed["LaunchTemplate"]["LaunchTemplateSpecification"] if mixed else (desired or {}).get("LaunchTemplate", {})


def start(self):
    group = group_of(self)
    name = group.name
    if active(name):
        raise AutoscalingClientError("InstanceRefreshInProgress", "An Instance Refresh is already in progress")
    preferences = self._get_param("Preferences", {}) or {}
    desired = self._get_param("DesiredConfiguration")
    low, high = int(preferences.get("MinHealthyPercentage", 90)), int(preferences.get("MaxHealthyPercentage", 100))
    if not (0 <= low <= 100 and 100 <= high <= 200 and high - low <= 100):
        raise AutoscalingClientError("ValidationError", f"healthy percentages {low} and {high} are out of range")
    version = specification(desired).get("Version", "$Default")
    if preferences.get("AutoRollback") and str(version).startswith("$"):
        raise AutoscalingClientError("ValidationError", "AutoRollback needs a numbered launch template version")
    group.ec2_launch_template.get_version(version)
    identity = f"refresh-{next(NUMBERS):08d}"
    REFRESHES[identity] = {
        "InstanceRefreshId": identity, "AutoScalingGroupName": name, "Status": "Pending", "PercentageComplete": 0,
        "InstancesToUpdate": group.desired_capacity, "StartTime": utcnow(), "Preferences": preferences,
        "DesiredConfiguration": desired,
    }
    return ActionResult({"InstanceRefreshId": identity})


def describe(self):
    name, wanted_ids = group_of(self).name, self._get_param("InstanceRefreshIds", [])
    known = [{k: v for k, v in r.items() if k not in INTERNAL} for r in of_group(name)]
    return ActionResult({"InstanceRefreshes": [r for r in known if not wanted_ids or r["InstanceRefreshId"] in wanted_ids]})


def active_or_error(self):
    refresh = active(self._get_param("AutoScalingGroupName"))
    if refresh is None:
        raise AutoscalingClientError("ActiveInstanceRefreshNotFound", "No in progress or pending Instance Refresh found")
    return refresh


def cancel(self):
    refresh = active_or_error(self)
    refresh["Status"] = "Cancelling"
    return ActionResult({"InstanceRefreshId": refresh["InstanceRefreshId"]})


def roll_back(self):
    refresh = active_or_error(self)
    if refresh["Status"] not in ("Pending", "InProgress", "Baking"):
        raise AutoscalingClientError("IrreversibleInstanceRefresh", f"the refresh is {refresh['Status']}")
    reverse(refresh, "Rollback was requested.")
    return ActionResult({"InstanceRefreshId": refresh["InstanceRefreshId"]})


def reverse(refresh, reason):
    """The refresh goes back to the group's own version."""
    details = {"RollbackReason": reason, "RollbackStartTime": utcnow(),
               "PercentageCompleteOnRollback": refresh["PercentageComplete"]}
    refresh.update({"Status": "RollbackInProgress", "StatusReason": reason, "RollbackDetails": details})
    refresh.pop("Steady", None)
