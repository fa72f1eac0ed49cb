"""The matrix as CSV, DOT and HTML. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from html import escape

from podwire.verify.grid import Cell, Grid


def as_json(grid: Grid) -> list[dict[str, object]]:
    """Return one object a cell."""
    return [
        {
            "source": c.source, "destination": c.destination, "mixed": c.mixed,
            "ports": [{"protocol": p.protocol, "first": p.first, "last": p.last} for p in c.ports], "text": c.word,
        }
        for c in grid.cells.values()
    ]  # fmt: skip


def as_csv(grid: Grid) -> str:
    """Return one line a cell, with a header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("source", "destination", "ports"))
    writer.writerows((c.source, c.destination, c.word) for c in grid.cells.values())
    return text.getvalue()


def as_dot(grid: Grid) -> str:
    """Return a graph for Graphviz: a node a party, a cluster a namespace, an edge where something passes."""
    lines = ["digraph reachability {", "  rankdir=LR; node [shape=box, fontname=Helvetica];"]
    for index, namespace in enumerate(sorted({line.namespace for line in grid.lines if line.namespace})):
        lines.append(f"  subgraph cluster_{index} {{ label={_quoted(namespace)};")
        lines += [f"    {_quoted(line.name)};" for line in grid.lines if line.namespace == namespace]
        lines.append("  }")
    for cell in grid.cells.values():
        if cell.ports or cell.mixed:
            label = "" if cell.word == "all" else f" [label={_quoted(cell.word)}]"
            lines.append(f"  {_quoted(cell.source)} -> {_quoted(cell.destination)}{label};")
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


_STYLE = """\
body{font:14px system-ui,sans-serif;margin:2rem;color:#1c2733;background:#fff}
table{border-collapse:collapse}th{font-weight:600;text-align:left;padding:.3rem .5rem}
thead th{vertical-align:bottom;writing-mode:vertical-rl;transform:rotate(180deg);max-height:16rem}
td{border:1px solid #fff;padding:.3rem .5rem;text-align:center;min-width:2.2rem;font-size:12px}
.none{background:#e3e8ee;color:#66707a}.some{background:#f6c667}.all{background:#e4572e;color:#fff}
.mixed{background:repeating-linear-gradient(45deg,#f6c667,#f6c667 6px,#e3e8ee 6px,#e3e8ee 12px)}
.self{background:#fff}caption{text-align:left;padding-bottom:1rem;color:#66707a}
"""


def as_html(grid: Grid, title: str) -> str:
    """Return a page of its own with a heat-map: rows are sources, columns destinations. It loads nothing."""
    head = "".join(f"<th scope=col>{escape(line.name)}</th>" for line in grid.lines)
    body = "".join(_html_rows(grid))
    caption = "Rows reach columns. Red: everything. Amber: the ports shown. Grey: nothing. Striped: pods differ."
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>{escape(title)}</h1><table><caption>{caption}</caption><thead><tr><th></th>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></html>\n"
    )


def _html_rows(grid: Grid) -> Iterator[str]:
    for line, cells in grid.rows():
        shown = "".join(_html_cell(cell) for cell in cells)
        yield f"<tr><th scope=row>{escape(line.name)}</th>{shown}</tr>"


def _html_cell(cell: Cell | None) -> str:
    if cell is None:
        return "<td class=self></td>"
    kind = "mixed" if cell.mixed else {0.0: "none", 1.0: "all"}.get(cell.share, "some")
    what = escape(f"{cell.source} → {cell.destination}: {cell.word}")
    return f'<td class={kind} title="{what}">{escape(cell.word)}</td>'
