"""IAM: what a principal may do is simulated; everything is allowed but what POST /moto-api/i2kit/denied names."""
from moto.core.responses import ActionResult
from moto.iam.responses import IamResponse

DENIED = set()


def close():
    IamResponse.simulate_principal_policy = simulate


def simulate(self):
    actions = self._get_param("ActionNames", [])
    results = [{"EvalActionName": a, "EvalDecision": "implicitDeny" if a in DENIED else "allowed"} for a in actions]
    return ActionResult({"EvaluationResults": results, "IsTruncated": False})
