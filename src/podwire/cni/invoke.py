"""Run plugins: one, or the chain of a configuration list. The runtime's half of the specification.

A plugin is an executable, found in CNI_PATH by its type; a type that was given as ``in_process`` is a
callable of this process instead and costs no fork.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from podwire.cni.netconf import NetworkList, PluginConf, derive, parse_list
from podwire.cni.resultcache import CachedAttachment, ResultCache
from podwire.cni.spec import (
    DECODING_FAILURE,
    MACHINE_FAILURE,
    NOT_AVAILABLE,
    CniError,
    Json,
    Request,
    Result,
    parse_error,
    parse_request,
    parse_result,
    render_args,
    supports,
)

InProcess: TypeAlias = Callable[[Request], Awaitable[Json | None]]
"""A plugin in this process: a request in, a result or None out; raises CniError."""

_PROCESSES = 16  # plugins executed at a time: a GC after a crash must not become a fork bomb
DEFAULT_PATH = (Path("/opt/cni/bin"), Path("/usr/lib/cni"))  # the usual one, and Debian's


@dataclass(frozen=True, slots=True)
class RuntimeConf:
    """What one attachment says to every plugin of the chain."""

    container_id: str
    netns: str
    ifname: str = "eth0"
    args: Mapping[str, str] = field(default_factory=dict)
    capability_args: Mapping[str, Any] = field(default_factory=dict)


class Invoker:
    """Runs chains. Raises CniError with the plugin's own code, its type named in the message."""

    def __init__(
        self,
        cache: ResultCache,
        *,
        path: Sequence[Path] = DEFAULT_PATH,
        in_process: Mapping[str, InProcess] | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        self._cache, self._path, self._timeout_s = cache, tuple(path), timeout_s
        self._in_process = dict(in_process or {})
        self._processes = asyncio.Semaphore(_PROCESSES)

    async def add(self, network: NetworkList, runtime: RuntimeConf) -> Result:
        """Run ADD through the chain, in order; keep and return the last result.

        A plugin that fails ends it. What the earlier ones made stays until DEL, which the runtime must
        call after a failed ADD too.
        """
        entry = CachedAttachment(
            network.name,
            runtime.container_id,
            runtime.ifname,
            runtime.netns,
            network.raw,
            runtime.args,
            runtime.capability_args,
        )
        self._cache.write(entry)
        previous: Json | None = None
        for plugin in network.plugins:
            config = derive(network, plugin, capability_args=runtime.capability_args, prev_result=previous)
            previous = await self._run("ADD", plugin, config, runtime)
            if previous is None:
                raise CniError(DECODING_FAILURE, f"{plugin.type}: ADD returned no result")
        result = parse_result(previous)
        self._cache.write(replace(entry, result=previous))
        return result

    async def check(self, network: NetworkList, runtime: RuntimeConf) -> None:
        """Run CHECK through the chain; the first plugin that objects ends it. None: all is well.

        Not run where the list forbids it (``disableCheck``) or its version has none.
        """
        if network.disable_check or not supports(network.version, "CHECK"):
            return
        cached = self._cache.read(network.name, runtime.container_id, runtime.ifname)
        if cached is None or cached.result is None:
            raise CniError(MACHINE_FAILURE, "there is no result of a former ADD to check against")
        for plugin in network.plugins:
            config = derive(network, plugin, capability_args=runtime.capability_args, prev_result=cached.result)
            await self._run("CHECK", plugin, config, runtime)

    async def delete(self, network: NetworkList | None, runtime: RuntimeConf) -> None:
        """Run DEL through the chain, in reverse; forget the cached result.

        The list that the ADD ran with is used where it is known, ``network`` otherwise; both None or
        never added: nothing to do. Every plugin is run, the first error is raised at the end.
        """
        known = self._cache.find(runtime.container_id, runtime.ifname)
        for cached in known:
            await self._delete_one(parse_list(cached.config), _merge(runtime, cached), cached.result)
            self._cache.forget(cached.network, cached.container_id, cached.ifname)
        if not known and network is not None:
            await self._delete_one(network, runtime, None)

    async def _delete_one(self, network: NetworkList, runtime: RuntimeConf, result: Mapping[str, Any] | None) -> None:
        previous = result if supports(network.version, "CHECK") else None  # on DEL since 0.4.0
        first: CniError | None = None
        for plugin in reversed(network.plugins):
            config = derive(network, plugin, capability_args=runtime.capability_args, prev_result=previous)
            try:
                await self._run("DEL", plugin, config, runtime)
            except CniError as error:
                first = first or error
        if first is not None:
            raise first

    async def collect_garbage(self, network: NetworkList, alive: Iterable[tuple[str, str]]) -> None:
        """DEL every cached attachment that is not among ``alive``, then run GC where the version has it.

        ``alive`` are container id and interface name. All is tried; the first error is raised last.
        """
        if network.disable_gc:
            return
        living = sorted(set(alive))
        stale = [c for c in self._cache.entries() if (c.container_id, c.ifname) not in living]
        outcomes = await asyncio.gather(
            *(self.delete(network, RuntimeConf(c.container_id, "", c.ifname)) for c in stale),
            return_exceptions=True,
        )
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, CniError):
                raise outcome
        first = next((o for o in outcomes if isinstance(o, CniError)), None)
        if supports(network.version, "GC"):
            for plugin in network.plugins:
                try:
                    await self._run_bare("GC", plugin, derive(network, plugin, valid_attachments=living))
                except CniError as error:
                    first = first or error
        if first is not None:
            raise first

    async def status(self, network: NetworkList) -> None:
        """Ask every plugin whether it can serve ADD; before 1.1.0, whether it is there at all."""
        for plugin in network.plugins:
            if plugin.type not in self._in_process:
                self._find(plugin.type)
            if supports(network.version, "STATUS"):
                await self._run_bare("STATUS", plugin, derive(network, plugin))

    async def versions(self, plugin_type: str) -> tuple[str, ...]:
        """Return the versions that a plugin speaks."""
        plugin = PluginConf(plugin_type, frozenset(), {"type": plugin_type})
        answer = await self._run_bare("VERSION", plugin, {"cniVersion": "1.1.0"})
        return tuple(str(v) for v in (answer or {}).get("supportedVersions") or ())

    async def _run(self, command: str, plugin: PluginConf, config: Json, runtime: RuntimeConf) -> Json | None:
        env = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": runtime.container_id,
            "CNI_NETNS": runtime.netns,
            "CNI_IFNAME": runtime.ifname,
            "CNI_ARGS": render_args(runtime.args),
            "CNI_PATH": os.pathsep.join(map(str, self._path)),
        }
        return await self._invoke(plugin, env, config)

    async def _run_bare(self, command: str, plugin: PluginConf, config: Json) -> Json | None:
        env = {"CNI_COMMAND": command, "CNI_PATH": os.pathsep.join(map(str, self._path))}
        return await self._invoke(plugin, env, config)

    async def _invoke(self, plugin: PluginConf, env: dict[str, str], config: Json) -> Json | None:
        callee = self._in_process.get(plugin.type)
        try:
            if callee is not None:
                return await callee(parse_request(env, config))
            async with self._processes:
                return await self._execute(plugin.type, env, config)
        except CniError as error:
            if error.msg.startswith(f"{plugin.type}:"):
                raise
            raise CniError(error.code, f"{plugin.type}: {error.msg}", error.details) from error

    def _find(self, plugin_type: str) -> Path:
        for directory in self._path:
            candidate = directory / plugin_type
            if candidate.is_file() and os.access(candidate, os.X_OK):
                return candidate
        places = os.pathsep.join(map(str, self._path))
        raise CniError(NOT_AVAILABLE, f"plugin {plugin_type} is not in {places}")

    async def _execute(self, plugin_type: str, env: dict[str, str], config: Json) -> Json | None:
        binary = self._find(plugin_type)
        # Plugins call iptables, ip ...: an agent that was started without PATH must not break them.
        whole = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **os.environ, **env}
        try:
            process = await asyncio.create_subprocess_exec(
                str(binary),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=whole,
            )
        except OSError as error:
            raise CniError(MACHINE_FAILURE, f"cannot execute {binary}: {error.strerror}") from error
        try:
            async with asyncio.timeout(self._timeout_s):
                out, err = await process.communicate(json.dumps(config).encode())
        except TimeoutError:
            raise CniError(MACHINE_FAILURE, f"{env['CNI_COMMAND']} did not end within {self._timeout_s:g} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return _read_answer(process.returncode or 0, out, err)


def _read_answer(code: int, out: bytes, err: bytes) -> Json | None:
    """Return what a plugin printed; None when it printed nothing and succeeded."""
    try:
        answer = json.loads(out) if out.strip() else None
    except ValueError:
        answer = out
    if code == 0:
        if answer is None or isinstance(answer, dict):
            return answer
        raise CniError(DECODING_FAILURE, "it printed what is no JSON object", repr(out[:200]))
    if isinstance(answer, dict):
        raise parse_error(answer)
    said = (err or out).decode(errors="replace").strip()[:500]
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    raise CniError(MACHINE_FAILURE, f"it failed without an error message ({how})", said)


def _merge(runtime: RuntimeConf, cached: CachedAttachment) -> RuntimeConf:
    """Return the runtime's words, completed from the ADD's where they are missing."""
    return replace(
        runtime,
        netns=runtime.netns or cached.netns,
        args=runtime.args or cached.args,
        capability_args=runtime.capability_args or cached.capability_args,
    )
