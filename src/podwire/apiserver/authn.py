"""Who is asking: client certificates, bearer tokens, and nobody.

The order is certificate, then token, then anonymous; the first that is *shown* decides. A bad token is
refused even where anonymous requests are welcome. Answers are ``User`` or None, and None means 401.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiohttp import web

from podwire.apiserver.tokens import Claims, InvalidToken, Reference, TokenSigner
from podwire.apiserver.values import User
from podwire.model.objects import Obj
from podwire.runtime.clock import Clock, SystemClock

AUTHENTICATED = "system:authenticated"
UNAUTHENTICATED = "system:unauthenticated"
ANONYMOUS = User("system:anonymous", groups=(UNAUTHENTICATED,))
OPEN_PATHS = frozenset({"/version", "/healthz", "/livez", "/readyz"})

UidOf = Callable[[str, str, str], str | None]
"""(plural, namespace, name) -> the uid of the object that lives there now; None when there is none."""

_PLURALS = {"Pod": "pods", "Secret": "secrets", "Node": "nodes"}


class Authenticator:
    """Turns what a request shows into a user."""

    def __init__(
        self,
        signer: TokenSigner,
        uid_of: UidOf,
        *,
        static_tokens: Mapping[str, User] | None = None,
        open_paths: frozenset[str] | None = OPEN_PATHS,
        clock: Clock | None = None,
    ) -> None:
        """``open_paths`` are those that need no credentials; None lets anonymous reach the authorizer
        everywhere, as a kube-apiserver does by default (it then answers 403 in place of 401)."""
        self.signer = signer
        self._uid_of = uid_of
        self._static_tokens = dict(static_tokens or {})
        self._open_paths = open_paths
        self._clock: Clock = clock or SystemClock()

    def authenticate(self, request: web.Request) -> User | None:
        """Return who sent the request; None when its credentials are bad or missing."""
        transport = request.transport
        certificate = transport.get_extra_info("peercert") if transport is not None else None
        if certificate:
            return user_of_certificate(certificate)
        header = request.headers.get("Authorization")
        if header is not None:
            scheme, _, token = header.partition(" ")
            if scheme.lower() == "bearer" and token.strip():
                return self.user_of_token(token.strip())
            return None
        return self.anonymous(request.path)

    def anonymous(self, path: str) -> User | None:
        """Return the anonymous user where it may go."""
        if self._open_paths is None:
            return ANONYMOUS
        # /livez/ping, /readyz/etcd ... are as open as their parents.
        first = "/" + path.split("/", 2)[1] if path.startswith("/") else path
        return ANONYMOUS if first in self._open_paths else None

    def user_of_token(self, token: str, audiences: Sequence[str] = ()) -> User | None:
        """Return the bearer of a token that is good for one of ``audiences`` (default: this server)."""
        static = self._static_user(token)
        if static is not None:
            return static
        try:
            claims = self.signer.check(token, int(self._clock.now().timestamp()))
        except InvalidToken:
            return None
        if not set(claims.audiences) & set(audiences or self.signer.audiences):
            return None
        return user_of_claims(claims) if self._still_bound(claims) else None

    def _static_user(self, token: str) -> User | None:
        for known, user in self._static_tokens.items():
            if hmac.compare_digest(known.encode(), token.encode()):
                return user
        return None

    def _still_bound(self, claims: Claims) -> bool:
        """Return whether the account, and what the token is bound to, are still the same objects."""
        account = claims.service_account
        if self._uid_of("serviceaccounts", claims.namespace, account.name) != account.uid:
            return False
        bound = claims.bound
        if bound is None:
            return True
        namespace = "" if bound.kind == "Node" else claims.namespace
        return self._uid_of(_PLURALS[bound.kind], namespace, bound.name) == bound.uid

    def review(self, spec: Mapping[str, Any]) -> Obj:
        """Return the status of a TokenReview with this spec."""
        audiences = tuple(spec.get("audiences") or self.signer.audiences)
        token = spec.get("token") or ""
        user = self.user_of_token(token, audiences) if token else None
        if user is None:
            return {"user": {}, "error": "invalid bearer token"}
        granted = self._granted(token, audiences)
        return {"authenticated": True, "user": user_info(user), "audiences": granted}

    def _granted(self, token: str, audiences: Sequence[str]) -> list[str]:
        try:
            claims = self.signer.check(token, int(self._clock.now().timestamp()))
        except InvalidToken:
            return list(audiences)  # a static token is good for every audience
        return [a for a in audiences if a in claims.audiences]


def user_of_certificate(certificate: Mapping[str, Any]) -> User | None:
    """Return the user of a verified peer certificate (as ``ssl`` shows it): CN, and a group per O.

    None when it has no common name.
    """
    name, groups = "", []
    for part in certificate.get("subject") or ():
        for kind, value in part:
            if kind == "commonName":
                name = value
            elif kind == "organizationName":
                groups.append(value)
    return User(name, groups=(*groups, AUTHENTICATED)) if name else None


def user_of_claims(claims: Claims) -> User:
    """Return the ServiceAccount's user, with its groups and what its token is bound to."""
    extra: dict[str, tuple[str, ...]] = {"authentication.kubernetes.io/credential-id": (f"JTI={claims.id}",)}
    if claims.bound is not None and claims.bound.kind == "Pod":
        extra |= _described("pod", claims.bound)
    if claims.node is not None:
        extra |= _described("node", claims.node)
    groups = (*service_account_groups(claims.namespace), AUTHENTICATED)
    return User(claims.username, uid=claims.service_account.uid, groups=groups, extra=extra)


def _described(kind: str, reference: Reference) -> dict[str, tuple[str, ...]]:
    prefix = f"authentication.kubernetes.io/{kind}"
    return {f"{prefix}-name": (reference.name,), f"{prefix}-uid": (reference.uid,)}


def service_account_groups(namespace: str) -> tuple[str, str]:
    """Return the two groups of every ServiceAccount of a namespace."""
    return ("system:serviceaccounts", f"system:serviceaccounts:{namespace}")


def user_info(user: User) -> Obj:
    """Return authentication.k8s.io/v1 UserInfo (TokenReview, SelfSubjectReview)."""
    shown: Obj = {"username": user.name}
    if user.uid:
        shown["uid"] = user.uid
    if user.groups:
        shown["groups"] = list(user.groups)
    if user.extra:
        shown["extra"] = {k: list(v) for k, v in user.extra.items()}
    return shown
