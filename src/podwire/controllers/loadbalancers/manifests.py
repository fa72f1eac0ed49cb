"""The CustomResourceDefinition of LoadBalancerIPPool, and a pool. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from podwire.model.loadbalancers import GROUP, POOLS
from podwire.model.objects import Obj


def definition() -> Obj:
    """Return the CustomResourceDefinition."""
    addresses = {
        "type": "array",
        "minItems": 1,
        "items": {"type": "string"},
        "description": "Ranges (192.0.2.10-192.0.2.20), networks (192.0.2.0/28) or single addresses, of both "
        "families. In a network every address is given out.",
    }
    selector = {
        "type": "object",
        "description": "The Services that may draw from this pool, by their labels; absent: all.",
        "properties": {
            "matchLabels": {"type": "object", "additionalProperties": {"type": "string"}},
            "matchExpressions": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": {"type": "string"},
                        "operator": {"type": "string", "enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
                        "values": {"type": "array", "items": {"type": "string"}},
                    },
                },
            },
        },
    }
    spec = {
        "type": "object",
        "required": ["addresses"],
        "properties": {
            "addresses": addresses,
            "autoAssign": {
                "type": "boolean",
                "default": True,
                "description": "Whether Services that ask for no pool get addresses of this one.",
            },
            "serviceSelector": selector,
            "advertisement": {
                "type": "string",
                "enum": ["Layer2"],
                "default": "Layer2",
                "description": "How the network learns where an address is: Layer2 is ARP and NDP from one node.",
            },
        },
    }
    status = {
        "type": "object",
        "properties": {
            "assigned": {"type": "integer", "description": "How many addresses Services have."},
            "problems": {"type": "array", "items": {"type": "string"}},
        },
    }
    columns = [
        {"name": "Addresses", "type": "string", "jsonPath": ".spec.addresses"},
        {"name": "Auto assign", "type": "boolean", "jsonPath": ".spec.autoAssign"},
        {"name": "Assigned", "type": "integer", "jsonPath": ".status.assigned"},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]
    schema = {
        "type": "object",
        "required": ["spec"],
        "description": "Addresses for Services of type LoadBalancer.",
        "properties": {"spec": spec, "status": status},
    }
    version = {
        "name": POOLS.version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}}, "additionalPrinterColumns": columns,
    }  # fmt: skip
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{POOLS.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Cluster",
            "names": {
                "plural": POOLS.plural, "singular": "loadbalancerippool", "kind": POOLS.kind, "shortNames": ["lbpool"],
            },
            "versions": [version],
        },
    }  # fmt: skip


def pool(name: str, addresses: Sequence[str]) -> Obj:
    """Return a pool that every Service may draw from."""
    return {
        "apiVersion": POOLS.api_version, "kind": POOLS.kind, "metadata": {"name": name},
        "spec": {"addresses": list(addresses)},
    }  # fmt: skip
