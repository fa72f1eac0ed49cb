"""Which mode the proxy runs in, out of the ConfigMap kube-system/kube-proxy. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from podwire.model.errors import Problem
from podwire.model.objects import Obj, describe

CONFIG_NAMESPACE, CONFIG_NAME, _FILE = "kube-system", "kube-proxy", "config.conf"
DEFAULT = "nftables"
MODES = ("nftables", "iptables")
_REFUSED = {
    "ipvs": "is not programmed by podwire, and most kernels that podwire runs on have no ip_vs",
    "userspace": "left Kubernetes in version 1.26: it copied every byte through a process",
    "kernelspace": "is for Windows nodes only",
}


def refusal(mode: str) -> str:
    """Return why a mode cannot be had, with what can; "" for one that can."""
    if mode in MODES:
        return ""
    why = _REFUSED.get(mode, "is no mode of a Service proxy")
    return f"{mode!r} {why}; use {' or '.join(MODES)}"


def choose(config: Obj | None, default: str) -> tuple[str, Problem | None]:
    """Return the mode that the ConfigMap asks for, and what is wrong with it.

    ``default`` where there is no ConfigMap, where it names no mode, and where its mode is refused.
    """
    import yaml

    if config is None:
        return default, None
    text = (config.get("data") or {}).get(_FILE, "")
    try:
        settings = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        return default, Problem(describe(config), f"data.{_FILE}", f"is no YAML: {str(error).splitlines()[0]}")
    if not isinstance(settings, Mapping):
        return default, Problem(describe(config), f"data.{_FILE}", "is no KubeProxyConfiguration")
    mode = str(settings.get("mode") or default)
    why = refusal(mode)
    if why:
        return default, Problem(describe(config), f"data.{_FILE}: mode", why)
    return mode, None


def config_map(mode: str, pod_cidrs: Sequence[Any]) -> Obj:
    """Return the ConfigMap as kubeadm writes it, as far as podwire reads it."""
    cidrs = ",".join(map(str, pod_cidrs))
    text = (
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\n"
        "kind: KubeProxyConfiguration\n"
        f'clusterCIDR: "{cidrs}"\n'
        f'mode: "{mode}"\n'
    )
    meta = {"name": CONFIG_NAME, "namespace": CONFIG_NAMESPACE, "labels": {"app": "kube-proxy"}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {_FILE: text}}
