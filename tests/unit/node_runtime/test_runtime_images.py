"""Image names, and what a container's main process becomes."""

from __future__ import annotations

from pathlib import Path

import pytest

from podwire.node.runtime.images import ImageCatalogue, Program, choose_program, repository_of


@pytest.mark.parametrize(
    ("name", "kind", "entrypoint", "ports"),
    [
        ("nginx", "server", ("nginx",), (80,)),
        ("docker.io/library/nginx:1.27-alpine", "server", ("nginx",), (80,)),
        ("localhost:5000/team/redis@sha256:00ff", "server", ("redis-server",), (6379,)),
        ("registry.k8s.io/e2e-test-images/agnhost:2.53", "server", ("/agnhost",), ()),
        ("busybox:1.36", "tools", (), ()),
        ("docker.io/qqbuby/net-tools:2.3", "tools", (), ()),
        ("nicolaka/netshoot", "tools", (), ()),
        ("tutum/dnsutils", "tools", (), ()),
        ("curlimages/curl", "tools", ("curl",), ()),
        ("quay.io/team/payments:3", "unknown", ("payments",), (80,)),
        ("myapp:latest", "server", ("myapp",), (80,)),
    ],
)
def test_catalogue(name: str, kind: str, entrypoint: tuple[str, ...], ports: tuple[int, ...]) -> None:
    image = ImageCatalogue().look_up(name)
    assert (image.name, image.kind, image.entrypoint) == (name, kind, entrypoint)
    assert tuple(p.number for p in image.default_ports) == ports
    assert image.id.startswith("podwire://")
    assert name in image.note


@pytest.mark.parametrize(
    ("image", "command", "args", "program"),
    [
        ("nginx", (), (), Program(("nginx", "-g", "daemon off;"), "server")),
        ("nginx", (), ("-x",), Program(("nginx", "-x"), "server")),
        ("nginx", ("nginx",), ("-t",), Program(("nginx", "-t"), "server")),
        ("nginx", ("sh", "-c", "date"), (), Program(("sh", "-c", "date"))),
        ("busybox", (), (), Program(("sh",))),
        ("busybox", (), ("sleep", "3"), Program(("sleep", "3"))),
        ("busybox", ("sleep",), ("3",), Program(("sleep", "3"))),
        ("agnhost", (), ("netexec",), Program(("/agnhost", "netexec"), "server")),
        ("agnhost", ("/agnhost", "serve-hostname"), (), Program(("/agnhost", "serve-hostname"), "server")),
        ("curlimages/curl", (), ("-s", "web"), Program(("curl", "-s", "web"))),
        ("who/knows", (), (), Program(("knows",), "server")),
        ("who/knows", ("./run",), (), Program(("./run",))),
        ("podwire/coredns:0.1", (), ("-conf", "x"), Program(("podwire/coredns", "-conf", "x"), "podwire/coredns")),
    ],
)
def test_main_process(image: str, command: tuple[str, ...], args: tuple[str, ...], program: Program) -> None:
    catalogue = ImageCatalogue(builtins=["podwire/coredns"])
    assert choose_program(catalogue.look_up(image), command, args) == program


def test_a_mapping_wins_over_the_catalogue(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "serve").write_text("")
    catalogue = ImageCatalogue({"nginx": tmp_path / "root", "team/serve": tmp_path / "serve"})
    assert catalogue.look_up("docker.io/library/nginx:1").kind == "directory"
    binary = catalogue.look_up("ghcr.io/team/serve:7")
    assert (binary.kind, binary.entrypoint) == ("binary", ("/usr/local/bin/serve",))
    assert choose_program(binary, ("nginx",), ()) == Program(("nginx",)), "no stand-in in the user's own image"


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("nginx", "nginx"),
        ("nginx:1", "nginx"),
        ("host:5000/nginx", "host:5000/nginx"),
        ("host:5000/a/b:1@sha256:aa", "host:5000/a/b"),
    ],
)
def test_repository(name: str, repository: str) -> None:
    assert repository_of(name) == repository
