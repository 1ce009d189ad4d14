"""python -m bed.fault --port P --upstream U: a reverse proxy that fails on demand, and a journal of what passed.

POST /_fault with a JSON list of rules replaces them; an empty list ends all faults:
  {"match": REGEX, "skip": 0, "count": 1, "delay": SECONDS, "status": 503, "body": "...", "headers": {}, "lose": true}
`match` is searched in the action: the name of a query or JSON protocol's action (`StartInstanceRefresh`), else
`METHOD /path`. `skip` calls pass first. With `lose` the act is done upstream and its reply lost; with `hang` so is every
later one, and GET /_hung answers `true`, until the rules are replaced: the moment to kill who asked.
GET /_rate answers with the blocks that were put since DELETE /_rate, and the seconds from the first to the last.
POST /_watch with a text: from now on, GET /_seen answers with the actions whose requests hold it, bare or in base64.
GET /_journal answers with every action that came in since DELETE /_journal, in order.
"""
import argparse, base64, http.client, http.server, json, re, socketserver, threading, time, urllib.parse

LOCK = threading.Lock()
RULES, JOURNAL = [], []
HUNG = threading.Event()
# The forms of the text that is watched, and the actions that held one.
WATCHED, SEEN = [], set()
# When blocks came in and were answered.
BLOCKS = []
HOP = {"connection", "content-length", "date", "keep-alive", "server", "transfer-encoding"}


def forms(text):
    """The text, and what base64 makes of it wherever it begins in what is encoded."""
    inside = [base64.b64encode(b"\0" * shift + text) for shift in range(3)]
    # The first and last characters depend on what lies around.
    return [text] + [form[4 if shift else 0:-4] for shift, form in enumerate(inside)]


def action(method, path, headers, body):
    """What a request asks for."""
    query = re.search(rb"(?:^|&)Action=(\w+)", body[:4096])
    if query:
        return query.group(1).decode()
    target = headers.get("x-amz-target")
    return target.rsplit(".", 1)[-1] if target else f"{method} {path.split('?')[0]}"


def rule_for(name):
    """The first rule that names this action and is not used up."""
    with LOCK:
        JOURNAL.append(name)
        for rule in RULES:
            if rule.get("count", 1) > 0 and re.search(rule["match"], name):
                if rule.get("skip", 0) > 0:
                    rule["skip"] -= 1
                    continue
                rule["count"] = rule.get("count", 1) - 1
                return rule
    return None


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Without it the kernel holds small replies back for 40 ms.
    disable_nagle_algorithm = True
    upstream = 0

    def log_message(self, *words):
        pass

    def answer(self, status, headers, body):
        self.send_response(status)
        for key, value in headers:
            if key.lower() not in HOP:
                self.send_header(key, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def own(self, body):
        """Requests for the proxy itself."""
        with LOCK:
            if self.path == "/_rate":
                if self.command == "DELETE":
                    BLOCKS.clear()
                seconds = max(b for _, b in BLOCKS) - min(a for a, _ in BLOCKS) if BLOCKS else 0
                return self.answer(200, [], json.dumps([len(BLOCKS), seconds]).encode())
            if self.path == "/_watch":
                WATCHED[:] = forms(body)
                SEEN.clear()
            if self.path == "/_seen":
                return self.answer(200, [], json.dumps(sorted(SEEN)).encode())
            if self.path == "/_fault":
                RULES[:] = json.loads(body)
                HUNG.clear()
            elif self.command == "DELETE":
                JOURNAL.clear()
            reply = json.dumps(HUNG.is_set() if self.path == "/_hung" else JOURNAL).encode()
        self.answer(200, [("content-type", "application/json")], reply)

    def forward(self, body):
        if not hasattr(self, "link"):
            self.link = http.client.HTTPConnection("127.0.0.1", self.upstream)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("connection", "expect")}
        for attempt in (1, 2):
            try:
                self.link.request(self.command, self.path, body, headers)
                reply = self.link.getresponse()
                return reply.status, reply.getheaders(), reply.read()
            except (http.client.RemoteDisconnected, ConnectionError):
                # The emulator closed an idle connection; a second time in a row it is gone.
                self.link.close()
                if attempt == 2:
                    raise

    def handle_any(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.path in ("/_fault", "/_journal", "/_hung", "/_rate", "/_watch", "/_seen"):
            return self.own(body)
        plain = body + urllib.parse.unquote_to_bytes(body) if WATCHED else b""
        if any(form in plain for form in WATCHED):
            SEEN.add(action(self.command, self.path, self.headers, body))
        if HUNG.is_set():
            return self.hang()
        rule = rule_for(action(self.command, self.path, self.headers, body)) or {}
        time.sleep(rule.get("delay", 0))
        began = time.time()
        if "status" in rule:
            headers = {"content-type": "text/xml"} | rule.get("headers", {})
            return self.answer(rule["status"], headers.items(), rule.get("body", "").encode())
        reply = self.forward(body)
        if self.command == "PUT" and self.path.startswith("/snapshots/"):
            with LOCK:
                BLOCKS.append((began, time.time()))
        if rule.get("hang"):
            HUNG.set()
            return self.hang()
        if rule.get("lose"):
            self.close_connection = True
            return self.connection.close()
        return self.answer(*reply)

    def hang(self):
        """No answer for as long as everything hangs."""
        while HUNG.is_set():
            time.sleep(0.02)
        self.close_connection = True

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = handle_any


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--port", type=int, required=True)
    p.add_argument("--upstream", type=int, required=True, help="the emulator's port on loopback")
    args = p.parse_args()
    Handler.upstream = args.upstream
    Server(("127.0.0.1", args.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
