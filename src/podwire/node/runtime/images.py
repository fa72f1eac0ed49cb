"""The image catalogue: what an image name stands for on a machine that pulls nothing.

An image is known by the last part of its repository, whatever its registry, tag or digest:
``docker.io/library/nginx:1.27`` is ``nginx``. Three things can stand behind a name: the host's own programs
(tool images), the built-in server (server images), and what the user mapped with ``--image NAME=PATH``.
Pure, but for one look whether a mapped path is a directory.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from podwire.node.runtime.values import Image, PortSpec

SERVER = "server"
"""Name of the built-in program that answers on the container's ports."""

_TOOLS: Mapping[str, tuple[str, ...]] = {
    "busybox": ("sh",),
    "alpine": ("/bin/sh",),
    "debian": ("bash",),
    "ubuntu": ("/bin/bash",),
    "fedora": ("/bin/bash",),
    "centos": ("/bin/bash",),
    "rockylinux": ("/bin/bash",),
    "almalinux": ("/bin/bash",),
    "amazonlinux": ("/bin/bash",),
    "bash": ("bash",),
    "netshoot": ("/bin/bash",),
    "net-tools": ("/bin/sh",),
    "dnsutils": ("/bin/bash",),
    "jessie-dnsutils": ("sleep", "infinity"),
    "dnstools": ("/bin/sh",),
    "utils": ("/bin/sh",),
    "toolbox": ("/bin/sh",),
    "iperf": ("iperf", "-s"),
    "iperf3": ("iperf3", "-s"),
    "socat": ("socat",),
    "git": ("git",),
    "python": ("python3",),
    "perl": ("perl",),
    "node": ("node",),
    "golang": ("bash",),
    "openjdk": ("bash",),
    "ruby": ("irb",),
    "buildpack-deps": ("bash",),
    "distroless": ("/bin/sh",),
    "base": ("/bin/sh",),
    "static": ("/bin/sh",),
}
"""Tool images and the command that they run by default."""

_ENTRYPOINTS: Mapping[str, tuple[str, ...]] = {"curl": ("curl",), "wget": ("wget",), "kubectl": ("kubectl",)}
"""Tool images whose arguments follow a program: ``kubectl run --image=curlimages/curl -- http://web``."""

_SERVERS: Mapping[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "nginx": (("nginx", "-g", "daemon off;"), (80,)),
    "nginx-unprivileged": (("nginx", "-g", "daemon off;"), (8080,)),
    "httpd": (("httpd-foreground",), (80,)),
    "apache": (("httpd-foreground",), (80,)),
    "caddy": (("caddy", "run"), (80,)),
    "traefik": (("traefik",), (80,)),
    "haproxy": (("haproxy",), (80,)),
    "redis": (("redis-server",), (6379,)),
    "valkey": (("valkey-server",), (6379,)),
    "memcached": (("memcached",), (11211,)),
    "mysql": (("mysqld",), (3306,)),
    "mariadb": (("mariadbd",), (3306,)),
    "postgres": (("postgres",), (5432,)),
    "mongo": (("mongod",), (27017,)),
    "rabbitmq": (("rabbitmq-server",), (5672,)),
    "registry": (("registry", "serve"), (5000,)),
    "agnhost": (("/agnhost", "pause"), ()),
    "pause": (("/pause",), ()),
    "whoami": (("/whoami",), (80,)),
    "http-echo": (("/http-echo",), (5678,)),
    "hello-app": (("./hello-app",), (8080,)),
    "hello": (("hello",), (80,)),
    "hello-world": (("hello",), (80,)),
    "hello-kubernetes": (("hello",), (8080,)),
    "node-hello": (("hello",), (8080,)),
    "helloworld": (("hello",), (80,)),
    "nginx-hello": (("hello",), (80,)),
    "nginxhello": (("hello",), (80,)),
    "kubernetes-bootcamp": (("hello",), (8080,)),
    "echo": (("echo-server",), (80,)),
    "echo-server": (("echo-server",), (80,)),
    "echo-basic": (("echo-server",), (3000,)),
    "echoserver": (("echo-server",), (8080,)),
    "http-https-echo": (("echo-server",), (8080,)),
    "httpbin": (("httpbin",), (80,)),
    "go-httpbin": (("go-httpbin",), (8080,)),
    "podinfo": (("./podinfo",), (9898,)),
    "serve_hostname": (("serve-hostname",), (9376,)),
    "serve-hostname": (("serve-hostname",), (9376,)),
    "guestbook": (("guestbook",), (80,)),
    "network-multitool": (("nginx", "-g", "daemon off;"), (80,)),
    "wordpress": (("apache2-foreground",), (80,)),
    "myapp": (("myapp",), (80,)),
    "demo": (("demo",), (8080,)),
}
"""Server images: their own command (for people to read) and the ports they listen on by default."""

SERVER_PROGRAMS = frozenset(
    {Path(command[0]).name for command, _ in _SERVERS.values()} | {"httpd", "nginx-debug", "apache2", "agnhost"}
)
"""Programs of server images: asked for by ``command``, the built-in server stands in for them, too."""


@dataclass(frozen=True, slots=True)
class Program:
    """A container's main process: a file to execute or, when ``builtin`` is not empty, a built-in program."""

    argv: tuple[str, ...]
    builtin: str = ""


class ImageCatalogue:
    """Image names and what they stand for. ``builtins`` are names of programs that the lab brings along."""

    def __init__(self, mappings: Mapping[str, Path] | None = None, builtins: Collection[str] = ()) -> None:
        self._mappings = dict(mappings or {})
        self._builtins = frozenset(builtins)

    def look_up(self, name: str) -> Image:
        """Return what ``name`` stands for. Never fails: unknown names have kind "unknown"."""
        repository = repository_of(name)
        for key in (name, repository, _short(repository)):
            if key in self._mappings:
                return _mapped(name, self._mappings[key])
            if key in self._builtins:
                return Image(name, "server", f"podwire://builtin/{key}", (key,), builtin=key)
        base = repository.rsplit("/", 1)[-1]
        if base in _SERVERS:
            return _server(name, base)
        if base in _TOOLS or base in _ENTRYPOINTS:
            entrypoint, args = _ENTRYPOINTS.get(base, ()), _TOOLS.get(base, ())
            note = f"image {name} is not pulled: this machine's own programs stand in for it"
            return Image(name, "tools", f"podwire://tools/{base}", entrypoint, args, note=note)
        note = (
            f"image {name} is not in the catalogue: without a command the built-in server stands in for it, "
            "with one this machine's own programs do; map it with --image NAME=PATH"
        )
        ports = (PortSpec(80),)
        return Image(
            name,
            "unknown",
            f"podwire://unknown/{base}",
            (base,),
            builtin=SERVER,
            default_ports=ports,
            note=note,
        )


def repository_of(name: str) -> str:
    """Return an image name without tag and digest: "ghcr.io:443/a/b:1@sha256:00" -> "ghcr.io:443/a/b"."""
    name = name.partition("@")[0]
    head, slash, last = name.rpartition("/")
    return head + slash + last.partition(":")[0]


def choose_program(image: Image, command: tuple[str, ...], args: tuple[str, ...]) -> Program:
    """Return the main process of a container: Kubernetes' table of command, args, ENTRYPOINT and CMD.

    A ``command`` that names the program of a server image ("nginx", "/agnhost") means the built-in server.
    An empty argv: there is nothing to run.
    """
    if command:
        stand_in = SERVER if Path(command[0]).name in SERVER_PROGRAMS and image.path is None else ""
        return Program(command + args, stand_in)
    return Program(image.entrypoint + (args or image.default_args), image.builtin)


def _short(repository: str) -> str:
    """Return the repository without its registry and "library/": "docker.io/library/nginx" -> "nginx"."""
    first, slash, rest = repository.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        repository = rest
    return repository.removeprefix("library/")


def _mapped(name: str, path: Path) -> Image:
    if not path.is_dir():
        return Image(name, "binary", f"podwire://binary{path}", (f"/usr/local/bin/{path.name}",), path=path)
    return Image(name, "directory", f"podwire://directory{path}", (), ("/bin/sh",), path=path)


def _server(name: str, base: str) -> Image:
    command, ports = _SERVERS[base]
    note = f"image {name} is not pulled: podwire's built-in server stands in for it"
    return Image(
        name,
        "server",
        f"podwire://server/{base}",
        command[:1],
        command[1:],
        builtin=SERVER,
        default_ports=tuple(PortSpec(p) for p in ports),
        note=note,
    )
