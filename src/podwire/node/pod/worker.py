"""One pod's life on this node: a task that brings what is there closer to what the pod says.

    wake (pod changed, container exited, probe spoke, time passed) -> sync -> status -> sleep

Every pass looks at everything anew; nothing is remembered that the runtime, the disk or the API can tell,
so a new agent goes on where a killed one stopped. Long waits (hooks, graceful stops) are tasks beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Iterable, Mapping
from typing import Any, Final

from podwire.client.errors import ApiError, Conflict, NotFound
from podwire.model.errors import MachineError
from podwire.model.objects import Obj, is_deleting, key_of, parse_timestamp, timestamp
from podwire.model.resources import PODS
from podwire.node.pod import plan, spec
from podwire.node.pod.context import NodeContext
from podwire.node.pod.crashes import Crashes
from podwire.node.pod.environment import ConfigError
from podwire.node.pod.health import Probing
from podwire.node.pod.home import Home
from podwire.node.pod.launch import container_spec
from podwire.node.pod.plan import Actions, Observation
from podwire.node.pod.records import Records, told_images
from podwire.node.pod.sandbox import Place
from podwire.node.pod.spec import Role, full_name, uid_of
from podwire.node.pod.status import View, pod_status
from podwire.node.pod.stopping import run_hook, stop
from podwire.node.probes.check import Target
from podwire.node.runtime.values import Container, ContainerSpec
from podwire.node.volumes.payload import VolumeError
from podwire.runtime.logging import get

_log = get("node")
_RETRY_S: Final = 10.0  # a container that cannot be configured is looked at again after this
_DEADLINE = ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")


class PodWorker:
    """Runs one pod until it is gone from the node."""

    def __init__(
        self, node: NodeContext, pod: Obj, found: Iterable[Container] = (), place: Place | None = None
    ) -> None:
        """``found`` and ``place``: what an earlier agent left of this pod."""
        self.pod = pod
        self.uid = uid_of(pod)
        self.records = Records(found)
        self.home = Home(node, self.uid, place)
        self._node = node
        self._probing = Probing(node, self.records, self.poke)
        self._crashes = Crashes(node.config.backoff_initial_s, node.config.backoff_max_s, node.clock)
        self._wake, self._hurry = asyncio.Event(), asyncio.Event()
        self._vanished = self._sandbox_lost = False
        self._deadline = float("inf")  # of the deletion's grace period, on the monotonic clock
        self._failure: tuple[str, str] | None = None
        self._waiting: dict[str, tuple[str, str]] = {}
        self._images = told_images(pod)
        self._stopping: dict[str, asyncio.Task[None]] = {}  # by container name
        self._hooks: dict[str, asyncio.Task[None]] = {}  # postStart, by container id
        self._actions = Actions()
        self._settled = False
        told = (pod.get("status") or {}).get("startTime")
        self._start_time: str = told or timestamp(node.clock.now())
        if spec.restart_policy(pod) == "Never" and place is None:
            self.records.lose(pod)

    # -- what happens to the pod

    def update(self, pod: Obj) -> None:
        """The API has a newer version of the pod."""
        self.pod = pod
        if is_deleting(pod):
            self._set_deadline(pod)
        self.refresh()

    def _set_deadline(self, pod: Obj) -> None:
        left_s = float(spec.grace_s(pod))
        if self._deadline == float("inf"):  # an agent that starts amid a deletion grants no new period
            ends = parse_timestamp(pod["metadata"]["deletionTimestamp"]).timestamp()
            left_s = min(left_s, max(0.0, ends - self._node.clock.now().timestamp() + 1))
        deadline = self._node.clock.monotonic() + left_s
        if deadline < self._deadline:
            if self._deadline != float("inf"):
                self._node.spawn(self._hurry_after(left_s))
            self._deadline = deadline

    async def _hurry_after(self, seconds: float) -> None:
        await self._node.clock.sleep(seconds)
        self._hurry.set()

    def vanish(self) -> None:
        """The API has no such pod any more (it was deleted with grace 0)."""
        self._vanished = True
        self._hurry.set()
        self.poke()

    def notice(self, container: Container) -> None:
        """The runtime says how a container of the pod is."""
        if self.records.put(container):
            if container.state == "exited":
                self._probing.end(container.spec.id)
            self.poke()

    def lose_sandbox(self) -> None:
        """The runtime has no live sandbox of the pod any more."""
        self._sandbox_lost = True
        self.poke()

    def refresh(self) -> None:
        """Something that volumes show may have changed."""
        self.home.stale = True
        self.poke()

    def poke(self) -> None:
        """Something that the pod depends on may have changed."""
        self._wake.set()

    # -- the loop

    async def run(self) -> None:
        """Live the pod's life; return when nothing of it is left here."""
        if not self._settled:
            self._node.starting += 1
        if is_deleting(self.pod):
            self._set_deadline(self.pod)
        failures = 0
        try:
            while True:
                self._wake.clear()
                again_s: float | None
                try:
                    if self._vanished or is_deleting(self.pod):
                        await self._end()
                        return
                    again_s = await self._sync()
                    failures = 0
                except (MachineError, VolumeError, ApiError, OSError, ValueError, KeyError) as error:
                    failures += 1
                    again_s = min(30.0, 0.25 * 2 ** min(failures, 8))
                    _log.warning("pod-retry", pod=key_of(self.pod), after_s=again_s, error=repr(error))
                    self._publish()
                self._settle()
                await self._sleep(again_s)
        finally:
            self._settle()
            self._probing.close()
            for task in [*self._stopping.values(), *self._hooks.values()]:
                task.cancel()

    def _settle(self) -> None:
        if not self._settled:
            self._settled = True
            self._node.starting -= 1

    async def _sleep(self, seconds: float | None) -> None:
        if seconds is None:
            await self._wake.wait()
            return
        timer = asyncio.ensure_future(self._node.clock.sleep(seconds))
        woken = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait({timer, woken}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            woken.cancel()

    # -- a pass

    async def _sync(self) -> float | None:
        """Do what can be done now; return the seconds after which to look again, None: when woken."""
        if spec.is_terminal(self.pod):
            await self._stop_all(spec.grace_s(self.pod))
            await self.home.leave()
            return None
        overdue_s = self._overdue()
        if overdue_s is not None and overdue_s <= 0:
            self._failure = _DEADLINE
            self._node.tell(self.pod, "Normal", *_DEADLINE)
            await self._stop_all(spec.grace_s(self.pod))
            await self.home.leave()
            self._publish()
            return None
        again_s = await self._run_pod()
        self._publish()
        for old in self.records.outdated():
            await self._node.runtime.remove_container(old.spec.id)
            self.records.forget(old.spec.id)
        waits = (again_s, overdue_s, self._node.tokens.refresh_in_s(self.uid))
        return min((s for s in waits if s is not None), default=None)

    def _overdue(self) -> float | None:
        """Return the seconds left of activeDeadlineSeconds; None without one, and once the pod is done."""
        limit = self.pod["spec"].get("activeDeadlineSeconds")
        if limit is None or self._actions.finished or self._failure:
            return None
        begun = parse_timestamp(self._start_time).timestamp()
        return begun + float(limit) - self._node.clock.now().timestamp()

    async def _run_pod(self) -> float | None:
        if self._sandbox_lost:
            await self._lose_sandbox()
        if self.records.ids() and self._decide().finished and not self.records.running():
            await self.home.leave()
            return None  # done, and its network given back
        await self.home.prepare(self.pod, [c.spec.sandbox_id for c in self.records.all()])
        waits: list[float] = []
        tried: set[str] = set()
        while True:
            actions = self._decide()
            planned = {name for _, name in actions.start}
            self._waiting = {name: why for name, why in self._waiting.items() if name in planned}
            for name, why in actions.kill:
                self._begin_stop(name, why)
            if planned <= tried:
                break
            waits += await self._start_containers(actions.start, tried)
            tried |= planned  # a sidecar that started lets the next one begin within this pass
        if actions.finished and not self.records.running():
            await self.home.leave()
        return min(waits, default=None)

    async def _lose_sandbox(self) -> None:
        """Note that everything in the sandbox has ended; make room for another if anything is to go on."""
        self._sandbox_lost = False
        if self.home.place is None:
            return
        await self._stop_all(0.0)
        for container in await self._node.runtime.containers():
            if container.spec.id in self.records.ids():
                self.records.put(container)
        self.records.end_running(self._node.clock.now().timestamp())
        if not self._decide().finished:
            message = "Pod sandbox changed, it will be killed and re-created."
            self._node.tell(self.pod, "Normal", "SandboxChanged", message)
            await self.home.move_out()

    def _decide(self) -> Actions:
        """Look at everything and return what to do."""
        self._probing.watch(self.pod, self._host(), self._hooks)
        self._actions = plan.decide(self.pod, self._observe())
        return self._actions

    def _observe(self) -> dict[str, Observation]:
        return self.records.observe(self.pod, self.home.sandbox_id)

    def _host(self) -> str:
        addresses = self.home.addresses(self.pod)
        return str(addresses[0]) if addresses else "127.0.0.1"

    def target(self, container: Container) -> Target:
        """Return a container as probes and hooks see it."""
        c = next((c for _, c in spec.containers(self.pod) if c["name"] == container.spec.name), None)
        return Target(container, c or {"name": container.spec.name}, self._host())

    # -- starting containers

    async def _start_containers(self, wanted: Iterable[tuple[Role, str]], tried: set[str]) -> list[float]:
        """Start what may be started now; return after which seconds what could not is tried again."""
        waits: list[float] = []
        for role, name in wanted:
            if self._hooks:
                break  # containers start in order, each after the postStart hook of the one before
            if name in self._stopping or name in tried:
                continue
            wait_s = await self._start(role, name)
            if wait_s is not None:
                waits.append(wait_s)
        return waits

    async def _start(self, role: Role, name: str) -> float | None:
        """Start one container; return seconds when it is to be tried again then."""
        where = spec.field_path(role, name)
        last = self.records.newest(name)
        wait_s = self._crashes.wait_s(name, last)
        if wait_s > 0:
            self._say_backing_off(name, where)
            return wait_s
        c = next(c for _, c in spec.containers(self.pod) if c["name"] == name)
        attempt = self.records.next_attempt(self.pod, name)
        try:
            wanted = container_spec(self.pod, c, attempt, self.home.ground(self.pod))
        except (ConfigError, OSError) as error:
            self._waiting[name] = ("CreateContainerConfigError", str(error))
            self._node.tell(self.pod, "Warning", "Failed", f"Error: {error}", where)
            return _RETRY_S
        await self._look_up_image(wanted.image, where)
        self._crashes.restarted(name, last)
        return await self._launch(wanted, c, where)

    async def _launch(self, wanted: ContainerSpec, c: Mapping[str, Any], where: str) -> float | None:
        node, name = self._node, wanted.name
        try:
            container = await node.runtime.start_container(wanted)
        except MachineError as error:
            return await self._start_failed(wanted, where, error)
        self._waiting.pop(name, None)
        self.records.put(container)
        node.tell(self.pod, "Normal", "Created", f"Container created: {name}", where)
        node.tell(self.pod, "Normal", "Started", f"Container started: {name}", where)
        hook = (c.get("lifecycle") or {}).get("postStart")
        if hook:
            task = node.spawn(self._post_start(hook, self.target(container), where))
            self._hooks[container.spec.id] = task
        return None

    async def _look_up_image(self, name: str, where: str) -> None:
        if name in self._images:
            return
        image = await self._node.runtime.image(name)
        self._images[name] = image.id
        message = f'Container image "{name}" already present on machine'
        known = image.kind != "unknown"
        if image.note and known:
            message += f"; {image.note}"
        self._node.tell(self.pod, "Normal", "Pulled", message, where)
        if image.note and not known:
            self._node.tell(self.pod, "Warning", "ImageUnknown", image.note, where)

    async def _start_failed(self, wanted: ContainerSpec, where: str, error: MachineError) -> float | None:
        """Tell why; an attempt that the runtime recorded counts as a crash, others are tried again."""
        for container in await self._node.runtime.containers():
            if container.spec.id == wanted.id:
                self.records.put(container)
        recorded = wanted.id in self.records.ids()
        reason = "RunContainerError" if recorded else "CreateContainerError"
        text = f"{error.cause}; {error.hint}" if error.hint else str(error.cause)
        self._waiting[wanted.name] = (reason, text)
        self._node.tell(self.pod, "Warning", "Failed", f"Error: {text}", where)
        if not recorded:
            return _RETRY_S
        self.poke()
        return None

    async def _post_start(self, hook: Mapping[str, Any], target: Target, where: str) -> None:
        outcome = await run_hook(self._node, hook, target, None)
        self._hooks.pop(target.container.spec.id, None)
        if not outcome.ok:
            message = f"PostStartHook failed: {outcome.output}"
            self._node.tell(self.pod, "Warning", "FailedPostStartHook", message, where)
            self._begin_stop(target.spec["name"], "FailedPostStartHook")
        self.poke()

    def _say_backing_off(self, name: str, where: str) -> None:
        state = ("CrashLoopBackOff", self._crashes.message(name, full_name(self.pod)))
        if self._waiting.get(name) != state:
            self._waiting[name] = state
            message = f"Back-off restarting failed container {name} in pod {full_name(self.pod)}"
            self._node.tell(self.pod, "Warning", "BackOff", message, where)

    # -- stopping containers

    def _begin_stop(self, name: str, why: str) -> None:
        """Stop a container that is to be restarted (or is done), beside the loop."""
        container = self.records.newest(name)
        if container is None or container.state != "running" or name in self._stopping:
            return
        grace_s = float(spec.grace_s(self.pod))
        health = self.records.health.get(container.spec.id)
        if health is not None and health.unhealthy and health.unhealthy_grace_s is not None:
            grace_s = float(health.unhealthy_grace_s)
        self._stopping[name] = self._node.spawn(self._stop_one(container, grace_s, why))

    async def _stop_one(self, container: Container, grace_s: float, why: str) -> None:
        self._probing.end(container.spec.id)
        try:
            ended = await stop(self._node, self.pod, self.target(container), grace_s, why, self._hurry)
            self.records.put(ended)
        except MachineError as error:
            _log.warning("stop-failed", pod=key_of(self.pod), container=container.spec.name, error=str(error))
        finally:
            self._stopping.pop(container.spec.name, None)
            self.poke()

    async def _stop_all(self, grace_s: float) -> None:
        """Stop everything, sidecars last."""
        deadline = self._node.clock.monotonic() + grace_s
        for task in self._hooks.values():
            task.cancel()
        self._hooks.clear()
        for wave in plan.stop_order(self.pod):
            for container in self.records.running():
                name = container.spec.name
                if name in wave and name not in self._stopping:
                    left_s = max(0.0, deadline - self._node.clock.monotonic())
                    work = self._stop_one(container, left_s, f"Stopping container {name}")
                    self._stopping[name] = self._node.spawn(work)
            pending = [self._stopping[n] for n in wave if n in self._stopping]
            if pending:
                await asyncio.wait(pending)

    # -- the end

    async def _end(self) -> None:
        """Stop the pod, say so, and leave nothing. Raises MachineError and ApiError: try again."""
        node, pod = self._node, self.pod
        left_s = 0.0 if self._vanished else max(0.0, self._deadline - node.clock.monotonic())
        await self._stop_all(left_s)
        running = self.records.running()
        if running and not self._sandbox_lost:
            raise MachineError("node", "stop pod", str(key_of(pod)), f"{running[0].spec.name} still runs")
        if not self._vanished:
            self._publish(terminating=True)
            await node.statuses.flush(self.uid)
        await self.home.demolish()
        shutil.rmtree(node.log_dir(pod), ignore_errors=True)
        if not self._vanished:
            meta = pod["metadata"]
            with contextlib.suppress(NotFound, Conflict):
                await node.client.delete(PODS, meta["name"], meta.get("namespace", ""), grace_period_s=0, uid=self.uid)

    # -- status

    def status(self, *, terminating: bool = False) -> Obj:
        """Return the pod's status as the node sees it now."""
        self.records.read_last_words(self.pod)
        actions = self._actions
        view = View(
            seen=self._observe(),
            waiting={} if terminating or actions.finished else self._waiting,
            messages=self.records.messages,
            images=self._images,
            restarts=self.records.restarts(self.pod),
            initialized=actions.initialized or not spec.init_containers(self.pod),
            finished=actions.finished,
            failed_init=bool(actions.failed_init),
            sandbox_ready=self.home.place is not None,
            pod_ips=self.home.addresses(self.pod),
            host_ips=self._node.config.addresses,
            start_time=self._start_time,
            failure=self._failure,
            terminating=terminating,
        )
        return pod_status(self.pod, view, timestamp(self._node.clock.now()))

    def why_waiting(self, name: str) -> str:
        """Return the reason that a container has not been started: ContainerCreating and the like."""
        return self._waiting.get(name, ("ContainerCreating", ""))[0]

    def _publish(self, *, terminating: bool = False) -> None:
        self._node.statuses.set(self.pod, self.status(terminating=terminating))
