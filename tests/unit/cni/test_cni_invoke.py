"""Chains: order, prevResult, caching, errors; with plugins in this process and as shell scripts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from podwire.cni.confdir import ConfigDirectory
from podwire.cni.invoke import Invoker, RuntimeConf
from podwire.cni.netconf import parse_list
from podwire.cni.network import CniNetwork, parse_bandwidth, pod_addresses, runtime_conf
from podwire.cni.resultcache import CachedAttachment, ResultCache
from podwire.cni.spec import CniError, parse_result
from podwire.model.errors import MachineError
from podwire.model.podnetwork import Attachment, HostPort


class Recorder:
    """Plugins that remember what they were asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, dict]] = []
        self.fail: dict[tuple[str, str], CniError] = {}

    def plugin(self, name):
        async def run(request):
            self.calls.append((name, request.command, dict(request.config)))
            if (name, request.command) in self.fail:
                raise self.fail[name, request.command]
            if request.command == "ADD":
                chain = (request.config.get("prevResult") or {}).get("dns", {}).get("search", [])
                return {
                    "cniVersion": request.version,
                    "ips": [{"address": "10.0.0.2/24"}],
                    "dns": {"search": [*chain, name]},
                }
            return None

        return run

    def order(self, command):
        return [name for name, said, _ in self.calls if said == command]


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def invoker(tmp_path, recorder):
    names = {n: recorder.plugin(n) for n in ("one", "two", "three")}
    return Invoker(ResultCache(tmp_path), path=(), in_process=names)


def network(version="1.1.0", *types, **more):
    return parse_list(
        {
            "cniVersion": version,
            "name": "net",
            "plugins": [{"type": t} for t in types or ("one", "two", "three")],
            **more,
        }
    )


POD = RuntimeConf("c1", "/run/netns/c1", args={"K8S_POD_NAME": "web"})


async def test_add_goes_forward_and_delete_backward(invoker, recorder):
    result = await invoker.add(network(), POD)
    assert result.dns == {"search": ["one", "two", "three"]}
    assert recorder.order("ADD") == ["one", "two", "three"]
    await invoker.check(network(), POD)
    await invoker.delete(network(), POD)
    assert recorder.order("CHECK") == ["one", "two", "three"]
    assert recorder.order("DEL") == ["three", "two", "one"]
    for _, command, config in recorder.calls:
        if command in ("CHECK", "DEL"):
            assert config["prevResult"]["dns"] == {"search": ["one", "two", "three"]}


async def test_a_new_process_finds_the_result(tmp_path, invoker, recorder):
    await invoker.add(network(), POD)
    again = Invoker(ResultCache(tmp_path), path=(), in_process={n: recorder.plugin(n) for n in ("one", "two", "three")})
    await again.delete(network("1.1.0", "one"), POD)  # the configuration changed since
    assert recorder.order("DEL") == ["three", "two", "one"]
    recorder.calls.clear()
    await again.delete(network("1.1.0", "one"), POD)
    assert recorder.order("DEL") == ["one"]
    assert "prevResult" not in recorder.calls[0][2]
    await again.delete(None, POD)


async def test_a_failed_add_is_deleted_without_result(invoker, recorder):
    recorder.fail["two", "ADD"] = CniError(7, "no")
    with pytest.raises(CniError, match="two: no") as caught:
        await invoker.add(network(), POD)
    assert caught.value.code == 7
    assert recorder.order("ADD") == ["one", "two"]
    await invoker.delete(network(), POD)
    assert recorder.order("DEL") == ["three", "two", "one"]
    assert all("prevResult" not in config for _, command, config in recorder.calls if command == "DEL")


async def test_delete_runs_every_plugin_and_can_be_repeated(invoker, recorder):
    await invoker.add(network(), POD)
    recorder.fail["three", "DEL"] = CniError(11, "busy")
    with pytest.raises(CniError, match="three: busy"):
        await invoker.delete(network(), POD)
    assert recorder.order("DEL") == ["three", "two", "one"]
    del recorder.fail["three", "DEL"]
    recorder.calls.clear()
    await invoker.delete(network(), POD)
    assert recorder.calls[0][2]["prevResult"]["ips"] == [{"address": "10.0.0.2/24"}]


async def test_old_versions_have_no_check_and_no_result_on_delete(invoker, recorder):
    await invoker.add(network("0.3.1"), POD)
    await invoker.check(network("0.3.1"), POD)
    await invoker.delete(network("0.3.1"), POD)
    assert recorder.order("CHECK") == []
    assert all("prevResult" not in config for _, command, config in recorder.calls if command == "DEL")


async def test_check_needs_an_add_and_can_be_forbidden(invoker, recorder):
    with pytest.raises(CniError, match="no result of a former ADD"):
        await invoker.check(network(), POD)
    await invoker.check(network(disableCheck=True), POD)
    assert recorder.calls == []


async def test_gc_deletes_the_stale_and_names_the_living(invoker, recorder):
    for name in ("a", "b", "c"):
        await invoker.add(network(), RuntimeConf(name, f"/n/{name}"))
    recorder.calls.clear()
    await invoker.collect_garbage(network(), [("b", "eth0")])
    assert len(recorder.order("DEL")) == 6
    assert recorder.order("GC") == ["one", "two", "three"]
    assert recorder.calls[-1][2]["cni.dev/valid-attachments"] == [{"containerID": "b", "ifname": "eth0"}]
    recorder.calls.clear()
    await invoker.collect_garbage(network("1.0.0"), [("b", "eth0")])
    assert recorder.calls == []
    await invoker.collect_garbage(network(disableGC=True), [])
    assert recorder.calls == []


SCRIPT = """#!/bin/sh
cat > "{log}"
env | grep ^CNI_ | sort >> "{log}.env"
{act}
"""


def script(directory: Path, name: str, act: str) -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(SCRIPT.format(log=directory / f"{name}.log", act=act))
    path.chmod(0o755)
    return path


async def test_an_executable_gets_environment_and_configuration(tmp_path):
    bin = tmp_path / "bin"
    answer = {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.7/24"}]}
    script(bin, "plug", f"echo '{json.dumps(answer)}'")
    invoker = Invoker(ResultCache(tmp_path / "cache"), path=(tmp_path / "none", bin))
    result = await invoker.add(network("1.0.0", "plug"), POD)
    assert [str(ip) for ip in pod_addresses(result)] == ["10.0.0.7"]
    assert json.loads((bin / "plug.log").read_text()) == {"type": "plug", "cniVersion": "1.0.0", "name": "net"}
    assert (bin / "plug.log.env").read_text().splitlines() == [
        "CNI_ARGS=K8S_POD_NAME=web",
        "CNI_COMMAND=ADD",
        "CNI_CONTAINERID=c1",
        "CNI_IFNAME=eth0",
        "CNI_NETNS=/run/netns/c1",
        f"CNI_PATH={tmp_path / 'none'}:{bin}",
    ]


@pytest.mark.parametrize(
    ("act", "code", "says"),
    [
        ('echo \'{"code": 11, "msg": "later"}\'; exit 1', 11, "plug: later"),
        ("echo broken >&2; exit 3", 100, r"exit code 3\): broken"),
        ("echo '[1]'", 6, "no JSON object"),
        ("echo nonsense", 6, "no JSON object"),
        ("true", 6, "ADD returned no result"),
        ("kill -9 $$", 100, "killed by signal 9"),
        ("exec sleep 30", 100, "did not end within 0.3 s"),
    ],
)
async def test_an_executable_that_fails(tmp_path, act, code, says):
    script(tmp_path / "bin", "plug", act)
    invoker = Invoker(ResultCache(tmp_path), path=(tmp_path / "bin",), timeout_s=0.3 if "sleep" in act else 20)
    with pytest.raises(CniError, match=says) as caught:
        await invoker.add(network("1.0.0", "plug"), POD)
    assert caught.value.code == code


async def test_an_executable_that_is_not_there(tmp_path):
    invoker = Invoker(ResultCache(tmp_path), path=(tmp_path,))
    with pytest.raises(CniError, match=f"plugin plug is not in {tmp_path}"):
        await invoker.status(network("1.0.0", "plug"))


async def test_versions_of_an_executable(tmp_path):
    script(tmp_path, "plug", """echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}'""")
    assert await Invoker(ResultCache(tmp_path), path=(tmp_path,)).versions("plug") == ("0.4.0", "1.0.0")


def test_the_cache_reads_what_it_wrote_and_passes_over_rubbish(tmp_path):
    cache = ResultCache(tmp_path)
    entry = CachedAttachment("net", "c-1", "eth0", "/n", {"a": 1}, {"X": "y"}, {"z": [1]}, {"ips": []})
    cache.write(entry)
    cache.write(entry)
    assert cache.read("net", "c-1", "eth0") == entry
    assert cache.find("c-1", "eth0") == (entry,)
    assert cache.find("1", "eth0") == ()
    (tmp_path / "results/net-c2-eth0").write_text("{")
    (tmp_path / "results/net-c3-eth0").write_text('{"kind": "other"}')
    assert list(cache.entries()) == [entry]
    cache.forget("net", "c-1", "eth0")
    cache.forget("net", "c-1", "eth0")
    assert cache.read("net", "c-1", "eth0") is None
    assert list(ResultCache(tmp_path / "nowhere").entries()) == []


def test_the_configuration_is_read_again_when_it_changes(tmp_path):
    directory = ConfigDirectory(tmp_path)
    with pytest.raises(CniError, match="no network configuration"):
        directory.current()
    (tmp_path / "20.conflist").write_text(json.dumps({"cniVersion": "1.0.0", "name": "b", "plugins": [{"type": "x"}]}))
    assert directory.current().name == "b"
    assert directory.current() is directory.current()
    (tmp_path / "10.conf").write_text(json.dumps({"cniVersion": "1.0.0", "name": "a", "type": "x"}))
    (tmp_path / "00.txt").write_text("not one")
    assert directory.current().name == "a"
    (tmp_path / "10.conf").unlink()
    assert directory.current().name == "b"
    (tmp_path / "20.conflist").write_text(json.dumps({"cniVersion": "1.0.0", "name": "c2", "plugins": [{}]}))
    with pytest.raises(CniError, match=r"20.conflist: plugins\[0\].type"):
        directory.current()


ATTACHMENT = Attachment(
    "sandbox",
    Path("/n"),
    "ns",
    "web",
    "uid",
    (HostPort(8080, 80), HostPort(53, 53, "UDP", "10.0.0.1")),
    (("kubernetes.io/ingress-bandwidth", "10M"), ("kubernetes.io/egress-bandwidth", "much")),
)


def test_what_plugins_are_told_of_a_pod():
    told = runtime_conf(ATTACHMENT)
    assert told.args == {
        "IgnoreUnknown": "1",
        "K8S_POD_NAMESPACE": "ns",
        "K8S_POD_NAME": "web",
        "K8S_POD_INFRA_CONTAINER_ID": "sandbox",
        "K8S_POD_UID": "uid",
    }
    assert told.capability_args["portMappings"] == [
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "10.0.0.1"},
    ]
    assert told.capability_args["bandwidth"] == {"ingressRate": 10_000_000, "ingressBurst": 2**31 - 1}


@pytest.mark.parametrize(
    ("text", "bits"), [("1G", 10**9), ("512Ki", 512 * 1024), ("100", 100), ("1m", None), ("M", None)]
)
def test_bandwidth_quantities(text, bits):
    assert parse_bandwidth({"kubernetes.io/egress-bandwidth": text}).get("egressRate") == bits


def test_pod_addresses_are_those_inside():
    result = parse_result(
        {
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "cni0"}, {"name": "eth0", "sandbox": "/n"}],
            "ips": [
                {"address": "10.0.0.1/24", "interface": 0},
                {"address": "10.0.0.2/24", "interface": 1},
                {"address": "fd00::2/64"},
                {"address": "10.0.0.2/24", "interface": 1},
            ],
        }
    )
    assert [str(a) for a in pod_addresses(result)] == ["10.0.0.2", "fd00::2"]


async def test_the_network_of_a_node(tmp_path, recorder):
    (tmp_path / "net.d").mkdir()
    pods = CniNetwork(
        config_directory=tmp_path / "net.d",
        cache_directory=tmp_path,
        path=(),
        in_process={"one": recorder.plugin("one")},
    )
    assert "no network configuration" in await pods.status()
    with pytest.raises(MachineError, match=r"^cni: ADD pod ns/web: no network configuration in .* \(code 50\)"):
        await pods.add(ATTACHMENT)
    await pods.delete(ATTACHMENT)
    (tmp_path / "net.d/1.conflist").write_text(
        json.dumps({"cniVersion": "1.1.0", "name": "net", "plugins": [{"type": "one"}]})
    )
    assert await pods.status() == ""
    assert [str(a) for a in await pods.add(ATTACHMENT)] == ["10.0.0.2"]
    recorder.calls.clear()
    await pods.collect_garbage(())  # the caller's list is older than this ADD
    assert recorder.order("DEL") == []
    recorder.fail["one", "CHECK"] = CniError(110, "eth0 is down")
    with pytest.raises(MachineError, match=r"cni: CHECK pod ns/web: one: eth0 is down \(code 110\)"):
        await pods.check(ATTACHMENT)
    await pods.delete(ATTACHMENT)
    recorder.fail["one", "STATUS"] = CniError(51, "limited")
    assert await pods.status() == "one: limited"
