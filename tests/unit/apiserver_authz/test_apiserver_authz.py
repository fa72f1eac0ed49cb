"""Who may do what: user, request, verdict, on the default roles and a few of our own."""

from __future__ import annotations

from typing import Any

import pytest

from podwire.apiserver import rbac_defaults, reviews
from podwire.apiserver.authz import Authorizer, refuse
from podwire.apiserver.errors import ApiStatusError
from podwire.apiserver.values import Attributes, Decision, User

PLURALS = {"ClusterRole": "clusterroles", "ClusterRoleBinding": "clusterrolebindings"}
RBAC = "rbac.authorization.k8s.io"


def role(name: str, namespace: str = "", *, rules: Any = None, **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace}, "rules": rules or [], **more}


def binding(name: str, role_kind: str, role_name: str, *subjects: dict[str, str]) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "roleRef": {"kind": role_kind, "name": role_name},
        "subjects": list(subjects),
    }


@pytest.fixture
def authorizer() -> Authorizer:
    made = Authorizer()
    for obj in rbac_defaults.objects():
        made.observe(PLURALS[obj["kind"]], "", obj["metadata"]["name"], obj)
    sa = {"kind": "ServiceAccount", "name": "app", "namespace": "shop"}
    made.observe("rolebindings", "shop", "app-view", binding("app-view", "ClusterRole", "view", sa))
    pick = [{"verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["one"]}]
    made.observe("roles", "shop", "picky", role("picky", "shop", rules=pick))
    made.observe("rolebindings", "shop", "picky", binding("picky", "Role", "picky", {"kind": "User", "name": "jo"}))
    admin = {"kind": "User", "name": "boss"}
    made.observe("rolebindings", "shop", "boss", binding("boss", "ClusterRole", "admin", admin))
    return made


AUTH = "system:authenticated"
MASTER = User("admin", groups=("system:masters", AUTH))
NODE = User("system:node:node-0", groups=("system:nodes", AUTH))
APP = User("system:serviceaccount:shop:app", groups=("system:serviceaccounts", AUTH))
JO, BOSS = User("jo", groups=(AUTH,)), User("boss", groups=(AUTH,))
NOBODY = User("system:anonymous", groups=("system:unauthenticated",))
CONTROLLERS = User("system:kube-controller-manager", groups=(AUTH,))


def on(verb: str, resource: str, namespace: str = "", name: str = "", group: str = "") -> Attributes:
    plural, _, sub = resource.partition("/")
    return Attributes(verb, group, "v1", plural, sub, namespace, name)


CASES = [
    ("masters do anything", MASTER, on("delete", "nodes", name="x"), True),
    ("the account views its namespace", APP, on("list", "pods", "shop"), True),
    ("but not another", APP, on("list", "pods", "other"), False),
    ("and not cluster-wide", APP, on("list", "pods"), False),
    ("view shows no secrets", APP, on("get", "secrets", "shop", "s"), False),
    ("view writes nothing", APP, on("create", "pods", "shop"), False),
    ("logs are a subresource of view", APP, on("get", "pods/log", "shop", "p"), True),
    ("exec is not", APP, on("create", "pods/exec", "shop", "p"), False),
    ("a named object", JO, on("get", "configmaps", "shop", "one"), True),
    ("and no other", JO, on("get", "configmaps", "shop", "two"), False),
    ("admin aggregates edit and view", BOSS, on("create", "pods/exec", "shop", "p"), True),
    ("admin reads secrets", BOSS, on("get", "secrets", "shop", "s"), True),
    ("anyone may ask about themselves", JO, on("create", "selfsubjectaccessreviews", group="authorization.k8s.io"), True),
    ("discovery is for the authenticated", JO, Attributes("get", path="/apis/apps/v1"), True),
    ("not for others", NOBODY, Attributes("get", path="/apis"), False),
    ("version is for all", NOBODY, Attributes("get", path="/version"), True),
    ("metrics are not", JO, Attributes("get", path="/metrics"), False),
    ("a node writes itself", NODE, on("patch", "nodes/status", name="node-0"), True),
    ("a node does not write another", NODE, on("patch", "nodes/status", name="node-1"), False),
    ("a node reads every node", NODE, on("list", "nodes"), True),
    ("a node registers", NODE, on("create", "nodes"), True),
    ("its own lease", NODE, on("update", "leases", "kube-node-lease", "node-0", "coordination.k8s.io"), True),
    ("not another's", NODE, on("update", "leases", "kube-node-lease", "node-1", "coordination.k8s.io"), False),
    ("a node makes tokens", NODE, on("create", "serviceaccounts/token", "shop", "app"), True),
    ("a node grants nothing", NODE, on("create", "clusterrolebindings", group=RBAC), False),
    ("controllers bind pods", CONTROLLERS, on("create", "pods/binding", "shop", "p"), True),
    ("controllers collect anything", CONTROLLERS, on("delete", "things", "shop", "x", "example.org"), True),
    ("controllers create no roles", CONTROLLERS, on("create", "clusterroles", group=RBAC), False),
]  # fmt: skip


@pytest.mark.parametrize(("name", "user", "asked", "verdict"), CASES, ids=[c[0] for c in CASES])
def test_verdicts(authorizer: Authorizer, name: str, user: User, asked: Attributes, verdict: bool) -> None:
    assert authorizer.allowed(user, asked).allowed is verdict
    assert authorizer.allowed(user, asked).allowed is verdict  # remembered


def test_a_change_is_seen_at_once(authorizer: Authorizer) -> None:
    asked = on("list", "pods", "shop")
    assert authorizer.allowed(APP, asked).allowed
    authorizer.observe("rolebindings", "shop", "app-view", None)
    assert not authorizer.allowed(APP, asked).allowed


def test_aggregation_is_live(authorizer: Authorizer) -> None:
    asked = on("get", "widgets", "shop", "w", "example.org")
    assert not authorizer.allowed(APP, asked).allowed
    rules = [{"verbs": ["get"], "apiGroups": ["example.org"], "resources": ["widgets"]}]
    extra = role("widget-viewer", rules=rules)
    extra["metadata"]["labels"] = {f"{RBAC}/aggregate-to-view": "true"}
    authorizer.observe("clusterroles", "", "widget-viewer", extra)
    assert authorizer.allowed(APP, asked).allowed
    assert authorizer.allowed(BOSS, asked).allowed


EVERYTHING = [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]
READS = [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "pods/log"]}]


def test_nobody_grants_what_they_lack(authorizer: Authorizer) -> None:
    with pytest.raises(ApiStatusError, match="not currently held"):
        authorizer.check_escalation(BOSS, "roles", "shop", role("r", "shop", rules=EVERYTHING))
    authorizer.check_escalation(BOSS, "roles", "shop", role("r", "shop", rules=READS))
    authorizer.check_escalation(MASTER, "clusterroles", "", role("r", rules=EVERYTHING))
    with pytest.raises(ApiStatusError):
        authorizer.check_escalation(
            BOSS, "rolebindings", "shop", binding("b", "ClusterRole", "cluster-admin", {"kind": "User", "name": "boss"})
        )
    with pytest.raises(ApiStatusError):  # a role that does not exist may come to hold anything
        authorizer.check_escalation(BOSS, "rolebindings", "shop", binding("b", "Role", "later"))
    authorizer.check_escalation(
        BOSS, "rolebindings", "shop", binding("b", "ClusterRole", "view", {"kind": "User", "name": "jo"})
    )


def test_an_unchanged_role_may_be_written_by_anyone_allowed_to(authorizer: Authorizer) -> None:
    old = role("r", "shop", rules=EVERYTHING)
    authorizer.check_escalation(BOSS, "roles", "shop", {**old, "metadata": {"name": "r"}}, old)


def test_refusals_speak_kubernetes() -> None:
    cases = {
        'pods is forbidden: User "jo" cannot list resource "pods" in API group "" in the namespace "shop"': on(
            "list", "pods", "shop"
        ),
        'deployments.apps "w" is forbidden: User "jo" cannot get resource "deployments/scale" in API group "apps" '
        'in the namespace "shop"': on("get", "deployments/scale", "shop", "w", "apps"),
        'nodes is forbidden: User "jo" cannot list resource "nodes" in API group "" at the cluster scope': on(
            "list", "nodes"
        ),
        'forbidden: User "jo" cannot get path "/metrics"': Attributes("get", path="/metrics"),
    }
    for message, asked in cases.items():
        error = refuse(JO, asked, Decision(False))
        assert (error.code, error.message) == (403, message)


def test_reviews(authorizer: Authorizer) -> None:
    attributes = {"verb": "list", "resource": "pods", "namespace": "shop"}
    asked = {"kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": attributes}}
    assert reviews.self_subject_access(asked, authorizer, APP)["status"]["allowed"] is True
    assert reviews.self_subject_access(asked, authorizer, JO)["status"] == {"allowed": False}
    other = {"spec": {"user": "jo", "resourceAttributes": attributes}}
    assert reviews.subject_access(other, authorizer)["status"]["allowed"] is False
    with pytest.raises(ApiStatusError):
        reviews.subject_access(other, authorizer, namespace="elsewhere")
    with pytest.raises(ApiStatusError):
        reviews.self_subject_access({"spec": {}}, authorizer, JO)
    rules = reviews.self_subject_rules({"spec": {"namespace": "shop"}}, authorizer, JO)["status"]
    assert {"verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["one"]} in rules[
        "resourceRules"
    ]
    assert reviews.self_subject({}, APP)["status"]["userInfo"]["username"] == APP.name
