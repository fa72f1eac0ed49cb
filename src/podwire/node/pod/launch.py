"""From a container in a pod's spec to what the runtime is asked to start."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from podwire.model.objects import Obj
from podwire.node.pod import spec
from podwire.node.pod.environment import ConfigError, GetObject, PodFacts, environment, expand, service_variables
from podwire.node.runtime.values import ContainerSpec, Mount, PortSpec
from podwire.node.volumes.payload import VolumeError
from podwire.node.volumes.prepare import mounted_path

_PROPAGATION: dict[str, Literal["private", "host-to-container", "bidirectional"]] = {
    "HostToContainer": "host-to-container",
    "Bidirectional": "bidirectional",
}
_TERMINATION_LOG = "/dev/termination-log"


@dataclass(frozen=True, slots=True)
class Ground:
    """What a pod's containers have in common."""

    sandbox_id: str
    pod_dir: Path  # pods/UID
    log_dir: Path  # NS_NAME_UID below the node's log directory
    volumes: Mapping[str, Path]
    services: Iterable[Obj]
    get: GetObject
    facts: PodFacts


def container_spec(pod: Mapping[str, Any], c: Mapping[str, Any], attempt: int, ground: Ground) -> ContainerSpec:
    """Return the specification of one attempt. Raises ConfigError: it cannot be configured (yet)."""
    links = pod["spec"].get("enableServiceLinks") is not False
    services = service_variables(ground.services, pod["metadata"].get("namespace", ""), links)
    env = environment(pod, c, services, ground.get, ground.facts)
    log_path = ground.log_dir / c["name"] / f"{attempt}.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    mounts = _mounts(c, env, ground)
    termination_log = _termination_log(c["name"], attempt, ground.pod_dir)
    message_path = c.get("terminationMessagePath") or _TERMINATION_LOG
    if message_path != _TERMINATION_LOG:
        mounts.append(Mount(termination_log, message_path))
    own_hosts = any(m.target == "/etc/hosts" for m in mounts)
    return ContainerSpec(
        id=secrets.token_hex(32),
        sandbox_id=ground.sandbox_id,
        name=c["name"],
        attempt=attempt,
        image=c.get("image", ""),
        command=tuple(expand(w, env) for w in c.get("command") or ()),
        args=tuple(expand(w, env) for w in c.get("args") or ()),
        env=tuple(env.items()),
        working_dir=c.get("workingDir") or "",
        mounts=tuple(mounts),
        ports=tuple(_ports(c)),
        tty=bool(c.get("tty")),
        stdin=bool(c.get("stdin")),
        stdin_once=bool(c.get("stdinOnce")),
        log_path=log_path,
        hosts_file=None if own_hosts else ground.pod_dir / "etc-hosts",
        resolv_file=ground.pod_dir / "resolv.conf",
        termination_log=termination_log,
        server_facts=_server_facts(pod, ground.facts),
        **_security(pod, c),
    )


def _ports(c: Mapping[str, Any]) -> Iterable[PortSpec]:
    for p in c.get("ports") or ():
        yield PortSpec(p["containerPort"], p.get("protocol") or "TCP", p.get("name") or "")


def _mounts(c: Mapping[str, Any], env: Mapping[str, str], ground: Ground) -> list[Mount]:
    mounts = []
    for m in c.get("volumeMounts") or ():
        volume = ground.volumes.get(m["name"])
        if volume is None:
            raise ConfigError(f'volume "{m["name"]}" of container {c["name"]} is not one of the pod\'s volumes')
        sub_path = m.get("subPath") or ""
        if m.get("subPathExpr"):
            sub_path = expand(m["subPathExpr"], env)
            if "$(" in sub_path:
                raise ConfigError(f"failed to expand subPathExpr {m['subPathExpr']!r}")
        try:
            source = mounted_path(volume, sub_path)
        except VolumeError as error:
            raise ConfigError(f'failed to prepare subPath for volumeMount "{m["name"]}": {error}') from error
        propagation = _PROPAGATION.get(m.get("mountPropagation") or "", "private")
        mounts.append(Mount(source, m["mountPath"], bool(m.get("readOnly")), propagation))
    return mounts


def _termination_log(name: str, attempt: int, pod_dir: Path) -> Path:
    path = pod_dir / "containers" / name / str(attempt)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    path.chmod(0o666)
    return path


def _server_facts(pod: Mapping[str, Any], facts: PodFacts) -> tuple[tuple[str, str], ...]:
    meta = pod["metadata"]
    return (
        ("pod", meta["name"]),
        ("namespace", meta.get("namespace", "")),
        ("node", facts.node_name),
        ("ip", str(facts.pod_ips[0]) if facts.pod_ips else ""),
    )


def _security(pod: Mapping[str, Any], c: Mapping[str, Any]) -> dict[str, Any]:
    of_pod: Mapping[str, Any] = pod["spec"].get("securityContext") or {}
    own: Mapping[str, Any] = c.get("securityContext") or {}
    user = own.get("runAsUser", of_pod.get("runAsUser"))
    if own.get("runAsNonRoot", of_pod.get("runAsNonRoot")) and user == 0:
        raise ConfigError(
            f"container's runAsUser breaks non-root policy (pod: {spec.full_name(pod)}, container: {c['name']})"
        )
    groups = list(of_pod.get("supplementalGroups") or ())
    if of_pod.get("fsGroup") is not None:
        groups.append(of_pod["fsGroup"])
    capabilities = own.get("capabilities") or {}
    return {
        "user": user,
        "group": own.get("runAsGroup", of_pod.get("runAsGroup")),
        "supplemental_groups": tuple(groups),
        "read_only_root": bool(own.get("readOnlyRootFilesystem")),
        "privileged": bool(own.get("privileged")),
        "capabilities_add": tuple(capabilities.get("add") or ()),
        "capabilities_drop": tuple(capabilities.get("drop") or ()),
    }


def termination_message(c: Mapping[str, Any], path: Path | None, log: Path, exit_code: int) -> str:
    """Return what the container left as its last words; "" when nothing. At most 4096 bytes.

    With FallbackToLogsOnError, the end of its log: 80 lines, 2048 bytes.
    """
    text = ""
    if path is not None:
        try:
            with path.open("rb") as f:
                text = f.read(4096).decode("utf-8", "replace")
        except OSError:
            text = ""
    if text or not exit_code or c.get("terminationMessagePolicy") != "FallbackToLogsOnError":
        return text
    try:
        with log.open("rb") as f:
            f.seek(max(0, log.stat().st_size - 8192))
            lines = f.read().decode("utf-8", "replace").splitlines()[-80:]
    except OSError:
        return ""
    words = [line.split(" ", 3)[3] for line in lines if line.count(" ") >= 3]
    return "\n".join(words)[-2048:]
