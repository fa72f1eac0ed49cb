"""What is particular to a kind when it is written: status kept apart, grace, allocation, protection.

The general course of a write is in ``writes``; this floor answers its questions.
"""

from __future__ import annotations

from collections.abc import Callable

from podwire.apiserver import crds, dualstack
from podwire.apiserver.admission import Admission
from podwire.apiserver.errors import invalid
from podwire.apiserver.kinds import Kind, Registry
from podwire.apiserver.serviceips import ServiceIps
from podwire.apiserver.validation import crds as crd_rules
from podwire.apiserver.values import RequestContext
from podwire.model.objects import Obj, timestamp
from podwire.runtime.clock import Clock

PROTECTED_NAMESPACES = frozenset({"default", "kube-system", "kube-public"})

CRD = ("apiextensions.k8s.io", "CustomResourceDefinition")

# Status that a client may give at creation: a kubelet registers its Node whole.
_KEEPS_STATUS = frozenset({("", "Node"), ("certificates.k8s.io", "CertificateSigningRequest")})

_INITIAL_STATUS: dict[tuple[str, str], Obj] = {
    ("", "Namespace"): {"phase": "Active"},
    ("", "Pod"): {"phase": "Pending"},
    ("", "Service"): {"loadBalancer": {}},
    ("", "PersistentVolume"): {"phase": "Pending"},
    ("", "PersistentVolumeClaim"): {"phase": "Pending"},
    ("", "ReplicationController"): {"replicas": 0},
    ("apps", "ReplicaSet"): {"replicas": 0},
    ("apps", "StatefulSet"): {"replicas": 0, "availableReplicas": 0},
    ("apps", "DaemonSet"): {
        "currentNumberScheduled": 0,
        "numberMisscheduled": 0,
        "desiredNumberScheduled": 0,
        "numberReady": 0,
    },
    ("networking.k8s.io", "Ingress"): {"loadBalancer": {}},
    ("policy", "PodDisruptionBudget"): {
        "disruptionsAllowed": 0,
        "currentHealthy": 0,
        "desiredHealthy": 0,
        "expectedPods": 0,
    },
}


class Strategy:
    """Answers for every kind; keeps the Services' addresses."""

    def __init__(self, registry: Registry, admission: Admission, services: ServiceIps, clock: Clock) -> None:
        self._registry, self._admission, self._services = registry, admission, services
        self._clock = clock

    async def wait_for_create(self, ctx: RequestContext, obj: Obj) -> None:
        """Give what a new object depends on a moment to appear: a namespace's ServiceAccount."""
        if ctx.kind.kind == "Pod" and not ctx.kind.group:
            await self._admission.wait_for_account(ctx, obj)

    def prepare_create(self, ctx: RequestContext, obj: Obj) -> None:
        """Set the status that a new object begins with."""
        kind = (ctx.kind.group, ctx.kind.kind)
        if kind == ("", "Namespace"):
            spec = obj.setdefault("spec", {})
            if "kubernetes" not in (spec.get("finalizers") or ()):
                spec["finalizers"] = [*(spec.get("finalizers") or ()), "kubernetes"]
        if kind in _KEEPS_STATUS or not ctx.kind.has_status:
            return
        if kind == CRD:
            obj["status"] = {}
            return
        initial = _INITIAL_STATUS.get(kind)
        if initial is not None:
            obj["status"] = {k: dict(v) if isinstance(v, dict) else v for k, v in initial.items()}
        elif ctx.kind.is_custom:
            obj.pop("status", None)
        else:
            obj["status"] = {}

    def prepare_update(self, ctx: RequestContext, new: Obj, old: Obj) -> None:
        """Confine an update to what its (sub)resource covers."""
        match ctx.subresource:
            case "":
                if ctx.kind.has_status:
                    _keep(new, old, "status")
                if ctx.kind.kind == "Namespace" and not ctx.kind.group:
                    new.setdefault("spec", {})["finalizers"] = (old.get("spec") or {}).get("finalizers") or []
            case "status":
                _confine(new, old, "status", metadata_too=ctx.kind.kind in ("Pod", "Node") and not ctx.kind.group)
            case "finalize":
                finalizers = (new.get("spec") or {}).get("finalizers") or []
                _confine(new, old, "status")
                new["status"] = old.get("status") or {}
                new["spec"] = {**(old.get("spec") or {}), "finalizers": finalizers}
            case "approval":
                _confine(new, old, "status")
            case "ephemeralcontainers" | "resize":
                _confine_pod_spec(new, old, ctx.subresource)

    def admit(self, ctx: RequestContext, new: Obj, old: Obj | None) -> None:
        """Let admission change or refuse the object, and complete a Service's families."""
        self._admission.admit(ctx, new, old)
        if (ctx.kind.group, ctx.kind.kind) == CRD and not ctx.subresource and not list(crd_rules.check(new, old)):
            crds.establish(new, self._registry, timestamp(self._clock.now()))
        if ctx.kind.kind == "Service" and not ctx.kind.group and not ctx.subresource:
            problems = dualstack.complete(new, old, self._services.families)
            if problems:
                raise invalid(ctx.kind, new["metadata"]["name"], problems)

    def allocate(self, ctx: RequestContext, new: Obj, old: Obj | None) -> Callable[[], None]:
        """Give a Service its addresses and ports; return what takes them back."""
        if ctx.kind.kind == "Service" and not ctx.kind.group and not ctx.subresource:
            return self._services.allocate(ctx.kind, new, old)
        return _nothing

    def release(self, kind: Kind, obj: Obj) -> None:
        """Take back what a deleted object held."""
        if kind.kind == "Service" and not kind.group:
            self._services.release(obj)

    def undeletable(self, ctx: RequestContext, obj: Obj) -> str:
        """Return why an object may not be deleted; "" when it may."""
        if ctx.kind.kind == "Namespace" and obj["metadata"]["name"] in PROTECTED_NAMESPACES:
            return "this namespace may not be deleted"
        return ""

    def grace_s(self, kind: Kind, obj: Obj, asked: int | None) -> int:
        """Return the seconds that an object is given to end. Only pods on a node are given any."""
        if kind.kind != "Pod" or kind.group:
            return 0
        spec, status = obj.get("spec") or {}, obj.get("status") or {}
        if not spec.get("nodeName") or status.get("phase") in ("Succeeded", "Failed"):
            return 0
        grace = spec.get("terminationGracePeriodSeconds", 30) if asked is None else asked
        return max(int(grace), 0) if asked is not None else max(int(grace), 1)

    def begin_delete(self, kind: Kind, obj: Obj) -> None:
        """Note in an object's status that it is going."""
        if kind.kind == "Namespace" and not kind.group:
            obj.setdefault("status", {})["phase"] = "Terminating"


def _nothing() -> None:
    """Take nothing back."""


def _keep(new: Obj, old: Obj, field: str) -> None:
    if field in old:
        new[field] = old[field]
    else:
        new.pop(field, None)


_SERVER_META = ("managedFields",)


def _confine(new: Obj, old: Obj, field: str, *, metadata_too: bool = False) -> None:
    """Take over only ``field`` (and, for nodes and pods, labels and annotations) from the new object."""
    kept, meta = new.get(field), new["metadata"]
    if not metadata_too:
        new["metadata"] = {**old["metadata"], **{k: meta[k] for k in _SERVER_META if k in meta}}
    else:
        new["metadata"] = {**meta}
        for name in ("ownerReferences", "finalizers"):
            _keep(new["metadata"], old["metadata"], name)
    for key in [k for k in new if k not in ("metadata", "apiVersion", "kind")]:
        del new[key]
    new.update({k: v for k, v in old.items() if k not in ("metadata", "apiVersion", "kind", field)})
    if kept is not None:
        new[field] = kept


def _confine_pod_spec(new: Obj, old: Obj, subresource: str) -> None:
    given = new.get("spec") or {}
    _confine(new, old, "spec")
    spec = dict(old["spec"])
    if subresource == "ephemeralcontainers":
        spec["ephemeralContainers"] = given.get("ephemeralContainers") or []
    else:
        resources = {c["name"]: c.get("resources") for c in given.get("containers") or ()}
        spec["containers"] = [
            {**c, "resources": resources.get(c["name"]) or c.get("resources") or {}} for c in old["spec"]["containers"]
        ]
    new["spec"] = spec
