"""Scheduled actions of Auto Scaling groups, by a clock that tests set ahead, and machines that end themselves.

POST /moto-api/i2kit/clock SECONDS sets the clock of schedules and of machines on paper ahead, as if so much time had passed.
What fires is applied by `one_pass`, which `engine` calls: once for the newest of several times that have passed.
"""
import datetime, re, time, zoneinfo

from moto.autoscaling.exceptions import AutoscalingClientError
from moto.autoscaling.models import autoscaling_backends
from moto.autoscaling.responses import AutoScalingResponse
from moto.core.responses import ActionResult
from moto.logs.models import LogEvent

from . import groups

CLOCK = {"ahead": 0.0}
# By group and name.
ACTIONS = {}
BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
# How far back a schedule is looked for.
HORIZON_MINUTES = 366 * 24 * 60


def close():
    AutoScalingResponse.put_scheduled_update_group_action = put
    AutoScalingResponse.delete_scheduled_action = delete
    AutoScalingResponse.describe_scheduled_actions = describe
    AutoScalingResponse.terminate_instance_in_auto_scaling_group = terminate
    AutoScalingResponse.set_desired_capacity = set_desired_capacity
    LogEvent.__init__ = taken_by_this_clock(LogEvent.__init__)


def now():
    return time.time() + CLOCK["ahead"]


def taken_by_this_clock(original):
    """Lines of logs are taken at the time that machines on paper have."""
    def act(self, ingestion_time, log_event):
        original(self, int(now() * 1000), log_event)

    return act


def invalid(message):
    return AutoscalingClientError("ValidationError", message)


def put(self):
    sizes = {key: self._get_int_param(key) for key in ("MinSize", "MaxSize", "DesiredCapacity")}
    put_action(groups.group_of(self), self._get_param("ScheduledActionName"), sizes, self._get_param("StartTime"),
               self._get_param("Recurrence"), self._get_param("TimeZone"))
    return ActionResult({})


def put_action(group, name, sizes, start=None, recurrence=None, zone=None):
    """Puts a scheduled action, with what AWS refuses of it."""
    sizes = {key: value for key, value in sizes.items() if value is not None}
    if not sizes:
        raise invalid("At least one of minSize, maxSize or desiredCapacity must be specified")
    least, most = sizes.get("MinSize", group.min_size), sizes.get("MaxSize", group.max_size)
    if not least <= sizes.get("DesiredCapacity", least) <= most:
        raise invalid(f"Desired capacity must be between {least} and {most}")
    if recurrence is not None:
        fields(recurrence)
        if zone not in zoneinfo.available_timezones():
            raise invalid(f"Invalid TimeZone: {zone}")
    elif start is None:
        raise invalid("Either a start time or a recurrence must be specified")
    at = None if start is None else seconds(start)
    if recurrence is None and at <= now():
        raise invalid("Given start time is in the past")
    for key, other in ACTIONS.items():
        if key[0] == group.name and key[1] != name and recurrence is None and is_at(other, at):
            raise invalid("A scheduled action with this start time already exists")
    ACTIONS[group.name, name] = {"sizes": sizes, "at": at, "recurrence": recurrence, "zone": zone, "since": now()}


def seconds(start):
    if isinstance(start, datetime.datetime):
        return start.replace(tzinfo=start.tzinfo or datetime.timezone.utc).timestamp()
    return datetime.datetime.fromisoformat(str(start).replace("Z", "+00:00")).timestamp()


def is_at(action, at):
    """Whether an action acts at that second, too."""
    if action["recurrence"] is None:
        return int(action["at"]) == int(at)
    return int(at) % 60 == 0 and matches(action, int(at))


def fields(recurrence):
    """The fields of a recurrence: `*`, or numbers with commas between them. Of what else crons take, little is said."""
    found = recurrence.split(" ")
    if len(found) != 5:
        raise invalid(f"Given recurrence string:{recurrence} is invalid")
    sets = []
    for text, (low, high) in zip(found, BOUNDS):
        if text == "*":
            sets.append(None)
        elif re.fullmatch(r"\d+(,\d+)*", text) and all(low <= int(n) <= high for n in text.split(",")):
            sets.append({int(n) for n in text.split(",")})
        else:
            raise invalid(f"Given recurrence string:{recurrence} is invalid")
    if sets[2] is not None and sets[4] is not None:
        raise invalid("days of the month and days of the week: nobody says what that means")
    return sets


def matches(action, at):
    local = datetime.datetime.fromtimestamp(at, zoneinfo.ZoneInfo(action["zone"]))
    values = (local.minute, local.hour, local.day, local.month, local.isoweekday() % 7)
    return all(wanted is None or value in wanted for wanted, value in zip(fields(action["recurrence"]), values))


def describe(self):
    name = self._get_param("AutoScalingGroupName")
    return ActionResult({"ScheduledUpdateGroupActions": [
        {"AutoScalingGroupName": group, "ScheduledActionName": action} for group, action in ACTIONS if name in (None, group)]})


def delete(self):
    group = groups.group_of(self)
    if ACTIONS.pop((group.name, self._get_param("ScheduledActionName")), None) is None:
        raise invalid("Scheduled action name not found")
    return ActionResult({})


def set_desired_capacity(self):
    resize(groups.group_of(self), self._get_int_param("DesiredCapacity"))
    return ActionResult({})


def resize(group, desired):
    if not group.min_size <= desired <= group.max_size:
        raise invalid(f"New SetDesiredCapacity value {desired} is not between {group.min_size} and {group.max_size}")
    group.set_desired_capacity(desired)


def terminate(self):
    terminate_instance(self._get_param("InstanceId"), self._get_bool_param("ShouldDecrementDesiredCapacity", False))
    return ActionResult({"Activity": {"ActivityId": "activity", "AutoScalingGroupName": "", "Cause": "", "StatusCode": "InProgress",
                                      "StartTime": datetime.datetime.now(datetime.timezone.utc)}})


def group_with(identity):
    for backends in autoscaling_backends.values():
        for backend in backends.values():
            for group in backend.autoscaling_groups.values():
                for state in group.instance_states:
                    if state.instance.id == identity:
                        return group, state
    raise invalid(f"Instance Id not found - No managed instance found for instance ID: {identity}")


def terminate_instance(identity, decrement):
    from .. import engine

    group, state = group_with(identity)
    if decrement:
        if group.desired_capacity - 1 < group.min_size:
            raise invalid("Currently, desiredSize equals minSize. Terminating instance without replacement will violate group's "
                          "min size constraint. Either set shouldDecrement flag to false or lower group's min size.")
        group.desired_capacity -= 1
    engine.terminate(group, [state])


def one_pass():
    known = {name: group for backends in autoscaling_backends.values() for backend in backends.values()
             for name, group in backend.autoscaling_groups.items()}
    for key, action in list(ACTIONS.items()):
        group = known.get(key[0])
        if group is None:
            del ACTIONS[key]
        elif action["recurrence"] is None:
            if now() >= action["at"]:
                del ACTIONS[key]
                apply(group, action["sizes"])
        elif newest_due(action) is not None:
            action["since"] = now()
            apply(group, action["sizes"])


def newest_due(action):
    """The newest time of a schedule since it was looked at last."""
    at = int(now()) // 60 * 60
    for _ in range(HORIZON_MINUTES):
        if at <= action["since"]:
            return None
        if matches(action, at):
            return at
        at -= 60
    return None


def apply(group, sizes):
    group.min_size, group.max_size = sizes.get("MinSize", group.min_size), sizes.get("MaxSize", group.max_size)
    desired = sizes.get("DesiredCapacity", group.desired_capacity)
    if desired != group.desired_capacity:
        group.set_desired_capacity(min(max(desired, group.min_size), group.max_size))
