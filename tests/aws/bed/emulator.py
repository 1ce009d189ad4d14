"""python -m bed.emulator --port P: moto with the gaps closed, and the engines of AWS that work without being asked.

Once a second `engine` does what Auto Scaling and the balancers do by themselves: registers members as targets, replaces
what is unhealthy, moves instance refreshes. moto is not written for threads, so that requests and engine take turns.
"""
import argparse, functools, io, threading, time, traceback

from werkzeug.serving import WSGIRequestHandler, make_server

from moto import backends
from moto.autoscaling.models import autoscaling_backends
from moto.core import responses
from moto.ec2.models import ec2_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from . import authority, engine
from .gaps import balancers, catalogue, changes, groups, images, lag, networks, permissions, route, schedules, snapshots, stacks, templates

LOCK = threading.RLock()

# moto finds these out for each call, and they never change: a tenth of its time.
responses.method_names_from_class = functools.cache(responses.method_names_from_class)
backends.list_of_moto_modules = functools.cache(lambda find=backends.list_of_moto_modules: tuple(find()))


class Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *words, **more):
        pass


def answer(app, request, environ, start):
    """The call, if who asks may make it."""
    try:
        authority.CURRENT[:] = [request.key]
        authority.authorize(request)
    except authority.Denied as denied:
        status, headers, text = authority.refusal(request, denied)
        start(status, [*headers, ("content-length", str(len(text.encode())))])
        return [text.encode()]
    reply = list(app(environ, start))
    lag.one_pass(made())
    return reply


def made():
    """What is found by its tags."""
    for backend in list(ec2_backends[engine.ACCOUNT].values()):
        yield from (*backend.amis.values(), *backend.snapshots.values(), *backend.launch_templates.values())
    for backend in list(autoscaling_backends[engine.ACCOUNT].values()):
        yield from backend.autoscaling_groups.values()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--port", type=int, required=True)
    p.add_argument("--refresh-timeout", type=float, default=3600)
    p.add_argument("--paper", type=float, help="nothing boots: instances are healthy so many seconds after launch")
    args = p.parse_args()
    engine.SETTINGS.update(refresh_timeout=args.refresh_timeout, paper=args.paper)
    for gap in (catalogue, snapshots, images, templates, groups, schedules, balancers, networks, stacks, changes, lag, permissions, route):
        gap.close()
    app = DomainDispatcherApplication(create_backend_app)

    def in_turn(environ, start):
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        with LOCK:
            return answer(app, authority.Request(environ, body), environ, start)

    server = make_server("127.0.0.1", args.port, in_turn, threaded=True, request_handler=Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while True:
        time.sleep(0.5)
        with LOCK:
            try:
                engine.one_pass()
            except Exception:
                traceback.print_exc()


if __name__ == "__main__":
    main()
