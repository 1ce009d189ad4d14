"""What EC2 offers where, and to whom: launches of what is not offered fail, minutes after the group was made.

POST /moto-api/i2kit/catalogue {"offers": {ZONE: [TYPE, ...]}, "free": BOOL} replaces the offers (without, they are those that
moto recorded of AWS) and says whether the account is of the free plan.
"""
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.instance_types import InstanceTypeOfferingBackend
from moto.ec2.responses.instances import InstanceResponse

CATALOGUE = {"offers": None, "free": False}
FREE = ("t3.micro", "t3.small", "t4g.micro", "t4g.small", "c7i-flex.large", "m7i-flex.large")


def close():
    InstanceTypeOfferingBackend.describe_instance_type_offerings = offerings(
        InstanceTypeOfferingBackend.describe_instance_type_offerings)
    InstanceResponse.run_instances = dry_run(InstanceResponse.run_instances)


def dry_run(original):
    """A launch that is only asked for is refused as one that is made."""

    def act(self):
        if self._get_param("DryRun", False):
            interface = self._get_param("NetworkInterfaces", [])[0]
            subnet = self.ec2_backend.get_subnet(interface["SubnetId"])
            reason = refusal(self.ec2_backend, self._get_param("InstanceType"), subnet.availability_zone)
            if reason:
                raise EC2ClientError("Unsupported", reason)
        return original(self)

    return act


def offerings(original):
    def act(self, location_type=None, filters=None):
        if CATALOGUE["offers"] is None:
            return original(self, location_type, filters)
        kinds = (filters or {}).get("instance-type")
        return [{"InstanceType": kind, "LocationType": "availability-zone", "Location": zone}
                for zone, all_of_it in CATALOGUE["offers"].items() for kind in all_of_it if not kinds or kind in kinds]

    return act


def refusal(backend, kind, zone):
    """Why a launch fails; None where it does not."""
    if CATALOGUE["free"] and kind not in FREE:
        return ("The specified instance type is not eligible for Free Tier. For a list of Free Tier instance types, run "
                "'describe-instance-types' with the filter 'free-tier-eligible=true'.")
    offered = {o["InstanceType"] for o in backend.describe_instance_type_offerings("availability-zone", {})
               if o["Location"] == zone}
    if kind not in offered:
        return f"Your requested instance type ({kind}) is not supported in your requested Availability Zone ({zone})."
    return None
