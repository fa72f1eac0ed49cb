"""How endpoints are packed into slices of at most 100, moving as few of them as can be. Pure.

An endpoint that is in a slice stays there. New ones go first into slices that change anyway, then into the
fullest slice with room for all of them, then into new slices. So one changed endpoint costs one write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from podwire.controllers.endpoints.plan import TRIGGER_TIME, Endpoint, Family, Group, Port
from podwire.model.objects import Obj, annotations_of, is_deleting, labels_of, owner_reference

MAX_ENDPOINTS = 100


@dataclass(frozen=True, slots=True)
class SliceChanges:
    """What to write."""

    create: tuple[Obj, ...]
    update: tuple[Obj, ...]
    delete: tuple[Obj, ...]


@dataclass(slots=True)
class _Draft:
    """An existing slice as it will be."""

    slice: Obj
    endpoints: list[Obj]
    changed: bool


@dataclass(frozen=True, slots=True)
class SliceOwner:
    """What all slices of one owner carry."""

    owner: Obj  # a Service, or hand-made Endpoints
    labels: Mapping[str, str]
    families: tuple[Family, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)


def group_of(slice: Obj) -> Group:
    """Return the group of an existing slice."""
    ports = tuple(
        Port(p.get("name") or "", p.get("protocol") or "TCP", p.get("port") or 0, p.get("appProtocol") or "")
        for p in slice.get("ports") or ()
    )
    return Group(slice["addressType"], ports)


def plan_slices(
    owner: SliceOwner,
    existing: Sequence[Obj],
    wanted: Mapping[Group, Sequence[Endpoint]],
    trigger_time: str = "",
    max_endpoints: int = MAX_ENDPOINTS,
) -> SliceChanges:
    """Return the writes that make the slices hold exactly ``wanted``.

    A family without any endpoint keeps one empty slice, so that readers see "none" rather than nothing.
    ``trigger_time`` goes onto the slices that are written, as an annotation.
    """
    create: list[Obj] = []
    update: list[Obj] = []
    delete: list[Obj] = []
    spare: list[Obj] = []
    by_group: dict[Group, list[Obj]] = {}
    for s in sorted(existing, key=lambda s: str(s["metadata"]["name"])):
        if not is_deleting(s):
            by_group.setdefault(group_of(s), []).append(s)
    for group in [*wanted, *(g for g in by_group if g not in wanted)]:
        drafts, overflow = _fill(by_group.get(group, []), wanted.get(group, ()), max_endpoints)
        for draft in drafts:
            if not draft.endpoints:
                spare.append(draft.slice)
            elif draft.changed or not _is_dressed(draft.slice, owner):
                update.append(_dressed(draft.slice, draft.endpoints, owner, trigger_time))
        create.extend(_new_slice(owner, group, chunk, trigger_time) for chunk in _chunks(overflow, max_endpoints))
    families = {g.family for g, endpoints in wanted.items() if endpoints}
    for family in owner.families:
        if family not in families:
            kept = next((s for s in spare if s["addressType"] == family), None)
            if kept is None:
                create.append(_new_slice(owner, Group(family, ()), [], trigger_time))
                continue
            spare.remove(kept)
            if kept.get("endpoints") or not _is_dressed(kept, owner):
                update.append(_dressed(kept, [], owner, trigger_time))
    delete.extend(spare)
    return SliceChanges(tuple(create), tuple(update), tuple(delete))


def _identity(endpoint: Obj) -> tuple[str, str]:
    addresses = endpoint.get("addresses") or [""]
    return (addresses[0], (endpoint.get("targetRef") or {}).get("uid", ""))


def _fill(slices: Sequence[Obj], wanted: Sequence[Endpoint], max_endpoints: int) -> tuple[list[_Draft], list[Obj]]:
    """Return the existing slices as they will be, and the endpoints for which they have no room."""
    missing = {e.identity: e.render() for e in wanted}
    drafts = []
    for s in slices:
        present = s.get("endpoints") or []
        kept = [missing.pop(i) for e in present if (i := _identity(e)) in missing]
        drafts.append(_Draft(s, kept, [_plain(e) for e in present] != kept))
    rest = list(missing.values())
    if not rest:
        return drafts, []
    for draft in sorted((d for d in drafts if d.changed), key=lambda d: -len(d.endpoints)):
        room = max_endpoints - len(draft.endpoints)
        draft.endpoints += rest[:room]
        rest = rest[room:]
    roomy = [d for d in drafts if not d.changed and max_endpoints - len(d.endpoints) >= len(rest)]
    if rest and len(rest) < max_endpoints and roomy:
        fullest = max(roomy, key=lambda d: len(d.endpoints))
        fullest.endpoints += rest
        fullest.changed = True
        rest = []
    return drafts, rest


def _plain(endpoint: Obj) -> Obj:
    """Return an endpoint as stored, without what says nothing."""
    return {k: v for k, v in endpoint.items() if v}


def _chunks(endpoints: list[Obj], size: int) -> list[list[Obj]]:
    return [endpoints[i : i + size] for i in range(0, len(endpoints), size)]


def _is_dressed(slice: Obj, owner: SliceOwner) -> bool:
    annotations = {k: v for k, v in annotations_of(slice).items() if k != TRIGGER_TIME}
    return dict(labels_of(slice)) == dict(owner.labels) and annotations == dict(owner.annotations)


def _annotations(owner: SliceOwner, trigger_time: str) -> dict[str, str]:
    return {**owner.annotations, **({TRIGGER_TIME: trigger_time} if trigger_time else {})}


def _dressed(slice: Obj, endpoints: list[Obj], owner: SliceOwner, trigger_time: str) -> Obj:
    meta = {k: v for k, v in slice["metadata"].items() if k != "annotations"}
    annotations = _annotations(owner, trigger_time)
    if annotations:
        meta["annotations"] = annotations
    return {**slice, "metadata": {**meta, "labels": dict(owner.labels)}, "endpoints": endpoints}


def _new_slice(owner: SliceOwner, group: Group, endpoints: list[Obj], trigger_time: str) -> Obj:
    meta = owner.owner["metadata"]
    metadata: Obj = {
        "generateName": f"{meta['name']}-",
        "namespace": meta["namespace"],
        "labels": dict(owner.labels),
        "ownerReferences": [owner_reference(owner.owner)],
    }
    annotations = _annotations(owner, trigger_time)
    if annotations:
        metadata["annotations"] = annotations
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata,
        "addressType": group.family,
        "endpoints": endpoints,
        "ports": [p.render() for p in group.ports],
    }
