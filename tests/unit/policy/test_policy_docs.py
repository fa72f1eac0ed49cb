"""docs/policy.md shows the table of edges as it is tested. Run this file to write it anew."""

from __future__ import annotations

import re
from pathlib import Path

from policy_cases import TABLE

PAGE = Path(__file__).parents[3] / "docs/policy.md"
HEAD = "| case | policies | packet | verdict |\n| --- | --- | --- | --- |\n"


def table() -> str:
    return HEAD + "".join(
        f"| {name} | {' and '.join(_short(p) for p in policies) or 'none'} | `{text}` | {'allowed' if allowed else 'denied'} |\n"
        for name, policies, text, allowed, _ in TABLE
    )


def _short(policy: str) -> str:
    """The specification alone, with its kind where that is not NetworkPolicy."""
    kind = re.match(r"\{kind: (\w+)", policy)[1]  # type: ignore[index]
    spec = policy[policy.index("spec: ") + 6 : -1]
    return ("" if kind == "NetworkPolicy" else f"{kind} ") + f"`{spec}`"


def test_the_page_shows_the_table() -> None:
    assert PAGE.read_text().endswith(table()), f"run python {Path(__file__).name} to write the table anew"


if __name__ == "__main__":
    text = PAGE.read_text()
    PAGE.write_text((text[: text.index(HEAD)] if HEAD in text else text) + table())
