"""What the node's agent may ask of the container runtime.

The real one is a separate small process per node (the *shim*): it parents every container, keeps exit
statuses and logs, and outlives the agent. The fake one runs nothing and says so.
Errors: ``model.errors.MachineError`` (room "node/runtime") with a cause a user can act on.
Asking for what is already so (stop a stopped container, remove what is gone) is no error.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from podwire.node.runtime.values import (
    Container,
    ContainerEvent,
    ContainerSpec,
    ContainerUsage,
    Image,
    Sandbox,
    SandboxSpec,
)


class RuntimePort(Protocol):
    """Sandboxes, containers, streams."""

    async def version(self) -> str:
        """Return what nodes show as containerRuntimeVersion, "podwire://0.1.0"."""
        ...

    async def sandboxes(self) -> tuple[Sandbox, ...]:
        """Return every sandbox of the node."""
        ...

    async def containers(self) -> tuple[Container, ...]:
        """Return every container of the node, exited ones included until they are removed."""
        ...

    def events(self) -> AsyncIterator[ContainerEvent]:
        """Yield container state changes from now on."""
        ...

    async def run_sandbox(self, spec: SandboxSpec) -> Sandbox:
        """Make the sandbox with its namespaces, loopback up, nothing else in it."""
        ...

    async def stop_sandbox(self, id: str) -> None:
        """Kill what still runs in the sandbox and unpin its namespaces. Call CNI DEL before."""
        ...

    async def remove_sandbox(self, id: str) -> None:
        """Forget the sandbox and its containers and remove their writable layers."""
        ...

    async def image(self, name: str) -> Image:
        """Return what an image name stands for. Never fails: unknown names have kind "unknown"."""
        ...

    async def start_container(self, spec: ContainerSpec) -> Container:
        """Create and start a container and return it running.

        A command that cannot be executed raises MachineError whose cause is the runtime's message
        ('exec: "foo": executable file not found in $PATH'); the container is then recorded as exited
        with code 127 (not found) or 126 (not executable) and reason "StartError".
        """
        ...

    async def stop_container(self, id: str, grace_s: float, signal: int = 15) -> Container:
        """Signal, wait up to ``grace_s``, then SIGKILL; return the exited container."""
        ...

    async def remove_container(self, id: str) -> None:
        """Forget an exited container and remove its writable layer; logs are the caller's."""
        ...

    async def exec(
        self,
        container_id: str,
        command: Sequence[str],
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        tty: bool = False,
    ) -> ExecSession:
        """Run a command in a running container's namespaces.

        The three are descriptors handed to the process (the caller closes its own copies); with
        ``tty`` they are None and ``ExecSession.terminal`` is the master side of a new pty.
        """
        ...

    async def attach(self, container_id: str) -> AttachSession:
        """Return live streams of a running container's main process.

        The first to attach to a container with ``stdin`` also gets what it wrote before, 64 KiB at most.
        """
        ...

    async def usage(self) -> tuple[ContainerUsage, ...]:
        """Return resource use of every running container."""
        ...

    async def close(self) -> None:
        """Disconnect; containers go on."""
        ...


class ExecSession(Protocol):
    """A command that runs in a container."""

    terminal: int | None

    async def wait(self) -> int:
        """Return the exit code (128 + signal when killed)."""
        ...

    async def resize(self, rows: int, columns: int) -> None:
        """Tell the terminal its new size."""
        ...

    async def kill(self) -> None:
        """End the command, if it still runs."""
        ...


class AttachSession(Protocol):
    """The streams of a container's main process, as descriptors to read and write.

    ``output`` carries frames: 1 byte stream (1 stdout, 2 stderr), 4 bytes length (big endian), data.
    ``stdin`` is None when the container was started without ``stdin``.
    """

    stdin: int | None
    output: int

    async def resize(self, rows: int, columns: int) -> None:
        """Tell the terminal its new size, if it has one."""
        ...

    async def close(self) -> None:
        """Detach; the container goes on."""
        ...
