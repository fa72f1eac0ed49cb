"""ServiceAccount tokens: issue, check, and everything that must be refused."""

from __future__ import annotations

import base64
from pathlib import Path

import orjson
import pytest

from podwire.apiserver import pki
from podwire.apiserver.tokens import InvalidToken, Reference, TokenSigner

ISSUER = "https://kubernetes.default.svc.cluster.local"
ACCOUNT = Reference("ServiceAccount", "default", "u1")


@pytest.fixture
def signer(tmp_path: Path) -> TokenSigner:
    return TokenSigner(pki.ensure(tmp_path).service_account_key_pem, ISSUER)


def test_round_trip_with_pod_and_node(signer: TokenSigner) -> None:
    pod, node = Reference("Pod", "web-1", "u2"), Reference("Node", "node-0", "u3")
    token = signer.issue("shop", ACCOUNT, now=1000, expiry_s=600, audiences=["vault"], bound=pod, node=node)
    claims = signer.check(token, 1001)
    assert claims.username == "system:serviceaccount:shop:default"
    assert (claims.bound, claims.node, claims.audiences) == (pod, node, ("vault",))
    assert claims.expires_at == 1600


def test_expiry_is_checked_even_for_a_remembered_token(signer: TokenSigner) -> None:
    token = signer.issue("shop", ACCOUNT, now=1000, expiry_s=600)
    signer.check(token, 1599)
    with pytest.raises(InvalidToken, match="expired"):
        signer.check(token, 1600)


def _forge(token: str, **changes: object) -> str:
    head, payload, signature = token.split(".")
    claims = orjson.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    changed = base64.urlsafe_b64encode(orjson.dumps({**claims, **changes})).rstrip(b"=").decode()
    return f"{head}.{changed}.{signature}"


def test_forged_tokens_are_refused(signer: TokenSigner, tmp_path: Path) -> None:
    token = signer.issue("shop", ACCOUNT, now=1000)
    head, payload, _ = token.split(".")
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    other = TokenSigner(pki.ensure(tmp_path / "other").service_account_key_pem, ISSUER)
    cases = {
        "changed claim": _forge(token, sub="system:serviceaccount:kube-system:admin"),
        "no signature": f"{head}.{payload}.",
        "alg none": f"{none}.{payload}.",
        "another key": other.issue("shop", ACCOUNT, now=1000),
        "not a token": "hello",
        "not base64": "a.b.c",
        "huge": "a" * 20000,
    }
    for bad in cases.values():
        with pytest.raises(InvalidToken):
            signer.check(bad, 1001)


def test_another_issuer_with_our_key_is_refused(signer: TokenSigner, tmp_path: Path) -> None:
    other = TokenSigner(pki.ensure(tmp_path).service_account_key_pem, "https://elsewhere")
    with pytest.raises(InvalidToken, match="elsewhere"):
        signer.check(other.issue("shop", ACCOUNT, now=1000), 1001)


def test_an_independent_reader_verifies_with_the_published_keys(signer: TokenSigner) -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, utils

    token = signer.issue("shop", ACCOUNT, now=1000)
    key = signer.jwks()["keys"][0]

    def number(text: str) -> int:
        return int.from_bytes(base64.urlsafe_b64decode(text + "=="), "big")

    public = ec.EllipticCurvePublicNumbers(number(key["x"]), number(key["y"]), ec.SECP256R1()).public_key()
    signed, _, signature = token.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    der = utils.encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    public.verify(der, signed.encode(), ec.ECDSA(hashes.SHA256()))
    assert signer.discovery("https://x/openid/v1/jwks")["issuer"] == ISSUER
