"""ServiceAccount tokens: JSON Web Tokens, ES256, bound to an audience, a moment and often a pod.

Claims are those of Kubernetes (KEP-1205): ``iss sub aud exp iat nbf jti`` and ``kubernetes.io`` with the
namespace, the service account, the pod and its node. RFC 7515 (JWS), RFC 7517 (JWK), RFC 7518 (ES256).
"""

from __future__ import annotations

import hashlib
import uuid
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from podwire.model.objects import Obj

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

DEFAULT_EXPIRY_S = 3600
MIN_EXPIRY_S = 600
MAX_EXPIRY_S = 1 << 32
MAX_TOKEN_BYTES = 16384
_REMEMBERED = 4096  # tokens whose signature need not be checked again


class InvalidToken(Exception):
    """The token is malformed, forged, expired, or not of this issuer. Says which."""


@dataclass(frozen=True, slots=True)
class Reference:
    """An object that a token is bound to: the token dies with it."""

    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Claims:
    """What a good token says. Moments are Unix seconds."""

    namespace: str
    service_account: Reference
    audiences: tuple[str, ...]
    issued_at: int
    expires_at: int
    id: str
    bound: Reference | None = None
    node: Reference | None = None

    @property
    def username(self) -> str:
        """The user that the token stands for: system:serviceaccount:NAMESPACE:NAME."""
        return f"system:serviceaccount:{self.namespace}:{self.service_account.name}"


class TokenSigner:
    """Issues and checks the tokens of one issuer with one key."""

    def __init__(self, key_pem: str, issuer: str, audiences: Sequence[str] = ()) -> None:
        """``audiences`` are those that the API server itself answers to; by default its issuer's name."""
        self.issuer = issuer
        self.audiences = tuple(audiences) or (issuer,)
        self._key_pem = key_pem
        self._key: EllipticCurvePrivateKey | None = None
        self._key_id = ""
        self._good: dict[str, Claims] = {}

    def _load(self) -> EllipticCurvePrivateKey:
        if self._key is None:
            from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
            from cryptography.hazmat.primitives.serialization import (
                Encoding,
                PublicFormat,
                load_pem_private_key,
            )

            key = load_pem_private_key(self._key_pem.encode(), None)
            assert isinstance(key, EllipticCurvePrivateKey)
            public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            self._key_id = _encode(hashlib.sha256(public).digest())
            self._key = key
        return self._key

    def issue(
        self,
        namespace: str,
        service_account: Reference,
        *,
        now: int,
        expiry_s: int = DEFAULT_EXPIRY_S,
        audiences: Sequence[str] = (),
        bound: Reference | None = None,
        node: Reference | None = None,
    ) -> str:
        """Return a signed token that is good from ``now`` for ``expiry_s``."""
        held: dict[str, Any] = {
            "namespace": namespace,
            "serviceaccount": {"name": service_account.name, "uid": service_account.uid},
        }
        if node is not None:
            held["node"] = {"name": node.name, "uid": node.uid}
        if bound is not None:
            held[bound.kind.lower()] = {"name": bound.name, "uid": bound.uid}
        claims = {
            "aud": list(audiences or self.audiences),
            "exp": now + expiry_s,
            "iat": now,
            "iss": self.issuer,
            "jti": str(uuid.uuid4()),
            "kubernetes.io": held,
            "nbf": now,
            "sub": f"system:serviceaccount:{namespace}:{service_account.name}",
        }
        return self._sign(orjson.dumps(claims))

    def _sign(self, payload: bytes) -> str:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

        key = self._load()
        head = _encode(orjson.dumps({"alg": "ES256", "kid": self._key_id}))
        signed = f"{head}.{_encode(payload)}"
        r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        # RFC 7518 §3.4: the signature is R and S as 32 octets each, not DER.
        return f"{signed}.{_encode(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    def check(self, token: str, now: int) -> Claims:
        """Return the claims of a token that this signer issued and that is good at ``now``.

        Audiences are the caller's to compare, and whether the objects that it is bound to still
        exist. Raises InvalidToken.
        """
        claims = self._good.get(token)
        if claims is None:
            claims = self._verify(token)
            if len(self._good) >= _REMEMBERED:
                self._good.clear()
            self._good[token] = claims
        if now >= claims.expires_at:
            raise InvalidToken("token has expired")
        if now + 60 < claims.issued_at:
            raise InvalidToken("token is not valid yet")
        return claims

    def _verify(self, token: str) -> Claims:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

        if len(token) > MAX_TOKEN_BYTES:
            raise InvalidToken("token is too long")
        try:
            head, payload, signature = token.split(".")
            header, claims = orjson.loads(_decode(head)), orjson.loads(_decode(payload))
            raw = _decode(signature)
            algorithm = header["alg"]
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidToken("not a JSON Web Token") from error
        if algorithm != "ES256" or len(raw) != 64:
            raise InvalidToken("not signed with ES256")
        der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
        try:
            self._load().public_key().verify(der, f"{head}.{payload}".encode(), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature as error:
            raise InvalidToken("signature does not verify") from error
        if claims.get("iss") != self.issuer:
            raise InvalidToken(f"issued by {claims.get('iss')!r}, not by {self.issuer!r}")
        return _claims(claims)

    def jwks(self) -> Obj:
        """Return the JSON Web Key Set of ``/openid/v1/jwks``."""
        numbers = self._load().public_key().public_numbers()
        key = {
            "use": "sig",
            "kty": "EC",
            "kid": self._key_id,
            "crv": "P-256",
            "alg": "ES256",
            "x": _encode(numbers.x.to_bytes(32, "big")),
            "y": _encode(numbers.y.to_bytes(32, "big")),
        }
        return {"keys": [key]}

    def discovery(self, jwks_uri: str) -> Obj:
        """Return the document of ``/.well-known/openid-configuration``."""
        return {
            "issuer": self.issuer,
            "jwks_uri": jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        }


def _claims(claims: dict[str, Any]) -> Claims:
    try:
        held = claims["kubernetes.io"]
        references = {
            kind: Reference(kind, held[kind.lower()]["name"], held[kind.lower()]["uid"])
            for kind in ("ServiceAccount", "Pod", "Secret", "Node")
            if kind.lower() in held
        }
        bound = references.get("Pod") or references.get("Secret") or references.get("Node")
        return Claims(
            held["namespace"],
            references["ServiceAccount"],
            tuple(claims["aud"]),
            int(claims["iat"]),
            int(claims["exp"]),
            claims.get("jti", ""),
            bound,
            references.get("Node"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidToken(f"a claim is missing or has the wrong type: {error}") from error


def _encode(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
