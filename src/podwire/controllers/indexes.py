"""Objects of an informer, grouped by something that is read from them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable
from typing import Generic, TypeVar

from podwire.client.informer import Informer
from podwire.model.objects import Key, Obj

H = TypeVar("H", bound=Hashable)


class Index(Generic[H]):
    """The objects of one informer by the values that ``values_of`` returns for each."""

    def __init__(self, informer: Informer, values_of: Callable[[Obj], Iterable[H]]) -> None:
        self._groups: dict[H, dict[Key, Obj]] = {}
        self._values_of = values_of
        informer.listen(self._change)

    def of(self, value: H) -> Collection[Obj]:
        """Return the objects with this value; empty when there are none. Do not keep it."""
        group = self._groups.get(value)
        return group.values() if group is not None else ()

    def __contains__(self, value: H) -> bool:
        return value in self._groups

    def _change(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        before = set(self._values_of(old)) if old is not None else set()
        after = set(self._values_of(new)) if new is not None else set()
        for value in before - after:
            group = self._groups[value]
            group.pop(key, None)
            if not group:
                del self._groups[value]
        for value in after:
            self._groups.setdefault(value, {})[key] = new  # type: ignore[assignment]
