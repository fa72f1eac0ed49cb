"""What the documents tell people to type is typed here."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from labkit import Lab, eventually

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]


def indented(text: str) -> list[str]:
    """Return the commands of a document's indented blocks."""
    return [line.strip() for line in text.splitlines() if re.match(r" {4}(kubectl|podwire) ", line)]


def in_table(text: str) -> list[str]:
    """Return the commands that a document's tables show, in backticks, in their last column."""
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    return [c for row in rows for c in re.findall(r"`((?:kubectl|podwire) [^`]+)`", row.rsplit("|", 2)[1])]


def type_in(lab: Lab, command: str) -> str:
    """Run a document's command on ``lab`` and return what it prints."""
    words = shlex.split(command)
    if words[0] == "kubectl":
        return lab.kubectl(*words[1:]).stdout
    return lab.podwire(*words[1:]).stdout


@pytest.fixture(scope="module")
def walked(lab: Lab) -> Iterator[tuple[Lab, str]]:
    """The two pods of docs/packets/pod-to-pod.md, made as it says; and its text with their addresses."""
    text = (ROOT / "docs/packets/pod-to-pod.md").read_text()
    for command in indented(text):
        if command.startswith("kubectl run"):
            type_in(lab, command)
    lab.wait("condition=Ready", "pod/a", "pod/b")
    yield lab, text.replace("10.244.1.7", lab.pod_ip("b")).replace("10.244.0.5", lab.pod_ip("a"))
    lab.kubectl("delete", "pod", "a", "b", "--grace-period=0", "--force", check=False)


def test_every_step_of_the_walk_can_be_seen(walked: tuple[Lab, str]) -> None:
    lab, text = walked
    lab.exec("a", "curl", "-s", f"http://{lab.pod_ip('b')}")
    steps = [c for c in in_table(text) if "tcpdump" not in c]
    assert len(steps) >= 6
    for command in steps:
        assert type_in(lab, command).strip(), command


def test_the_encapsulated_packet_can_be_caught(walked: tuple[Lab, str]) -> None:
    lab, text = walked
    (command,) = [c for c in in_table(text) if "tcpdump" in c]
    watch = command.replace("tcpdump ", "timeout 8 tcpdump -l -c 1 ").partition(" -- ")[2]
    script = f"{watch} 2>/dev/null & sleep 0.7; ping -c 3 -i 0.2 {lab.pod_ip('b')} >/dev/null; wait"
    assert "OTV" in (seen := lab.node("node-0", "sh", "-c", script)) or "VXLAN" in seen, seen


def test_a_deleted_route_comes_back(walked: tuple[Lab, str]) -> None:
    lab, text = walked
    delete, show = [c for c in indented(text) if " ip route " in c]
    type_in(lab, delete)
    eventually(lambda: "via 10.244.1.0 dev flannel.1 onlink" in type_in(lab, show))


def test_the_readmes_demo(lab: Lab, namespace: str) -> None:
    readme = (ROOT / "README.md").read_text()
    demo = [line[2:] for line in readme.splitlines() if line.startswith("$ kubectl")]
    assert len(demo) == 3
    lab.kubectl("config", "set-context", "--current", "--namespace", namespace)
    try:
        for command in demo[:2]:
            type_in(lab, command)
        lab.wait("condition=Available", "-n", namespace, "deployment/web")
        ask = demo[2].replace("-it", "-i")  # no terminal here
        assert eventually(lambda: "node: node-" in lab.kubectl(*shlex.split(ask)[1:], check=False).stdout)
    finally:
        lab.kubectl("config", "set-context", "--current", "--namespace", "default")


def test_every_command_and_flag_that_the_readme_names_exists(lab: Lab) -> None:
    readme = (ROOT / "README.md").read_text()
    names = set(re.findall(r"`podwire ([a-z]+)", readme))
    known = lab.podwire("--help", named=False).stdout
    assert names
    for name in names:
        assert re.search(rf"^    {name} ", known, re.M), name
    flags = set(re.findall(r"(--(?:publish|image|ip-family|backend|mtu|pod-cidr|dry-kernel))", readme))
    helped = lab.podwire("up", "--help").stdout
    assert len(flags) >= 6
    for flag in flags:
        assert flag in helped, flag
