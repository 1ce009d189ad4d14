"""Launch templates: versions that can be deleted and keep their numbers, client tokens, user data of every version."""
from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError, InvalidLaunchTemplateVersionNotFound
from moto.ec2.models import launch_templates as models
from moto.ec2.responses.launch_templates import LaunchTemplates
from moto.ec2.utils import parse_user_data

TOKENS = {}


def close():
    models.LaunchTemplate.get_version = get_version
    LaunchTemplates.delete_launch_template = delete(LaunchTemplates.delete_launch_template)
    # Tags as they are, not as they were when the template was made.
    models.LaunchTemplate.tags = property(lambda self: self.get_tags(), lambda self, value: None)
    models.LaunchTemplate.create_version = create_version
    models.LaunchTemplate.default_version = lambda self: self.get_version(self.default_version_number)
    models.LaunchTemplate.latest_version_number = property(lambda self: self.last_number)
    # Beside a network interface AWS takes no group.
    models.LaunchTemplateVersion.security_groups = property(lambda self: groups_of(self.data))
    LaunchTemplates.delete_launch_template_versions = delete_versions
    LaunchTemplates.describe_launch_template_versions = describe_versions
    for name in ("create_launch_template", "create_launch_template_version"):
        setattr(LaunchTemplates, name, once(getattr(LaunchTemplates, name)))


def groups_of(data):
    """The security groups of a launch by a template's data: those of its network interface."""
    return [g for interface in data.get("NetworkInterfaces") or [] for g in interface.get("Groups") or []]


def once(original):
    """The second call with a client token gets the reply of the first."""

    def act(self):
        token = self._get_param("ClientToken")
        if token and token in TOKENS:
            return TOKENS[token]
        reply = original(self)
        if token:
            TOKENS[token] = reply
        return reply

    return act


def create_version(self, data, description):
    user_data = data.get("UserData")
    data["UserData"] = parse_user_data(user_data) if isinstance(user_data, str) else user_data
    self.last_number = getattr(self, "last_number", 0) + 1
    version = models.LaunchTemplateVersion(self, self.last_number, data, description)
    self.versions.append(version)
    return version


def delete(original):
    """One that does not exist is named so."""

    def act(self):
        name = self._get_param("LaunchTemplateName")
        if name and name not in self.ec2_backend.launch_template_name_to_ids:
            raise EC2ClientError("InvalidLaunchTemplateName.NotFoundException", f"There is no launch template {name}")
        return original(self)

    return act


def get_version(self, number):
    name = str(number).lower()
    if name == "$latest":
        return self.versions[-1]
    wanted = self.default_version_number if name == "$default" else int(number)
    for version in self.versions:
        if version.number == wanted:
            return version
    raise InvalidLaunchTemplateVersionNotFound(template_id=self.id, version=number)


def find(self):
    name, identity = self._get_param("LaunchTemplateName"), self._get_param("LaunchTemplateId")
    ec2 = self.ec2_backend
    return ec2.get_launch_template_by_name(name) if name else ec2.get_launch_template(identity)


def delete_versions(self):
    template, done, failed = find(self), [], []
    for number in self._get_param("Versions", []):
        facts = {"LaunchTemplateId": template.id, "LaunchTemplateName": template.name, "VersionNumber": int(number)}
        if int(number) == template.default_version_number:
            raise EC2ClientError("InvalidParameterValue", "The default version cannot be deleted.")
        before = len(template.versions)
        template.versions = [v for v in template.versions if v.number != int(number)]
        if len(template.versions) < before:
            done.append(facts)
        else:
            code = {"Code": "launchTemplateVersionDoesNotExist", "Message": "It does not exist."}
            failed.append(facts | {"ResponseError": code})
    return ActionResult({"SuccessfullyDeletedLaunchTemplateVersions": done,
                         "UnsuccessfullyDeletedLaunchTemplateVersions": failed})


def describe_versions(self):
    template = find(self)
    numbers = self._get_param("Versions", [])
    versions = [template.get_version(n) for n in numbers] if numbers else sorted(template.versions, key=lambda v: -v.number)
    first, size = int(self._get_param("NextToken") or 0), self._get_int_param("MaxResults", 200)
    page, rest = versions[first:first + size], versions[first + size:]
    described = [{
        "LaunchTemplateId": template.id, "LaunchTemplateName": template.name, "VersionNumber": v.number,
        "VersionDescription": v.description, "CreateTime": v.create_time, "DefaultVersion": template.is_default(v),
        "LaunchTemplateData": v.data,
    } for v in page]
    reply = {"LaunchTemplateVersions": described}
    return ActionResult(reply | ({"NextToken": str(first + size)} if rest else {}))
