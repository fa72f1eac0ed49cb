"""When the change happened that an endpoints object reflects, so that others can measure the delay. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from podwire.model.objects import Key, Obj, condition, key_of


class TriggerTimes:
    """Remembers, for each Service, the moments of its pods that are already told."""

    def __init__(self) -> None:
        self._told: dict[Key, tuple[str, dict[Key, str]]] = {}

    def of(self, service: Obj, pods: Iterable[Obj]) -> str:
        """Return the oldest moment that is news since the last call; "" when nothing is.

        A pod's moment is when it became ready or not ready; a Service's is its creation.
        """
        key = key_of(service)
        known = self._told.get(key)
        born, before = known if known is not None else ("", {})
        moments = {key_of(p): m for p in pods if (m := _moment(p))}
        news = [m for k, m in moments.items() if m > before.get(k, "")]
        created = service["metadata"].get("creationTimestamp") or ""
        if created > born:
            news.append(created)
        self._told[key] = (created, moments)
        return min(news, default="")

    def forget(self, key: Key) -> None:
        """Drop what is remembered of a Service that is gone."""
        self._told.pop(key, None)


def _moment(pod: Obj) -> str:
    c = condition(pod, "Ready")
    return (c or {}).get("lastTransitionTime") or ""
