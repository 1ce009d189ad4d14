"""The instance metadata service, version 2, of one VM: one HTTP server a VM is the VM's identity."""
import base64, http.server, json, re, secrets, threading, time


def serve(vm, region):
    """Starts the server of `vm` on a port of loopback."""
    handler = type("Handler", (Handler,), {"vm": vm, "region": region, "tokens": {}})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *words):
        pass

    def answer(self, code, body=b""):
        self.send_response(code)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        seconds = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if self.path != "/latest/api/token":
            return self.answer(404)
        if not (seconds.isdigit() and 1 <= int(seconds) <= 21600):
            return self.answer(400)
        token = base64.urlsafe_b64encode(secrets.token_bytes(40)).decode()
        self.tokens[token] = time.time() + int(seconds)
        self.answer(200, token.encode())

    def do_GET(self):
        # Without a token nothing is told: the images are registered with ImdsSupport=v2.0.
        if self.tokens.get(self.headers.get("X-aws-ec2-metadata-token"), 0) < time.time():
            return self.answer(401)
        path, tree = re.sub("^/(latest|20[0-9-]+)/", "", self.path), self.tree()
        if path in tree:
            value = tree[path]
            return self.answer(200, value if isinstance(value, bytes) else str(value).encode())
        folder = path.rstrip("/") + "/"
        below = {k[len(folder):] for k in tree if k.startswith(folder)}
        names = sorted({k.split("/")[0] + ("/" if "/" in k else "") for k in below})
        return self.answer(200, "\n".join(names).encode()) if names else self.answer(404)

    def tree(self):
        vm, facts = self.vm, self.vm.instance
        zone = facts["Placement"]["AvailabilityZone"]
        nic = (facts.get("NetworkInterfaces") or [{}])[0]
        mac = nic.get("MacAddress", "")
        data = {
            "instance-id": vm.id, "ami-id": facts["ImageId"], "instance-type": facts["InstanceType"],
            "local-ipv4": facts.get("PrivateIpAddress", ""), "local-hostname": facts.get("PrivateDnsName", ""),
            "mac": mac, "placement/availability-zone": zone, "placement/region": self.region, "services/domain": "amazonaws.com",
            f"network/interfaces/macs/{mac}/subnet-id": facts.get("SubnetId", ""),
        }
        if vm.options.get("InstanceMetadataTags") == "enabled":
            data |= {"tags/instance/" + tag["Key"]: tag["Value"] for tag in facts.get("Tags", [])}
        for role in vm.roles:
            # Not secrets: words that are recognisably made up.
            data["iam/security-credentials/" + role] = json.dumps({
                "Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "ASIAEXAMPLEEXAMPLE00", "SecretAccessKey": "example",
                "Token": "example", "Expiration": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 21600))})
        tree = {"meta-data/" + key: value for key, value in data.items()}
        tree["dynamic/instance-identity/document"] = json.dumps({
            "accountId": nic.get("OwnerId", "123456789012"), "architecture": facts["Architecture"],
            "availabilityZone": zone, "imageId": facts["ImageId"], "instanceId": vm.id, "region": self.region,
            "instanceType": facts["InstanceType"], "privateIp": facts.get("PrivateIpAddress"), "version": "2017-09-30"})
        if vm.user_data is not None:
            tree["user-data"] = vm.user_data
        return tree
