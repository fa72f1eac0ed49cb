"""The commands on files: what they print and how they exit."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from podwire.cli.main import main

ROOT = Path(__file__).parents[2] / "scenarios"
SHOP = str(ROOT / "shop")


@pytest.mark.parametrize(
    ("words", "code", "shown"),
    [
        (["why", "-f", SHOP, "-n", "shop", "frontend", "backend:80"], 0, "allowed: deploy/frontend"),
        (["why", "-f", SHOP, "-n", "shop", "frontend", "db:5432"], 1, "to fix: add to NetworkPolicy shop/frontend"),
        (["why", "-f", SHOP, "-n", "shop", "--plugin", "flannel", "frontend", "db:5432"], 0, "does not enforce"),
        (["why", "-f", SHOP, "nobody", "db:5432"], 2, ""),
        (["why", "-f", "/nowhere.yaml", "a", "b:1"], 2, ""),
        (["matrix", "-f", SHOP], 0, "shop/deploy/frontend   8080/TCP"),
        (["matrix", "-f", SHOP, "--by", "pod", "-o", "csv"], 0, "shop/frontend-0,shop/backend-0,8080/TCP"),
        (["matrix", "-f", SHOP, "--exposure"], 0, "NodePort svc/frontend 80:30080/TCP"),
        (["lint", SHOP], 0, ""),
        (["lint", "--rules"], 0, "PW004"),
        (["lint", str(ROOT / "guides")], 1, "PW201 ingress-annotation-unknown"),
        (["lint", str(ROOT / "guides"), "--ignore", "PW999"], 2, ""),
        (["diff", SHOP, SHOP], 0, ""),
        (["diff", SHOP], 2, ""),
    ],
)
def test_commands(words: list[str], code: int, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == code
    assert shown in capsys.readouterr().out


def test_diff_of_files_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "shop" / "shop.yaml").read_text()
    new = tmp_path / "new.yaml"
    new.write_text(text.replace("    ports: [{port: 5432}]", "    ports: [{port: 5433}]"))
    assert main(["diff", SHOP, str(new), "-o", "json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [(c["change"], c["ports"]) for c in found] == [("cuts", "5432/TCP"), ("opens", "5433/TCP")]


def test_standard_input_takes_what_kustomize_and_helm_print(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "shop" / "shop.yaml").read_text()
    rendered = "---\n# Source: shop/templates/all.yaml\n" + text
    monkeypatch.setattr("sys.stdin", io.StringIO(rendered))
    assert main(["why", "-f", "-", "-n", "shop", "--json", "frontend", "backend:80"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["deciding"]["file"] == "<stdin>"
    assert rendered.splitlines()[answer["deciding"]["line"] - 1] == "  - from:"
