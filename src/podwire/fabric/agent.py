"""The node's fabric agent: flanneld's work.

    Nodes, ConfigMap --informers--+
    links, routes ... --monitor---+--> keys --> reconcile: one peer, or (key "") everything
    every 30 s -------------------+

The kernel comes first and the API last: a network that was up keeps being repaired while the API is away.
A new configuration takes effect at once: devices and routes of the old one go when the new ones stand. (flannel
reads it at start only.) A configuration that cannot be used leaves the old one in force and says so in a
condition.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from podwire.client.informer import Informer
from podwire.client.port import Client
from podwire.fabric import apply, config, report
from podwire.fabric.config import FabricConfig
from podwire.fabric.desired import Home
from podwire.fabric.keeper import Keeper
from podwire.fabric.plan import Ledger, relevant
from podwire.fabric.render import annotations as announcement
from podwire.fabric.render import masquerade, subnetenv
from podwire.kernel.link.monitor import MonitorPort
from podwire.kernel.link.port import LinkPort
from podwire.kernel.nft.port import NftPort
from podwire.kernel.route.port import RoutePort
from podwire.kernel.sysctl.port import SysctlPort
from podwire.model.errors import MachineError, Problem
from podwire.model.objects import Key, Obj, condition, timestamp
from podwire.model.resources import CONFIGMAPS, NODES
from podwire.runtime.clock import Clock, SystemClock
from podwire.runtime.logging import get
from podwire.runtime.workloop import WorkLoop

_EVERYTHING, _RESYNC = "", "*"  # keys that no node can have as its name
_log = get("fabric")


class FabricAgent:
    """The fabric of one node. ``ready`` is set once pods here can reach pods elsewhere."""

    def __init__(
        self,
        node_name: str,
        client: Client,
        links: LinkPort,
        routes: RoutePort,
        nft: NftPort,
        sysctl: SysctlPort,
        *,
        monitor: MonitorPort | None = None,
        subnet_file: Path = Path("/run/flannel/subnet.env"),
        interface: str = "",
        clock: Clock | None = None,
        resync_s: float = 30.0,
    ) -> None:
        """``interface``: the underlay link; "" finds it. ``monitor`` None: repair waits for the resync."""
        self.ready = asyncio.Event()
        self._name, self._client = node_name, client
        self._links, self._routes, self._nft = links, routes, nft
        self._monitor, self._subnet_file, self._interface = monitor, subnet_file, interface
        self._clock: Clock = clock or SystemClock()
        self._resync_s = resync_s
        self._nodes = Informer(client, NODES, clock=self._clock)
        self._configs = Informer(
            client, CONFIGMAPS, config.NAMESPACE, fields=f"metadata.name={config.NAME}", clock=self._clock
        )
        self._loop: WorkLoop[str] = WorkLoop("fabric", self._reconcile, clock=self._clock)
        self._config: FabricConfig | None = None
        self._config_problem: Problem | None = None
        self._keeper = Keeper(node_name, links, routes, sysctl)
        self._masquerade = self._masquerade_listing = ""
        self._masquerade_families: list[str] = []
        self._reported: tuple[str, list[Obj]] = ("", [])
        self._waiting_for = ""

    async def run(self) -> None:
        """Keep the fabric until cancelled. What is in the kernel stays: pods go on without the agent."""
        self._nodes.listen(self._on_node)
        self._configs.listen(self._on_config)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._nodes.run())
            group.create_task(self._configs.run())
            if self._monitor is not None:
                group.create_task(self._watch_kernel(self._monitor))
            await self._nodes.synced.wait()
            await self._configs.synced.wait()
            group.create_task(self._loop.run())
            self._loop.add(_EVERYTHING)
            self._loop.add_after(_RESYNC, self._resync_s)

    # --- what wakes the agent ---

    def _on_node(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        if key.name == self._name and _condition_vanished(old, new):
            self._loop.add_after(_RESYNC, 1.0)  # somebody wrote the conditions as a whole
        if relevant(old) == relevant(new) and old is not None:
            return
        if key.name != self._name:
            self._loop.add(key.name)
        elif old is None or new is None or not self._is_own_echo(old, new):
            self._loop.add(_EVERYTHING)

    def _is_own_echo(self, old: Obj, new: Obj) -> bool:
        """Return whether a change of the own Node is but the annotations that were just written."""
        if self._keeper.ledger is None or old["metadata"].get("uid") != new["metadata"].get("uid"):
            return False
        bare = [relevant({**n, "metadata": {**n["metadata"], "annotations": {}}}) for n in (old, new)]
        return bare[0] == bare[1] and not self._unannounced(self._keeper.ledger, new)

    def _on_config(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        if new is None:
            _log.warning("config-deleted", configmap=key, note="the last configuration stays in force")
            return
        parsed = config.parse_config(new)
        if isinstance(parsed, Problem):
            self._config_problem = parsed
            _log.error("bad-config", problem=parsed)
        else:
            self._config, self._config_problem = parsed, None
        self._loop.add(_EVERYTHING)

    async def _watch_kernel(self, monitor: MonitorPort) -> None:
        async for changes in monitor.changes():
            if self._keeper.ledger is not None and any(map(self._keeper.concerns, changes)):
                self._loop.add(_EVERYTHING)

    # --- reconcile ---

    async def _reconcile(self, key: str) -> float | None:
        began_s = self._clock.monotonic()
        if key == _RESYNC:
            self._reported = ("", [])
        try:
            if key in (_EVERYTHING, _RESYNC) or self._keeper.ledger is None:
                self._settle(check=key == _RESYNC)
            else:
                self._keeper.replan(self._keeper.ledger, key, self._nodes.objects.get(Key("", key)))
        except MachineError as error:
            if key not in (_EVERYTHING, _RESYNC):
                self._loop.add(_EVERYTHING)  # what the kernel holds is no longer known: read it
            if not self.ready.is_set():
                await self._say([report.down("FabricFailed", str(error))])
            raise
        if self._keeper.ledger is not None:
            await self._announce(self._keeper.ledger)
        await self._say_state(self._keeper.ledger)
        took_s = self._clock.monotonic() - began_s
        _log.info("reconciled", node=self._name, key=key or "all", entries=len(self._keeper.wanted), took_s=took_s)
        return self._resync_s if key == _RESYNC else None

    def _own(self) -> Obj | None:
        return self._nodes.objects.get(Key("", self._name))

    def _settle(self, check: bool) -> None:
        found = self._find_homes()
        if isinstance(found, str):
            if found != self._waiting_for:
                _log.info("waiting", node=self._name, cause=found)
            self._waiting_for = found
            return
        self._waiting_for = ""
        settings, homes, own = found
        self._keeper.settle(settings, homes, own, self._nodes.objects)
        self._keep_masquerade(settings, homes, check)
        self._write_subnet_file(settings, homes)
        self.ready.set()

    def _find_homes(self) -> tuple[FabricConfig, tuple[Home, ...], Obj] | str:
        own = self._own()
        if self._config is None:
            return f"no usable ConfigMap {config.NAMESPACE}/{config.NAME}"
        if own is None:
            return f"no Node {self._name}"
        homes = []
        for network in self._config.networks:
            home = apply.find_home(self._links, self._routes, self._config, own, self._interface, network.version)
            if isinstance(home, str):
                return home
            homes.append(home)
        return self._config, tuple(homes), own

    # --- what stands beside the routes ---

    def _keep_masquerade(self, settings: FabricConfig, homes: tuple[Home, ...], check: bool) -> None:
        """Apply the masquerade tables when they changed, or (``check``) when someone else changed them."""
        script = masquerade.render(settings, homes)
        families = [masquerade.family_of(home) for home in homes]
        if script != self._masquerade:
            unused = [f for f in self._masquerade_families if f not in families]
            self._nft.apply(script + masquerade.remove(unused))
            self._masquerade_families = families
            self._masquerade, self._masquerade_listing = script, ""
        if check:
            listing = self._list_masquerade(families)
            if not self._masquerade_listing and "" not in listing:
                self._masquerade_listing = "".join(listing)
            if "".join(listing) != self._masquerade_listing:
                self._nft.apply(script)
                self._masquerade_listing = "".join(self._list_masquerade(families))
                _log.warning("repaired-masquerade", node=self._name)

    def _list_masquerade(self, families: list[str]) -> list[str]:
        return [self._nft.list_table(family, masquerade.TABLE) or "" for family in families]

    def _write_subnet_file(self, settings: FabricConfig, homes: tuple[Home, ...]) -> None:
        text = subnetenv.render(settings, homes)
        try:
            if self._subnet_file.exists() and self._subnet_file.read_text() == text:
                return
            self._subnet_file.parent.mkdir(parents=True, exist_ok=True)
            scratch = self._subnet_file.with_name(f".{self._subnet_file.name}.new")
            scratch.write_text(text)
            os.replace(scratch, self._subnet_file)
        except OSError as error:
            raise MachineError("fabric", "write", str(self._subnet_file), error.strerror) from None

    # --- what the API is told ---

    def _unannounced(self, ledger: Ledger, own: Obj) -> dict[str, str | None]:
        return announcement.render(ledger.config, ledger.homes, self._keeper.macs, own)

    async def _announce(self, ledger: Ledger) -> None:
        own = self._own()
        changes = self._unannounced(ledger, own) if own is not None else {}
        if changes:
            await self._client.patch(NODES, self._name, {"metadata": {"annotations": changes}})

    async def _say_state(self, ledger: Ledger | None) -> None:
        problems = [self._config_problem] if self._config_problem else []
        if ledger is None:
            if problems:
                await self._say([report.down("BadConfiguration", str(problems[0]))])
            return
        problems += [p for found in ledger.problems.values() for p in found]
        await self._say([report.up(), report.peers(problems)])

    async def _say(self, conditions: list[Obj]) -> None:
        """Patch the own Node's conditions, once for each news."""
        own = self._own()
        if own is None:
            return
        said = (own["metadata"].get("uid", ""), conditions)
        changed = report.changed(own, conditions, timestamp(self._clock.now()))
        if changed and said != self._reported:
            patch = {"status": {"conditions": changed}}
            await self._client.patch(NODES, self._name, patch, kind="strategic", subresource="status")
            self._reported = said


def _condition_vanished(old: Obj | None, new: Obj | None) -> bool:
    if old is None or new is None:
        return False
    return bool(condition(old, "NetworkUnavailable")) and not condition(new, "NetworkUnavailable")
