"""Machines of Jobs on paper: without a VM they do what `i2kit-aws` does in one, with the rights of their own role.

POST /moto-api/i2kit/job {"NAMESPACE/NAME": {"seconds", "codes", "hang", "lost", "again", "silent"}} says how the pods of a Job end: so
many seconds after their start, with the exit codes of a list, one a machine (0 when it is used up; {"SLOT": [...]} for each slot), never
("hang"); so many of the first ones are lost without a word ("lost") or start again in place ("again"); none comes to begin ("silent").
What a machine may not do, it does not do, and says so on its console.

A second reading of what `linuxkit/spec/src/job.rs` says, in another language.
"""
import json, time

from moto.autoscaling.models import autoscaling_backends
from moto.iam.models import iam_backends
from moto.logs.models import logs_backends

from . import authority, engine
from .gaps import images, schedules

LANE, RECORD, DEADLINE = "i2kit:lane", "i2kit:record", "i2kit-deadline"
LOGS = ("logs:PutLogEvents", "logs:GetLogEvents")
# Seconds within which a machine has to begin, and from the line of its end to that of its machine: others act in between.
BEGIN, LEAVES = 3600, 1.0
# How Jobs end, by their names; machines by their ids, and how many of a Job were lost, or started again.
BEHAVIOURS, MACHINES, LOST, AGAIN = {}, {}, {}, {}


class Machine:
    """A machine that has booted."""

    def __init__(self, group, instance, data, facts):
        tags = {t["key"]: t["value"] for t in instance.get_tags()}
        if (data.get("MetadataOptions") or {}).get("InstanceMetadataTags") != "enabled":
            raise ValueError("the metadata shows no tags")
        self.id, self.region, self.facts, self.data = instance.id, group.region, facts, data
        self.lane, self.stream = int(tags[LANE]), tags[RECORD]
        self.name = f"{facts['namespace']}/{facts['group']}"
        self.records = facts["logs"]["group"] + "/jobs"
        self.run, self.slot, self.ends, self.told, self.over = None, None, None, None, False

    def behaviour(self):
        return BEHAVIOURS.get(self.name, {})

    def may(self, action, arn, keys):
        """Whether the role of the machine allows it."""
        profile = (self.data.get("IamInstanceProfile") or {}).get("Name")
        found = iam_backends[engine.ACCOUNT]["aws"].instance_profiles.values()
        roles = [role for p in found if p.name == profile for role in p.roles]
        documents = [json.loads(d) if isinstance(d, str) else d for role in roles for d in role.policies.values()]
        if not authority.allows(documents, action, arn, keys):
            raise PermissionError(f"{profile} may not {action} on {arn}")

    def may_log(self):
        for action in LOGS:
            self.may(action, f"arn:aws:logs:{self.region}:{engine.ACCOUNT}:log-group:{self.records}:log-stream:{self.stream}", {})

    def lane_group(self, lane, action, more={}):
        name = self.facts["job"]["group"] + (f"_{lane}" if lane else "")
        group = autoscaling_backends[engine.ACCOUNT][self.region].autoscaling_groups.get(name)
        if group is not None:
            self.may(action, f"arn:aws:autoscaling:{self.region}:{engine.ACCOUNT}:autoScalingGroup:0:autoScalingGroupName/{name}",
                     {f"aws:ResourceTag/{t['Key']}": t["Value"] for t in group.tags} | more)
        return group

    def events(self):
        groups = logs_backends[engine.ACCOUNT][self.region].groups
        stream = groups[self.records].streams.get(self.stream)
        found = [json.loads(e.message) for e in stream.events] if stream else []
        return sorted(found, key=lambda e: (e["at"], {"rules": 0, "run": 1, "start": 2}.get(e["what"], 3)))

    def write(self, *events):
        self.may_log()
        at = max(int(schedules.now() * 1000), *(e["at"] + 1 for e in self.events()))
        # The tool has made the stream.
        self.put(logs_backends[engine.ACCOUNT][self.region].groups[self.records].streams[self.stream],
                 *(json.dumps({"at": at, **e}) for e in events))
        return Record(self.events())

    def log(self, stream, *lines):
        group = logs_backends[engine.ACCOUNT][self.region].groups[self.facts["logs"]["group"]]
        if stream not in group.streams:
            group.create_log_stream(stream)
        self.put(group.streams[stream], *lines)

    def put(self, stream, *lines):
        at = int(schedules.now() * 1000)
        stream.put_log_events([{"timestamp": at, "message": line} for line in lines])

    def begin(self):
        record = Record(self.events())
        if record.rules is None or not (record.runs or record.rules.get("scheduled")):
            return
        if self.behaviour().get("silent"):
            return engine.DEAD.add(self.id)
        before = next((r for r in reversed(record.runs) if self.id in r.began), None)
        if before is not None:
            text = "the machine started again"
            record = self.write({"what": "end", "run": before.number, "instance": self.id, "succeeded": False, "text": text})
            return self.finish(record, before.number)
        events, number = [], record.runs[-1].number if record.runs else 0
        if record.rules.get("scheduled") and (not record.runs or record.verdict(record.runs[-1])) and record.is_due():
            number += 1
            events.append({"what": "run", "number": number, "revision": self.facts["revision"], "scheduled": True})
            record.take({"at": int(schedules.now() * 1000), **events[0]})
        work = record.work(self.lane)
        if work is None:
            if record.runs and not record.verdict(record.runs[-1]) and self.lane in record.runs[-1].lanes:
                record = self.write({"what": "left", "run": number, "instance": record.runs[-1].lanes[self.lane]})
            return self.finish(record, number)
        self.run, self.slot = number, work[0]
        start = {"what": "start", "run": number, "lane": self.lane, "instance": self.id}
        record = self.write(*events, start if self.slot is None else {**start, "slot": self.slot})
        run = next(r for r in record.runs if r.number == number)
        if record.verdict(run):
            return self.finish(record, number)
        limit = record.rules.get("deadline")
        self.unlimit() if limit is None else self.end_at(run.since // 1000 + limit)
        self.log(f"{self.name}/{self.id}/{self.container()}", f"slot {self.slot} of run {self.run}")
        self.ends = time.time() + float(self.behaviour().get("seconds", 0))

    def end_at(self, second):
        at = max(second, int(schedules.now()) + 30)
        sizes = {"MinSize": 0, "MaxSize": 0, "DesiredCapacity": 0}
        group = self.lane_group(self.lane, "autoscaling:PutScheduledUpdateGroupAction", {"autoscaling:MaxSize": str(sizes["MaxSize"])})
        start = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at + (at % 60 == 0)))
        schedules.put_action(group, DEADLINE, sizes, start)

    def unlimit(self):
        group = self.lane_group(self.lane, "autoscaling:DeleteScheduledAction")
        schedules.ACTIONS.pop((group.name, DEADLINE), None)

    def container(self):
        return json.loads(self.facts["host"])["launch"]["containers"][-1]

    def code(self):
        codes = self.behaviour().get("codes", [])
        if isinstance(codes, dict):
            codes = codes.get(str(self.slot), [])
        return codes.pop(0) if codes else 0

    def is_one_of_the_first(self, counts, word):
        if counts.get(self.name, 0) >= self.behaviour().get(word, 0):
            return False
        counts[self.name] = counts.get(self.name, 0) + 1
        return True

    def end(self):
        if self.is_one_of_the_first(LOST, "lost"):
            self.over = True
            return engine.DEAD.add(self.id)
        if self.is_one_of_the_first(AGAIN, "again"):
            # The instance is the same, and what was in its memory is gone.
            return MACHINES.pop(self.id)
        code = self.code()
        text = "Completed" if code == 0 else f"{self.container()}: Error, exit code {code}"
        self.write({"what": "end", "run": self.run, "instance": self.id, "succeeded": code == 0, "text": text})
        self.told = time.time()

    def finish(self, record, number):
        """Ends this machine, and what else follows from the record."""
        self.over = True
        run = next((r for r in record.runs if r.number == number), None)
        verdict = record.verdict(run) if run else "Succeeded"
        if verdict and not (verdict == "Succeeded" and record.rules.get("completions") is None):
            for lane in range(record.rules["lanes"]):
                if lane != self.lane:
                    group = self.lane_group(lane, "autoscaling:SetDesiredCapacity")
                    if group is not None:
                        schedules.resize(group, 0)
        last, gap = bool(verdict) or record.work(self.lane) is None, record.rules.get("gap")
        begin, limit = int(schedules.now()) + BEGIN, record.rules.get("deadline")
        if not last:
            self.end_at(begin if limit is None else min(begin, run.since // 1000 + limit))
        elif gap is not None:
            self.end_at(begin + gap)
        elif not verdict or limit is None:
            self.unlimit()
        self.leave(last)

    def leave(self, last):
        self.lane_group(self.lane, "autoscaling:TerminateInstanceInAutoScalingGroup")
        schedules.terminate_instance(self.id, last)

    def stopped(self):
        """The power button."""
        if self.run is not None and self.told is None and not self.over:
            self.write({"what": "left", "run": self.run, "instance": self.id})


class Run:
    def __init__(self, event):
        self.number, self.since, self.at = event["number"], event["at"], event["at"]
        self.scheduled = event.get("scheduled", False)
        self.done, self.bad, self.lanes, self.began, self.ended, self.good, self.per_slot = set(), set(), {}, {}, set(), set(), {}
        self.succeeded, self.failures, self.over = 0, 0, None

    def fail(self, instance, slot, limit=None):
        if instance in self.ended:
            return
        self.ended.add(instance)
        self.failures += 1
        if slot is not None and limit is not None:
            self.per_slot[slot] = self.per_slot.get(slot, 0) + 1
            if self.per_slot[slot] > limit:
                self.bad.add(slot)


class Record:
    def __init__(self, events):
        self.rules, self.runs = None, []
        for event in events:
            self.take(event)

    def take(self, e):
        if e["what"] == "rules":
            if self.runs:
                self.runs[-1].over = self.verdict(self.runs[-1], e["at"])
                self.runs[-1].since = e["at"]
            self.rules = e["rules"]
        elif e["what"] == "run":
            if not self.runs or self.runs[-1].number + 1 == e["number"]:
                self.runs.append(Run(e))
        else:
            for run in [r for r in self.runs if r.number == e["run"]]:
                self.of_machine(run, e)
                run.over = self.judged(run)

    def of_machine(self, run, e):
        instance = e["instance"]
        if e["what"] == "start":
            if instance in run.began:
                return
            run.began[instance] = e.get("slot")
            before = run.lanes.get(e["lane"])
            run.lanes[e["lane"]] = instance
            if before is not None:
                run.fail(before, run.began[before], self.rules.get("backoffLimitPerIndex"))
            return
        run.lanes = {lane: other for lane, other in run.lanes.items() if other != instance}
        if e["what"] == "left":
            run.ended.add(instance)
        elif instance in run.began and e["succeeded"]:
            slot = run.began[instance]
            if instance not in run.good and (slot is None or slot not in run.done):
                run.succeeded += 1
            run.ended.add(instance)
            run.good.add(instance)
            run.done.add(slot)
        elif instance in run.began:
            run.fail(instance, run.began[instance], self.rules.get("backoffLimitPerIndex"))

    def judged(self, run):
        """How a run is by what its machines said; its end is its end."""
        if run.over:
            return run.over
        rules, all_of_them = self.rules, self.rules.get("completions")
        done = run.succeeded >= all_of_them if all_of_them is not None else run.succeeded > 0 and not run.lanes
        if done:
            return "Succeeded"
        most = rules.get("maxFailedIndexes")
        if most is not None and len(run.bad) > most or run.failures > rules["backoffLimit"]:
            return "Failed"
        if run.bad and all_of_them is not None and run.succeeded + len(run.bad) >= all_of_them:
            return "Failed"
        return None

    def is_due(self):
        """Whether the schedule can want another run."""
        gap = self.rules.get("gap")
        began = [run.at for run in self.runs if run.scheduled]
        return gap is None or not began or schedules.now() * 1000 >= began[-1] + (gap - min(3600, gap // 2)) * 1000

    def verdict(self, run, at=None):
        if self.rules is None:
            return None
        if self.judged(run):
            return self.judged(run)
        rules, limit = self.rules, self.rules.get("deadline")
        at = schedules.now() * 1000 if at is None else at
        late = limit is not None and rules["lanes"] and at >= run.since + limit * 1000
        return "Failed" if late or self.runs[-1].number > run.number else None

    def work(self, lane):
        run = self.runs[-1] if self.runs else None
        if run is None or self.verdict(run) or lane >= self.rules["lanes"]:
            return None
        if self.rules.get("completions") is None:
            return None if run.succeeded else (None,)
        slots = range(lane, self.rules["completions"], self.rules["lanes"])
        return next(((s,) for s in slots if s not in run.done and s not in run.bad), None)


def facts_of(group, instance):
    """The template that a member was launched from, and its user data."""
    data = group.ec2_launch_template.get_version(str(instance.template_version)).data
    return data, json.loads(data["UserData"].decode())


def one_pass():
    members = {}
    for backend in list(autoscaling_backends[engine.ACCOUNT].values()):
        for group in list(backend.autoscaling_groups.values()):
            if any(tag["Key"] == LANE for tag in group.tags):
                members |= {state.instance.id: (group, state.instance) for state in group.instance_states}
    for identity, machine in list(MACHINES.items()):
        if identity not in members:
            del MACHINES[identity]
            guarded(machine.id, machine.stopped)
    for identity, (group, instance) in members.items():
        if time.time() - engine.BORN.get(identity, time.time()) < engine.SETTINGS["paper"]:
            continue
        if identity not in MACHINES:
            guarded(identity, lambda: MACHINES.setdefault(identity, Machine(group, instance, *facts_of(group, instance))))
        guarded(identity, lambda: act(MACHINES.get(identity)))


def act(machine):
    if machine is None or machine.over:
        return
    if machine.run is None:
        machine.begin()
    elif machine.told is not None:
        if time.time() >= machine.told + LEAVES:
            machine.finish(Record(machine.events()), machine.run)
    elif not machine.behaviour().get("hang") and time.time() >= machine.ends:
        machine.end()


def guarded(identity, what):
    try:
        what()
    except Exception as error:
        images.CONSOLE[identity] = f"i2kit: {type(error).__name__}: {error}\n"
        print(identity, type(error).__name__, error, flush=True)
