"""Links on their way out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from podwire.kernel.link.port import LinkPort
from podwire.model.errors import MachineError


class LinkRemoval:
    """Links being removed.

    A removal waits about 16 ms for the kernel, whatever their number: it is done in a thread, and those
    asked for meanwhile go together in the next one.
    """

    def __init__(self, open_links: Callable[[], LinkPort]) -> None:
        self._open_links = open_links
        self._links: LinkPort | None = None
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def remove(self, index: int) -> None:
        """Return when the link is gone. Raises MachineError."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((index, done))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        await asyncio.shield(done)

    async def _work(self) -> None:
        if self._links is None:
            self._links = self._open_links()
        while self._waiting:
            batch, self._waiting = self._waiting, []
            failure: BaseException | None = None
            try:
                await asyncio.to_thread(self._links.delete_all, [index for index, _ in batch])
            except MachineError as error:
                failure = error
            for _, done in batch:
                if failure is None:
                    done.set_result(None)
                else:
                    done.set_exception(failure)
