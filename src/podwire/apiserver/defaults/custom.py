"""Defaults of custom resources: those that the CRD's structural schema states."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any


def apply_schema_defaults(value: Any, schema: Mapping[str, Any]) -> None:
    """Set ``default`` where a property is absent (or null and not nullable), top down, in place."""
    if isinstance(value, dict):
        properties: Mapping[str, Any] = schema.get("properties") or {}
        for name, inner in properties.items():
            null = name in value and value[name] is None and not inner.get("nullable")
            if (name not in value or null) and "default" in inner:
                value[name] = copy.deepcopy(inner["default"])
            if name in value:
                apply_schema_defaults(value[name], inner)
        extra = schema.get("additionalProperties")
        if isinstance(extra, Mapping):
            for name, item in value.items():
                if name not in properties:
                    apply_schema_defaults(item, extra)
    elif isinstance(value, list):
        items = schema.get("items")
        if isinstance(items, Mapping):
            for item in value:
                apply_schema_defaults(item, items)
