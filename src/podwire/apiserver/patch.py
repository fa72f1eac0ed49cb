"""The four patch types, by content type. Pure but for the default of ``now``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson

from podwire.apiserver import jsonpatch, serverside, strategic
from podwire.apiserver.errors import ApiStatusError, bad_request, unsupported_media_type
from podwire.apiserver.jsonpatch import PatchError
from podwire.apiserver.kinds import Kind
from podwire.apiserver.managedfields import structure_of
from podwire.model.objects import Obj

JSON = "application/json-patch+json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"
_ALL = (JSON, MERGE, STRATEGIC, APPLY)


def apply_patch(
    kind: Kind,
    current: Obj | None,
    content_type: str,
    body: bytes,
    *,
    field_manager: str,
    force: bool,
    subresource: str = "",
    now: datetime | None = None,
) -> Obj:
    """Return ``current`` patched; ``current`` itself is not changed.

    ``current`` None (apply only) means that the object is to be created. After APPLY managedFields are
    up to date; after the others the caller records the write with ``managedfields.track_update``.
    Raises ApiStatusError: 400 malformed, 409 apply conflicts, 415 unknown type, 422 does not fit.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == APPLY:
        config = _parse_yaml(body)
        moment = now or datetime.now(UTC)
        return serverside.apply(
            kind, current, config, manager=field_manager, force=force, subresource=subresource, now=moment
        )
    accepted = (JSON, MERGE, APPLY) if kind.is_custom else _ALL
    if media_type not in accepted:
        raise unsupported_media_type(content_type, accepted)
    assert current is not None, "only apply creates"
    try:
        patch = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise bad_request(f"error decoding patch: {error}") from error
    try:
        result = _patched(kind, current, media_type, patch)
    except PatchError as error:
        raise _refused(error) from error
    if not isinstance(result, dict) or not isinstance(result.get("metadata"), dict):
        raise _refused(PatchError("the result is not an object with metadata"))
    # What the patch did not touch is shared with ``current``; callers write to the metadata.
    return {**result, "metadata": dict(result["metadata"])}


def _patched(kind: Kind, current: Obj, media_type: str, patch: Any) -> Any:
    if media_type == JSON:
        return jsonpatch.apply(current, patch)
    if not isinstance(patch, dict):
        raise PatchError("expected an object", malformed=True)
    if media_type == MERGE:
        return jsonpatch.merge(current, patch)
    try:
        return strategic.merge(current, patch, structure_of(kind))
    except TypeError as error:  # a list where a map should be, a map as a key ...
        raise PatchError(f"a value has the wrong type: {error}", malformed=True) from error


def _refused(error: PatchError) -> ApiStatusError:
    if error.malformed:
        return bad_request(f"error decoding patch: {error}")
    message = f"the server rejected our request due to an error in our request: {error}"
    return ApiStatusError(422, "Invalid", message)


def _parse_yaml(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(body, Loader=loader)
    except yaml.YAMLError as error:
        raise bad_request(f"error decoding YAML: {error}") from error
