"""One instance as a qemu process: OVMF boots the snapshot's disk from NVMe, slirp is the network.

slirp's guestfwd leads 169.254.169.254 to the VM's metadata server; the address must lie inside slirp's network, so that
this is a /4 which holds 169.254/16 and the VPCs of the tests, and DHCP hands out the instance's own address.
"""
import json, os, re, shutil, socket, subprocess, threading, time, uuid

from . import imds
from .process import die_with_parent, free_port

METADATA = "169.254.169.254"
# Where the emulator answers to machines.
SERVICES = "169.254.170.2"
NETWORK = "160.0.0.0/4"


class Vm:
    def __init__(self, instance, facts, settings, disk):
        self.instance, self.id, self.born, self.stopping = instance, instance["InstanceId"], time.time(), None
        self.options, self.roles, self.user_data = facts["options"], facts["roles"], facts["user_data"]
        self.settings, self.ports, self.health, self.lock = settings, {}, {}, threading.Lock()
        self.dir = f"{settings.dir}/{self.id}"
        os.makedirs(self.dir, exist_ok=True)
        self.imds = imds.serve(self, settings.region)
        shutil.copy(settings.ovmf_vars, f"{self.dir}/vars.fd")
        if os.path.exists(f"{self.dir}/qmp.sock"):
            os.remove(f"{self.dir}/qmp.sock")
        with open(f"{self.dir}/qemu.log", "w") as log:
            self.process = subprocess.Popen(self.command(disk), cwd=self.dir, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, preexec_fn=die_with_parent)

    def command(self, disk):
        settings, kind = self.settings, self.instance["InstanceType"]
        nic = (self.instance.get("NetworkInterfaces") or [{}])[0]
        mac = nic.get("MacAddress") or "02:00:00:00:00:01"
        address = self.instance.get("PrivateIpAddress") or ""
        network = f"{METADATA.rsplit('.', 2)[0]}.0.0/16"
        if 160 <= int((address or "0").split(".")[0]) < 176:
            prefix = address.rsplit(".", 1)[0]
            network = f"{NETWORK},host={prefix}.1,dns={prefix}.2,dhcpstart={address}"
        pipe = f"socat - TCP:127.0.0.1:{self.imds.server_address[1]}"
        services = f"socat - TCP:{settings.endpoint.split('//')[-1]}"
        volumes = [m["Ebs"]["VolumeId"].replace("-", "") for m in self.instance.get("BlockDeviceMappings", [])]
        identity = uuid.UUID(("ec2" + self.id[2:]).ljust(32, "0")[:32])
        return [
            settings.qemu, "-name", self.id, "-accel", "tcg,thread=multi", "-machine", "q35", "-cpu", settings.cpu,
            "-m", settings.memory, "-nodefaults", "-no-user-config", "-display", "none", "-serial", "file:console.log",
            "-qmp", "unix:qmp.sock,server=on,wait=off",
            "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={settings.ovmf_code}",
            "-drive", "if=pflash,format=raw,unit=1,file=vars.fd",
            "-netdev", f"user,id=n0,net={network},guestfwd=tcp:{METADATA}:80-cmd:{pipe},guestfwd=tcp:{SERVICES}:80-cmd:{services}",
            "-device", f"virtio-net-pci,netdev=n0,romfile=,mac={mac}", "-device", "virtio-rng-pci",
            "-smbios", f"type=1,manufacturer=Amazon EC2,product={kind},uuid={identity}",
            "-smbios", f"type=2,manufacturer=Amazon EC2,asset={self.id}",
            # Writes go to a file that is gone with the VM: several VMs boot from one copy of the snapshot.
            "-drive", f"if=none,id=d0,format=raw,snapshot=on,cache=unsafe,file={disk}",
            "-device", f"nvme,drive=d0,serial={(volumes or ['vol0'])[0]},bootindex=0",
        ]

    def qmp(self, command, **arguments):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(5)
            s.connect(f"{self.dir}/qmp.sock")
            stream = s.makefile("rw")
            stream.readline()
            for words in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}):
                stream.write(json.dumps(words) + "\n")
                stream.flush()
                while "return" not in (reply := json.loads(stream.readline())):
                    if "error" in reply:
                        raise OSError(reply["error"]["desc"])
            return reply["return"]

    def monitor(self, line):
        return self.qmp("human-monitor-command", **{"command-line": line})

    def forward(self, port, use=""):
        """A port of this machine that reaches the guest's port; added to the running VM."""
        with self.lock:
            key = f"{port}{use}"
            if key not in self.ports:
                here = free_port()
                refused = self.monitor(f"hostfwd_add n0 tcp:127.0.0.1:{here}-:{port}")
                if refused:
                    raise OSError(refused)
                self.ports[key] = here
            return self.ports[key]

    def answers_tcp(self, port, seconds):
        """Whether the guest accepts a connection. slirp accepts before it does: qemu is asked what became of it."""
        here = self.forward(port, "/probe")
        with socket.create_connection(("127.0.0.1", here), seconds):
            time.sleep(0.2)
            return bool(re.search(rf"TCP\[ESTABLISHED\] .* {here} ", self.monitor("info usernet")))

    def console(self):
        try:
            with open(f"{self.dir}/console.log", "rb") as f:
                f.seek(max(0, os.fstat(f.fileno()).st_size - 65536))
                return f.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def stop(self):
        """The power button first, SIGKILL after the grace; called every pass until it says True."""
        if self.process.poll() is None:
            if self.stopping is None:
                self.stopping = time.time()
                try:
                    self.qmp("system_powerdown")
                except OSError:
                    self.process.kill()
            elif time.time() - self.stopping > self.settings.grace:
                self.process.kill()
                self.process.wait()
            return False
        self.close()
        return True

    def close(self):
        self.imds.shutdown()
        self.imds.server_close()
        for name in ("vars.fd", "qmp.sock"):
            if os.path.exists(f"{self.dir}/{name}"):
                os.remove(f"{self.dir}/{name}")

    def end(self):
        """At once, for the end of the bed."""
        self.process.kill()
        self.process.wait()
        self.close()
