"""Admission: what Kubernetes' built-in plugins change in an object or refuse.

NamespaceLifecycle, ServiceAccount, Priority, DefaultTolerationSeconds, DefaultStorageClass,
DefaultIngressClass. All look-ups read the store, newest state.
"""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from podwire.apiserver.authz import Authorizer
from podwire.apiserver.errors import forbidden, not_found
from podwire.apiserver.kinds import Kind, Registry
from podwire.apiserver.metadata import generate_name
from podwire.apiserver.store.port import Store
from podwire.apiserver.values import RequestContext
from podwire.model.objects import Key, Obj

TOKEN_DIRECTORY = "/var/run/secrets/kubernetes.io/serviceaccount"
TOKEN_EXPIRY_S = 3607  # Kubernetes marks the tokens that it injects itself with these odd seconds
ACCOUNT_WAIT_S = 3.0
_DEFAULT_TOLERATIONS = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


class Admission:
    """Looks at every write once it has its defaults."""

    def __init__(self, registry: Registry, store: Store, authorizer: Authorizer) -> None:
        self._registry, self._store, self._authorizer = registry, store, authorizer

    def _read(self, bucket: str, namespace: str, name: str) -> Obj | None:
        row = self._store.peek(bucket, Key(namespace, name))
        return None if row is None else orjson.loads(row.body)

    def admit(self, ctx: RequestContext, new: Obj, old: Obj | None) -> None:
        """Complete ``new``, or raise ApiStatusError (403, 404)."""
        kind = ctx.kind
        if old is None:
            self._check_namespace(kind, ctx.namespace, new)
            match (kind.group, kind.kind):
                case ("", "Pod"):
                    self._admit_pod(ctx, new)
                case ("", "PersistentVolumeClaim"):
                    self._default_class(new, "storageclasses.storage.k8s.io", "storageClassName", "storageclass")
                case ("networking.k8s.io", "Ingress"):
                    if "kubernetes.io/ingress.class" not in (new["metadata"].get("annotations") or {}):
                        self._default_class(new, "ingressclasses.networking.k8s.io", "ingressClassName", "ingressclass")
        if kind.group == "rbac.authorization.k8s.io":
            self._authorizer.check_escalation(ctx.user, kind.plural, ctx.namespace, new, old)
        if kind.kind == "Namespace" and not kind.group:
            labels = new["metadata"].setdefault("labels", {})
            labels["kubernetes.io/metadata.name"] = new["metadata"]["name"]

    def _check_namespace(self, kind: Kind, namespace: str, obj: Obj) -> None:
        if not kind.namespaced:
            return
        found = self._read("namespaces", "", namespace)
        if found is None:
            namespaces = self._registry.find("", "v1", "namespaces")
            assert namespaces is not None
            raise not_found(namespaces, namespace)
        if "deletionTimestamp" in found["metadata"] and kind.plural not in ("localsubjectaccessreviews",):
            error = forbidden(
                kind,
                obj["metadata"].get("name", ""),
                f"unable to create new content in namespace {namespace} because it is being terminated",
            )
            error.details["causes"] = [
                {
                    "reason": "NamespaceTerminating",
                    "message": f"namespace {namespace} is being terminated",
                    "field": "metadata.namespace",
                }
            ]
            raise error

    async def wait_for_account(self, ctx: RequestContext, pod: Obj) -> None:
        """Wait for a pod's ServiceAccount: a new namespace's "default" is a moment away."""
        spec = pod.get("spec") or {}
        key = Key(ctx.namespace, spec.get("serviceAccountName") or spec.get("serviceAccount") or "default")
        if self._store.peek("serviceaccounts", key) is not None:
            return
        if self._store.peek("namespaces", Key("", ctx.namespace)) is None or "kubernetes.io/config.mirror" in (
            pod["metadata"].get("annotations") or {}
        ):
            return
        watcher = self._store.watch("serviceaccounts", self._store.revision)
        try:
            async with asyncio.timeout(ACCOUNT_WAIT_S):
                while self._store.peek("serviceaccounts", key) is None:
                    await watcher.next(ACCOUNT_WAIT_S)
        except TimeoutError:
            pass  # admission refuses it in its turn
        finally:
            watcher.close()

    def _admit_pod(self, ctx: RequestContext, pod: Obj) -> None:
        spec = pod["spec"]
        annotations = pod["metadata"].get("annotations") or {}
        if "kubernetes.io/config.mirror" not in annotations:
            self._admit_account(ctx, pod)
        self._admit_priority(ctx, pod)
        tolerations = spec.setdefault("tolerations", [])
        for key in _DEFAULT_TOLERATIONS:
            if not any(_tolerates(t, key) for t in tolerations):
                tolerations.append({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})

    def _admit_account(self, ctx: RequestContext, pod: Obj) -> None:
        spec = pod["spec"]
        name = spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"
        spec["serviceAccountName"] = spec["serviceAccount"] = name
        account = self._read("serviceaccounts", ctx.namespace, name)
        if account is None:
            raise forbidden(
                ctx.kind,
                pod["metadata"].get("name", ""),
                f'error looking up service account {ctx.namespace}/{name}: serviceaccount "{name}" not found',
            )
        if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
            spec["imagePullSecrets"] = account["imagePullSecrets"]
        wanted = spec.get("automountServiceAccountToken", account.get("automountServiceAccountToken", True))
        if wanted is not False:
            _mount_token(spec)

    def _admit_priority(self, ctx: RequestContext, pod: Obj) -> None:
        spec = pod["spec"]
        name = spec.get("priorityClassName", "")
        chosen: Obj | None = None
        if name:
            chosen = self._read("priorityclasses.scheduling.k8s.io", "", name)
            if chosen is None:
                raise forbidden(
                    ctx.kind, pod["metadata"].get("name", ""), f"no PriorityClass with name {name} was found"
                )
        else:
            for row in self._store.rows("priorityclasses.scheduling.k8s.io"):
                candidate = orjson.loads(row.body)
                if candidate.get("globalDefault"):
                    chosen = candidate
                    spec["priorityClassName"] = candidate["metadata"]["name"]
        value = chosen["value"] if chosen else 0
        if "priority" in spec and spec["priority"] != value:
            raise forbidden(
                ctx.kind,
                pod["metadata"].get("name", ""),
                f"the integer value of priority ({spec['priority']}) must not be provided in pod spec; "
                "priority admission controller computed "
                f"{value} from the given PriorityClass name",
            )
        spec["priority"] = value
        policy = (chosen or {}).get("preemptionPolicy") or "PreemptLowerPriority"
        spec.setdefault("preemptionPolicy", policy)

    def _default_class(self, obj: Obj, bucket: str, field: str, word: str) -> None:
        """Set the class that is annotated as the default, where none is named."""
        if obj["spec"].get(field) is not None:
            return
        mark = f"{word}.kubernetes.io/is-default-class"
        for row in self._store.rows(bucket):
            candidate = orjson.loads(row.body)
            if (candidate["metadata"].get("annotations") or {}).get(mark) == "true":
                obj["spec"][field] = row.key.name
                return


def _tolerates(toleration: dict[str, Any], key: str) -> bool:
    return toleration.get("key") in (key, "", None) and toleration.get("effect") in ("NoExecute", "", None)


def _mount_token(spec: Obj) -> None:
    """Add the projected token volume and mount it where nothing is mounted yet."""
    volume = ""
    for v in spec.get("volumes") or ():
        if v.get("name", "").startswith("kube-api-access-"):
            volume = v["name"]
    wanting = [
        c
        for c in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ()))
        if all(m.get("mountPath") != TOKEN_DIRECTORY for m in c.get("volumeMounts") or ())
    ]
    if not wanting:
        return
    if not volume:
        volume = generate_name("kube-api-access-")
        spec.setdefault("volumes", []).append({"name": volume, "projected": _token_sources()})
    for container in wanting:
        container.setdefault("volumeMounts", []).append(
            {"name": volume, "readOnly": True, "mountPath": TOKEN_DIRECTORY}
        )


def _token_sources() -> Obj:
    namespace = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    return {
        "sources": [
            {"serviceAccountToken": {"expirationSeconds": TOKEN_EXPIRY_S, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [namespace]}},
        ],
        "defaultMode": 420,
    }
