"""The cluster DNS as pods see it: through the Service IP, from a zone file, and soon after a change."""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from labkit import KUBECTL, Lab, eventually

from podwire.client.http import HttpClient, from_kubeconfig
from podwire.model.resources import SERVICES

pytestmark = pytest.mark.e2e
ZONE = """$TTL 300
@            IN SOA ns. admin. 1 2h 30m 1d 30
example.com. IN A 192.0.2.80
httpbin.org. IN A 192.0.2.82
"""
# Runs in the pod: asks for fresh-0, fresh-1 ... without pause, and says when each was first there (CLOCK_MONOTONIC).
ASKER = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(("10.96.0.10", 53)); s.settimeout(1)
def name(text): return b"".join(bytes((len(l),)) + l.encode() for l in text.split(".")) + b"\\0"
for i in range(int(sys.argv[1])):
    query = b"\\0\\7\\x01\\0\\0\\1\\0\\0\\0\\0\\0\\0" + name(f"fresh-{i}.default.svc.cluster.local") + b"\\0\\1\\0\\1"
    while True:
        s.send(query)
        try:
            if s.recv(512)[7]: break
        except TimeoutError: pass
        time.sleep(0.0005)
    print(time.monotonic(), flush=True)
"""


@pytest.fixture(scope="module")
def dns_lab(new_lab: Callable[..., Lab], home: Path) -> Lab:
    """Two nodes, and a zone file for the rest of the world."""
    zone = home / "upstream.zone"
    zone.write_text(ZONE)
    lab = new_lab("dns", "--nodes", "2", "--upstream-zone", str(zone))
    lab.kubectl("run", "box", "--image", "busybox", "--", "sleep", "1000")
    lab.wait("condition=Ready", "pod/box")
    lab.wait("condition=Available", "-n", "kube-system", "deployment/coredns")
    return lab


def test_names_of_elsewhere_come_from_the_zone_file(dns_lab: Lab) -> None:
    dns_lab.kubectl("create", "service", "externalname", "out", "--external-name", "httpbin.org")
    assert dns_lab.exec("box", "dig", "+short", "example.com") == "192.0.2.80\n"
    assert "192.0.2.80" in dns_lab.exec("box", "getent", "ahostsv4", "example.com")
    found = eventually(lambda: dns_lab.exec("box", "dig", "+short", "out.default.svc.cluster.local"))
    assert found == "httpbin.org.\n192.0.2.82\n"


def test_a_person_is_told_why_a_name_does_not_resolve(dns_lab: Lab) -> None:
    good = json.loads(dns_lab.podwire("dns", "query", "kube-dns.kube-system", "--from", "box", "-o", "json").stdout)
    assert [s["answer"] for s in good["steps"]] == ["NXDOMAIN", "NOERROR"]
    assert good["search"] == ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"]
    bad = dns_lab.podwire("dns", "query", "nope.default.svc.cluster.local.", check=False)
    assert bad.returncode == 1
    assert "there is no Service 'nope'" in bad.stdout
    assert dns_lab.podwire("dns", "query", "x", "--from", "ghost", check=False).returncode == 2


def test_parallel_pairs_through_the_service_never_time_out(dns_lab: Lab) -> None:
    """A and AAAA from one port at one time: what made conntrack lose one of two, for five seconds."""
    pairs = "".join(f"{n} {t}\n" for n in ("kubernetes.default.svc.cluster.local", "nope.default.svc.cluster.local")
                    for t in ("A", "AAAA"))  # fmt: skip
    command = "cat > /tmp/q; dnsperf -s 10.96.0.10 -d /tmp/q -c 50 -q 100 -n 5000 -t 2"
    out = dns_lab.kubectl("exec", "-i", "box", "--", "sh", "-c", command, stdin=pairs).stdout
    assert "Queries lost:         0 " in out, out
    assert "Queries completed:    20000 " in out, out


async def _create(lab: Lab, first: int, count: int, prefix: str, pause_s: float = 0.0) -> list[float]:
    """Create Services; return the moment before each write."""
    client = HttpClient(from_kubeconfig(lab.home / lab.name / "kubeconfig"))
    moments = []
    try:
        for i in range(first, first + count):
            spec = {"ports": [{"port": 80, "protocol": "TCP"}], "selector": {"app": "x"}}
            meta = {"name": f"{prefix}-{i}", "namespace": "default"}
            moments.append(time.monotonic())
            await client.create(SERVICES, {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec})
            await asyncio.sleep(pause_s)
    finally:
        await client.close()
    return moments


def test_a_new_service_is_answered_for_in_milliseconds(dns_lab: Lab) -> None:
    command = [KUBECTL, "exec", "box", "--", "python3", "-c", ASKER, "40"]
    with subprocess.Popen(command, env=dns_lab.environment, stdout=subprocess.PIPE, text=True) as asking:
        time.sleep(0.5)
        written = asyncio.run(_create(dns_lab, 0, 40, "fresh", 0.03))
        out, _ = asking.communicate(timeout=20)
    took_ms = [(float(seen) - wrote) * 1000 for seen, wrote in zip(out.split(), written, strict=True)]
    print(f"API write to answer in a pod: p50 {statistics.median(took_ms):.1f} ms, worst {max(took_ms):.1f} ms")
    assert len(took_ms) == 40
    assert min(took_ms) > 0  # the pod cannot know before the write: both clocks are the machine's one
