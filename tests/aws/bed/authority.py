"""IAM as AWS evaluates it, over the policies of a principal: action -> resources -> condition keys.

A principal is an access key; POST /moto-api/i2kit/policy gives it policies. One without any is the account's
administrator: the harness, the reconciler, machines. `TABLE` says what each action is authorized for, after the service
authorization reference: the call must be allowed once for every resource that it names, each with the keys that this
resource has, and for every action that it stands for (tags on creation, a launch, a role that is passed on). What is not
in the table is authorized for `*`. What CloudFormation does is authorized in the name of who asked for the stack.
"""
import fnmatch, json, os, re, urllib.parse

ACCOUNT = "123456789012"
# Policies by access key, and who asks at present.
POLICIES, CURRENT = {}, []
# Service-linked roles that exist: a new account has none.
LINKED = set()
with open(os.path.join(os.path.dirname(__file__), "handlers.json")) as f:
    HANDLERS = json.load(f)


class Denied(Exception):
    """A call that the policies do not allow."""

    def __init__(self, action, resource):
        super().__init__(f"User: arn:aws:iam::{ACCOUNT}:user/{CURRENT[0] if CURRENT else '-'} is not authorized to perform: "
                         f"{action} on resource: {resource} because no identity-based policy allows the {action} action")
        self.action = action


def allows(documents, action, resource, keys):
    """Whether the policies allow an action on a resource where the condition keys have these values."""
    statements = [s for d in documents for s in d["Statement"]]
    fitting = [s for s in statements if fits(s, action, resource, keys)]
    return any(s["Effect"] == "Allow" for s in fitting) and not any(s["Effect"] == "Deny" for s in fitting)


def listed(value):
    return value if isinstance(value, list) else [value]


def like(pattern, text):
    """IAM's patterns: `*` and `?`, and no classes of characters."""
    return fnmatch.fnmatchcase(text, pattern.replace("[", "[[]"))


def fits(statement, action, resource, keys):
    if not any(like(p.lower(), action.lower()) for p in listed(statement["Action"])):
        return False
    if not any(like(p, resource) for p in listed(statement["Resource"])):
        return False
    return all(holds(operator, key, listed(wanted), keys)
               for operator, tests in statement.get("Condition", {}).items() for key, wanted in tests.items())


def holds(operator, key, wanted, keys):
    known = {k.lower(): v for k, v in keys.items()}
    if operator.endswith("IfExists"):
        if key.lower() not in known:
            return True
        operator = operator[:-len("IfExists")]
    operator = operator.split(":")[-1]
    values = listed(known.get(key.lower(), []))
    test = {"StringEquals": lambda w, v: w == v, "ArnLike": like, "ArnEquals": like, "StringLike": like,
            "NumericEquals": lambda w, v: float(w) == float(v)}[operator]
    return any(test(w, v) for v in values for w in wanted)


class Request:
    """A call: its service, its action, and its parameters by name, lists counted from 1 as the query protocol has them."""

    def __init__(self, environ, body):
        head = environ.get("HTTP_AUTHORIZATION", "")
        found = re.search(r"Credential=([^/]+)/\d+/([^/]+)/([^/]+)/aws4_request", head)
        self.key, self.region, self.service = found.groups() if found else (None, "us-east-1", None)
        target = environ.get("HTTP_X_AMZ_TARGET")
        self.path, self.json = environ["PATH_INFO"], {}
        if target or self.service == "ebs":
            self.action = target.rsplit(".", 1)[-1] if target else direct(environ["REQUEST_METHOD"], self.path)
            # Of the EBS direct APIs one takes JSON; blocks are whatever they are.
            is_json = body[:1] == b"{" and self.action != "PutSnapshotBlock"
            self.json = json.loads(body) if is_json else {}
            self.query = {}
        elif self.service == "route53":
            # One call of its REST interface is the program's own; CloudFormation's are authorized by its handlers.
            self.action, self.query = {"hostedzonesbyvpc": "ListHostedZonesByVPC"}.get(self.path.rsplit("/", 1)[-1], ""), {}
        else:
            self.query = {k: v[0] for k, v in urllib.parse.parse_qs(body.decode(errors="replace"), True).items()}
            self.action = self.query.get("Action", "")

    def get(self, name):
        return self.json.get(name) or self.query.get(name)

    def all(self, prefix):
        """The values of a list: `SubnetId.1`, `SubnetId.2`."""
        return [v for k, v in self.query.items() if re.fullmatch(re.escape(prefix) + r"\.(member\.)?\d+", k)]

    def maps(self, prefix):
        """Key and value of a list of tags."""
        found = {}
        for name, value in self.query.items():
            at = re.fullmatch(re.escape(prefix) + r"\.(?:member\.)?(\d+)\.(Key|Value)", name)
            if at:
                found.setdefault(at.group(1), {})[at.group(2)] = value
        return {e["Key"]: e.get("Value", "") for e in found.values()}

    def new_tags(self, kind):
        """The tags that EC2 is asked to make something of this kind with."""
        numbers = [k.split(".")[1] for k, v in self.query.items() if k.endswith(".ResourceType") and v == kind]
        return {k: v for n in numbers for k, v in self.maps(f"TagSpecification.{n}.Tag").items()}


def direct(method, path):
    """An action of the EBS direct APIs."""
    if method == "POST":
        return "CompleteSnapshot" if "/completion/" in path else "StartSnapshot"
    return {"PUT": "PutSnapshotBlock"}.get(method) or ("ListSnapshotBlocks" if path.endswith("/blocks") else "GetSnapshotBlock")


def tagged(word, tags):
    return {f"aws:{word}/{k}": v for k, v in tags.items()}


def ec2(region):
    from moto.ec2.models import ec2_backends

    return ec2_backends[ACCOUNT][region]


KINDS = {"ami": "image", "snap": "snapshot", "lt": "launch-template", "i": "instance", "vol": "volume", "sg": "security-group",
         "subnet": "subnet", "vpc": "vpc", "eni": "network-interface"}


def thing(q, identity):
    """Something of EC2 that exists: its ARN and its tags."""
    kind = KINDS.get(identity.split("-")[0], "thing")
    owner = "" if kind in ("image", "snapshot") else ACCOUNT
    return f"arn:aws:ec2:{q.region}:{owner}:{kind}/{identity}", tagged("ResourceTag", ec2(q.region).tags.get(identity) or {})


def by(*names):
    return lambda q: [thing(q, q.get(name)) for name in names if q.get(name)]


def template(q):
    identity, name = q.get("LaunchTemplateId"), q.get("LaunchTemplateName")
    return [thing(q, identity or ec2(q.region).launch_template_name_to_ids.get(name, "lt-0"))]


def made(kind):
    def act(q):
        owner = "" if kind in ("image", "snapshot") else ACCOUNT
        return [(f"arn:aws:ec2:{q.region}:{owner}:{kind}/*", tagged("RequestTag", q.new_tags(kind)))]

    return act


def mapped(q):
    """The snapshots of a new image: they have tags of their own, and none of the request's."""
    return [thing(q, v) for k, v in q.query.items() if k.endswith(".Ebs.SnapshotId")]


def tags_of(q):
    """Tags put on what exists."""
    asked = tagged("RequestTag", q.maps("Tag"))
    return [(arn, keys | asked) for arn, keys in (thing(q, i) for i in q.all("ResourceId"))]


def group(q):
    return group_named(q, q.get("AutoScalingGroupName"))


def tagged_group(q):
    return group_named(q, q.get("Tags.member.1.ResourceId"))


def group_named(q, name):
    from moto.autoscaling.models import autoscaling_backends

    found = autoscaling_backends[ACCOUNT][q.region].autoscaling_groups.get(name)
    has = {t.get("Key", t.get("key")): t.get("Value", t.get("value")) for t in (found.tags if found else [])}
    arn = f"arn:aws:autoscaling:{q.region}:{ACCOUNT}:autoScalingGroup:0:autoScalingGroupName/{name}"
    return [(arn, tagged("ResourceTag", has) | tagged("RequestTag", q.maps("Tags")))]


def stack(q):
    from moto.cloudformation.models import cloudformation_backends

    name = q.get("StackName")
    if not name:
        return [(f"arn:aws:cloudformation:{q.region}:{ACCOUNT}:stack/*", {})]
    found = [s for s in cloudformation_backends[ACCOUNT][q.region].stacks.values() if name in (s.name, s.stack_id)]
    has = (found[0].tags or {}) if found else {}
    if isinstance(has, list):
        has = {t["Key"]: t["Value"] for t in has}
    name = found[0].name if found else name
    arn = f"arn:aws:cloudformation:{q.region}:{ACCOUNT}:stack/{name}/0"
    return [(arn, tagged("ResourceTag", has) | tagged("RequestTag", q.maps("Tags")))]


def secret(q):
    name = q.get("SecretId") or q.get("Name")
    return [(f"arn:aws:secretsmanager:{q.region}:{ACCOUNT}:secret:{name}-AbCdEf", {})]


def block(q):
    return [thing(q, next((p for p in q.path.split("/") if p.startswith("snap-")), "snap-0"))]


def uploaded(q):
    tags = {t["Key"]: t["Value"] for t in q.json.get("Tags", [])}
    return [(f"arn:aws:ec2:{q.region}::snapshot/*", tagged("RequestTag", tags))]


def log_group(q):
    return [(f"arn:aws:logs:{q.region}:{ACCOUNT}:log-group:{q.get('logGroupName')}:*", {})]


def log_stream(q):
    return [(f"arn:aws:logs:{q.region}:{ACCOUNT}:log-group:{q.get('logGroupName')}:log-stream:{q.get('logStreamName')}", {})]


def template_of(q):
    """A launch is authorized for all that its template names; one without a template for anything."""
    return [] if any(k.endswith("LaunchTemplateName") for k in q.query) else [("*", {})]


TABLE = {
    "autoscaling:CreateAutoScalingGroup": group, "autoscaling:UpdateAutoScalingGroup": group,
    "autoscaling:DeleteAutoScalingGroup": group, "autoscaling:StartInstanceRefresh": group,
    "autoscaling:CancelInstanceRefresh": group, "autoscaling:RollbackInstanceRefresh": group,
    "autoscaling:AttachLoadBalancerTargetGroups": group, "autoscaling:DetachLoadBalancerTargetGroups": group,
    "autoscaling:PutScalingPolicy": group, "autoscaling:DeletePolicy": group,
    "autoscaling:PutScheduledUpdateGroupAction": group, "autoscaling:DeleteScheduledAction": group,
    "autoscaling:CreateOrUpdateTags": tagged_group,
    "cloudformation:CreateStack": stack, "cloudformation:UpdateStack": stack, "cloudformation:DeleteStack": stack,
    "cloudformation:DescribeStackEvents": stack, "cloudformation:DescribeStacks": stack,
    "ebs:StartSnapshot": uploaded, "ebs:PutSnapshotBlock": block, "ebs:CompleteSnapshot": block,
    "ebs:GetSnapshotBlock": block, "ebs:ListSnapshotBlocks": block,
    "ec2:CreateLaunchTemplate": made("launch-template"), "ec2:CreateLaunchTemplateVersion": template,
    "ec2:ModifyLaunchTemplate": template, "ec2:DeleteLaunchTemplate": template,
    "ec2:DeleteLaunchTemplateVersions": template, "ec2:CreateTags": tags_of, "ec2:DeleteTags": tags_of,
    "ec2:RegisterImage": lambda q: made("image")(q) + mapped(q), "ec2:DeregisterImage": by("ImageId"),
    "ec2:DeleteSnapshot": by("SnapshotId"), "ec2:GetConsoleOutput": by("InstanceId"), "ec2:RunInstances": template_of,
    "secretsmanager:CreateSecret": secret, "secretsmanager:DeleteSecret": secret,
    "secretsmanager:DescribeSecret": secret, "secretsmanager:GetSecretValue": secret,
    "logs:FilterLogEvents": log_group, "logs:CreateLogStream": log_stream, "logs:PutLogEvents": log_stream,
    "logs:DeleteLogStream": log_stream, "logs:DescribeLogStreams": log_group,
}


def implied(q):
    """Further (action, resource, keys) that a call is authorized for."""
    more, action = [], f"{q.service}:{q.action}"
    for kind in ("launch-template", "image", "instance", "volume"):
        tags = q.new_tags(kind)
        if tags and q.service == "ec2":
            for arn, keys in made(kind)(q):
                more.append(("ec2:CreateTags", arn, keys | {"ec2:CreateAction": q.action}))
    if action == "cloudformation:DescribeStacks" and not q.get("StackName"):
        more.append(("cloudformation:ListStacks", "*", {}))
    if action in ("cloudformation:CreateStack", "cloudformation:UpdateStack") and q.maps("Tags"):
        more += [("cloudformation:TagResource", arn, keys) for arn, keys in stack(q)]
    if action == "secretsmanager:CreateSecret" and q.json.get("Tags"):
        more += [("secretsmanager:TagResource", arn, keys) for arn, keys in secret(q)]
    if action == "autoscaling:CreateAutoScalingGroup":
        more += linked("autoscaling")
    if q.service == "autoscaling" or action == "ec2:RunInstances":
        more += launched(q)
    return more


def linked(service):
    """A service's own role is made in the name of who needs it first."""
    if service in LINKED:
        return []
    role = f"arn:aws:iam::{ACCOUNT}:role/aws-service-role/{service}.amazonaws.com/x"
    return [("iam:CreateServiceLinkedRole", role, {"iam:AWSServiceName": f"{service}.amazonaws.com"})]


def launched(q):
    """What launching by the version that a group is to have is authorized for."""
    from .gaps.templates import groups_of

    names = [(k[:-len("LaunchTemplateName")], v) for k, v in q.query.items() if k.endswith("LaunchTemplateName")]
    more, backend = [], ec2(q.region)
    for prefix, name in names:
        identity = backend.launch_template_name_to_ids.get(name)
        if identity is None:
            continue
        data = backend.launch_templates[identity].get_version(q.query[prefix + "Version"]).data
        by_template = {"ec2:LaunchTemplate": thing(q, identity)[0]}
        known = [identity, data["ImageId"], *groups_of(data)]
        for arn, keys in [thing(q, i) for i in known]:
            more.append(("ec2:RunInstances", arn, keys | by_template))
        specifications = {s["ResourceType"]: {t["Key"]: t["Value"] for t in s["Tags"]} for s in data.get("TagSpecifications", [])}
        for kind in ("instance", "volume", "network-interface", "subnet"):
            arn = f"arn:aws:ec2:{q.region}:{ACCOUNT}:{kind}/*"
            asked = tagged("RequestTag", specifications.get(kind, {}))
            more.append(("ec2:RunInstances", arn, asked | by_template))
            if kind in specifications:
                more.append(("ec2:CreateTags", arn, asked | {"ec2:CreateAction": "RunInstances"}))
        profile = (data.get("IamInstanceProfile") or {}).get("Name")
        more += [("iam:PassRole", arn, {"iam:PassedToService": "ec2.amazonaws.com"}) for arn in roles_of(profile)]
        if data.get("InstanceMarketOptions", {}).get("MarketType") == "spot":
            more += linked("spot")
    return more


def roles_of(profile):
    from moto.iam.models import iam_backends

    found = iam_backends[ACCOUNT]["aws"].instance_profiles.values()
    return [role.arn for p in found if p.name == profile for role in p.roles]


def authorize(q):
    """Raises where the policies of who asks do not allow the call."""
    documents = POLICIES.get(q.key)
    # Who somebody is, everybody may ask.
    if documents is None or q.action == "GetCallerIdentity":
        return
    action = f"{q.service}:{q.action}"
    wanted = [(action, arn, keys) for arn, keys in TABLE.get(action, lambda q: [("*", {})])(q)] + implied(q)
    for action, arn, keys in wanted:
        if not allows(documents, action, arn, keys):
            raise Denied(action, arn)
    LINKED.update(keys["iam:AWSServiceName"].split(".")[0] for a, _, keys in wanted if a == "iam:CreateServiceLinkedRole")


def authorize_handler(kind, verb, properties, physical):
    """The same of what CloudFormation's handler of a resource type calls."""
    documents = POLICIES.get(CURRENT[0]) if CURRENT else None
    if documents is None:
        return
    calls = HANDLERS["types"][kind]
    tags = {t["Key"]: t["Value"] for t in properties.get("Tags", properties.get("HostedZoneTags", []))}
    keys = tagged("RequestTag", tags) | tagged("ResourceTag", tags) | {"aws:CalledVia": ["cloudformation.amazonaws.com"]}
    if properties.get("PermissionsBoundary"):
        keys["iam:PermissionsBoundary"] = properties["PermissionsBoundary"]
    for action in [a for a in calls.get(verb, []) + calls.get("read", []) if a not in HANDLERS["unused"]]:
        arn, more = "*", keys
        if action == "iam:PassRole":
            more = keys | {"iam:PassedToService": "ec2.amazonaws.com"}
        if action.startswith("iam:"):
            named = "instance-profile" if "InstanceProfile" in action else "role"
            arn = f"arn:aws:iam::{ACCOUNT}:{named}{properties.get('Path', '/')}{physical}"
        if action.startswith("logs:") and not action.startswith("logs:Describe"):
            # Calls about tags name a log group without what is in it.
            inside = "" if "Tag" in action else ":*"
            arn = f"arn:aws:logs:us-east-1:{ACCOUNT}:log-group:{properties.get('LogGroupName')}{inside}"
        if not allows(documents, action, arn, more):
            raise Denied(action, arn)
    if kind == "AWS::ElasticLoadBalancingV2::LoadBalancer" and verb == "create":
        for action, arn, more in linked("elasticloadbalancing"):
            if not allows(documents, action, arn, keys | more):
                raise Denied(action, arn)
        LINKED.add("elasticloadbalancing")


def refusal(q, denied):
    """Status, headers and body of the answer, in the protocol of the service."""
    text = str(denied)
    if q.service == "ebs":
        return "403 Forbidden", [("x-amzn-errortype", "AccessDeniedException"), ("content-type", "application/json")], json.dumps({"Message": text})
    if q.json or q.service in ("acm", "logs", "secretsmanager", "servicequotas"):
        return "400 Bad Request", [("content-type", "application/x-amz-json-1.1")], json.dumps({"__type": "AccessDeniedException", "message": text})
    code = "UnauthorizedOperation" if q.service == "ec2" else "AccessDenied"
    error = f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{text}</Message></Error>"
    whole = f"<Response><Errors>{error}</Errors><RequestID>1</RequestID></Response>" if q.service == "ec2" else (
        f"<ErrorResponse>{error}<RequestId>1</RequestId></ErrorResponse>")
    return "403 Forbidden", [("content-type", "text/xml")], whole
