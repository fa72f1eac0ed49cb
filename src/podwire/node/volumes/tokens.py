"""ServiceAccount tokens of pods, asked for once and again when four fifths of their time are over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from podwire.client.errors import ApiError
from podwire.client.port import Client
from podwire.model.objects import parse_timestamp
from podwire.model.resources import SERVICEACCOUNTS, TOKENREQUEST_SUBRESOURCE
from podwire.node.volumes.payload import TokenWanted, VolumeError
from podwire.runtime.clock import Clock

_MAX_REFRESH_S = 24 * 3600


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    refresh_at: float  # seconds since the epoch


class TokenSource:
    """TokenRequests for pods, bound to the pod: the token dies with it."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client, self._clock = client, clock
        self._tokens: dict[tuple[str, TokenWanted], _Token] = {}

    async def get(self, pod: Mapping[str, Any], wanted: TokenWanted) -> str:
        """Return a token with time left. Raises VolumeError."""
        id = (pod["metadata"]["uid"], wanted)
        held = self._tokens.get(id)
        now = self._clock.now().timestamp()
        if held is None or held.refresh_at <= now:
            try:
                held = self._tokens[id] = await self._request(pod, wanted, now)
            except ApiError as error:
                if held is None:
                    raise VolumeError(f"failed to fetch token: {error}") from error
        return held.text

    def refresh_in_s(self, pod_uid: str) -> float | None:
        """Return the seconds until the pod's next token wants replacing; None: it has none."""
        times = [t.refresh_at for (uid, _), t in self._tokens.items() if uid == pod_uid]
        return max(1.0, min(times) - self._clock.now().timestamp()) if times else None

    def release(self, pod_uid: str) -> None:
        """Forget the tokens of a pod that is gone."""
        self._tokens = {id: t for id, t in self._tokens.items() if id[0] != pod_uid}

    async def _request(self, pod: Mapping[str, Any], wanted: TokenWanted, now: float) -> _Token:
        meta = pod["metadata"]
        bound = {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}
        answer = await self._client.create_subresource(
            SERVICEACCOUNTS,
            pod["spec"].get("serviceAccountName") or "default",
            meta.get("namespace", ""),
            TOKENREQUEST_SUBRESOURCE,
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "metadata": {},
                "spec": {
                    "audiences": [wanted.audience] if wanted.audience else [],
                    "expirationSeconds": wanted.lasts_s,
                    "boundObjectRef": bound,
                },
            },
        )
        status = answer["status"]
        lasts_s = parse_timestamp(status["expirationTimestamp"]).timestamp() - now
        return _Token(status["token"], now + min(lasts_s * 0.8, _MAX_REFRESH_S))
