"""The API server's own metrics, in Prometheus' text form."""

from __future__ import annotations

from collections import defaultdict

from podwire.apiserver.kinds import Registry
from podwire.apiserver.store.port import Store


class Meter:
    """Counts requests and their seconds."""

    def __init__(self) -> None:
        self._count: dict[tuple[str, str, int], int] = defaultdict(int)
        self._seconds: dict[tuple[str, str], float] = defaultdict(float)
        self.watches = 0

    def count(self, verb: str, resource: str, code: int, seconds: float) -> None:
        """Note one answered request; the time of a watch is not counted."""
        self._count[verb, resource, code] += 1
        if verb != "watch":
            self._seconds[verb, resource] += seconds

    def render(self, registry: Registry, store: Store) -> str:
        """Return the page."""
        lines = ["# TYPE apiserver_request_total counter"]
        for (verb, resource, code), number in sorted(self._count.items()):
            lines.append(
                f'apiserver_request_total{{verb="{verb.upper()}",resource="{resource}",code="{code}"}} {number}'
            )
        lines.append("# TYPE apiserver_request_duration_seconds summary")
        for (verb, resource), seconds in sorted(self._seconds.items()):
            labels = f'verb="{verb.upper()}",resource="{resource}"'
            total = sum(n for (v, r, _), n in self._count.items() if (v, r) == (verb, resource))
            lines.append(f"apiserver_request_duration_seconds_sum{{{labels}}} {seconds:.6f}")
            lines.append(f"apiserver_request_duration_seconds_count{{{labels}}} {total}")
        lines.append("# TYPE apiserver_storage_objects gauge")
        for bucket in sorted({k.storage for k in registry if k.storage}):
            lines.append(f'apiserver_storage_objects{{resource="{bucket}"}} {len(store.rows(bucket))}')
        lines.append("# TYPE apiserver_storage_revision gauge")
        lines.append(f"apiserver_storage_revision {store.revision}")
        lines.append("# TYPE apiserver_longrunning_requests gauge")
        lines.append(f'apiserver_longrunning_requests{{verb="WATCH"}} {self.watches}')
        return "\n".join(lines) + "\n"
