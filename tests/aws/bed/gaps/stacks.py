"""CloudFormation: unknown resource types are errors, so is what is over its quotas, stacks take a moment, and what fails is rolled back."""
import re, time

from moto.cloudformation import models, parsing
from moto.cloudformation.responses import CloudFormationResponse
from moto.ec2.models.internet_gateways import InternetGateway
from moto.ec2.models.route_tables import RouteTable
from moto.cloudformation.exceptions import ValidationError

# Seconds that a stack stays in progress: the tool must wait for it.
SETTLE = {"seconds": 0.6}
SETTLING = {}
# The token of the request that is being answered.
TOKEN = []
# Set by route.py: {"name": REGEX, "operation": "create", "reason": "...", "final": "ROLLBACK_COMPLETE"}, used once.
PLANNED = []
# Quotas: bytes of a template that comes with its call, and of a parameter; parameters, resources and outputs of a template.
BODY, VALUE, PARAMETERS, RESOURCES, OUTPUTS = 51_200, 4096, 200, 500, 200


def close():
    models.CloudFormationBackend.create_stack = create(models.CloudFormationBackend.create_stack)
    models.CloudFormationBackend.update_stack = update(models.CloudFormationBackend.update_stack)
    models.CloudFormationBackend.delete_stack = delete(models.CloudFormationBackend.delete_stack)
    for name in ("create_stack", "update_stack"):
        setattr(CloudFormationResponse, name, with_token(getattr(CloudFormationResponse, name)))
    models.Stack._add_stack_event = add_event(models.Stack._add_stack_event)
    models.Stack.create_resources = create_resources(models.Stack.create_resources)
    shown = models.Stack.outputs.fget
    # A stack in progress shows none.
    models.Stack.outputs = property(lambda self: None if self.status.endswith("_IN_PROGRESS") else shown(self))
    parsing.resource_class_from_type = known(parsing.resource_class_from_type)
    # Parts of a network that would stay when its stack goes, and with them the network.
    RouteTable.delete = lambda self, account, region: self.ec2_backend.route_tables.pop(self.id, None)
    InternetGateway.delete = lambda self, account, region: self.ec2_backend.internet_gateways.pop(self.id, None)


def with_token(original):
    """Events name the request that they come from."""

    def act(self):
        TOKEN[:] = [self._get_param("ClientRequestToken")]
        try:
            return original(self)
        finally:
            TOKEN.clear()

    return act


def add_event(original):
    def act(self, *words, **more):
        if TOKEN:
            self.request_token = TOKEN[0]
        original(self, *words, **more)
        self.events[-1].client_request_token = getattr(self, "request_token", None)

    return act


def known(original):
    def resource_class_from_type(kind):
        found = original(kind)
        if found is None and kind not in parsing.NULL_MODELS:
            raise ValidationError(message=f"Template format error: Unrecognized resource types: [{kind}]")
        return found

    return resource_class_from_type


def planned(name, operation):
    for plan in PLANNED:
        if plan["operation"] == operation and re.search(plan["name"], name):
            PLANNED.remove(plan)
            return plan
    return None


def in_progress(stack, word, final):
    stack.status = f"{word}_IN_PROGRESS"
    SETTLING[stack.stack_id] = (time.time() + SETTLE["seconds"], stack, final)


def settle(seconds):
    SETTLE["seconds"] = seconds
    for identity, (at, stack, final) in list(SETTLING.items()):
        SETTLING[identity] = (min(at, time.time() + seconds), stack, final)


def one_pass():
    """Stacks whose time has come are settled."""
    for identity, (at, stack, final) in list(SETTLING.items()):
        if at <= time.time():
            stack.status = final
            stack._add_stack_event(final)
            del SETTLING[identity]


def create_resources(original):
    def act(self):
        plan = planned(self.name, "create")
        try:
            if plan:
                raise RuntimeError(plan["reason"])
            original(self)
            final = "CREATE_COMPLETE"
        except Exception as error:
            self._add_stack_event("CREATE_FAILED", resource_status_reason=str(error))
            try:
                self.resource_map.delete()
            except Exception as left:
                self._add_stack_event("DELETE_FAILED", resource_status_reason=str(left))
            # moto would make the resources again for whoever looks at the outputs.
            self.template_dict = {**self.template_dict, "Outputs": {}}
            self.output_map = self._create_output_map()
            final = "ROLLBACK_COMPLETE"
        in_progress(self, "CREATE", final)

    return act


def within_quotas(template, given):
    """The template, read, unless CloudFormation does not take it or these values of its parameters."""

    def refuse(what, most):
        raise ValidationError(message=f"1 validation error detected: Value at '{what}' failed to satisfy constraint: Member must "
                              f"have length less than or equal to {most}")

    if len(template.encode()) > BODY:
        refuse("templateBody", BODY)
    for key, value in given.items():
        if len((value or "").encode()) > VALUE:
            refuse(f"parameters.{key}.parameterValue", VALUE)
    parsed = models.Stack.parse_template(template)
    for section, most in (("Parameters", PARAMETERS), ("Resources", RESOURCES), ("Outputs", OUTPUTS)):
        if len(parsed.get(section) or {}) > most:
            raise ValidationError(message=f"Template format error: Number of {section}, {len(parsed[section])}, is greater than maximum allowed, {most}")
    return parsed


def create(original):
    def create_stack(self, name, template, parameters, *words, **more):
        kinds = {r["Type"] for r in within_quotas(template, parameters)["Resources"].values()}
        for kind in sorted(kinds):
            parsing.resource_class_from_type(kind)
        return original(self, name, template, parameters, *words, **more)

    return create_stack


def update(original):
    def update_stack(self, name, template, role_arn, parameters, tags):
        stack = self.get_stack(name)
        if stack.status.endswith("IN_PROGRESS") or stack.status in ("ROLLBACK_COMPLETE", "UPDATE_ROLLBACK_FAILED"):
            raise ValidationError(message=f"Stack:{stack.stack_id} is in {stack.status} state and can not be updated.")
        same_tags = tags is None or tags == stack.tags
        given = {p["ParameterKey"]: p.get("ParameterValue", stack.parameters.get(p["ParameterKey"])) for p in parameters}
        within_quotas(template, given)
        if stack.has_template(template) and same_tags and all(stack.parameters.get(k) == v for k, v in given.items()):
            raise ValidationError(message="No updates are to be performed.")
        plan, kept = planned(stack.name, "update"), (stack.template, stack.template_dict)
        try:
            if plan:
                raise RuntimeError(plan["reason"])
            original(self, name, template, role_arn, parameters, tags)
            final = "UPDATE_COMPLETE"
        except Exception as error:
            stack.template, stack.template_dict = kept
            stack._add_stack_event("UPDATE_FAILED", resource_status_reason=str(error))
            final = (plan or {}).get("final", "UPDATE_ROLLBACK_COMPLETE")
        in_progress(stack, "UPDATE", final)
        return stack

    return update_stack


def delete(original):
    def delete_stack(self, name_or_id):
        stack = next((s for s in self.stacks.values() if name_or_id in (s.name, s.stack_id)), None)
        if stack is None:
            return
        plan = planned(stack.name, "delete")
        try:
            if plan:
                raise RuntimeError(plan["reason"])
            if stack.status == "ROLLBACK_COMPLETE":
                self.deleted_stacks[stack.stack_id] = self.stacks.pop(stack.stack_id)
                stack.status = "DELETE_COMPLETE"
            else:
                drop(self, stack)
            SETTLING.pop(stack.stack_id, None)
        except Exception as error:
            stack._add_stack_event("DELETE_FAILED", resource_status_reason=str(error))
            stack.status = "DELETE_FAILED"

    def drop(self, stack):
        stack.delete()
        for export in [e.name for e in stack.exports]:
            self.exports.pop(export, None)
        self.stacks.pop(stack.stack_id, None)
        self.deleted_stacks[stack.stack_id] = stack

    return delete_stack
