"""Routes of the bed itself, below /moto-api/i2kit: what the world outside the APIs tells the emulator.

health   GET: target health; POST {"TargetGroupArn", "Id", "State"}: what a health check found
machine  POST {"Id", "Console", "Dead"}: what the reconciler knows of a VM
broken   POST [IMAGE-ID, ...]: without machines, instances of these images never become healthy
stack    POST {"name", "operation", "reason", "final"}: the next such CloudFormation operation fails
"""
import json

from moto.moto_api._internal import urls

from .. import engine
from . import balancers, images, stacks


def close():
    for name, act in {"health": health, "machine": machine, "broken": broken, "stack": stack}.items():
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
