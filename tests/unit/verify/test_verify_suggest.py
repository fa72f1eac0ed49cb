"""Learning mode: what was seen stays allowed, what was not seen does not."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest
import yaml

from podwire.cli.main import main
from podwire.verify import sources, world
from podwire.verify.located import overlay
from podwire.verify.suggest import SeenFlow, render, suggest
from podwire.verify.why import why
from podwire.verify.world import World

SHOP = Path(__file__).parents[2] / "scenarios" / "shop"


@pytest.fixture(scope="module")
def shop() -> World:
    """The shop before anybody wrote a policy."""
    return world.build(o for o in sources.read([str(SHOP)]) if o.key.kind != "NetworkPolicy")


def flow(shop: World, source: str, destination: str, port: int, protocol: str = "TCP") -> SeenFlow:
    """Return a flow between pods by name, or addresses."""
    ips = {p.key.name: p.ip for p in shop.pods}
    return SeenFlow(ip_address(ips.get(source, source)), ip_address(ips.get(destination, destination)), protocol, port)


def test_policies_allow_what_was_seen_and_nothing_else(shop: World) -> None:
    seen = [
        flow(shop, "frontend-0", "backend-0", 8080), flow(shop, "backend-0", "db-0", 5432),
        flow(shop, "backend-0", "coredns", 53, "UDP"), flow(shop, "backend-0", "198.51.100.9", 443),
    ]  # fmt: skip
    text = render(suggest(shop, seen))
    after = world.build(overlay(shop.objects, sources.parse("s.yaml", text)))

    def reaches(source: str, destination: str) -> bool:
        return why(after, source, destination, "shop").allowed

    assert reaches("frontend", "backend.shop.svc:80")
    assert reaches("backend", "db:5432")
    assert reaches("backend", "198.51.100.9:443")
    assert not reaches("backend", "198.51.100.10:443")
    assert not reaches("frontend", "db:5432")
    assert not reaches("db", "backend:80")
    assert not reaches("internet", "deploy/backend:8080")


def test_each_rule_names_the_flows_behind_it(shop: World) -> None:
    (backend, frontend) = suggest(shop, [flow(shop, "frontend-0", "backend-0", 8080)])
    assert backend.evidence == {"spec.ingress[0]": "1 flow from shop/deploy/frontend on 8080/TCP"}
    assert list(frontend.evidence) == ["spec.egress[0]", "spec.egress[1]"]
    text = render([backend])
    lines = text.splitlines()
    assert lines[lines.index("  # 1 flow from shop/deploy/frontend on 8080/TCP") + 1] == "  - from:"
    assert yaml.safe_load(text) == backend.policy


def test_the_command_reads_flows_from_a_file(shop: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifests = tmp_path / "apps.yaml"
    manifests.write_text("\n---\n".join(yaml.safe_dump(o.object) for o in shop.objects if o.file != "(assumed)"))
    seen = flow(shop, "frontend-0", "backend-0", 8080)
    file = tmp_path / "seen.jsonl"
    file.write_text(f'{{"source": "{seen.source}", "destination": "{seen.destination}", "port": 8080}}\n\n')
    assert main(["suggest", "-f", str(manifests), "--flows", str(file)]) == 0
    shown = capsys.readouterr()
    assert [d["metadata"]["name"] for d in yaml.safe_load_all(shown.out)] == ["backend-seen", "frontend-seen"]
    assert "shop/deploy/frontend -> shop/sts/db: all" in shown.err
    assert "shop/deploy/backend: 8080" not in shown.err
    file.write_text("{}\n")
    assert main(["suggest", "-f", str(manifests), "--flows", str(file)]) == 2
    assert "seen.jsonl:1" in capsys.readouterr().err
