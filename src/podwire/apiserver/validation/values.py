"""Rules of values that many kinds share: ports, quantities, selectors, addresses, CIDRs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_network
from typing import Any

from podwire.apiserver.errors import FieldError, field_forbidden, invalid_value, required, unsupported
from podwire.apiserver.validation import names
from podwire.model.objects import Obj

PORT_RANGE = "must be between 1 and 65535, inclusive"
_OPERATORS = ("DoesNotExist", "Exists", "In", "NotIn")
_QUANTITY = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E|[eE][+-]?\d+)?")
_BINARY = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50, "Ei": 1 << 60}
_DECIMAL = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
QUANTITY_HELP = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"


def check_port(number: Any, path: str) -> Iterator[FieldError]:
    """Check a port number."""
    if not isinstance(number, int) or not 1 <= number <= 65535:
        yield invalid_value(path, number, PORT_RANGE)


def quantity(value: Any) -> float | None:
    """Return a resource quantity as a number; None when it is none."""
    if isinstance(value, (int, float)):
        return float(value)
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    suffix = match[3] or ""
    if suffix[:1] in ("e", "E") and len(suffix) > 1:
        scale = 10.0 ** int(suffix[1:]) if suffix[1:].lstrip("+-").isdigit() else float(_BINARY.get(suffix, 1))
    else:
        scale = float(_BINARY.get(suffix) or _DECIMAL.get(suffix) or 1)
    number = float(match[2]) * scale
    return -number if match[1] == "-" else number


def check_quantities(resources: Mapping[str, Any], path: str) -> Iterator[FieldError]:
    """Check the limits and requests of a container."""
    limits: Mapping[str, Any] = resources.get("limits") or {}
    requests: Mapping[str, Any] = resources.get("requests") or {}
    for field, values in (("limits", limits), ("requests", requests)):
        for name, value in values.items():
            number = quantity(value)
            where = f"{path}.{field}[{name}]"
            if number is None:
                yield invalid_value(where, value, QUANTITY_HELP)
            elif number < 0:
                yield invalid_value(where, value, "must be greater than or equal to 0")
    for name, value in requests.items():
        limit, number = quantity(limits.get(name)), quantity(value)
        if limit is not None and number is not None and number > limit:
            why = f"must be less than or equal to {name} limit of {limits[name]}"
            yield invalid_value(f"{path}.requests", value, why)


def check_selector(selector: Any, path: str) -> Iterator[FieldError]:
    """Check a metav1.LabelSelector."""
    if not isinstance(selector, Mapping):
        return
    if selector.get("matchLabels"):
        yield from names.check_labels(selector["matchLabels"], f"{path}.matchLabels")
    for n, term in enumerate(selector.get("matchExpressions") or ()):
        where = f"{path}.matchExpressions[{n}]"
        operator, values = term.get("operator"), term.get("values") or ()
        if operator in ("In", "NotIn") and not values:
            yield required(f"{where}.values", "must be specified when `operator` is 'In' or 'NotIn'")
        elif operator in ("Exists", "DoesNotExist") and values:
            yield field_forbidden(
                f"{where}.values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
            )
        elif operator not in _OPERATORS:
            yield invalid_value(f"{where}.operator", operator or "", "not a valid selector operator")
        why = names.qualified_problem(term.get("key", ""))
        if why:
            yield invalid_value(f"{where}.key", term.get("key", ""), why)


def check_cidr(text: Any, path: str) -> Iterator[FieldError]:
    """Check a CIDR."""
    try:
        ip_network(text, strict=False)
        if "/" not in text:
            raise ValueError
    except (ValueError, TypeError):
        yield invalid_value(path, text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")


def check_address(text: Any, path: str) -> Iterator[FieldError]:
    """Check an IP address."""
    try:
        ip_address(text)
    except ValueError:
        yield invalid_value(path, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")


def check_one_of(obj: Obj, path: str, field: str, allowed: tuple[str, ...]) -> Iterator[FieldError]:
    """Check that a field, where set, has one of a few values."""
    value = obj.get(field)
    if value is not None and value not in allowed:
        yield unsupported(f"{path}.{field}", value, allowed)


def check_at_least(obj: Obj, path: str, field: str, least: int) -> Iterator[FieldError]:
    """Check that a number, where set, is not less than ``least``."""
    value = obj.get(field)
    if value is not None and value < least:
        yield invalid_value(f"{path}.{field}", value, f"must be greater than or equal to {least}")


def check_immutable(new: Any, old: Any, path: str) -> Iterator[FieldError]:
    """Check that a value did not change."""
    if new != old:
        yield invalid_value(path, new, "field is immutable")
