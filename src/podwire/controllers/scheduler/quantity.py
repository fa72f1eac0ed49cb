"""Kubernetes quantities ("250m", "1Gi", "1e3") as integers. Pure.

Grammar: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from functools import lru_cache
from typing import Any

_FORM = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d+)|([numkMGTPE]|[KMGTPE]i))?")
_SCALE = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1),
    "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9),
    "T": Decimal(10**12), "P": Decimal(10**15), "E": Decimal(10**18),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30),
    "Ti": Decimal(2**40), "Pi": Decimal(2**50), "Ei": Decimal(2**60),
}  # fmt: skip


def parse_whole(quantity: Any) -> int:
    """Return the quantity rounded up to a whole number; 0 for one that cannot be read."""
    return math.ceil(_parse(str(quantity)))


def parse_milli(quantity: Any) -> int:
    """Return the quantity in thousandths, rounded up; 0 for one that cannot be read."""
    return math.ceil(_parse(str(quantity)) * 1000)


@lru_cache(maxsize=1024)
def _parse(text: str) -> Decimal:
    m = _FORM.fullmatch(text.strip())
    if m is None:
        return Decimal(0)
    number = Decimal(m[1] + (m[2] or ""))
    return number * _SCALE[m[3] or ""]
