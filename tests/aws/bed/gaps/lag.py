"""Eventual consistency: what is looked for by a tag or another filter is shown some seconds after it was made.

POST /moto-api/i2kit/lag SECONDS sets them. Lines of logs are shown as late. Who asks by id or name sees everything at once.
Tags have no control characters.
"""
import time

from moto.autoscaling.models import AutoScalingBackend
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import amis, elastic_block_store, launch_templates, tags
from moto.logs.models import LogStream

from . import schedules

LAG = {"seconds": 0.0}
BORN = {}


def close():
    for model, name in ((amis.AmiBackend, "describe_images"), (elastic_block_store.EBSBackend, "describe_snapshots"),
                        (launch_templates.LaunchTemplateBackend, "describe_launch_templates"),
                        (AutoScalingBackend, "describe_auto_scaling_groups")):
        setattr(model, name, late(getattr(model, name)))
    LogStream.filter_log_events = late_lines(LogStream.filter_log_events)
    tags.TagBackend.create_tags = create_tags(tags.TagBackend.create_tags)


def late(original):
    def act(self, *words, **more):
        found = original(self, *words, **more)
        if not more.get("filters"):
            return found
        return [one for one in found if time.time() - BORN.get(one, 0) >= LAG["seconds"]]

    return act


def late_lines(original):
    def act(self, *words, **more):
        shown = (schedules.now() - LAG["seconds"]) * 1000
        return [event for event in original(self, *words, **more) if event["ingestionTime"] <= shown]

    return act


def one_pass(things):
    """Remembers when things were first there; called behind every request, with all that there are."""
    for thing in things:
        BORN.setdefault(thing, time.time())


def create_tags(original):
    def act(self, resource_ids, tags):
        for key, value in tags.items():
            if any(ord(c) < 32 for c in f"{key}{value}"):
                raise EC2ClientError("InvalidParameterValue", f"Tag value for {key} has control characters")
        return original(self, resource_ids, tags)

    return act
