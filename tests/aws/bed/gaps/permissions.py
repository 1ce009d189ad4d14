"""IAM: what a principal may do is simulated over its policies; POST /moto-api/i2kit/denied names what is denied besides."""
from moto.core.responses import ActionResult
from moto.iam.responses import IamResponse

from .. import authority

DENIED = set()


def close():
    IamResponse.simulate_principal_policy = simulate


def simulate(self):
    """Each action once for each resource, with the context that is given and none besides."""
    documents = authority.POLICIES.get(authority.CURRENT[0]) if authority.CURRENT else None
    keys = {e["ContextKeyName"]: e["ContextKeyValues"] for e in self._get_param("ContextEntries", [])}
    results = []
    for action in self._get_param("ActionNames", []):
        for arn in self._get_param("ResourceArns", []) or ["*"]:
            good = action not in DENIED and (documents is None or authority.allows(documents, action, arn, keys))
            results.append({"EvalActionName": action, "EvalResourceName": arn, "EvalDecision": "allowed" if good else "implicitDeny"})
    return ActionResult({"EvaluationResults": results, "IsTruncated": False})
