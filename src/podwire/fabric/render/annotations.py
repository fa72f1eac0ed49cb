"""What a node announces to its peers: flannel's annotations on its own Node."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from podwire.fabric.config import FabricConfig
from podwire.fabric.desired import Home
from podwire.fabric.plan import BACKEND_DATA, BACKEND_TYPE, MANAGED, PUBLIC_IP, PUBLIC_IP_OVERWRITE
from podwire.model.objects import Obj, annotations_of


def render(config: FabricConfig, homes: Sequence[Home], macs: Mapping[int, str], own: Obj) -> dict[str, str | None]:
    """Return the annotations that differ from what ``own`` carries; None removes one.

    ``macs``: the device's MAC by IP version, for vxlan. An administrator's ``public-ip-overwrite`` is
    announced in place of the address found.
    """
    now = annotations_of(own)
    wanted: dict[str, str | None] = {MANAGED: "true", BACKEND_TYPE: config.backend}
    for version in (4, 6):
        home = next((h for h in homes if h.version == version), None)
        if home is None:
            wanted[BACKEND_DATA[version]] = wanted[PUBLIC_IP[version]] = None
            continue
        wanted[BACKEND_DATA[version]] = _backend_data(config, macs.get(version, ""))
        wanted[PUBLIC_IP[version]] = now.get(PUBLIC_IP_OVERWRITE[version]) or str(home.public_ip)
    return {key: value for key, value in wanted.items() if now.get(key) != value}


def _backend_data(config: FabricConfig, mac: str) -> str:
    if config.backend != "vxlan":
        return "null"
    return json.dumps({"VNI": config.vni, "VtepMAC": mac}, separators=(",", ":"))
