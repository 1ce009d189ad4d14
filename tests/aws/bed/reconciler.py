"""python -m bed.reconciler: every instance that the emulator records becomes a qemu VM.

  instance -> image -> snapshot -> blocks read through the EBS direct APIs -> sparse raw file -> qemu with OVMF, NVMe
  health checks of the target groups through port forwardings, told to the emulator; a VM that ends is told as dead

What follows from health and death (targets, replacement, refreshes) is the emulator's work. DIR/state.json shows each
VM's process, ports and console. SIGTERM ends it and its VMs.
"""
import argparse, base64, concurrent.futures, hashlib, http.client, json, os, re, signal, sys, time, traceback
import urllib.request

import boto3, botocore.config

from .vm import Vm

BLOCK = 524288
POOL = concurrent.futures.ThreadPoolExecutor(16)


def log(*words):
    print(time.strftime("%H:%M:%S"), *words, flush=True)


class Reconciler:
    def __init__(self, settings):
        self.settings, self.vms, self.broken, self.told = settings, {}, {}, {}
        config = botocore.config.Config(max_pool_connections=16)
        credentials = {"aws_access_key_id": "example", "aws_secret_access_key": "example"}
        self.ec2, self.ebs, self.elb, self.iam = (
            boto3.client(name, endpoint_url=settings.endpoint, region_name=settings.region, config=config, **credentials)
            for name in ("ec2", "ebs", "elbv2", "iam"))

    def tell(self, route, **facts):
        url = f"{self.settings.endpoint}/moto-api/i2kit/{route}"
        request = urllib.request.Request(url, json.dumps(facts).encode(), {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=10).read()

    def disk(self, snapshot):
        """The snapshot as a sparse raw file, once a snapshot: snapshots never change."""
        path = f"{self.settings.dir}/{snapshot}.raw"
        if os.path.exists(path):
            return path
        began, blocks, more = time.time(), [], {}
        while True:
            page = self.ebs.list_snapshot_blocks(SnapshotId=snapshot, **more)
            blocks += page.get("Blocks", [])
            if not page.get("NextToken"):
                break
            more = {"NextToken": page["NextToken"]}
        with open(path + ".new", "wb") as f:
            f.truncate(page["VolumeSize"] << 30)

            def fetch(block):
                reply = self.ebs.get_snapshot_block(
                    SnapshotId=snapshot, BlockIndex=block["BlockIndex"], BlockToken=block["BlockToken"])
                data = reply["BlockData"].read()
                if base64.b64encode(hashlib.sha256(data).digest()).decode() != reply["Checksum"]:
                    raise ValueError(f"{snapshot}: block {block['BlockIndex']} is damaged")
                os.pwrite(f.fileno(), data, block["BlockIndex"] * BLOCK)

            list(POOL.map(fetch, blocks))
        os.rename(path + ".new", path)
        log(snapshot, len(blocks), "blocks in %.1f s" % (time.time() - began))
        return path

    def boot(self, instance):
        # The emulator keeps neither metadata options nor profile on the instance: the template is asked.
        tags, template = {t["Key"]: t["Value"] for t in instance.get("Tags", [])}, {}
        if "aws:ec2launchtemplate:id" in tags:
            versions = self.ec2.describe_launch_template_versions(
                LaunchTemplateId=tags["aws:ec2launchtemplate:id"], Versions=[tags["aws:ec2launchtemplate:version"]])
            template = versions["LaunchTemplateVersions"][0]["LaunchTemplateData"]
        options = {**instance.get("MetadataOptions", {}), **template.get("MetadataOptions", {})}
        bad = [k for k in tags if not re.fullmatch(r"[A-Za-z0-9+\-=.,_:@]+", k)]
        if options.get("InstanceMetadataTags") == "enabled" and bad:
            raise ValueError(f"EC2 refuses tag keys {bad} when metadata shows tags")
        profile = template.get("IamInstanceProfile") or {}
        name = profile.get("Name") or profile.get("Arn", "").split("/")[-1]
        found = self.iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Roles"] if name else []
        data = template.get("UserData")
        facts = {"options": options, "roles": [r["RoleName"] for r in found],
                 "user_data": base64.b64decode(data) if data else None}
        image = self.ec2.describe_images(ImageIds=[instance["ImageId"]])["Images"][0]
        mapping = next(m for m in image["BlockDeviceMappings"] if m["DeviceName"] == image["RootDeviceName"])
        vm = Vm(instance, facts, self.settings, self.disk(mapping["Ebs"]["SnapshotId"]))
        log(vm.id, "booting, pid", vm.process.pid, "image", instance["ImageId"])
        return vm

    def probe(self, vm, group, port):
        seconds = min(group.get("HealthCheckTimeoutSeconds") or 5, 5)
        port = port if group["HealthCheckPort"] == "traffic-port" else int(group["HealthCheckPort"])
        try:
            if group["HealthCheckProtocol"] == "TCP":
                return vm.answers_tcp(port, seconds)
            link = http.client.HTTPConnection("127.0.0.1", vm.forward(port), timeout=seconds)
            link.request("GET", group.get("HealthCheckPath") or "/")
            code = link.getresponse().status
            link.close()
            ranges = (group.get("Matcher", {}).get("HttpCode") or "200-399").split(",")
            return any(int(r.split("-")[0]) <= code <= int(r.split("-")[-1]) for r in ranges)
        except (OSError, ValueError, http.client.HTTPException):
            # ValueError: the QMP socket closed half way, since the VM ended.
            return False

    def check(self, vm, group, port):
        state = vm.health.setdefault(group["TargetGroupArn"], {"is": None, "run": 0, "last": None, "next": 0})
        if time.time() < state["next"]:
            return
        state["next"] = time.time() + (self.settings.probe_interval or group["HealthCheckIntervalSeconds"])
        good = self.probe(vm, group, port)
        state["run"] = state["run"] + 1 if good == state["last"] else 1
        state["last"] = good
        word = "healthy" if good else "unhealthy"
        needed = int(group["HealthyThresholdCount" if good else "UnhealthyThresholdCount"])
        if word != state["is"] and state["run"] >= needed:
            state["is"] = word
            self.tell("health", TargetGroupArn=group["TargetGroupArn"], Id=vm.id, State=word)
            log(vm.id, word, "in", group["TargetGroupName"], "%.1f s after boot" % (time.time() - vm.born))

    def one_pass(self):
        pages = self.ec2.get_paginator("describe_instances").paginate()
        known = {i["InstanceId"]: i for page in pages for r in page["Reservations"] for i in r["Instances"]}
        live = {k: i for k, i in known.items() if i["State"]["Name"] in ("pending", "running")}
        for identity, vm in list(self.vms.items()):
            self.tell_console(vm)
            if identity not in live:
                if vm.stop():
                    log(identity, "gone")
                    del self.vms[identity]
            elif vm.process.poll() is not None:
                log(identity, f"qemu ended with {vm.process.returncode}")
                self.tell("machine", Id=identity, Dead=True)
            else:
                vm.instance = live[identity]
        for identity, instance in live.items():
            if identity in self.vms or len(self.vms) >= self.settings.max_vms or self.broken.get(identity, 0) > time.time():
                continue
            try:
                self.vms[identity] = self.boot(instance)
            except Exception:
                traceback.print_exc()
                self.broken[identity] = time.time() + 10
        self.check_all(live)
        self.write_state()

    def tell_console(self, vm):
        text = vm.console()
        if self.told.get(vm.id) != text:
            self.told[vm.id] = text
            self.tell("machine", Id=vm.id, Console=text)

    def check_all(self, live):
        jobs = []
        for group in self.elb.describe_target_groups()["TargetGroups"]:
            targets = self.elb.describe_target_health(TargetGroupArn=group["TargetGroupArn"])["TargetHealthDescriptions"]
            for target in targets:
                vm = self.vms.get(target["Target"]["Id"])
                if vm and vm.id in live and vm.process.poll() is None:
                    port = target["Target"].get("Port") or group["Port"]
                    jobs.append(POOL.submit(self.check, vm, group, int(port)))
                    # So that tests reach the instance's service.
                    jobs.append(POOL.submit(self.open, vm, int(port)))
        for job in jobs:
            job.result()

    def open(self, vm, port):
        try:
            vm.forward(port)
        except (OSError, ValueError):
            pass

    def write_state(self):
        state = {k: {"pid": vm.process.pid, "ports": vm.ports, "image": vm.instance["ImageId"],
                     "address": vm.instance.get("PrivateIpAddress"), "console": f"{vm.dir}/console.log",
                     "health": [h["is"] for h in vm.health.values()]} for k, vm in self.vms.items()}
        with open(f"{self.settings.dir}/state.new", "w") as f:
            json.dump(state, f, indent=1)
        os.rename(f"{self.settings.dir}/state.new", f"{self.settings.dir}/state.json")


def settings():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--endpoint", required=True, help="the emulator, http://127.0.0.1:PORT")
    p.add_argument("--dir", required=True)
    p.add_argument("--region", default="us-east-1")
    p.add_argument("--qemu", default="qemu-system-x86_64")
    p.add_argument("--ovmf-code", default="/usr/share/OVMF/OVMF_CODE_4M.fd")
    p.add_argument("--ovmf-vars", default="/usr/share/OVMF/OVMF_VARS_4M.fd")
    p.add_argument("--memory", default="256", help="MiB; OVMF needs 96 for a UKI of 6 MB, 256 for one of 13 MB")
    p.add_argument("--cpu", default="max")
    p.add_argument("--max-vms", type=int, default=8)
    p.add_argument("--interval", type=float, default=0.5, help="seconds between passes")
    p.add_argument("--probe-interval", type=float, help="instead of the target groups' own")
    p.add_argument("--grace", type=float, default=20, help="seconds from the power button to SIGKILL")
    return p.parse_args()


def main():
    args = settings()
    args.dir = os.path.abspath(args.dir)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    reconciler = Reconciler(args)
    try:
        while True:
            began = time.time()
            try:
                reconciler.one_pass()
            except Exception:
                # The emulator may be starting, or an answer was cut off: the next pass sees.
                traceback.print_exc()
            time.sleep(max(0, args.interval - (time.time() - began)))
    finally:
        for vm in reconciler.vms.values():
            vm.end()


if __name__ == "__main__":
    main()
