"""python -m bed --dir DIR [--boot]: starts the emulator, the fault proxy and, with --boot, the reconciler.

DIR/bed.json names the endpoints once everything answers; SIGTERM ends everything that was started, by its pid.
"""
import argparse, json, os, signal, subprocess, sys, time, urllib.request

from .process import die_with_parent, free_port


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--dir", required=True, help="state and logs; keep the path short, unix sockets lie below it")
    p.add_argument("--boot", action="store_true", help="boot instances in qemu; else they are healthy on paper")
    p.add_argument("--refresh-timeout", default="3600", help="seconds until a stuck instance refresh fails")
    p.add_argument("--boot-seconds", default="1", help="without --boot: seconds from launch to healthy")
    args, rest = p.parse_known_args()
    folder = os.path.abspath(args.dir)
    os.makedirs(folder, exist_ok=True)
    emulator, proxy = free_port(), free_port()
    children = []

    def start(name, *words):
        log = open(f"{folder}/{name}.log", "ab")
        children.append(subprocess.Popen([sys.executable, "-m", f"bed.{name}", *words], stdin=subprocess.DEVNULL,
                                         stdout=log, stderr=log, preexec_fn=die_with_parent))

    def stop(*_):
        for child in children:
            child.terminate()
        for child in children:
            try:
                child.wait(15)
            except subprocess.TimeoutExpired:
                child.kill()
        sys.exit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    paper = [] if args.boot else ["--paper", args.boot_seconds]
    start("emulator", "--port", str(emulator), "--refresh-timeout", args.refresh_timeout, *paper)
    start("fault", "--port", str(proxy), "--upstream", str(emulator))
    if args.boot:
        start("reconciler", "--endpoint", f"http://127.0.0.1:{emulator}", "--dir", folder, *rest)
    for port in (emulator, proxy):
        wait_for(f"http://127.0.0.1:{port}/moto-api/i2kit/health", children)
    facts = {"emulator": f"http://127.0.0.1:{emulator}", "endpoint": f"http://127.0.0.1:{proxy}", "pid": os.getpid()}
    with open(f"{folder}/bed.json.new", "w") as f:
        json.dump(facts, f)
    os.rename(f"{folder}/bed.json.new", f"{folder}/bed.json")
    while all(child.poll() is None for child in children):
        time.sleep(0.2)
    stop()


def wait_for(url, children, seconds=120):
    end = time.time() + seconds
    while True:
        try:
            return urllib.request.urlopen(url, timeout=5).read()
        except OSError:
            if time.time() > end or any(child.poll() is not None for child in children):
                sys.exit(f"{url} does not answer; see the logs")
            time.sleep(0.1)


if __name__ == "__main__":
    main()
