"""Who is asking: certificate, token, anonymous, and whom they act as."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict, CIMultiDictProxy

from podwire.apiserver import impersonation, pki
from podwire.apiserver.authn import Authenticator, user_of_certificate
from podwire.apiserver.errors import ApiStatusError
from podwire.apiserver.tokens import Reference, TokenSigner
from podwire.apiserver.values import User
from podwire.runtime.clock import FakeClock

START = datetime(2026, 1, 1, tzinfo=UTC)
NOW = int(START.timestamp())
ACCOUNT, POD = Reference("ServiceAccount", "app", "u-sa"), Reference("Pod", "web", "u-pod")


@pytest.fixture
def live() -> dict[tuple[str, str, str], str]:
    return {("serviceaccounts", "shop", "app"): "u-sa", ("pods", "shop", "web"): "u-pod"}


@pytest.fixture
def authenticator(tmp_path: Path, live: dict[tuple[str, str, str], str]) -> Authenticator:
    signer = TokenSigner(pki.ensure(tmp_path).service_account_key_pem, "https://issuer")
    admin = User("admin", groups=("system:masters",))
    return Authenticator(
        signer, lambda p, ns, n: live.get((p, ns, n)), static_tokens={"s3cret": admin}, clock=FakeClock(START)
    )


def test_certificate_names_the_user_and_groups() -> None:
    subject = (
        (("organizationName", "system:nodes"),),
        (("organizationName", "two"),),
        (("commonName", "system:node:a"),),
    )
    user = user_of_certificate({"subject": subject})
    assert user == User("system:node:a", groups=("system:nodes", "two", "system:authenticated"))
    assert user_of_certificate({"subject": ()}) is None


def test_a_bound_token_dies_with_its_pod(authenticator: Authenticator, live: Any) -> None:
    token = authenticator.signer.issue("shop", ACCOUNT, now=NOW, bound=POD)
    user = authenticator.user_of_token(token)
    assert user is not None
    assert user.name == "system:serviceaccount:shop:app"
    assert user.groups == ("system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated")
    assert user.extra["authentication.kubernetes.io/pod-name"] == ("web",)
    live["pods", "shop", "web"] = "another pod of the same name"
    assert authenticator.user_of_token(token) is None


def test_a_token_dies_with_its_account(authenticator: Authenticator, live: Any) -> None:
    token = authenticator.signer.issue("shop", ACCOUNT, now=NOW)
    assert authenticator.user_of_token(token) is not None
    del live["serviceaccounts", "shop", "app"]
    assert authenticator.user_of_token(token) is None


def test_another_audience_is_not_this_server(authenticator: Authenticator) -> None:
    token = authenticator.signer.issue("shop", ACCOUNT, now=NOW, audiences=["vault"])
    assert authenticator.user_of_token(token) is None
    review = authenticator.review({"token": token, "audiences": ["vault", "other"]})
    assert review["authenticated"] is True
    assert review["audiences"] == ["vault"]
    assert "authenticated" not in authenticator.review({"token": token})


# path, authorization, who
ASKED = [
    ("/api", "Bearer s3cret", "admin"),
    ("/api", "bearer s3cret", "admin"),
    ("/api", "Bearer wrong", None),
    ("/api", "Basic YTpi", None),
    ("/api", "", None),
    ("/version", "", "system:anonymous"),
    ("/livez/ping", "", "system:anonymous"),
    ("/version", "Bearer wrong", None),
    ("/versionx", "", None),
]


@pytest.mark.parametrize(("path", "authorization", "who"), ASKED)
def test_requests(authenticator: Authenticator, path: str, authorization: str, who: str | None) -> None:
    class Transport:
        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return default

        def is_closing(self) -> bool:
            return False

    headers = {"Authorization": authorization} if authorization else {}
    request = make_mocked_request("GET", path, headers=headers, transport=Transport())
    user = authenticator.authenticate(request)
    assert (user.name if user else None) == who


def multi(*pairs: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(pairs))


def test_impersonating_a_service_account() -> None:
    headers = multi(("Impersonate-User", "system:serviceaccount:shop:app"), ("Impersonate-Extra-Scopes", "x"))
    user = impersonation.requested(headers)
    assert user is not None
    assert "system:serviceaccounts:shop" in user.groups
    assert user.extra == {"scopes": ("x",)}
    needed = impersonation.permissions(headers)
    assert [(a.resource, a.namespace, a.name) for a in needed] == [
        ("serviceaccounts", "shop", "app"),
        ("userextras", "", "x"),
    ]


def test_impersonating_groups_needs_a_user() -> None:
    assert impersonation.requested(multi()) is None
    with pytest.raises(ApiStatusError):
        impersonation.requested(multi(("Impersonate-Group", "system:masters")))
    user = impersonation.requested(multi(("Impersonate-User", "jo"), ("Impersonate-Group", "dev")))
    assert user == User("jo", groups=("dev", "system:authenticated"))
