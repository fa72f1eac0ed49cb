"""The cluster's certificate authority, its certificates and the key that signs ServiceAccount tokens.

    pki = ensure(state_dir / "pki", names=("localhost", "kubernetes"), addresses=(ip("127.0.0.1"),))
    pair = mint(pki.authority, "system:node:node-0", ("system:nodes",), addresses=(node_ip,))

Files are made once and reused; a serving certificate is made anew when it lacks a name or nears its end.
Every key is EC P-256: made in a fraction of a millisecond. ``cryptography`` is imported on first use.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

Address = IPv4Address | IPv6Address

AUTHORITY_DAYS = 3650
LEAF_DAYS = 365
RENEW_DAYS = 30
_BACKDATE = timedelta(hours=1)  # clocks of other machines may run behind

SERVICE_NAMES = (
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "localhost",
)


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key, both PEM."""

    cert_pem: str
    key_pem: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Pki:
    """What a cluster's ``pki/`` directory holds."""

    directory: Path
    authority: KeyPair
    serving: KeyPair
    kubelet_client: KeyPair
    service_account_key_pem: str = field(repr=False)


def ensure(directory: Path, *, names: Iterable[str] = (), addresses: Iterable[Address] = ()) -> Pki:
    """Return the pki in ``directory``, making what is missing.

    The serving certificate is good for ``names`` and ``addresses`` besides the usual names of the API
    Service and loopback. Raises OSError when the directory cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    authority = _authority(directory)
    wanted_names = tuple(dict.fromkeys((*SERVICE_NAMES, *names)))
    loopback = (ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1"))
    wanted_addresses = tuple(dict.fromkeys((*loopback, *addresses)))
    serving = _leaf(
        directory,
        "apiserver",
        authority,
        "kube-apiserver",
        (),
        names=wanted_names,
        addresses=wanted_addresses,
    )
    kubelet_client = _leaf(
        directory, "apiserver-kubelet-client", authority, "kube-apiserver-kubelet-client", ("system:masters",)
    )
    return Pki(directory, authority, serving, kubelet_client, _service_account_key(directory))


def mint(
    authority: KeyPair,
    common_name: str,
    organizations: Sequence[str] = (),
    *,
    names: Sequence[str] = (),
    addresses: Sequence[Address] = (),
    days: int = LEAF_DAYS,
) -> KeyPair:
    """Return a new key and its certificate, signed by ``authority``.

    Always good for client authentication; for serving, too, when it has names or addresses.
    """
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = _new_key()
    issuer = x509.load_pem_x509_certificate(authority.cert_pem.encode())
    subject = x509.Name(
        [
            *(x509.NameAttribute(NameOID.ORGANIZATION_NAME, o) for o in organizations),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = _builder(subject, issuer.subject, key, days)
    if names or addresses:
        usages.insert(0, ExtendedKeyUsageOID.SERVER_AUTH)
        alternatives = [*(x509.DNSName(n) for n in names), *(x509.IPAddress(a) for a in addresses)]
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    ca_key = _load_key(authority.key_pem)
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    return _sign(builder, ca_key, key)


def server_context(pki: Pki) -> ssl.SSLContext:
    """Return the API server's TLS context: client certificates are asked for, and optional."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(pki.directory / "apiserver.crt", pki.directory / "apiserver.key")
    context.load_verify_locations(cadata=pki.authority.cert_pem)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(["http/1.1"])
    return context


def kubelet_context(pki: Pki) -> ssl.SSLContext:
    """Return the TLS context for connections to kubelets: our client certificate, only our CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=pki.authority.cert_pem)
    stem = pki.directory / "apiserver-kubelet-client"
    context.load_cert_chain(stem.with_suffix(".crt"), stem.with_suffix(".key"))
    return context


def kubeconfig(
    server: str, ca_pem: str, *, cluster: str, user: str, pair: KeyPair | None = None, token: str = ""
) -> str:
    """Return a kubeconfig (YAML) whose only context ``cluster`` reaches ``server`` as ``user``."""
    credentials = ""
    if pair is not None:
        credentials += f"    client-certificate-data: {_encode(pair.cert_pem)}\n"
        credentials += f"    client-key-data: {_encode(pair.key_pem)}\n"
    if token:
        credentials += f"    token: {token}\n"
    return (
        "apiVersion: v1\nkind: Config\n"
        f"clusters:\n- name: {cluster}\n  cluster:\n    server: {server}\n"
        f"    certificate-authority-data: {_encode(ca_pem)}\n"
        f"users:\n- name: {user}\n  user:{' {}' if not credentials else ''}\n{credentials}"
        f"contexts:\n- name: {cluster}\n  context:\n    cluster: {cluster}\n    user: {user}\n"
        f"current-context: {cluster}\npreferences: {{}}\n"
    )


def write_private(path: Path, text: str) -> None:
    """Write ``text`` where only the owner can read it; the file is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _encode(pem: str) -> str:
    return base64.b64encode(pem.encode()).decode()


def _authority(directory: Path) -> KeyPair:
    cert, key = directory / "ca.crt", directory / "ca.key"
    # The key is written first: a certificate without its key would be useless, the reverse is remade.
    if cert.exists() and key.exists():
        return KeyPair(cert.read_text(), key.read_text())
    pair = _new_authority()
    write_private(key, pair.key_pem)
    write_private(cert, pair.cert_pem)
    cert.chmod(0o644)
    return pair


def _new_authority() -> KeyPair:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    key = _new_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
    builder = (
        _builder(subject, subject, key, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("kubernetes")]), critical=False)
    )
    return _sign(builder, key, key)


def _leaf(
    directory: Path,
    stem: str,
    authority: KeyPair,
    common_name: str,
    organizations: Sequence[str],
    *,
    names: Sequence[str] = (),
    addresses: Sequence[Address] = (),
) -> KeyPair:
    cert, key = directory / f"{stem}.crt", directory / f"{stem}.key"
    if cert.exists() and key.exists():
        pair = KeyPair(cert.read_text(), key.read_text())
        if _still_good(pair, authority, names, addresses):
            return pair
    pair = mint(authority, common_name, organizations, names=names, addresses=addresses)
    write_private(key, pair.key_pem)
    write_private(cert, pair.cert_pem)
    cert.chmod(0o644)
    return pair


def _still_good(pair: KeyPair, authority: KeyPair, names: Sequence[str], addresses: Sequence[Address]) -> bool:
    """Return whether the certificate has every name, its own key, our CA and time left."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    certificate = x509.load_pem_x509_certificate(pair.cert_pem.encode())
    issuer = x509.load_pem_x509_certificate(authority.cert_pem.encode())
    if certificate.not_valid_after_utc < datetime.now(UTC) + timedelta(days=RENEW_DAYS):
        return False
    if certificate.public_key() != _load_key(pair.key_pem).public_key():
        return False  # a crash came between the writes of the two files
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    if not names and not addresses:
        return True
    try:
        held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    return set(names) <= set(held.get_values_for_type(x509.DNSName)) and set(addresses) <= set(
        held.get_values_for_type(x509.IPAddress)
    )


def _service_account_key(directory: Path) -> str:
    path = directory / "sa.key"
    if not path.exists():
        write_private(path, _key_pem(_new_key()))
    return path.read_text()


def _new_key() -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _load_key(pem: str) -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(pem.encode(), None)
    assert isinstance(key, EllipticCurvePrivateKey)
    return key


def _key_pem(key: EllipticCurvePrivateKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, days: int) -> x509.CertificateBuilder:
    from cryptography import x509

    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _sign(builder: x509.CertificateBuilder, signer: EllipticCurvePrivateKey, key: EllipticCurvePrivateKey) -> KeyPair:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    certificate = builder.sign(signer, hashes.SHA256())
    return KeyPair(certificate.public_bytes(Encoding.PEM).decode(), _key_pem(key))
