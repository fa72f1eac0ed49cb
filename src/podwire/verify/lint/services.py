"""Rules on Services: who stands behind them, and whether anybody does."""

from __future__ import annotations

from collections.abc import Iterator

from podwire.verify.lint.finding import SERVICES, Finding, Rule
from podwire.verify.located import field_of
from podwire.verify.services import ServiceView, backends, selected
from podwire.verify.world import World

NO_ENDPOINTS = Rule("PW101", "service-without-endpoints", "error", "Nothing stands behind a Service",
    "https://kubernetes.io/docs/tasks/debug/debug-application/debug-service/")  # fmt: skip
TARGET_PORT = Rule("PW102", "target-port-unknown", "warning",
    "A Service's targetPort is a port that its pods do not declare", f"{SERVICES}#field-spec-ports")  # fmt: skip
TOLERATE_UNREADY = Rule("PW103", "tolerate-unready-endpoints", "warning",
    "The annotation tolerate-unready-endpoints became spec.publishNotReadyAddresses", SERVICES)  # fmt: skip

RULES = (NO_ENDPOINTS, TARGET_PORT, TOLERATE_UNREADY)
_UNREADY = "service.alpha.kubernetes.io/tolerate-unready-endpoints"


def check(world: World) -> Iterator[Finding]:
    """Yield what these rules find."""
    for service in world.services.values():
        if service.located.file == "(assumed)":
            continue
        if _UNREADY in (service.located.object["metadata"].get("annotations") or {}):
            yield Finding(
                TOLERATE_UNREADY, service.located, f'metadata.annotations["{_UNREADY}"]',
                "current Kubernetes does not read this annotation", "set spec.publishNotReadyAddresses: true",
            )  # fmt: skip
        if service.selector and world.knows_pods(service.key.namespace):
            yield from _endpoints(world, service)


def _endpoints(world: World, service: ServiceView) -> Iterator[Finding]:
    chosen = selected(service, world.pods)
    if not chosen:
        words = ",".join(f"{k}={v}" for k, v in sorted(service.selector.items()))
        yield Finding(
            NO_ENDPOINTS, service.located, "spec.selector",
            f"no pod in namespace {service.key.namespace} has all of {words}", nearest(world, service),
        )  # fmt: skip
        return
    for port in service.ports:
        found, left = backends(service, port, world.pods)
        if not found and left:
            named = "named" in left[0].why
            path = f"{port.path}.targetPort" if named else "spec.selector"
            known = ", ".join(sorted({n for p in chosen for n, proto, _ in p.ports() if n and proto == port.protocol}))
            fix = f"ports with a name: {known or 'none'}" if named else "see why: kubectl describe pod"
            yield Finding(NO_ENDPOINTS, service.located, path, f"{left[0].pod.workload}: {left[0].why}", fix)
            continue
        declared = {n for b in found if b.pod for _, proto, n in b.pod.ports() if proto == port.protocol}
        strays = [b for b in found if declared and b.port not in declared]
        if strays:
            shown = ", ".join(map(str, sorted(declared)))
            written = "targetPort" if field_of(service.located.object, f"{port.path}.targetPort") else "port"
            yield Finding(
                TARGET_PORT, service.located, f"{port.path}.{written}",
                f"it leads to port {strays[0].port}, but {strays[0].pod.workload if strays[0].pod else strays[0].ip} "
                f"declares {shown}", f"set targetPort: {min(declared)}",
            )  # fmt: skip


def nearest(world: World, service: ServiceView) -> str:
    """Return which label keeps the nearest pods out."""
    best: tuple[int, str] = (-1, f"create pods with these labels in {service.key.namespace}")
    for pod in world.pods:
        if pod.key.namespace != service.key.namespace or pod.assumed:
            continue
        wrong = {k: v for k, v in service.selector.items() if pod.labels.get(k) != v}
        hits = len(service.selector) - len(wrong)
        alike = hits or any(v in pod.labels.values() for v in wrong.values())
        if alike and hits > best[0]:
            key, value = next(iter(sorted(wrong.items())))
            has = pod.labels.get(key)
            best = (
                hits,
                f"{pod.workload} has {f'{key}={has}' if has else f'no label {key}'}, the Service wants {key}={value}",
            )
    return best[1]
