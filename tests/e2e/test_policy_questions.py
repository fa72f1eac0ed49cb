"""`why`, `matrix`, `diff` and `lint` on a live cluster, and the `cluster` fixture: what is said is what packets do."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from labkit import Lab

from podwire.testing.live import LiveCluster

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
SHOP = ROOT / "tests" / "scenarios" / "shop" / "shop.yaml"


def run_pytest(directory: Path) -> subprocess.CompletedProcess[str]:
    """Run pytest in ``directory`` with the plugin and none of this project's settings."""
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", str(directory)]
    if not any(e.value == "podwire.testing.plugin" for e in entry_points(group="pytest11")):
        words += ["-p", "podwire.testing.plugin"]  # installed before the plugin was there
    return subprocess.run(words, cwd=directory, capture_output=True, text=True, check=False, timeout=90)


@pytest.fixture(scope="module")
def shop(lab: Lab) -> Iterator[LiveCluster]:
    live = LiveCluster(lab.name, lab.home)
    live.apply(str(SHOP))
    yield live
    lab.kubectl("delete", "namespace", "shop", "--wait=false", check=False)


QUESTIONS = [
    ("frontend", "backend:80"), ("frontend", "deploy/backend:8080"), ("frontend", "db:5432"), ("backend", "db:5432"),
    ("db", "backend:80"), ("backend", "frontend:80"), ("frontend", "backend.shop.svc.cluster.local:80"),
    ("frontend", "kube-system/deploy/coredns:53/TCP"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "destination"), QUESTIONS)
def test_packets_do_what_why_says(shop: LiveCluster, source: str, destination: str) -> None:
    said = shop.why(source, destination, "shop").allowed
    assert bool(shop.pod(source, "shop").reaches(destination)) == said


def test_why_on_the_command_line(shop: LiveCluster, lab: Lab) -> None:
    allowed = lab.podwire("why", "-n", "shop", "-o", "json", "frontend", "backend:80")
    answer = json.loads(allowed.stdout)
    assert answer["verdict"] == "allowed"
    assert [h["hop"] for h in answer["hops"]][:3] == ["dns", "service", "nat"]
    denied = lab.podwire("why", "-n", "shop", "frontend", "db:5432", check=False)
    assert (denied.returncode, denied.stdout.splitlines()[0]) == (
        1,
        "DENIED: deploy/frontend in shop -> svc/db in shop:5432/TCP",
    )
    assert lab.podwire("why", "nobody", "db:5432", check=False).returncode == 2


def test_the_fix_that_why_proposes_lets_packets_pass(shop: LiveCluster, lab: Lab) -> None:
    text = """\
apiVersion: v1
kind: Pod
metadata: {name: auditor, namespace: shop, labels: {app: auditor}}
spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, image: busybox, command: [sleep, "600"]}]}
"""
    shop.apply(text)
    assert not shop.pod("auditor", "shop").reaches("deploy/backend:8080")
    answer = shop.why("auditor", "deploy/backend:8080", "shop")
    assert [f.proved for f in answer.fixes] == [True, True]
    for fix in answer.fixes:
        if fix.yaml.startswith("apiVersion"):
            shop.apply(fix.yaml)
        else:
            name, path = re.fullmatch(r"add to NetworkPolicy shop/(\S+) spec\.(\S+):", fix.text).groups()  # type: ignore[union-attr]
            pointer = "/spec/" + path.replace("[", "/").replace("]", "").replace(".", "/") + "/-"
            import yaml

            patch = [{"op": "add", "path": pointer, "value": value} for value in yaml.safe_load(fix.yaml)]
            lab.kubectl("patch", "networkpolicy", "-n", "shop", name, "--type=json", "-p", json.dumps(patch))
    assert shop.pod("auditor", "shop").reaches("deploy/backend:8080")


def test_matrix_diff_and_lint_read_the_cluster(shop: LiveCluster, lab: Lab, tmp_path: Path) -> None:
    cells = json.loads(lab.podwire("matrix", "-n", "shop", "--only-namespace", "-o", "json").stdout)
    found = {(c["source"], c["destination"]): c["text"] for c in cells}
    assert found["shop/deploy/backend", "shop/sts/db"] == "5432/TCP"
    assert found["shop/deploy/frontend", "shop/sts/db"] == "-"
    change = tmp_path / "change.yaml"
    change.write_text(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: db, namespace: shop}\nspec: {podSelector: {matchLabels: {app: db}}}\n"
    )
    changes = json.loads(lab.podwire("diff", "-o", "json", "-f", str(change), check=False).stdout)
    assert [(c["change"], c["source"], c["destination"]) for c in changes] == [
        ("cuts", "shop/deploy/backend", "shop/sts/db")
    ]
    assert lab.podwire("diff", "live", "live").returncode == 0
    assert lab.podwire("lint", "-o", "sarif", check=False).stdout.startswith("{")


def test_the_cluster_fixture_runs_the_worked_example(tmp_path: Path) -> None:
    examples = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", (ROOT / "docs" / "testing.md").read_text(), re.S))
    shutil.copy(SHOP, tmp_path)
    (tmp_path / "test_shop_live.py").write_text(examples["test_shop_live.py"])
    done = run_pytest(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_the_example_of_the_readme_holds(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(# test_shop\.py.*?)```", (ROOT / "README.md").read_text(), re.S)
    shutil.copy(SHOP, tmp_path)
    (tmp_path / "test_shop.py").write_text(example)
    done = run_pytest(tmp_path)
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_suggest_learns_from_what_the_nodes_track(shop: LiveCluster, lab: Lab, tmp_path: Path) -> None:
    import yaml

    assert shop.pod("frontend", "shop").reaches("backend:80")
    done = lab.podwire("suggest", "-n", "shop", "--only-namespace")
    policies = {p["metadata"]["name"]: p for p in yaml.safe_load_all(done.stdout)}
    rule = policies["backend-seen"]["spec"]["ingress"][0]
    assert rule["from"] == [{"podSelector": {"matchLabels": {"app": "frontend"}}}]
    assert {"protocol": "TCP", "port": 8080} in rule["ports"]
    assert "flows from" in done.stdout or "flow from" in done.stdout
    assert "shop/deploy/frontend -> " in done.stderr or "these policies cut" in done.stderr
