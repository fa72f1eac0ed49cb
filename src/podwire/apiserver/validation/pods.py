"""Rules of pods: Pod itself, and the templates of workloads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import Any

from podwire.apiserver.errors import (
    FieldError,
    duplicate,
    field_forbidden,
    invalid_value,
    missing,
    required,
    unsupported,
)
from podwire.apiserver.validation import names
from podwire.apiserver.validation.values import PORT_RANGE, check_port, check_quantities
from podwire.model.objects import Obj

_RESTART = ("Always", "OnFailure", "Never")
_DNS = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")
_PULL = ("Always", "IfNotPresent", "Never")
_PROTOCOLS = ("SCTP", "TCP", "UDP")
_TOLERATION_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_PROBE_NUMBERS = ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold")
_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc", "sleep")
_UPDATE_RULE = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def check(new: Obj, old: Obj | None) -> Iterator[FieldError]:
    """Check a Pod."""
    spec: Obj = new.get("spec") or {}
    if old is not None:
        if spec != old.get("spec"):
            yield from _check_update(spec, old["spec"])
            yield from check_spec(spec, "spec")
        return
    yield from check_spec(spec, "spec")
    if spec.get("nodeName"):
        why = names.subdomain_problem(spec["nodeName"])
        if why:
            yield invalid_value("spec.nodeName", spec["nodeName"], why)


def _check_update(spec: Obj, before: Obj) -> Iterator[FieldError]:
    """Only a few fields of a pod may change."""
    masked, original = dict(spec), dict(before)
    for field in ("activeDeadlineSeconds", "tolerations", "ephemeralContainers"):
        masked.pop(field, None)
        original.pop(field, None)
    for field in ("containers", "initContainers"):
        if len(masked.get(field) or ()) == len(original.get(field) or ()):
            for source in (masked, original):
                source[field] = [
                    {k: v for k, v in c.items() if k not in ("image", "resources")} for c in source.get(field) or ()
                ]
    if before.get("schedulingGates"):
        for field in ("schedulingGates", "nodeSelector", "affinity"):
            masked.pop(field, None)
            original.pop(field, None)
    if before.get("terminationGracePeriodSeconds", 0) < 0 and spec.get("terminationGracePeriodSeconds") == 1:
        masked["terminationGracePeriodSeconds"] = original["terminationGracePeriodSeconds"]
    if masked != original:
        changed = sorted(k for k in {*masked, *original} if masked.get(k) != original.get(k))
        yield field_forbidden("spec", f"{_UPDATE_RULE}\nchanged: {', '.join(changed)}")
    tolerations = spec.get("tolerations") or []
    for each in before.get("tolerations") or ():
        if each not in tolerations and not any(_longer(t, each) for t in tolerations):
            yield field_forbidden(
                "spec.tolerations", "existing toleration can not be modified except its tolerationSeconds"
            )


def _longer(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    return {**new, "tolerationSeconds": 0} == {**old, "tolerationSeconds": 0}


def check_template(template: Any, path: str) -> Iterator[FieldError]:
    """Check a PodTemplateSpec."""
    if not isinstance(template, dict):
        yield required(path)
        return
    labels = (template.get("metadata") or {}).get("labels")
    if labels:
        yield from names.check_labels(labels, f"{path}.labels")
    yield from check_spec(template.get("spec") or {}, f"{path}.spec")


def check_spec(spec: Obj, path: str) -> Iterator[FieldError]:
    """Check a PodSpec."""
    volumes = {v.get("name", "") for v in spec.get("volumes") or ()}
    yield from _check_volumes(spec.get("volumes") or [], f"{path}.volumes")
    containers = spec.get("containers") or []
    if not containers:
        yield required(f"{path}.containers")
    everyone = [*(spec.get("initContainers") or ()), *containers]
    for field in ("initContainers", "containers"):
        for n, container in enumerate(spec.get(field) or ()):
            yield from _check_container(container, f"{path}.{field}[{n}]", volumes, init=field == "initContainers")
    yield from names.check_unique([c.get("name") for c in containers], f"{path}.containers")
    taken = {c.get("name") for c in containers}
    for n, container in enumerate(spec.get("initContainers") or ()):
        if container.get("name") in taken:
            yield duplicate(f"{path}.initContainers[{n}].name", container.get("name"))
        taken.add(container.get("name"))
    yield from _check_host_ports(everyone, path)
    for field, allowed in (("restartPolicy", _RESTART), ("dnsPolicy", _DNS)):
        if spec.get(field) not in (None, *allowed):
            yield unsupported(f"{path}.{field}", spec[field], allowed)
    if (spec.get("terminationGracePeriodSeconds") or 0) < 0:
        value = spec["terminationGracePeriodSeconds"]
        yield invalid_value(f"{path}.terminationGracePeriodSeconds", value, "must be greater than or equal to 0")
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and not 1 <= deadline <= 2147483647:
        yield invalid_value(f"{path}.activeDeadlineSeconds", deadline, "must be between 1 and 2147483647, inclusive")
    for field in ("hostname", "subdomain"):
        if spec.get(field):
            why = names.label_problem(spec[field])
            if why:
                yield invalid_value(f"{path}.{field}", spec[field], why)
    yield from _check_dns(spec, path)
    yield from _check_scheduling(spec, path)


def _check_volumes(volumes: list[Obj], path: str) -> Iterator[FieldError]:
    yield from names.check_unique([v.get("name") for v in volumes], path)
    for n, volume in enumerate(volumes):
        where = f"{path}[{n}]"
        name = volume.get("name", "")
        if not name:
            yield required(f"{where}.name")
        else:
            why = names.label_problem(name)
            if why:
                yield invalid_value(f"{where}.name", name, why)
        sources = [k for k in volume if k != "name"]
        if len(sources) > 1:
            yield field_forbidden(f"{where}.{sources[1]}", "may not specify more than 1 volume type")
        for source, field in (("hostPath", "path"), ("secret", "secretName"), ("configMap", "name")):
            if source in volume and not (volume[source] or {}).get(field):
                yield required(f"{where}.{source}.{field}")
        claim = volume.get("persistentVolumeClaim")
        if claim is not None and not claim.get("claimName"):
            yield required(f"{where}.persistentVolumeClaim.claimName")
        if ".." in ((volume.get("hostPath") or {}).get("path") or "").split("/"):
            yield invalid_value(f"{where}.hostPath.path", volume["hostPath"]["path"], "must not contain '..'")


def _check_container(container: Obj, path: str, volumes: set[str], *, init: bool) -> Iterator[FieldError]:
    name = container.get("name", "")
    if not name:
        yield required(f"{path}.name")
    else:
        why = names.label_problem(name)
        if why:
            yield invalid_value(f"{path}.name", name, why)
    image = container.get("image", "")
    if not image:
        yield required(f"{path}.image")
    elif image != image.strip():
        yield invalid_value(f"{path}.image", image, "must not have leading or trailing whitespace")
    if container.get("imagePullPolicy") not in (None, *_PULL):
        yield unsupported(f"{path}.imagePullPolicy", container["imagePullPolicy"], _PULL)
    yield from _check_ports(container.get("ports") or [], f"{path}.ports")
    yield from _check_env(container, path)
    yield from _check_mounts(container.get("volumeMounts") or [], f"{path}.volumeMounts", volumes)
    yield from check_quantities(container.get("resources") or {}, f"{path}.resources")
    sidecar = container.get("restartPolicy") == "Always"
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        if container.get(probe) is not None:
            if init and not sidecar:
                yield field_forbidden(
                    f"{path}.{probe}", "may not be set for init containers without restartPolicy=Always"
                )
            yield from _check_probe(container[probe], f"{path}.{probe}", once=probe != "readinessProbe")
    for hook, handler in (container.get("lifecycle") or {}).items():
        if isinstance(handler, dict):
            yield from _check_handler(handler, f"{path}.lifecycle.{hook}")


def _check_ports(ports: list[Obj], path: str) -> Iterator[FieldError]:
    yield from names.check_unique([p.get("name") for p in ports], path)
    for n, port in enumerate(ports):
        where = f"{path}[{n}]"
        if port.get("name"):
            why = names.port_name_problem(port["name"])
            if why:
                yield invalid_value(f"{where}.name", port["name"], why)
        number = port.get("containerPort", 0)
        if number == 0:
            yield required(f"{where}.containerPort")
        elif not 1 <= number <= 65535:
            yield invalid_value(f"{where}.containerPort", number, PORT_RANGE)
        if port.get("hostPort"):
            yield from check_port(port["hostPort"], f"{where}.hostPort")
        if port.get("protocol") not in (None, *_PROTOCOLS):
            yield unsupported(f"{where}.protocol", port["protocol"], _PROTOCOLS)


def _check_host_ports(containers: list[Obj], path: str) -> Iterator[FieldError]:
    seen = set()
    for n, container in enumerate(containers):
        for m, port in enumerate(container.get("ports") or ()):
            if not port.get("hostPort"):
                continue
            key = (port.get("protocol", "TCP"), port.get("hostIP", ""), port["hostPort"])
            if key in seen:
                yield duplicate(f"{path}.containers[{n}].ports[{m}].hostPort", f"{key[0]}/{key[1]}/{key[2]}")
            seen.add(key)


def _check_env(container: Obj, path: str) -> Iterator[FieldError]:
    for n, env in enumerate(container.get("env") or ()):
        where = f"{path}.env[{n}]"
        if not env.get("name"):
            yield required(f"{where}.name")
        else:
            why = names.env_name_problem(env["name"])
            if why:
                yield invalid_value(f"{where}.name", env["name"], why)
        source = env.get("valueFrom")
        if source is not None:
            if env.get("value"):
                yield invalid_value(f"{where}.valueFrom", "", "may not be specified when `value` is not empty")
            if len(source) != 1:
                what = "may not have more than one field specified at a time" if source else "must specify one of: "
                yield invalid_value(f"{where}.valueFrom", "", what)
    for n, source in enumerate(container.get("envFrom") or ()):
        if not source.get("configMapRef") and not source.get("secretRef"):
            yield invalid_value(f"{path}.envFrom[{n}]", "", "must specify one of: `configMapRef` or `secretRef`")


def _check_mounts(mounts: list[Obj], path: str, volumes: set[str]) -> Iterator[FieldError]:
    seen = set()
    for n, mount in enumerate(mounts):
        where = f"{path}[{n}]"
        if not mount.get("name"):
            yield required(f"{where}.name")
        elif mount["name"] not in volumes:
            yield missing(f"{where}.name", mount["name"])
        target = mount.get("mountPath", "")
        if not target:
            yield required(f"{where}.mountPath")
        elif target in seen:
            yield invalid_value(f"{where}.mountPath", target, "must be unique")
        seen.add(target)
        sub = mount.get("subPath", "")
        if sub.startswith("/"):
            yield invalid_value(f"{where}.subPath", sub, "must be a relative path")
        if ".." in sub.split("/"):
            yield invalid_value(f"{where}.subPath", sub, "must not contain '..'")


def _check_probe(probe: Obj, path: str, *, once: bool) -> Iterator[FieldError]:
    yield from _check_handler(probe, path)
    for field in _PROBE_NUMBERS:
        if probe.get(field, 0) < 0:
            yield invalid_value(f"{path}.{field}", probe[field], "must be greater than or equal to 0")
    if once and probe.get("successThreshold", 1) != 1:
        yield invalid_value(f"{path}.successThreshold", probe["successThreshold"], "must be 1")


def _check_handler(handler: Obj, path: str) -> Iterator[FieldError]:
    given = [h for h in _HANDLERS if handler.get(h) is not None]
    if not given:
        yield required(path, "must specify a handler type")
    for extra in given[1:]:
        yield field_forbidden(f"{path}.{extra}", "may not specify more than 1 handler type")
    if "exec" in given and not handler["exec"].get("command"):
        yield required(f"{path}.exec.command")
    for action in ("httpGet", "tcpSocket", "grpc"):
        if action in given:
            port = handler[action].get("port")
            if isinstance(port, int) or port is None:
                yield from check_port(port or 0, f"{path}.{action}.port")
            elif names.port_name_problem(port):
                yield invalid_value(f"{path}.{action}.port", port, names.port_name_problem(port))
    if "httpGet" in given and handler["httpGet"].get("scheme") not in (None, "HTTP", "HTTPS"):
        yield unsupported(f"{path}.httpGet.scheme", handler["httpGet"]["scheme"], ("HTTP", "HTTPS"))


def _check_dns(spec: Obj, path: str) -> Iterator[FieldError]:
    config: Obj = spec.get("dnsConfig") or {}
    servers = config.get("nameservers") or []
    if spec.get("dnsPolicy") == "None" and not servers:
        yield required(
            f"{path}.dnsConfig.nameservers", "must provide at least one DNS nameserver when `dnsPolicy` is None"
        )
    if len(servers) > 3:
        yield invalid_value(f"{path}.dnsConfig.nameservers", servers, "must not have more than 3 nameservers")
    for n, server in enumerate(servers):
        if not _is_address(server):
            yield invalid_value(f"{path}.dnsConfig.nameservers[{n}]", server, "must be valid IP address")
    searches = config.get("searches") or []
    if len(searches) > 32:
        yield invalid_value(f"{path}.dnsConfig.searches", searches, "must not have more than 32 search paths")
    for n, alias in enumerate(spec.get("hostAliases") or ()):
        if not _is_address(alias.get("ip", "")):
            where = f"{path}.hostAliases[{n}].ip"
            yield invalid_value(where, alias.get("ip", ""), "must be valid IP address")


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _check_scheduling(spec: Obj, path: str) -> Iterator[FieldError]:
    if spec.get("nodeSelector"):
        yield from names.check_labels(spec["nodeSelector"], f"{path}.nodeSelector")
    for n, toleration in enumerate(spec.get("tolerations") or ()):
        where = f"{path}.tolerations[{n}]"
        operator, key = toleration.get("operator") or "Equal", toleration.get("key", "")
        if key and (why := names.qualified_problem(key)):
            yield invalid_value(f"{where}.key", key, why)
        if not key and operator != "Exists":
            why = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
            yield invalid_value(f"{where}.operator", operator, why)
        if operator == "Exists" and toleration.get("value"):
            yield invalid_value(
                f"{where}.operator", toleration["value"], "value must be empty when `operator` is 'Exists'"
            )
        elif operator not in ("Equal", "Exists", "Lt", "Gt"):
            yield unsupported(f"{where}.operator", operator, ("Equal", "Exists"))
        if toleration.get("effect") not in (None, "", *_TOLERATION_EFFECTS):
            yield unsupported(f"{where}.effect", toleration["effect"], _TOLERATION_EFFECTS)
    for n, constraint in enumerate(spec.get("topologySpreadConstraints") or ()):
        where = f"{path}.topologySpreadConstraints[{n}]"
        if constraint.get("maxSkew", 0) < 1:
            yield invalid_value(f"{where}.maxSkew", constraint.get("maxSkew", 0), "must be greater than zero")
        if not constraint.get("topologyKey"):
            yield required(f"{where}.topologyKey", "can not be empty")
        action = constraint.get("whenUnsatisfiable")
        if action not in ("DoNotSchedule", "ScheduleAnyway"):
            yield unsupported(f"{where}.whenUnsatisfiable", action, ("DoNotSchedule", "ScheduleAnyway"))
