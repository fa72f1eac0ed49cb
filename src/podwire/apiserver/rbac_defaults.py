"""The roles and bindings that a cluster has from its first start. Pure.

Names and aggregation labels are Kubernetes' own, so that manifests which bind ``view`` or ``system:node``
work. A rule is written as "verbs | groups | resources".
"""

from __future__ import annotations

from podwire.model.objects import Obj

_API = "rbac.authorization.k8s.io/v1"
_GROUP = "rbac.authorization.k8s.io"
_LABELS = {"kubernetes.io/bootstrapping": "rbac-defaults"}
_UPDATED = {"rbac.authorization.kubernetes.io/autoupdate": "true"}

_READ = "get list watch"
_WRITE = "create delete deletecollection patch update"
_ALL = f"{_WRITE} {_READ}"
_CORE = '""'

_VIEWED = (
    f"{_READ} | {_CORE} | configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods "
    "replicationcontrollers replicationcontrollers/scale serviceaccounts services services/status bindings "
    "events limitranges namespaces namespaces/status pods/log pods/status replicationcontrollers/status "
    "resourcequotas resourcequotas/status",
    f"{_READ} | discovery.k8s.io | endpointslices",
    f"{_READ} | apps | controllerrevisions daemonsets daemonsets/status deployments deployments/scale "
    "deployments/status replicasets replicasets/scale replicasets/status statefulsets statefulsets/scale "
    "statefulsets/status",
    f"{_READ} | autoscaling | horizontalpodautoscalers horizontalpodautoscalers/status",
    f"{_READ} | batch | cronjobs cronjobs/status jobs jobs/status",
    f"{_READ} | policy | poddisruptionbudgets poddisruptionbudgets/status",
    f"{_READ} | networking.k8s.io | ingresses ingresses/status networkpolicies",
    f"{_READ} | events.k8s.io | events",
    f"{_READ} | metrics.k8s.io | pods nodes",
)
_EDITED = (
    f"{_READ} | {_CORE} | pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy",
    f"impersonate | {_CORE} | serviceaccounts",
    f"{_WRITE} | {_CORE} | pods pods/attach pods/exec pods/portforward pods/proxy",
    f"create | {_CORE} | pods/eviction serviceaccounts/token",
    f"{_WRITE} | {_CORE} | configmaps events persistentvolumeclaims replicationcontrollers "
    "replicationcontrollers/scale secrets serviceaccounts services services/proxy",
    f"{_WRITE} | apps | daemonsets deployments deployments/rollback deployments/scale replicasets "
    "replicasets/scale statefulsets statefulsets/scale",
    f"{_WRITE} | autoscaling | horizontalpodautoscalers",
    f"{_WRITE} | batch | cronjobs jobs",
    f"{_WRITE} | policy | poddisruptionbudgets",
    f"{_WRITE} | networking.k8s.io | ingresses networkpolicies",
    f"{_ALL} | coordination.k8s.io | leases",
)
_ADMINISTERED = (
    "create | authorization.k8s.io | localsubjectaccessreviews",
    f"{_ALL} | {_GROUP} | rolebindings roles",
)
_NODE = (
    "create | authentication.k8s.io | tokenreviews",
    "create | authorization.k8s.io | localsubjectaccessreviews subjectaccessreviews",
    f"{_READ} | {_CORE} | services endpoints namespaces persistentvolumes persistentvolumeclaims",
    f"create {_READ} | {_CORE} | nodes",
    f"patch update | {_CORE} | nodes nodes/status",
    f"create patch update | {_CORE} | events",
    "create patch update | events.k8s.io | events",
    f"{_READ} | {_CORE} | pods secrets configmaps serviceaccounts",
    f"create delete patch update | {_CORE} | pods",
    f"patch update | {_CORE} | pods/status",
    f"create | {_CORE} | pods/eviction serviceaccounts/token",
    "create delete get list patch update watch | coordination.k8s.io | leases",
    f"{_READ} | discovery.k8s.io | endpointslices",
    f"{_READ} | networking.k8s.io | networkpolicies",
    # What node agents that enforce cluster-wide policies look at (they run as their node here).
    f"{_READ} | policy.networking.k8s.io | adminnetworkpolicies baselineadminnetworkpolicies clusternetworkpolicies",
    f"{_READ} | apiextensions.k8s.io | customresourcedefinitions",
    f"{_READ} | node.k8s.io | runtimeclasses",
    f"{_READ} | storage.k8s.io | csidrivers csinodes volumeattachments",
    "create get list watch | certificates.k8s.io | certificatesigningrequests",
)
_PROXIER = (
    f"{_READ} | {_CORE} | services endpoints nodes namespaces",
    f"{_READ} | discovery.k8s.io | endpointslices",
    f"{_READ} | networking.k8s.io | servicecidrs",
    f"create patch update | {_CORE} | events",
    "create patch update | events.k8s.io | events",
)
_DNS = (
    f"list watch | {_CORE} | endpoints services pods namespaces",
    "list watch | discovery.k8s.io | endpointslices",
)
_SCHEDULER = (
    f"create patch update | {_CORE} | events",
    "create patch update | events.k8s.io | events",
    "create get list patch update watch | coordination.k8s.io | leases",
    f"{_READ} | {_CORE} | nodes namespaces persistentvolumeclaims persistentvolumes replicationcontrollers "
    "services pods",
    f"delete | {_CORE} | pods",
    f"create | {_CORE} | bindings pods/binding",
    f"patch update | {_CORE} | pods/status",
    f"{_READ} | apps | replicasets statefulsets",
    f"{_READ} | policy | poddisruptionbudgets",
    f"{_READ} | storage.k8s.io | csidrivers csinodes csistoragecapacities storageclasses",
)
# One identity runs every control loop here; Kubernetes spreads this over some thirty service accounts.
_CONTROLLERS = (
    f"{_ALL} | {_CORE} | bindings configmaps endpoints events limitranges namespaces nodes "
    "persistentvolumeclaims persistentvolumes pods podtemplates replicationcontrollers resourcequotas secrets "
    "serviceaccounts services",
    f"create patch update | {_CORE} | namespaces/finalize namespaces/status nodes/status persistentvolumes/status "
    "pods/binding pods/eviction pods/status replicationcontrollers/finalizers replicationcontrollers/status "
    "replicationcontrollers/scale resourcequotas/status serviceaccounts/token services/status services/finalizers",
    f"{_ALL} | apps batch autoscaling policy discovery.k8s.io networking.k8s.io coordination.k8s.io "
    "events.k8s.io storage.k8s.io certificates.k8s.io node.k8s.io scheduling.k8s.io | *",
    "create | authentication.k8s.io authorization.k8s.io | *",
    # The garbage collector and the namespace controller meet every kind, custom ones included.
    f"delete deletecollection {_READ} patch update | * | *",
)

_ROLES: dict[str, tuple[str, ...]] = {
    "cluster-admin": ("* | * | *",),
    "system:aggregate-to-view": _VIEWED,
    "system:aggregate-to-edit": _EDITED,
    "system:aggregate-to-admin": _ADMINISTERED,
    "system:basic-user": (
        "create | authorization.k8s.io | selfsubjectaccessreviews selfsubjectrulesreviews",
        "create | authentication.k8s.io | selfsubjectreviews",
    ),
    "system:node": _NODE,
    "system:node-proxier": _PROXIER,
    "system:kube-dns": _DNS,
    "system:kube-scheduler": _SCHEDULER,
    "system:kube-controller-manager": _CONTROLLERS,
    "system:kubelet-api-admin": (
        f"{_READ} proxy | {_CORE} | nodes",
        f"* | {_CORE} | nodes/log nodes/metrics nodes/proxy nodes/stats nodes/healthz nodes/pods",
    ),
    "system:auth-delegator": (
        "create | authentication.k8s.io | tokenreviews",
        "create | authorization.k8s.io | subjectaccessreviews",
    ),
    "system:persistent-volume-provisioner": (
        f"create delete {_READ} | {_CORE} | persistentvolumes",
        f"get list update watch | {_CORE} | persistentvolumeclaims",
        f"{_READ} | storage.k8s.io | storageclasses",
        f"create list patch update watch | {_CORE} | events",
    ),
    "system:discovery": (),
    "system:public-info-viewer": (),
    "system:monitoring": (),
    "system:service-account-issuer-discovery": (),
}
_HEALTH = ("/healthz", "/livez", "/readyz")
_PATHS: dict[str, tuple[str, ...]] = {
    "cluster-admin": ("*",),
    "system:discovery": (
        "/api", "/api/*", "/apis", "/apis/*", *_HEALTH, "/openapi", "/openapi/*", "/version", "/version/",
    ),
    "system:public-info-viewer": (*_HEALTH, "/version", "/version/"),
    "system:monitoring": (*_HEALTH, "/livez/*", "/readyz/*", "/metrics", "/metrics/slis"),
    "system:service-account-issuer-discovery": (
        "/.well-known/openid-configuration", "/.well-known/openid-configuration/", "/openid/v1/jwks",
        "/openid/v1/jwks/",
    ),
}  # fmt: skip
_AGGREGATED = {"admin": ("admin", "edit", "view"), "edit": ("edit", "view"), "view": ("view",)}
_AUTHENTICATED, _UNAUTHENTICATED = "Group:system:authenticated", "Group:system:unauthenticated"
_NODES = "Group:system:nodes"
_BINDINGS: dict[str, tuple[str, ...]] = {
    "cluster-admin": ("Group:system:masters",),
    "system:basic-user": (_AUTHENTICATED,),
    "system:discovery": (_AUTHENTICATED,),
    "system:public-info-viewer": (_AUTHENTICATED, _UNAUTHENTICATED),
    "system:service-account-issuer-discovery": ("Group:system:serviceaccounts",),
    "system:monitoring": ("Group:system:monitoring",),
    # A node's agent is kubelet and Service proxy at once.
    "system:node": (_NODES,),
    "system:node-proxier": (_NODES, "User:system:kube-proxy"),
    "system:kube-scheduler": ("User:system:kube-scheduler",),
    "system:kube-controller-manager": ("User:system:kube-controller-manager",),
}


def objects() -> list[Obj]:
    """Return every default ClusterRole and ClusterRoleBinding."""
    roles = [_role(name, lines) for name, lines in _ROLES.items()]
    aggregated = [_aggregated(name, parts) for name, parts in _AGGREGATED.items()]
    return roles + aggregated + [_binding(name, subjects) for name, subjects in _BINDINGS.items()]


def _metadata(name: str, labels: dict[str, str] | None = None) -> Obj:
    return {"name": name, "labels": {**_LABELS, **(labels or {})}, "annotations": dict(_UPDATED)}


def _rule(line: str) -> Obj:
    verbs, groups, resources = (part.split() for part in line.split("|"))
    return {
        "verbs": verbs,
        "apiGroups": ["" if g == _CORE else g for g in groups],
        "resources": resources,
    }


def _role(name: str, lines: tuple[str, ...]) -> Obj:
    rules = [_rule(line) for line in lines]
    if name in _PATHS:
        verbs = ["*"] if name == "cluster-admin" else ["get"]
        rules.append({"verbs": verbs, "nonResourceURLs": list(_PATHS[name])})
    part = name.removeprefix("system:aggregate-to-")
    labels = {f"{_GROUP}/aggregate-to-{part}": "true"} if part != name else {}
    return {"apiVersion": _API, "kind": "ClusterRole", "metadata": _metadata(name, labels), "rules": rules}


def _aggregated(name: str, parts: tuple[str, ...]) -> Obj:
    """Return admin, edit or view. Its rules are written out as well: clients show them."""
    lines = {"admin": _ADMINISTERED, "edit": _EDITED, "view": _VIEWED}
    selectors = [{"matchLabels": {f"{_GROUP}/aggregate-to-{p}": "true"}} for p in parts]
    return {
        "apiVersion": _API,
        "kind": "ClusterRole",
        "metadata": _metadata(name),
        "aggregationRule": {"clusterRoleSelectors": selectors},
        "rules": [_rule(line) for p in parts for line in lines[p]],
    }


def _binding(role: str, subjects: tuple[str, ...]) -> Obj:
    return {
        "apiVersion": _API,
        "kind": "ClusterRoleBinding",
        "metadata": _metadata(role),
        "roleRef": {"apiGroup": _GROUP, "kind": "ClusterRole", "name": role},
        "subjects": [
            {"apiGroup": _GROUP, "kind": kind, "name": name} for kind, _, name in (s.partition(":") for s in subjects)
        ],
    }
