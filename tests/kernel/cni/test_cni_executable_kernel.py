"""The executable podwire-cni, in C and in Python, against a running agent."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path

import pytest

from podwire.cni import build, conflist
from podwire.cni.bridge import host_end
from podwire.cni.server import CniServer
from podwire.cni.spec import SUPPORTED_VERSIONS
from podwire.runtime.compiler import find_compiler

pytestmark = pytest.mark.kernel
COMPILERS = ["", pytest.param(None, marks=pytest.mark.skipif(not find_compiler(), reason="needs cc"))]


async def execute(node, binary, command, config, container="c1", netns="", prefix=(), **more):
    """Run the executable; return exit code and decoded output."""
    env = {
        "PATH": os.environ["PATH"],
        "PODWIRE_CNI_SOCKET": str(node.scratch / "cni.sock"),
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container,
        "CNI_NETNS": str(netns),
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
        **more,
    }
    process = await asyncio.create_subprocess_exec(
        *prefix, str(binary), env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate(json.dumps(config).encode())
    assert err == b""
    return process.returncode, json.loads(out) if out else None


def configuration(node, **more):
    listed = conflist.render_default(subnet_file=str(node.scratch / "subnet.env"))
    return {**listed["plugins"][0], "cniVersion": "1.1.0", "name": "cbr0", **more}


async def start(node, compiler):
    ready = asyncio.Event()
    server = asyncio.create_task(CniServer(node.scratch / "cni.sock", node.plugin.run).serve(ready))
    await ready.wait()
    made = build.build(node.scratch / "build", compiler=compiler)
    return server, build.install(made, node.scratch / "bin")


@pytest.mark.parametrize("compiler", COMPILERS)
def test_every_command_through_the_executable(run_node, compiler):
    async def body(node):
        server, binary = await start(node, compiler)
        pod, config = node.pod("a"), configuration(node)
        assert await execute(node, binary, "VERSION", {"cniVersion": "1.1.0"}) == (
            0,
            {"cniVersion": "1.1.0", "supportedVersions": list(SUPPORTED_VERSIONS)},
        )
        assert await execute(node, binary, "STATUS", config) == (0, None)
        code, result = await execute(node, binary, "ADD", config, netns=pod.netns)
        assert code == 0
        host = result["interfaces"][1]
        assert host["name"] == host_end("c1", "eth0")
        assert result == {
            "cniVersion": "1.1.0",
            "interfaces": [
                {"name": "cni0", "mac": "0a:58:0a:f4:01:01", "mtu": 1450},
                {"name": host["name"], "mac": host["mac"], "mtu": 1450},
                {"name": "eth0", "mac": "0a:58:0a:f4:01:02", "mtu": 1450, "sandbox": str(pod.netns)},
            ],
            "ips": [{"address": "10.244.1.2/24", "gateway": "10.244.1.1", "interface": 2}],
            "routes": [{"dst": "10.244.0.0/16"}, {"dst": "0.0.0.0/0", "gw": "10.244.1.1"}],
            "dns": {},
        }
        checked = {**config, "prevResult": result}
        assert await execute(node, binary, "CHECK", checked, netns=pod.netns) == (0, None)
        code, error = await execute(node, binary, "CHECK", config, netns=pod.netns)
        assert (code, error["code"], error["msg"]) == (1, 7, "prevResult: is missing, CHECK needs it")
        alive = {"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}]}
        assert await execute(node, binary, "GC", {**config, **alive}) == (0, None)
        assert await execute(node, binary, "CHECK", checked, netns=pod.netns) == (0, None)
        assert (await execute(node, binary, "GC", config))[1]["code"] == 7
        assert await execute(node, binary, "DEL", checked, netns=pod.netns) == (0, None)
        assert await execute(node, binary, "DEL", config, netns="") == (0, None)
        server.cancel()

    run_node(body)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_a_namespace_that_only_the_caller_can_see(run_node, compiler):
    """The caller pins its namespace in a mount view of its own; the descriptor goes along."""

    async def body(node):
        server, binary = await start(node, compiler)
        pod = node.pod("a")
        script = f"mkdir /run/mine && touch /run/mine/ns && mount --bind {pod.netns} /run/mine/ns && exec {binary}"
        hidden = ("unshare", "-m", "sh", "-c", script)
        code, result = await execute(node, binary, "ADD", configuration(node), netns="/run/mine/ns", prefix=hidden)
        assert (code, result["ips"][0]["address"]) == (0, "10.244.1.2/24")
        assert not Path("/run/mine/ns").is_mount()
        assert "10.244.1.2/24" in node.inside(pod, "ip", "address")
        server.cancel()

    run_node(body)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_errors_have_the_specifications_codes(run_node, compiler):
    async def body(node):
        server, binary = await start(node, compiler)
        pod, config = node.pod("a"), configuration(node)

        async def fails(code, says, command, config, **more):
            status, error = await execute(node, binary, command, config, **more)
            assert (status, error["code"]) == (1, code), error
            assert says in error["msg"], error

        await fails(1, "'9.9.9'", "ADD", {**config, "cniVersion": "9.9.9"}, netns=pod.netns)
        await fails(1, "GC does not exist in cniVersion 1.0.0", "GC", {**config, "cniVersion": "1.0.0"})
        await fails(2, "ipMasq", "ADD", {**config, "ipMasq": True}, netns=pod.netns)
        await fails(4, "CNI_NETNS", "ADD", config)
        await fails(4, "CNI_COMMAND", "FROB", config)
        await fails(4, "CNI_CONTAINERID", "ADD", config, container="-x", netns=pod.netns)
        await fails(4, "CNI_IFNAME", "ADD", config, netns=pod.netns, CNI_IFNAME="a/b")
        await fails(4, "CNI_ARGS", "ADD", config, netns=pod.netns, CNI_ARGS="nonsense")
        await fails(6, "JSON object", "ADD", [1], netns=pod.netns)
        await fails(7, "name", "ADD", {**config, "name": "a b"}, netns=pod.netns)
        (node.scratch / "subnet.env").unlink()
        await fails(11, "subnet.env", "ADD", config, netns=pod.netns)
        await fails(50, "subnet.env", "STATUS", config)
        server.cancel()
        (node.scratch / "cni.sock").unlink()
        await fails(11, "cannot reach the podwire agent", "ADD", config, netns=pod.netns)
        await fails(50, "cannot reach the podwire agent", "STATUS", config)

    run_node(body)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_an_agent_that_dies_while_it_is_asked(run_node, compiler):
    async def body(node):
        _, binary = await start(node, compiler)
        deaf = node.scratch / "deaf.sock"

        async def hang_up(reader, writer):
            await reader.read()
            writer.close()

        listener = await asyncio.start_unix_server(hang_up, str(deaf))
        answer = await execute(node, binary, "ADD", {}, netns="/x", PODWIRE_CNI_SOCKET=str(deaf))
        assert (answer[0], answer[1]["code"]) == (1, 11)
        assert "may have been restarted" in answer[1]["details"]
        listener.close()

    run_node(body)


def test_many_executables_at_once(run_node):
    async def body(node):
        server, binary = await start(node, None)
        pods = [node.pod(f"p{i}") for i in range(30)]
        answers = await asyncio.gather(
            *(execute(node, binary, "ADD", configuration(node), p.sandbox_id, p.netns) for p in pods)
        )
        addresses = {answer["ips"][0]["address"] for code, answer in answers if code == 0}
        assert len(addresses) == 30
        await asyncio.gather(*(execute(node, binary, "DEL", configuration(node), p.sandbox_id) for p in pods))
        assert {link.name for link in node.plugin._kernel.links.links()} == {"lo", "cni0"}
        server.cancel()

    run_node(body)
