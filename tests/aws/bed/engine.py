"""What AWS does by itself, once per pass: members become targets, broken members are replaced, refreshes move.

A model of AWS, not AWS. A refresh launches within MaxHealthyPercentage, terminates within MinHealthyPercentage, counts
an instance once it is healthy for the warm-up, and fails when it stands still for the time-out (AWS: one hour).
"""
import math, time

from moto.autoscaling.models import autoscaling_backends
from moto.core.utils import utcnow
from moto.ebs.models import ebs_backends

from .gaps import balancers, groups, schedules, snapshots, stacks

ACCOUNT = "123456789012"
SETTINGS = {"refresh_timeout": 3600.0, "paper": None}
# Instances whose VM ended by itself; AMIs, and versions of groups as "NAME VERSION", that never become healthy on paper.
DEAD, BROKEN = set(), set()
BORN, HEALTHY_SINCE = {}, {}


def backends(all_of_them):
    """A service's backends by region."""
    return list(all_of_them[ACCOUNT].items())


def one_pass():
    stacks.one_pass()
    schedules.one_pass()
    for backend in list(ebs_backends[ACCOUNT].values()):
        snapshots.one_pass(backend.ec2_backend)
    for backend in list(autoscaling_backends[ACCOUNT].values()):
        for group in list(backend.autoscaling_groups.values()):
            for state in group.instance_states:
                BORN.setdefault(state.instance.id, time.time())
            if SETTINGS["paper"] is not None:
                probe_on_paper(group)
            register(group)
            observe(group)
            replace_broken(group)
            refresh = groups.active(group.name)
            if refresh:
                move(group, refresh)
    forget_terminated()
    if SETTINGS["paper"] is not None:
        from . import paper

        paper.one_pass()


def target_groups(group):
    known = group.autoscaling_backend.elbv2_backend.target_groups
    return [known[arn] for arn in group.target_group_arns if arn in known]


def register(group):
    """Targets are exactly the members, and members run."""
    members = {s.instance.id: s.instance for s in group.instance_states}
    for instance in members.values():
        if instance.state == "pending":
            instance._state.name, instance._state.code = "running", 16
    for target_group in target_groups(group):
        new = [i for i in members if i not in target_group.targets and members[i].state == "running"]
        target_group.register([{"Id": i, "Port": target_group.port} for i in new])


def forget_terminated():
    for backend in list(autoscaling_backends[ACCOUNT].values()):
        for target_group in backend.elbv2_backend.target_groups.values():
            for identity in list(target_group.targets):
                instance = backend.ec2_backend.get_instance_by_id(identity)
                if instance is None or instance.state in ("shutting-down", "terminated"):
                    target_group.deregister([{"Id": identity}])
                    balancers.HEALTH.pop(f"{target_group.arn} {identity}", None)


def probe_on_paper(group):
    for state in group.instance_states:
        instance = state.instance
        age = time.time() - BORN[instance.id]
        if age >= SETTINGS["paper"]:
            bad = BROKEN & {instance.image_id, f"{group.name} {groups.version_of(state)}"}
            word = "unhealthy" if bad else "healthy"
            for target_group in target_groups(group):
                # A load balancer finds a target healthy after two checks, no sooner than a pass behind its registration.
                if instance.id in target_group.targets and balancers.is_used(group.region, target_group.arn):
                    balancers.HEALTH[f"{target_group.arn} {instance.id}"] = word


def healths(group, state):
    return [balancers.HEALTH.get(f"{t.arn} {state.instance.id}", "initial") for t in target_groups(group)]


def observe(group):
    """Since when each member is healthy; without target groups a running instance is."""
    for state in group.instance_states:
        if all(h == "healthy" for h in healths(group, state)) and state.instance.state == "running":
            HEALTHY_SINCE.setdefault(state.instance.id, time.time())
        else:
            HEALTHY_SINCE.pop(state.instance.id, None)


def is_healthy(state, seconds=0.0):
    since = HEALTHY_SINCE.get(state.instance.id)
    return since is not None and time.time() - since >= seconds


def terminate(group, states):
    ids = [s.instance.id for s in states]
    if ids:
        for identity in ids:
            groups.note(group.name, f"Terminating EC2 instance: {identity}", "Successful")
        group.instance_states = [s for s in group.instance_states if s.instance.id not in ids]
        group.autoscaling_backend.ec2_backend.terminate_instances(ids)


def replace_broken(group):
    grace = float(group.health_check_grace_period or 0)
    gone, failed = [], []
    for state in group.instance_states:
        if state.instance.id in DEAD or state.instance.state not in ("pending", "running"):
            gone.append(state)
        elif group.health_check_type == "ELB" and time.time() - BORN[state.instance.id] > grace:
            if "unhealthy" in healths(group, state):
                failed.append(state)
    terminate(group, gone + failed)
    missing = (group.desired_capacity or 0) - len(group.instance_states)
    if missing > 0:
        group.replace_autoscaling_group_instances(missing, group.get_propagated_tags())


def move(group, refresh):
    """One step of a refresh."""
    if refresh["Status"] == "Cancelling":
        refresh.update({"Status": "Cancelled", "EndTime": utcnow()})
        return settle(group)
    back = refresh["Status"] == "RollbackInProgress"
    target = int(group.launch_template_version) if back else int(groups.wanted(refresh))
    refresh["Status"] = "RollbackInProgress" if back else "InProgress"
    preferences, desired = refresh["Preferences"], group.desired_capacity or 0
    least = math.ceil(desired * int(preferences.get("MinHealthyPercentage", 90)) / 100)
    most = max(math.floor(desired * int(preferences.get("MaxHealthyPercentage", 100)) / 100), desired)
    if preferences.get("MaxHealthyPercentage", 100) != 100 and most == desired and least == desired:
        most += 1  # AWS launches at least one when it may go above the desired capacity.
    warmup = float(preferences.get("InstanceWarmup") or 0)
    new = [s for s in group.instance_states if groups.version_of(s) == target]
    old = [s for s in group.instance_states if groups.version_of(s) != target]
    done = [s for s in new if is_healthy(s, warmup)]
    refresh["InstancesToUpdate"] = desired - min(len(done), desired)
    refresh["PercentageComplete"] = 100 if desired == 0 else min(100, 100 * len(done) // desired)
    if not old and len(done) == len(new) == desired:
        return finish(group, refresh, back)
    if step(group, new, old, done, desired, least, most, target):
        refresh["Steady"] = time.time()
    if time.time() - refresh.setdefault("Steady", time.time()) > SETTINGS["refresh_timeout"]:
        fail(refresh, back)


def step(group, new, old, done, desired, least, most, target):
    """Launches or terminates what the limits allow; whether anything was done."""
    total = len(new) + len(old)
    if len(new) < desired and total < most:
        count = min(desired - len(new), most - total)
        group.replace_autoscaling_group_instances(count, group.get_propagated_tags(), str(target))
        return True
    healthy_old = [s for s in old if is_healthy(s)]
    surplus = len(done) + len(healthy_old) - least
    leaving = [s for s in old if not is_healthy(s)] + healthy_old[:max(surplus, 0)]
    if not leaving and len(new) > desired:
        leaving = new[desired:]
    terminate(group, leaving)
    return bool(leaving)


def finish(group, refresh, back):
    if not back:
        group.launch_template_version = group.provided_launch_template_version = groups.wanted(refresh)
        group.kept_policy = refresh["DesiredConfiguration"].get("MixedInstancesPolicy")
        group.mixed_instances_policy = group.kept_policy
    refresh.update({"Status": "RollbackSuccessful" if back else "Successful", "EndTime": utcnow()})
    settle(group)


def fail(refresh, back):
    reason = "No instance became healthy in time."
    if back or not refresh["Preferences"].get("AutoRollback"):
        refresh.update({"Status": "RollbackFailed" if back else "Failed", "EndTime": utcnow(), "StatusReason": reason})
    else:
        groups.reverse(refresh, reason)


def settle(group):
    """A refresh that ended leaves the group at its size."""
    surplus = len(group.instance_states) - (group.desired_capacity or 0)
    terminate(group, sorted(group.instance_states, key=is_healthy)[:max(surplus, 0)])
