"""The registry of served kinds: what discovery shows, what routes lead to, where objects are stored.

Built-in kinds are a table (``builtin_kinds``); CustomResourceDefinitions add and remove kinds live. Two
kinds may share one store bucket: core/v1 and events.k8s.io/v1 Events, the versions of a CRD.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from podwire.model.objects import Obj
from podwire.model.resources import Resource

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
REVIEW_VERBS = ("create",)


@dataclass(frozen=True, slots=True)
class Subresource:
    """One subresource: "status", "scale", "log" ... with the kind of its body, and verbs."""

    name: str
    verbs: tuple[str, ...]
    kind: str
    group: str = ""  # of the body; shown in discovery when it differs from the resource's
    version: str = ""


@dataclass(frozen=True, slots=True)
class ScalePaths:
    """Where /scale finds its three values in an object."""

    spec_replicas: tuple[str, ...] = ("spec", "replicas")
    status_replicas: tuple[str, ...] = ("status", "replicas")
    label_selector: tuple[str, ...] = ("spec", "selector")


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """One served resource in one version."""

    group: str
    version: str
    kind: str
    plural: str
    singular: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    subresources: Mapping[str, Subresource] = field(default_factory=dict)
    preferred: bool = True
    definition: str = ""  # name of the JSON schema definition; "" for custom resources
    storage: str = ""  # the store's bucket
    scale: ScalePaths | None = None
    selectable: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # field selector -> path
    to_stored: Callable[[Obj], Obj] | None = None  # from this version to the stored form
    from_stored: Callable[[Obj], Obj] | None = None
    # Custom resources only: the version's openAPIV3Schema and additionalPrinterColumns.
    schema: Obj | None = None
    printer_columns: tuple[Obj, ...] = ()
    list_kind: str = ""
    deprecation: str = ""  # sent as a warning with each answer
    creates_on_update: bool = False  # PUT of a name that does not exist creates it

    @property
    def api_version(self) -> str:
        """The ``apiVersion`` of its objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> Resource:
        """The client's name for it."""
        return Resource(self.group, self.version, self.plural, self.kind, self.namespaced)

    @property
    def is_custom(self) -> bool:
        """Whether a CustomResourceDefinition defines it."""
        return self.schema is not None

    @property
    def has_status(self) -> bool:
        """Whether status is written through /status only."""
        return "status" in self.subresources


class Registry:
    """Every served kind. ``generation`` grows with each change, for caches."""

    def __init__(self, kinds: Iterable[Kind] = ()) -> None:
        self._by_path: dict[tuple[str, str, str], Kind] = {}
        self._by_kind: dict[tuple[str, str, str], Kind] = {}
        self.generation = 0
        for kind in kinds:
            self.add(kind)

    def __iter__(self) -> Iterator[Kind]:
        return iter(list(self._by_path.values()))

    def add(self, kind: Kind) -> None:
        """Serve ``kind``, in place of one of the same group, version and plural."""
        self.generation += 1
        self._by_path[kind.group, kind.version, kind.plural] = kind
        self._by_kind[kind.group, kind.version, kind.kind] = kind

    def remove(self, kind: Kind) -> None:
        """Serve ``kind`` no more."""
        self.generation += 1
        self._by_path.pop((kind.group, kind.version, kind.plural), None)
        self._by_kind.pop((kind.group, kind.version, kind.kind), None)

    def find(self, group: str, version: str, plural: str) -> Kind | None:
        """Return the kind served at /apis/GROUP/VERSION/PLURAL, or None."""
        return self._by_path.get((group, version, plural))

    def find_kind(self, group: str, version: str, kind: str) -> Kind | None:
        """Return the kind by its ``kind``, or None."""
        return self._by_kind.get((group, version, kind))

    def preferred(self, group: str, plural: str) -> Kind | None:
        """Return a group's resource in the version that is preferred, or None."""
        found = [k for k in self._by_path.values() if k.group == group and k.plural == plural]
        return next((k for k in found if k.preferred), found[0] if found else None)

    def group_versions(self) -> dict[str, list[str]]:
        """Return group -> versions, the preferred first; the core group is ``""``."""
        found: dict[str, dict[str, bool]] = {}
        for kind in self._by_path.values():
            versions = found.setdefault(kind.group, {})
            versions[kind.version] = versions.get(kind.version, False) or kind.preferred
        return {g: sorted(v, key=lambda name: (not v[name], name)) for g, v in found.items()}

    def of_group_version(self, group: str, version: str) -> list[Kind]:
        """Return the kinds of one group version, by plural."""
        found = [k for k in self._by_path.values() if (k.group, k.version) == (group, version)]
        return sorted(found, key=lambda k: k.plural)
