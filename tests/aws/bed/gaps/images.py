"""RegisterImage keeps what it is given; names are unique; deregistered images leave their snapshots."""
import time

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import amis, elastic_block_store
from moto.ec2.responses.amis import AmisResponse
from moto.ec2.responses.general import General

# Console output by instance, as the reconciler last saw it.
CONSOLE = {}
# Until when snapshots count as in use by images that are gone.
RELEASED, RELEASE_SECONDS = {}, 0.5


def close():
    original = amis.Ami.block_device_mappings.fget
    amis.Ami.block_device_mappings = property(lambda self: getattr(self, "mappings", None) or original(self))
    AmisResponse.register_image = register
    General.get_console_output = console
    amis.AmiBackend.deregister_image = deregister(amis.AmiBackend.deregister_image)
    backend = elastic_block_store.EBSBackend
    backend.delete_snapshot = delete_snapshot(backend.delete_snapshot)
    # An instance keeps the tags that the image's snapshots and volumes do not have.
    amis.AmiBackend._load_amis = lambda self: None


def register(self):
    get, ec2 = self._get_param, self.ec2_backend
    mappings, name = get("BlockDeviceMappings", []), get("Name")
    for mapping in mappings:
        snapshot = ec2.snapshots.get((mapping.get("Ebs") or {}).get("SnapshotId"))
        if snapshot is None:
            raise EC2ClientError("InvalidSnapshot.NotFound", "The snapshot does not exist.")
        if snapshot.status != "completed":
            raise EC2ClientError("IncorrectState", f"The snapshot {snapshot.id} is not completed.")
    for known in ec2.amis.values():
        if known.name == name:
            raise EC2ClientError("InvalidAMIName.Duplicate", f"AMI name {name} is already in use by AMI {known.id}")
    image = ec2.register_image(name, get("Description", ""))
    ec2.snapshots.pop(image.ebs_snapshot.id, None)
    image.mappings, image.root_device_type = mappings, "ebs"
    image.virtualization_type, image.architecture = get("VirtualizationType"), get("Architecture")
    image.root_device_name, image.boot_mode = get("RootDeviceName"), get("BootMode")
    image.ena_support, image.imds_support, image.tpm_support = get("EnaSupport"), get("ImdsSupport"), get("TpmSupport")
    for spec in get("TagSpecifications", []):
        if spec["ResourceType"] == "image":
            image.add_tags({tag["Key"]: tag["Value"] for tag in spec["Tags"]})
    return ActionResult({"ImageId": image.id})


def deregister(original):
    """Snapshots count as the image's for a moment."""

    def act(self, ami_id):
        image = self.amis.get(ami_id)
        for mapping in getattr(image, "mappings", None) or []:
            RELEASED[mapping["Ebs"]["SnapshotId"]] = time.time() + RELEASE_SECONDS
        return original(self, ami_id)

    return act


def delete_snapshot(original):
    def act(self, snapshot_id):
        users = [i.id for i in self.amis.values() for m in getattr(i, "mappings", None) or [] if m["Ebs"]["SnapshotId"] == snapshot_id]
        if snapshot_id in self.snapshots and (users or RELEASED.get(snapshot_id, 0) > time.time()):
            raise EC2ClientError("InvalidSnapshot.InUse", f"The snapshot {snapshot_id} is currently in use by {users or 'an image'}")
        return original(self, snapshot_id)

    return act


def console(self):
    """Without `Latest` it is what there was when the machine last started or stopped: of one that runs, nothing."""
    import base64

    instance = self.ec2_backend.get_instance(self._get_param("InstanceId"))
    latest = self._get_param("Latest") in (True, "true") or instance.state not in ("pending", "running")
    text = CONSOLE.get(instance.id, "") if latest else ""
    output = base64.b64encode(text.encode()[-65536:]).decode()
    return ActionResult({"InstanceId": instance.id, "Output": output})
