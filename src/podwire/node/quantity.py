"""Resource quantities: "100m", "64Mi", "1e3", "2"."""

from __future__ import annotations

import math
import re
from fractions import Fraction

_SUFFIX = {
    "n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000), "": Fraction(1),
    "k": Fraction(10**3), "M": Fraction(10**6), "G": Fraction(10**9), "T": Fraction(10**12),
    "P": Fraction(10**15), "E": Fraction(10**18),
    "Ki": Fraction(1 << 10), "Mi": Fraction(1 << 20), "Gi": Fraction(1 << 30), "Ti": Fraction(1 << 40),
    "Pi": Fraction(1 << 50), "Ei": Fraction(1 << 60),
}  # fmt: skip
_FORM = re.compile(r"([+-]?[0-9]*\.?[0-9]+|[0-9]+\.)(?:[eE]([+-]?[0-9]+)|(n|u|m|k|[MGTPE]i?|Ki|))")


def parse(text: str | int | float) -> Fraction:
    """Return the exact value. Raises ValueError."""
    m = _FORM.fullmatch(str(text).strip())
    if m is None:
        raise ValueError(f"{text!r} is no quantity")
    number = Fraction(m[1])
    return number * Fraction(10) ** int(m[2]) if m[2] is not None else number * _SUFFIX[m[3]]


def divide(text: str | int, divisor: str) -> str:
    """Return the quantity in units of ``divisor``, rounded up, as resourceFieldRef shows it."""
    unit = parse(divisor or "1") or Fraction(1)
    return str(math.ceil(parse(text) / unit))
