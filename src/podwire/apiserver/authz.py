"""May they? system:masters may everything; nodes are held to what is theirs; RBAC says the rest.

``Authorizer.observe`` is to be called with every role and binding, at the start and on each change.
"""

from __future__ import annotations

from podwire.apiserver.errors import ApiStatusError
from podwire.apiserver.rbac import Rbac, Rule, parse_rules, uncovered
from podwire.apiserver.values import Attributes, Decision, User
from podwire.model.objects import Obj

MASTERS, NODES = "system:masters", "system:nodes"
GROUP = "rbac.authorization.k8s.io"
_NODE_PREFIX = "system:node:"
_WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})
_REMEMBERED = 8192

_EVERYTHING: tuple[Obj, ...] = (
    {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
    {"verbs": ["*"], "nonResourceURLs": ["*"]},
)
_YES_MASTER = Decision(True, "system:masters")
_NO = Decision(False)


class Authorizer:
    """Decides. A decision that was made is remembered until a role or binding changes."""

    def __init__(self) -> None:
        self.rbac = Rbac()
        self._decisions: dict[tuple[str, tuple[str, ...], Attributes], Decision] = {}

    def observe(self, plural: str, namespace: str, name: str, obj: Obj | None) -> None:
        """Take in a role's or binding's present state (None: deleted). Other plurals are ignored."""
        before = self.rbac.generation
        self.rbac.observe(plural, namespace, name, obj)
        if self.rbac.generation != before:
            self._decisions.clear()

    def allowed(self, user: User, asked: Attributes) -> Decision:
        """Return whether ``user`` may do this, and which binding says so."""
        if MASTERS in user.groups:
            return _YES_MASTER
        key = (user.name, user.groups, asked)
        decision = self._decisions.get(key)
        if decision is None:
            decision = self._decide(user, asked)
            if len(self._decisions) >= _REMEMBERED:
                self._decisions.clear()
            self._decisions[key] = decision
        return decision

    def _decide(self, user: User, asked: Attributes) -> Decision:
        refusal = _node_refusal(user, asked)
        if refusal:
            return Decision(False, refusal)
        for grant in self.rbac.grants(user, asked.namespace):
            if grant.rule.allows(asked):
                return Decision(True, f"RBAC: allowed by {grant.binding} of {grant.role}")
        return _NO

    def rules(self, user: User, namespace: str) -> list[Rule]:
        """Return every rule that the user has in a namespace, cluster-wide ones included."""
        if MASTERS in user.groups:
            return list(parse_rules(_EVERYTHING))
        return [g.rule for g in self.rbac.grants(user, namespace)]

    def check_escalation(self, user: User, plural: str, namespace: str, obj: Obj, old: Obj | None = None) -> None:
        """Raise ApiStatusError (403) when writing this role or binding would give what ``user`` lacks.

        The verbs ``escalate`` (roles) and ``bind`` (bindings) lift the rule. Other resources pass.
        """
        if plural in ("roles", "clusterroles"):
            if old is not None and all(old.get(k) == obj.get(k) for k in ("rules", "aggregationRule")):
                return
            given = parse_rules(obj.get("rules"))
            if obj.get("aggregationRule"):  # may come to hold anything
                given += parse_rules(_EVERYTHING)
            verb, target = "escalate", Attributes("escalate", GROUP, "v1", plural, "", namespace, _name(obj))
        elif plural in ("rolebindings", "clusterrolebindings"):
            if old is not None and all(old.get(k) == obj.get(k) for k in ("subjects", "roleRef")):
                return
            role = obj.get("roleRef") or {}
            kind, name = role.get("kind", ""), role.get("name", "")
            held = self.rbac.role(kind, namespace, name)
            # A role that is not there yet may come to hold anything.
            given = parse_rules(_EVERYTHING) if held is None else held
            plural_of_role = "clusterroles" if kind == "ClusterRole" else "roles"
            verb, target = "bind", Attributes("bind", GROUP, "v1", plural_of_role, "", namespace, name)
        else:
            return
        lacking = uncovered(given, self.rules(user, namespace))
        if lacking and not self.allowed(user, target).allowed:
            raise _escalation(user, plural, _name(obj), verb, lacking)


def _name(obj: Obj) -> str:
    return str(obj["metadata"].get("name", ""))


def _escalation(user: User, plural: str, name: str, verb: str, lacking: list[Rule]) -> ApiStatusError:
    shown = "\n".join(str(r.to_object()) for r in lacking[:10])
    message = (
        f'{plural}.{GROUP} "{name}" is forbidden: user "{user.name}" (groups={list(user.groups)}) is attempting '
        f"to grant RBAC permissions not currently held:\n{shown}"
    )
    return ApiStatusError(403, "Forbidden", message, {"name": name, "group": GROUP, "kind": plural})


def _node_refusal(user: User, asked: Attributes) -> str:
    """Return why a node may not do this although its role would let it; "" when it may.

    A light form of the NodeRestriction admission: another node's Node and Lease are not its to write.
    """
    if NODES not in user.groups or not user.name.startswith(_NODE_PREFIX) or asked.verb not in _WRITES:
        return ""
    own = user.name[len(_NODE_PREFIX) :]
    theirs = asked.resource == "nodes" or (asked.resource == "leases" and asked.namespace == "kube-node-lease")
    if theirs and asked.name != own and not (asked.verb == "create" and not asked.name):
        return f"node {own!r} is not allowed to modify {asked.resource[:-1]} {asked.name!r}"
    return ""


def refuse(user: User, asked: Attributes, decision: Decision) -> ApiStatusError:
    """Return the 403 for a request that is not allowed, in Kubernetes' words."""
    if not asked.is_resource:
        message = f'forbidden: User "{user.name}" cannot {asked.verb} path "{asked.path}"'
        return ApiStatusError(403, "Forbidden", message, {})
    resource = f"{asked.resource}/{asked.subresource}" if asked.subresource else asked.resource
    where = f' in the namespace "{asked.namespace}"' if asked.namespace else " at the cluster scope"
    kind = f"{asked.resource}.{asked.group}" if asked.group else asked.resource
    named = f'{kind} "{asked.name}"' if asked.name else kind
    message = (
        f'{named} is forbidden: User "{user.name}" cannot {asked.verb} resource "{resource}" '
        f'in API group "{asked.group}"{where}'
    )
    if decision.reason:
        message += f": {decision.reason}"
    details: Obj = {"kind": asked.resource}
    if asked.name:
        details["name"] = asked.name
    if asked.group:
        details["group"] = asked.group
    return ApiStatusError(403, "Forbidden", message, details)
