"""python -m bed.emulator --port P: moto with the gaps closed, and the engines of AWS that work without being asked.

Once a second `engine` does what Auto Scaling and the balancers do by themselves: registers members as targets, replaces
what is unhealthy, moves instance refreshes. moto is not written for threads, so that requests and engine take turns.
"""
import argparse, threading, time, traceback

from werkzeug.serving import WSGIRequestHandler, make_server

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from . import engine
from .gaps import balancers, groups, images, permissions, route, snapshots, stacks, templates

LOCK = threading.RLock()


class Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *words, **more):
        pass


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--port", type=int, required=True)
    p.add_argument("--refresh-timeout", type=float, default=3600)
    p.add_argument("--paper", type=float, help="nothing boots: instances are healthy so many seconds after launch")
    args = p.parse_args()
    engine.SETTINGS.update(refresh_timeout=args.refresh_timeout, paper=args.paper)
    for gap in (snapshots, images, templates, groups, balancers, stacks, permissions, route):
        gap.close()
    app = DomainDispatcherApplication(create_backend_app)

    def in_turn(environ, start):
        with LOCK:
            return list(app(environ, start))

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
